"""Hashes of the n-grams of texts, and which of them are in a set: the inner loops of decontamination.

An n-gram's hash is a polynomial of its words' hashes modulo 2^64, rolled on a word at a time and then mixed. A set of
hashes is an open table with a bitmap before it that is small enough to stay near the processor: nearly every n-gram of
a corpus ends there.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from marin.processing.kernels.compiled import compiled, inner

VERSION = "ngrams 1"

_BASE = 0xC2B2AE3D27D4EB4F
_MIX = 0x9FB21C651E98DF25
_MASK = 0xFFFFFFFFFFFFFFFF
_BITMAP_BITS_A_KEY = 16


def ngram_hash(words: list[int]) -> int:
    """The hash of these words, of which `hash_ngrams` and `find_ngrams` give those of every n in a row."""
    value = len(words)
    for word in words:
        value = (value * _BASE + word) & _MASK
    value = ((value ^ (value >> 32)) * _MIX) & _MASK
    return max(value ^ (value >> 29), 1)


def hash_ngrams(words: np.ndarray, offsets: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams of several texts.

    Args:
        words: uint64 (num_words,), the words of all texts.
        offsets: int64 (num_texts + 1,): text i has words[offsets[i]:offsets[i + 1]].
    Returns:
        hashes: uint64 (num_ngrams,).
        ngram_offsets: int64 (num_texts + 1,).
    """
    counts = np.maximum(np.diff(offsets) - n + 1, 0)
    ngram_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    hashes = np.empty(int(ngram_offsets[-1]), np.uint64)
    _hash_ngrams(words, offsets, n, hashes)
    return hashes, ngram_offsets


@inner
def _mixed(value: Any) -> Any:
    value = (value ^ (value >> np.uint64(32))) * np.uint64(_MIX)
    return max(value ^ (value >> np.uint64(29)), np.uint64(1))


@inner
def _power(n: int) -> Any:
    value = np.uint64(1)
    for _ in range(n):
        value *= np.uint64(_BASE)
    return value


@compiled
def _hash_ngrams(words: Any, offsets: Any, n: int, hashes: Any) -> None:
    leaving = _power(n)
    # the length counts as a word before the first, which never leaves
    salt = np.uint64(n) * leaving
    place = 0
    for text in range(offsets.size - 1):
        first = offsets[text]
        value = np.uint64(0)
        for j in range(first, offsets[text + 1]):
            value = value * np.uint64(_BASE) + words[j]
            if j >= first + n:
                value -= words[j - n] * leaving
            if j >= first + n - 1:
                hashes[place] = _mixed(value + salt)
                place += 1


@dataclass(frozen=True, kw_only=True)
class HashSet:
    """A set of hashes that are not 0, each with its index."""

    keys: np.ndarray  # uint64 (a power of two,): 0 where free
    indices: np.ndarray  # int64: the index of the key in the same place
    bitmap: np.ndarray  # uint64: bit (hash >> shift) is set for every key
    shift: int

    @classmethod
    def of(cls, hashes: np.ndarray) -> "HashSet":
        """The set of `hashes`, uint64 (num_keys,), all different; the index of each is its place there."""
        capacity = 64
        while capacity < 2 * len(hashes):
            capacity *= 2
        keys, indices = np.zeros(capacity, np.uint64), np.full(capacity, -1, np.int64)
        bits = 1 << max(int(_BITMAP_BITS_A_KEY * len(hashes) - 1).bit_length(), 6)
        bitmap, shift = np.zeros(bits // 64, np.uint64), 64 - (bits.bit_length() - 1)
        _fill(hashes, keys, indices, bitmap, shift)
        return cls(keys=keys, indices=indices, bitmap=bitmap, shift=shift)

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """int64: the index of each hash, -1 where it is not in the set."""
        found = np.empty(len(hashes), np.int64)
        _find(hashes, self.keys, self.indices, self.bitmap, self.shift, found)
        return found


@compiled
def _fill(hashes: Any, keys: Any, indices: Any, bitmap: Any, shift: int) -> None:
    mask = np.uint64(keys.size - 1)
    for i in range(hashes.size):
        bit = hashes[i] >> np.uint64(shift)
        bitmap[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))
        slot = hashes[i] & mask
        while keys[slot] != 0:
            slot = (slot + np.uint64(1)) & mask
        keys[slot] = hashes[i]
        indices[slot] = i


@inner
def _index_of(value: Any, keys: Any, indices: Any, bitmap: Any, shift: int) -> int:
    bit = value >> np.uint64(shift)
    if not (bitmap[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1):
        return -1
    mask = np.uint64(keys.size - 1)
    slot = value & mask
    while keys[slot] != 0:
        if keys[slot] == value:
            return indices[slot]
        slot = (slot + np.uint64(1)) & mask
    return -1


@compiled
def _find(hashes: Any, keys: Any, indices: Any, bitmap: Any, shift: int, found: Any) -> None:
    for i in range(hashes.size):
        found[i] = _index_of(hashes[i], keys, indices, bitmap, shift)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What of some paragraphs is in a set of n-grams."""

    num_ngrams: np.ndarray  # int64 (num_paragraphs,): that have a letter
    num_found: np.ndarray  # int64 (num_paragraphs,): of those, in the set
    words: np.ndarray  # int64 (num_hits,): the first word of each n-gram found
    indices: np.ndarray  # int64 (num_hits,): its index in the set


def find_ngrams(words: np.ndarray, offsets: np.ndarray, n: int, shortest: int, ngrams: HashSet) -> Found:
    """Which n-grams of paragraphs are in a set.

    N-grams without a letter do not count. A paragraph of `shortest` words to n - 1 is one n-gram as a whole, and one
    that is shorter has none.

    Args:
        words: uint64 (num_words,), the lowest bit of each telling whether it has a letter.
        offsets: int64 (num_paragraphs + 1,).
    """
    num_paragraphs = len(offsets) - 1
    num_ngrams, num_found = np.zeros(num_paragraphs, np.int64), np.zeros(num_paragraphs, np.int64)
    capacity = 4096
    while True:
        hits = np.empty((capacity, 2), np.int64)
        num_hits = _find_ngrams(
            words,
            offsets,
            n,
            shortest,
            ngrams.keys,
            ngrams.indices,
            ngrams.bitmap,
            ngrams.shift,
            num_ngrams,
            num_found,
            hits,
        )
        if num_hits <= capacity:
            hits = hits[:num_hits]
            return Found(num_ngrams=num_ngrams, num_found=num_found, words=hits[:, 0], indices=hits[:, 1])
        capacity = num_hits


@compiled
def _find_ngrams(
    words: Any,
    offsets: Any,
    n: int,
    shortest: int,
    keys: Any,
    indices: Any,
    bitmap: Any,
    shift: int,
    num_ngrams: Any,
    num_found: Any,
    hits: Any,
) -> int:
    """The number of hits; those that find no room are counted and not written."""
    num_hits = 0
    leaving = _power(n)
    one = np.uint64(1)
    for paragraph in range(offsets.size - 1):
        first = offsets[paragraph]
        end = offsets[paragraph + 1]
        length = min(end - first, n)
        if length < shortest:
            num_ngrams[paragraph] = num_found[paragraph] = 0
            continue
        salt = np.uint64(length) * (leaving if length == n else _power(length))
        value = np.uint64(0)
        num_with_letter = 0
        counted = 0
        found = 0
        for j in range(first, end):
            word = words[j]
            value = value * np.uint64(_BASE) + word
            num_with_letter += np.int64(word & one)
            if j >= first + length:
                old = words[j - length]
                value -= old * leaving
                num_with_letter -= np.int64(old & one)
            if j >= first + length - 1 and num_with_letter > 0:
                counted += 1
                index = _index_of(_mixed(value + salt), keys, indices, bitmap, shift)
                if index >= 0:
                    found += 1
                    if num_hits < hits.shape[0]:
                        hits[num_hits, 0] = j - length + 1
                        hits[num_hits, 1] = index
                    num_hits += 1
        num_ngrams[paragraph] = counted
        num_found[paragraph] = found
    return num_hits
