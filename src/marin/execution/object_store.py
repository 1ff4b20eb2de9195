"""Registers and outputs in an object store: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.

A register is one object, replaced only by a conditional write: created if absent, or replaced if it still is the
version that was read. So every safety of a local disk holds here too, provided the server keeps its word; that is
tried before the first register is written (`self_test`), and a store that fails is refused unless the caller says
that nobody else runs on it. Every write of a register carries a nonce, so two writes are never the same bytes, and an
answer that got lost is settled by reading the register again.

The costs: each change of a register is a read and a write over the network, and steps work on copies (see
`marin.execution.attempt`). Small requests are repeated (`marin.io.objects`) for less than the time after which a holder
must give its lease up. Registers are never deleted, for no store deletes conditionally.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from marin.execution.status import EXEC, State, StepPaths, read_state
from marin.execution.store import Check, Log
from marin.io.objects import Bucket, Item, Patience, PrefixError, RemoteError

_TRUST_S = 3600.0  # a self-test that was passed is not repeated in this process for so long
_CLOCK_S = 60.0  # what the store's clock showed is taken on by the monotonic clock for so long
_LOG_EVERY_S = 5.0  # a log that grows is written again this often

_passed: dict[tuple[str, str | None], float] = {}  # when a self-test was passed, by prefix and endpoint
_warned: set[str] = set()  # prefixes of which people were told that they lack conditional writes
_testing = threading.Lock()


class ObjectStore:
    """Registers and files below a URL."""

    is_local = False
    fsync = False  # what the server has acknowledged is kept; copies on this machine need not outlive it

    def __init__(self, prefix: str, *, single_runner: bool = False) -> None:
        """`prefix`: s3://BUCKET/PATH, gs://, az:// or memory://. `single_runner`: go on where the store ignores
        conditional writes; then nobody else may run on it. Raises PrefixError."""
        self._bucket = Bucket(prefix)
        self.prefix = f"{self._bucket.base}/{self._bucket.path}".rstrip("/")
        self.single_runner = single_runner
        self._is_conditional = True
        self._clock: tuple[float, float] | None = None  # (the store's time, this machine's monotonic time)
        self._mutex = threading.Lock()

    # -- trying the store ---------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Try what registers need; PrefixError says what the store did instead."""
        now = time.monotonic()
        with _testing:
            if self._is_conditional and now - _passed.get((self.prefix, self._bucket.endpoint), -_TRUST_S) < _TRUST_S:
                return
            if not self._is_conditional:
                return
            failed = [check for check in self.self_test() if not check.is_ok]
            if not failed:
                _passed[self.prefix, self._bucket.endpoint] = now
                return
            told = "; ".join(f"{check.what}: {check.found}" for check in failed)
            if not self.single_runner:
                raise PrefixError(
                    f"{self.prefix} cannot hold registers that several runs may change: {told}. Use a store with "
                    "conditional writes, or say --single-runner if nobody else runs on this one meanwhile"
                )
            self._is_conditional = False
            if self.prefix not in _warned:
                _warned.add(self.prefix)
                print(
                    f"warning: {self.prefix}: {told}. A second run on this store at the same time would damage it, and "
                    "nothing would notice (--single-runner)",
                    file=sys.stderr,
                )

    def self_test(self) -> list[Check]:
        """What registers need, tried on an object that is deleted afterwards. RemoteError if the store does not answer.

        One request each: two creations, two replacements, two reads, a listing and the deletion.
        """
        patience = Patience()
        while True:
            try:
                return self._self_test()
            except RemoteError as error:  # anew, with another name: a write whose answer was lost proves nothing
                patience.bear(error)

    def _self_test(self) -> list[Check]:
        name = f"selftest-{os.urandom(6).hex()}"
        path = f"{self.prefix}/{EXEC}/{name}"
        checks = []

        def check(what: str, is_ok: bool, found: str) -> None:
            checks.append(Check(what=what, is_ok=is_ok, found="ok" if is_ok else found))

        def put(data: bytes, condition: Any) -> tuple[Any, str]:
            """(version or None, why there is none)"""
            try:
                return self._bucket.conditional_put(path, data, condition), "refused"
            except RemoteError as error:
                if error.status not in (400, 405, 501):
                    raise
                return None, str(error)  # the server does not know conditions and says so

        try:
            first, why = put(b"1", "create")
            check("an object can be created", first is not None, f"{why}, although the name is new")
            again, _ = put(b"2", "create")
            check("a second creation is refused", again is None, "it was accepted: the store ignores If-None-Match")
            data, version = self._bucket.get_versioned(path)
            check("what was written can be read", data in (b"1", b"2"), f"read {data!r} right after writing")
            second, why = put(b"3", version) if version else (None, "the store names no versions")
            check("the present version can be replaced", second is not None, why)
            stale, _ = put(b"4", version) if version else (None, "")
            check("replacing an older version is refused", stale is None, "it was accepted: the store ignores If-Match")
            data = self.get(path)
            check("the replacement can be read", data is not None and data >= b"3", f"read {data!r} after replacing")
            listed = any(item.name == name for item in self.items(f"{self.prefix}/{EXEC}"))
            check("a new object is listed", listed, "the listing right after writing does not name it")
        finally:
            with contextlib.suppress(RemoteError):
                self.delete(path)
        return checks

    # -- registers ----------------------------------------------------------------------------------------------------

    def read(self, root: str) -> State | None:
        return self._read_versioned(root)[0]

    def _read_versioned(self, root: str) -> tuple[State | None, Mapping[str, str]]:
        path = StepPaths(root).state
        data, version = self._bucket.get_versioned(path)
        return (read_state(data, path, root) if data is not None else None), version

    def compare_and_swap(
        self, root: str, expected: State | None, new: State, *, durable: bool = True, archive: bool = False
    ) -> bool:
        self.prepare()
        paths, data = StepPaths(root), new.to_json()
        patience, old = Patience(), expected if archive else None  # None once it is in the history
        trouble: RemoteError | None = None  # of the last try
        while True:
            # Its version is read before the register: who paused after reading the register does not write an old
            # state over what others, who took the step on meanwhile, have put into the history.
            kept = self._bucket.get_versioned(paths.history(old))[1] if old is not None else {}
            # Also after a write whose answer is unknown or was a refusal: the nonce tells whose write stands.
            current, version = self._read_versioned(root)
            nonce = current.nonce if current else None
            if nonce == new.nonce:
                return True
            if nonce != (expected.nonce if expected else None):
                return False
            if trouble is not None:
                patience.bear(trouble)
            try:
                if old is not None and self._replace(paths.history(old), old.to_json(), kept):
                    old = None
                if old is None and self._replace(paths.state, data, version):
                    return True
                trouble = RemoteError(f"writing {paths.state} failed: the store refuses to replace the present version")
                trouble.may_pass = True
            except RemoteError as error:
                trouble = error

    def _replace(self, path: str, data: bytes, version: Mapping[str, str]) -> bool:
        """Write if what is there still has this version ({}: is absent); without conditional writes, write."""
        if not self._is_conditional:
            self.put(path, data)
            return True
        return self._bucket.conditional_put(path, data, version or "create") is not None

    # -- plain bytes --------------------------------------------------------------------------------------------------

    def get(self, path: str) -> bytes | None:
        return self._bucket.get_versioned(path)[0]

    def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        self._bucket.put(path, data)

    def create(self, path: str, data: bytes) -> bool:
        return self._bucket.create(path, data)

    def open_log(self, path: str) -> Log:
        return _ObjectLog(self, path)

    def items(self, folder: str) -> list[Item]:
        return self._bucket.items(folder)

    def delete(self, path: str) -> None:
        self._bucket.delete(path)

    def delete_tree(self, folder: str) -> None:
        self._bucket.delete_tree(folder)

    # -- outputs ------------------------------------------------------------------------------------------------------

    def sizes(self, root: str, paths: Sequence[str]) -> list[int | None]:
        # one listing for all of them: 1,000 files are one request
        found = dict(self.tree(root))
        return [found.get(path) for path in paths]

    def tree(self, folder: str) -> Iterator[tuple[str, int]]:
        return ((path, info.size) for path, info in self._bucket.tree(folder))

    def upload(self, local_path: str, path: str) -> None:
        with open(local_path, "rb") as file:
            self._bucket.upload(file, path)

    def download(self, path: str, local_path: str) -> None:
        self._bucket.download(path, local_path)

    def age_s(self, path: str) -> float | None:
        info = self._bucket.info(path)
        infos = [info] if info is not None else [found for _, found in self._bucket.tree(path)]  # of a folder
        newest = max((found.mtime_ns / 1e9 for found in infos), default=None)
        return max(0.0, self._now() - newest) if newest is not None else None

    def _now(self) -> float:
        """What the store's own clock says, at the earliest: the time it gives an object that was just written."""
        with self._mutex:
            if self._clock is None or time.monotonic() - self._clock[1] > _CLOCK_S:
                path = f"{self.prefix}/{EXEC}/probe-{os.urandom(4).hex()}"
                self.put(path, b"")
                written = time.monotonic()
                info = self._bucket.info(path)
                if info is None:
                    raise RemoteError(f"looking at {path} failed: it was written a moment ago and is gone")
                self.delete(path)
                self._clock = (info.mtime_ns / 1e9, written)
            return self._clock[0] + time.monotonic() - self._clock[1]


class _ObjectLog:
    """Lines that are kept in memory and written whole, now and then: no object store can add to an object."""

    def __init__(self, store: ObjectStore, path: str) -> None:
        self._store = store
        self._path = path
        self._data = bytearray(store.get(path) or b"")
        self._mutex = threading.Lock()
        self._writing = threading.Lock()  # one writes at a time, the latest content last
        self._timer: threading.Timer | None = None

    def write(self, line: bytes) -> None:
        with self._mutex:
            self._data += line
            if self._timer is None:
                self._timer = threading.Timer(_LOG_EVERY_S, self._write_in_time)
                self._timer.daemon = True
                self._timer.start()

    def _write_in_time(self) -> None:
        with self._mutex:
            self._timer = None
        with contextlib.suppress(OSError):  # the next one, or close, writes it
            self._flush()

    def _flush(self) -> None:
        with self._writing:
            with self._mutex:
                data = bytes(self._data)
            self._store.put(self._path, data)

    def close(self) -> None:
        with self._mutex:
            if self._timer is not None:
                self._timer.cancel()
        self._flush()
