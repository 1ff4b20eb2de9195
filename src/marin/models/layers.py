"""What more than one architecture is built from: norms, positions, the loop over stacked layers, FLOPs.

Layers are stored stacked and run either unrolled or scanned. Unrolled is faster where compile time is affordable (CPU,
few layers: 1.2 times); scanned compiles one layer however many there are. The stack is taken apart with one split, as
its gradient is one concatenation; indexing each layer would add up as many padded stacks as there are layers.

Where layers differ in kind (every second one with a window, say), a model gives one function for each. What a kind
means stays a constant of the program, so a loop must hold a whole period of kinds: five local layers and a global one
compile as six. Kinds without a period compile every layer.
"""

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from marin.distributed.mesh import by_rows
from marin.models.attention import ATTENTION_OUTPUT
from marin.models.config import REMAT_NAMES, check_remat
from marin.models.rotary import RotaryEmbeddingsConfig
from marin.models.trees import TokenTrees

T = TypeVar("T")
X = TypeVar("X")
"""The states, or the states with what a model adds up along its layers."""
Layer = Callable[[Any, Any], Any]
"""(parameters of one layer, states) -> states."""
CachedLayer = Callable[[Any, Any, Array], tuple[Array, Any]]
"""(parameters of one layer, its cache, states) -> (states, its cache)."""

PROJECTION = "projection"
"""Name of what `project` gives, for remat policies that keep it."""

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


def rotation(
    rope: RotaryEmbeddingsConfig, head_dim: int, positions: Int[Array, "#batch seq"]
) -> tuple[Float[Array, "#batch seq half_dim"], Float[Array, "#batch seq half_dim"]]:
    """cos and sin of the angle of each pair at each position, float32; what `rotate` takes."""
    angles = positions[..., None] * jnp.asarray(rope.inverse_frequencies(head_dim))
    return jnp.cos(angles), jnp.sin(angles)


def project(
    x: Float[Array, "batch seq *inputs"], matrix: Float[Array, "*inputs_and_outputs"]
) -> Float[Array, "batch seq *outputs"]:
    """x times a matrix whose first axes are those of x behind the second, and whose others are those of the result.

    An einsum would be shorter. But the gradient that JAX makes for its matrix has the axes in the wrong order: on CPU
    first the result's gradient, wide as it may be, and then the matrix's own are copied, transposed.
    """
    return checkpoint_name(
        _project(x, matrix), PROJECTION
    )  # a policy that keeps products sees none inside a custom_vjp


@jax.custom_vjp
def _project(x, matrix):
    return jax.lax.dot_general(x, matrix, ((range(2, x.ndim), range(x.ndim - 2)), ((), ())))


def _project_forward(x, matrix):
    return _project(x, matrix), (x, matrix)


def _project_backward(kept, gradient):
    x, matrix = kept
    outputs = range(2, gradient.ndim), range(x.ndim - 2, matrix.ndim)
    of_x = jax.lax.dot_general(gradient, matrix, (outputs, ((), ())))
    both_rows = (((0, 1), (0, 1)), ((), ()))
    if x.size <= gradient.size:  # the first operand is what XLA's CPU compiler copies, transposed: the smaller one
        return of_x, jax.lax.dot_general(x, gradient, both_rows)
    swapped = jax.lax.dot_general(gradient, x, both_rows)
    return of_x, jnp.moveaxis(swapped, range(gradient.ndim - 2), range(x.ndim - 2, matrix.ndim))


_project.defvjp(_project_forward, _project_backward)


def split_last(x: Float[Array, "*axes n width"]) -> tuple[Float[Array, "*axes m width"], Float[Array, "*axes width"]]:
    """x[..., :-1, :] and x[..., -1, :]. The gradient is one concatenation, where that of slices adds padded arrays."""
    rest, last = jax.lax.split(x, (x.shape[-2] - 1, 1), axis=x.ndim - 2)
    return rest, last.squeeze(-2)


def unstack(layers: T, num_layers: int) -> list[T]:
    """The pytree of each layer from a pytree stacked along the leading axis."""
    leaves, structure = jax.tree.flatten(layers)
    split = [jax.lax.split(leaf, (1,) * num_layers, axis=0) for leaf in leaves]
    return [
        jax.tree.unflatten(structure, [parts[i].reshape(parts[i].shape[1:]) for parts in split])
        for i in range(num_layers)
    ]


def with_prefix(layers: T, trees: TokenTrees | None) -> tuple[T, Any]:
    """The stacked layers, each with its part of the cache that stands before all trees; None where there is none."""
    return layers, None if trees is None else trees.prefix


def for_kinds(function: Callable, kinds: Sequence[Any]) -> list[Callable]:
    """`function` with its first argument set to the kind of each layer; equal kinds share one object."""
    made = {kind: partial(function, kind) for kind in kinds}
    return [made[kind] for kind in kinds]


def run_layers(
    layer: Layer | Sequence[Layer],
    layers: Any,
    x: X,
    *,
    num_layers: int,
    remat: str,
    scan_layers: bool | None,
) -> X:
    """`layer(params, x)` for each of the stacked layers in turn; `layer` is one function, or one for each layer.

    `remat` is one of `REMAT_POLICIES`. `scan_layers=None` scans only off the CPU and beyond 24 layers. On a mesh
    the states lie along its batch axes between layers, and whatever else a layer computes follows from that.
    """
    each = [layer] * num_layers if callable(layer) else list(layer)
    prepared = {function: rematerialized(_keeping_rows(function), remat) for function in each}
    each = [prepared[function] for function in each]  # the same object for the same kind
    x = by_rows(x)
    if scan_layers is None:
        scan_layers = jax.default_backend() != "cpu" and num_layers > _UNROLLED_LAYERS
    if scan_layers:
        return _scan_periods(lambda function, params, carry: (function(params, carry), None), each, layers, x)[0]
    # Traced once a kind, not once a layer. Inlined, as a call would change the last bits of bfloat16 on CPU.
    once = {function: jax.jit(function, inline=True) for function in each}
    for function, params in zip(each, unstack(layers, num_layers), strict=True):
        x = once[function](params, x)
    return x


def _keeping_rows(layer: Layer) -> Layer:
    return lambda params, x: by_rows(layer(params, x))


def rematerialized(layer: Layer, policy: str) -> Layer:
    """`layer`, whose backward pass has what the policy keeps of the forward pass, and computes the rest again."""
    check_remat(policy)
    if policy == "none":
        return layer
    policies = jax.checkpoint_policies
    if policy.startswith(REMAT_NAMES):
        names = policy.removeprefix(REMAT_NAMES).split(",")
        return jax.checkpoint(layer, policy=policies.save_only_these_names(*names))
    kept = {
        "full": None,
        "dots": policies.save_from_both_policies(
            policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(PROJECTION)
        ),
        "attention": policies.save_only_these_names(ATTENTION_OUTPUT),
    }
    return jax.checkpoint(layer, policy=kept[policy])


def run_layers_cached(
    layer: CachedLayer | Sequence[CachedLayer],
    layers: Any,
    cache: Any,
    x: Float[Array, "batch seq hidden"],
) -> tuple[Float[Array, "batch seq hidden"], Any]:
    """`layer(params, layer_cache, x) -> (x, layer_cache)` for each stacked layer; the caches come back stacked.

    `layer` is one function, or one for each layer. A cache that is a tuple of one for each layer comes back as such, and
    the layers run unrolled; `layers` may then be a tuple too. That is for decoding: a loop over stacked arrays copies
    each layer's weights and cache at every token.
    """
    if isinstance(cache, tuple):
        num_layers = len(cache)
    else:
        num_layers = jax.tree.leaves(cache)[0].shape[0]
    each = [layer] * num_layers if callable(layer) else list(layer)
    if not isinstance(cache, tuple):
        return _scan_periods(lambda function, inputs, carry: function(*inputs, carry), each, (layers, cache), x)
    once = {function: jax.jit(function, inline=True) for function in each}  # traced once a kind
    written = []
    apart = layers if isinstance(layers, tuple) else unstack(layers, num_layers)
    for function, params, layer_cache in zip(each, apart, cache, strict=True):
        x, layer_cache = once[function](params, layer_cache, x)
        written.append(layer_cache)
    return x, tuple(written)


def _scan_periods(call: Callable, each: Sequence[Callable], stacked: Any, x: Any) -> tuple[Any, Any]:
    """Scan over the shortest period of `each`, then the layers that are left over: (x, outputs stacked or None)."""
    num_layers = len(each)
    period = next(p for p in range(1, num_layers + 1) if all(each[i] is each[i % p] for i in range(num_layers)))
    whole = num_layers - num_layers % period

    def step(carry, inputs):
        outputs = []
        for function, layer_inputs in zip(each[:period], unstack(inputs, period), strict=True):
            carry, output = call(function, layer_inputs, carry)
            outputs.append(output)
        return carry, jax.tree.map(lambda *parts: jnp.stack(parts), *outputs)

    periods = jax.tree.map(lambda a: a[:whole].reshape(-1, period, *a.shape[1:]), stacked)
    x, outputs = jax.lax.scan(step, x, periods)
    outputs = [jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), outputs)]
    if whole < num_layers:
        rest = unstack(jax.tree.map(lambda a: a[whole:], stacked), num_layers - whole)
        for function, layer_inputs in zip(each[whole:], rest, strict=True):
            x, output = call(function, layer_inputs, x)
            outputs.append(jax.tree.map(lambda a: a[None], output))
    return x, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs)


def mask_of(params: T, names: Collection[str]) -> T:
    """The pytree with True for the fields of those names and False for the others."""
    return jax.tree.map_with_path(lambda path, _: path[-1].name in names, params)


def cast(params: T, dtype: Any) -> T:
    """The pytree with every array in `dtype`."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def num_keys(seq_len: int, windows: Sequence[int | None]) -> int:
    """Keys that one token meets in all layers together, the masked ones too; a window of None is no window."""
    return sum(seq_len if window is None else min(seq_len, window) for window in windows)


def training_flops(*, matrix_params: int, attention_dim: int, num_keys: int) -> float:
    """Floating-point operations per token of one forward and backward pass.

    6 * matrix_params + 12 * attention_dim * num_keys, with a multiplication and an addition as two
    operations and the backward pass as twice the forward; `num_keys` is num_layers * seq_len, or less where layers have
    a window. `matrix_params` counts weights that multiply activations:
    the unembedding yes (also when tied), embedding look-ups, norms and biases no. Attention is counted in full, the
    masked half too, as in PaLM (Chowdhery et al. 2022, appendix B), and recomputation (remat) is not counted.
    """
    return 6.0 * matrix_params + 12.0 * attention_dim * num_keys


def check_shape(config: Any) -> None:
    """Raise ValueError for sizes that cannot be those of a rotary model with grouped-query attention."""
    for name in ("seq_len", "hidden_dim", "intermediate_dim", "num_heads", "num_kv_heads", "num_layers"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} must be at least 1")
    if config.num_heads % config.num_kv_heads:
        raise ValueError(f"num_heads={config.num_heads} must be a multiple of num_kv_heads={config.num_kv_heads}")
    if getattr(config, "head_dim", None) is None and config.hidden_dim % config.num_heads:
        advice = "; set head_dim" if hasattr(config, "head_dim") else ""
        raise ValueError(f"hidden_dim={config.hidden_dim} is not a multiple of num_heads={config.num_heads}{advice}")
    if config.head_size % 2:
        raise ValueError(f"heads of width {config.head_size} cannot be rotated in pairs; head_dim must be even")
    window = getattr(config, "sliding_window", None)
    if window is not None and window < 1:
        raise ValueError(f"sliding_window={window} must be at least 1; None is for no window")


def check_length(seq: int, seq_len: int, what: str = "a sequence", trees: TokenTrees | None = None) -> None:
    """Raise ValueError where `seq` tokens do not fit a model of `seq_len`; rows of trees may be longer than a text."""
    if seq > seq_len and trees is None:
        raise ValueError(
            f"{what} of {seq} tokens does not fit a model with seq_len={seq_len}; "
            f"cut it to {seq_len} tokens or use a model with a longer seq_len"
        )
