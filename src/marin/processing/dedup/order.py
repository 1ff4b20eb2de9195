"""The order of documents, as one integer each: of duplicates, the least stays.

First the generation (runs that an index holds come before this one), then the priority of the source, then the place:
shards in the order of their names, rows in the order of the shard. So who stays depends neither on workers nor on time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BITS = {"generation": 10, "priority": 8, "shard": 20, "row": 26}


def order_key(generation: int, priority: np.ndarray | int, shard: int, row: np.ndarray | int) -> np.ndarray:
    """uint64: the keys of documents. ValueError where a part is too large to be told apart from another."""
    parts = {"generation": generation, "priority": priority, "shard": shard, "row": row}
    key = np.zeros(np.broadcast(*parts.values()).shape, np.uint64)
    for name, part in parts.items():
        values = np.asarray(part, np.int64)
        if values.size and int(values.max()) >= 1 << _BITS[name]:
            raise ValueError(
                f"{name} {int(values.max())} of a document; deduplication tells {1 << _BITS[name]} apart. "
                + ("Write the documents in more shards." if name == "row" else "Split the run.")
            )
        key = (key << np.uint64(_BITS[name])) | values.astype(np.uint64)
    return key


def parts_of(keys: np.ndarray) -> dict[str, np.ndarray]:
    """int64 arrays generation, priority, shard and row of keys."""
    parts, rest = {}, np.asarray(keys, np.uint64)
    for name, bits in reversed(_BITS.items()):
        parts[name] = (rest & np.uint64((1 << bits) - 1)).astype(np.int64)
        rest = rest >> np.uint64(bits)
    return parts


def priorities(sources: list[str], order: tuple[str, ...]) -> np.ndarray:
    """int64 (num_documents,): the place of each document's source in `order`; len(order) if it is not there."""
    place = {source: i for i, source in enumerate(order)}
    return np.array([place.get(source, len(order)) for source in sources], np.int64)


@dataclass(frozen=True, kw_only=True)
class Numbering:
    """All documents of all generations, numbered from 0 by generation, shard and row."""

    bases: dict[tuple[int, int], int]  # (generation, shard) to the number of its first document
    total: int

    @classmethod
    def of(cls, num_documents: Sequence[Sequence[int]]) -> "Numbering":
        """From the documents of each shard of each generation."""
        bases, total = {}, 0
        for generation, counts in enumerate(num_documents):
            for shard, count in enumerate(counts):
                bases[generation, shard] = total
                total += count
        return cls(bases=bases, total=total)

    def numbers(self, keys: np.ndarray) -> np.ndarray:
        """int64: the numbers of the documents with these keys."""
        parts = parts_of(keys)
        numbers = parts["row"].copy()
        places = parts["generation"] << _BITS["shard"] | parts["shard"]
        for place in np.unique(places):
            numbers[places == place] += self.bases[divmod(int(place), 1 << _BITS["shard"])]
        return numbers

    def key(self, number: int) -> int:
        """A key of the document with this number, of priority 0."""
        (generation, shard), base = max(
            (item for item in self.bases.items() if item[1] <= number), key=lambda item: (item[1], item[0])
        )
        return int(order_key(generation, 0, shard, number - base))
