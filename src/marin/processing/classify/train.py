"""Train a classifier on documents whose label is known by where they come from.

Texts, not rows, are divided into those that train, those that calibrate and those that are reported: a text that occurs
twice is never on both sides. A text that occurs under two labels teaches nothing and is left out. All of this is
counted in evaluation.json. The training texts are held in memory, and one thread trains: equal configs give equal bits.
The price is time, about what fastText takes with one thread.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from heapq import heappush, heapreplace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from marin.io.atomic import write_text
from marin.processing.classify.calibration import fit_calibration
from marin.processing.classify.config import LabelledSource, LinearModelConfig, TrainClassifierConfig
from marin.processing.classify.evaluate import evaluate
from marin.processing.classify.linear import LinearClassifier, save_classifier, text_buffers
from marin.processing.kernels.linear_sgd import sgd_epoch
from marin.processing.kernels.ngram_features_reference import split_words
from marin.processing.kernels.vocabulary import Vocabulary, make_vocabulary
from marin.processing.shards import BadRows, document_shards, read_shard

EVALUATION_FILE = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class LabelledTexts:
    """Distinct texts and the place of each one's label."""

    texts: list[bytes]
    labels: np.ndarray  # int64 (texts,)

    def part(self, indices: np.ndarray) -> "LabelledTexts":
        return LabelledTexts(texts=[self.texts[index] for index in indices.tolist()], labels=self.labels[indices])


def train_classifier(config: TrainClassifierConfig) -> dict[str, Any]:
    """Train, calibrate, evaluate and save; returns what evaluation.json holds.

    Raises ValueError where a source has no documents, too many rows are none, or a part of the texts is empty.
    """
    labels = tuple(dict.fromkeys(source.label for source in config.sources))
    known, counts = collect(
        config.sources, labels, seed=config.seed, max_bytes=config.max_bytes_per_text, max_bad=config.max_bad
    )
    shares = np.array([_unit_interval(text, 2 * config.seed) for text in known.texts])
    is_test = shares < config.test_fraction
    is_calibration = ~is_test & (shares < config.test_fraction + config.calibration_fraction)
    training, calibration, test = (
        known.part(np.flatnonzero(chosen)) for chosen in (~is_test & ~is_calibration, is_calibration, is_test)
    )
    if missing := [name for index, name in enumerate(labels) if not (training.labels == index).any()]:
        raise ValueError(f"no text of {missing} is left to train on; give more documents, or hold out a smaller share")
    model, losses = fit(training, labels, config)
    report: dict[str, Any] = {
        "sources": counts,
        "num_training_texts": len(training.texts),
        "num_calibration_texts": len(calibration.texts),
        "training_loss": losses,
    }
    if calibration.texts:
        buffers = text_buffers(calibration.texts)
        logits = model.logits(*buffers)
        has_features = ~np.isnan(logits).any(axis=1)
        report["uncalibrated"] = evaluate(model.probabilities(*text_buffers(test.texts)), test.labels, labels)
        fitted = fit_calibration(logits[has_features], calibration.labels[has_features])
        model = replace(model, calibration=fitted)
        report["calibration"] = asdict(fitted)
    report["test"] = evaluate(model.probabilities(*text_buffers(test.texts)), test.labels, labels)
    if config.other_works:
        others, other_counts = collect(
            config.other_works, labels, seed=config.seed, max_bytes=config.max_bytes_per_text, max_bad=config.max_bad
        )
        seen = set(known.texts)
        unseen = others.part(np.flatnonzero([text not in seen for text in others.texts]))
        report["other_works"] = {
            "sources": other_counts,
            "num_also_in_sources": len(others.texts) - len(unseen.texts),
            **evaluate(model.probabilities(*text_buffers(unseen.texts)), unseen.labels, labels),
        }
    report["digest"] = save_classifier(model, config.output_path, dtype=config.model.dtype)
    write_text(Path(config.output_path) / EVALUATION_FILE, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(summary(report))
    return report


def fit(
    training: LabelledTexts, labels: Sequence[str], config: TrainClassifierConfig
) -> tuple[LinearClassifier, list[float]]:
    """(model, mean loss of each epoch): the passes of gradient descent over shuffled texts."""
    vocabulary = build_vocabulary(training.texts, config.model)
    generator = np.random.default_rng(config.seed)
    dim = config.model.dim
    rows = generator.uniform(-1 / dim, 1 / dim, (vocabulary.num_rows, dim)).astype(np.float32)
    outputs = np.zeros((len(labels), dim), np.float32)
    data, offsets = text_buffers(training.texts)
    losses = []
    for epoch in range(config.num_epochs):
        losses.append(
            sgd_epoch(
                data,
                offsets,
                training.labels,
                generator.permutation(len(training.texts)),
                vocabulary,
                rows,
                outputs,
                first_rate=config.learning_rate * (1 - epoch / config.num_epochs),
                last_rate=config.learning_rate * (1 - (epoch + 1) / config.num_epochs),
            )
        )
    model = LinearClassifier(
        labels=tuple(labels),
        vocabulary=vocabulary,
        # as they will be read again, so that what is reported is what is saved
        rows=rows.astype(config.model.dtype).astype(np.float32),
        outputs=outputs,
        label_counts=tuple(np.bincount(training.labels, minlength=len(labels)).tolist()),
        trained={
            "by": "marin.processing.classify.train",
            "num_texts": len(training.texts),
            "num_epochs": config.num_epochs,
            "learning_rate": config.learning_rate,
            "seed": config.seed,
        },
    )
    return model, losses


def build_vocabulary(texts: Iterable[bytes], config: LinearModelConfig) -> Vocabulary:
    """The dictionary of these texts: words by falling count, and by their bytes where counts are equal."""
    counts: Counter[bytes] = Counter()
    if config.max_words != 0:
        for text in texts:
            counts.update(split_words(text))
    words = [word for word, count in counts.items() if count >= config.min_count]
    words.sort(key=lambda word: (-counts[word], word))
    return make_vocabulary(
        words[: config.max_words],
        num_buckets=config.num_buckets,
        word_ngrams=config.word_ngrams,
        min_chars=config.min_chars,
        max_chars=config.max_chars,
    )


def collect(
    sources: Sequence[LabelledSource],
    labels: Sequence[str],
    *,
    seed: int,
    max_bytes: int | None = None,
    max_bad: float = 0.01,
) -> tuple[LabelledTexts, list[dict[str, Any]]]:
    """(distinct texts with one label each, what became of the rows of each source).

    `seed` decides which texts stand for a source that has more than its `max_documents`.
    """
    found: dict[bytes, int] = {}
    conflicting: set[bytes] = set()
    reports = []
    for source in sources:
        reading = _Reading(source.input_path, max_bytes)
        chosen = set(_least(reading.texts(), source.max_documents, lambda text: _unit_interval(text, 2 * seed + 1)))
        try:
            reading.bad.check(reading.num_texts, max_bad)
        except ValueError as error:
            raise ValueError(f"{source.input_path}: {error}. Mend them, or raise max_bad") from error
        if not chosen:
            raise ValueError(f"{source.input_path}: no documents for the label {source.label!r}")
        label, num_conflicting = labels.index(source.label), 0
        for text in sorted(chosen):  # a set has no order of its own
            if found.setdefault(text, label) != label:
                conflicting.add(text)
                num_conflicting += 1
        reports.append(
            {
                "input_path": source.input_path,
                "label": source.label,
                "num_documents": reading.num_texts,
                "num_bad_rows": dict(reading.bad.kinds),
                "num_texts": len(chosen),
                "num_with_another_label_too": num_conflicting,
            }
        )
    kept = {text: label for text, label in found.items() if text not in conflicting}
    return LabelledTexts(texts=list(kept), labels=np.array(list(kept.values()), np.int64)), reports


class _Reading:
    """The texts of a folder of documents, and how many there were and were none."""

    def __init__(self, path: str, max_bytes: int | None):
        self.path, self.max_bytes = path, max_bytes
        self.num_texts = 0
        self.bad = BadRows()

    def texts(self) -> Iterator[bytes]:
        for shard in document_shards(self.path):
            for batch in read_shard(shard, self.bad):
                self.num_texts += batch.num_rows
                for text in batch.column("text").to_pylist():
                    yield self._cut(text.encode("utf-8"))

    def _cut(self, text: bytes) -> bytes:
        if self.max_bytes is None or len(text) <= self.max_bytes:
            return text
        # no half character at the end
        return text[: self.max_bytes].decode("utf-8", "ignore").encode("utf-8")


def _least(texts: Iterable[bytes], count: int | None, key: Callable[[bytes], float]) -> list[bytes]:
    """The `count` distinct texts with the least keys, however they are ordered; all distinct ones if None."""
    if count is None:
        return list(dict.fromkeys(texts))
    heap: list[tuple[float, bytes]] = []
    inside: set[bytes] = set()
    for text in texts:
        if text in inside:
            continue
        entry = (-key(text), text)
        if len(heap) < count:
            heappush(heap, entry)
            inside.add(text)
        elif entry > heap[0]:
            inside.discard(heapreplace(heap, entry)[1])
            inside.add(text)
    return [text for _, text in heap]


def _unit_interval(text: bytes, seed: int) -> float:
    """A text's place in [0, 1), by its seeded hash."""
    return xxhash.xxh3_64_intdigest(text, seed=seed) / 2**64


def summary(report: dict[str, Any]) -> str:
    """What was measured, in a few lines."""
    lines = []
    for part in ("test", "other_works"):
        if part in report:
            measured = report[part]
            low, high = measured["accuracy_interval"]
            line = f"{part.replace('_', ' ')}: {measured['num_texts']} texts, accuracy "
            line += "unknown" if measured["accuracy"] is None else f"{measured['accuracy']:.4f} [{low:.4f}, {high:.4f}]"
            line += f", calibration error {measured['expected_calibration_error']:.4f}"
            if "auc" in measured:
                line += f", AUC {measured['auc']:.4f} ± {measured['auc_standard_error']:.4f}"
            lines.append(line)
    return "\n".join(lines)
