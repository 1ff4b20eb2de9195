"""Fill a key-value cache with prompts of different lengths, and give it more slots when it needs them.

A token's slot in the cache is its position. Prompts are padded on the right; what padding leaves in later slots is
masked until a real token overwrites it, so no record of valid slots is kept. Lengths are rounded up to few sizes: a
program compiles for each size, and attention reads every slot, so sizes of four to an octave waste a quarter at most.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from marin.models.config import LmConfig
from marin.models.layers import unstack

_SMALLEST_BUCKET = 16


def bucket(length: int, limit: int) -> int:
    """The least of 16, 32, 64, 80, 96, 112, 128, 160, 192, ... that holds `length`, or `limit` if that is less."""
    size = _SMALLEST_BUCKET
    while size < length:
        size *= 2
    if size > 64:
        size = next(quarters * size // 8 for quarters in range(5, 9) if quarters * size // 8 >= length)
    return min(size, limit)


def pad_prompts(prompts: Sequence[Sequence[int]], seq: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int32 `(batch, seq)` padded on the right with 0, and lengths int32 `(batch,)`."""
    tokens = np.zeros((len(prompts), seq), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    return tokens, np.array([len(prompt) for prompt in prompts], np.int32)


def empty(config: LmConfig, batch: int, slots: int, compute_dtype: Any) -> tuple[Any, ...]:
    """A tuple of the layers' caches, with nothing in them."""
    return tuple(unstack(config.init_cache(batch, slots, compute_dtype), config.num_layers))


def fill(config: LmConfig, params: Any, tokens: Int[Array, "batch seq"], compute_dtype: Any) -> tuple[Any, ...]:
    """A tuple of the layers' caches after these tokens, which stand at positions 0, 1, ...; one slot for each."""
    batch, seq = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(seq, dtype=jnp.int32), (batch, seq))
    cache = empty(config, batch, seq, compute_dtype)
    _, cache = config.hidden_states_cached(params, tokens, cache, positions=positions, compute_dtype=compute_dtype)
    return cache


def place(cache: Any, rows: Int[Array, " new"], new: Any) -> Any:
    """The cache, a pytree of arrays with a leading batch axis, with `new` at the beginning of these rows.

    Rows beyond the batch are dropped.
    """

    def placed(old, part):
        index = (rows, *(slice(size) for size in part.shape[1:]))
        return old.at[index].set(part.astype(old.dtype), mode="drop")

    return jax.tree.map(placed, cache, new)


def extended(cache: Any, empty: Any) -> Any:
    """What the cache holds, in the larger `empty`."""
    return jax.tree.map(lambda old, new: jax.lax.dynamic_update_slice(new, old, (0,) * old.ndim), cache, empty)
