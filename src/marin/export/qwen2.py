"""Qwen2's weight names and layout in the Hugging Face format, both ways; `marin.export.layout` has the pieces."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from marin.export.layout import (
    attention_from_hf,
    attention_to_hf,
    check_required,
    decoder_from_hf,
    decoder_to_hf,
    ends_from_hf,
    ends_to_hf,
    fuse_attention,
    mlp_from_hf,
    mlp_to_hf,
    named_layers,
    rope_from_hf,
    rope_to_hf,
    split_attention,
    stack_layers,
    tail_window_from_hf,
    tail_window_to_hf,
)
from marin.models.qwen2 import Qwen2Config, Qwen2Layers, Qwen2Params

ARCHITECTURE = "Qwen2ForCausalLM"

# Settings of a Hugging Face config that change the computation and that our Qwen2 does not have.
_REQUIRED = {"hidden_act": "silu"}


def config_to_hf(config: Qwen2Config, vocab_size: int) -> dict[str, Any]:
    """The fields of config.json that describe the architecture."""
    return decoder_to_hf(config, vocab_size) | {
        "architectures": [ARCHITECTURE],
        "model_type": "qwen2",
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_parameters": rope_to_hf(config.rope),
        **tail_window_to_hf(config),
        **_REQUIRED,
    }


def config_from_hf(hf: Mapping[str, Any]) -> Qwen2Config:
    """Our config from a config.json; absent fields have the defaults of the Hugging Face library.

    Raises ValueError for a setting that our Qwen2 does not have.
    """
    check_required(hf, _REQUIRED, "Qwen2")
    return Qwen2Config(
        **decoder_from_hf(hf, seq_len=32768, epsilon=1e-6),
        **tail_window_from_hf(hf),
        tie_word_embeddings=hf.get("tie_word_embeddings", False),
        rope=rope_from_hf(hf),
    )


def weights_to_hf(config: Qwen2Config, params: Qwen2Params, vocab_size: int) -> dict[str, np.ndarray]:
    """Tensors by their Hugging Face name, the vocabulary cut to `vocab_size` rows."""
    tensors = ends_to_hf(params, vocab_size)
    for name, layer in named_layers(params.layers, config.num_layers):
        tensors |= attention_to_hf(config, layer, name) | mlp_to_hf(layer, name)
        biases = split_attention(layer.qkv_bias[None])  # as matrices of one row
        tensors |= {f"{name}self_attn.{part}_proj.bias": bias[0] for part, bias in zip("qkv", biases, strict=True)}
        tensors |= {
            name + "input_layernorm.weight": layer.attention_norm,
            name + "post_attention_layernorm.weight": layer.mlp_norm,
        }
    return tensors


def weights_from_hf(config: Qwen2Config, tensors: Mapping[str, np.ndarray]) -> Qwen2Params:
    """Our parameters, float32; a missing tensor raises KeyError with its name."""

    def layer(name: str) -> dict[str, np.ndarray]:
        query, key, value = (tensors[f"{name}self_attn.{part}_proj.bias"][None] for part in "qkv")
        return {
            **attention_from_hf(config, tensors, name),
            **mlp_from_hf(tensors, name),
            "attention_norm": tensors[name + "input_layernorm.weight"],
            "mlp_norm": tensors[name + "post_attention_layernorm.weight"],
            "qkv_bias": fuse_attention(query, key, value, config)[0],
        }

    return Qwen2Params(
        layers=Qwen2Layers(**stack_layers(layer, config.num_layers)),
        **ends_from_hf(tensors, tied=config.tie_word_embeddings),
    )
