"""MinHash signatures of shingles, and the walk that compares texts which share a band.

A shingle is `n` words in a row; its hash is a polynomial of theirs, rolled on a word at a time. Signature value i of a
text is the least h_i over its shingles, where

    h_i(x) = (a_i * x + b_i  mod 2^64) >> 32,  x of 32 bits, a_i and b_i uniform in 64 bits

is strongly universal (Dietzfelbinger 1996). Nothing is lost to an overflow: the arithmetic is that of the integers
modulo 2^64, where the common (a * x + b) mod p on 64-bit numbers wraps before it is reduced and is no such family.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from marin.processing.kernels.compiled import compiled, inner

VERSION = "minhash 1"

NO_SHINGLE = 0xFFFFFFFF  # every value of the signature of a text that has no shingle
_BASE = 0x9FB21C651E98DF25
_MIX = 0xD6E8FEB86659FD93
_MASK = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, kw_only=True)
class HashFamily:
    """The functions h_i: uint64 (num_hashes,) each."""

    multipliers: np.ndarray
    increments: np.ndarray


def hash_family(num_hashes: int, seed: int) -> HashFamily:
    """`num_hashes` functions, from the SplitMix64 sequence of the seed: the same on every machine and numpy."""
    values, state = [], seed & _MASK
    for _ in range(2 * num_hashes):
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        values.append(z ^ (z >> 31))
    return HashFamily(
        multipliers=np.array(values[:num_hashes], np.uint64), increments=np.array(values[num_hashes:], np.uint64)
    )


def shingles(words: np.ndarray, n: int) -> np.ndarray:
    """uint32 (num_words - n + 1,): the hashes of the n-word shingles of one text; empty if it has fewer words.

    words: uint64 (num_words,).
    """
    num_shingles = max(len(words) - n + 1, 0)
    value = np.zeros(num_shingles, np.uint64)
    with np.errstate(over="ignore"):
        for k in range(n):
            value = value * np.uint64(_BASE) + words[k : k + num_shingles]
        value ^= value >> np.uint64(32)
        value *= np.uint64(_MIX)
    return (value >> np.uint64(32)).astype(np.uint32)


def signature_of(shingle_hashes: np.ndarray, family: HashFamily) -> np.ndarray:
    """uint32 (num_hashes,): the signature of a set of shingles: the definition that `signatures` is held to."""
    if not len(shingle_hashes):
        return np.full(len(family.multipliers), NO_SHINGLE, np.uint32)
    with np.errstate(over="ignore"):
        values = shingle_hashes.astype(np.uint64)[:, None] * family.multipliers + family.increments
    return (values.min(axis=0) >> np.uint64(32)).astype(np.uint32)


def signatures(words: np.ndarray, offsets: np.ndarray, n: int, family: HashFamily) -> np.ndarray:
    """uint32 (num_texts, num_hashes): the signatures of texts.

    Args:
        words: uint64 (num_words,), the words of all texts.
        offsets: int64 (num_texts + 1,): text i has words[offsets[i]:offsets[i + 1]].
    """
    num_texts = len(offsets) - 1
    longest = int(np.diff(offsets).max(initial=0))
    result = np.empty((num_texts, len(family.multipliers)), np.uint32)
    scratch = np.empty(longest + _UNROLLED, np.uint64)
    _signatures(words, offsets, n, family.multipliers, family.increments, result, scratch)
    return result


_UNROLLED = 4


@compiled
def _signatures(words: Any, offsets: Any, n: int, multipliers: Any, increments: Any, result: Any, scratch: Any) -> None:
    num_hashes = multipliers.size
    least = np.empty(num_hashes, np.uint64)
    leaving = np.uint64(1)
    for _ in range(n):
        leaving *= np.uint64(_BASE)
    for text in range(offsets.size - 1):
        first = offsets[text]
        end = offsets[text + 1]
        least[:] = np.uint64(_MASK)
        if end - first >= n:
            value = np.uint64(0)
            num_shingles = 0
            for j in range(first, end):
                value = value * np.uint64(_BASE) + words[j]
                if j >= first + n:
                    value -= words[j - n] * leaving
                if j >= first + n - 1:
                    mixed = (value ^ (value >> np.uint64(32))) * np.uint64(_MIX)
                    scratch[num_shingles] = mixed >> np.uint64(32)
                    num_shingles += 1
            # the last shingle again, up to a whole group: a minimum does not mind
            while num_shingles % _UNROLLED:
                scratch[num_shingles] = scratch[num_shingles - 1]
                num_shingles += 1
            for j in range(0, num_shingles, _UNROLLED):
                x0, x1, x2, x3 = scratch[j], scratch[j + 1], scratch[j + 2], scratch[j + 3]
                for k in range(num_hashes):
                    a = multipliers[k]
                    b = increments[k]
                    low = min(min(a * x0 + b, a * x1 + b), min(a * x2 + b, a * x3 + b))
                    least[k] = min(least[k], low)
        for k in range(num_hashes):
            result[text, k] = np.uint32(least[k] >> np.uint64(32))


def band_hashes(signature_rows: np.ndarray, num_bands: int) -> np.ndarray:
    """uint64 (num_texts, num_bands): one hash of each band's values and its number.

    signature_rows: uint32 (num_texts, num_bands * rows_per_band).
    """
    num_texts, num_hashes = signature_rows.shape
    bands = signature_rows.reshape(num_texts, num_bands, num_hashes // num_bands).astype(np.uint64)
    value = np.broadcast_to(np.arange(1, num_bands + 1, dtype=np.uint64), (num_texts, num_bands)).copy()
    with np.errstate(over="ignore"):
        for row in range(bands.shape[2]):
            value = (value ^ bands[:, :, row]) * np.uint64(_BASE)
            value ^= value >> np.uint64(32)
        value *= np.uint64(_MIX)
    return value ^ (value >> np.uint64(29))


def kept_shingles(shingle_hashes: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """The set of a text's shingles as sorted uint32, and the bound below which it is whole.

    Of more than `most` shingles the least hashes are kept: of two texts, those below both bounds are a sample of the
    same shingles.
    """
    distinct = np.unique(shingle_hashes)
    if len(distinct) <= most:
        return distinct, 1 << 32
    return distinct[:most], int(distinct[most])


def jaccard(a: np.ndarray, b: np.ndarray, bound: int = 1 << 32) -> float:
    """Jaccard similarity of two sets, sorted uint32, by what of them is below `bound`; 0 of two empty ones."""
    of_a, of_b = set(a[a < bound].tolist()), set(b[b < bound].tolist())
    return len(of_a & of_b) / max(len(of_a | of_b), 1)


def containment(a: np.ndarray, b: np.ndarray, bound: int = 1 << 32) -> float:
    """The share of the first set, sorted uint32, that is in the second, by what is below `bound`; 0 of an empty one."""
    of_a, of_b = set(a[a < bound].tolist()), set(b[b < bound].tolist())
    return len(of_a & of_b) / max(len(of_a), 1)


MEASURES = ("signature", "jaccard", "containment")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What texts are compared by: signatures, and for "jaccard" and "containment" their shingles, else empty arrays."""

    signatures: np.ndarray  # uint32 (num_texts, num_hashes)
    shingles: np.ndarray  # uint32 (num_shingles,): sorted within each text
    offsets: np.ndarray  # int64 (num_texts + 1,)
    bounds: np.ndarray  # int64 (num_texts,): see kept_shingles

    @classmethod
    def by_signature(cls, rows: np.ndarray) -> "Compared":
        return cls(
            signatures=rows,
            shingles=np.zeros(0, np.uint32),
            offsets=np.zeros(len(rows) + 1, np.int64),
            bounds=np.zeros(len(rows), np.int64),
        )


def link_to_leaders(
    buckets: np.ndarray,
    members: np.ndarray,
    compared: Compared,
    measure: str,
    min_similarity: float,
    max_leaders: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Who in a bucket resembles whom: every member is compared with the bucket's leaders, not with every other.

    The members of a bucket come in their order. A leader is a member that resembles no leader before it; there are at
    most `max_leaders` a bucket, so that the work is linear in its size. A member that resembles none when there is no
    room for another leader gets no link here.

    Args:
        buckets: uint64 (num_entries,), sorted: which bucket each entry is in.
        members: int64 (num_entries,): which text of `compared` it is, in order within each bucket.
        measure: One of MEASURES, of the member to the leader.
        min_similarity: They resemble each other from this on.
    Returns:
        links: int64 (num_links, 2): entry and the entry of the leader that it resembles (all of them).
        similarity: float32 (num_links,).
        leaders: bool (num_entries,).
    """
    capacity = 1024
    while True:
        links = np.empty((capacity, 2), np.int64)
        similarity = np.empty(capacity, np.float32)
        leaders = np.zeros(len(buckets), np.bool_)
        num_links = _link_to_leaders(
            buckets,
            members,
            compared.signatures,
            compared.shingles,
            compared.offsets,
            compared.bounds,
            MEASURES.index(measure),
            min_similarity,
            max_leaders,
            links,
            similarity,
            leaders,
        )
        if num_links <= capacity:
            return links[:num_links], similarity[:num_links], leaders
        capacity = num_links


@inner
def _similarity(
    a: int, b: int, signature_rows: Any, shingle_hashes: Any, offsets: Any, bounds: Any, measure: int
) -> float:
    if measure == 0:
        same = 0
        for k in range(signature_rows.shape[1]):
            same += signature_rows[a, k] == signature_rows[b, k]
        return same / signature_rows.shape[1]
    bound = min(bounds[a], bounds[b])
    i, end_a = offsets[a], offsets[a + 1]
    j, end_b = offsets[b], offsets[b + 1]
    common = of_a = of_b = 0
    while True:
        in_a = i < end_a and shingle_hashes[i] < bound
        in_b = j < end_b and shingle_hashes[j] < bound
        if not in_a and not in_b:
            break
        if in_a and in_b and shingle_hashes[i] == shingle_hashes[j]:
            common += 1
        step_a = in_a and (not in_b or shingle_hashes[i] <= shingle_hashes[j])
        step_b = in_b and (not in_a or shingle_hashes[j] <= shingle_hashes[i])
        i += step_a
        j += step_b
        of_a += step_a
        of_b += step_b
    if measure == 1:
        return common / max(of_a + of_b - common, 1)
    return common / max(of_a, 1)


@compiled
def _link_to_leaders(
    buckets: Any,
    members: Any,
    signature_rows: Any,
    shingle_hashes: Any,
    offsets: Any,
    bounds: Any,
    measure: int,
    min_similarity: float,
    max_leaders: int,
    links: Any,
    similarity: Any,
    leaders: Any,
) -> int:
    """The number of links; those that find no room are counted and not written."""
    num_links = 0
    num_leaders = 0
    heads = np.empty(max_leaders, np.int64)
    for entry in range(buckets.size):
        if entry == 0 or buckets[entry] != buckets[entry - 1]:
            num_leaders = 0
        resembles = False
        for place in range(num_leaders):
            value = _similarity(
                members[entry], members[heads[place]], signature_rows, shingle_hashes, offsets, bounds, measure
            )
            if value >= min_similarity:
                resembles = True
                if num_links < links.shape[0]:
                    links[num_links, 0] = entry
                    links[num_links, 1] = heads[place]
                    similarity[num_links] = value
                num_links += 1
        if not resembles and num_leaders < max_leaders:
            heads[num_leaders] = entry
            leaders[entry] = True
            num_leaders += 1
    return num_links


def resolve(members: np.ndarray, canonicals: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Which links remove their member: the first of each member that leads to a text which itself stays.

    So what is removed resembles something that is kept, and nothing is removed for resembling what resembles it.

    Args:
        members: int64 (num_links,): numbers of texts in their order, ascending; the links of one are together, and each
            leads to a text before it.
        canonicals: int64 (num_links,), ascending for each member.
        removed: uint8 bits: bit i is set if text i is removed. Changed by this.
    Returns:
        bool (num_links,).
    """
    chosen = np.zeros(len(members), np.bool_)
    _resolve(members, canonicals, removed, chosen)
    return chosen


@compiled
def _resolve(members: Any, canonicals: Any, removed: Any, chosen: Any) -> None:
    for link in range(members.size):
        member = members[link]
        canonical = canonicals[link]
        if (removed[member >> 3] >> (member & 7)) & 1 or (removed[canonical >> 3] >> (canonical & 7)) & 1:
            continue
        chosen[link] = True
        removed[member >> 3] |= np.uint8(1 << (member & 7))
