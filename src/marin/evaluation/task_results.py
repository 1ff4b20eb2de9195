"""From the answers to the tasks of an evaluation to its scores: of each task, of groups, and the CORE average."""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from marin.evaluation.results import TaskResult, format_score, metric_entry
from marin.evaluation.statistics import Estimate
from marin.evaluation.task_answers import Answered
from marin.evaluation.task_plan import PlannedTask, PlannedTasks
from marin.evaluation.tasks.lists import DCLM_CORE_TASKS
from marin.evaluation.tasks.plan import Asked, AskedGroup
from marin.evaluation.tasks.scores import (
    LOWER_IS_BETTER,
    core_score,
    estimate,
    is_proportion,
    metrics_of,
    pooled,
    task_correlation,
)

Samples = Mapping[str, Sequence[Mapping[str, Any]]]
"""Key of a task -> its rows of samples.jsonl."""

_TOLD_ALONE = 3
"""Tasks of one data set that are skipped, up to which each has a line of its own."""


def task_result(planned: PlannedTask, answered: Answered, *, seed: int) -> TaskResult:
    """The scores of a task. `seed` is what drew its solved examples."""
    definition, samples = planned.task.definition, answered.samples
    names = metrics_of(definition, samples)
    entries = {
        name: metric_entry(estimate(name, samples), higher_is_better=name not in LOWER_IS_BETTER) for name in names
    }
    notes = [*planned.notes, *answered.notes]
    if len(samples) < planned.num_rows:
        notes.insert(0, f"the first {len(samples)} of {planned.num_rows} questions")
    chances = [1 / len(row["choices"]) for row in samples] if definition.kind == "multiple_choice" else []
    groups = {row["group"] for row in samples} - {""}
    is_drawn = planned.task.num_fewshot > 0 and definition.shots.sampler == "random"
    return TaskResult(
        **planned.identity(),
        chance=sum(chances) / len(chances) if chances and "mc2" not in definition.metrics else None,
        metrics=entries,
        counts={**answered.counts, **({"num_groups": len(groups)} if groups else {})},
        notes=notes,
        about={
            "task": definition.name,
            "n_all": planned.num_rows,
            "primary_metric": names[0],
            "files": list(planned.files),
            "source": definition.source.repository,
            "licence": definition.source.licence,
            "result_hash": planned.result_hash,
        }
        | ({"fewshot_seed": seed} if is_drawn else {}),
    )


def group_scores(
    groups: Sequence[AskedGroup], results: Mapping[str, TaskResult], samples: Samples
) -> dict[str, dict[str, Any]]:
    """Key of each group of which a task has scores -> its scores, and which of its tasks are missing."""
    scores: dict[str, dict[str, Any]] = {}
    for group in groups:
        members = [key for key in group.members if key in results]
        if not members:
            continue
        common = [name for name in results[members[0]].metrics if all(name in results[key].metrics for key in members)]
        scores[group.key] = {
            "group": group.name,
            "num_fewshot": group.num_fewshot,
            "n": sum(results[key].n for key in members),
            "n_all": sum(results[key].about["n_all"] for key in members),
            "tasks": members,
            "missing": [key for key in group.members if key not in results],
            "chance": _pooled_chance([results[key] for key in members]),
            "metrics": {
                name: metric_entry(
                    pooled([estimate(name, samples[key]) for key in members], is_proportion=is_proportion(name)),
                    higher_is_better=name not in LOWER_IS_BETTER,
                )
                for name in common
            },
        }
    return scores


def _pooled_chance(results: Sequence[TaskResult]) -> float | None:
    """What guessing scores over the questions of all tasks; None where one of them has no such thing."""
    if any(result.chance is None for result in results):
        return None
    return sum(result.n * (result.chance or 0.0) for result in results) / sum(result.n for result in results)


def core_average(plan: PlannedTasks, samples: Samples) -> dict[str, Any] | None:
    """The average over the asked tasks that DataComp-LM's has, at its numbers of examples, and over tasks of one's own.

    A task of one's own counts once, at the number of examples that it is asked with first. None where no task counts.
    """
    of_core = {(config.name, config.num_fewshot) for config in DCLM_CORE_TASKS}
    own = plan.own - {name for name, _ in of_core}
    first_shots = {task.definition.name: task.num_fewshot for task in reversed(plan.asked)}
    counted = [
        task
        for task in plan.asked
        if (task.definition.name, task.num_fewshot) in of_core
        or (task.definition.name in own and task.num_fewshot == first_shots[task.definition.name])
    ]
    scored = [task for task in counted if task.key in samples and task.definition.kind != "generation"]
    scores: dict[str, tuple[Estimate, float]] = {}
    for task in scored:
        rows, metric = samples[task.key], _core_metric(task)
        guessing = sum(1 / len(row["choices"]) for row in rows) / len(rows) if metric == "acc_per_token" else 0.0
        baseline = plan.tasks[task.key].core_baseline
        scores[task.key] = estimate(metric, rows), guessing if baseline is None else baseline
    if not scores:
        return None
    correlations = {
        (one.key, other.key): task_correlation(_core_metric(one), samples[one.key], samples[other.key])
        for one, other in itertools.combinations(scored, 2)
        if one.definition.name == other.definition.name
    }
    average, centred = core_score(scores, correlations)
    return {
        "name": f"CORE-{len(centred)}",
        "group": "core",
        "n": average.n,
        "tasks": list(centred),
        "missing": [task.key for task in counted if task.key not in scores],
        "not_counted": [task.key for task in plan.asked if task not in counted],
        "metrics": {"centred": metric_entry(average, higher_is_better=True)},
        "centred": centred,
    }


def _core_metric(task: Asked) -> str:
    return "acc_per_token" if task.definition.kind == "multiple_choice" else "acc"


# --- In words


def task_line(key: str, result: TaskResult) -> str:
    """A task's first score, and what its reader must know."""
    metric = result.about["primary_metric"]
    entry = result.metrics[metric]
    words = [f"{key}: {format_score(entry['value'], entry['stderr'], entry['n'])} {metric}"]
    if entry["interval"] == "wilson":  # the error says little of so few right or wrong answers
        words.append("95% interval {:.3f} to {:.3f}".format(*entry["ci95"]))
    if result.n < result.about["n_all"]:
        words.append(f"of {result.about['n_all']} questions")
    if result.chance is not None:
        words.append(f"chance {result.chance:.4f}")
    if result.counts.get("num_truncated"):
        words.append(f"{result.counts['num_truncated']} prompts cut on the left")
    return ", ".join(words)


def group_line(key: str, group: Mapping[str, Any]) -> str:
    """A group's first score."""
    metric, entry = next(iter(group["metrics"].items()))
    missing = f", {len(group['missing'])} tasks missing" if group["missing"] else ""
    score = format_score(entry["value"], entry["stderr"], entry["n"])
    interval = "" if entry["interval"] in ("normal", None) else ", 95% interval {:.3f} to {:.3f}".format(*entry["ci95"])
    return f"{key}: {score} {metric} over {len(group['tasks'])} tasks{interval}{missing}"


def skipped_lines(skipped: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which tasks were skipped, why, and the commands that fetch their data; nothing where there are none.

    Many tasks whose data come from one place, as those of mmlu, are one line and one command.
    """
    if not skipped:
        return []
    lines = [f"{len(skipped)} task{'s were' if len(skipped) > 1 else ' was'} skipped:"]
    commands: list[str] = []
    together: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for task in skipped:
        together.setdefault(_place_of(task), []).append(task)
    for tasks in together.values():
        if len(tasks) > _TOLD_ALONE:
            lines.append(f"  {tasks[0]['task']} and {len(tasks) - 1} more of the same data: {tasks[0]['reason']}")
        else:
            lines += [f"  {task['task']}: {task['reason']}" for task in tasks]
        commands += _fetching([task["fetch"] for task in tasks if task["fetch"]])
    return lines + [f"  to fetch: {command}" for command in dict.fromkeys(commands)]


def _place_of(task: Mapping[str, Any]) -> tuple[str, ...]:
    """What the tasks of one data set have in common: their command without the files; else the task itself."""
    words = shlex.split(task["fetch"] or "")
    return tuple(words[: words.index("--files")]) if "--files" in words else (task["task"],)


def _fetching(commands: Sequence[str]) -> list[str]:
    """Commands for one place as one, where there are many: of all its files that are named alike."""
    if len(commands) <= _TOLD_ALONE:
        return list(commands)
    words = [shlex.split(command) for command in commands]
    start, end = words[0].index("--files") + 1, words[0].index("--out")
    patterns = (pattern for each in words for pattern in each[each.index("--files") + 1 : each.index("--out")])
    alike = dict.fromkeys(f"*/{pattern.partition('/')[2]}" if "/" in pattern else pattern for pattern in patterns)
    return [shlex.join([*words[0][:start], *alike, *words[0][end:]])]
