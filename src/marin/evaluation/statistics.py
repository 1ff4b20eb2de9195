"""Standard errors, intervals and paired tests for scores.

Every score of a report is an estimate from a sample of questions or documents, so every score carries how far
it may be off by chance of the sample. The unit of sampling is the document: where several questions come from
one document they are one cluster, and where a score is a ratio (bits per byte) numerator and denominator are
both random. The normal approximation is used throughout, except for proportions near 0 or 1, where it would
give an interval of width zero; it is too narrow for fewer than about twenty clusters.

Nothing here knows of models; numpy and the standard library are enough.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

Z95 = 1.959963984540054
"""Two-sided 95% point of the standard normal distribution."""

# Below this many successes or failures a proportion's interval is Wilson's.
_FEW = 10


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number measured on a sample, and how far it may be from the number on the whole population."""

    value: float
    """The estimate."""
    stderr: float | None
    """Its standard error; None where the sample has fewer than two units, so that nothing can be said."""
    ci95: tuple[float, float] | None
    """95% confidence interval; None where stderr is."""
    n: int
    """Number of observations (questions, documents)."""
    num_clusters: int
    """Number of independent units among them; n where every observation is its own."""
    interval: str | None = "normal"
    """How ci95 was made: 'normal' (value +- 1.96 SE), 'wilson', 'mover' (`weighted_sum_interval`), or 't' where a part
    of SE is of few runs; None: it is None."""


def normal_estimate(value: float, stderr: float | None, n: int, num_clusters: int) -> Estimate:
    """A value with its standard error and value +- 1.96 SE; neither where stderr is None."""
    if stderr is None:
        return Estimate(value=value, stderr=None, ci95=None, n=n, num_clusters=num_clusters, interval=None)
    ci95 = (value - Z95 * stderr, value + Z95 * stderr)
    return Estimate(value=value, stderr=stderr, ci95=ci95, n=n, num_clusters=num_clusters)


def t_point(tail: float, df: int) -> float:
    """The t with probability `tail` beyond -t and t together, of Student's distribution of df >= 1 degrees of freedom.

    By bisection of the finite sums for whole df (Abramowitz and Stegun, eq. 26.7.3 and 26.7.4).
    """
    if not 0 < tail < 1 or df < 1:
        raise ValueError(f"t_point({tail}, {df}): expected 0 < tail < 1 and df >= 1")

    def within(angle: float) -> float:
        """P(|T| < sqrt(df) tan(angle))."""
        cos, sin = math.cos(angle), math.sin(angle)
        odd = df % 2
        term, total = (cos, 0.0) if odd else (1.0, 0.0)
        for j in range(2 + odd, df + 1, 2):
            total += term
            term *= cos * cos * (j - 1) / j
        return 2 / math.pi * (angle + sin * total) if odd else sin * total

    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < 1 - tail else (low, middle)
    return math.sqrt(df) * math.tan((low + high) / 2)


def _clustered_stderr(residuals: np.ndarray, denominator: float, groups: Sequence[Hashable] | None):
    """Linearised standard error of a mean or ratio: residuals float64[n] already sum to about zero."""
    if groups is not None:
        if len(groups) != len(residuals):
            raise ValueError(f"{len(groups)} group names for {len(residuals)} observations; give one name for each")
        index: dict[Hashable, int] = {}
        codes = np.array([index.setdefault(group, len(index)) for group in groups], dtype=np.int64)
        residuals = np.bincount(codes, weights=residuals, minlength=len(index))
    num_clusters = len(residuals)
    if num_clusters < 2:
        return None, num_clusters
    variance = float(np.sum(residuals**2)) * num_clusters / (num_clusters - 1)
    return math.sqrt(variance) / denominator, num_clusters


def mean_estimate(values: Sequence[float] | np.ndarray, groups: Sequence[Hashable] | None = None) -> Estimate:
    """Mean of values with its standard error, clustered by group where groups are given.

    Without groups the standard error is `sample sd / sqrt(n)`. With groups g it is
    `sqrt(G/(G-1) * sum_g (sum_{i in g} (x_i - mean))^2) / n`, the cluster-robust form (Miller, "Adding Error Bars
    to Evals", 2024, section 2.2, with the small-sample factor G/(G-1)); every group of size one gives the former.

    Raises ValueError for no values, or groups of another length.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        raise ValueError("the mean of no values is not a number; give at least one value")
    mean = float(x.mean())
    stderr, num_clusters = _clustered_stderr(x - mean, float(x.size), groups)
    return normal_estimate(mean, stderr, x.size, num_clusters)


def ratio_estimate(
    numerators: Sequence[float] | np.ndarray,
    denominators: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | None = None,
) -> Estimate:
    """Ratio of sums R = sum(y) / sum(x), such as bits per byte over documents, with its standard error.

    `SE = sqrt(n/(n-1) * sum_i (y_i - R x_i)^2) / sum(x)`, the linearised variance of a ratio estimator (Cochran,
    Sampling Techniques, 3rd ed., eq. 2.46 without the finite population factor). Long documents count by length.

    Raises ValueError for empty or unequal inputs and for a total denominator that is not positive.
    """
    y, x = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if y.shape != x.shape or y.ndim != 1 or y.size == 0:
        raise ValueError(f"numerators {y.shape} and denominators {x.shape} must be two equally long, non-empty lists")
    total = float(x.sum())
    if not total > 0:
        raise ValueError(f"denominators sum to {total}; a ratio needs a positive total (are all documents empty?)")
    ratio = float(y.sum()) / total
    stderr, num_clusters = _clustered_stderr(y - ratio * x, total, groups)
    return normal_estimate(ratio, stderr, y.size, num_clusters)


def wilson_interval(successes: int | float, n: int | float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson, "Probable Inference", 1927).

    `(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`. Unlike value +- z SE it stays within [0, 1] and has a
    width where all n observations agree.
    """
    if not n > 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: expected 0 <= successes <= n and n > 0")
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # the ends that are exactly 0 and 1 in real numbers are exactly that here
    low = 0.0 if successes == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if successes == n else min(1.0, (centre + half) / scale)
    return low, high


def proportion_interval(value: float, stderr: float, n: int, num_clusters: int) -> tuple[tuple[float, float], str]:
    """(95% interval, how it was made) of a share of n answers: Wilson's where fewer than ten are right or wrong.

    Wilson's counts one observation per cluster, see `proportion_estimate`; elsewhere value +- 1.96 SE within [0, 1].
    """
    num_right = round(value * n)
    if min(num_right, n - num_right) < _FEW:
        return wilson_interval(num_right / n * num_clusters, num_clusters), "wilson"
    return (max(0.0, value - Z95 * stderr), min(1.0, value + Z95 * stderr)), "normal"


def mean_correlation(
    a: tuple[Sequence[float] | np.ndarray, Sequence[Hashable]],
    b: tuple[Sequence[float] | np.ndarray, Sequence[Hashable]],
) -> float:
    """Correlation of two means (values, clusters) of which some clusters are the same, such as the same documents.

    With r_ac the sum over cluster c of what its values of a differ from their mean by, and r_bc likewise,

        rho = sum_{c in both} r_ac r_bc / sqrt(sum_c r_ac^2 sum_c r_bc^2)

    so that rho SE_a SE_b is the covariance of the means, with the standard errors of `mean_estimate`. It is 0 where no
    cluster is the same, and where one has no spread.
    """
    sums_of: list[dict[Hashable, float]] = []
    for values, clusters in (a, b):
        x = np.asarray(values, np.float64)
        sums: dict[Hashable, float] = {}
        for cluster, residual in zip(clusters, (x - x.mean()).tolist(), strict=True):
            sums[cluster] = sums.get(cluster, 0.0) + residual
        sums_of.append(sums)
    of_a, of_b = sums_of
    squares = math.fsum(r**2 for r in of_a.values()) * math.fsum(r**2 for r in of_b.values())
    product = math.fsum(of_a[cluster] * of_b[cluster] for cluster in of_a.keys() & of_b.keys())
    return product / math.sqrt(squares) if squares > 0 else 0.0


Correlations = Mapping[tuple[int, int], float]
"""Places (i, j), i < j, of two estimates -> their correlation; 0 where nothing is said."""


def sum_of_squares(terms: Sequence[float], correlations: Correlations) -> float:
    """`sum_i t_i^2 + 2 sum_{i<j} rho_ij t_i t_j`: the variance of a sum of estimates with standard errors t_i >= 0."""
    squares = math.fsum(term**2 for term in terms)
    products = math.fsum(2 * rho * terms[i] * terms[j] for (i, j), rho in correlations.items())
    return max(0.0, squares + products)


def weighted_sum_interval(
    values: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    weights: Sequence[float],
    correlations: Correlations = MappingProxyType({}),
) -> tuple[float, float]:
    """Interval of sum(w_i v_i) of estimates v_i with intervals (l_i, u_i) and weights w_i >= 0.

    `sum(w v) - sqrt(sum_i (w_i (v_i - l_i))^2 + 2 sum_{i<j} rho_ij w_i (v_i - l_i) w_j (v_j - l_j))` and up likewise:
    the variances are recovered from the ends (MOVER; Zou and Donner, "Construction of confidence limits about effect
    measures", 2008; Zou, "Toward using confidence intervals to compare correlations", 2007, for rho), so that it has a
    width where every estimate's own interval has one, and is the normal interval where those are normal.
    """
    centre = math.fsum(weight * value for value, weight in zip(values, weights, strict=True))
    parts = list(zip(values, intervals, weights, strict=True))
    below = sum_of_squares([weight * (value - low) for value, (low, _), weight in parts], correlations)
    above = sum_of_squares([weight * (high - value) for value, (_, high), weight in parts], correlations)
    return centre - math.sqrt(below), centre + math.sqrt(above)


def proportion_estimate(correct: Sequence[bool] | np.ndarray, groups: Sequence[Hashable] | None = None) -> Estimate:
    """Share of correct answers: mean and standard error of `mean_estimate`, Wilson's interval near 0 or 1.

    Near means fewer than ten right or fewer than ten wrong. Clustered answers are then counted as one observation
    per cluster, the cautious choice, because answers that all agree do not show how far clusters matter. One cluster
    alone has no interval, as it has no standard error.
    """
    hits = np.asarray(correct, dtype=np.float64)
    plain = mean_estimate(hits, groups)
    if plain.ci95 is None:
        return plain
    assert plain.stderr is not None
    ci95, interval = proportion_interval(plain.value, plain.stderr, plain.n, plain.num_clusters)
    return Estimate(
        value=plain.value,
        stderr=plain.stderr,
        ci95=ci95,
        n=plain.n,
        num_clusters=plain.num_clusters,
        interval=interval,
    )


def mcnemar_exact(correct_a: Sequence[bool] | np.ndarray, correct_b: Sequence[bool] | np.ndarray) -> float:
    """Two-sided exact p-value that two models, asked the same questions, are equally often right (McNemar 1947).

    Only questions that exactly one of them answers right count; under the hypothesis each falls to either side
    with probability 1/2, so p is twice the binomial tail, at most 1.
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"{a.size} answers against {b.size}: a paired test needs the same questions in the same order")
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    total = only_a + only_b
    tail = sum(math.comb(total, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**total) if total else 1.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two systems on the same sample: difference `a - b` of their scores, paired by document or question."""

    a: str
    """Name of the first system."""
    b: str
    """Name of the second system."""
    metric: str
    """What was compared, such as 'bits_per_byte'."""
    difference: Estimate
    """Score of a minus score of b."""
    smallest_detectable: float | None
    """Difference that this sample would show at 80% power: 2.8 standard errors, more where a part of the error is of
    few runs; None without a standard error."""
    p_value: float | None = None
    """Exact McNemar p for right / wrong answers; None for other metrics."""
    threshold: float | None = None
    """Difference that counts as seen; None: two standard errors."""

    @property
    def seen(self) -> bool:
        """Whether the difference is at least two paired standard errors, or the threshold that stands for them."""
        stderr = self.difference.stderr
        if stderr is None:
            return False
        least = 2 * stderr if self.threshold is None else self.threshold
        return self.difference.value != 0 and abs(self.difference.value) >= least


def _comparison(a: str, b: str, metric: str, difference: Estimate, p_value: float | None = None) -> Comparison:
    smallest = None if difference.stderr is None else 2.8 * difference.stderr
    return Comparison(a=a, b=b, metric=metric, difference=difference, smallest_detectable=smallest, p_value=p_value)


def compare_ratios(
    a: tuple[str, np.ndarray],
    b: tuple[str, np.ndarray],
    denominators: np.ndarray,
    metric: str,
    groups: Sequence[Hashable] | None = None,
) -> Comparison:
    """Paired difference of two ratios with one denominator, such as two models' bits on the same documents.

    The difference of ratios is the ratio of differences, so its standard error is that of `ratio_estimate` on
    `y_a - y_b`: what both find hard alike cancels, and the error is far below that of either score.
    """
    (name_a, values_a), (name_b, values_b) = a, b
    _check_paired(a, b, "documents")
    difference = ratio_estimate(np.asarray(values_a) - np.asarray(values_b), denominators, groups)
    return _comparison(name_a, name_b, metric, difference)


def compare_means(
    a: tuple[str, np.ndarray],
    b: tuple[str, np.ndarray],
    metric: str,
    groups: Sequence[Hashable] | None = None,
) -> Comparison:
    """Paired difference of two means over the same questions; the error is that of the mean of differences."""
    (name_a, values_a), (name_b, values_b) = a, b
    _check_paired(a, b, "questions")
    difference = mean_estimate(np.asarray(values_a, np.float64) - np.asarray(values_b, np.float64), groups)
    return _comparison(name_a, name_b, metric, difference)


def compare_perplexities(
    a: tuple[str, np.ndarray],
    b: tuple[str, np.ndarray],
    metric: str,
    groups: Sequence[Hashable] | None = None,
) -> Comparison:
    """Paired difference of two perplexities `exp(-mean(log_prob))`, of natural log-probabilities float64[n].

    The error is by the delta method: question i moves the difference by `-P_a (x_ai - mean x_a) + P_b (x_bi - mean
    x_b)` over n, to first order. It is too small where the perplexities differ by chance by more than some tens of
    percent.
    """
    (name_a, values_a), (name_b, values_b) = a, b
    _check_paired(a, b, "questions")
    x, y = np.asarray(values_a, np.float64), np.asarray(values_b, np.float64)
    p, q = math.exp(-x.mean()), math.exp(-y.mean())
    stderr, num_clusters = _clustered_stderr(q * (y - y.mean()) - p * (x - x.mean()), float(x.size), groups)
    return _comparison(name_a, name_b, metric, normal_estimate(p - q, stderr, x.size, num_clusters))


def _check_paired(a: tuple[str, np.ndarray], b: tuple[str, np.ndarray], unit: str) -> None:
    if len(a[1]) != len(b[1]):
        raise ValueError(
            f"'{a[0]}' has {len(a[1])} {unit} and '{b[0]}' has {len(b[1])}; "
            f"a paired comparison needs the same {unit} in the same order"
        )


def compare_answers(
    a: tuple[str, np.ndarray],
    b: tuple[str, np.ndarray],
    metric: str,
    groups: Sequence[Hashable] | None = None,
) -> Comparison:
    """Paired difference of two accuracies on the same questions, with McNemar's exact p."""
    (name_a, hits_a), (name_b, hits_b) = a, b
    p_value = mcnemar_exact(hits_a, hits_b)
    difference = mean_estimate(np.asarray(hits_a, dtype=np.float64) - np.asarray(hits_b, dtype=np.float64), groups)
    return _comparison(name_a, name_b, metric, difference, p_value)
