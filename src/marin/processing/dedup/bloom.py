"""Lines and documents whose n-grams a Bloom filter has seen: one pass in order, in the memory of the filter.

What is removed depends on what came before, so there is one writer and one order: shards by name, rows as they stand.
The price is that this method alone does not gain from more workers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from marin.io.atomic import open_atomic
from marin.processing.dedup.config import BloomConfig
from marin.processing.formats.splits import Split
from marin.processing.kernels import bloom, ngrams, normalized_words
from marin.processing.kernels.arrow_text import text_buffer
from marin.processing.kernels.bloom import BloomFilter
from marin.processing.paragraphs import lines
from marin.processing.shards import read_shard


def identity_of(config: BloomConfig) -> dict[str, Any]:
    """What must be equal for a run to go on with the filter of another."""
    versions = {"words": normalized_words.VERSION, "ngrams": ngrams.VERSION, "bloom": bloom.VERSION}
    return {"method": "bloom"} | versions | asdict(config)


@dataclass(frozen=True, kw_only=True)
class Units:
    """What is looked up of the texts of a batch, line by line."""

    hashes: np.ndarray  # uint64 (num_units,)
    offsets: np.ndarray  # int64 (num_lines + 1,)
    line_offsets: np.ndarray  # int64 (num_texts + 1,)
    starts: np.ndarray  # int64 (num_lines,): first byte of each line in the text's buffer
    ends: np.ndarray  # int64 (num_lines,): the byte after its newline


def units_of(data: np.ndarray, text_offsets: np.ndarray, config: BloomConfig) -> Units:
    """The n-grams of every line of texts in one buffer, or the lines themselves."""
    starts, ends, line_offsets = lines(data, text_offsets)
    # the last line of a text has no newline to go with it
    following = ends + 1
    following[line_offsets[1:] - 1] -= 1
    if config.ngram is None:
        is_unit = ends - starts >= config.min_paragraph_bytes
        units = np.flatnonzero(is_unit)
        hashes = bloom.hash_spans(data, starts[units], ends[units])
        offsets = np.zeros(len(starts) + 1, np.int64)
        np.cumsum(is_unit, out=offsets[1:])
    else:
        words = normalized_words.words_of(data, np.append(starts, text_offsets[-1:]))
        hashes, offsets = ngrams.hash_ngrams(words.hashes, words.offsets, config.ngram)
    return Units(hashes=hashes, offsets=offsets, line_offsets=line_offsets, starts=starts, ends=following)


def count_units(shards: Sequence[Split], config: BloomConfig) -> int:
    """How many units the documents have, repeated ones counted again."""
    return sum(
        len(units_of(*text_buffer(batch.column("text")), config).hashes)
        for split in shards
        for batch in read_shard(split)
    )


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What of a batch has been seen before."""

    removed: np.ndarray  # bool (num_texts,)
    contained: np.ndarray  # float32 (num_texts,): share of the text's units that had been seen; 0 where it has none
    spans: list[list[tuple[int, int]]]  # of every text: start and end of its lines that go, in bytes


def look_up(batch: pa.RecordBatch, seen: BloomFilter, config: BloomConfig) -> Seen:
    """Which lines and documents of a batch go; the others are added to the filter as they come."""
    data, text_offsets = text_buffer(batch.column("text"))
    units = units_of(data, text_offsets, config)
    contained, removed = bloom.drop_seen(units.hashes, units.offsets, units.line_offsets, seen, config.threshold)
    counts = np.diff(units.offsets)
    line_removed = contained > config.threshold * counts
    sums = [np.concatenate([np.zeros(1, np.int64), np.cumsum(values)]) for values in (contained, counts)]
    of_text = [np.diff(values[units.line_offsets]) for values in sums]
    spans: list[list[tuple[int, int]]] = [[] for _ in range(len(batch))]
    gone = np.flatnonzero(line_removed)
    texts = np.searchsorted(units.line_offsets, gone, side="right") - 1
    for line, text in zip(gone.tolist(), texts.tolist(), strict=True):
        first = int(text_offsets[text])
        spans[text].append((int(units.starts[line]) - first, int(units.ends[line]) - first))
    share = of_text[0] / np.maximum(of_text[1], 1)
    return Seen(removed=removed, contained=share.astype(np.float32), spans=spans)


def save_filter(folder: Path, seen: BloomFilter) -> None:
    """Write a filter for a later run."""
    folder.mkdir(parents=True, exist_ok=True)
    with open_atomic(folder / "bits.npy") as file:
        np.save(file, seen.bits)
    with open_atomic(folder / "num_probes.npy") as file:
        np.save(file, np.array(seen.num_probes))


def load_filter(folder: Path) -> BloomFilter:
    """A filter of an earlier run."""
    return BloomFilter(bits=np.load(folder / "bits.npy"), num_probes=int(np.load(folder / "num_probes.npy")))
