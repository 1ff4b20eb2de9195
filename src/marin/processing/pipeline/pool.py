"""Worker processes of this machine, fed with shards; what dies is replaced, and what is stuck is stopped.

A shard whose worker died (killed for memory, a crash in a library) is tried again `retries` times. An exception of an
operation is not: the same rows would raise it again. Neither stops the other shards.

The watch over slow rows is the parent's: it reads which row a worker is at, and the processor time of its process. A
row over its limit costs its worker, and the shard is made again with that row quarantined. So code that never returns
to Python is stopped as well; the price is the shard's work so far, once for every such row.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import marin
from marin.processing.pipeline.worker import PLACE, receive, send

_LOOK_S = 0.1
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


def run_in_processes(
    stage_data: bytes, tasks: Sequence[tuple[str, bytes]], *, workers: int, retries: int, events: Events
) -> dict[int, str]:
    """Make all shards with `workers` processes; the reasons of those that failed, by their index in `tasks`.

    `stage_data` is the pickle of an object with a method `make(task, too_slow=, watchers=)`, and a task that of what
    this takes: a `Stage` with a `Task`, or what else is made shard by shard.
    """
    waiting = deque(Job(index=i, name=name, task_data=data) for i, (name, data) in enumerate(tasks))
    messages: queue.Queue[tuple[str, Any]] = queue.Queue()
    threads = [_Worker(waiting, messages, stage_data, retries) for _ in range(min(workers, len(waiting)))]
    failures: dict[int, str] = {}
    stop = threading.Event()
    watch = threading.Thread(target=_watch, args=(threads, stop), name="marin-pipeline-watch", daemon=True)
    try:
        for thread in threads:
            thread.start()
        watch.start()
        running = len(threads)
        while running:
            kind, value = messages.get()
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
            else:
                running -= 1
    finally:
        waiting.clear()
        stop.set()
        for thread in threads:
            thread.stop()
    return failures


class _Worker(threading.Thread):
    """Takes jobs, hands them to its process, and passes on what comes back."""

    def __init__(
        self, waiting: "deque[Job]", messages: "queue.Queue[tuple[str, Any]]", stage_data: bytes, retries: int
    ):
        super().__init__(name="marin-pipeline-worker", daemon=True)
        self._waiting, self._messages = waiting, messages
        self._stage_data, self._retries = stage_data, retries
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._stopped_at: tuple[int, int] | None = None  # operation and row for which the process was killed
        self._seen: tuple[int, int, float] | None = None  # operation, row, CPU time when it was first seen there
        self._place_file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        self._place_file.truncate(PLACE.size)
        self._place = mmap.mmap(self._place_file.fileno(), PLACE.size)

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
        self._place[: PLACE.size] = PLACE.pack(0, -1, 0.0)
        try:
            process = self._process = self._process or self._start()
            assert process.stdin is not None and process.stdout is not None
            send(process.stdin, ("task", self._stage_data, job.task_data, job.too_slow))
            while True:
                kind, *value = receive(process.stdout)
                if kind == "progress":
                    self._messages.put((kind, value))
                elif kind == "done":
                    self._messages.put((kind, job.index))
                    return
                else:
                    self._messages.put(("failed", (job.index, value[0])))
                    return
        except (BrokenPipeError, EOFError):
            self._mourn(job)

    def _mourn(self, job: Job) -> None:
        """The process has ended in the middle of a job: have it done again, or give it up."""
        if self._stopping:
            return
        assert self._process is not None
        code = self._process.wait()
        self._close()
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

    def _start(self) -> "subprocess.Popen[bytes]":
        source = str(Path(marin.__file__).parent.parent)
        inherited = os.environ.get("PYTHONPATH")
        environment = {
            **os.environ,
            **dict.fromkeys(_ONE_THREAD, "1"),
            "PYTHONPATH": os.pathsep.join([source, inherited] if inherited else [source]),
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONHASHSEED": "0",
        }
        place = self._place_file.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "marin.processing.pipeline.worker", str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            pass_fds=[place],
        )
        assert process.stdin is not None
        self._process = process
        send(process.stdin, sys.path)
        return process

    def _close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()

    def stop(self) -> None:
        """End the process, busy or idle, and this thread."""
        self._stopping = True
        process = self._process
        if process is not None:
            process.kill()
        if self.is_alive():
            self.join()
        self._close()
        self._place.close()
        self._place_file.close()

    def look(self) -> None:
        """Kill the process if it is at a row for longer than the row's limit."""
        process = self._process
        operation, row, limit_s = PLACE.unpack(self._place[: PLACE.size])
        if process is None or row < 0:
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
            with contextlib.suppress(ValueError):  # its memory is closed: the run is over
                worker.look()


def _processor_seconds(pid: int) -> float:
    """CPU time of a process so far; where the system does not tell, the time of the clock."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return time.monotonic() if not os.path.isdir("/proc") else 0.0
