"""Complete texts: prompts in, text out, with stop strings.

A stop string may begin and end inside tokens, and is looked for in the bytes that the tokens stand for, so it is found
exactly where it is in the text. It is looked for on the host, after every few tokens of the batch; what was drawn
behind it in the meantime is thrown away and changes nothing.
"""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from marin.inference.batching import Job, run_jobs
from marin.inference.prefix import DocumentPrefix, resolve_prefix
from marin.inference.sampling import Sampling

_STEPS = 8  # tokens between two looks of the host
_STEPS_OF_A_STREAM = 2  # as many while someone reads along

GREEDY = Sampling()

FinishReason = Literal["stop", "length", "eos"]
"""A stop string came; there was no room for more tokens; the model ended the text."""

Progress = Callable[[int, int], None]
"""Called with (completions done, completions in all) whenever one is done."""

OnText = Callable[[int, str], None]
"""Called with (index of the completion, text that was added to it) as it comes; the texts of one add up to its text."""


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
    def adds_bos(self) -> bool: ...

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
    sampling: Sampling = GREEDY,
    num_samples: int = 1,
    seed: int = 0,
    document_prefix: DocumentPrefix | None = None,
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
    `document_prefix` says "bos" (None: where the tokenizer adds one, `marin.inference.prefix`); else as it is, but for
    an empty one, before which EOS stands. A prompt that is tokens is taken as it is. Of a prompt with more than
    `seq_len - max_new_tokens` tokens the last so many are kept; the completion counts those cut.

    Raises ValueError for a log-probability that is no finite number, for an empty stop string, for `max_new_tokens`
    that leave no room for a prompt, and as `marin.inference.generate.generate` does.
    """
    _check(model.config.seq_len, max_new_tokens, stop, num_samples)
    encoded = _encoded(tokenizer, prompts, document_prefix)
    longest = model.config.seq_len - max_new_tokens
    kept = [tokens[-longest:] for tokens in encoded]
    asked_ids = [tokenizer.eos_id] if stop_ids is None else stop_ids
    ends = frozenset(token for token in asked_ids if token is not None)
    jobs = [
        Job(prompt=tokens, max_new_tokens=max_new_tokens, stream=index * num_samples + sample)
        for index, tokens in enumerate(kept)
        for sample in range(num_samples)
    ]
    drafts = [_Draft(tokenizer.token_bytes, [text.encode() for text in stop], ends) for _ in jobs]
    num_done = 0

    def receive(index: int, tokens: list[int], log_probs: list[float]) -> bool:
        nonlocal num_done
        draft = drafts[index]
        if not np.isfinite(log_probs).all():
            raise ValueError(
                f"the model gives a token behind prompt {index // num_samples} the log-probability "
                f"{next(value for value in log_probs if not np.isfinite(value))}; expected a finite number. Its "
                "parameters are likely not finite: take an earlier checkpoint"
            )
        draft.add(tokens, log_probs)
        is_last = draft.ended_by is not None or len(draft.tokens) >= max_new_tokens
        if on_text is not None and (new := draft.new_text(is_last)):
            on_text(index, new)
        num_done += is_last
        if is_last and progress is not None:
            progress(num_done, len(jobs))
        return is_last

    run_jobs(
        model.config,
        model.params,
        jobs,
        receive,
        sampling=sampling,
        stop_ids=ends,
        seed=seed,
        batch_size=batch_size,
        steps=_STEPS_OF_A_STREAM if on_text is not None else _STEPS,
        wants_log_probs=True,
    )
    return [
        Completion(
            text=draft.text(),
            tokens=tuple(draft.tokens),
            finish_reason=draft.ended_by or "length",
            num_prompt_tokens=len(job.prompt),
            num_prompt_tokens_cut=len(encoded[index // num_samples]) - len(job.prompt),
            log_probs=np.array(draft.log_probs, np.float32),
        )
        for index, (job, draft) in enumerate(zip(jobs, drafts, strict=True))
    ]


class _Draft:
    """A completion while it is written."""

    def __init__(self, token_bytes: Sequence[bytes], stops: Sequence[bytes], stop_ids: frozenset[int]):
        self._token_bytes = token_bytes
        self._stops = stops
        self._stop_ids = stop_ids
        self._data = b""
        self._num_shown = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self.ended_by: Literal["stop", "eos"] | None = None

    def add(self, tokens: Sequence[int], log_probs: Sequence[float]) -> None:
        """Take tokens up to the one that ends the completion; those behind it were drawn for nothing."""
        for token, log_prob in zip(tokens, log_probs, strict=True):
            self.tokens.append(token)
            self.log_probs.append(log_prob)
            if token in self._stop_ids:
                self.ended_by = "eos"
                return
            num_before = len(self._data)
            # ids beyond the tokenizer's, of a padded vocabulary, stand for no text
            self._data += self._token_bytes[token] if token < len(self._token_bytes) else b""
            cut = first_stop(self._data, self._stops, num_before)
            if cut is not None:
                self._data, self.ended_by = self._data[:cut], "stop"
                return

    def text(self) -> str:
        return self._data.decode("utf-8", "replace")

    def new_text(self, is_last: bool) -> str:
        """Text that was not shown before and cannot turn out to be of a stop string, nor half a character."""
        held = 0 if is_last else _num_held(self._data, self._stops)
        end = max(self._num_shown, len(self._data) - held)
        new = self._decoder.decode(self._data[self._num_shown : end], final=is_last)
        self._num_shown = end
        return new


def first_stop(data: bytes, stops: Sequence[bytes], num_searched: int) -> int | None:
    """Where the stop string begins that ends first (of those that end alike, the longest); None where there is none.

    None ends within the first `num_searched` bytes. How the bytes came in tokens does not matter.
    """
    found = []
    for stop in stops:
        start = data.find(stop, max(0, num_searched - len(stop) + 1))
        if start >= 0:
            found.append((start + len(stop), start))
    return min(found)[1] if found else None


def _num_held(data: bytes, stops: Sequence[bytes]) -> int:
    """Bytes at the end of the data that a stop string may begin with."""
    longest = max(map(len, stops), default=1) - 1
    return next((n for n in range(min(longest, len(data)), 0, -1) if any(s.startswith(data[-n:]) for s in stops)), 0)


def _encoded(
    tokenizer: TextTokenizer,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    document_prefix: DocumentPrefix | None,
) -> list[list[int]]:
    """The tokens of each prompt, with what stands before a text."""
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    ids = iter(tokenizer.encode_batch(texts)) if texts else iter(())
    wants_bos = resolve_prefix(tokenizer, document_prefix) == "bos"
    encoded = []
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            encoded.append([int(token) for token in prompt])
            continue
        tokens = [int(token) for token in next(ids)]
        first = tokenizer.bos_id if wants_bos else tokenizer.eos_id
        if not tokens or (wants_bos and tokens[0] != first):
            if first is None:
                raise ValueError(
                    f"prompt {index} must begin with {'BOS' if wants_bos else 'EOS, as it is empty'}, and the "
                    "tokenizer has no such token: use the tokenizer that the model was trained with"
                )
            tokens.insert(0, first)
        encoded.append(tokens)
    return encoded


def _check(seq_len: int, max_new_tokens: int, stop: Sequence[str], num_samples: int) -> None:
    if not 1 <= max_new_tokens < seq_len:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} must be from 1 to {seq_len - 1}: the model reads {seq_len} tokens, and "
            "one at least is the prompt's"
        )
    if isinstance(stop, str) or not all(stop):
        raise ValueError(f"stop={stop!r}: expected a sequence of strings, none of them empty")
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples} must be at least 1")
