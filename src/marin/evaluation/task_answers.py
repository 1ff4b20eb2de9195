"""Ask a model the questions of one task: what it answered, question by question, and what is right about it.

Nothing here knows a model's kind: it is scored as `marin.evaluation.scoring` scores and writes as
`marin.inference.text` writes, whether it comes from a folder or from a training run.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from marin.evaluation.chat_prompts import ChatPrompts
from marin.evaluation.code_execution import ExecutionLimits
from marin.evaluation.code_tasks import program_values
from marin.evaluation.scoring import (
    DocumentPrefix,
    LogLikelihood,
    NotFiniteError,
    Progress,
    Request,
    ScoredModel,
    TooLongError,
    alone_request,
    log_likelihoods,
)
from marin.evaluation.task_plan import PlannedTask
from marin.evaluation.tasks.plan import Asked
from marin.evaluation.tasks.scores import choice_values, continuation_values, written_values
from marin.evaluation.tasks.shots import PromptedQuestion


class EvaluatedModel(Protocol):
    """A model that tasks are asked of; `marin.evaluation.exported.ExportedModel` is one."""

    @property
    def scored(self) -> ScoredModel: ...

    @property
    def loaded(self) -> Any:
        """config and params, for tasks that write."""
        ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def document_prefix(self) -> DocumentPrefix | None: ...

    @property
    def description(self) -> Mapping[str, Any]:
        """What it is, by content."""
        ...


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What a model answered to the questions of a task."""

    samples: list[dict[str, Any]]
    """A row for each question, as samples.jsonl has it: what was asked, the answer, and each metric's value."""
    counts: dict[str, int]
    """What happened on the way, see `TaskResult`."""
    notes: list[str]
    """What a reader of the scores must know."""


class UnfitTaskError(ValueError):
    """The task cannot be put to this model, and to another it could: a candidate is longer than the model reads."""


def ask(
    model: EvaluatedModel,
    planned: PlannedTask,
    *,
    seed: int,
    mutual_information: bool = False,
    progress: Progress | None = None,
    execution_limits: ExecutionLimits,
    chat: ChatPrompts | None = None,
) -> Answered:
    """The model's answers to a task. `seed` draws texts where the task draws them, `mutual_information` also scores
    each candidate after nothing, programs that the model writes have `execution_limits`, and `chat` is what wrote the
    prompts, where they are conversations.

    Raises ValueError for a tokenizer that gives none of the task's texts back, and for a log-probability that is no
    number, with the question.
    """
    task, questions = planned.task, planned.questions
    changed = num_not_given_back(model.tokenizer, planned)
    if task.definition.kind == "generation":
        answered = _write(model, task, questions, progress, execution_limits, seed, chat)
    else:
        answered = _score(model, task, questions, mutual_information, progress, chat)
    notes = [*answered.notes]
    if changed:
        notes.append(
            f"the tokenizer does not give the text of {changed} of {len(questions)} questions back: the model read "
            "something else than was asked"
        )
    counts = {**answered.counts, "num_not_given_back": changed}
    return Answered(samples=answered.samples, counts=counts, notes=notes)


def num_not_given_back(tokenizer: Any, planned: PlannedTask) -> int:
    """Questions whose text is another one after encoding and decoding. ValueError where that is every one."""
    task, questions = planned.task, planned.questions
    texts = [question.example.question + "".join(question.example.continuations) for question in questions]
    if not hasattr(tokenizer, "decode"):
        return 0
    decoded = [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)]
    # tokenizers of the SentencePiece kind put a blank in front
    changed = [
        (text, other) for text, other in zip(texts, decoded, strict=True) if other != text and other.lstrip() != text
    ]
    if len(changed) == len(texts):
        text, other = changed[0]
        raise ValueError(
            f"task '{task.key}': the tokenizer gives no text of it back; {text[:60]!r} becomes {other[:60]!r}. Scores "
            "would be of other texts: evaluate with the tokenizer that the model was trained with"
        )
    return len(changed)


def _score(
    model: EvaluatedModel,
    task: Asked,
    questions: Sequence[PromptedQuestion],
    mutual_information: bool,
    progress: Progress | None,
    chat: ChatPrompts | None,
) -> Answered:
    """Log-likelihoods of every candidate of every question."""
    choosing = task.definition.kind == "multiple_choice"
    # a single continuation has its blank in front, and a chat template ends the turn before a candidate
    between = task.definition.delimiter if choosing and chat is None else ""
    encoder = model.tokenizer if chat is None else chat.encoder
    requests = [
        Request(context=prompt, continuation=between + continuation)
        for question in questions
        for prompt, continuation in zip(question.prompts, question.example.continuations, strict=True)
    ]
    alone = [alone_request(each) for each in requests] if mutual_information else []
    alone = alone if choosing else []
    try:
        scored = log_likelihoods(model.scored, encoder, [*requests, *alone], progress)
    except (NotFiniteError, TooLongError) as error:
        owners = [question.doc_id for question in questions for _ in question.example.continuations]
        kind = UnfitTaskError if isinstance(error, TooLongError) else ValueError
        raise kind(f"task '{task.key}', question {owners[error.index % len(requests)]}: {error}") from error
    samples, counts = [], Counter[str](num_truncated=0, num_boundary_merged=0)
    start = 0
    for question in questions:
        example = question.example
        end = start + len(example.continuations)
        answers = scored[start:end]
        without = scored[len(requests) + start : len(requests) + end] if alone else None
        values = choice_values(example, answers, without) if choosing else _continuation(task, answers[0])
        cut = max(answer.num_cut_tokens for answer in answers)
        counts["num_truncated"] += cut > 0
        counts["num_boundary_merged"] += any(answer.boundary_merged for answer in answers)
        samples.append(
            {
                **_sample(task, question),
                "choices": list(example.choices),
                "target": example.gold[0] if len(example.gold) == 1 else list(example.gold) or example.answer,
                "log_probs": [answer.log_prob for answer in answers],
                "num_tokens": [answer.num_tokens for answer in answers],
                "is_greedy": [answer.is_greedy for answer in answers],
                "num_truncated": cut,
                **({"log_probs_alone": [answer.log_prob for answer in without]} if without else {}),
                **values,
            }
        )
        start = end
    return Answered(samples=samples, counts=dict(counts), notes=[])


def _continuation(task: Asked, answer: LogLikelihood) -> dict[str, Any]:
    if answer.is_greedy is None:
        raise ValueError(
            f"task '{task.key}' asks whether greedy decoding would write the answer, and this model gives "
            "log-probabilities only; score it through `scoring.scored_model`"
        )
    return continuation_values(answer)


def _write(
    model: EvaluatedModel,
    task: Asked,
    questions: Sequence[PromptedQuestion],
    progress: Progress | None,
    limits: ExecutionLimits,
    seed: int,
    chat: ChatPrompts | None,
) -> Answered:
    """Texts behind every prompt, and what is right about them."""
    from marin.inference.sampling import Sampling
    from marin.inference.text import generate_text

    writing = task.definition.writing
    assert writing is not None, task
    room = min(writing.max_new_tokens, max(1, model.scored.seq_len // 2))
    completions = generate_text(
        model.loaded,
        model.tokenizer if chat is None else chat.encoder,
        [question.prompts[0] for question in questions],
        max_new_tokens=room,
        stop=writing.stop,
        sampling=Sampling(temperature=writing.temperature),
        num_samples=writing.num_samples,
        seed=seed,
        document_prefix=model.document_prefix,
        stop_ids=None if chat is None else chat.stop_ids,
        progress=progress,
    )
    samples = []
    for index, question in enumerate(questions):
        ours = completions[index * writing.num_samples : (index + 1) * writing.num_samples]
        completion, texts = ours[0], [each.text for each in ours]
        values, answers = written_values(task.definition, question.example, completion.text)
        programs: dict[str, Any] = {}
        if task.definition.runs_code:
            values, programs["programs"] = program_values(question.example, texts, limits)
        samples.append(
            {
                **_sample(task, question),
                "target": question.example.targets[0],
                "resps": texts,
                "filtered_resps": answers,
                "finish_reason": completion.finish_reason,
                "num_truncated": completion.num_prompt_tokens_cut,
                **programs,
                **values,
            }
        )
    notes = []
    if room < writing.max_new_tokens:
        notes.append(f"texts of at most {room} tokens, not {writing.max_new_tokens}: the model reads no more")
    return Answered(
        samples=samples,
        counts={
            "num_truncated": sum(row["num_truncated"] > 0 for row in samples),
            "num_ended_by_length": sum(row["finish_reason"] == "length" for row in samples),
        },
        notes=notes,
    )


def _sample(task: Asked, question: PromptedQuestion) -> dict[str, Any]:
    """What every row of samples.jsonl has; solved examples only by the hash of all that stands in front."""
    prefix = question.prefix.encode("utf-8", "surrogatepass")
    return {
        "task": task.key,
        "doc_id": question.doc_id,
        "group": question.example.group,
        "prompt": question.example.contexts[0],
        "prefix_hash": hashlib.sha256(prefix).hexdigest()[:16] if prefix else "",
    }
