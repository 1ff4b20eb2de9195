"""Log-probabilities from a model: rows of tokens in whole batches, and (context, continuation) requests on top.

Whole rows are scored by one function from (tokens, targets) to log-probabilities, so everything above it is tested with
models whose answers are known. Rows are sorted and padded into a few lengths, each compiled once; padding stands to the
right, where a causal model cannot see it. Requests of a real model go another way, `ScoredModel.request_scorer`, which
reads what they share once (`marin.evaluation.engine`); a model that is only a function reads a row for each. Either
way, what a request scores depends on its own tokens only (to rounding), and the order of requests changes nothing.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int32

from marin.evaluation.packing import Scored
from marin.inference.prefix import DocumentPrefix, resolve_prefix

TokenLogProbs = Callable[[Int32[np.ndarray, "batch seq"], Int32[np.ndarray, "batch seq"]], Any]
"""(tokens, targets) -> array-like float32[batch, seq]: natural log-probability of each target after its tokens."""

TokenIsGreedy = Callable[[Int32[np.ndarray, "batch seq"], Int32[np.ndarray, "batch seq"]], Any]
"""(tokens, targets) -> array-like bool[batch, seq]: whether each target is the most probable token, the lowest id of
equals."""

Progress = Callable[[int, int], None]
"""Called with (done, in all) after every batch: requests, or rows where whole rows are scored."""


@runtime_checkable
class Encoder(Protocol):
    """What scoring needs of a tokenizer; `marin.processing.tokenize.tokenizer.Tokenizer` has it."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def bos_id(self) -> int | None: ...

    @property
    def eos_id(self) -> int | None: ...

    @property
    def adds_bos(self) -> bool: ...

    def encode_batch(self, texts: list[str]) -> list[Int32[np.ndarray, " tokens"]]: ...


@runtime_checkable
class RequestScorer(Protocol):
    """Scores what requests ask for and no more."""

    def score(
        self, requests: Sequence[Scored], progress: Progress | None = None
    ) -> list[tuple[Float32[np.ndarray, " targets"], Bool[np.ndarray, " targets"]]]:
        """Of each target of each request: its log-probability, and whether it is the most probable token."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScoredModel:
    """A model as scoring sees it."""

    token_log_probs: TokenLogProbs
    """Log-probability of each target; called with few different shapes."""
    seq_len: int
    """Most tokens that the model reads at once."""
    vocab_size: int
    """Token ids are below this."""
    tokens_per_batch: int = 4096
    """Tokens in one batch; more needs more memory, fewer waste time on call overhead."""
    document_prefix: DocumentPrefix | None = None
    """What training put before a document; None: unknown, so BOS where the tokenizer adds one, else
    EOS."""
    token_is_greedy: TokenIsGreedy | None = None
    """Whether each target is the most probable token; None: the model gives log-probabilities and no more. Not asked of
    a model with a request_scorer."""
    request_scorer: RequestScorer | None = None
    """Scores continuations and reads once what their contexts share, as `scored_model` gives; None: one row each,
    through the two functions."""

    def __post_init__(self) -> None:
        if self.seq_len < 1 or self.tokens_per_batch < 1:
            raise ValueError(
                f"seq_len={self.seq_len} and tokens_per_batch={self.tokens_per_batch} must be at least one token each"
            )


def scored_model(
    config: Any,
    params: Any,
    vocab_size: int,
    tokens_per_batch: int = 4096,
    document_prefix: DocumentPrefix | None = None,
    *,
    compute_dtype: Any = "float32",
    mesh: Any = None,
) -> ScoredModel:
    """A `marin.models` language model as scoring sees it; config is its LmConfig.

    What is compiled is kept by config and shape, so a model with other parameters costs no compilation. With a mesh
    (`marin.distributed.mesh.make_mesh`; None: the one in use, if any) its devices share each batch; parameters that do
    not lie on it are copied to each of its devices.
    """
    from marin.evaluation.engine import Engine, mesh_in_use, on_mesh, row_scorer

    mesh = mesh_in_use() if mesh is None else mesh
    params = on_mesh(params, mesh)
    return ScoredModel(
        token_log_probs=row_scorer(config, params, compute_dtype=compute_dtype, mesh=mesh),
        seq_len=config.seq_len,
        vocab_size=vocab_size,
        tokens_per_batch=tokens_per_batch,
        document_prefix=document_prefix,
        request_scorer=Engine(
            config=config, params=params, tokens_per_batch=tokens_per_batch, compute_dtype=compute_dtype, mesh=mesh
        ),
    )


def check_vocabulary(model: ScoredModel, tokenizer: Encoder) -> None:
    """Raise ValueError unless every id of the tokenizer is one of the model's."""
    if tokenizer.vocab_size > model.vocab_size:
        raise ValueError(
            f"vocabulary mismatch: the tokenizer has {tokenizer.vocab_size} tokens and the model {model.vocab_size}, "
            "so some text could not be scored. Evaluate the model with the tokenizer that it was trained with"
        )


def bucket_lengths(seq_len: int, num_buckets: int = 3) -> tuple[int, ...]:
    """Row lengths that batches are padded to, ascending: seq_len, its half, its quarter, none below 16."""
    lengths = {max(seq_len >> halving, min(seq_len, 16)) for halving in range(num_buckets)}
    return tuple(sorted(lengths))


def score_rows(
    model: ScoredModel,
    rows: Sequence[tuple[np.ndarray, np.ndarray]],
    progress: Progress | None = None,
) -> list[Float32[np.ndarray, " tokens"]]:
    """Log-probabilities, natural, of the targets of each row (tokens int[n], targets int[n]), in the order given.

    Raises ValueError for a row longer than the model reads or an id outside its vocabulary.
    """
    _check_rows(model, rows)
    results: list[np.ndarray] = [np.zeros(0, np.float32) for _ in rows]
    num_done = 0
    shortest = 0
    for length in bucket_lengths(model.seq_len):
        chosen = [index for index, row in enumerate(rows) if shortest < len(row[0]) <= length]
        shortest = length
        # ordered by content, so that the batches do not depend on the order of the requests
        chosen.sort(key=lambda index: (len(rows[index][0]), rows[index][0].tobytes(), rows[index][1].tobytes()))
        num_rows = max(1, model.tokens_per_batch // length)
        for start in range(0, len(chosen), num_rows):
            batch = chosen[start : start + num_rows]
            tokens = np.zeros((num_rows, length), np.int32)
            targets = np.zeros((num_rows, length), np.int32)
            for place, index in enumerate(batch):
                size = len(rows[index][0])
                tokens[place, :size], targets[place, :size] = rows[index]
            log_probs = np.asarray(model.token_log_probs(tokens, targets), dtype=np.float32)
            for place, index in enumerate(batch):
                results[index] = log_probs[place, : len(rows[index][0])].copy()
            num_done += len(batch)
            if progress is not None:
                progress(num_done, len(rows))
    return results


def _check_rows(model: ScoredModel, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    for index, (tokens, targets) in enumerate(rows):
        if len(tokens) != len(targets) or len(tokens) > model.seq_len:
            raise ValueError(
                f"row {index} has {len(tokens)} tokens and {len(targets)} targets; expected equally many, at most "
                f"the {model.seq_len} that the model reads. Cut longer texts into windows"
            )
        top = max(int(np.max(part, initial=0)) for part in (tokens, targets))
        if top >= model.vocab_size:
            raise ValueError(
                f"row {index} has token id {top}, outside the model's vocabulary of {model.vocab_size}: it was made "
                "with another tokenizer"
            )


def prefix_id(tokenizer: Encoder, document_prefix: DocumentPrefix | None) -> int:
    """The token that stands before a text with nothing before it.

    Raises ValueError where the tokenizer has no such token.
    """
    kind = resolve_prefix(tokenizer, document_prefix)
    token = tokenizer.eos_id if kind == "eos" else tokenizer.bos_id
    if token is None:
        wanted = f"no {kind.upper()}" if document_prefix else "neither a BOS nor an EOS"
        raise ValueError(
            f"the tokenizer has {wanted} token to put in front, so the first token of a text cannot be scored. "
            "Use a tokenizer with the token that stood before documents in training"
        )
    return token


def prefix_policy(tokenizer: Encoder, document_prefix: DocumentPrefix | None) -> str:
    """How scored texts begin, for the record."""
    begins_with_bos = resolve_prefix(tokenizer, document_prefix) == "bos"
    unknown = f"what stood there in training is unknown; the tokenizer adds {'one' if begins_with_bos else 'no BOS'}"
    source = unknown if document_prefix is None else "as in training"
    if begins_with_bos:
        return f"one BOS before every text and every context ({source})"
    return f"EOS before every document and before an empty context, nothing before other contexts ({source})"


@dataclass(frozen=True, kw_only=True)
class Request:
    """How likely is this continuation after this context?"""

    context: str
    """What stands before; may be empty."""
    continuation: str
    """What is scored; not empty, delimiter included."""


@dataclass(frozen=True, kw_only=True)
class EncodedRequest:
    """A request as tokens."""

    context: Int32[np.ndarray, " context"]
    """Tokens before, at least one."""
    continuation: Int32[np.ndarray, " continuation"]
    """Tokens that are scored, at least one."""
    boundary_merged: bool
    """Whether a token spans the boundary, so that the continuation's tokens begin before its text does."""


@dataclass(frozen=True, kw_only=True)
class LogLikelihood:
    """The answer to a request."""

    log_prob: float
    """Sum of the natural log-probabilities of the continuation's tokens."""
    num_tokens: int
    """How many they are."""
    num_cut_tokens: int
    """Tokens of the context that the model could not read, cut on the left."""
    boundary_merged: bool
    """As in `EncodedRequest`."""
    is_greedy: bool | None
    """Whether each of them was the most probable token, the lowest id of equals, given those before it; None where the
    model gives log-probabilities only, which no model of `scored_model` does."""
    num_bytes: int
    """UTF-8 bytes of the text that was scored (`scored_text`)."""
    token_log_probs: Float32[np.ndarray, " continuation"] = field(compare=False)
    """Natural log-probability of each of them."""


def scored_text(request: Request) -> str:
    """The text whose likelihood answers a request: the whitespace that ends the context, then the continuation."""
    return request.context[len(request.context.rstrip()) :] + request.continuation


def alone_request(request: Request) -> Request:
    """The request that asks how likely the same scored text is with nothing before it."""
    return Request(context="", continuation=scored_text(request))


class TooLongError(ValueError):
    """A continuation has more tokens than the model reads."""

    def __init__(self, index: int, text: str, num_tokens: int, seq_len: int) -> None:
        """`index` is that of the request."""
        super().__init__(
            f"continuation {text[:60]!r}... has {num_tokens:,} tokens and the model reads {seq_len:,}: shorten it, or "
            "measure long texts in bits per byte"
        )
        self.index = index


class NotFiniteError(ValueError):
    """A model gave a log-probability that is no number, so nothing can be said of the text."""

    def __init__(self, index: int, text: str, log_probs: Float32[np.ndarray, " tokens"]) -> None:
        """`index` is that of the request, `text` what was scored with what stood before it."""
        wrong = int(np.flatnonzero(~np.isfinite(log_probs))[0])
        super().__init__(
            f"request {index}, which ends in {text[-60:]!r}: the model gives token {wrong + 1} of {len(log_probs)} the "
            f"log-probability {log_probs[wrong]}; expected a finite number. Its parameters are likely not finite: "
            "take an earlier checkpoint, or another compute_dtype"
        )
        self.index = index


def encode_requests(
    tokenizer: Encoder, requests: Sequence[Request], document_prefix: DocumentPrefix | None
) -> list[EncodedRequest]:
    """Split each request into context tokens and continuation tokens.

    Whitespace that ends the context moves into the continuation: tokenizers attach a space to the word after it, so
    a context that keeps it ends in a token which training never showed there. Context and continuation are then
    encoded as one text and split where the tokens of the context alone end. Where those are no prefix of the whole (a
    token spans the boundary), the split is at their longest common prefix, and the request says so. What stood before
    documents in training stands before an empty context; where it is BOS, exactly one is in front of every context.

    Raises ValueError for an empty continuation.
    """
    moved = []
    for request in requests:
        if not request.continuation:
            raise ValueError(f"empty continuation after context {request.context[-60:]!r}: there is nothing to score")
        moved.append((request.context.rstrip(), scored_text(request)))
    contexts = sorted({context for context, _ in moved})
    context_ids = dict(zip(contexts, tokenizer.encode_batch(contexts), strict=True))
    wholes = tokenizer.encode_batch([context + continuation for context, continuation in moved])

    begins_with_bos = resolve_prefix(tokenizer, document_prefix) == "bos"
    encoded = []
    for (context, continuation), whole in zip(moved, wholes, strict=True):
        alone = context_ids[context]
        if len(whole) == 0:
            raise ValueError(f"the tokenizer makes no token of {context + continuation!r}: there is nothing to score")
        shared = min(len(alone), len(whole))
        differs = np.flatnonzero(alone[:shared] != whole[:shared])
        split = int(differs[0]) if len(differs) else shared
        split = min(split, len(whole) - 1)
        merged = split < len(alone)
        before = whole[:split]
        if len(before) == 0 or (begins_with_bos and before[0] != tokenizer.bos_id):
            before = np.concatenate([[prefix_id(tokenizer, document_prefix)], before])
        encoded.append(
            EncodedRequest(
                context=np.asarray(before, np.int32),
                continuation=np.asarray(whole[split:], np.int32),
                boundary_merged=merged,
            )
        )
    return encoded


def log_likelihoods(
    model: ScoredModel, tokenizer: Encoder, requests: Sequence[Request], progress: Progress | None = None
) -> list[LogLikelihood]:
    """Log-likelihood of each continuation after its context, in the order of the requests.

    A context too long for the model loses tokens on its left, which the answer counts. Raises ValueError where a
    continuation alone is longer than the model reads, for a cut one would be no score of the same text (TooLongError),
    and where a log-probability is no finite number (NotFiniteError).
    """
    encoded = encode_requests(tokenizer, requests, model.document_prefix)
    for index, (request, tokens) in enumerate(zip(requests, encoded, strict=True)):
        if len(tokens.continuation) > model.seq_len:
            raise TooLongError(index, request.continuation, len(tokens.continuation), model.seq_len)
    scored = score_continuations(model, [(item.context, item.continuation) for item in encoded], progress)
    for index, (request, item) in enumerate(zip(requests, scored, strict=True)):
        if not np.isfinite(item.log_probs).all():
            raise NotFiniteError(index, request.context + request.continuation, item.log_probs)
    return [
        LogLikelihood(
            log_prob=float(item.log_probs.astype(np.float64).sum()),
            num_tokens=len(tokens.continuation),
            num_cut_tokens=max(0, len(tokens.context) + len(tokens.continuation) - 1 - model.seq_len),
            boundary_merged=tokens.boundary_merged,
            is_greedy=item.is_greedy,
            num_bytes=len(scored_text(request).encode("utf-8", "surrogatepass")),
            token_log_probs=item.log_probs,
        )
        for request, tokens, item in zip(requests, encoded, scored, strict=True)
    ]


def rolling_log_likelihoods(
    model: ScoredModel, tokenizer: Encoder, texts: Sequence[str], progress: Progress | None = None
) -> list[LogLikelihood]:
    """Log-likelihood of each whole text, its tokens taken in windows that do not overlap.

    The first window follows what stood before documents in training, each later one the last token of the window
    before it; the last one has as many tokens before it as the model reads. So lm-eval does
    (`get_rolling_token_windows` with one token of context, `make_disjoint_window`). `is_greedy` says whether every
    token was the most probable one. A text of no tokens has log-likelihood 0.

    Raises NotFiniteError as `log_likelihoods` does.
    """
    check_vocabulary(model, tokenizer)
    first = prefix_id(tokenizer, model.document_prefix)
    pairs, owners = [], []
    for index, tokens in enumerate(tokenizer.encode_batch(list(texts))):
        tokens = np.asarray(tokens, np.int32)
        if len(tokens) and tokens[0] == tokenizer.bos_id:
            tokens = tokens[1:]  # what stands in front is decided here
        whole = np.concatenate([[first], tokens]).astype(np.int32)
        for done in range(0, len(tokens), model.seq_len):
            end = min(done + model.seq_len, len(tokens))
            pairs.append((whole[max(0, end - model.seq_len) : done + 1], whole[done + 1 : end + 1]))
            owners.append(index)
    parts: list[list[ScoredContinuation]] = [[] for _ in texts]
    for owner, part in zip(owners, score_continuations(model, pairs, progress), strict=True):
        parts[owner].append(part)
    answers = []
    for text, windows in zip(texts, parts, strict=True):
        log_probs = np.concatenate([np.zeros(0, np.float32), *(window.log_probs for window in windows)])
        if not np.isfinite(log_probs).all():
            raise NotFiniteError(len(answers), text, log_probs)
        unknown = any(window.is_greedy is None for window in windows)
        answers.append(
            LogLikelihood(
                log_prob=float(log_probs.astype(np.float64).sum()),
                num_tokens=len(log_probs),
                num_cut_tokens=0,
                boundary_merged=False,
                is_greedy=None if unknown else all(window.is_greedy for window in windows),
                num_bytes=len(text.encode("utf-8", "surrogatepass")),
                token_log_probs=log_probs,
            )
        )
    return answers


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredContinuation:
    """What a model says of the tokens of a continuation."""

    log_probs: Float32[np.ndarray, " continuation"]
    """Natural log-probability of each, given all before it."""
    is_greedy: bool | None
    """As in `LogLikelihood`."""


def score_continuations(
    model: ScoredModel, pairs: Sequence[tuple[np.ndarray, np.ndarray]], progress: Progress | None = None
) -> list[ScoredContinuation]:
    """Scores of the continuation of each (context int[c], continuation int[n]), in the order given.

    Contexts have one token at least. What does not fit into the model is cut on the left of the context.
    """
    rows = []
    for context, continuation in pairs:
        whole = np.concatenate([context, continuation])
        rows.append((whole[:-1][-model.seq_len :], whole[1:][-model.seq_len :]))
    if model.request_scorer is not None:
        _check_rows(model, rows)
        asked = [
            Scored(tokens=tokens, targets=targets[-len(continuation) :])
            for (tokens, targets), (_, continuation) in zip(rows, pairs, strict=True)
        ]
        found = model.request_scorer.score(asked, progress)
        return [ScoredContinuation(log_probs=log_probs, is_greedy=bool(greedy.all())) for log_probs, greedy in found]
    log_probs = score_rows(model, rows, progress)
    greedy = None
    if model.token_is_greedy is not None:
        greedy = score_rows(dataclasses.replace(model, token_log_probs=model.token_is_greedy), rows)
    scored = []
    for index, (_, continuation) in enumerate(pairs):
        size = len(continuation)
        is_greedy = None if greedy is None else bool(greedy[index][-size:].all())
        scored.append(ScoredContinuation(log_probs=log_probs[index][-size:], is_greedy=is_greedy))
    return scored
