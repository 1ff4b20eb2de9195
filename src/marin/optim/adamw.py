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

from marin.optim.schedules import Duration, Schedule, ScheduleShape, schedule

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """AdamW and its learning-rate schedule."""

    learning_rate: float
    """Peak learning rate."""
    weight_decay: float = 0.1
    """Pull to zero of the masked parameters, multiplied by the current learning rate."""
    beta1: float = 0.9
    """Decay of the mean of gradients."""
    beta2: float = 0.95
    """Decay of the mean of squared gradients."""
    epsilon: float = 1e-8
    """Added to the root of the second moment."""
    max_grad_norm: float | None = 1.0
    """Longest l2 norm of the whole gradient; longer ones are scaled down to it. None never clips."""
    lr_schedule: ScheduleShape = "cosine"
    """Shape of the schedule: 'constant', 'linear', 'cosine' or 'wsd'."""
    warmup: Duration = 0.01
    """Length of the linear warm-up: an int is steps, a float in (0, 1) a fraction of the run."""
    decay: Duration | None = None
    """Length of the decay at the end, in the same units; None is all that follows the warm-up."""
    min_lr_ratio: float = 0.1
    """Learning rate at the end as a part of the peak."""

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be 0 or more and below 1, got {getattr(self, name)!r}")
        for name in ("weight_decay", "epsilon"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)!r}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be more than 0, or None to never clip; got {self.max_grad_norm!r}")

    def schedule(self, num_train_steps: int) -> Schedule:
        """Learning rate by number of updates done; see `marin.optim.schedules`."""
        return schedule(
            self.lr_schedule,
            learning_rate=self.learning_rate,
            num_train_steps=num_train_steps,
            warmup=self.warmup,
            decay=self.decay,
            min_lr_ratio=self.min_lr_ratio,
        )

    def transformation(self, decay_mask: Any) -> "optax.GradientTransformation":
        """The bracket of the formula above, as an optax transformation (state: count, mu, nu)."""
        import optax

        return optax.chain(
            optax.scale_by_adam(b1=self.beta1, b2=self.beta2, eps=self.epsilon),
            optax.add_decayed_weights(self.weight_decay, mask=decay_mask),
        )
