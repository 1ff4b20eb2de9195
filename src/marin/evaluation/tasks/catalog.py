"""Every task and group by name, and what a person may type for them."""

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from marin.evaluation.tasks.choice_tasks import CHOICE_TASKS
from marin.evaluation.tasks.continuation_tasks import CONTINUATION_TASKS
from marin.evaluation.tasks.definition import TaskDefinition
from marin.evaluation.tasks.generation_tasks import GENERATION_GROUPS, GENERATION_TASKS
from marin.evaluation.tasks.lists import (
    BASE_GENERATION_TASKS,
    CORE_TASKS,
    CORE_TASKS_PLUS_MMLU,
    DCLM_CORE_TASKS,
    KEY_GENERATION_TASKS,
    KEY_MULTIPLE_CHOICE_TASKS,
    EvalTaskConfig,
)
from marin.evaluation.tasks.mmlu import MMLU_GROUPS, MMLU_TASKS
from marin.io.rows import ROW_SUFFIXES

TASKS: dict[str, TaskDefinition] = {
    task.name: task for task in (*CHOICE_TASKS, *CONTINUATION_TASKS, *MMLU_TASKS, *GENERATION_TASKS)
}
"""Name -> task. A line in one of the tuples above adds one."""

GROUPS: dict[str, tuple[str, ...]] = {**MMLU_GROUPS, **GENERATION_GROUPS}
"""Name -> members, tasks or groups, whose questions count alike in the group's score."""

LISTS: dict[str, tuple[EvalTaskConfig, ...]] = {
    "core": CORE_TASKS,
    "core_plus_mmlu": CORE_TASKS_PLUS_MMLU,
    "dclm_core": DCLM_CORE_TASKS,
    "key_generation": KEY_GENERATION_TASKS,
    "key_multiple_choice": KEY_MULTIPLE_CHOICE_TASKS,
    "base_generation": BASE_GENERATION_TASKS,
}
"""Name -> tasks with their shots."""


def task_names(name: str) -> tuple[str, ...]:
    """The tasks that a name stands for: itself, or the members of a group, of groups within it too.

    Raises ValueError, with near misses, for a name that is neither.
    """
    if name in TASKS:
        return (name,)
    if name in GROUPS:
        return tuple(task for member in GROUPS[name] for task in task_names(member))
    known = [*TASKS, *GROUPS, *LISTS]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6) or [each for each in known if name in each][:3]
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(
        f"there is no task, group or list '{name}'{hint} Lists: {', '.join(LISTS)}; groups: {', '.join(GROUPS)}; all "
        "tasks are in docs/reference/tasks.md"
    )


def resolve_tasks(names: str | Iterable[str], shots: int | None = None) -> tuple[EvalTaskConfig, ...]:
    """Tasks and groups with their shots, for names separated by commas: of lists, groups and tasks, or TASK@SHOTS.

    A file of questions of your own (`EvalTaskConfig.file`) is a path that ends in .jsonl or another suffix of rows, and
    is called by the name of its file, or NAME in NAME=PATH. `shots` is for every task without its own behind @; None:
    those of a list, or what the task is usually asked with. A task that comes twice at the same shots is asked once.

    Raises ValueError for an unknown name, with near misses, and where there is no name at all.

    Example:
        >>> [(task.name, task.num_fewshot) for task in resolve_tasks("copa,hellaswag@10,mine=questions.jsonl@2")]
        [('copa', 0), ('hellaswag', 10), ('mine', 2)]
    """
    words = names.split(",") if isinstance(names, str) else list(names)
    found: dict[EvalTaskConfig, None] = {}
    for word in words:
        if word.strip():
            for config in _named(word.strip(), shots):
                found.setdefault(config)
    if not found:
        raise ValueError(
            f"no task is named in {names!r}; give some of {', '.join(LISTS)}, {', '.join(GROUPS)} or tasks"
        )
    return tuple(found)


_SUFFIX = "|".join(map(re.escape, ROW_SUFFIXES))
_FILE = re.compile(rf"(?:(?P<name>[^=/]+)=)?(?P<file>.+(?:{_SUFFIX}))(?:@(?P<shots>\d+))?")


def _named(word: str, shots: int | None) -> Iterator[EvalTaskConfig]:
    of_file = _FILE.fullmatch(word)
    if of_file is not None:
        name, file = of_file["name"] or Path(of_file["file"]).name.partition(".")[0], of_file["file"]
        yield EvalTaskConfig(name, int(of_file["shots"] or shots or 0), file=file)
        return
    name, mark, own = word.partition("@")
    if mark and not own.isdecimal():
        raise ValueError(f"'{word}': expected a number of examples behind @, as in {name}@5")
    if name in LISTS and not mark:
        for config in LISTS[name]:
            yield config if shots is None else EvalTaskConfig(config.name, shots, config.task_alias)
        return
    first = TASKS[task_names(name)[0]]
    given = first.default_shots if shots is None else shots
    yield EvalTaskConfig(name, int(own) if mark else given)
