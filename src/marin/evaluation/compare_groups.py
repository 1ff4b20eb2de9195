"""Compare groups of tasks, such as mmlu, and averages such as CORE, from the paired differences of their tasks.

With weights w_t of the tasks the difference is `sum w_t d_t` and its error

    sqrt(sum_t w_t^2 SE_t^2 + 2 sum_{s<t} w_s w_t cov_st)

where cov_st is 0 unless s and t are one task at two numbers of shots, which asks the same questions twice: then it is
of what each question moves both differences by. w_t is the task's share of the questions in a group (of the bytes or
tokens, where its score is a ratio by them), `1 / k` in a macro average of k tasks (`macro_METRIC`), and
`1 / (k (1 - b_t))` in the CORE average of k tasks with scores b_t of guessing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from marin.evaluation.compare_read import ScoredRun
from marin.evaluation.compare_types import (
    ALL,
    A,
    B,
    GroupComparison,
    MetricComparison,
    TaskComparison,
    seed_spread,
    verdict,
    with_seeds,
)
from marin.evaluation.statistics import Comparison, mcnemar_exact, normal_estimate

_CORE = "core"
_MACRO = "macro_"
_CORE_METRICS = ("acc_per_token", "acc")


def compare_groups(
    runs: Sequence[ScoredRun], tasks: Sequence[TaskComparison], metrics: Sequence[str] | None
) -> tuple[list[GroupComparison], dict[str, str]]:
    """(the groups that all runs have over the same compared tasks, group -> why it is not compared)."""
    compared = {task.task: {metric.metric: metric for metric in task.metrics} for task in tasks}
    done: list[GroupComparison] = []
    left_out: dict[str, str] = {}
    for name in dict.fromkeys(name for run in runs for name in run.groups):
        entries = [run.groups.get(name) for run in runs]
        members = [tuple(entry["tasks"]) if entry else () for entry in entries]
        if not any(member in compared for member in members[0]):
            continue  # nothing of it was asked for
        if len(set(members)) > 1:
            left_out[name] = "its tasks are not the same in every run"
            continue
        missing = [member for member in members[0] if member not in compared]
        if missing:
            left_out[name] = f"{len(missing)} of its {len(members[0])} tasks are not compared, first {missing[0]}"
            continue
        found = [_metric(name, metric, entries, compared, runs) for metric in entries[0]["metrics"]]  # type: ignore[index]
        kept = tuple(
            each for each in found if each is not None and _is_wanted(each.metric, entries[0], runs[0], metrics)
        )
        if kept:
            done.append(GroupComparison(group=name, tasks=members[0], metrics=kept))
    return done, left_out


def _is_wanted(metric: str, entry: Any, run: ScoredRun, metrics: Sequence[str] | None) -> bool:
    if metrics is not None:
        return ALL in metrics or metric in metrics
    primary = {run.tasks[member].get("primary_metric") for member in entry["tasks"]}
    return entry.get("group") == _CORE or None in primary or metric in primary


def _metric(
    name: str,
    metric: str,
    entries: Sequence[Any],
    compared: Mapping[str, Mapping[str, MetricComparison]],
    runs: Sequence[ScoredRun],
) -> MetricComparison | None:
    """The group's metric; None where it is no weighted mean of one metric of its tasks that was compared."""
    first, offset = entries[0], None
    if first.get("group") == _CORE:
        parts, weights = _core_parts(entries, compared, runs)
        offset = math.fsum(w * task["baseline"] for w, task in zip(weights, first["centred"].values(), strict=True))
    else:
        parts = [compared[member].get(metric.removeprefix(_MACRO)) for member in first["tasks"]]
        counts = np.array([0 if part is None else part.weight for part in parts], np.float64)
        weights = counts / max(1.0, counts.sum())
        if metric.startswith(_MACRO):
            weights = np.full(len(parts), 1 / len(parts))
    if any(part is None for part in parts):
        return None
    known: list[MetricComparison] = [part for part in parts if part is not None]
    return _weighted(name, metric, known, weights, offset)


def _core_parts(
    entries: Sequence[Any], compared: Mapping[str, Mapping[str, MetricComparison]], runs: Sequence[ScoredRun]
) -> tuple[list[MetricComparison | None], np.ndarray]:
    """Of each task the metric whose value the average was made of, and its weight."""
    centred = entries[0]["centred"]
    parts: list[MetricComparison | None] = []
    for task, of_task in centred.items():
        values = runs[0].tasks[task]["metrics"]
        used = [m for m in _CORE_METRICS if m in values and abs(values[m]["value"] - of_task["accuracy"]) < 1e-9]
        same = all(entry["centred"][task]["baseline"] == of_task["baseline"] for entry in entries)
        parts.append(compared[task].get(used[0]) if used and same else None)
    weights = np.array([1 / (len(centred) * (1 - of_task["baseline"])) for of_task in centred.values()])
    return parts, weights


def _weighted(
    name: str, metric: str, parts: Sequence[MetricComparison], weights: np.ndarray, offset: float | None
) -> MetricComparison:
    """The weighted sum of parts; offset is what an average of centred scores takes off both sides, None in a group."""

    def total(values: Sequence[float]) -> float:
        return math.fsum(weight * value for weight, value in zip(weights, values, strict=True))

    def error(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        return math.sqrt(math.fsum((w * value) ** 2 for w, value in zip(weights, known, strict=True)))

    value = total([part.comparison.difference.value for part in parts])
    questions = error([part.question_stderr for part in parts])
    shared = _covariances(parts, weights)
    if questions is not None and shared is not None:
        questions = math.sqrt(max(0.0, questions**2 + shared))
    spreads = [part.seeds for part in parts if part.seeds is not None]
    seeds = None
    if spreads:
        seeds = seed_spread(
            [total(scores) for scores in zip(*(spread.scores_a for spread in spreads), strict=True)],
            [total(scores) for scores in zip(*(spread.scores_b for spread in spreads), strict=True)],
        )
    only_a, only_b, p_value = None, None, None
    is_whole = offset is None and not metric.startswith(_MACRO) and shared is None
    if is_whole and all(part.only_a_right is not None for part in parts):
        # every question counts alike, so that the test of the pooled questions is the test of the difference
        only_a, only_b = (sum(getattr(part, name) for part in parts) for name in ("only_a_right", "only_b_right"))
        hits = np.array([True] * only_a + [False] * only_b, bool)
        p_value = mcnemar_exact(hits, ~hits)
    n = sum(part.comparison.difference.n for part in parts)
    clusters = sum(part.comparison.difference.num_clusters for part in parts)
    comparison = Comparison(
        a=A,
        b=B,
        metric=metric,
        difference=normal_estimate(value, questions, n, clusters),
        smallest_detectable=None if questions is None else 2.8 * questions,
        p_value=p_value,
    )
    if seeds is not None:
        comparison = with_seeds(comparison, value, questions, seeds)
    higher_is_better = parts[0].higher_is_better
    return MetricComparison(
        task=name,
        metric=metric,
        higher_is_better=higher_is_better,
        a=total([part.a for part in parts]) - (offset or 0.0),
        b=total([part.b for part in parts]) - (offset or 0.0),
        comparison=comparison,
        question_stderr=questions,
        verdict=verdict(comparison, higher_is_better, only_a == only_b == 0 and value == 0),
        only_a_right=only_a,
        only_b_right=only_b,
        seeds=seeds,
    )


def _covariances(parts: Sequence[MetricComparison], weights: np.ndarray) -> float | None:
    """Twice the sum of w_s w_t cov_st over pairs of tasks; None where no two ask the same questions."""
    total, is_any = 0.0, False
    for place, one in enumerate(parts):
        for other_place in range(place):
            other = parts[other_place]
            if one.task.split("@")[0] != other.task.split("@")[0]:
                continue
            both = one.influences.keys() & other.influences.keys()
            sizes = len(one.influences), len(other.influences)
            if not both or min(sizes) < 2:
                continue
            is_any = True
            products = math.fsum(one.influences[name] * other.influences[name] for name in both)
            factor = math.prod(math.sqrt(size / (size - 1)) for size in sizes)  # as in the errors of both
            total += 2 * float(weights[place] * weights[other_place]) * factor * products
    return total if is_any else None
