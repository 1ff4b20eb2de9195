"""A store that fails as real ones do, on command: for tests of whatever must survive that.

`FaultyStore` passes every call on to another store, except where its plan says what goes wrong: a crash of the caller
before, after or half-way through a call; a write whose reply gets lost, having taken effect, or not, or taking effect
later; a server that refuses, or is busy; a disk that is full, broken or slow. The plan is a list, used up in order,
so equal plans and equal calls fail equally.

    store = FaultyStore(LocalStore(folder), [Fault(method="put", kind="no space", skip=2)])

A crash raises `SimulatedCrash`. The process that it stands for is dead: from then on every call raises it again, so
what handlers and `finally` blocks of the code under test still do reaches the store no more. What they do past the
store, on the disk itself, does happen; a test of that needs a real process and a real kill.
"""

import errno
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from marin.execution.status import State
from marin.execution.store import Check, Item, Log, Store

# kind of fault -> (what the call does before it fails: nothing, half or all of its work; error number)
KINDS: dict[str, tuple[str, int | None]] = {
    "crash before": ("nothing", None),
    "crash after": ("all", None),
    "crash torn": ("half", None),
    "lost request": ("nothing", errno.ETIMEDOUT),  # and the caller cannot tell it from the next two
    "lost reply": ("all", errno.ETIMEDOUT),
    "late": ("later", errno.ETIMEDOUT),
    "conflict": ("nothing", errno.EBUSY),  # 409: two writes met, neither is known to have won; read and repeat
    "busy": ("nothing", errno.EAGAIN),  # 429 or 503
    "no space": ("nothing", errno.ENOSPC),
    "broken": ("nothing", errno.EIO),
    "broken after": ("all", errno.EIO),  # a flush that fails after the rename
    "slow": ("all", None),
}
_CHANGING = frozenset({"compare_and_swap", "put", "create", "delete", "delete_tree", "upload", "log"})


class SimulatedCrash(BaseException):
    """The caller was killed here. Not an `Exception`: no handler of the code under test is meant for it."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong."""

    kind: str  # one of KINDS
    method: str = "*"  # method of the store that it befalls; "*": any
    path: str = ""  # only calls whose path has this in it
    skip: int = 0  # so many such calls go well first
    times: int = 1  # so many in a row are befallen
    slow_s: float = 0.0  # slow: what the store's `sleep` is called with

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault is of kind {self.kind!r}; there are {', '.join(KINDS)}")
        if self.kind == "late" and self.method != "compare_and_swap":
            raise ValueError("only a compare_and_swap can take effect late: nothing else says what it expects")


class FaultyStore:
    """A store in front of another one, with faults. One for each process that is simulated."""

    def __init__(
        self, inner: Store, plan: Iterable[Fault] = (), *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.prefix = inner.prefix
        self.is_local = inner.is_local
        self.fsync = inner.fsync
        self.single_runner = inner.single_runner
        self.is_dead = False  # a crash has happened
        self.calls: list[tuple[str, str]] = []  # (method, path) of every call, for counting
        self.met: list[tuple[str, str]] = []  # (kind, method) of every fault that came to pass
        self._inner = inner
        self._sleep = sleep
        self._mutex = threading.RLock()
        self._plan: list[list] = []  # [fault, calls still to skip, calls still to befall]
        self._flying: list[Callable[[], bool]] = []
        self.add(*plan)

    def add(self, *faults: Fault) -> None:
        """Plan more faults, behind those that are planned."""
        with self._mutex:
            self._plan += [[fault, fault.skip, fault.times] for fault in faults]

    def heal(self) -> None:
        """Forget what is planned; the dead stay dead."""
        with self._mutex:
            self._plan.clear()

    @property
    def num_flying(self) -> int:
        """Late writes that have not arrived yet."""
        return len(self._flying)

    def land(self) -> list[bool]:
        """Let late writes arrive at the other store; for each, whether it took effect."""
        with self._mutex:
            flying, self._flying = self._flying, []
        return [write() for write in flying]

    def _meet(self, method: str, path: str) -> Fault | None:
        """The fault of this call. Every planned one sees the call, so that `skip` counts from when it was added."""
        with self._mutex:
            if self.is_dead:
                raise SimulatedCrash("this process was killed earlier")
            self.calls.append((method, path))
            met = None
            for entry in self._plan:
                fault = entry[0]
                if fault.method not in ("*", method) or fault.path not in path:
                    continue
                if entry[1]:
                    entry[1] -= 1
                elif met is None:
                    met = fault
                    entry[2] -= 1
            self._plan = [entry for entry in self._plan if entry[2] > 0]
            if met is not None:
                self.met.append((met.kind, method))
            return met

    def _call(self, method: str, path: str, whole: Callable, half: Callable[[], object] = lambda: None) -> object:
        fault = self._meet(method, path)
        if fault is None:
            return whole()
        done, number = KINDS[fault.kind]
        if fault.kind == "slow":
            self._sleep(fault.slow_s)
            return whole()
        if method not in _CHANGING and done == "half":
            done = "all"
        if done == "all":
            whole()
        elif done == "half":
            half()
        elif done == "later":
            self._flying.append(whole)
        if number is None:
            self.is_dead = True
            raise SimulatedCrash(f"{fault.kind} {method} {path}")
        raise OSError(number, f"{os.strerror(number)} ({fault.kind})", path)

    def _half_of(self, path: str, data: bytes) -> None:
        """What a torn write leaves: a temporary file beside the target, for targets change whole or not at all."""
        self._inner.put(f"{path}.{os.urandom(6).hex()}.tmp", data[: len(data) // 2])

    # -- the store

    def prepare(self) -> None:
        self._call("prepare", self.prefix, self._inner.prepare)

    def self_test(self) -> list[Check]:
        return self._call("self_test", self.prefix, self._inner.self_test)  # type: ignore[return-value]

    def read(self, root: str) -> State | None:
        return self._call("read", root, lambda: self._inner.read(root))  # type: ignore[return-value]

    def compare_and_swap(
        self, root: str, expected: State | None, new: State, *, durable: bool = True, archive: bool = False
    ) -> bool:
        return self._call(  # type: ignore[return-value]
            "compare_and_swap",
            root,
            lambda: self._inner.compare_and_swap(root, expected, new, durable=durable, archive=archive),
            lambda: self._half_of(f"{root}/.exec/state.json", new.to_json()),
        )

    def get(self, path: str) -> bytes | None:
        return self._call("get", path, lambda: self._inner.get(path))  # type: ignore[return-value]

    def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        self._call("put", path, lambda: self._inner.put(path, data, durable=durable), lambda: self._half_of(path, data))

    def create(self, path: str, data: bytes) -> bool:
        return self._call(  # type: ignore[return-value]
            "create", path, lambda: self._inner.create(path, data), lambda: self._half_of(path, data)
        )

    def open_log(self, path: str) -> Log:
        log: Log = self._call("open_log", path, lambda: self._inner.open_log(path))  # type: ignore[assignment]
        return _FaultyLog(self, log, path)

    def items(self, folder: str) -> list[Item]:
        return self._call("items", folder, lambda: self._inner.items(folder))  # type: ignore[return-value]

    def delete(self, path: str) -> None:
        self._call("delete", path, lambda: self._inner.delete(path))

    def delete_tree(self, folder: str) -> None:
        self._call("delete_tree", folder, lambda: self._inner.delete_tree(folder), lambda: self._delete_half_of(folder))

    def _delete_half_of(self, folder: str) -> None:
        paths = sorted(path for path, _ in self._inner.tree(folder))
        for path in paths[: (len(paths) + 1) // 2]:
            self._inner.delete(f"{folder}/{path}")

    def sizes(self, root: str, paths: Sequence[str]) -> list[int | None]:
        return self._call("sizes", root, lambda: self._inner.sizes(root, paths))  # type: ignore[return-value]

    def tree(self, folder: str) -> Iterator[tuple[str, int]]:
        return self._call("tree", folder, lambda: self._inner.tree(folder))  # type: ignore[return-value]

    def upload(self, local_path: str, path: str) -> None:
        self._call(
            "upload",
            path,
            lambda: self._inner.upload(local_path, path),
            lambda: self._upload_half_of(local_path, path),
        )

    def _upload_half_of(self, local_path: str, path: str) -> None:
        with open(local_path, "rb") as file, tempfile.NamedTemporaryFile() as half:
            data = file.read()
            half.write(data[: len(data) // 2])
            half.flush()
            self._inner.upload(half.name, path)

    def download(self, path: str, local_path: str) -> None:
        self._call("download", path, lambda: self._inner.download(path, local_path))

    def age_s(self, path: str) -> float | None:
        return self._call("age_s", path, lambda: self._inner.age_s(path))  # type: ignore[return-value]


class _FaultyLog:
    """A log of a faulty store: a fault of method "log" befalls its lines."""

    def __init__(self, store: FaultyStore, inner: Log, path: str) -> None:
        self._store, self._inner, self._path = store, inner, path

    def write(self, line: bytes) -> None:
        half = line[: len(line) // 2]
        self._store._call("log", self._path, lambda: self._inner.write(line), lambda: self._inner.write(half))

    def close(self) -> None:
        self._inner.close()
