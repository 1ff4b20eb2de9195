"""A linear classifier over hashed n-grams: fastText's, read, calibrated, saved, and scored many times as fast.

The model averages one vector for each feature of a text and multiplies by one vector for each label. Both steps are
linear, so their product can be taken once for all texts: a model of two labels becomes one number for each feature, and
scoring a text a sum of numbers. Decisions are the same up to rounding (a test holds them to that); the price is that
the summed model takes a moment to make, and cannot be trained on.

fastText prints p + 0.00001 for a probability p (its logarithm is guarded so), and up to 1.00001. Here p is p. Where a
text has no feature at all, fastText predicts nothing; here its scores are NaN.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from marin.io.atomic import write_text
from marin.io.hashing import sha256_file
from marin.processing.classify.calibration import Calibration
from marin.processing.kernels.ngram_features import sum_rows
from marin.processing.kernels.vocabulary import Vocabulary, make_vocabulary

FORMAT = "marin linear classifier"
FORMAT_VERSION = 1
MODEL_FILE = "model.json"

# How labels become probabilities. softmax: one of them. ova: each by itself. hs: along a tree of the labels' counts.
Loss: TypeAlias = Literal["softmax", "ova", "hs"]

_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearClassifier:
    """A trained model. Read one with `load_classifier`."""

    labels: tuple[str, ...]
    vocabulary: Vocabulary
    rows: np.ndarray
    """float32 (num_rows, dim): the vector of each feature."""
    outputs: np.ndarray
    """float32 (num_labels, dim)."""
    loss: Loss = "softmax"
    label_counts: tuple[int, ...] = ()
    """How many training texts had each label; `hs` makes its tree of them."""
    calibration: Calibration = Calibration()
    trained: dict[str, Any] = field(default_factory=dict)
    """What the trainer says of itself: plain values."""

    def __post_init__(self) -> None:
        expected = (self.vocabulary.num_rows, self.outputs.shape[1])
        assert self.rows.shape == expected, f"rows are {self.rows.shape}, the vocabulary and outputs say {expected}"
        assert len(self.labels) == self.outputs.shape[0], (len(self.labels), self.outputs.shape)

    @cached_property
    def _summed(self) -> tuple[np.ndarray, np.ndarray | None]:
        """(matrix, projection): the logits of a text are the mean of its rows of `matrix`, times `projection` if any.

        Of two labels under softmax only the difference counts: one column, the first label's logit less the second's.
        """
        outputs = self.outputs.astype(np.float64)
        if self.loss == "softmax" and len(self.labels) == 2:
            outputs = outputs[:1] - outputs[1:]
        if len(outputs) >= self.rows.shape[1]:
            return np.ascontiguousarray(self.rows, np.float32), outputs
        matrix = np.empty((len(self.rows), len(outputs)), np.float32)
        for begin in range(0, len(self.rows), _ROWS_AT_ONCE):
            part = slice(begin, begin + _ROWS_AT_ONCE)
            matrix[part] = self.rows[part].astype(np.float64) @ outputs.T
        return matrix, None

    def logits(self, data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Uncalibrated logits, float64 (texts, labels), NaN where a text has no feature.

        `data` is UTF-8 (uint8), text i is `data[offsets[i] : offsets[i + 1]]`. Two labels under softmax have one
        column: the log odds of the first.
        """
        matrix, projection = self._summed
        sums, counts = sum_rows(data, offsets, self.vocabulary, matrix)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = sums / counts[:, None]
        return means if projection is None else means @ projection.T

    def probabilities(self, data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float64 (texts, labels), NaN where a text has no feature."""
        logits = self.logits(data, offsets)
        if self.loss == "hs":
            return tree_probabilities(logits, self.label_counts)
        if self.loss == "ova":
            return tabled_sigmoid(logits)
        return self.calibration.probabilities(logits)


def text_buffers(texts: Sequence[str | bytes]) -> tuple[np.ndarray, np.ndarray]:
    """(data, offsets) of texts: UTF-8 one behind the other, and where each begins, with the end of the last."""
    encoded = [text.encode("utf-8") if isinstance(text, str) else text for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


# fastText looks sigmoids up: 512 steps between -8 and 8, each with the value at its left end.
_SIGMOID_STEPS, _SIGMOID_LIMIT = 512, 8
_SIGMOIDS = 1 / (1 + np.exp(_SIGMOID_LIMIT - np.arange(_SIGMOID_STEPS + 1) * 2 * _SIGMOID_LIMIT / _SIGMOID_STEPS))


def tabled_sigmoid(logits: np.ndarray) -> np.ndarray:
    """fastText's sigmoid: 0 and 1 beyond 8, and a table of 513 values between."""
    clipped = np.clip(np.nan_to_num(logits), -_SIGMOID_LIMIT, _SIGMOID_LIMIT)
    values = _SIGMOIDS[((clipped + _SIGMOID_LIMIT) * _SIGMOID_STEPS / _SIGMOID_LIMIT / 2).astype(np.int64)]
    values = np.where(logits < -_SIGMOID_LIMIT, 0.0, np.where(logits > _SIGMOID_LIMIT, 1.0, values))
    return np.where(np.isnan(logits), np.nan, values)


def label_tree(counts: Sequence[int]) -> list[list[tuple[int, bool]]]:
    """fastText's Huffman tree of the labels: the way to each as (inner node, whether right), leaf first.

    `counts` fall: fastText keeps labels by falling count.
    """
    num_labels = len(counts)
    weights = [*counts, *[10**15] * (num_labels - 1)]
    parents, is_right = [-1] * len(weights), [False] * len(weights)
    leaf, inner = num_labels - 1, num_labels
    for node in range(num_labels, 2 * num_labels - 1):
        children = []
        for _ in range(2):
            if leaf >= 0 and weights[leaf] < weights[inner]:
                children.append(leaf)
                leaf -= 1
            else:
                children.append(inner)
                inner += 1
        weights[node] = weights[children[0]] + weights[children[1]]
        parents[children[0]] = parents[children[1]] = node
        is_right[children[1]] = True
    ways = []
    for label in range(num_labels):
        way, node = [], label
        while parents[node] >= 0:
            way.append((parents[node] - num_labels, is_right[node]))
            node = parents[node]
        ways.append(way)
    return ways


def tree_probabilities(logits: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Hierarchical softmax: the probability of each label is the product of the turns on the way to it."""
    turns = 1 / (1 + np.exp(-logits))
    columns = []
    for way in label_tree(counts):
        probability = np.ones(len(logits))
        for node, is_right in way:
            probability = probability * (turns[:, node] if is_right else 1 - turns[:, node])
        columns.append(probability + 0 * logits[:, 0])
    return np.stack(columns, axis=1)


# ----------------------------------------------------------------------------------------------------------------------
# On disk


def save_classifier(model: LinearClassifier, folder: str | Path, *, dtype: str = "float32") -> str:
    """Write a model to a folder and return its digest: the SHA-256 of model.json, which has those of all other files.

    `dtype` is that of the vectors on disk, "float32" or "float16".
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    words = model.vocabulary.words()[: model.vocabulary.num_words]
    # a word holds no white space, so a line end parts them whatever bytes they are
    (folder / "words.txt").write_bytes(b"".join(word + b"\n" for word in words))
    arrays = {"rows": model.rows.astype(dtype), "outputs": model.outputs.astype(np.float32)}
    if model.vocabulary.kept.size:
        arrays["kept"] = model.vocabulary.kept
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    files = {}
    for name in ("words.txt", *(f"{name}.npy" for name in arrays)):
        size, sha256 = sha256_file(folder / name)
        files[name] = {"bytes": size, "sha256": sha256}
    vocabulary = model.vocabulary
    description = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "labels": list(model.labels),
        "label_counts": list(model.label_counts),
        "loss": model.loss,
        "calibration": {"scale": model.calibration.scale, "offset": model.calibration.offset},
        "features": {
            "num_words": vocabulary.num_words,
            "num_buckets": vocabulary.num_buckets,
            "word_ngrams": vocabulary.word_ngrams,
            "min_chars": vocabulary.min_chars,
            "max_chars": vocabulary.max_chars,
        },
        "trained": model.trained,
        "files": files,
    }
    write_text(folder / MODEL_FILE, json.dumps(description, indent=1, ensure_ascii=False) + "\n")
    return sha256_file(folder / MODEL_FILE)[1]


def load_classifier(path: str | Path) -> LinearClassifier:
    """A model from a folder of `save_classifier`, or from a published fastText file (.bin, .ftz).

    Raises ValueError where the folder is no such model or a file of it is damaged.
    """
    path = Path(path)
    if path.is_file():
        from marin.processing.classify.fasttext_format import read_fasttext

        return read_fasttext(path)
    if not (path / MODEL_FILE).is_file():
        raise ValueError(
            f"{path}: no classifier is here; expected a folder with {MODEL_FILE}, or a fastText file (.bin, .ftz)"
        )
    description = json.loads((path / MODEL_FILE).read_text(encoding="utf-8"))
    found = (description.get("format"), description.get("version"))
    if found != (FORMAT, FORMAT_VERSION):
        raise ValueError(f"{path / MODEL_FILE}: format is {found}; this version reads {(FORMAT, FORMAT_VERSION)}")
    for name, recorded in description["files"].items():
        size, sha256 = sha256_file(path / name)
        if sha256 != recorded["sha256"]:
            raise ValueError(
                f"{path / name}: {size} bytes with SHA-256 {sha256[:12]}..., {MODEL_FILE} has {recorded['bytes']} "
                f"bytes with {recorded['sha256'][:12]}...: the file is damaged; copy the model again or train it anew"
            )
    features = description["features"]
    words = (path / "words.txt").read_bytes().split(b"\n")[: features["num_words"]]
    kept = np.load(path / "kept.npy", allow_pickle=False) if "kept.npy" in description["files"] else None
    return LinearClassifier(
        labels=tuple(description["labels"]),
        vocabulary=make_vocabulary(
            words,
            num_buckets=features["num_buckets"],
            word_ngrams=features["word_ngrams"],
            min_chars=features["min_chars"],
            max_chars=features["max_chars"],
            kept=kept,
        ),
        rows=np.load(path / "rows.npy", allow_pickle=False).astype(np.float32),
        outputs=np.load(path / "outputs.npy", allow_pickle=False),
        loss=description["loss"],
        label_counts=tuple(description["label_counts"]),
        calibration=Calibration(**description["calibration"]),
        trained=description["trained"],
    )


def classifier_digest(path: str | Path) -> str:
    """The SHA-256 that names a model: of its model.json, or of the fastText file."""
    path = Path(path)
    return sha256_file(path if path.is_file() else path / MODEL_FILE)[1]
