"""Files over HTTP, each one whole and as announced, or not there.

A file that is cut off goes on where it stopped (a Range request), under another name until its size and hash are those
that its source states. So a download that was killed and begun again fetches only what is missing, and what lies under
a final name is never half of anything. Where a source states no hash, a file goes on only if the server says that it
is still the one that was begun (its ETag), and else begins anew; the hash of what came is recorded, which tells a later
reader whether the copies are the same, not whether the first one was right.
"""

import email.utils
import fnmatch
import gzip
import hashlib
import http.client
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marin.io.atomic import fsync_directory, write_text
from marin.io.hashing import sha256_file
from marin.tracking.progress import report_progress

PROVENANCE = "provenance.json"
_PART = ".part"
_TAG = ".etag"  # behind _PART: the ETag of the file that was begun
_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 60.0
_SHOWN_ABSENT = 5
_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.5  # doubled after each attempt, and longer where the server says so
_LONGEST_PAUSE_S = 600.0


class DownloadError(OSError):
    """A file that did not come, or came as another one than was announced."""


class NotThereError(DownloadError):
    """A file that its server does not have (404, 410)."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file at its source, and what that says of it."""

    path: str
    """Where it goes, below the output folder."""
    url: str
    """Where it is."""
    size: int | None = None
    """Bytes; None: not stated."""
    sha256: str | None = None
    """64 hex digits; None: not stated."""
    git_sha1: str | None = None
    """Hash that git gives the file, of `blob SIZE\\0` and its bytes; None: not stated."""


@dataclass(frozen=True, kw_only=True)
class HttpFilesConfig:
    """Files below one address, which an index names, a path or address a line (plain or .gz), or the config itself."""

    base_url: str
    """Address that the files are below."""
    index: str | None
    """The index: its path below `base_url`, or a whole address. None: `files` are the paths themselves."""
    output_path: str
    """Folder that gets the files under their paths, and provenance.json."""
    index_sha256: str | None = None
    """Hash of the index as it is fetched: pins which files there are. None takes what there is, and records it."""
    files: tuple[str, ...] = ()
    """Only paths that match one of these patterns, as `fnmatch` reads them (`*` matches slashes too); empty: all."""
    num_workers: int = field(default=8, metadata={"version": {"exclude": True}})
    """Files fetched at one time."""

    def __post_init__(self) -> None:
        if self.index is None and (not self.files or any(set(path) & set("*?[") for path in self.files)):
            raise ValueError(
                f"files is {list(self.files)}: without an index nobody knows what a pattern matches; give the paths "
                "themselves, or an index"
            )


def download_http(config: HttpFilesConfig) -> dict[str, Any]:
    """Fetch the files; returns the provenance. Run again, it fetches what is missing or is not what came before.

    A file that came before is kept though its source has another one now, which is told on stderr.

    Raises ValueError for an index that is another one than was pinned, or no file that matches; DownloadError.
    """
    base, output = config.base_url.rstrip("/") + "/", Path(config.output_path)
    paths, origin = _listed(config, base)
    known = _recorded(output, base)
    files = [RemoteFile(path=path, url=f"{base}{path}", **_announced(known.get(path, {}))) for path in paths]
    fetched = fetch_all(files, output, num_workers=config.num_workers)
    fetched = [known.get(one["path"], one) for one in fetched]  # what was known before has held, or there was an error
    with ThreadPoolExecutor(config.num_workers) as pool:
        asked = [(f"{base}{path}", one) for path, one in known.items() if path in set(paths)]
        for told in pool.map(lambda of: _changed_since(*of), asked):
            if told is not None:
                print(f"{told}; what is here was kept. Fetch into another folder to have the new one", file=sys.stderr)
    return write_provenance(output, {"base_url": base, **origin}, fetched)


def _announced(recorded: Mapping[str, Any]) -> dict[str, Any]:
    return {name: recorded[name] for name in ("size", "sha256") if name in recorded}


def _changed_since(url: str, recorded: Mapping[str, Any]) -> str | None:
    """How a file is another one than was fetched, as far as its server tells by ETag or size; None: as it was."""
    try:
        with _open(url, {}, method="HEAD") as answer:
            etag, size = answer.headers.get("ETag"), answer.headers.get("Content-Length")
    except (OSError, http.client.HTTPException):  # it need not answer: the file is here
        return None
    if etag is not None and "etag" in recorded and etag != recorded["etag"]:
        return f"{url} is another file now than was fetched (ETag {etag}, then {recorded['etag']})"
    if size is not None and int(size) != recorded["size"]:
        return f"{url} is another file now than was fetched ({size} bytes, then {recorded['size']})"
    return None


def _recorded(output: Path, base: str) -> dict[str, dict[str, Any]]:
    """{path: its path, size, sha256 and, where it had one, ETag} as an earlier download from this address recorded."""
    try:
        provenance = json.loads((output / PROVENANCE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    if provenance.get("base_url") != base:
        return {}
    return {file["path"]: file for file in provenance["files"]}


def _listed(config: HttpFilesConfig, base: str) -> tuple[list[str], dict[str, str]]:
    """(paths below `base`, where they are said to be)."""
    if config.index is None:
        return sorted(set(config.files)), {}
    index = urllib.parse.urljoin(base, config.index)
    content = fetch_bytes(index)
    digest = hashlib.sha256(content).hexdigest()
    if config.index_sha256 not in (None, digest):
        raise ValueError(
            f"{index} is not the index that was pinned: its sha256 is {digest}, index_sha256 says "
            f"{config.index_sha256}. Look at what changed, and pin the new one if you want it."
        )
    text = (gzip.decompress(content) if config.index.endswith(".gz") else content).decode("utf-8")
    lines = [line.strip().removeprefix(base) for line in text.splitlines() if line.strip()]
    elsewhere = [line for line in lines if "://" in line]
    if elsewhere:
        raise ValueError(f"{index} names {elsewhere[0]}, which is not below base_url {base}")
    return matching(lines, config.files, index), {"index": index, "index_sha256": digest}


def matching(paths: Iterable[str], patterns: tuple[str, ...], source: str) -> list[str]:
    """The paths that match one of the patterns (all, where there is none), sorted. ValueError where there are none."""
    known = sorted(set(paths))
    chosen = [p for p in known if not patterns or any(fnmatch.fnmatchcase(p, pattern) for pattern in patterns)]
    if not chosen:
        there = ", ".join(known[:5]) or "nothing"
        raise ValueError(f"{source}: no file matches {list(patterns)}; it has {len(known)} files, like {there}")
    return chosen


def fetch_all(
    files: Iterable[RemoteFile], output: Path, *, num_workers: int, headers: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Fetch each file into `output`; returns path, size and sha256 of each, in the order of `files`.

    Where the server does not have some of them, the others are fetched before the DownloadError that names those. Any
    other trouble ends it. DownloadError too for one with the name of what `write_provenance` writes, which would take
    its place.
    """
    files = list(files)
    for file in files:
        if file.path == PROVENANCE:
            raise DownloadError(
                f"{file.url} would come as {PROVENANCE}, where it is told what came from where; name the files that "
                "you want by patterns that do not match it. Nothing was fetched."
            )
    progress = _Progress(files)
    with ThreadPoolExecutor(num_workers) as pool:
        futures = [pool.submit(fetch, file, output, headers=headers, progress=progress) for file in files]
        fetched: list[dict[str, Any]] = []
        absent: list[NotThereError] = []
        try:
            for future in futures:
                try:
                    fetched.append(future.result())
                except NotThereError as error:
                    absent.append(error)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if absent:
        shown = "".join(f"\n  {error}" for error in absent[:_SHOWN_ABSENT])
        more = f"\n  and {len(absent) - _SHOWN_ABSENT:,} more" if len(absent) > _SHOWN_ABSENT else ""
        others = "The others have come, and are kept when it is run again. " if fetched else ""
        raise DownloadError(
            f"{len(absent):,} of {len(files):,} files are not there:{shown}{more}\n{others}Leave out those that are "
            "not there, by patterns or another index"
        )
    return fetched


class _Progress:
    """How much of some files has come, told to the step that fetches them: in bytes where all sizes are known."""

    def __init__(self, files: list[RemoteFile]):
        self._sizes = {file.path: file.size for file in files}
        self._come: dict[str, int] = {}
        self._done: set[str] = set()
        self._lock = threading.Lock()

    def has(self, path: str, num_bytes: int) -> None:
        """So much of one file is here."""
        with self._lock:
            self._come[path] = num_bytes
            self._tell()

    def done(self, path: str) -> None:
        """A file is whole."""
        with self._lock:
            self._done.add(path)
            self._come[path] = self._sizes[path] or self._come.get(path, 0)
            self._tell()

    def _tell(self) -> None:
        sizes = list(self._sizes.values())
        if None in sizes:
            report_progress(len(self._done), len(sizes), "files")
        else:
            report_progress(sum(self._come.values()) / 1e6, sum(size or 0 for size in sizes) / 1e6, "MB")


def fetch(
    file: RemoteFile,
    output: Path,
    *,
    headers: Mapping[str, str] | None = None,
    progress: _Progress | None = None,
) -> dict[str, Any]:
    """One file, from where an earlier attempt stopped; {"path", "size", "sha256"}, and "etag" where that tells it.

    A file that is there already is hashed, and kept if it is the one announced; if not, that is told on stderr, and it
    is fetched again. `headers` go to the server of the address, not to others that it redirects to. Raises
    DownloadError.
    """
    target = output / file.path
    if not target.resolve().is_relative_to(output.resolve()):
        raise DownloadError(f"{file.url}: its path {file.path!r} leads out of {output}; nothing was fetched")
    progress = progress or _Progress([file])
    if target.exists():
        damage = _differs(file, target)
        if damage is None:
            progress.done(file.path)
            return _described(file, target)
        print(f"{target} is not what {file.url} was announced to be: {damage}. Fetching it again", file=sys.stderr)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + _PART)
    tag = None if file.sha256 or file.git_sha1 else part.with_name(part.name + _TAG)
    _retrying(file.url, lambda: _append(file, part, headers or {}, tag, progress))
    etag = {}
    if tag is not None and tag.exists():
        etag = {"etag": tag.read_text(encoding="utf-8")}
        tag.unlink()
    difference = _differs(file, part)
    if difference is not None:
        part.unlink()
        raise DownloadError(
            f"{file.url} came as another file than was announced: {difference}. Run it again; where {PROVENANCE} of an "
            "earlier download announced it and the source has changed since, fetch into another folder."
        )
    os.replace(part, target)
    fsync_directory(target.parent)
    progress.done(file.path)
    return _described(file, target) | etag


def fetch_bytes(url: str, *, headers: Mapping[str, str] | None = None) -> bytes:
    """The whole answer to a GET. Raises DownloadError."""
    return fetch_answer(url, headers=headers)[0]


def fetch_answer(url: str, *, headers: Mapping[str, str] | None = None) -> tuple[bytes, Mapping[str, str]]:
    """Body and headers of the answer to a GET. Raises DownloadError."""

    def get() -> tuple[bytes, Mapping[str, str]]:
        with _open(url, headers or {}) as answer:
            return answer.read(), answer.headers

    return _retrying(url, get)


def write_provenance(output: Path, source: Mapping[str, Any], files: list[dict[str, Any]]) -> dict[str, Any]:
    """Write what was fetched from where to provenance.json, last of all; returns it."""
    provenance = {**source, "num_bytes": sum(file["size"] for file in files), "files": files}
    write_text(output / PROVENANCE, json.dumps(provenance, indent=1) + "\n")
    return provenance


def _append(remote: RemoteFile, part: Path, headers: Mapping[str, str], tag: Path | None, progress: _Progress) -> None:
    """Fetch what `part` lacks of the file. `tag` keeps its ETag, by which to know it again; None: its hash is known."""
    start = part.stat().st_size if part.exists() else 0
    ranged = {"Range": f"bytes={start}-"} if start else {}
    if start and tag is not None:
        ranged = ranged | {"If-Range": tag.read_text(encoding="utf-8")} if tag.exists() else {}
    try:
        answer = _open(remote.url, headers, ranged)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing beyond: it is whole, or of another file, which its hash will tell
            return
        raise
    if answer.status == 206 and not _goes_on(answer.headers.get("Content-Range"), start, is_checked=tag is None):
        answer.close()
        part.unlink(missing_ok=True)  # to begin anew
        raise http.client.HTTPException(
            f"asked for the bytes from {start} on, it sent {answer.headers.get('Content-Range') or 'some others'}"
        )
    with answer, open(part, "ab" if answer.status == 206 else "wb") as file:
        if tag is not None and answer.status != 206:
            _keep_tag(answer.headers.get("ETag"), tag)
        expected = answer.headers.get("Content-Length")
        received = 0
        while chunk := answer.read(_CHUNK_BYTES):
            file.write(chunk)
            received += len(chunk)
            progress.has(remote.path, file.tell())
        file.flush()
        os.fsync(file.fileno())
    if expected is not None and received != int(expected):
        raise http.client.IncompleteRead(b"", int(expected) - received)


def _goes_on(content_range: str | None, start: int, *, is_checked: bool) -> bool:
    """Whether the part of a file that a server sends begins at `start`; where it does not say so, a hash will tell."""
    return is_checked if content_range is None else content_range.startswith(f"bytes {start}-")


def _keep_tag(etag: str | None, tag: Path) -> None:
    """A weak ETag (W/...) is one of files that may differ in bytes, and no reason to go on."""
    if etag is None or etag.startswith("W/"):
        tag.unlink(missing_ok=True)
    else:
        write_text(tag, etag)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """A token is for the server that it was given for: it goes along to other places there, and nowhere else."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and (following.type, following.host) == (req.type, req.host):
            for name, value in req.unredirected_hdrs.items():
                following.add_unredirected_header(name, value)
        return following


def _open(url: str, headers: Mapping[str, str], ranged: Mapping[str, str] | None = None, *, method: str = "GET") -> Any:
    request = urllib.request.Request(url, headers=dict(ranged or {}), method=method)
    for name, value in headers.items():
        request.add_unredirected_header(name, value)
    return urllib.request.build_opener(_Redirects).open(request, timeout=_TIMEOUT_S)


def _retrying(url: str, get: Callable[[], Any]) -> Any:
    pause = _FIRST_PAUSE_S
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return get()
        except (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException) as error:
            code = error.code if isinstance(error, urllib.error.HTTPError) else None
            may_pass = code is None or code == 429 or code >= 500
            if not may_pass or attempt == _ATTEMPTS:
                times = f" ({attempt} attempts)" if attempt > 1 else ""
                kind = NotThereError if code in (404, 410) else DownloadError
                raise kind(f"{url}: {error}{times}{_advice(code)}") from error
            asked = (
                retry_after_s(error.headers.get("Retry-After")) if isinstance(error, urllib.error.HTTPError) else None
            )
            if asked is not None and asked > _LONGEST_PAUSE_S:
                raise DownloadError(f"{url}: {error}; it wants to be asked again in {asked:.0f} s") from error
            time.sleep(max(pause, asked or 0.0))
            pause *= 2
    raise AssertionError("the last attempt returns or raises")


def retry_after_s(value: str | None) -> float | None:
    """Seconds that a server wants to be left alone for, by its Retry-After header: a number of them, or a date."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _advice(code: int | None) -> str:
    if code in (401, 403):
        return ". It wants to know who asks: set HF_TOKEN to a token that may read it, and accept its terms there."
    return ". Is the name, or the revision, spelled right?" if code == 404 else ""


def _differs(file: RemoteFile, path: Path) -> str | None:
    """What is wrong with the bytes at `path`; None: nothing."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"{size} bytes, not {file.size}"
    if file.sha256 is not None:
        digest = sha256_file(path)[1]
        return None if digest == file.sha256 else f"sha256 {digest}, not {file.sha256}"
    if file.git_sha1 is not None:
        digest = git_blob_sha1(path)
        return None if digest == file.git_sha1 else f"git's hash {digest}, not {file.git_sha1}"
    return None


def git_blob_sha1(path: Path) -> str:
    """What `git hash-object` prints of a file, 40 hex digits."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _described(file: RemoteFile, path: Path) -> dict[str, Any]:
    size, digest = sha256_file(path)
    return {"path": file.path, "size": size, "sha256": digest}
