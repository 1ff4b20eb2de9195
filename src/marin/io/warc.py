"""The pages in a crawl archive (WARC, also .gz): one for every response or resource, also where there is no HTML in it.

Records are cut out of the stream here and then taken apart by fastwarc, whose own iterator takes an archive cut short
for a whole one. Of each response there is a page; where no HTML can be had of it, `problem` says why, so that whoever
counts pages counts all of them. Requests, metadata and the like are no pages and are passed over.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from marin.io.charset import decode_html
from marin.io.compression import DamagedError, compression_of, content_chunks
from marin.io.files import open_input

MAX_HEADER_BYTES = 1 << 20
_LENGTH = re.compile(rb"\r?\ncontent-length:[ \t]*(\d+)[ \t]*(?=\r?\n|$)", re.IGNORECASE)
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_HTML_BEGIN = re.compile(rb"\s*(<!--.*?-->\s*)*(<\?xml[^>]*>\s*)?<(!doctype html|html|head|body|title)\b", re.I | re.S)


@dataclass(frozen=True, kw_only=True)
class Page:
    """What one record of an archive says of one page."""

    number: int  # of the record in its file, counted from 1, those that are no pages too
    id: str  # of the record, without its angle brackets; empty where it has none
    url: str
    date: str  # as in the archive, like 2024-01-31T23:59:59Z
    status: int | None  # of the HTTP response; None where the record is no HTTP message
    content_type: str  # lower case, without parameters; empty where nobody says
    charset: str | None  # of the HTML, by Python's name
    html: str | None
    problem: str | None  # why there is no HTML: a kind, then details after a colon


@dataclass(frozen=True, kw_only=True)
class BadWarcRecord:
    """A record that cannot be taken apart."""

    number: int
    reason: str  # a kind, then details after a colon
    begin: bytes


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The bytes of one record; of one that is too long only its header."""

    number: int
    header: bytes
    data: bytes  # header and content
    length: int  # of the content, as the header says
    is_whole: bool


def read_pages(path: str | os.PathLike[str], *, max_bytes: int) -> Iterator[Page | BadWarcRecord]:
    """The pages of an archive in their order. A record of more than `max_bytes` is not held, and bad.

    Raises DamagedError, after all that could be read, where the archive is damaged or ends within a record.
    """
    for frame in _frames(path, max_bytes):
        if page := _page(frame, max_bytes):
            yield page


def read_conversions(path: str | os.PathLike[str], *, max_bytes: int) -> Iterator[tuple[Page, str] | BadWarcRecord]:
    """(page, plain text) of each conversion record, of which the WET files of Common Crawl are made.

    Otherwise as `read_pages`.
    """
    import fastwarc.warc as warc

    for frame in _frames(path, max_bytes):
        record = _record(frame)
        if isinstance(record, BadWarcRecord):
            yield record
        elif record.record_type == warc.conversion:
            try:
                text = record.reader.read().decode("utf-8")
            except UnicodeDecodeError as error:
                reason = f"not UTF-8: {error.reason} at byte {error.start}"
                yield BadWarcRecord(number=frame.number, reason=reason, begin=frame.data[:200])
            else:
                yield _described(frame, record), text


def _page(frame: _Frame, max_bytes: int) -> Page | BadWarcRecord | None:
    import fastwarc.warc as warc

    record = _record(frame)
    if isinstance(record, BadWarcRecord):
        return record
    if record.record_type == warc.revisit:
        return _described(frame, record, problem="revisit: the page is in another record")
    if record.record_type not in (warc.response, warc.resource):
        return None
    status, declared_type, declared_charset = None, record.headers.get("Content-Type"), None
    if frame.length == 0:
        return _described(frame, record, problem="no payload: the record is empty")
    if record.is_http:
        record = _http_parsed(frame, record)
        if isinstance(record, BadWarcRecord):
            return record
        status, declared_type = record.http_headers.status_code, record.http_headers.get("Content-Type")
        declared_charset = record.http_charset
    content_type = (record.headers.get("WARC-Identified-Payload-Type") or declared_type or "").partition(";")[0]
    told = {"status": status, "content_type": content_type.strip().lower()}
    if status is not None and status != 200:
        kind = "redirect" if 300 <= status < 400 else "status"
        return _described(frame, record, problem=f"{kind}: {status}", **told)
    try:
        payload = record.reader.read(max_bytes + 1)
    except OSError as error:
        return BadWarcRecord(number=frame.number, reason=f"no readable payload: {error}", begin=frame.data[:200])
    if len(payload) > max_bytes:
        reason = f"too long: a page of more than {max_bytes} bytes, unpacked"
        return BadWarcRecord(number=frame.number, reason=reason, begin=frame.data[:200])
    if not payload:
        return _described(frame, record, problem="no payload: the response is empty", **told)
    is_html = told["content_type"] in _HTML_TYPES or (not content_type and _HTML_BEGIN.match(payload[:4096]))
    if not is_html:
        return _described(frame, record, problem=f"not HTML: {told['content_type'] or 'of no type'}", **told)
    html, charset = decode_html(payload, declared=declared_charset)
    return _described(frame, record, html=html, charset=charset, **told)


def _record(frame: _Frame) -> Any:
    """fastwarc's record, or a bad one."""
    import fastwarc.warc as warc

    if not frame.is_whole:
        reason = f"too long: a record of {frame.length} bytes"
        return BadWarcRecord(number=frame.number, reason=reason, begin=frame.data[:200])
    try:
        return warc.WarcRecord.from_bytes(frame.data)
    except (OSError, ValueError) as error:
        return BadWarcRecord(number=frame.number, reason=f"not a WARC record: {error}", begin=frame.data[:200])


def _http_parsed(frame: _Frame, record: Any) -> Any:
    """The record with its HTTP header parsed and its payload unpacked, as far as what it says of its packing is true.

    Crawlers that store unpacked payloads often leave the headers that say how these were packed.
    """
    error: Exception | None = None
    first_line = frame.data[len(frame.header) : len(frame.header) + 1000].partition(b"\n")[0]
    has_bare_newlines = not first_line.endswith(b"\r")  # as ClueWeb has them
    for unpacking in ("all", "transfer", "none"):
        try:
            record.parse_http(auto_decode=unpacking, quirks_mode=has_bare_newlines)
        except (OSError, ValueError) as failure:
            error, record = failure, _record(frame)
            continue
        if record.http_headers.status_code is not None:
            return record
        break
    return BadWarcRecord(number=frame.number, reason=f"not HTTP: {error or 'no status line'}", begin=frame.data[:200])


def _described(frame: _Frame, record: Any, **told: Any) -> Page:
    headers = record.headers
    defaults = {"status": None, "content_type": "", "charset": None, "html": None, "problem": None}
    return Page(
        number=frame.number,
        id=(headers.get("WARC-Record-ID") or "").strip("<>"),
        url=(headers.get("WARC-Target-URI") or "").strip("<>"),
        date=headers.get("WARC-Date") or "",
        **{**defaults, **told},
    )


def _frames(path: str | os.PathLike[str], max_bytes: int) -> Iterator[_Frame]:
    with open_input(os.fspath(path)) as file:
        stream = _Stream(content_chunks(file, compression_of(os.fspath(path))))
        number = 0
        try:
            while stream.skip_blank():
                header = stream.read_header()
                found = _LENGTH.search(header)
                if not header.startswith(b"WARC/") or found is None:
                    raise DamagedError(f"no WARC record begins with {bytes(header[:60])!r}")
                length = int(found.group(1))
                is_whole = length <= max_bytes
                data = header + (stream.read(length) if is_whole else stream.skip(length))
                number += 1
                yield _Frame(number=number, header=header, data=data, length=length, is_whole=is_whole)
        except DamagedError as error:
            raise DamagedError(f"after record {number}: {error}") from error


class _Stream:
    """Chunks, read by the piece."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks = chunks
        self._held = bytearray()

    def _more(self) -> bool:
        chunk = next(self._chunks, b"")
        self._held += chunk
        return bool(chunk)

    def skip_blank(self) -> bool:
        """Pass over blank lines; False at the end."""
        while True:
            stripped = self._held.lstrip(b"\r\n")
            if stripped:
                self._held = stripped
                return True
            self._held = bytearray()
            if not self._more():
                return False

    def read_header(self) -> bytes:
        """Up to the blank line, and with it."""
        while (end := _HEADER_END.search(self._held)) is None:
            if len(self._held) > MAX_HEADER_BYTES:
                raise DamagedError(f"a header of more than {MAX_HEADER_BYTES} bytes")
            if not self._more():
                raise DamagedError("the file ends within the header of a record")
        return self.read(end.end())

    def read(self, size: int) -> bytes:
        while len(self._held) < size:
            if not self._more():
                raise DamagedError(f"the file ends within a record, {size - len(self._held)} bytes before its end")
        data = bytes(self._held[:size])
        del self._held[:size]
        return data

    def skip(self, size: int) -> bytes:
        """Pass over bytes; gives none."""
        while size > len(self._held):
            size -= len(self._held)
            self._held = bytearray()
            if not self._more():
                raise DamagedError(f"the file ends within a record, {size} bytes before its end")
        del self._held[:size]
        return b""
