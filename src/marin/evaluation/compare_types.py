"""What a comparison of two models is made of."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from marin.evaluation.statistics import Z95, Comparison, Estimate, normal_estimate, t_point

A, B = "A", "B"
ALL = "all"
"""Among names of metrics: every one."""
_FEWEST_UNITS = 5

CHANCE_OF_TWO_SE = math.erfc(2 / math.sqrt(2))
"""Share of comparisons of equal models that lie two standard errors apart by chance: 0.0455."""


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """How far runs lie apart that differ by their seed alone."""

    scores_a: tuple[float, ...]
    """Score of each run of A on the paired questions."""
    scores_b: tuple[float, ...]
    """Those of B."""
    sd: float
    """Pooled standard deviation between seeds, one spread assumed for A and B."""
    stderr: float
    """Its part in the standard error of the difference: sd * sqrt(1/k_A + 1/k_B)."""
    df: int
    """Degrees of freedom of sd: k_A + k_B - 2."""


@dataclass(frozen=True, kw_only=True)
class MetricComparison:
    """One metric of one task, A against B."""

    task: str
    metric: str
    higher_is_better: bool
    a: float
    """Score of A on the paired questions; of several seeds the mean."""
    b: float
    """That of B."""
    comparison: Comparison
    """Difference A - B; its error has both sources where there are several seeds."""
    question_stderr: float | None
    """Error from the sampling of questions alone."""
    verdict: str
    """'A is better', 'B is better', or 'no difference seen' with the reason where it is not the two standard errors."""
    only_a_right: int | None = None
    """Questions that A alone answers right; None for other than right or wrong, and for several seeds."""
    only_b_right: int | None = None
    """Those that B alone answers right."""
    seeds: SeedSpread | None = None
    """None where each side is one run."""
    weight: float = 0.0
    """The questions, or the sum of the denominators of a ratio: by this it counts in a group."""
    influences: Mapping[Hashable, float] = field(default_factory=dict, repr=False, compare=False)
    """Question, or group of questions -> what it moves the difference by, to first order; they sum to 0."""

    @property
    def seen(self) -> bool:
        """Whether there is a difference."""
        return self.verdict in (f"{A} is better", f"{B} is better")


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """One task that both sides have, and are the same task of."""

    task: str
    version: int
    num_fewshot: int
    prompt_hash: str
    num_paired: int
    """Questions that all runs answered."""
    num_only_a: int
    """Questions that no run of B answered."""
    num_only_b: int
    """Questions that no run of A answered."""
    num_partly: int
    """Questions that both sides answered, but not in every run; left out like the others that are not paired."""
    metrics: tuple[MetricComparison, ...]
    not_compared: Mapping[str, str]
    """Metric -> why it is not compared."""
    notes: tuple[str, ...] = ()
    """What a reader must know."""


@dataclass(frozen=True, kw_only=True)
class GroupComparison:
    """A group of tasks, or an average over tasks, that every run has over the same tasks."""

    group: str
    tasks: tuple[str, ...]
    metrics: tuple[MetricComparison, ...]


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A question that one side did better on."""

    task: str
    metric: str
    doc_id: str
    better: str
    """'A' or 'B'."""
    a: float
    """What A got; of several seeds the mean."""
    b: float
    """What B got."""
    rows: tuple[Mapping[str, Any], Mapping[str, Any]]
    """The rows of samples.jsonl, of the first run of each side."""


@dataclass(frozen=True, kw_only=True)
class EvaluationComparison:
    """Everything that two models, or two sets of seeds, can be compared on."""

    a: tuple[str, ...]
    """Labels of the runs of A."""
    b: tuple[str, ...]
    """Those of B."""
    tasks: tuple[TaskComparison, ...]
    groups: tuple[GroupComparison, ...]
    groups_not_compared: Mapping[str, str]
    """Group -> why it is not compared."""
    refused: Mapping[str, str]
    """Task -> in what it is another task on the other side."""
    missing_in_a: tuple[str, ...]
    """Tasks that some run of A lacks, or has without rows."""
    missing_in_b: tuple[str, ...]
    """Those that some run of B lacks."""
    disagreements: tuple[Disagreement, ...]

    @property
    def metrics(self) -> list[MetricComparison]:
        """Every comparison of every task; groups repeat what their tasks have."""
        return [metric for task in self.tasks for metric in task.metrics]

    @property
    def num_tested(self) -> int:
        """Comparisons that have an error, so that they could differ by chance."""
        return sum(metric.comparison.difference.stderr is not None for metric in self.metrics)

    @property
    def expected_by_chance(self) -> float:
        """How many of them would lie two standard errors apart if A and B were equally good; with seeds, at most."""
        return CHANCE_OF_TWO_SE * self.num_tested


def seed_spread(scores_a: Sequence[float], scores_b: Sequence[float]) -> SeedSpread:
    """Spread between seeds, of at least three runs on two sides; the formula is in `marin.evaluation.compare`."""
    k_a, k_b = len(scores_a), len(scores_b)
    if k_a < 1 or k_b < 1 or k_a + k_b < 3:
        raise ValueError(f"{k_a} and {k_b} runs: the spread between seeds takes one a side and three in all")
    squares = sum(float(np.sum((np.asarray(side) - np.mean(side)) ** 2)) for side in (scores_a, scores_b))
    sd = math.sqrt(squares / (k_a + k_b - 2))
    return SeedSpread(
        scores_a=tuple(scores_a),
        scores_b=tuple(scores_b),
        sd=sd,
        stderr=sd * math.sqrt(1 / k_a + 1 / k_b),
        df=k_a + k_b - 2,
    )


def with_seeds(compared: Comparison, value: float, question_stderr: float | None, seeds: SeedSpread) -> Comparison:
    """The comparison with both errors; the formula is in `marin.evaluation.compare`."""
    plain = compared.difference
    if question_stderr is None:
        difference = normal_estimate(value, None, plain.n, plain.num_clusters)
        return replace(compared, difference=difference, smallest_detectable=None, p_value=None)
    t95, t_two_se = t_point(0.05, seeds.df), t_point(CHANCE_OF_TWO_SE, seeds.df)
    half = math.hypot(Z95 * question_stderr, t95 * seeds.stderr)
    return replace(
        compared,
        difference=Estimate(
            value=value,
            stderr=math.hypot(question_stderr, seeds.stderr),
            ci95=(value - half, value + half),
            n=plain.n,
            num_clusters=plain.num_clusters,
            interval="t",
        ),
        threshold=math.hypot(2 * question_stderr, t_two_se * seeds.stderr),
        smallest_detectable=math.hypot(2.8 * question_stderr, (t95 + t_point(0.4, seeds.df)) * seeds.stderr),
        p_value=None,
    )


def verdict(compared: Comparison, higher_is_better: bool, is_equal: bool) -> str:
    """The comparison in words; is_equal: no question has another value on the other side."""
    if is_equal:
        return "no difference seen: the same on every question"
    # of so few the spread is known too badly: three equal differences by accident would have an error of zero
    if compared.difference.stderr is None or compared.difference.num_clusters < _FEWEST_UNITS:
        return "no difference seen: too few questions to tell"
    if not compared.seen:
        return "no difference seen"
    # with few disagreements two standard errors are sooner reached than the exact test allows
    if compared.p_value is not None and compared.p_value >= 0.05:
        return "no difference seen: too few disagreements"
    return f"{A if (compared.difference.value > 0) == higher_is_better else B} is better"
