"""What more than one architecture is built from: norms, positions, the loop over stacked layers, FLOPs.

Layers are stored stacked and run either unrolled or scanned. Unrolled is faster where compile time is affordable (CPU,
few layers: 1.2 times); scanned compiles one layer however many there are. The stack is taken apart with one split, as
its gradient is one concatenation; indexing each layer would add up as many padded stacks as there are layers.
"""

import math
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

T = TypeVar("T")

_UNROLLED_LAYERS = 24  # more than these are scanned on accelerators


def normal(key: Array, shape: tuple[int, ...], standard_deviation: float) -> Float[Array, "..."]:
    """Normal float32 numbers; drawn as a vector, as drawing many axes takes several times as long to compile."""
    return standard_deviation * jax.random.normal(key, (math.prod(shape),), jnp.float32).reshape(shape)


def rms_norm(
    x: Float[Array, "*batch hidden"], scale: Float[Array, " hidden"], epsilon: float
) -> Float[Array, "*batch hidden"]:
    """x / sqrt(mean(x^2) + epsilon) * scale, the mean in float32 (Zhang and Sennrich 2019)."""
    wide = x.astype(jnp.float32)
    variance = jnp.mean(wide * wide, axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(variance + epsilon)).astype(x.dtype) * scale


def layer_norm(
    x: Float[Array, "*batch hidden"], scale: Float[Array, " hidden"], bias: Float[Array, " hidden"], epsilon: float
) -> Float[Array, "*batch hidden"]:
    """(x - mean) / sqrt(var + epsilon) * scale + bias, mean and variance in float32 (Ba et al. 2016)."""
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + epsilon)).astype(x.dtype) * scale + bias


def positions_of(
    tokens: Int[Array, "batch seq"], segment_ids: Int[Array, "batch seq"] | None
) -> Int[Array, "#batch seq"]:
    """0, 1, 2, ... along each row, starting again where the segment changes."""
    index = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    if segment_ids is None:
        return index
    starts = jnp.pad(segment_ids[:, 1:] != segment_ids[:, :-1], ((0, 0), (1, 0)))
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def rotate(
    x: Float[Array, "batch seq *heads head_dim"],
    cos: Float[Array, "#batch seq half_dim"],
    sin: Float[Array, "#batch seq half_dim"],
) -> Float[Array, "batch seq *heads head_dim"]:
    """Rotary position embedding (Su et al. 2021): pairs (x[i], x[i + head_dim / 2]) turned by angle i of the position.

    The halves are paired, as in GPT-NeoX and the Hugging Face layout of Llama, so exported weights need no permutation.
    """
    heads = range(2, x.ndim - 1)
    cos, sin = (jnp.expand_dims(table, tuple(heads)).astype(x.dtype) for table in (cos, sin))
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def unstack(layers: T, num_layers: int) -> list[T]:
    """The pytree of each layer from a pytree stacked along the leading axis."""
    leaves, structure = jax.tree.flatten(layers)
    split = [jax.lax.split(leaf, (1,) * num_layers, axis=0) for leaf in leaves]
    return [
        jax.tree.unflatten(structure, [parts[i].reshape(parts[i].shape[1:]) for parts in split])
        for i in range(num_layers)
    ]


def run_layers(
    layer: Callable[[T, Float[Array, "batch seq hidden"]], Float[Array, "batch seq hidden"]],
    layers: T,
    x: Float[Array, "batch seq hidden"],
    *,
    num_layers: int,
    remat: bool,
    scan_layers: bool | None,
) -> Float[Array, "batch seq hidden"]:
    """`layer(params, x)` for each of the stacked layers in turn.

    `scan_layers=None` scans only off the CPU and beyond 24 layers.
    """
    if scan_layers is None:
        scan_layers = jax.default_backend() != "cpu" and num_layers > _UNROLLED_LAYERS
    if remat:
        layer = jax.checkpoint(layer)
    if scan_layers:
        return jax.lax.scan(lambda carry, params: (layer(params, carry), None), x, layers)[0]
    for params in unstack(layers, num_layers):
        x = layer(params, x)
    return x


def run_layers_cached(
    layer: Callable[[T, Any, Float[Array, "batch seq hidden"]], tuple[Float[Array, "batch seq hidden"], Any]],
    layers: T,
    cache: Any,
    x: Float[Array, "batch seq hidden"],
) -> tuple[Float[Array, "batch seq hidden"], Any]:
    """`layer(params, layer_cache, x) -> (x, layer_cache)` for each stacked layer; the caches come back stacked."""

    def step(carry, layer_inputs):
        params, layer_cache = layer_inputs
        return layer(params, layer_cache, carry)

    return jax.lax.scan(step, x, (layers, cache))


def mask_of(params: T, names: Collection[str]) -> T:
    """The pytree with True for the fields of those names and False for the others."""
    return jax.tree.map_with_path(lambda path, _: path[-1].name in names, params)


def cast(params: T, dtype: Any) -> T:
    """The pytree with every array in `dtype`."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def training_flops(*, matrix_params: int, num_layers: int, attention_dim: int, seq_len: int) -> float:
    """Floating-point operations per token of one forward and backward pass.

    6 * matrix_params + 12 * num_layers * attention_dim * seq_len, with a multiplication and an addition as two
    operations and the backward pass as twice the forward. `matrix_params` counts weights that multiply activations:
    the unembedding yes (also when tied), embedding look-ups, norms and biases no. Attention is counted in full, the
    masked half too, as in PaLM (Chowdhery et al. 2022, appendix B), and recomputation (remat) is not counted.
    """
    return 6.0 * matrix_params + 12.0 * num_layers * attention_dim * seq_len


def check_length(seq: int, seq_len: int, what: str = "a sequence") -> None:
    """Raise ValueError where `seq` tokens do not fit a model of `seq_len`."""
    if seq > seq_len:
        raise ValueError(
            f"{what} of {seq} tokens does not fit a model with seq_len={seq_len}; "
            f"cut it to {seq_len} tokens or use a model with a longer seq_len"
        )
