"""Write a file so that a reader sees the old bytes or the new ones, never half of either.

Everything goes to a temporary file beside its target and is renamed onto it. With `fsync` (the default) the bytes and
the directory entry are on the disk before the call returns, so a power cut after it loses nothing; that costs two disk
flushes, some milliseconds on an ordinary disk. Local file systems only.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import IO, Any


def _temporary_beside(path: str) -> str:
    # Random, not pid-based: two threads, or two machines on one shared disk, never meet.
    return f"{path}.{os.urandom(6).hex()}.tmp"


def fsync_directory(path: str | os.PathLike[str]) -> None:
    """Flush a directory, so that names created or renamed in it survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_new(path: str, data: bytes, fsync: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if fsync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | os.PathLike[str], data: bytes, *, fsync: bool = True) -> None:
    """Replace the file at `path` by `data`, atomically. The directory must exist.

    Raises `OSError` (disk full, not writable, ...) with the file as it was before and no temporary file left behind.
    """
    path = os.fspath(path)
    temporary = _temporary_beside(path)
    try:
        _write_new(temporary, data, fsync)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if fsync:
        fsync_directory(os.path.dirname(path) or ".")


def write_text(path: str | os.PathLike[str], text: str, *, fsync: bool = True) -> None:
    """Replace the file at `path` by `text` in UTF-8, atomically. See `write_bytes`."""
    write_bytes(path, text.encode("utf-8"), fsync=fsync)


def create_bytes(path: str | os.PathLike[str], data: bytes, *, fsync: bool = True) -> bool:
    """Create the file at `path` with `data` unless it exists; True if this call created it.

    Of any number of processes that call this at once, exactly one gets True, and nobody sees a partial file.
    """
    path = os.fspath(path)
    temporary = _temporary_beside(path)
    try:
        _write_new(temporary, data, fsync)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    if fsync:
        fsync_directory(os.path.dirname(path) or ".")
    return True


def make_folder(path: str) -> None:
    """Create a folder and those above it; nothing if it is there. Quicker than `os.makedirs` where few are missing."""
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    except FileNotFoundError:
        make_folder(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):  # another thread was faster
            os.mkdir(path)


def append(path: str | os.PathLike[str], data: bytes) -> None:
    """Add `data` to the end of the file at `path` in one write, creating it if needed: for logs, line by line."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def open_atomic(path: str | os.PathLike[str], mode: str = "wb", *, fsync: bool = True, **kwargs: Any) -> Iterator[IO]:
    """Open a file for writing that appears at `path`, complete, when the block ends without an exception.

    >>> with open_atomic("counts.json", "w", encoding="utf-8") as file:   # doctest: +SKIP
    ...     json.dump(counts, file)

    `mode` is "w" or "wb"; other keyword arguments go to `open`. An exception in the block leaves `path` untouched.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"open_atomic writes whole files: mode must be 'w' or 'wb', got {mode!r}")
    path = os.fspath(path)
    temporary = _temporary_beside(path)
    try:
        with open(temporary, mode.replace("w", "x"), **kwargs) as file:
            yield file
            file.flush()
            if fsync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if fsync:
        fsync_directory(os.path.dirname(path) or ".")
