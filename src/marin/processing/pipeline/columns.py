"""The columns of many parquet or Arrow files, which must be of one type before their rows can be put together."""

import pyarrow as pa

from marin.io.files import each
from marin.processing.formats.arrow_files import schema_of
from marin.processing.formats.splits import Split
from marin.processing.pipeline.rows import wider_type

_MADE_BY_READERS = ("id", "source", "metadata")


def casts_of(splits: list[Split], columns: tuple[str, ...] | None) -> tuple[tuple[str, pa.DataType], ...]:
    """The columns whose types differ between files, and the type that holds them all.

    ValueError naming files and types where there is none, or where a column that is read is not in all files.
    """
    types: dict[str, tuple[str, pa.DataType]] = {}  # column -> (a file that has it, type for all)
    files = {split.label: split for split in splits if split.format in ("parquet", "arrow")}
    if len(files) < 2:
        return ()
    found = each(lambda split: schema_of(split.path, split.format), files.values(), where=splits[0].path)
    schemas = dict(zip(files, found, strict=True))
    changed: set[str] = set()
    for label, schema in schemas.items():
        for field in schema:
            if columns is not None and field.name not in columns:
                continue
            first, known = types.setdefault(field.name, (label, _plain_type(field.type)))
            wide = wider_type(known, _plain_type(field.type))
            if wide is None:
                raise ValueError(
                    f"column {field.name!r} is {known} in {first} and {field.type} in {label}: read them apart, and "
                    "make them of one type before they are put together"
                )
            if wide != known or wide != _plain_type(field.type):
                changed.add(field.name)
            types[field.name] = (first, wide)
    for name, (first, _) in types.items():
        for label, schema in schemas.items():
            if name not in schema.names and name not in _MADE_BY_READERS:
                raise ValueError(
                    f"column {name!r} is in {first} and not in {label}: say which columns to read, "
                    "Dataset.from_files(..., columns=[...]), or read the files apart"
                )
    return tuple((name, types[name][1]) for name in sorted(changed))


def _plain_type(type_: pa.DataType) -> pa.DataType:
    """The type as readers give it: strings are `string`."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return pa.string() if pa.types.is_large_string(type_) or pa.types.is_string_view(type_) else type_
