"""Records sorted by a 64-bit hash, one file a shard, read a range of hashes at a time.

The files are the merge's sorted streams: what has one hash lies in one range of every file, so each range is a task of
its own, however many files there are, and no task holds more than its range.
"""

import bisect
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from marin.io.atomic import open_atomic

RECORDS_A_RANGE = 1 << 19
_HASHES = 1 << 64


def write_sorted(path: Path, records: np.ndarray, by: Sequence[str]) -> None:
    """Write a structured array, sorted by its fields `by`, the first of which is a uint64."""
    write_array(path, _sorted(records, by))


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomic(path) as file:
        np.save(file, array)


def _sorted(records: np.ndarray, by: Sequence[str]) -> np.ndarray:
    # column by column: comparing records whole, as np.sort would, is many times as slow
    return records[np.lexsort([records[name] for name in reversed(by)])]


def sorted_unique(records: np.ndarray, by: Sequence[str]) -> np.ndarray:
    """The records sorted by the fields `by`, the first of those that are equal in them."""
    records = _sorted(records, by)
    return records[starts_of_groups(records, by)]


def hash_ranges(num_records: int, *, records_a_range: int = RECORDS_A_RANGE) -> list[tuple[int, int]]:
    """(first, end) of equal ranges of uint64 that hold about so many of evenly spread hashes; end may be 2^64."""
    count = max(1, -(-num_records // records_a_range))
    bounds = [_HASHES * i // count for i in range(count + 1)]
    return list(zip(bounds, bounds[1:], strict=False))


def read_range(paths: Sequence[Path], first: int, end: int, by: Sequence[str]) -> np.ndarray:
    """The records of all files whose field `by[0]` is at least `first` and below `end`, sorted by `by`."""
    parts = [records_between(np.load(path, mmap_mode="r"), by[0], first, end) for path in paths]
    if not parts:
        raise ValueError("no files of records to read a range of")
    return _sorted(np.concatenate(parts), by)


def records_between(records: np.ndarray, field: str, first: int, end: int) -> np.ndarray:
    """A copy of the sorted records whose field is at least `first` and below `end`."""
    # not np.searchsorted, which would copy the whole column of a mapped file
    values = records[field]
    low, high = (bisect.bisect_left(range(len(values)), bound, key=lambda i: int(values[i])) for bound in (first, end))
    return np.array(records[low:high])


def count_records(paths: Sequence[Path]) -> int:
    """How many records the files have."""
    return sum(len(np.load(path, mmap_mode="r")) for path in paths)


def starts_of_groups(records: np.ndarray, fields: Sequence[str]) -> np.ndarray:
    """bool (num_records,): whether each is the first of those, next to each other, that are equal in `fields`."""
    first = np.zeros(len(records), np.bool_)
    first[:1] = True
    for name in fields:
        first[1:] |= records[name][1:] != records[name][:-1]
    return first
