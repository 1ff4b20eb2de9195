"""Gemma 3's weight names and layout in the Hugging Face format, both ways; `marin.export.layout` has the pieces."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from marin.export.layout import (
    FULL,
    SLIDING,
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
    rope_from_parameters,
    rope_to_hf,
    stack_layers,
)
from marin.models.gemma3 import Gemma3Config, Gemma3Layers, Gemma3Params
from marin.models.rotary import RotaryEmbeddingsConfig

ARCHITECTURE = "Gemma3ForCausalLM"

# Settings of a Hugging Face config that change the computation and that our Gemma3 does not have.
_REQUIRED = {
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "use_bidirectional_attention": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}


def config_to_hf(config: Gemma3Config, vocab_size: int) -> dict[str, Any]:
    """The fields of config.json that describe the architecture."""
    return decoder_to_hf(config, vocab_size) | {
        "architectures": [ARCHITECTURE],
        "model_type": "gemma3_text",
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_parameters": {FULL: rope_to_hf(config.rope), SLIDING: rope_to_hf(config.local_rope)},
        "sliding_window": config.sliding_window,
        "layer_types": layer_types(config.attention_windows),
        "query_pre_attn_scalar": config.query_pre_attn_scalar,
        **_REQUIRED,
    }


def config_from_hf(hf: Mapping[str, Any]) -> Gemma3Config:
    """Our config from a config.json; absent fields have the defaults of the Hugging Face library.

    Raises ValueError for a setting that our Gemma3 does not have.
    """
    check_required(hf, _REQUIRED, "Gemma3")
    rope, local_rope = _ropes_from_hf(hf)
    num_layers, pattern = hf["num_hidden_layers"], hf.get("sliding_window_pattern", 6)
    if hf.get("layer_types") is not None:  # transformers 5 writes these and no pattern
        pattern = hf["layer_types"].index(FULL) + 1 if FULL in hf["layer_types"] else num_layers + 1
    config = Gemma3Config(
        **decoder_from_hf(hf, seq_len=131072, epsilon=1e-6),
        head_dim=hf.get("head_dim", 256),
        tie_word_embeddings=hf.get("tie_word_embeddings", True),
        rope=rope,
        local_rope=local_rope,
        sliding_window=hf.get("sliding_window", 4096),
        sliding_window_pattern=pattern,
        query_pre_attn_scalar=hf.get("query_pre_attn_scalar", 256),
    )
    check_layer_types(hf, config.attention_windows)
    return config


def _ropes_from_hf(hf: Mapping[str, Any]) -> tuple[RotaryEmbeddingsConfig, RotaryEmbeddingsConfig]:
    """Of the layers that see everything, and of those with a window.

    transformers 5 writes both in `rope_parameters`; before it, `rope_theta`, `rope_scaling` and `rope_local_base_freq`.
    """
    parameters = hf.get("rope_parameters") or {}
    full = {"rope_theta": hf.get("rope_theta", 1_000_000.0)} | (hf.get("rope_scaling") or {})
    local = {"rope_theta": hf.get("rope_local_base_freq", 10_000.0)}
    return (
        rope_from_parameters(full | (parameters.get(FULL) or {})),
        rope_from_parameters(local | (parameters.get(SLIDING) or {})),
    )


def weights_to_hf(config: Gemma3Config, params: Gemma3Params, vocab_size: int) -> dict[str, np.ndarray]:
    """Tensors by their Hugging Face name, the vocabulary cut to `vocab_size` rows."""
    tensors = ends_to_hf(params, vocab_size)
    for name, layer in named_layers(params.layers, config.num_layers):
        tensors |= attention_to_hf(config, layer, name) | mlp_to_hf(layer, name)
        tensors |= {
            name + "input_layernorm.weight": layer.attention_norm,
            name + "post_attention_layernorm.weight": layer.attention_post_norm,
            name + "pre_feedforward_layernorm.weight": layer.mlp_norm,
            name + "post_feedforward_layernorm.weight": layer.mlp_post_norm,
            name + "self_attn.q_norm.weight": layer.query_norm,
            name + "self_attn.k_norm.weight": layer.key_norm,
        }
    return tensors


def weights_from_hf(config: Gemma3Config, tensors: Mapping[str, np.ndarray]) -> Gemma3Params:
    """Our parameters, float32; a missing tensor raises KeyError with its name."""

    def layer(name: str) -> dict[str, np.ndarray]:
        return {
            **attention_from_hf(config, tensors, name),
            **mlp_from_hf(tensors, name),
            "attention_norm": tensors[name + "input_layernorm.weight"],
            "attention_post_norm": tensors[name + "post_attention_layernorm.weight"],
            "mlp_norm": tensors[name + "pre_feedforward_layernorm.weight"],
            "mlp_post_norm": tensors[name + "post_feedforward_layernorm.weight"],
            "query_norm": tensors[name + "self_attn.q_norm.weight"],
            "key_norm": tensors[name + "self_attn.k_norm.weight"],
        }

    return Gemma3Params(
        layers=Gemma3Layers(**stack_layers(layer, config.num_layers)),
        **ends_from_hf(tensors, tied=config.tie_word_embeddings),
    )
