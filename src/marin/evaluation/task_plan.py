"""What tasks would ask, before there is a model to ask: every question read and put into words.

All of it is made before the first question is asked, so that a broken row of the last task is told before hours of
asking, and an evaluation is known by what it asks. The price is that all prompts are in memory: 54,000 of CORE at ten
examples and MMLU at five take 0.3 GB.
"""

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from marin.evaluation.chat_prompts import ChatPrompts
from marin.evaluation.code_execution import ExecutionLimits
from marin.evaluation.code_tasks import why_not_run
from marin.evaluation.task_files import file_tasks
from marin.evaluation.tasks.catalog import TASKS
from marin.evaluation.tasks.data import MissingDataError, TaskData, TaskRows
from marin.evaluation.tasks.definition import TaskDefinition
from marin.evaluation.tasks.lists import EvalTaskConfig
from marin.evaluation.tasks.plan import Asked, AskedGroup, planned
from marin.evaluation.tasks.question import prompt_hash
from marin.evaluation.tasks.shots import FEWSHOT_SEED, PromptedQuestion, prompted

_LIMITS = ExecutionLimits()


@dataclass(frozen=True, kw_only=True)
class PlannedTask:
    """A task with its questions as they are asked."""

    task: Asked
    questions: Sequence[PromptedQuestion]
    num_rows: int
    """Questions that there are, asked or not."""
    files: tuple[str, ...]
    """Where they were read, see `TaskRows`."""
    notes: tuple[str, ...]
    """What a reader of its scores must know of the rows."""
    core_baseline: float | None
    """Score of guessing that the CORE average subtracts, see `TaskDefinition`."""
    prompt_hash: str
    """sha256 over everything that is asked and what counts as right."""
    result_hash: str
    """sha256 over what its result and samples depend on but for the model and how it is scored: all that they say of
    the task as well."""

    def identity(self) -> dict[str, Any]:
        """What makes two scores of it comparable, as results.json has it."""
        return {
            "version": self.task.definition.version,
            "prompt_hash": self.prompt_hash,
            "n": len(self.questions),
            "num_fewshot": self.task.num_fewshot,
        }


@dataclass(frozen=True, kw_only=True)
class PlannedTasks:
    """What an evaluation asks."""

    configs: tuple[EvalTaskConfig, ...]
    """As it was asked for."""
    tasks: Mapping[str, PlannedTask]
    """Key (the task's name, NAME@SHOTS where it is asked at several, or its alias) -> task, in their order."""
    groups: tuple[AskedGroup, ...]
    """Over those tasks and the skipped ones."""
    skipped: tuple[Mapping[str, Any], ...]
    """Tasks that were asked for and cannot run: task, num_fewshot, reason, fetch."""
    asked: tuple[Asked, ...]
    """All that were asked for."""
    own: frozenset[str]
    """Names of tasks that are not the catalog's."""
    limit: int | None
    """Questions of each task, at most."""
    seed: int
    """Draws solved examples."""
    execution_limits: ExecutionLimits
    """Of programs that a model writes."""
    chat: ChatPrompts | None
    """What wrote the prompts as conversations; None: they are texts."""

    def hashes(self) -> dict[str, str]:
        """Key of each task -> its result_hash."""
        return {key: planned.result_hash for key, planned in self.tasks.items()}


class _CannotRunError(Exception):
    """Why a task cannot run, other than for want of data."""


def plan_tasks(
    tasks: Sequence[EvalTaskConfig],
    *,
    data: TaskData,
    limit: int | None = None,
    seed: int = FEWSHOT_SEED,
    definitions: Mapping[str, TaskDefinition] | None = None,
    allow_code_execution: Collection[str] = (),
    execution_limits: ExecutionLimits = _LIMITS,
    chat: ChatPrompts | None = None,
) -> PlannedTasks:
    """Read all tasks and write all their prompts, as conversations with `chat`.

    The arguments are those of `run_tasks.evaluate_tasks`.

    Raises FileNotFoundError where there is no file of questions that a task names; ValueError for an unknown task (with
    near misses), a broken row (with file and line), and too few rows for the examples asked for.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected 1 or more questions for each task, or None for all")
    own = {**(definitions or {}), **file_tasks(tasks)}
    asked, groups = planned(tasks, {**TASKS, **own})
    found: dict[str, PlannedTask] = {}
    skipped: list[dict[str, Any]] = []
    for task in asked:
        try:
            found[task.key] = _planned_task(task, data, seed, limit, allow_code_execution, execution_limits, chat)
        except MissingDataError as error:
            skipped.append(_skipped(task, error.reason, error.fetch))
        except _CannotRunError as error:
            skipped.append(_skipped(task, str(error), None))
    return PlannedTasks(
        configs=tuple(tasks),
        tasks=found,
        groups=tuple(groups),
        skipped=tuple(skipped),
        asked=tuple(asked),
        own=frozenset(own),
        limit=limit,
        seed=seed,
        execution_limits=execution_limits,
        chat=chat,
    )


def _planned_task(
    task: Asked,
    data: TaskData,
    seed: int,
    limit: int | None,
    allow_code_execution: Collection[str],
    execution_limits: ExecutionLimits,
    chat: ChatPrompts | None,
) -> PlannedTask:
    definition, shots = task.definition, task.num_fewshot
    rows = data.load(definition, shots)
    write_prompt = None if chat is None else chat.prompt
    if chat is not None:
        rows = replace(rows, notes=(*rows.notes, *chat.notes(definition)))
    questions = list(prompted(definition, rows, num_fewshot=shots, seed=seed, limit=limit, write_prompt=write_prompt))
    why_not = why_not_run(definition, allow_code_execution, execution_limits) if definition.runs_code else ""
    if why_not:
        raise _CannotRunError(why_not)
    asked_hash = _prompt_hash(definition, questions)
    return PlannedTask(
        task=task,
        questions=questions,
        num_rows=len(rows.asked),
        files=rows.files,
        notes=rows.notes,
        core_baseline=rows.core_baseline,
        prompt_hash=asked_hash,
        result_hash=_result_hash(definition, questions, rows, asked_hash),
    )


def _prompt_hash(definition: TaskDefinition, questions: Sequence[PromptedQuestion]) -> str:
    """sha256 over everything that is asked and what counts as right: what lengths are of, and how texts are read."""
    asked: list[Any] = [definition.kind, definition.delimiter, _written_how(definition)]
    for question in questions:
        example = question.example
        texts = [question.prefix, example.contexts, example.continuations, example.choices, example.check]
        asked.append([*texts, example.gold, example.targets, *question.conversations])
    return prompt_hash(asked)


def _written_how(definition: TaskDefinition) -> Any:
    """The settings of a text to write, each filter with its kind and fields."""
    writing = definition.writing
    if writing is None:
        return None
    filters = {name: [[type(each).__name__, asdict(each)] for each in kept] for name, kept in writing.filters.items()}
    return {**{field.name: getattr(writing, field.name) for field in fields(writing)}, "filters": filters}


def _result_hash(
    definition: TaskDefinition, questions: Sequence[PromptedQuestion], rows: TaskRows, asked_hash: str
) -> str:
    """sha256 over what its result and samples depend on but for the model: all that they say of the task as well."""
    groups = [question.example.group for question in questions]
    said = [definition.name, definition.version, definition.metrics, asdict(definition.source)]
    return prompt_hash([asked_hash, *said, groups, len(rows.asked), rows.files, rows.notes, *_judged_how(definition)])


def _judged_how(definition: TaskDefinition) -> list[str]:
    """The source of a judge that is not marin's, whose changes raise no version here; its name where there is none.

    What the judge calls is not followed: who changes that raises the task's version.
    """
    judge = definition.judge
    if judge is None or getattr(judge, "__module__", "").partition(".")[0] == "marin":
        return []
    try:
        return [inspect.getsource(judge)]
    except (OSError, TypeError):  # written at a prompt, or no function
        return [getattr(judge, "__qualname__", type(judge).__qualname__)]


def _skipped(task: Asked, reason: str, fetch: str | None) -> dict[str, Any]:
    return {"task": task.key, "num_fewshot": task.num_fewshot, "reason": reason, "fetch": fetch}
