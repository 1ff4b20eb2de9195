"""The objects of a bucket: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage, behind one client.

Paths are whole URLs. An object is written whole or not at all, which is all that an object store promises and what
everything above is built on: registers (`marin.execution.object_store`), copies, the inputs and outputs of the data
engine. Small requests are repeated here, with growing pauses, for at most `_PATIENCE_S`: less than the time after which
the holder of a lease must give it up. What cannot be done is a RemoteError, which says what was asked, what the server
said, and which settings to look at.

    memory://NAME     one bucket per name and process, for tests
"""

import contextlib
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, Any, TypeVar

T = TypeVar("T")

_PATIENCE_S = 20.0  # how long a small request is tried again
_REQUEST_S = 10  # a small request without an answer has failed
_DATA_REQUEST_S = 120  # and so has one that carries a part of an output
_LONGEST_PAUSE_S = 4.0
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
# Not the module's functions: they would draw from the stream that a step in this process has seeded.
_draw = random.Random()


class PrefixError(ValueError):
    """A store cannot be used: it is not writable, or it lacks something that is needed of it."""


class RemoteError(PrefixError, OSError):
    """An object store could not be reached, or did not do what it was asked for."""

    may_pass = False  # the same request may succeed later
    status: int | None = None  # the server's HTTP status, None if there was no answer


@dataclass(frozen=True)
class Item:
    """One entry of a folder."""

    name: str  # its last part
    is_folder: bool  # whether other entries lie below it


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """What a store says of one object."""

    size: int
    mtime_ns: int  # when it was last written, by the store's clock
    version: str  # its ETag: another one when other bytes stand there; empty where the store names none


class Bucket:
    """The objects of one bucket or container."""

    def __init__(self, url: str):
        """`url`: s3://BUCKET/PATH, gs://, az:// or memory://. Raises PrefixError where it is none, or `obstore` is not
        installed."""
        self.scheme, self._bucket, self.path = _parts(url)
        self.base = f"{self.scheme}://{self._bucket}"
        self.endpoint = os.environ.get("AWS_ENDPOINT_URL") if self.scheme == "s3" else None
        self._obstore = _import_obstore()
        self._small, self._bulk = self._clients()

    def _clients(self) -> tuple[Any, Any]:
        """One for small requests, which are repeated here, and one for data, whose requests it repeats itself."""
        from obstore.store import MemoryStore, from_url

        if self.scheme == "memory":
            store = _memory.setdefault(self._bucket, MemoryStore())
            return store, store
        # An emulator of Google's or Azure's store is named by their own variables, and this one by obstore.
        may_be_plain = os.environ.get(_ALLOW_HTTP.get(self.scheme, ""), "").lower() in ("1", "true")
        plain = (self.endpoint or "").startswith("http://") or may_be_plain
        options = {"connect_timeout": timedelta(seconds=5), **({"allow_http": True} if plain else {})}

        def client(request_s: float, **retry: Any) -> Any:
            # The types of obstore's options differ from one cloud to the other.
            settings: dict[str, Any] = {
                "client_options": {**options, "timeout": timedelta(seconds=request_s)},
                "retry_config": retry,
            }
            return from_url(self.base, **settings)

        try:
            return (
                client(_REQUEST_S, max_retries=0),
                client(_DATA_REQUEST_S, max_retries=8, retry_timeout=timedelta(seconds=_DATA_REQUEST_S)),
            )
        except (ValueError, self._obstore.exceptions.BaseError) as error:
            raise PrefixError(f"{self.base}: {_words(error)}. Check {_ADVICE[self.scheme]}") from error

    def _key(self, path: str) -> str:
        assert path == self.base or path.startswith(self.base + "/"), f"{path} is not in {self.base}"
        return path[len(self.base) + 1 :]

    def _ask(self, what: str, path: str, request: Callable[[], T], *, is_conditional: bool = False) -> T:
        """The answer to a request that may be repeated. FileNotFoundError if the object is missing; RemoteError."""
        patience = Patience()
        while True:
            try:
                with self._explained(what, path, is_conditional=is_conditional):
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
        if "object with invalid path" in words:
            words += "; objects of such names cannot be read here: rename them, or name a folder without them"
        if "169.254.169.254" in str(error) or "metadata.google.internal" in str(error):
            words = "there are no credentials in the environment, and this machine has none of its own"
        trouble = RemoteError(f"{what} {path} failed: {words}. Check {_ADVICE[self.scheme]}")
        trouble.status = _status(error)
        trouble.may_pass = _may_pass(error)
        return trouble

    # -- one object ---------------------------------------------------------------------------------------------------

    def get_versioned(self, path: str) -> tuple[bytes | None, Mapping[str, str]]:
        """(content, what names this version to the store); (None, {}) if there is none."""

        def request() -> tuple[bytes, Mapping[str, str]]:
            answer = self._small.get(self._key(path))
            return bytes(answer.bytes()), _version(answer.meta)

        try:
            return self._ask("reading", path, request)
        except FileNotFoundError:
            return None, {}

    def conditional_put(self, path: str, data: bytes, condition: Any) -> Mapping[str, str] | None:
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

    def info(self, path: str) -> ObjectInfo | None:
        """What the store says of an object, None if it is not there."""
        try:
            return _info(self._ask("looking at", path, lambda: self._small.head(self._key(path))))
        except FileNotFoundError:
            return None

    def read_range(self, path: str, start: int, end: int, *, version: str = "") -> bytes:
        """The bytes from `start` to `end` of an object; with `version`, RemoteError where it has another one by now."""
        if start == end:
            return b""  # which no request can ask for

        def request() -> bytes:
            options = {"range": (start, end), **({"if_match": version} if version else {})}
            return bytes(self._bulk.get(self._key(path), options=options).bytes())

        try:
            return self._ask("reading", path, request, is_conditional=True)
        except self._obstore.exceptions.PreconditionError as error:
            trouble = RemoteError(f"{path} was written anew while it was read: read it when nobody writes to it")
            trouble.may_pass = True
            raise trouble from error

    def put(self, path: str, data: bytes) -> None:
        """Replace the object."""
        self._ask("writing", path, lambda: self._small.put(self._key(path), data, use_multipart=False))

    def create(self, path: str, data: bytes) -> bool:
        """Write unless something is there; True if this call wrote. RemoteError where that is not known."""
        patience = Patience()
        while True:
            try:
                wrote = self.conditional_put(path, data, "create") is not None
            except RemoteError as error:
                patience.bear(error)
                continue
            if not wrote and patience.is_tried:
                raise RemoteError(
                    f"writing {path}: the store failed at first and then had it, so it is not known whether this call "
                    "or another wrote it"
                )
            return wrote

    def delete(self, path: str) -> None:
        """Delete the object; no error if it is not there."""
        with contextlib.suppress(FileNotFoundError):
            self._ask("deleting", path, lambda: self._small.delete(self._key(path)))

    def upload(self, file: IO[bytes], path: str) -> None:
        """Write an object from a file that stands at its beginning, in parts; it appears when all of them are there."""
        part = max(_PART_BYTES, -(-os.fstat(file.fileno()).st_size // _MAX_PARTS))
        with self._explained("uploading", path):
            self._bulk.put(self._key(path), file, chunk_size=part, max_concurrency=_PARTS_AT_ONCE)

    def download(self, path: str, local_path: str) -> None:
        """Copy an object to a file of this machine. FileNotFoundError if it is not there."""
        for last in (*[False] * (_DOWNLOADS - 1), True):
            try:
                with open(local_path, "wb") as file, self._explained("downloading", path):
                    for piece in self._bulk.get(self._key(path)).stream(min_chunk_size=1 << 20):
                        file.write(piece)
                return
            except RemoteError as error:
                if last or not error.may_pass:
                    raise

    # -- what lies below a path ---------------------------------------------------------------------------------------

    def items(self, folder: str) -> list[Item]:
        """What lies directly in a folder, by name; [] if there is nothing."""
        found = self._ask("listing", folder, lambda: self._small.list_with_delimiter(self._key(folder) or None))
        names = [Item(key.rpartition("/")[2], True) for key in found["common_prefixes"]]
        names += [Item(meta["path"].rpartition("/")[2], False) for meta in found["objects"]]
        return sorted(names, key=lambda item: item.name)

    def listing(self, folder: str) -> Iterator[Sequence[Any]]:
        """What lies below a folder, in pieces."""
        pieces = iter(self._bulk.list(self._key(folder) or None, chunk_size=1000))
        while True:
            with self._explained("listing", folder):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def tree(self, folder: str) -> Iterator[tuple[str, ObjectInfo]]:
        """(path relative to `folder`, what the store says of it) of every object below a folder.

        Consoles and mounts mark a folder by an empty object named like it, with '/' at the end, which the client hides:
        those marks are no files, neither of this folder nor of one that holds anything.
        """
        key = self._key(folder)
        mark = None  # an empty object, until the next one tells whether it is a folder
        for metas in self.listing(folder):
            for meta in metas:
                if mark is not None and not meta["path"].startswith(mark["path"] + "/"):
                    yield _below(key, mark)
                mark = meta if meta["size"] == 0 and meta["path"] != key else None
                if mark is None and meta["path"] != key:
                    yield _below(key, meta)
        if mark is not None:
            yield _below(key, mark)

    def delete_tree(self, folder: str) -> None:
        """Delete a folder and all below it; no error if there is nothing."""
        for metas in self.listing(folder):
            with contextlib.suppress(FileNotFoundError):  # another one deletes it too
                self._ask("deleting", folder, lambda keys=[m["path"] for m in metas]: self._bulk.delete(keys))
        self.delete(folder)


class Patience:
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


def _below(folder_key: str, meta: Mapping[str, Any]) -> tuple[str, ObjectInfo]:
    return meta["path"][len(folder_key) + 1 if folder_key else 0 :], _info(meta)


def _info(meta: Mapping[str, Any]) -> ObjectInfo:
    written = meta["last_modified"]
    mtime_ns = int(written.timestamp()) * 10**9 + written.microsecond * 1000
    return ObjectInfo(size=meta["size"], mtime_ns=mtime_ns, version=meta.get("e_tag") or "")


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
        return not any(sign in str(error) for sign in ("redirect", "169.254.169.254", "object with invalid path"))
    return status in (408, 409, 425, 429) or (status >= 500 and status != 501)
