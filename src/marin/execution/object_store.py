"""Registers and outputs in an object store: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.

A register is one object, replaced only by a conditional write: created if absent, or replaced if it still is the
version that was read. So every safety of a local disk holds here too, provided the server keeps its word; that is
tried before the first register is written (`self_test`), and a store that fails is refused unless the caller says
that nobody else runs on it. Every write of a register carries a nonce, so two writes are never the same bytes, and an
answer that got lost is settled by reading the register again.

The costs: each change of a register is a read and a write over the network, and steps work on copies (see
`marin.execution.attempt`). Small requests are repeated here, with growing pauses, for at most `_PATIENCE_S`: less than
the time after which a holder must give its lease up. Registers are never deleted, for no store deletes conditionally.

    memory://NAME     one store per name and process, for tests
"""

import contextlib
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from marin.execution.status import EXEC, State, StepPaths, read_state
from marin.execution.store import Check, Item, Log, PrefixError

T = TypeVar("T")

_PATIENCE_S = 20.0  # how long a small request is tried again
_REQUEST_S = 10  # a small request without an answer has failed
_DATA_REQUEST_S = 120  # and so has one that carries a part of an output
_LONGEST_PAUSE_S = 4.0
_TRUST_S = 3600.0  # a self-test that was passed is not repeated in this process for so long
_CLOCK_S = 60.0  # what the store's clock showed is taken on by the monotonic clock for so long
_LOG_EVERY_S = 5.0  # a log that grows is written again this often
_PART_BYTES = 8 << 20  # a file is uploaded in parts of this size,
_MAX_PARTS = 9_000  # or of larger ones if it had more than so many: S3 takes 10,000
_PARTS_AT_ONCE = 4
_DOWNLOADS = 3  # a download that breaks off is begun again

_ALLOW_HTTP = {"gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}
_ADVICE = {
    "s3": "the bucket's name, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), AWS_REGION, and "
    "AWS_ENDPOINT_URL for a server that is not Amazon's",
    "gs": "the bucket's name and GOOGLE_APPLICATION_CREDENTIALS (the path of a key file)",
    "az": "the container's name, AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "memory": "the name",
}
_memory: dict[str, Any] = {}  # stores of memory://, by name
_passed: dict[tuple[str, str | None], float] = {}  # when a self-test was passed, by prefix and endpoint
_warned: set[str] = set()  # prefixes of which people were told that they lack conditional writes
_testing = threading.Lock()
# Not the module's functions: they would draw from the stream that a step in this process has seeded.
_draw = random.Random()


class RemoteError(PrefixError, OSError):
    """An object store could not be reached, or did not do what it was asked for."""

    may_pass = False  # the same request may succeed later
    status: int | None = None  # the server's HTTP status, None if there was no answer


class ObjectStore:
    """Registers and files below a URL."""

    is_local = False
    fsync = False  # what the server has acknowledged is kept; copies on this machine need not outlive it

    def __init__(self, prefix: str, *, single_runner: bool = False) -> None:
        """`prefix`: s3://BUCKET/PATH, gs://, az:// or memory://. `single_runner`: go on where the store ignores
        conditional writes; then nobody else may run on it. Raises PrefixError."""
        self._scheme, self._bucket, path = _parts(prefix)
        self._base = f"{self._scheme}://{self._bucket}"
        self.prefix = f"{self._base}/{path}".rstrip("/")
        self.single_runner = single_runner
        self._is_conditional = True
        self._endpoint = os.environ.get("AWS_ENDPOINT_URL") if self._scheme == "s3" else None
        self._obstore = _import_obstore()
        self._small, self._bulk = self._clients()
        self._clock: tuple[float, float] | None = None  # (the store's time, this machine's monotonic time)
        self._mutex = threading.Lock()

    def _clients(self) -> tuple[Any, Any]:
        """One for small requests, which are repeated here, and one for data, whose requests it repeats itself."""
        from obstore.store import MemoryStore, from_url

        if self._scheme == "memory":
            store = _memory.setdefault(self._bucket, MemoryStore())
            return store, store
        # An emulator of Google's or Azure's store is named by their own variables, and this one by obstore.
        may_be_plain = os.environ.get(_ALLOW_HTTP.get(self._scheme, ""), "").lower() in ("1", "true")
        plain = (self._endpoint or "").startswith("http://") or may_be_plain
        options = {"connect_timeout": timedelta(seconds=5), **({"allow_http": True} if plain else {})}

        def client(request_s: float, **retry: Any) -> Any:
            # The types of obstore's options differ from one cloud to the other.
            settings: dict[str, Any] = {
                "client_options": {**options, "timeout": timedelta(seconds=request_s)},
                "retry_config": retry,
            }
            return from_url(self._base, **settings)

        try:
            return (
                client(_REQUEST_S, max_retries=0),
                client(_DATA_REQUEST_S, max_retries=8, retry_timeout=timedelta(seconds=_DATA_REQUEST_S)),
            )
        except (ValueError, self._obstore.exceptions.BaseError) as error:
            raise PrefixError(f"{self.prefix}: {_words(error)}. Check {_ADVICE[self._scheme]}") from error

    # -- asking -------------------------------------------------------------------------------------------------------

    def _key(self, path: str) -> str:
        assert path == self._base or path.startswith(self._base + "/"), f"{path} is not in {self._base}"
        return path[len(self._base) + 1 :]

    def _ask(self, what: str, path: str, request: Callable[[], T]) -> T:
        """The answer to a request that may be repeated. FileNotFoundError if the object is missing; RemoteError."""
        patience = _Patience()
        while True:
            try:
                with self._explained(what, path):
                    return request()
            except RemoteError as error:
                patience.bear(error)

    @contextlib.contextmanager
    def _explained(self, what: str, path: str, *, is_conditional: bool = False) -> Iterator[None]:
        """Inside, failures of the store become RemoteError, which says what was asked and what the server said.

        `is_conditional`: that a condition does not hold is an answer, not a failure.
        """
        exceptions = self._obstore.exceptions
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
                raise self._trouble(what, path, error) from error
            raise FileNotFoundError(f"{path} does not exist") from error
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
            if is_conditional:
                raise
            trouble = self._trouble(what, path, error)  # two requests for one object at once
            trouble.may_pass = True
            raise trouble from error
        except exceptions.BaseError as error:
            raise self._trouble(what, path, error) from error
        except ValueError as error:
            if "parse path" not in str(error):
                raise
            raise RemoteError(f"{path!r} cannot be the name of an object: {_words(error)}; rename the file") from error

    def _trouble(self, what: str, path: str, error: Exception) -> RemoteError:
        words = _words(error)
        if "169.254.169.254" in str(error) or "metadata.google.internal" in str(error):
            words = "there are no credentials in the environment, and this machine has none of its own"
        trouble = RemoteError(f"{what} {path} failed: {words}. Check {_ADVICE[self._scheme]}")
        trouble.status = _status(error)
        trouble.may_pass = _may_pass(error)
        return trouble

    # -- trying the store ---------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Try what registers need; PrefixError says what the store did instead."""
        now = time.monotonic()
        with _testing:
            if self._is_conditional and now - _passed.get((self.prefix, self._endpoint), -_TRUST_S) < _TRUST_S:
                return
            if not self._is_conditional:
                return
            failed = [check for check in self.self_test() if not check.is_ok]
            if not failed:
                _passed[self.prefix, self._endpoint] = now
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
        patience = _Patience()
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
                return self._conditional_put(path, data, condition), "refused"
            except RemoteError as error:
                if error.status not in (400, 405, 501):
                    raise
                return None, str(error)  # the server does not know conditions and says so

        try:
            first, why = put(b"1", "create")
            check("an object can be created", first is not None, f"{why}, although the name is new")
            again, _ = put(b"2", "create")
            check("a second creation is refused", again is None, "it was accepted: the store ignores If-None-Match")
            data, version = self._get_versioned(path)
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
        data, version = self._get_versioned(path)
        return (read_state(data, path, root) if data is not None else None), version

    def _get_versioned(self, path: str) -> tuple[bytes | None, Mapping[str, str]]:
        """(content, what names this version to the store); (None, {}) if there is none."""

        def request() -> tuple[bytes, Mapping[str, str]]:
            answer = self._small.get(self._key(path))
            return bytes(answer.bytes()), _version(answer.meta)

        try:
            return self._ask("reading", path, request)
        except FileNotFoundError:
            return None, {}

    def _conditional_put(self, path: str, data: bytes, condition: Any) -> Mapping[str, str] | None:
        """Write if the condition holds ("create", or a version); the new version, None if it does not hold.

        RemoteError if that is not known: the write may or may not have taken place.
        """
        exceptions = self._obstore.exceptions
        try:
            with self._explained("writing", path, is_conditional=True):
                return _version(self._small.put(self._key(path), data, mode=condition, use_multipart=False))
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
            if _status(error) == 409 and "ConditionalRequestConflict" in str(error):
                # S3: another request for this object was under way, which says nothing of what there is now
                trouble = RemoteError(f"writing {path} failed: {_words(error)}")
                trouble.status, trouble.may_pass = 409, True
                raise trouble from error
            return None
        except FileNotFoundError:  # there is nothing to replace
            return None

    def compare_and_swap(
        self, root: str, expected: State | None, new: State, *, durable: bool = True, archive: bool = False
    ) -> bool:
        self.prepare()
        paths, data = StepPaths(root), new.to_json()
        patience, old = _Patience(), expected if archive else None  # None once it is in the history
        trouble: RemoteError | None = None  # of the last try
        while True:
            # Its version is read before the register: who paused after reading the register does not write an old
            # state over what others, who took the step on meanwhile, have put into the history.
            kept = self._get_versioned(paths.history(old))[1] if old is not None else {}
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
        return self._conditional_put(path, data, version or "create") is not None

    # -- plain bytes --------------------------------------------------------------------------------------------------

    def get(self, path: str) -> bytes | None:
        return self._get_versioned(path)[0]

    def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        self._ask("writing", path, lambda: self._small.put(self._key(path), data, use_multipart=False))

    def create(self, path: str, data: bytes) -> bool:
        patience = _Patience()
        while True:
            try:
                wrote = self._conditional_put(path, data, "create") is not None
            except RemoteError as error:
                patience.bear(error)
                continue
            if not wrote and patience.is_tried:
                raise RemoteError(
                    f"writing {path}: the store failed at first and then had it, so it is not known whether this call "
                    "or another wrote it"
                )
            return wrote

    def open_log(self, path: str) -> Log:
        return _ObjectLog(self, path)

    def items(self, folder: str) -> list[Item]:
        found = self._ask("listing", folder, lambda: self._small.list_with_delimiter(self._key(folder) or None))
        names = [Item(key.rpartition("/")[2], True) for key in found["common_prefixes"]]
        names += [Item(meta["path"].rpartition("/")[2], False) for meta in found["objects"]]
        return sorted(names, key=lambda item: item.name)

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._ask("deleting", path, lambda: self._small.delete(self._key(path)))

    def delete_tree(self, folder: str) -> None:
        for metas in self._listing(folder):
            with contextlib.suppress(FileNotFoundError):  # another one deletes it too
                self._ask("deleting", folder, lambda keys=[m["path"] for m in metas]: self._bulk.delete(keys))
        self.delete(folder)

    # -- outputs ------------------------------------------------------------------------------------------------------

    def _listing(self, folder: str) -> Iterator[Sequence[Any]]:
        """What lies below a folder, in pieces."""
        pieces = iter(self._bulk.list(self._key(folder) or None, chunk_size=1000))
        while True:
            with self._explained("listing", folder):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def sizes(self, root: str, paths: Sequence[str]) -> list[int | None]:
        # one listing for all of them: 1,000 files are one request
        found = dict(self.tree(root))
        return [found.get(path) for path in paths]

    def tree(self, folder: str) -> Iterator[tuple[str, int]]:
        start = len(self._key(folder)) + 1 if self._key(folder) else 0
        for metas in self._listing(folder):
            for meta in metas:
                yield meta["path"][start:], meta["size"]

    def upload(self, local_path: str, path: str) -> None:
        part = max(_PART_BYTES, -(-os.path.getsize(local_path) // _MAX_PARTS))
        with open(local_path, "rb") as file, self._explained("uploading", path):
            self._bulk.put(self._key(path), file, chunk_size=part, max_concurrency=_PARTS_AT_ONCE)

    def download(self, path: str, local_path: str) -> None:
        for last in (*[False] * (_DOWNLOADS - 1), True):
            try:
                with open(local_path, "wb") as file, self._explained("downloading", path):
                    for piece in self._bulk.get(self._key(path)).stream(min_chunk_size=1 << 20):
                        file.write(piece)
                return
            except RemoteError as error:
                if last or not error.may_pass:
                    raise

    def age_s(self, path: str) -> float | None:
        newest = None
        with contextlib.suppress(FileNotFoundError):
            meta = self._ask("looking at", path, lambda: self._small.head(self._key(path)))
            newest = meta["last_modified"].timestamp()
        if newest is None:  # a folder
            times = (meta["last_modified"].timestamp() for metas in self._listing(path) for meta in metas)
            newest = max(times, default=None)
        return max(0.0, self._now() - newest) if newest is not None else None

    def _now(self) -> float:
        """What the store's own clock says, at the earliest: the time it gives an object that was just written."""
        with self._mutex:
            if self._clock is None or time.monotonic() - self._clock[1] > _CLOCK_S:
                path = f"{self.prefix}/{EXEC}/probe-{os.urandom(4).hex()}"
                self.put(path, b"")
                written = time.monotonic()
                meta = self._ask("looking at", path, lambda: self._small.head(self._key(path)))
                self.delete(path)
                self._clock = (meta["last_modified"].timestamp(), written)
            return self._clock[0] + time.monotonic() - self._clock[1]


class _Patience:
    """How often and how long something that fails is tried again."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + _PATIENCE_S
        self._pause_s = 0.1
        self.is_tried = False  # a try has failed

    def bear(self, error: RemoteError) -> None:
        """Wait for the next try; raise the error if it will not pass or has lasted too long."""
        self.is_tried = True
        if not error.may_pass or time.monotonic() + self._pause_s > self._deadline:
            raise error
        time.sleep(_draw.uniform(self._pause_s / 2, self._pause_s))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)


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


def _parts(prefix: str) -> tuple[str, str, str]:
    """(scheme, bucket, path in it) of a URL."""
    match = re.fullmatch(r"(\w+)://([^/?#]+)/?([^?#]*)", prefix)
    if match is None or match[1] not in _ADVICE:
        raise PrefixError(
            f"prefix {prefix!r} is neither a folder nor an object store: give s3://BUCKET/PATH, gs://BUCKET/PATH, "
            "az://CONTAINER/PATH, or a path of this machine"
        )
    path = match[3].rstrip("/")
    if path and any(part in ("", ".", "..") for part in path.split("/")):
        raise PrefixError(
            f"prefix {prefix!r}: its path has an empty part, '.' or '..', which object stores take as names"
        )
    return match[1], match[2], path


def _import_obstore() -> Any:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        raise PrefixError("stores that are not folders need one more package: pip install 'marin[remote]'") from error
    return obstore


def _version(meta: Mapping[str, Any]) -> Mapping[str, str]:
    """What names a version: an ETag for S3 and Azure, a generation for Google; given back as the store gave it."""
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}


def _words(error: Exception) -> str:
    """What the server said, without the request around it."""
    text = str(error).partition("\n\nDebug source")[0]
    said = re.search(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", text, re.DOTALL)
    if said:
        return f"{said[1]}: {said[2].rstrip('.')}" + (f" (HTTP {_status(error)})" if _status(error) else "")
    return " ".join(text.split())[:300].rstrip(".")


def _status(error: Exception) -> int | None:
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later: the server is busy or failed, or nobody answered."""
    if type(error).__name__ != "GenericError":
        return False
    status = _status(error)
    if status is None:
        return "redirect" not in str(error) and "169.254.169.254" not in str(error)
    return status in (408, 409, 425, 429) or (status >= 500 and status != 501)
