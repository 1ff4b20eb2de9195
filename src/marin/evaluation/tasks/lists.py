"""Which tasks are asked together, at how many shots each.

A list is plain values, so an experiment can name one, add to it, or write its own. What a task is, its data, prompts
and metrics, is in the catalog; a list only points there, and so does `resolve_tasks`, which reads the lists, groups
and tasks that a person types.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class EvalTaskConfig:
    """One task, or group of tasks, at a number of shots."""

    name: str
    """Name of the task or group in the catalog."""
    num_fewshot: int
    """Solved examples in front of each question."""
    task_alias: str | None = None
    """What its scores are listed under; None: the name, with @SHOTS where one run has a task at several."""

    def __post_init__(self) -> None:
        if self.num_fewshot < 0:
            raise ValueError(f"task '{self.name}': num_fewshot is {self.num_fewshot}; expected 0 or more")


CORE_TASKS = (
    EvalTaskConfig("agieval_lsat_ar", 3),
    EvalTaskConfig("arc_easy", 10),
    EvalTaskConfig("arc_challenge", 10),
    EvalTaskConfig("boolq", 10),
    EvalTaskConfig("commonsense_qa", 10),
    EvalTaskConfig("copa", 0),
    EvalTaskConfig("hellaswag", 0, task_alias="hellaswag_0shot"),
    EvalTaskConfig("hellaswag", 10, task_alias="hellaswag_10shot"),
    EvalTaskConfig("lambada_openai", 0),
    EvalTaskConfig("openbookqa", 0),
    EvalTaskConfig("piqa", 10),
    EvalTaskConfig("wsc273", 0),
    EvalTaskConfig("winogrande", 0),
)
"""Tasks that tell small base models apart, all by log-likelihood."""

MMLU_0_SHOT = EvalTaskConfig("mmlu", 0, task_alias="mmlu_0shot")
MMLU_5_SHOT = EvalTaskConfig("mmlu", 5, task_alias="mmlu_5shot")

CORE_TASKS_PLUS_MMLU = (*CORE_TASKS, MMLU_0_SHOT, MMLU_5_SHOT)
"""CORE_TASKS and MMLU, without and with examples."""

KEY_GENERATION_TASKS = (
    EvalTaskConfig("ifeval", 0),
    EvalTaskConfig("gsm8k_cot", 8),
    EvalTaskConfig("drop", 0),
    EvalTaskConfig("humaneval", 10),
    EvalTaskConfig("bbh_cot_fewshot", 3),
    EvalTaskConfig("minerva_math", 4),
)
"""What an instructed model writes."""

KEY_MULTIPLE_CHOICE_TASKS = (MMLU_0_SHOT, MMLU_5_SHOT, EvalTaskConfig("truthfulqa_mc2", 6))
"""What an instructed model knows."""

BASE_GENERATION_TASKS = (
    EvalTaskConfig("bbh_cot_fewshot", 3),
    EvalTaskConfig("gsm8k_cot", 8),
    EvalTaskConfig("nq_open", 0),
    EvalTaskConfig("triviaqa", 0),
)
"""What a base model writes after examples."""
