"""A job: what to call, where it logs, and how it ended; and the protocol of the things that run jobs.

A job is fire and watch: `launch` returns a handle at once, the handle tells when the job has ended, and nothing raises
because a job failed; failure is a value, for whoever launched it decides what it means.
"""

import importlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import PurePath
from typing import Any, Protocol

from marin.cluster.resources import ResourceConfig


@dataclass(frozen=True, kw_only=True)
class Entrypoint:
    """What a job runs: a Python function with its arguments, or a command. Build it with `from_...`."""

    function: Callable[..., Any] | str | None = None  # a function, or "module:qualname"
    args: tuple[Any, ...] = ()  # positional arguments of the function
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of the function
    command: tuple[str, ...] | None = None  # program and arguments, instead of a function

    @staticmethod
    def from_callable(
        function: Callable[..., Any] | str, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> "Entrypoint":
        """Call `function(*args, **kwargs)`; to run in another process it must be importable by name."""
        return Entrypoint(function=function, args=tuple(args), kwargs=dict(kwargs or {}))

    @staticmethod
    def from_binary(command: str, args: tuple[str, ...] = ()) -> "Entrypoint":
        """Run a program with arguments."""
        return Entrypoint(command=(command, *args))


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """One job to launch."""

    name: str  # for people
    entrypoint: Entrypoint  # what to run
    resources: ResourceConfig = field(default_factory=ResourceConfig.with_cpu)  # what it needs
    env: Mapping[str, str] = field(default_factory=dict)  # environment variables added to those it inherits
    inherited: Mapping[str, str] | None = None  # on this machine: those it inherits; None: the launcher's
    log_path: str | None = None  # file to which stdout and stderr are appended; None: not kept
    python: str | None = None  # interpreter to run it with, as from `prepare_environment`; None: the launcher's
    in_process: bool = False  # call the function in the process that a cluster of machines keeps for the job


# What a failure was, for whoever decides whether to try again:
#   error          the function raised, or its process ended badly by itself
#   transient      it raised what a network or a busy server raises: trying again soon may do
#   worker_lost    its process or machine vanished, or was killed from outside
#   preempted      its machine was taken away (reclaimed, drained, removed, or one that may be reclaimed was lost), or
#                  something else than its launcher asked it to stop, and it left in good order
#   oom            it was killed for memory, or found none
#   cancelled      it was asked to stop
#   unschedulable  no machine of the cluster can ever hold it
ERROR, TRANSIENT, WORKER_LOST, PREEMPTED = "error", "transient", "worker_lost", "preempted"
OOM, CANCELLED, UNSCHEDULABLE = "oom", "cancelled", "unschedulable"
KINDS = (ERROR, TRANSIENT, WORKER_LOST, PREEMPTED, OOM, CANCELLED, UNSCHEDULABLE)


@dataclass(frozen=True, kw_only=True)
class JobError:
    """Why a job failed."""

    type: str  # name of the exception's class, or "ExitCode" / "Killed" if the process ended without one
    message: str  # the exception's text
    traceback: str = ""  # the end of its traceback as Python prints it; "" if there is none
    errno: int | None = None  # of an OSError (28: the disk is full)
    kind: str = ERROR  # one of KINDS


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """How a job ended."""

    error: JobError | None  # None: it succeeded
    value: Any = None  # what the function returned, as plain JSON values; None if it has no such form
    cancelled: bool = False  # it was asked to stop and did not end by itself
    exit_code: int | None = None  # of the process (128 + signal if one killed it); None if it had no own process
    wall_s: float = 0.0  # seconds from start to end
    cpu_s: float = 0.0  # processor seconds, user and system
    max_rss: int | None = None  # peak resident bytes of the largest single process; None if unknown
    max_rss_scope: str = "job"  # "job", or "process" where the job shared a process and the peak is the process's


class JobHandle(Protocol):
    """A job under way or ended."""

    name: str
    pid: int | None  # process that supervises the job on this machine, if there is one

    def wait(self, timeout_s: float | None = None) -> JobResult | None:
        """The result, or None if the job has not ended within `timeout_s` (None: wait for ever)."""
        ...

    def cancel(self, grace_s: float = 10.0) -> None:
        """Ask the job to stop (SIGTERM), and kill it and everything it started after `grace_s`. Returns at once."""
        ...


class Cluster(Protocol):
    """Runs jobs."""

    is_remote: bool  # jobs may run on other machines, and outlive their launcher

    def launch(
        self,
        request: JobRequest,
        *,
        on_output: Callable[[bytes], None] | None = None,
        on_end: Callable[[JobResult], None] | None = None,
    ) -> JobHandle:
        """Start a job. `on_output` gets its output as it comes, `on_end` its result, both in a thread of the cluster.

        Raises ValueError if the request cannot be started, with the reason.
        """
        ...


def resolve_function(function: Callable[..., Any] | str) -> Callable[..., Any]:
    """The function itself, or the one that "module:qualname" names; ValueError says which part does not exist."""
    if callable(function):
        return function
    module_name, colon, qualname = function.partition(":")
    if not colon or not qualname:
        raise ValueError(f"a function is named 'module:qualname', got {function!r}")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ValueError(f"{function!r}: there is no module {error.name!r} on sys.path") from error
        raise
    for part in qualname.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ValueError(f"{function!r}: module {module_name!r} has no {qualname!r}") from None
    if not callable(found):
        raise ValueError(f"{function!r} is a {type(found).__name__}, not a function")
    return found


# A record should be readable; what is larger belongs into a file.
_MAX_VALUE_BYTES = 64 << 10


def _to_plain(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in fields(value)}
    item = getattr(value, "item", None)
    if item is not None and getattr(value, "shape", None) == ():  # a scalar of an array library
        return item()
    raise TypeError(type(value).__name__)


def plain_value(value: Any) -> Any:
    """`value` as plain JSON values (dataclasses as objects), or None if it has no such form or is over 64 KiB."""
    if value is None:
        return None
    try:
        text = json.dumps(value, default=_to_plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return json.loads(text) if len(text) <= _MAX_VALUE_BYTES else None


_BUSY = frozenset({429, 503})  # HTTP: too many requests, service unavailable
_TRANSIENT_NAMES = frozenset({"ConnectTimeout", "ReadTimeout", "ServerDisconnectedError", "SlowDown"})


def kind_of(error: BaseException) -> str:
    """Which of KINDS an exception is by its class and HTTP status; the libraries it comes from are not imported."""
    if isinstance(error, KeyboardInterrupt):
        return CANCELLED
    names = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
        return OOM
    response = getattr(error, "response", None)
    statuses = [
        getattr(holder, name, None) for holder in (error, response) for name in ("status", "status_code", "code")
    ]
    if any(isinstance(status, int) and status in _BUSY for status in statuses):
        return TRANSIENT
    if isinstance(error, ConnectionError | TimeoutError) or names & {
        "ConnectionError",
        "TimeoutError",
        *_TRANSIENT_NAMES,
    }:
        return TRANSIENT
    return ERROR


class Stopped(SystemExit):
    """Raised by a job that was asked to stop, and left in good order: its message is all there is to say.

    It is shown without a traceback. Outside of any cluster it ends the process with `exit_code`.
    """

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(exit_code)
        self.message = message

    def __str__(self) -> str:
        return self.message


class JobFailed(Exception):
    """Raised by a job to end with the error of another one that it depends on, as if it were its own."""

    def __init__(self, error: JobError) -> None:
        super().__init__(f"{error.type}: {error.message}")
        self.error = error


def error_of(error: BaseException) -> JobError:
    """What a record keeps of an exception: type, message, and the last 20 lines of its traceback.

    Frames of this package above the first one of the job are left out: they are the same for every job. `Stopped` has
    no traceback.
    """
    import traceback

    if isinstance(error, JobFailed):
        return error.error
    if isinstance(error, Stopped):
        return JobError(type=type(error).__name__, message=error.message, kind=PREEMPTED)

    here, frame = os.path.dirname(__file__), error.__traceback__
    while frame is not None and os.path.dirname(frame.tb_frame.f_code.co_filename) == here:
        frame = frame.tb_next
    shown = error if frame is None else error.with_traceback(frame)
    try:
        message = str(error)
        text = "".join(traceback.format_exception(shown))
    except Exception as trouble:  # the job's own class of exceptions is at fault, too
        message = f"(it cannot say what it is: {type(trouble).__name__}: {trouble})"
        text = "".join(traceback.format_tb(shown.__traceback__))
    lines = text.rstrip("\n").split("\n")
    if isinstance(error, SystemExit):
        # Not even code 0 is success: a job that was asked to stop may leave so, with half of its work done.
        message = f"it called sys.exit({error.code!r}); a job ends well by returning"
    return JobError(
        type=type(error).__name__,
        message=message,
        traceback="\n".join(lines[-20:]),
        errno=error.errno if isinstance(error, OSError) else None,
        kind=kind_of(error),
    )
