# pyright: reportAttributeAccessIssue=false
"""Columns of a record batch, added and replaced."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc  # its functions are made when it is imported, unknown to type checkers

from marin.processing.kernels.arrow_text import text_buffer


def texts_of(batch: pa.RecordBatch) -> list[str]:
    """The texts as Python strings. ValueError where one is null or the column is no text."""
    text_buffer(batch.column("text"))
    return batch.column("text").to_pylist()


def with_columns(batch: pa.RecordBatch, columns: Mapping[str, np.ndarray | Sequence]) -> pa.RecordBatch:
    """The batch with these columns; one of the same name is replaced.

    Floats become int64 where the name says that they count something (`num_...` behind the last dot).
    """
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and name.rpartition(".")[2].startswith("num_"):
            values = values.astype(np.int64)
        array = values if isinstance(values, pa.Array) else pa.array(values)
        position = batch.schema.get_field_index(name)
        if position < 0:
            batch = batch.append_column(name, array)
        else:
            batch = batch.set_column(position, name, array)
    return batch


def replaced(column: pa.Array, values: Mapping[int, str]) -> pa.Array:
    """The column with other values at some rows; all others are not looked at."""
    mask = np.zeros(len(column), np.bool_)
    mask[list(values)] = True
    others = pa.array([values[row] for row in sorted(values)], column.type)
    return pc.replace_with_mask(column, pa.array(mask), others)


def with_text(batch: pa.RecordBatch, data: np.ndarray, offsets: np.ndarray) -> pa.RecordBatch:
    """The batch with other texts: text i is data[offsets[i]:offsets[i + 1]]. The column keeps its type."""
    field = batch.schema.field("text")
    width = np.int64 if pa.types.is_large_string(field.type) else np.int32
    # a batch is bounded far below the 2 GB that int32 offsets reach, and edits only shorten
    buffers = [None, pa.py_buffer(offsets.astype(width)), pa.py_buffer(np.ascontiguousarray(data))]
    array = pa.Array.from_buffers(field.type, len(offsets) - 1, buffers)
    return batch.set_column(batch.schema.get_field_index("text"), "text", array)
