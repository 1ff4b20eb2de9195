"""How far a piece of work is, said where others can see it.

A step's function calls `report_progress`; the executor puts the last report into the step's register when it renews the
lease, so that every runner and `marin status` show it. Outside a step nothing happens. A report is one small file
replaced in place, so it may come after every batch: at most one a second is written. It has the pace since the first
report, from which the time left is told.
"""

import contextlib
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from marin.io.atomic import write_bytes
from marin.tracking.tracker import Value

_EVERY_S = 1.0
_last: dict[str, float] = {}  # file -> when it was written, on the monotonic clock
_first: dict[str, tuple[float, float]] = {}  # file -> when the first report came, and what was done then


def report_progress(done: float, total: float | None = None, unit: str = "") -> None:
    """Say that `done` of `total` (None: unknown) units of work are done, like 200, 1000, "steps"."""
    path = os.environ.get("MARIN_PROGRESS_FILE")
    if not path:
        return
    now = time.monotonic()
    since, done_before = _first.setdefault(path, (now, done))
    if done != total and now - _last.get(path, -_EVERY_S) < _EVERY_S:
        return
    _last[path] = now
    report = {"done": done, "total": total, "unit": unit}
    if done > done_before and now > since:
        report["pace"] = (done - done_before) / (now - since)
    with contextlib.suppress(OSError):  # a full disk must not stop the work over its report
        write_bytes(path, json.dumps(report).encode(), fsync=False)


class ProgressTracker:
    """Reports each logged step as progress towards `num_steps`."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        report_progress(step, self._num_steps, "steps")

    def flush(self) -> None:
        return

    def close(self) -> None:
        return


def read_progress(path: str) -> Mapping[str, Any] | None:
    """The last report in a file, None if there is none."""
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def seconds_left(
    elapsed_s: float | None, progress: Mapping[str, Any] | None, usual_s: float | None = None
) -> float | None:
    """Seconds until work that began `elapsed_s` ago is done; None if nothing tells.

    By its pace since its first report, for before that it started up, or found part of the work done. `usual_s`: what
    such work takes, for what reports no pace.
    """
    if elapsed_s is None:
        return None
    if progress and progress.get("total") and progress.get("pace"):
        return max(0.0, progress["total"] - progress["done"]) / progress["pace"]
    return max(0.0, usual_s - elapsed_s) if usual_s is not None else None
