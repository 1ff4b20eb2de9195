"""Fill a key-value cache with prompts of different lengths, then extend it a token at a time.

A token's slot in the cache is its position. Prompts are padded on the right; what padding leaves in later slots is
masked until a real token overwrites it, so no record of valid slots is kept. Shapes are rounded up to powers of two:
a program compiles for few of them, at the price of at most twice the work in the prompt.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from marin.models.config import LmConfig
from marin.models.lm import unembed

_SMALLEST_BUCKET = 16


def bucket(length: int, limit: int) -> int:
    """The least power of two that holds `length` (and is at least 16), or `limit` if that is less."""
    size = _SMALLEST_BUCKET
    while size < length:
        size *= 2
    return min(size, limit)


def pad_prompts(prompts: Sequence[Sequence[int]], seq: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int32 `(batch, seq)` padded on the right with 0, and lengths int32 `(batch,)`."""
    tokens = np.zeros((len(prompts), seq), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    return tokens, np.array([len(prompt) for prompt in prompts], np.int32)


def prefill(
    config: LmConfig,
    params: Any,
    tokens: Int[Array, "batch seq"],
    lengths: Int[Array, " batch"],
    max_len: int,
    compute_dtype: Any = jnp.float32,
) -> tuple[Float[Array, "batch vocab"], Any]:
    """Logits of the token after each prompt, float32, and a cache of `max_len` slots that holds the prompts."""
    batch, seq = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(seq, dtype=jnp.int32), (batch, seq))
    cache = config.init_cache(batch, max_len, compute_dtype)
    states, cache = config.hidden_states_cached(params, tokens, cache, positions=positions, compute_dtype=compute_dtype)
    last = jnp.take_along_axis(states, (lengths - 1)[:, None, None], axis=1)[:, 0]
    return unembed(last, config.unembedding(params), config.final_logit_softcap), cache


def extend(
    config: LmConfig,
    params: Any,
    tokens: Int[Array, " batch"],
    cache: Any,
    positions: Int[Array, " batch"],
    compute_dtype: Any = jnp.float32,
) -> tuple[Float[Array, "batch vocab"], Any]:
    """Logits of the token after `tokens`, which stand at `positions`; and the cache with them in it."""
    states, cache = config.hidden_states_cached(
        params, tokens[:, None], cache, positions=positions[:, None], compute_dtype=compute_dtype
    )
    return unembed(states[:, 0], config.unembedding(params), config.final_logit_softcap), cache
