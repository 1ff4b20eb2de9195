"""What is measured of a classifier is what it says it is."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from marin.processing.classify.evaluate import area_under_curve, evaluate, wilson_interval

scored = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: len({positive for _, positive in pairs}) == 2
)


@given(scored)
def test_auc_is_how_often_a_positive_text_is_scored_above_a_negative_one(pairs: list):
    scores, positive = np.array([score for score, _ in pairs], float), np.array([flag for _, flag in pairs])
    above = scores[positive][:, None] - scores[~positive][None, :]
    assert area_under_curve(scores, positive)[0] == pytest.approx(((above > 0) + 0.5 * (above == 0)).mean())


def test_the_error_of_auc_covers_what_samples_show():
    generator = np.random.default_rng(0)
    found = []
    for _ in range(200):
        positive = np.arange(300) < 100
        found.append(area_under_curve(generator.normal(size=300) + positive, positive))
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.2)


@given(st.integers(0, 50), st.integers(1, 50))
def test_an_interval_holds_its_share_and_stays_between_0_and_1(num_right: int, num_more: int):
    low, high = wilson_interval(num_right, num_right + num_more)
    assert 0 <= low <= num_right / (num_right + num_more) <= high <= 1


def test_an_interval_is_the_published_one():
    # Newcombe 1998, table I: 81 of 263, Wilson's score interval 0.2553 to 0.3662
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_texts_without_features_are_wrong_and_told():
    probabilities = np.array([[0.9, 0.1], [np.nan, np.nan], [0.2, 0.8], [0.7, 0.3]])
    measured = evaluate(probabilities, np.array([0, 0, 1, 1]), ("x", "y"))
    assert measured["accuracy"] == 0.5
    assert measured["num_without_features"] == 1
    assert measured["labels"]["x"]["recall"] == 0.5
    assert measured["labels"]["x"]["precision"] == 0.5
    assert measured["labels"]["y"]["taken_for"] == {"x": 1}
    assert measured["auc"] == 1.0


def test_one_kind_of_text_alone_has_no_auc():
    with pytest.raises(ValueError, match="2 positive and 0 negative texts; AUC needs both"):
        area_under_curve(np.zeros(2), np.ones(2, bool))
    assert "auc" not in evaluate(np.array([[0.9, 0.1]]), np.array([0]), ("x", "y"))
