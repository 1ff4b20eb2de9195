"""GPT-2: LayerNorm before each sublayer, learned positions, biases everywhere, tanh-GELU, tied unembedding.

Parameters are laid out as in `marin.models.llama`: stacked over layers, query, key and value in one matrix by head. The
architecture is that of Radford et al. 2019 with dropout left out, as at inference.
"""

import math
from dataclasses import dataclass
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from marin.models import layers
from marin.models.attention import KeyValueCache, cached_attention, causal_attention, empty_cache, write_cache
from marin.models.trees import TokenTrees

__all__ = ["Gpt2Config", "Gpt2Layers", "Gpt2Params"]


@dataclass(frozen=True, kw_only=True)
class Gpt2Config:
    """Shape of a GPT-2. Satisfies `marin.models.config.LmConfig`, whose docstrings describe the methods.

    >>> config = Gpt2Config(seq_len=1024, hidden_dim=768, num_layers=12, num_heads=12)
    >>> config.num_params(vocab_size=50257)
    124439808
    """

    seq_len: int
    """The longest sequence, in tokens, that the model takes; also the number of learned positions."""
    hidden_dim: int
    """Width of the residual stream; a multiple of num_heads."""
    num_layers: int
    """Number of blocks."""
    num_heads: int
    """Number of heads."""
    intermediate_dim: int | None = None
    """Width between the two matrices of the MLP; None: 4 * hidden_dim."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance in LayerNorm."""
    initializer_range: float = 0.02
    """Standard deviation of matrices and embeddings at initialization; residual projections get less."""
    use_flash_attention: bool = True
    """Skip the blocks of scores above the diagonal (`blocked`); False computes the whole matrix (`reference`)."""

    def __post_init__(self):
        for name in ("seq_len", "hidden_dim", "num_layers", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim={self.hidden_dim} must be a multiple of num_heads={self.num_heads}")

    @property
    def head_size(self) -> int:
        """Width of a head."""
        return self.hidden_dim // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """Width between the two matrices of the MLP."""
        return 4 * self.hidden_dim if self.intermediate_dim is None else self.intermediate_dim

    @property
    def final_logit_softcap(self) -> None:
        """None: logits are not bent."""
        return None

    def init(self, vocab_size: int, *, key: Array) -> "Gpt2Params":
        """Normal matrices and embeddings, zero biases, norms 1; float32.

        The standard deviation is `initializer_range`, divided by sqrt(2 num_layers) for the two projections of each
        layer that add to the residual stream (Radford et al. 2019, section 2.3).
        """
        keys = iter(jax.random.split(key, 6))

        def normal(*shape: int, scale: float = 1.0) -> Array:
            return layers.normal(next(keys), shape, scale * self.initializer_range)

        depth, width, mlp, heads, head = self.num_layers, self.hidden_dim, self.mlp_dim, self.num_heads, self.head_size
        residual = 1 / math.sqrt(2 * depth)
        return Gpt2Params(
            embedding=normal(vocab_size, width),
            position_embedding=normal(self.seq_len, width),
            layers=Gpt2Layers(
                attention_norm=jnp.ones((depth, width)),
                attention_norm_bias=jnp.zeros((depth, width)),
                qkv=normal(depth, width, heads, 3, head),
                qkv_bias=jnp.zeros((depth, heads, 3, head)),
                attention_out=normal(depth, heads, head, width, scale=residual),
                attention_out_bias=jnp.zeros((depth, width)),
                mlp_norm=jnp.ones((depth, width)),
                mlp_norm_bias=jnp.zeros((depth, width)),
                up=normal(depth, width, mlp),
                up_bias=jnp.zeros((depth, mlp)),
                down=normal(depth, mlp, width, scale=residual),
                down_bias=jnp.zeros((depth, width)),
            ),
            final_norm=jnp.ones(width),
            final_norm_bias=jnp.zeros(width),
        )

    def hidden_states(
        self,
        params: "Gpt2Params",
        tokens: Int[Array, "batch seq"],
        *,
        positions: Int[Array, "batch seq"] | None = None,
        segment_ids: Int[Array, "batch seq"] | None = None,
        trees: TokenTrees | None = None,
        compute_dtype: Any = jnp.float32,
        remat: str = "none",
        scan_layers: bool | None = None,
        attention: str | None = None,
    ) -> Float[Array, "batch seq hidden"]:
        """States after the final norm; see `LmConfig.hidden_states`."""
        layers.check_length(tokens.shape[1], self.seq_len, trees=trees)
        if positions is None:
            positions = layers.positions_of(tokens, segment_ids)
        implementation = attention or ("blocked" if self.use_flash_attention else "reference")

        def layer(inputs: tuple[Gpt2Layers, KeyValueCache | None], x: Float[Array, "batch seq hidden"]):
            layer_params, before = inputs
            query, key, value = _attention_input(self, layer_params, x)
            mixed = causal_attention(
                query, key, value, segment_ids=segment_ids, trees=trees, before=before, implementation=implementation
            )
            return _mlp_block(self, layer_params, x + _attention_output(layer_params, mixed))

        x = layers.run_layers(
            layer,
            layers.with_prefix(layers.cast(params.layers, compute_dtype), trees),
            _embed(params, tokens, positions, compute_dtype),
            num_layers=self.num_layers,
            remat=remat,
            scan_layers=scan_layers,
        )
        return _final_norm(self, params, x)

    def unembedding(self, params: "Gpt2Params") -> Float[Array, "hidden vocab"]:
        """The embedding, transposed."""
        return params.embedding.T

    def init_cache(self, batch_size: int, max_len: int, dtype: Any = jnp.float32) -> KeyValueCache:
        """An empty cache of `max_len` slots; the slot of a token is its position."""
        layers.check_length(max_len, self.seq_len, "a cache")
        return empty_cache(
            num_layers=self.num_layers,
            batch_size=batch_size,
            max_len=max_len,
            num_kv_heads=self.num_heads,
            head_dim=self.head_size,
            dtype=dtype,
        )

    def hidden_states_cached(
        self,
        params: "Gpt2Params",
        tokens: Int[Array, "batch seq"],
        cache: KeyValueCache | tuple[KeyValueCache, ...],
        *,
        positions: Int[Array, "batch seq"],
        compute_dtype: Any = jnp.float32,
    ) -> tuple[Float[Array, "batch seq hidden"], KeyValueCache | tuple[KeyValueCache, ...]]:
        """States of `tokens` and the cache with their keys and values in the slots named by `positions`.

        A token attends to every slot up to its own, so slots must be filled from 0 on; slots at or beyond `max_len`
        are dropped.
        """

        def layer(layer_params: Gpt2Layers, layer_cache: KeyValueCache, x: Float[Array, "batch seq hidden"]):
            query, key, value = _attention_input(self, layer_params, x)
            layer_cache = write_cache(layer_cache, key, value, positions)
            mixed = cached_attention(query, layer_cache.key, layer_cache.value, positions)
            return _mlp_block(self, layer_params, x + _attention_output(layer_params, mixed)), layer_cache

        x, cache = layers.run_layers_cached(
            layer,
            layers.cast(params.layers, compute_dtype),
            cache,
            _embed(params, tokens, positions, compute_dtype),
        )
        return _final_norm(self, params, x), cache

    def num_params(self, vocab_size: int) -> int:
        """Exact number of parameters."""
        biases = self.num_layers * (5 * self.hidden_dim + self.mlp_dim)
        norms = (4 * self.num_layers + 2) * self.hidden_dim
        return (vocab_size + self.seq_len) * self.hidden_dim + self._layer_matrix_params() + biases + norms

    def flops_per_token(self, vocab_size: int, seq_len: int) -> float:
        """Forward and backward, full attention; `layers.training_flops` states the convention."""
        return layers.training_flops(
            matrix_params=self._layer_matrix_params() + vocab_size * self.hidden_dim,
            attention_dim=self.hidden_dim,
            num_keys=self.num_layers * seq_len,
        )

    def weight_decay_mask(self, params: "Gpt2Params") -> "Gpt2Params":
        """True for the matrices of the layers; False for both embeddings, norms and biases."""
        return layers.mask_of(params, {"qkv", "attention_out", "up", "down"})

    def _layer_matrix_params(self) -> int:
        return self.num_layers * (4 * self.hidden_dim**2 + 2 * self.hidden_dim * self.mlp_dim)


# Shapes below are of the parameters; as pytrees these classes also hold masks, shapes, or one layer, hence unchecked.
@jax.tree_util.register_dataclass
@no_type_check
@dataclass(frozen=True, kw_only=True)
class Gpt2Layers:
    """All layers' weights, stacked along the first axis."""

    attention_norm: Float[Array, "layers hidden"]
    attention_norm_bias: Float[Array, "layers hidden"]
    qkv: Float[Array, "layers hidden heads 3 head_dim"]  # a head's query, its key, its value
    qkv_bias: Float[Array, "layers heads 3 head_dim"]
    attention_out: Float[Array, "layers heads head_dim hidden"]
    attention_out_bias: Float[Array, "layers hidden"]
    mlp_norm: Float[Array, "layers hidden"]
    mlp_norm_bias: Float[Array, "layers hidden"]
    up: Float[Array, "layers hidden mlp"]
    up_bias: Float[Array, "layers mlp"]
    down: Float[Array, "layers mlp hidden"]
    down_bias: Float[Array, "layers hidden"]


@jax.tree_util.register_dataclass
@no_type_check
@dataclass(frozen=True, kw_only=True)
class Gpt2Params:
    """A GPT-2's weights; the unembedding is the embedding."""

    embedding: Float[Array, "vocab hidden"]
    position_embedding: Float[Array, "positions hidden"]
    layers: Gpt2Layers
    final_norm: Float[Array, " hidden"]
    final_norm_bias: Float[Array, " hidden"]


def _embed(params: Gpt2Params, tokens, positions, dtype):
    return (params.embedding[tokens] + params.position_embedding[positions]).astype(dtype)


def _final_norm(config: Gpt2Config, params: Gpt2Params, x):
    scale, bias = params.final_norm.astype(x.dtype), params.final_norm_bias.astype(x.dtype)
    return layers.layer_norm(x, scale, bias, config.layer_norm_epsilon)


def _attention_input(config: Gpt2Config, params: Gpt2Layers, x):
    """Queries (B, T, N, 1, H), keys and values (B, T, N, H)."""
    normed = layers.layer_norm(x, params.attention_norm, params.attention_norm_bias, config.layer_norm_epsilon)
    qkv = layers.project(normed, params.qkv) + params.qkv_bias
    query_key, value = layers.split_last(qkv)
    query, key = layers.split_last(query_key)
    return query, key, value


def _attention_output(params: Gpt2Layers, mixed):
    return layers.project(mixed.squeeze(3), params.attention_out) + params.attention_out_bias


def _mlp_block(config: Gpt2Config, params: Gpt2Layers, x):
    normed = layers.layer_norm(x, params.mlp_norm, params.mlp_norm_bias, config.layer_norm_epsilon)
    up = jax.nn.gelu(layers.project(normed, params.up) + params.up_bias, approximate=True)
    return x + up @ params.down + params.down_bias
