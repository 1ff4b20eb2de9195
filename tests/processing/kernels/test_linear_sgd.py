"""Training steps are those of the definition in numpy, and equal seeds give equal bits."""

import numpy as np
import pytest

from marin.processing.classify.linear import text_buffers
from marin.processing.kernels.linear_sgd import sgd_epoch, sgd_epoch_reference
from marin.processing.kernels.vocabulary import make_vocabulary

TEXTS = ["a b a c", "c c d", "", "a </s> b", "e é e é", "d d d d d a"]
LABELS = np.array([0, 1, 2, 0, 2, 1])


def start(num_labels: int) -> tuple:
    vocabulary = make_vocabulary([b"a", b"b", b"c", b"d"], num_buckets=31, word_ngrams=2, min_chars=2, max_chars=3)
    generator = np.random.default_rng(3)
    rows = generator.normal(size=(vocabulary.num_rows, 5)).astype(np.float32)
    outputs = generator.normal(size=(num_labels, 5)).astype(np.float32)
    return vocabulary, rows, outputs


@pytest.mark.parametrize("num_labels", [3, 7])
def test_an_epoch_is_that_of_the_definition(num_labels: int):
    data, offsets = text_buffers(TEXTS)
    order = np.array([3, 0, 5, 1, 2, 4])
    vocabulary, rows, outputs = start(num_labels)
    _, expected_rows, expected_outputs = start(num_labels)
    before = rows.copy()
    loss = sgd_epoch(data, offsets, LABELS, order, vocabulary, rows, outputs, first_rate=0.5, last_rate=0.1)
    expected = sgd_epoch_reference(
        data, offsets, LABELS, order, vocabulary, expected_rows, expected_outputs, first_rate=0.5, last_rate=0.1
    )
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(rows, expected_rows, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs, expected_outputs, rtol=1e-4, atol=1e-5)
    assert not np.array_equal(rows, before)


def test_the_same_epoch_twice_gives_the_same_bits():
    data, offsets = text_buffers(TEXTS)
    results = []
    for _ in range(2):
        vocabulary, rows, outputs = start(3)
        sgd_epoch(data, offsets, LABELS, np.arange(6), vocabulary, rows, outputs, first_rate=0.3, last_rate=0.0)
        results.append((rows.tobytes(), outputs.tobytes()))
    assert results[0] == results[1]
