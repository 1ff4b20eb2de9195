"""Summaries of source files (`marin.execution.source`), kept in the process and in the user's cache folder.

Parsing what a training step reaches takes a quarter of a second, and `plan` should not: a summary is kept on disk
under the path of its file, with a digest of itself and of the file that it is of, so that it is never taken for
another's and damage is noticed. A folder that cannot be read or written changes only the speed. The price is some
kilobytes for each file that was ever looked at; `$XDG_CACHE_HOME/marin/code` may be deleted at any time.
"""

import functools
import hashlib
import json
import os

from marin.execution.source import VERSION, Definition, Import, Source, parse
from marin.io.atomic import write_text

Stamp = tuple[int, int]  # modification time in nanoseconds, size

_WORTH_KEEPING_BYTES = 2048  # a smaller file is parsed about as quickly as its summary is found


def stamp_of(path: str) -> Stamp | None:
    """What changes when a file is written, or None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=4096)
def file_sha256(path: str, stamp: Stamp) -> str | None:
    """The sha256 of a file's bytes, None if it cannot be read. `stamp` is what it is remembered by."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None


@functools.lru_cache(maxsize=4096)
def summary_of(path: str, stamp: Stamp) -> Source:
    """The summary of a Python file. `stamp` is what it is remembered by. Raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        content = file.read()
    if len(content) < _WORTH_KEEPING_BYTES:
        return parse(content)
    place = _place(path)
    kept = _load(place, hashlib.sha256(content).hexdigest())
    if kept is None:
        kept = parse(content)
        if kept.error is None:
            _keep(place, kept)
    return kept


def _place(path: str) -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "marin", "code", hashlib.sha256(os.fsencode(path)).hexdigest()[:32])


def _load(place: str, sha256: str) -> Source | None:
    """The summary kept at `place` if it is whole and of the file with these bytes."""
    try:
        with open(place, encoding="utf-8") as file:
            digest, _, text = file.read().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    if digest != _digest(sha256, text):
        return None
    definitions, stars = json.loads(text)
    return Source(
        sha256=sha256,
        definitions={
            name: Definition(
                digits=digits,
                uses=tuple(map(tuple, uses)),
                imports=tuple((Import(*bound), tuple(chain)) for bound, chain in imports),
                targets=tuple(Import(*bound) for bound in targets),
                is_import=is_import,
            )
            for name, (digits, uses, imports, targets, is_import) in definitions.items()
        },
        stars=tuple(Import(*bound) for bound in stars),
    )


def _keep(place: str, source: Source) -> None:
    definitions = {n: (d.digits, d.uses, d.imports, d.targets, d.is_import) for n, d in source.definitions.items()}
    text = json.dumps((definitions, source.stars), separators=(",", ":"))
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        write_text(place, f"{_digest(source.sha256 or '', text)}\n{text}", fsync=False)
    except OSError:
        return


def _digest(sha256: str, text: str) -> str:
    return hashlib.sha256(f"{VERSION}\0{sha256}\0{text}".encode()).hexdigest()
