"""Logits of a model in the Hugging Face format, from its files alone, in NumPy.

A second opinion: written from the format, sharing no code with our models or with the mapping of their weights, and
plain enough to be checked by eye against a paper. It is slow (no cache, whole score matrices) and meant for a probe of
a few hundred tokens. Weights stay float32; sums that decide small differences (norms, softmax) are in float64.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from safetensors.numpy import load_file


def reference_logits(folder: str | Path, tokens: Int[np.ndarray, "batch seq"]) -> Float[np.ndarray, "batch seq vocab"]:
    """What the model in `folder` (config.json, model.safetensors) says of each next token, float32."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = load_file(folder / "model.safetensors")
    forward = {"llama": _llama, "gpt2": _gpt2}.get(config["model_type"])
    if forward is None:
        raise ValueError(f"{folder}: no reference reader for model_type={config['model_type']!r}")
    unread = _Reads(weights)
    out = np.stack([forward(config, unread, row) for row in tokens])
    if unread.names:
        raise ValueError(f"{folder}: tensors that a {config['model_type']} has no use for: {sorted(unread.names)[:5]}")
    return out


class _Reads:
    """A mapping that remembers which names were never asked for."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self._tensors = tensors
        self.names = set(tensors)

    def __getitem__(self, name: str) -> np.ndarray:
        self.names.discard(name)
        return self._tensors[name]


def _llama(config: Mapping[str, Any], weights: _Reads, tokens: np.ndarray) -> np.ndarray:
    num_heads, num_kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim, epsilon = config["head_dim"], config["rms_norm_eps"]

    def norm(x, name):
        wide = x.astype(np.float64)
        return (wide / np.sqrt((wide**2).mean(-1, keepdims=True) + epsilon)).astype(np.float32) * weights[name]

    def linear(x, name):
        return x @ weights[name + ".weight"].T  # stored (out, in)

    angles = np.arange(len(tokens))[:, None] * _rotary_frequencies(config["rope_parameters"], head_dim)
    cos, sin = (np.tile(f(angles), 2).astype(np.float32) for f in (np.cos, np.sin))  # (seq, head_dim)

    def heads(x, count, turn):
        x = x.reshape(len(tokens), count, head_dim).swapaxes(0, 1)
        if not turn:
            return x
        half = head_dim // 2
        return x * cos + np.concatenate([-x[..., half:], x[..., :half]], axis=-1) * sin

    x = weights["model.embed_tokens.weight"][tokens]
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}."
        normed = norm(x, layer + "input_layernorm.weight")
        query = heads(linear(normed, layer + "self_attn.q_proj"), num_heads, turn=True)
        key = heads(linear(normed, layer + "self_attn.k_proj"), num_kv_heads, turn=True)
        value = heads(linear(normed, layer + "self_attn.v_proj"), num_kv_heads, turn=False)
        repeat = num_heads // num_kv_heads
        x = x + linear(_attend(query, key.repeat(repeat, 0), value.repeat(repeat, 0)), layer + "self_attn.o_proj")
        normed = norm(x, layer + "post_attention_layernorm.weight")
        gate = linear(normed, layer + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(normed, layer + "mlp.up_proj"), layer + "mlp.down_proj")
    x = norm(x, "model.norm.weight")
    return linear(x, "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head")


def _gpt2(config: Mapping[str, Any], weights: _Reads, tokens: np.ndarray) -> np.ndarray:
    width, num_heads, epsilon = config["n_embd"], config["n_head"], config["layer_norm_epsilon"]

    def norm(x, name):
        wide = x.astype(np.float64)
        centred = wide - wide.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return scaled.astype(np.float32) * weights[name + ".weight"] + weights[name + ".bias"]

    def conv1d(x, name):
        return x @ weights[name + ".weight"] + weights[name + ".bias"]  # stored (in, out)

    x = weights["transformer.wte.weight"][tokens] + weights["transformer.wpe.weight"][: len(tokens)]
    for index in range(config["n_layer"]):
        layer = f"transformer.h.{index}."
        fused = conv1d(norm(x, layer + "ln_1"), layer + "attn.c_attn")
        query, key, value = (
            part.reshape(len(tokens), num_heads, width // num_heads).swapaxes(0, 1) for part in np.split(fused, 3, 1)
        )
        x = x + conv1d(_attend(query, key, value), layer + "attn.c_proj")
        up = conv1d(norm(x, layer + "ln_2"), layer + "mlp.c_fc")
        gelu = 0.5 * up * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (up + np.float32(0.044715) * up**3)))
        x = x + conv1d(gelu, layer + "mlp.c_proj")
    return norm(x, "transformer.ln_f") @ weights["transformer.wte.weight"].T


def _attend(query, key, value):
    """Causal attention of `(heads, seq, head_dim)`; the heads come back side by side, `(seq, heads * head_dim)`."""
    seq = query.shape[1]
    scores = (query @ key.swapaxes(1, 2)).astype(np.float64) / math.sqrt(query.shape[-1])
    scores[:, np.triu(np.ones((seq, seq), bool), 1)] = -np.inf
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (scores / scores.sum(-1, keepdims=True)).astype(np.float32) @ value
    return mixed.swapaxes(0, 1).reshape(seq, -1)


def _rotary_frequencies(rope: Mapping[str, Any], head_dim: int) -> np.ndarray:
    """Radians per position of each pair; for `llama3`, by the published case distinction on wavelengths."""
    plain = [float(rope["rope_theta"]) ** (-2 * pair / head_dim) for pair in range(head_dim // 2)]
    if rope["rope_type"] == "default":
        return np.array(plain, np.float32)
    if rope["rope_type"] != "llama3":
        raise ValueError(f"no reference reader for rope_type={rope['rope_type']!r}")
    stretched = []
    context, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    for frequency in plain:
        wavelength = 2 * math.pi / frequency
        if wavelength > context / low:
            stretched.append(frequency / rope["factor"])
        elif wavelength < context / high:
            stretched.append(frequency)
        else:
            smooth = (context / wavelength - low) / (high - low)
            stretched.append((1 - smooth) * frequency / rope["factor"] + smooth * frequency)
    return np.array(stretched, np.float32)
