"""Causal attention over whole sequences, packed sequences and a key-value cache.

Queries come grouped by the key-value head that they read, `(batch, seq, kv_heads, group, head_dim)`, so grouped-query
attention never repeats keys. An implementation is asked for by name, and a name that cannot run raises: a silent
fallback would be found only in the bill. Softmax is in float32 whatever the inputs are.

- `reference`: the whole score matrix, then the mask. The definition that the others are tested against.
- `blocked`: each block of queries meets only the keys up to its own end, so about half of the score matrix is never
  computed. The price is one small program per block, so compile time grows with the sequence.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

IMPLEMENTATIONS = ("blocked", "reference")

# Blocks of 64 queries did best on CPU (32: 1.6 times their time, 128: 1.15); many blocks cost compile time.
_BLOCK = 64
_MAX_BLOCKS = 16

_MASKED = -1e30  # finite, so that a row of masked scores cannot make NaN


def causal_attention(
    query: Float[Array, "batch seq kv_heads group head_dim"],
    key: Float[Array, "batch seq kv_heads head_dim"],
    value: Float[Array, "batch seq kv_heads head_dim"],
    *,
    segment_ids: Int[Array, "batch seq"] | None = None,
    implementation: str = "blocked",
) -> Float[Array, "batch seq kv_heads group head_dim"]:
    """softmax(q k^T / sqrt(head_dim)) v over the keys at or before each query, in its segment if segments are given.

    Scaled dot-product attention of Vaswani et al. 2017; query head `kv * group + g` reads key-value head `kv`
    (Ainslie et al. 2023). Raises ValueError for a name not in `IMPLEMENTATIONS`.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"attention implementation '{implementation}': expected one of {', '.join(map(repr, IMPLEMENTATIONS))}"
        )
    mask = _causal_mask(query.shape[1], segment_ids)
    query, key, value = _heads_first(query), _heads_first(key), _heads_first(value)
    if implementation == "reference":
        return _heads_last(_attend(query, key, value, mask))
    return _heads_last(_blocked(query, key, value, mask))


def cached_attention(
    query: Float[Array, "batch seq kv_heads group head_dim"],
    key_cache: Float[Array, "batch slots kv_heads head_dim"],
    value_cache: Float[Array, "batch slots kv_heads head_dim"],
    positions: Int[Array, "batch seq"],
) -> Float[Array, "batch seq kv_heads group head_dim"]:
    """Attention of queries at `positions` to the cache, whose slot number is the position of the key in it."""
    mask = jnp.arange(key_cache.shape[1]) <= positions[:, :, None]
    return _heads_last(_attend(_heads_first(query), _heads_first(key_cache), _heads_first(value_cache), mask))


def _causal_mask(seq: int, segment_ids: Int[Array, "batch seq"] | None) -> Bool[Array, "#batch seq seq"]:
    mask = jnp.tril(jnp.ones((seq, seq), bool))[None]
    if segment_ids is not None:
        mask = mask & (segment_ids[:, :, None] == segment_ids[:, None, :])
    return mask


def _heads_first(x):
    """(B, T, *heads, H) to (B, *heads, T, H): one product per head, over contiguous rows."""
    return jnp.moveaxis(x, 1, -2)


def _heads_last(x):
    return jnp.moveaxis(x, -2, 1)


def _attend(query, key, value, mask):
    """Attention of queries (B, K, G, T, H) to keys and values (B, K, S, H) where `mask` (B or 1, T, S) is True.

    The sum of the exponentials divides the mixed values, not the (larger) matrix of weights, and the scale multiplies
    the query: on CPU, forward and backward take half of what they take with `jax.nn.softmax`.
    """
    query = query * (1 / math.sqrt(query.shape[-1]))
    scores = jnp.einsum("bkgth,bksh->bkgts", query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores, _MASKED)
    # softmax does not depend on what is subtracted, so neither does its gradient
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    mixed = jnp.einsum("bkgts,bksh->bkgth", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return (mixed / total).astype(value.dtype)


def _blocked(query, key, value, mask):
    seq = query.shape[-2]
    block = max(_BLOCK, -(-seq // _MAX_BLOCKS))
    outputs = []
    for start in range(0, seq, block):
        rows, end = slice(start, start + block), min(start + block, seq)
        part = _attend(query[..., rows, :], key[..., :end, :], value[..., :end, :], mask[:, rows, :end])
        outputs.append(part)
    return jnp.concatenate(outputs, axis=-2)
