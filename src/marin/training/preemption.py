"""Being told to leave: SIGTERM asks, the loop finishes its step, saves, and exits with a code of its own.

The code tells whoever started the run that nothing failed and that the same command will go on from here.
"""

import signal
import threading
from types import FrameType, TracebackType

from marin.cluster.job import Stopped

PREEMPTED_EXIT_CODE = 75
"""Exit status of a run that saved and left when asked to (the EX_TEMPFAIL of sysexits.h: try again later)."""


class Preempted(Stopped):
    """The run was asked to leave, has saved, and can be resumed. Ends the process with PREEMPTED_EXIT_CODE."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=PREEMPTED_EXIT_CODE)


class PreemptionNotice:
    """Whether SIGTERM has come since the `with` block began.

    Python lets only the main thread hear signals; in another thread this hears nothing, and the run ends as its
    process does.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._former = None

    def __enter__(self) -> "PreemptionNotice":
        if threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.is_requested = True
