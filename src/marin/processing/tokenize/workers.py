"""Worker processes that tokenize shards, fed with one JSON line a job.

Each is a fresh interpreter running this module, not a fork (the tokenizer library has threads) and not
`multiprocessing`'s spawn (which would run the experiment's script again in every worker, and a script that ends in
`executor_main(...)` with no guard would begin anew there). A worker lives as long as its standard input: when the
parent is gone, `kill -9` included, it ends at once.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import marin
from marin.config import decode, encode
from marin.processing.tokenize.shard import Report, ShardJob, tokenize_shard
from marin.processing.tokenize.tokenizer import load_tokenizer


def run_in_processes(
    jobs: list[ShardJob],
    tokenizer_path: str,
    num_workers: int,
    report: Report,
    shard_done: Callable[[ShardJob, str | None], None],
) -> list[tuple[ShardJob, str]]:
    """Do all jobs with `num_workers` processes; returns those that failed, with the reason, in the order of `jobs`.

    A failed shard does not stop the others, and neither does a worker that dies: the next job gets a new one.
    """
    waiting = deque(jobs)
    events: queue.Queue[tuple[str, Any]] = queue.Queue()
    workers = [_WorkerThread(waiting, events, tokenizer_path) for _ in range(num_workers)]
    failures: dict[str, tuple[ShardJob, str]] = {}
    try:
        for worker in workers:
            worker.start()
        running = num_workers
        while running:
            kind, value = events.get()
            if kind == "progress":
                report(value)
            elif kind == "done":
                shard_done(*value)
            elif kind == "failed":
                failures[value[0].name] = value
            elif kind == "error":  # ours, not the job's
                raise value
            else:
                running -= 1
    finally:
        waiting.clear()
        for worker in workers:
            worker.stop()
    return [failures[job.name] for job in jobs if job.name in failures]


class _WorkerThread(threading.Thread):
    """Takes jobs, hands them to its process, and turns what comes back into events."""

    def __init__(self, waiting: "deque[ShardJob]", events: "queue.Queue[tuple[str, Any]]", tokenizer_path: str):
        super().__init__(name="marin-tokenize-worker", daemon=True)
        self._waiting = waiting
        self._events = events
        self._tokenizer_path = tokenizer_path
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        try:
            while True:
                try:
                    job = self._waiting.popleft()
                except IndexError:
                    break
                self._do(job)
            self._events.put(("ended", None))
        except BaseException as error:
            self._events.put(("error", error))

    def _do(self, job: ShardJob) -> None:
        process = self._process = self._process or _start(self._tokenizer_path)
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(encode(job)).encode() + b"\n")
            process.stdin.flush()
            for line in process.stdout:
                kind, value = json.loads(line)
                if kind in ("failed", "done"):
                    self._events.put((kind, (job, value)))
                    return
                self._events.put((kind, value))
        except BrokenPipeError:
            pass
        code = process.wait()
        self._process = None
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self._events.put(("failed", (job, f"its worker process {how} (killed for memory? see dmesg)")))

    def stop(self) -> None:
        """End the process: closing its input is enough for an idle one, a busy one is killed."""
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            process.stdout.close()
        if self.is_alive():
            self.join()


def _start(tokenizer_path: str) -> "subprocess.Popen[bytes]":
    source = str(Path(marin.__file__).parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([source, inherited] if inherited else [source]),
        "TOKENIZERS_PARALLELISM": "false",  # one process a CPU already
    }
    command = [sys.executable, "-m", "marin.processing.tokenize.workers", tokenizer_path]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _serve(tokenizer_path: str, jobs: "queue.Queue[bytes]", out: IO[bytes]) -> None:
    """The worker: do jobs as they come and write ["progress", bytes], ["done", note or null] or ["failed", reason]."""

    def send(kind: str, value: Any) -> None:
        out.write(json.dumps([kind, value]).encode() + b"\n")
        out.flush()

    tokenizer = None
    while True:
        job = decode(ShardJob, json.loads(jobs.get()))
        try:
            tokenizer = tokenizer or load_tokenizer(tokenizer_path)
            reason = tokenize_shard(job, tokenizer, lambda text: send("progress", text))
        except (ValueError, OSError) as error:
            send("failed", f"{type(error).__name__}: {error}")
        except Exception:
            send("failed", traceback.format_exc())
        else:
            send("done", reason)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business, which then ends us
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints goes to stderr, not between our lines
    jobs: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_serve, args=(sys.argv[1], jobs, out), daemon=True).start()
    for line in sys.stdin.buffer:
        jobs.put(line)
    os._exit(0)  # the parent has closed our input, or is gone: nothing we do is wanted any more


if __name__ == "__main__":
    _main()
