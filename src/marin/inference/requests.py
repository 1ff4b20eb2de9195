"""Generation requests of evaluation tasks: each with its own stop strings, length and sampling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from marin.inference.sampling import Sampling
from marin.inference.text import Completion, LanguageModel, TextTokenizer

RequestProgress = Callable[[int, int], None]
"""Called with (requests done, requests in all) whenever more are done."""


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """Write on from this prompt."""

    prompt: str
    """What stands before."""
    until: tuple[str, ...] = ()
    """Strings before the first of which the answer ends; EOS always ends it."""
    max_gen_toks: int = 256
    """Most tokens of an answer. (The names are those of lm-evaluation-harness.)"""
    sampling: Sampling = Sampling()
    """How tokens are chosen; greedy unless said otherwise."""


def generate_until(
    model: LanguageModel,
    tokenizer: TextTokenizer,
    requests: Sequence[GenerateRequest],
    *,
    seed: int = 0,
    document_prefix: Literal["eos", "bos"] | None = None,
    batch_size: int = 16,
    progress: RequestProgress | None = None,
) -> list[Completion]:
    """The completion of each request, in the order of the requests; `generate_text` says how prompts begin and are cut.

    Raises ValueError as `generate_text` does.
    """
    raise NotImplementedError
