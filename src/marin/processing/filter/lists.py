"""Lists that people bring: one entry a line, UTF-8; empty lines and those that begin with # are passed over.

An operation holds a list by path and SHA-256, so that a changed list is another operation and a list that changes under
a running stage is an error.
"""

import functools
import hashlib
from pathlib import Path


def digest_of(path: str) -> str:
    """SHA-256 of a list's bytes. Raises FileNotFoundError, saying what such a file is."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no list at {path}: a text file with one entry a line is needed")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@functools.cache
def entries(path: str, sha256: str) -> frozenset[str]:
    """The entries in small letters. ValueError where the file is not the one of that digest, or has none."""
    data = Path(path).read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"the list {path} has changed since this stage began; run the stage again")
    lines = (line.strip() for line in data.decode("utf-8").splitlines())
    found = frozenset(line.lower() for line in lines if line and not line.startswith("#"))
    if not found:
        raise ValueError(f"the list {path} has no entries: nothing could be found by it")
    return found
