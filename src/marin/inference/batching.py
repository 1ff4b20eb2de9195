"""Complete many prompts in a batch of few rows: where one is done, the next takes its row.

Prompts are taken from the shortest to the longest, so that the cache grows as they do. The device draws a few tokens
for all rows, then the host looks at them: whoever asked decides whether a completion is to go on (a stop string is
found only there). Tokens that a row got behind its end are thrown away; that and rows which idle to the end of a call
are the price of looking seldom.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marin.inference.decoding import (
    MAX_STEPS,
    Rows,
    Weights,
    admit,
    decode,
    empty_rows,
    ended,
    make_weights,
    with_slots,
    without_adapter,
)
from marin.inference.kv_cache import bucket, pad_prompts
from marin.inference.sampling import Sampling
from marin.models.config import LmConfig

OnTokens = Callable[[int, list[int], list[float]], bool]
"""Called with (index of the job, tokens drawn since the last call, their log-probabilities, empty if not asked for);
what it returns says whether the completion is to end here."""

_PROMPT_TOKENS = 4096  # read at once; bounds the scores of attention, which grow with them times their length


@dataclass(frozen=True, kw_only=True)
class Job:
    """A prompt to complete."""

    prompt: Sequence[int]
    """Its tokens, at least one."""
    max_new_tokens: int
    """Most tokens to draw, where the model has room for them."""
    stream: int
    """What tells its random numbers from those of other jobs under one seed."""


def run_jobs(
    config: LmConfig,
    params: Any,
    jobs: Sequence[Job],
    on_tokens: OnTokens,
    *,
    sampling: Sampling,
    stop_ids: Collection[int] = (),
    seed: int = 0,
    batch_size: int = 16,
    steps: int = 8,
    wants_log_probs: bool = False,
    compute_dtype: Any = jnp.float32,
) -> None:
    """Complete every job, handing its tokens to `on_tokens` at most `steps` at a time.

    A completion ends behind a token of `stop_ids`, behind `max_new_tokens`, where the model's `seq_len` is full, or
    where `on_tokens` says so. What a job gets hangs on its prompt, its stream and the seed; to rounding, on nothing
    else.

    Raises ValueError for a prompt that is empty, holds an id outside the vocabulary or leaves no room for a token.
    """
    vocab_size = jax.eval_shape(config.unembedding, params).shape[1]
    _check(jobs, config.seq_len, vocab_size, batch_size)
    waiting = sorted((i for i, job in enumerate(jobs) if job.max_new_tokens > 0), key=lambda i: -len(jobs[i].prompt))
    if not waiting:
        return
    config, params = without_adapter(config, params)
    stops = np.zeros(vocab_size, bool)
    stops[[i for i in stop_ids if 0 <= i < vocab_size]] = True
    num_rows = min(batch_size, 1 << (len(waiting) - 1).bit_length())
    batch = _Batch(
        config=config,
        weights=make_weights(config, params, compute_dtype, num_rows=num_rows),
        vocab_size=vocab_size,
        num_rows=num_rows,
        keeps_seen=sampling.repetition_penalty != 1,
        compute_dtype=compute_dtype,
    )
    while waiting or batch.is_busy:
        batch.fill(waiting, jobs, steps)
        batch.reserve(steps)
        rows, drawn = decode(
            config,
            sampling,
            wants_log_probs,
            compute_dtype,
            batch.weights,
            batch.rows,
            stops,
            seed,
            min(steps, MAX_STEPS),
        )
        tokens, log_probs, is_done = jax.device_get(drawn)
        batch.rows = rows
        batch.hand_out(tokens, log_probs if wants_log_probs else None, is_done, on_tokens)


class _Batch:
    """The rows of one run, and which job is in which."""

    def __init__(
        self,
        *,
        config: LmConfig,
        weights: Weights,
        vocab_size: int,
        num_rows: int,
        keeps_seen: bool,
        compute_dtype: Any,
    ):
        self.config = config
        self.weights = weights
        self.vocab_size = vocab_size
        self.num_rows = num_rows
        self.keeps_seen = keeps_seen
        self.compute_dtype = compute_dtype
        self.rows: Rows | None = None
        self.num_slots = 0
        self.job_of: list[int | None] = [None] * num_rows
        self.position = np.zeros(num_rows, np.int64)  # of the last token of each row
        self.limit = np.zeros(num_rows, np.int64)  # the last position of each row

    @property
    def is_busy(self) -> bool:
        return any(job is not None for job in self.job_of)

    def fill(self, waiting: list[int], jobs: Sequence[Job], steps: int) -> None:
        """Give the free rows to jobs from the end of `waiting`."""
        free = [row for row, job in enumerate(self.job_of) if job is None]
        while free and waiting:
            length = bucket(len(jobs[waiting[-1]].prompt) - 1, self.config.seq_len)
            size = min(len(free), len(waiting), max(1, _PROMPT_TOKENS // length))
            taken = [waiting.pop() for _ in range(size)]
            rows, free = free[:size], free[size:]
            for row, index in zip(rows, taken, strict=True):
                self.job_of[row] = index
                self.position[row] = len(jobs[index].prompt) - 1
                self.limit[row] = min(self.position[row] + jobs[index].max_new_tokens, self.config.seq_len - 1)
            self._admit(rows, [jobs[i] for i in taken], steps)

    def _admit(self, rows: list[int], jobs: list[Job], steps: int) -> None:
        longest = max(len(job.prompt) for job in jobs) - 1
        self.reserve(steps)
        # Rows beyond the jobs repeat the first and are dropped, up to a power of two: few shapes, few compilations.
        padding = min(1 << (len(jobs) - 1).bit_length(), self.num_rows) - len(jobs)
        jobs = jobs + jobs[:1] * padding
        before, positions = pad_prompts([job.prompt[:-1] for job in jobs], bucket(longest, self.num_slots))
        limits = np.minimum(positions + [job.max_new_tokens for job in jobs], self.config.seq_len - 1)
        self.rows = admit(
            self.config,
            self.compute_dtype,
            self.weights,
            self.rows,
            np.array(rows + [self.num_rows] * padding, np.int32),
            before,
            positions,
            np.array([job.prompt[-1] for job in jobs], np.int32),
            limits.astype(np.int32),
            np.array([job.stream for job in jobs], np.int32),
        )

    def reserve(self, steps: int) -> None:
        """Make room for the next tokens of every row: for all of them, but at most twice of what is needed now."""
        busy = [row for row, job in enumerate(self.job_of) if job is not None]
        needed = max(min(self.position[row] + steps, self.limit[row]) for row in busy)
        if self.rows is not None and needed <= self.num_slots:
            return
        wanted = int(min(max(self.limit[row] for row in busy), 2 * needed))
        self.num_slots = bucket(wanted, self.config.seq_len)
        if self.rows is None:
            self.rows = empty_rows(
                self.config,
                self.vocab_size,
                batch=self.num_rows,
                slots=self.num_slots,
                keeps_seen=self.keeps_seen,
                compute_dtype=self.compute_dtype,
            )
        else:
            self.rows = with_slots(self.config, self.rows, slots=self.num_slots, compute_dtype=self.compute_dtype)

    def hand_out(
        self, tokens: np.ndarray, log_probs: np.ndarray | None, is_done: np.ndarray, on_tokens: OnTokens
    ) -> None:
        """Give each job its tokens; free the rows of those that end."""
        stopped = np.zeros(self.num_rows, bool)
        for row, job in enumerate(self.job_of):
            if job is None:
                continue
            new = tokens[tokens[:, row] >= 0, row].tolist()
            theirs = [] if log_probs is None else log_probs[: len(new), row].tolist()
            self.position[row] += len(new)
            stopped[row] = on_tokens(job, new, theirs) and not is_done[row]
            if is_done[row] or stopped[row]:
                self.job_of[row] = None
        if stopped.any():
            self.rows = ended(self.rows, stopped)


def _check(jobs: Sequence[Job], seq_len: int, vocab_size: int, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    for index, job in enumerate(jobs):
        prompt = job.prompt
        if job.max_new_tokens < 0:
            raise ValueError(f"max_new_tokens={job.max_new_tokens} must be at least 0")
        if len(prompt) == 0:
            raise ValueError(f"prompt {index} is empty; begin it with the tokenizer's BOS or EOS token")
        if len(prompt) >= seq_len:
            raise ValueError(
                f"prompt {index} has {len(prompt)} tokens, which leaves no room for another in a model with "
                f"seq_len={seq_len}; cut it to at most {seq_len - 1} tokens"
            )
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            bad = next(i for i in prompt if not 0 <= i < vocab_size)
            raise ValueError(
                f"prompt {index} holds token {bad}, but the model's vocabulary is 0..{vocab_size - 1}; "
                f"encode it with the tokenizer that the model was trained with"
            )
