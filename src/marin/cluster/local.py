"""Jobs on this machine: each in a process of its own, or right here in the calling thread.

A process of its own costs a start (tens of milliseconds before imports) and buys isolation: its output is captured,
its memory measured, it can be stopped, and it ends when its launcher ends. Right here costs nothing and buys nothing.
"""

import contextlib
import io
import json
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from marin.cluster.job import (
    CANCELLED,
    ERROR,
    OOM,
    WORKER_LOST,
    JobError,
    JobHandle,
    JobRequest,
    JobResult,
    Stopped,
    error_of,
    plain_value,
    resolve_function,
)
from marin.cluster.memory import oom_kills
from marin.io.atomic import append

ASKING_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, `kill`, the end of the terminal
_SIGNALS = {6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM", 25: "SIGXFSZ"}


class EndedJob:
    """The handle of a job that has ended already."""

    def __init__(self, name: str, result: JobResult) -> None:
        self.name = name
        self.pid: int | None = None
        self._result = result

    def wait(self, timeout_s: float | None = None) -> JobResult:
        return self._result

    def cancel(self, grace_s: float = 10.0) -> None:
        pass


@contextlib.contextmanager
def environment_variables(env: Mapping[str, str]) -> Iterator[None]:
    """Inside, this process has these environment variables."""
    before = {name: old for name, value in env.items() if (old := os.environ.get(name)) != value}
    for name in before:
        os.environ[name] = env[name]
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _process_as_it_was() -> Iterator[None]:
    """Afterwards the process has the variables, the folder and the handlers of signals to stop that it had before.

    What one job leaves behind would be in no record of the next one, and is not there when that one runs alone.
    """
    variables, handlers = _variables(), [(number, signal.getsignal(number)) for number in ASKING_TO_STOP]
    try:
        folder = os.getcwd()
    except FileNotFoundError:  # it was deleted
        folder = None
    try:
        yield
    finally:
        if (now := _variables()) != variables:
            for name in now.keys() - variables.keys():
                del os.environb[name]
            os.environb.update({name: value for name, value in variables.items() if now.get(name) != value})
        for number, handler in handlers:
            # a handler of None was not set by Python, and cannot be set by it
            if handler is not None and signal.getsignal(number) is not handler:
                with contextlib.suppress(ValueError):  # not the main thread, so the job did not change it either
                    signal.signal(number, handler)
        with contextlib.suppress(OSError):
            if folder is not None and os.getcwd() != folder:
                os.chdir(folder)


def _variables() -> dict[bytes, bytes]:
    """This process's environment variables. By way of `os.environ` they would take longer than a small job."""
    return dict(getattr(os.environb, "_data", os.environb))


def _max_rss_bytes(maxrss: int) -> int:
    return maxrss if sys.platform == "darwin" else maxrss * 1024


class _Sink(io.RawIOBase):
    """What stands behind `sys.stdout` of a job in this process: its log, and whoever watches."""

    def __init__(self, log_path: str | None, on_output: Callable[[bytes], None] | None) -> None:
        self._log_path = log_path
        self._on_output = on_output
        self._pid = os.getpid()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._on_output is not None and sys.stderr is not None and sys.stderr.isatty()

    def fileno(self) -> int:
        return sys.stderr.fileno()  # for child processes that are given sys.stdout

    def write(self, data: Any) -> int:
        chunk = bytes(data)
        if self._log_path is not None:
            with contextlib.suppress(OSError):  # the disk is full: the job shall not fail on its own log
                append(self._log_path, chunk)
        if os.getpid() != self._pid:  # forked by the job: a lock of the watcher may be held for ever here
            with contextlib.suppress(OSError):
                os.write(2, chunk)
        elif self._on_output is not None:
            self._on_output(chunk)
        return len(chunk)


@contextlib.contextmanager
def _stdout_into(log_path: str | None, on_output: Callable[[bytes], None] | None) -> Iterator[None]:
    """Inside, `sys.stdout` writes to a log and a watcher; with neither, everything stays as it is."""
    if log_path is None and on_output is None:
        yield
        return
    buffer = io.BufferedWriter(_Sink(log_path, on_output))
    # Not closed at the end: a logger may keep it.
    text = io.TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    with contextlib.redirect_stdout(text):
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):  # the job closed it
                text.flush()


class InProcessCluster:
    """Calls the job's function in the calling thread; `launch` returns when it has ended.

    What the function prints by `sys.stdout` goes to the log file and to `on_output`, as a process's output would: a
    closed reader of the launcher's stdout is no trouble of the job. The log file also gets its start, its end and its
    exception. What goes to stderr, or past `sys.stdout` (child processes, C libraries), goes where the launcher's goes.
    Processes that the function starts and leaves behind are not ended. One job at a time: environment variables, the
    working directory, signal handlers and `sys.stdout` belong to the whole process; what the function changes of them
    is as it was when it has ended. Ctrl-C stops the job and makes it cancelled. Memory and processor time are
    those of the process, for they cannot be told apart.
    """

    is_remote = False

    def launch(
        self,
        request: JobRequest,
        *,
        on_output: Callable[[bytes], None] | None = None,
        on_end: Callable[[JobResult], None] | None = None,
    ) -> JobHandle:
        """Run the job to its end. `on_output` is called in the threads that print."""
        import resource

        entry, function = request.entrypoint, request.entrypoint.function
        if function is None:
            raise ValueError(f"job {request.name!r} is a command and needs a process: launch it on a LocalCluster")
        if request.python is not None:
            raise ValueError(
                f"job {request.name!r} asks for the interpreter {request.python} and needs a process: launch it on a "
                "LocalCluster"
            )
        self._note(request, "started in the runner's process; its stderr is not captured")
        with _process_as_it_was(), environment_variables(request.env), _stdout_into(request.log_path, on_output):
            value, error, cancelled = None, None, False
            started, cpu = time.monotonic(), time.process_time()
            try:
                value = plain_value(resolve_function(function)(*entry.args, **entry.kwargs))
            except (
                KeyboardInterrupt,
                Stopped,
            ) as interrupt:  # a signal to this process, which means its other jobs too
                error, cancelled = replace(error_of(interrupt), kind=CANCELLED), True
            except BaseException as raised:
                error = error_of(raised)
            result = JobResult(
                error=error,
                value=value,
                cancelled=cancelled,
                wall_s=time.monotonic() - started,
                cpu_s=time.process_time() - cpu,
                max_rss=_max_rss_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss),
                max_rss_scope="process",
            )
        self._note(request, f"failed\n{error.traceback or error.message}" if error else "ended")
        if on_end is not None:
            on_end(result)
        return EndedJob(request.name, result)

    @staticmethod
    def _note(request: JobRequest, text: str) -> None:
        if request.log_path is not None:
            line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {request.name} {text}\n"
            with contextlib.suppress(OSError):  # a full disk must not hide how the job ended
                append(request.log_path, line.encode("utf-8", "backslashreplace"))


def _anonymous_file(content: bytes = b"") -> int:
    """Descriptor of a nameless file in memory (or the temporary folder) that holds `content`."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("marin-job")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    return descriptor


def _main_of(call: bytes) -> tuple[str, str] | None:
    """How the child finds again what the pickle `call` names in `__main__`; None if it names nothing there."""
    if b"__main__" not in call:
        return None
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return ("module", spec.name)
    path = getattr(main, "__file__", None)
    if path is None:
        raise ValueError(
            "its function or a class in its arguments is defined in an interactive session, where another process "
            "cannot find it: put it into a file"
        )
    return ("path", os.path.abspath(path))


def _payload(request: JobRequest) -> bytes:
    entry = request.entrypoint
    call, main = None, None
    if entry.command is None:
        if entry.function is None:
            raise ValueError(f"job {request.name!r} has neither a function nor a command")
        try:
            call = pickle.dumps((entry.function, entry.args, dict(entry.kwargs)))
            main = _main_of(call)
        except Exception as error:
            raise ValueError(
                f"job {request.name!r} cannot be sent to another process: {error}. Its function must stand at the top "
                "level of a module or script, and its arguments must be picklable; or run it without resources"
            ) from error
    front, back = (sys.path[:], []) if request.python is None else _paths_around_packages()
    task = {"front": front, "back": back, "own_packages": request.python is not None}
    return pickle.dumps({**task, "argv": sys.argv[:], "main": main, "call": call, "command": entry.command})


def _paths_around_packages() -> tuple[list[str], list[str]]:
    """What of `sys.path` stands before the standard library and what after it, without this interpreter's packages."""
    import site

    packages = {os.path.realpath(folder) for folder in (*site.getsitepackages(), site.getusersitepackages())}
    library = os.path.dirname(os.path.abspath(os.__file__))
    front: list[str] = []
    back: list[str] = []
    side = front
    for path in sys.path:
        if os.path.abspath(path) == library:
            side = back
        elif os.path.realpath(path) not in packages:
            side.append(path)
    return front, back


def _programs_of(python: str | None, inherited: Mapping[str, str]) -> dict[str, str]:
    """Variables by which a job finds the programs of its interpreter's environment before those of the launcher's."""
    if python is None:
        return {}
    programs = os.path.dirname(os.path.abspath(python))
    variables = {"PATH": os.pathsep.join(filter(None, (programs, inherited.get("PATH"))))}
    if os.path.exists(os.path.join(os.path.dirname(programs), "pyvenv.cfg")):
        variables["VIRTUAL_ENV"] = os.path.dirname(programs)
    return variables


def _read_answer(text: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what the worker answered, what its supervisor measured); {} for what a killed process could not say."""
    answer, _, measured = text.partition(b"\n")
    values: list[dict[str, Any]] = []
    for part in (answer, measured):
        try:
            values.append(json.loads(part))
        except ValueError:
            values.append({})
    return values[0], values[1]


class LocalProcess:
    """The handle of a job in a process of its own."""

    def __init__(self, request: JobRequest, on_output, on_end) -> None:
        import subprocess

        self.name = request.name
        self._on_output = on_output
        self._on_end = on_end
        self._log_path = request.log_path
        self._is_function = request.entrypoint.command is None
        self._result: JobResult | None = None
        self._ended = threading.Event()
        self._cancelled = False
        self._kill_timer: threading.Timer | None = None
        source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        payload, self._answer = _anonymous_file(_payload(request)), _anonymous_file()
        output, write_end = os.pipe()
        code = (
            f"import sys; own = sys.path[:]; sys.path.insert(0, {source!r}); import marin.cluster.child as child; "
            f"child.main({payload}, {self._answer}, {os.getpid()}, own)"
        )
        inherited = os.environ if request.inherited is None else request.inherited
        try:
            self._oom_kills = oom_kills()
            self._started = time.monotonic()
            self._process = subprocess.Popen(
                [request.python or sys.executable, "-u", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                pass_fds=(payload, self._answer),
                env={**inherited, **_programs_of(request.python, inherited), **request.env},
                start_new_session=True,
            )
        except BaseException:
            os.close(output)
            os.close(self._answer)
            raise
        finally:
            os.close(payload)
            os.close(write_end)
        self.pid: int | None = self._process.pid
        reader = threading.Thread(target=self._read, args=(output,), name=f"output of {self.name}", daemon=True)
        reader.start()
        threading.Thread(target=self._watch, args=(reader,), name=f"job {self.name}", daemon=True).start()

    def wait(self, timeout_s: float | None = None) -> JobResult | None:
        self._ended.wait(timeout_s)
        return self._result

    def cancel(self, grace_s: float = 10.0) -> None:
        self._cancelled = True
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        if grace_s > 0:
            self._signal(signal.SIGTERM)
            self._kill_timer = threading.Timer(grace_s, self._signal, (signal.SIGUSR1,))
            self._kill_timer.daemon = True
            self._kill_timer.start()
        else:
            self._signal(signal.SIGUSR1)

    def _signal(self, number: int) -> None:
        if not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def _read(self, descriptor: int) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, descriptor)
            log = stack.enter_context(open(self._log_path, "ab", buffering=0)) if self._log_path else None
            while chunk := os.read(descriptor, 1 << 16):
                if log is not None:
                    try:
                        log.write(chunk)
                    except OSError:  # the disk is full: the job shall not stall on its own log
                        log = None
                if self._on_output is not None:
                    self._on_output(chunk)

    def _watch(self, reader: threading.Thread) -> None:
        _, status, usage = os.wait4(self._process.pid, 0)
        wall_s = time.monotonic() - self._started
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        # What the supervisor could not end may still hold the pipe; it is not worth waiting for.
        reader.join(timeout=2.0)
        with open(self._answer, "rb") as file:
            file.seek(0)
            answer, measured = _read_answer(file.read())
        error = self._error(answer, code if code >= 0 else 128 - code)
        if error is not None and self._cancelled:
            error = replace(error, kind=CANCELLED)
        self._result = JobResult(
            error=error,
            value=answer.get("value"),
            cancelled=self._cancelled,
            exit_code=code if code >= 0 else 128 - code,
            wall_s=wall_s,
            cpu_s=measured.get("cpu_s", usage.ru_utime + usage.ru_stime),
            max_rss=_max_rss_bytes(measured["max_rss"]) if "max_rss" in measured else None,
        )
        if self._on_end is not None:
            self._on_end(self._result)
        self._ended.set()

    def _error(self, answer: Mapping[str, Any], code: int) -> JobError | None:
        if "error" in answer:
            return JobError(**answer["error"])
        if code == 0:
            if self._is_function and "value" not in answer:  # os._exit, or a library's exit: half of the work may lack
                return JobError(type="ExitCode", message="the process ended before the function returned (exit code 0)")
            return None
        if code > 128:
            name = _SIGNALS.get(code - 128, f"signal {code - 128}")
            kind = WORKER_LOST if name in ("SIGKILL", "SIGTERM") else ERROR
            hint = " (the system kills so when memory runs out)" if name == "SIGKILL" else ""
            if name == "SIGKILL" and (oom_kills() or 0) > (self._oom_kills or 0):
                kind, hint = OOM, ": memory ran out"
            return JobError(type="Killed", message=f"the process was killed by {name}{hint}", kind=kind)
        return JobError(type="ExitCode", message=f"the process ended with exit code {code}")


class LocalCluster:
    """Runs each job in a process of its own on this machine.

    The job has its own session and gets a pickle of its function's name and arguments (a function of the running script
    is found by importing the script again, as `multiprocessing` does). It succeeds only if the function returned. When
    it ends, or the launching thread's process does, all that it started is killed: on Linux daemons too, elsewhere what
    stayed in its process group. Launch from a thread that lives as long as the job: on Linux the kernel
    counts the end of the launching thread as the end of the parent.

    With `JobRequest.python` the job sees the packages of that interpreter where the launcher's would be. The launcher's
    other folders stay on its path: that of the script, PYTHONPATH, and whatever the script added.
    """

    is_remote = False

    def launch(
        self,
        request: JobRequest,
        *,
        on_output: Callable[[bytes], None] | None = None,
        on_end: Callable[[JobResult], None] | None = None,
    ) -> JobHandle:
        """Start the job; its output goes to the log file and to `on_output`, stdout and stderr in one stream."""
        return LocalProcess(request, on_output, on_end)
