"""Lion: the sign of an interpolated momentum.

Source: Chen et al. 2023, arXiv:2302.06675. Update of parameter `x` with gradient `g` and rate `lr_t`:

    u = sign(beta1 * m + (1 - beta1) * g)
    m = beta2 * m + (1 - beta2) * g
    x = x - lr_t * (u + weight_decay * x)

Every update of a parameter is as long as the rate, so the paper's rates are 3 to 10 times smaller than AdamW's and its
weight decays as much larger. One moment is kept instead of two.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marin.optim.settings import OptimizerSettings

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True, kw_only=True)
class LionConfig(OptimizerSettings):
    """Lion and its learning-rate schedule."""

    beta1: float = 0.9
    """Part of the momentum in the direction."""
    beta2: float = 0.99
    """Decay of the momentum."""
    cautious: bool = False
    """Drop the parts of an update that point against the gradient; see `marin.optim.cautious`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fractions("beta1", "beta2")

    def transformation(self, decay_mask: Any, direction_scale: Any = None) -> "optax.GradientTransformation":
        """The bracket of the formula above, as an optax transformation (state: count, mu)."""
        import optax

        from marin.optim.cautious import cautious

        lion = optax.scale_by_lion(b1=self.beta1, b2=self.beta2)
        return self.with_decay(cautious(lion) if self.cautious else lion, decay_mask, direction_scale)
