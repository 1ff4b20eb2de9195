"""Standard errors agree with the bootstrap, intervals with known values, and pairing with the arithmetic."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.evaluation.statistics import (
    compare_answers,
    compare_ratios,
    mcnemar_exact,
    mean_estimate,
    proportion_estimate,
    ratio_estimate,
    t_point,
    wilson_interval,
)

values = st.lists(st.floats(-100, 100, allow_nan=False), min_size=2, max_size=40)


def bootstrap_stderr(statistic, num_units: int, num_resamples: int = 4000) -> float:
    """Standard deviation of a statistic over resamples of its units; corrected for resampling n instead of n - 1."""
    rng = np.random.default_rng(0)
    draws = [statistic(rng.integers(0, num_units, num_units)) for _ in range(num_resamples)]
    return float(np.std(draws)) * math.sqrt(num_units / (num_units - 1))


@given(values)
def test_the_error_of_a_mean_is_the_sample_deviation_over_root_n(xs: list[float]):
    estimate = mean_estimate(xs)
    assert estimate.value == pytest.approx(np.mean(xs), abs=1e-9)
    assert estimate.stderr == pytest.approx(np.std(xs, ddof=1) / math.sqrt(len(xs)), abs=1e-9)


@pytest.mark.parametrize(
    ("tail", "df", "point"),
    [
        (0.05, 1, 12.706),
        (0.05, 2, 4.303),
        (0.05, 3, 3.182),
        (0.05, 4, 2.776),
        (0.05, 7, 2.365),
        (0.01, 10, 3.169),
        (0.4, 1, 1.376),
        (0.4, 5, 0.920),
        (0.05, 120, 1.980),
    ],
)
def test_points_of_students_distribution_are_those_of_the_tables(tail: float, df: int, point: float):
    assert t_point(tail, df) == pytest.approx(point, abs=6e-4)


@given(values)
def test_clusters_of_one_change_nothing(xs: list[float]):
    assert mean_estimate(xs, groups=list(range(len(xs)))).stderr == pytest.approx(mean_estimate(xs).stderr, abs=1e-12)


@given(values, st.integers(2, 5))
def test_counting_each_observation_several_times_does_not_make_the_clustered_error_smaller(xs: list[float], times: int):
    groups = [index for index in range(len(xs)) for _ in range(times)]
    repeated = mean_estimate(np.repeat(xs, times), groups)
    assert repeated.stderr == pytest.approx(mean_estimate(xs).stderr, rel=1e-9, abs=1e-9)
    assert repeated.num_clusters == len(xs)


@given(values, st.floats(0.1, 10))
def test_a_ratio_with_equal_denominators_is_a_mean(xs: list[float], size: float):
    ratio = ratio_estimate(np.array(xs) * size, np.full(len(xs), size))
    mean = mean_estimate(xs)
    assert ratio.value == pytest.approx(mean.value, abs=1e-9)
    assert ratio.stderr == pytest.approx(mean.stderr, abs=1e-9)


def test_the_error_of_a_ratio_agrees_with_the_bootstrap():
    rng = np.random.default_rng(1)
    num_bytes = rng.lognormal(7, 1, 60)
    bits = num_bytes * rng.normal(2.0, 0.3, 60)
    expected = bootstrap_stderr(lambda chosen: bits[chosen].sum() / num_bytes[chosen].sum(), 60)
    assert ratio_estimate(bits, num_bytes).stderr == pytest.approx(expected, rel=0.1)


def test_the_clustered_error_agrees_with_a_bootstrap_of_clusters():
    rng = np.random.default_rng(2)
    passages = [rng.normal(0, 1) + rng.normal(0, 0.5, rng.integers(1, 8)) for _ in range(50)]
    groups = [index for index, passage in enumerate(passages) for _ in passage]
    expected = bootstrap_stderr(lambda chosen: np.concatenate([passages[index] for index in chosen]).mean(), 50)
    clustered = mean_estimate(np.concatenate(passages), groups)
    assert clustered.stderr == pytest.approx(expected, rel=0.1)
    assert clustered.stderr > 1.5 * mean_estimate(np.concatenate(passages)).stderr


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_bounds_are_the_published_ones(successes: int, n: int, low: float, high: float):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_wilson_interval_holds_the_proportion_and_stays_within_0_and_1(counts: tuple[int, int]):
    successes, n = counts
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert low < high
    mirrored = wilson_interval(n - successes, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_all_right_still_has_an_interval():
    estimate = proportion_estimate([True] * 20)
    assert (estimate.value, estimate.stderr, estimate.interval) == (1.0, 0.0, "wilson")
    assert estimate.ci95 == pytest.approx((1 - 0.1611, 1.0), abs=5e-5)


def test_away_from_0_and_1_the_interval_is_two_errors_wide():
    estimate = proportion_estimate([True] * 60 + [False] * 40)
    assert estimate.interval == "normal"
    assert estimate.stderr == pytest.approx(math.sqrt(0.6 * 0.4 / 99))
    assert estimate.ci95 == pytest.approx((0.6 - 1.96 * estimate.stderr, 0.6 + 1.96 * estimate.stderr), abs=1e-4)


def test_one_observation_has_no_error():
    assert mean_estimate([3.0]).stderr is None
    assert mean_estimate([3.0, 4.0], groups=["same", "same"]).stderr is None


def test_mcnemar_counts_only_the_questions_that_one_of_both_got_right():
    # 10 questions that only a got right, 2 that only b did: 2 * (1 + 12 + 66) / 2^12
    a = [True] * 10 + [False] * 2 + [True] * 50
    b = [False] * 10 + [True] * 2 + [True] * 50
    assert mcnemar_exact(a, b) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert mcnemar_exact(a, a) == 1.0


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_a_comparison_turned_round_changes_its_sign_only(pairs: list[tuple[bool, bool]]):
    a, b = np.array(pairs).T
    there, back = compare_answers(("a", a), ("b", b), "acc"), compare_answers(("b", b), ("a", a), "acc")
    assert there.difference.value == -back.difference.value == pytest.approx(a.mean() - b.mean())
    assert there.difference.stderr == back.difference.stderr
    assert there.p_value == back.p_value
    assert 0 < there.p_value <= 1
    assert there.seen == back.seen


def test_pairing_removes_what_both_find_hard():
    rng = np.random.default_rng(3)
    num_bytes = rng.integers(500, 5000, 50).astype(float)
    hardness = rng.normal(2.0, 0.5, 50)
    a, b = num_bytes * hardness, num_bytes * (hardness + 0.02 + rng.normal(0, 0.02, 50))
    comparison = compare_ratios(("a", a), ("b", b), num_bytes, "bits_per_byte")
    assert comparison.seen
    assert comparison.difference.value == pytest.approx((a.sum() - b.sum()) / num_bytes.sum())
    assert comparison.difference.stderr < ratio_estimate(a, num_bytes).stderr / 5
    expected = bootstrap_stderr(lambda chosen: (a - b)[chosen].sum() / num_bytes[chosen].sum(), 50)
    assert comparison.difference.stderr == pytest.approx(expected, rel=0.1)


def test_a_difference_below_two_errors_is_not_seen():
    comparison = compare_ratios(("a", np.array([1.0, 2.0])), ("b", np.array([1.5, 1.4])), np.ones(2), "bits_per_byte")
    assert not comparison.seen
    assert comparison.smallest_detectable == pytest.approx(2.8 * comparison.difference.stderr)


def test_unequal_samples_are_refused_with_their_sizes():
    with pytest.raises(ValueError, match="3 documents and 'b' has 2"):
        compare_ratios(("a", np.ones(3)), ("b", np.ones(2)), np.ones(3), "bits_per_byte")
    with pytest.raises(ValueError, match="2 answers against 1"):
        mcnemar_exact([True, False], [True])
    with pytest.raises(ValueError, match="positive total"):
        ratio_estimate([0.0], [0.0])
    with pytest.raises(ValueError, match="no values"):
        mean_estimate([])
