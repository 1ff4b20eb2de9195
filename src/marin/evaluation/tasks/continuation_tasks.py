"""Tasks with one right text, which counts as answered where greedy decoding would write exactly it.

Rows and form are those of the in-context learning sets of llm-foundry (Apache-2.0), which the CORE score of
DataComp-LM is made of. lm-evaluation-harness has no tasks of these names with these rows. As there, whitespace at the
ends of a row's texts does not count: some files end their contexts in a blank or a line end, others do not.

The files of SQuAD, CoQA, Wikidata and language identification were not at hand when this was written. Their layout is
known from the programs of others that read them: `Context: ...`, `Question: ...` and `Answer: ` a line each in SQuAD;
an instruction, `Story: ...`, from the second question on `Preceding questions:` with their answers, and `Final
question:` in CoQA. Jeopardy's rows were seen.
"""

import re
from dataclasses import replace

from marin.evaluation.tasks.choice_tasks import choice_example, group_of
from marin.evaluation.tasks.definition import Example, LocalFiles, Row, Shots, Source, TaskDefinition

_REPOSITORY = "https://raw.githubusercontent.com/mosaicml/llm-foundry/main/scripts/eval/local_data"


def _read(row: Row) -> Example:
    """Rows of {context, continuation}."""
    context, text = row["context"].strip(), row["continuation"].strip()
    if not text:
        raise ValueError("the continuation is blank")
    return Example(
        question=context, answer=f" {text}", contexts=(context,), continuations=(f" {text}",), choices=(text,)
    )


def _read_jeopardy(row: Row) -> Example:
    """Rows of {context, continuation}, the context 'CATEGORY: clue'."""
    return _read({**row, "context": f"{row['context'].strip()}\nAnswer:"})


# What follows the passage in SQuAD's and CoQA's prompts.
_BEHIND_PASSAGE = re.compile(r"^\s*(?:Preceding questions?|Final question|Question)\s*:", re.MULTILINE)


def _read_about_passage(row: Row) -> Example:
    """Rows of {context, continuation} whose context is a passage and questions about it, which other rows share."""
    example = _read(row)
    mark = _BEHIND_PASSAGE.search(example.question)
    passage = example.question[: mark.start()].strip() if mark else ""
    if not passage:
        raise ValueError("expected a passage, then a line that begins with 'Question:' or 'Preceding questions:'")
    return replace(example, group=group_of(passage))


def _read_choices(row: Row) -> Example:
    return choice_example(row["query"].strip(), list(row["choices"]), row["gold"])


def _task(name: str, path: str, about: str, licence: str, num_rows: int | None, read=_read, **more) -> TaskDefinition:
    return TaskDefinition(
        name=name,
        about=about,
        source=Source(
            repository=f"{_REPOSITORY}/{path}", revision=None, licence=licence, files={"test": path}, is_hub=False
        ),
        local=(LocalFiles(files={"test": f"mosaic/{path}"}, adapt=lambda row: row),),
        read=read,
        num_rows=num_rows,
        shots=Shots(split="test"),
        **({"kind": "continuation", "delimiter": "", "metrics": ("acc", "bits_per_byte")} | more),
    )


_SYMBOLIC = "symbolic_problem_solving"

CONTINUATION_TASKS = (
    _task(
        "bigbench_dyck_languages",
        f"{_SYMBOLIC}/bigbench_dyck_languages.jsonl",
        "close the open brackets",
        "Apache-2.0 (BIG-bench)",
        1000,
    ),
    _task(
        "bigbench_operators",
        f"{_SYMBOLIC}/bigbench_operators.jsonl",
        "apply an operator that was just defined",
        "Apache-2.0 (BIG-bench)",
        210,
    ),
    _task(
        "bigbench_cs_algorithms",
        f"{_SYMBOLIC}/bigbench_cs_algorithms.jsonl",
        "result of a short algorithm",
        "Apache-2.0 (BIG-bench)",
        1320,
    ),
    _task(
        "bigbench_repeat_copy_logic",
        f"{_SYMBOLIC}/bigbench_repeat_copy_logic.jsonl",
        "write words as often as told",
        "Apache-2.0 (BIG-bench)",
        32,
    ),
    _task(
        "simple_arithmetic",
        f"{_SYMBOLIC}/simple_arithmetic_withspaces.jsonl",
        "add, subtract and multiply",
        "Apache-2.0 (llm-foundry)",
        1000,
    ),
    _task(
        "bigbench_qa_wikidata",
        "world_knowledge/bigbench_qa_wikidata.jsonl",
        "facts of Wikidata",
        "Apache-2.0 (BIG-bench)",
        20321,
    ),
    _task(
        "bigbench_language_identification",
        "language_understanding/bigbench_language_identification.jsonl",
        "which language a sentence is in",
        "Apache-2.0 (BIG-bench)",
        10000,
        read=_read_choices,
        version=2,
        core_baseline=0.091,  # of DataComp-LM's table of tasks
        kind="multiple_choice",
        delimiter=" ",
        metrics=("acc", "acc_norm"),
    ),
    _task(
        "jeopardy",
        "world_knowledge/jeopardy_all.jsonl",
        "quiz questions by category",
        "not declared (llm-foundry)",
        2117,
        read=_read_jeopardy,
        version=2,
    ),
    _task(
        "squad_completion",
        "reading_comprehension/squad.jsonl",
        "the span of a passage that answers a question",
        "CC-BY-SA-4.0 (SQuAD)",
        10570,
        read=_read_about_passage,
        version=3,
    ),
    _task(
        "coqa_completion",
        "reading_comprehension/coqa.jsonl",
        "a conversation about a passage",
        "CoQA's licences by domain",
        7983,
        read=_read_about_passage,
        version=3,
    ),
)
