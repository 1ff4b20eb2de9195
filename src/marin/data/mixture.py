"""One endless, shuffled stream of rows from one or more sources, each position a pure function of the seed.

The stream is a sequence of blocks. Every block of `mixture_block_size` rows holds the same exact count of each source
(its weight by the largest-remainder rule); which source comes where is shuffled by the block's own key. A source's rows
come in an order shuffled anew for every epoch, keyed by the source's name: each row once before any comes twice, and
another source's coming or going does not reorder it. The price: weights are met in whole rows of a block, and a weight
too small for one row is refused, never rounded away.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from marin.data.dataset import Batch, RowDataset
from marin.data.permutation import ALGORITHM, Permutation, derive_key

_MAX_CACHED_BLOCKS = 8
_MAX_CACHED_EPOCHS = 4  # of each source


def block_counts(weights: Mapping[str, float], block_size: int) -> dict[str, int]:
    """Rows of each source in a block: non-negative weights, any sum -> counts that sum to `block_size`.

    Largest remainder: every source gets the whole part of its share, and the rows left over go to the largest
    fractional parts (ties to the earlier source).
    """
    if block_size < 1:
        raise ValueError(f"mixture_block_size is {block_size}; a block has at least one row")
    if not weights:
        raise ValueError("a mixture needs at least one source, none was given")
    bad = {name: weight for name, weight in weights.items() if not (weight >= 0 and np.isfinite(weight))}
    if bad or not sum(weights.values()) > 0:
        raise ValueError(
            f"mixture weights must be finite, not negative, and not all zero; given: {bad or dict(weights)}"
        )
    total = float(sum(weights.values()))
    shares = {name: weight / total * block_size for name, weight in weights.items()}
    counts = {name: int(share) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - shares[name])
    for name in by_remainder[: block_size - sum(counts.values())]:
        counts[name] += 1
    for name, weight in weights.items():
        if weight > 0 and counts[name] == 0:
            raise ValueError(
                f"source {name!r} has weight {weight} of {total:g}, which is no row in a block of {block_size}. "
                f"Use mixture_block_size={int(np.ceil(total / weight))} or more, a larger weight, or weight 0."
            )
    return counts


class Mixture:
    """The stream. `rows(positions)` is a batch; `locate(positions)` says where its rows come from.

    `weights` are shares of rows; None weighs every source by its number of rows, so that all are passed through at one
    pace. Sources must agree on their row length.
    """

    def __init__(
        self,
        sources: Mapping[str, RowDataset],
        *,
        seed: int,
        weights: Mapping[str, float] | None = None,
        block_size: int = 2048,
    ):
        if weights is None:
            weights = {name: source.num_rows for name, source in sources.items()}
        _check_names(sources, weights)
        lengths = {name: source.seq_len for name, source in sources.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"sources of one mixture differ in row length: {lengths}")
        counts = block_counts(weights, block_size)
        self.names = tuple(name for name in sources if counts[name] > 0)
        self.sources = tuple(sources[name] for name in self.names)
        empty = [name for name, source in zip(self.names, self.sources, strict=True) if source.num_rows == 0]
        if empty:
            raise ValueError(f"sources without a row in a mixture: {', '.join(empty)}")
        self.seed = seed
        self.block_size = block_size
        self.seq_len = self.sources[0].seq_len
        self.counts = np.array([counts[name] for name in self.names], dtype=np.int64)  # (S,)
        self._ends = np.cumsum(self.counts)  # (S,)
        self._num_rows = np.array([source.num_rows for source in self.sources], dtype=np.int64)  # (S,)
        self._blocks: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._orders: OrderedDict[tuple[int, int], Permutation] = OrderedDict()

    def rows(self, positions: np.ndarray) -> Batch:
        """The rows at these positions of the stream: int64 (B,), each at least 0."""
        source, index = self.locate(positions)
        if len(self.sources) == 1:
            return self.sources[0].rows(index)
        shape = source.size, self.seq_len
        out = Batch(
            tokens=np.empty(shape, np.int32),
            targets=np.empty(shape, np.int32),
            loss_weights=np.empty(shape, np.float32),
            segment_ids=np.empty(shape, np.int32),
        )
        for which in np.unique(source).tolist():
            at = source == which
            part = self.sources[which].rows(index[at])
            out.tokens[at], out.targets[at] = part.tokens, part.targets
            out.loss_weights[at], out.segment_ids[at] = part.loss_weights, part.segment_ids
        return out

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where rows come from: positions int64 (B,) -> (source, a place in `names`; row index in it), int64 (B,)."""
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and int(positions.min()) < 0:
            raise IndexError(f"position {positions.min()} of a mixture was asked for; positions begin at 0")
        block, within = np.divmod(positions, self.block_size)
        source, index = np.empty(positions.shape, np.int64), np.empty(positions.shape, np.int64)
        for number in np.unique(block).tolist():
            at = block == number
            block_source, block_index = self._block(number)
            source[at], index[at] = block_source[within[at]], block_index[within[at]]
        return source, index

    def describe(self) -> dict[str, Any]:
        """Plain values that decide which row is at which position; equal descriptions, equal order.

        For a checkpoint: resuming with another description would repeat some rows and miss others.
        """
        return {
            "algorithm": ALGORITHM,
            "seed": self.seed,
            "seq_len": self.seq_len,
            "block_size": self.block_size,
            "rows_of_a_block": dict(zip(self.names, self.counts.tolist(), strict=True)),
            "num_rows": dict(zip(self.names, self._num_rows.tolist(), strict=True)),
        }

    def epochs(self, position: int) -> dict[str, float]:
        """How often each source has been passed through when rows 0 to position - 1 are used."""
        blocks, within = divmod(position, self.block_size)
        used = blocks * self.counts + np.bincount(self._block(blocks)[0][:within], minlength=len(self.names))
        return {name: float(n) for name, n in zip(self.names, used / self._num_rows, strict=True)}

    def _block(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(source, row index) of every row of one block, int64 (block_size,) both. The recent ones are kept."""
        made = self._blocks.get(number)
        if made is None:
            order = Permutation(self.block_size, derive_key("block", self.seed, number))
            source = np.searchsorted(self._ends, order(np.arange(self.block_size)), side="right")
            place = np.empty(self.block_size, np.int64)  # how many rows of the same source come before, in the block
            place[np.argsort(source, kind="stable")] = np.concatenate([np.arange(count) for count in self.counts])
            count = number * self.counts[source] + place
            epoch, place = np.divmod(count, self._num_rows[source])
            index = np.empty(self.block_size, np.int64)
            for which in range(len(self.names)):
                for turn in np.unique(epoch[source == which]).tolist():
                    at = (source == which) & (epoch == turn)
                    index[at] = self._order(which, turn)(place[at])
            made = source, index
            _keep(self._blocks, number, made, _MAX_CACHED_BLOCKS)
        return made

    def _order(self, source: int, epoch: int) -> Permutation:
        """The order of one source's rows in one epoch."""
        order = self._orders.get((source, epoch))
        if order is None:
            key = derive_key("epoch", self.seed, self.names[source], epoch)
            order = Permutation(int(self._num_rows[source]), key)
            _keep(self._orders, (source, epoch), order, _MAX_CACHED_EPOCHS * len(self.names))
        return order


def _keep(cache: OrderedDict[Any, Any], key: Any, value: Any, limit: int) -> None:
    cache[key] = value
    while len(cache) > limit:
        cache.popitem(last=False)


def _check_names(sources: Mapping[str, RowDataset], weights: Mapping[str, float]) -> None:
    unknown, missing = sorted(set(weights) - set(sources)), sorted(set(sources) - set(weights))
    if unknown or missing:
        raise ValueError(
            f"mixture weights and sources differ: weights without a source: {unknown or 'none'}, "
            f"sources without a weight: {missing or 'none'}. Give every source its weight (0 leaves it out)."
        )
