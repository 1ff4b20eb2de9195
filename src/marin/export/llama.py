"""Llama's weight names and layout in the Hugging Face format, both ways.

Their linear layers hold `(out, in)`, ours `(in, out)`; their query, key and value (and gate and up) are apart, ours are
fused by key-value head. Heads keep their order and rotary halves their places, so nothing is permuted.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from marin.models.llama import LlamaConfig, LlamaLayers, LlamaParams
from marin.models.rotary import DefaultRotaryEmbeddingsConfig, Llama3RotaryEmbeddingsConfig, RotaryEmbeddingsConfig

ARCHITECTURE = "LlamaForCausalLM"

# Settings of a Hugging Face config that change the computation and that our Llama does not have.
_REQUIRED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
_LLAMA3_FIELDS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def config_to_hf(config: LlamaConfig, vocab_size: int) -> dict[str, Any]:
    """The fields of config.json that describe the architecture."""
    rope = {"rope_theta": config.rope.theta, "rope_type": "default"}
    if isinstance(config.rope, Llama3RotaryEmbeddingsConfig):
        rope |= {"rope_type": "llama3"} | {name: getattr(config.rope, name) for name in _LLAMA3_FIELDS}
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
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
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_parameters": rope,
        "attention_dropout": 0.0,
        **_REQUIRED,
    }


def config_from_hf(hf: Mapping[str, Any]) -> LlamaConfig:
    """Our config from a config.json; absent fields have the defaults of the Hugging Face library.

    Raises ValueError for a setting that our Llama does not have.
    """
    for name, expected in _REQUIRED.items():
        if hf.get(name, expected) != expected:
            raise ValueError(f"config.json has {name}={hf[name]!r}; marin's Llama has {expected!r} only")
    num_heads = hf["num_attention_heads"]
    head_dim = hf.get("head_dim") or hf["hidden_size"] // num_heads
    return LlamaConfig(
        seq_len=hf.get("max_position_embeddings", 2048),
        hidden_dim=hf["hidden_size"],
        intermediate_dim=hf["intermediate_size"],
        num_heads=num_heads,
        num_kv_heads=hf.get("num_key_value_heads") or num_heads,
        num_layers=hf["num_hidden_layers"],
        head_dim=None if head_dim * num_heads == hf["hidden_size"] else head_dim,
        tie_word_embeddings=hf.get("tie_word_embeddings", False),
        rope=_rope_from_hf(hf),
        layer_norm_epsilon=float(hf.get("rms_norm_eps", 1e-6)),
        initializer_range=float(hf.get("initializer_range", 0.02)),
    )


def _rope_from_hf(hf: Mapping[str, Any]) -> RotaryEmbeddingsConfig:
    """transformers 5 writes `rope_parameters`; before it, `rope_theta` and, if stretched, `rope_scaling`."""
    rope = {"rope_theta": hf.get("rope_theta", 10_000.0)} | (hf.get("rope_scaling") or {})
    rope |= hf.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = float(rope["rope_theta"])
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError("config.json rotates a part of each head (partial_rotary_factor); marin's Llama rotates all")
    if kind == "default":
        return DefaultRotaryEmbeddingsConfig(theta=theta)
    if kind == "llama3":
        factor, low, high, original = (rope[name] for name in _LLAMA3_FIELDS)
        return Llama3RotaryEmbeddingsConfig(
            theta=theta,
            factor=float(factor),
            low_freq_factor=float(low),
            high_freq_factor=float(high),
            original_max_position_embeddings=original,
        )
    raise ValueError(f"config.json has rope_type={kind!r}; marin's Llama has 'default' and 'llama3'")


def weights_to_hf(config: LlamaConfig, params: LlamaParams, vocab_size: int) -> dict[str, np.ndarray]:
    """Tensors by their Hugging Face name, the vocabulary cut to `vocab_size` rows."""
    ours = params.layers
    width, group = config.hidden_dim, config.num_heads // config.num_kv_heads
    tensors = {
        "model.embed_tokens.weight": np.asarray(params.embedding)[:vocab_size],
        "model.norm.weight": np.asarray(params.final_norm),
    }
    if params.unembedding is not None:
        tensors["lm_head.weight"] = _linear(np.asarray(params.unembedding)[:, :vocab_size])
    for index in range(config.num_layers):
        name = f"model.layers.{index}."
        qkv = np.asarray(ours.qkv[index])  # (hidden, kv_heads, group + 2, head_dim)
        gate_up = np.asarray(ours.gate_up[index])  # (hidden, 2, mlp)
        tensors |= {
            name + "input_layernorm.weight": np.asarray(ours.attention_norm[index]),
            name + "self_attn.q_proj.weight": _linear(qkv[:, :, :group].reshape(width, -1)),
            name + "self_attn.k_proj.weight": _linear(qkv[:, :, group].reshape(width, -1)),
            name + "self_attn.v_proj.weight": _linear(qkv[:, :, group + 1].reshape(width, -1)),
            name + "self_attn.o_proj.weight": _linear(np.asarray(ours.attention_out[index]).reshape(-1, width)),
            name + "post_attention_layernorm.weight": np.asarray(ours.mlp_norm[index]),
            name + "mlp.gate_proj.weight": _linear(gate_up[:, 0]),
            name + "mlp.up_proj.weight": _linear(gate_up[:, 1]),
            name + "mlp.down_proj.weight": _linear(np.asarray(ours.down[index])),
        }
    return tensors


def weights_from_hf(config: LlamaConfig, tensors: Mapping[str, np.ndarray]) -> LlamaParams:
    """Our parameters, float32; a missing tensor raises KeyError with its name."""
    width, kv_heads, head = config.hidden_dim, config.num_kv_heads, config.head_size
    group = config.num_heads // kv_heads

    def layer(index: int) -> dict[str, np.ndarray]:
        def linear(name: str) -> np.ndarray:
            return _linear(tensors[f"model.layers.{index}.{name}.weight"])

        query = linear("self_attn.q_proj").reshape(width, kv_heads, group, head)
        key = linear("self_attn.k_proj").reshape(width, kv_heads, 1, head)
        value = linear("self_attn.v_proj").reshape(width, kv_heads, 1, head)
        return {
            "attention_norm": tensors[f"model.layers.{index}.input_layernorm.weight"],
            "qkv": np.concatenate([query, key, value], axis=2),
            "attention_out": linear("self_attn.o_proj").reshape(kv_heads, group, head, width),
            "mlp_norm": tensors[f"model.layers.{index}.post_attention_layernorm.weight"],
            "gate_up": np.stack([linear("mlp.gate_proj"), linear("mlp.up_proj")], axis=1),
            "down": linear("mlp.down_proj"),
        }

    layers = [layer(index) for index in range(config.num_layers)]
    return LlamaParams(
        embedding=jnp.asarray(tensors["model.embed_tokens.weight"], jnp.float32),
        layers=LlamaLayers(
            **{name: jnp.asarray(np.stack([each[name] for each in layers]), jnp.float32) for name in layers[0]}
        ),
        final_norm=jnp.asarray(tensors["model.norm.weight"], jnp.float32),
        unembedding=None
        if config.tie_word_embeddings
        else jnp.asarray(_linear(tensors["lm_head.weight"]), jnp.float32),
    )


def _linear(matrix: np.ndarray) -> np.ndarray:
    """`(in, out)` to `(out, in)` and back. Square matrices too, where no shape would tell."""
    return matrix.T
