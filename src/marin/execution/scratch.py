"""Folders of a machine for work on a store that is not a disk: where they are, who uses them, what can go.

A step of an object store works here, on copies of its inputs (`marin.execution.attempt`). Copies stay, for the next
step reads the same; so do the remains of attempts that failed or were killed. Nothing here is anything's only copy but
the unfinished work of steps that publish in place, from which their next attempt on this machine goes on.

A process that uses copies or works here holds a lock of the store's as long as it lives, and the kernel gives it back
however it ends. So whoever gets the lock for himself knows that nobody is at work, and may delete without asking
anybody; the price is that nothing of a store can be deleted while any run on this machine uses it.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from marin.execution.status import State, StepPaths
from marin.execution.store import Store

_DAY_S = 86400.0
_WHY = {
    "copies": "fetched again when they are needed",
    "attempts": "what attempts that ended or were killed left",
    "unfinished": "no next attempt came to go on from it",
}


def scratch_root() -> str:
    """Folder of a machine for copies of what is in an object store: $MARIN_SCRATCH, else one in the temporary folder.

    The same on all machines of a cluster, for paths in it are worked out on one and used on another.
    """
    return os.environ.get("MARIN_SCRATCH") or f"{tempfile.gettempdir()}/marin-{os.getuid()}"


def _key(store: Store) -> str:
    return hashlib.sha256(store.prefix.encode()).hexdigest()[:16]


def mirror_of(store: Store) -> str:
    """Folder of a machine for copies of outputs of a store that is not a disk, laid out like the store."""
    return f"{scratch_root()}/stores/{_key(store)}"


def work_place(store: Store, paths: StepPaths, state: State) -> tuple[str, str]:
    """(folder to write into, folder for logs) of an attempt, on the machine that carries it out."""
    if store.is_local:
        return paths.data_root(state), paths.logs(state)
    place = f"{scratch_root()}/steps/{_key(store)}/{os.path.basename(paths.root)}-{state.digest[:16]}"
    # in place: what the attempts since the last beginning left on this machine is found again
    work = f"{place}/inplace-{state.began}" if state.data_root == "." else f"{place}/{state.attempt}"
    return work, f"{place}/logs/{state.attempt}"


def hold(store: Store) -> None:
    """Keep the scratch folders of a store from being deleted for as long as this process lives.

    PermissionError if the folder in the temporary folder, whose name anybody can guess, is somebody else's.
    """
    root = scratch_root()
    os.makedirs(root, mode=0o700, exist_ok=True)
    if not os.environ.get("MARIN_SCRATCH") and os.lstat(root).st_uid != os.getuid():
        raise PermissionError(f"{root} belongs to somebody else, who could change what steps read: set MARIN_SCRATCH")
    _hold(f"{scratch_root()}/locks/{_key(store)}", os.getpid())


@functools.cache
def _hold(path: str, pid: int) -> int:
    descriptor = _open_lock(path)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


@dataclass(frozen=True, kw_only=True)
class Remains:
    """A folder of this machine's scratch space that can be deleted."""

    path: str  # absolute
    kind: str  # copies, attempts or unfinished
    num_bytes: int  # what deleting it frees
    is_in_use: bool  # a process of this machine may be using it

    @property
    def why(self) -> str:
        """Why nobody misses it, in words."""
        return _WHY[self.kind]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def remains(keep_days: float) -> list[Remains]:
    """What can be deleted of the scratch space of this machine, of all stores.

    Unfinished work of steps that publish in place only if nothing in it was touched for `keep_days`.
    """
    found = []
    for key in sorted({*_names(f"{scratch_root()}/stores"), *_names(f"{scratch_root()}/steps")}):
        folders = [("copies", f"{scratch_root()}/stores/{key}")]
        for step in _names(f"{scratch_root()}/steps/{key}"):
            for name in _names(f"{scratch_root()}/steps/{key}/{step}"):
                path = f"{scratch_root()}/steps/{key}/{step}/{name}"
                if not name.startswith("inplace-"):
                    folders.append(("attempts", path))
                elif _is_forgotten(path, keep_days):
                    folders.append(("unfinished", path))
        with _alone(key) as is_alone:
            in_use = not is_alone
        found += [
            Remains(path=path, kind=kind, num_bytes=_size(path), is_in_use=in_use)
            for kind, path in folders
            if os.path.isdir(path)
        ]
    return found


def delete(found: Sequence[Remains], keep_days: float) -> list[Remains]:
    """Delete what `remains` found, but for what is in use by now or was gone on with since; what was deleted."""
    deleted = []
    for item in found:
        key = os.path.relpath(item.path, scratch_root()).split(os.sep)[1]
        with _alone(key) as is_alone:
            if is_alone and (item.kind != "unfinished" or _is_forgotten(item.path, keep_days)):
                shutil.rmtree(item.path, ignore_errors=True)
                deleted.append(item)
    return deleted


@contextlib.contextmanager
def _alone(key: str) -> Iterator[bool]:
    """Whether nobody on this machine works with this store's folders; if so, nobody begins to inside."""
    descriptor = _open_lock(f"{scratch_root()}/locks/{key}")
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _open_lock(path: str) -> int:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _files(folder: str) -> Iterator[os.stat_result]:
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # deleted meanwhile
                yield os.lstat(f"{place}/{name}")


def _size(folder: str) -> int:
    return sum(file.st_size for file in _files(folder))


def _is_forgotten(folder: str, keep_days: float) -> bool:
    """Whether nothing in it was touched for so long."""
    last = max((file.st_mtime for file in _files(folder)), default=None)
    if last is None:
        last = os.stat(folder).st_mtime if os.path.isdir(folder) else 0.0
    return time.time() - last >= keep_days * _DAY_S
