"""trackio: a dashboard on this machine, its numbers in a database of its own.

A resumed run goes on under its name, and steps that the database has already are not written twice. A kill between two
rows of one step therefore loses the second there, and only there.
"""

import contextlib
import sys
from collections.abc import Mapping

from marin.tracking.config import TrackedRun, TrackioConfig
from marin.tracking.tracker import Value


class TrackioTracker:
    """Rows as trackio's logs, the config as its config."""

    def __init__(self, config: TrackioConfig, run: TrackedRun) -> None:
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        name = config.name or run.run_id
        self._last_step = SQLiteStorage.get_max_step_for_run(config.project, name) or 0
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for data
            self._finish = trackio.finish  # the run's own method would be called again when the process ends
            self._run = trackio.init(
                project=config.project,
                name=name,
                resume="allow",
                config=dict(run.config),
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Write a row, unless a process before this one has."""
        if step > self._last_step:
            self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """trackio writes every half second; there is nothing to ask for."""

    def close(self) -> None:
        """Finish the run."""
        with contextlib.redirect_stdout(sys.stderr):
            self._finish()
