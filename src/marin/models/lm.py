"""What one asks of any language model: its logits, and the log-probability of given next tokens.

Both are plain functions of (config, params, tokens), so callers jit them with the config static. The
log-probabilities are computed a chunk of tokens at a time, so that the `(tokens, vocab)` matrix never exists; the
price is a loop where one large product would be slightly faster on small vocabularies.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from marin.distributed.mesh import by_rows
from marin.models.config import LmConfig

__all__ = ["LmConfig", "logits", "scores_at", "token_log_probs"]

_CHUNK = 512
ENTRIES_AT_ONCE = 256
"""Places of a row whose logits exist at one time in `scores_at`."""


def logits(config: LmConfig, params: Any, tokens: Int[Array, "batch seq"], **kwargs) -> Float[Array, "batch seq vocab"]:
    """Unnormalised log-probabilities of every next token, float32; keywords as `LmConfig.hidden_states`."""
    states = config.hidden_states(params, tokens, **kwargs)
    return unembed(states, config.unembedding(params), config.final_logit_softcap)


def unembed(
    states: Float[Array, "*batch hidden"], matrix: Float[Array, "hidden vocab"], softcap: float | None = None
) -> Float[Array, "*batch vocab"]:
    """`states @ matrix` with the product in the states' dtype, summed and returned in float32; bent by `softcap`."""
    product = jnp.matmul(states, matrix.astype(states.dtype), preferred_element_type=jnp.float32)
    return product if softcap is None else softcap * jnp.tanh(product / softcap)


def token_log_probs(
    config: LmConfig, params: Any, tokens: Int[Array, "batch seq"], targets: Int[Array, "batch seq"], **kwargs
) -> Float[Array, "batch seq"]:
    """Natural log of the probability that each position gives to its target, float32.

    log p(target) = logit[target] - logsumexp(logits), in float32. Keywords as `LmConfig.hidden_states`.
    """
    states = config.hidden_states(params, tokens, **kwargs)
    matrix = config.unembedding(params).astype(states.dtype)
    num_tokens = tokens.size
    num_chunks = -(-num_tokens // _CHUNK)
    padding = num_chunks * _CHUNK - num_tokens
    flat_states = jnp.pad(states.reshape(num_tokens, -1), ((0, padding), (0, 0)))
    flat_targets = jnp.pad(targets.reshape(num_tokens), (0, padding))

    def chunk_log_probs(chunk):
        chunk_states, chunk_targets = chunk
        chunk_logits = unembed(chunk_states, matrix, config.final_logit_softcap)
        chosen = jnp.take_along_axis(chunk_logits, chunk_targets[:, None], axis=1)[:, 0]
        return chosen - jax.nn.logsumexp(chunk_logits, axis=1)

    chunks = flat_states.reshape(num_chunks, _CHUNK, -1), flat_targets.reshape(num_chunks, _CHUNK)
    return jax.lax.map(chunk_log_probs, chunks).reshape(-1)[:num_tokens].reshape(tokens.shape)


def scores_at(
    config: LmConfig,
    params: Any,
    states: Float[Array, "batch seq hidden"],
    places: Int[Array, "batch entries"],
    targets: Int[Array, "batch entries targets"],
    num_entries: Int[Array, ""],
) -> tuple[Float[Array, "batch entries targets"], Bool[Array, "batch entries targets"]]:
    """Natural log-probability, float32, that the place of each entry gives to each of its targets as the next token,
    and whether the target is the most probable one, the lowest id of equals.

    Only the states at `places` meet the vocabulary, so many entries at a time; entries must be a multiple of
    `ENTRIES_AT_ONCE`. Those from `num_entries` on are not computed and 0: the number may change without compiling.
    """
    assert places.shape[1] % ENTRIES_AT_ONCE == 0, "callers pad the entries"
    matrix = config.unembedding(params).astype(states.dtype)

    def score(index, results):
        start = index * ENTRIES_AT_ONCE
        here = jax.lax.dynamic_slice_in_dim(places, start, ENTRIES_AT_ONCE, axis=1)
        wanted = jax.lax.dynamic_slice_in_dim(targets, start, ENTRIES_AT_ONCE, axis=1)
        chosen_states = by_rows(jnp.take_along_axis(states, here[:, :, None], axis=1))
        logits = unembed(chosen_states, matrix, config.final_logit_softcap)
        top = logits.max(axis=-1, keepdims=True)
        total = jnp.log(jnp.exp(logits - top).sum(axis=-1, keepdims=True)) + top
        # not argmax, which XLA's CPU compiler computes a number at a time
        ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
        first = jnp.where(logits == top, ids, logits.shape[-1]).min(axis=-1, keepdims=True)
        found = jnp.take_along_axis(logits, wanted, axis=-1) - total, wanted == first
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(result, part, start, axis=1)
            for result, part in zip(results, found, strict=True)
        )

    nothing = jnp.zeros(targets.shape, jnp.float32), jnp.zeros(targets.shape, bool)
    return jax.lax.fori_loop(0, -(-num_entries // ENTRIES_AT_ONCE), score, nothing)
