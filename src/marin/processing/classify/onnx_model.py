"""Scores of a transformer in ONNX form, by ONNX Runtime on the CPU.

Texts are sorted by length and batched so that a batch, padding included, has a bounded number of tokens: padding costs
as much as text. Every text is scored in the batch it falls into and the scores go back to the order of the texts; they
differ by padding in the last bits, so a score is the same whatever other texts stand beside it only to about 1e-6.
"""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from marin.io.hashing import sha256_file
from marin.processing.classify.scorers import FileStates, OnnxScorer, file_states

MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"


def model_digest(folder: str | Path) -> str:
    """SHA-256 over those of model.onnx and tokenizer.json. ValueError where one is absent."""
    digests = [sha256_file(_file(folder, name))[1] for name in (MODEL_FILE, TOKENIZER_FILE)]
    return sha256("".join(digests).encode()).hexdigest()


def onnx_scores(scorer: OnnxScorer, texts: Sequence[str]) -> np.ndarray:
    """float64 (texts, columns) as `OnnxScorer.columns` says."""
    session, tokenizer, pad_id = _loaded(scorer.model, scorer.max_tokens, scorer.num_threads, file_states(scorer.model))
    encodings = tokenizer.encode_batch_fast(list(texts))
    lengths = np.array([len(encoding.ids) for encoding in encodings], np.int64)
    columns = np.zeros((len(texts), len(scorer.columns)))
    columns[:, 1] = [bool(encoding.overflowing) for encoding in encodings]
    for batch in batches_by_length(lengths, scorer.batch_tokens):
        ids = np.full((len(batch), max(1, int(lengths[batch].max()))), pad_id, np.int64)
        mask = np.zeros_like(ids)
        for row, index in enumerate(batch.tolist()):
            ids[row, : lengths[index]] = encodings[index].ids
            mask[row, : lengths[index]] = 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        named = {argument.name for argument in session.get_inputs()}
        outputs = session.run(None, {name: value for name, value in given.items() if name in named})
        values = np.asarray(outputs[0], np.float64).reshape(len(batch), -1)
        if scorer.output >= values.shape[1]:
            raise ValueError(f"{scorer.model}: gives {values.shape[1]} numbers a text; output {scorer.output} is none")
        columns[batch, 0] = values[:, scorer.output]
    if scorer.clip is not None:
        columns[:, 2] = np.rint(np.clip(columns[:, 0], *scorer.clip))
    return columns


def batches_by_length(lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Places of the texts, in batches of at most `batch_tokens` tokens with padding (or of one text), shortest first.

    >>> [batch.tolist() for batch in batches_by_length(np.array([5, 1, 2, 9]), 6)]
    [[1, 2], [0], [3]]
    """
    order = np.argsort(lengths, kind="stable")
    begin = 0
    for end in range(1, len(order) + 1):
        # as many rows as there would be with the next text, each as long as that text
        if end == len(order) or (end - begin + 1) * lengths[order[end]] > batch_tokens:
            yield order[begin:end]
            begin = end


@lru_cache(maxsize=2)
def _loaded(folder: str, max_tokens: int, num_threads: int, states: FileStates) -> tuple[Any, Any, int]:
    """(session, tokenizer that cuts at max_tokens, id of padding), made once a process for each state of the files."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{folder}: ONNX models need onnxruntime; pip install 'marin[onnx]'") from error
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(_file(folder, MODEL_FILE)), options, providers=["CPUExecutionProvider"])
    known = {"input_ids", "attention_mask", "token_type_ids"}
    if unknown := {argument.name for argument in session.get_inputs()} - known:
        raise ValueError(f"{folder}/{MODEL_FILE}: asks for {sorted(unknown)}; known are {sorted(known)}")
    path = _file(folder, TOKENIZER_FILE)
    tokenizer = Tokenizer.from_file(str(path))
    padding = json.loads(path.read_text(encoding="utf-8")).get("padding") or {}
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return session, tokenizer, int(padding.get("pad_id", 0))


def _file(folder: str | Path, name: str) -> Path:
    path = Path(folder) / name
    if not path.is_file():
        raise ValueError(f"{folder}: has no {name}; an ONNX scorer is a folder with {MODEL_FILE} and {TOKENIZER_FILE}")
    return path
