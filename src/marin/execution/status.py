"""Where a step stands: one register per step, changed only by compare-and-swap, whose commit names the data.

    absent -> RUNNING -> SUCCEEDED | FAILED | CANCELLED
              RUNNING -> RUNNING (taken over from a runner that is gone)
              FAILED | CANCELLED -> RUNNING (another attempt)

Status and lease are one file, so there is no moment at which they disagree; every attempt writes into a folder of its
own, and the swap to SUCCEEDED names that folder, so a runner that was taken for dead and comes back can spoil nothing:
its commit is refused. What it costs: a lock and two disk flushes for each change of state, and outputs that lie one
folder deeper than their step.

A holder that is alive renews its lease. Nobody compares clocks of two machines: a lease is stale when its owner is
known to be gone (same machine, that process no longer exists), or when an observer has seen it unchanged for its
whole time to live on the observer's own monotonic clock.
"""

import contextlib
import fcntl
import functools
import getpass
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from marin.io.atomic import write_bytes

RUNNING = "RUNNING"
SUCCEEDED = "SUCCEEDED"
FAILED = "FAILED"
CANCELLED = "CANCELLED"
ABANDONED = "ABANDONED"  # in no register: what people are told of a RUNNING whose runner is gone

_EXEC = ".exec"


@dataclass(frozen=True, kw_only=True)
class LeaseTimes:
    """How long a lease lives and how often it is renewed, in seconds."""

    ttl_s: float = 60.0  # an observer that saw no change for this long may take over
    renew_s: float = 15.0  # the holder renews this often
    # A holder that could not renew for this long stops its step if that has a process of its own; one inside the
    # runner's process cannot be stopped and goes on, but its commit is refused.
    fence_s: float = 45.0

    def __post_init__(self) -> None:
        if not 0 < self.renew_s < self.fence_s < self.ttl_s:
            raise ValueError(f"lease times must satisfy 0 < renew_s < fence_s < ttl_s, got {self}")


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
        here = _this_process()
        if self.boot_id is None or (self.boot_id, self.pid_ns) != (here.boot_id, here.pid_ns):
            return False
        if (self.pid, self.pid_start) == (here.pid, here.pid_start):
            return self.run_id not in _ACTIVE_RUNS
        return not process_is_alive(self.pid, self.pid_start)


@dataclass(frozen=True, kw_only=True)
class State:
    """The content of one register."""

    status: str  # RUNNING, SUCCEEDED, FAILED or CANCELLED
    digest: str  # the step's identity, 64 hex digits
    epoch: int  # counts attempts, from 1
    seq: int  # counts changes within one attempt, from 0
    nonce: str  # different for every write: what compare-and-swap compares
    owner: Owner  # who wrote it
    attempt: str  # "<epoch>-<nonce>", names the attempt's folder
    data_root: str  # the attempt's data, relative to the step's folder; "." for steps that publish in place
    ttl: float  # seconds after which an unchanged RUNNING may be taken over
    error: Mapping[str, Any] | None = None  # FAILED, CANCELLED: class, type, message, traceback, log
    record: Mapping[str, Any] | None = None  # SUCCEEDED: how the output came to be
    extra: Mapping[str, Any] = field(default_factory=dict)  # fields of later versions, kept as they are

    def to_json(self) -> bytes:
        value: dict[str, Any] = {"v": 1, **self.extra}
        for name in _STATE_FIELDS:
            value[name] = getattr(self, name)
        value["owner"] = {name: getattr(self.owner, name) for name in _OWNER_FIELDS}
        return json.dumps(value, separators=(",", ":")).encode()

    @staticmethod
    def from_json(data: bytes) -> "State":
        value = json.loads(data)
        if value.pop("v", None) != 1:
            raise ValueError("a register of a format that this version cannot read: update marin")
        owner = value.pop("owner")
        known = {name: value.pop(name) for name in _STATE_FIELDS if name in value}
        return State(**known, owner=Owner(**{n: owner.get(n) for n in _OWNER_FIELDS}), extra=value)


_OWNER_FIELDS = tuple(f.name for f in fields(Owner))
_STATE_FIELDS = tuple(f.name for f in fields(State) if f.name not in ("owner", "extra"))


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
        return f"{self.root}/{_EXEC}"

    @property
    def state(self) -> str:
        return f"{self.root}/{_EXEC}/state.json"

    @property
    def lock(self) -> str:
        return f"{self.root}/{_EXEC}/state.lock"

    @property
    def data_link(self) -> str:
        """A link that shows the committed attempt to people; nothing reads it."""
        return f"{self.root}/data"

    def history(self, epoch: int) -> str:
        return f"{self.root}/{_EXEC}/history/{epoch:04}.json"

    def manifest(self, attempt: str) -> str:
        return f"{self.root}/{_EXEC}/manifests/{attempt}.json"

    def data_root(self, state: State) -> str:
        """Absolute path of the data that `state` names."""
        return self.root if state.data_root == "." else f"{self.root}/{state.data_root}"

    def logs(self, state: State) -> str:
        """The folder of the attempt's logs: `stdout.log` (what it printed) and `events.jsonl`."""
        return f"{self.root}/{_EXEC}/logs/{state.attempt}"


# Top-level names below a data root that are not the step's output, by how it publishes: the executor's own, no others.
NOT_DATA = {"attempt": frozenset[str](), "inplace": frozenset({_EXEC})}


class RegisterError(ValueError):
    """A step's register cannot be read. The message names the file and says what to do."""


class LocalStore:
    """Registers on a local disk: a lock on a file that is never deleted, then write, flush, rename, flush.

    `fsync=False` leaves the flushing to the operating system: safe against crashes of processes, not of the machine;
    for tests.
    """

    def __init__(self, *, fsync: bool = True) -> None:
        self.fsync = fsync

    def read(self, root: str) -> State | None:
        """The register of the step whose folder is `root`, or None if it has none."""
        path = f"{root}/{_EXEC}/state.json"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            size = os.fstat(descriptor).st_size
            data = os.read(descriptor, size + 1)
            while len(data) < size:
                more = os.read(descriptor, size - len(data))
                if not more:
                    break
                data += more
        finally:
            os.close(descriptor)
        try:
            return State.from_json(data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegisterError(
                f"{path}: not a register ({error}). It is only ever replaced whole, so something else changed it: "
                f"restore it, or move the folder {root} away to have its step run again"
            ) from error

    def compare_and_swap(
        self, root: str, expected: State | None, new: State, *, durable: bool = True, archive: bool = False
    ) -> bool:
        """Write `new` if the register still is `expected` (None: still absent); False, and nothing written, if not.

        `archive` keeps `expected` in the step's history first, under the same lock: what is kept is what was replaced.
        Raises OSError if the disk refuses; then the register is as it was.
        """
        paths = StepPaths(root)
        descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            current = self.read(root)
            if (current and current.nonce) != (expected and expected.nonce):
                return False
            if archive and expected is not None:
                os.makedirs(f"{paths.exec_dir}/history", exist_ok=True)
                write_bytes(paths.history(expected.epoch), expected.to_json(), fsync=self.fsync)
            write_bytes(paths.state, new.to_json(), fsync=self.fsync and durable)
            return True
        finally:
            # Explicitly, for a child that was forked meanwhile shares the lock and would keep it.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def acquire(
        self,
        root: str,
        expected: State | None,
        *,
        digest: str,
        owner: Owner,
        publish: str,
        times: LeaseTimes | None = None,
    ) -> "Lease | None":
        """Take the lease of a step for a new attempt; None if the register is no longer `expected`.

        The caller has judged `expected`: absent, FAILED, CANCELLED, or RUNNING and stale. Creates the folders of the
        step; how the earlier attempt stood, ended or abandoned, goes to the step's history.
        """
        times = times or LeaseTimes()
        paths = StepPaths(root)
        os.makedirs(paths.exec_dir, exist_ok=True)
        epoch = expected.epoch + 1 if expected else 1
        nonce = os.urandom(8).hex()
        attempt = f"{epoch:04}-{nonce[:8]}"
        state = State(
            status=RUNNING,
            digest=digest,
            epoch=epoch,
            seq=0,
            nonce=nonce,
            owner=owner,
            attempt=attempt,
            data_root="." if publish == "inplace" else f"attempts/{attempt}",
            ttl=times.ttl_s,
        )
        if not self.compare_and_swap(root, expected, state, archive=True):
            return None
        return Lease(self, paths, state, times)


class LeaseLost(RuntimeError):
    """The register no longer names this attempt: another runner took the step over."""


class RegisterGone(RuntimeError):
    """The register of a running attempt was deleted, most likely by the step itself."""


class Lease:
    """The right to run one attempt of one step and to say how it ended. Safe to use from several threads."""

    def __init__(self, store: LocalStore, paths: StepPaths, state: State, times: LeaseTimes) -> None:
        self.paths = paths
        self.times = times
        self._store = store
        self._state = state
        self._mutex = threading.Lock()
        self._ended = False
        self._renewed = time.monotonic()

    @property
    def state(self) -> State:
        return self._state

    @property
    def data_root(self) -> str:
        """Absolute path of the folder into which this attempt writes."""
        return self.paths.data_root(self._state)

    @property
    def log_dir(self) -> str:
        """Absolute path of the folder for this attempt's logs."""
        return self.paths.logs(self._state)

    def _swap(self, new: State, durable: bool) -> None:
        try:
            won = self._store.compare_and_swap(self.paths.root, self._state, new, durable=durable)
        except OSError:
            # The disk may have refused after the rename: the nonce says whether this write is the one that stands.
            current = self._store.read(self.paths.root)
            if current is None or current.nonce != new.nonce:
                raise
            won = True
        if not won:
            self._ended = True
            raise LeaseLost(f"{self.paths.root}: attempt {self._state.attempt} was taken over by another runner")
        self._state = new

    def renew(self) -> None:
        """Show that the holder is alive.

        Raises LeaseLost if the step was taken over, cannot be renewed in time, or has a register that is none.
        """
        with self._mutex:
            if self._ended:
                return
            new = replace(self._state, seq=self._state.seq + 1, nonce=os.urandom(8).hex())
            try:
                # Not flushed: after a power cut the machine's boot id says that the owner is gone.
                self._swap(new, durable=False)
            except OSError as error:
                silent_s = time.monotonic() - self._renewed
                if silent_s < self.times.fence_s:
                    return
                self._ended = True
                raise LeaseLost(
                    f"{self.paths.root}: could not renew the lease for {silent_s:.0f} s: {error}"
                ) from error
            except ValueError as error:  # something else wrote into the register
                self._ended = True
                raise LeaseLost(str(error)) from error
            self._renewed = time.monotonic()

    def check_register(self) -> None:
        """Raise RegisterGone if the step has no register any more."""
        if self._store.read(self.paths.root) is None:
            raise RegisterGone(
                f"the step deleted its own register {self.paths.state}; empty the folder but for {_EXEC}"
            )

    def end_without_register(self, *, error: Mapping[str, Any]) -> State:
        """Write a new register that says FAILED in place of the one that was deleted.

        Raises LeaseLost if there is one again: another runner began anew.
        """
        with self._mutex:
            self._ended = True
            os.makedirs(self.paths.exec_dir, exist_ok=True)
            new = replace(self._state, status=FAILED, seq=self._state.seq + 1, nonce=os.urandom(8).hex(), error=error)
            if not self._store.compare_and_swap(self.paths.root, None, new):
                raise LeaseLost(f"{self.paths.root}: attempt {self._state.attempt} was taken over by another runner")
            self._state = new
            return new

    def end(
        self, status: str, *, record: Mapping[str, Any] | None = None, error: Mapping[str, Any] | None = None
    ) -> State:
        """Swap the register to SUCCEEDED, FAILED or CANCELLED. Raises LeaseLost if the step was taken over."""
        with self._mutex:
            if self._ended:
                raise LeaseLost(f"{self.paths.root}: attempt {self._state.attempt} no longer holds its lease")
            new = replace(
                self._state,
                status=status,
                seq=self._state.seq + 1,
                nonce=os.urandom(8).hex(),
                record=record,
                error=error,
            )
            self._swap(new, durable=True)
            self._ended = True
            return new


class Observer:
    """Judges other runners' leases by this machine's own clock and process table."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[str, float]] = {}

    def is_stale(self, root: str, state: State) -> bool:
        """Whether a RUNNING register may be taken over now. Call it again and again while waiting."""
        if state.owner.is_gone():
            return True
        now = self._clock()
        nonce, since = self._seen.get(root, (None, now))
        if nonce != state.nonce:
            self._seen[root] = (state.nonce, now)
            return False
        return now - since >= state.ttl


class Renewer:
    """One thread that renews all leases of a run; it starts with the first and ends with `close`."""

    def __init__(self, times: LeaseTimes, on_lost: Callable[[Lease, LeaseLost], None]) -> None:
        self._times = times
        self._on_lost = on_lost
        self._leases: set[Lease] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        with self._changed:
            self._leases.add(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew_all, name="marin-lease", daemon=True)
                self._thread.start()

    def discard(self, lease: Lease) -> None:
        with self._changed:
            self._leases.discard(lease)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _renew_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed, timeout=self._times.renew_s)
                if self._closed:
                    return
                leases = list(self._leases)
            for lease in leases:
                try:
                    lease.renew()
                except LeaseLost as lost:
                    self.discard(lease)
                    self._on_lost(lease, lost)
