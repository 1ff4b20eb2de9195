"""Mixtral's weight names and layout in the Hugging Face format, both ways; `marin.export.layout` has the pieces.

The files hold each expert apart, under the names of the first release: `w1` is the gate, `w3` up, `w2` down.
"""

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
    linear,
    named_layers,
    rope_from_hf,
    rope_to_hf,
    stack_layers,
)
from marin.models.mixtral import MixtralConfig, MixtralLayers, MixtralParams

ARCHITECTURE = "MixtralForCausalLM"

# Settings of a Hugging Face config that change the computation and that our Mixtral does not have.
_REQUIRED = {"hidden_act": "silu"}


def config_to_hf(config: MixtralConfig, vocab_size: int) -> dict[str, Any]:
    """The fields of config.json that describe the architecture."""
    return decoder_to_hf(config, vocab_size) | {
        "architectures": [ARCHITECTURE],
        "model_type": "mixtral",
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_parameters": rope_to_hf(config.rope),
        "sliding_window": config.sliding_window,
        "num_local_experts": config.num_experts,
        "num_experts_per_tok": config.experts_per_token,
        "router_aux_loss_coef": config.load_balance_loss_weight,
        "router_z_loss_coef": config.router_z_loss_weight,  # ours: the library has no such loss
        "output_router_logits": False,
        "router_jitter_noise": 0.0,
        **_REQUIRED,
    }


def config_from_hf(hf: Mapping[str, Any]) -> MixtralConfig:
    """Our config from a config.json; absent fields have the defaults of the Hugging Face library.

    Raises ValueError for a setting that our Mixtral does not have.
    """
    check_required(hf, _REQUIRED, "Mixtral")
    return MixtralConfig(
        **decoder_from_hf(hf, seq_len=131072, epsilon=1e-5),
        head_dim=head_dim_from_hf(hf),
        tie_word_embeddings=hf.get("tie_word_embeddings", False),
        rope=rope_from_hf(hf, theta=1_000_000.0),
        sliding_window=hf.get("sliding_window"),
        num_experts=hf.get("num_local_experts", 8),
        experts_per_token=hf.get("num_experts_per_tok", 2),
        load_balance_loss_weight=float(hf.get("router_aux_loss_coef", 0.001)),
        router_z_loss_weight=float(hf.get("router_z_loss_coef", 0.0)),
    )


def weights_to_hf(config: MixtralConfig, params: MixtralParams, vocab_size: int) -> dict[str, np.ndarray]:
    """Tensors by their Hugging Face name, the vocabulary cut to `vocab_size` rows."""
    tensors = ends_to_hf(params, vocab_size)
    for name, layer in named_layers(params.layers, config.num_layers):
        tensors |= attention_to_hf(config, layer, name) | _experts_to_hf(config, layer, name)
        tensors |= {
            name + "input_layernorm.weight": layer.attention_norm,
            name + "post_attention_layernorm.weight": layer.mlp_norm,
        }
    return tensors


def weights_from_hf(config: MixtralConfig, tensors: Mapping[str, np.ndarray]) -> MixtralParams:
    """Our parameters, float32; a missing tensor raises KeyError with its name."""

    def layer(name: str) -> dict[str, np.ndarray]:
        return {
            **attention_from_hf(config, tensors, name),
            **_experts_from_hf(config, tensors, name),
            "attention_norm": tensors[name + "input_layernorm.weight"],
            "mlp_norm": tensors[name + "post_attention_layernorm.weight"],
        }

    return MixtralParams(
        layers=MixtralLayers(**stack_layers(layer, config.num_layers)),
        **ends_from_hf(tensors, tied=config.tie_word_embeddings),
    )


def _experts_to_hf(config: MixtralConfig, layer: Any, name: str) -> dict[str, np.ndarray]:
    """The router and the three projections of each expert of one layer."""
    tensors = {name + "block_sparse_moe.gate.weight": linear(layer.router)}
    for expert in range(config.num_experts):
        prefix = f"{name}block_sparse_moe.experts.{expert}."
        tensors |= {
            prefix + "w1.weight": linear(layer.gate_up[expert, :, 0]),
            prefix + "w3.weight": linear(layer.gate_up[expert, :, 1]),
            prefix + "w2.weight": linear(layer.down[expert]),
        }
    return tensors


def _experts_from_hf(config: MixtralConfig, tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """`router`, `gate_up` and `down` of one layer."""

    def each(part: str) -> list[np.ndarray]:
        experts = range(config.num_experts)
        return [linear(tensors[f"{name}block_sparse_moe.experts.{expert}.{part}.weight"]) for expert in experts]

    return {
        "router": linear(tensors[name + "block_sparse_moe.gate.weight"]),
        "gate_up": np.stack([np.stack(pair, axis=1) for pair in zip(each("w1"), each("w3"), strict=True)]),
        "down": np.stack(each("w2")),
    }
