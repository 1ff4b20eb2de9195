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
    """What the model in `folder` (config.json, safetensors) says of each next token, float32."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = _weights(folder)
    forward = _FORWARD.get(config["model_type"])
    if forward is None:
        raise ValueError(f"{folder}: no reference reader for model_type={config['model_type']!r}")
    unread = _Reads(weights)
    out = np.stack([forward(config, unread, row) for row in tokens])
    if unread.names:
        raise ValueError(f"{folder}: tensors that a {config['model_type']} has no use for: {sorted(unread.names)[:5]}")
    return out


def _weights(folder: Path) -> dict[str, np.ndarray]:
    """Tensors of one file; or by the index, each of the file that it names."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return load_file(folder / "model.safetensors")
    places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    files = {file: load_file(folder / file) for file in set(places.values())}
    if sum(map(len, files.values())) != len(places):
        raise ValueError(f"{folder}: the files hold tensors that {index.name} does not name")
    return {name: files[file][name] for name, file in places.items()}


class _Reads:
    """A mapping that remembers which names were never asked for."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self._tensors = tensors
        self.names = set(tensors)

    def __getitem__(self, name: str) -> np.ndarray:
        self.names.discard(name)
        return self._tensors[name]


class _Decoder:
    """The parts of a rotary decoder, over one row of tokens."""

    def __init__(self, config: Mapping[str, Any], weights: _Reads, seq: int):
        self.config, self.weights, self.seq = config, weights, seq

    def norm(self, x, name, offset=0.0):
        """RMSNorm over the last axis; Gemma's scale is an offset from 1."""
        wide = x.astype(np.float64)
        scaled = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return scaled.astype(np.float32) * (self.weights[name + ".weight"] + np.float32(offset))

    def linear(self, x, name, bias=False):
        product = x @ self.weights[name + ".weight"].T  # stored (out, in)
        return product + self.weights[name + ".bias"] if bias else product

    def rotate(self, x, rope):
        """(seq, heads, head_dim), turned by position."""
        angles = np.arange(self.seq)[:, None] * _rotary_frequencies(rope, x.shape[-1])
        cos, sin = (np.tile(f(angles), 2).astype(np.float32)[:, None] for f in (np.cos, np.sin))
        half = x.shape[-1] // 2
        return x * cos + np.concatenate([-x[..., half:], x[..., :half]], axis=-1) * sin

    def attention(self, x, layer, *, rope=None, bias=False, whole_norm=False, head_norm=None, **options):
        """`head_norm` is the offset of norms of each head's query and key; `whole_norm` norms all heads as one."""
        name, config = layer + "self_attn.", self.config
        parts = []
        for part, count in zip("qkv", ("num_attention_heads", *["num_key_value_heads"] * 2), strict=True):
            y = self.linear(x, f"{name}{part}_proj", bias)
            if whole_norm and part != "v":
                y = self.norm(y, f"{name}{part}_norm")
            y = y.reshape(self.seq, config[count], -1)
            if head_norm is not None and part != "v":
                y = self.norm(y, f"{name}{part}_norm", head_norm)
            parts.append(y if part == "v" else self.rotate(y, rope or config["rope_parameters"]))
        query, key, value = (part.swapaxes(0, 1) for part in parts)
        repeat = len(query) // len(key)
        return self.linear(_attend(query, key.repeat(repeat, 0), value.repeat(repeat, 0), **options), name + "o_proj")

    def gated_mlp(self, x, layer, activation):
        gate, up = (self.linear(x, f"{layer}mlp.{part}_proj") for part in ("gate", "up"))
        return self.linear(activation(gate) * up, layer + "mlp.down_proj")

    def unembed(self, x):
        return self.linear(x, "model.embed_tokens" if self.config["tie_word_embeddings"] else "lm_head")

    def layers(self):
        return [f"model.layers.{index}." for index in range(self.config["num_hidden_layers"])]

    def windows(self):
        """The window of each layer; None where it sees everything."""
        kinds = self.config.get("layer_types", ["sliding_attention"] * self.config["num_hidden_layers"])
        return [self.config.get("sliding_window") if kind == "sliding_attention" else None for kind in kinds]


def _llama(config: Mapping[str, Any], weights: _Reads, tokens: np.ndarray, **attention) -> np.ndarray:
    """Llama, Mistral and the Qwens: a norm before each sublayer."""
    model = _Decoder(config, weights, len(tokens))
    x = weights["model.embed_tokens.weight"][tokens]
    for layer, window in zip(model.layers(), model.windows(), strict=True):
        x = x + model.attention(model.norm(x, layer + "input_layernorm"), layer, window=window, **attention)
        x = x + model.gated_mlp(model.norm(x, layer + "post_attention_layernorm"), layer, _silu)
    return model.unembed(model.norm(x, "model.norm"))


def _qwen2(config: Mapping[str, Any], weights: _Reads, tokens: np.ndarray) -> np.ndarray:
    return _llama(config, weights, tokens, bias=True)


def _qwen3(config: Mapping[str, Any], weights: _Reads, tokens: np.ndarray) -> np.ndarray:
    return _llama(config, weights, tokens, head_norm=0.0)


def _mixtral(config: Mapping[str, Any], weights: _Reads, tokens: np.ndarray) -> np.ndarray:
    """As Llama, but each token's MLP is the weighted mean of its best experts, one token at a time."""
    model = _Decoder(config, weights, len(tokens))
    x = weights["model.embed_tokens.weight"][tokens]
    for layer, window in zip(model.layers(), model.windows(), strict=True):
        x = x + model.attention(model.norm(x, layer + "input_layernorm"), layer, window=window)
        normed, experts = model.norm(x, layer + "post_attention_layernorm"), layer + "block_sparse_moe."
        scores = np.exp(model.linear(normed, experts + "gate").astype(np.float64))
        for expert in range(config["num_local_experts"]):  # of use, even where no token of the probe chooses it
            for part in ("w1", "w2", "w3"):
                weights[f"{experts}experts.{expert}.{part}.weight"]
        mixed = np.zeros_like(x)
        for token, score in enumerate(scores):
            best = np.argsort(-score, kind="stable")[: config["num_experts_per_tok"]]
            for expert in best:
                name = f"{experts}experts.{expert}."
                hidden = _silu(model.linear(normed[token], name + "w1")) * model.linear(normed[token], name + "w3")
                mixed[token] += model.linear(hidden, name + "w2") * (score[expert] / score[best].sum())
        x = x + mixed
    return model.unembed(model.norm(x, "model.norm"))


def _olmo2(config: Mapping[str, Any], weights: _Reads, tokens: np.ndarray) -> np.ndarray:
    """A norm after each sublayer, and over all heads of query and key."""
    model = _Decoder(config, weights, len(tokens))
    x = weights["model.embed_tokens.weight"][tokens]
    for layer in model.layers():
        x = x + model.norm(model.attention(x, layer, whole_norm=True), layer + "post_attention_layernorm")
        x = x + model.norm(model.gated_mlp(x, layer, _silu), layer + "post_feedforward_layernorm")
    return model.unembed(model.norm(x, "model.norm"))


def _gemma(config: Mapping[str, Any], weights: _Reads, tokens: np.ndarray) -> np.ndarray:
    model = _Decoder(config, weights, len(tokens))
    x = weights["model.embed_tokens.weight"][tokens] * np.float32(math.sqrt(config["hidden_size"]))
    for layer in model.layers():
        x = x + model.attention(model.norm(x, layer + "input_layernorm", 1), layer)
        x = x + model.gated_mlp(model.norm(x, layer + "post_attention_layernorm", 1), layer, _gelu)
    return model.unembed(model.norm(x, "model.norm", 1))


def _gemma2(config: Mapping[str, Any], weights: _Reads, tokens: np.ndarray) -> np.ndarray:
    """Norms around each sublayer; scores and logits bent."""
    attention = {"softcap": config["attn_logit_softcapping"]}
    logits = _gemma_with_windows(config, weights, tokens, lambda window: attention)
    cap = config["final_logit_softcapping"]
    return logits if cap is None else np.float32(cap) * np.tanh(logits / np.float32(cap))


def _gemma3(config: Mapping[str, Any], weights: _Reads, tokens: np.ndarray) -> np.ndarray:
    """As Gemma 2, but query and key normed by head, and rotated at two rates."""
    rope = config["rope_parameters"]

    def attention(window):
        return {"head_norm": 1.0, "rope": rope["full_attention" if window is None else "sliding_attention"]}

    return _gemma_with_windows(config, weights, tokens, attention)


def _gemma_with_windows(config, weights, tokens, attention_options) -> np.ndarray:
    model = _Decoder(config, weights, len(tokens))
    scale = config["query_pre_attn_scalar"] ** -0.5
    x = weights["model.embed_tokens.weight"][tokens] * np.float32(math.sqrt(config["hidden_size"]))
    for layer, window in zip(model.layers(), model.windows(), strict=True):
        normed = model.norm(x, layer + "input_layernorm", 1)
        mixed = model.attention(normed, layer, window=window, scale=scale, **attention_options(window))
        x = x + model.norm(mixed, layer + "post_attention_layernorm", 1)
        mlp = model.gated_mlp(model.norm(x, layer + "pre_feedforward_layernorm", 1), layer, _gelu)
        x = x + model.norm(mlp, layer + "post_feedforward_layernorm", 1)
    return model.unembed(model.norm(x, "model.norm", 1))


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
        x = x + conv1d(_gelu(up), layer + "mlp.c_proj")
    return norm(x, "transformer.ln_f") @ weights["transformer.wte.weight"].T


def _silu(x):
    return x / (1 + np.exp(-x))


def _gelu(x):
    """The tanh form."""
    return 0.5 * x * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)))


def _attend(query, key, value, *, window=None, scale=None, softcap=None):
    """Causal attention of `(heads, seq, head_dim)`; the heads come back side by side, `(seq, heads * head_dim)`."""
    seq = query.shape[1]
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query @ key.swapaxes(1, 2)).astype(np.float64) * scale
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    distance = np.arange(seq)[:, None] - np.arange(seq)
    scores[:, (distance < 0) | (distance >= (window or seq))] = -np.inf
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (scores / scores.sum(-1, keepdims=True)).astype(np.float32) @ value
    return mixed.swapaxes(0, 1).reshape(seq, -1)


def _rotary_frequencies(rope: Mapping[str, Any], head_dim: int) -> np.ndarray:
    """Radians per position of each pair; for `llama3`, by the published case distinction on wavelengths."""
    plain = [float(rope["rope_theta"]) ** (-2 * pair / head_dim) for pair in range(head_dim // 2)]
    if rope["rope_type"] == "default":
        return np.array(plain, np.float32)
    if rope["rope_type"] == "linear":
        return np.array([frequency / rope["factor"] for frequency in plain], np.float32)
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


_FORWARD = {
    "llama": _llama,
    "gpt2": _gpt2,
    "mistral": _llama,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "olmo2": _olmo2,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
}
