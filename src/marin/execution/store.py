"""Where registers, records and outputs lie: a local disk, or an object store, behind one small protocol.

A store offers two things: plain bytes at paths, and registers that change only by compare-and-swap. Everything else
(leases, commits, invalidation, garbage collection) is written once on top of it. Paths are whole: an absolute path on
a disk, a URL in an object store; both begin with the prefix and part with '/'.

On a local disk a register is guarded by a lock on a file that is never deleted, and replaced by write, flush, rename,
flush. In an object store the store's own conditional writes do it (`marin.execution.object_store`).
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from marin.execution.status import EXEC, RegisterError, State, StepPaths, read_state
from marin.io.atomic import create_bytes, fsync_directory, make_folder, write_bytes
from marin.io.objects import Item, PrefixError

_SCHEMES = frozenset({"s3", "gs", "az", "memory"})
_ELSEWHERE = "Name another folder with --prefix or MARIN_PREFIX"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that registers need of a store, tried."""

    what: str  # what should be so
    is_ok: bool  # whether it is
    found: str  # "ok", or what happened instead


class Log(Protocol):
    """A file that grows by lines."""

    def write(self, line: bytes) -> None:
        """Add one line, with its end."""
        ...

    def close(self) -> None:
        """Nothing more will be added."""
        ...


class Store(Protocol):
    """Bytes and registers below one prefix. All methods may be called from several threads."""

    prefix: str  # absolute path or URL, without a '/' at the end
    is_local: bool  # outputs are files that a step can write and read by path
    fsync: bool  # whether writes are flushed to the disk one by one
    single_runner: bool  # whether the caller said that nobody else runs on it meanwhile

    def prepare(self) -> None:
        """Create the prefix and try what registers need; PrefixError says what is missing."""
        ...

    def self_test(self) -> list[Check]:
        """What `prepare` tries, with the outcome of each trial. Raises PrefixError if nothing can be tried."""
        ...

    # -- registers

    def read(self, root: str) -> State | None:
        """The register of the step whose folder is `root`, None if it has none; RegisterError if it is unreadable."""
        ...

    def compare_and_swap(
        self, root: str, expected: State | None, new: State, *, durable: bool = True, archive: bool = False
    ) -> bool:
        """Write `new` if the register still is `expected` (None: still absent); False, and nothing written, if not.

        `archive` keeps `expected` in the step's history first. `durable=False` need not survive a power cut. Raises
        OSError if it is not known to have been written; then reading the register tells, for every write has a nonce
        of its own.
        """
        ...

    # -- plain bytes; the executor's own small files

    def get(self, path: str) -> bytes | None:
        """The bytes at a path, None if there are none."""
        ...

    def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Replace what is at a path, whole or not at all. Folders need not exist."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Write unless something is there; True if this call wrote."""
        ...

    def open_log(self, path: str) -> "Log":
        """A file to add lines to. Where a store cannot add, it appears now and then, and complete when closed."""
        ...

    def items(self, folder: str) -> list[Item]:
        """What lies directly in a folder, by name; [] if it does not exist."""
        ...

    def delete(self, path: str) -> None:
        """Delete one file; no error if it is not there."""
        ...

    def delete_tree(self, folder: str) -> None:
        """Delete a folder and all below it; no error if it is not there."""
        ...

    # -- outputs

    def sizes(self, root: str, paths: Sequence[str]) -> list[int | None]:
        """Bytes of files given relative to `root`; None for those that are not there."""
        ...

    def tree(self, folder: str) -> Iterator[tuple[str, int]]:
        """(path relative to `folder`, bytes) of every file and symbolic link below it."""
        ...

    def upload(self, local_path: str, path: str) -> None:
        """Copy a file of this machine to a path of the store."""
        ...

    def download(self, path: str, local_path: str) -> None:
        """Copy a file of the store to this machine; its folder must exist. FileNotFoundError if it is not there."""
        ...

    def age_s(self, path: str) -> float | None:
        """Seconds since a file, or anything below a folder, was last written, by the store's own clock.

        None if it is not there, or if the store's clock cannot be asked: that of a disk that is read-only.
        """
        ...


def open_store(prefix: str | os.PathLike[str], *, fsync: bool = True, single_runner: bool = False) -> Store:
    """The store of a prefix: a path of this machine, or a URL (s3://, gs://, az://, memory://).

    `single_runner` accepts an object store without working conditional writes: then nobody else may run on it.
    """
    given = os.fspath(prefix)
    if not given:
        raise PrefixError(f"the prefix is empty: a variable that is not set, perhaps. {_ELSEWHERE}")
    scheme, _, rest = given.partition(":")
    if scheme in _SCHEMES and not rest.startswith("//"):
        raise PrefixError(f"prefix {given!r} looks like the URL {scheme}://{rest.lstrip('/')}; ./{given} is a folder")
    if "://" not in given:
        return LocalStore(given, fsync=fsync)
    from marin.execution.object_store import ObjectStore

    return ObjectStore(given, single_runner=single_runner)


class _LocalLog:
    def __init__(self, path: str) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - lives as long as what writes to it

    def write(self, line: bytes) -> None:
        self._file.write(line)

    def close(self) -> None:
        self._file.close()


class LocalStore:
    """Registers and files on a local disk.

    `fsync=False` leaves the flushing to the operating system: safe against crashes of processes, not of the machine;
    for tests.
    """

    is_local = True
    single_runner = False

    def __init__(self, prefix: str | os.PathLike[str] = ".", *, fsync: bool = True) -> None:
        self.prefix = os.path.abspath(os.fspath(prefix))
        self.fsync = fsync
        try:
            os.stat(self.prefix)
        except (FileNotFoundError, NotADirectoryError):  # below a file: `prepare` says so
            pass
        except OSError as error:
            raise PrefixError(f"cannot look at prefix {prefix}: {error.strerror}. {_ELSEWHERE}") from error
        if os.path.exists(self.prefix) and not os.path.isdir(self.prefix):
            raise PrefixError(f"prefix {prefix} is a file, not a store. Name a folder with --prefix or MARIN_PREFIX")

    def prepare(self) -> None:
        failed = [check for check in self.self_test() if not check.is_ok]
        if failed:
            told = "; ".join(f"{check.what}: {check.found}" for check in failed)
            raise PrefixError(f"{self.prefix} cannot hold registers that several runs may change: {told}. {_ELSEWHERE}")

    def self_test(self) -> list[Check]:
        probe = f"{self.prefix}/{EXEC}/probe-{os.urandom(4).hex()}"
        checks = []
        try:
            os.makedirs(f"{self.prefix}/{EXEC}/runs", exist_ok=True)
            with open(probe, "xb") as file, open(probe, "rb") as other:
                file.write(b"marin")
                file.flush()
                checks.append(Check(what="a file can be written", is_ok=True, found="ok"))
                fcntl.flock(file, fcntl.LOCK_EX)
                try:
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    is_ok, found = False, "a second lock was given while the first was held"
                except BlockingIOError:
                    is_ok, found = True, "ok"
                checks.append(Check(what="a lock keeps others out", is_ok=is_ok, found=found))
            os.link(probe, f"{probe}-link")
            os.replace(f"{probe}-link", probe)
            checks.append(Check(what="a file can be linked and replaced", is_ok=True, found="ok"))
        except OSError as error:
            trouble = error.strerror or error
            raise PrefixError(f"cannot write to prefix {self.prefix}: {trouble}. {_ELSEWHERE}") from error
        finally:
            for name in (probe, f"{probe}-link"):
                with contextlib.suppress(OSError):
                    os.unlink(name)
        return checks

    def read(self, root: str) -> State | None:
        path = f"{root}/{EXEC}/state.json"
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
        return read_state(data, path, root)

    def compare_and_swap(
        self, root: str, expected: State | None, new: State, *, durable: bool = True, archive: bool = False
    ) -> bool:
        paths = StepPaths(root)
        if expected is None:
            for folder in (root, paths.exec_dir, paths.manifests):
                make_folder(folder)
        # fails if the step's folder is gone, or its disk
        descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            current = self.read(root)
            if (current and current.nonce) != (expected and expected.nonce):
                return False
            if archive and expected is not None:
                os.makedirs(f"{paths.exec_dir}/history", exist_ok=True)
                write_bytes(paths.history(expected), expected.to_json(), fsync=self.fsync)
            write_bytes(paths.state, new.to_json(), fsync=self.fsync and durable)
            return True
        finally:
            # Explicitly, for a child that was forked meanwhile shares the lock and would keep it.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def get(self, path: str) -> bytes | None:
        try:
            with open(path, "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        fsync = self.fsync and durable
        try:
            write_bytes(path, data, fsync=fsync)
        except FileNotFoundError:
            make_folder(os.path.dirname(path))
            write_bytes(path, data, fsync=fsync)
            if fsync:
                fsync_directory(os.path.dirname(os.path.dirname(path)))

    def create(self, path: str, data: bytes) -> bool:
        try:
            return self._create(path, data)
        except FileNotFoundError:
            make_folder(os.path.dirname(path))
            return self._create(path, data)

    def _create(self, path: str, data: bytes) -> bool:
        if data:
            return create_bytes(path, data, fsync=self.fsync)
        try:  # an empty file is never half-written
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        except FileExistsError:
            return False
        if self.fsync:
            fsync_directory(os.path.dirname(path))
        return True

    def open_log(self, path: str) -> Log:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return _LocalLog(path)

    def items(self, folder: str) -> list[Item]:
        try:
            with os.scandir(folder) as found:
                return sorted((Item(i.name, i.is_dir(follow_symlinks=False)) for i in found), key=lambda i: i.name)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)

    def delete_tree(self, folder: str) -> None:
        import shutil  # with all that can unpack archives: a plan needs none of it

        with contextlib.suppress(FileNotFoundError):
            if os.path.islink(folder):
                os.unlink(folder)
            else:
                shutil.rmtree(folder)

    def sizes(self, root: str, paths: Sequence[str]) -> list[int | None]:
        found: list[int | None] = []
        for path in paths:
            try:
                found.append(os.lstat(f"{root}/{path}").st_size)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    raise
                found.append(None)
        return found

    def tree(self, folder: str) -> Iterator[tuple[str, int]]:
        pending = [""]
        while pending:
            inner = pending.pop()
            try:
                found = os.scandir(f"{folder}/{inner}" if inner else folder)
            except (FileNotFoundError, NotADirectoryError):
                continue
            with found:
                for item in found:
                    path = f"{inner}/{item.name}" if inner else item.name
                    if item.is_dir(follow_symlinks=False):
                        pending.append(path)
                    elif item.is_symlink() or item.is_file():  # sockets, pipes and devices are no data
                        yield path, item.stat(follow_symlinks=False).st_size

    def upload(self, local_path: str, path: str) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.download(local_path, path)

    def download(self, path: str, local_path: str) -> None:
        from shutil import copyfile

        copyfile(path, local_path)

    def age_s(self, path: str) -> float | None:
        try:
            # Opened, not only looked up: a network file system answers from memory until a file is opened.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            newest = os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
        if os.path.isdir(path):
            for inner, _ in self.tree(path):
                with contextlib.suppress(OSError):  # deleted meanwhile
                    newest = max(newest, os.lstat(f"{path}/{inner}").st_mtime)
        try:
            return max(0.0, self._now() - newest)
        except OSError:
            return None

    def _now(self) -> float:
        """What the disk's own clock says: on a shared disk that is the server's."""
        probe = f"{self.prefix}/{EXEC}/probe-{os.urandom(4).hex()}"
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        try:
            return os.stat(probe).st_mtime
        finally:
            os.unlink(probe)


__all__ = ["Check", "Item", "LocalStore", "Log", "PrefixError", "RegisterError", "Store", "open_store"]
