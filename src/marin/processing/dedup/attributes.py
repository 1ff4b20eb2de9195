"""Attributes of documents: a file beside each of theirs, row by row, that says what is a duplicate of what.

    id                   the document's
    dedup.duplicate      whether it goes
    dedup.duplicate_of   id of the document that stays in its place; null for one that stays, and with bloom, which
                         does not know
    dedup.similarity     to that document, by the measure of the method; null for one that stays
    dedup.cluster_size   documents of this run that go for the same one, with it
    dedup.contained      share of the text that was seen before: of its n-grams with bloom, of its bytes with paragraphs
    dedup.remove_spans   [start, end) in bytes of the UTF-8 text: what goes of a document that stays

A method leaves out the columns that it does not fill.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pyarrow as pa

from marin.processing.dedup.exact import duplicates_of_shard, spans_by_row
from marin.processing.dedup.index import Index
from marin.processing.dedup.order import Numbering, parts_of
from marin.processing.shards import write_shard

SPANS = pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64())]))
DOCUMENT_ATTRIBUTES = pa.schema(
    [
        ("id", pa.string()),
        ("dedup.duplicate", pa.bool_()),
        ("dedup.duplicate_of", pa.string()),
        ("dedup.similarity", pa.float32()),
        ("dedup.cluster_size", pa.int64()),
    ]
)
SPAN_ATTRIBUTES = pa.schema(
    [
        ("id", pa.string()),
        ("dedup.duplicate", pa.bool_()),
        ("dedup.contained", pa.float32()),
        ("dedup.remove_spans", SPANS),
    ]
)
LARGEST_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class SourceCounts:
    """What of each source there is, and what of it goes."""

    documents: dict[str, int]
    removed: dict[str, int]
    spans: dict[str, int] = field(default_factory=dict)  # removed from documents that stay
    span_bytes: dict[str, int] = field(default_factory=dict)
    # UTF-8 bytes of the texts, and of those of them that go, with spans; nothing where only whole documents go
    text_bytes: dict[str, int] = field(default_factory=dict)
    removed_bytes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def total(cls, parts: Iterable["SourceCounts"]) -> "SourceCounts":
        """All of them together."""
        counts = {one.name: Counter[str]() for one in fields(cls)}
        for part in parts:
            for name, counter in counts.items():
                counter.update(getattr(part, name))
        return cls(**counts)


def cluster_sizes(index: Index, generation: int, num_documents: Sequence[int]) -> tuple[Numbering, np.ndarray]:
    """uint32, by the documents' numbers: how many of this generation go for each."""
    numbering = Numbering.of([*(g.num_documents for g in index.generations), num_documents])
    sizes = np.zeros(numbering.total, np.uint32)
    for shard in range(len(num_documents)):
        removed = np.load(index.removed(generation, shard), mmap_mode="r")
        np.add.at(sizes, numbering.numbers(removed["canonical"]), 1)
    return numbering, sizes


def largest_clusters(index: Index, numbering: Numbering, sizes: np.ndarray) -> list[dict[str, object]]:
    """The documents for which the most others go."""
    order = np.argsort(-sizes.astype(np.int64), kind="stable")[:LARGEST_SHOWN]
    keys = np.array([numbering.key(int(number)) for number in order[sizes[order] > 0]], np.uint64)
    ids, sources = (_of_documents(index, keys, column) for column in ("id", "source"))
    return [
        {"documents": int(sizes[number]) + 1, "id": document_id, "source": source}
        for number, document_id, source in zip(order, ids, sources, strict=False)
    ]


def _of_documents(index: Index, keys: np.ndarray, column: str) -> list[str]:
    """A column of the documents with these keys, wherever they are."""
    parts = parts_of(keys)
    values = [""] * len(keys)
    order = np.lexsort((parts["shard"], parts["generation"]))
    places = np.stack([parts["generation"][order], parts["shard"][order]])
    borders = np.flatnonzero((places[:, 1:] != places[:, :-1]).any(axis=0)) + 1
    for here in np.split(order, borders) if len(order) else ():
        documents = index.documents(int(parts["generation"][here[0]]), int(parts["shard"][here[0]]))
        found = documents[column].take(pa.array(parts["row"][here])).to_pylist()
        for i, value in zip(here.tolist(), found, strict=True):
            values[i] = value
    return values


@dataclass(frozen=True, kw_only=True)
class AttributesTask:
    """A file of documents beside which attributes are written."""

    index: Index
    generation: int
    shards: tuple[int, ...]  # of the file
    num_documents: tuple[int, ...]  # of every shard there is
    path: str  # of the attributes
    sizes: str  # file of cluster_sizes; "" for spans
    duplicates: tuple[str, ...] = ()  # for spans: files of repeated paragraphs
    num_priorities: int = 1


def write_document_attributes(task: AttributesTask) -> SourceCounts:
    """Write which documents of a file go, and for which."""
    parts = [_document_attributes(task, shard) for shard in task.shards]
    write_shard(Path(task.path), [batch for table, _ in parts for batch in table.to_batches(2048)], DOCUMENT_ATTRIBUTES)
    return SourceCounts.total(counts for _, counts in parts)


def _document_attributes(task: AttributesTask, shard: int) -> tuple[pa.Table, SourceCounts]:
    documents = task.index.documents(task.generation, shard)
    removed = np.load(task.index.removed(task.generation, shard))
    num_rows = len(documents)
    rows = removed["row"].astype(np.int64)
    duplicate = np.zeros(num_rows, np.bool_)
    duplicate[rows] = True
    of: list[str | None] = [None] * num_rows
    similarity: list[float | None] = [None] * num_rows
    canonical_ids = _of_documents(task.index, removed["canonical"], "id")
    for row, canonical_id, value in zip(rows.tolist(), canonical_ids, removed["similarity"].tolist(), strict=True):
        of[row], similarity[row] = canonical_id, value
    numbering = Numbering.of([*(g.num_documents for g in task.index.generations), task.num_documents])
    sizes = np.load(task.sizes, mmap_mode="r")
    base = numbering.bases[task.generation, shard]
    cluster = sizes[base : base + num_rows].astype(np.int64) + 1
    cluster[rows] = sizes[numbering.numbers(removed["canonical"])].astype(np.int64) + 1
    columns = [
        documents["id"].cast(pa.string()).combine_chunks(),
        pa.array(duplicate),
        pa.array(of, pa.string()),
        pa.array(similarity, pa.float32()),
        pa.array(cluster),
    ]
    sources = documents["source"].to_pylist()
    counts = SourceCounts(documents=Counter(sources), removed=Counter(sources[row] for row in rows))
    return pa.Table.from_arrays(columns, schema=DOCUMENT_ATTRIBUTES), counts


def write_paragraph_attributes(task: AttributesTask) -> SourceCounts:
    """Write which paragraphs of a file's documents go."""
    parts = [_paragraph_attributes(task, shard) for shard in task.shards]
    write_shard(Path(task.path), [batch for table, _ in parts for batch in table.to_batches(2048)], SPAN_ATTRIBUTES)
    return SourceCounts.total(counts for _, counts in parts)


def _paragraph_attributes(task: AttributesTask, shard: int) -> tuple[pa.Table, SourceCounts]:
    documents = task.index.documents(task.generation, shard)
    lengths = np.load(task.index.shard(task.generation, shard) / "text_bytes.npy")
    ids, sources = documents["id"].to_pylist(), documents["source"].to_pylist()
    found = duplicates_of_shard([Path(path) for path in task.duplicates], task.generation, task.num_priorities, shard)
    spans = list(spans_by_row(found, len(ids)))
    gone = np.array([int((of_row[:, 1] - of_row[:, 0]).sum()) for of_row in spans], np.int64)
    duplicate = (gone == lengths) & (lengths > 0)
    columns = [
        pa.array(ids, pa.string()),
        pa.array(duplicate),
        pa.array((gone / np.maximum(lengths, 1)).astype(np.float32)),
        pa.array([[{"start": int(a), "end": int(b)} for a, b in of_row] for of_row in spans], SPANS),
    ]
    pairs = [[(int(a), int(b)) for a, b in of_row] for of_row in spans]
    counts = source_counts(sources, lengths.tolist(), duplicate.tolist(), pairs)
    return pa.Table.from_arrays(columns, schema=SPAN_ATTRIBUTES), counts


def source_counts(
    sources: Sequence[str],
    num_bytes: Sequence[int],
    duplicate: Sequence[bool],
    spans: Sequence[Sequence[tuple[int, int]]],
) -> SourceCounts:
    """The counts of documents of so many bytes, of which some go, and of others disjoint spans of bytes."""
    removed, num_spans, span_bytes, text_bytes, removed_bytes = (Counter[str]() for _ in range(5))
    for source, size, is_duplicate, of_document in zip(sources, num_bytes, duplicate, spans, strict=True):
        text_bytes[source] += size
        if is_duplicate:
            removed[source] += 1
            removed_bytes[source] += size
        else:
            gone = sum(end - start for start, end in of_document)
            num_spans[source] += len(of_document)
            span_bytes[source] += gone
            removed_bytes[source] += gone
    return SourceCounts(
        documents=Counter(sources),
        removed=removed,
        spans=num_spans,
        span_bytes=span_bytes,
        text_bytes=text_bytes,
        removed_bytes=removed_bytes,
    )
