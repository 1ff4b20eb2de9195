"""Lay out requests so that a model reads what they share once.

Requests whose input is the same are one; the others are sorted, so that those which begin alike stand together, and
what they share is found between neighbours. It is saved in two ways. Requests that share a beginning become a tree
(`marin.models.trees`), and trees are packed into rows: a context is read once for all of its continuations. A beginning
that so many share that they fill several trees, as the examples of a few-shot task, is left out of the trees altogether
and read once for all (`Group.prefix`). Where that is worth its own batches is decided by counting tokens: exactly for
trees that are whole, and by an estimate of how often trees that are not repeat their beginning.

All here is counting and copying of integers: no model is known, and what is planned depends on the set of requests
alone, not on their order.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int32, Int64

TARGETS = 4
"""Targets of a place that are scored together."""

_GROUP_COST = 512
"""Tokens that a prefix must save to be worth a group: its own call, and a last batch that is not full."""
_BATCH_COST = 128
"""Tokens that could be read in the time that a batch takes whatever is in it."""
_SMALLEST_REACH = 64
_SMALL_TREE = 512
"""A tree up to this size grows by whatever shares its beginning; larger ones up to twice their first text."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """One request in tokens."""

    tokens: Int32[np.ndarray, " n"]
    """What the model reads."""
    targets: Int32[np.ndarray, " m"]
    """What the last m of its places are to predict."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tree:
    """Texts that begin alike, in preorder, without the prefix of their group."""

    tokens: Int32[np.ndarray, " size"]
    positions: Int32[np.ndarray, " size"]
    """Depth of each token, the prefix counted."""
    ends: Int32[np.ndarray, " size"]
    """Place after each token's last descendant."""
    requests: tuple[tuple[int, Int64[np.ndarray, " m"]], ...]
    """(request, the places that predict its targets)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Rows of trees, and what is asked of them."""

    tokens: Int32[np.ndarray, "rows seq"]
    positions: Int32[np.ndarray, "rows seq"]
    ends: Int32[np.ndarray, "rows seq"]
    places: Int32[np.ndarray, "rows entries"]
    """Places of a row whose predictions are wanted; beyond those wanted, 0."""
    targets: Int32[np.ndarray, "rows entries targets"]
    """Tokens whose probability at that place is wanted; beyond those wanted, 0."""
    num_entries: int
    """Entries that some row wants."""
    answers: tuple[tuple[int, int, Int64[np.ndarray, " m"]], ...]
    """(request, row, where its targets' scores are in that row of (entries, targets), flat)."""
    num_tokens: int
    """Tokens that are no padding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Trees behind one prefix, and the shape in which they are read."""

    prefix: Int32[np.ndarray, " prefix"]
    """Tokens before every tree; may be none."""
    reach: int
    """No tree has more tokens; a power of two."""
    row_len: int
    """Tokens in a row."""
    rows: tuple[tuple[Tree, ...], ...]
    """The trees of each row."""


def plan(requests: Sequence[Scored], *, row_len: int, num_rows: int) -> list[Group]:
    """Groups that score every request once.

    row_len: most tokens in a row, at least those of the longest request. num_rows: rows in a batch, one a device.
    """
    texts = _distinct(requests)
    rest = np.ones(len(texts.tokens), bool)
    groups: list[Group] = []
    for first, last, prefix_len in _prefixes(texts, row_len):
        rest[first:last] = False
        prefix = texts.tokens[first][:prefix_len]
        groups += _groups(prefix, _trees(texts, range(first, last), prefix_len, row_len), row_len, num_rows)
    alone = np.zeros(0, np.int32)
    return _groups(alone, _trees(texts, np.flatnonzero(rest).tolist(), 0, row_len), row_len, num_rows) + groups


@dataclass(frozen=True, kw_only=True, eq=False)
class _Texts:
    """What the model is to read, in the order of a dictionary, each once."""

    tokens: list[np.ndarray]
    shared: list[int]
    """Tokens that each has in common with the one before it; 0 for the first, and one 0 more at the end."""
    requests: list[list[tuple[int, int]]]
    """(request, its number of targets) of those that read it."""

    def scored_from(self, text: int) -> int:
        """The first place whose prediction somebody asks for."""
        return len(self.tokens[text]) - max(count for _, count in self.requests[text])


def _distinct(requests: Sequence[Scored]) -> _Texts:
    by_bytes: dict[bytes, list[tuple[int, int]]] = {}
    for index, request in enumerate(requests):
        key = request.tokens.astype(">u4").tobytes()  # big-endian: in the order of the tokens
        by_bytes.setdefault(key, []).append((index, len(request.targets)))
    ordered = sorted(by_bytes)
    tokens = [np.asarray(requests[by_bytes[key][0][0]].tokens, np.int32) for key in ordered]
    shared = [_num_shared(one, other) for one, other in zip(tokens, tokens[1:], strict=False)]
    return _Texts(tokens=tokens, shared=[0, *shared, 0][: len(tokens) + 1], requests=[by_bytes[key] for key in ordered])


def _num_shared(one: np.ndarray, other: np.ndarray) -> int:
    size = min(len(one), len(other))
    differs = one[:size] != other[:size]
    return int(differs.argmax()) if differs.any() else size


# -- which beginnings are worth a prefix ------------------------------------------------------------------------------


@dataclass(kw_only=True, eq=False)
class _Part:
    """Texts first..last, which share their first `depth` tokens, and what they cost however they are read."""

    first: int
    last: int
    depth: int
    scored_from: int
    """No prediction before this place is asked for, so a prefix may reach so far."""
    size: int
    """Tokens of the tree that holds them all."""
    cost: float
    """Tokens to read them in trees of a bounded size, without a prefix."""
    num_trees: int
    """How many trees those are."""
    best: float
    """Tokens to read them with the prefixes below."""
    prefixes: list[tuple[int, int, int]]


def _prefixes(texts: _Texts, row_len: int) -> list[tuple[int, int, int]]:
    """(first text, the one after the last, tokens) of each prefix that is worth it, for distinct texts in order.

    The texts form a tree of beginnings, walked bottom-up with a stack, as the intervals of a suffix array are
    (Abouelhoda et al. 2004). Each part chooses the cheapest of three: no prefix, one of its own, those of its parts.
    """
    open_parts = [_OpenPart(first=0, depth=0, row_len=row_len)]
    for text, tokens in enumerate(texts.tokens):
        size = len(tokens)
        part = _Part(
            first=text,
            last=text + 1,
            depth=size,
            scored_from=texts.scored_from(text),
            size=size,
            cost=size,
            num_trees=1,
            best=size,
            prefixes=[],
        )
        shared = texts.shared[text + 1]
        while open_parts[-1].depth > shared:
            open_parts[-1].parts.append(part)
            part = open_parts.pop().closed()
        if open_parts[-1].depth < shared:
            open_parts.append(_OpenPart(first=part.first, depth=shared, row_len=row_len))
        open_parts[-1].parts.append(part)
    return open_parts[0].closed().prefixes if texts.tokens else []


@dataclass(kw_only=True, eq=False)
class _OpenPart:
    """Texts with a common beginning, while there may be more of them."""

    first: int
    depth: int
    row_len: int
    parts: list[_Part] = field(default_factory=list)

    def closed(self) -> _Part:
        depth, limit = self.depth, _tree_limit(self.depth, self.row_len)
        small = sum(part.size - depth for part in self.parts if part.size <= limit)
        large = [part for part in self.parts if part.size > limit]
        num_small = -(-small // max(limit - depth, 1))
        size = depth + sum(part.size - depth for part in self.parts)
        scored_from = min(part.scored_from for part in self.parts)
        if size <= limit:
            cost, num_trees = size, 1
        else:
            cost = small + num_small * depth + sum(part.cost for part in large)
            num_trees = num_small + sum(part.num_trees for part in large)
        prefix = min(depth, scored_from)
        own = _GROUP_COST + prefix + cost - prefix * num_trees
        below = small + num_small * depth + sum(part.best for part in large)
        best = min(cost, own, below)
        last = self.parts[-1].last
        prefixes = [found for part in large for found in part.prefixes]
        if best == cost:
            prefixes = []
        elif best == own:
            prefixes = [(self.first, last, prefix)]
        return _Part(
            first=self.first,
            last=last,
            depth=depth,
            scored_from=scored_from,
            size=size,
            cost=cost,
            num_trees=num_trees,
            best=best,
            prefixes=prefixes,
        )


def _tree_limit(num_first: int, row_len: int) -> int:
    """Most tokens of a tree whose first text has so many."""
    return min(row_len, max(_SMALL_TREE, 2 * num_first))


# -- trees and rows ---------------------------------------------------------------------------------------------------


def _trees(texts: _Texts, chosen: Sequence[int], prefix_len: int, row_len: int) -> list[Tree]:
    """The chosen texts as trees: a text joins the tree before it where that saves enough for a tree of that size."""
    trees: list[Tree] = []
    grown = _Growing(prefix_len)
    before, limit = 0, 0
    for text in chosen:
        tokens = texts.tokens[text]
        shared = min(texts.shared[before + 1 : text + 1], default=0) if grown.size else 0
        size = grown.size + len(tokens) - max(shared, prefix_len)
        if grown.size and (size > limit or 16 * (shared - prefix_len) < size):
            trees.append(grown.tree())
            grown = _Growing(prefix_len)
        if not grown.size:
            shared, limit = prefix_len, _tree_limit(len(tokens) - prefix_len, row_len)
        grown.add(tokens, shared, texts.requests[text])
        before = text
    return [*trees, grown.tree()] if grown.size else trees


class _Growing:
    """A tree to which texts are added in order."""

    def __init__(self, prefix_len: int) -> None:
        self.prefix_len = prefix_len
        self.size = 0
        self.path = np.zeros(0, np.int64)  # places of the last text's tokens, without the prefix
        self.parts: list[np.ndarray] = []
        self.positions: list[np.ndarray] = []
        self.closed: list[tuple[np.ndarray, int]] = []
        self.requests: list[tuple[int, np.ndarray]] = []

    def add(self, tokens: np.ndarray, shared: int, requests: Sequence[tuple[int, int]]) -> None:
        """Add a text whose first `shared` tokens are those of the text before."""
        self.closed.append((self.path[shared - self.prefix_len :], self.size))
        new = tokens[shared:]
        places = np.arange(self.size, self.size + len(new))
        self.path = np.concatenate([self.path[: shared - self.prefix_len], places])
        self.parts.append(new)
        self.positions.append(np.arange(shared, len(tokens), dtype=np.int32))
        self.requests += [(request, self.path[len(self.path) - count :]) for request, count in requests]
        self.size += len(new)

    def tree(self) -> Tree:
        ends = np.full(self.size, self.size, np.int32)
        for places, end in self.closed:
            ends[places] = end
        return Tree(
            tokens=np.concatenate(self.parts).astype(np.int32),
            positions=np.concatenate(self.positions),
            ends=ends,
            requests=tuple(self.requests),
        )


def _groups(prefix: np.ndarray, trees: Sequence[Tree], row_len: int, num_rows: int) -> list[Group]:
    """Trees of similar size together, so that none pays for a much larger one; a few go with the next larger."""
    by_reach: dict[int, list[Tree]] = {}
    for tree in trees:
        by_reach.setdefault(_reach(len(tree.tokens)), []).append(tree)
    groups, waiting = [], []
    for reach in sorted(by_reach):
        waiting += by_reach[reach]
        if reach < max(by_reach) and sum(len(tree.tokens) for tree in waiting) < row_len * num_rows // 2:
            continue
        length, rows = _best_rows(waiting, row_len, num_rows)
        groups.append(Group(prefix=prefix, reach=reach, row_len=length, rows=rows))
        waiting = []
    return groups


def _reach(size: int) -> int:
    return max(_SMALLEST_REACH, 1 << (size - 1).bit_length())


def _best_rows(trees: Sequence[Tree], row_len: int, num_rows: int) -> tuple[int, tuple[tuple[Tree, ...], ...]]:
    """Rows of the longest length, or a half or a quarter of it where that reads clearly less padding."""
    longest = max(len(tree.tokens) for tree in trees)
    best, best_cost = None, float("inf")
    for length in (row_len, row_len // 2, row_len // 4):
        if length < max(longest, min(256, row_len)):
            break
        rows = _packed(trees, length)
        cost = -(-len(rows) // num_rows) * (num_rows * length + _BATCH_COST)
        if cost < 0.9 * best_cost:
            best, best_cost = (length, rows), cost
    assert best is not None, "a row holds the largest tree"
    return best


def _packed(trees: Sequence[Tree], length: int) -> tuple[tuple[Tree, ...], ...]:
    """Rows of at most so many tokens: the largest tree first, each into the fullest row that has room."""
    rows: list[list[Tree]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), rising
    for tree in sorted(trees, key=lambda tree: -len(tree.tokens)):
        size = len(tree.tokens)
        index = bisect.bisect_left(room, (size, -1))
        if index == len(room):
            rows.append([])
            left, row = length, len(rows) - 1
        else:
            left, row = room.pop(index)
        rows[row].append(tree)
        bisect.insort(room, (left - size, row))
    return tuple(map(tuple, rows))


# -- batches ----------------------------------------------------------------------------------------------------------


def batches(group: Group, requests: Sequence[Scored], *, num_rows: int, chunk: int) -> Iterator[Batch]:
    """The group's rows, so many at a time; the number of entries is a multiple of chunk, few values for a row_len."""
    for start in range(0, len(group.rows), num_rows):
        rows = group.rows[start : start + num_rows]
        tokens = np.zeros((num_rows, group.row_len), np.int32)
        positions = np.zeros_like(tokens)
        ends = np.broadcast_to(np.arange(1, group.row_len + 1, dtype=np.int32), tokens.shape).copy()
        entries: list[tuple[np.ndarray, np.ndarray]] = []
        answers: list[tuple[int, int, np.ndarray]] = []
        for row, trees in enumerate(rows):
            offset = 0
            asked: list[tuple[int, np.ndarray]] = []
            for tree in trees:
                here = slice(offset, offset + len(tree.tokens))
                tokens[row, here], positions[row, here] = tree.tokens, tree.positions
                ends[row, here] = tree.ends + offset
                asked += [(request, places + offset) for request, places in tree.requests]
                offset += len(tree.tokens)
            places, targets, found = _entries([(places, requests[request].targets) for request, places in asked])
            entries.append((places, targets))
            answers += [(request, row, where) for (request, _), where in zip(asked, found, strict=True)]
        num_entries = max(len(places) for places, _ in entries)
        room = -(-max(num_entries, 1) // group.row_len) * group.row_len
        room = -(-room // chunk) * chunk
        all_places = np.zeros((num_rows, room), np.int32)
        all_targets = np.zeros((num_rows, room, TARGETS), np.int32)
        for row, (places, targets) in enumerate(entries):
            all_places[row, : len(places)], all_targets[row, : len(places)] = places, targets
        yield Batch(
            tokens=tokens,
            positions=positions,
            ends=ends,
            places=all_places,
            targets=all_targets,
            num_entries=num_entries,
            answers=tuple(answers),
            num_tokens=sum(len(tree.tokens) for trees in rows for tree in trees),
        )


def _entries(asked: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Each (place, target) of the (places, targets) once: (n,) and (n, TARGETS), and where those of each are, flat."""
    places = np.concatenate([places for places, _ in asked]).astype(np.int64)
    targets = np.concatenate([targets for _, targets in asked]).astype(np.int64)
    pairs, inverse = np.unique((places << 32) | targets, return_inverse=True)
    place_of, target_of = pairs >> 32, (pairs & 0xFFFFFFFF).astype(np.int32)
    firsts = np.flatnonzero(np.diff(place_of, prepend=-1))  # where the pairs of a place begin
    rank = np.arange(len(pairs)) - np.repeat(firsts, np.diff(firsts, append=len(pairs)))
    entry = np.cumsum(rank % TARGETS == 0) - 1
    entry_places = place_of[rank % TARGETS == 0].astype(np.int32)
    entry_targets = np.zeros((len(entry_places), TARGETS), np.int32)
    entry_targets[entry, rank % TARGETS] = target_of
    where = (entry * TARGETS + rank % TARGETS)[inverse]
    sizes = np.cumsum([len(targets) for _, targets in asked])[:-1]
    return entry_places, entry_targets, np.split(where, sizes)
