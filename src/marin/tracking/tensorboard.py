"""TensorBoard event files, by tensorboardX: one megabyte, where TensorBoard itself is thirty.

A resumed run begins a new file that tells readers to drop the steps it repeats.
"""

from collections.abc import Mapping

from marin.tracking.config import TrackedRun
from marin.tracking.tracker import Value

FOLDER = "tensorboard"


class TensorboardTracker:
    """Numbers as scalars, texts as texts."""

    def __init__(self, run: TrackedRun, *, flush_s: int = 30) -> None:
        from tensorboardX import SummaryWriter

        folder = run.output / FOLDER
        # a file from before the first checkpoint must be purged too
        repeated = run.resume_step + 1 if folder.is_dir() else None
        self._writer = SummaryWriter(
            logdir=str(folder),
            purge_step=repeated,
            flush_secs=flush_s,
            filename_suffix=f".{run.resume_step:08d}",  # its names hold the second, and two processes may share one
        )

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Write each value."""
        for name, value in values.items():
            if isinstance(value, str):
                self._writer.add_text(name, value, step)
            else:
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write what is waiting."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
