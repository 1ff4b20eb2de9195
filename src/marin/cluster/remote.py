"""The far end of a job that runs on another machine than its launcher: it keeps what the launcher has not fetched yet.

The job never waits for its launcher. Output waits in memory, the oldest dropped when there is too much; the result
waits for a while, then everything goes away. So a launcher may die, and the job ends all the same; the price is that a
launcher that looks away for longer than that while finds nothing any more.
"""

import contextlib
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from marin.cluster.current import use_stop_event
from marin.cluster.job import CANCELLED, Entrypoint, JobError, JobRequest, JobResult, error_of

_MAX_KEPT_BYTES = 8 << 20
_READ_BYTES = 1 << 16
_DRAIN_S = 2.0


@dataclass(frozen=True, kw_only=True)
class News:
    """What is new about a job since `position` bytes of output."""

    output: bytes  # what followed
    position: int  # where to ask next
    result: JobResult | None  # how it ended; None: it goes on, or there is more output to fetch first


class Mailbox:
    """Output and result of one job, between the threads that make them and those that fetch them."""

    def __init__(self) -> None:
        self.stop = threading.Event()  # set when the job is asked to stop
        self.grace_s = 0.0  # how long it then has
        self._changed = threading.Condition()
        self._chunks = bytearray()  # output from `_start` on
        self._start = 0
        self._result: JobResult | None = None
        self._num_asking = 0  # launchers that wait for news at this moment: one, or one that died over it
        self._last_asked = time.monotonic()

    def write(self, chunk: bytes) -> None:
        with self._changed:
            self._chunks += chunk
            surplus = len(self._chunks) - _MAX_KEPT_BYTES
            if surplus > 0:
                del self._chunks[:surplus]
                self._start += surplus
            self._changed.notify_all()

    def end(self, result: JobResult) -> None:
        """Set the result; the first one counts."""
        with self._changed:
            self._result = self._result or result
            self._changed.notify_all()

    def wait_for_end(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._result is not None, timeout_s)

    def fetch(self, position: int, timeout_s: float) -> News:
        """What there is after `position`, as soon as there is anything, at the latest after `timeout_s`.

        Asking for a position says that everything before it has arrived.
        """
        with self._changed:
            self._num_asking += 1
            self._changed.wait_for(
                lambda: self._start + len(self._chunks) > position or self._result is not None, timeout_s
            )
            self._num_asking -= 1
            self._last_asked = time.monotonic()
            lost = max(0, self._start - position)
            if position > self._start:
                del self._chunks[: position - self._start]
                self._start = position
            note = (
                f"\n[{lost} bytes of output were dropped here: they came faster than they were read]\n" if lost else ""
            )
            return News(
                output=note.encode() + bytes(self._chunks),
                position=self._start + len(self._chunks),
                result=self._result,
            )

    def seconds_since_asked(self) -> float:
        with self._changed:
            return 0.0 if self._num_asking else time.monotonic() - self._last_asked


class RemoteJob:
    """A job under way at the far end. `body` does it and returns its result; `leave` ends this process.

    `leave` is called when the launcher has not asked for `linger_s` seconds after the end.
    """

    def __init__(self, body: Callable[[Mailbox], JobResult], *, linger_s: float, leave: Callable[[], None]) -> None:
        self._body, self._linger_s, self._leave = body, linger_s, leave
        self._mailbox = Mailbox()
        self.fetch = self._mailbox.fetch
        threading.Thread(target=self._run, name="job", daemon=True).start()
        threading.Thread(target=self._linger, name="end of job", daemon=True).start()

    def cancel(self, grace_s: float) -> None:
        """Ask the job to stop, and kill it after `grace_s`; the body sees to both."""
        self._mailbox.grace_s = grace_s
        self._mailbox.stop.set()

    def _run(self) -> None:
        try:
            result = self._body(self._mailbox)
        except BaseException as error:
            result = JobResult(error=error_of(error))
        self._mailbox.end(result)

    def _linger(self) -> None:
        while not self._mailbox.wait_for_end(timeout_s=3600.0):
            pass
        while (patience_s := self._linger_s - self._mailbox.seconds_since_asked()) > 0:
            time.sleep(patience_s)
        self._leave()


def killed(why: str) -> JobResult:
    """The result of a job that was cancelled and had to be killed."""
    return JobResult(error=JobError(type="Killed", message=f"cancelled: {why}", kind=CANCELLED), cancelled=True)


# -- what a job on one machine does -----------------------------------------------------------------------------------


def call_pickled(call: bytes) -> Any:
    """Unpickle (function, args, kwargs) and call it: functions and classes of a script arrive by value so."""
    from marin.cluster.job import resolve_function

    function, args, kwargs = pickle.loads(call)
    return resolve_function(function)(*args, **kwargs)


def packed(request: JobRequest, dumps: Callable[[Any], bytes]) -> bytes:
    """`request` with the folders its modules are found in; ValueError if it cannot be sent."""
    entry = request.entrypoint
    if entry.command is None and entry.function is None:
        raise ValueError(f"job {request.name!r} has neither a function nor a command")
    if entry.command is None:
        try:
            call = dumps((entry.function, entry.args, dict(entry.kwargs)))
        except Exception as error:
            raise ValueError(
                f"job {request.name!r} cannot be sent to another machine: {error}. What it is made of must be picklable"
            ) from error
        request = replace(request, entrypoint=Entrypoint.from_callable(call_pickled, (call,)))
    return pickle.dumps({"request": request, "sys_path": [os.path.abspath(folder) for folder in sys.path]})


def run_packed(payload: bytes, mailbox: Mailbox, *, env: Mapping[str, str], log_suffix: str = "") -> JobResult:
    """Do what `packed` has packed, on this machine; `env` adds to its variables, `log_suffix` to the log's name.

    What the launcher can import can be imported here if its folders are here, too: they are looked in last.
    """
    content = pickle.loads(payload)
    sys.path.extend(f for f in content["sys_path"] if f not in sys.path and os.path.exists(f))
    request: JobRequest = content["request"]
    log_path = _usable(request.log_path + log_suffix, mailbox) if request.log_path else None
    request = replace(request, env={**env, **request.env}, log_path=log_path)
    if request.in_process and request.entrypoint.command is None:
        return _run_here(request, mailbox)
    return _run_in_child(request, mailbox)


def _usable(log_path: str, mailbox: Mailbox) -> str | None:
    """`log_path` if it can be written to on this machine, else None and a note."""
    try:
        os.makedirs(os.path.dirname(os.path.abspath(log_path)), exist_ok=True)
        open(log_path, "ab").close()
    except OSError as error:
        mailbox.write(f"[the log {log_path} cannot be written on {os.uname().nodename}: {error}]\n".encode())
        return None
    return log_path


def _run_in_child(request: JobRequest, mailbox: Mailbox) -> JobResult:
    from marin.cluster.local import LocalCluster

    handle = LocalCluster().launch(request, on_output=mailbox.write)  # this thread lives until the job has ended
    _when_asked_to_stop(mailbox, lambda grace_s: handle.cancel(grace_s))
    result = handle.wait()
    assert result is not None
    return result


def _run_here(request: JobRequest, mailbox: Mailbox) -> JobResult:
    from marin.cluster.local import InProcessCluster

    def give_up(grace_s: float) -> None:
        time.sleep(grace_s)
        mailbox.end(killed(f"it did not stop within {grace_s:g} s"))

    _when_asked_to_stop(mailbox, give_up)
    with _captured(request.log_path, mailbox), use_stop_event(mailbox.stop):
        result = InProcessCluster().launch(replace(request, log_path=None)).wait()
    assert result is not None
    if mailbox.stop.is_set():
        error = replace(result.error, kind=CANCELLED) if result.error else None
        result = replace(result, cancelled=True, error=error)
    return result


def _when_asked_to_stop(mailbox: Mailbox, stop: Callable[[float], None]) -> None:
    """Call `stop(grace_s)` in a thread when the launcher asks; the thread waits for as long as the process lives."""

    def wait() -> None:
        mailbox.stop.wait()
        stop(mailbox.grace_s)

    threading.Thread(target=wait, name="stop of job", daemon=True).start()


@contextlib.contextmanager
def _captured(log_path: str | None, mailbox: Mailbox) -> Iterator[None]:
    """Inside, what this process and its children write to stdout and stderr goes to the mailbox and the log."""
    read_end, write_end = os.pipe()
    saved = (os.dup(1), os.dup(2))
    for number in (1, 2):
        os.dup2(write_end, number)
    os.close(write_end)
    reader = threading.Thread(target=_read, args=(read_end, log_path, mailbox), name="output of job", daemon=True)
    reader.start()
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        for number, before in zip((1, 2), saved, strict=True):
            os.dup2(before, number)
            os.close(before)
        reader.join(_DRAIN_S)  # what the job left running may hold the pipe; it is not worth waiting for


def _read(descriptor: int, log_path: str | None, mailbox: Mailbox) -> None:
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, descriptor)
        log = stack.enter_context(open(log_path, "ab", buffering=0)) if log_path else None
        while chunk := os.read(descriptor, _READ_BYTES):
            if log is not None:
                try:
                    log.write(chunk)
                except OSError:  # the disk is full: the job shall not stall on its own log
                    log = None
            mailbox.write(chunk)
