"""Questions of your own, from files, as tasks beside those of the catalog.

A row is {"query": text, "choices": [texts], "gold": index of the right one}, the layout of the in-context learning sets
of llm-foundry, among others; `group` is taken where it stands there. What the catalog offers beyond that, other
columns, kinds and words, takes a `TaskDefinition`.
"""

from collections.abc import Sequence
from pathlib import Path

from marin.evaluation.tasks.catalog import GROUPS, TASKS
from marin.evaluation.tasks.choice_tasks import choice_example
from marin.evaluation.tasks.definition import Example, LocalFiles, Row, Shots, Source, TaskDefinition
from marin.evaluation.tasks.lists import EvalTaskConfig


def file_tasks(tasks: Sequence[EvalTaskConfig]) -> dict[str, TaskDefinition]:
    """Name -> definition, of the tasks that are files of questions.

    Raises FileNotFoundError where there is no file; ValueError for a name that the catalog has, or that two files have.
    """
    found: dict[str, TaskDefinition] = {}
    for task in tasks:
        if task.file is None:
            continue
        if task.name in TASKS or task.name in GROUPS:
            raise ValueError(
                f"the questions of {task.file} are called '{task.name}', as a task of marin's is: give them another "
                f"name, as in my_{task.name}={task.file}"
            )
        definition = _definition(task.name, Path(task.file), task.delimiter)
        if found.setdefault(task.name, definition) != definition:
            raise ValueError(f"'{task.name}' is the name of two files of questions, one is {task.file}: give two names")
    return found


def _definition(name: str, file: Path, delimiter: str) -> TaskDefinition:
    if not file.is_file():
        raise FileNotFoundError(
            f"task '{name}': no file {file}; expected rows of query, choices and gold, as JSON lines or another kind"
        )
    return TaskDefinition(
        name=name,
        kind="multiple_choice",
        about="questions of one's own",
        source=Source(repository=file.name, revision=None, licence="not said", files={}, is_hub=False),
        local=(LocalFiles(files={"test": str(file.absolute())}, adapt=_as_it_is),),
        read=_read,
        delimiter=delimiter,
        shots=Shots(split="test"),
        metrics=("acc", "acc_norm"),
    )


def _as_it_is(row: Row) -> Row:
    return row


def _read(row: Row) -> Example:
    if not isinstance(row["choices"], list):
        raise TypeError(f"choices is {row['choices']!r}; expected a list of texts")
    gold = row["gold"] if isinstance(row["gold"], list) else [row["gold"]]
    if not all(isinstance(index, int) and not isinstance(index, bool) for index in gold):
        raise TypeError(f"gold is {row['gold']!r}; expected the index of the right choice, counted from 0")
    return choice_example(row["query"], row["choices"], row["gold"], group=str(row.get("group") or ""))
