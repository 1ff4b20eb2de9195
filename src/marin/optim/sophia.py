"""Sophia-H: momentum divided by a running estimate of the Hessian's diagonal, each part clipped.

Source: Liu, Li, Hall, Liang and Ma 2023, arXiv:2305.14342 (algorithms 1 and 3). Update `t` (from 1) with gradient `g`:

    m = beta1 * m + (1 - beta1) * g
    u = clip( (m / (1 - beta1^t)) / max(gamma * h, epsilon), -clip_threshold, clip_threshold )
    x = x - lr_t * (u + weight_decay * x)
    every update_interval updates, the first included:
        z = random signs, H = Hessian of the loss at the parameters before this update
        h = beta2 * h + (1 - beta2) * z * (H z)

Hutchinson's estimate `z * (H z)` has the diagonal of H as its mean. `H z` is one forward derivative through the
gradient of the loss of the batch (of its first microbatch, where there are several, so that memory does not grow). As
in optax, `h` serves from the update after its estimate, so the first update is a step of the sign, and random signs
replace the paper's normal draws (`marin.optim.hutchinson`); they are the same in each run.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marin.optim.settings import OptimizerSettings

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True, kw_only=True)
class SophiaHConfig(OptimizerSettings):
    """Sophia with Hutchinson's estimate, and its learning-rate schedule."""

    beta1: float = 0.965
    """Decay of the mean of gradients."""
    beta2: float = 0.99
    """Decay of the mean of Hessian estimates."""
    gamma: float = 0.01
    """Factor of the Hessian: the larger, the fewer parts of an update are clipped."""
    epsilon: float = 1e-8
    """The smallest denominator; a negative curvature counts as this."""
    clip_threshold: float = 1.0
    """Longest part of a direction."""
    update_interval: int = 10
    """Updates from one estimate of the Hessian to the next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fractions("beta1", "beta2")
        self._check_at_least_one(["update_interval"])
        for name in ("gamma", "epsilon", "clip_threshold"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name)!r}")

    def transformation(self, decay_mask: Any, direction_scale: Any = None) -> "optax.GradientTransformation":
        """The bracket of the formula above; its update needs `obj_fn`, the loss as a function of the parameters."""
        from optax import contrib

        from marin.optim.hutchinson import hutchinson_estimate

        sophia = contrib.sophia(
            learning_rate=-1.0,  # optax gives what is to be added, we what is to be subtracted
            weight_decay=0.0,
            b1=self.beta1,
            b2=self.beta2,
            eps=self.epsilon,
            gamma=self.gamma,
            clip_threshold=self.clip_threshold,
            update_interval=self.update_interval,
            hessian_diagonal_fn=hutchinson_estimate(),
        )
        return self.with_decay(sophia, decay_mask, direction_scale)
