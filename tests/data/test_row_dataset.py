"""Rows of a store: documents come back from them whole, each token is a target once, inputs precede targets."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.data.config import PACKING_MODES, PackingMode
from marin.data.dataset import row_dataset
from marin.data.store import TokenStore
from marin.testing.tiny import make_token_store

texts = st.lists(st.text(alphabet="abcdefgh", max_size=12), min_size=1, max_size=12)


def store_of(path: Path, words: list[str], num_shards: int) -> TokenStore:
    documents = [{"id": str(i), "text": word, "source": ""} for i, word in enumerate(words)]
    return make_token_store(path / "store", documents, num_shards=num_shards)


def stream_of(store: TokenStore) -> np.ndarray:
    return store.gather(np.array([0]), store.num_tokens)[0]


@settings(max_examples=60, deadline=None)
@given(words=texts, num_shards=st.integers(1, 3), seq_len=st.integers(1, 12), mode=st.sampled_from(PACKING_MODES))
def test_pack_then_unpack_gives_the_documents_back(tmp_path_factory, words, num_shards, seq_len, mode: PackingMode):
    """Each token is a target exactly once, its input is the token before it, segments split where documents do."""
    store = store_of(tmp_path_factory.mktemp("rows"), words, num_shards)
    stream = stream_of(store)
    rows = row_dataset(store, seq_len, mode)
    batch = rows.rows(np.arange(rows.num_rows))
    assert batch.tokens.shape == (rows.num_rows, seq_len)
    real = batch.loss_weights > 0
    assert np.array_equal(real, batch.segment_ids >= 0)
    assert (batch.targets[~real] == store.eos_id).all() and (batch.tokens[~real] == store.eos_id).all()

    # Cut every row into runs of one segment: the pieces are pieces of documents, each begun where it should be.
    pieces = []
    for row in range(rows.num_rows):
        segments = batch.segment_ids[row][real[row]]
        assert (np.diff(segments) >= 0).all() and (np.diff(segments) <= 1).all() and segments[0] == 0
        for segment in range(segments[-1] + 1):
            at = batch.segment_ids[row] == segment
            pieces.append((batch.tokens[row][at], batch.targets[row][at]))
    for inputs, targets in pieces:
        assert np.array_equal(inputs[1:], targets[:-1])  # inside a piece the input is the target before
        assert (targets[:-1] != store.eos_id).all()  # a document ends only where its segment does
    # Follow the pieces from end-of-text to end-of-text: the documents, as a multiset, are those of the store.
    documents = sorted(
        stream[a:b].tolist() for a, b in zip(*(store.document_offsets[i:] for i in (0, 1)), strict=False)
    )
    assert sorted(token for _, targets in pieces for token in targets.tolist()) == sorted(stream.tolist())
    if mode == "concatenate":
        assert batch.targets[real].tolist() == stream.tolist()
        assert batch.tokens[real].tolist() == [store.eos_id, *stream[:-1].tolist()]
    else:
        # pieces that begin after end-of-text are the documents' beginnings, each as long as a row allows
        documents = [store.document(i)[:seq_len].tolist() for i in range(store.num_documents)]
        begun = [targets.tolist() for inputs, targets in pieces if inputs[0] == store.eos_id]
        assert sorted(begun) == sorted(documents)


@pytest.mark.parametrize("mode", PACKING_MODES)
def test_any_rows_in_any_order_are_the_rows_of_the_whole(tmp_path: Path, mode: PackingMode):
    rows = row_dataset(make_token_store(tmp_path / "store", 30, num_shards=3), 16, mode)
    whole = rows.rows(np.arange(rows.num_rows))
    indices = np.random.default_rng(0).integers(0, rows.num_rows, size=50)
    some = rows.rows(indices)
    for name in ("tokens", "targets", "loss_weights", "segment_ids"):
        assert np.array_equal(getattr(some, name), getattr(whole, name)[indices])
    assert (some.tokens.dtype, some.loss_weights.dtype, some.segment_ids.dtype) == (np.int32, np.float32, np.int32)


@pytest.mark.parametrize("mode", PACKING_MODES)
def test_stats_agree_with_the_rows(tmp_path: Path, mode: PackingMode):
    store = make_token_store(tmp_path / "store", 30)
    rows = row_dataset(store, 32, mode)
    batch = rows.rows(np.arange(rows.num_rows))
    stats = rows.stats()
    assert stats.num_rows == rows.num_rows and stats.num_documents == 30
    assert stats.num_tokens == batch.loss_weights.sum() == store.num_tokens
    assert stats.padding == (batch.loss_weights == 0).sum()


def test_a_text_is_begun_after_end_of_text_as_evaluation_asks(tmp_path: Path):
    rows = row_dataset(store_of(tmp_path, ["abc", "de"], 1), 8, "concatenate")
    batch = rows.rows(np.array([0]))
    eos, a, b, c, d, e = 256, *b"abcde"
    assert batch.tokens.tolist() == [[eos, a, b, c, eos, d, e, eos]]
    assert batch.targets.tolist() == [[a, b, c, eos, d, e, eos, eos]]
    assert batch.segment_ids.tolist() == [[0, 0, 0, 0, 1, 1, 1, -1]]
    assert batch.loss_weights.tolist() == [[1, 1, 1, 1, 1, 1, 1, 0]]


@pytest.mark.parametrize("mode", PACKING_MODES)
def test_rows_that_do_not_exist_are_refused(tmp_path: Path, mode: PackingMode):
    rows = row_dataset(make_token_store(tmp_path / "store", 5), 16, mode)
    with pytest.raises(IndexError, match=f"outside 0..{rows.num_rows - 1}"):
        rows.rows(np.array([0, rows.num_rows]))


def test_an_unknown_packing_names_the_known_ones(tmp_path: Path):
    with pytest.raises(ValueError, match="'best-fit'; expected one of 'concatenate', 'greedy', 'best_fit'"):
        row_dataset(make_token_store(tmp_path / "store", 5), 16, "best-fit")  # type: ignore[arg-type]
