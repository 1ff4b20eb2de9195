"""Record batches into one file: parquet, JSON lines (plain, .gz, .zst) or Arrow, hashed on the way to the disk.

The file appears, complete, when it is closed; an exception leaves nothing. Equal batches give equal bytes: no clock, no
name and no thread is in them. Our .gz and .zst are cut into blocks (marin.io.compression), parquet into row groups of
bounded size, so that any row can be reached and any of these files shared by several readers.

Writing .gz costs several times the processor time of the others; it is for those whose tools read nothing else.
"""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from marin.io.compression import BlockWriter
from marin.io.files import open_output
from marin.processing.formats.record import JSON_COLUMN

ROW_GROUP_BYTES = 32 << 20  # of Arrow data: what reaching one row costs at most
PARQUET_ZSTD_LEVEL = 1

_LONG_COLUMNS = ("text", "metadata")  # their least and greatest values are of use to nobody
_REPEATING_COLUMNS = ("source",)


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """What a writer made."""

    rows: int
    bytes: int
    sha256: str


def open_writer(
    path: str | os.PathLike[str], format: str, *, schema: pa.Schema | None = None, fsync: bool = True
) -> "Writer":
    """A writer of record batches to `path`, as a context manager. `format` is one of WRITERS; the path's ending is not
    asked.

    >>> with open_writer("part.parquet", "parquet") as writer:   # doctest: +SKIP
    ...     writer.write(batch)
    >>> writer.written.rows   # doctest: +SKIP

    `schema` is needed for parquet and Arrow only where it may be that no batch comes; without it the first batch has
    it.
    """
    if format not in WRITERS:
        raise ValueError(f"{path}: cannot write format {format!r}; known are {', '.join(WRITERS)}")
    return Writer(path, format, schema=schema, fsync=fsync)


class Writer:
    """A file that is being written; made by `open_writer`."""

    def __init__(self, path: str | os.PathLike[str], format: str, *, schema: pa.Schema | None, fsync: bool):
        self._path = os.fspath(path)
        self._format = format
        self._schema = schema
        self._publishing = contextlib.ExitStack()
        self._file = _HashingFile(self._publishing.enter_context(open_output(path, fsync=fsync)))
        self._sink: Any = None
        self._rows = 0
        self.written: WrittenFile | None = None  # once it is closed

    def write(self, batch: pa.RecordBatch) -> None:
        """Add the rows of a batch. Raises ValueError where its columns are not those of the first."""
        if self._schema is None:
            self._schema = batch.schema
        if self._sink is None:
            self._sink = WRITERS[self._format](self._file, self._schema)
        self._sink.write(_conform(batch, self._schema, self._path))
        self._rows += batch.num_rows

    def close(self) -> WrittenFile:
        """Write what is held and publish the file; a second call returns the same.

        Raises ValueError where there was neither batch nor schema, and the format needs to know the columns.
        """
        if self.written is None:
            with self._publishing:
                if self._sink is None:
                    if self._schema is None and not self._format.startswith("jsonl"):
                        raise ValueError(f"{self._path}: no batch was written, so no column is known: give schema=")
                    self._sink = WRITERS[self._format](self._file, self._schema or pa.schema([]))
                self._sink.close()
            self.written = WrittenFile(rows=self._rows, bytes=self._file.size, sha256=self._file.digest.hexdigest())
        return self.written

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if kind is None:
            self.close()
        else:
            if isinstance(self._sink, _ParquetSink):
                self._sink.abandon()
            self._publishing.__exit__(kind, error, traceback)


def _conform(batch: pa.RecordBatch, schema: pa.Schema, path: str) -> pa.RecordBatch:
    """A batch with exactly the columns of a file; a column of nulls alone fits any type."""
    if batch.schema.equals(schema):
        return batch
    if set(batch.schema.names) != set(schema.names):
        raise ValueError(
            f"{path}: the columns of a batch are {', '.join(batch.schema.names)}, and those of the file "
            f"{', '.join(schema.names)}"
        )
    arrays = []
    for field in schema:
        values = batch.column(field.name)
        if values.type != field.type and not pa.types.is_null(values.type):
            raise ValueError(f"{path}: column {field.name!r} of a batch is {values.type}, and in the file {field.type}")
        arrays.append(values.cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class _HashingFile:
    """A file to write to that counts and hashes."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.size = 0
        self.digest = hashlib.sha256()
        self.closed = False

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += memoryview(data).nbytes
        return self._file.write(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._file.flush()


class _ParquetSink:
    def __init__(self, file: _HashingFile, schema: pa.Schema):
        self._schema = schema
        by_column: dict[str, Any] = {
            "use_dictionary": [name for name in schema.names if name in _REPEATING_COLUMNS],
            "write_statistics": [name for name in schema.names if name not in _LONG_COLUMNS],
        }
        self._writer = pq.ParquetWriter(
            pa.PythonFile(file, mode="w"),
            schema,
            compression="zstd",
            compression_level=PARQUET_ZSTD_LEVEL,
            **by_column,
        )
        self._held: list[pa.RecordBatch] = []
        self._bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._held.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._held, schema=self._schema)
        if table.num_rows:
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._held, self._bytes = [], 0

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        self._writer.is_open = False  # or it would write a footer to the closed file when it is collected


class _ArrowSink:
    def __init__(self, file: _HashingFile, schema: pa.Schema):
        self._writer = pa.ipc.new_file(pa.PythonFile(file, mode="w"), schema)

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()


class _JsonSink:
    def __init__(self, file: Any, schema: pa.Schema):
        self._file = file
        self._json_columns = [
            field.name for field in schema if field.name == "metadata" or dict(field.metadata or {}) == JSON_COLUMN
        ]
        binary = [field.name for field in schema if pa.types.is_binary(field.type)]
        if binary:
            raise ValueError(f"JSON has no form for the bytes of column {binary[0]!r}: write parquet, or drop it")

    def write(self, batch: pa.RecordBatch) -> None:
        for row in batch.to_pylist():
            for name in self._json_columns:
                row[name] = _as_json(row[name])
            self._write_line(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def _write_line(self, line: bytes) -> None:
        self._file.write(line)

    def close(self) -> None:
        pass


def _as_json(text: Any) -> Any:
    """The value that a string of JSON stands for, not parsed where it can be put in as it is."""
    if text is None or text == "{}":
        return None if text is None else {}
    if not isinstance(text, str):
        return text
    value = orjson.loads(text)
    return value if "\n" in text else orjson.Fragment(text)


class _BlockJsonSink(_JsonSink):
    compression = ""

    def __init__(self, file: Any, schema: pa.Schema):
        super().__init__(file, schema)
        self._blocks = BlockWriter(file, self.compression)

    def _write_line(self, line: bytes) -> None:
        self._blocks.write_line(line)

    def close(self) -> None:
        self._blocks.close()


class _GzipJsonSink(_BlockJsonSink):
    compression = "gzip"


class _ZstdJsonSink(_BlockJsonSink):
    compression = "zstd"


WRITERS = {
    "parquet": _ParquetSink,
    "jsonl": _JsonSink,
    "jsonl.gz": _GzipJsonSink,
    "jsonl.zst": _ZstdJsonSink,
    "arrow": _ArrowSink,
}
