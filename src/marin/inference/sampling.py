"""Choose the next token from logits.

First the penalty for repetition; then temperature, top-k, top-p on what top-k left, renormalised, and min-p on what
that left: the order and the formulas of the Hugging Face library, so that settings carry over.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

_NUM_RANKED = 1024
"""Tokens that are ranked before all are: sorting a whole vocabulary is most of what a draw costs."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 0.0
    """Divides the logits; 0 is greedy: the most probable token, the smallest id among equals."""
    top_k: int | None = None
    """Only this many most probable tokens may be chosen, of equals those of the smallest ids (the Hugging Face library
    keeps all equals of the last); None: all."""
    top_p: float | None = None
    """Only the fewest most probable tokens whose probabilities sum to at least this may be chosen; None: all."""
    min_p: float | None = None
    """Only tokens at least this times as probable as the most probable may be chosen; None: all."""
    repetition_penalty: float = 1.0
    """Logits of tokens that stand in the prompt or the completion are divided by this where they are above 0, and
    multiplied by it below (Keskar et al. 2019, "CTRL"); 1: they stay as they are. Greedy choice heeds it too."""

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} must be 0 (greedy) or more, and finite")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} must be at least 1, or None to allow every token")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1, or None to allow every token")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p={self.min_p} must be from 0 to 1, or None to allow every token")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty={self.repetition_penalty} must be above 0; 1 is for no penalty")


def penalized(
    logits: Float[Array, "batch vocab"], seen: Bool[Array, "batch vocab"] | None, sampling: Sampling
) -> Float[Array, "batch vocab"]:
    """The logits after the penalty for tokens that were `seen`; None: there is no penalty."""
    if seen is None:
        return logits
    penalty = sampling.repetition_penalty
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def most_probable(logits: Float[Array, "batch vocab"]) -> Int[Array, " batch"]:
    """The token of each row's largest logit, int32, the smallest id among equals.

    XLA's `argmax` reduces pairs of a value and an index, one at a time: on CPU a third of a decoding step.
    """
    ids = jnp.arange(logits.shape[1], dtype=jnp.int32)
    is_less = logits < logits.max(axis=-1, keepdims=True)
    return jnp.where(is_less, logits.shape[1], ids).min(axis=-1)


def sample(logits: Float[Array, "batch vocab"], keys: Key[Array, " batch"], sampling: Sampling) -> Int[Array, " batch"]:
    """The next token of each row, int32; rows draw independently, each from its own key. No penalty is applied here."""
    if sampling.temperature == 0:
        return most_probable(logits)
    logits = logits / sampling.temperature
    top_p = None if sampling.top_p == 1 else sampling.top_p
    if sampling.top_k is None and top_p is None:
        if sampling.min_p is not None:
            lowest = logits.max(axis=-1, keepdims=True) + jnp.log(sampling.min_p)
            logits = jnp.where(logits < lowest, -jnp.inf, logits)
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
    draws = jax.vmap(jax.random.uniform)(keys)
    vocab_size = logits.shape[-1]
    if sampling.top_k is not None:
        return _draw_ranked(logits, min(sampling.top_k, vocab_size), draws, sampling)[0]
    if vocab_size <= _NUM_RANKED:
        return _draw_ranked(logits, vocab_size, draws, sampling)[0]
    tokens, is_enough = _draw_ranked(logits, _NUM_RANKED, draws, sampling)
    return jax.lax.cond(is_enough, lambda: tokens, lambda: _draw_ranked(logits, vocab_size, draws, sampling)[0])


def _draw_ranked(
    logits: Float[Array, "batch vocab"], num_ranked: int, draws: Float[Array, " batch"], sampling: Sampling
) -> tuple[Int[Array, " batch"], Bool[Array, ""]]:
    """The tokens that `draws`, uniform in [0, 1), mean; and whether no row keeps all that were ranked.

    Each rule keeps the first so many of the ranking. One number a row is drawn, not one a token, so that a row's
    choice does not hang on how many tokens were ranked, which the other rows decide.
    """
    ranked, order = jax.lax.top_k(logits, num_ranked)  # equal logits keep the order of their ids
    all_of_them = logits if sampling.top_k is None else ranked
    probabilities = jnp.exp(ranked - jax.nn.logsumexp(all_of_them, axis=-1, keepdims=True))
    kept = jnp.ones(ranked.shape, bool)
    if sampling.top_p is not None:
        kept &= jnp.cumsum(probabilities, axis=-1) - probabilities < sampling.top_p
    if sampling.min_p is not None:
        kept &= ranked >= ranked[:, :1] + jnp.log(sampling.min_p)
    up_to = jnp.cumsum(jnp.where(kept, probabilities, 0), axis=-1)
    rank = (up_to <= draws[:, None] * up_to[:, -1:]).sum(axis=-1)
    rank = jnp.minimum(rank, kept.sum(axis=-1) - 1)
    tokens = jnp.take_along_axis(order, rank[:, None], axis=-1)[:, 0]
    return tokens.astype(jnp.int32), ~kept[:, -1].any()
