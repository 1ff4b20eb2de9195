"""One shuffled stream of rows from one or more sources, each position a pure function of the seed.

The stream is a sequence of blocks. Every block of `mixture_block_size` rows holds the same exact count of each source
(its weight by the largest-remainder rule); which source comes where is shuffled by the block's own key. A source's rows
come in an order shuffled anew for every epoch, keyed by the source's name: each row once before any comes twice, and
another source's coming or going does not reorder it. Sources are dealt out by the order of their names, whatever order
a config writes them in: two configs that are equal make one stream. The price: weights are met in whole rows of a
block, and a weight too small for one row is refused, never rounded away.

Weights may change from one row of the stream on: a *stage*. The first block of a stage begins at exactly that row, so
every block belongs to one stage and its counts are exact; the last block of the stage before is cut off there, in the
middle of its shuffled order. The alternative, to round the start to a whole block, would meet the weights of that one
block too, and would start the stage elsewhere than asked. Where a source was left, the next stage goes on with it. No
row before a stage depends on that stage, so a run that is given another stage later has seen nothing else.

Where the stream ends is the stop strategy: never (`restart`), before the first row that any source would have to give
a second time (`first_exhausted`), or after the first passage through the slowest source (`all_exhausted`).
"""

import math
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from marin.data.config import STOP_STRATEGIES, StopStrategy
from marin.data.dataset import Batch, RowDataset
from marin.data.permutation import ALGORITHM, Permutation, derive_key

_MAX_CACHED_BLOCKS = 8
_MAX_CACHED_EPOCHS = 4  # of each source


def block_counts(weights: Mapping[str, float], block_size: int) -> dict[str, int]:
    """Rows of each source in a block: non-negative weights, any sum -> counts that sum to `block_size`.

    Largest remainder: every source gets the whole part of its share, and the rows left over go to the largest
    fractional parts (ties to the earlier name).
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
    total = math.fsum(weights.values())
    shares = {name: weights[name] / total * block_size for name in sorted(weights)}
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """A part of the stream with one set of weights. S sources, in the order of `Mixture.names`."""

    start: int  # position of the first row
    end: int | None  # position after the last; None: the last stage
    first_block: int  # blocks of all stages before, whole or cut off
    counts: np.ndarray  # int64 (S,): rows of each source in a whole block
    used: np.ndarray  # int64 (S,): rows of each source before `start`


class Mixture:
    """The stream. `rows(positions)` is a batch; `locate(positions)` says where its rows come from.

    `weights` are shares of rows; None weighs every source by its number of rows, so that all are passed through at one
    pace. A list of (first row, weights) changes them on the way: the first starts at row 0, and a source that one
    leaves out has no weight in it. Sources must agree on their row length.
    """

    names: tuple[str, ...]  # of the sources that have a weight at any time, sorted
    sources: tuple[RowDataset, ...]
    stages: tuple[Stage, ...]
    num_rows: int | None  # rows of the stream; None: it never ends

    def __init__(
        self,
        sources: Mapping[str, RowDataset],
        *,
        seed: int,
        weights: Mapping[str, float] | Sequence[tuple[int, Mapping[str, float]]] | None = None,
        block_size: int = 2048,
        stop_strategy: StopStrategy = "restart",
    ):
        lengths = {name: source.seq_len for name, source in sources.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"sources of one mixture differ in row length: {lengths}")
        if stop_strategy not in STOP_STRATEGIES:
            choices = ", ".join(map(repr, STOP_STRATEGIES))
            raise ValueError(f"unknown stop_strategy {stop_strategy!r}; expected one of {choices}")
        sources = dict(sorted(sources.items()))
        starts, counts = _stage_counts(sources, weights, block_size)
        self.names = tuple(name for name in sources if any(stage[name] > 0 for stage in counts))
        self.sources = tuple(sources[name] for name in self.names)
        empty = [name for name, source in zip(self.names, self.sources, strict=True) if source.num_rows == 0]
        if empty:
            raise ValueError(
                f"sources without a row in a mixture: {', '.join(empty)}. Leave them out, or give weight 0."
            )
        self.seed = seed
        self.block_size = block_size
        self.stop_strategy = stop_strategy
        self.seq_len = self.sources[0].seq_len
        self._num_rows = np.array([source.num_rows for source in self.sources], dtype=np.int64)  # (S,)
        self._blocks: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._orders: OrderedDict[tuple[int, int], Permutation] = OrderedDict()
        self.stages = self._lay_out(starts, counts)
        self._first_blocks = [stage.first_block for stage in self.stages]
        self._starts = [stage.start for stage in self.stages]
        self.num_rows = self._end()

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
        if positions.size and self.num_rows is not None and int(positions.max()) >= self.num_rows:
            raise IndexError(
                f"position {positions.max()} of a mixture was asked for, which ends after {self.num_rows} rows "
                f"(stop_strategy {self.stop_strategy!r})"
            )
        stage = np.searchsorted(self._starts, positions, side="right") - 1
        block, within = np.divmod(positions - np.take(self._starts, stage), self.block_size)
        block += np.take(self._first_blocks, stage)
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
            "stop_strategy": self.stop_strategy,
            "sources": list(self.names),
            "stages": [
                {"start": stage.start, "rows_of_a_block": dict(zip(self.names, stage.counts.tolist(), strict=True))}
                for stage in self.stages
            ],
            "num_rows": dict(zip(self.names, self._num_rows.tolist(), strict=True)),
        }

    def rows_used(self, position: int) -> dict[str, int]:
        """How many rows of each source are among rows 0 to position - 1."""
        return dict(zip(self.names, self._used(position).tolist(), strict=True))

    def epochs(self, position: int) -> dict[str, float]:
        """How often each source has been passed through when rows 0 to position - 1 are used."""
        used = self._used(position) / self._num_rows
        return {name: float(n) for name, n in zip(self.names, used, strict=True)}

    def position_of(self, name: str, count: int) -> int | None:
        """Where source `name` gives its row number `count`, counted from 0 over all its epochs; None: nowhere."""
        which = self.names.index(name)
        for stage in self.stages:
            rows = int(stage.counts[which])
            if rows == 0:
                continue
            blocks, nth = divmod(count - int(stage.used[which]), rows)
            places = np.flatnonzero(self._block_sources(stage, stage.first_block + blocks) == which)
            position = stage.start + blocks * self.block_size + int(places[nth])
            if stage.end is None or position < stage.end:
                return position
        return None

    def _used(self, position: int) -> np.ndarray:
        """Rows of each source before a position: int64 (S,)."""
        if position == 0:
            return np.zeros(len(self.names), np.int64)
        stage = self.stages[bisect_right(self._starts, position - 1) - 1]
        return self._used_in(stage, position)

    def _used_in(self, stage: Stage, position: int) -> np.ndarray:
        """Rows of each source before a position of this stage (or its end): int64 (S,)."""
        blocks, within = divmod(position - stage.start, self.block_size)
        used = stage.used + blocks * stage.counts
        if within:
            cut = self._block_sources(stage, stage.first_block + blocks)[:within]
            used = used + np.bincount(cut, minlength=len(self.names))
        return used

    def _lay_out(self, starts: Sequence[int], counts: Sequence[Mapping[str, int]]) -> tuple[Stage, ...]:
        stages: list[Stage] = []
        first_block, used = 0, np.zeros(len(self.names), np.int64)
        for start, end, count in zip(starts, [*starts[1:], None], counts, strict=True):
            rows = np.array([count[name] for name in self.names], dtype=np.int64)
            stage = Stage(start=start, end=end, first_block=first_block, counts=rows, used=used)
            stages.append(stage)
            if end is not None:
                first_block += -(-(end - start) // self.block_size)
                used = self._used_in(stage, end)
        return tuple(stages)

    def _end(self) -> int | None:
        """Rows of the stream under the stop strategy."""
        if self.stop_strategy == "restart":
            return None
        num_rows = dict(zip(self.names, self._num_rows.tolist(), strict=True))
        if self.stop_strategy == "first_exhausted":
            again = [self.position_of(name, rows) for name, rows in num_rows.items()]
            return min(position for position in again if position is not None)
        last = {name: self.position_of(name, rows - 1) for name, rows in num_rows.items()}
        never = [name for name, position in last.items() if position is None]
        if never:
            raise ValueError(
                f"stop_strategy 'all_exhausted' would never stop: {', '.join(never)} gets no weight in the last stage "
                "and is not passed through before. Give it a weight there, or use another stop_strategy."
            )
        return max(position for position in last.values() if position is not None) + 1

    def _block_sources(self, stage: Stage, number: int) -> np.ndarray:
        """The source of every row of one block, a place in `names`: int64 (block_size,)."""
        order = Permutation(self.block_size, derive_key("block", self.seed, number))
        return np.searchsorted(np.cumsum(stage.counts), order(np.arange(self.block_size)), side="right")

    def _block(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(source, row index) of every row of one block, int64 (block_size,) both. The recent ones are kept."""
        made = self._blocks.get(number)
        if made is None:
            stage = self.stages[bisect_right(self._first_blocks, number) - 1]
            source = self._block_sources(stage, number)
            place = np.empty(self.block_size, np.int64)  # how many rows of the same source come before, in the block
            place[np.argsort(source, kind="stable")] = np.concatenate([np.arange(count) for count in stage.counts])
            count = stage.used[source] + (number - stage.first_block) * stage.counts[source] + place
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


def _stage_counts(
    sources: Mapping[str, RowDataset],
    weights: Mapping[str, float] | Sequence[tuple[int, Mapping[str, float]]] | None,
    block_size: int,
) -> tuple[list[int], list[dict[str, int]]]:
    """(first row of each stage, rows of each source in a block of it), checked."""
    if weights is None:
        weights = {name: source.num_rows for name, source in sources.items()}
    if isinstance(weights, Mapping):
        _check_names(sources, weights)
        return [0], [block_counts(weights, block_size)]
    starts = [start for start, _ in weights]
    if starts[:1] != [0] or any(a >= b for a, b in zip(starts, starts[1:], strict=False)):
        raise ValueError(
            f"stages of a mixture begin at row 0 and their starts rise; got starts {starts}. Put them in order, the "
            "first at 0."
        )
    counts = []
    for start, given in weights:
        full = dict.fromkeys(sources, 0.0) | dict(given)
        try:
            _check_names(sources, full)
            counts.append(block_counts(full, block_size))
        except ValueError as error:
            raise ValueError(f"the stage from row {start} on: {error}") from error
    return starts, counts


def _check_names(sources: Mapping[str, RowDataset], weights: Mapping[str, float]) -> None:
    unknown, missing = sorted(set(weights) - set(sources)), sorted(set(sources) - set(weights))
    if unknown or missing:
        raise ValueError(
            f"mixture weights and sources differ: weights without a source: {unknown or 'none'}, "
            f"sources without a weight: {missing or 'none'}. Give every source its weight (0 leaves it out)."
        )
