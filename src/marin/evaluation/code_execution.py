"""Run a program that a model wrote, and say how it ended: for tasks like HumanEval, and only when asked for by name.

A program runs in a process of its own, in a temporary folder that is deleted behind it. What is sure on every Linux:

- it ends: after `timeout_s` seconds (of the clock, and of its processor) its processes are killed;
- address space (of each of its processes), the size of a file, open files and what is kept of its output have limits,
  and there is no core file;
- the interpreter is isolated (`python -I -S`): no environment, no packages but the standard library, nothing on stdin;
- where marin runs as root, it runs as the user 65534, who owns nothing.

What is sure only where the kernel lets users make namespaces (`unshare`; most do, many containers do not), and is
named in `ExecutionResult.isolation`:

- `network`: it has a network of its own with nothing in it, and no abstract sockets of this machine; sockets on disk
  are another matter (below). Else only the module `socket` cannot be imported, which stops accidents, and nobody who
  wants to get around it;
- `processes`: all that it started dies with it, however it hid, and it may have `num_processes` at most. Else its
  process group is killed, and the limit counts the processes of the user, of whom there are others;
- `files`: it can write nowhere but in its folder, which lies in memory and holds 16 MiB in all, and /run, /var/run,
  /tmp, /var/tmp, /dev/shm, /home, the homes of its user and of root, and the folder for temporary files are empty but
  for its folder and its interpreter. Else it sees and writes what its user may, and can fill the disk.

It can read all other files that its user can read, and connect to Unix sockets that stand elsewhere on disk, where
their permissions let it. And it shares the kernel, whose faults are its chance.
This is a fence for what models write, not a prison for people: against those run the evaluation in a virtual machine.

A program passes when it runs to its end, not when its exit code is 0: `sys.exit()` before the tests gives that too.
"""

import contextlib
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import comb
from pathlib import Path
from typing import Literal

__all__ = ["ExecutionLimits", "ExecutionResult", "check_allowed", "pass_at_k", "run_program"]

Reason = Literal["passed", "failed", "exited", "timeout", "memory", "output", "killed"]
"""It ran to its end; it raised; it left before its end; it was still running; it wanted more memory than there is; it
wrote too much; a signal ended it."""

ISOLATION = ("network", "processes", "files")
"""What namespaces add."""

_NOBODY = 65534
_FENCE = Path(str(files("marin.evaluation") / "fence.py"))


@dataclass(frozen=True, kw_only=True)
class ExecutionLimits:
    """What a program may use."""

    timeout_s: float = 10.0
    """Seconds, of the clock and of the processor."""
    memory_bytes: int = 512 * 2**20
    """Address space of each process; the interpreter alone takes some 30 MB."""
    file_bytes: int = 2**20
    """Size of a file."""
    output_bytes: int = 2**16
    """Of stdout, and of stderr."""
    num_processes: int = 16
    """Processes and threads at a time."""
    required_isolation: tuple[str, ...] = ISOLATION
    """Of `ISOLATION`: a program is not run where one of them cannot be had."""

    def __post_init__(self):
        for name in ("timeout_s", "memory_bytes", "file_bytes", "output_bytes", "num_processes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        unknown = set(self.required_isolation) - set(ISOLATION)
        if unknown:
            raise ValueError(f"required_isolation names {sorted(unknown)}; there are {', '.join(ISOLATION)}")


@dataclass(frozen=True, kw_only=True)
class ExecutionResult:
    """How a program ended."""

    passed: bool
    """Whether it ran to its end."""
    reason: Reason
    """How it ended."""
    detail: str
    """The same in words: the last line of its traceback, or which limit it met."""
    stdout: str
    """What it wrote, up to the limit."""
    stderr: str
    """What it wrote there, up to the limit."""
    wall_s: float
    """Seconds it took."""
    isolation: tuple[str, ...]
    """Which of `ISOLATION` it had; the module says what they mean."""


class IsolationError(RuntimeError):
    """The kernel does not give the isolation that was required; nothing was run."""


def check_allowed(task: str, allowed: Collection[str]) -> None:
    """Raise ValueError unless running code of this task was asked for, by the task's name in `allowed`."""
    if task not in allowed:
        raise ValueError(
            f"task '{task}' runs programs that the model wrote, which is off unless asked for by name: allow code "
            f"execution for '{task}', after reading in marin.evaluation.code_execution what that guards and what not"
        )


def run_program(source: str, limits: ExecutionLimits = ExecutionLimits()) -> ExecutionResult:
    """Run Python source as a program of its own. Linux only.

    Raises IsolationError where `limits.required_isolation` cannot be had, OSError where no process can be started.
    """
    if sys.platform != "linux":
        raise IsolationError(f"programs of models run on Linux only, not on {sys.platform}: nothing would guard them")
    top = Path(tempfile.mkdtemp(prefix="marin-program-"))
    folder = top / "work"
    try:
        folder.mkdir()
        (folder / "program.py").write_text(source, encoding="utf-8", errors="surrogatepass")
        if os.geteuid() == 0:
            top.chmod(0o755)
            for path in (folder, folder / "program.py"):
                os.chown(path, _NOBODY, _NOBODY)
        return _run(folder, limits)
    finally:
        shutil.rmtree(top, ignore_errors=True)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The probability that one of k samples is correct, estimated from `num_samples` of which `num_correct` are.

    1 - C(n - c, k) / C(n, k) with n samples and c correct ones: unbiased for every n >= k (Chen et al. 2021,
    "Evaluating Large Language Models Trained on Code", eq. 1). 1 - (1 - c / n)^k would be too small.

    >>> pass_at_k(5, 1, 1), pass_at_k(4, 2, 3)
    (0.2, 1.0)
    """
    if not (0 <= num_correct <= num_samples and 1 <= k <= num_samples):
        raise ValueError(
            f"pass@{k} of {num_correct} correct among {num_samples} samples: expected 0 <= correct <= samples and "
            "1 <= k <= samples; draw at least k samples a problem"
        )
    return 1 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def _run(folder: Path, limits: ExecutionLimits) -> ExecutionResult:
    report, report_in = os.pipe()
    arguments = [str(folder), str(report_in), str(_NOBODY), repr(limits.timeout_s)]
    arguments += [str(n) for n in (limits.memory_bytes, limits.file_bytes, limits.num_processes)]
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_FENCE), *arguments, *limits.required_isolation],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(folder), "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(report_in,),
            start_new_session=True,
        )
    finally:
        os.close(report_in)
    assert process.stdout is not None and process.stderr is not None
    pipes = {"stdout": process.stdout.fileno(), "stderr": process.stderr.fileno(), "report": report}
    try:
        with process.stdout, process.stderr:
            written, ended_by = _read(pipes, started + limits.timeout_s, limits.output_bytes)
            if ended_by is None and process.poll() is None:  # its pipes are closed, and it goes on
                try:
                    process.wait(max(0.0, started + limits.timeout_s - time.monotonic()))
                except subprocess.TimeoutExpired:
                    ended_by = "timeout"
    finally:
        os.close(report)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    wall_s = time.monotonic() - started
    said = written["report"].decode("utf-8", "replace").split("\n")
    if said[0].startswith("refused"):
        raise IsolationError(
            f"this machine does not give programs their own {said[0].removeprefix('refused ')}: the kernel refused a "
            "namespace. Run where users may make namespaces, or leave it out of required_isolation and know the risk"
        )
    stderr = written["stderr"].decode("utf-8", "replace")
    for line in said:  # the last is the fence's; without one the fence itself was killed
        if re.fullmatch(r"code -?[0-9]+", line):
            code = int(line.removeprefix("code "))
    reason, detail = _outcome(code, ended_by, "end" in said[1:], stderr, limits)
    return ExecutionResult(
        passed=reason == "passed",
        reason=reason,
        detail=detail,
        stdout=written["stdout"].decode("utf-8", "replace"),
        stderr=stderr,
        wall_s=wall_s,
        isolation=tuple(said[0].split()),
    )


def _read(
    pipes: dict[str, int], deadline: float, output_bytes: int
) -> tuple[dict[str, bytes], Literal["timeout", "output"] | None]:
    """What came through each pipe until all were closed, and which limit came before that."""
    written = dict.fromkeys(pipes, b"")
    with selectors.DefaultSelector() as selector:
        for name, pipe in pipes.items():
            selector.register(pipe, selectors.EVENT_READ, name)
        while selector.get_map():
            left = deadline - time.monotonic()
            ready = selector.select(left) if left > 0 else []
            if not ready:
                return written, "timeout"
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fd)
                    continue
                written[key.data] += data
                if len(written[key.data]) > output_bytes:
                    written[key.data] = written[key.data][:output_bytes]
                    return written, "output"
    return written, None


def _outcome(
    code: int, ended_by: Literal["timeout", "output"] | None, has_ended: bool, stderr: str, limits: ExecutionLimits
) -> tuple[Reason, str]:
    last = next((line for line in reversed(stderr.splitlines()) if line.strip()), "")
    if ended_by == "output":
        return "output", f"wrote more than {limits.output_bytes} bytes"
    if ended_by == "timeout" or code == -signal.SIGXCPU:
        return "timeout", f"was still running after {limits.timeout_s:g} s"
    if has_ended and code == 0:
        return "passed", "ran to its end"
    if last.startswith("MemoryError"):
        return "memory", f"wanted more than {limits.memory_bytes} bytes"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else signal.strsignal(-code)
        return "killed", f"ended by signal {-code} ({name})"
    if code == 1 and "Traceback (most recent call last)" in stderr:
        return "failed", last
    return "exited", f"left with exit code {code} before its end"


def correct_counts(results: Sequence[Sequence[ExecutionResult]]) -> list[tuple[int, int]]:
    """(samples, correct ones) of each problem: what `pass_at_k` takes."""
    return [(len(each), sum(result.passed for result in each)) for each in results]
