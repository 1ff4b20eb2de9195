# pyright: reportAttributeAccessIssue=false
"""Rows as Python dicts and as Arrow record batches, and the one schema that a file's batches must share.

For functions of rows, metadata (a string of JSON in Arrow) is a dict. What they return is typed by what it is: a dict
becomes a column of JSON, a list an Arrow list. A value that does not fit its column makes its row a bad one.
"""

import datetime
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc  # its functions are made when it is imported, unknown to type checkers

from marin.processing.formats.record import JSON_COLUMN, dump_json
from marin.processing.pipeline.batch import SAMPLES_PER_RULE, SHOWN_CHARACTERS, Sample


def is_json(field: pa.Field) -> bool:
    """Whether the strings of a column are JSON."""
    return pa.types.is_string(field.type) and (field.name == "metadata" or dict(field.metadata or {}) == JSON_COLUMN)


def to_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows as dicts; a column of JSON as what it stands for. ValueError names a row where it is none."""
    rows = batch.to_pylist()
    for name in [field.name for field in batch.schema if is_json(field)]:
        for row in rows:
            if row[name] is not None:
                row[name] = {} if row[name] == "{}" else _parsed(row, name)
    return rows


def _parsed(row: Mapping[str, Any], name: str) -> Any:
    try:
        return orjson.loads(row[name])
    except ValueError as error:  # of a reader it would be a bad row; so an operation has made it
        shown = row[name][:SHOWN_CHARACTERS]
        raise ValueError(
            f"row {row.get('id')!r}: column {name!r} must hold JSON, and an operation has put {shown!r} there"
        ) from error


class RowsToBatches:
    """Makes batches of dicts; the type of a column is that of its values so far.

    Columns are those of all rows so far, in the order of their appearance; a row without one has null there. Integers
    give way to floats, anything else of another type than before makes a bad row.
    """

    def __init__(self) -> None:
        self._fields: dict[str, pa.Field] = {}

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> tuple[pa.RecordBatch, dict[int, str]]:
        """The batch of those rows that fit, and the reasons why others (by index) do not."""
        names = dict.fromkeys(self._fields)
        for row in rows:
            names.update(dict.fromkeys(row))
        bad: dict[int, str] = {}
        columns = {name: self._settled_column(name, [row.get(name) for row in rows], bad) for name in names}
        kept = [i for i in range(len(rows)) if i not in bad]
        arrays = []
        for name, values in columns.items():
            arrays.append(pa.array([values[i] for i in kept] if bad else values, self._fields[name].type))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(list(self._fields.values()))), bad

    def _settled_column(self, name: str, values: list[Any], bad: dict[int, str]) -> list[Any]:
        """The values as Arrow is to get them, their type now known; those that fit it not are named in `bad`."""
        field = self._fields.get(name, pa.field(name, pa.null()))
        if name == "metadata" or is_json(field) or any(isinstance(value, dict) for value in values):
            values = [v if v is None or (type(v) is str and name == "metadata") else dump_json(v) for v in values]
            field = pa.field(name, field.type, metadata=JSON_COLUMN)
        try:
            found, is_of_one_type = pa.array(values).type, True
        except _UNFIT:
            found, is_of_one_type = _type_of_most(values, field.type), False
        self._fields[name] = field.with_type(wider_type(field.type, found) or field.type)
        type_ = self._fields[name].type
        if is_of_one_type and (found == type_ or _fits(values, type_)):
            return values
        for i, value in enumerate(values):
            if not _fits([value], type_):
                shown = repr(value)[:SHOWN_CHARACTERS]
                bad.setdefault(i, f"wrong type: {name} is {shown}, and in the rows before {type_}")
        return values


_UNFIT = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, UnicodeEncodeError, OverflowError)


def _type_of_most(values: list[Any], type_: pa.DataType) -> pa.DataType:
    """The type, of the values before, widened for each value that it can be widened for."""
    for value in values:
        try:
            found = pa.array([value]).type
        except _UNFIT:
            continue
        type_ = wider_type(type_, found) or type_
    return type_


def _fits(values: list[Any], type_: pa.DataType) -> bool:
    if pa.types.is_date(type_) and any(isinstance(value, datetime.datetime) for value in values):
        return False  # Arrow would cut the time of day off
    try:
        pa.array(values, type_)
    except _UNFIT:
        return False
    return True


# -- one schema -------------------------------------------------------------------------------------------------------


def unify(one: pa.Schema, other: pa.Schema, names: tuple[str, str], *, fill: bool = False) -> pa.Schema:
    """The schema that holds batches of both: null with any type, and integers with wider ones or floats.

    ValueError naming the columns that are of other types, or (unless `fill`, for which they are null) in one alone.
    `names` say whose schemas they are.
    """
    fields = []
    for field in one:
        if field.name not in other.names:
            if not fill:
                raise ValueError(f"column {field.name!r} is in {names[0]} and not in {names[1]}")
            fields.append(field)
            continue
        theirs = other.field(field.name)
        type_ = wider_type(field.type, theirs.type)
        if type_ is None:
            raise ValueError(f"column {field.name!r} is {field.type} in {names[0]} and {theirs.type} in {names[1]}")
        fields.append(pa.field(field.name, type_, metadata=field.metadata or theirs.metadata))
    for field in other:
        if field.name not in one.names:
            if not fill:
                raise ValueError(f"column {field.name!r} is in {names[1]} and not in {names[0]}")
            fields.append(field)
    return pa.schema(fields)


def wider_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds values of both, None if there is none. Integers fit float64: exactly up to 2^53."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_integer(one) and pa.types.is_integer(other):
        return None if pa.uint64() in (one, other) else pa.int64()
    if all(pa.types.is_floating(type_) or pa.types.is_integer(type_) for type_ in (one, other)):
        return pa.float64()
    if pa.types.is_list(one) and pa.types.is_list(other):
        inside = wider_type(one.value_type, other.value_type)
        return None if inside is None else pa.list_(inside)
    return None


def conform(batch: pa.RecordBatch, schema: pa.Schema, *, fill: bool = False) -> pa.RecordBatch:
    """The batch with the columns of a schema that is as wide as its own; with `fill` absent ones are null."""
    if batch.schema.equals(schema, check_metadata=True):
        return batch
    arrays = []
    for field in schema:
        if fill and field.name not in batch.schema.names:
            arrays.append(pa.nulls(batch.num_rows, field.type))
        else:
            arrays.append(batch.column(field.name).cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class SchemaWidened(Exception):
    """The rows of a shard have other columns than its first ones told: write it again with this schema."""

    def __init__(self, schema: pa.Schema):
        super().__init__(str(schema))
        self.schema = schema


def of_one_schema(
    batches: Iterator[pa.RecordBatch], schema: pa.Schema | None, where: str
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The batches that have rows, all with one schema: that of the first one, or the one that is given.

    Where no batch has rows, the schema is that of any with columns. The iterator raises SchemaWidened where a later
    batch needs a wider one, ValueError where there is none for both.
    """
    first = None
    for batch in batches:
        if batch.num_rows or (first is None and batch.schema.names):
            first = batch
        if batch.num_rows:
            break
    if schema is None:
        schema = pa.schema([]) if first is None else first.schema
    return schema, _conformed(itertools.chain([] if first is None else [first], batches), schema, where)


def _conformed(batches: Iterable[pa.RecordBatch], schema: pa.Schema, where: str) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if not batch.num_rows:
            continue
        if not batch.schema.equals(schema):
            wide = unify(schema, batch.schema, (f"the first rows of {where}", "later ones"), fill=True)
            if not wide.equals(schema):
                raise SchemaWidened(wide)
        yield conform(batch, schema, fill=True)


# -- what is counted and shown ----------------------------------------------------------------------------------------


def text_bytes(batch: pa.RecordBatch) -> int:
    """UTF-8 bytes of the column `text`; 0 where there is none."""
    if "text" not in batch.schema.names or not pa.types.is_string(batch.schema.field("text").type):
        return 0
    return pc.sum(pc.binary_length(batch.column("text"))).as_py() or 0


def shown_row(batch: pa.RecordBatch, index: int) -> tuple[str, str, str]:
    """(id, source, beginning of the text) of a row, empty where it has none."""
    values = (
        str(batch.column(name)[index].as_py() or "") if name in batch.schema.names else ""
        for name in ("id", "source", "text")
    )
    row_id, source, text = values
    return row_id, source, text[:SHOWN_CHARACTERS]


def samples_of(batch: pa.RecordBatch, indices: Sequence[int], columns: Sequence[str]) -> list[Sample]:
    """A few of the rows at these indices, with their values in `columns`."""
    samples = []
    for index in indices[:SAMPLES_PER_RULE]:
        row_id, source, text = shown_row(batch, index)
        numbers = {name: plain(batch.column(name)[index].as_py()) for name in columns if name in batch.schema.names}
        samples.append(Sample(id=row_id, source=source, text=text, numbers=numbers))
    return samples


def plain(value: Any) -> Any:
    """A value as JSON can hold it, long strings cut."""
    if isinstance(value, str):
        return value[:SHOWN_CHARACTERS]
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return repr(value)[:SHOWN_CHARACTERS]
    return value
