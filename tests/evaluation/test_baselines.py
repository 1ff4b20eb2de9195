"""The byte models are probability models, score every byte, and learn what there is to learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.evaluation.baselines import NgramByteModel, UniformByteModel

texts = st.lists(
    st.one_of(st.binary(max_size=60), st.text("ab\n ", max_size=60).map(str.encode)), min_size=1, max_size=8
)


def test_a_uniform_byte_model_takes_exactly_eight_bits_a_byte():
    bits = UniformByteModel().document_bits([b"", b"a", b"abc" * 100])
    np.testing.assert_array_equal(bits, [0, 8, 2400])


@settings(max_examples=15)  # each trains a model: about a second
@given(texts, st.binary(max_size=5))
def test_the_probabilities_after_any_context_are_positive_and_sum_to_1(documents: list[bytes], context: bytes):
    model = NgramByteModel.train([*documents, b"some text"])
    probabilities = model.distribution(context)
    assert probabilities.shape == (256,)
    assert probabilities.min() > 0
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)


def test_the_probabilities_sum_to_1_on_text_with_every_count_of_counts():
    text = np.random.default_rng(0).choice(list(b"etaoin shrdlu\n"), p=np.arange(14, 0, -1) / 105, size=20_000)
    model = NgramByteModel.train([bytes(text.tolist())])
    for context in (b"", b"e", b"et", b"eta", b"\x00\x01\x02", b"zet"):
        assert model.distribution(context).sum() == pytest.approx(1, abs=1e-12)


@settings(max_examples=15)  # each trains a model: about a second
@given(texts, st.binary(min_size=1, max_size=20))
def test_a_document_costs_the_sum_of_its_bytes_each_after_the_three_before(documents: list[bytes], held_out: bytes):
    model = NgramByteModel.train([*documents, b"some text"])
    bits = model.byte_bits(held_out)
    assert bits.shape == (len(held_out),)
    assert model.document_bits([held_out])[0] == pytest.approx(bits.sum())
    for index in range(3, len(held_out)):
        expected = -math.log2(model.distribution(held_out[index - 3 : index])[held_out[index]])
        assert bits[index] == pytest.approx(expected)


def test_what_follows_a_context_is_scored_as_inside_one_text():
    model = NgramByteModel.train([b"the cat sat on the mat. " * 20])
    whole = model.byte_bits(b"the cat sat")
    np.testing.assert_allclose(model.byte_bits(b" sat", b"the cat"), whole[-4:])


def test_interpolation_is_the_published_formula_on_a_case_done_by_hand():
    # of b"aab" only the windows 000a 00aa 0aab exist; every discount is 1/2, as there are no counts of 2, 3 or 4
    model = NgramByteModel.train([b"aab"])
    # empty context: a was seen after {0, a}, b after {a}: three continuations, two followers
    p0_a = (2 - 0.5) / 3 + (2 * 0.5 / 3) / 256
    p0_b = (1 - 0.5) / 3 + (2 * 0.5 / 3) / 256
    # context a: preceded windows (0)aa and (a)ab: a and b, once each
    p1_b = (1 - 0.5) / 2 + (2 * 0.5 / 2) * p0_b
    # contexts aa and 0aa: b once
    p2_b = 0.5 + 0.5 * p1_b
    p3_b = 0.5 + 0.5 * p2_b
    assert 2 ** -model.byte_bits(b"aab")[2] == pytest.approx(p3_b)
    # an unseen context backs off to the longest seen suffix without a loss
    assert model.distribution(b"xyz")[ord("a")] == pytest.approx(p0_a)


def test_repetitive_text_costs_little_and_random_text_about_eight_bits():
    rng = np.random.default_rng(0)
    noise = [rng.bytes(20_000) for _ in range(2)]
    assert NgramByteModel.train([noise[0]]).document_bits([noise[1]])[0] / 20_000 == pytest.approx(8, abs=0.5)
    song = b"row row row your boat gently down the stream\n" * 200
    assert NgramByteModel.train([song]).document_bits([song])[0] / len(song) < 1


def test_training_is_the_same_whether_counted_at_once_or_in_blocks(monkeypatch: pytest.MonkeyPatch):
    documents = [np.random.default_rng(seed).integers(97, 102, 500).astype(np.uint8).tobytes() for seed in range(9)]
    whole = NgramByteModel.train(documents)
    monkeypatch.setattr("marin.evaluation.baselines._BLOCK_BYTES", 700)
    np.testing.assert_array_equal(NgramByteModel.train(documents).distribution(b"abc"), whole.distribution(b"abc"))


def test_a_cap_on_training_text_is_kept_to_the_byte():
    model = NgramByteModel.train([b"abcdef", b"ghijkl", b"mnopqr"], max_bytes=8)
    assert (model.num_train_bytes, model.num_train_documents) == (8, 2)
    same = NgramByteModel.train([b"abcdef", b"gh"])
    np.testing.assert_array_equal(model.distribution(b"abc"), same.distribution(b"abc"))


def test_no_training_text_is_an_error_that_says_where_to_look():
    with pytest.raises(ValueError, match="no training bytes.*Check the folder of training documents"):
        NgramByteModel.train([b"", b""])
