"""What readers of all formats share: limits, what a record that is none is told as, JSON columns."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from marin.processing.formats.splits import FormatError, Split

MAX_RECORD_BYTES = 128 << 20  # of a line, a text file or a page; a longer one is no document, and bad
SHOWN_CHARACTERS = 200
ROW = "_row"  # may be asked for as a column: the row's number in its file, from 0, bad ones counted
JSON_COLUMN = {b"format": b"json"}  # metadata of an Arrow field whose strings are JSON, put back as such by writers


DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("text", pa.string()),
        pa.field("source", pa.string()),
        pa.field("metadata", pa.string(), metadata=JSON_COLUMN),
    ]
)


@dataclass(frozen=True, kw_only=True)
class BadRecord:
    """What stands where a row should, and is none."""

    position: str  # FILE:LINE, or FILE:ROW where the format has rows; counted from 1
    reason: str  # a kind, then details after a colon
    text: str  # how it begins

    @property
    def kind(self) -> str:
        return self.reason.partition(":")[0]


OnBad = Callable[[BadRecord], None]


def dump_json(value: Any) -> str:
    """A value as JSON text without spaces; NaN and infinities, which JSON has not, are null."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # integers beyond 64 bits, which only the slow parser gives
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def shown_text(data: bytes) -> str:
    """How something that is no record begins, for people."""
    return data[: 4 * SHOWN_CHARACTERS].decode("utf-8", errors="replace")[:SHOWN_CHARACTERS]


def check_columns(split: Split, columns: Sequence[str], known: Iterable[str]) -> Sequence[str]:
    """The columns that are asked for. Raises FormatError where one is not known, and names those that are."""
    names = list(known)
    for name in columns:
        if name not in names and name != ROW:
            raise FormatError(f"{split.path}: no column {name!r}; the columns are {', '.join(names) or 'none'}")
    return columns


class RowBuffer:
    """Rows of a fixed schema, until they are a batch."""

    def __init__(
        self, split: Split, schema: pa.Schema, columns: Sequence[str] | None, batch_rows: int, batch_bytes: int
    ):
        names = schema.names if columns is None else check_columns(split, columns, schema.names)
        self._schema = pa.schema([pa.field(ROW, pa.int64()) if name == ROW else schema.field(name) for name in names])
        self._num_rows = 0
        self._limits = (batch_rows, batch_bytes)
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, row: dict[str, Any], size: int) -> Iterator[pa.RecordBatch]:
        """Add a row of about `size` bytes; gives a batch when it is full."""
        self._rows.append({**row, ROW: self._num_rows})
        self._num_rows += 1
        self._bytes += size
        if len(self._rows) >= self._limits[0] or self._bytes >= self._limits[1]:
            yield from self.flush()

    def flush(self) -> Iterator[pa.RecordBatch]:
        """What is left, as a batch."""
        if self._rows:
            yield pa.RecordBatch.from_arrays(
                [pa.array([row[field.name] for row in self._rows], field.type) for field in self._schema],
                schema=self._schema,
            )
        self._rows, self._bytes = [], 0
