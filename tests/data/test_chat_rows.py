"""Rows of conversations: the mask comes through packing, an answer keeps its question, and its end is learned."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.data.config import LaidOutMode, LmDataConfig
from marin.data.dataset import row_dataset
from marin.data.lm_data import open_data
from marin.data.loader import DataLoader
from marin.data.mixture_report import mixture_report, report_lines
from marin.data.packing import pack
from marin.data.store import ChatInfo, TokenStore
from marin.data.store_writer import ShardWriter, write_ledger
from marin.models.llama import LlamaConfig
from marin.processing.tokenize.config import ChatFormat
from marin.testing.tiny import TINY_CHAT, make_chat_store, make_token_store, tiny_conversations
from marin.training.callbacks import device_batch
from marin.training.train_step import loss_sums

MODES: tuple[LaidOutMode, ...] = ("greedy", "best_fit")
ENDS_WITH_EOS = ChatFormat(
    template=(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content ~ eos_token }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
)
"""A conversation ends, and each of its turns, with the token that padding is made of."""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TokenStore:
    return make_chat_store(tmp_path_factory.mktemp("chat") / "store", 30, num_shards=2)


def lengths_of(store: TokenStore) -> np.ndarray:
    return np.diff(store.document_offsets)


@settings(max_examples=20, deadline=None)
@given(seq_len=st.integers(8, 120), mode=st.sampled_from(MODES), policy=st.sampled_from(["drop", "cut"]))
def test_each_token_counts_as_its_mask_says_wherever_packing_puts_it(store: TokenStore, seq_len, mode, policy):
    rows = row_dataset(store, seq_len, mode, policy)
    indices = np.arange(rows.num_rows)
    batch, pieces = rows.rows(indices), rows.pieces(indices)
    seen = np.full(store.num_tokens, -1)
    for row, slot, length, document, start in zip(
        pieces.row, pieces.slot, pieces.length, pieces.document, pieces.start, strict=True
    ):
        position = store.document_offsets[document] + start
        assert (seen[position : position + length] == -1).all()
        seen[position : position + length] = batch.loss_weights[row, slot : slot + length]
    in_rows = np.repeat((lengths_of(store) <= seq_len) | (policy == "cut"), lengths_of(store))
    mask = store.read_loss_mask(0, store.num_tokens)
    assert np.array_equal(seen, np.where(in_rows, mask, -1))
    assert batch.loss_weights.sum() == mask[in_rows].sum()
    if policy == "cut":
        assert batch.loss_weights.sum() == store.num_trained


@pytest.mark.parametrize("mode", MODES)
def test_packed_conversations_have_the_loss_that_each_has_alone(store: TokenStore, mode: LaidOutMode):
    longest = int(lengths_of(store).max())
    model = LlamaConfig(
        seq_len=3 * longest, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=2
    )
    params = model.init(store.vocab_size, key=jax.random.key(0))
    rows = row_dataset(store, 3 * longest, mode)
    packed = rows.rows(np.arange(rows.num_rows))
    assert packed.segment_ids.max() > 1  # several in a row
    alone = row_dataset(store, longest, "greedy")
    one_each = pack(lengths_of(store), longest, "greedy").num_rows
    loss = jax.jit(lambda batch: loss_sums(model, params, batch).nll)
    together = float(loss(device_batch(packed)))
    # each conversation in a row of its own: its tokens to the left, padding after
    total = 0.0
    separate = [alone.rows(np.array([index])) for index in range(one_each)]
    for row in separate:
        for segment in range(row.segment_ids.max() + 1):
            at = row.segment_ids == segment
            single = replace(
                row,
                tokens=_left(row.tokens, at, store.eos_id),
                targets=_left(row.targets, at, store.eos_id),
                loss_weights=_left(row.loss_weights, at, 0),
                segment_ids=_left(np.zeros_like(row.segment_ids), at, -1),
            )
            total += float(loss(device_batch(single)))
    assert together == pytest.approx(total, rel=1e-5)


def _left(array: np.ndarray, at: np.ndarray, fill: float) -> np.ndarray:
    out = np.full_like(array, fill)
    out[0, : at.sum()] = array[at]
    return out


@pytest.mark.parametrize("mode", MODES)
def test_padding_of_end_of_text_tokens_does_not_hide_the_one_that_ends_a_turn(tmp_path: Path, mode: LaidOutMode):
    conversations = tiny_conversations(12)
    store = make_chat_store(tmp_path / "store", conversations, chat=ENDS_WITH_EOS)
    assert store.chat is not None and store.chat.stop_id == store.eos_id
    rows = row_dataset(store, int(lengths_of(store).max()) + 5, mode)
    batch = rows.rows(np.arange(rows.num_rows))
    is_padding = batch.segment_ids < 0
    assert is_padding.any() and (batch.targets[is_padding] == store.eos_id).all()
    assert not batch.loss_weights[is_padding].any()
    stops = (batch.targets == store.eos_id) & (batch.loss_weights > 0)
    assert stops.sum() == sum(message["role"] == "assistant" for row in conversations for message in row["messages"])
    last = np.flatnonzero(np.diff(batch.segment_ids[0], append=-1))  # where the segments of the first row end
    assert (batch.loss_weights[0, last[batch.segment_ids[0, last] >= 0]] == 1).all()


def test_long_conversations_are_refused_dropped_or_cut_and_the_report_says_how_many(store: TokenStore):
    seq_len = int(np.median(lengths_of(store)))
    too_long = int((lengths_of(store) > seq_len).sum())
    config = LmDataConfig(train={"chat": str(store.path)}, packing="best_fit", mixture_block_size=8)
    with pytest.raises(ValueError, match=rf"training source 'chat': {too_long} of 30 conversations in .*than a row of"):
        open_data(config, seq_len)
    with pytest.raises(ValueError, match="validation set 'held_out': .*long_conversations='drop' leaves them out"):
        open_data(replace(config, train={}, validation={"held_out": str(store.path)}), seq_len)
    for policy, dropped, cut in (("drop", too_long, 0), ("cut", 0, too_long)):
        data = open_data(replace(config, long_conversations=policy), seq_len)
        report = mixture_report(DataLoader(data.train, 2), 1)
        source = report.sources["chat"]
        assert (source.num_conversations, source.dropped, source.cut) == (30 - dropped, dropped, cut)
        assert report_lines(report)[-1].startswith(f"chat: {30 - dropped} conversations, {dropped} dropped and {cut} c")
    with pytest.raises(ValueError, match="long_conversations is 'truncate'; expected one of 'error', 'drop', 'cut'"):
        replace(config, long_conversations="truncate")  # type: ignore[arg-type]


def test_conversations_are_not_cut_at_row_ends(store: TokenStore):
    with pytest.raises(ValueError, match=r"training source 'chat': .*would cut them at row ends.*packing='best_fit'"):
        open_data(LmDataConfig(train={"chat": str(store.path)}), 256)


def test_conversations_and_texts_are_mixed_and_of_texts_every_token_counts(tmp_path: Path, store: TokenStore):
    text = make_token_store(tmp_path / "text", 30, tokenizer=store.path.with_name("store-tokenizer"))
    seq_len = int(lengths_of(store).max())
    config = LmDataConfig(
        train={"chat": str(store.path), "text": str(text.path)},
        weights={"chat": 1, "text": 1},
        packing="best_fit",
        mixture_block_size=8,
    )
    data = open_data(config, seq_len)
    assert data.chat == store.chat
    loader = DataLoader(data.train, 8)
    source, _ = data.train.locate(np.arange(8))
    batch = loader.batch(0)
    real = batch.segment_ids >= 0
    is_text = np.array([data.train.names[which] == "text" for which in source])
    assert is_text.sum() == 4 and np.array_equal(batch.loss_weights[is_text] > 0, real[is_text])
    counted = batch.loss_weights[~is_text] > 0
    assert counted.any(axis=1).all() and counted.sum() < real[~is_text].sum()


def test_conversations_of_two_templates_are_not_one_mixture(tmp_path: Path, store: TokenStore):
    chat = replace(TINY_CHAT, template=TINY_CHAT.template + "\n\n")
    other = make_chat_store(tmp_path / "b", 5, chat=chat, tokenizer=store.path.with_name("store-tokenizer"))
    config = LmDataConfig(train={"a": str(store.path), "b": str(other.path)}, packing="best_fit", mixture_block_size=8)
    with pytest.raises(ValueError, match="'a' and 'b' are conversations written in two ways.*one chat template"):
        open_data(config, 256)


def test_sets_of_conversations_are_mixed_by_their_weights(tmp_path: Path, store: TokenStore):
    other = make_chat_store(tmp_path / "b", 9, seed=1, tokenizer=store.path.with_name("store-tokenizer"))
    config = LmDataConfig(
        train={"a": str(store.path), "b": str(other.path)},
        weights={"a": 3, "b": 1},
        packing="best_fit",
        mixture_block_size=8,
    )
    data = open_data(config, int(max(lengths_of(store).max(), lengths_of(other).max())))
    assert data.train.rows_used(16) == {"a": 12, "b": 4}
    batch = DataLoader(data.train, 16).batch(0)
    assert (batch.loss_weights.sum(axis=1) < (batch.segment_ids >= 0).sum(axis=1)).all()


def hand_made_store(path: Path, mask: list[bool]) -> TokenStore:
    """One conversation of four tokens, of which 3 ends a turn, and the end-of-text token 0."""
    (path / "shard").mkdir(parents=True)
    with ShardWriter(path / "shard", name="shard", vocab_size=4, eos_id=0, has_loss_mask=True) as writer:
        writer.add(np.array([1, 2, 2, 3]), document_id="a", num_bytes=4, loss_mask=np.array(mask))
        shard = writer.close()
    write_ledger(
        path,
        [shard],
        vocab_size=4,
        tokenizer_digest="d" * 64,
        eos_id=0,
        bos_id=None,
        token_byte_lengths=np.ones(4, np.int32),
        chat=ChatInfo(template="", stop_id=3),
    )
    return TokenStore.open(path, verify=True)


def test_a_mask_that_leaves_out_the_end_of_turns_never_becomes_a_batch(tmp_path: Path):
    good = hand_made_store(tmp_path / "good", [False, False, True, True, False])
    assert row_dataset(good, 6, "greedy").rows(np.array([0])).loss_weights.tolist() == [[0, 0, 1, 1, 0, 0]]
    bad = hand_made_store(tmp_path / "bad", [False, True, True, False, False])
    with pytest.raises(AssertionError, match="trains on answers and not on their end"):
        row_dataset(bad, 6, "greedy").rows(np.array([0]))


def test_a_mask_has_a_place_for_every_token(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"its loss mask is bool \(4,\); expected bool \(5,\), one a token and one for"
    ):
        hand_made_store(tmp_path, [False, False, True, True])
