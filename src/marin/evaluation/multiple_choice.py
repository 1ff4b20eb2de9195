"""Multiple choice by log-likelihood: the model's answer is the choice that it finds most likely after the query.

Nothing is generated, so nothing is parsed: a small model that cannot follow an instruction still has a score, and a
score has an exact meaning. The price is that plain likelihood favours choices that are likely as text whatever the
query is. Two remedies stand beside it: dividing by length (`acc_norm`, `acc_bytes`), and subtracting what the choice
has without the query (`acc_mutual_info`), which costs a second, short request for each choice.
"""

import bisect
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from marin.evaluation.scoring import Encoder, Progress, Request, ScoredModel, alone_request, log_likelihoods
from marin.evaluation.tasks import MultipleChoiceTask, Question
from marin.evaluation.tasks.scores import choice_scores

CONTINUATION_CHOICE_VERSION = 2
"""Version of the task that `continuation_choice` makes. 2: the length of a choice counts its indentation."""


METRICS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
"""Ways to choose among the choices; see `tasks.scores.choice_scores`."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a model answered one question."""

    question: Question
    log_probs: tuple[float, ...]
    """Log-likelihood of each choice after the query, natural."""
    log_probs_alone: tuple[float, ...]
    """The same after nothing."""
    right: Mapping[str, bool]
    """Metric -> whether the choice with the highest score is the right one; the first of equals counts."""
    num_cut_tokens: int = 0
    """Most tokens that any of its requests lost on the left."""
    boundary_merged: bool = False
    """Whether in any of its requests a token spanned query and choice."""


def judge(question: Question, log_probs: Sequence[float], log_probs_alone: Sequence[float], **counts: Any) -> Answer:
    """The answer that these log-likelihoods, after the query and after nothing, amount to.

    Choices are compared by `tasks.scores.choice_scores`, as every task's are; ValueError for another number of scores
    than choices.
    """
    if not len(log_probs) == len(log_probs_alone) == len(question.choices):
        raise ValueError(
            f"question '{question.id}': {len(log_probs)} and {len(log_probs_alone)} scores for "
            f"{len(question.choices)} choices"
        )
    scores = choice_scores(log_probs, question.choices, alone=log_probs_alone)
    return Answer(
        question=question,
        log_probs=tuple(map(float, log_probs)),
        log_probs_alone=tuple(map(float, log_probs_alone)),
        right={metric: bool(np.argmax(scores[metric]) == question.gold) for metric in METRICS},
        **counts,
    )


def answer_questions(
    model: ScoredModel, tokenizer: Encoder, task: MultipleChoiceTask, progress: Progress | None = None
) -> list[Answer]:
    """The model's answer to each question of the task, in its order."""
    after = [
        Request(context=question.query, continuation=task.delimiter + choice)
        for question in task.questions
        for choice in question.choices
    ]
    alone = [alone_request(request) for request in after]
    scored = log_likelihoods(model, tokenizer, after + alone, progress)
    answers = []
    start = 0
    for question in task.questions:
        end = start + len(question.choices)
        with_query, without = scored[start:end], scored[len(after) + start : len(after) + end]
        answers.append(
            judge(
                question,
                [answer.log_prob for answer in with_query],
                [answer.log_prob for answer in without],
                num_cut_tokens=max(answer.num_cut_tokens for answer in with_query),
                boundary_merged=any(answer.boundary_merged for answer in with_query),
            )
        )
        start = end
    return answers


def answer_with_bytes(byte_bits: Callable[[bytes, bytes], Any], task: MultipleChoiceTask) -> list[Answer]:
    """Answers of a byte model, `byte_bits(text, context) -> bits of each byte of text`, to the same questions.

    A context of no bytes is a document's beginning.
    """
    answers = []
    for question in task.questions:
        context = question.query.rstrip()
        between = question.query[len(context) :] + task.delimiter
        texts = [(between + choice).encode("utf-8") for choice in question.choices]
        after, alone = (
            [-float(np.sum(byte_bits(text, before))) * math.log(2) for text in texts]
            for before in (context.encode("utf-8"), b"")
        )
        answers.append(judge(question, after, alone))
    return answers


def correct(answers: Sequence[Answer], metric: str) -> Bool[np.ndarray, " n"]:
    """Which answers are right by one of METRICS."""
    return np.array([answer.right[metric] for answer in answers], dtype=bool)


def groups_of(answers: Sequence[Answer]) -> list[str]:
    """The cluster of each answer's question; a question without a group is its own."""
    return [f"group {a.question.group}" if a.question.group else f"question {i}" for i, a in enumerate(answers)]


def continuation_choice(
    documents: Sequence[tuple[str, str]],
    *,
    num_questions: int,
    seed: int,
    context_bytes: int = 256,
    choice_bytes: int = 64,
    num_choices: int = 4,
    name: str = "continuation_choice",
) -> MultipleChoiceTask:
    """Which text goes on? Questions made from documents (id, text), the same for the same arguments everywhere.

    A query is the whole lines within context_bytes before some line end of a document. The right choice is the lines
    that follow, as few as reach choice_bytes. The wrong ones follow line ends of other documents and are those nearest
    in length among sixteen drawn for each. Where the right one stands is uniformly random. Questions of one document
    form a group. Every draw is a hash of (seed, question, purpose), so no library's random numbers can change the task.

    With fewer places than asked for, there are fewer questions, and a note says so. Raises ValueError where the
    documents allow no question at all.
    """
    encoded = [(document_id, text.encode("utf-8")) for document_id, text in documents]
    places = [
        (index, cut) for index, (_, data) in enumerate(encoded) for cut in _cuts(data, context_bytes, choice_bytes)
    ]
    num_sources = len({index for index, _ in places})
    if num_sources < 2:
        raise ValueError(
            f"{num_sources} of {len(documents)} documents have {context_bytes} bytes, a line end and "
            f"{choice_bytes} more bytes; a question needs two such documents. Give longer documents, or ask for a "
            "shorter context_bytes and choice_bytes"
        )
    # documents take turns, so that few questions share one; within a document the draw decides
    rank = {place: _draw(seed, "place", documents[place[0]][0], place[1]) for place in places}
    turns: dict[int, int] = {}
    order = []
    for place in sorted(places, key=lambda place: (rank[place], place)):
        turns[place[0]] = turns.get(place[0], 0) + 1
        order.append((turns[place[0]], rank[place], place))
    chosen = [place for _, _, place in sorted(order)[:num_questions]]

    questions = [
        _question(encoded, places, place, f"{number:05d}", seed, context_bytes, choice_bytes, num_choices)
        for number, place in enumerate(chosen)
    ]
    kept = tuple(question for question in questions if question is not None)
    notes = [
        f"made from held-out text: {context_bytes} bytes of context up to a line end; choices are the next lines and "
        f"{num_choices - 1} passages of like length from other held-out documents; guessing scores {1 / num_choices:g}",
    ]
    if len(kept) < num_questions:
        notes.append(f"{len(kept)} of the {num_questions} questions asked for: the documents have no more places")
    return MultipleChoiceTask(name=name, version=CONTINUATION_CHOICE_VERSION, questions=kept, notes=tuple(notes))


def _draw(*key: object) -> int:
    """A uniform 64-bit number that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(repr(key).encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _cuts(data: bytes, context_bytes: int, choice_bytes: int) -> list[int]:
    """Positions just after a line end with enough text before, and enough text other than whitespace behind."""
    cuts = []
    position = data.find(b"\n", context_bytes - 1) + 1
    while 0 < position <= len(data) - choice_bytes:
        context, choice = _context(data, position, context_bytes), _passage(data, position, choice_bytes)
        enough = 2 * len(context.strip()) >= context_bytes and 2 * len(choice.strip()) >= choice_bytes
        # a line of thousands of bytes is no choice of the size asked for
        if enough and len(choice) <= 4 * choice_bytes:
            cuts.append(position)
        position = data.find(b"\n", position) + 1
    return cuts


def _context(data: bytes, cut: int, context_bytes: int) -> bytes:
    """The whole lines that begin within the context_bytes before cut."""
    start = data.find(b"\n", max(0, cut - context_bytes - 1), cut) + 1 if cut > context_bytes else 0
    return data[start:cut]


def _passage(data: bytes, cut: int, choice_bytes: int) -> bytes:
    """The lines after cut, as few as reach choice_bytes, without the whitespace at their end."""
    end = data.find(b"\n", cut + choice_bytes - 1)
    return data[cut : end if end >= 0 else len(data)].rstrip()


def _question(
    documents: Sequence[tuple[str, bytes]],
    places: Sequence[tuple[int, int]],
    place: tuple[int, int],
    question_id: str,
    seed: int,
    context_bytes: int,
    choice_bytes: int,
    num_choices: int,
) -> Question | None:
    """The question at a place, or None where other documents have too few different passages."""
    index, cut = place
    document_id, data = documents[index]
    right = _passage(data, cut, choice_bytes)

    first, last = bisect.bisect_left(places, (index, 0)), bisect.bisect_left(places, (index + 1, 0))
    num_others = len(places) - (last - first)
    candidates: dict[bytes, int] = {}
    for attempt in range(16 * (num_choices - 1)):
        other = _draw(seed, "distractor", document_id, cut, attempt) % num_others
        other_index, other_cut = places[other if other < first else other + (last - first)]
        passage = _passage(documents[other_index][1], other_cut, choice_bytes)
        if passage.strip() != right.strip():
            candidates.setdefault(passage, attempt)
    nearest = sorted(candidates, key=lambda passage: (abs(len(passage) - len(right)), candidates[passage]))
    wrong: list[bytes] = []
    for passage in nearest:
        if passage.strip() not in {other.strip() for other in wrong} and len(wrong) < num_choices - 1:
            wrong.append(passage)
    if len(wrong) < num_choices - 1:
        return None

    gold = _draw(seed, "gold", document_id, cut) % num_choices
    choices = [passage.decode("utf-8") for passage in sorted(wrong, key=lambda p: _draw(seed, "order", cut, p))]
    choices.insert(gold, right.decode("utf-8"))
    return Question(
        id=question_id,
        query=_context(data, cut, context_bytes).decode("utf-8"),
        choices=tuple(choices),
        gold=gold,
        group=document_id,
    )
