"""How far an evaluation is, in lines: requests done, requests a second, time left."""

import sys
import time
from typing import TextIO

from marin.tracking.progress import report_progress

_SECONDS_BETWEEN_LINES = 5.0


class ProgressLines:
    """Prints `arc_easy: 1,200 of 9,504 requests, 310 a second, 27 s left` every few seconds, and a line at the end.

    On a terminal the line is written over. It goes to stderr, and to whoever watches the step.
    """

    def __init__(self, what: str, unit: str = "requests", stream: TextIO | None = None) -> None:
        self._what, self._unit = what, unit
        self._stream = sys.stderr if stream is None else stream
        self._started = self._printed = time.monotonic()

    def __call__(self, num_done: int, num_all: int) -> None:
        now = time.monotonic()
        report_progress(num_done, num_all, self._unit)
        is_last = num_done >= num_all
        if not is_last and now - self._printed < (1.0 if self._stream.isatty() else _SECONDS_BETWEEN_LINES):
            return
        self._printed = now
        text = f"{self._what}: {progress_text(num_done, num_all, now - self._started, self._unit)}"
        if not self._stream.isatty():
            print(text, file=self._stream, flush=True)
        else:
            print(f"\r{text}\x1b[K", end="\n" if is_last else "", file=self._stream, flush=True)


def progress_text(num_done: int, num_all: int, seconds: float, unit: str) -> str:
    """'1,200 of 9,504 requests, 310 a second, 27 s left'; of finished work how long it took."""
    pace = num_done / seconds if seconds > 0 else 0.0
    shown = f"{pace:,.0f}" if pace >= 10 else f"{pace:.2g}"
    text = f"{num_done:,} of {num_all:,} {unit}" + (f", {shown} a second" if pace else "")
    if num_done >= num_all:
        return f"{text}, {seconds:.1f} s"
    return f"{text}, {(num_all - num_done) / pace:,.0f} s left" if pace else text
