"""How far a run is, on stderr and in the register of the step that it is part of."""

import sys
import time
from typing import TYPE_CHECKING

from marin.tracking.progress import report_progress

if TYPE_CHECKING:
    from marin.processing.pipeline.planning import Planned
    from marin.processing.pipeline.result import Result
    from marin.processing.pipeline.stage import Task

_EVERY_S = 10.0


class Progress:
    """Counts what is read; a line now and then. The time left is told by the share of the input that is done."""

    def __init__(self, root: str, stages: "list[Planned]", *, shown: bool, label: str | None):
        self._root, self._shown, self._label = root, shown, label
        self._total = sum(_size(task) for planned in stages for task in planned.tasks)
        self._num_shards = sum(len(planned.tasks) for planned in stages)
        self._done = self._num_done = 0
        self._done_here = self._bytes = self._rows = 0
        self._began = self._told = time.monotonic()

    def begin(self, planned: "Planned", pending: "list[Task]") -> None:
        """A stage begins; what is not pending is done."""
        self._done += sum(map(_size, planned.tasks)) - sum(map(_size, pending))
        self._num_done += len(planned.tasks) - len(pending)
        self._report()

    def read(self, num_bytes: int, num_rows: int) -> None:
        """Somebody has read so many bytes and rows more."""
        self._bytes += num_bytes
        self._rows += num_rows
        if time.monotonic() - self._told >= _EVERY_S:
            self._say()

    def done(self, task: "Task") -> None:
        """A shard is done."""
        self._done += _size(task)
        self._done_here += _size(task)
        self._num_done += 1
        self._report()

    def finish(self, result: "Result") -> None:
        """All is done."""
        if self._shown and self._rows:
            self._say()
            if self._label is None:
                print(f"{self._root}: {result.summary()}", file=sys.stderr)

    def _report(self) -> None:
        report_progress(self._done / 1e6, self._total / 1e6, "MB")

    def _say(self) -> None:
        self._told = now = time.monotonic()
        if not self._shown:
            return
        if self._label is not None:
            print(f"{self._label}: {self._num_done}/{self._num_shards} done", file=sys.stderr)
            return
        elapsed_s = max(now - self._began, 1e-9)
        left = ""
        if self._done_here and self._done < self._total:
            left = f", {_time((self._total - self._done) * elapsed_s / self._done_here)} left"
        print(
            f"{self._root}: {self._num_done}/{self._num_shards} shards, {self._rows:,} rows, "
            f"{self._bytes / 1e6:,.1f} MB at {self._bytes / 1e6 / elapsed_s:,.1f} MB/s{left}",
            file=sys.stderr,
        )


def _size(task: "Task") -> int:
    return max(1, task.source.num_bytes)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
