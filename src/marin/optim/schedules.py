"""The learning rate of each update, as plain arithmetic on the host.

A schedule is a function of the number of updates done. It runs in Python, in float64, outside the compiled step, which
takes the rate as an argument: what is logged is what was used, a schedule can be plotted before any model exists, and
changing one never compiles anything. The price is one scalar sent to the device each step.

All shapes are warm-up, plateau, decay. With peak rate `p`, floor `f = min_lr_ratio * p`, `N` updates in the run, `w` of
warm-up and `d` of decay, update `t` (counted from 0) has the rate

    t < w            p * (t + 1) / (w + 1)
    w <= t < N - d   p
    N - d <= t       linear, wsd:  p + (f - p) * u            where u = (t - (N - d)) / d
                     cosine:       f + (p - f) * (1 + cos(pi * u)) / 2

so the first update is never wasted on a rate of zero, the plateau begins at `t = w`, and the floor would be reached at
`t = N`. `constant` has no decay; `linear` and `cosine` (Loshchilov and Hutter 2017, arXiv:1608.03983) decay over all
that follows the warm-up unless told otherwise; `wsd` (warm-up, stable, decay: Hu et al. 2024, arXiv:2404.06395) must
say how long it decays.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Schedule = Callable[[int], float]
"""Number of updates done -> learning rate of the next one."""

ScheduleShape = Literal["constant", "linear", "cosine", "wsd"]


@dataclass(frozen=True)
class Steps:
    """A length counted in updates."""

    num_steps: int
    """0 or more."""

    def __post_init__(self) -> None:
        if isinstance(self.num_steps, bool) or not isinstance(self.num_steps, int) or self.num_steps < 0:
            raise ValueError(f"Steps counts updates: a whole number, 0 or more; got {self.num_steps!r}")


@dataclass(frozen=True)
class Fraction:
    """A length as a part of the whole run."""

    of_run: float
    """From 0 to 1, both allowed: here 1.0 does mean the whole run."""

    def __post_init__(self) -> None:
        if isinstance(self.of_run, bool) or not 0.0 <= self.of_run <= 1.0:
            raise ValueError(f"Fraction is a part of the run, from 0 to 1; got {self.of_run!r}")


Duration = int | float | Steps | Fraction
"""Plain ints are steps, plain floats strictly between 0 and 1 fractions of the run, any other number is an error."""


def to_steps(duration: Duration, num_train_steps: int, what: str) -> int:
    """`duration` in updates (fractions round to the nearest, half to even).

    `what` names the setting in errors. Raises ValueError for a plain number that could mean either unit, like 1.0.
    """
    if isinstance(duration, Steps):
        return duration.num_steps
    if isinstance(duration, Fraction):
        return round(duration.of_run * num_train_steps)
    if isinstance(duration, bool) or not isinstance(duration, (int, float)):
        raise ValueError(f"{what}: expected a number of steps or a fraction of the run, got {duration!r}")
    if isinstance(duration, int) and duration >= 0:
        return duration
    if isinstance(duration, float) and 0.0 < duration < 1.0:
        return round(duration * num_train_steps)
    raise ValueError(
        f"{what}: {duration!r} is neither a number of steps (an int, 0 or more) nor a fraction of the run (a float "
        f"strictly between 0 and 1). Write Steps({max(0, int(duration)) if math.isfinite(duration) else 0}) or "
        "Fraction(...) to say which."
    )


def schedule(
    shape: ScheduleShape,
    *,
    learning_rate: float,
    num_train_steps: int,
    warmup: Duration,
    decay: Duration | None,
    min_lr_ratio: float,
) -> Schedule:
    """The learning rate by update; formulas in the module's docstring.

    Args:
        shape: name of the shape.
        learning_rate: the peak, more than 0.
        num_train_steps: updates in the run.
        warmup: length of the linear warm-up.
        decay: length of the decay at the end; None is all that follows the warm-up (`wsd` takes no None).
        min_lr_ratio: the floor of the decay as a part of the peak, from 0 to 1.

    Raises:
        ValueError: a length or ratio makes no sense, or warm-up and decay together exceed the run.
    """
    if learning_rate <= 0 or not math.isfinite(learning_rate):
        raise ValueError(f"learning_rate must be more than 0, got {learning_rate!r}")
    if not 0.0 <= min_lr_ratio <= 1.0:
        raise ValueError(f"min_lr_ratio is a part of the peak rate, from 0 to 1; got {min_lr_ratio!r}")
    if num_train_steps < 1:
        raise ValueError(f"num_train_steps must be 1 or more, got {num_train_steps!r}")
    num_warmup = to_steps(warmup, num_train_steps, "warmup")
    num_decay = _decay_steps(shape, decay, num_train_steps, num_warmup)
    if num_warmup + num_decay > num_train_steps:
        raise ValueError(
            f"warmup of {num_warmup} steps and decay of {num_decay} steps make {num_warmup + num_decay}, more than the "
            f"{num_train_steps} steps of the run. Shorten one of them."
        )
    floor = min_lr_ratio * learning_rate
    decay_begin = num_train_steps - num_decay

    def rate(step: int) -> float:
        if step < num_warmup:
            return learning_rate * (step + 1) / (num_warmup + 1)
        if step < decay_begin or num_decay == 0:
            return learning_rate
        progress = min(1.0, (step - decay_begin) / num_decay)
        if shape == "cosine":
            return floor + (learning_rate - floor) * (1 + math.cos(math.pi * progress)) / 2
        return learning_rate + (floor - learning_rate) * progress

    return rate


def _decay_steps(shape: ScheduleShape, decay: Duration | None, num_train_steps: int, num_warmup: int) -> int:
    if shape == "constant":
        if decay is not None:
            raise ValueError(f"a constant schedule has no decay, got decay={decay!r}. Use 'wsd' or leave decay out.")
        return 0
    if shape not in ("linear", "cosine", "wsd"):
        raise ValueError(f"unknown schedule {shape!r}: expected 'constant', 'linear', 'cosine' or 'wsd'")
    if decay is None:
        if shape == "wsd":
            raise ValueError("the 'wsd' schedule needs the length of its decay, like decay=0.2 or decay=Steps(500)")
        return max(0, num_train_steps - num_warmup)
    return to_steps(decay, num_train_steps, "decay")
