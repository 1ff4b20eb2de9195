"""Causal attention over whole sequences, packed sequences and a key-value cache.

Queries come grouped by the key-value head that they read, `(batch, seq, kv_heads, group, head_dim)`, so grouped-query
attention never repeats keys. An implementation is asked for by name, and a name that cannot run raises: a silent
fallback would be found only in the bill. Softmax is in float32 whatever the inputs are.

- `reference`: the whole score matrix, then the mask. The definition that the others are tested against.
- `blocked`: each block of queries meets only the keys up to its own end, so about half of the score matrix is never
  computed, and with a window only the keys that some query of the block can see. The price is one small program per
  block, so compile time grows with the sequence.
- `cudnn`: flash attention of NVIDIA's library, by `jax.nn.dot_product_attention`. It takes bfloat16 or float16 and no
  softcap. Segments reach it as a mask, which it reads as a matrix of biases: right, and slower than no segments.
- `xla`: the same function called with the same arguments, but for the library. It runs anywhere, so what is asked of
  cuDNN is tested where there is none.

They know the same variations, but for the softcap: `scale` instead of 1 / sqrt(head_dim), `softcap`, which bends a
score s to softcap * tanh(s / softcap) before the mask, and `window`, which lets a query see its own place and the
`window - 1` places before it. A window counts places in the row, so within a segment it counts positions.
"""

import math
from dataclasses import dataclass
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from marin.models.config import ATTENTION_IMPLEMENTATIONS
from marin.models.trees import MASKED, TokenTrees, tree_attention

ATTENTION_OUTPUT = "attention"
"""Name of what `causal_attention` gives, for remat policies that keep it."""

IMPLEMENTATIONS = tuple(ATTENTION_IMPLEMENTATIONS)

# Blocks of 64 queries did best on CPU (32: 1.6 times their time, 128: 1.15); many blocks cost compile time.
_BLOCK = 64
_MAX_BLOCKS = 16


def causal_attention(
    query: Float[Array, "batch seq kv_heads group head_dim"],
    key: Float[Array, "batch seq kv_heads head_dim"],
    value: Float[Array, "batch seq kv_heads head_dim"],
    *,
    segment_ids: Int[Array, "batch seq"] | None = None,
    trees: TokenTrees | None = None,
    before: Any = None,
    implementation: str = "blocked",
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "batch seq kv_heads group head_dim"]:
    """softmax(q k^T / sqrt(head_dim)) v over the keys at or before each query, in its segment if segments are given.

    Scaled dot-product attention of Vaswani et al. 2017; query head `kv * group + g` reads key-value head `kv`
    (Ainslie et al. 2023); the windows are those of Beltagy et al. 2020, the cap that of Gemma 2 (2024). Where the rows
    are `trees`, a query sees its ancestors instead, and `before`, this layer's cache of what stands before all trees.
    Raises ValueError for a name not in `IMPLEMENTATIONS`, and for what that implementation cannot do here.
    """
    if trees is not None:
        if implementation in ("cudnn", "xla") or segment_ids is not None:
            raise ValueError(
                f"attention in trees has one implementation of its own and no segments, got '{implementation}' and "
                f"{'no ' if segment_ids is None else ''}segment_ids. Leave both out; a tree is its own segment"
            )
        return tree_attention(query, key, value, trees, before, window=window, scale=scale, softcap=softcap)
    if implementation in ("cudnn", "xla"):
        return checkpoint_name(
            _by_library(query, key, value, segment_ids, implementation, window, scale, softcap), ATTENTION_OUTPUT
        )
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"attention implementation '{implementation}': expected one of {', '.join(map(repr, IMPLEMENTATIONS))}"
        )
    mask = _causal_mask(query.shape[1], segment_ids, window)
    query, key, value = _heads_first(query), _heads_first(key), _heads_first(value)
    if implementation == "reference":
        mixed = _attend(query, key, value, mask, scale, softcap)
    else:
        mixed = _blocked(query, key, value, mask, window, scale, softcap)
    return checkpoint_name(_heads_last(mixed), ATTENTION_OUTPUT)


def cached_attention(
    query: Float[Array, "batch seq kv_heads group head_dim"],
    key_cache: Float[Array, "batch kv_heads slots head_dim"],
    value_cache: Float[Array, "batch kv_heads slots head_dim"],
    positions: Int[Array, "batch seq"],
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "batch seq kv_heads group head_dim"]:
    """Attention of queries at `positions` to the cache, whose slot number is the position of the key in it."""
    distance = positions[:, :, None] - jnp.arange(key_cache.shape[2])
    mask = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return _heads_last(_attend(_heads_first(query), key_cache, value_cache, mask, scale, softcap))


@jax.tree_util.register_dataclass
@no_type_check  # as a pytree it also holds the cache of one layer, or shapes
@dataclass(frozen=True, kw_only=True)
class KeyValueCache:
    """Keys (rotated, where a model rotates) and values of every position so far; slot = position.

    A head's slots lie together, as the products of attention read them: on CPU, with the heads inside, every new token
    copied the whole cache (4 to 9 times the time).
    """

    key: Float[Array, "*layers batch kv_heads slots head_dim"]
    value: Float[Array, "*layers batch kv_heads slots head_dim"]


def empty_cache(
    *, num_layers: int, batch_size: int, max_len: int, num_kv_heads: int, head_dim: int, dtype: Any
) -> KeyValueCache:
    """A cache of zeros for all layers, stacked along the first axis."""
    shape = (num_layers, batch_size, num_kv_heads, max_len, head_dim)
    return KeyValueCache(key=jnp.zeros(shape, dtype), value=jnp.zeros(shape, dtype))


def write_cache(
    cache: KeyValueCache,
    key: Float[Array, "batch seq kv_heads head_dim"],
    value: Float[Array, "batch seq kv_heads head_dim"],
    positions: Int[Array, "batch seq"],
) -> KeyValueCache:
    """One layer's cache with these keys and values in the slots `positions`; slots that it lacks are dropped."""
    rows = jnp.arange(key.shape[0])[:, None]
    return KeyValueCache(
        key=cache.key.at[rows, :, positions].set(key.astype(cache.key.dtype)),
        value=cache.value.at[rows, :, positions].set(value.astype(cache.value.dtype)),
    )


def _causal_mask(
    seq: int, segment_ids: Int[Array, "batch seq"] | None, window: int | None
) -> Bool[Array, "#batch seq seq"]:
    mask = jnp.tril(jnp.ones((seq, seq), bool))[None]
    if window is not None:
        mask = mask & ~jnp.tril(jnp.ones((seq, seq), bool), -window)
    if segment_ids is not None:
        mask = mask & (segment_ids[:, :, None] == segment_ids[:, None, :])
    return mask


def _by_library(query, key, value, segment_ids, library, window, scale, softcap):
    """`jax.nn.dot_product_attention`; with segments, the window is part of their mask."""
    _check_library(library, query.dtype, softcap)
    batch, seq, kv_heads, group, head_dim = query.shape
    mask, left = None, window
    if segment_ids is not None:
        mask, left = _causal_mask(seq, segment_ids, window)[:, None], None  # (B, 1, T, T)
    mixed = jax.nn.dot_product_attention(
        query.reshape(batch, seq, kv_heads * group, head_dim),
        key,
        value,
        mask=mask,
        scale=scale,
        is_causal=True,
        local_window_size=None if left is None else (left - 1, 0),
        implementation=library,
    )
    return mixed.reshape(query.shape)


def _check_library(library: str, dtype: Any, softcap: float | None) -> None:
    """Raise ValueError where the asked library cannot give what is asked of it."""
    advice = "Take 'blocked', which runs everywhere"
    if softcap is not None:
        raise ValueError(
            f"attention implementation '{library}' has no softcap, and this model has {softcap}. {advice}."
        )
    if library != "cudnn":
        return
    if jax.default_backend() != "gpu":
        raise ValueError(
            f"attention implementation 'cudnn' runs on NVIDIA GPUs, and this is {jax.default_backend()!r}. {advice}."
        )
    if dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(
            f"attention implementation 'cudnn' takes bfloat16 or float16, got {jnp.dtype(dtype).name}: compute in "
            f"bfloat16 (trainer.precision p=f32,c=bfloat16). {advice}."
        )


def _heads_first(x):
    """(B, T, *heads, H) to (B, *heads, T, H): one product per head, over contiguous rows."""
    return jnp.moveaxis(x, 1, -2)


def _heads_last(x):
    return jnp.moveaxis(x, -2, 1)


def _attend(query, key, value, mask, scale, softcap):
    """Attention of queries (B, K, G, T, H) to keys and values (B, K, S, H) where `mask` (B or 1, T, S) is True.

    The sum of the exponentials divides the mixed values, not the (larger) matrix of weights, and the scale multiplies
    the query: on CPU, forward and backward take half of what they take with `jax.nn.softmax`.
    """
    query = query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    scores = jnp.einsum("bkgth,bksh->bkgts", query, key, preferred_element_type=jnp.float32)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(mask[:, None, None], scores, MASKED)
    # softmax does not depend on what is subtracted, so neither does its gradient
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    mixed = jnp.einsum("bkgts,bksh->bkgth", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return (mixed / total).astype(value.dtype)


def _blocked(query, key, value, mask, window, scale, softcap):
    seq = query.shape[-2]
    block = max(_BLOCK, -(-seq // _MAX_BLOCKS))
    outputs = []
    for start in range(0, seq, block):
        end = min(start + block, seq)
        rows, seen = slice(start, end), slice(0 if window is None else max(0, start - window + 1), end)
        part = _attend(query[..., rows, :], key[..., seen, :], value[..., seen, :], mask[:, rows, seen], scale, softcap)
        outputs.append(part)
    return jnp.concatenate(outputs, axis=-2)
