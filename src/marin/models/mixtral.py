"""Mixtral: Mistral whose MLP is a mixture of experts; a router sends each token to the few that suit it best.

A token's copies are sorted by expert and multiplied group by group (`jax.lax.ragged_dot`), so that no token is dropped
however unevenly they fall and shapes stay fixed. The price is a sort each layer, and that devices which lower a ragged
product to dense ones (the CPU) compute every expert for every copy.

Left alone, routers send everything to one expert. Two auxiliary losses prevent it: `RouterLosses` has their formulas,
`hidden_states_and_auxiliary_loss` is what a trainer asks for. The fused layouts are those of `marin.models.llama`:
query, key and value by key-value head, gate and up by `(2, mlp)`.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from marin.models import layers
from marin.models.attention import KeyValueCache, cached_attention, causal_attention, empty_cache, write_cache
from marin.models.rotary import DefaultRotaryEmbeddingsConfig, RotaryEmbeddingsConfig
from marin.models.trees import TokenTrees

__all__ = ["MixtralConfig", "MixtralLayers", "MixtralParams", "RouterLosses"]


class RouterLosses(NamedTuple):
    """Means over the layers; float32.

    With p(t, e) the router's probabilities, over tokens t (padding left out) and experts e, and f(e) the number of
    copies that e receives per token (their sum is experts_per_token):

        load_balance = num_experts * sum over e of  f(e) * mean over t of p(t, e)      (Fedus et al. 2021, eq. 4-6)
        z            = mean over t of  logsumexp over e of the router's logits, squared    (Zoph et al. 2022, eq. 5)

    An even load gives load_balance = experts_per_token.
    """

    load_balance: Float[Array, ""]
    z: Float[Array, ""]


@dataclass(frozen=True, kw_only=True)
class MixtralConfig:
    """Shape of a Mixtral. Satisfies `marin.models.config.LmConfig`, whose docstrings describe the methods.

    >>> config = MixtralConfig(
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
    """Width between the two matrices of each expert's SwiGLU."""
    num_heads: int
    """Number of query heads."""
    num_kv_heads: int
    """Number of key-value heads; divides num_heads."""
    num_layers: int
    """Number of blocks."""
    num_experts: int = 8
    """Number of experts in each layer."""
    experts_per_token: int = 2
    """Number of experts that a token is sent to."""
    load_balance_loss_weight: float = 0.01
    """Factor of `RouterLosses.load_balance` in the loss that is minimized."""
    router_z_loss_weight: float = 0.001
    """Factor of `RouterLosses.z` in the loss that is minimized."""
    head_dim: int | None = None
    """Width of a head; None: hidden_dim / num_heads."""
    tie_word_embeddings: bool = False
    """Whether the unembedding is the embedding, transposed."""
    rope: RotaryEmbeddingsConfig = DefaultRotaryEmbeddingsConfig(theta=1_000_000.0)
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
        if not 1 <= self.experts_per_token <= self.num_experts:
            raise ValueError(
                f"experts_per_token={self.experts_per_token} must be from 1 to num_experts={self.num_experts}"
            )

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

    def init(self, vocab_size: int, *, key: Array) -> "MixtralParams":
        """Every matrix normal with standard deviation `initializer_range`, every norm 1; float32."""
        keys = iter(jax.random.split(key, 7))

        def normal(*shape: int) -> Array:
            return layers.normal(next(keys), shape, self.initializer_range)

        depth, width, mlp, head = self.num_layers, self.hidden_dim, self.intermediate_dim, self.head_size
        group = self.num_heads // self.num_kv_heads
        return MixtralParams(
            embedding=normal(vocab_size, width),
            layers=MixtralLayers(
                attention_norm=jnp.ones((depth, width)),
                qkv=normal(depth, width, self.num_kv_heads, group + 2, head),
                attention_out=normal(depth, self.num_kv_heads, group, head, width),
                mlp_norm=jnp.ones((depth, width)),
                router=normal(depth, width, self.num_experts),
                gate_up=normal(depth, self.num_experts, width, 2, mlp),
                down=normal(depth, self.num_experts, mlp, width),
            ),
            final_norm=jnp.ones(width),
            unembedding=None if self.tie_word_embeddings else normal(width, vocab_size),
        )

    def hidden_states(
        self,
        params: "MixtralParams",
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
        states, _ = self.hidden_states_and_router_losses(
            params,
            tokens,
            positions=positions,
            segment_ids=segment_ids,
            trees=trees,
            compute_dtype=compute_dtype,
            remat=remat,
            scan_layers=scan_layers,
            attention=attention,
        )
        return states

    def hidden_states_and_auxiliary_loss(
        self, params: "MixtralParams", tokens: Int[Array, "batch seq"], **kwargs: Any
    ) -> tuple[Float[Array, "batch seq hidden"], Float[Array, ""]]:
        """The states, and the router's losses weighted and added, in nats a token; keywords as `hidden_states`."""
        states, losses = self.hidden_states_and_router_losses(params, tokens, **kwargs)
        return states, self.load_balance_loss_weight * losses.load_balance + self.router_z_loss_weight * losses.z

    def hidden_states_and_router_losses(
        self,
        params: "MixtralParams",
        tokens: Int[Array, "batch seq"],
        *,
        positions: Int[Array, "batch seq"] | None = None,
        segment_ids: Int[Array, "batch seq"] | None = None,
        trees: TokenTrees | None = None,
        compute_dtype: Any = jnp.float32,
        remat: str = "none",
        scan_layers: bool | None = None,
        attention: str | None = None,
    ) -> tuple[Float[Array, "batch seq hidden"], RouterLosses]:
        """The states and what the routers of all layers would be fined for."""
        layers.check_length(tokens.shape[1], self.seq_len, trees=trees)
        if positions is None:
            positions = layers.positions_of(tokens, segment_ids)
        rotation = layers.rotation(self.rope, self.head_size, positions)
        implementation = attention or ("blocked" if self.use_flash_attention else "reference")
        counted = jnp.ones(tokens.shape, bool) if segment_ids is None else segment_ids >= 0

        def layer(inputs: tuple[MixtralLayers, KeyValueCache | None], carry: tuple[Array, RouterLosses]):
            layer_params, before = inputs
            x, losses = carry
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
            x, layer_losses = _experts_block(self, layer_params, x + _attention_output(layer_params, mixed), counted)
            return x, jax.tree.map(jnp.add, losses, layer_losses)

        x = params.embedding[tokens].astype(compute_dtype)
        x, losses = layers.run_layers(
            layer,
            layers.with_prefix(layers.cast(params.layers, compute_dtype), trees),
            (x, RouterLosses(jnp.float32(0), jnp.float32(0))),
            num_layers=self.num_layers,
            remat=remat,
            scan_layers=scan_layers,
        )
        states = layers.rms_norm(x, params.final_norm.astype(compute_dtype), self.layer_norm_epsilon)
        return states, RouterLosses(*(loss / self.num_layers for loss in losses))

    def unembedding(self, params: "MixtralParams") -> Float[Array, "hidden vocab"]:
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
        params: "MixtralParams",
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

        def layer(layer_params: MixtralLayers, layer_cache: KeyValueCache, x: Float[Array, "batch seq hidden"]):
            query, key, value = _attention_input(self, layer_params, x, rotation)
            layer_cache = write_cache(layer_cache, key, value, positions)
            mixed = cached_attention(query, layer_cache.key, layer_cache.value, positions, window=self.sliding_window)
            counted = jnp.ones(tokens.shape, bool)
            x, _ = _experts_block(self, layer_params, x + _attention_output(layer_params, mixed), counted)
            return x, layer_cache

        x = params.embedding[tokens].astype(compute_dtype)
        x, cache = layers.run_layers_cached(layer, layers.cast(params.layers, compute_dtype), cache, x)
        return layers.rms_norm(x, params.final_norm.astype(compute_dtype), self.layer_norm_epsilon), cache

    def num_params(self, vocab_size: int) -> int:
        """Exact number of parameters, those of all experts."""
        norms = (2 * self.num_layers + 1) * self.hidden_dim
        untied = 0 if self.tie_word_embeddings else vocab_size * self.hidden_dim
        return vocab_size * self.hidden_dim + untied + self._layer_matrix_params(self.num_experts) + norms

    def flops_per_token(self, vocab_size: int, seq_len: int) -> float:
        """Forward and backward, of the experts that a token meets; `layers.training_flops` states the convention."""
        return layers.training_flops(
            matrix_params=self._layer_matrix_params(self.experts_per_token) + vocab_size * self.hidden_dim,
            attention_dim=self.num_heads * self.head_size,
            num_keys=layers.num_keys(seq_len, self.attention_windows),
        )

    def weight_decay_mask(self, params: "MixtralParams") -> "MixtralParams":
        """True for the matrices of the layers and for an untied unembedding; False for embedding and norms."""
        return layers.mask_of(params, {"qkv", "attention_out", "router", "gate_up", "down", "unembedding"})

    def _layer_matrix_params(self, num_experts: int) -> int:
        attention = (2 * self.num_heads + 2 * self.num_kv_heads) * self.head_size * self.hidden_dim
        experts = num_experts * 3 * self.hidden_dim * self.intermediate_dim
        return self.num_layers * (attention + self.hidden_dim * self.num_experts + experts)


# Shapes below are of the parameters; as pytrees these classes also hold masks, shapes, or one layer, hence unchecked.
@jax.tree_util.register_dataclass
@no_type_check
@dataclass(frozen=True, kw_only=True)
class MixtralLayers:
    """All layers' weights, stacked along the first axis."""

    attention_norm: Float[Array, "layers hidden"]
    qkv: Float[Array, "layers hidden kv_heads group_plus_2 head_dim"]  # a head's queries, then its key, then its value
    attention_out: Float[Array, "layers kv_heads group head_dim hidden"]
    mlp_norm: Float[Array, "layers hidden"]
    router: Float[Array, "layers hidden experts"]
    gate_up: Float[Array, "layers experts hidden 2 mlp"]  # gate, then up
    down: Float[Array, "layers experts mlp hidden"]


@jax.tree_util.register_dataclass
@no_type_check
@dataclass(frozen=True, kw_only=True)
class MixtralParams:
    """A Mixtral's weights."""

    embedding: Float[Array, "vocab hidden"]
    layers: MixtralLayers
    final_norm: Float[Array, " hidden"]
    unembedding: Float[Array, "hidden vocab"] | None  # None: tied to the embedding


def _attention_input(config: MixtralConfig, params: MixtralLayers, x, rotation):
    """Rotated queries (B, T, K, G, H), rotated keys and plain values (B, T, K, H)."""
    normed = layers.rms_norm(x, params.attention_norm, config.layer_norm_epsilon)
    qkv = layers.project(normed, params.qkv)
    query_key, value = layers.split_last(qkv)
    query, key = layers.split_last(layers.rotate(query_key, *rotation))
    return query, key, value


def _attention_output(params: MixtralLayers, mixed):
    return layers.project(mixed, params.attention_out)


def _experts_block(config: MixtralConfig, params: MixtralLayers, x, counted):
    """x plus what its experts say of it, and the router's losses over the tokens that are `counted`, bool (B, T)."""
    normed = layers.rms_norm(x, params.mlp_norm, config.layer_norm_epsilon)
    tokens = normed.reshape(-1, config.hidden_dim)  # (N, D)
    logits = jnp.matmul(tokens, params.router, preferred_element_type=jnp.float32)
    probabilities = jax.nn.softmax(logits)
    weights, chosen = jax.lax.top_k(probabilities, config.experts_per_token)  # (N, k)
    weights = weights / weights.sum(axis=-1, keepdims=True)
    copies = jnp.bincount(chosen.reshape(-1), length=config.num_experts)
    order = jnp.argsort(chosen.reshape(-1))  # of the N * k copies, by expert
    gate_up = params.gate_up.reshape(config.num_experts, config.hidden_dim, -1)
    rows = jax.lax.ragged_dot(tokens[order // config.experts_per_token], gate_up, copies)
    gate, up = jnp.split(rows, 2, axis=-1)
    rows = jax.lax.ragged_dot(jax.nn.silu(gate) * up, params.down, copies)
    # put back by a gather, not added by a scatter, whose order of summation would not be fixed
    rows = rows[jnp.argsort(order)].reshape(*weights.shape, config.hidden_dim)
    mixed = jnp.einsum("nk,nkd->nd", weights.astype(rows.dtype), rows)
    counted = counted.reshape(-1)
    part = counted / jnp.maximum(counted.sum(), 1).astype(jnp.float32)  # of the means below, that each token has
    of_counted = jnp.where(counted[:, None], chosen, config.num_experts)
    share = jnp.bincount(of_counted.reshape(-1), length=config.num_experts + 1)[:-1] / jnp.maximum(counted.sum(), 1)
    losses = RouterLosses(
        load_balance=config.num_experts * jnp.sum(share * (part @ probabilities)),
        z=part @ jax.nn.logsumexp(logits, axis=-1) ** 2,
    )
    return x + mixed.reshape(x.shape), losses
