"""A Bloom filter that has the false positive rate it was sized for, and the pass that drops what it has seen.

For n units at rate p the filter has m = -n ln p / (ln 2)^2 bits and k = m / n ln 2 probes (Bloom 1970). Probe i reads
bit h + i * g (Kirsch and Mitzenmacher 2006), where h is the unit's 64-bit hash mixed once more and g another mixing;
its high half selects a word of the filter and its low bits one of the word's.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from marin.processing.kernels.compiled import compiled, inner

VERSION = "bloom 1"

_MIX_H = 0xFF51AFD7ED558CCD
_MIX_G = 0xC4CEB9FE1A85EC53
_MASK = 0xFFFFFFFFFFFFFFFF
_MOST_WORDS = 1 << 32


@dataclass(frozen=True, kw_only=True)
class BloomFilter:
    """The bits, and how many of them a unit sets."""

    bits: np.ndarray  # uint64 (num_words,)
    num_probes: int

    @classmethod
    def sized(cls, num_units: int, false_positive_rate: float) -> "BloomFilter":
        """An empty filter that, after `num_units` different units, takes a new one for seen at this rate."""
        if num_units < 1 or not 0 < false_positive_rate < 1:
            raise ValueError(
                f"a filter for {num_units} units at a false positive rate of {false_positive_rate}; at least one unit "
                "and a rate between 0 and 1 are needed"
            )
        num_bits = -num_units * math.log(false_positive_rate) / math.log(2) ** 2
        num_words = math.ceil(num_bits / 64)
        if num_words > _MOST_WORDS:
            raise ValueError(
                f"a filter for {num_units} units at a false positive rate of {false_positive_rate} takes "
                f"{num_words * 8 / 1e9:.1f} GB; this filter has at most {_MOST_WORDS * 8 / 1e9:.1f} GB. Split the "
                "data, or allow a higher rate."
            )
        num_probes = max(1, round(num_words * 64 / num_units * math.log(2)))
        return cls(bits=np.zeros(num_words, np.uint64), num_probes=num_probes)

    def probes(self, unit: int) -> list[tuple[int, int]]:
        """(word, bit) of every probe of a unit: the definition that the fast paths are held to."""
        h = ((unit ^ (unit >> 33)) * _MIX_H) & _MASK
        g = ((unit ^ (unit >> 29)) * _MIX_G) & _MASK | 1
        h ^= h >> 32
        values = [(h + i * g) & _MASK for i in range(self.num_probes)]
        return [(((value >> 32) * len(self.bits)) >> 32, value & 63) for value in values]

    def add(self, units: np.ndarray) -> None:
        """Mark units, uint64 (num_units,), as seen."""
        _add_all(units, self.bits, self.num_probes)

    def contains(self, units: np.ndarray) -> np.ndarray:
        """bool (num_units,): whether each was seen; never False for one that was."""
        found = np.empty(len(units), np.bool_)
        _contains_all(units, self.bits, self.num_probes, found)
        return found

    def share_of_bits_set(self) -> float:
        """Half at the number of units that the filter was sized for."""
        return float(np.bitwise_count(self.bits).sum() / (64 * len(self.bits)))


@inner
def _seen(unit: Any, bits: Any, num_probes: int) -> bool:
    h = (unit ^ (unit >> np.uint64(33))) * np.uint64(_MIX_H)
    g = (unit ^ (unit >> np.uint64(29))) * np.uint64(_MIX_G) | np.uint64(1)
    h ^= h >> np.uint64(32)
    num_words = np.uint64(bits.size)
    for _ in range(num_probes):
        word = bits[((h >> np.uint64(32)) * num_words) >> np.uint64(32)]
        if not (word >> (h & np.uint64(63))) & np.uint64(1):
            return False
        h += g
    return True


@inner
def _add(unit: Any, bits: Any, num_probes: int) -> None:
    h = (unit ^ (unit >> np.uint64(33))) * np.uint64(_MIX_H)
    g = (unit ^ (unit >> np.uint64(29))) * np.uint64(_MIX_G) | np.uint64(1)
    h ^= h >> np.uint64(32)
    num_words = np.uint64(bits.size)
    for _ in range(num_probes):
        bits[((h >> np.uint64(32)) * num_words) >> np.uint64(32)] |= np.uint64(1) << (h & np.uint64(63))
        h += g


@compiled
def _add_all(units: Any, bits: Any, num_probes: int) -> None:
    for i in range(units.size):
        _add(units[i], bits, num_probes)


@compiled
def _contains_all(units: Any, bits: Any, num_probes: int, found: Any) -> None:
    for i in range(units.size):
        found[i] = _seen(units[i], bits, num_probes)


def drop_seen(
    units: np.ndarray,
    paragraph_offsets: np.ndarray,
    document_offsets: np.ndarray,
    seen: BloomFilter,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Which paragraphs and documents have been seen, in order; what has not is added to the filter as it comes.

    A paragraph is dropped if more than the share `threshold` of its units has been seen before it, else its units are
    added. A document is dropped if more than that share of all its units had been seen when they came. What has no
    units stays. (DCLM's `old-both`.)

    Args:
        units: uint64 (num_units,).
        paragraph_offsets: int64 (num_paragraphs + 1,), into units.
        document_offsets: int64 (num_documents + 1,), into the paragraphs.
        seen: Changed by this.
    Returns:
        contained: int64 (num_paragraphs,): how many units of each paragraph had been seen.
        dropped_documents: bool (num_documents,).
    """
    contained = np.empty(len(paragraph_offsets) - 1, np.int64)
    dropped = np.empty(len(document_offsets) - 1, np.bool_)
    _drop_seen(units, paragraph_offsets, document_offsets, seen.bits, seen.num_probes, threshold, contained, dropped)
    return contained, dropped


@compiled
def _drop_seen(
    units: Any,
    paragraph_offsets: Any,
    document_offsets: Any,
    bits: Any,
    num_probes: int,
    threshold: float,
    contained: Any,
    dropped: Any,
) -> None:
    for document in range(document_offsets.size - 1):
        num_units = 0
        num_seen = 0
        for paragraph in range(document_offsets[document], document_offsets[document + 1]):
            first = paragraph_offsets[paragraph]
            end = paragraph_offsets[paragraph + 1]
            seen_here = 0
            for i in range(first, end):
                seen_here += _seen(units[i], bits, num_probes)
            contained[paragraph] = seen_here
            num_units += end - first
            num_seen += seen_here
            if seen_here <= threshold * (end - first):
                for i in range(first, end):
                    _add(units[i], bits, num_probes)
        dropped[document] = num_seen > threshold * num_units


def hash_bytes(data: bytes) -> int:
    """The 64-bit hash of a paragraph, eight bytes at a time: the definition that `hash_spans` is held to."""
    value = len(data) * _MIX_G & _MASK
    for i in range(0, len(data), 8):
        value = ((value ^ int.from_bytes(data[i : i + 8], "little")) * _MIX_H) & _MASK
        value ^= value >> 32
    return value


def hash_spans(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """uint64 (num_spans,): the hash of data[starts[i]:ends[i]], of uint8 (num_bytes,)."""
    hashes = np.empty(len(starts), np.uint64)
    _hash_spans(data, starts, ends, hashes)
    return hashes


@compiled
def _hash_spans(data: Any, starts: Any, ends: Any, hashes: Any) -> None:
    for span in range(starts.size):
        i = np.uint64(starts[span])  # an unsigned index may not count from the end: eight bytes become one load
        end = np.uint64(ends[span])
        value = (end - i) * np.uint64(_MIX_G)
        while i + np.uint64(8) <= end:
            eight = np.uint64(data[i])
            eight |= np.uint64(data[i + np.uint64(1)]) << np.uint64(8)
            eight |= np.uint64(data[i + np.uint64(2)]) << np.uint64(16)
            eight |= np.uint64(data[i + np.uint64(3)]) << np.uint64(24)
            eight |= np.uint64(data[i + np.uint64(4)]) << np.uint64(32)
            eight |= np.uint64(data[i + np.uint64(5)]) << np.uint64(40)
            eight |= np.uint64(data[i + np.uint64(6)]) << np.uint64(48)
            eight |= np.uint64(data[i + np.uint64(7)]) << np.uint64(56)
            value = (value ^ eight) * np.uint64(_MIX_H)
            value ^= value >> np.uint64(32)
            i += np.uint64(8)
        if i < end:
            eight = np.uint64(0)
            shift = np.uint64(0)
            while i < end:
                eight |= np.uint64(data[i]) << shift
                shift += np.uint64(8)
                i += np.uint64(1)
            value = (value ^ eight) * np.uint64(_MIX_H)
            value ^= value >> np.uint64(32)
        hashes[span] = value
