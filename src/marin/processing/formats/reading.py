"""One split of a file as Arrow record batches, and what in it is no row.

What a format leaves open is settled here, so that operations need not ask: `id` is there in every row and a string
(made of file and line where the row has none), documents have text, source and metadata, metadata is one string with a
JSON object, strings are valid UTF-8. A row for which that cannot be is given to `on_bad`, with its position and reason.
Damage to the file itself is a FormatError after all that could be read: half a file never passes for a whole one.

A batch is bounded by rows and bytes, and a line by MAX_RECORD_BYTES, so memory is bounded whatever is in the file.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from marin.io.compression import DamagedError, compression_of, content_chunks
from marin.io.records import parse_record
from marin.processing.formats.splits import FormatError, Split, count_newlines, is_arrow_file

BATCH_ROWS = 2048
BATCH_BYTES = 16 << 20
MAX_RECORD_BYTES = 128 << 20  # of a line or a text file; a longer one is no document, and bad

SHOWN_CHARACTERS = 200
JSON_COLUMN = {b"format": b"json"}  # metadata of an Arrow field whose strings are JSON, put back as such by writers

_TYPES = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(), "json": pa.string()}


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


def read_split(
    split: Split,
    *,
    columns: Sequence[str] | None = None,
    batch_rows: int = BATCH_ROWS,
    batch_bytes: int = BATCH_BYTES,
    on_bad: OnBad,
) -> Iterator[pa.RecordBatch]:
    """The rows of a split, in their order; at most `batch_rows` and, but for one long row, `batch_bytes` a batch.

    `columns` are the ones to read, in that order. Raises FormatError where the file is damaged, has changed since it
    was planned, or lacks a column.
    """
    _check_unchanged(split)
    reader = _READERS[split.format]
    for batch in reader(split, columns, batch_rows, batch_bytes, on_bad):
        yield from bounded(batch, batch_rows, batch_bytes)


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
        stat = os.stat(split.path)
    except FileNotFoundError as error:
        raise FormatError(f"{split.path}: the file was there when the work was planned, and is gone") from error
    if (stat.st_size, stat.st_mtime_ns) != (split.size, split.mtime_ns):
        raise FormatError(
            f"{split.path}: the file has changed since the work was planned (it had {split.size} bytes, now "
            f"{stat.st_size}): plan again when nobody writes to it"
        )


# --- JSON lines


@dataclass(frozen=True)
class _TooLong:
    """A line that is not kept."""

    size: int
    begin: bytes


def _read_jsonl(
    split: Split, columns: Sequence[str] | None, batch_rows: int, batch_bytes: int, on_bad: OnBad
) -> Iterator[pa.RecordBatch]:
    table = _JsonTable(split, columns, on_bad)
    for number, line in _lines(split):
        if isinstance(line, _TooLong):
            reason = f"too long: a line of {line.size} bytes, more than {MAX_RECORD_BYTES}"
            on_bad(BadRecord(position=table.position(number), reason=reason, text=_shown(line.begin)))
            continue
        table.add(number, line)
        if table.num_rows >= batch_rows or table.num_bytes >= batch_bytes:
            yield table.flush()
    if table.num_rows:
        yield table.flush()


def _lines(split: Split) -> Iterator[tuple[int, bytes | _TooLong]]:
    """(number from 1 within the split, line) of the lines that belong to a split, without those that are blank.

    A line belongs to the split in which the byte before it lies: a reader that begins inside a file passes over the
    line around its start, and the one before reads it. Blocks of our own compressed files begin and end with lines.
    """
    number = 0
    compression = compression_of(split.path)
    with open(split.path, "rb", buffering=0) as file:
        file.seek(split.start)
        source: Any = file if compression is None or split.end is None else _Part(file, split.end - split.start)
        lines = split_lines(content_chunks(source, compression), MAX_RECORD_BYTES)
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
                if isinstance(line, _TooLong):
                    yield number, line
                elif stripped := line.strip():
                    yield number, stripped
        except DamagedError as error:
            raise FormatError(f"{split.path}: after line {first_row(split) + number}: {error}") from error


def _raw_size(line: "bytes | _TooLong") -> int:
    return line.size if isinstance(line, _TooLong) else len(line)


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


def split_lines(chunks: Iterable[bytes], max_bytes: int) -> Iterator[bytes | _TooLong]:
    """Lines with their newline, put together from chunks; of one longer than `max_bytes` only size and beginning."""
    held: list[bytes] = []  # of the line that is not complete
    size = 0
    begin: bytes | None = None  # of a line that is too long
    for chunk in chunks:
        pieces = chunk.split(b"\n")
        rest = pieces.pop()
        for i, piece in enumerate(pieces):
            if i == 0 and (held or begin is not None):
                size += len(piece) + 1
                if begin is not None or size > max_bytes:
                    yield _TooLong(size, begin if begin is not None else b"".join(held)[: 4 * SHOWN_CHARACTERS])
                else:
                    yield b"".join([*held, piece, b"\n"])
                held, size, begin = [], 0, None
            elif len(piece) >= max_bytes:
                yield _TooLong(len(piece) + 1, piece[: 4 * SHOWN_CHARACTERS])
            else:
                yield piece + b"\n"
        if rest:
            size += len(rest)
            if begin is None:
                held.append(rest)
                if size > max_bytes:
                    begin, held = b"".join(held)[: 4 * SHOWN_CHARACTERS], []
    if begin is not None:
        yield _TooLong(size, begin)
    elif held:
        yield b"".join(held)


class _JsonTable:
    """Rows parsed from lines, until they are a batch."""

    def __init__(self, split: Split, columns: Sequence[str] | None, on_bad: OnBad):
        fields = dict(split.fields or (("id", "string"), ("metadata", "json")))
        self._split = split
        self._on_bad = on_bad
        self._fields = fields if columns is None else {name: fields[name] for name in _present(split, columns, fields)}
        self._known = frozenset(fields)
        self._is_documents = "text" in fields
        self._is_checking_text = "text" in self._fields
        self._rows: list[dict[str, Any]] = []
        self._numbers: list[int] = []
        self._lines: list[bytes] = []
        self._first_row: int | None = None
        self.num_bytes = 0
        self.schema = pa.schema([json_field(name, kind) for name, kind in self._fields.items()])

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    def position(self, number: int) -> str:
        if self._first_row is None:
            self._first_row = first_row(self._split)
        return f"{self._split.label}:{self._first_row + number}"

    def add(self, number: int, line: bytes) -> None:
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
        self._lines.append(line)
        self.num_bytes += len(line)

    def _bad(self, number: int, line: bytes, reason: str) -> None:
        self._on_bad(BadRecord(position=self.position(number), reason=reason, text=_shown(line)))

    def flush(self) -> pa.RecordBatch:
        """The batch of the rows so far, without those that do not fit its columns."""
        try:
            batch = pa.RecordBatch.from_arrays([self._column(name) for name in self._fields], schema=self.schema)
        except (ValueError, TypeError, OverflowError):  # some row does not fit: find which, and why
            self._drop_unfit()
            batch = pa.RecordBatch.from_arrays([self._column(name) for name in self._fields], schema=self.schema)
        self._rows, self._numbers, self._lines, self.num_bytes = [], [], [], 0
        return batch

    def _column(self, name: str) -> pa.Array:
        kind = self._fields[name]
        if name == "id":
            values = [self._id(row, number) for row, number in zip(self._rows, self._numbers, strict=True)]
        elif name == "metadata":
            values = [self._metadata(row) for row in self._rows]
        elif kind == "json":
            values = [None if (value := row.get(name)) is None else dump_json(value) for row in self._rows]
        elif name == "source":
            values = ["" if (value := row.get(name)) is None else value for row in self._rows]
        else:
            values = [row.get(name) for row in self._rows]
            if name == "text" and None in values:
                raise ValueError("no text")
            if kind in ("int64", "float64") and any(type(value) is bool for value in values):
                raise ValueError("a truth value is no number")
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
                self._bad(number, self._lines[i], str(error))
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
            elif name == "text" and value is None:
                raise ValueError(f"no text: the fields are {', '.join(sorted(row)[:8]) or 'none'}")
            elif value is not None and kind != "json" and not _fits(value, kind):
                shown = repr(value)[:SHOWN_CHARACTERS]
                if name in ("text", "source"):
                    raise ValueError(f"{name} is no string: it is {type(value).__name__}")
                raise ValueError(f"wrong type: {name} is {shown}, and in the first rows of the files {kind}")


def _fits(value: Any, kind: str) -> bool:
    if kind == "int64":
        return type(value) is int and -(1 << 63) <= value < 1 << 63
    if kind == "float64":
        return type(value) is float or (type(value) is int and abs(value) <= 1 << 53)
    return type(value) is (str if kind == "string" else bool)


def json_field(name: str, kind: str) -> pa.Field:
    """The Arrow field of a column that was planned as `kind`."""
    return pa.field(name, _TYPES[kind], metadata=JSON_COLUMN if kind == "json" else None)


def dump_json(value: Any) -> str:
    """A value as JSON text without spaces; NaN and infinities, which JSON has not, are null."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # integers beyond 64 bits, which only the slow parser gives
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _check_unicode(row: dict[str, Any]) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"not valid Unicode: a lone surrogate, {error.object[error.start]!r}") from error


def _shown(line: bytes) -> str:
    return line[: 4 * SHOWN_CHARACTERS].decode("utf-8", errors="replace")[:SHOWN_CHARACTERS]


def _present(split: Split, columns: Sequence[str], known: Iterable[str]) -> Sequence[str]:
    names = list(known)
    for name in columns:
        if name not in names:
            raise FormatError(f"{split.path}: no column {name!r}; the columns are {', '.join(names) or 'none'}")
    return columns


# --- parquet and Arrow


def _read_parquet(
    split: Split, columns: Sequence[str] | None, batch_rows: int, batch_bytes: int, on_bad: OnBad
) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(split.path, memory_map=True) as file:
            groups = list(range(split.start, file.num_row_groups if split.end is None else split.end))
            names = _stored_columns(split, file.schema_arrow, columns)
            row = split.first_row or 0
            for group in groups:
                described = file.metadata.row_group(group)
                # of long rows only so many at a time as make a batch
                rows = max(1, min(batch_rows, batch_bytes * described.num_rows // max(1, described.total_byte_size)))
                for batch in file.iter_batches(rows, row_groups=[group], columns=names, use_threads=False):
                    yield _settled(batch, split, columns, row, on_bad)
                    row += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError(f"{split.path}: damaged parquet data: {error}") from error


def _read_arrow(
    split: Split, columns: Sequence[str] | None, batch_rows: int, batch_bytes: int, on_bad: OnBad
) -> Iterator[pa.RecordBatch]:
    row = split.first_row or 0
    try:
        with pa.memory_map(split.path) as source:
            if is_arrow_file(split.path):
                reader = pa.ipc.open_file(source)
                end = reader.num_record_batches if split.end is None else split.end
                batches = map(reader.get_batch, range(split.start, end))
            else:
                batches = iter(pa.ipc.open_stream(source))
            for batch in batches:
                names = _stored_columns(split, batch.schema, columns)
                yield _settled(batch if names is None else batch.select(names), split, columns, row, on_bad)
                row += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError(f"{split.path}: damaged Arrow data after row {row}: {error}") from error


def _stored_columns(split: Split, schema: pa.Schema, columns: Sequence[str] | None) -> list[str] | None:
    """The columns to read from the file for those that are asked for; the others are made."""
    if columns is None:
        return None
    made = ["id", "source", "metadata"] if "text" in schema.names else ["id"]
    _present(split, columns, dict.fromkeys([*schema.names, *made]))
    return [name for name in columns if name in schema.names]


def _settled(
    batch: pa.RecordBatch, split: Split, columns: Sequence[str] | None, row: int, on_bad: OnBad
) -> pa.RecordBatch:
    """A batch of anybody's file with the columns and types that operations count on; rows without text are bad."""
    stored = dict(zip(batch.schema.names, batch.columns, strict=True))
    fields = {field.name: field for field in batch.schema}
    if columns is not None:
        wanted = list(columns)
    elif "text" in stored:
        documents = ["id", "text", "source", "metadata"]
        wanted = documents + [name for name in stored if name not in documents]
    else:
        wanted = [*([] if "id" in stored else ["id"]), *stored]
    arrays, made = [], []
    bad: dict[int, str] = {}
    for name in wanted:
        values = _plain(stored[name]) if name in stored else None
        values = _special(name, values, batch.num_rows, split, row)
        is_json = name == "metadata"
        if name == "text":
            bad.update(_without_text(values))
        bad.update(_not_unicode(name, values))
        metadata = JSON_COLUMN if is_json else fields[name].metadata if name in fields else None
        made.append(pa.field(name, values.type, metadata=metadata))
        arrays.append(values)
    for i, reason in sorted(bad.items()):
        on_bad(BadRecord(position=f"{split.label}:{row + i + 1}", reason=reason, text=""))
    settled = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(made))
    if bad:
        settled = settled.filter(pa.array([i not in bad for i in range(batch.num_rows)]))
    return settled


def _plain(values: pa.Array) -> pa.Array:
    """Strings as `string`, whatever way they are stored."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_large_string(values.type) or pa.types.is_string_view(values.type):
        return values.cast(pa.string())
    return values


def _special(name: str, values: pa.Array | None, num_rows: int, split: Split, row: int) -> pa.Array:
    """The column `name`, made where the file has none; the columns of documents as the strings they must be."""
    if values is not None and pa.types.is_null(values.type) and name in ("id", "text", "source", "metadata"):
        values = values.cast(pa.string())
    if name == "id":
        values = pa.nulls(num_rows, pa.string()) if values is None else values
        return _with_ids(_string(name, values, split, also_integers=True), split, row)
    if name == "source":
        return pa.array([""] * num_rows) if values is None else _string(name, values, split).fill_null("")
    if name == "metadata":
        return pa.array(["{}"] * num_rows) if values is None else _metadata(values, split)
    assert values is not None, name
    return _string(name, values, split) if name == "text" else values


def _with_ids(values: pa.Array, split: Split, row: int) -> pa.Array:
    if not values.null_count:
        return values
    ids = [f"{split.label}:{row + i + 1}" if value is None else value for i, value in enumerate(values.to_pylist())]
    return pa.array(ids, pa.string())


def _metadata(values: pa.Array, split: Split) -> pa.Array:
    if pa.types.is_struct(values.type) or pa.types.is_map(values.type):
        values = pa.array([None if value is None else dump_object(value) for value in values.to_pylist()], pa.string())
    return _string("metadata", values, split).fill_null("{}")


def dump_object(value: Any) -> str:
    """JSON text of an Arrow struct or map, as `to_pylist` gives them; what JSON has no form for is written as text."""
    return orjson.dumps(dict(value), default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _string(name: str, values: pa.Array, split: Split, *, also_integers: bool = False) -> pa.Array:
    if pa.types.is_string(values.type):
        return values
    if also_integers and pa.types.is_integer(values.type):
        return values.cast(pa.string())
    raise FormatError(f"{split.path}: column {name!r} is of type {values.type}, and must be string")


def _without_text(values: pa.Array) -> dict[int, str]:
    if not values.null_count:
        return {}
    return dict.fromkeys(
        np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False)).tolist(), "no text: it is null"
    )


def _not_unicode(name: str, values: pa.Array) -> dict[int, str]:
    if not pa.types.is_string(values.type):
        return {}
    try:
        values.validate(full=True)
        return {}
    except pa.ArrowInvalid:
        reasons = {}
        for i, value in enumerate(values.cast(pa.binary())):
            try:
                (value.as_py() or b"").decode("utf-8")
            except UnicodeDecodeError as error:
                reasons[i] = f"not UTF-8: {error.reason} at byte {error.start} of {name}"
        return reasons


_READERS = {"jsonl": _read_jsonl, "parquet": _read_parquet, "arrow": _read_arrow}
