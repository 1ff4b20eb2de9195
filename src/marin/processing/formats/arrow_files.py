"""Parquet and Arrow files, of this machine or of a store, as Arrow takes them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from marin.io.files import is_remote, open_input


@contextlib.contextmanager
def arrow_source(path: str) -> Iterator[Any]:
    """A file for Arrow's readers: mapped into memory, or read by ranges as they ask for them."""
    if not is_remote(path):
        with pa.memory_map(path) as source:
            yield source
        return
    with open_input(path) as file, pa.PythonFile(file, mode="r") as source:
        yield source


def is_arrow_file(path: str) -> bool:
    """Whether the Arrow data in a file has the file format's footer, not the stream format."""
    with open_input(path) as file:
        return file.read(6) == b"ARROW1"


def schema_of(path: str, format: str) -> pa.Schema:
    """The columns of a file of the format "parquet" or "arrow"."""
    with arrow_source(path) as source:
        if format == "parquet":
            return pq.read_schema(source)
        return (pa.ipc.open_file if is_arrow_file(path) else pa.ipc.open_stream)(source).schema
