"""What a step wrote: every file with its size and SHA-256, and one digest over the list.

The manifest is made by reading the finished output, not by watching the step write it: any program may write into the
folder, and the record describes what is really there. The price is one more pass over the bytes (about 1 GB/s and
core, mostly from the page cache).
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import TYPE_CHECKING

from marin.io.atomic import fsync_directory
from marin.io.hashing import sha256_file

if TYPE_CHECKING:
    from marin.execution.store import Store

# Above so many files one flush of the whole file system is cheaper than a flush for each.
_FSYNC_EACH_UP_TO = 64
# Smaller outputs are hashed by the calling thread: starting a pool would cost more.
_POOL_FROM_BYTES = 8 << 20


@dataclass(frozen=True)
class ManifestEntry:
    """One file of an output."""

    path: str  # relative to the data root, '/' between parts
    size: int  # bytes; of a symbolic link the length of its target
    sha256: str  # 64 hex digits; of a symbolic link the digest of b"link\0" + its target


@dataclass(frozen=True)
class Manifest:
    """The files below one data root, sorted by path."""

    entries: tuple[ManifestEntry, ...]  # sorted by path
    root_digest: str  # SHA-256 over the compact JSON of [[path, size, sha256], ...]

    @property
    def num_files(self) -> int:
        return len(self.entries)

    @property
    def num_bytes(self) -> int:
        return sum(entry.size for entry in self.entries)

    def to_json(self) -> str:
        """The manifest file's text: one JSON object with `format`, `root_digest` and `files`."""
        rows = ",\n".join(json.dumps([e.path, e.size, e.sha256]) for e in self.entries)
        return f'{{"format":1,"root_digest":"{self.root_digest}","files":[\n{rows}\n]}}\n'

    @staticmethod
    def from_json(text: str) -> "Manifest":
        """Read `to_json`'s text back; raises ValueError if the list does not have the digest that it claims."""
        value = json.loads(text)
        manifest = _with_digest(tuple(ManifestEntry(*row) for row in value["files"]))
        if manifest.root_digest != value["root_digest"]:
            raise ValueError(
                f"manifest says root_digest {value['root_digest']}, its files give {manifest.root_digest}: altered"
            )
        return manifest


_COMPACT = json.JSONEncoder(separators=(",", ":"))


def _with_digest(entries: tuple[ManifestEntry, ...]) -> Manifest:
    rows = [[e.path, e.size, e.sha256] for e in entries]
    return Manifest(entries, hashlib.sha256(_COMPACT.encode(rows).encode()).hexdigest())


def first_difference(store: "Store", root: str, manifest_path: str) -> str | None:
    """What is plainly wrong with the files below `root`: the first of the manifest that is missing or has another size.

    In words, or None. Sizes are looked up, contents are not read, and files that the manifest does not name are not
    looked for. Raises OSError if a file cannot be looked at, ValueError if the manifest cannot be read.
    """
    data = store.get(manifest_path)
    if data is None:
        return "the manifest of its output is missing"
    try:
        rows = json.loads(data)["files"]
        paths = [row[0] for row in rows]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{manifest_path}: not a manifest ({error}). Something changed it: restore it, or delete it to have its "
            "step run again"
        ) from error
    for (path, size, _), found in zip(rows, store.sizes(root, paths), strict=True):
        if found is None:
            return f"file {path} of its output is missing"
        if found != size:
            return f"file {path} of its output has {found:,} bytes, recorded {size:,}"
    return None


def _walk(root: str, exclude: frozenset[str]) -> Iterator[tuple[str, os.stat_result]]:
    """(relative path, lstat) of everything below `root`, directories too, except the top-level names in `exclude`."""
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(os.path.join(root, folder) if folder else root) as found:
            for item in found:
                if not folder and item.name in exclude:
                    continue
                path = f"{folder}/{item.name}" if folder else item.name
                status = item.stat(follow_symlinks=False)
                if S_ISDIR(status.st_mode):
                    pending.append(path)
                yield path, status


def _entry(root: str, path: str, status: os.stat_result, fsync: bool) -> ManifestEntry:
    full = os.path.join(root, path)
    if S_ISLNK(status.st_mode):
        target = os.fsencode(os.readlink(full))
        return ManifestEntry(path, len(target), hashlib.sha256(b"link\0" + target).hexdigest())
    return ManifestEntry(path, *sha256_file(full, fsync=fsync))


def build_manifest(
    root: str, *, exclude: frozenset[str] = frozenset(), fsync: bool = False, num_threads: int | None = None
) -> Manifest:
    """The manifest of everything below `root`, but for the top-level names in `exclude`.

    With `fsync`, every file and directory is on the disk when this returns. A symbolic link is recorded as a link, its
    target is not read; sockets, pipes and devices are no data and are left out. `num_threads` hash large outputs side
    by side (default: one for each core, at most 8). Raises `OSError` if a file vanishes meanwhile: a step that still
    writes after its function returned has not finished.
    """
    files, folders = [], [root]
    for path, status in _walk(root, exclude):
        if S_ISREG(status.st_mode) or S_ISLNK(status.st_mode):
            files.append((path, status))
        elif S_ISDIR(status.st_mode):
            folders.append(os.path.join(root, path))
    flush_each = fsync and len(files) + len(folders) <= _FSYNC_EACH_UP_TO

    def entry(item: tuple[str, os.stat_result]) -> ManifestEntry:
        return _entry(root, *item, fsync=flush_each)

    if len(files) > 1 and sum(status.st_size for _, status in files) >= _POOL_FROM_BYTES:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(num_threads or min(8, os.cpu_count() or 1)) as pool:
            entries = list(pool.map(entry, files))
    else:
        entries = [entry(item) for item in files]
    if flush_each:
        for folder in folders:
            fsync_directory(folder)
    elif fsync:
        os.sync()
    return _with_digest(tuple(sorted(entries, key=lambda e: e.path)))
