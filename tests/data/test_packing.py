"""Packing: every token placed once, rows never overfull, and best fit is what its name says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.data.packing import concatenation_stats, pack

document_lengths = st.lists(st.integers(1, 40), max_size=30)
row_lengths = st.integers(1, 20)


@settings(max_examples=100, deadline=None)
@given(lengths=document_lengths, seq_len=row_lengths, mode=st.sampled_from(["greedy", "best_fit"]))
def test_every_token_is_placed_exactly_once_and_no_row_is_overfull(lengths: list[int], seq_len: int, mode):
    packing = pack(np.array(lengths, np.int64), seq_len, mode)
    placed = [
        (document, token)
        for document, start, length in zip(packing.document, packing.start, packing.length, strict=True)
        for token in range(start, start + length)
    ]
    assert sorted(placed) == [(i, token) for i, length in enumerate(lengths) for token in range(length)]
    used = [packing.length[a:b].sum() for a, b in zip(packing.row_offsets, packing.row_offsets[1:], strict=False)]
    assert all(0 < slots <= seq_len for slots in used)
    stats = packing.stats()
    assert stats.num_tokens == sum(lengths)
    assert stats.padding == stats.num_rows * seq_len - sum(lengths)
    assert stats.num_documents == len(lengths)
    assert stats.cut == sum(length > seq_len for length in lengths)


@settings(max_examples=60, deadline=None)
@given(lengths=document_lengths, seq_len=row_lengths)
def test_best_fit_puts_each_piece_into_the_fullest_row_with_room(lengths: list[int], seq_len: int):
    pieces = [min(seq_len, length - start) for length in lengths for start in range(0, length, seq_len)]
    free: list[int] = []
    for piece in sorted(pieces, reverse=True):  # the definition, slowly
        roomy = [i for i, room in enumerate(free) if room >= piece]
        if roomy:
            free[min(roomy, key=lambda i: free[i])] -= piece
        else:
            free.append(seq_len - piece)
    packing = pack(np.array(lengths, np.int64), seq_len, "best_fit")
    used = np.add.reduceat(packing.length, packing.row_offsets[:-1]) if lengths else np.array([])
    assert sorted(seq_len - used) == sorted(free)


def test_greedy_keeps_the_order_and_closes_a_row_when_the_next_document_does_not_fit():
    packing = pack(np.array([3, 4, 2, 9, 1]), 8, "greedy")
    assert packing.document.tolist() == [0, 1, 2, 3, 3, 4]
    assert packing.length.tolist() == [3, 4, 2, 8, 1, 1]
    assert packing.row_offsets.tolist() == [0, 2, 3, 4, 6]
    stats = packing.stats()
    assert (stats.num_rows, stats.padding, stats.cut) == (4, 13, 1)


def test_best_fit_pads_less_than_greedy_on_documents_of_mixed_length():
    lengths = np.random.default_rng(0).integers(1, 400, size=500)
    greedy, best_fit = (pack(lengths, 512, mode).stats() for mode in ("greedy", "best_fit"))
    assert best_fit.fill > 0.99 > 0.85 > greedy.fill


def test_concatenation_cuts_documents_that_span_a_row_end():
    stats = concatenation_stats(np.array([0, 3, 8, 10, 21]), 8)
    assert (stats.num_documents, stats.num_rows, stats.num_tokens, stats.padding, stats.cut) == (4, 3, 21, 3, 1)


def test_a_row_without_slots_is_refused():
    with pytest.raises(ValueError, match="seq_len is 0"):
        pack(np.array([1]), 0, "greedy")
