"""What gives a text its numbers: a protocol, and three that satisfy it.

A scorer is a frozen dataclass of plain values, so that it can be part of a config and of a step's identity, goes to
worker processes by its fields, and loads no heavy library before it works. What it needs for that (a model, a session)
is made at the first call in a process and kept there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np


class Scorer(Protocol):
    """Texts to numbers. Raised `version`: the same texts would get other numbers."""

    version: int

    @property
    def columns(self) -> tuple[str, ...]:
        """What each number is; "" is the score itself, others are written behind its name."""
        ...

    def digest(self) -> str:
        """What changes when the model does: part of the identity of every score."""
        ...

    def __call__(self, texts: Sequence[str]) -> "np.ndarray":
        """float (texts, columns); NaN where a text has no score."""
        ...


@dataclass(frozen=True, kw_only=True)
class LinearScorer:
    """The probability of one label, by a trained classifier or a published fastText model."""

    # Folder of a classifier, or a fastText file (.bin, .ftz).
    model: str
    label: str

    version = 1

    @property
    def columns(self) -> tuple[str, ...]:
        return ("",)

    def digest(self) -> str:
        from marin.processing.classify.linear import classifier_digest

        return classifier_digest(self.model)

    def __call__(self, texts: Sequence[str]) -> "np.ndarray":
        from marin.processing.classify.linear import text_buffers

        return self.of_buffers(*text_buffers(texts))

    def of_buffers(self, data: "np.ndarray", offsets: "np.ndarray") -> "np.ndarray":
        """The same, of UTF-8 bytes: text i is `data[offsets[i] : offsets[i + 1]]`."""
        model = loaded_classifier(self.model)
        if self.label not in model.labels:
            raise ValueError(f"{self.model}: has no label {self.label!r}; its labels are {_shown(model.labels)}")
        index = model.labels.index(self.label)
        return model.probabilities(data, offsets)[:, index : index + 1]


@dataclass(frozen=True, kw_only=True)
class OnnxScorer:
    """A transformer that reads a text and gives numbers, as FineWeb-Edu's classifier does, exported to ONNX.

    A text longer than `max_tokens` is cut, and its column `is_truncated` is 1. With `clip`, the column `rounded` is the
    score between the bounds, to the nearest whole number (FineWeb-Edu: 0 to 5, kept from 3 on). Of several outputs of a
    model the first is taken; its shape is (texts,), (texts, 1), or (texts, k) with `output` the column that counts.
    """

    # Folder with model.onnx and tokenizer.json.
    model: str
    max_tokens: int
    clip: tuple[float, float] | None = None
    output: int = 0
    # Tokens of a batch, padding included: what bounds memory.
    batch_tokens: int = 16_384
    # Threads of one process; workers are processes already. No part of what the scorer is.
    num_threads: int = field(default=1, compare=False, metadata={"version": {"exclude": True}})

    version = 1

    def __post_init__(self) -> None:
        if isinstance(self.max_tokens, int) and not 0 < self.max_tokens <= self.batch_tokens:
            raise ValueError(
                f"max_tokens is {self.max_tokens} and batch_tokens {self.batch_tokens}; a batch must hold one text"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        return ("", "is_truncated") if self.clip is None else ("", "is_truncated", "rounded")

    def digest(self) -> str:
        from marin.processing.classify.onnx_model import model_digest

        return model_digest(self.model)

    def __call__(self, texts: Sequence[str]) -> "np.ndarray":
        from marin.processing.classify.onnx_model import onnx_scores

        return onnx_scores(self, texts)


@dataclass(frozen=True, kw_only=True)
class FunctionScorer:
    """Any function of yours from a list of texts to an array (texts,) or (texts, k): a JAX model, an endpoint."""

    # "module:function".
    function: str
    # What tells one version of the function, with its weights, from another; you change it.
    revision: str
    columns: tuple[str, ...] = ("",)

    version = 1

    def digest(self) -> str:
        return self.revision

    def __call__(self, texts: Sequence[str]) -> "np.ndarray":
        import numpy as np

        module, _, name = self.function.partition(":")
        values = np.asarray(getattr(import_module(module), name)(list(texts)), np.float64)
        values = values.reshape(len(texts), -1) if values.size else values.reshape(len(texts), len(self.columns))
        if values.shape != (len(texts), len(self.columns)):
            raise ValueError(
                f"{self.function}: gave {values.shape} for {len(texts)} texts; {(len(texts), len(self.columns))} is "
                f"due by columns {self.columns}"
            )
        return values


FileStates = tuple[tuple[str, int, int], ...]


def file_states(path: str) -> FileStates:
    """(name, size, mtime_ns) of a model's file, or of the files in its folder: what tells a changed model from before.

    What is kept in a process is kept by these, not by the path, behind which another model may lie by now.
    """
    entries = sorted(Path(path).iterdir()) if Path(path).is_dir() else [Path(path)]
    stats = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def loaded_classifier(path: str) -> Any:
    """The classifier at a path, loaded once a process as long as its files stay as they are."""
    return _loaded_classifier(path, file_states(path))


@lru_cache(maxsize=4)
def _loaded_classifier(path: str, states: FileStates) -> Any:
    from marin.processing.classify.linear import load_classifier

    return load_classifier(path)


def check_digest(scorer: Scorer, expected: str) -> None:
    """ValueError where a scorer's model has changed since the work was planned; looked at once for each state of it."""
    model = getattr(scorer, "model", None)
    found = _digest(scorer, () if model is None else file_states(model))
    if found != expected:
        raise ValueError(
            f"{scorer}: its digest is {found[:12]}..., {expected[:12]}... when the work was planned; the model has "
            "changed meanwhile: run the step again"
        )


@lru_cache(maxsize=16)
def _digest(scorer: Scorer, states: FileStates) -> str:
    return scorer.digest()


def _shown(labels: Sequence[str]) -> str:
    return ", ".join(labels[:12]) + (f" and {len(labels) - 12} more" if len(labels) > 12 else "")
