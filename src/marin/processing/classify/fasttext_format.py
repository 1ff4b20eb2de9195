"""fastText's files of supervised models: `.bin` and quantised `.ftz` read, `.bin` written.

The layout is that of fastText 0.9 (`fasttext.cc`, `dictionary.cc`, `quantmatrix.cc`), little-endian:

    magic, version                      int32
    dim ws epoch minCount neg wordNgrams loss model bucket minn maxn lrUpdateRate      int32; t float64
    size nwords nlabels int32; ntokens pruneidx_size int64
    size times: word, NUL, count int64, type int8 (0 word, 1 label)
    pruneidx_size times: bucket, row    int32
    quantised? int8, input matrix; quantised output? int8, output matrix

A quantised matrix (product quantisation, Joulin et al. 2016b) holds for each row and each part of it one of 256
centroids, and perhaps one of 256 norms. Rows are made whole again when read: `.ftz` files are small because they are
pruned, so this costs little memory and scoring knows one kind of model. Word vectors without labels are refused.
"""

import struct
from pathlib import Path

import numpy as np

from marin.io.atomic import open_atomic
from marin.processing.classify.linear import LinearClassifier, Loss
from marin.processing.kernels.ngram_features_reference import LABEL_PREFIX
from marin.processing.kernels.vocabulary import make_vocabulary

_MAGIC = 793712314
_VERSION = 12
_SUPERVISED = 3
_MODELS = {1: "cbow", 2: "skipgram"}
# Negative sampling predicts as one-against-all does.
_LOSSES: dict[int, Loss] = {1: "hs", 2: "ova", 3: "softmax", 4: "ova"}
_LOSS_NUMBERS = {"hs": 1, "softmax": 3, "ova": 4}
_NUM_CENTROIDS = 256


class _Reader:
    """Values of a file one after the other, with an error that says where it ended."""

    def __init__(self, path: Path):
        self.path = path
        self.data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        self.at = 0

    def take(self, num_bytes: int, what: str) -> np.ndarray:
        if num_bytes < 0 or self.at + num_bytes > len(self.data):
            raise ValueError(
                f"{self.path}: ends in {what}: {num_bytes} bytes are due at {self.at}, the file has {len(self.data)}; "
                "download it again"
            )
        self.at += num_bytes
        return self.data[self.at - num_bytes : self.at]

    def values(self, layout: str, what: str) -> tuple:
        layout = "<" + layout
        return struct.unpack(layout, self.take(struct.calcsize(layout), what).tobytes())

    def floats(self, count: int, what: str) -> np.ndarray:
        return self.take(4 * count, what).view("<f4")

    def line(self, what: str) -> bytes:
        """The bytes until the next NUL."""
        length = 64
        while True:
            piece = self.data[self.at : self.at + length].tobytes()
            end = piece.find(b"\0")
            if end >= 0:
                self.at += end + 1
                return piece[:end]
            if self.at + length >= len(self.data):
                self.take(len(self.data) - self.at + 1, what)
            length *= 4


def read_fasttext(path: str | Path) -> LinearClassifier:
    """The model of a `.bin` or `.ftz` file. Raises ValueError where it is none, or is cut off."""
    reader = _Reader(Path(path))
    magic, version = reader.values("ii", "the signature")
    if magic != _MAGIC or version > _VERSION:
        raise ValueError(
            f"{path}: begins with {magic}, version {version}; a fastText model begins with {_MAGIC}, version 11 or 12"
        )
    dim, _, _, _, _, word_ngrams, loss, kind, num_buckets, min_chars, max_chars, _ = reader.values(
        "12i", "the settings"
    )
    reader.values("d", "the settings")
    if kind != _SUPERVISED or loss not in _LOSSES:
        raise ValueError(
            f"{path}: is a model of kind {_MODELS.get(kind, kind)!r}, loss {loss}; a classifier is needed: one made by "
            "`fasttext supervised`"
        )
    if version == 11:  # such files name lengths of character n-grams and use none
        max_chars = 0
    size, num_words, num_labels = reader.values("iii", "the dictionary")
    _, num_pruned = reader.values("qq", "the dictionary")
    words, counts, types = [], [], []
    for _ in range(size):
        words.append(reader.line("the dictionary"))
        count, entry_type = reader.values("qb", "the dictionary")
        counts.append(count)
        types.append(entry_type)
    if types != [0] * num_words + [1] * num_labels:
        raise ValueError(f"{path}: the dictionary of {num_words} words and {num_labels} labels is out of order")
    kept = _kept_buckets(reader, num_pruned, num_buckets)
    (is_quantised,) = reader.values("?", "the matrices")
    rows = _quantised_matrix(reader) if is_quantised else _dense_matrix(reader)
    (is_output_quantised,) = reader.values("?", "the matrices")
    outputs = _quantised_matrix(reader) if is_quantised and is_output_quantised else _dense_matrix(reader)
    if kept is not None and not is_quantised:
        raise ValueError(f"{path}: is pruned but not quantised, which fastText refuses too; download a newer file")
    vocabulary = make_vocabulary(
        words[:num_words],
        labels=words[num_words:],
        num_buckets=num_buckets,
        word_ngrams=word_ngrams,
        min_chars=min_chars,
        max_chars=max_chars,
        kept=kept,
    )
    if rows.shape != (vocabulary.num_rows, dim) or outputs.shape != (num_labels, dim):
        raise ValueError(
            f"{path}: matrices are {rows.shape} and {outputs.shape}; {(vocabulary.num_rows, dim)} and "
            f"{(num_labels, dim)} are due by the dictionary"
        )
    return LinearClassifier(
        labels=tuple(label.removeprefix(LABEL_PREFIX).decode("utf-8", "replace") for label in words[num_words:]),
        vocabulary=vocabulary,
        rows=rows,
        outputs=outputs,
        loss=_LOSSES[loss],
        label_counts=tuple(counts[num_words:]),
        trained={"by": "fastText", "file": Path(path).name},
    )


def _kept_buckets(reader: _Reader, num_pruned: int, num_buckets: int) -> np.ndarray | None:
    """The row of every bucket, -1 where it was pruned; None where none was."""
    if num_pruned < 0:
        return None
    pairs = reader.take(8 * num_pruned, "the pruned buckets").view("<i4").reshape(-1, 2)
    kept = np.full(max(1, num_buckets), -1, np.int32)
    kept[pairs[:, 0]] = pairs[:, 1]
    return kept


def _dense_matrix(reader: _Reader) -> np.ndarray:
    num_rows, width = reader.values("qq", "a matrix")
    return reader.floats(num_rows * width, "a matrix").reshape(num_rows, width)


def _quantised_matrix(reader: _Reader) -> np.ndarray:
    """A product-quantised matrix made whole: float32 (rows, width)."""
    (has_norms,) = reader.values("?", "a quantised matrix")
    num_rows, width, num_codes = reader.values("qqi", "a quantised matrix")
    codes = reader.take(num_codes, "a quantised matrix").reshape(num_rows, -1)
    rows = _decoded(reader, codes)
    if has_norms:
        norm_codes = reader.take(num_rows, "the norms of a quantised matrix").reshape(num_rows, 1)
        rows *= _decoded(reader, norm_codes)
    assert rows.shape == (num_rows, width), (rows.shape, num_rows, width)
    return rows


def _decoded(reader: _Reader, codes: np.ndarray) -> np.ndarray:
    """The rows that these codes (rows, parts) stand for, by the centroids that come next."""
    width, num_parts, part_width, last_width = reader.values("4i", "centroids")
    centroids = reader.floats(width * _NUM_CENTROIDS, "centroids")
    parts, begin = [], 0
    for part in range(num_parts):
        columns = last_width if part == num_parts - 1 else part_width
        table = centroids[begin : begin + _NUM_CENTROIDS * columns].reshape(_NUM_CENTROIDS, columns)
        parts.append(table[codes[:, part]])
        begin += _NUM_CENTROIDS * columns
    return np.concatenate(parts, axis=1)


def write_fasttext(model: LinearClassifier, path: str | Path) -> None:
    """Write a model as fastText's `.bin`, which `fasttext predict-prob` reads.

    The file has no place for a calibration: probabilities read from it are those before. Raises ValueError for a pruned
    model, which that format has only in quantised form.
    """
    vocabulary = model.vocabulary
    if vocabulary.kept.size:
        raise ValueError(f"{path}: a pruned model cannot be written as .bin; keep the file it came from")
    words = vocabulary.words()[: vocabulary.num_words]
    labels = [LABEL_PREFIX + label.encode("utf-8") for label in model.labels]
    counts = list(model.label_counts) or [1] * len(labels)
    with open_atomic(path) as file:
        file.write(struct.pack("<ii", _MAGIC, _VERSION))
        settings = [model.rows.shape[1], 0, 0, 0, 0, vocabulary.word_ngrams, _LOSS_NUMBERS[model.loss], _SUPERVISED]
        settings += [vocabulary.num_buckets, vocabulary.min_chars, vocabulary.max_chars, 0]
        file.write(struct.pack("<12id", *settings, 0.0))
        file.write(struct.pack("<iii", len(words) + len(labels), len(words), len(labels)))
        file.write(struct.pack("<qq", sum(counts), -1))
        for word, count, entry_type in [
            *((word, 1, 0) for word in words),
            *((label, count, 1) for label, count in zip(labels, counts, strict=True)),
        ]:
            file.write(word + b"\0" + struct.pack("<qb", count, entry_type))
        for matrix in (model.rows, model.outputs):
            file.write(struct.pack("<?qq", False, *matrix.shape))
            file.write(np.ascontiguousarray(matrix, "<f4").tobytes())
