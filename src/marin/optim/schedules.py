"""The learning rate of each update, as plain arithmetic on the host.

A schedule is a function of the number of updates done. It runs in Python, in float64, outside the compiled step, which
takes the rate as an argument: what is logged is what was used, a schedule can be plotted before any model exists, and
changing one never compiles anything. The price is one scalar sent to the device each step.

A run is one cycle or several, and each cycle is warm-up, stable part, decay. With peak rate `p`, floor
`f = min_lr_ratio * p`, a cycle from update `a` up to (not with) update `b`, `w` updates of warm-up and `d` of decay,
update `t` (counted from 0) has the rate

    t < a + w              o + (p - o) * (t - a + 1) / (w + 1)
    a + w <= t < b - d     s(t)         constant:      s(t) = p
                                        inverse_sqrt:  s(t) = max(f, p * sqrt((w + 1) / (t - a + 1)))
    b - d <= t             linear, wsd, inverse_sqrt:  q + (f - q) * u      where u = (t - (b - d)) / d
                           cosine:                     f + (q - f) * (1 + cos(pi * u)) / 2

with `q = s(b - d)`, and `o` the rate that the cycle comes from: 0 for the first, for a later one what the cycle before
would reach at `t = a`. So no update is wasted on a rate of zero, the stable part begins at `t = a + w` with the rate
`p`, and the floor would be reached at `t = b`.

- `constant` has no decay.
- `linear` and `cosine` (Loshchilov and Hutter 2017, arXiv:1608.03983) decay over all that follows the warm-up unless
  told otherwise; `cosine` with cycles is that paper's warm restarts.
- `wsd` (warm-up, stable, decay: Hu et al. 2024, arXiv:2404.06395) must say how long it decays. With cycles it is WSD-S
  (Wen et al. 2024, arXiv:2410.05192): decay, then on from the decayed weights at the full rate. A last cycle without
  decay leaves the rate at its peak for whatever run comes after: `decay=(500, 0)`.
- `inverse_sqrt` (Vaswani et al. 2017, arXiv:1706.03762) does not decay at the end unless told to.

`stable_lr_schedule="inverse_sqrt"` bends the stable part of `linear`, `cosine` and `wsd`.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from marin.data.batch_schedule import ScheduleStep as ScheduleStep
from marin.data.units import Steps as Steps

Schedule = Callable[[int], float]
"""Number of updates done -> learning rate of the next one."""

ScheduleShape = Literal["constant", "linear", "cosine", "wsd", "inverse_sqrt"]
StableShape = Literal["constant", "inverse_sqrt"]


@dataclass(frozen=True)
class Fraction:
    """A length as a part of the whole run."""

    of_run: float
    """From 0 to 1, both allowed: here 1.0 does mean the whole run. (Of a cycle where the setting says so.)"""

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
    decay: Duration | Sequence[Duration] | None,
    min_lr_ratio: float,
    stable_shape: StableShape = "constant",
    rewarmup: Duration = 0,
    cycles: int | Sequence[int] | None = None,
    cycle_length: Duration | Sequence[int] | None = None,
) -> Schedule:
    """The learning rate by update; formulas in the module's docstring.

    Args:
        shape: name of the shape.
        learning_rate: the peak, more than 0.
        num_train_steps: updates in the run.
        warmup: length of the linear warm-up; a fraction is of the run.
        decay: length of the decay at the end of each cycle, a fraction is of the cycle; or a list, with one for each
            cycle; None is all that follows the warm-up for 'linear' and 'cosine', nothing for 'inverse_sqrt', and
            refused by 'wsd'.
        min_lr_ratio: the floor of the decay as a part of the peak, from 0 to 1.
        stable_shape: the stable part between warm-up and decay.
        rewarmup: length of the warm-up of each cycle but the first; a fraction is of the cycle.
        cycles: how many cycles of equal length (to a step), or the steps at which the second, third, ... begin.
        cycle_length: instead of `cycles`, the length of each cycle, of which the last takes what is left; or the length
            of every one, which must sum to the run.

    Raises:
        ValueError: a length or ratio makes no sense, or warm-up and decay together exceed their cycle.
    """
    if learning_rate <= 0 or not math.isfinite(learning_rate):
        raise ValueError(f"learning_rate must be more than 0, got {learning_rate!r}")
    if not 0.0 <= min_lr_ratio <= 1.0:
        raise ValueError(f"min_lr_ratio is a part of the peak rate, from 0 to 1; got {min_lr_ratio!r}")
    if num_train_steps < 1:
        raise ValueError(f"num_train_steps must be 1 or more, got {num_train_steps!r}")
    _check_shapes(shape, stable_shape, decay)
    starts = cycle_starts(num_train_steps, cycles, cycle_length)
    if len(starts) == 1 and to_steps(rewarmup, num_train_steps, "rewarmup"):
        raise ValueError(
            f"rewarmup={rewarmup!r} is of each cycle but the first, and this run is one cycle. Give cycles or "
            "cycle_length, or leave rewarmup out."
        )
    if len(starts) > 1 and shape == "constant":
        raise ValueError("a constant schedule has no cycles. Use 'wsd', or leave cycles and cycle_length out.")

    alike = decay is None or isinstance(decay, (int, float, Steps, Fraction))
    decays: Sequence[Duration | None] = [decay] * len(starts) if alike else decay  # type: ignore[list-item, assignment]
    if len(decays) != len(starts):
        raise ValueError(f"decay lists {len(decays)} lengths, {list(decays)}, for the {len(starts)} cycles of the run")
    parts: list[_Cycle] = []
    for index, (start, end) in enumerate(zip(starts, [*starts[1:], num_train_steps], strict=True)):
        name = "warmup" if index == 0 else "rewarmup"
        num_warmup = to_steps(rewarmup, end - start, name) if index else to_steps(warmup, num_train_steps, name)
        num_decay = _decay_steps(shape, decays[index], end - start, num_warmup)
        if num_warmup + num_decay > end - start:
            whole = "the run" if len(starts) == 1 else f"the cycle from step {start} to step {end}"
            raise ValueError(
                f"{name} of {num_warmup} steps and decay of {num_decay} steps make {num_warmup + num_decay}, more than "
                f"the {end - start} steps of {whole}. Shorten one of them."
            )
        parts.append(
            _Cycle(
                start=start,
                end=end,
                num_warmup=num_warmup,
                num_decay=num_decay,
                origin=parts[-1].rate(start) if parts else 0.0,
                peak=learning_rate,
                floor=min_lr_ratio * learning_rate,
                cosine=shape == "cosine",
                inverse_sqrt="inverse_sqrt" in (shape, stable_shape),
            )
        )
    return lambda step: parts[max(0, bisect_right(starts, step) - 1)].rate(step)


def cycle_starts(
    num_train_steps: int,
    cycles: int | Sequence[int] | None = None,
    cycle_length: Duration | Sequence[int] | None = None,
) -> list[int]:
    """The step at which each cycle begins, 0 first; see `schedule`. ValueError where there are no such cycles."""
    if cycles is not None and cycle_length is not None:
        raise ValueError(f"cycles={cycles!r} and cycle_length={cycle_length!r} say the same thing twice: give one")
    if isinstance(cycles, int):
        if isinstance(cycles, bool) or not 1 <= cycles <= num_train_steps:
            raise ValueError(f"cycles must be from 1 to the {num_train_steps} steps of the run, got {cycles!r}")
        return [num_train_steps * index // cycles for index in range(cycles)]
    if cycles is not None:
        starts = [0, *cycles]
        if any(a >= b for a, b in zip(starts, [*starts[1:], num_train_steps], strict=True)):
            raise ValueError(
                f"cycles lists the steps at which the second, third, ... cycle begins: rising, from 1 to "
                f"{num_train_steps - 1}; got {list(cycles)}"
            )
        return starts
    if cycle_length is None:
        return [0]
    if isinstance(cycle_length, (int, float, Steps, Fraction)):
        length = to_steps(cycle_length, num_train_steps, "cycle_length")
        if length < 1:
            raise ValueError(f"cycle_length must be 1 step or more, got {cycle_length!r}")
        return list(range(0, num_train_steps, length))
    lengths = [to_steps(length, num_train_steps, "cycle_length") for length in cycle_length]
    if sum(lengths) != num_train_steps or 0 in lengths:
        raise ValueError(
            f"cycle_length lists every cycle: {' + '.join(map(str, lengths))} is {sum(lengths)}, but the run has "
            f"{num_train_steps} steps, and none may be of 0"
        )
    return [sum(lengths[:index]) for index in range(len(lengths))]


@dataclass(frozen=True, kw_only=True)
class _Cycle:
    """Updates `start` up to `end`; the formula of the module's docstring with its own letters spelled out."""

    start: int
    end: int
    num_warmup: int
    num_decay: int
    origin: float
    peak: float
    floor: float
    cosine: bool
    inverse_sqrt: bool

    def rate(self, step: int) -> float:
        since = step - self.start
        if since < self.num_warmup:
            return self.origin + (self.peak - self.origin) * (since + 1) / (self.num_warmup + 1)
        decay_begin = self.end - self.num_decay
        if step < decay_begin or self.num_decay == 0:
            return self._stable(since)
        top = self._stable(decay_begin - self.start)
        progress = min(1.0, (step - decay_begin) / self.num_decay)
        if self.cosine:
            return self.floor + (top - self.floor) * (1 + math.cos(math.pi * progress)) / 2
        return top + (self.floor - top) * progress

    def _stable(self, since: int) -> float:
        if not self.inverse_sqrt:
            return self.peak
        return max(self.floor, self.peak * math.sqrt((self.num_warmup + 1) / (since + 1)))


def _check_shapes(shape: ScheduleShape, stable_shape: StableShape, decay: Duration | Sequence[Duration] | None) -> None:
    if shape not in get_args(ScheduleShape):
        raise ValueError(f"unknown schedule {shape!r}: expected {_listed(get_args(ScheduleShape))}")
    if stable_shape not in get_args(StableShape):
        raise ValueError(f"unknown stable_lr_schedule {stable_shape!r}: expected {_listed(get_args(StableShape))}")
    if shape == "constant" and decay is not None:
        raise ValueError(f"a constant schedule has no decay, got decay={decay!r}. Use 'wsd' or leave decay out.")
    if shape == "constant" and stable_shape != "constant":
        raise ValueError(f"a constant schedule is constant: use lr_schedule={stable_shape!r} instead of both")
    if shape == "wsd" and decay is None:
        raise ValueError("the 'wsd' schedule needs the length of its decay, like decay=0.2 or decay=Steps(500)")


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(map(repr, names[:-1]))} or {names[-1]!r}"


def _decay_steps(shape: ScheduleShape, decay: Duration | None, cycle_length: int, num_warmup: int) -> int:
    if decay is not None:
        return to_steps(decay, cycle_length, "decay")
    return max(0, cycle_length - num_warmup) if shape in ("linear", "cosine") else 0
