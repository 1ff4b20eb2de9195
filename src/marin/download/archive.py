"""WARC/1.1 files, written so that a crawl can be killed at any moment.

Every record is a gzip member of its own, appended to a file under a temporary name. Whoever writes keeps, with its
other state, how long the file was when that state was true; going on, the file is cut to that length. It gets its name
when it is full, or the crawl ends.
"""

import base64
import hashlib
import os
import uuid
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

PART = ".part"
Header = tuple[str, str]


def warc_record(kind: str, content: bytes, headers: Iterable[Header]) -> bytes:
    """One record as a gzip member; WARC-Record-ID is among `headers`."""
    digest = base64.b32encode(hashlib.sha1(content, usedforsecurity=False).digest()).decode()
    lines = [
        "WARC/1.1",
        f"WARC-Type: {kind}",
        *(f"{name}: {value}" for name, value in headers),
        f"WARC-Block-Digest: sha1:{digest}",
        f"Content-Length: {len(content)}",
    ]
    data = "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + content + b"\r\n\r\n"
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()


def new_record_id() -> str:
    """An id that no other record has."""
    return f"<urn:uuid:{uuid.uuid4()}>"


def http_response_block(status: int, reason: str, headers: Iterable[Header], body: bytes) -> bytes:
    """An HTTP response as archives have it: headers that told of its packing for the way are renamed."""
    lines = [f"HTTP/1.1 {status} {reason}".rstrip()]
    for name, value in headers:
        is_of_the_way = name.lower() in ("transfer-encoding", "content-length")
        lines.append(f"{'X-Crawl-' if is_of_the_way else ''}{name}: {value}")
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("utf-8", errors="replace") + b"\r\n\r\n" + body


def http_request_block(path: str, headers: Mapping[str, str]) -> bytes:
    """An HTTP request as archives have it."""
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode("utf-8", errors="replace") + b"\r\n\r\n"


class ArchiveWriter:
    """One WARC file that grows."""

    def __init__(self, path: Path, *, length: int):
        """Go on at `length` bytes of the unfinished file; 0 begins it anew."""
        self._path = path
        self._part = path.with_name(path.name + PART)
        self._file: IO[bytes] = open(self._part, "r+b" if length else "wb")  # noqa: SIM115 (closed by finish)
        self._file.truncate(length)
        self._file.seek(length)
        self.length = length

    def append(self, records: Iterable[bytes]) -> int:
        """Add records; the bytes are handed to the system before it returns. The file's length after them."""
        for record in records:
            self._file.write(record)
        self._file.flush()
        self.length = self._file.tell()
        return self.length

    def finish(self) -> None:
        """Put the file on the disk, under its name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, self._path)

    def close(self) -> None:
        """Leave it unfinished."""
        self._file.close()
