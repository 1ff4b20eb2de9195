"""Complete texts: prompts in, text out, with stop strings.

A stop string may begin and end inside tokens, and is looked for in the bytes that the tokens stand for, so it is found
exactly where it is in the text. It is looked for on the host, after every few tokens of the batch; what was drawn
behind it in the meantime is thrown away and changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from marin.inference.sampling import Sampling

FinishReason = Literal["stop", "length", "eos"]
"""A stop string came; there was no room for more tokens; the model ended the text."""

Progress = Callable[[int, int], None]
"""Called with (completions done, completions in all) whenever more are done."""

OnText = Callable[[int, str], None]
"""Called with (index of the completion, text that was added to it) as text comes; the texts of one add up to its all."""


@runtime_checkable
class LanguageModel(Protocol):
    """A model as generation sees it; `marin.export.hf.LoadedModel` is one."""

    @property
    def config(self) -> Any: ...

    @property
    def params(self) -> Any: ...


@runtime_checkable
class TextTokenizer(Protocol):
    """What generation needs of a tokenizer; `marin.processing.tokenize.tokenizer.Tokenizer` has it."""

    @property
    def bos_id(self) -> int | None: ...

    @property
    def eos_id(self) -> int | None: ...

    @property
    def token_bytes(self) -> Sequence[bytes]: ...

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Completion:
    """What a model wrote behind a prompt."""

    text: str
    """The new text, up to where the stop string began."""
    tokens: tuple[int, ...]
    """All tokens that were drawn, the EOS or those of the stop string that ended it among them."""
    finish_reason: FinishReason
    """Why it ended."""
    num_prompt_tokens: int
    """Tokens of the prompt that the model read, what stood before it included."""
    num_prompt_tokens_cut: int
    """Tokens of the prompt that were cut on its left, as the model cannot read so many and write the new ones."""
    log_probs: Float32[np.ndarray, " tokens"]
    """Natural log of the probability that the model gave to each of `tokens`, before temperature and the like."""


def generate_text(
    model: LanguageModel,
    tokenizer: TextTokenizer,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    sampling: Sampling = Sampling(),
    num_samples: int = 1,
    seed: int = 0,
    document_prefix: Literal["eos", "bos"] | None = None,
    stop_ids: Sequence[int] | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
    on_text: OnText | None = None,
) -> list[Completion]:
    """The completions of each prompt, `num_samples` of the first, then those of the second, and so on.

    A completion ends before the first string of `stop` in it (wherever tokens begin and end), at a token of `stop_ids`
    (None: the tokenizer's EOS), or after `max_new_tokens`. What a prompt gets depends on its place in the list and the
    seed, never on the other prompts.

    A prompt that is text begins as `scoring.encode_requests` lets contexts begin: with one BOS where
    `document_prefix` says "bos" (None: where the tokenizer has one); else as it is, but for an empty one, before which
    EOS stands. A prompt that is tokens is taken as it is. Of a prompt with more than `seq_len - max_new_tokens` tokens
    the last so many are kept; the completion counts those cut.

    Raises ValueError for an empty stop string, for `max_new_tokens` that leave no room for a prompt, and as
    `marin.inference.generate.generate` does.
    """
    raise NotImplementedError
