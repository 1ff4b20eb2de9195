"""Pieces of the Hugging Face format that several architectures share, each both ways.

Their linear layers hold `(out, in)`, ours `(in, out)`; their query, key and value (and gate and up) are apart, ours are
fused by key-value head. Heads keep their order and rotary halves their places, so nothing is permuted. A file of an
architecture names its tensors and puts these pieces together.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from marin.models.rotary import (
    DefaultRotaryEmbeddingsConfig,
    LinearRotaryEmbeddingsConfig,
    Llama3RotaryEmbeddingsConfig,
    RotaryEmbeddingsConfig,
)

LLAMA3_FIELDS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
SLIDING, FULL = "sliding_attention", "full_attention"


def linear(matrix: np.ndarray) -> np.ndarray:
    """`(in, out)` to `(out, in)` and back. Square matrices too, where no shape would tell."""
    return matrix.T


def check_required(hf: Mapping[str, Any], required: Mapping[str, Any], model: str) -> None:
    """Raise ValueError where a config.json changes a computation that `model` has in one way only."""
    for name, expected in required.items():
        if hf.get(name, expected) != expected:
            raise ValueError(f"config.json has {name}={hf[name]!r}; marin's {model} has {expected!r} only")


def decoder_to_hf(config: Any, vocab_size: int) -> dict[str, Any]:
    """The fields of config.json that every rotary decoder has."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": config.hidden_dim,
        "intermediate_size": config.intermediate_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "max_position_embeddings": config.seq_len,
        "rms_norm_eps": config.layer_norm_epsilon,
        "initializer_range": config.initializer_range,
        "attention_dropout": 0.0,
    }


def decoder_from_hf(hf: Mapping[str, Any], *, seq_len: int, epsilon: float) -> dict[str, Any]:
    """Arguments of our config from those fields; `seq_len` and `epsilon` are the library's defaults of this model."""
    num_heads = hf["num_attention_heads"]
    return {
        "seq_len": hf.get("max_position_embeddings", seq_len),
        "hidden_dim": hf["hidden_size"],
        "intermediate_dim": hf["intermediate_size"],
        "num_heads": num_heads,
        "num_kv_heads": hf.get("num_key_value_heads") or num_heads,
        "num_layers": hf["num_hidden_layers"],
        "layer_norm_epsilon": float(hf.get("rms_norm_eps", epsilon)),
        "initializer_range": float(hf.get("initializer_range", 0.02)),
    }


def head_dim_from_hf(hf: Mapping[str, Any], default: int | None = None) -> int | None:
    """Width of a head; None where it is hidden_size / num_attention_heads."""
    head_dim = hf.get("head_dim") or default
    return None if head_dim is None or head_dim * hf["num_attention_heads"] == hf["hidden_size"] else head_dim


def rope_to_hf(rope: RotaryEmbeddingsConfig) -> dict[str, Any]:
    """The content of `rope_parameters`."""
    described = {"rope_theta": rope.theta, "rope_type": "default"}
    if isinstance(rope, Llama3RotaryEmbeddingsConfig):
        described |= {"rope_type": "llama3"} | {name: getattr(rope, name) for name in LLAMA3_FIELDS}
    if isinstance(rope, LinearRotaryEmbeddingsConfig):
        described |= {"rope_type": "linear", "factor": rope.factor}
    return described


def rope_from_hf(hf: Mapping[str, Any], theta: float = 10_000.0) -> RotaryEmbeddingsConfig:
    """transformers 5 writes `rope_parameters`; before it, `rope_theta` and, if stretched, `rope_scaling`.

    `theta` is the library's default of this model.
    """
    rope = {"rope_theta": hf.get("rope_theta", theta)} | (hf.get("rope_scaling") or {})
    return rope_from_parameters(rope | (hf.get("rope_parameters") or {}))


def rope_from_parameters(rope: Mapping[str, Any]) -> RotaryEmbeddingsConfig:
    """Our rule from the content of `rope_parameters`."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = float(rope["rope_theta"])
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError("config.json rotates a part of each head (partial_rotary_factor); marin's models rotate all")
    if kind == "default":
        return DefaultRotaryEmbeddingsConfig(theta=theta)
    if kind == "linear":
        return LinearRotaryEmbeddingsConfig(theta=theta, factor=float(rope["factor"]))
    if kind == "llama3":
        factor, low, high, original = (rope[name] for name in LLAMA3_FIELDS)
        return Llama3RotaryEmbeddingsConfig(
            theta=theta,
            factor=float(factor),
            low_freq_factor=float(low),
            high_freq_factor=float(high),
            original_max_position_embeddings=original,
        )
    raise ValueError(f"config.json has rope_type={kind!r}; marin has 'default', 'linear' and 'llama3'")


def layer_types(windows: Sequence[int | None]) -> list[str]:
    """The content of `layer_types`."""
    return [FULL if window is None else SLIDING for window in windows]


def check_layer_types(hf: Mapping[str, Any], windows: Sequence[int | None]) -> None:
    """Raise ValueError where a config.json orders its layers otherwise than our model does."""
    expected = layer_types(windows)
    if (hf.get("layer_types") or expected) != expected:
        raise ValueError(f"config.json has layer_types={hf['layer_types']}; marin's model has {expected}")


def tail_window_to_hf(config: Any) -> dict[str, Any]:
    """The fields of the Qwens, whose first max_window_layers layers see everything."""
    return {
        "use_sliding_window": config.sliding_window is not None,
        "sliding_window": config.sliding_window,
        "max_window_layers": config.max_window_layers,
        "layer_types": layer_types(config.attention_windows),
    }


def tail_window_from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of our config from those fields; raises ValueError for an order of layers that Qwen does not have."""
    num_layers = hf["num_hidden_layers"]
    window = hf.get("sliding_window", 4096) if hf.get("use_sliding_window", False) else None
    full = hf.get("max_window_layers", 28)
    if hf.get("layer_types") is not None:
        full = sum(kind == FULL for kind in hf["layer_types"])
        if hf["layer_types"] != [FULL] * full + [SLIDING] * (num_layers - full):
            raise ValueError(
                "config.json mixes layer_types; in marin's Qwen the layers with a window are the last ones"
            )
    if window is None or full >= num_layers:
        return {"sliding_window": None, "max_window_layers": 0}
    return {"sliding_window": window, "max_window_layers": full}


def split_attention(qkv: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query, key and value as `(in, heads * head_dim)` from `(in, kv_heads, group + 2, head_dim)`."""
    width = qkv.shape[0]
    return qkv[:, :, :-2].reshape(width, -1), qkv[:, :, -2].reshape(width, -1), qkv[:, :, -1].reshape(width, -1)


def fuse_attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, config: Any) -> np.ndarray:
    """`(in, kv_heads, group + 2, head_dim)` from query, key and value as `(in, heads * head_dim)`."""
    shape = (len(query), config.num_kv_heads, -1, config.head_size)
    return np.concatenate([query.reshape(shape), key.reshape(shape), value.reshape(shape)], axis=2)


def attention_to_hf(config: Any, layer: Any, name: str) -> dict[str, np.ndarray]:
    """The four projections of one layer, without biases, by their names after `name`."""
    query, key, value = split_attention(layer.qkv)
    return {
        name + "self_attn.q_proj.weight": linear(query),
        name + "self_attn.k_proj.weight": linear(key),
        name + "self_attn.v_proj.weight": linear(value),
        name + "self_attn.o_proj.weight": linear(layer.attention_out.reshape(-1, config.hidden_dim)),
    }


def attention_from_hf(config: Any, tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """`qkv` and `attention_out` of one layer."""
    query, key, value, out = (linear(tensors[f"{name}self_attn.{part}_proj.weight"]) for part in "qkvo")
    group = config.num_heads // config.num_kv_heads
    return {
        "qkv": fuse_attention(query, key, value, config),
        "attention_out": out.reshape(config.num_kv_heads, group, config.head_size, config.hidden_dim),
    }


def mlp_to_hf(layer: Any, name: str) -> dict[str, np.ndarray]:
    """The three projections of one layer's gated MLP, by their names after `name`."""
    return {
        name + "mlp.gate_proj.weight": linear(layer.gate_up[:, 0]),
        name + "mlp.up_proj.weight": linear(layer.gate_up[:, 1]),
        name + "mlp.down_proj.weight": linear(layer.down),
    }


def mlp_from_hf(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """`gate_up` and `down` of one layer."""
    gate, up, down = (linear(tensors[f"{name}mlp.{part}_proj.weight"]) for part in ("gate", "up", "down"))
    return {"gate_up": np.stack([gate, up], axis=1), "down": down}


def ends_to_hf(params: Any, vocab_size: int) -> dict[str, np.ndarray]:
    """Embedding, final norm and, if it is not tied, unembedding; the vocabulary cut to `vocab_size` rows."""
    tensors = {
        "model.embed_tokens.weight": np.asarray(params.embedding)[:vocab_size],
        "model.norm.weight": np.asarray(params.final_norm),
    }
    if params.unembedding is not None:
        tensors["lm_head.weight"] = linear(np.asarray(params.unembedding)[:, :vocab_size])
    return tensors


def ends_from_hf(tensors: Mapping[str, np.ndarray], *, tied: bool) -> dict[str, Any]:
    """`embedding`, `final_norm` and `unembedding`, float32."""
    return {
        "embedding": jnp.asarray(tensors["model.embed_tokens.weight"], jnp.float32),
        "final_norm": jnp.asarray(tensors["model.norm.weight"], jnp.float32),
        "unembedding": None if tied else jnp.asarray(linear(tensors["lm_head.weight"]), jnp.float32),
    }


def named_layers(stacked: Any, num_layers: int) -> Iterator[tuple[str, Any]]:
    """(name, weights as NumPy arrays) of each layer in turn."""
    for index in range(num_layers):
        yield f"model.layers.{index}.", jax.tree.map(lambda leaf, i=index: np.asarray(leaf[i]), stacked)


def stack_layers(layer: Callable[[str], Mapping[str, np.ndarray]], num_layers: int) -> dict[str, Array]:
    """Field -> float32 array stacked over the layers; `layer` gives the fields of the layer of that name."""
    each = [layer(f"model.layers.{index}.") for index in range(num_layers)]
    return {name: jnp.asarray(np.stack([fields[name] for fields in each]), jnp.float32) for name in each[0]}
