"""Bits per byte of a model over documents.

Bits per byte does not depend on the tokenizer: the numerator is what the model's tokens cost, the denominator the
document's own bytes. A document longer than the model reads is scored in windows that overlap, every token in exactly
one of them, so that a token has at least `seq_len - stride` tokens before it wherever its document has that many; the
price of an overlap of half a window is twice the work. The end of a document is not scored: it has no bytes, and the
byte models that stand beside do not predict it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from marin.evaluation.scoring import Encoder, Progress, ScoredModel, check_vocabulary, prefix_id, score_rows


@dataclass(frozen=True, kw_only=True)
class DocumentBits:
    """What each document costs."""

    bits: Float64[np.ndarray, " n"]
    """Sum over the document's tokens of -log2 of their probability."""
    num_bytes: Int64[np.ndarray, " n"]
    """UTF-8 bytes of the document."""
    num_tokens: Int64[np.ndarray, " n"]
    """Tokens scored: all of the document's."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Predictions start..end of a document are made in one row; those from first_scored on count."""

    start: int
    end: int
    first_scored: int


def plan_windows(num_tokens: int, seq_len: int, stride: int) -> list[Window]:
    """Windows of at most seq_len predictions that score each of num_tokens predictions exactly once.

    The first window scores all it holds; each later one moves on by stride and scores what is new. The last ends with
    the document and reaches as far back as the model reads.

    Raises ValueError unless 1 <= stride <= seq_len.
    """
    if not 1 <= stride <= seq_len:
        raise ValueError(f"stride {stride} must lie between 1 and seq_len, {seq_len}: a longer one would skip tokens")
    windows = []
    done = 0
    while done < num_tokens:
        end = min(done + (stride if done else seq_len), num_tokens)
        windows.append(Window(start=max(0, end - seq_len), end=end, first_scored=done))
        done = end
    return windows


def document_bits(
    model: ScoredModel,
    tokenizer: Encoder,
    documents: Sequence[str],
    stride: int | None = None,
    progress: Progress | None = None,
) -> DocumentBits:
    """Bits of each document under the model; bits per byte is `ratio_estimate(bits, num_bytes)`.

    The first token of a document follows what it followed in training (`scoring.prefix_policy`). stride
    None is half of what the model reads. A uniform model over V tokens of one byte each gives log2(V) bits per byte.

    Raises ValueError for a tokenizer with more tokens than the model.
    """
    check_vocabulary(model, tokenizer)
    encoded = [_without_bos(np.asarray(ids, np.int32), tokenizer) for ids in tokenizer.encode_batch(list(documents))]
    return DocumentBits(
        bits=token_bits(model, encoded, prefix_id(tokenizer, model.document_prefix), stride, progress),
        num_bytes=np.array([len(document.encode("utf-8")) for document in documents], np.int64),
        num_tokens=np.array([len(tokens) for tokens in encoded], np.int64),
    )


def _without_bos(tokens: np.ndarray, tokenizer: Encoder) -> np.ndarray:
    """It has no bytes; what stands in front is decided elsewhere."""
    return tokens[1:] if len(tokens) and tokens[0] == tokenizer.bos_id else tokens


def token_bits(
    model: ScoredModel,
    documents: Sequence[np.ndarray],
    first: int,
    stride: int | None = None,
    progress: Progress | None = None,
) -> Float64[np.ndarray, " n"]:
    """Bits of each document of tokens, int (tokens,), every token after `first` and those before it; as above."""
    stride = max(1, model.seq_len // 2) if stride is None else stride
    rows, places = [], []
    for index, tokens in enumerate(documents):
        inputs = np.concatenate([[first], tokens[:-1]]).astype(np.int32)
        for window in plan_windows(len(tokens), model.seq_len, stride):
            rows.append((inputs[window.start : window.end], np.asarray(tokens[window.start : window.end], np.int32)))
            places.append((index, window))
    bits = np.zeros(len(documents), np.float64)
    for (index, window), log_probs in zip(places, score_rows(model, rows, progress), strict=True):
        bits[index] -= log_probs[window.first_scored - window.start :].astype(np.float64).sum() / math.log(2)
    return bits
