"""Are outputs still what their records say?

Usually every file is looked for, and its size compared; `deep` reads every byte again and compares its SHA-256. Both
compare the list of files in both directions (a file too many is a difference) and the manifest itself with the digest
that the record keeps, so altering an output and its manifest together does not help.

What is found goes to `<step>/.exec/verified.json`. An output that differs is struck out: nobody can say when it was
damaged, so whatever was built on it is tainted as well. Outputs that a later attempt of their step replaced are looked
at if they have a folder of their own that still exists, and are only reported.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from marin.execution.attempt import earlier_states
from marin.execution.catalog import StepEntry
from marin.execution.gc import is_evicted
from marin.execution.invalidation import Output, struck_out_outputs
from marin.execution.manifest import Manifest, ManifestEntry
from marin.execution.outputs import Committed
from marin.execution.record import utc
from marin.execution.status import INVALID, NOT_DATA, SUCCEEDED, State, StepPaths
from marin.execution.store import Store
from marin.execution.strike import strike_out

_MAX_DIFFERENCES = 100  # of one output; a disk that lost a folder of millions of files says so once
_MAX_THREADS = 8
_CHUNK_BYTES = 1 << 20
_REPORT_EVERY_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One way in which an output is not what its record says."""

    kind: str  # missing, extra, size, content, manifest
    path: str  # of the file, relative to the output; "" for the manifest
    text: str  # in words

    def to_json(self) -> dict[str, str]:
        return {"kind": self.kind, "path": self.path, "text": self.text}


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What one look at one output found."""

    name: str  # the step's name
    digest: str  # its identity
    attempt: str  # the attempt that made the output
    path: str  # the step's folder, relative to the prefix
    root_digest: str  # of the manifest, as the record has it
    is_current: bool  # False: a later attempt replaced this output
    deep: bool  # whether every byte was read
    num_files: int  # files that were looked at
    num_bytes: int  # bytes that were read
    differences: tuple[Difference, ...]  # () if all is well

    @property
    def is_ok(self) -> bool:
        return not self.differences

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "digest": self.digest,
            "attempt": self.attempt,
            "path": self.path,
            "root_digest": self.root_digest,
            "is_current": self.is_current,
            "deep": self.deep,
            "ok": self.is_ok,
            "files": self.num_files,
            "bytes_read": self.num_bytes,
            "differences": [difference.to_json() for difference in self.differences],
        }


Progress = Callable[[str, int], None]  # (name of the step, bytes that were just read)


def verified_path(paths: StepPaths) -> str:
    """Where the last verification of a step's output is kept."""
    return f"{paths.exec_dir}/verified.json"


def last_verification(store: Store, paths: StepPaths, state: State) -> Mapping[str, Any] | None:
    """What the last `verify` of this very output found; None if there was none."""
    data = store.get(verified_path(paths))
    try:
        found = json.loads(data or b"")
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("attempt") == state.attempt else None


def verify(
    store: Store,
    entries: Iterable[StepEntry],
    *,
    deep: bool = False,
    dry_run: bool = False,
    user: str = "",
    on_progress: Progress | None = None,
) -> Iterator[Verification]:
    """Look at the committed outputs of steps, one after the other; yields what was found of each.

    Writes down what it found and strikes out what differs, unless `dry_run`. May be stopped at any time.
    """
    struck_out = struck_out_outputs(store)
    for entry in entries:
        for state in _outputs(store, entry, struck_out):
            found = look_at(store, entry.name, entry.path, state, deep=deep, on_progress=on_progress)
            is_current = entry.state is not None and state.attempt == entry.state.attempt
            found = replace(found, is_current=is_current)
            if is_current and not found.is_ok and not _still_stands(store, entry.paths, state):
                continue  # it was evicted or made anew meanwhile: what differs is not the output any more
            if is_current and not dry_run:
                _write_down(store, entry.paths, state, found)
                if not found.is_ok and state.status == SUCCEEDED:
                    bad = Committed(step=entry, state=state, is_current=True)
                    strike_out(store, [bad], f"corrupt: {found.differences[0].text}", is_damage=True)
            yield found


def _outputs(store: Store, entry: StepEntry, struck_out: Container[Output]) -> Iterator[State]:
    """The committed outputs of a step that should have their data: the register's, then older ones.

    Of older ones that were struck out nobody expects anything any more.
    """
    current = entry.state
    if current is None:
        return
    if current.record is not None and current.status in (SUCCEEDED, INVALID):
        yield current
    if current.epoch == 1:
        return
    for state in reversed(earlier_states(store, entry.paths)):
        # What was published in place lies in the folder that later attempts changed, rightly.
        if state.record is None or state.data_root == "." or state.attempt == current.attempt:
            continue
        if (state.digest, state.attempt) in struck_out or is_evicted(store, entry.paths, state):
            continue
        if next(iter(store.tree(entry.paths.data_root(state))), None) is not None:
            yield state


def _ignore(name: str, num_bytes: int) -> None:
    """Nobody wants to know."""


def _still_stands(store: Store, paths: StepPaths, state: State) -> bool:
    now = store.read(paths.root)
    return now is not None and now.attempt == state.attempt and now.status in (SUCCEEDED, INVALID)


def look_at(
    store: Store, name: str, path: str, state: State, *, deep: bool, on_progress: Progress | None = None
) -> Verification:
    """Compare one output with its record, changing nothing."""
    paths, record = StepPaths(f"{store.prefix}/{path}"), state.record or {}
    root = paths.data_root(state)
    num_files, num_bytes = 0, 0
    manifest, differences = _read_manifest(store, f"{paths.root}/{record['manifest_ref']}", record["root_digest"])
    if manifest is not None:
        there = _files(store, root, NOT_DATA[record.get("publish", "attempt")])
        differences, same_size = _compare(manifest, there)
        num_files = len(there)
        if deep and same_size:
            differences += _Hasher(store, root).differences(same_size, partial(on_progress or _ignore, name))
            num_bytes = sum(entry.size for entry in same_size)
    return Verification(
        name=name,
        digest=state.digest,
        attempt=state.attempt,
        path=path,
        root_digest=record["root_digest"],
        is_current=True,
        deep=deep,
        num_files=num_files,
        num_bytes=num_bytes,
        differences=tuple(sorted(differences, key=lambda d: (d.path, d.kind))[:_MAX_DIFFERENCES]),
    )


def _read_manifest(store: Store, path: str, root_digest: str) -> tuple[Manifest | None, list[Difference]]:
    data = store.get(path)
    if data is None:
        return None, [Difference(kind="manifest", path="", text="the manifest is missing")]
    try:
        manifest = Manifest.from_json(data.decode())
    except (ValueError, KeyError, TypeError) as error:
        return None, [Difference(kind="manifest", path="", text=f"the manifest cannot be used: {error}")]
    if manifest.root_digest != root_digest:
        text = f"the manifest has root digest {manifest.root_digest[:16]}..., the record says {root_digest[:16]}..."
        return None, [Difference(kind="manifest", path="", text=text)]
    return manifest, []


def _files(store: Store, root: str, exclude: frozenset[str]) -> dict[str, int]:
    return {path: size for path, size in store.tree(root) if path.partition("/")[0] not in exclude}


def _compare(manifest: Manifest, there: Mapping[str, int]) -> tuple[list[Difference], list[ManifestEntry]]:
    """(differences in names and sizes, the entries whose bytes may still differ)."""
    differences, same_size = [], []
    for entry in manifest.entries:
        size = there.get(entry.path)
        if size is None:
            differences.append(Difference(kind="missing", path=entry.path, text=f"file {entry.path} is missing"))
        elif size != entry.size:
            text = f"file {entry.path} has {size:,} bytes, recorded {entry.size:,}"
            differences.append(Difference(kind="size", path=entry.path, text=text))
        else:
            same_size.append(entry)
    known = {entry.path for entry in manifest.entries}
    differences += [
        Difference(kind="extra", path=path, text=f"file {path} is not in the manifest")
        for path in there
        if path not in known
    ]
    return differences, same_size


class _Hasher:
    """Hashes files side by side, says meanwhile how many bytes were read, and gives up at once when told to."""

    def __init__(self, store: Store, root: str) -> None:
        self._store = store
        self._root = root
        self._stopped = threading.Event()
        self._mutex = threading.Lock()
        self._num_read = 0

    def differences(self, entries: Sequence[ManifestEntry], on_read: Callable[[int], None]) -> list[Difference]:
        """What is wrong with the bytes of the entries."""
        from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

        pool = ThreadPoolExecutor(max(1, min(_MAX_THREADS, os.cpu_count() or 1, len(entries))))
        try:
            jobs = [pool.submit(self._difference, entry) for entry in entries]
            pending = set(jobs)
            while pending:
                _, pending = wait(pending, timeout=_REPORT_EVERY_S, return_when=FIRST_EXCEPTION)
                on_read(self._take())
            return [found for job in jobs if (found := job.result()) is not None]
        finally:
            self._stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _take(self) -> int:
        with self._mutex:
            number, self._num_read = self._num_read, 0
            return number

    def _difference(self, entry: ManifestEntry) -> Difference | None:
        try:
            size, sha256 = self._hash(f"{self._root}/{entry.path}")
        except FileNotFoundError:
            return Difference(kind="missing", path=entry.path, text=f"file {entry.path} is missing")
        except OSError as error:
            text = f"file {entry.path} cannot be read: {error.strerror or error}"
            return Difference(kind="content", path=entry.path, text=text)
        if (size, sha256) == (entry.size, entry.sha256):
            return None
        text = f"file {entry.path} has sha256 {sha256[:16]}..., recorded {entry.sha256[:16]}..."
        return Difference(kind="content", path=entry.path, text=text)

    def _hash(self, path: str) -> tuple[int, str]:
        """(bytes, SHA-256) of a file of the store, as a manifest has them."""
        if self._store.is_local:
            if os.path.islink(path):
                target = os.fsencode(os.readlink(path))
                return len(target), hashlib.sha256(b"link\0" + target).hexdigest()
            return self._hash_local(path)
        with tempfile.TemporaryDirectory(prefix="marin-verify-") as folder:  # one file at a time and thread
            self._store.download(path, f"{folder}/file")
            return self._hash_local(f"{folder}/file")

    def _hash_local(self, path: str) -> tuple[int, str]:
        digest, size = hashlib.sha256(), 0
        with open(path, "rb", buffering=0) as file:
            while not self._stopped.is_set() and (chunk := file.read(_CHUNK_BYTES)):
                digest.update(chunk)
                size += len(chunk)
                with self._mutex:
                    self._num_read += len(chunk)
        return size, digest.hexdigest()


def _write_down(store: Store, paths: StepPaths, state: State, found: Verification) -> None:
    before = last_verification(store, paths, state)
    # how often it was found to be well, without a difference since
    times = (before.get("times", 0) if before and before.get("ok") else 0) + 1 if found.is_ok else 0
    content = {
        "format": 1,
        "digest": found.digest,
        "attempt": found.attempt,
        "root_digest": found.root_digest,
        "when": utc(),
        "deep": found.deep,
        "last_deep": utc() if found.deep else (before or {}).get("last_deep"),
        "ok": found.is_ok,
        "times": times,
        "files": found.num_files,
        "differences": [difference.to_json() for difference in found.differences],
    }
    with contextlib.suppress(PermissionError):  # a store that one may read only can still be verified
        store.put(verified_path(paths), json.dumps(content).encode() + b"\n")
