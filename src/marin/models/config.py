"""What every model config offers, and the names under which configs are written in YAML.

The protocol stands apart from `marin.models.lm` so that training configs can be written, read and planned without
loading a tensor library. The price is that its signatures name arrays loosely; each model's own are exact.
"""

from typing import Any, Protocol, runtime_checkable

from marin.config import register_choice

REMAT_POLICIES = {
    "none": "everything: the most memory, no work twice",
    "dots": "the products of each layer, but those between a row's own tokens (attention)",
    "attention": "what attention gives in each layer",
    "full": "nothing but the states between layers: the least memory, a third more work",
}
"""Name -> what the forward pass keeps for the backward pass, which computes the rest again."""

REMAT_NAMES = "names:"
"""Begins a policy that keeps the values of these names, `names:attention,projection`: those two are every model's,
others what a model marks with `jax.ad_checkpoint.checkpoint_name`. A name that no value has keeps nothing."""


def check_remat(policy: str) -> None:
    """ValueError for what is no remat policy."""
    if policy.startswith(REMAT_NAMES) and all(policy.removeprefix(REMAT_NAMES).split(",")):
        return
    if policy not in REMAT_POLICIES:
        raise ValueError(
            f"unknown remat {policy!r}: expected one of {', '.join(map(repr, REMAT_POLICIES))}, or names of what to "
            f"keep, as '{REMAT_NAMES}attention,projection'"
        )


ATTENTION_IMPLEMENTATIONS = {
    "blocked": "a block of queries at a time, and only the keys up to its end: the choice on CPU",
    "cudnn": "cuDNN's flash attention: NVIDIA GPUs, bfloat16 or float16",
    "reference": "the whole matrix of scores: the definition",
    "xla": "what `jax.nn.dot_product_attention` does without cuDNN, called exactly as with it",
}
"""Name -> how attention is computed. What each can do is said in `marin.models.attention`."""


@runtime_checkable
class LmConfig(Protocol):
    """A decoder-only language model: a frozen, hashable dataclass, static under `jax.jit`.

    Parameters are a pytree of frozen dataclasses; everything that belongs to one layer is stacked along a leading
    axis of length `num_layers`. `tokens` are int32 `(batch, seq)` with `seq <= seq_len`.
    """

    @property
    def seq_len(self) -> int:
        """The longest sequence, in tokens, that the model takes."""
        ...

    @property
    def hidden_dim(self) -> int:
        """Width of the residual stream."""
        ...

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        ...

    @property
    def num_heads(self) -> int:
        """Number of query heads."""
        ...

    @property
    def final_logit_softcap(self) -> float | None:
        """Logits z become softcap * tanh(z / softcap); None: they stay as they are."""
        ...

    def init(self, vocab_size: int, *, key: Any) -> Any:
        """Random float32 parameters for `vocab_size` tokens from a JAX PRNG key."""
        ...

    def hidden_states(
        self,
        params: Any,
        tokens: Any,
        *,
        positions: Any = None,
        segment_ids: Any = None,
        trees: Any = None,
        compute_dtype: Any = "float32",
        remat: str = "none",
        scan_layers: bool | None = None,
        attention: str | None = None,
    ) -> Any:
        """States `(batch, seq, hidden)` after the final norm, in `compute_dtype`.

        `segment_ids` int32 `(batch, seq)`: a token attends only to earlier tokens of its own segment, and, unless
        `positions` int32 `(batch, seq)` are given, positions restart at 0 with each segment; a negative id is padding,
        whose states mean nothing. `trees`, a `marin.models.trees.TokenTrees`, stands in place of `segment_ids`
        where the rows hold trees of tokens, and wants `positions` beside it. `remat` is a name of `REMAT_POLICIES`.
        `scan_layers` compiles one layer and loops over it; None: only on accelerators with many layers. `attention` is
        a name of `ATTENTION_IMPLEMENTATIONS`; None: as the config says.
        """
        ...

    def unembedding(self, params: Any) -> Any:
        """The matrix `(hidden, vocab)` from states to logits, tied to the embedding or not."""
        ...

    def init_cache(self, batch_size: int, max_len: int, dtype: Any = "float32") -> Any:
        """An empty key-value cache for `max_len` positions."""
        ...

    def hidden_states_cached(
        self, params: Any, tokens: Any, cache: Any, *, positions: Any, compute_dtype: Any = "float32"
    ) -> tuple[Any, Any]:
        """States of `tokens` at `positions`, which attend to what the cache holds before them; and the new cache."""
        ...

    def num_params(self, vocab_size: int) -> int:
        """Exact number of parameters of `init(vocab_size)`."""
        ...

    def flops_per_token(self, vocab_size: int, seq_len: int) -> float:
        """Floating-point operations of one training step per token; `marin.models.layers.training_flops` says how."""
        ...

    def weight_decay_mask(self, params: Any) -> Any:
        """The pytree of `params` with True where weight decay applies: matrices, not embeddings, norms or biases."""
        ...


@runtime_checkable
class AuxiliaryLossConfig(Protocol):
    """A model that wants more minimized than the loss of its predictions, such as one whose router must be balanced."""

    def hidden_states_and_auxiliary_loss(self, params: Any, tokens: Any, **kwargs: Any) -> tuple[Any, Any]:
        """What `LmConfig.hidden_states` gives, and a float32 scalar in nats a token; keywords as there."""
        ...


@runtime_checkable
class MultipliedEmbeddingConfig(Protocol):
    """A model that multiplies its embeddings before the first layer."""

    @property
    def embedding_multiplier(self) -> float:
        """By how much."""
        ...


@runtime_checkable
class PartlyTrainedConfig(Protocol):
    """A model of whose parameters some are frozen."""

    def trained(self, params: Any) -> Any:
        """The pytree that gradients and the optimizer are of."""
        ...

    def with_trained(self, params: Any, trained: Any) -> Any:
        """The parameters with that part replaced."""
        ...


def embedding_multiplier(model: Any) -> float:
    """By how much the model multiplies its embeddings before the first layer."""
    return model.embedding_multiplier if isinstance(model, MultipliedEmbeddingConfig) else 1.0


def trained_part(model: Any, params: Any) -> Any:
    """What training changes of the parameters: all of them, unless the model says otherwise."""
    return model.trained(params) if isinstance(model, PartlyTrainedConfig) else params


def with_trained_part(model: Any, params: Any, trained: Any) -> Any:
    """The parameters with what training changes replaced."""
    return model.with_trained(params, trained) if isinstance(model, PartlyTrainedConfig) else trained


register_choice(LmConfig, "llama", "marin.models.llama:LlamaConfig")
register_choice(LmConfig, "gpt2", "marin.models.gpt2:Gpt2Config")
register_choice(LmConfig, "qwen3", "marin.models.qwen3:Qwen3Config")
register_choice(LmConfig, "qwen2", "marin.models.qwen2:Qwen2Config")
register_choice(LmConfig, "mistral", "marin.models.mistral:MistralConfig")
register_choice(LmConfig, "olmo2", "marin.models.olmo2:Olmo2Config")
register_choice(LmConfig, "gemma", "marin.models.gemma:GemmaConfig")
register_choice(LmConfig, "gemma2", "marin.models.gemma2:Gemma2Config")
register_choice(LmConfig, "gemma3", "marin.models.gemma3:Gemma3Config")
register_choice(LmConfig, "mixtral", "marin.models.mixtral:MixtralConfig")
