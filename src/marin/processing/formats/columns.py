"""Parquet and Arrow files as record batches with the columns and types that operations count on.

Anybody's file is taken: ids that are numbers, metadata that is a struct, strings stored in any of Arrow's ways. Parquet
readers do not look whether strings are valid UTF-8, so that is done here; it costs a few percent of reading.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from marin.io.objects import RemoteError
from marin.processing.formats.arrow_files import arrow_source, is_arrow_file
from marin.processing.formats.record import JSON_COLUMN, ROW, SHOWN_CHARACTERS, BadRecord, OnBad, check_columns
from marin.processing.formats.splits import DamagedFileError, FormatError, Split


def read_parquet(
    split: Split, columns: Sequence[str] | None, batch_rows: int, batch_bytes: int, on_bad: OnBad
) -> Iterator[pa.RecordBatch]:
    try:
        with arrow_source(split.path) as source, pq.ParquetFile(source) as file:
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
    except RemoteError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedFileError(f"{split.path}: damaged parquet data: {error}") from error


def read_arrow(
    split: Split, columns: Sequence[str] | None, batch_rows: int, batch_bytes: int, on_bad: OnBad
) -> Iterator[pa.RecordBatch]:
    row = split.first_row or 0
    try:
        with arrow_source(split.path) as source:
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
    except RemoteError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedFileError(f"{split.path}: damaged Arrow data after row {row}: {error}") from error


def _stored_columns(split: Split, schema: pa.Schema, columns: Sequence[str] | None) -> list[str] | None:
    """The columns to read from the file for those that are asked for; the others are made."""
    if columns is None:
        return None
    made = ["id", "source", "metadata"] if "text" in schema.names else ["id", "source"]
    check_columns(split, columns, dict.fromkeys([*schema.names, *made]))
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
        if is_json and name in stored and _is_only_text(fields[name]):
            values, unfit = _objects(values)
            bad.update(unfit)
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
    if name == ROW:
        return pa.array(range(row, row + num_rows), pa.int64())
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


def _is_only_text(field: pa.Field) -> bool:
    """Whether a column is stored as strings of which nobody has said that they are JSON."""
    return not pa.types.is_nested(field.type) and dict(field.metadata or {}) != JSON_COLUMN


def _objects(values: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    """Metadata as JSON objects, empty ones as `{}`, and why others are none."""
    texts, bad = values.to_pylist(), {}
    for i, text in enumerate(texts):
        try:
            value = orjson.loads(text or "{}")
        except ValueError:
            bad[i] = f"metadata is no object: it is no JSON: {text[:SHOWN_CHARACTERS]!r}"
            continue
        if value is not None and type(value) is not dict:
            bad[i] = f"metadata is no object: it is {type(value).__name__}"
        elif not value:
            texts[i] = "{}"
    return pa.array(texts, pa.string()), bad


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
