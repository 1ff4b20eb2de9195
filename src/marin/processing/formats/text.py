"""Plain text as documents: a file, a paragraph (blank lines between) or a line is one.

Their ids are the file's name, with the line where the paragraph or line is. Text is UTF-8; what is not, is bad.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from marin.io.compression import DamagedError, compression_of, content_chunks
from marin.io.files import open_input
from marin.processing.formats import record
from marin.processing.formats.lines import TooLong, split_lines
from marin.processing.formats.record import DOCUMENT_SCHEMA, BadRecord, OnBad, RowBuffer, shown_text
from marin.processing.formats.splits import DamagedFileError, Split


def read_text_file(
    split: Split, columns: Sequence[str] | None, batch_rows: int, batch_bytes: int, on_bad: OnBad
) -> Iterator[pa.RecordBatch]:
    """One document: the whole file."""
    buffer = RowBuffer(split, DOCUMENT_SCHEMA, columns, batch_rows, batch_bytes)
    content = read_whole(split, on_bad)
    if content is not None and (text := _decoded(content, split.label, on_bad)) is not None:
        yield from buffer.add(_document(split.label, text), len(content))
    yield from buffer.flush()


def read_text_lines(
    split: Split, columns: Sequence[str] | None, batch_rows: int, batch_bytes: int, on_bad: OnBad
) -> Iterator[pa.RecordBatch]:
    """One document a line that is not empty, one of white space too."""
    buffer = RowBuffer(split, DOCUMENT_SCHEMA, columns, batch_rows, batch_bytes)
    for number, line in _lines(split, on_bad):
        if stripped := line.rstrip(b"\r"):
            yield from _add(buffer, split, number, stripped, on_bad)
    yield from buffer.flush()


def read_paragraphs(
    split: Split, columns: Sequence[str] | None, batch_rows: int, batch_bytes: int, on_bad: OnBad
) -> Iterator[pa.RecordBatch]:
    """One document a run of lines that are not blank, with the line ends inside it."""
    buffer = RowBuffer(split, DOCUMENT_SCHEMA, columns, batch_rows, batch_bytes)
    held: list[bytes] = []
    size = first = 0
    for number, line in _lines(split, on_bad):
        if not line.strip():
            if held:
                yield from _add(buffer, split, first, b"\n".join(held).rstrip(b"\r"), on_bad)
            held, size = [], 0
            continue
        if not held:
            first = number
        size += len(line) + 1
        if size <= record.MAX_RECORD_BYTES:
            held.append(line)
            continue
        reason = f"too long: a paragraph of more than {record.MAX_RECORD_BYTES} bytes is cut here"
        on_bad(BadRecord(position=f"{split.label}:{first}", reason=reason, text=shown_text(held[0] if held else line)))
        held, size = [], 0
    if held:
        yield from _add(buffer, split, first, b"\n".join(held).rstrip(b"\r"), on_bad)
    yield from buffer.flush()


def read_whole(split: Split, on_bad: OnBad) -> bytes | None:
    """The content of a file that is one document; None, and told as bad, where it is too long for one."""
    content, size = bytearray(), 0
    with open_input(split.path) as file:
        try:
            for chunk in content_chunks(file, compression_of(split.path)):
                size += len(chunk)
                if size <= record.MAX_RECORD_BYTES:
                    content += chunk
        except DamagedError as error:
            raise DamagedFileError(f"{split.path}: after {size} bytes of content: {error}") from error
    if size > record.MAX_RECORD_BYTES:
        reason = f"too long: a file of {size} bytes, more than {record.MAX_RECORD_BYTES}"
        on_bad(BadRecord(position=split.label, reason=reason, text=shown_text(bytes(content[:1000]))))
        return None
    return bytes(content)


def _lines(split: Split, on_bad: OnBad) -> Iterator[tuple[int, bytes]]:
    number = 0
    with open_input(split.path) as file:
        try:
            chunks = content_chunks(file, compression_of(split.path))
            for number, line in enumerate(split_lines(chunks, record.MAX_RECORD_BYTES), start=1):
                if isinstance(line, TooLong):
                    reason = f"too long: a line of {line.size} bytes, more than {record.MAX_RECORD_BYTES}"
                    bad = BadRecord(position=f"{split.label}:{number}", reason=reason, text=shown_text(line.begin))
                    on_bad(bad)
                else:
                    yield number, line
        except DamagedError as error:
            raise DamagedFileError(f"{split.path}: after line {number}: {error}") from error


def _add(buffer: RowBuffer, split: Split, number: int, data: bytes, on_bad: OnBad) -> Iterator[pa.RecordBatch]:
    position = f"{split.label}:{number}"
    if (text := _decoded(data, position, on_bad)) is not None:
        yield from buffer.add(_document(position, text), len(data))


def _document(name: str, text: str) -> dict[str, str]:
    return {"id": name, "text": text, "source": "", "metadata": "{}"}


def _decoded(data: bytes, position: str, on_bad: OnBad) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: {error.reason} at byte {error.start}"
        on_bad(BadRecord(position=position, reason=reason, text=shown_text(data)))
        return None
