"""The same text twice: documents or paragraphs, by their 128-bit xxh3 hashes.

Every shard writes its hashes sorted; every range of hashes is then merged by a task of its own, where the first of
equal ones, in the order of the documents, stays. A paragraph is hashed without the white space around it.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from marin.processing.dedup.config import ExactConfig
from marin.processing.dedup.index import REMOVED, Index, write_documents
from marin.processing.dedup.order import order_key, parts_of, priorities
from marin.processing.dedup.sorted_records import (
    hash_ranges,
    read_range,
    records_between,
    starts_of_groups,
    write_array,
    write_sorted,
)
from marin.processing.formats.splits import Split
from marin.processing.kernels.arrow_text import text_buffer
from marin.processing.paragraphs import paragraph_offsets
from marin.processing.shards import BadRows, read_shard

# start and end: bytes of the text, up to where the next paragraph begins; of a document both are 0
HASHED = np.dtype([("high", "<u8"), ("low", "<u8"), ("key", "<u8"), ("start", "<i8"), ("end", "<i8")])
DUPLICATE = np.dtype([("key", "<u8"), ("canonical", "<u8"), ("start", "<i8"), ("end", "<i8")])
_HASH = ("high", "low")
_ORDER = (*_HASH, "key", "start")
VERSION = "exact 1"


def identity_of(config: ExactConfig) -> dict[str, Any]:
    """What must be equal for two runs to be comparable."""
    return {"method": "exact", "version": VERSION} | asdict(config)


@dataclass(frozen=True, kw_only=True)
class HashTask:
    """A shard of documents to be hashed."""

    config: ExactConfig
    split: Split  # of the documents
    generation: int
    shard: int
    priority: tuple[str, ...]
    index_shard: str  # folder for what the index keeps
    hashes: str  # file of the shard's records


@dataclass(frozen=True, kw_only=True)
class Hashed:
    """How many documents a shard has, and what was none."""

    num_documents: int
    bad: BadRows


def hash_shard(task: HashTask) -> Hashed:
    """Write the hashes of a shard, sorted."""
    bad = BadRows()
    ids: list[str] = []
    sources: list[str] = []
    parts = [np.empty(0, HASHED)]
    lengths = [np.empty(0, np.int64)]
    for batch in read_shard(task.split, bad):
        first_row = len(ids)
        ids += batch.column("id").to_pylist()
        batch_sources = batch.column("source").to_pylist()
        sources += batch_sources
        rows, digests, starts, ends = _hashes(batch, task.config)
        records = np.empty(len(rows), HASHED)
        pairs = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2)
        records["high"], records["low"] = pairs[:, 0], pairs[:, 1]
        priority = priorities(batch_sources, task.priority)[rows]
        records["key"] = order_key(task.generation, priority, task.shard, first_row + rows)
        records["start"], records["end"] = starts, ends
        parts.append(records)
        lengths.append(np.diff(text_buffer(batch.column("text"))[1]))
    write_array(Path(task.index_shard) / "text_bytes.npy", np.concatenate(lengths))
    write_documents(Path(task.index_shard) / "documents.arrow", ids, sources)
    write_sorted(Path(task.hashes), np.concatenate(parts), _ORDER)
    return Hashed(num_documents=len(ids), bad=bad)


def _hashes(batch: pa.RecordBatch, config: ExactConfig) -> tuple[np.ndarray, list[bytes], np.ndarray, np.ndarray]:
    """(row, hash, first byte, end) of everything in a batch that may be a duplicate."""
    data, text_offsets = text_buffer(batch.column("text"))
    if config.on == "document":
        texts = [text.as_buffer() for text in batch.column("text")]
        nowhere = np.zeros(len(texts), np.int64)
        return np.arange(len(texts)), [xxhash.xxh3_128_digest(text) for text in texts], nowhere, nowhere
    bounds = paragraph_offsets(data, text_offsets)
    stripped = [data[start:end].tobytes().strip() for start, end in itertools.pairwise(bounds.tolist())]
    large = np.flatnonzero(np.array([len(paragraph) >= config.min_paragraph_bytes for paragraph in stripped], np.bool_))
    digests = [xxhash.xxh3_128_digest(stripped[i]) for i in large]
    rows = np.searchsorted(text_offsets, bounds[large], side="right") - 1
    return rows, digests, bounds[large] - text_offsets[rows], bounds[large + 1] - text_offsets[rows]


@dataclass(frozen=True, kw_only=True)
class MergeTask:
    """A range of hashes."""

    index: Index
    generation: int
    hashes: tuple[str, ...]  # files of all shards
    first: int
    end: int
    duplicates: str  # file of what is there twice
    leaders: str  # file of the first of each


def merge_range(task: MergeTask) -> int:
    """Write which documents or paragraphs repeat another whose hash is in the range; how many."""
    files = [Path(path) for path in task.hashes]
    files += [path for generation in range(task.generation) for path in task.index.leaders(generation)]
    records = read_range(files, task.first, task.end, _ORDER)
    first = starts_of_groups(records, _HASH)
    leader = np.maximum.accumulate(np.where(first, np.arange(len(records)), 0))
    duplicates = np.empty(int((~first).sum()), DUPLICATE)
    for name in ("key", "start", "end"):
        duplicates[name] = records[name][~first]
    duplicates["canonical"] = records["key"][leader[~first]]
    write_sorted(Path(task.duplicates), duplicates, ("key", "start"))
    leaders = records[first]
    write_array(Path(task.leaders), leaders[parts_of(leaders["key"])["generation"] == task.generation])
    return len(duplicates)


def merge_tasks(index: Index, generation: int, hashes: Sequence[Path], num_records: int, work: Path) -> list[MergeTask]:
    """The tasks of all ranges."""
    return [
        MergeTask(
            index=index,
            generation=generation,
            hashes=tuple(map(str, hashes)),
            first=first,
            end=end,
            duplicates=str(work / "duplicates" / f"part-{i:05d}.npy"),
            leaders=str(index.folder(generation) / "leaders" / f"part-{i:05d}.npy"),
        )
        for i, (first, end) in enumerate(hash_ranges(num_records))
    ]


def duplicates_of_shard(files: Sequence[Path], generation: int, num_priorities: int, shard: int) -> np.ndarray:
    """DUPLICATE records of one shard, by row and start."""
    parts = [np.empty(0, DUPLICATE)]
    for path in files:
        records = np.load(path, mmap_mode="r")
        for priority in range(num_priorities):
            first = int(order_key(generation, priority, shard, 0))
            parts.append(records_between(records, "key", first, first + (1 << 26)))
    found = np.concatenate(parts)
    return found[np.lexsort([found["start"], parts_of(found["key"])["row"]])]


def removed_documents(duplicates: np.ndarray) -> np.ndarray:
    """The DUPLICATE records of a shard's documents as REMOVED records."""
    removed = np.empty(len(duplicates), REMOVED)
    removed["row"] = parts_of(duplicates["key"])["row"]
    removed["canonical"], removed["similarity"] = duplicates["canonical"], 1.0
    return removed


def spans_by_row(duplicates: np.ndarray, num_rows: int) -> Iterator[np.ndarray]:
    """For every row of a shard int64 (num_spans, 2): the bytes of its repeated paragraphs."""
    bounds = np.searchsorted(parts_of(duplicates["key"])["row"], np.arange(num_rows + 1))
    spans = np.stack([duplicates["start"], duplicates["end"]], axis=1)
    for row in range(num_rows):
        yield spans[bounds[row] : bounds[row + 1]]
