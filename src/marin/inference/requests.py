"""Generation requests of evaluation tasks: each with its own stop strings, length and sampling."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from marin.inference.sampling import Sampling
from marin.inference.text import Completion, LanguageModel, Progress, TextTokenizer, generate_text


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
    progress: Progress | None = None,
) -> list[Completion]:
    """The completion of each request, in the order of the requests; `generate_text` says how prompts begin and are cut.

    An answer takes no more than half of what the model reads, also where `max_gen_toks` says more: the other half is
    the prompt's. Raises ValueError as `generate_text` does.
    """
    answers: list[Completion | None] = [None] * len(requests)
    # One run has one way of sampling, one length and one set of stop strings; those alike share batches.
    alike: dict[GenerateRequest, list[int]] = {}
    for index, request in enumerate(requests):
        alike.setdefault(replace(request, prompt=""), []).append(index)
    num_done = 0
    for kind, indices in alike.items():
        done = generate_text(
            model,
            tokenizer,
            [requests[i].prompt for i in indices],
            max_new_tokens=min(kind.max_gen_toks, model.config.seq_len // 2),
            stop=kind.until,
            sampling=kind.sampling,
            seed=seed,
            document_prefix=document_prefix,
            batch_size=batch_size,
            progress=None if progress is None else functools.partial(_report, progress, num_done, len(requests)),
        )
        for index, completion in zip(indices, done, strict=True):
            answers[index] = completion
        num_done += len(indices)
    return [answer for answer in answers if answer is not None]


def _report(progress: Progress, num_before: int, num_requests: int, num_done: int, _: int) -> None:
    progress(num_before + num_done, num_requests)
