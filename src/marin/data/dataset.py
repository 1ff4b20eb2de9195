"""Rows of a token store: tokens, targets, weights and segments of any rows, a whole batch at a time.

A row is index arithmetic over the memory-mapped store; no row is ever materialised before it is asked for. Python runs
a few times a batch, and in the packed modes once a piece, never once a token. See `marin.data.packing` for what a slot
is and for the trade between the ways of packing.

A slot counts where its target is a real token and, in a store of conversations, where the loss mask lets that target
count. Conversations are laid into rows whole: cut at a row end, an answer would be learned without its question.

Segments: slot t belongs to the document of its *target*. The end-of-text token that precedes a document is therefore
the first input of that document's segment, and a model that masks attention by segment sees no stranger's token.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from marin.data.config import PACKING_MODES, LaidOutMode, LongConversations, PackingMode
from marin.data.packing import PackingStats, concatenation_stats, pack
from marin.data.permutation import Permutation
from marin.data.store import TokenStore

PADDING_SEGMENT = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Rows ready for a training or an evaluation step; B rows of T slots."""

    tokens: np.ndarray  # int32 (B, T): inputs; end-of-text where a slot is padding
    targets: np.ndarray  # int32 (B, T): what follows each input; end-of-text where a slot is padding
    loss_weights: np.ndarray  # float32 (B, T): 1 where the target counts, 0 on padding and where a mask leaves it out
    segment_ids: np.ndarray  # int32 (B, T): 0, 1, ... by document from the left of each row, -1 on padding

    @property
    def num_rows(self) -> int:
        return self.tokens.shape[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pieces:
    """Which tokens of which documents rows are made of: P pieces, those of a row from left to right, rows in order."""

    row: np.ndarray  # int64 (P,): a place in the indices that were asked for
    slot: np.ndarray  # int64 (P,): the first slot whose target is of this piece
    length: np.ndarray  # int64 (P,): targets, one a slot
    document: np.ndarray  # int64 (P,): index of the document in the store
    start: np.ndarray  # int64 (P,): the piece's first target, counted from the document's first token


@runtime_checkable
class RowDataset(Protocol):
    """A fixed number of rows, each a pure function of its index."""

    store: TokenStore
    seq_len: int
    num_rows: int

    def rows(self, indices: np.ndarray) -> Batch:
        """The rows with these indices: int64 (B,), each in [0, num_rows)."""
        ...

    def pieces(self, indices: np.ndarray) -> Pieces:
        """What these rows are made of, without reading a token of them: int64 (B,), as in `rows`."""
        ...

    def stats(self) -> PackingStats: ...


def row_dataset(
    store: TokenStore, seq_len: int, packing: PackingMode, long_conversations: LongConversations = "error"
) -> RowDataset:
    """Rows of `seq_len` slots over a store."""
    if packing == "concatenate":
        return ConcatenatedRows(store, seq_len)
    if packing == "greedy" or packing == "best_fit":
        return PackedRows(store, seq_len, packing, long_conversations)
    raise ValueError(f"unknown packing {packing!r}; expected one of {', '.join(map(repr, PACKING_MODES))}")


class ConcatenatedRows:
    """All documents end to end, cut every `seq_len` targets; the last row is filled up with padding."""

    def __init__(self, store: TokenStore, seq_len: int):
        _check_seq_len(seq_len)
        if store.chat is not None:
            raise ValueError(
                f"{store.path} holds conversations, and packing 'concatenate' would cut them at row ends, answers from "
                "their questions; use packing='best_fit' or 'greedy'"
            )
        self.store = store
        self.seq_len = seq_len
        self.num_rows = -(-store.num_tokens // seq_len)

    def rows(self, indices: np.ndarray) -> Batch:
        starts = _checked(indices, self.num_rows) * self.seq_len  # positions of the first targets
        end = self.store.num_tokens
        weights = np.ones((starts.size, self.seq_len), np.float32)
        segments = self._segments(starts)
        for row in np.flatnonzero(starts + self.seq_len > end).tolist():  # the store's last row
            weights[row, end - starts[row] :] = 0
            segments[row, end - starts[row] :] = PADDING_SEGMENT
        return Batch(
            tokens=self._tokens(starts - 1), targets=self._tokens(starts), loss_weights=weights, segment_ids=segments
        )

    def _tokens(self, starts: np.ndarray) -> np.ndarray:
        """The tokens of rows that begin at these positions, end-of-text where the store has none: int32 (B, T)."""
        length, end = self.seq_len, self.store.num_tokens
        inside = (starts >= 0) & (starts + length <= end)
        if inside.all():
            return self.store.gather(starts, length)
        tokens = np.full((starts.size, length), self.store.eos_id, np.int32)
        tokens[inside] = self.store.gather(starts[inside], length)
        for row in np.flatnonzero(~inside).tolist():  # the store's first row and its last
            start = int(starts[row])
            first, last = max(start, 0), min(start + length, end)
            tokens[row, first - start : last - start] = self.store.read(first, last - first)
        return tokens

    def _segments(self, starts: np.ndarray) -> np.ndarray:
        """How many documents begin after a row's first target, up to each slot: int32 (B, T)."""
        offsets = self.store.document_offsets
        low = np.searchsorted(offsets, starts, side="right")
        high = np.searchsorted(offsets, starts + self.seq_len, side="left")
        row, document = _ragged(low, high - low)
        begins = np.zeros((starts.size, self.seq_len), np.int32)
        begins[row, offsets[document] - starts[row]] = 1
        return np.cumsum(begins, axis=1, dtype=np.int32)

    def pieces(self, indices: np.ndarray) -> Pieces:
        starts = _checked(indices, self.num_rows) * self.seq_len
        ends = np.minimum(starts + self.seq_len, self.store.num_tokens)
        offsets = self.store.document_offsets
        low = np.searchsorted(offsets, starts, side="right") - 1
        row, document = _ragged(low, np.searchsorted(offsets, ends, side="left") - low)
        first = np.maximum(offsets[document], starts[row])
        length = np.minimum(offsets[document + 1], ends[row]) - first
        return Pieces(
            row=row, slot=first - starts[row], length=length, document=document, start=first - offsets[document]
        )

    def stats(self) -> PackingStats:
        return concatenation_stats(self.store.document_offsets, self.seq_len)


class PackedRows:
    """Documents laid into rows whole, by `greedy` or `best_fit`; laid out when opened."""

    def __init__(
        self, store: TokenStore, seq_len: int, packing: LaidOutMode, long_conversations: LongConversations = "error"
    ):
        _check_seq_len(seq_len)
        self.store = store
        self.seq_len = seq_len
        offsets = store.document_offsets
        lengths = np.diff(offsets)
        if store.chat is not None and long_conversations == "error" and (lengths > seq_len).any():
            raise ValueError(
                f"{int((lengths > seq_len).sum()):,} of {lengths.size:,} conversations in {store.path} have more "
                f"tokens than a row of {seq_len} (the longest {int(lengths.max()):,}). Use longer rows, or say what is "
                "to become of them: long_conversations='drop' leaves them out, 'cut' cuts them into pieces that do not "
                "see each other."
            )
        layout = pack(lengths, seq_len, packing, drop_long=store.chat is not None and long_conversations == "drop")
        self._stats = layout.stats()
        self._row_offsets = layout.row_offsets
        self._length = layout.length
        self._position = offsets[layout.document] + layout.start  # of a piece's first target
        self._begins = layout.start == 0  # whether a piece begins its document
        self._is_whole = layout.length == lengths[layout.document]  # whether a piece is its document
        self._slot = np.cumsum(layout.length) - layout.length  # of a piece's first target, counted over all rows
        row_starts = np.append(self._slot, layout.length.sum())[layout.row_offsets[:-1]]
        self._slot -= np.repeat(row_starts, np.diff(layout.row_offsets))  # now counted from its row's first slot
        self.num_rows = layout.num_rows

    def rows(self, indices: np.ndarray) -> Batch:
        indices = _checked(indices, self.num_rows)
        shape = indices.size, self.seq_len
        eos = self.store.eos_id
        low = self._row_offsets[indices]
        row, piece = _ragged(low, self._row_offsets[indices + 1] - low)
        slot, length, position = self._slot[piece], self._length[piece], self._position[piece]
        targets = np.full(shape, eos, np.int32)
        segments = np.full(shape, PADDING_SEGMENT, np.int32)
        at = row * self.seq_len + slot  # where each piece lies in the rows put end to end
        self.store.read_into(targets.reshape(-1), at, position, length)
        flat_segments = segments.reshape(-1)
        for first, end, segment in zip(at.tolist(), (at + length).tolist(), (piece - low[row]).tolist(), strict=True):
            flat_segments[first:end] = segment
        tokens = np.full(shape, eos, np.int32)
        tokens[:, 1:] = targets[:, :-1]
        # A piece's first input is what precedes it in the store: end-of-text, unless the piece continues a document.
        continues = np.flatnonzero(~self._begins[piece])
        tokens[row, slot] = eos
        tokens[row[continues], slot[continues]] = self.store.take(position[continues] - 1)
        last = self._row_offsets[indices + 1] - 1
        filled = self._slot[last] + self._length[last]
        padded = np.flatnonzero(filled < self.seq_len)
        tokens[padded, filled[padded]] = eos  # as all padding is; what follows a filled slot was shifted there
        if self.store.chat is None:
            counts = segments != PADDING_SEGMENT
        else:
            counts = np.zeros(shape, bool)
            flat_counts = counts.reshape(-1)
            for first, start, size in zip(at.tolist(), position.tolist(), length.tolist(), strict=True):
                flat_counts[first : first + size] = self.store.read_loss_mask(start, size)
            self._check_stops(targets, counts, has_cut=np.bincount(row, ~self._is_whole[piece], indices.size) > 0)
        return Batch(tokens=tokens, targets=targets, loss_weights=counts.astype(np.float32), segment_ids=segments)

    def _check_stops(self, targets: np.ndarray, mask: np.ndarray, *, has_cut: np.ndarray) -> None:
        """Of whole conversations the end of turns is trained on: has_cut bool (B,) says which rows have others too."""
        assert self.store.chat is not None
        stops = (mask & (targets == self.store.chat.stop_id)).any(axis=1)
        assert (stops | has_cut).all(), f"a row of {self.store.path} trains on answers and not on their end"

    def pieces(self, indices: np.ndarray) -> Pieces:
        indices = _checked(indices, self.num_rows)
        low = self._row_offsets[indices]
        row, piece = _ragged(low, self._row_offsets[indices + 1] - low)
        position = self._position[piece]
        document = self.store.document_index(position)
        return Pieces(
            row=row,
            slot=self._slot[piece],
            length=self._length[piece],
            document=document,
            start=position - self.store.document_offsets[document],
        )

    def stats(self) -> PackingStats:
        return self._stats


class SomeRows:
    """Rows `first` to `first + num_rows - 1` of another data set in an order of its own: a part drawn from the whole.

    Parts with one key and no row number in common have no row in common.
    """

    def __init__(self, whole: RowDataset, key: bytes, *, first: int, num_rows: int):
        if not 0 <= first <= first + num_rows <= whole.num_rows:
            raise ValueError(f"rows {first} to {first + num_rows - 1} of a data set of {whole.num_rows} rows")
        self.store = whole.store
        self.seq_len = whole.seq_len
        self.num_rows = num_rows
        self._whole = whole
        self._first = first
        self._order = Permutation(whole.num_rows, key)

    def rows(self, indices: np.ndarray) -> Batch:
        return self._whole.rows(self._in_whole(indices))

    def pieces(self, indices: np.ndarray) -> Pieces:
        return self._whole.pieces(self._in_whole(indices))

    def stats(self) -> PackingStats:
        """Of these rows alone; a document counts as cut where some of its tokens lie in another row. Dropped documents
        are in no row and are told of the whole."""
        pieces = self.pieces(np.arange(self.num_rows))
        num_tokens = int(pieces.length.sum())
        documents, tokens = np.unique(pieces.document), np.bincount(pieces.document, weights=pieces.length)
        lengths = np.diff(self.store.document_offsets)[documents]
        times = np.bincount(pieces.document)[documents]
        return PackingStats(
            num_documents=documents.size,
            num_rows=self.num_rows,
            num_tokens=num_tokens,
            padding=self.num_rows * self.seq_len - num_tokens,
            cut=int(((times > 1) | (tokens[documents] < lengths)).sum()),
            dropped=self._whole.stats().dropped,
        )

    def _in_whole(self, indices: np.ndarray) -> np.ndarray:
        return self._order(self._first + _checked(indices, self.num_rows))


def _ragged(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The runs starts[i] .. starts[i] + counts[i] - 1 put end to end: (i of each entry, the entries), both int64."""
    which = np.repeat(np.arange(counts.size), counts)
    within = np.arange(which.size) - np.repeat(np.cumsum(counts) - counts, counts)
    return which, np.repeat(starts, counts) + within


def _checked(indices: np.ndarray, num_rows: int) -> np.ndarray:
    indices = np.asarray(indices, dtype=np.int64)
    if indices.ndim != 1:
        raise ValueError(f"row indices have shape {indices.shape}; expected one dimension")
    if indices.size and not (int(indices.min()) >= 0 and int(indices.max()) < num_rows):
        raise IndexError(f"a row outside 0..{num_rows - 1} was asked for: {indices.min()}..{indices.max()}")
    return indices


def _check_seq_len(seq_len: int) -> None:
    if seq_len < 1:
        raise ValueError(f"seq_len is {seq_len}; a row has at least one slot")
