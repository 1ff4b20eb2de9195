"""The lists of tasks, by the names that experiments know; what a task is stands in `marin.evaluation.tasks`."""

from marin.evaluation.tasks import (
    BASE_GENERATION_TASKS,
    CORE_TASKS,
    CORE_TASKS_PLUS_MMLU,
    KEY_GENERATION_TASKS,
    KEY_MULTIPLE_CHOICE_TASKS,
    MMLU_0_SHOT,
    MMLU_5_SHOT,
    EvalTaskConfig,
)

__all__ = [
    "BASE_GENERATION_TASKS",
    "CORE_TASKS",
    "CORE_TASKS_PLUS_MMLU",
    "KEY_GENERATION_TASKS",
    "KEY_MULTIPLE_CHOICE_TASKS",
    "MMLU_0_SHOT",
    "MMLU_5_SHOT",
    "EvalTaskConfig",
]
