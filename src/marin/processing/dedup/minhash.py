"""Near-duplicates by MinHash: what is removed resembles, verified, a document that stays.

    sign      per shard          signatures, and a record (hash, place) for each band that a document has
    link      per range of hash  documents of one bucket are compared with its leaders: links, each verified
    resolve   in order           a document goes if it has a link to one that stays

A chain of links removes nothing at its end: A like B and B like C does not make A like C, and closing over such chains
has removed whole sources of documents that were alike in their first lines. The price is that a few duplicates stay,
where what they resemble is itself removed for another document. The last part runs in one process, over the links
alone: it holds a bit a document.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from marin.io.atomic import open_atomic
from marin.processing.dedup.config import MinHashConfig
from marin.processing.dedup.index import REMOVED, Index, write_documents
from marin.processing.dedup.order import Numbering, order_key, parts_of, priorities
from marin.processing.dedup.sorted_records import (
    hash_ranges,
    read_range,
    records_between,
    sorted_unique,
    starts_of_groups,
    write_array,
    write_sorted,
)
from marin.processing.formats.splits import Split
from marin.processing.kernels import minhash, normalized_words
from marin.processing.kernels.arrow_text import text_buffer
from marin.processing.kernels.normalized_words import Words, words_of
from marin.processing.shards import BadRows, read_shard

BAND = np.dtype([("hash", "<u8"), ("key", "<u8")])
LINK = np.dtype([("member", "<u8"), ("leader", "<u8"), ("similarity", "<f4")])
# Entries of buckets whose signatures (or shingles) are in memory at once.
_ENTRIES_AT_ONCE = {"signature": 1 << 16, "jaccard": 1 << 13, "containment": 1 << 13}


def identity_of(config: MinHashConfig) -> dict[str, Any]:
    """What must be equal for two runs to be comparable."""
    return {"method": "minhash", "words": normalized_words.VERSION, "minhash": minhash.VERSION} | asdict(config)


@dataclass(frozen=True, kw_only=True)
class SignTask:
    """A shard of documents to be signed."""

    config: MinHashConfig
    split: Split  # of the documents
    generation: int
    shard: int
    priority: tuple[str, ...]
    index_shard: str  # folder for what the index keeps
    bands: str  # file of the shard's band records


@dataclass(frozen=True, kw_only=True)
class Signed:
    """How many documents a shard has."""

    num_documents: int
    num_too_short: int  # of fewer words than a shingle has
    num_sampled: int  # of more shingles than are kept
    bad: BadRows


def words_in(batch: pa.RecordBatch, config: MinHashConfig) -> Words:
    """The units that shingles are made of: normalised words, or the characters of the normalised text."""
    if config.unit == "word":
        return words_of(*text_buffer(batch.column("text")))
    units = [
        np.frombuffer(" ".join(normalized_words.normalize(text)).encode("utf-32-le"), np.uint32)
        for text in batch.column("text").to_pylist()
    ]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(unit) for unit in units], dtype=np.int64)])
    hashes = np.concatenate(units or [np.zeros(0, np.uint32)]).astype(np.uint64)
    with np.errstate(over="ignore"):
        hashes = (hashes + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    none = np.zeros(0, np.int64)
    return Words(hashes=hashes, offsets=offsets, starts=none, ends=none)


def sign_shard(task: SignTask) -> Signed:
    """Write the signatures of a shard's documents, and their bands sorted by hash."""
    config = task.config
    family = minhash.hash_family(config.num_hashes, config.seed)
    folder = Path(task.index_shard)
    folder.mkdir(parents=True, exist_ok=True)
    bad = BadRows()
    ids: list[str] = []
    sources: list[str] = []
    bands: list[np.ndarray] = []
    too_short = sampled = 0
    keeps_shingles = config.verify != "signature"
    lengths, bounds = [0], []
    with open_atomic(folder / "signatures.u32") as signature_file, open_atomic(folder / "shingles.u32") as shingle_file:
        for batch in read_shard(task.split, bad):
            first_row = len(ids)
            ids += batch.column("id").to_pylist()
            batch_sources = batch.column("source").to_pylist()
            sources += batch_sources
            words = words_in(batch, config)
            rows = minhash.signatures(words.hashes, words.offsets, config.ngram, family)
            signature_file.write(rows.tobytes())

            signed = np.flatnonzero(np.diff(words.offsets) >= config.ngram)
            too_short += len(rows) - len(signed)
            priority = priorities([batch_sources[i] for i in signed], task.priority)
            keys = order_key(task.generation, priority, task.shard, first_row + signed)
            hashes = minhash.band_hashes(rows[signed], config.num_bands)
            records = np.empty(hashes.shape, BAND)
            records["hash"], records["key"] = hashes, keys[:, None]
            bands.append(records.ravel())

            for i in range(len(rows) if keeps_shingles else 0):
                of_text = words.hashes[words.offsets[i] : words.offsets[i + 1]]
                kept, bound = minhash.kept_shingles(minhash.shingles(of_text, config.ngram), config.max_shingles)
                shingle_file.write(kept.tobytes())
                lengths.append(len(kept))
                bounds.append(bound)
                sampled += bound < 1 << 32
    if keeps_shingles:
        write_array(folder / "shingle_offsets.npy", np.cumsum(lengths, dtype=np.int64))
        write_array(folder / "shingle_bounds.npy", np.array(bounds, np.int64))
    else:
        (folder / "shingles.u32").unlink()
    write_documents(folder / "documents.arrow", ids, sources)
    write_sorted(Path(task.bands), np.concatenate(bands or [np.empty(0, BAND)]), ("hash", "key"))
    return Signed(num_documents=len(ids), num_too_short=too_short, num_sampled=sampled, bad=bad)


def _mapped(path: Path, dtype: str) -> np.ndarray:
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)


def _compared(index: Index, keys: np.ndarray, config: MinHashConfig) -> minhash.Compared:
    """What the documents of these keys, ascending, are compared by."""
    parts = parts_of(keys)
    rows = np.empty((len(keys), config.num_hashes), np.uint32)
    shingle_parts: list[np.ndarray] = [np.zeros(0, np.uint32)] * len(keys)
    bounds = np.zeros(len(keys), np.int64)
    places = np.stack([parts["generation"], parts["shard"]], axis=1)
    for generation, shard in np.unique(places, axis=0):
        here = np.flatnonzero((places == (generation, shard)).all(axis=1))
        folder = index.shard(int(generation), int(shard))
        there = parts["row"][here]
        rows[here] = _mapped(folder / "signatures.u32", "<u4").reshape(-1, config.num_hashes)[there]
        if config.verify != "signature":
            offsets = np.load(folder / "shingle_offsets.npy", mmap_mode="r")
            shingle_data = _mapped(folder / "shingles.u32", "<u4")
            bounds[here] = np.load(folder / "shingle_bounds.npy", mmap_mode="r")[there]
            for i, row in zip(here, there, strict=True):
                shingle_parts[i] = np.array(shingle_data[offsets[row] : offsets[row + 1]])
    if config.verify == "signature":
        return minhash.Compared.by_signature(rows)
    lengths = np.cumsum([0, *map(len, shingle_parts)], dtype=np.int64)
    return minhash.Compared(signatures=rows, shingles=np.concatenate(shingle_parts), offsets=lengths, bounds=bounds)


@dataclass(frozen=True, kw_only=True)
class LinkTask:
    """A range of band hashes whose buckets are walked."""

    config: MinHashConfig
    index: Index
    generation: int
    bands: tuple[str, ...]  # of all shards
    first: int
    end: int
    links: str  # file of the links found
    leaders: str  # file of the leaders that later documents are compared with


@dataclass(frozen=True, kw_only=True)
class Linked:
    """What the buckets of a range were like."""

    num_buckets: int  # of two documents or more
    largest: int  # documents of the largest
    num_without_room: int  # entries that resembled no leader, in buckets that had all they may


def link_range(task: LinkTask) -> Linked:
    """Write the verified links between documents that share a band whose hash is in the range."""
    config = task.config
    files = [Path(path) for path in task.bands]
    files += [path for generation in range(task.generation) for path in task.index.leaders(generation)]
    records = read_range(files, task.first, task.end, ("hash", "key"))
    starts = starts_of_groups(records, ("hash",))
    sizes = np.diff(np.append(np.flatnonzero(starts), len(records)))
    shared = np.repeat(sizes > 1, sizes)
    leaders = [records[~shared]]
    links = [np.empty(0, LINK)]
    without_room = 0
    for block, found, similarity, is_leader in _walk(records[shared], task.index, config):
        link = np.empty(len(found), LINK)
        link["member"], link["leader"] = block["key"][found[:, 0]], block["key"][found[:, 1]]
        link["similarity"] = similarity
        links.append(link)
        leaders.append(block[is_leader])
        without_room += len(block) - int(is_leader.sum()) - len(np.unique(found[:, 0]))
    write_array(Path(task.links), sorted_unique(np.concatenate(links), ("member", "leader")))
    # leaders carried over from one block to the next are in both, and those of before are in their generation's files
    new = sorted_unique(np.concatenate(leaders), ("hash", "key"))
    write_array(Path(task.leaders), new[parts_of(new["key"])["generation"] == task.generation])
    return Linked(num_buckets=int((sizes > 1).sum()), largest=int(sizes.max(initial=0)), num_without_room=without_room)


def _walk(
    entries: np.ndarray, index: Index, config: MinHashConfig
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Blocks of entries with `link_to_leaders` of each; a bucket that goes on begins the next with its leaders."""
    at_once = _ENTRIES_AT_ONCE[config.verify]
    carried = entries[:0]
    for first in range(0, len(entries), at_once):
        chunk = entries[first : first + at_once]
        block = np.concatenate([carried[carried["hash"] == chunk["hash"][0]], chunk])
        keys, members = np.unique(block["key"], return_inverse=True)
        found, similarity, is_leader = minhash.link_to_leaders(
            block["hash"],
            members.astype(np.int64),
            _compared(index, keys, config),
            config.verify,
            config.min_similarity,
            config.max_leaders,
        )
        yield block, found, similarity, is_leader
        carried = block[is_leader & (block["hash"] == block["hash"][-1])]


def link_tasks(
    config: MinHashConfig, index: Index, generation: int, bands: Sequence[Path], num_records: int, work: Path
) -> list[LinkTask]:
    """The tasks of all ranges."""
    return [
        LinkTask(
            config=config,
            index=index,
            generation=generation,
            bands=tuple(map(str, bands)),
            first=first,
            end=end,
            links=str(work / "links" / f"part-{i:05d}.npy"),
            leaders=str(index.folder(generation) / "leaders" / f"part-{i:05d}.npy"),
        )
        for i, (first, end) in enumerate(hash_ranges(num_records))
    ]


def resolve_links(links: Sequence[Path], index: Index, num_documents: Sequence[int], num_priorities: int) -> None:
    """Decide, in the order of the documents, who goes, and write removed/ of the newest generation of the index.

    Args:
        links: Files of links, each sorted by member.
        index: With the generations before this one.
        num_documents: Of each shard of this generation.
        num_priorities: Classes of sources.
    """
    generation = len(index.generations)
    numbering = Numbering.of([*(g.num_documents for g in index.generations), tuple(num_documents)])
    removed = np.zeros(numbering.total // 8 + 1, np.uint8)
    for number, earlier in enumerate(index.generations):
        for shard in range(len(earlier.num_documents)):
            rows = np.load(index.removed(number, shard))["row"].astype(np.int64) + numbering.bases[number, shard]
            np.bitwise_or.at(removed, rows >> 3, (1 << (rows & 7)).astype(np.uint8))

    files = [np.load(path, mmap_mode="r") for path in links]
    chosen: dict[int, list[np.ndarray]] = {shard: [np.empty(0, LINK)] for shard in range(len(num_documents))}
    for priority in range(num_priorities):
        for shard in range(len(num_documents)):
            first = order_key(generation, priority, shard, 0)
            here = _links_between(files, int(first), int(first) + (1 << 26))
            members, leaders = numbering.numbers(here["member"]), numbering.numbers(here["leader"])
            chosen[shard].append(here[minhash.resolve(members, leaders, removed)])
    for shard, parts in chosen.items():
        kept = np.concatenate(parts)
        result = np.empty(len(kept), REMOVED)
        result["row"] = parts_of(kept["member"])["row"]
        result["canonical"], result["similarity"] = kept["leader"], kept["similarity"]
        write_array(index.removed(generation, shard), result[np.argsort(result["row"])])


def _links_between(files: Sequence[np.ndarray], first: int, end: int) -> np.ndarray:
    parts = [np.empty(0, LINK)]
    for file in files:
        parts.append(records_between(file, "member", first, end))
    return sorted_unique(np.concatenate(parts), ("member", "leader"))
