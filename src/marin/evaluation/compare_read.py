"""The rows behind the scores of an evaluation, question by question, as a paired comparison needs them.

A score of results.json is compared only where it can be computed again from the rows of samples.jsonl. So a file that
was cut, rows of another run, and a metric that is no mean of its questions are found here, and not taken for a
difference between models. The price: a metric of a new form has to be told here how it follows from its rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from marin.evaluation.results import read_results, read_samples
from marin.evaluation.tasks.scores import SHARES

Form = Literal["mean", "ratio", "perplexity"]
"""How a score follows from its rows: mean(x), sum(x) / sum(weight), exp(-mean(x))."""

# Metric -> (field of the numerator, its unit in the metric's, field of the denominator), for ratios of sums.
_RATIOS = {
    "bits_per_byte": ("bits", 1.0, "num_bytes"),
    "nats_per_token": ("nats", 1.0, "num_tokens"),
    "loss": ("bits", math.log(2), "num_tokens"),
    **{metric: (right, 1.0, parts) for metric, (right, parts) in SHARES.items()},
}
# Metric -> field of its rows, where that has another name.
_FIELDS = {"stop_rate": "stopped", "perplexity": "log_likelihood"}
_SYSTEM = "model"  # of rows that hold the values of several systems, the one that was evaluated
_CLOSE = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredRun:
    """What one evaluation left behind."""

    label: str
    """How it is called in messages."""
    results: Mapping[str, Any]
    """results.json."""
    rows: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """Task -> doc_id -> row of samples.jsonl, in the order of the file."""

    @property
    def tasks(self) -> Mapping[str, Mapping[str, Any]]:
        """Task -> entry of results.json, of the tasks that have rows. Baselines share the rows of their task."""
        return {name: entry for name, entry in self.results["tasks"].items() if name in self.rows}

    @property
    def groups(self) -> Mapping[str, Mapping[str, Any]]:
        """Group or average over tasks -> entry of results.json."""
        return self.results.get("groups", {})


@dataclass(frozen=True, kw_only=True, eq=False)
class MetricRows:
    """What each question adds to one score of one run."""

    form: Form
    values: Mapping[str, float]
    """doc_id -> x."""
    weights: Mapping[str, float] | None = None
    """doc_id -> denominator, of a ratio."""
    is_binary: bool = False
    """Whether every x is right or wrong, so that McNemar's test applies."""


class NotPairedError(ValueError):
    """A score that does not follow from its rows in a way that is known here."""


def read_run(path: str | Path, label: str | None = None) -> ScoredRun:
    """The evaluation in a folder with results.json and samples.jsonl, or of such a results.json.

    Raises FileNotFoundError where one of them is missing, and ValueError, with the place, for files that are no such
    files, do not belong together, or name a question twice.
    """
    path = Path(path)
    results = read_results(path)
    tasks, declared = results.get("tasks"), results.get("num_samples")
    if not isinstance(tasks, Mapping):
        raise ValueError(f"{path}: results.json has no tasks; expected what `marin eval` or an evaluation step writes")
    samples = read_samples(path)
    if declared is not None and declared != len(samples):
        raise ValueError(
            f"{path}: results.json tells of {declared} rows and samples.jsonl has {len(samples)}: it was cut, or is of "
            "another run. Evaluate again"
        )
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for number, row in enumerate(samples, start=1):
        if not isinstance(row, Mapping) or "task" not in row or "doc_id" not in row:
            raise ValueError(
                f"{path}: samples.jsonl, row {number}: expected an object with task and doc_id, got {row!r:.120}"
            )
        of_task, doc_id = rows.setdefault(str(row["task"]), {}), str(row["doc_id"])
        if doc_id in of_task:
            raise ValueError(
                f"{path}: samples.jsonl, row {number}: task '{row['task']}' has doc_id {doc_id!r} twice, so its "
                "questions cannot be paired"
            )
        of_task[doc_id] = row
    return ScoredRun(label=label or str(path), results=results, rows=rows)


def metric_rows(run: ScoredRun, task: str, metric: str) -> MetricRows:
    """What each question of a task adds to a metric.

    Raises NotPairedError where no known form gives the value in results.json back, which says why.
    """
    rows = run.rows[task]
    value = run.tasks[task]["metrics"][metric]["value"]
    found = None
    if metric in _RATIOS:
        numerator, unit, denominator = _RATIOS[metric]
        found = _numbers(rows, numerator, unit), _numbers(rows, denominator)
    if found is not None and found[0] is not None and found[1] is not None:
        candidates = [MetricRows(form="ratio", values=found[0], weights=found[1])]
    else:
        values = _numbers(rows, metric)
        if values is None and metric in _FIELDS:
            values = _numbers(rows, _FIELDS[metric])
        if values is None:
            raise NotPairedError(f"the rows of samples.jsonl have no number '{metric}' for every question")
        is_binary = all(x in (0.0, 1.0) for x in values.values())
        candidates = [
            MetricRows(form="mean", values=values, is_binary=is_binary),
            MetricRows(form="perplexity", values=values),
        ]
    for candidate in candidates:
        again = score(candidate, list(rows))
        if math.isfinite(again) and value is not None and abs(again - value) <= _CLOSE * max(1.0, abs(value)):
            return candidate
    again = f"{candidates[0].form} {score(candidates[0], list(rows)):.6g}"
    raise NotPairedError(f"{value} in results.json is not what its rows give ({again})")


def score(rows: MetricRows, doc_ids: Sequence[str]) -> float:
    """The score over these questions."""
    values = arrays(rows, doc_ids)
    if rows.form == "ratio":
        return float(values.sum() / arrays(rows, doc_ids, weights=True).sum())
    mean = float(values.mean())
    if rows.form == "mean":
        return mean
    return math.exp(-mean) if -mean < 700 else math.inf


def arrays(rows: MetricRows, doc_ids: Sequence[str], *, weights: bool = False) -> np.ndarray:
    """float64 (questions,): the values of these questions, or their weights."""
    source = rows.weights if weights else rows.values
    assert source is not None, "only a ratio has weights"
    return np.array([source[doc_id] for doc_id in doc_ids], np.float64)


def _numbers(rows: Mapping[str, Mapping[str, Any]], field: str, unit: float = 1.0) -> dict[str, float] | None:
    """The field of every row as a number, times unit; None where a row has none."""
    found = {}
    for doc_id, row in rows.items():
        value = row.get(field)
        if isinstance(value, Mapping):
            value = value.get(_SYSTEM)
        if not isinstance(value, bool | int | float):
            return None
        found[doc_id] = float(value) * unit
    return found
