"""The arrays that one process writes, as one file that any reader of safetensors opens.

A *shard* is the part of an array that lies on one device. Each process writes those of its devices that no device
before has a copy of, so every element is written once, by whoever has it. They go into one safetensors file: a header
that says where each shard begins, then their bytes. A shard that is a whole array has the array's name in it, another
has its place behind the name, like `params.blocks.wqkv@0,512`.

The bytes are hashed on their way to the file, in pieces of `PIECE_BYTES`, so that a reader that needs a part of a shard
verifies and reads just the pieces that hold it. The price is a longer manifest.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from marin.distributed.mesh import Region

PIECE_BYTES = 16 * 2**20
_THREADS = min(8, os.cpu_count() or 1)  # hashing, reading and writing pieces
_ALIGNMENT = 64  # of the first shard in a file

_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
"""What safetensors calls them."""


class Shard(NamedTuple):
    """A part of an array, in memory."""

    name: str
    """Of the array."""
    offset: tuple[int, ...]
    """Where it begins in the array."""
    data: np.ndarray
    """Its elements, C order."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A state at one moment: which arrays it has, and a copy of those parts that this process is to write."""

    arrays: dict[str, tuple[tuple[int, ...], str]]
    """Name -> (shape, name of the dtype) of every array, in the tree's order."""
    shards: list[Shard]
    """Of this process; they share no memory with the state."""


def take_snapshot(named: Mapping[str, Any]) -> Snapshot:
    """Copy to the host what this process owns of the arrays, by their names. Returns when all is copied."""
    for leaf in named.values():
        if isinstance(leaf, jax.Array):
            for shard in leaf.addressable_shards:
                if shard.replica_id == 0:
                    shard.data.copy_to_host_async()
    arrays = {name: (tuple(leaf.shape), np.dtype(leaf.dtype).name) for name, leaf in named.items()}
    for name, (_, dtype) in arrays.items():
        if dtype not in _DTYPES:
            raise ValueError(f"array '{name}' has dtype {dtype}, which a checkpoint cannot hold: {', '.join(_DTYPES)}")
    return Snapshot(arrays=arrays, shards=[shard for name, leaf in named.items() for shard in _owned(name, leaf)])


def _owned(name: str, leaf: Any) -> Iterator[Shard]:
    if not isinstance(leaf, jax.Array):
        if jax.process_index() == 0:
            yield Shard(name, (0,) * np.ndim(leaf), np.array(leaf, order="C"))
        return
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            offset = tuple(part.start or 0 for part in shard.index)
            data = np.asarray(shard.data)
            # on a CPU that is the array itself, whose memory the next step takes
            is_own = shard.device.platform != "cpu"
            yield Shard(name, offset, np.ascontiguousarray(data) if is_own else np.array(data, order="C"))


def write_shards(path: Path, shards: Sequence[Shard]) -> dict[str, Any]:
    """Write a new file, flushed to the disk; returns what `read_rows` and `check_file` must know of it, as JSON values.

    Raises OSError where the disk is full or cannot be written.
    """
    header, begins = _header(shards)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        _write_at(descriptor, 0, memoryview(header))
        with ThreadPoolExecutor(_THREADS) as pool:
            hashes = [
                [
                    pool.submit(_write_piece, descriptor, begin + start, memory[start : start + PIECE_BYTES])
                    for start in range(0, len(memory), PIECE_BYTES)
                ]
                for memory, begin in zip(map(_memory, shards), begins, strict=True)
            ]
            described = [
                {
                    "array": shard.name,
                    "offset": list(shard.offset),
                    "shape": list(shard.data.shape),
                    "begin": begin,
                    "sha256": [digest.result() for digest in digests],
                }
                for shard, begin, digests in zip(shards, begins, hashes, strict=True)
            ]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    num_bytes = len(header) + sum(shard.data.nbytes for shard in shards)
    header_sha256 = hashlib.sha256(header).hexdigest()
    return {"bytes": num_bytes, "header_bytes": len(header), "header_sha256": header_sha256, "shards": described}


def _header(shards: Sequence[Shard]) -> tuple[bytes, list[int]]:
    """The first bytes of the file, and where in it each shard begins."""
    entries, begins, at = {}, [], 0
    for shard in shards:
        begins.append(at)
        end = at + shard.data.nbytes
        entries[_entry_name(shard)] = {
            "dtype": _DTYPES[shard.data.dtype.name],
            "shape": list(shard.data.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return header, [len(header) + begin for begin in begins]


def _entry_name(shard: Shard) -> str:
    return shard.name + ("@" + ",".join(map(str, shard.offset)) if any(shard.offset) else "")


def _memory(shard: Shard) -> memoryview:
    return shard.data.reshape(-1).view(np.uint8).data


def _write_piece(descriptor: int, at: int, memory: memoryview) -> str:
    digest = hashlib.sha256(memory).hexdigest()
    _write_at(descriptor, at, memory)
    return digest


def _write_at(descriptor: int, at: int, memory: memoryview) -> None:
    while memory:
        written = os.pwrite(descriptor, memory, at)
        memory, at = memory[written:], at + written


class WrongBytes(ValueError):
    """What a file holds is not what was written. The message says what of it."""


class ShardReader:
    """Reads parts of shards out of the files of one checkpoint, and believes nothing that is not verified."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(_THREADS)

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()

    def check_file(self, name: str, described: Mapping[str, Any]) -> None:
        """WrongBytes where the length or the header of a file is not what was written; OSError where it is gone."""
        path = self._folder / name
        num_bytes = path.stat().st_size
        if num_bytes != described["bytes"]:
            raise WrongBytes(f"has {num_bytes} bytes, expected {described['bytes']}")
        with path.open("rb") as file:
            _check_digest(file.read(described["header_bytes"]), described["header_sha256"])

    def read_rows(self, shard: Mapping[str, Any], dtype: np.dtype, first: int, end: int) -> np.ndarray:
        """Rows `first .. end - 1` of a shard along its first axis (a scalar is one row), with its other axes whole."""
        shape = shard["shape"] or [1]
        row_bytes = math.prod(shape[1:]) * dtype.itemsize
        begin_byte, end_byte = first * row_bytes, end * row_bytes
        pieces = range(begin_byte // PIECE_BYTES, -(-end_byte // PIECE_BYTES))
        start = pieces.start * PIECE_BYTES
        total = math.prod(shape) * dtype.itemsize
        buffer = np.empty(min(pieces.stop * PIECE_BYTES, total) - start if pieces else 0, np.uint8)
        with (self._folder / shard["file"]).open("rb", buffering=0) as file:
            reads = [
                self._pool.submit(
                    _read_piece,
                    file.fileno(),
                    shard["begin"] + piece * PIECE_BYTES,
                    buffer.data[piece * PIECE_BYTES - start :][:PIECE_BYTES],
                    shard["sha256"][piece],
                )
                for piece in pieces
            ]
            for read in reads:
                read.exception()  # the file stays open until the last one is done
            for read in reads:
                read.result()
        rows = buffer[begin_byte - start : end_byte - start].view(dtype)
        return rows.reshape((end - first, *shape[1:]) if shard["shape"] else ())


def _read_piece(descriptor: int, at: int, memory: memoryview, digest: str) -> None:
    filled = 0
    while filled < len(memory):
        count = os.preadv(descriptor, [memory[filled:]], at + filled)
        if count == 0:
            raise WrongBytes(f"ends at byte {at + filled}, in the middle")
        filled += count
    _check_digest(memory, digest)


def _check_digest(content: bytes | memoryview, expected: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise WrongBytes(f"has sha256 {found[:12]}..., expected {expected[:12]}...")


def overlap(one: Region, other: Region) -> Region | None:
    """Where two regions of an array overlap; None where they do not."""
    common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return None if any(first >= end for first, end in common) else common


def within(region: Region, origin: Sequence[int]) -> tuple[slice, ...]:
    """The region as slices of an array that begins at `origin`."""
    return tuple(slice(first - o, end - o) for (first, end), o in zip(region, origin, strict=True))
