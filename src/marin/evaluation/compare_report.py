"""A comparison of two models as text, Markdown and JSON, and the step that writes the last two."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from marin.evaluation.compare import compare
from marin.evaluation.compare_read import read_run
from marin.evaluation.compare_types import Disagreement, EvaluationComparison, MetricComparison, TaskComparison
from marin.evaluation.config import CompareConfig
from marin.io.atomic import write_bytes

FORMAT_VERSION = "1.0"
COMPARISON_FILE, REPORT_FILE = "comparison.json", "comparison.md"

_CHARACTERS = 160
_COLUMNS = ("task", "metric", "n", "A", "B", "A - B", "p", "could see", "verdict")
_RIGHT = (2, 3, 4, 5, 6, 7)


def run(config: CompareConfig) -> Path:
    """Compare the evaluations of a config; writes comparison.json and comparison.md and returns the former's path.

    Raises ValueError for tasks that are not the same task on both sides: a page that silently lacks them would be read
    as a comparison of all. Leave them out by `tasks`.
    """
    sides = [
        [read_run(path, label) for path, label in zip(paths, labels, strict=True)]
        for paths, labels in (
            (config.a_paths, _labels(config.a_name, config.a_paths)),
            (config.b_paths, _labels(config.b_name, config.b_paths)),
        )
    ]
    found = compare(
        sides[0],
        sides[1],
        tasks=config.tasks,
        metrics=config.metrics,
        num_disagreements=config.num_disagreements,
    )
    if found.refused:
        raise ValueError("these are not the same tasks on both sides: " + "; ".join(refusals(found)))
    if not found.metrics:
        raise ValueError(f"nothing to compare: {'; '.join(notes(found)) or 'there are no scores'}")
    folder = Path(config.output_path)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / REPORT_FILE, markdown(found).encode("utf-8", "backslashreplace"))
    path = folder / COMPARISON_FILE
    content = {"format_version": FORMAT_VERSION, **to_json(found)}
    write_bytes(
        path,
        (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace"),
    )
    for line in summary(found):
        print(line, flush=True)
    print(f"comparison: {path}", flush=True)
    return path


def _labels(name: str, paths: Sequence[str]) -> list[str]:
    """Names of the runs of a side that do not depend on where they lie."""
    return [name] if len(paths) == 1 else [f"{name} {number}" for number in range(1, len(paths) + 1)]


def table_rows(found: EvaluationComparison) -> list[list[str]]:
    """A row a comparison, in the columns of `table_header`."""
    return [_row(metric) for each in (*found.tasks, *found.groups) for metric in each.metrics]


def table_header() -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names of the columns, and the indices of those that end at the right."""
    return _COLUMNS, _RIGHT


def _row(metric: MetricComparison) -> list[str]:
    difference = metric.comparison.difference
    smallest, p_value = metric.comparison.smallest_detectable, metric.comparison.p_value
    error = "" if difference.stderr is None else f" ± {_number(difference.stderr)}"
    return [
        metric.task,
        metric.metric,
        str(difference.n),
        _number(metric.a),
        _number(metric.b),
        f"{'+' if difference.value >= 0 else ''}{_number(difference.value)}{error}",
        "" if p_value is None else f"{p_value:.2g}",
        # answers that all agree do not show how far others would lie apart
        "" if not smallest else _number(smallest),
        metric.verdict,
    ]


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.4g}"


def summary(found: EvaluationComparison) -> list[str]:
    """How much of what was seen chance alone would show."""
    seen = sum(metric.seen for metric in found.metrics)
    count, expected = found.num_tested, found.expected_by_chance
    if not count:
        return []
    comparisons = f"{count} comparison{'s' * (count != 1)}"
    by_chance = f"about {expected:.1f} of them would differ by chance" if count > 1 else "it would by chance in 1 of 22"
    return [f"{comparisons}: {seen} differ{'s' * (seen == 1)}. If A and B were equally good, {by_chance}."]


def refusals(found: EvaluationComparison) -> list[str]:
    """A line a task that was refused."""
    return [f"{task}: {reason}" for task, reason in found.refused.items()]


def notes(found: EvaluationComparison) -> list[str]:
    """What else a reader must know: what was left out, and how seeds lie."""
    lines = []
    for side, missing in (("A", found.missing_in_a), ("B", found.missing_in_b)):
        if missing:
            lines.append(f"not in {side}: {', '.join(missing)}")
    for task in found.tasks:
        unpaired = [
            f"{count} {what}"
            for count, what in (
                (task.num_only_a, "in A alone"),
                (task.num_only_b, "in B alone"),
                (task.num_partly, "not in every run"),
            )
            if count
        ]
        if unpaired:
            lines.append(f"{task.task}: {task.num_paired} questions are paired, {', '.join(unpaired)} left out")
        lines += [f"{task.task}: {note}" for note in task.notes]
        lines += [f"{task.task}: {metric} is not compared: {why}" for metric, why in task.not_compared.items()]
        lines += [_seeds(metric) for metric in task.metrics if metric.seeds is not None]
    lines += [f"{group} is not compared: {why}" for group, why in found.groups_not_compared.items()]
    lines += [_seeds(metric) for group in found.groups for metric in group.metrics if metric.seeds is not None]
    if found.metrics and len(found.a) == len(found.b) == 1:
        lines.append("one run a side: the errors are of the questions, and say nothing of other seeds")
    return lines


def _seeds(metric: MetricComparison) -> str:
    seeds = metric.seeds
    assert seeds is not None
    sides = ", ".join(
        f"{side} {' '.join(f'{value:.4f}' for value in values)}"
        for side, values in (("A", seeds.scores_a), ("B", seeds.scores_b))
    )
    questions = "unknown" if metric.question_stderr is None else f"{metric.question_stderr:.4f}"
    return (
        f"{metric.task} {metric.metric}: seeds {sides}; sd between seeds {seeds.sd:.4f}; error of the difference: "
        f"questions {questions}, seeds {seeds.stderr:.4f}"
    )


def disagreement_lines(found: EvaluationComparison) -> list[str]:
    """The questions that one side did better on, for people."""
    lines: list[str] = []
    heading = None
    for each in found.disagreements:
        if heading != (each.task, each.metric, each.better):
            heading = (each.task, each.metric, each.better)
            lines.append(f"{each.task} {each.metric}: {each.better} did better on")
        lines += _disagreement(each)
    return lines


def _disagreement(each: Disagreement) -> list[str]:
    a, b = each.rows
    question = a.get("query", a.get("prompt", ""))
    lines = [f"  {each.doc_id}  A {each.a:.4g}  B {each.b:.4g}" + (f"  {_end(question)}" if question else "")]
    wanted = _wanted(a)
    if wanted is not None:
        lines.append(f"      target  {_start(wanted)}")
    for side, row in (("A", a), ("B", b)):
        answer = _answer(row, each.metric)
        if answer is not None:
            lines.append(f"      {side}       {_start(answer)}")
    return lines


def _wanted(row: Mapping[str, Any]) -> str | None:
    target, choices = row.get("target"), row.get("choices")
    if (
        isinstance(choices, list)
        and isinstance(target, int)
        and not isinstance(target, bool)
        and 0 <= target < len(choices)
    ):
        return str(choices[target])
    return None if target is None else str(target)


def _answer(row: Mapping[str, Any], metric: str) -> str | None:
    """What the model chose or wrote, where the row tells it for this metric."""
    for field in ("filtered_resps", "resps", "completion"):
        value = row.get(field)
        if isinstance(value, Mapping):  # by filter, which the metric names, or by system
            value = value.get(metric.partition(",")[2] or "model")
        while isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, str):
            return value
    log_probs, choices = row.get("log_probs"), row.get("choices")
    if isinstance(log_probs, Mapping):
        log_probs = log_probs.get("model")
    # the other metrics weigh the choices otherwise, and their rows do not say which one won
    if metric == "acc" and isinstance(log_probs, list) and isinstance(choices, list) and len(log_probs) == len(choices):
        return str(choices[max(range(len(log_probs)), key=log_probs.__getitem__)])
    return None


def _start(text: object) -> str:
    flat = " ".join(str(text).split())
    return flat if len(flat) <= _CHARACTERS else flat[:_CHARACTERS] + "…"


def _end(text: object) -> str:
    flat = " ".join(str(text).split())
    return flat if len(flat) <= _CHARACTERS else "…" + flat[-_CHARACTERS:]


def markdown(found: EvaluationComparison) -> str:
    """The whole comparison as a page."""
    lines = [f"# {' and '.join(found.a)} (A) against {' and '.join(found.b)} (B)", ""]
    lines += [
        f"| {' | '.join(_COLUMNS)} |",
        f"|{'|'.join('---:' if i in _RIGHT else '---' for i in range(len(_COLUMNS)))}|",
    ]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table_rows(found)]
    lines += ["", *summary(found), ""]
    lines += [f"- {note}" for note in [*notes(found), *(f"refused: {line}" for line in refusals(found))]]
    listed = disagreement_lines(found)
    if listed:
        lines += ["", "## Disagreements", "", "```", *(line.replace("```", "'''") for line in listed), "```"]
    return "\n".join(lines) + "\n"


def to_json(found: EvaluationComparison) -> dict[str, Any]:
    """Plain values of everything in a comparison."""
    return {
        "a": list(found.a),
        "b": list(found.b),
        "tasks": [_task_json(task) for task in found.tasks],
        "groups": [
            {"group": g.group, "tasks": list(g.tasks), "metrics": {m.metric: _metric_json(m) for m in g.metrics}}
            for g in found.groups
        ],
        "groups_not_compared": dict(found.groups_not_compared),
        "refused": dict(found.refused),
        "missing_in_a": list(found.missing_in_a),
        "missing_in_b": list(found.missing_in_b),
        "num_comparisons": found.num_tested,
        "num_seen": sum(metric.seen for metric in found.metrics),
        "expected_by_chance": found.expected_by_chance,
        "disagreements": [asdict(each) | {"rows": [dict(row) for row in each.rows]} for each in found.disagreements],
    }


def _task_json(task: TaskComparison) -> dict[str, Any]:
    return {
        "task": task.task,
        "version": task.version,
        "num_fewshot": task.num_fewshot,
        "prompt_hash": task.prompt_hash,
        "num_paired": task.num_paired,
        "num_only_a": task.num_only_a,
        "num_only_b": task.num_only_b,
        "num_partly": task.num_partly,
        "metrics": {metric.metric: _metric_json(metric) for metric in task.metrics},
        "not_compared": dict(task.not_compared),
        "notes": list(task.notes),
    }


def _metric_json(metric: MetricComparison) -> dict[str, Any]:
    difference = metric.comparison.difference
    return {
        "a": metric.a,
        "b": metric.b,
        "difference": difference.value,
        "stderr": difference.stderr,
        "question_stderr": metric.question_stderr,
        "ci95": None if difference.ci95 is None else list(difference.ci95),
        "n": difference.n,
        "num_clusters": difference.num_clusters,
        "higher_is_better": metric.higher_is_better,
        "smallest_detectable": metric.comparison.smallest_detectable or None,
        "p_value": metric.comparison.p_value,
        "only_a_right": metric.only_a_right,
        "only_b_right": metric.only_b_right,
        "seen": metric.seen,
        "verdict": metric.verdict,
        "seeds": None if metric.seeds is None else asdict(metric.seeds),
    }
