"""The bytes of an Arrow string column as the two arrays that kernels read, without a copy where Arrow allows."""

import numpy as np
import pyarrow as pa


def text_buffer(column: pa.Array, *, name: str = "text") -> tuple[np.ndarray, np.ndarray]:
    """(data, offsets) of a column of strings: uint8 (num_bytes,), read-only, and int64 (num_texts + 1,).

    Text i is data[offsets[i]:offsets[i + 1]]. ValueError if the column is no text or has nulls.
    """
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise ValueError(f"column {name!r} is {column.type}; text is needed")
    if column.null_count:
        row = next(i for i in range(len(column)) if not column[i].is_valid)
        raise ValueError(f"column {name!r} is null in {column.null_count} rows, first in row {row} of a batch")
    _, offset_bytes, data = column.buffers()
    if offset_bytes is None or data is None or not len(column):
        return np.frombuffer(b"", np.uint8), np.zeros(len(column) + 1, np.int64)
    width = np.dtype(np.int64 if pa.types.is_large_string(column.type) else np.int32)
    offsets = np.frombuffer(offset_bytes, width, len(column) + 1, column.offset * width.itemsize)
    text = np.frombuffer(data, np.uint8)
    text.flags.writeable = False  # Arrow says so of some buffers alone, and to numba these are two types
    return text, offsets.astype(np.int64)
