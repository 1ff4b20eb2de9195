"""Llama's weight names and layout in the Hugging Face format, both ways; `marin.export.layout` has the pieces."""

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
    head_dim_from_hf,
    mlp_from_hf,
    mlp_to_hf,
    named_layers,
    rope_from_hf,
    rope_to_hf,
    stack_layers,
)
from marin.models.llama import LlamaConfig, LlamaLayers, LlamaParams

ARCHITECTURE = "LlamaForCausalLM"

# Settings of a Hugging Face config that change the computation and that our Llama does not have.
_REQUIRED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


def config_to_hf(config: LlamaConfig, vocab_size: int) -> dict[str, Any]:
    """The fields of config.json that describe the architecture.

    Raises ValueError for a norm that the format does not have.
    """
    for name in ("hybrid_norm", "input_embedding_norm"):
        if getattr(config, name):
            raise ValueError(f"LlamaConfig.{name} is true, and Llama in the Hugging Face format has no such norm")
    return decoder_to_hf(config, vocab_size) | {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_parameters": rope_to_hf(config.rope),
        **_REQUIRED,
    }


def config_from_hf(hf: Mapping[str, Any]) -> LlamaConfig:
    """Our config from a config.json; absent fields have the defaults of the Hugging Face library.

    Raises ValueError for a setting that our Llama does not have.
    """
    check_required(hf, _REQUIRED, "Llama")
    return LlamaConfig(
        **decoder_from_hf(hf, seq_len=2048, epsilon=1e-6),
        head_dim=head_dim_from_hf(hf),
        tie_word_embeddings=hf.get("tie_word_embeddings", False),
        rope=rope_from_hf(hf),
    )


def weights_to_hf(config: LlamaConfig, params: LlamaParams, vocab_size: int) -> dict[str, np.ndarray]:
    """Tensors by their Hugging Face name, the vocabulary cut to `vocab_size` rows."""
    tensors = ends_to_hf(params, vocab_size)
    for name, layer in named_layers(params.layers, config.num_layers):
        tensors |= attention_to_hf(config, layer, name) | mlp_to_hf(layer, name)
        tensors |= {
            name + "input_layernorm.weight": layer.attention_norm,
            name + "post_attention_layernorm.weight": layer.mlp_norm,
        }
    return tensors


def weights_from_hf(config: LlamaConfig, tensors: Mapping[str, np.ndarray]) -> LlamaParams:
    """Our parameters, float32; a missing tensor raises KeyError with its name."""

    def layer(name: str) -> dict[str, np.ndarray]:
        return {
            **attention_from_hf(config, tensors, name),
            **mlp_from_hf(tensors, name),
            "attention_norm": tensors[name + "input_layernorm.weight"],
            "mlp_norm": tensors[name + "post_attention_layernorm.weight"],
        }

    return LlamaParams(
        layers=LlamaLayers(**stack_layers(layer, config.num_layers)),
        **ends_from_hf(tensors, tied=config.tie_word_embeddings),
    )
