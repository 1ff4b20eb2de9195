"""AdamW: Adam with weight decay that is not part of the gradient.

Source: Loshchilov and Hutter 2019, arXiv:1711.05101, with the decay scaled by the scheduled learning rate, as PyTorch
and optax do. Update `t` (from 1) of parameter `x` with gradient `g` (mean over the batch, clipped) and rate `lr_t`:

    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g^2
    x = x - lr_t * ( (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)  +  weight_decay * x )

the last term only where the model's decay mask says so (its matrices; not norms, biases or embeddings: each model
spells its own out). Moments have the parameters' dtype. optax is imported when the transformation is built, so that
describing an experiment costs no import of jax.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marin.optim.settings import OptimizerSettings

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True, kw_only=True)
class AdamWConfig(OptimizerSettings):
    """AdamW and its learning-rate schedule."""

    beta1: float = 0.9
    """Decay of the mean of gradients."""
    beta2: float = 0.95
    """Decay of the mean of squared gradients."""
    epsilon: float = 1e-8
    """Added to the root of the second moment."""
    cautious: bool = False
    """Drop the parts of an update that point against the gradient; see `marin.optim.cautious`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fractions("beta1", "beta2")
        self._check_not_negative("epsilon")

    def transformation(self, decay_mask: Any, direction_scale: Any = None) -> "optax.GradientTransformation":
        """The bracket of the formula above, as an optax transformation (state: count, mu, nu)."""
        import optax

        from marin.optim.cautious import cautious

        adam = optax.scale_by_adam(b1=self.beta1, b2=self.beta2, eps=self.epsilon)
        return self.with_decay(cautious(adam) if self.cautious else adam, decay_mask, direction_scale)
