"""Progress for a person: one line that renews itself on a terminal, one line now and then in a log file.

Shows only what is known. A tok/s figure needs two rows to be measured, an MFU needs a device whose peak is known, and
neither is guessed.
"""

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from marin.tracking.tracker import Value

_TERMINAL_INTERVAL_S = 0.1
_LOG_INTERVAL_S = 10.0
_BAR_WIDTH = 20


class ConsoleTracker:
    """Prints progress of a run of `num_steps` updates to `stream` (standard error unless given)."""

    def __init__(
        self,
        num_steps: int,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        interval_s: float | None = None,
    ) -> None:
        """`interval_s` between two lines; None takes what suits the kind of stream."""
        self._num_steps = num_steps
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._is_terminal = self._stream.isatty()
        default = _TERMINAL_INTERVAL_S if self._is_terminal else _LOG_INTERVAL_S
        self._interval_s = default if interval_s is None else interval_s
        self._first: tuple[int, float] | None = None  # step and time of the first row: compiling is behind it
        self._last_print_s = float("-inf")
        self._pending: str | None = None
        self._line_is_open = False

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Show a row of training, or what a row of validation or of tasks measured (its counts are for the files).

        Rows of other kinds, such as norms or samples, are for the files.
        """
        now = self._clock()
        for kind in ("validation", "tasks"):
            measures = {name.removeprefix(f"{kind}/"): v for name, v in values.items() if name.startswith(f"{kind}/")}
            if measures:
                shown = "  ".join(f"{name} {v:.4f}" for name, v in measures.items() if isinstance(v, float))
                self._print(f"step {step:,}/{self._num_steps:,}  {kind}  {shown}", stays=True)
                return
        if not any(name.startswith("train/") for name in values):
            return
        if self._first is None:
            self._first = (step, now)
        self._pending = self._progress(step, now, values)
        if now - self._last_print_s >= self._interval_s or step == self._num_steps:
            self._last_print_s = now
            self._print(self._pending, stays=not self._is_terminal)
            self._pending = None

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._print(line, stays=True)

    def flush(self) -> None:
        """Show the newest row, even if one was shown just before."""
        if self._pending is not None and self._is_terminal:
            self._print(self._pending, stays=False)
            self._pending = None
        self._stream.flush()

    def close(self) -> None:
        """Leave the cursor on a fresh line."""
        self.flush()
        if self._line_is_open:
            self._stream.write("\n")
            self._line_is_open = False
        self._stream.flush()

    def _progress(self, step: int, now: float, values: Mapping[str, Value]) -> str:
        parts = [f"step {step:,}/{self._num_steps:,}"]
        if self._is_terminal:
            done = int(_BAR_WIDTH * step / self._num_steps)
            parts.insert(0, "█" * done + "░" * (_BAR_WIDTH - done))
        if "train/loss" in values:
            parts.append(f"loss {values['train/loss']:.3f}")
        if "tokens_per_second" in values:
            parts.append(f"{values['tokens_per_second']:,.0f} tok/s")
        if "mfu" in values:
            parts.append(f"MFU {values['mfu']:.1%}")
        assert self._first is not None
        first_step, first_s = self._first
        if step > first_step and step < self._num_steps:
            parts.append("ETA " + duration((now - first_s) / (step - first_step) * (self._num_steps - step)))
        return "  ".join(parts)

    def _print(self, line: str, *, stays: bool) -> None:
        if not self._is_terminal:
            self._stream.write(line + "\n")
            self._stream.flush()
            return
        width = shutil.get_terminal_size().columns - 1
        self._stream.write("\r" + line[:width].ljust(width) + ("\n" if stays else ""))
        self._line_is_open = not stays
        self._stream.flush()


def duration(seconds: float) -> str:
    """`42s`, `3m10s` or `2h05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
