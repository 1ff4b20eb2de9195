"""Tasks: what is asked of a model, from which data, in which words, and how the answers are judged."""

from marin.evaluation.tasks.lists import (
    BASE_GENERATION_TASKS,
    CORE_TASKS,
    CORE_TASKS_PLUS_MMLU,
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
    "KEY_GENERATION_TASKS",
    "KEY_MULTIPLE_CHOICE_TASKS",
    "MMLU_0_SHOT",
    "MMLU_5_SHOT",
    "EvalTaskConfig",
    "MultipleChoiceTask",
    "Question",
    "prompt_hash",
]
