"""Rows brought together by key: each shard writes its rows by partition of their key, sorted; a reader merges them.

A spill file is a run of Arrow streams, one for each partition of each flush, and a footer that says where they are. A
flush holds some 64 MB, so a shard of any size is partitioned in little memory; and readers take a few MB of each stream
at a time, so a partition, or a single key, may be larger than memory. The price is that all rows are written once more.

Within a key, rows come by `order_by`, and then as they were read, whoever wrote them.
"""

import base64
import bisect
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import xxhash

from marin.io.files import is_remote, open_input, open_output, read_range
from marin.processing.formats.reading import bounded
from marin.processing.pipeline.evaluate import check_columns
from marin.processing.pipeline.rows import conform, of_one_schema, shown_row, unify
from marin.processing.pipeline.sinks import Written

FLUSH_BYTES = 64 << 20
CHUNK_ROWS = 16_384
CHUNK_BYTES = 4 << 20  # what a reader holds of each stream
AHEAD_BYTES = 1 << 20  # and of one in a store, as it is stored

_LENGTH = struct.Struct("<Q")
_PARTITION = "__partition"


@dataclass(frozen=True, kw_only=True)
class SpillSink:
    """Writes rows by partition of their keys."""

    version: ClassVar[int] = 3
    keys: tuple[str, ...]
    order_by: tuple[str, ...]
    num_partitions: int

    @property
    def ending(self) -> str:
        return ".spill"

    def write(self, path: str, batches: Iterator[pa.RecordBatch], schema: pa.Schema | None = None) -> Written:
        common, batches = of_one_schema(batches, schema, path)
        rows = 0
        with open_output(path) as raw:
            file = _Hashing(raw)
            segments: list[list[list[int]]] = []  # of each flush, of each partition: start, size in the file
            for table in _flushes(batches, common):
                rows += table.num_rows
                segments.append(self._flush(table, file))
            footer = {"schema": base64.b64encode(common.serialize()).decode(), "segments": segments}
            data = json.dumps(footer).encode()
            file.write(data + _LENGTH.pack(len(data)))
        columns = {field.name: str(field.type) for field in common}
        return Written(rows=rows, bytes=file.size, sha256=file.digest.hexdigest(), columns=columns)

    def _flush(self, table: pa.Table, file: "_Hashing") -> list[list[int]]:
        partitions = partition_of(table, self.keys, self.num_partitions)
        sorted_table = _sorted(table.append_column(_PARTITION, pa.array(partitions)), [_PARTITION, *self.order])
        bounds = np.searchsorted(sorted_table.column(_PARTITION).to_numpy(), np.arange(self.num_partitions + 1))
        sorted_table = sorted_table.drop_columns([_PARTITION])
        places = []
        for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            start = file.size
            if end > begin:
                _write_stream(file, sorted_table.slice(begin, end - begin))
            places.append([start, file.size - start])
        return places

    @property
    def order(self) -> list[str]:
        return list(dict.fromkeys([*self.keys, *self.order_by]))


class _Hashing:
    """A file that counts and hashes what is written."""

    def __init__(self, file: Any):
        self._file = file
        self.size = 0
        self.digest = hashlib.sha256()
        self.closed = False

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += memoryview(data).nbytes
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self.size


def _flushes(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        held.append(batch)
        size += batch.nbytes
        if size >= FLUSH_BYTES:
            yield pa.Table.from_batches(held, schema)
            held, size = [], 0
    if held:
        yield pa.Table.from_batches(held, schema)


def _sorted(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The rows by these columns, least first, nulls last; equal ones as they were."""
    check_columns(tuple(columns), table.schema.names, "a group")
    return table.sort_by([(name, "ascending") for name in columns]) if columns and table.num_rows else table


def _write_stream(file: _Hashing, table: pa.Table) -> None:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(pa.PythonFile(file, mode="w"), table.schema, options=options) as writer:
        for batch in table.to_batches(max_chunksize=CHUNK_ROWS):
            for piece in bounded(batch, CHUNK_ROWS, CHUNK_BYTES):
                writer.write_batch(piece)


def partition_of(table: pa.Table | pa.RecordBatch, keys: Sequence[str], num_partitions: int) -> np.ndarray:
    """The partition of each row: a hash of its keys, modulo. ValueError for a row that has no key."""
    hashes = np.zeros(table.num_rows, np.uint64)
    check_columns(tuple(keys), table.schema.names, "a group or join")
    for name in keys:
        column = table.column(name)
        if column.null_count:
            index = column.is_null().to_pylist().index(True)
            row_id = shown_row(table.slice(index, 1).to_batches()[0], 0)[0] if isinstance(table, pa.Table) else ""
            raise ValueError(f"row {row_id!r} has no value in {name!r}, by which rows are brought together")
        values = column.to_pylist()
        if pa.types.is_integer(column.type):
            texts = [repr(value) for value in values]
        else:  # strings are equal in whichever of Arrow's ways they are stored
            texts = [value if type(value) is str else repr(_plain_number(value)) for value in values]
        of_column = [xxhash.xxh3_64_intdigest(text.encode()) for text in texts]
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) ^ np.array(of_column, np.uint64)
    return (hashes % np.uint64(num_partitions)).astype(np.int32)


def _plain_number(value: Any) -> Any:
    """The same for values that are equal in columns of other types of number: 1 and 1.0, 0.0 and -0.0."""
    if type(value) is float:
        return int(value) if value.is_integer() else value
    if type(value) is list:
        return [_plain_number(item) for item in value]
    if type(value) is dict:
        return {name: _plain_number(item) for name, item in value.items()}
    return value


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Spills:
    """One partition of what the shards of a stage have written."""

    root: str
    paths: tuple[str, ...]  # below the root
    stage: str
    digest: str  # of the keys of those shards: what is in the files, before they are there
    partition: int
    order: tuple[str, ...]

    def identity(self) -> dict[str, Any]:
        """What it is, wherever the files are."""
        said = asdict(self)
        del said["root"], said["paths"]
        return {"label": f"partition {self.partition} of {self.stage}", **said}

    def sorted(self) -> Iterator[pa.Table]:
        """The rows of the partition by `order`, a few MB at a time; none or empty tables where there are none."""
        runs: list[Iterator[pa.RecordBatch]] = []
        schemas: list[tuple[str, pa.Schema]] = []
        for path in self.paths:
            full = os.path.join(self.root, path)
            footer = _footer(full)
            schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(footer["schema"])))
            places = [flush[self.partition] for flush in footer["segments"] if flush[self.partition][1]]
            if schema.names:
                schemas.append((path, schema))
            runs += [_stream(full, start, size) for start, size in places]
        if schemas:
            yield from _merged(runs, _common(schemas), self.order)


def _footer(path: str) -> dict[str, Any]:
    with open_input(path) as file:
        file.seek(-_LENGTH.size, os.SEEK_END)
        (size,) = _LENGTH.unpack(file.read(_LENGTH.size))
        file.seek(-_LENGTH.size - size, os.SEEK_END)
        return json.loads(file.read(size))


def _common(schemas: Sequence[tuple[str, pa.Schema]]) -> pa.Schema:
    first_path, common = schemas[0]
    for path, schema in schemas[1:]:
        if not common.equals(schema):
            common = unify(common, schema, (os.path.basename(first_path), os.path.basename(path)), fill=True)
    return common


def _stream(path: str, start: int, size: int) -> Iterator[pa.RecordBatch]:
    """The batches of a segment."""
    yield from pa.ipc.open_stream(_Segment(path, start, size))


class _Segment:
    """A part of a file, as a file that holds no descriptor between reads: there may be thousands of them.

    Of an object it holds what was read ahead, for a request takes as long as reading that.
    """

    def __init__(self, path: str, start: int, size: int):
        self._path, self._position, self._left = path, start, size
        self._ahead = AHEAD_BYTES if is_remote(path) else 0
        self._held = b""
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        most = len(self._held) + self._left
        size = most if size is None or size < 0 else min(size, most)
        if size > len(self._held):
            more = read_range(self._path, self._position, min(self._left, max(size - len(self._held), self._ahead)))
            self._position += len(more)
            self._left -= len(more)
            self._held += more
        data, self._held = self._held[:size], self._held[size:]
        return data

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def _merged(runs: Sequence[Iterator[pa.RecordBatch]], schema: pa.Schema, order: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of sorted runs, sorted; a chunk of each run is held.

    Rows up to the least last row of a chunk can go, for no run has an earlier one to come. Equal rows go by run.
    """
    held = [run for run in (_Run(number, run, schema, order) for number, run in enumerate(runs)) if run.load()]
    if not held:
        yield schema.empty_table()
    while held:
        bound = min(((run.key_at(-1), run.number) for run in held if not run.is_last), default=None)
        yield _sorted(pa.concat_tables([run.take(bound) for run in held]), order)
        held = [run for run in held if run.table.num_rows or run.load()]


class _Run:
    """One sorted run, of which a chunk is held."""

    def __init__(self, number: int, batches: Iterator[pa.RecordBatch], schema: pa.Schema, order: Sequence[str]):
        self.number = number
        self._batches, self._schema, self._order = batches, schema, order
        self._following = next(batches, None)
        self.table = schema.empty_table()

    @property
    def is_last(self) -> bool:
        """Whether no chunk comes after the one that is held."""
        return self._following is None

    def load(self) -> bool:
        """Hold the next chunk; False where there is none."""
        batch = self._following
        if batch is None:
            return False
        self._following = next(self._batches, None)
        self.table = pa.Table.from_batches([conform(batch, self._schema, fill=True)])
        return True

    def key_at(self, index: int) -> tuple[tuple[int, Any], ...]:
        """What a row is sorted by, so that Python orders it as Arrow does: NaN after numbers, null after all."""
        return tuple(_rank(self.table.column(name)[index].as_py()) for name in self._order)

    def take(self, bound: tuple[Any, int] | None) -> pa.Table:
        """The held rows up to a (key, number of a run), which are held no more."""
        size = self.table.num_rows
        if bound is not None and bound[1] != self.number:
            find = bisect.bisect_right if self.number < bound[1] else bisect.bisect_left
            size = find(range(size), bound[0], key=self.key_at)
        taken, self.table = self.table.slice(0, size), self.table.slice(size)
        return taken


def _rank(value: Any) -> tuple[int, Any]:
    if value is None:
        return (2, 0)
    return (1, 0) if value != value else (0, value)
