"""One split of a file as Arrow record batches, and what in it is no row.

What a format leaves open is settled here, so that operations need not ask: `id` is there in every row and a string
(made of file and line where the row has none), documents have text, source and metadata, metadata is one string with a
JSON object, strings are valid UTF-8. A row for which that cannot be is given to `on_bad`, with its position and reason.
Damage to the file itself is a DamagedFileError after all that could be read: half a file never passes for a whole one.

A batch is bounded by rows and bytes, and a line by MAX_RECORD_BYTES, so memory is bounded whatever is in the file.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from marin.io.files import file_info
from marin.processing.formats.columns import read_arrow, read_parquet
from marin.processing.formats.json_lines import read_json_lines
from marin.processing.formats.pages import read_html_file, read_warc, read_wet
from marin.processing.formats.record import BadRecord as BadRecord
from marin.processing.formats.record import OnBad
from marin.processing.formats.splits import DamagedFileError, Split
from marin.processing.formats.text import read_paragraphs, read_text_file, read_text_lines

BATCH_ROWS = 2048
BATCH_BYTES = 16 << 20


def read_split(
    split: Split,
    *,
    columns: Sequence[str] | None = None,
    batch_rows: int = BATCH_ROWS,
    batch_bytes: int = BATCH_BYTES,
    on_bad: OnBad,
) -> Iterator[pa.RecordBatch]:
    """The rows of a split, in their order; at most `batch_rows` and, but for one long row, `batch_bytes` a batch.

    `columns` are the ones to read, in that order; with `record.ROW` among them each row's number in its file, and a
    `source` that the file has not is empty. Raises
    FormatError where the file is damaged, has changed since it was planned, or lacks a column.
    """
    _check_unchanged(split)
    reader = _READERS[split.format]
    for batch in reader(split, columns, batch_rows, batch_bytes, on_bad):
        yield from bounded(batch, batch_rows, batch_bytes)


def first_columns(splits: Sequence[Split]) -> list[str] | None:
    """The columns of the first row of the first split; None where there is no row. For looks before the work."""
    batches = read_split(splits[0], on_bad=_pass_over, batch_rows=1) if splits else iter(())
    first = next(batches, None)
    return None if first is None else first.schema.names


def _pass_over(record: BadRecord) -> None:
    """What is no record is told where the work is done."""


def bounded(batch: pa.RecordBatch, batch_rows: int, batch_bytes: int) -> Iterator[pa.RecordBatch]:
    """A batch in pieces of at most `batch_rows` rows and, unless it is one row, `batch_bytes` bytes; no empty ones."""
    if batch.num_rows == 0:
        return
    if batch.num_rows == 1 or (batch.num_rows <= batch_rows and batch.nbytes <= batch_bytes):
        yield batch
        return
    half = min(batch_rows, (batch.num_rows + 1) // 2)
    yield from bounded(batch.slice(0, half), batch_rows, batch_bytes)
    yield from bounded(batch.slice(half), batch_rows, batch_bytes)


def _check_unchanged(split: Split) -> None:
    try:
        info = file_info(split.path)
    except FileNotFoundError as error:
        raise DamagedFileError(f"{split.path}: the file was there when the work was planned, and is gone") from error
    if (info.size, info.mtime_ns, info.version) != (split.size, split.mtime_ns, split.version):
        raise DamagedFileError(
            f"{split.path}: the file has changed since the work was planned (it had {split.size} bytes, now "
            f"{info.size}): plan again when nobody writes to it"
        )


_READERS = {
    "jsonl": read_json_lines,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "warc": read_warc,
    "wet": read_wet,
    "html": read_html_file,
    "text": read_text_file,
    "text-paragraphs": read_paragraphs,
    "text-lines": read_text_lines,
}
