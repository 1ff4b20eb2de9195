"""Adafactor: the second moment of a matrix as the product of its row means and column means.

Source: Shazeer and Stern 2018, arXiv:1804.04235 (algorithm 4). Update `t` (from 1) with gradient `g`, rate `lr_t`:

    b = 1 - t^-decay_rate                                         (so the first update has b = 0)
    r = b * r + (1 - b) * mean over columns of (g^2 + epsilon)    likewise c, the mean over rows
    u = g / sqrt(r * c / mean(r))                                 arrays too small to factor: u = g / sqrt(v)
    u = u / max(1, rms(u) / clipping_threshold)
    u = u * max(rms(x), 1/1000)                                   if multiply_by_parameter_scale
    x = x - lr_t * (u + weight_decay * x)

An array of more than two axes is factored over its two longest, if both have min_dim_size_to_factor or more; rms is
over an array as the model stores it, all layers' matrices of one kind together. The state of a factored array is as
long as its sides, where AdamW's is twice the array.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marin.optim.settings import OptimizerSettings

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True, kw_only=True)
class AdafactorConfig(OptimizerSettings):
    """Adafactor and its learning-rate schedule."""

    decay_rate: float = 0.8
    """Exponent of the growth of the memory."""
    epsilon: float = 1e-30
    """Added to the squared gradient."""
    clipping_threshold: float | None = 1.0
    """Largest root mean square of an array's update; None never clips it."""
    min_dim_size_to_factor: int = 128
    """Arrays whose second longest axis is shorter keep the whole second moment."""
    multiply_by_parameter_scale: bool = False
    """Updates in proportion to the parameters' size, as the paper has it: learning_rate is relative then."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_not_negative("epsilon")
        self._check_at_least_one(["min_dim_size_to_factor"])
        if not 0.0 < self.decay_rate <= 1.0:
            raise ValueError(f"decay_rate must be more than 0 and at most 1, got {self.decay_rate!r}")
        if self.clipping_threshold is not None and not self.clipping_threshold > 0:
            raise ValueError(f"clipping_threshold must be more than 0 or None, got {self.clipping_threshold!r}")

    def transformation(self, decay_mask: Any, direction_scale: Any = None) -> "optax.GradientTransformation":
        """The bracket of the formula's last line, as an optax transformation (state: count, v_row, v_col, v)."""
        import optax

        if direction_scale is not None and self.multiply_by_parameter_scale:
            raise ValueError("muP and multiply_by_parameter_scale both scale updates by width: set the latter to false")
        parts = [
            optax.scale_by_factored_rms(
                decay_rate=self.decay_rate, min_dim_size_to_factor=self.min_dim_size_to_factor, epsilon=self.epsilon
            )
        ]
        if self.clipping_threshold is not None:
            parts.append(optax.clip_by_block_rms(self.clipping_threshold))
        if self.multiply_by_parameter_scale:
            parts.append(optax.scale_by_param_block_rms(1e-3))
        return self.with_decay(optax.chain(*parts), decay_mask, direction_scale)
