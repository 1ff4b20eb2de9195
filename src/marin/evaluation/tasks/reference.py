"""The page docs/reference/tasks.md, made from the definitions themselves.

`python -m marin.evaluation.tasks.reference > docs/reference/tasks.md`
"""

from collections.abc import Iterable

from marin.evaluation.tasks.bbh import GROUP as BBH
from marin.evaluation.tasks.catalog import GROUPS, LISTS, TASKS, task_names
from marin.evaluation.tasks.definition import TaskDefinition
from marin.evaluation.tasks.minerva_math import GROUP as MINERVA_MATH

_INTRODUCTION = """
# Tasks

This page is what `python -m marin.evaluation.tasks.reference` prints.

A task is asked with `evaluate_tasks` by its name, by the name of a group or list it is in, or as `NAME@SHOTS`. Its rows
come from a folder of evaluation data: first from `hub/REPOSITORY` in it, where `marin data download hf` puts the task's
own source, then from the other layouts below. What is absent is skipped, counted, and named with the command that
fetches it. [How to add a task](../how-to/add-a-task.md).

Prompts, examples, filters and versions are those of lm-evaluation-harness 0.4.13 where it has a task of the name;
`benchmarks/results/eval_parity.md` is the comparison. Examples are drawn with seed 1234 unless another is given, anew
for each question, from the split named below; where that is not at hand, from the other asked rows, and the score says
so. *n* counts the asked rows, *baseline* is what guessing scores, *shots* what a task is asked with if nobody says.
"""

_METRICS_INTRODUCTION = """
## Metrics

The first metric of a task is the one to quote. Every score has its standard error and 95% interval: clustered where
questions share a passage, Wilson's where few answers are right or few wrong, pooled within tasks for a group.

| metric | what it is |
| --- | --- |
"""


def tasks_reference() -> str:
    """Markdown: lists, groups, metrics, then every task by kind."""
    from marin.evaluation.tasks.scores import METRIC_MEANINGS

    parts = [_INTRODUCTION.strip(), _lists(), _groups()]
    parts.append(_METRICS_INTRODUCTION.strip() + "\n" + _rows((f"`{k}`", v) for k, v in METRIC_MEANINGS.items()))
    titles = {
        "multiple_choice": "Chosen among candidates by likelihood",
        "continuation": "One right continuation",
        "generation": "Written, then taken out of the text",
    }
    for kind, title in titles.items():
        parts.append(f"## {title}\n\n{_table(kind)}")
    parts.append(_with_needs())
    return "\n\n".join(parts) + "\n"


def _rows(rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _lists() -> str:
    head = "## Lists\n\n| list | tasks@shots |\n| --- | --- |\n"
    return head + _rows(
        (f"`{name}`", ", ".join(f"{config.name}@{config.num_fewshot}" for config in configs))
        for name, configs in LISTS.items()
    )


def _groups() -> str:
    head = "## Groups\n\n| group | members | tasks |\n| --- | --- | --- |\n"
    return head + _rows(
        (
            f"`{name}`",
            ", ".join(member.removeprefix(f"{_family_of(name)}_") for member in members),
            str(len(task_names(name))),
        )
        for name, members in GROUPS.items()
    )


def _family_of(group: str) -> str:
    return next((name for name in _FAMILIES if group.startswith(name)), group)


_FAMILIES = {"mmlu": "", BBH: " with reasoning", MINERVA_MATH: " of competition mathematics"}
"""Group whose tasks differ in their rows alone, and stand in one line -> what they are, behind 'N subjects'."""


def _table(kind: str) -> str:
    head = "| task | asks for | source, revision | licence | n | baseline | shots | examples from | version | metrics "
    head += "|\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    families = {name: task_names(name) for name in _FAMILIES}
    of_family = {task for tasks in families.values() for task in tasks}
    rows = [_row(task) for name, task in TASKS.items() if task.kind == kind and name not in of_family]
    rows += [_family(name, tasks) for name, tasks in families.items() if TASKS[tasks[0]].kind == kind]
    return head + _rows(rows)


def _family(name: str, tasks: tuple[str, ...]) -> tuple[str, ...]:
    _, _, *others = _row(TASKS[tasks[0]])
    sizes = [TASKS[task].num_rows for task in tasks]
    others[2] = f"{_NUM_MMLU if None in sizes else sum(size or 0 for size in sizes):,} in all"
    if name == "mmlu":
        others[3] = "0.25"
    return (f"`{name}_SUBJECT`", f"{len(tasks)} subjects{_FAMILIES[name]}, see the groups", *others)


_NUM_MMLU = 14042


def _row(task: TaskDefinition) -> tuple[str, ...]:
    source = task.source
    place = (
        f"[{source.repository}](https://huggingface.co/datasets/{source.repository})"
        if source.is_hub
        else f"[llm-foundry]({source.repository})"
    )
    revision = f"`{source.revision[:12]}`" if source.revision else "not pinned"
    return (
        f"`{task.name}`",
        task.about,
        f"{place}, {revision}",
        source.licence,
        "?" if task.num_rows is None else f"{task.num_rows:,}",
        _baseline(task),
        str(task.default_shots),
        "its own" if task.shots.fixed else task.shots.split,
        str(task.version),
        ", ".join(task.metrics),
    )


_NUM_CHOICES: dict[str, int] = dict.fromkeys(("arc_easy", "arc_challenge", "hellaswag", "openbookqa"), 4)
_NUM_CHOICES |= dict.fromkeys(("boolq", "copa", "piqa", "wsc273", "winogrande"), 2)
_NUM_CHOICES |= dict.fromkeys(("commonsense_qa", "agieval_lsat_ar"), 5)
"""Candidates of a question of the task's own source; a few rows of ARC have another number."""


def _baseline(task: TaskDefinition) -> str:
    if task.kind != "multiple_choice":
        return "0"
    count = _NUM_CHOICES.get(task.name)
    chance = f"{1 / count:g}" if count else "by row"
    named = [f"CORE: {task.core_baseline:g}"] if task.core_baseline is not None else []
    named += [f"CORE, local rows: {each.core_baseline:g}" for each in task.local if each.core_baseline is not None]
    return f"{chance} ({'; '.join(named)})" if named else chance


def _with_needs() -> str:
    head = (
        "## Needs more than marin\n\nThese are skipped where that is missing, with the command that brings it.\n\n"
        "| task | needs |\n| --- | --- |\n"
    )
    of_group = {task: name for name in _FAMILIES for task in task_names(name)}
    found = {of_group.get(name, name): task.needs for name, task in TASKS.items() if task.needs}
    return head + _rows((f"`{name}`", needs) for name, needs in found.items())


if __name__ == "__main__":
    print(tasks_reference(), end="")
