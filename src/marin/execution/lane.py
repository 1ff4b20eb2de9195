"""The thread that called `run`: steps without resources run there, one at a time, and signals reach it.

It is normally the main thread, where a step may use whatever a plain script may. Ctrl-C, SIGTERM and the end of the
terminal are events of the run there, and an exception only in the function that runs at that moment. A function that
catches that exception and goes on cannot be stopped alone: the third signal ends the process, and the next run takes
its step over at once.
"""

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from marin.cluster.job import JobError, JobResult, error_of
from marin.cluster.local import ASKING_TO_STOP

_SIGNAL_LATENCY_S = 0.25
_MOST_ASKED = 2  # a function that went on so often after KeyboardInterrupt ends with the process

Body = Callable[[], JobResult]
Done = Callable[[JobResult], None]


class Lane:
    """A queue of work for one thread, and the wish to stop."""

    def __init__(self, on_interrupt: Callable[[], None]) -> None:
        """`on_interrupt` is called, in any thread, each time that somebody asks more urgently to stop."""
        self.is_free = True  # nothing of the lane is under way; for the thread that puts work in
        self._interrupts = 0
        self._on_interrupt = on_interrupt
        self._work: queue.SimpleQueue[tuple[Body, Done] | None] = queue.SimpleQueue()
        self._in_body = False
        self._noted: tuple[int, ...] = ()  # of the signals that ask to stop, those that come to this run

    @property
    def interrupts(self) -> int:
        """How often, and so how urgently, the run was asked to stop; 0: not at all."""
        return self._interrupts

    @property
    def is_in_body(self) -> bool:
        """Whether a function is running in the thread at this moment."""
        return self._in_body

    def put(self, body: Body, done: Done) -> None:
        """Have the thread call `body`, and `done` with its result."""
        self.is_free = False
        self._work.put((body, done))

    def close(self) -> None:
        """Nothing more comes: `serve` returns."""
        self._work.put(None)

    def interrupt(self, asked: int) -> None:
        """Ask to stop as urgently as `asked`; less than before changes nothing."""
        if asked <= self._interrupts:
            return
        if self._in_body and self._noted:  # only a signal reaches the function in the main thread
            os.kill(os.getpid(), self._noted[0])
            return
        self._interrupts = asked
        self._on_interrupt()

    def serve(self, before: Callable[[], None]) -> None:
        """Call `before`, then do the work as it comes until `close`; in the thread whose lane this is."""
        with self._signals_noted():
            before()
            try:
                while (work := self._next()) is not None:
                    body, done = work
                    done(self._call(body))
            except BaseException:  # thrown in from outside, by a signal handler that is not ours
                self._interrupts += 2
                self._on_interrupt()
                raise

    def _next(self) -> tuple[Body, Done] | None:
        while True:
            try:
                # A signal that comes just before the wait begins is not noticed until it ends.
                return self._work.get(timeout=_SIGNAL_LATENCY_S)
            except queue.Empty:
                continue

    def _call(self, body: Body) -> JobResult:
        if self._interrupts:
            return JobResult(error=JobError(type="KeyboardInterrupt", message=""), cancelled=True)
        try:
            try:
                self._in_body = True
                return body()
            finally:
                self._in_body = False
        except BaseException as error:  # the log could not be opened, or the interrupt came just outside the step
            self._in_body = False
            return JobResult(error=error_of(error), cancelled=isinstance(error, KeyboardInterrupt))

    @contextlib.contextmanager
    def _signals_noted(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's business
            return

        def note(number: int, frame: Any) -> None:
            if number == signal.SIGHUP and self._interrupts:
                return  # the shell and the system both tell that a terminal is gone
            self._interrupts += 1
            self._on_interrupt()
            if self._in_body and self._interrupts > _MOST_ASKED:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            if self._in_body:
                raise KeyboardInterrupt

        before = {}
        usual: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler}
        for number in ASKING_TO_STOP:  # someone else's handler, or "ignore", stays
            if signal.getsignal(number) == usual.get(number, signal.SIG_DFL):
                before[number] = signal.signal(number, note)
        self._noted = tuple(before)
        try:
            yield
        finally:
            self._noted = ()
            for number, handler in before.items():
                signal.signal(number, handler)
