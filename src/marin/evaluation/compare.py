"""Compare two models on the same questions: paired differences, and what the data could have shown.

Two scores with overlapping intervals may differ beyond doubt, since most of both errors is which questions were asked,
and both models were asked the same. So everything here is paired by (task, doc_id), and tasks that are not the same
task (another prompt, version or number of shots) are refused instead of compared. A difference counts as seen from two
paired standard errors on, and where answers are right or wrong McNemar's exact test must agree; all else is "no
difference seen", beside the smallest difference that so many questions would have shown.

Several runs on a side are seeds of one recipe. Their questions are averaged, and how far seeds lie apart is a second
error beside the sampling of questions, with one spread assumed for both sides:

    SE^2 = SE_questions^2 + s^2 (1/k_A + 1/k_B),   s^2 = (sum_A (x - mean_A)^2 + sum_B (x - mean_B)^2) / (k_A + k_B - 2)

Answers of few seeds carry some of that spread in SE_questions already, so the sum is on the cautious side. s is itself
known from few runs, so in all that is made of SE its part counts by Student's t with k_A + k_B - 2 degrees of freedom:

    half of the 95% interval = sqrt((1.96 SE_questions)^2 + (t_0.975 s)^2 (1/k_A + 1/k_B))

and likewise the two standard errors (t with the same probability beyond it, 0.0455) and the smallest difference that
would be seen (t_0.975 + t_0.8 for 2.8). One t for both parts, with Satterthwaite's degrees of freedom, takes two lucky
runs for a small spread: at two runs against one it calls up to 12% of equal recipes different, this under 5%.
"""

import difflib
import fnmatch
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from marin.evaluation.compare_groups import compare_groups
from marin.evaluation.compare_read import MetricRows, NotPairedError, ScoredRun, arrays, metric_rows, read_run, score
from marin.evaluation.compare_types import (
    ALL,
    A,
    B,
    Disagreement,
    EvaluationComparison,
    MetricComparison,
    TaskComparison,
    seed_spread,
    verdict,
    with_seeds,
)
from marin.evaluation.statistics import (
    compare_answers,
    compare_means,
    compare_perplexities,
    compare_ratios,
)

__all__ = ["compare", "read_run"]

_SAME_TASK = ("version", "num_fewshot", "prompt_hash")
_FEW_UNITS = 20


def compare(
    a: Sequence[ScoredRun],
    b: Sequence[ScoredRun],
    *,
    tasks: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    num_disagreements: int = 0,
) -> EvaluationComparison:
    """A against B on every task that all their runs have; several runs on a side are seeds of one recipe.

    tasks are names, names of groups, or patterns such as `mmlu_*`; a name without shots takes the task at all of its
    shots; None takes all. metrics=None takes of each task the metric that it is known by (`primary_metric` in
    results.json), or all where the results name none; "all" among them takes all. num_disagreements questions are
    listed for each task in each direction, those with the largest difference in the first metric first.

    Raises ValueError for a side without runs, and for tasks or metrics that neither side has.
    """
    if not a or not b:
        raise ValueError(f"A has {len(a)} runs and B {len(b)}: a comparison takes at least one of each")
    if num_disagreements < 0:
        raise ValueError(f"num_disagreements is {num_disagreements}; expected 0 (list none) or more")
    runs = [*a, *b]
    names = _chosen(runs, tasks)
    _check_metrics(runs, names, metrics)
    compared, refused, missing_in_a, missing_in_b = [], {}, [], []
    disagreements: list[Disagreement] = []
    for name in names:
        in_a, in_b = (all(name in run.tasks for run in side) for side in (a, b))
        if not (in_a and in_b):
            missing_in_a += [] if in_a else [name]
            missing_in_b += [] if in_b else [name]
            continue
        reason = _not_the_same(runs, name)
        if reason is not None:
            refused[name] = reason
            continue
        task, listed = _compare_task(a, b, name, metrics, num_disagreements)
        compared.append(task)
        disagreements += listed
    groups, groups_not_compared = compare_groups(runs, compared, metrics)
    if tasks is not None:  # a group that was not asked for lacks tasks that were not asked for either
        groups_not_compared = {group: why for group, why in groups_not_compared.items() if group in tasks}
    compared = [_only_wanted(task, _wanted(a[0].tasks[task.task], metrics)) for task in compared]
    return EvaluationComparison(
        a=tuple(run.label for run in a),
        b=tuple(run.label for run in b),
        tasks=tuple(compared),
        groups=tuple(groups),
        groups_not_compared=groups_not_compared,
        refused=refused,
        missing_in_a=tuple(missing_in_a),
        missing_in_b=tuple(missing_in_b),
        disagreements=tuple(disagreements),
    )


def _chosen(runs: Sequence[ScoredRun], wanted: Sequence[str] | None) -> list[str]:
    """Names of the tasks to compare, in the order of the first run that has each."""
    known = list(dict.fromkeys(name for run in runs for name in run.tasks))
    if wanted is None:
        return known
    groups = {name: entry["tasks"] for run in runs for name, entry in run.groups.items()}
    chosen: list[str] = []
    for pattern in wanted:
        found = [name for name in known if fnmatch.fnmatchcase(name, pattern) or name.split("@")[0] == pattern]
        found += [task for name, members in groups.items() if name == pattern for task in members]
        if not found:
            near = difflib.get_close_matches(pattern, [*known, *groups], n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known) or 'none'}"
            raise ValueError(f"no task {pattern!r} with rows in any of {', '.join(run.label for run in runs)}; {hint}")
        chosen += found
    return [name for name in known if name in chosen]


def _check_metrics(runs: Sequence[ScoredRun], names: Sequence[str], wanted: Sequence[str] | None) -> None:
    entries = [run.tasks[name] for run in runs for name in names if name in run.tasks]
    entries += [group for run in runs for group in run.groups.values()]
    known = dict.fromkeys(metric for entry in entries for metric in entry["metrics"])
    for metric in wanted or ():
        if metric not in known and metric != ALL:
            near = difflib.get_close_matches(metric, list(known), n=3) or list(known)
            raise ValueError(f"no metric {metric!r} in the tasks that are compared; there are {', '.join(near)}")


def _not_the_same(runs: Sequence[ScoredRun], name: str) -> str | None:
    """In what the runs answered different tasks under one name; None: they answered the same."""
    first, reasons = runs[0], []
    for run in runs[1:]:
        ours, theirs = first.tasks[name], run.tasks[name]
        for field in _SAME_TASK:
            one, other = ours.get(field), theirs.get(field)
            if one != other:
                reasons.append(f"{field} is {_short(one)} in {first.label} and {_short(other)} in {run.label}")
        if not reasons:
            reasons += _other_questions(first, run, name)
        if reasons:
            one, other = ours.get("n"), theirs.get("n")
            hint = f" ({one} and {other} questions: was one asked with another limit?)" if one != other else ""
            return "; ".join(reasons) + hint
    return None


def _other_questions(first: ScoredRun, run: ScoredRun, name: str) -> list[str]:
    """Whether rows of one doc_id ask, or want, something else: hashes of prompts that were made up would hide it."""
    ours, theirs = first.rows[name], run.rows[name]
    for field in ("target", "choices", "query", "prompt", "prefix_hash"):
        differing = [
            doc_id
            for doc_id, row in ours.items()
            if doc_id in theirs and field in row and field in theirs[doc_id] and row[field] != theirs[doc_id][field]
        ]
        if differing:
            where = f"in {len(differing)} rows, first {differing[0]!r}"
            return [f"{field} differs between {first.label} and {run.label} {where}"]
    return []


def _short(value: Any) -> str:
    return f"{value[:12]}" if isinstance(value, str) and len(value) > 12 else str(value)


def _compare_task(
    a: Sequence[ScoredRun], b: Sequence[ScoredRun], name: str, wanted: Sequence[str] | None, num_disagreements: int
) -> tuple[TaskComparison, list[Disagreement]]:
    runs = [*a, *b]
    paired = [doc_id for doc_id in a[0].rows[name] if all(doc_id in run.rows[name] for run in runs)]
    of_a, of_b = ({doc_id for run in side for doc_id in run.rows[name]} for side in (a, b))
    entry = a[0].tasks[name]
    groups = _groups(a[0].rows[name], paired)
    notes = [] if paired else ["no question was answered by both sides"]
    num_units = len(paired) if groups is None else len(set(groups))
    if paired and num_units < _FEW_UNITS:
        unit = "questions" if groups is None else "groups of questions"
        notes.append(f"{num_units} {unit} only, for which the errors are too small")
    done: list[MetricComparison] = []
    not_compared: dict[str, str] = {}
    disagreements: list[Disagreement] = []
    for metric in entry["metrics"] if paired else ():
        try:
            sides = _rows_of(a, name, metric), _rows_of(b, name, metric)
            compared = _compare_metric(sides, entry, name, metric, paired, groups)
        except NotPairedError as error:
            not_compared[metric] = str(error)
            continue
        if num_disagreements and not disagreements and metric in _wanted(entry, wanted):
            disagreements = _disagreements(sides, compared, paired, num_disagreements, (a[0], b[0]))
        done.append(compared)
    task = TaskComparison(
        task=name,
        version=entry["version"],
        num_fewshot=entry["num_fewshot"],
        prompt_hash=entry["prompt_hash"],
        num_paired=len(paired),
        num_only_a=len(of_a - of_b),
        num_only_b=len(of_b - of_a),
        num_partly=len(of_a & of_b) - len(paired),
        metrics=tuple(done),
        not_compared=not_compared,
        notes=tuple(notes),
    )
    return task, disagreements


def _wanted(entry: Mapping[str, Any], metrics: Sequence[str] | None) -> set[str]:
    """The metrics to show of a task."""
    primary = entry.get("primary_metric")
    if metrics is None and isinstance(primary, str) and primary in entry["metrics"]:
        return {primary}
    return set(entry["metrics"]) if metrics is None or ALL in metrics else set(metrics)


def _only_wanted(task: TaskComparison, wanted: set[str]) -> TaskComparison:
    """The rest was computed for averages over tasks, which are made of other metrics than tasks are known by."""
    return replace(
        task,
        metrics=tuple(metric for metric in task.metrics if metric.metric in wanted),
        not_compared={metric: why for metric, why in task.not_compared.items() if metric in wanted},
    )


def _groups(rows: Mapping[str, Mapping[str, Any]], doc_ids: Sequence[str]) -> list[Hashable] | None:
    """The cluster of each question; None where each is its own."""
    names = [rows[doc_id].get("group") for doc_id in doc_ids]
    if not any(names):
        return None
    return [("group", name) if name else ("question", doc_id) for name, doc_id in zip(names, doc_ids, strict=True)]


def _rows_of(side: Sequence[ScoredRun], task: str, metric: str) -> list[MetricRows]:
    found = []
    for run in side:
        if metric not in run.tasks[task]["metrics"]:
            raise NotPairedError(f"{run.label} does not have it")
        try:
            found.append(metric_rows(run, task, metric))
        except NotPairedError as error:
            raise NotPairedError(f"{run.label}: {error}") from error
    return found


def _compare_metric(
    sides: tuple[list[MetricRows], list[MetricRows]],
    entry: Mapping[str, Any],
    task: str,
    metric: str,
    paired: Sequence[str],
    groups: Sequence[Hashable] | None,
) -> MetricComparison:
    runs = [rows for side in sides for rows in side]
    # a perplexity of one token each is the mean of nothing else, so forms differ only where something is wrong
    if len({rows.form for rows in runs}) > 1:
        raise NotPairedError(f"it is a {' and a '.join(sorted({rows.form for rows in runs}))}")
    form = runs[0].form
    x, y = (np.mean([arrays(rows, paired) for rows in side], axis=0) for side in sides)
    is_binary = all(rows.is_binary for rows in runs) and len(runs) == 2
    only_a = only_b = weights = None
    if form == "ratio":
        weights = [arrays(rows, paired, weights=True) for rows in runs]
        if any(not np.array_equal(weights[0], other) for other in weights[1:]):
            raise NotPairedError("the two count different units: their tokenizers differ. Compare bits per byte")
        weights = weights[0]
        compared = compare_ratios((A, x), (B, y), weights, metric, groups)
    elif form == "perplexity":
        compared = compare_perplexities((A, x), (B, y), metric, groups)
    elif is_binary:
        compared = compare_answers((A, x), (B, y), metric, groups)
        only_a, only_b = int(np.sum(x > y)), int(np.sum(y > x))
    else:
        compared = compare_means((A, x), (B, y), metric, groups)
    scores = tuple(tuple(score(rows, paired) for rows in side) for side in sides)
    question_stderr = compared.difference.stderr
    seeds = None
    if len(runs) > 2:
        seeds = seed_spread(scores[0], scores[1])
        # of perplexities the mean over seeds of the log-probability is not the mean of the scores
        value = float(np.mean(scores[0]) - np.mean(scores[1]))
        compared = with_seeds(compared, value, question_stderr, seeds)
    higher_is_better = bool(entry["metrics"][metric].get("higher_is_better", True))
    return MetricComparison(
        task=task,
        metric=metric,
        higher_is_better=higher_is_better,
        a=float(np.mean(scores[0])),
        b=float(np.mean(scores[1])),
        comparison=compared,
        question_stderr=question_stderr,
        verdict=verdict(compared, higher_is_better, bool(np.array_equal(x, y))),
        only_a_right=only_a,
        only_b_right=only_b,
        seeds=seeds,
        weight=float(len(paired) if weights is None else weights.sum()),
        influences=_influences(form, x, y, weights, groups or [("question", doc_id) for doc_id in paired]),
    )


def _influences(
    form: str, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, clusters: Sequence[Hashable]
) -> dict[Hashable, float]:
    """Cluster -> what its questions move the difference by, whose squares make its standard error."""
    if weights is not None:
        moves = (x - y - weights * (x - y).sum() / weights.sum()) / weights.sum()
    elif form == "perplexity":
        p, q = math.exp(-x.mean()), math.exp(-y.mean())
        moves = (q * (y - y.mean()) - p * (x - x.mean())) / len(x)
    else:
        moves = (x - y - (x - y).mean()) / len(x)
    summed: dict[Hashable, float] = {}
    for cluster, move in zip(clusters, moves.tolist(), strict=True):
        summed[cluster] = summed.get(cluster, 0.0) + move
    return summed


def _disagreements(
    sides: tuple[list[MetricRows], list[MetricRows]],
    compared: MetricComparison,
    paired: Sequence[str],
    count: int,
    first: tuple[ScoredRun, ScoredRun],
) -> list[Disagreement]:
    """`count` questions in each direction, the largest differences first, equal ones in the order of the file."""
    x, y = (np.mean([arrays(rows, paired) for rows in side], axis=0) for side in sides)
    # a perplexity's values are log-probabilities, of which more is better
    gain = x - y if compared.higher_is_better or sides[0][0].form == "perplexity" else y - x
    found = []
    for better, sign in ((A, 1.0), (B, -1.0)):
        order = np.argsort(-sign * gain, kind="stable")
        for index in [int(i) for i in order if sign * gain[i] > 0][:count]:
            doc_id = paired[index]
            found.append(
                Disagreement(
                    task=compared.task,
                    metric=compared.metric,
                    doc_id=doc_id,
                    better=better,
                    a=float(x[index]),
                    b=float(y[index]),
                    rows=(first[0].rows[compared.task][doc_id], first[1].rows[compared.task][doc_id]),
                )
            )
    return found
