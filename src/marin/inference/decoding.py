"""The compiled programs of generation: read prompts into a batch of rows, and draw some tokens for every row.

A row is at one token: the last of its prompt, then the last that was drawn. A step gives that token to the model, and
draws the next from the logits. So a prompt is read into the cache without its last token, and no logits are computed
for it. One call takes several steps in one loop, and its state is donated: caches are written in place.

Weights are taken apart by layer once, before the first token (`Weights`), since a loop over stacked arrays copies each
layer's weights and cache at every token, and over those of a prompt all weights once more. The price is a second copy
of the weights while tokens are drawn.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from marin.distributed.mesh import everywhere
from marin.inference.kv_cache import empty, extended, fill, place
from marin.inference.sampling import Sampling, penalized, sample
from marin.models.config import LmConfig
from marin.models.layers import cast, unstack
from marin.models.lora import LoraLm

MAX_STEPS = 16
"""Most steps of one call."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Weights:
    """Parameters as decoding reads them, in the dtype that it computes in."""

    params: Any
    """With a tuple of layers in place of the stacked ones, where they are at `.layers`; else as they were."""
    head: Float[Array, "hidden vocab"] | None
    """The unembedding, laid out so for its product: on CPU, reading an embedding as one takes 1.2 to 1.8 times as long.
    None: it is read as it lies, which is as fast for one row and saves the copy."""


@jax.tree_util.register_dataclass
@no_type_check
@dataclass(frozen=True, kw_only=True)
class Rows:
    """A batch while its rows are being completed."""

    cache: Any
    """A tuple of the layers' caches."""
    token: Int[Array, " batch"]
    """The last token of each row, which the model has not read yet."""
    position: Int[Array, " batch"]
    """Where it stands."""
    limit: Int[Array, " batch"]
    """Where the last token that may be drawn would stand."""
    is_done: Bool[Array, " batch"]
    """Rows that nothing is drawn for."""
    stream: Int[Array, " batch"]
    """What tells the random numbers of a row from those of others."""
    seen: Bool[Array, "batch vocab"] | None
    """Which tokens stand in the row, where a penalty for repetition asks."""


def without_adapter(config: LmConfig, params: Any) -> tuple[LmConfig, Any]:
    """The model itself where this is one with an adapter, which would otherwise be merged anew for every token."""
    return (config.base, jax.jit(config.merge)(params)) if isinstance(config, LoraLm) else (config, params)


def make_weights(config: LmConfig, params: Any, compute_dtype: Any, *, num_rows: int) -> Weights:
    """The weights that the other functions here take, for a batch of so many rows."""
    head = None
    if num_rows > 1 or jax.eval_shape(config.unembedding, params).dtype != compute_dtype:
        head = _head(config, params, compute_dtype)
    if hasattr(params, "layers"):
        params = replace(params, layers=_taken_apart(params.layers, config.num_layers, compute_dtype))
    return Weights(params=params, head=head)


@functools.partial(jax.jit, static_argnames=("num_layers", "compute_dtype"))
def _taken_apart(layers: Any, num_layers: int, compute_dtype: Any) -> tuple[Any, ...]:
    return tuple(unstack(cast(layers, compute_dtype), num_layers))


@functools.partial(jax.jit, static_argnames=("config", "compute_dtype"))
def _head(config: LmConfig, params: Any, compute_dtype: Any) -> Float[Array, "hidden vocab"]:
    return config.unembedding(params).astype(compute_dtype)


@functools.partial(jax.jit, static_argnames=("config", "vocab_size", "batch", "slots", "keeps_seen", "compute_dtype"))
def empty_rows(
    config: LmConfig, vocab_size: int, *, batch: int, slots: int, keeps_seen: bool, compute_dtype: Any
) -> Rows:
    """A batch in which every row is done."""
    zeros = jnp.zeros(batch, jnp.int32)
    return Rows(
        cache=empty(config, batch, slots, compute_dtype),
        token=zeros,
        position=zeros,
        limit=zeros,
        is_done=jnp.ones(batch, bool),
        stream=zeros,
        seen=jnp.zeros((batch, vocab_size), bool) if keeps_seen else None,
    )


@functools.partial(jax.jit, static_argnames=("config", "slots", "compute_dtype"))
def with_slots(config: LmConfig, rows: Rows, *, slots: int, compute_dtype: Any) -> Rows:
    """The same batch with a cache of that many slots, more than before."""
    cache = extended(rows.cache, empty(config, len(rows.token), slots, compute_dtype))
    return replace(rows, cache=cache)


@functools.partial(jax.jit, static_argnames=("config", "compute_dtype"), donate_argnames=("rows",))
def admit(
    config: LmConfig,
    compute_dtype: Any,
    weights: Weights,
    rows: Rows,
    places: Int[Array, " new"],
    before: Int[Array, "new seq"],
    positions: Int[Array, " new"],
    last: Int[Array, " new"],
    limits: Int[Array, " new"],
    streams: Int[Array, " new"],
) -> Rows:
    """The batch with new prompts in these of its rows; those with a place beyond the batch are dropped.

    A prompt comes as its last token, where that stands, and the tokens before it, padded on the right.
    """
    new = fill(config, weights.params, before, compute_dtype)
    seen = rows.seen
    if seen is not None:
        vocab_size, each = seen.shape[1], jnp.arange(len(places))
        is_padding = jnp.arange(before.shape[1]) >= positions[:, None]
        own = jnp.zeros((len(places), vocab_size), bool).at[each, last].set(True)
        own = own.at[each[:, None], jnp.where(is_padding, vocab_size, before)].set(True, mode="drop")
        seen = seen.at[places].set(own, mode="drop")

    def put(old, new):
        return old.at[places].set(new, mode="drop")

    return Rows(
        cache=place(rows.cache, places, tuple(new)),
        token=put(rows.token, last),
        position=put(rows.position, positions),
        limit=put(rows.limit, limits),
        is_done=put(rows.is_done, positions >= limits),
        stream=put(rows.stream, streams),
        seen=seen,
    )


@functools.partial(
    jax.jit, static_argnames=("config", "sampling", "wants_log_probs", "compute_dtype"), donate_argnames=("rows",)
)
def decode(
    config: LmConfig,
    sampling: Sampling,
    wants_log_probs: bool,
    compute_dtype: Any,
    weights: Weights,
    rows: Rows,
    stops: Bool[Array, " vocab"],
    seed: Int[Array, ""],
    num_steps: Int[Array, ""],
) -> tuple[Rows, tuple[Int[Array, "steps batch"], Float[Array, "steps batch"], Bool[Array, " batch"]]]:
    """The batch some steps later (at most MAX_STEPS); what was drawn, -1 where nothing was; which rows are done.

    With what was drawn, if asked for, the log of its probability, before the penalty, the temperature and what else
    `sampling` does; else zeros.
    """
    batch = len(rows.token)
    keys: Key[Array, " batch"] = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(rows.stream)

    def unfinished(carry):
        step, rows, *_ = carry
        return (step < num_steps) & ~rows.is_done.all()

    def advance(carry):
        step, rows, drawn, log_probs = carry
        logits, cache = _next_logits(config, weights, rows, compute_dtype)
        # A token drawn at one place of one prompt has one key, whatever the batch around it.
        chosen = sample(
            penalized(logits, rows.seen, sampling),
            jax.vmap(jax.random.fold_in)(keys, rows.position + 1),
            sampling,
        )
        if wants_log_probs:
            raw = jnp.take_along_axis(logits, chosen[:, None], axis=1)[:, 0] - jax.nn.logsumexp(logits, axis=1)
            log_probs = log_probs.at[step].set(jnp.where(rows.is_done, 0.0, raw))
        drawn = drawn.at[step].set(jnp.where(rows.is_done, -1, chosen))
        position = jnp.where(rows.is_done, rows.position, rows.position + 1)
        seen = rows.seen
        if seen is not None:
            seen = seen.at[jnp.arange(batch), chosen].max(~rows.is_done)
        rows = replace(
            rows,
            cache=cache,
            token=jnp.where(rows.is_done, rows.token, chosen),
            position=position,
            is_done=rows.is_done | stops[chosen] | (position >= rows.limit),
            seen=seen,
        )
        return step + 1, rows, drawn, log_probs

    drawn = jnp.full((MAX_STEPS, batch), -1, jnp.int32)
    carry = (jnp.int32(0), rows, drawn, jnp.zeros((MAX_STEPS, batch), jnp.float32))
    _, rows, drawn, log_probs = jax.lax.while_loop(unfinished, advance, carry)
    return rows, everywhere((drawn, log_probs, rows.is_done))


@functools.partial(jax.jit, donate_argnames=("rows",))
def ended(rows: Rows, is_done: Bool[Array, " batch"]) -> Rows:
    """The batch with these rows done too."""
    return replace(rows, is_done=rows.is_done | is_done)


def _next_logits(
    config: LmConfig, weights: Weights, rows: Rows, compute_dtype: Any
) -> tuple[Float[Array, "batch vocab"], Any]:
    """Logits after each row's token, float32, and the cache with that token in it."""
    states, cache = config.hidden_states_cached(
        weights.params,
        rows.token[:, None],
        rows.cache,
        positions=rows.position[:, None],
        compute_dtype=compute_dtype,
    )
    head = config.unembedding(weights.params) if weights.head is None else weights.head
    logits = jnp.matmul(states[:, 0], head, preferred_element_type=jnp.float32)
    softcap = config.final_logit_softcap
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap), cache
