"""Lay documents into rows of a fixed number of slots.

A slot holds one target token; its input is the token before it in the store, which for a document's first token is the
end-of-text token of the document before. So every token of a store is predicted exactly once, the end-of-text tokens
included, and a model learns to begin a document after end-of-text, as it is asked to in evaluation.

Three ways, one trade:

- ``concatenate``: documents end to end, cut at every row end. No padding, no layout in memory; most documents cut.
- ``greedy``: documents in order, a new row when the next does not fit. Only documents longer than a row are cut; the
  row ends are padding.
- ``best_fit``: longest first, each into the fullest row that still takes it (best-fit decreasing). Only documents
  longer than a row are cut, and padding is nearly none. The price is that a row mixes documents by length.

The last two hold one entry a piece in memory and take about a microsecond a piece to lay out when a run starts.
Best-fit packing for language models: Ding et al., Fewer Truncations Improve Language Modeling (2024).
"""

from dataclasses import dataclass

import numpy as np

from marin.data.config import LaidOutMode


@dataclass(frozen=True, kw_only=True)
class PackingStats:
    """What a packing did to the documents. Counts of tokens are counts of targets."""

    num_documents: int
    num_rows: int
    num_tokens: int  # placed; every token of every document
    padding: int  # slots left empty
    cut: int  # documents whose tokens lie in more than one piece
    dropped: int = 0  # documents left out, since they are longer than a row; in none of the other counts

    @property
    def fill(self) -> float:
        """Share of the slots that hold a token."""
        return self.num_tokens / max(1, self.num_tokens + self.padding)


@dataclass(frozen=True, kw_only=True, eq=False)
class Packing:
    """Which piece of which document goes where. Pieces of a row stand side by side, rows in order."""

    seq_len: int  # slots of a row
    document: np.ndarray  # int64 (P,): the document a piece comes from
    start: np.ndarray  # int64 (P,): the piece's first token, counted from the document's first
    length: np.ndarray  # int64 (P,): tokens of the piece
    row_offsets: np.ndarray  # int64 (R + 1,): pieces row_offsets[r] to row_offsets[r + 1] - 1 are row r, left to right
    dropped: int = 0  # documents that are in no row

    @property
    def num_rows(self) -> int:
        return self.row_offsets.size - 1

    def stats(self) -> PackingStats:
        num_tokens = int(self.length.sum())
        pieces_of = np.bincount(self.document) if self.document.size else np.zeros(0, np.int64)
        return PackingStats(
            num_documents=int((pieces_of > 0).sum()),
            num_rows=self.num_rows,
            num_tokens=num_tokens,
            padding=self.num_rows * self.seq_len - num_tokens,
            cut=int((pieces_of > 1).sum()),
            dropped=self.dropped,
        )


def pack(lengths: np.ndarray, seq_len: int, mode: LaidOutMode, *, drop_long: bool = False) -> Packing:
    """Lay documents of the given lengths (int64 (N,), each at least 1) into rows of `seq_len` slots.

    A document longer than a row gives full rows first and its rest is packed like a document, or with `drop_long` it is
    in no row. `concatenate` needs no layout: see `marin.data.dataset.ConcatenatedRows`.
    """
    if seq_len < 1:
        raise ValueError(f"seq_len is {seq_len}; a row has at least one slot")
    lengths = np.asarray(lengths, dtype=np.int64)
    document, start, length = _cut(lengths, seq_len)
    if drop_long:
        fits = lengths[document] <= seq_len
        document, start, length = document[fits], start[fits], length[fits]
    if mode == "greedy":
        order, row_offsets = np.arange(length.size), _greedy(length, seq_len)
    elif mode == "best_fit":
        order, row_offsets = _best_fit(length, seq_len)
    else:
        raise ValueError(f"packing mode {mode!r} has no layout; expected 'greedy' or 'best_fit'")
    return Packing(
        seq_len=seq_len,
        document=document[order],
        start=start[order],
        length=length[order],
        row_offsets=row_offsets,
        dropped=int((lengths > seq_len).sum()) if drop_long else 0,
    )


def concatenation_stats(document_offsets: np.ndarray, seq_len: int) -> PackingStats:
    """Stats of the `concatenate` mode: document_offsets int64 (N + 1,) as a store has them."""
    num_tokens = int(document_offsets[-1])
    num_rows = -(-num_tokens // seq_len)
    first_row, last_row = document_offsets[:-1] // seq_len, (document_offsets[1:] - 1) // seq_len
    return PackingStats(
        num_documents=document_offsets.size - 1,
        num_rows=num_rows,
        num_tokens=num_tokens,
        padding=num_rows * seq_len - num_tokens,
        cut=int((first_row != last_row).sum()),
    )


def _cut(lengths: np.ndarray, seq_len: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(document, start, length) of every piece, in document order, no piece longer than a row."""
    pieces = -(-lengths // seq_len)
    document = np.repeat(np.arange(lengths.size), pieces)
    start = (np.arange(document.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * seq_len
    return document, start, np.minimum(seq_len, lengths[document] - start)


def _greedy(length: np.ndarray, seq_len: int) -> np.ndarray:
    """Row offsets when pieces are taken in order and a row closes at the first piece that does not fit."""
    ends = np.cumsum(length)
    offsets = [0]
    while offsets[-1] < length.size:
        before = int(ends[offsets[-1] - 1]) if offsets[-1] else 0
        offsets.append(int(np.searchsorted(ends, before + seq_len, side="right")))
    return np.array(offsets, dtype=np.int64)


def _best_fit(length: np.ndarray, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """(order, row_offsets) of best-fit decreasing: longest piece first, into the fullest row with room for it.

    Rows are kept by their free slots, and one big integer has a bit for each number of free slots that some row has:
    the lowest bit at or above a length is the fullest row that takes it, found without a search.
    """
    rows_with: list[list[int]] = [[] for _ in range(seq_len + 1)]
    occupied = 0
    num_rows = 0
    longest_first = np.argsort(-length, kind="stable")
    row_of = np.empty(length.size, np.int64)
    for piece, size in zip(longest_first.tolist(), length[longest_first].tolist(), strict=True):
        roomy = occupied >> size
        if roomy:
            free = size + (roomy & -roomy).bit_length() - 1
            row = rows_with[free].pop()
            if not rows_with[free]:
                occupied ^= 1 << free
        else:
            free, row = seq_len, num_rows
            num_rows += 1
        row_of[piece] = row
        if not rows_with[free - size]:
            occupied |= 1 << (free - size)
        rows_with[free - size].append(row)
    order = longest_first[np.argsort(row_of[longest_first], kind="stable")]
    return order, np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=num_rows))]).astype(np.int64)
