"""Gemma 2's weight names and layout in the Hugging Face format, both ways; `marin.export.layout` has the pieces."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from marin.export.layout import (
    attention_from_hf,
    attention_to_hf,
    check_layer_types,
    check_required,
    decoder_from_hf,
    decoder_to_hf,
    ends_from_hf,
    ends_to_hf,
    layer_types,
    mlp_from_hf,
    mlp_to_hf,
    named_layers,
    rope_from_hf,
    rope_to_hf,
    stack_layers,
)
from marin.models.gemma2 import Gemma2Config, Gemma2Layers, Gemma2Params

ARCHITECTURE = "Gemma2ForCausalLM"

# Settings of a Hugging Face config that change the computation and that our Gemma2 does not have.
_REQUIRED = {
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "use_bidirectional_attention": None,
}


def config_to_hf(config: Gemma2Config, vocab_size: int) -> dict[str, Any]:
    """The fields of config.json that describe the architecture."""
    return decoder_to_hf(config, vocab_size) | {
        "architectures": [ARCHITECTURE],
        "model_type": "gemma2",
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_parameters": rope_to_hf(config.rope),
        "sliding_window": config.sliding_window,
        "layer_types": layer_types(config.attention_windows),
        "query_pre_attn_scalar": config.query_pre_attn_scalar,
        "attn_logit_softcapping": config.attention_logit_softcap,
        "final_logit_softcapping": config.final_logit_softcap,
        **_REQUIRED,
    }


def config_from_hf(hf: Mapping[str, Any]) -> Gemma2Config:
    """Our config from a config.json; absent fields have the defaults of the Hugging Face library.

    Raises ValueError for a setting that our Gemma2 does not have.
    """
    check_required(hf, _REQUIRED, "Gemma2")
    config = Gemma2Config(
        **decoder_from_hf(hf, seq_len=8192, epsilon=1e-6),
        head_dim=hf.get("head_dim", 256),
        tie_word_embeddings=hf.get("tie_word_embeddings", True),
        rope=rope_from_hf(hf),
        sliding_window=hf.get("sliding_window", 4096),
        query_pre_attn_scalar=hf.get("query_pre_attn_scalar", 256),
        attention_logit_softcap=hf.get("attn_logit_softcapping", 50.0),
        final_logit_softcap=hf.get("final_logit_softcapping", 30.0),
    )
    check_layer_types(hf, config.attention_windows)
    return config


def weights_to_hf(config: Gemma2Config, params: Gemma2Params, vocab_size: int) -> dict[str, np.ndarray]:
    """Tensors by their Hugging Face name, the vocabulary cut to `vocab_size` rows."""
    tensors = ends_to_hf(params, vocab_size)
    for name, layer in named_layers(params.layers, config.num_layers):
        tensors |= attention_to_hf(config, layer, name) | mlp_to_hf(layer, name)
        tensors |= {
            name + "input_layernorm.weight": layer.attention_norm,
            name + "post_attention_layernorm.weight": layer.attention_post_norm,
            name + "pre_feedforward_layernorm.weight": layer.mlp_norm,
            name + "post_feedforward_layernorm.weight": layer.mlp_post_norm,
        }
    return tensors


def weights_from_hf(config: Gemma2Config, tensors: Mapping[str, np.ndarray]) -> Gemma2Params:
    """Our parameters, float32; a missing tensor raises KeyError with its name."""

    def layer(name: str) -> dict[str, np.ndarray]:
        return {
            **attention_from_hf(config, tensors, name),
            **mlp_from_hf(tensors, name),
            "attention_norm": tensors[name + "input_layernorm.weight"],
            "attention_post_norm": tensors[name + "post_attention_layernorm.weight"],
            "mlp_norm": tensors[name + "pre_feedforward_layernorm.weight"],
            "mlp_post_norm": tensors[name + "post_feedforward_layernorm.weight"],
        }

    return Gemma2Params(
        layers=Gemma2Layers(**stack_layers(layer, config.num_layers)),
        **ends_from_hf(tensors, tied=config.tie_word_embeddings),
    )
