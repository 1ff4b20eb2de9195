"""Byte models that any language model must beat: uniform bytes, and an order-3 n-gram with Kneser-Ney smoothing.

They read bytes, not tokens, so that no tokenizer helps or hinders them and their bits per byte stand beside any
model's. The n-gram model is meant to be strong of its kind (modified Kneser-Ney took 2% fewer bits than
Witten-Bell on held-out Python sources), because a weak baseline flatters the model beside it. Its counts live in
sorted arrays, which makes training and scoring a few numpy passes; the price is some fifteen bytes of memory for each
distinct four-byte sequence of the training text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64, UInt32

ORDER = 3
"""Number of previous bytes that the n-gram model conditions on."""

_BYTE_VALUES = 256
_BLOCK_BYTES = 8 << 20
"""Counting sorts this much text at a time, which bounds its memory."""

# A document is read as if these stood before it: text has no NUL bytes, so they mark the start and nothing else.
_START = bytes(ORDER)


class UniformByteModel:
    """Every byte has probability 1/256: exactly 8 bits a byte."""

    def document_bits(self, documents: Sequence[bytes]) -> Float64[np.ndarray, " n"]:
        """Bits that each document costs: eight for each of its bytes."""
        return np.array([8.0 * len(document) for document in documents], dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class _Level:
    """Probabilities of one order: sequences of `order` context bytes and the byte that follows, packed big endian."""

    codes: UInt32[np.ndarray, " grams"]
    """Seen sequences, sorted."""
    seen: Float64[np.ndarray, " grams"]
    """Discounted relative frequency of each: (count - discount(count)) / total of its context."""
    contexts: UInt32[np.ndarray, " contexts"]
    """Seen contexts, sorted."""
    backoff: Float64[np.ndarray, " contexts"]
    """Share of each context's probability that the discounts set free for the order below."""


class NgramByteModel:
    """Interpolated modified Kneser-Ney model of bytes given the three bytes before.

    With c the count of a sequence in the training text (below the highest order: the number of distinct bytes seen
    before it), h a context and h' the same without its first byte:

        P(b | h) = (c(hb) - D(c(hb))) / sum_x c(hx) + backoff(h) * P(b | h'),
        backoff(h) = sum_{x seen after h} D(c(hx)) / sum_x c(hx),

    down to the empty context, below which every byte has 1/256; a context never seen gives P(b | h'). Discounts are
    estimated at each order from n_i, the number of sequences with count i: with Y = n1 / (n1 + 2 n2), D(1) = 1 - 2 Y
    n2/n1, D(2) = 2 - 3 Y n3/n2, D(3 and above) = 3 - 4 Y n4/n3, kept within [0, c] (Chen and Goodman, "An Empirical
    Study of Smoothing Techniques for Language Modeling", 1998, section 3). For every context the probabilities of
    the 256 bytes are positive and sum to 1.

    A document's first bytes are conditioned on a start mark, as in training.

    Example:
        >>> model = NgramByteModel.train([b"abracadabra"])
        >>> bool(model.distribution(b"abr")[ord("a")] > 0.4)
        True
    """

    def __init__(self, levels: Sequence[_Level], num_train_bytes: int, num_train_documents: int):
        self._levels = tuple(levels)
        self.num_train_bytes = num_train_bytes
        self.num_train_documents = num_train_documents

    @classmethod
    def train(cls, documents: Iterable[bytes], max_bytes: int | None = None) -> "NgramByteModel":
        """Count the documents, in order, until max_bytes of them are read (None: all; the last one may be cut).

        Raises ValueError where there is no byte to learn from.
        """
        codes, counts = np.zeros(0, np.uint32), np.zeros(0, np.int64)
        block: list[bytes] = []
        block_bytes = num_bytes = num_documents = 0
        for document in documents:
            if max_bytes is not None:
                document = document[: max_bytes - num_bytes]
            if not document:
                continue
            block.append(document)
            block_bytes += len(document)
            num_bytes += len(document)
            num_documents += 1
            if block_bytes >= _BLOCK_BYTES:
                codes, counts = _add_counts(codes, counts, block)
                block, block_bytes = [], 0
            if max_bytes is not None and num_bytes >= max_bytes:
                break
        if num_bytes == 0:
            raise ValueError(
                "the n-gram baseline got no training bytes: the training documents are empty or max_bytes is 0. "
                "Check the folder of training documents that the evaluation was given"
            )
        codes, counts = _add_counts(codes, counts, block)

        levels = [_level(codes, counts)]
        for num_bytes_kept in range(ORDER, 0, -1):  # drop the first byte; count in how many ways the rest was preceded
            codes, counts = np.unique(codes & np.uint32((1 << 8 * num_bytes_kept) - 1), return_counts=True)
            levels.append(_level(codes, counts))
        return cls(levels[::-1], num_bytes, num_documents)

    def byte_bits(self, document: bytes, context: bytes | None = None) -> Float64[np.ndarray, " bytes"]:
        """Bits of each byte of the document after context; context None means that a document starts here."""
        before = _START if context is None else context[-ORDER:]
        # a context shorter than the order is itself a document's beginning
        before = _START[len(before) :] + before
        codes = _sequences(before + document)
        probabilities = np.full(len(codes), 1 / _BYTE_VALUES)
        for order, level in enumerate(self._levels):
            kept = codes & np.uint32((1 << 8 * (order + 1)) - 1)
            contexts = kept >> np.uint32(8)
            seen = _lookup(level.codes, level.seen, kept, missing=0.0)
            probabilities = seen + _lookup(level.contexts, level.backoff, contexts, missing=1.0) * probabilities
        return -np.log2(probabilities)

    def document_bits(self, documents: Sequence[bytes]) -> Float64[np.ndarray, " n"]:
        """Bits that each document costs, its first byte included."""
        return np.array([float(self.byte_bits(document).sum()) for document in documents], dtype=np.float64)

    def distribution(self, context: bytes) -> Float64[np.ndarray, " 256"]:
        """Probabilities of the 256 byte values after context; they sum to 1."""
        return np.array([2.0 ** -self.byte_bits(bytes([value]), context)[0] for value in range(_BYTE_VALUES)])


def _sequences(data: bytes) -> UInt32[np.ndarray, " windows"]:
    """Every window of four bytes, packed big endian: as many as data has bytes, less three."""
    values = np.frombuffer(data, np.uint8).astype(np.uint32)
    num_windows = max(len(values) - ORDER, 0)
    codes = np.zeros(num_windows, np.uint32)
    for offset in range(ORDER + 1):
        codes = (codes << np.uint32(8)) | values[offset : offset + num_windows]
    return codes


def _add_counts(
    codes: UInt32[np.ndarray, " grams"], counts: Int64[np.ndarray, " grams"], documents: list[bytes]
) -> tuple[UInt32[np.ndarray, " more"], Int64[np.ndarray, " more"]]:
    """Counts so far plus those of the documents, as new sorted arrays."""
    new_codes, new_counts = np.unique(
        np.concatenate([np.zeros(0, np.uint32), *(_sequences(_START + document) for document in documents)]),
        return_counts=True,
    )
    merged, places = np.unique(np.concatenate([codes, new_codes]), return_inverse=True)
    total = np.bincount(places, weights=np.concatenate([counts, new_counts]), minlength=len(merged))
    return merged, total.astype(np.int64)


def _discounts(counts: Int64[np.ndarray, " grams"]) -> Float[np.ndarray, " grams"]:
    """Modified Kneser-Ney discount of each count."""
    n1, n2, n3, n4 = (float(np.sum(counts == value)) for value in (1, 2, 3, 4))
    # little text leaves some of these empty; the discount is then one half, which is as good a guess as any
    fallback = np.array([0.0, 0.5, 0.5, 0.5])
    if min(n1, n2, n3, n4) == 0:
        table = fallback
    else:
        y = n1 / (n1 + 2 * n2)
        table = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        # a discount of zero would leave nothing for unseen bytes, a whole count nothing for seen ones
        table = np.where((table > 0) & (table < np.array([1, 1, 2, 3])), table, fallback)
    return table[np.minimum(counts, 3)]


def _level(codes: UInt32[np.ndarray, " grams"], counts: Int64[np.ndarray, " grams"]) -> _Level:
    """Discounted frequencies and back-off weights from the counts of one order."""
    heads = codes >> np.uint32(8)
    starts = np.flatnonzero(np.concatenate([[True], heads[1:] != heads[:-1]]))
    totals = np.add.reduceat(counts, starts).astype(np.float64)
    num_followers = np.diff(np.concatenate([starts, [len(codes)]]))
    discounts = _discounts(counts)
    return _Level(
        codes=codes,
        seen=(counts - discounts) / np.repeat(totals, num_followers),
        contexts=heads[starts],
        backoff=np.add.reduceat(discounts, starts) / totals,
    )


def _lookup(
    keys: UInt32[np.ndarray, " keys"],
    values: Float64[np.ndarray, " keys"],
    queries: UInt32[np.ndarray, " n"],
    missing: float,
) -> Float64[np.ndarray, " n"]:
    """Value of each query among sorted keys, `missing` where it is not there."""
    places = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[places] == queries, values[places], missing)
