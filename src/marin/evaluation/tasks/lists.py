"""Which tasks are asked together, at how many shots each.

A list is plain values, so an experiment can name one, add to it, or write its own. What a task is, its data, prompts
and metrics, is in the catalog; a list only points there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class EvalTaskConfig:
    """One task, or group of tasks, at a number of shots; or a file of questions of your own."""

    name: str
    """Name of the task or group in the catalog; with `file`, a name of your own that the catalog does not have."""
    num_fewshot: int
    """Solved examples in front of each question."""
    task_alias: str | None = None
    """What its scores are listed under; None: the name, with @SHOTS where one run has a task at several."""
    file: str | None = None
    """File of your own multiple-choice questions, a row each: {"query": text, "choices": [texts], "gold": index of the
    right one}, and "group" where questions share a passage. In a step's config it may be a place in another step, which
    makes what is in it part of what the step is. Solved examples are other questions of the file."""
    delimiter: str = " "
    """Stands between query and choice of the questions of a file."""

    def __post_init__(self) -> None:
        if not isinstance(self.num_fewshot, int) or isinstance(self.num_fewshot, bool):
            raise ValueError(f"task '{self.name}': num_fewshot is {self.num_fewshot!r}; a number is expected, like 5")
        if self.num_fewshot < 0:
            raise ValueError(f"task '{self.name}': num_fewshot is {self.num_fewshot}; expected 0 or more")
        if self.file is None and self.delimiter != " ":
            raise ValueError(f"task '{self.name}': delimiter is of a file of questions, and none is given")

    def written(self) -> dict[str, Any]:
        """The fields as results.json has them: of a file its name alone, since its questions stand in the prompt hash
        and its folder is another one on each machine."""
        fields = {"name": self.name, "num_fewshot": self.num_fewshot, "task_alias": self.task_alias}
        of_file = {} if self.file is None else {"file": Path(self.file).name, "delimiter": self.delimiter}
        return {**fields, **of_file}


CORE_TASKS = (
    EvalTaskConfig("agieval_lsat_ar", 3),
    EvalTaskConfig("arc_easy", 10),
    EvalTaskConfig("arc_challenge", 10),
    EvalTaskConfig("boolq", 10),
    EvalTaskConfig("commonsense_qa", 10),
    EvalTaskConfig("copa", 0),
    EvalTaskConfig("hellaswag", 0),
    EvalTaskConfig("hellaswag", 10),
    EvalTaskConfig("lambada_openai", 0),
    EvalTaskConfig("openbookqa", 0),
    EvalTaskConfig("piqa", 10),
    EvalTaskConfig("wsc273", 0),
    EvalTaskConfig("winogrande", 0),
)
"""Tasks that tell small base models apart, all by log-likelihood."""

MMLU_0_SHOT = EvalTaskConfig("mmlu", 0)
MMLU_5_SHOT = EvalTaskConfig("mmlu", 5)

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

DCLM_CORE_TASKS = (
    EvalTaskConfig("agieval_lsat_ar", 3),
    EvalTaskConfig("arc_easy", 10),
    EvalTaskConfig("arc_challenge", 10),
    EvalTaskConfig("bigbench_cs_algorithms", 10),
    EvalTaskConfig("bigbench_dyck_languages", 10),
    EvalTaskConfig("bigbench_language_identification", 10),
    EvalTaskConfig("bigbench_operators", 10),
    EvalTaskConfig("bigbench_qa_wikidata", 10),
    EvalTaskConfig("bigbench_repeat_copy_logic", 10),
    EvalTaskConfig("boolq", 10),
    EvalTaskConfig("commonsense_qa", 10),
    EvalTaskConfig("copa", 0),
    EvalTaskConfig("coqa_completion", 0),
    EvalTaskConfig("hellaswag", 0),
    EvalTaskConfig("hellaswag", 10),
    EvalTaskConfig("jeopardy", 10),
    EvalTaskConfig("lambada_openai", 0),
    EvalTaskConfig("openbookqa", 0),
    EvalTaskConfig("piqa", 10),
    EvalTaskConfig("squad_completion", 10),
    EvalTaskConfig("wsc273", 0),
    EvalTaskConfig("winogrande", 0),
)
"""The 22 tasks of the CORE score of DataComp-LM (Li et al. 2024, section 3.5 and appendix G), at its shots."""
