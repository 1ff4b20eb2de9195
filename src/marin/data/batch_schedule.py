"""How many rows each update takes, and so which rows of the endless stream those are.

The size may change at given steps. Where a batch begins is the sum of the sizes before it, in closed form, so the
position in the data stays a pure function of the step and resuming costs nothing. A run that goes on with another run's
state counts its updates on from there and may still begin with row 0 of its own data: then the whole schedule is
shifted, here and nowhere else.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ScheduleStep:
    """A value from a step on."""

    start: int
    """The first update (counted from 0) with this value."""
    value: int
    """The value, until the next one starts."""


class BatchSchedule:
    """Batch size and first row of each step. A plain number is the same size throughout.

    `first_step` is the update, counted from 0, whose batch begins with row 0 of the stream; what an update before it
    would have taken lies at positions below 0.

    >>> batches = BatchSchedule([ScheduleStep(0, 8), ScheduleStep(100, 32)])
    >>> batches.size(99), batches.size(100), batches.offset(101)
    (8, 32, 832)
    >>> BatchSchedule(8, first_step=100).offset(103)
    24
    """

    def __init__(self, sizes: int | Sequence[ScheduleStep], *, first_step: int = 0):
        steps = [ScheduleStep(0, sizes)] if isinstance(sizes, int) else list(sizes)
        starts = [step.start for step in steps]
        if starts[:1] != [0] or any(a >= b for a, b in zip(starts, starts[1:], strict=False)):
            raise ValueError(
                f"a batch schedule begins at step 0 and its starts rise; got starts {starts}. Put them in order, the "
                "first at 0."
            )
        if any(step.value < 1 for step in steps):
            raise ValueError(f"a batch has at least one row; got sizes {[step.value for step in steps]}")
        self.sizes = tuple(step.value for step in steps)
        self.first_step = first_step
        self._starts = starts
        self._shift = self._rows_before(first_step)

    def size(self, step: int) -> int:
        """Rows of the batch of one step."""
        return self.sizes[sum(start <= step for start in self._starts) - 1]

    def sizes_between(self, start_step: int, end_step: int) -> tuple[int, ...]:
        """The sizes of the batches of steps `start_step .. end_step - 1`, each once, in the order of their coming."""
        ends = [*self._starts[1:], end_step]
        within = zip(self.sizes, self._starts, ends, strict=True)
        return tuple(dict.fromkeys(size for size, start, end in within if start < end_step and end > start_step))

    def offset(self, step: int) -> int:
        """The position in the stream of the first row of this step's batch: the rows of all batches before it."""
        return self._rows_before(step) - self._shift

    def _rows_before(self, step: int) -> int:
        ends = [*self._starts[1:], step]
        return sum(
            size * max(0, min(end, step) - start)
            for size, start, end in zip(self.sizes, self._starts, ends, strict=True)
        )

    def whole_batches(self, num_rows: int) -> int:
        """The number of updates done when the first `num_rows` rows of the stream have filled whole batches."""
        # no batch is empty, so they fill at most num_rows of them
        return bisect_right(range(self.first_step + num_rows + 1), num_rows, key=self.offset) - 1
