"""Worker processes of this machine, fed with shards; what dies is replaced, and what is stuck is stopped.

A shard whose worker died (killed for memory, a crash in a library) is tried again `retries` times. An exception of an
operation is not: the same rows would raise it again. Neither stops the other shards.

The watch over slow rows is the parent's: it reads which row a worker is at, and the processor time of its process. A
row over its limit costs its worker, and the shard is made again with that row quarantined. So code that never returns
to Python is stopped as well; the price is the shard's work so far, once for every such row.

A process takes about a second to begin: its libraries are loaded anew. So work that runs the engine several times, or a
run of several stages, keeps its processes (`kept_workers`), and where nobody says how many there shall be, one begins
and others follow as long as shards wait.
"""

import contextlib
import mmap
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import marin
from marin.processing.pipeline.worker import PLACE, receive, send

_LOOK_S = 0.1
_NEXT_S = 0.5  # after which there are twice as many processes, where their number is open and shards wait
_NOTHING: tuple[str, Any] = ("nothing", None)  # said by no worker yet
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass
class Job:
    """A shard to make."""

    index: int
    name: str
    task_data: bytes
    deaths: int = 0
    too_slow: dict[int, frozenset[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Events:
    """Who is told what, in the thread that called."""

    started: Callable[[str], None] = lambda name: None
    progress: Callable[[int, int], None] = lambda num_bytes, num_rows: None
    done: Callable[[int], None] = lambda index: None


@contextlib.contextmanager
def kept_workers() -> Iterator[None]:
    """Inside, processes with nothing to do wait for the next `run_in_processes` of this thread; at the end they go.

    Inside another one it does nothing. A process serves only runs with its environment, `sys.path` and folder.
    """
    if _kept.get() is not None:
        yield
        return
    processes: list[_Process] = []
    token = _kept.set(processes)
    try:
        yield
    finally:
        _kept.reset(token)
        for process in processes:
            process.end()


def run_in_processes(
    stage_data: bytes,
    tasks: Sequence[tuple[str, bytes]],
    *,
    workers: int,
    retries: int,
    events: Events,
    few_first: bool = False,
) -> dict[int, str]:
    """Make all shards with `workers` processes; the reasons of those that failed, by their index in `tasks`.

    `stage_data` is the pickle of an object with a method `make(task, too_slow=, watchers=)`, and a task that of what
    this takes: a `Stage` with a `Task`, or what else is made shard by shard. `few_first`: there are `workers` of
    them only where the work lasts, and little is done by fewer.
    """
    waiting = deque(Job(index=i, name=name, task_data=data) for i, (name, data) in enumerate(tasks))
    messages: queue.Queue[tuple[str, Any]] = queue.Queue()
    kept = _kept.get()
    most = min(workers, len(waiting))
    threads = [_Worker(waiting, messages, stage_data, retries, kept) for _ in range(most)]
    started = min(most, max(1, len(kept or ()))) if few_first else most
    failures: dict[int, str] = {}
    stop = threading.Event()
    watch = threading.Thread(target=_watch, args=(threads, stop), name="marin-pipeline-watch", daemon=True)
    is_whole = False
    try:
        for thread in threads[:started]:
            thread.start()
        watch.start()
        running, counted = started, time.monotonic()
        while running:
            message = _NOTHING
            with contextlib.suppress(queue.Empty):
                message = messages.get(timeout=_NEXT_S if started < most else None)
            kind, value = message
            if started < most and waiting and time.monotonic() - counted >= _NEXT_S:
                more = threads[started : 2 * started]
                for thread in more:
                    thread.start()
                started, running, counted = started + len(more), running + len(more), time.monotonic()
            if kind == "started":
                events.started(value)
            elif kind == "progress":
                events.progress(*value)
            elif kind == "done":
                events.done(value)
            elif kind == "failed":
                failures[value[0]] = value[1]
            elif kind == "error":  # ours, not a shard's
                raise value
            elif kind == "ended":
                running -= 1
        is_whole = True
    finally:
        waiting.clear()
        stop.set()
        for thread in threads:
            thread.stop(keep=is_whole)
    return failures


class _Process:
    """A worker process, and the memory where it says at which row it is."""

    def __init__(self, setting: tuple[Any, ...]):
        environment, path, folder = self.setting = setting
        with tempfile.TemporaryFile() as file:
            file.truncate(PLACE.size)
            self._place = mmap.mmap(file.fileno(), PLACE.size)
            parent, self._alive = os.pipe()  # we hold this end, so its closing says that we are gone
            passed = [file.fileno(), parent]
            try:
                self._popen = subprocess.Popen(
                    [sys.executable, "-m", "marin.processing.pipeline.worker", *map(str, passed)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=dict(environment),
                    cwd=folder,
                    pass_fds=passed,
                )
            except BaseException:
                os.close(self._alive)
                raise
            finally:
                os.close(parent)
        self.pid = self._popen.pid
        self.has_served = False
        self._ask(list(path))

    @staticmethod
    def setting_now() -> tuple[Any, ...]:
        """What a process is started with: environment, `sys.path`, folder."""
        source = str(Path(marin.__file__).parent.parent)
        inherited = os.environ.get("PYTHONPATH")
        environment = {
            **os.environ,
            **dict.fromkeys(_ONE_THREAD, "1"),
            "PYTHONPATH": os.pathsep.join([source, inherited] if inherited else [source]),
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONHASHSEED": "0",
        }
        folder = None  # that of this process, which was removed
        with contextlib.suppress(FileNotFoundError):
            folder = os.getcwd()
        return tuple(sorted(environment.items())), tuple(sys.path), folder

    def _ask(self, message: Any) -> None:
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead, which `answer` will find
            send(self._popen.stdin, message)

    def make(self, *task: Any) -> None:
        """Tell it to make a shard."""
        self._ask(("task", *task))

    def answer(self) -> Any:
        """The next thing that it says; EOFError when it has died."""
        assert self._popen.stdout is not None
        return receive(self._popen.stdout)

    def at_no_row(self) -> None:
        self._place[: PLACE.size] = PLACE.pack(0, -1, 0.0)

    def row(self) -> tuple[int, int, float]:
        """Operation, row and limit where it is; row -1: nowhere in particular. ValueError when it was ended."""
        return PLACE.unpack(self._place[: PLACE.size])

    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def wait(self) -> int:
        return self._popen.wait()

    def kill(self) -> None:
        self._popen.kill()

    def end(self) -> None:
        """Kill it, and let go of what belongs to it."""
        self._popen.kill()
        self._popen.wait()
        assert self._popen.stdin is not None and self._popen.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()
        self._popen.stdout.close()
        os.close(self._alive)
        self._place.close()


_kept: ContextVar[list[_Process] | None] = ContextVar("kept worker processes", default=None)


class _Worker(threading.Thread):
    """Takes jobs, hands them to its process, and passes on what comes back."""

    def __init__(
        self,
        waiting: "deque[Job]",
        messages: "queue.Queue[tuple[str, Any]]",
        stage_data: bytes,
        retries: int,
        kept: list[_Process] | None,
    ):
        super().__init__(name="marin-pipeline-worker", daemon=True)
        self._waiting, self._messages, self._kept = waiting, messages, kept
        self._stage_data, self._retries = stage_data, retries
        self._process: _Process | None = None
        self._is_busy = False
        self._stopping = False
        self._lock = threading.Lock()  # the watch looks at one job, and not at the end of one and the start of another
        self._stopped_at: tuple[int, int] | None = None  # operation and row for which the process was killed
        self._seen: tuple[int, int, float] | None = None  # operation, row, CPU time when it was first seen there

    def run(self) -> None:
        try:
            while not self._stopping:
                try:
                    job = self._waiting.popleft()
                except IndexError:
                    break
                self._do(job)
            self._messages.put(("ended", None))
        except BaseException as error:
            self._messages.put(("error", error))

    def _do(self, job: Job) -> None:
        self._messages.put(("started", job.name))
        process = self._process or self._take()
        with self._lock:
            self._process, self._is_busy, self._seen = process, True, None
            process.at_no_row()
            if self._stopping:
                return
        process.make(self._stage_data, job.task_data, job.too_slow)
        taken = False
        try:
            while True:
                kind, *value = process.answer()
                taken = True
                if kind == "taken":
                    continue
                if kind == "progress":
                    self._messages.put((kind, value))
                    continue
                with self._lock:
                    self._is_busy = False
                process.has_served = True
                self._messages.put((kind, job.index if kind == "done" else (job.index, value[0])))
                break
        except EOFError:
            if process.has_served and not taken and not self._stopping:  # it had died before: not of this job
                self._end()
                self._waiting.appendleft(job)
                return
            self._mourn(job, process)
            return
        if self._stopped_at is not None:  # for a row that it left in this moment
            self._stopped_at = None
            process.wait()
            self._end()

    def _mourn(self, job: Job, process: _Process) -> None:
        """The process has ended in the middle of a job: have it done again, or give it up."""
        if self._stopping:
            return
        code = process.wait()
        self._end()
        stopped_at, self._stopped_at = self._stopped_at, None
        if stopped_at is not None:
            operation, row = stopped_at
            job.too_slow = {**job.too_slow, operation: job.too_slow.get(operation, frozenset()) | {row}}
            self._waiting.appendleft(job)
            return
        job.deaths += 1
        if job.deaths <= self._retries:
            self._waiting.appendleft(job)
            return
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        times = f" {job.deaths} times" if job.deaths > 1 else ""
        reason = f"its worker process {how}{times} (killed for memory? see the kernel's log, and use fewer workers)"
        self._messages.put(("failed", (job.index, reason)))

    def _take(self) -> _Process:
        """A process that was kept, or a new one."""
        setting = _Process.setting_now()
        while self._kept:
            try:
                process = self._kept.pop()
            except IndexError:  # another thread was faster
                break
            if process.setting == setting and process.is_alive():
                return process
            process.end()
        return _Process(setting)

    def _end(self) -> None:
        with self._lock:
            process, self._process, self._is_busy = self._process, None, False
        if process is not None:
            process.end()

    def stop(self, *, keep: bool) -> None:
        """End this thread, and its process too, busy or idle, unless it is to be kept."""
        with self._lock:
            self._stopping = True
            process = self._process
        if keep and process is not None and self._kept is not None and not self._is_busy and process.is_alive():
            self.join()
            with self._lock:
                self._process = None
            process.at_no_row()
            self._kept.append(process)
            return
        if process is not None:
            process.kill()
        if self.is_alive():
            self.join()
        self._end()

    def look(self) -> None:
        """Kill the process if it is at a row for longer than the row's limit."""
        with self._lock:
            process = self._process
            if process is None or not self._is_busy:
                return
            operation, row, limit_s = process.row()
            if row < 0:
                self._seen = None
                return
            now_s = _processor_seconds(process.pid)
            if self._seen is None or self._seen[:2] != (operation, row):
                self._seen = (operation, row, now_s)
            elif now_s - self._seen[2] > limit_s and self._stopped_at is None:
                self._stopped_at = (operation, row)
                process.kill()


def _watch(workers: list[_Worker], stop: threading.Event) -> None:
    while not stop.wait(_LOOK_S):
        for worker in workers:
            worker.look()


def _processor_seconds(pid: int) -> float:
    """CPU time of a process so far; where the system does not tell, the time of the clock."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return time.monotonic() if not os.path.isdir("/proc") else 0.0
