"""What documents have of evaluation items: the work on one shard."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from marin.processing.decontaminate.ngram_index import NgramIndex, load_index
from marin.processing.dedup.sorted_records import write_array
from marin.processing.formats.splits import Split
from marin.processing.kernels.arrow_text import text_buffer
from marin.processing.kernels.ngrams import Found, HashSet, find_ngrams
from marin.processing.kernels.normalized_words import Words, words_of
from marin.processing.paragraphs import paragraph_offsets
from marin.processing.shards import BadRows, read_shard, write_shard

ITEMS = pa.list_(pa.struct([("set", pa.string()), ("item", pa.string()), ("coverage", pa.float32())]))
SPANS = pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64())]))
ATTRIBUTES = pa.schema(
    [
        ("id", pa.string()),
        ("decontamination.contaminated", pa.bool_()),
        # the largest share of a paragraph's n-grams that are in evaluation items
        ("decontamination.max_overlap", pa.float32()),
        # those that contaminate it, with the share of n-grams that it has of one of the item's texts
        ("decontamination.items", ITEMS),
        # the first words that it has in common with them
        ("decontamination.ngrams", pa.list_(pa.string())),
        # [start, end) in bytes of the UTF-8 text: the paragraphs that are contaminated
        ("decontamination.remove_spans", SPANS),
    ]
)
_SHOWN_NGRAMS = 3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What of a DecontaminateConfig decides what is found."""

    ngram: int
    min_words: int
    min_paragraph_overlap: float
    min_item_coverage: float


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What one document has of evaluation items."""

    max_overlap: float
    items: dict[int, float]  # numbers of the items that contaminate it, and which share of one text of each it has
    ngrams: list[str]
    spans: list[tuple[int, int]]

    @property
    def is_contaminated(self) -> bool:
        return bool(self.items)


_NONE = Overlap(max_overlap=0.0, items={}, ngrams=[], spans=[])


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """The words of a batch, by paragraph, and what of them was found."""

    data: np.ndarray
    text_offsets: np.ndarray
    bounds: np.ndarray  # of paragraphs, in data
    words: Words
    found: Found

    @classmethod
    def of(cls, batch: pa.RecordBatch, hashes: HashSet, ngram: int, min_words: int) -> "_Batch":
        data, text_offsets = text_buffer(batch.column("text"))
        bounds = paragraph_offsets(data, text_offsets)
        words = words_of(data, bounds)
        found = find_ngrams(words.hashes, words.offsets, ngram, min_words, hashes)
        return cls(data=data, text_offsets=text_offsets, bounds=bounds, words=words, found=found)

    def paragraphs_of_hits(self) -> np.ndarray:
        return np.searchsorted(self.words.offsets, self.found.words, side="right") - 1

    def texts_of(self, paragraphs: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.text_offsets, self.bounds[paragraphs], side="right") - 1


def look_up(batch: pa.RecordBatch, index: NgramIndex, hashes: HashSet, config: Finding) -> list[Overlap]:
    """What every document of a batch has of the items."""
    of_batch = _Batch.of(batch, hashes, config.ngram, config.min_words)
    paragraphs = of_batch.paragraphs_of_hits()
    texts = of_batch.texts_of(paragraphs)
    overlaps = [_NONE] * len(batch)
    for text in np.unique(texts):
        here = texts == text
        overlaps[text] = _overlap(of_batch, int(text), paragraphs[here], of_batch.found.indices[here], index, config)
    return overlaps


def _overlap(
    batch: _Batch, text: int, paragraphs: np.ndarray, ngrams: np.ndarray, index: NgramIndex, config: Finding
) -> Overlap:
    """Of one text, given the paragraph and the number of every n-gram that was found in it."""
    counts = {int(p): batch.found.num_found[p] / batch.found.num_ngrams[p] for p in np.unique(paragraphs)}
    contaminated = {paragraph for paragraph, share in counts.items() if share >= config.min_paragraph_overlap}
    had: Counter[int] = Counter()
    for ngram in np.unique(ngrams):
        had.update(index.texts_with(int(ngram)).tolist())
    coverage: dict[int, float] = {}
    for of_item, count in had.items():
        item, share = int(index.text_items[of_item]), count / int(index.text_sizes[of_item])
        coverage[item] = max(share, coverage.get(item, 0.0))
    guilty = {item for item, share in coverage.items() if share >= config.min_item_coverage}
    pairs = [
        (paragraph, index.text_items[index.texts_with(ngram)].tolist())
        for paragraph, ngram in zip(paragraphs.tolist(), ngrams.tolist(), strict=True)
    ]
    # all items first, and then the paragraphs that have something of one: no order of the paragraphs changes which
    guilty.update(item for paragraph, items in pairs if paragraph in contaminated for item in items)
    contaminated.update(paragraph for paragraph, items in pairs if not guilty.isdisjoint(items))
    first = int(batch.text_offsets[text])
    return Overlap(
        max_overlap=float(max(counts.values())),
        items={item: coverage[item] for item in sorted(guilty)},
        ngrams=_shown(batch, paragraphs, ngrams, config.ngram) if guilty else [],
        spans=[(int(batch.bounds[p]) - first, int(batch.bounds[p + 1]) - first) for p in sorted(contaminated)],
    )


def _shown(batch: _Batch, paragraphs: np.ndarray, ngrams: np.ndarray, n: int) -> list[str]:
    """How the first n-grams that were found read in the text."""
    shown: list[str] = []
    for paragraph in np.unique(paragraphs)[:_SHOWN_NGRAMS]:
        start, end = int(batch.bounds[paragraph]), int(batch.bounds[paragraph + 1])
        words = words_of(batch.data[start:end], np.array([0, end - start]), spans=True)
        first = batch.words.offsets[paragraph]
        hits = batch.found.words[
            (batch.found.words >= first) & (batch.found.words < batch.words.offsets[paragraph + 1])
        ]
        word = int(hits[0] - first)
        last = min(word + n, len(words.ends)) - 1
        shown.append(batch.data[start + words.starts[word] : start + words.ends[last]].tobytes().decode("utf-8"))
    return shown


@dataclass(frozen=True, kw_only=True)
class OverlapTask:
    """A file of documents to be looked up."""

    config: Finding
    index: str  # file of the n-gram index
    documents: tuple[Split, ...]
    attributes: str


@dataclass(frozen=True, kw_only=True)
class Hit:
    """An item that contaminates a document."""

    item: int
    coverage: float
    document: str


@dataclass(frozen=True, kw_only=True)
class FileOverlap:
    """What a file has of evaluation items."""

    documents: dict[str, int]  # by source
    contaminated: dict[str, int]
    paragraphs: int  # contaminated ones
    text_bytes: int  # of them
    hits: list[Hit]
    bad: BadRows


def overlap_of_file(task: OverlapTask) -> FileOverlap:
    """Write the attributes of a file's documents."""
    index, hashes = load_index(task.index)
    documents, contaminated, hits, bad = Counter[str](), Counter[str](), [], BadRows()
    batches, paragraphs, text_bytes = [], 0, 0
    for batch in (batch for split in task.documents for batch in read_shard(split, bad)):
        overlaps = look_up(batch, index, hashes, task.config)
        ids, sources = batch.column("id").to_pylist(), batch.column("source").to_pylist()
        documents.update(sources)
        for document_id, source, overlap in zip(ids, sources, overlaps, strict=True):
            contaminated[source] += overlap.is_contaminated
            paragraphs += len(overlap.spans)
            text_bytes += sum(end - start for start, end in overlap.spans)
            hits.extend(Hit(item=item, coverage=share, document=document_id) for item, share in overlap.items.items())
        batches.append(_attributes(ids, overlaps, index))
    write_shard(Path(task.attributes), batches, ATTRIBUTES)
    return FileOverlap(
        documents=documents,
        contaminated=contaminated,
        paragraphs=paragraphs,
        text_bytes=text_bytes,
        hits=hits,
        bad=bad,
    )


def _attributes(ids: list[str], overlaps: list[Overlap], index: NgramIndex) -> pa.RecordBatch:
    items = [
        [
            {"set": index.set_names[index.item_sets[item]], "item": index.item_ids[item], "coverage": share}
            for item, share in overlap.items.items()
        ]
        for overlap in overlaps
    ]
    spans = [[{"start": a, "end": b} for a, b in overlap.spans] for overlap in overlaps]
    columns = [
        ids,
        [overlap.is_contaminated for overlap in overlaps],
        [overlap.max_overlap for overlap in overlaps],
        items,
        [overlap.ngrams for overlap in overlaps],
        spans,
    ]
    arrays = [pa.array(values, column.type) for values, column in zip(columns, ATTRIBUTES, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=ATTRIBUTES)


@dataclass(frozen=True, kw_only=True)
class CountTask:
    """A shard whose documents are counted for each n-gram."""

    ngram: int
    min_words: int
    index: str
    documents: Split
    counts: str  # file for int64 (num_ngrams,)


def count_documents(task: CountTask) -> int:
    """Write in how many documents of a shard each n-gram is; how many documents there are."""
    index, hashes = load_index(task.index)
    counts = np.zeros(len(index.hashes), np.int64)
    num_documents = 0
    for batch in read_shard(task.documents):
        num_documents += len(batch)
        of_batch = _Batch.of(batch, hashes, task.ngram, task.min_words)
        pairs = np.stack([of_batch.texts_of(of_batch.paragraphs_of_hits()), of_batch.found.indices], axis=1)
        np.add.at(counts, np.unique(pairs, axis=0)[:, 1], 1)
    write_array(Path(task.counts), counts)
    return num_documents
