"""Score an exported model on held-out text: bits per byte beside two baselines, multiple choice, sample completions.

What is scored is the exported folder and nothing else, read back as a stranger would read it, and only after its
parity.json says that it computes what the checkpoint did. Every baseline is computed here, on the very documents and
questions that the model gets, so that differences are paired. results.json has no clock, path or host in it: the same
model and documents give the same bytes. The price of that is that timings are only printed.
"""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marin.evaluation.baselines import NgramByteModel, UniformByteModel
from marin.evaluation.config import EvaluationConfig
from marin.evaluation.exported import open_export
from marin.evaluation.generation import complete, held_out_prompts
from marin.evaluation.multiple_choice import (
    METRICS,
    Answer,
    answer_questions,
    answer_with_bytes,
    continuation_choice,
    correct,
    groups_of,
)
from marin.evaluation.perplexity import document_bits
from marin.evaluation.progress import ProgressLines
from marin.evaluation.results import (
    TaskResult,
    comparison_entry,
    format_score,
    metric_entry,
    write_results,
)
from marin.evaluation.scoring import DocumentPrefix, Encoder, ScoredModel, prefix_policy, resolve_prefix
from marin.evaluation.statistics import compare_answers, compare_ratios, proportion_estimate, ratio_estimate
from marin.evaluation.tasks import MultipleChoiceTask, prompt_hash
from marin.export.hf import LoadedModel
from marin.inference.generate import generate
from marin.io.records import LineReader, find_record_files
from marin.processing.document import BadRow, Document, parse_documents
from marin.processing.formats.splits import Split, plan_splits
from marin.processing.tokenize.tokenizer import Tokenizer

if TYPE_CHECKING:
    from marin.processing.formats.record import BadRecord

__all__ = ["EvaluationConfig", "run"]

BITS_PER_BYTE = "heldout_text"
BITS_PER_BYTE_VERSION = 1
MODEL, NGRAM, UNIFORM = "model", "ngram3_bytes", "uniform_bytes"


def run(config: EvaluationConfig) -> Path:
    """Evaluate and write results.json and samples.jsonl; returns the path of results.json.

    Raises ValueError for an export that was not verified or was changed since, a tokenizer that does not fit the model,
    and fewer than two held-out documents (a score without an error bar is not reported); FileNotFoundError where
    something is missing.
    """
    exported = open_export(config.model_path, config.tokens_per_batch, allow_unverified=config.allow_unverified)
    model, tokenizer, prefix = exported.scored, exported.tokenizer, exported.document_prefix
    held_out = held_out_documents(config)
    documents = held_out.documents
    total = sum(len(text.encode("utf-8")) for _, text in documents)
    print(f"evaluating on {len(documents)} of {held_out.num_all} held-out documents, {total:,} bytes", flush=True)
    ngram = _train_ngram(config)

    tasks, comparisons, samples = _bits_per_byte(model, tokenizer, ngram, held_out, config)
    if config.num_questions:
        task = continuation_choice(
            documents,
            num_questions=config.num_questions,
            seed=config.seed,
            context_bytes=config.context_bytes,
            choice_bytes=config.choice_bytes,
            num_choices=config.num_choices,
        )
        more = _multiple_choice(model, tokenizer, ngram, task)
        tasks, comparisons, samples = tasks | more[0], comparisons + more[1], samples + more[2]
    generations = _generations(exported.loaded, tokenizer, documents, prefix, config) if config.num_prompts else []

    path = write_results(
        config.output_path,
        model=exported.description,
        tasks=tasks,
        comparisons=comparisons,
        generations=generations,
        samples=samples,
        policy={
            "document_prefix": resolve_prefix(tokenizer, prefix),
            "prefix": prefix_policy(tokenizer, prefix),
            "stride": config.stride if config.stride is not None else max(1, model.seq_len // 2),
            "end_of_document_scored": False,
        },
        config={name: value for name, value in asdict(config).items() if not name.endswith("_path")},
    )
    print(f"results: {path}", flush=True)
    return path


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The documents to score, and what they were taken from."""

    documents: tuple[tuple[str, str], ...]
    """(id, text) of each."""
    num_all: int
    """How many there were to choose from."""
    num_bad: int
    """Lines that were no documents."""


def held_out_documents(config: EvaluationConfig) -> HeldOut:
    """The documents to score.

    They are ordered by a hash of (seed, id), cut at max_document_bytes, and taken until they hold max_bytes, two at
    least; to pass over one that is too long would favour short ones. Blank documents are not counted.
    """
    rows = list(_rows(config.documents_path))
    documents = [(row.id, row.text) for row in rows if isinstance(row, Document) and row.text.strip()]
    num_bad = sum(isinstance(row, BadRow) for row in rows)
    if len(documents) < 2:
        raise ValueError(
            f"{config.documents_path} has {len(documents)} documents with text (and {num_bad} lines that are none); an "
            "evaluation needs at least two, since the error bar of a score comes from the differences between documents"
        )
    documents.sort(key=lambda document: hashlib.sha256(f"{config.seed} {document[0]}".encode()).digest())
    chosen: list[tuple[str, str]] = []
    num_bytes = 0
    for document_id, text in documents:
        if config.max_bytes is not None and num_bytes >= config.max_bytes and len(chosen) >= 2:
            break
        text = cut_at_line_end(text, config.max_document_bytes)
        chosen.append((document_id, text))
        num_bytes += len(text.encode("utf-8"))
    return HeldOut(documents=tuple(chosen), num_all=len(documents), num_bad=num_bad)


_TABLES = ("parquet", "arrow")


def _rows(path: str) -> Iterator[Document | BadRow]:
    """Every row of the files of documents at a path: JSON lines in the order of their names, then tables in theirs."""
    tables = _tables(path)
    files = [file for file in find_record_files(path) if not file.name.endswith(_TABLES)]
    if not files and not tables:
        raise FileNotFoundError(
            f"no documents in {path}: expected files that end in .jsonl, .jsonl.gz, .jsonl.zst, .parquet or .arrow"
        )
    for file in files:
        with LineReader(file) as lines:
            yield from parse_documents(lines, file=file.name)
    for split in tables:
        yield from _rows_of_table(split)


def _tables(path: str) -> list[Split]:
    try:
        return [split for split in plan_splits(path) if split.format in _TABLES]
    except FileNotFoundError:  # nothing that could be documents; a path that is none is told by who looks for lines
        return []


def _rows_of_table(split: Split) -> Iterator[Document | BadRow]:
    from marin.processing.formats.reading import read_split  # JSON lines need no Arrow

    bad: list[BadRow] = []

    def on_bad(record: "BadRecord") -> None:
        line = int(record.position.removeprefix(f"{split.label}:"))
        bad.append(BadRow(line=line, reason=record.reason, text=record.text))

    for batch in read_split(split, columns=("id", "text"), on_bad=on_bad):
        for document_id, text in zip(batch.column("id").to_pylist(), batch.column("text").to_pylist(), strict=True):
            yield Document(id=document_id, text=text)
    yield from bad


def cut_at_line_end(text: str, max_bytes: int | None) -> str:
    """The first whole lines of a text that fit into max_bytes; a first line longer than that is cut at a character."""
    data = text.encode("utf-8")
    if max_bytes is None or len(data) <= max_bytes:
        return text
    end = data.rfind(b"\n", 0, max_bytes) + 1
    return data[: end or max_bytes].decode("utf-8", "ignore")


def _train_ngram(config: EvaluationConfig) -> NgramByteModel:
    rows = _rows(config.train_documents_path)
    texts = (row.text.encode("utf-8") for row in rows if isinstance(row, Document))
    model = NgramByteModel.train(texts, config.max_ngram_train_bytes)
    print(f"n-gram baseline: counted {model.num_train_bytes:,} bytes of training documents", flush=True)
    return model


def _bits_per_byte(
    model: ScoredModel,
    tokenizer: Encoder,
    ngram: NgramByteModel,
    held_out: HeldOut,
    config: EvaluationConfig,
) -> tuple[dict[str, TaskResult], list[dict[str, Any]], list[dict[str, Any]]]:
    documents = held_out.documents
    texts = [text for _, text in documents]
    data = [text.encode("utf-8") for text in texts]
    scored = document_bits(model, tokenizer, texts, config.stride, ProgressLines("bits per byte", "rows"))
    bits = {
        MODEL: scored.bits,
        UNIFORM: UniformByteModel().document_bits(data),
        NGRAM: ngram.document_bits(data),
    }
    note = f"{len(documents)} of {held_out.num_all} held-out documents"
    if held_out.num_bad:
        note += f" ({held_out.num_bad} lines were no documents and are left out)"
    if config.max_document_bytes is not None:
        note += f", each up to the last line end within {config.max_document_bytes:,} bytes"
    notes = {
        MODEL: [note + "; the error is of the ratio of sums over documents"],
        UNIFORM: ["every byte equally likely: exact"],
        NGRAM: [
            f"interpolated Kneser-Ney over the three bytes before, of {ngram.num_train_bytes:,} bytes of training text"
        ],
    }
    tasks = {}
    for name, values in bits.items():
        estimate = ratio_estimate(values, scored.num_bytes)
        tasks[_task_name(BITS_PER_BYTE, name)] = TaskResult(
            version=BITS_PER_BYTE_VERSION,
            n=len(documents),
            prompt_hash=prompt_hash(texts),
            metrics={"bits_per_byte": metric_entry(estimate, higher_is_better=False, exact=name == UNIFORM)},
            counts={"num_bytes": int(scored.num_bytes.sum())}
            | ({"num_tokens": int(scored.num_tokens.sum())} if name == MODEL else {}),
            notes=notes[name],
        )
        print(f"{name}: {format_score(estimate.value, estimate.stderr, estimate.n)} bits per byte", flush=True)
    comparisons = []
    for name in (NGRAM, UNIFORM):
        compared = compare_ratios((MODEL, bits[MODEL]), (name, bits[name]), scored.num_bytes, "bits_per_byte")
        comparisons.append(comparison_entry(compared, higher_is_better=False, unit="documents"))
    samples = [
        {
            "task": BITS_PER_BYTE,
            "doc_id": document_id,
            "num_bytes": int(scored.num_bytes[index]),
            "num_tokens": int(scored.num_tokens[index]),
            "bits": {name: float(values[index]) for name, values in bits.items()},
        }
        for index, (document_id, _) in enumerate(documents)
    ]
    return tasks, comparisons, samples


def _multiple_choice(
    model: ScoredModel, tokenizer: Encoder, ngram: NgramByteModel, task: MultipleChoiceTask
) -> tuple[dict[str, TaskResult], list[dict[str, Any]], list[dict[str, Any]]]:
    answers = {
        MODEL: answer_questions(model, tokenizer, task, ProgressLines(task.name)),
        NGRAM: answer_with_bytes(ngram.byte_bits, task),
    }
    groups = groups_of(answers[MODEL])
    tasks = {}
    for name, given in answers.items():
        metrics = {}
        for metric in METRICS:
            metrics[metric] = metric_entry(proportion_estimate(correct(given, metric), groups), higher_is_better=True)
        tasks[_task_name(task.name, name)] = TaskResult(
            version=task.version,
            n=len(given),
            num_fewshot=task.num_fewshot,
            prompt_hash=task.prompt_hash,
            chance=task.chance,
            metrics=metrics,
            counts=_request_counts(given) | {"num_documents": len(set(groups))},
            notes=task.notes if name == MODEL else ["the same questions, answered by the n-gram byte model"],
        )
        for metric in ("acc", "acc_mutual_info"):
            score = format_score(metrics[metric]["value"], metrics[metric]["stderr"], len(given))
            print(f"{name}: {score} {metric} in {task.name}, chance {task.chance:.4f}", flush=True)
    comparisons = []
    for metric in ("acc", "acc_mutual_info"):
        hits = {name: correct(given, metric) for name, given in answers.items()}
        compared = compare_answers((MODEL, hits[MODEL]), (NGRAM, hits[NGRAM]), metric, groups)
        comparisons.append(comparison_entry(compared, higher_is_better=True, unit="questions"))
    samples = [
        {
            "task": task.name,
            "doc_id": answer.question.id,
            "group": answer.question.group,
            "query": answer.question.query,
            "choices": list(answer.question.choices),
            "target": answer.question.gold,
            "log_probs": {MODEL: list(answer.log_probs), NGRAM: list(other.log_probs)},
            "log_probs_alone": {MODEL: list(answer.log_probs_alone), NGRAM: list(other.log_probs_alone)},
        }
        | {metric: {MODEL: answer.right[metric], NGRAM: other.right[metric]} for metric in METRICS}
        for answer, other in zip(answers[MODEL], answers[NGRAM], strict=True)
    ]
    return tasks, comparisons, samples


def _request_counts(answers: Sequence[Answer]) -> dict[str, int]:
    return {
        "num_truncated": sum(answer.num_cut_tokens > 0 for answer in answers),
        "num_boundary_merged": sum(answer.boundary_merged for answer in answers),
    }


def _generations(
    loaded: LoadedModel,
    tokenizer: Tokenizer,
    documents: Sequence[tuple[str, str]],
    prefix: DocumentPrefix | None,
    config: EvaluationConfig,
) -> list[dict[str, Any]]:
    max_new_tokens = max(1, min(config.max_new_tokens, loaded.config.seq_len // 2))
    samplings: dict[str, Mapping[str, Any]] = {
        "greedy" if temperature == 0 else f"temperature {temperature:g}": {
            "temperature": temperature,
            "seed": config.seed,
        }
        for temperature in config.temperatures
    }
    rows = complete(
        functools.partial(generate, loaded.config, loaded.params),
        tokenizer,
        held_out_prompts(documents, config.num_prompts, config.prompt_characters),
        max_new_tokens=max_new_tokens,
        samplings=samplings,
        max_prompt_tokens=max(1, loaded.config.seq_len - max_new_tokens),
        document_prefix=prefix,
    )
    print(f"completions: {len(rows)}", flush=True)
    return rows


def _task_name(task: str, system: str) -> str:
    return task if system == MODEL else f"{task}/{system}"
