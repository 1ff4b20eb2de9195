"""How many rows each update takes, and so which rows of the endless stream those are.

The size may change at given steps. Where a batch begins is the sum of the sizes before it, in closed form, so the
position in the data stays a pure function of the step and resuming costs nothing.
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

    >>> batches = BatchSchedule([ScheduleStep(0, 8), ScheduleStep(100, 32)])
    >>> batches.size(99), batches.size(100), batches.offset(101)
    (8, 32, 832)
    """

    def __init__(self, sizes: int | Sequence[ScheduleStep]):
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
        self._starts = starts

    def size(self, step: int) -> int:
        """Rows of the batch of one step."""
        return self.sizes[sum(start <= step for start in self._starts) - 1]

    def offset(self, step: int) -> int:
        """Rows of all batches before this step's, which is the position of its first row in the stream."""
        ends = [*self._starts[1:], step]
        return sum(
            size * max(0, min(end, step) - start)
            for size, start, end in zip(self.sizes, self._starts, ends, strict=True)
        )

    def whole_batches(self, num_rows: int) -> int:
        """How many batches the first `num_rows` rows of the stream fill."""
        # no batch is empty, so there are at most num_rows of them
        return bisect_right(range(num_rows + 1), num_rows, key=self.offset) - 1
