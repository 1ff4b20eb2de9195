"""The validation sets of training as an evaluation: loss and bits per byte of each tag, with error bars.

Training measures the same token stores every so many steps, in packed rows, for a curve. Here every document is scored
by itself, in windows that overlap (`perplexity`), the same way for every model, so a score has an error bar over
documents and two models can be compared document by document. The numbers differ a little from training's: no document
is cut at the end of a row, and the end of a document, which has no bytes, is not scored.

Sets below one parent (`paloma/c4_en`, `paloma/ptb`) are also one: the micro average, all bits over all bytes, where
large sets count for more, and the macro average, the mean of the sets' own, where each counts alike.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from marin.data.store import TokenStore
from marin.evaluation.config import ValidationConfig
from marin.evaluation.exported import ExportedModel
from marin.evaluation.models import open_model
from marin.evaluation.perplexity import token_bits
from marin.evaluation.progress import ProgressLines
from marin.evaluation.results import TaskResult, format_score, metric_entry, write_results
from marin.evaluation.scoring import prefix_id, prefix_policy, resolve_prefix
from marin.evaluation.statistics import Z95, Estimate, ratio_estimate
from marin.evaluation.tasks import prompt_hash

__all__ = ["ValidationConfig", "run"]

VERSION = 2
METRICS = ("bits_per_byte", "loss")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scored:
    """The documents of one set."""

    ids: Sequence[str]
    bits: np.ndarray
    num_bytes: np.ndarray
    num_tokens: np.ndarray
    num_all: int
    texts: str
    """sha256 over the documents' texts, which those who read them in other tokens have in common."""

    def estimates(self) -> dict[str, Estimate]:
        """Of METRICS: bits over bytes, nats over tokens."""
        nats = self.bits * math.log(2)
        return {
            "bits_per_byte": ratio_estimate(self.bits, self.num_bytes),
            "loss": ratio_estimate(nats, self.num_tokens),
        }


def run(config: ValidationConfig) -> Path:
    """Score every set and write results.json and samples.jsonl; returns the path of results.json.

    Raises ValueError for a store that another tokenizer made, a store of conversations or of fewer than two documents,
    a set with the name of a parent of others, and as `open_model` does.
    """
    for tag in config.sets:
        if any(other.startswith(f"{tag}/") for other in config.sets):
            raise ValueError(f"set '{tag}' has the name under which sets 'like {tag}/...' are measured together")
    model = open_model(
        config.model_path,
        checkpoint=config.checkpoint,
        tokenizer=config.tokenizer_path,
        tokens_per_batch=config.tokens_per_batch,
        allow_unverified=config.allow_unverified,
    )
    stores = {tag: _open(tag, path, model) for tag, path in config.sets.items()}
    scored = {tag: _score(tag, store, model, config) for tag, store in stores.items()}
    tasks = {tag: _task(found) for tag, found in scored.items()}
    groups = _parents(scored)
    metrics = {tag: task.metrics for tag, task in tasks.items()} | {tag: one["metrics"] for tag, one in groups.items()}
    for tag, entries in metrics.items():
        for name, entry in entries.items():
            print(f"{tag}: {format_score(entry['value'], entry['stderr'], entry['n'])} {name}", flush=True)
    path = write_results(
        config.output_path,
        model=model.description,
        tasks=tasks,
        groups=groups,
        samples=(
            {
                "task": tag,
                "doc_id": document,
                "bits": float(found.bits[index]),
                "num_bytes": int(found.num_bytes[index]),
                "num_tokens": int(found.num_tokens[index]),
                "bits_per_byte": float(found.bits[index] / found.num_bytes[index]),
            }
            for tag, found in scored.items()
            for index, document in enumerate(found.ids)
        ),
        policy={
            "document_prefix": resolve_prefix(model.tokenizer, model.document_prefix),
            "prefix": prefix_policy(model.tokenizer, model.document_prefix),
            "stride": config.stride if config.stride is not None else max(1, model.scored.seq_len // 2),
            "end_of_document_scored": False,
        },
        config={name: value for name, value in asdict(config).items() if not name.endswith("_path") and name != "sets"},
    )
    print(f"results: {path}", flush=True)
    return path


def _open(tag: str, path: str, model: ExportedModel) -> TokenStore:
    store = TokenStore.open(path)
    if store.tokenizer_digest != model.tokenizer.digest:
        raise ValueError(
            f"validation set '{tag}': {path} was made with another tokenizer (digest {store.tokenizer_digest[:12]}) "
            f"than the model's ({model.tokenizer.digest[:12]}). Tokenize the set with the model's tokenizer"
        )
    if store.chat is not None:
        raise ValueError(
            f"validation set '{tag}': {path} is a store of conversations; evaluate_chat scores their answers"
        )
    return store


def _score(tag: str, store: TokenStore, model: ExportedModel, config: ValidationConfig) -> _Scored:
    with_text = [index for index in range(store.num_documents) if store.document_num_bytes(index) > 0]
    if len(with_text) < 2:
        raise ValueError(
            f"validation set '{tag}' has {len(with_text)} documents with text; an error bar comes from the differences "
            "between documents, so at least two are needed"
        )
    chosen = with_text
    if config.max_documents is not None and config.max_documents < len(with_text):
        count, total = config.max_documents, len(with_text)
        chosen = [with_text[(2 * place + 1) * total // (2 * count)] for place in range(count)]
    documents = [store.document(index)[:-1] for index in chosen]  # without the end, which has no bytes
    first = prefix_id(model.tokenizer, model.document_prefix)
    bits = token_bits(model.scored, documents, first, config.stride, ProgressLines(tag, "rows"))
    names = [store.document_id(index)[1] for index in chosen]
    if len(set(names)) < len(names):  # ids are of the sources that a set was made of
        names = [f"{name}#{index}" for name, index in zip(names, chosen, strict=True)]
    return _Scored(
        ids=names,
        bits=bits,
        num_bytes=np.array([store.document_num_bytes(index) for index in chosen], np.int64),
        num_tokens=np.array([len(document) for document in documents], np.int64),
        num_all=store.num_documents,
        texts=_texts_hash(documents, model),
    )


def _texts_hash(documents: Sequence[np.ndarray], model: ExportedModel) -> str:
    token_bytes, digest = model.tokenizer.token_bytes, hashlib.sha256()
    for tokens in documents:
        digest.update(hashlib.sha256(b"".join(token_bytes[token] for token in tokens.tolist())).digest())
    return digest.hexdigest()


def _task(found: _Scored) -> TaskResult:
    return TaskResult(
        version=VERSION,
        n=len(found.ids),
        prompt_hash=prompt_hash([found.texts, list(found.ids)]),
        metrics={name: metric_entry(e, higher_is_better=False) for name, e in found.estimates().items()},
        counts={"num_bytes": int(found.num_bytes.sum()), "num_tokens": int(found.num_tokens.sum())},
        notes=[f"{len(found.ids)} of {found.num_all} documents; the error is of the ratio of sums over documents"],
    )


def _parents(scored: Mapping[str, _Scored]) -> dict[str, dict[str, Any]]:
    """A group of each parent: micro averages under the metric's own name, macro averages as `macro_NAME`."""
    children: dict[str, dict[str, _Scored]] = {}
    for tag, found in scored.items():
        parts = tag.split("/")
        for count in range(1, len(parts)):
            children.setdefault("/".join(parts[:count]), {})[tag] = found
    return {parent: _parent(parent, below) for parent, below in children.items()}


def _parent(parent: str, below: Mapping[str, _Scored]) -> dict[str, Any]:
    whole = _Scored(
        ids=[name for found in below.values() for name in found.ids],
        bits=np.concatenate([found.bits for found in below.values()]),
        num_bytes=np.concatenate([found.num_bytes for found in below.values()]),
        num_tokens=np.concatenate([found.num_tokens for found in below.values()]),
        num_all=sum(found.num_all for found in below.values()),
        texts="",
    )
    micro = whole.estimates()
    macro = {name: macro_estimate([found.estimates()[name] for found in below.values()]) for name in METRICS}
    entries = {**micro, **{f"macro_{name}": estimate for name, estimate in macro.items()}}
    return {
        "group": parent,
        "n": len(whole.ids),
        "tasks": list(below),
        "missing": [],
        "metrics": {name: metric_entry(e, higher_is_better=False) for name, e in entries.items()},
        "counts": {
            "num_sets": len(below),
            "num_bytes": int(whole.num_bytes.sum()),
            "num_tokens": int(whole.num_tokens.sum()),
        },
        "notes": [f"{len(below)} sets together; macro: the mean of their own values, each set counting alike"],
    }


def macro_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates: its standard error is `sqrt(sum of SE^2) / k`; None where one has none."""
    k = len(estimates)
    value = math.fsum(estimate.value for estimate in estimates) / k
    n, clusters = sum(e.n for e in estimates), sum(e.num_clusters for e in estimates)
    known = [estimate.stderr for estimate in estimates if estimate.stderr is not None]
    if len(known) < k:
        return Estimate(value=value, stderr=None, ci95=None, n=n, num_clusters=clusters, interval=None)
    stderr = math.sqrt(math.fsum(each**2 for each in known)) / k
    ci95 = (value - Z95 * stderr, value + Z95 * stderr)
    return Estimate(value=value, stderr=stderr, ci95=ci95, n=n, num_clusters=clusters)
