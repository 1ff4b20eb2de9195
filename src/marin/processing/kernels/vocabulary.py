"""The rows that features of a text can have: a dictionary of words, and buckets for all that is hashed.

Words of the dictionary have rows of their own, the first ones; the buckets' rows are behind them. A word is found by
its FNV-1a hash in an open table of whole 32-bit hashes, so that nearly every word is compared once or not at all.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from marin.processing.kernels.compiled import compiled, inner
from marin.processing.kernels.fnv import FNV_OFFSET, MASK32, absorb


class Vocabulary(NamedTuple):
    """Which rows there are: a dictionary of words and a number of buckets. Plain arrays, for compiled code."""

    pool: np.ndarray
    """uint8: the words one behind the other, then the labels (which are no features)."""
    starts: np.ndarray
    """int64 (words and labels + 1,): where each begins in `pool`."""
    slots: np.ndarray
    """uint64, a power of two of them: an open hash table. Of a word its hash above, and one more than its place in
    `starts` below; 0 where a slot is free."""
    kept: np.ndarray
    """int32 (num_buckets,): the row of a bucket, counted behind the words, or -1 if it was pruned; empty: none was."""
    is_kept: np.ndarray
    """uint8: a bit for each bucket, whether it has a row. Small enough for a cache, where `kept` of millions is not."""
    num_words: int
    num_buckets: int
    word_ngrams: int
    """Longest n-grams of words; 1: none beside the words themselves."""
    min_chars: int
    """Shortest n-grams of characters within a word."""
    max_chars: int
    """Longest ones; 0: none."""

    @property
    def num_rows(self) -> int:
        """How many rows the features of this vocabulary can name."""
        num_buckets = int((self.kept >= 0).sum()) if self.kept.size else self.num_buckets
        return self.num_words + num_buckets

    def words(self) -> list[bytes]:
        """The words of the dictionary in the order of their rows, then the labels."""
        pool = self.pool.tobytes()
        return [pool[begin:end] for begin, end in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)]


def make_vocabulary(
    words: Sequence[bytes],
    *,
    labels: Sequence[bytes] = (),
    num_buckets: int,
    word_ngrams: int = 1,
    min_chars: int = 0,
    max_chars: int = 0,
    kept: np.ndarray | None = None,
) -> Vocabulary:
    """A vocabulary with these words in this order. `labels` are written as words in texts, and skipped there.

    Raises ValueError where n-grams are asked for and there are no buckets.
    """
    if num_buckets < 1 and (word_ngrams > 1 or max_chars > 0):
        raise ValueError(f"num_buckets is {num_buckets}; n-grams of words or characters need at least one bucket")
    entries = [*words, *labels]
    starts = np.zeros(len(entries) + 1, np.int64)
    np.cumsum([len(entry) for entry in entries], out=starts[1:])
    pool = np.frombuffer(b"".join(entries), np.uint8)
    num_slots = 8
    while num_slots < 2 * len(entries):
        num_slots *= 2
    slots = np.zeros(num_slots, np.uint64)
    _fill_slots(pool, starts, slots)
    return Vocabulary(
        pool=pool,
        starts=starts,
        slots=slots,
        kept=np.zeros(0, np.int32) if kept is None else kept,
        is_kept=np.zeros(0, np.uint8) if kept is None else np.packbits(kept >= 0, bitorder="little"),
        num_words=len(words),
        num_buckets=num_buckets,
        word_ngrams=word_ngrams,
        min_chars=min_chars,
        max_chars=max_chars,
    )


@compiled
def _fill_slots(pool, starts, slots):
    mask = slots.size - 1
    for place in range(starts.size - 1):
        value = np.uint64(FNV_OFFSET)
        for at in range(starts[place], starts[place + 1]):
            value = absorb(value, pool[at])
        slot = np.int64(value) & mask
        while slots[slot] != 0:
            slot = (slot + 1) & mask
        slots[slot] = value << np.uint64(32) | np.uint64(place + 1)


@inner
def is_at(data, begin, end, pool, first, last):
    """Whether data[begin:end] is pool[first:last]."""
    if end - begin != last - first:
        return False
    for offset in range(end - begin):  # noqa: SIM110  # no generators in compiled code
        if data[begin + offset] != pool[first + offset]:
            return False
    return True


@inner
def place_of(data, begin, end, value, pool, starts, slots):
    """Where in the dictionary the word data[begin:end] with this hash is; -1 where it is not."""
    mask = slots.size - 1
    slot = np.int64(value) & mask
    while slots[slot] != 0:
        place = np.int64(slots[slot] & np.uint64(MASK32)) - 1
        if slots[slot] >> np.uint64(32) == value and is_at(data, begin, end, pool, starts[place], starts[place + 1]):
            return place
        slot = (slot + 1) & mask
    return np.int64(-1)
