"""Calibrated probabilities come true as often as they say, and no decision is reversed that should not be."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from marin.processing.classify.calibration import (
    Calibration,
    expected_calibration_error,
    fit_calibration,
    reliability,
)


def drawn(seed: int, num_labels: int, scale: float, offset: float = 0.0, num_texts: int = 20_000) -> tuple:
    """(logits, labels): labels drawn with the probabilities of the logits times `scale` plus `offset`."""
    generator = np.random.default_rng(seed)
    width = 1 if num_labels == 2 else num_labels
    logits = generator.normal(size=(num_texts, width)) * 3
    probabilities = Calibration(scale=scale, offset=offset).probabilities(logits)
    labels = (probabilities.cumsum(axis=1) < generator.random((num_texts, 1))).sum(axis=1)
    return logits, np.minimum(labels, num_labels - 1)


@pytest.mark.parametrize(("scale", "offset"), [(0.3, 0.0), (1.7, 0.9), (1.0, -2.0)])
def test_two_labels_find_the_scale_and_offset_that_labels_were_drawn_with(scale: float, offset: float):
    found = fit_calibration(*drawn(0, 2, scale, offset))
    assert found.scale == pytest.approx(scale, abs=0.06)
    assert found.offset == pytest.approx(offset, abs=0.08)


@pytest.mark.parametrize("scale", [0.2, 0.8, 2.5])
def test_many_labels_find_the_temperature_that_labels_were_drawn_with(scale: float):
    assert fit_calibration(*drawn(1, 5, scale)).scale == pytest.approx(scale, rel=0.05)


@pytest.mark.parametrize("num_labels", [2, 4])
def test_calibration_on_one_half_makes_the_other_reliable(num_labels: int):
    logits, labels = drawn(2, num_labels, 0.25)
    half = len(labels) // 2
    fitted = fit_calibration(logits[:half], labels[:half])
    before = reliability(Calibration().probabilities(logits[half:]), labels[half:])
    after = reliability(fitted.probabilities(logits[half:]), labels[half:])
    assert expected_calibration_error(before) > 0.1
    assert expected_calibration_error(after) < 0.02


@given(
    st.lists(st.lists(st.floats(-30, 30), min_size=4, max_size=4), min_size=1, max_size=20),
    st.floats(0.01, 50),
)
def test_a_temperature_changes_no_decision(logits: list, scale: float):
    values = np.array(logits)
    probabilities = Calibration(scale=scale).probabilities(values)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(values)))
    chosen = probabilities.argmax(axis=1)
    assert (values[np.arange(len(values)), chosen] >= values.max(axis=1) - 1e-9).all()


def test_separable_texts_have_a_finite_answer():
    logits = np.array([[5.0], [4.0], [-4.0], [-5.0]])
    found = fit_calibration(logits, np.array([0, 0, 1, 1]))
    assert 0 < found.scale < 10
    many = fit_calibration(np.eye(3) * 9, np.array([0, 1, 2]))
    assert np.isfinite(many.scale)


def test_scores_that_say_nothing_or_the_contrary_are_refused():
    with pytest.raises(ValueError, match="say nothing of the 4 held-out texts, 2 of them with the first label"):
        fit_calibration(np.array([[-5.0], [-4.0], [4.0], [5.0]]), np.array([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="scale is -1"):
        Calibration(scale=-1.0)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=20), st.floats(0.1, 5), st.floats(-5, 5))
def test_of_two_labels_the_order_of_texts_stays(log_odds: list, scale: float, offset: float):
    ordered = np.sort(np.array(log_odds))[:, None]
    calibrated = Calibration(scale=scale, offset=offset).probabilities(ordered)[:, 0]
    assert (np.diff(calibrated) >= 0).all()


def test_no_text_at_all_is_refused():
    with pytest.raises(ValueError, match="no held-out texts to calibrate on"):
        fit_calibration(np.zeros((0, 1)), np.zeros(0, np.int64))


def test_every_text_is_in_one_bin():
    probabilities = np.array([[0.0, 1.0], [0.5, 0.5], [0.3, 0.7], [0.7000001, 0.2999999]])
    bins = reliability(probabilities, np.array([1, 0, 0, 0]))
    assert sum(part.num_texts for part in bins) == 4
    assert [(part.low, part.num_texts, part.accuracy) for part in bins] == [
        (0.4, 1, 1.0),
        (0.6, 1, 0.0),
        (0.7, 1, 1.0),
        (0.9, 1, 1.0),
    ]
