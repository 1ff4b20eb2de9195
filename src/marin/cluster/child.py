"""The process at the other end of `LocalCluster.launch`: a supervisor that forks the worker and outlives it.

The supervisor is what makes a job end as one: it dies when its launcher dies, however that died (the kernel tells it,
on Linux), and takes the worker and everything the worker started with it. On Linux it adopts what the worker's own
processes leave behind, daemons in sessions of their own too, and ends them before the job counts as ended, so that
nothing writes into an output afterwards. Elsewhere a process that left the worker's group is out of its reach. The
price is one more small process and a fork for each job. It stays free of threads and of imports, for it forks.
"""

import contextlib
import json
import os
import pickle
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    """Ask the Linux kernel for something about this process; elsewhere nothing happens."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_parent(parent: int, signal_number: int) -> None:
    """Have the kernel send this process a signal when its parent ends (Linux; elsewhere nothing happens)."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(128 + signal.SIGKILL)


def _read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read()


def _import_main(kind: str, where: str) -> None:
    """Run the launcher's script again under the name `__mp_main__`, so that what it defines can be found here."""
    import runpy
    import types

    if kind == "module":
        content = runpy.run_module(where, run_name="__mp_main__", alter_sys=True)
    else:
        content = runpy.run_path(where, run_name="__mp_main__")
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(content)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


def _work(task: dict[str, Any], result_fd: int) -> int:
    """Do the job; its exit code. Whatever it raises goes to stderr, and in short to `result_fd`; of `Stopped` one line.

    A process that the function forked and that comes back here as well leaves at once, without an answer.
    """
    if task["command"] is not None:
        command = task["command"]
        try:
            os.execvp(command[0], command)
        except OSError as error:
            answer = {"error": {"type": type(error).__name__, "message": f"{command[0]}: {error.strerror}"}}
            os.write(result_fd, json.dumps(answer).encode())
            return 127
    import faulthandler
    from dataclasses import asdict

    from marin.cluster.job import Stopped, error_of, plain_value, resolve_function

    worker = os.getpid()
    faulthandler.enable()
    sys.argv = task["argv"]
    answer: dict[str, Any]
    try:
        if task["main"] is not None:
            _import_main(*task["main"])
        function, args, kwargs = pickle.loads(task["call"])
        answer = {"value": plain_value(resolve_function(function)(*args, **kwargs))}
        code = 0
    except BaseException as error:
        import traceback

        # error_of first: it cuts this function's own frame off the traceback
        answer, code = {"error": asdict(error_of(error))}, 1
        if isinstance(error, Stopped):
            print(error.message, file=sys.stderr)
        else:
            traceback.print_exception(error)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    if os.getpid() != worker:
        os._exit(code)
    with os.fdopen(result_fd, "wb") as file:
        file.write(json.dumps(answer).encode())
    return code


def _kill_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _children() -> list[int]:
    """Process ids of this process's children; [] where there is no /proc to look them up."""
    found, me = [], str(os.getpid()).encode()
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                    if file.read().rpartition(b")")[2].split()[1] == me:
                        found.append(int(name))
    return found


def _kill_adopted() -> None:
    """Kill what the worker's processes left behind, and what those leave behind in turn, and see it end."""
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if ended:
            continue
        killed = 0
        for pid in _children():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        if not killed:  # it took another user's rights
            return
        os.waitpid(-1, 0)


def _search_path(task: dict[str, Any], own: list[str]) -> list[str]:
    """The launcher's, or around this interpreter's `own` what of the launcher's is not in it."""
    if not task["own_packages"]:
        return task["front"]
    own = [path for path in own if path not in ("", *task["front"])]  # "": for `python -c` only
    return [*task["front"], *own, *(path for path in task["back"] if path not in own)]


def main(payload_fd: int, result_fd: int, launcher: int, own_path: list[str]) -> None:
    """Supervise one job; leaves by `os._exit` or `sys.exit` with the worker's exit code (128 + signal if killed).

    `own_path` is what `sys.path` was before the launcher's marin was put in front of it.
    """
    # SIGTERM: ask the worker to stop, or, when the launcher is gone, kill it. SIGUSR1: kill it. Taken one by one with
    # sigwait: a handler could miss a signal that comes just before a system call begins to wait.
    watched = (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD)
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    _die_with_parent(launcher, signal.SIGTERM)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    task = pickle.loads(_read_all(payload_fd))
    os.set_inheritable(result_fd, False)
    sys.path[:] = _search_path(task, own_path)
    supervisor = os.getpid()
    worker = os.fork()
    if worker == 0:
        os.setpgid(0, 0)
        _die_with_parent(supervisor, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
        sys.exit(_work(task, result_fd))
    with contextlib.suppress(OSError):  # both set it, so that neither depends on who runs first
        os.setpgid(worker, worker)
    # Output belongs to the worker: the launcher reads until everyone who could write has closed.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)) is None or ended.si_pid != worker:
        if ended is not None:
            os.waitpid(ended.si_pid, 0)  # adopted, and not needed for anything
            continue
        number = signal.sigwait(watched)
        if number != signal.SIGCHLD:
            asked = number == signal.SIGTERM and os.getppid() == launcher
            _kill_group(worker, signal.SIGTERM if asked else signal.SIGKILL)
    _kill_group(worker, signal.SIGKILL)  # what the worker started and left behind
    _, status, usage = os.wait4(worker, 0)
    _kill_adopted()
    code = os.waitstatus_to_exitcode(status)
    # Measured here: what the launcher sees of this process includes the launcher's own memory, inherited over exec.
    measured = {"max_rss": usage.ru_maxrss, "cpu_s": usage.ru_utime + usage.ru_stime}
    os.write(result_fd, b"\n" + json.dumps(measured).encode())
    os._exit(code if code >= 0 else 128 - code)
