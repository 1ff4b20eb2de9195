"""IFEval: instructions whose keeping a program can check (Zhou et al., "Instruction-Following Evaluation for Large
Language Models", 2023), 541 prompts with one to three of 25 kinds of instructions.

The checks are the paper's own, as lm-evaluation-harness 0.4.13 has them (Apache-2.0); writing them a second time would
make other scores of the same name. A text follows an instruction strictly as it is, loosely also without its first or
last line or its asterisks.
"""

import json
from importlib import import_module

from marin.evaluation.tasks.data import MissingPackageError
from marin.evaluation.tasks.definition import Example, Row, Shots, Source, TaskDefinition, Writing
from marin.evaluation.tasks.packages import LM_EVAL_VERSION, require_lm_eval


def read(row: Row) -> Example:
    """The target is what is checked: the names of the instructions and their arguments, as JSON."""
    names, arguments = list(row["instruction_id_list"]), [dict(each) for each in row["kwargs"]]
    if not names or len(names) != len(arguments):
        raise ValueError(f"{len(names)} instructions and arguments of {len(arguments)}; expected one or more, alike")
    # files with columns have a null for each argument that an instruction does not take
    given = [{name: value for name, value in each.items() if value is not None} for each in arguments]
    target = json.dumps({"instruction_id_list": names, "kwargs": given}, ensure_ascii=False, sort_keys=True)
    return Example(question=row["prompt"], answer="", contexts=(row["prompt"],), targets=(target,))


def judge(example: Example, text: str) -> dict[str, float | bool]:
    """Whether all instructions were followed, and how many of how many."""
    from lm_eval.tasks.ifeval import instructions, utils

    instructions.langdetect.DetectorFactory.seed = (
        0  # else it draws, and the same text is English on one day and not on the next
    )
    asked = {"key": 0, "prompt": example.contexts[0], **json.loads(example.targets[0])}
    found = utils.process_results(asked, [text])
    return {
        "prompt_level_strict_acc": found["prompt_level_strict_acc"],
        "prompt_level_loose_acc": found["prompt_level_loose_acc"],
        "num_instructions": len(asked["instruction_id_list"]),
        "num_followed_strictly": sum(found["inst_level_strict_acc"]),
        "num_followed_loosely": sum(found["inst_level_loose_acc"]),
    }


def require() -> None:
    """Raise MissingPackageError where a package or the data of one is not installed.

    Without that data lm-eval would download it when it is first imported.
    """
    require_lm_eval("ifeval", "ifeval", "langdetect", "immutabledict", "nltk")
    nltk = import_module("nltk")  # lm-eval's, as langdetect is: no requirement of marin's
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        raise MissingPackageError(
            "task 'ifeval' counts sentences by the data punkt_tab of NLTK, not found in the folders of NLTK's data",
            "python -m nltk.downloader punkt_tab",
        ) from None


IFEVAL = TaskDefinition(
    name="ifeval",
    kind="generation",
    about="instructions whose keeping a program can check",
    version=4,
    source=Source(
        repository="google/IFEval",
        revision="966cd89545d6b6acfd7638bc708b98261ca58e84",
        licence="Apache-2.0",
        files={"train": "ifeval_input_data.jsonl"},
    ),
    split="train",
    read=read,
    judge=judge,
    require=require,
    shots=Shots(split="train"),
    metrics=(
        "prompt_level_strict_acc",
        "inst_level_strict_acc",
        "prompt_level_loose_acc",
        "inst_level_loose_acc",
    ),
    writing=Writing(stop=(), max_new_tokens=1280, filters={}),
    num_rows=541,
    needs=f"`pip install 'lm-eval[ifeval]=={LM_EVAL_VERSION}'` and `python -m nltk.downloader punkt_tab`",
)
