"""Tasks with one right text, which counts as answered where greedy decoding would write exactly it.

Rows and form are those of the in-context learning sets of llm-foundry (Apache-2.0), which the CORE score of
DataComp-LM is made of. lm-evaluation-harness has no tasks of these names with these rows.
"""

import re
from dataclasses import replace

from marin.evaluation.tasks.choice_tasks import choice_example, group_of
from marin.evaluation.tasks.definition import Example, LocalFiles, Row, Shots, Source, TaskDefinition

_REPOSITORY = "https://raw.githubusercontent.com/mosaicml/llm-foundry/main/scripts/eval/local_data"


def _read(row: Row) -> Example:
    context = row["context"]
    text = row["continuation"]
    if not text.strip():
        raise ValueError("the continuation is blank")
    # some files have the blank in front of the continuation, most leave it to the reader
    answer = text if text[0].isspace() else f" {text}"
    return Example(
        question=context, answer=answer, contexts=(context,), continuations=(answer,), choices=(answer.strip(),)
    )


def _read_aliases(row: Row) -> Example:
    """Rows of {context, answer}."""
    return _read({"context": row["context"], "continuation": row.get("continuation", row.get("answer"))})


# What follows the passage in SQuAD's and CoQA's prompts.
_BEHIND_PASSAGE = re.compile(r"^\s*(?:Preceding questions?|Final question|Question)\s*:", re.MULTILINE)


def _read_about_passage(row: Row) -> Example:
    """Rows of {context, answer} whose context is a passage and questions about it, which other rows share."""
    example = _read_aliases(row)
    mark = _BEHIND_PASSAGE.search(example.question)
    passage = example.question[: mark.start()].strip() if mark else ""
    if not passage:
        raise ValueError("expected a passage, then a line that begins with 'Question:' or 'Preceding questions:'")
    return replace(example, group=group_of(passage))


def _read_choices(row: Row) -> Example:
    return choice_example(row["query"], list(row["choices"]), row["gold"])


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
        None,
    ),
    _task(
        "bigbench_language_identification",
        "language_understanding/language_identification.jsonl",
        "which language a sentence is in",
        "Apache-2.0 (BIG-bench)",
        None,
        read=_read_choices,
        kind="multiple_choice",
        delimiter=" ",
        metrics=("acc", "acc_norm"),
    ),
    _task(
        "jeopardy",
        "world_knowledge/jeopardy_all.jsonl",
        "quiz questions by category",
        "not declared (llm-foundry)",
        None,
    ),
    _task(
        "squad_completion",
        "reading_comprehension/squad.jsonl",
        "the span of a passage that answers a question",
        "CC-BY-SA-4.0 (SQuAD)",
        None,
        read=_read_about_passage,
        version=2,
    ),
    _task(
        "coqa_completion",
        "reading_comprehension/coqa.jsonl",
        "a conversation about a passage",
        "CoQA's licences by domain",
        None,
        read=_read_about_passage,
        version=2,
    ),
)
