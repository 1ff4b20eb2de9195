"""Web pages as rows: out of crawl archives, and from files of HTML.

Columns: `id` (of the record, or the file's name), `url`, `date`, `status`, `content_type`, `html` and `problem`. A
response without HTML is a row too: `html` is null and `problem` says why ("redirect: 301", "not HTML: image/png", "no
payload: ..."), so that a pipeline that drops it counts it.
"""

import json
from collections.abc import Iterator, Sequence

import pyarrow as pa

from marin.io.charset import decode_html
from marin.io.compression import DamagedError
from marin.io.warc import BadWarcRecord, Page, read_conversions, read_pages
from marin.processing.formats import record
from marin.processing.formats.record import DOCUMENT_SCHEMA, BadRecord, OnBad, RowBuffer, shown_text
from marin.processing.formats.splits import DamagedFileError, Split
from marin.processing.formats.text import read_whole

PAGE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("url", pa.string()),
        pa.field("date", pa.string()),
        pa.field("status", pa.int64()),
        pa.field("content_type", pa.string()),
        pa.field("html", pa.string()),
        pa.field("problem", pa.string()),
    ]
)


def read_warc(
    split: Split, columns: Sequence[str] | None, batch_rows: int, batch_bytes: int, on_bad: OnBad
) -> Iterator[pa.RecordBatch]:
    """One row a response."""
    buffer = RowBuffer(split, PAGE_SCHEMA, columns, batch_rows, batch_bytes)
    try:
        for page in read_pages(split.path, max_bytes=record.MAX_RECORD_BYTES):
            if isinstance(page, BadWarcRecord):
                on_bad(_bad(split, page))
            else:
                yield from buffer.add(_page_row(split, page), len(page.html or ""))
    except DamagedError as error:
        yield from buffer.flush()
        raise DamagedFileError(f"{split.path}: {error}") from error
    yield from buffer.flush()


def read_wet(
    split: Split, columns: Sequence[str] | None, batch_rows: int, batch_bytes: int, on_bad: OnBad
) -> Iterator[pa.RecordBatch]:
    """One document a plain-text conversion of a page."""
    buffer = RowBuffer(split, DOCUMENT_SCHEMA, columns, batch_rows, batch_bytes)
    try:
        for found in read_conversions(split.path, max_bytes=record.MAX_RECORD_BYTES):
            if isinstance(found, BadWarcRecord):
                on_bad(_bad(split, found))
                continue
            page, text = found
            metadata = json.dumps({"url": page.url, "date": page.date}, ensure_ascii=False)
            row = {"id": page.id or f"{split.label}:{page.number}", "text": text, "source": "", "metadata": metadata}
            yield from buffer.add(row, len(text))
    except DamagedError as error:
        yield from buffer.flush()
        raise DamagedFileError(f"{split.path}: {error}") from error
    yield from buffer.flush()


def read_html_file(
    split: Split, columns: Sequence[str] | None, batch_rows: int, batch_bytes: int, on_bad: OnBad
) -> Iterator[pa.RecordBatch]:
    """One row: the page that the file is. Its address is not known."""
    buffer = RowBuffer(split, PAGE_SCHEMA, columns, batch_rows, batch_bytes)
    content = read_whole(split, on_bad)
    if content is not None:
        html = decode_html(content)[0] if content else None
        row = {
            "id": split.label,
            "url": "",
            "date": "",
            "status": None,
            "content_type": "text/html",
            "html": html,
            "problem": None if content else "no payload: the file is empty",
        }
        yield from buffer.add(row, len(content))
    yield from buffer.flush()


def _page_row(split: Split, page: Page) -> dict[str, object]:
    return {
        "id": page.id or f"{split.label}:{page.number}",
        "url": page.url,
        "date": page.date,
        "status": page.status,
        "content_type": page.content_type,
        "html": page.html,
        "problem": page.problem,
    }


def _bad(split: Split, bad: BadWarcRecord) -> BadRecord:
    return BadRecord(position=f"{split.label}:{bad.number}", reason=bad.reason, text=shown_text(bad.begin))
