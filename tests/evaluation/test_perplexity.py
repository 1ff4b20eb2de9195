"""Every byte of a document is paid for exactly once, by the model that had the most context for it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.evaluation.perplexity import document_bits, plan_windows
from marin.evaluation.scoring import ScoredModel
from marin.evaluation.statistics import ratio_estimate


class ByteEncoder:
    """One token a byte, and EOS."""

    vocab_size = 257
    bos_id = None
    adds_bos = False
    eos_id = 256

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]


def uniform_model(vocab_size: int, seq_len: int = 16) -> ScoredModel:
    return ScoredModel(
        token_log_probs=lambda tokens, targets: np.full(tokens.shape, -math.log(vocab_size), np.float32),
        seq_len=seq_len,
        vocab_size=vocab_size,
    )


windows = st.integers(1, 40).flatmap(
    lambda seq_len: st.tuples(st.integers(0, 300), st.just(seq_len), st.integers(1, seq_len))
)


@given(windows)
def test_windows_score_each_prediction_exactly_once(case: tuple[int, int, int]):
    num_tokens, seq_len, stride = case
    scored = []
    for window in plan_windows(num_tokens, seq_len, stride):
        assert 0 <= window.start <= window.first_scored < window.end <= num_tokens
        assert window.end - window.start <= seq_len
        scored += range(window.first_scored, window.end)
    assert scored == list(range(num_tokens))


@given(windows)
def test_a_token_has_all_its_document_before_it_or_at_least_the_overlap(case: tuple[int, int, int]):
    num_tokens, seq_len, stride = case
    for window in plan_windows(num_tokens, seq_len, stride):
        for position in range(window.first_scored, window.end):
            assert position - window.start >= min(position, seq_len - stride)


def test_a_stride_that_skips_tokens_is_refused():
    with pytest.raises(ValueError, match="stride 17 must lie between 1 and seq_len, 16"):
        plan_windows(100, 16, 17)


@settings(max_examples=25)
@given(st.lists(st.text(min_size=1, max_size=80), min_size=1, max_size=5), st.integers(257, 4000), st.integers(1, 16))
def test_a_uniform_model_over_v_one_byte_tokens_takes_log2_v_bits_a_byte(
    texts: list[str], vocab_size: int, stride: int
):
    scored = document_bits(uniform_model(vocab_size), ByteEncoder(), texts, stride=stride)
    estimate = ratio_estimate(scored.bits, scored.num_bytes)
    assert estimate.value == pytest.approx(math.log2(vocab_size), rel=1e-6)
    np.testing.assert_array_equal(scored.num_tokens, [len(text.encode()) for text in texts])


def bigram_model(seq_len: int) -> tuple[ScoredModel, np.ndarray]:
    table = np.log(np.random.default_rng(0).dirichlet(np.ones(257), 257))
    score = ScoredModel(token_log_probs=lambda x, y: table[x, y], seq_len=seq_len, vocab_size=257)
    return score, table


@pytest.mark.parametrize("stride", [1, 3, 8, None])
def test_windows_do_not_change_what_a_model_of_one_token_of_context_says(stride: int | None):
    model, table = bigram_model(seq_len=8)
    text = "The first token follows the end of another document, the others follow each other."
    previous, tokens = [256, *text.encode()[:-1]], list(text.encode())
    expected = -sum(table[a, b] for a, b in zip(previous, tokens, strict=True)) / math.log(2)
    scored = document_bits(model, ByteEncoder(), [text, "", "other"], stride=stride)
    assert scored.bits[0] == pytest.approx(expected, rel=1e-5)
    assert scored.bits[1] == 0 and scored.num_bytes.tolist() == [len(text), 0, 5]


@pytest.mark.parametrize(("trained", "first"), [("eos", 256), ("bos", 0), (None, 0), ("named", 256)])
def test_the_first_token_follows_what_it_followed_in_training(trained, first):
    class WithBos(ByteEncoder):
        bos_id = 0
        adds_bos = trained != "named"

    model, table = bigram_model(seq_len=8)
    prefix = None if trained == "named" else trained
    scored = document_bits(replace(model, document_prefix=prefix), WithBos(), ["ab"])
    expected = -(table[first, ord("a")] + table[ord("a"), ord("b")]) / math.log(2)
    assert scored.bits[0] == pytest.approx(expected, rel=1e-5)


def test_the_documents_own_bytes_are_the_denominator():
    scored = document_bits(uniform_model(257), ByteEncoder(), ["naïve 東京"])
    assert scored.num_bytes.tolist() == [13]


def test_a_tokenizer_of_another_vocabulary_is_refused():
    with pytest.raises(
        ValueError, match="the tokenizer has 257 tokens and the model 100.*tokenizer that it was trained"
    ):
        document_bits(uniform_model(100), ByteEncoder(), ["text"])
