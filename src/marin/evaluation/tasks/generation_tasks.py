"""Tasks for which the model writes a text that an answer is taken out of.

Prompts, stop strings and filters are those of the tasks of the same names in lm-evaluation-harness 0.4.13 (MIT). Those
that need more than a comparison of texts have a file of their own.
"""

from marin.evaluation.tasks.bbh import BBH_GROUPS, BBH_TASKS
from marin.evaluation.tasks.cot_examples import GSM8K_COT_EXAMPLES
from marin.evaluation.tasks.definition import Example, LocalFiles, Row, Shots, Source, TaskDefinition, Writing
from marin.evaluation.tasks.drop import DROP
from marin.evaluation.tasks.filters import Find, Strip
from marin.evaluation.tasks.ifeval import IFEVAL
from marin.evaluation.tasks.minerva_math import MINERVA_MATH_GROUPS, MINERVA_MATH_TASKS

_NUMBER = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
_GSM8K = Source(
    repository="openai/gsm8k",
    revision="740312add88f781978c0658806c59bc2815b9866",
    licence="MIT",
    files={"test": "main/test-*.parquet", "train": "main/train-*.parquet"},
)
_GSM8K_LOCAL = (LocalFiles(files={"test": "gsm8k/test.jsonl", "train": "gsm8k/train.jsonl"}, adapt=lambda row: row),)
# A comma, a dollar sign, what leads to '#### ', and a final stop do not count.
_GSM8K_IGNORED = (",", r"\$", r"(?s).*#### ", r"\.$")


def written(question: str, answer: str, targets: tuple[str, ...] | None = None, group: str = "") -> Example:
    """An example whose answer is written."""
    return Example(question=question, answer=answer, contexts=(question,), targets=targets or (answer,), group=group)


def _read_gsm8k(row: Row) -> Example:
    if "####" not in row["answer"]:
        raise ValueError("the answer does not end in '#### RESULT'")
    return written(f"Question: {row['question']}\nAnswer:", row["answer"])


def _read_gsm8k_cot(row: Row) -> Example:
    question = f"Q: {row['question']}\nA:"
    if "target" in row:
        return written(question, row["target"])
    return written(question, _read_gsm8k(row).answer.split("####")[-1].strip())


def _gsm8k(name: str, read, strict: str, stop: str, shots: Shots, default_shots: int) -> TaskDefinition:
    return TaskDefinition(
        name=name,
        kind="generation",
        about="word problems of grade-school mathematics",
        version=3,
        source=_GSM8K,
        local=_GSM8K_LOCAL,
        read=read,
        shots=shots,
        default_shots=default_shots,
        metrics=("exact_match,strict-match", "exact_match,flexible-extract"),
        writing=Writing(
            stop=(stop, "</s>", "<|im_end|>"),
            filters={"strict-match": (Find(strict),), "flexible-extract": (Find(_NUMBER, which=-1),)},
            normalise=_GSM8K_IGNORED,
            ignore_case=True,
        ),
        num_rows=1319,
    )


def _read_nq_open(row: Row) -> Example:
    answers = tuple(row["answer"])
    return written(f"Q: {row['question']}?\nA:", answers[0], answers)


def _read_triviaqa(row: Row) -> Example:
    aliases = tuple(row["answer"]["aliases"])
    return written(f"Question: {row['question']}?\nAnswer:", aliases[0], aliases)


def _read_humaneval(row: Row) -> Example:
    solution = row["canonical_solution"]
    return Example(
        question=row["prompt"],
        answer=solution,
        contexts=(row["prompt"],),
        targets=(solution,),
        check=f"{row['test']}\ncheck({row['entry_point']})",
    )


GENERATION_TASKS = (
    _gsm8k(
        "gsm8k",
        _read_gsm8k,
        r"#### (\-?[0-9\.\,]+)",
        "Question:",
        Shots(split="train"),
        5,
    ),
    _gsm8k(
        "gsm8k_cot",
        _read_gsm8k_cot,
        r"The answer is (\-?[0-9\.\,]+).",
        "Q:",
        Shots(sampler="first", fixed=GSM8K_COT_EXAMPLES),
        8,
    ),
    TaskDefinition(
        name="nq_open",
        kind="generation",
        about="questions that people asked a search engine",
        version=4,
        source=Source(
            repository="google-research-datasets/nq_open",
            revision="5dd9790a83002ad084ddeb7c420dc716852c6f28",
            licence="CC-BY-SA-3.0",
            files={"validation": "nq_open/validation-*.parquet", "train": "nq_open/train-*.parquet"},
        ),
        split="validation",
        read=_read_nq_open,
        description="Answer these questions:\n\n",
        example_delimiter="\n",
        shots=Shots(draws_spare=True),
        metrics=("exact_match,remove_whitespace",),
        writing=Writing(
            stop=("\n", ".", ","),
            filters={"remove_whitespace": (Strip(),)},
            normalise=(r"\b(?:The |the |An |A |The |a |an )",),
            ignore_case=True,
            ignore_punctuation=True,
        ),
        num_rows=3610,
    ),
    TaskDefinition(
        name="triviaqa",
        kind="generation",
        about="trivia, without a passage",
        version=3,
        source=Source(
            repository="mandarjoshi/trivia_qa",
            revision="0f7faf33a3908546c6fd5b73a660e0f8ff173c2f",
            licence="not declared on the hub (the paper's release: Apache-2.0)",
            files={"validation": "rc.nocontext/validation-*.parquet", "train": "rc.nocontext/train-*.parquet"},
        ),
        split="validation",
        read=_read_triviaqa,
        shots=Shots(draws_spare=True),
        metrics=("exact_match,remove_whitespace",),
        writing=Writing(
            stop=("\n", ".", ","),
            filters={"remove_whitespace": (Strip(),)},
            ignore_case=True,
            ignore_punctuation=True,
        ),
        num_rows=17944,
    ),
    IFEVAL,
    DROP,
    TaskDefinition(
        name="humaneval",
        kind="generation",
        about="Python functions from their docstrings",
        source=Source(
            repository="openai/openai_humaneval",
            revision="7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
            licence="MIT",
            files={"test": "openai_humaneval/test-*.parquet"},
        ),
        read=_read_humaneval,
        delimiter="",
        shots=Shots(split="test"),
        metrics=("pass@1",),
        writing=Writing(stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint"), max_new_tokens=1024, filters={}),
        num_rows=164,
        runs_code=True,
    ),
    *BBH_TASKS,
    *MINERVA_MATH_TASKS,
)
GENERATION_GROUPS = {**BBH_GROUPS, **MINERVA_MATH_GROUPS}
"""Group -> its members."""
