"""Generation requests of evaluation tasks: each with its own stop strings, length and sampling."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from marin.inference.sampling import Sampling
from marin.inference.text import Completion, LanguageModel, TextTokenizer, generate_text

RequestProgress = Callable[[int, int], None]
"""Called with (requests done, requests in all) whenever one is done; `ProgressLines` is one."""


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

    An answer takes no more than half of what the model reads, also where `max_gen_toks` says more: the other half is the
    prompt's. Raises ValueError as `generate_text` does.
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


def _report(progress: RequestProgress, num_before: int, num_requests: int, num_done: int, _: int) -> None:
    progress(num_before + num_done, num_requests)


class ProgressLines:
    """Writes how many requests are done, how many a second, and how long the rest will take.

    A line at most every `seconds`, and one at the end. The rate is that of all so far: answers that end together, and
    compilation at the beginning, make a shorter look misleading.

    >>> times = iter([0.0, 10.0])
    >>> lines = ProgressLines("gsm8k", write=print, clock=lambda: next(times))
    >>> lines(20, 100)
    gsm8k: 20 of 100 requests, 2.0 a second, 40 s to go
    """

    def __init__(
        self,
        what: str,
        *,
        seconds: float = 5.0,
        write: Callable[[str], None] = functools.partial(print, flush=True),
        clock: Callable[[], float] = time.monotonic,
    ):
        self._what = what
        self._seconds = seconds
        self._write = write
        self._clock = clock
        self._started = self._written = clock()

    def __call__(self, num_done: int, num_requests: int) -> None:
        now = self._clock()
        if num_done < num_requests and now - self._written < self._seconds:
            return
        self._written = now
        rate = num_done / max(now - self._started, 1e-9)
        left = (num_requests - num_done) / rate if num_done else float("inf")
        self._write(f"{self._what}: {num_done} of {num_requests} requests, {rate:.1f} a second, {left:.0f} s to go")
