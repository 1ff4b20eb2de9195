"""Mistral: as Llama, with a sliding window in every layer (7B v0.1; later ones attend to everything).

The fused layouts are those of `marin.models.llama`: query, key and value by key-value head, gate and up by `(2, mlp)`.
"""

from dataclasses import dataclass
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from marin.models import layers
from marin.models.attention import KeyValueCache, cached_attention, causal_attention, empty_cache, write_cache
from marin.models.rotary import DefaultRotaryEmbeddingsConfig, RotaryEmbeddingsConfig
from marin.models.trees import TokenTrees

__all__ = ["MistralConfig", "MistralLayers", "MistralParams"]


@dataclass(frozen=True, kw_only=True)
class MistralConfig:
    """Shape of a Mistral. Satisfies `marin.models.config.LmConfig`, whose docstrings describe the methods.

    >>> config = MistralConfig(
    ...     seq_len=64, hidden_dim=32, intermediate_dim=88, num_heads=4, num_kv_heads=2, num_layers=2
    ... )
    >>> params = jax.eval_shape(lambda: config.init(vocab_size=100, key=jax.random.key(0)))
    >>> jax.eval_shape(config.hidden_states, params, jnp.zeros((1, 8), jnp.int32)).shape
    (1, 8, 32)
    """

    seq_len: int
    """The longest sequence, in tokens, that the model takes."""
    hidden_dim: int
    """Width of the residual stream."""
    intermediate_dim: int
    """Width between the two matrices of the SwiGLU."""
    num_heads: int
    """Number of query heads."""
    num_kv_heads: int
    """Number of key-value heads; divides num_heads."""
    num_layers: int
    """Number of blocks."""
    head_dim: int | None = None
    """Width of a head; None: hidden_dim / num_heads."""
    tie_word_embeddings: bool = False
    """Whether the unembedding is the embedding, transposed."""
    rope: RotaryEmbeddingsConfig = DefaultRotaryEmbeddingsConfig()
    """Rule for the rotary frequencies."""
    sliding_window: int | None = None
    """Places that a token sees, its own among them; None: all before it."""
    layer_norm_epsilon: float = 1e-5
    """Added to the mean square in RMSNorm."""
    initializer_range: float = 0.02
    """Standard deviation of every matrix and of the embedding at initialization."""
    use_flash_attention: bool = True
    """Skip the blocks of scores above the diagonal (`blocked`); False computes the whole matrix (`reference`)."""

    def __post_init__(self):
        layers.check_shape(self)

    @property
    def head_size(self) -> int:
        """Width of a head."""
        return self.hidden_dim // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def attention_windows(self) -> tuple[int | None, ...]:
        """The window of each layer; None: it sees everything before it."""
        return (self.sliding_window,) * self.num_layers

    @property
    def final_logit_softcap(self) -> None:
        """None: logits are not bent."""
        return None

    def init(self, vocab_size: int, *, key: Array) -> "MistralParams":
        """Every matrix normal with standard deviation `initializer_range`, every norm 1; float32."""
        keys = iter(jax.random.split(key, 6))

        def normal(*shape: int) -> Array:
            return layers.normal(next(keys), shape, self.initializer_range)

        depth, width, mlp, head = self.num_layers, self.hidden_dim, self.intermediate_dim, self.head_size
        group = self.num_heads // self.num_kv_heads
        return MistralParams(
            embedding=normal(vocab_size, width),
            layers=MistralLayers(
                attention_norm=jnp.ones((depth, width)),
                qkv=normal(depth, width, self.num_kv_heads, group + 2, head),
                attention_out=normal(depth, self.num_kv_heads, group, head, width),
                mlp_norm=jnp.ones((depth, width)),
                gate_up=normal(depth, width, 2, mlp),
                down=normal(depth, mlp, width),
            ),
            final_norm=jnp.ones(width),
            unembedding=None if self.tie_word_embeddings else normal(width, vocab_size),
        )

    def hidden_states(
        self,
        params: "MistralParams",
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
        rotation = layers.rotation(self.rope, self.head_size, positions)
        implementation = attention or ("blocked" if self.use_flash_attention else "reference")

        def layer(inputs: tuple[MistralLayers, KeyValueCache | None], x: Float[Array, "batch seq hidden"]):
            layer_params, before = inputs
            query, key, value = _attention_input(self, layer_params, x, rotation)
            mixed = causal_attention(
                query,
                key,
                value,
                segment_ids=segment_ids,
                trees=trees,
                before=before,
                implementation=implementation,
                window=self.sliding_window,
            )
            return _mlp_block(self, layer_params, x + _attention_output(layer_params, mixed))

        x = params.embedding[tokens].astype(compute_dtype)
        x = layers.run_layers(
            layer,
            layers.with_prefix(layers.cast(params.layers, compute_dtype), trees),
            x,
            num_layers=self.num_layers,
            remat=remat,
            scan_layers=scan_layers,
        )
        return layers.rms_norm(x, params.final_norm.astype(compute_dtype), self.layer_norm_epsilon)

    def unembedding(self, params: "MistralParams") -> Float[Array, "hidden vocab"]:
        """The matrix from states to logits."""
        return params.embedding.T if params.unembedding is None else params.unembedding

    def init_cache(self, batch_size: int, max_len: int, dtype: Any = jnp.float32) -> KeyValueCache:
        """An empty cache of `max_len` slots; the slot of a token is its position."""
        layers.check_length(max_len, self.seq_len, "a cache")
        return empty_cache(
            num_layers=self.num_layers,
            batch_size=batch_size,
            max_len=max_len,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_size,
            dtype=dtype,
        )

    def hidden_states_cached(
        self,
        params: "MistralParams",
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
        rotation = layers.rotation(self.rope, self.head_size, positions)

        def layer(layer_params: MistralLayers, layer_cache: KeyValueCache, x: Float[Array, "batch seq hidden"]):
            query, key, value = _attention_input(self, layer_params, x, rotation)
            layer_cache = write_cache(layer_cache, key, value, positions)
            mixed = cached_attention(query, layer_cache.key, layer_cache.value, positions, window=self.sliding_window)
            return _mlp_block(self, layer_params, x + _attention_output(layer_params, mixed)), layer_cache

        x = params.embedding[tokens].astype(compute_dtype)
        x, cache = layers.run_layers_cached(layer, layers.cast(params.layers, compute_dtype), cache, x)
        return layers.rms_norm(x, params.final_norm.astype(compute_dtype), self.layer_norm_epsilon), cache

    def num_params(self, vocab_size: int) -> int:
        """Exact number of parameters."""
        norms = (2 * self.num_layers + 1) * self.hidden_dim
        untied = 0 if self.tie_word_embeddings else vocab_size * self.hidden_dim
        return vocab_size * self.hidden_dim + untied + self._layer_matrix_params() + norms

    def flops_per_token(self, vocab_size: int, seq_len: int) -> float:
        """Forward and backward, attention within the windows; `layers.training_flops` states the convention."""
        return layers.training_flops(
            matrix_params=self._layer_matrix_params() + vocab_size * self.hidden_dim,
            attention_dim=self.num_heads * self.head_size,
            num_keys=layers.num_keys(seq_len, self.attention_windows),
        )

    def weight_decay_mask(self, params: "MistralParams") -> "MistralParams":
        """True for the matrices of the layers and for an untied unembedding; False for embedding and norms."""
        return layers.mask_of(params, {"qkv", "attention_out", "gate_up", "down", "unembedding"})

    def _layer_matrix_params(self) -> int:
        attention = (2 * self.num_heads + 2 * self.num_kv_heads) * self.head_size * self.hidden_dim
        return self.num_layers * (attention + 3 * self.hidden_dim * self.intermediate_dim)


# Shapes below are of the parameters; as pytrees these classes also hold masks, shapes, or one layer, hence unchecked.
@jax.tree_util.register_dataclass
@no_type_check
@dataclass(frozen=True, kw_only=True)
class MistralLayers:
    """All layers' weights, stacked along the first axis."""

    attention_norm: Float[Array, "layers hidden"]
    qkv: Float[Array, "layers hidden kv_heads group_plus_2 head_dim"]  # a head's queries, then its key, then its value
    attention_out: Float[Array, "layers kv_heads group head_dim hidden"]
    mlp_norm: Float[Array, "layers hidden"]
    gate_up: Float[Array, "layers hidden 2 mlp"]  # gate, then up
    down: Float[Array, "layers mlp hidden"]


@jax.tree_util.register_dataclass
@no_type_check
@dataclass(frozen=True, kw_only=True)
class MistralParams:
    """A Mistral's weights."""

    embedding: Float[Array, "vocab hidden"]
    layers: MistralLayers
    final_norm: Float[Array, " hidden"]
    unembedding: Float[Array, "hidden vocab"] | None  # None: tied to the embedding


def _attention_input(config: MistralConfig, params: MistralLayers, x, rotation):
    """Rotated queries (B, T, K, G, H), rotated keys and plain values (B, T, K, H)."""
    normed = layers.rms_norm(x, params.attention_norm, config.layer_norm_epsilon)
    qkv = layers.project(normed, params.qkv)
    query_key, value = layers.split_last(qkv)
    query, key = layers.split_last(layers.rotate(query_key, *rotation))
    return query, key, value


def _attention_output(params: MistralLayers, mixed):
    return layers.project(mixed, params.attention_out)


def _mlp_block(config: MistralConfig, params: MistralLayers, x):
    normed = layers.rms_norm(x, params.mlp_norm, config.layer_norm_epsilon)
    gate, up = layers.split_last(layers.project(normed, params.gate_up))
    return x + (jax.nn.silu(gate.squeeze(-2)) * up) @ params.down
