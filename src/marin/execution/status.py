"""Where a step stands: one register per step, changed only by compare-and-swap, whose commit names the data.

    absent -> RUNNING -> SUCCEEDED | FAILED | CANCELLED
              RUNNING -> RUNNING (taken over from a runner that is gone, or handed to the machine that does the work)
              FAILED | CANCELLED -> RUNNING (another attempt)
              SUCCEEDED -> INVALID (struck out) | EVICTED (its data was deleted to make room) -> RUNNING
              INVALID -> SUCCEEDED (the striking out was taken back)

Status and lease are one file, so there is no moment at which they disagree; every attempt writes into a folder of its
own, and the swap to SUCCEEDED names that folder, so a runner that was taken for dead and comes back can spoil nothing:
its commit is refused. What it costs: a lock and two disk flushes for each change of state, and outputs that lie one
folder deeper than their step.

A holder that is alive renews its lease. Nobody compares clocks of two machines: a lease is stale when its owner is
known to be gone (same machine, that process no longer exists), when an observer has seen it unchanged for its whole
time to live on the observer's own monotonic clock, or when the store's own clock says that it was last written longer
ago than that. Leases are in `marin.execution.lease`, the places where
registers lie in `marin.execution.store`.
"""

import contextlib
import functools
import getpass
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from marin.execution.register_text import RegisterError, parse_register, register_text

RUNNING = "RUNNING"
SUCCEEDED = "SUCCEEDED"
FAILED = "FAILED"
CANCELLED = "CANCELLED"
INVALID = "INVALID"  # committed, and struck out afterwards: the record stays, nobody is served the data
EVICTED = "EVICTED"  # committed, and its data deleted to make room: the record stays
ABANDONED = "ABANDONED"  # in no register: what people are told of a RUNNING whose runner is gone

_SAID = {
    RUNNING: "it is running",
    SUCCEEDED: "it has succeeded",
    FAILED: "it has failed",
    CANCELLED: "it was cancelled",
    INVALID: "its output was struck out",
    EVICTED: "its output was deleted",
    ABANDONED: "its runner is gone",
    "CRASHED": "it crashed",
}


def said(status: str) -> str:
    """What became of a step or run, in words that can follow a colon: "it has succeeded"."""
    return _SAID.get(status, f"it is {status.lower()}")


EXEC = ".exec"  # the executor's own folder, in the prefix and in each step's folder


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The run that holds, or held, a lease: enough to tell whether it is still there."""

    host: str  # host name, for people
    boot_id: str | None  # identity of this boot of the machine; None where the system has none
    pid_ns: str | None  # process-id namespace: two containers on one machine reuse ids
    pid: int  # process id of the runner
    pid_start: int | None  # its start time in clock ticks since boot: process ids are reused
    run_id: str  # the run
    user: str  # login name

    def is_gone(self) -> bool:
        """True if this owner provably runs no more; False if it runs, or lives where nobody here can look."""
        if not self.is_here():
            return False
        here = _this_process()
        if (self.pid, self.pid_start) == (here.pid, here.pid_start):
            return self.run_id not in _ACTIVE_RUNS
        return not process_is_alive(self.pid, self.pid_start)

    def is_here(self) -> bool:
        """True if this owner lives, or lived, where this process can look whether it runs."""
        here = _this_process()
        return self.boot_id is not None and (self.boot_id, self.pid_ns) == (here.boot_id, here.pid_ns)


@dataclass(frozen=True, kw_only=True)
class State:
    """The content of one register."""

    status: str  # RUNNING, SUCCEEDED, FAILED, CANCELLED, INVALID or EVICTED
    digest: str  # the step's identity, 64 hex digits
    epoch: int  # counts attempts, from 1
    seq: int  # counts changes within one attempt, from 0
    nonce: str  # different for every write: what compare-and-swap compares
    owner: Owner  # who wrote it
    attempt: str  # "<epoch>-<nonce>", names the attempt's folder
    data_root: str  # the attempt's data, relative to the step's folder; "." for steps that publish in place
    ttl: float  # seconds after which an unchanged RUNNING may be taken over
    error: Mapping[str, Any] | None = None  # FAILED, CANCELLED: class, type, message, traceback, log
    record: Mapping[str, Any] | None = None  # SUCCEEDED, INVALID, EVICTED: how the output came to be
    progress: Mapping[str, Any] | None = None  # RUNNING: {"done", "total", "unit"} as the step last reported
    evicted: Mapping[str, Any] | None = None  # EVICTED: {"when", "is_final"}; final when the deleting has begun
    # Of a step with version=: digests of other recipes that somebody accepted this output for, with who, when and why.
    accepted: tuple[Mapping[str, Any], ...] = ()
    recipe: str | None = None  # digest of the recipe that the attempt carries out, where that is not the identity
    # Of a step that publishes in place, where an attempt goes on from what earlier ones left in the folder:
    inputs: tuple[tuple[str, str], ...] = ()  # (digest, root digest) of each output that it was made from
    began: str | None = None  # the attempt that last began with an empty folder
    must_clear: bool = False  # what is in the folder is none of this step's data and goes before its function is called
    extra: Mapping[str, Any] = field(default_factory=dict)  # fields of later versions, kept as they are

    def to_json(self) -> bytes:
        value: dict[str, Any] = {"v": 1, **self.extra}
        for name in _PLAIN_FIELDS:
            content = getattr(self, name)
            if content is not None and content != () and content is not False:
                value[name] = content
        value["owner"] = {name: getattr(self.owner, name) for name in _OWNER_FIELDS}
        return register_text(value, self.record).encode()

    @staticmethod
    def from_json(data: bytes, path: str = "a register") -> "State":
        """What `to_json` wrote; `path` is for messages. Raises ValueError, KeyError or TypeError if it is none."""
        value = parse_register(data.decode(), path)
        version = value.pop("v", None)
        if isinstance(version, int) and version > 1:
            raise NewerFormatError("its format is newer than this version of marin reads: update marin")
        if version != 1:
            raise ValueError("it names no format")
        owner = value.pop("owner")
        extra = {name: value.pop(name) for name in [*value] if name not in _KNOWN_FIELDS}
        if "accepted" in value:
            value["accepted"] = tuple(value["accepted"])
        if "inputs" in value:
            value["inputs"] = tuple((digest, attempt) for digest, attempt in value["inputs"])
        return State(**value, owner=_owner_with(*map(owner.get, _OWNER_FIELDS)), extra=extra)


@functools.lru_cache(maxsize=256)
def _owner_with(*values: Any) -> Owner:
    """The owner with these fields, in their order: one for all the registers that a run wrote."""
    return Owner(**dict(zip(_OWNER_FIELDS, values, strict=True)))


def recipe_of(state: State) -> str:
    """Digest of the recipe by which the attempt or the output of a register is, or was, made."""
    return state.recipe or (state.record or {}).get("recipe") or state.digest


_OWNER_FIELDS = tuple(f.name for f in fields(Owner))
_PLAIN_FIELDS = tuple(f.name for f in fields(State) if f.name not in ("owner", "record", "extra"))
_KNOWN_FIELDS = frozenset({*_PLAIN_FIELDS, "record"})


def process_is_alive(pid: int, pid_start: int | None) -> bool:
    """Whether the process with this id and start time (clock ticks since boot, None if unknown) still runs."""
    if _BOOT_ID is None:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    status, start = _process_status(pid)
    # A zombie has ended; only its parent has not asked yet.
    return status not in (None, "Z", "X") and (pid_start is None or start == pid_start)


def _process_status(pid: int) -> tuple[str | None, int | None]:
    """(one-letter state, start time) of a process from /proc, or (None, None)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            rest = file.read().rpartition(b")")[2].split()
    except OSError:
        return None, None
    return rest[0].decode(), int(rest[19])


def process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with its id it names the process. None if unknown."""
    return _process_status(pid)[1]


def _read_line(path: str) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


_BOOT_ID = _read_line("/proc/sys/kernel/random/boot_id")
# Runs of this very process that are under way: a lease of one that is not was left by an aborted run.
_ACTIVE_RUNS: set[str] = set()


@functools.lru_cache(maxsize=1)
def _process_of(pid: int) -> Owner:
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = None
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have no name
        user = str(os.getuid())
    start = _process_status(pid)[1]
    return Owner(
        host=os.uname().nodename, boot_id=_BOOT_ID, pid_ns=namespace, pid=pid, pid_start=start, run_id="", user=user
    )


def _this_process() -> Owner:
    return _process_of(os.getpid())  # the cache must not outlive a fork


def current_user() -> str:
    """Login name of whoever runs this process."""
    return _this_process().user


@contextlib.contextmanager
def active_run(run_id: str) -> Iterator[Owner]:
    """The owner that a run of this process writes into registers; its leases count as left behind afterwards."""
    _ACTIVE_RUNS.add(run_id)
    try:
        yield replace(_this_process(), run_id=run_id)
    finally:
        _ACTIVE_RUNS.discard(run_id)


@dataclass(frozen=True)
class StepPaths:
    """The places of one step, all derived from its folder."""

    root: str  # absolute path of the step's folder

    @property
    def exec_dir(self) -> str:
        return f"{self.root}/{EXEC}"

    @property
    def state(self) -> str:
        return f"{self.root}/{EXEC}/state.json"

    @property
    def lock(self) -> str:
        return f"{self.root}/{EXEC}/state.lock"

    @property
    def data_link(self) -> str:
        """A link that shows the committed attempt to people; nothing reads it."""
        return f"{self.root}/data"

    @property
    def history_dir(self) -> str:
        return f"{self.root}/{EXEC}/history"

    def history(self, state: State) -> str:
        """Where a superseded state is kept: one file for each attempt."""
        return f"{self.root}/{EXEC}/history/{state.epoch:04}.json"

    @property
    def manifests(self) -> str:
        return f"{self.root}/{EXEC}/manifests"

    def manifest(self, attempt: str) -> str:
        return f"{self.root}/{EXEC}/manifests/{attempt}.json"

    def taint_script(self, attempt: str | None = None) -> str:
        """What a report's page loads to learn that it must not be trusted (`marin.execution.banner`).

        One for each attempt; None: what the page is told that is opened through the `data` link.
        """
        return f"{self.root}/{EXEC}/taint{f'-{attempt}' if attempt else ''}.js"

    def data_root(self, state: State) -> str:
        """Absolute path of the data that `state` names."""
        return self.root if state.data_root == "." else f"{self.root}/{state.data_root}"

    def logs(self, state: State) -> str:
        """The folder of the attempt's logs: `stdout.log`, what it printed."""
        return f"{self.root}/{EXEC}/logs/{state.attempt}"


# Top-level names below a data root that are not the step's output, by how it publishes: the executor's own, no others.
NOT_DATA = {"attempt": frozenset[str](), "inplace": frozenset({EXEC})}


class NewerFormatError(ValueError):
    """A register was written by a later version of marin; nothing is wrong with it."""


def read_state(data: bytes, path: str, root: str) -> State:
    """The state that a register's bytes say; RegisterError, naming the register's path and the step's folder."""
    try:
        return State.from_json(data, path)
    except NewerFormatError as error:
        raise RegisterError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegisterError(
            f"{path}: not a register ({error}). It is only ever replaced whole, so something else changed it: "
            f"restore it, or move the folder {root} away to have its step run again"
        ) from error
