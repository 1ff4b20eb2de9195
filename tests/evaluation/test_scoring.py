"""Requests are scored on the right tokens, whatever stands around them in a batch."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.evaluation.scoring import (
    Request,
    ScoredModel,
    bucket_lengths,
    encode_requests,
    log_likelihoods,
    prefix_policy,
    rolling_log_likelihoods,
    score_rows,
)


class PieceEncoder:
    """Longest match first over given pieces and the 256 bytes; ids 0-255 are bytes, then EOS, then the pieces."""

    def __init__(self, *pieces: str, bos: bool = False):
        self.pieces = {piece.encode(): 258 + index for index, piece in enumerate(pieces)}
        self.vocab_size = 258 + len(pieces)
        self.eos_id = 256
        self.bos_id = 257 if bos else None
        self.adds_bos = bos

    def encode(self, text: str) -> np.ndarray:
        data, ids = text.encode(), []
        while data:
            match = max((piece for piece in self.pieces if data.startswith(piece)), key=len, default=data[:1])
            ids.append(self.pieces.get(match, data[0]))
            data = data[len(match) :]
        return np.array(ids, np.int32)

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]


def uniform_model(vocab_size: int, seq_len: int = 32, **kwargs) -> ScoredModel:
    return ScoredModel(
        token_log_probs=lambda tokens, targets: np.full(tokens.shape, -math.log(vocab_size), np.float32),
        seq_len=seq_len,
        vocab_size=vocab_size,
        **kwargs,
    )


def prefix_model(vocab_size: int, seq_len: int = 32, **kwargs) -> ScoredModel:
    """A causal model whose log-probabilities depend on every token before and on the target."""

    def token_log_probs(tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        state = np.cumsum((tokens.astype(np.int64) + 1) * (np.arange(tokens.shape[1]) + 7), axis=1)
        return (-((state * 31 + targets * 17) % 97) / 10 - 0.1).astype(np.float32)

    return ScoredModel(token_log_probs=token_log_probs, seq_len=seq_len, vocab_size=vocab_size, **kwargs)


def test_a_space_that_ends_the_context_moves_into_the_continuation():
    encoder = PieceEncoder(" Paris", "Paris")
    [moved] = encode_requests(encoder, [Request(context="Answer: ", continuation="Paris")], None)
    [plain] = encode_requests(encoder, [Request(context="Answer:", continuation=" Paris")], None)
    assert moved.continuation.tolist() == plain.continuation.tolist() == [encoder.pieces[b" Paris"]]
    assert moved.context.tolist() == plain.context.tolist() == encoder.encode("Answer:").tolist()
    assert not moved.boundary_merged


def test_context_and_continuation_are_encoded_as_one_text():
    encoder = PieceEncoder("\n ", "\n")
    [encoded] = encode_requests(encoder, [Request(context="if x:", continuation="\n y")], None)
    assert encoded.continuation.tolist() == [encoder.pieces[b"\n "], ord("y")]


def test_a_token_across_the_boundary_is_scored_with_the_continuation_and_counted():
    encoder = PieceEncoder("hat")
    [encoded] = encode_requests(encoder, [Request(context="wh", continuation="at")], None)
    assert encoded.boundary_merged
    assert encoded.context.tolist() == [ord("w")]
    assert encoded.continuation.tolist() == [encoder.pieces[b"hat"]]
    answers = log_likelihoods(uniform_model(300), encoder, [Request(context="wh", continuation="at")])
    assert answers[0].boundary_merged
    assert answers[0].log_prob == pytest.approx(-math.log(300))


@given(st.text("ab c\n", max_size=12), st.text("ab c\n", min_size=1, max_size=8), st.booleans())
def test_context_and_continuation_tokens_always_make_up_the_whole_text(context: str, continuation: str, bos: bool):
    encoder = PieceEncoder("ab", "b c", " a", "\n ", "c\n", bos=bos)
    [encoded] = encode_requests(encoder, [Request(context=context, continuation=continuation)], None)
    tokens = [*encoded.context.tolist(), *encoded.continuation.tolist()]
    if tokens[0] in (encoder.bos_id, encoder.eos_id):
        tokens = tokens[1:]
    assert tokens == encoder.encode(context + continuation).tolist()
    assert len(encoded.context) >= 1 and len(encoded.continuation) >= 1


@pytest.mark.parametrize("context", ["", " \n"])
def test_an_empty_context_is_what_stood_before_documents_in_training(context: str):
    plain, with_bos = PieceEncoder(), PieceEncoder(bos=True)
    for encoder, trained, expected in [
        (plain, "eos", 256),
        (with_bos, "eos", 256),
        (with_bos, "bos", 257),
        (plain, None, 256),
        (with_bos, None, 257),
    ]:
        [encoded] = encode_requests(encoder, [Request(context=context, continuation="word")], trained)
        assert encoded.context.tolist() == [expected]
        wanted = "EOS before every document" if expected == 256 else "one BOS before every text"
        assert prefix_policy(encoder, trained).startswith(wanted)
        assert ("unknown" in prefix_policy(encoder, trained)) == (trained is None)


def test_a_context_has_no_bos_where_training_had_none():
    [encoded] = encode_requests(PieceEncoder(bos=True), [Request(context="one", continuation=" two")], "eos")
    assert encoded.context.tolist() == list(b"one")


def test_bos_stands_in_front_exactly_once():
    class AddsBos(PieceEncoder):
        def encode(self, text: str) -> np.ndarray:
            return np.concatenate([[257], super().encode(text)]).astype(np.int32)

    request = Request(context="one", continuation=" two")
    for encoder in (PieceEncoder(bos=True), AddsBos(bos=True)):
        [encoded] = encode_requests(encoder, [request], None)
        assert encoded.context.tolist() == [257, *b"one"]
        assert encoded.continuation.tolist() == list(b" two")


def test_a_tokenizer_without_bos_and_eos_is_refused_where_one_is_needed():
    encoder = PieceEncoder()
    encoder.eos_id = None
    request = Request(context="", continuation="word")
    with pytest.raises(ValueError, match="neither a BOS nor an EOS"):
        encode_requests(encoder, [request], None)
    with pytest.raises(ValueError, match="the tokenizer has no BOS token"):
        encode_requests(PieceEncoder(), [request], "bos")


def test_an_empty_continuation_is_refused():
    with pytest.raises(ValueError, match="empty continuation after context 'so'"):
        encode_requests(PieceEncoder(), [Request(context="so", continuation="")], None)


def test_a_long_context_loses_its_left_and_the_loss_is_counted():
    model, encoder = prefix_model(300, seq_len=8), PieceEncoder()
    [long] = log_likelihoods(model, encoder, [Request(context="x" * 50 + "abcdef", continuation="gh!")])
    # eight tokens in: 'bcdefgh' preceded by 'a', predicting up to '!'
    [short] = log_likelihoods(model, encoder, [Request(context="abcdef", continuation="gh!")])
    assert (long.num_cut_tokens, short.num_cut_tokens) == (50, 0)
    assert long.log_prob == short.log_prob


def test_a_continuation_longer_than_the_model_reads_is_refused():
    with pytest.raises(ValueError, match="has 9 tokens and the model reads 8"):
        log_likelihoods(uniform_model(300, seq_len=8), PieceEncoder(), [Request(context="a", continuation="b" * 9)])


def test_the_score_is_the_sum_over_the_continuation_alone():
    vocab_size = 300
    rng = np.random.default_rng(0)
    table = np.log(rng.dirichlet(np.ones(vocab_size), vocab_size))
    model = ScoredModel(
        token_log_probs=lambda tokens, targets: table[tokens, targets], seq_len=32, vocab_size=vocab_size
    )
    [answer] = log_likelihoods(model, PieceEncoder(), [Request(context="to be", continuation=" or")])
    expected = sum(table[a, b] for a, b in [(ord("e"), ord(" ")), (ord(" "), ord("o")), (ord("o"), ord("r"))])
    assert answer.log_prob == pytest.approx(expected, rel=1e-6)
    assert answer.num_tokens == 3


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.text("abc ", max_size=40), st.text("abc", min_size=1, max_size=5)), min_size=1, max_size=12),
    st.randoms(),
)
def test_neither_order_nor_company_changes_a_score(pairs: list[tuple[str, str]], random):
    model, encoder = prefix_model(300, tokens_per_batch=64), PieceEncoder("ab", " c")
    requests = [Request(context=context, continuation=continuation) for context, continuation in pairs]
    together = log_likelihoods(model, encoder, requests)
    order = list(range(len(requests)))
    random.shuffle(order)
    shuffled = log_likelihoods(model, encoder, [requests[index] for index in order])
    assert [together[index] for index in order] == shuffled
    assert together == [log_likelihoods(model, encoder, [request])[0] for request in requests]


def test_few_shapes_are_compiled_and_every_batch_is_whole():
    shapes = []

    def token_log_probs(tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        shapes.append(tokens.shape)
        return np.zeros(tokens.shape, np.float32)

    model = ScoredModel(token_log_probs=token_log_probs, seq_len=64, vocab_size=10, tokens_per_batch=256)
    rows = [(np.ones(size, np.int32), np.ones(size, np.int32)) for size in range(1, 65)]
    done = []
    results = score_rows(model, rows, progress=lambda *counts: done.append(counts))
    assert set(shapes) == {(16, 16), (8, 32), (4, 64)}
    assert [len(result) for result in results] == list(range(1, 65))
    assert done[-1] == (64, 64)


def test_buckets_end_with_what_the_model_reads():
    assert bucket_lengths(1024) == (256, 512, 1024)
    assert bucket_lengths(20) == (16, 20)
    assert bucket_lengths(3) == (3,)


def test_tokens_of_another_vocabulary_are_refused():
    with pytest.raises(ValueError, match="token id 300, outside the model's vocabulary of 256"):
        score_rows(uniform_model(256), [(np.array([1]), np.array([300]))])
    with pytest.raises(ValueError, match="row 0 has 40 tokens.*32 that the model reads"):
        score_rows(uniform_model(256), [(np.zeros(40, int), np.zeros(40, int))])


def greedy_model(vocab_size: int, seq_len: int, most_probable) -> ScoredModel:
    """`prefix_model` that also says that `most_probable(token)` is the most probable token after each token."""
    likely = np.array([most_probable(token) for token in range(vocab_size)])
    model = prefix_model(vocab_size, seq_len)
    return replace(model, token_is_greedy=lambda tokens, targets: likely[tokens] == targets)


def test_a_continuation_is_greedy_where_each_of_its_tokens_is():
    model = greedy_model(300, 32, lambda token: token + 1)
    requests = [Request(context="xya", continuation=text) for text in ("bcd", "bce", "acd")]
    answers = log_likelihoods(model, PieceEncoder(), requests)
    assert [answer.is_greedy for answer in answers] == [True, False, False]
    assert log_likelihoods(prefix_model(300), PieceEncoder(), requests)[0].is_greedy is None


def test_the_log_probabilities_of_the_tokens_sum_to_that_of_the_continuation():
    requests = [Request(context="one", continuation=" two"), Request(context="", continuation="three")]
    for answer in log_likelihoods(prefix_model(300), PieceEncoder(), requests):
        assert answer.token_log_probs.shape == (answer.num_tokens,)
        assert answer.log_prob == pytest.approx(answer.token_log_probs.sum(), rel=1e-6)


@pytest.mark.parametrize("size", [0, 1, 8, 9, 16, 21])
def test_rolling_windows_score_each_token_once_after_what_lm_eval_puts_before_it(size: int):
    model, encoder = prefix_model(300, seq_len=8), PieceEncoder()
    text = "abcdefghijklmnopqrstuvwxyz"[:size]
    [answer] = rolling_log_likelihoods(model, encoder, [text])
    tokens = [256, *text.encode()]
    expected: list[float] = []
    while len(expected) < size:
        done = len(expected)
        end = min(done + 8, size)
        window = np.array([tokens[max(0, end - 8) : end + 1]])
        expected.extend(model.token_log_probs(window[:, :-1], window[:, 1:])[0, -(end - done) :])
    np.testing.assert_allclose(answer.token_log_probs, np.array(expected, np.float32), rtol=1e-6)
    assert answer.num_tokens == size
