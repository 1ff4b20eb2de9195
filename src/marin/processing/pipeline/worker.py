"""A worker process: makes the shards that it is told through its standard input, one at a time.

A fresh interpreter, not a fork (libraries have threads) and not `multiprocessing`'s spawn (which would run the
experiment's script again in every worker, and a script that ends in `executor_main(...)` with no guard would begin anew
there). When the parent is gone, `kill -9` included, it ends at once, even where a library keeps the interpreter's lock
and no thread of ours can run: the kernel sends SIGIO, which ends a process, when the parent's end of a pipe of its own
closes. Hashes of strings are the same in all workers, so that a function which goes through a set gives the same
everywhere.

Messages are pickles, each preceded by its length. In: ("task", stage, task, too_slow), stage and task as bytes of
cloudpickle. Out: ("taken",) for each task, ("progress", bytes, rows), ("done", None), ("failed", reason). Which row of
an operation with a time limit is at work is written to memory that the parent shares, for a worker stuck in a library
cannot send anything.
"""

import fcntl
import hashlib
import mmap
import os
import pickle
import queue
import signal
import struct
import sys
import threading
import time
import traceback
from typing import IO, Any

_LENGTH = struct.Struct(">Q")
PLACE = struct.Struct("<qqd")  # operation, row, limit in CPU seconds; row -1: nowhere in particular
_PROGRESS_S = 0.2


def send(file: IO[bytes], message: Any) -> None:
    """Write a message."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    file.write(_LENGTH.pack(len(data)) + data)
    file.flush()


def receive(file: IO[bytes]) -> Any:
    """The next message; EOFError where there is none, or half of one."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(head)
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return pickle.loads(data)


class Maker:
    """Makes shards, and keeps the stage between them: what its operations have loaded is loaded once.

    A stage is any object with a method `make(task, too_slow=, watchers=)`.
    """

    def __init__(self) -> None:
        self._digest = b""
        self._stage: Any = None

    def make(self, stage_data: bytes, task_data: bytes, too_slow: Any, watchers: Any) -> None:
        """Make one shard; ValueError, OSError or whatever the operations raise."""
        digest = hashlib.sha256(stage_data).digest()
        if digest != self._digest:
            self._stage, self._digest = pickle.loads(stage_data), digest
        self._stage.make(pickle.loads(task_data), too_slow=too_slow, watchers=watchers)


_maker = Maker()  # of a process that makes shards by `make_packed`


def make_packed(stage_data: bytes, packed: bytes) -> bytes:
    """Make a shard on whatever machine this is; the reason why it was not made, empty if it was."""
    name, task_data, is_watched = pickle.loads(packed)
    if is_watched:  # rows with a time limit need a parent that can kill whoever is at them
        from marin.processing.pipeline.pool import Events, run_in_processes

        failures = run_in_processes(stage_data, [(name, task_data)], workers=1, retries=0, events=Events())
        return failures.get(0, "").encode()
    from marin.processing.pipeline.stage import Watchers

    try:
        _maker.make(stage_data, task_data, None, Watchers())
    except Exception as error:
        return reason_of(error).encode()
    return b""


def reason_of(error: BaseException) -> str:
    """What a person needs to know of a failure: its message, and the trace where it is not of a kind we expect."""
    from marin.processing.formats.splits import FormatError
    from marin.processing.pipeline.execution import OperationError

    if isinstance(error, OperationError):
        return str(error)
    if isinstance(error, FormatError | OSError) or type(error) in (ValueError, TypeError):
        return f"{type(error).__name__}: {error}"
    return "".join(traceback.format_exception(error)).strip()


class _Progress:
    """Adds up what was read, and tells it now and then."""

    def __init__(self, out: IO[bytes]):
        self._out = out
        self._bytes = self._rows = 0
        self._told = time.monotonic()

    def add(self, num_bytes: int, num_rows: int) -> None:
        self._bytes += num_bytes
        self._rows += num_rows
        if time.monotonic() - self._told > _PROGRESS_S:
            self.tell()

    def tell(self) -> None:
        send(self._out, ("progress", self._bytes, self._rows))
        self._bytes = self._rows = 0
        self._told = time.monotonic()


def _serve(jobs: "queue.Queue[Any]", out: IO[bytes], place: mmap.mmap) -> None:
    from marin.processing.pipeline.stage import Watchers

    maker = Maker()

    def at_row(operation: int, row: int, limit_s: float) -> None:
        place[: PLACE.size] = PLACE.pack(operation, row, limit_s)

    while True:
        _, stage_data, task_data, too_slow = jobs.get()
        send(out, ("taken",))
        progress = _Progress(out)
        try:
            maker.make(stage_data, task_data, too_slow, Watchers(progress=progress.add, row=at_row))
        except Exception as error:
            at_row(0, -1, 0.0)
            send(out, ("failed", reason_of(error)))
        else:
            progress.tell()
            send(out, ("done", None))


def _read_jobs(jobs: "queue.Queue[Any]") -> None:
    try:
        while True:
            jobs.put(receive(sys.stdin.buffer))
    except EOFError:
        pass
    finally:
        os._exit(0)  # the parent has closed our input, or is gone: nothing we do is wanted any more


def _end_with(parent: int) -> None:
    """Have the kernel end this process when nobody has the other end of the pipe `parent` open any more."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGIO])
    fcntl.fcntl(parent, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(parent, fcntl.F_SETFL, fcntl.fcntl(parent, fcntl.F_GETFL) | os.O_ASYNC)
    # If it is gone already, our input is at its end, and the thread that reads it ends us.


def _main() -> None:
    _end_with(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business, which then ends us
    place = mmap.mmap(int(sys.argv[1]), PLACE.size)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints goes to stderr, not between our messages
    sys.path[:] = [*sys.path, *(path for path in receive(sys.stdin.buffer) if path not in sys.path)]
    jobs: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()

    import pyarrow as pa

    pa.set_cpu_count(1)  # one process a CPU already
    _serve(jobs, out, place)


if __name__ == "__main__":
    _main()
