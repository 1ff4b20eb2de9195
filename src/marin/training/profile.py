"""Records some updates with jax's profiler, for TensorBoard's profile plugin or Perfetto."""

from pathlib import Path

import jax

from marin.training.callbacks import StepDone
from marin.training.config import ProfileConfig

FOLDER = "profile"


class Profile:
    """Starts the profiler before the first update of the window and stops it when the last is computed."""

    def __init__(self, config: ProfileConfig, output: Path) -> None:
        self._folder = output / FOLDER
        self._first = config.start
        self._last = config.start + config.num_steps - 1
        self._is_recording = False

    def __call__(self, done: StepDone) -> None:
        if self._is_recording and (done.step >= self._last or done.is_last):
            jax.block_until_ready(done.metrics)
            self.close()
        elif not self._is_recording and self._first - 1 <= done.step < self._last and not done.is_last:
            jax.block_until_ready(done.metrics)  # what was begun before is not of the window
            jax.profiler.start_trace(str(self._folder))
            self._is_recording = True

    def close(self) -> None:
        """Stop, if the window is open still."""
        if self._is_recording:
            self._is_recording = False
            jax.profiler.stop_trace()
