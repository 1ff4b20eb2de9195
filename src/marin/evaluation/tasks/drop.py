"""DROP: questions about a passage that ask for counting, arithmetic or spans of it (Dua et al., "DROP: A Reading
Comprehension Benchmark Requiring Discrete Reasoning Over Paragraphs", 2019).

Prompt and scores are those of lm-evaluation-harness 0.4.13 (MIT). Its worked examples are not: it would show the names
of the answer's columns there; ours show the answer.
"""

import json
import re
import string

from marin.evaluation.tasks.choice_tasks import group_of
from marin.evaluation.tasks.definition import Example, Row, Shots, Source, TaskDefinition, Writing

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)


def read(row: Row) -> Example:
    """The targets are the different right answers, each a JSON list of spans that belong together."""
    given = row["validated_answers"]
    others = zip(given["number"], given["date"], given["spans"], strict=True)
    rows = [row["answer"], *({"number": number, "date": date, "spans": spans} for number, date, spans in others)]
    answers = list(dict.fromkeys(_spans(each) for each in rows))
    question = f"{row['passage']} {row['question']}"
    return Example(
        question=question,
        answer=", ".join(answers[0]),
        contexts=(question,),
        targets=tuple(json.dumps(answer, ensure_ascii=False) for answer in answers),
        group=group_of(row["passage"]),
    )


def _spans(answer: Row) -> tuple[str, ...]:
    if answer["number"] != "":
        return (str(answer["number"]),)
    if len(answer["spans"]):
        return tuple(answer["spans"])
    date = answer["date"]
    return (" ".join((date["day"], date["month"], date["year"])).strip(),)


def judge(example: Example, text: str) -> dict[str, float | bool]:
    """Exact match and F1 of the best fitting right answer; one that says nothing counts for none."""
    scores = [_scores(text, json.loads(target)) for target in example.targets if json.loads(target)[0].strip()]
    return {
        "f1": max((f1 for _, f1 in scores), default=0.0),
        "em": max((exact for exact, _ in scores), default=False),
    }


def _scores(text: str, spans: list[str]) -> tuple[bool, float]:
    """(exact match, F1) of a text, which is one span, with the spans of an answer.

    The text is held against the span that it fits best, and the others have F1 0. Both are rounded as published.
    """
    said, right = _normalised(text), [_normalised(span) for span in spans]
    f1 = max(_bag_f1(said, span) for span in right) / len(right)
    return right == [said], round(f1 * 100) / 100


def _bag_f1(said: str, right: str) -> float:
    """F1 over the different words; 0 where the answer has numbers and the text none of them."""
    found, wanted = set(said.split()), set(right.split())
    numbers = {word for word in wanted if _is_number(word)}
    if numbers and not numbers & found:
        return 0.0
    common = len(found & wanted)
    precision = common / len(found) if found else 1.0
    recall = common / len(wanted) if wanted else 1.0
    return 2 * precision * recall / (precision + recall) if precision or recall else 0.0


def _normalised(text: str) -> str:
    """In lower case, numbers as floats, without articles and the punctuation of other words."""
    words = []
    for word in re.split(" |-", text.lower()):
        if not _is_number(word):
            word = "".join(letter for letter in word if letter not in _PUNCTUATION)
        word = str(float(word)) if _is_number(word) else word
        words += _ARTICLES.sub(" ", word).split()
    return " ".join(words)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


DROP = TaskDefinition(
    name="drop",
    kind="generation",
    about="reading that needs counting and arithmetic",
    version=3,
    source=Source(
        repository="EleutherAI/drop",
        revision=None,
        licence="CC-BY-SA-4.0",
        files={"validation": "*validation*", "train": "*train*"},
    ),
    split="validation",
    read=read,
    judge=judge,
    delimiter="",
    shots=Shots(draws_spare=True),
    metrics=("f1", "em"),
    writing=Writing(stop=(".",), filters={}),
    num_rows=9536,
)
