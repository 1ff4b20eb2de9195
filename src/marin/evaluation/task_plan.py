"""What tasks would ask, before there is a model to ask: for finding what is wrong early, and what has changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marin.evaluation.chat_prompts import ChatPrompts
from marin.evaluation.code_execution import ExecutionLimits
from marin.evaluation.code_tasks import why_not_run
from marin.evaluation.run_tasks import (
    _CannotRunError,
    _not_given_back,
    _prompt_hash,
    _questions,
    _skipped,
)
from marin.evaluation.tasks.catalog import TASKS
from marin.evaluation.tasks.data import MissingDataError, TaskData
from marin.evaluation.tasks.definition import TaskDefinition
from marin.evaluation.tasks.lists import EvalTaskConfig
from marin.evaluation.tasks.plan import planned
from marin.evaluation.tasks.shots import FEWSHOT_SEED


@dataclass(frozen=True, kw_only=True)
class PlannedTasks:
    """What `evaluate_tasks` would ask, read and prompted, with no model yet."""

    tasks: Mapping[str, Mapping[str, Any]]
    """Key -> version, prompt_hash, n and num_fewshot, as its scores have them."""
    skipped: Sequence[Mapping[str, Any]]
    """As in `TaskScores`."""


def plan_tasks(
    tasks: Sequence[EvalTaskConfig],
    *,
    data: TaskData,
    limit: int | None = None,
    seed: int = FEWSHOT_SEED,
    tokenizer: Any = None,
    definitions: Mapping[str, TaskDefinition] | None = None,
    chat: ChatPrompts | None = None,
) -> PlannedTasks:
    """Read all tasks and write all their prompts, as conversations with `chat`. With a tokenizer, it must give the
    tasks' texts back.

    Raises ValueError as `evaluate_tasks` does before it asks a task.
    """
    asked, _ = planned(tasks, {**TASKS, **(definitions or {})})
    found: dict[str, dict[str, Any]] = {}
    skipped: list[dict[str, Any]] = []
    for task in asked:
        try:
            questions, _ = _questions(task, data, seed, limit, chat)
            if task.definition.runs_code:  # here nobody has allowed it
                raise _CannotRunError(why_not_run(task.definition, (), ExecutionLimits()))
        except MissingDataError as error:
            skipped.append(_skipped(task, error.reason, error.fetch))
            continue
        except _CannotRunError as error:
            skipped.append(_skipped(task, str(error), None))
            continue
        if tokenizer is not None:
            _not_given_back(tokenizer, task, questions)
        found[task.key] = {
            "version": task.definition.version,
            "prompt_hash": _prompt_hash(task.definition, questions),
            "n": len(questions),
            "num_fewshot": task.num_fewshot,
        }
    return PlannedTasks(tasks=found, skipped=skipped)
