"""The settings that every optimizer has: learning rate and its schedule, weight decay, the longest gradient.

A base of fields, so that one name means one thing whichever optimizer a config names. It is the exception to our rule
against inheritance, and holds no behaviour but the schedule: the classes that do the work are the optimizers' own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marin.optim.schedules import Duration, Schedule, ScheduleShape, StableShape, schedule

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """What all optimizers' configs have in common."""

    learning_rate: float
    """Peak learning rate."""
    weight_decay: float = 0.1
    """Pull to zero of the masked parameters, multiplied by the current learning rate."""
    max_grad_norm: float | None = 1.0
    """Longest l2 norm of the whole gradient; longer ones are scaled down to it. None never clips."""
    lr_schedule: ScheduleShape = "cosine"
    """Shape of the schedule: 'constant', 'linear', 'cosine', 'wsd' or 'inverse_sqrt'; see `marin.optim.schedules`."""
    stable_lr_schedule: StableShape = "constant"
    """Shape between warm-up and decay: 'constant' or 'inverse_sqrt'."""
    warmup: Duration = 0.01
    """Length of the linear warm-up: an int is steps, a float in (0, 1) a fraction of the run."""
    decay: Duration | tuple[Duration, ...] | None = None
    """Length of the decay at the end of each cycle, a fraction is of the cycle; or a list with one for each cycle. None
    is all that follows the warm-up ('wsd' must say, 'inverse_sqrt' has none then)."""
    min_lr_ratio: float = 0.1
    """Learning rate at the end of a decay as a part of the peak."""
    cycles: int | tuple[int, ...] | None = None
    """How many equal cycles the run has, or the steps at which the second, third, ... begin; None is one."""
    cycle_length: Duration | tuple[int, ...] | None = None
    """Instead of cycles: the length of each (the last takes what is left), or a list of all their lengths."""
    rewarmup: Duration = 0
    """Length of the warm-up of each cycle but the first; a fraction is of the cycle."""

    def __post_init__(self) -> None:
        self._check_not_negative("weight_decay")
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
            stable_shape=self.stable_lr_schedule,
            rewarmup=self.rewarmup,
            cycles=self.cycles,
            cycle_length=self.cycle_length,
        )

    def with_decay(
        self, direction: "optax.GradientTransformation", decay_mask: Any, direction_scale: Any
    ) -> "optax.GradientTransformation":
        """`direction`, each parameter's part times its scale (None: 1), plus weight decay of the masked ones."""
        import jax
        import optax

        parts = [direction]
        if direction_scale is not None:
            scaled = lambda updates, _: jax.tree.map(lambda u, s: u * s, updates, direction_scale)  # noqa: E731
            parts.append(optax.stateless(scaled))
        return optax.chain(*parts, optax.add_decayed_weights(self.weight_decay, mask=decay_mask))

    def _check_fractions(self, *names: str) -> None:
        """Decays of running means: from 0 to below 1."""
        for name in names:
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be 0 or more and below 1, got {getattr(self, name)!r}")

    def _check_not_negative(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)!r}")

    def _check_at_least_one(self, names: Iterable[str]) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)!r}")
