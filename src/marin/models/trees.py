"""Attention in rows of token trees: texts that begin alike share their beginning, and their branches see only it.

A row holds trees in preorder: a token's descendants are the places right after its own, so that one number a token,
where they end, says who sees it. A query at place q sees the key at place k if k <= q < end[k]. Several trees in a row,
documents packed behind each other and one sequence are all cases of this. A token's position is its depth, not its
place, and windows count positions.

What all trees of all rows begin with may be left out of them and given once, as the keys and values that it left in
every layer (`TokenTrees.prefix`).

Queries are taken in blocks, and a block meets the keys of the few blocks before it that a tree can reach into: work
grows with the length of a row times the size of a tree. The price of one static reach is that small trees beside large
ones cost as much; callers keep sizes apart.
"""

import math
from dataclasses import dataclass, field
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MASKED = -1e30
"""Score of a key that may not be seen; finite, so that a row of masked scores cannot make NaN."""


@jax.tree_util.register_dataclass
@no_type_check
@dataclass(frozen=True, kw_only=True)
class TokenTrees:
    """How the tokens of a batch of rows hang together."""

    ends: Int[Array, "batch seq"]
    """The place after the last descendant of each token; its own place plus one for a leaf, and for padding."""
    positions: Int[Array, "batch seq"]
    """Depth of each token, counted from the beginning of its text, the prefix included."""
    reach: int = field(metadata={"static": True})
    """No tree has more tokens than this."""
    prefix: Any = None
    """What stands before every tree: a `KeyValueCache` of all layers and one row, its slots the positions 0, 1, ..."""
    prefix_len: Int[Array, ""] | None = None
    """How many of its slots are filled."""


def tree_attention(
    query: Float[Array, "batch seq kv_heads group head_dim"],
    key: Float[Array, "batch seq kv_heads head_dim"],
    value: Float[Array, "batch seq kv_heads head_dim"],
    trees: TokenTrees,
    before: Any,
    *,
    window: int | None,
    scale: float | None,
    softcap: float | None,
) -> Float[Array, "batch seq kv_heads group head_dim"]:
    """Attention of each token to its ancestors, itself and the prefix, whose cache in this layer is `before`."""
    batch, seq, kv_heads, group, head_dim = query.shape
    query = query * (1 / math.sqrt(head_dim) if scale is None else scale)
    block, num_blocks, num_back = _blocks(seq, trees.reach)
    padding = num_blocks * block - seq
    places = jnp.broadcast_to(jnp.arange(seq, dtype=jnp.int32), (batch, seq))

    def queries(x):  # (B, T, ...) to (B * N, block, ...)
        x = jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(batch * num_blocks, block, *x.shape[2:])

    def keys(x):  # (B, T, ...) to (B * N, (back + 1) * block, ...): those of a block, after those of the blocks before
        x = jnp.pad(x, ((0, 0), (num_back * block, padding)) + ((0, 0),) * (x.ndim - 2))
        x = x.reshape(batch, num_back + num_blocks, block, *x.shape[2:])
        seen = [x[:, back : back + num_blocks] for back in range(num_back + 1)]
        return jnp.concatenate(seen, axis=2).reshape(batch * num_blocks, -1, *x.shape[3:])

    query, query_place, query_position = queries(query), queries(places), queries(trees.positions)
    # an end of 0, as padding has, is before every query
    mask = (keys(places)[:, None, :] <= query_place[:, :, None]) & (query_place[:, :, None] < keys(trees.ends)[:, None])
    mask = _within(mask, query_position, keys(trees.positions), window)
    query, own_key, own_value = (jnp.moveaxis(x, 1, -2) for x in (query, keys(key), keys(value)))  # heads first
    own = _scores("bkgth,bksh->bkgts", query, own_key, mask, softcap)
    top = own.max(axis=-1, keepdims=True)
    if before is None:
        weights = jnp.exp(own - top)
        total = weights.sum(axis=-1, keepdims=True)
        mixed = _mix("bkgts,bksh->bkgth", weights, own_value)
    else:
        slots = jnp.arange(before.key.shape[1], dtype=jnp.int32)
        filled = jnp.broadcast_to(slots < trees.prefix_len, (*query_place.shape, len(slots)))
        filled = _within(filled, query_position, slots[None], window)
        shared = _scores("bkgth,skh->bkgts", query, before.key[0].astype(query.dtype), filled, softcap)
        top = jnp.maximum(top, shared.max(axis=-1, keepdims=True))
        weights, shared_weights = jnp.exp(own - top), jnp.exp(shared - top)
        total = weights.sum(axis=-1, keepdims=True) + shared_weights.sum(axis=-1, keepdims=True)
        mixed = _mix("bkgts,bksh->bkgth", weights, own_value)
        mixed += _mix("bkgts,skh->bkgth", shared_weights, before.value[0].astype(value.dtype))
    mixed = jnp.moveaxis((mixed / total).astype(value.dtype), -2, 1)  # (B * N, block, K, G, H)
    return mixed.reshape(batch, num_blocks * block, kv_heads, group, head_dim)[:, :seq]


def _blocks(seq: int, reach: int) -> tuple[int, int, int]:
    """Queries in a block, blocks, and how many blocks before its own a block's trees can reach into."""
    block = max(16, -(-min(reach, seq) // 4))
    num_back = -(-(reach - 1) // block)
    if num_back + 1 >= -(-seq // block):
        return seq, 1, 0  # trees as long as the row: every query meets every key
    return block, -(-seq // block), num_back


def _within(
    mask: Bool[Array, "batch queries keys"],
    query_positions: Int[Array, "batch queries"],
    key_positions: Int[Array, "#batch keys"],
    window: int | None,
) -> Bool[Array, "batch queries keys"]:
    if window is None:
        return mask
    return mask & (query_positions[:, :, None] - key_positions[:, None, :] < window)


def _scores(products: str, query: Any, key: Any, mask: Any, softcap: float | None) -> Float[Array, "..."]:
    scores = jnp.einsum(products, query, key, preferred_element_type=jnp.float32)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    return jnp.where(mask[:, None, None], scores, MASKED)


def _mix(products: str, weights: Any, value: Any) -> Float[Array, "..."]:
    return jnp.einsum(products, weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
