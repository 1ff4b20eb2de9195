"""What one asks of any language model: its logits, and the log-probability of given next tokens.

Both are plain functions of (config, params, tokens), so callers jit them with the config static. The
log-probabilities are computed a chunk of tokens at a time, so that the `(tokens, vocab)` matrix never exists; the
price is a loop where one large product would be slightly faster on small vocabularies.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from marin.models.config import LmConfig

__all__ = ["LmConfig", "logits", "token_log_probs"]

_CHUNK = 512


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
