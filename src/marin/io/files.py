"""Files by path or address: of this machine, or objects of a store (s3://, gs://, az://), by the same few calls.

An address stands for a path wherever it can: it is joined with '/', and its folders are the beginnings of names. The
data engine reads and writes both. Whoever works on files of a disk alone, as steps do, has no need of this.

Objects are read by ranges, with a few MB at most in memory beyond what is asked for, and written from a temporary file
without a name, so that they appear whole and nothing is left of a process that is killed. The price is that a file is
on a disk of this machine (TMPDIR) while it is written.
"""

import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import unquote

from marin.io import atomic
from marin.io.objects import Bucket, ObjectInfo, RemoteError

T = TypeVar("T")
R = TypeVar("R")

STORES = ("s3", "gs", "az", "memory")
_CLOUDS = ("AWS_", "GOOGLE_", "AZURE_")  # variables that say where a store is and who asks
_REQUESTS_AT_ONCE = 16
_HASHED_BYTES = 1 << 20
_LEAST_AHEAD = 64 << 10  # bytes that are read where a reader jumps to; they grow while it reads on,
_MOST_AHEAD = 4 << 20  # up to these
_FOLDER = "marin-shard-"  # how folders begin, among temporary files, whose process has a lock on them while it lives
_NEW_S = 60.0  # for so long a folder may be without its lock


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """What is known of a file without reading it."""

    size: int
    mtime_ns: int
    version: str = ""  # of an object, what the store calls its content; empty on a disk


def address(path: str | os.PathLike[str]) -> str:
    """A path as it is, a file:// as its path, and the address of a store without '/' at its end.

    ValueError for what looks like the address of something else.
    """
    given = os.fspath(path)
    scheme, separator, rest = given.partition("://")
    if not separator:
        scheme, colon, rest = given.partition(":/")
        if colon and scheme in STORES and not os.path.exists(given):
            raise ValueError(f"{given!r} was the address {scheme}://{rest}: give it as a string, not as a Path")
        return given
    if scheme == "file":
        host, slash, path_of = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise ValueError(f"{given!r}: of file:// an absolute path of this machine is expected, file:///PATH")
        return "/" + unquote(path_of)
    if scheme not in STORES:
        known = ", ".join(f"{name}://" for name in (*STORES, "file"))
        raise ValueError(f"{given!r} is no address of files: known are {known}, and paths of this machine")
    return given.rstrip("/")


def is_remote(path: str) -> bool:
    """Whether an address is that of a store."""
    return "://" in path


def local_folder(path: str | os.PathLike[str]) -> Path:
    """Where to write what only a disk can take. ValueError for the address of a store."""
    place = address(path)
    if is_remote(place):
        raise ValueError(
            f"{place}: this is written to a folder of this machine alone; name one, and copy it afterwards"
        )
    return Path(place)


def absolute(path: str) -> str:
    """An address that means the same everywhere."""
    return path if is_remote(path) else os.path.abspath(path)


def real_path(path: str) -> str:
    """The absolute path without links; an address as it is."""
    return path if is_remote(path) else os.path.realpath(path)


def parent(path: str) -> str:
    """The folder around a file or folder; that of a root, or of a whole bucket, is itself."""
    if is_remote(path):
        return path if path.count("/") == 2 else path.rpartition("/")[0]
    return os.path.dirname(path)


def bucket_of(path: str) -> Bucket:
    """The store of an address. PrefixError where it is none, or the extra `remote` is not installed."""
    scheme, _, rest = path.partition("://")
    setting = tuple(sorted(item for item in os.environ.items() if item[0].startswith(_CLOUDS)))
    return _bucket(f"{scheme}://{rest.partition('/')[0]}", setting)


@lru_cache(maxsize=16)
def _bucket(base: str, setting: tuple[tuple[str, str], ...]) -> Bucket:
    del setting  # a client is of the environment in which it was made
    return Bucket(base)


def each(function: Callable[[T], R], items: Iterable[T], *, where: str) -> list[R]:
    """The function of every item, in their order; several at a time where `where` is remote and each waits for it."""
    if not is_remote(where):
        return [function(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        return list(pool.map(function, items))


# -- what there is ----------------------------------------------------------------------------------------------------


def file_info(path: str) -> FileInfo:
    """What is known of a file. FileNotFoundError where there is none."""
    if not is_remote(path):
        stat = os.stat(path)
        return FileInfo(size=stat.st_size, mtime_ns=stat.st_mtime_ns)
    info = bucket_of(path).info(path)
    if info is None:
        raise FileNotFoundError(f"no file at {path}")
    return _file_info(info)


def _file_info(info: ObjectInfo) -> FileInfo:
    return FileInfo(size=info.size, mtime_ns=info.mtime_ns, version=info.version)


def is_file(path: str) -> bool:
    """Whether a file is there."""
    if not is_remote(path):
        return os.path.isfile(path)
    bucket = bucket_of(path)
    return path != bucket.base and bucket.info(path) is not None


def is_folder(path: str) -> bool:
    """Whether a folder is there; in a store, whether anything is below it."""
    if not is_remote(path):
        return os.path.isdir(path)
    return next(bucket_of(path).tree(path), None) is not None


def tree(folder: str) -> Iterator[tuple[str, FileInfo]]:
    """(path relative to `folder`, what is known of it) of every file below a folder; none where there is no folder."""
    if is_remote(folder):
        for name, info in bucket_of(folder).tree(folder):
            yield name, _file_info(info)
        return
    for inside, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(inside, name)
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile, or a link to nothing
                yield os.path.relpath(path, folder), file_info(path)


# -- reading ----------------------------------------------------------------------------------------------------------


def open_input(path: str) -> Any:
    """A file to read bytes from, unbuffered on a disk, that can be sought in. FileNotFoundError where there is none."""
    return _ObjectReader(path) if is_remote(path) else open(path, "rb", buffering=0)


def read_bytes(path: str) -> bytes:
    """The content of a small file. FileNotFoundError where there is none."""
    if not is_remote(path):
        with open(path, "rb") as file:
            return file.read()
    data = bucket_of(path).get_versioned(path)[0]
    if data is None:
        raise FileNotFoundError(f"no file at {path}")
    return data


def read_range(path: str, start: int, size: int) -> bytes:
    """`size` bytes from `start` on, fewer at the end of the file; of an object it must have that many."""
    if is_remote(path):
        return bucket_of(path).read_range(path, start, start + size)
    with open_input(path) as file:
        file.seek(start)
        return file.read(size)


def sha256_of(path: str) -> str:
    """The digest of a file, as hex digits."""
    digest = hashlib.sha256()
    with open_input(path) as file:
        while chunk := file.read(_HASHED_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class _ObjectReader(io.RawIOBase):
    """An object as a file: read by ranges, which grow while they follow one another.

    RemoteError where the object is replaced or removed while it is read.
    """

    def __init__(self, path: str):
        self._path, self._bucket, self._info = path, bucket_of(path), file_info(path)
        self._position = 0
        self._held = memoryview(b"")
        self._held_from = 0
        self._ahead = _LEAST_AHEAD

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._info.size}[whence]
        self._position = max(0, begin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self.read(-1)

    def read(self, size: int | None = -1) -> bytes:
        """As many bytes as are asked for, unless the object ends before."""
        left = max(0, self._info.size - self._position)
        size = left if size is None or size < 0 else min(size, left)
        parts = []
        while size:
            begin = self._position - self._held_from
            if not 0 <= begin < len(self._held):
                self._fetch(size)
                continue
            part = self._held[begin : begin + size]
            parts.append(part)
            self._position += len(part)
            size -= len(part)
        return b"".join(parts)

    def _fetch(self, size: int) -> None:
        """Hold what begins at the position: at least `size` bytes, or up to the end."""
        is_next = self._position == self._held_from + len(self._held)
        self._ahead = min(2 * self._ahead, _MOST_AHEAD) if is_next else _LEAST_AHEAD
        start, end = self._position, min(self._position + max(size, self._ahead), self._info.size)
        if end == self._info.size:  # formats have there what is read backwards
            start = max(0, min(start, end - _LEAST_AHEAD))
        try:
            data = self._bucket.read_range(self._path, start, end, version=self._info.version)
        except FileNotFoundError as error:  # it was there when it was opened
            gone = RemoteError(f"{self._path} was removed while it was read")
            gone.may_pass = True
            raise gone from error
        if len(data) != end - start:
            raise RemoteError(f"reading {self._path} failed: {len(data)} bytes came instead of {end - start}")
        self._held, self._held_from = memoryview(data), start


# -- writing ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_output(path: str | os.PathLike[str], *, fsync: bool = True) -> Iterator[IO[bytes]]:
    """A file to write bytes to that appears at `path`, complete, when the block ends without an exception."""
    path = os.fspath(path)
    if not is_remote(path):
        with atomic.open_atomic(path, "wb", fsync=fsync) as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        bucket_of(path).upload(file, path)


def write_bytes(path: str, data: bytes) -> None:
    """Replace the file by `data`, whole or not at all. Its folder must exist."""
    if is_remote(path):
        bucket_of(path).put(path, data)
    else:
        atomic.write_bytes(path, data)


def write_text(path: str, text: str) -> None:
    """Replace the file by `text` in UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def make_folder(path: str) -> None:
    """Create a folder and those above it; a store has none."""
    if not is_remote(path):
        atomic.make_folder(path)


def remove(path: str) -> None:
    """Remove a file; nothing if it is not there."""
    if is_remote(path):
        bucket_of(path).delete(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def remove_all(path: str) -> None:
    """Remove a file, or a folder with all that is in it; nothing if it is not there."""
    if is_remote(path):
        bucket_of(path).delete_tree(path)
    elif os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        remove(path)


@contextlib.contextmanager
def uploaded_folder(path: str) -> Iterator[str]:
    """A new folder of this machine whose files are at the address `path`, in place of what was there, after the block.

    A killed process leaves its folder, which the next one on this machine removes.
    """
    with _own_folder() as folder:
        yield folder
        bucket = bucket_of(path)
        bucket.delete_tree(path)
        for name, _ in sorted(tree(folder), key=lambda found: found[0]):
            with open(os.path.join(folder, name), "rb") as file:
                bucket.upload(file, f"{path}/{name}")


@contextlib.contextmanager
def _own_folder() -> Iterator[str]:
    base = tempfile.gettempdir()
    for name in os.listdir(base):
        if name.startswith(_FOLDER):
            _remove_if_left(os.path.join(base, name))
    with tempfile.TemporaryDirectory(prefix=_FOLDER) as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
        finally:
            os.close(descriptor)


def _remove_if_left(folder: str) -> None:
    """Remove a folder whose process has ended: its lock is free."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(descriptor).st_mtime > _NEW_S:
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def lock(path: str) -> Iterator[None]:
    """Hold a lock of this machine; BlockingIOError where another process has it. `path` may be an address."""
    if is_remote(path):
        name = hashlib.sha256(path.encode()).hexdigest()[:24]
        path = os.path.join(tempfile.gettempdir(), f"marin-{os.getuid()}-{name}.lock")
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
