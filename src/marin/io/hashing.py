"""SHA-256 of files: the one hash that everybody can check, with `sha256sum`, without this package.

Faster hashes exist (BLAKE3 by about four times on one core); being checkable by hand is worth more to a record that
should be believed in ten years.
"""

import hashlib
import os

_CHUNK_BYTES = 1 << 20


def sha256_file(path: str | os.PathLike[str], *, fsync: bool = False) -> tuple[int, str]:
    """(size in bytes, SHA-256 as 64 hex digits) of the file, read once; `fsync` also flushes it to the disk.

    The size is the number of bytes that were hashed, so the two always belong together.
    """
    digest = hashlib.sha256()
    size = 0
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while chunk := os.read(descriptor, _CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        if fsync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return size, digest.hexdigest()
