"""GPT-2's weight names and layout in the Hugging Face format, both ways.

Their projections are of a class `Conv1D` that holds `(in, out)`, unlike every linear layer of that library. So do ours,
and nothing is transposed: not the square ones either, where a wrong transposition would go unnoticed by any shape. The
fused query-key-value is ordered by (query, key, value) and then head there, by head first here.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from marin.models.gpt2 import Gpt2Config, Gpt2Layers, Gpt2Params

ARCHITECTURE = "GPT2LMHeadModel"

# Settings of a Hugging Face config that change the computation and that our GPT-2 does not have.
_REQUIRED = {
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def config_to_hf(config: Gpt2Config, vocab_size: int) -> dict[str, Any]:
    """The fields of config.json that describe the architecture."""
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "gpt2",
        "vocab_size": vocab_size,
        "n_positions": config.seq_len,
        "n_embd": config.hidden_dim,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.intermediate_dim,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "initializer_range": config.initializer_range,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        **_REQUIRED,
    }


def config_from_hf(hf: Mapping[str, Any]) -> Gpt2Config:
    """Our config from a config.json; absent fields have the defaults of the Hugging Face library.

    Raises ValueError for a setting that our GPT-2 does not have.
    """
    for name, expected in _REQUIRED.items():
        if hf.get(name, expected) != expected:
            raise ValueError(f"config.json has {name}={hf[name]!r}; marin's GPT-2 has {expected!r} only")
    return Gpt2Config(
        seq_len=hf.get("n_positions", 1024),
        hidden_dim=hf["n_embd"],
        num_layers=hf["n_layer"],
        num_heads=hf["n_head"],
        intermediate_dim=hf.get("n_inner"),
        layer_norm_epsilon=float(hf.get("layer_norm_epsilon", 1e-5)),
        initializer_range=float(hf.get("initializer_range", 0.02)),
    )


def weights_to_hf(config: Gpt2Config, params: Gpt2Params, vocab_size: int) -> dict[str, np.ndarray]:
    """Tensors by their Hugging Face name, the vocabulary cut to `vocab_size` rows."""
    ours, width = params.layers, config.hidden_dim
    tensors = {
        "transformer.wte.weight": np.asarray(params.embedding)[:vocab_size],
        "transformer.wpe.weight": np.asarray(params.position_embedding),
        "transformer.ln_f.weight": np.asarray(params.final_norm),
        "transformer.ln_f.bias": np.asarray(params.final_norm_bias),
    }
    for index in range(config.num_layers):
        name = f"transformer.h.{index}."
        qkv = np.asarray(ours.qkv[index]).swapaxes(1, 2)  # (hidden, 3, heads, head_dim)
        tensors |= {
            name + "ln_1.weight": np.asarray(ours.attention_norm[index]),
            name + "ln_1.bias": np.asarray(ours.attention_norm_bias[index]),
            name + "attn.c_attn.weight": _conv1d(qkv.reshape(width, 3 * width)),
            name + "attn.c_attn.bias": np.asarray(ours.qkv_bias[index]).swapaxes(0, 1).reshape(3 * width),
            name + "attn.c_proj.weight": _conv1d(np.asarray(ours.attention_out[index]).reshape(width, width)),
            name + "attn.c_proj.bias": np.asarray(ours.attention_out_bias[index]),
            name + "ln_2.weight": np.asarray(ours.mlp_norm[index]),
            name + "ln_2.bias": np.asarray(ours.mlp_norm_bias[index]),
            name + "mlp.c_fc.weight": _conv1d(np.asarray(ours.up[index])),
            name + "mlp.c_fc.bias": np.asarray(ours.up_bias[index]),
            name + "mlp.c_proj.weight": _conv1d(np.asarray(ours.down[index])),
            name + "mlp.c_proj.bias": np.asarray(ours.down_bias[index]),
        }
    return tensors


def weights_from_hf(config: Gpt2Config, tensors: Mapping[str, np.ndarray]) -> Gpt2Params:
    """Our parameters, float32; a missing tensor raises KeyError with its name.

    The published GPT-2 files name tensors without the prefix `transformer.`; both are read.
    """
    width, heads, head = config.hidden_dim, config.num_heads, config.head_size
    prefix = "transformer." if any(name.startswith("transformer.") for name in tensors) else ""

    def layer(index: int) -> dict[str, np.ndarray]:
        def tensor(name: str) -> np.ndarray:
            return tensors[f"{prefix}h.{index}.{name}"]

        return {
            "attention_norm": tensor("ln_1.weight"),
            "attention_norm_bias": tensor("ln_1.bias"),
            "qkv": _conv1d(tensor("attn.c_attn.weight")).reshape(width, 3, heads, head).swapaxes(1, 2),
            "qkv_bias": tensor("attn.c_attn.bias").reshape(3, heads, head).swapaxes(0, 1),
            "attention_out": _conv1d(tensor("attn.c_proj.weight")).reshape(heads, head, width),
            "attention_out_bias": tensor("attn.c_proj.bias"),
            "mlp_norm": tensor("ln_2.weight"),
            "mlp_norm_bias": tensor("ln_2.bias"),
            "up": _conv1d(tensor("mlp.c_fc.weight")),
            "up_bias": tensor("mlp.c_fc.bias"),
            "down": _conv1d(tensor("mlp.c_proj.weight")),
            "down_bias": tensor("mlp.c_proj.bias"),
        }

    layers = [layer(index) for index in range(config.num_layers)]
    return Gpt2Params(
        embedding=jnp.asarray(tensors[f"{prefix}wte.weight"], jnp.float32),
        position_embedding=jnp.asarray(tensors[f"{prefix}wpe.weight"], jnp.float32),
        layers=Gpt2Layers(
            **{name: jnp.asarray(np.stack([each[name] for each in layers]), jnp.float32) for name in layers[0]}
        ),
        final_norm=jnp.asarray(tensors[f"{prefix}ln_f.weight"], jnp.float32),
        final_norm_bias=jnp.asarray(tensors[f"{prefix}ln_f.bias"], jnp.float32),
    )


def _conv1d(matrix: np.ndarray) -> np.ndarray:
    """`(in, out)` in both layouts: nothing to do, which is what is easy to get wrong."""
    return matrix
