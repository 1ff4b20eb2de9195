"""Tasks: what is asked of a model, from which data, in which words, and how the answers are judged."""

from marin.evaluation.tasks.catalog import GROUPS, LISTS, TASKS, resolve_tasks, task_names
from marin.evaluation.tasks.definition import Example, LocalFiles, Shots, Source, TaskDefinition, Writing
from marin.evaluation.tasks.lists import (
    BASE_GENERATION_TASKS,
    CORE_TASKS,
    CORE_TASKS_PLUS_MMLU,
    DCLM_CORE_TASKS,
    KEY_GENERATION_TASKS,
    KEY_MULTIPLE_CHOICE_TASKS,
    MMLU_0_SHOT,
    MMLU_5_SHOT,
    EvalTaskConfig,
)
from marin.evaluation.tasks.question import MultipleChoiceTask, Question, prompt_hash

__all__ = [
    "BASE_GENERATION_TASKS",
    "CORE_TASKS",
    "CORE_TASKS_PLUS_MMLU",
    "DCLM_CORE_TASKS",
    "GROUPS",
    "KEY_GENERATION_TASKS",
    "KEY_MULTIPLE_CHOICE_TASKS",
    "LISTS",
    "MMLU_0_SHOT",
    "MMLU_5_SHOT",
    "TASKS",
    "EvalTaskConfig",
    "Example",
    "LocalFiles",
    "MultipleChoiceTask",
    "Question",
    "Shots",
    "Source",
    "TaskDefinition",
    "Writing",
    "prompt_hash",
    "resolve_tasks",
    "task_names",
]
