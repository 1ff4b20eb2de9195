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

# Blocks of this many queries did best for 256 to 1024 tokens on CPU; more blocks than this only cost compile time.
_BLOCK = 128
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
    if implementation == "reference":
        return _attend(query, key, value, _causal_mask(query.shape[1], segment_ids))
    if implementation == "blocked":
        return _blocked(query, key, value, segment_ids)
    raise ValueError(
        f"attention implementation '{implementation}': expected one of {', '.join(map(repr, IMPLEMENTATIONS))}"
    )


def cached_attention(
    query: Float[Array, "batch seq kv_heads group head_dim"],
    key_cache: Float[Array, "batch slots kv_heads head_dim"],
    value_cache: Float[Array, "batch slots kv_heads head_dim"],
    positions: Int[Array, "batch seq"],
) -> Float[Array, "batch seq kv_heads group head_dim"]:
    """Attention of queries at `positions` to the cache, whose slot number is the position of the key in it."""
    slots = jnp.arange(key_cache.shape[1])
    return _attend(query, key_cache, value_cache, slots <= positions[:, :, None])


def _causal_mask(seq: int, segment_ids: Int[Array, "batch seq"] | None) -> Bool[Array, "#batch seq seq"]:
    mask = jnp.tril(jnp.ones((seq, seq), bool))[None]
    if segment_ids is not None:
        mask = mask & (segment_ids[:, :, None] == segment_ids[:, None, :])
    return mask


def _attend(query, key, value, mask):
    """Attention where `mask` `(batch or 1, queries, keys)` is True."""
    scores = jnp.einsum("btkgh,bskh->bkgts", query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores / math.sqrt(query.shape[-1]), _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, value)


def _blocked(query, key, value, segment_ids):
    seq = query.shape[1]
    block = max(_BLOCK, -(-seq // _MAX_BLOCKS))
    mask = _causal_mask(seq, segment_ids)
    outputs = []
    for start in range(0, seq, block):
        end = min(start + block, seq)
        outputs.append(_attend(query[:, start:end], key[:, :end], value[:, :end], mask[:, start:end, :end]))
    return jnp.concatenate(outputs, axis=1)
