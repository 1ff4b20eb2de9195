"""Score an exported model on held-out conversations: how likely the answers are to it, and whether it stops.

A model that was fine-tuned on answers must have learned two things, what to say and when to be done. The first is
measured as in training, nats for each token that training asks for. The second by letting it answer: the share of
answers that end, by the token that ends a turn or by end-of-text, within so many tokens. What share the held-out
answers themselves have is beside it: a model that has learned how long answers are comes near it at temperature 1.

The model that it was before is the baseline. It gets the same prompts in the same words, so differences are paired.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from marin.evaluation.config import ChatEvaluationConfig
from marin.evaluation.exported import ExportedModel, open_export
from marin.evaluation.results import TaskResult, comparison_entry, format_score, metric_entry, write_results
from marin.evaluation.scoring import prefix_id, prefix_policy, score_rows
from marin.evaluation.statistics import compare_answers, compare_ratios, proportion_estimate, ratio_estimate
from marin.evaluation.tasks import prompt_hash
from marin.inference.generate import generate
from marin.processing.formats.reading import read_split
from marin.processing.formats.splits import column_names
from marin.processing.tokenize.chat import ChatRows, ChatTemplate, Conversation
from marin.processing.tokenize.inputs import plan_inputs

__all__ = ["ChatEvaluationConfig", "run"]

TASK = "chat"
TASK_VERSION = 1
MODEL, BASELINE, REFERENCE = "model", "baseline", "reference"


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutAnswer:
    """The last answer of a conversation, and what stands before it."""

    id: str
    prompt: str
    """All text before the answer."""
    prompt_ids: np.ndarray
    """int32 (p,): the token before a document, then the prompt."""
    ids: np.ndarray
    """int32 (n,): the whole conversation with its end-of-text token."""
    mask: np.ndarray
    """bool (n,): which of these are scored: all answers."""
    answer: str
    """The answer, with the token that ends it."""
    num_answer_tokens: int
    """Tokens of it, that one included."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What one model made of the held-out answers, in their order."""

    nats: np.ndarray
    """float64 (n,): negative log-likelihood of all that is scored of a conversation."""
    completions: list[str]
    """What it answered, without the token that ended it."""
    num_tokens: list[int]
    """Tokens of that."""
    has_stopped: np.ndarray
    """bool (n,): whether it came to an end."""


def run(config: ChatEvaluationConfig) -> Path:
    """Evaluate and write results.json and samples.jsonl; returns the path of results.json.

    Raises ValueError for an export that was not verified, a baseline of another tokenizer, and fewer than two
    conversations that the model can read.
    """
    paths = {MODEL: config.model_path} | ({} if config.baseline_path is None else {BASELINE: config.baseline_path})
    exported = {
        name: open_export(path, config.tokens_per_batch, allow_unverified=config.allow_unverified)
        for name, path in paths.items()
    }
    _check_same_tokenizer(exported, paths)
    model = exported[MODEL]
    template = ChatTemplate(config.chat, model.tokenizer)
    longest = min(each.loaded.config.seq_len for each in exported.values())
    answers, counts = _held_out(config, template, model, longest)
    stop_ids = {template.stop_id, model.tokenizer.eos_id}
    given = {name: _answer(each, answers, stop_ids, config) for name, each in exported.items()}

    num_scored = np.array([answer.mask.sum() for answer in answers])
    would_stop = np.array([answer.num_answer_tokens <= config.max_new_tokens for answer in answers])
    texts = [answer.prompt for answer in answers]
    left_out = f"{counts['num_too_long']} were too long for the model, {counts['num_bad']} no conversations"
    print(f"evaluating on {len(answers)} held-out conversations; {left_out}", flush=True)
    tasks = {}
    for name, each in given.items():
        loss, stops = ratio_estimate(each.nats, num_scored), proportion_estimate(each.has_stopped)
        tasks[TASK if name == MODEL else f"{TASK}/{name}"] = TaskResult(
            version=TASK_VERSION,
            n=len(answers),
            prompt_hash=prompt_hash(texts),
            metrics={
                "nats_per_token": metric_entry(loss, higher_is_better=False),
                "stop_rate": metric_entry(stops, higher_is_better=True),
            },
            counts=counts | {"num_tokens": int(num_scored.sum())},
            notes=[f"stop_rate: ended within {config.max_new_tokens} tokens at temperature {config.temperature:g}"],
        )
        print(f"{name}: {format_score(loss.value, loss.stderr, loss.n)} nats a token of the answers", flush=True)
        print(f"{name}: {format_score(stops.value, stops.stderr, stops.n)} of its answers end", flush=True)
    short = proportion_estimate(would_stop)
    print(
        f"{REFERENCE}: {format_score(short.value, short.stderr, short.n)} of the held-out answers are that short "
        f"(at most {config.max_new_tokens} tokens)",
        flush=True,
    )
    tasks[f"{TASK}/{REFERENCE}"] = TaskResult(
        version=TASK_VERSION,
        n=len(answers),
        prompt_hash=prompt_hash(texts),
        metrics={"stop_rate": metric_entry(short, higher_is_better=True)},
        notes=[f"held-out answers of at most {config.max_new_tokens} tokens, the one that ends them included"],
    )
    comparisons = []
    if BASELINE in given:
        one, other = given[MODEL], given[BASELINE]
        loss = compare_ratios((MODEL, one.nats), (BASELINE, other.nats), num_scored, "nats_per_token")
        stops = compare_answers((MODEL, one.has_stopped), (BASELINE, other.has_stopped), "stop_rate")
        comparisons = [
            comparison_entry(loss, higher_is_better=False, unit="conversations"),
            comparison_entry(stops, higher_is_better=True, unit="conversations"),
        ]
    path = write_results(
        config.output_path,
        model=model.description,
        tasks=tasks,
        comparisons=comparisons,
        generations=[
            {"document": answer.id, "prompt": answer.prompt, "reference": answer.answer}
            | {"completion": given[MODEL].completions[i], "num_tokens": given[MODEL].num_tokens[i]}
            | {"sampling": f"temperature {config.temperature:g}", "stopped": bool(given[MODEL].has_stopped[i])}
            for i, answer in enumerate(answers[: config.num_shown])
        ],
        samples=[
            {
                "task": TASK,
                "doc_id": answer.id,
                "num_tokens": int(num_scored[i]),
                "num_answer_tokens": answer.num_answer_tokens,
                "nats": {name: float(each.nats[i]) for name, each in given.items()},
                "stopped": {name: bool(each.has_stopped[i]) for name, each in given.items()},
                "completion": {name: each.completions[i] for name, each in given.items()},
                "num_completion_tokens": {name: each.num_tokens[i] for name, each in given.items()},
            }
            for i, answer in enumerate(answers)
        ],
        policy={"prefix": prefix_policy(model.tokenizer, model.document_prefix), "stop_ids": sorted(stop_ids)},
        config={name: value for name, value in asdict(config).items() if not name.endswith("_path")},
    )
    print(f"results: {path}", flush=True)
    return path


def _check_same_tokenizer(exported: dict[str, ExportedModel], paths: dict[str, str]) -> None:
    if BASELINE not in exported:
        return
    ours, theirs = exported[MODEL].tokenizer.digest, exported[BASELINE].tokenizer.digest
    if ours != theirs:
        raise ValueError(
            f"the model at {paths[MODEL]} has a tokenizer of digest {ours[:12]} and the baseline at {paths[BASELINE]} "
            f"one of {theirs[:12]}: nats a token of the two cannot be compared. Leave the baseline out, or name the "
            "model that this one began as."
        )


def _held_out(
    config: ChatEvaluationConfig, template: ChatTemplate, model: ExportedModel, longest: int
) -> tuple[list[HeldOutAnswer], dict[str, int]]:
    """The conversations to score, in an order drawn by the seed, and counts of those left out."""
    conversations, num_bad = _conversations(config.conversations_path, ChatRows(template))
    conversations.sort(key=lambda row: hashlib.sha256(f"{config.seed} {row.id}".encode()).digest())
    first = prefix_id(model.tokenizer, model.document_prefix)
    made = [_held_out_answer(row, template, model, first) for row in conversations]
    fitting = [
        answer
        for answer in made
        if answer.ids.size <= longest and answer.prompt_ids.size + config.max_new_tokens <= longest
    ]
    if len(fitting) < 2:
        raise ValueError(
            f"{config.conversations_path} has {len(fitting)} conversations that the model can read with "
            f"{config.max_new_tokens} new tokens in {longest} (of {len(made) + num_bad} rows, {num_bad} of them no "
            "conversations); an error bar takes two at least. Use a smaller max_new_tokens, or more conversations."
        )
    counts = {"num_bad": num_bad, "num_too_long": len(made) - len(fitting)}
    return fitting[: config.max_conversations], counts


def _conversations(path: str, kind: ChatRows) -> tuple[list[Conversation], int]:
    """All rows of the files that are conversations, in their order, and how many are none."""
    found: list[Conversation] = []
    bad: list[str] = []
    for split in plan_inputs(path, format=None):
        columns = kind.columns(column_names(split))
        for batch in read_split(split, columns=columns, on_bad=lambda record: bad.append(record.reason)):
            found += kind.conversations(batch, lambda line, reason, beginning: bad.append(reason))
    return found, len(bad)


def _held_out_answer(row: Conversation, template: ChatTemplate, model: ExportedModel, first: int) -> HeldOutAnswer:
    [encoded] = template.encode([row.spans])
    assert encoded.loss_mask is not None
    ids, mask = np.append(encoded.ids, model.tokenizer.eos_id).astype(np.int32), encoded.loss_mask
    begin = int(np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0) == 1)[-1])  # of the last answer
    num_answer_tokens = int(mask[begin:].sum())
    return HeldOutAnswer(
        id=row.id,
        prompt=model.tokenizer.decode(ids[:begin]),
        prompt_ids=np.concatenate([[first], ids[:begin]]).astype(np.int32),
        ids=ids,
        mask=mask,
        answer=model.tokenizer.decode(ids[begin : begin + num_answer_tokens]),
        num_answer_tokens=num_answer_tokens,
    )


def _answer(
    exported: ExportedModel, answers: Sequence[HeldOutAnswer], stop_ids: set[int], config: ChatEvaluationConfig
) -> Answers:
    rows = [(np.concatenate([answer.prompt_ids[:1], answer.ids[:-1]]), answer.ids) for answer in answers]
    log_probs = score_rows(exported.scored, rows)
    completions = generate(
        exported.loaded.config,
        exported.loaded.params,
        [answer.prompt_ids.tolist() for answer in answers],
        max_new_tokens=config.max_new_tokens,
        stop_ids=stop_ids,
        temperature=config.temperature,
        seed=config.seed,
    )
    return Answers(
        nats=np.array(
            [-np.asarray(found, np.float64)[a.mask].sum() for a, found in zip(answers, log_probs, strict=True)]
        ),
        completions=[exported.tokenizer.decode(tokens) for tokens in completions],
        num_tokens=[len(tokens) for tokens in completions],
        # there is room for max_new_tokens, so that nothing but a stop makes fewer of them
        has_stopped=np.array([len(tokens) < config.max_new_tokens for tokens in completions]),
    )
