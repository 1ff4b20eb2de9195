"""JSON lines as record batches: parsed line by line, put into the columns that were planned.

orjson parses what is good; what it refuses goes through the standard library's parser, which knows better what is wrong
and takes NaN. One price is orjson's: an integer of more than 64 bits becomes a floating-point number.
"""

import codecs
import json
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pyarrow as pa

from marin.io.compression import DamagedError, compression_of, content_chunks
from marin.io.files import open_input
from marin.io.records import parse_record
from marin.processing.formats import record
from marin.processing.formats.lines import TooLong, split_lines
from marin.processing.formats.record import (
    JSON_COLUMN,
    ROW,
    SHOWN_CHARACTERS,
    BadRecord,
    OnBad,
    check_columns,
    dump_json,
    shown_text,
)
from marin.processing.formats.splits import DamagedFileError, Split, count_newlines

# Rows are put into columns while the processor's cache still has them: a fifth quicker than a whole batch at a time.
_PARSED_ROWS = 256
_PARSED_BYTES = 1 << 20

_TYPES = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(), "json": pa.string()}


def read_json_lines(
    split: Split, columns: Sequence[str] | None, batch_rows: int, batch_bytes: int, on_bad: OnBad
) -> Iterator[pa.RecordBatch]:
    table = _JsonTable(split, columns, on_bad)
    for number, line in lines_of(split):
        if isinstance(line, TooLong):
            reason = f"too long: a line of {line.size} bytes, more than {record.MAX_RECORD_BYTES}"
            on_bad(BadRecord(position=table.position(number), reason=reason, text=shown_text(line.begin)))
            continue
        table.add(number, line)
        if (table.num_rows >= batch_rows or table.num_bytes >= batch_bytes) and (full := table.flush()) is not None:
            yield full
    if (rest := table.flush()) is not None:
        yield rest


def lines_of(split: Split) -> Iterator[tuple[int, bytes | TooLong]]:
    """(number from 1 within the split, line) of the lines that belong to a split, without those that are blank.

    A line belongs to the split in which the byte before it lies: a reader that begins inside a file passes over the
    line around its start, and the one before reads it. Blocks of our own compressed files begin and end with lines.
    """
    number = 0
    compression = compression_of(split.path)
    with open_input(split.path) as file:
        file.seek(split.start)
        source: Any = file if compression is None or split.end is None else _Part(file, split.end - split.start)
        lines = split_lines(content_chunks(source, compression), record.MAX_RECORD_BYTES)
        position = split.start
        is_cut_by_bytes = compression is None and (split.start > 0 or split.end is not None)
        try:
            if compression is None and split.start > 0:
                position += _raw_size(next(lines, b""))
            for line in lines:
                if is_cut_by_bytes:
                    if split.end is not None and position > split.end:
                        return
                    position += _raw_size(line)
                number += 1
                if number == 1 and split.start == 0 and not isinstance(line, TooLong):
                    line = line.removeprefix(codecs.BOM_UTF8)  # some programs begin a file so
                if isinstance(line, TooLong) or line and not line.isspace():
                    yield number, line
        except DamagedError as error:
            raise DamagedFileError(f"{split.path}: after line {first_row(split) + number}: {error}") from error


def _raw_size(line: bytes | TooLong) -> int:
    """Bytes of a line in the file, with its newline."""
    return line.size if isinstance(line, TooLong) else len(line) + 1


def first_row(split: Split) -> int:
    """Lines of the file before the first one of a split of lines; counted in the file where the plan does not say."""
    if split.first_row is not None:
        return split.first_row
    return count_newlines(split.path, 0, split.start) + 1


class _Part:
    """The next `size` bytes of a file."""

    def __init__(self, file: Any, size: int):
        self._file = file
        self._left = size

    def read(self, size: int) -> bytes:
        chunk = self._file.read(min(size, self._left))
        self._left -= len(chunk)
        return chunk


class _JsonTable:
    """Rows parsed from lines, until they are a batch."""

    def __init__(self, split: Split, columns: Sequence[str] | None, on_bad: OnBad):
        fields = dict(split.fields or (("id", "string"), ("metadata", "json")))
        self._split = split
        self._on_bad = on_bad
        names = fields if columns is None else check_columns(split, columns, {**fields, "source": "string"})
        self._has_source = "source" in fields
        self._fields = {name: "int64" if name == ROW else fields.get(name, "string") for name in names}
        self._known = frozenset(fields)
        self._rows: list[dict[str, Any]] = []  # parsed, and not yet in Arrow's columns
        self._numbers: list[int] = []
        self._row_bytes = 0
        self._batches: list[pa.RecordBatch] = []
        self._first_row: int | None = None
        self.num_rows = 0  # in Arrow's columns
        self.num_bytes = 0
        self.schema = pa.schema([json_field(name, kind) for name, kind in self._fields.items()])

    def position(self, number: int) -> str:
        return f"{self._split.label}:{self._before() + number}"

    def _before(self) -> int:
        if self._first_row is None:
            self._first_row = first_row(self._split)
        return self._first_row

    def add(self, number: int, line: bytes) -> None:
        """Take a line; what is no JSON object is told as bad."""
        try:
            row = orjson.loads(line)
            if type(row) is not dict:
                raise ValueError(f"not a JSON object but {type(row).__name__}")
        except ValueError:
            try:  # the slow parser takes more (NaN), and knows better what is wrong
                row = parse_record(line)
                _check_unicode(row)
            except ValueError as error:
                self._bad(number, line, str(error))
                return
        self._rows.append(row)
        self._numbers.append(number)
        self._row_bytes += len(line)
        if len(self._rows) >= _PARSED_ROWS or self._row_bytes >= _PARSED_BYTES:
            self._to_arrow()

    def _bad(self, number: int, begin: bytes, reason: str) -> None:
        self._on_bad(BadRecord(position=self.position(number), reason=reason, text=shown_text(begin)))

    def flush(self) -> pa.RecordBatch | None:
        """The batch of the rows so far, without those that do not fit its columns; None where there is none."""
        self._to_arrow()
        if not self._batches:
            return None
        batch = self._batches[0] if len(self._batches) == 1 else pa.concat_batches(self._batches)
        self._batches, self.num_rows, self.num_bytes = [], 0, 0
        return batch

    def _to_arrow(self) -> None:
        if not self._rows:
            return
        try:
            batch = pa.RecordBatch.from_arrays([self._column(name) for name in self._fields], schema=self.schema)
        except (ValueError, TypeError, OverflowError):  # some row does not fit: find which, and why
            self._drop_unfit()
            batch = pa.RecordBatch.from_arrays([self._column(name) for name in self._fields], schema=self.schema)
        self._batches.append(batch)
        self.num_rows += len(self._rows)
        self.num_bytes += self._row_bytes
        self._rows, self._numbers, self._row_bytes = [], [], 0

    def _column(self, name: str) -> pa.Array:
        kind = self._fields[name]
        if name == ROW:
            values = [self._before() + number - 1 for number in self._numbers]
        elif name == "id":
            values = [self._id(row, number) for row, number in zip(self._rows, self._numbers, strict=True)]
        elif name == "metadata":
            values = [self._metadata(row) for row in self._rows]
        elif kind == "json":
            values = [None if (value := row.get(name)) is None else dump_json(value) for row in self._rows]
        elif name == "source" and not self._has_source:  # that is the metadata's, where a row has one all the same
            values = [""] * len(self._rows)
        elif name == "source":
            values = ["" if (value := row.get(name)) is None else value for row in self._rows]
        else:
            values = [row.get(name) for row in self._rows]
            if name == "text" and None in values:
                raise ValueError("no text")
            if kind in ("int64", "float64"):
                _check_numbers(values, kind)
        return pa.array(values, _TYPES[kind])

    def _id(self, row: dict[str, Any], number: int) -> str:
        value = row.get("id")
        if type(value) is str:
            return value
        if value is None:
            return self.position(number)
        if type(value) is int:
            return str(value)
        raise ValueError(f"id is no string: it is {type(value).__name__}")

    def _metadata(self, row: dict[str, Any]) -> str:
        metadata = row.get("metadata")
        if metadata is not None and type(metadata) is not dict:
            raise ValueError(f"metadata is no object: it is {type(metadata).__name__}")
        if not row.keys() <= self._known:  # a field that the plan has no column for
            metadata = dict(metadata or {})
            for name in row.keys() - self._known:
                if name in metadata:
                    raise ValueError(f"field in two places: {name!r} is in the row and in its metadata")
            metadata.update((name, value) for name, value in row.items() if name not in self._known)
        return dump_json(metadata) if metadata else "{}"

    def _drop_unfit(self) -> None:
        kept = []
        for i, (row, number) in enumerate(zip(self._rows, self._numbers, strict=True)):
            try:
                self._check_row(row)
            except ValueError as error:
                self._bad(number, dump_json(row).encode(), str(error))
            else:
                kept.append(i)
        self._rows = [self._rows[i] for i in kept]
        self._numbers = [self._numbers[i] for i in kept]

    def _check_row(self, row: dict[str, Any]) -> None:
        """ValueError with the reason why a row does not fit the columns."""
        for name, kind in self._fields.items():
            value = row.get(name)
            if name == "id":
                self._id(row, 0)
            elif name == "metadata":
                self._metadata(row)
            elif name == "source" and not self._has_source:
                continue
            elif name == "text" and value is None:
                raise ValueError(f"no text: the fields are {', '.join(sorted(row)[:8]) or 'none'}")
            elif value is not None and name != ROW and kind != "json" and not _fits(value, kind):
                shown = repr(value)[:SHOWN_CHARACTERS]
                if name in ("text", "source"):
                    raise ValueError(f"{name} is no string: it is {type(value).__name__}")
                raise ValueError(f"wrong type: {name} is {shown}, and in the first rows of the files {kind}")


def _check_numbers(values: Sequence[Any], kind: str) -> None:
    """ValueError where Arrow would make another number of a value: of true 1, and of 7.5 among integers 7."""
    types = set(map(type, values))
    if bool in types:
        raise ValueError("a truth value is no number")
    if kind == "int64" and float in types and not all(_fits(v, kind) for v in values if type(v) is float):
        raise ValueError("a fraction is no integer")


def _fits(value: Any, kind: str) -> bool:
    if kind == "int64":
        is_whole = type(value) is int or (type(value) is float and value.is_integer())
        return is_whole and -(1 << 63) <= value < 1 << 63
    if kind == "float64":
        return type(value) is float or (type(value) is int and abs(value) <= 1 << 53)
    return type(value) is (str if kind == "string" else bool)


def json_field(name: str, kind: str) -> pa.Field:
    """The Arrow field of a column that was planned as `kind`."""
    return pa.field(name, _TYPES[kind], metadata=JSON_COLUMN if kind == "json" else None)


def _check_unicode(row: dict[str, Any]) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"not valid Unicode: a lone surrogate, {error.object[error.start]!r}") from error
