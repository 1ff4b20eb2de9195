"""Next-token cross-entropy without the logits.

With `h` the states, `W` the unembedding, `z = h W` the logits of one token, `y` its target and `w` its weight:

    nll   = logsumexp(z) - z[y]                       negative log-likelihood, in nats
    total = sum over tokens of  w * (nll + z_loss_weight * logsumexp(z)^2)

With a softcap c (Gemma 2), z is c tanh(h W / c) instead. The second term keeps the normalizer near 1 (z-loss:
Chowdhery et al. 2022, arXiv:2204.02311, section 5).

Everything is a SUM over tokens, and so are its gradients; whoever wants a mean divides by the sum of weights at the
very end. So a batch and its microbatches, masked or not, give the same gradient, which means of means would not.

The logits of a whole batch are by far the largest array of a small model, and they are only needed to make their own
gradient `w * ((1 + 2 z_loss_weight logsumexp(z)) softmax(z) - onehot(y))`. So a chunk of tokens at a time goes through
forward and backward together, inside the forward pass: nothing of size (tokens, vocab) is ever stored or recomputed.
The price is that the gradients are computed with the loss even by a caller who then does not use them (asking for the
loss alone computes no gradients), and that they have only a first derivative.

On an accelerator chunks are larger, logits are kept in the dtype of the states (every reduction of them is in float32
all the same), and the vocabulary is filled up with tokens of probability 0. Parameters, checkpoints and exports know
nothing of those: the matrix is filled up in the step, which is a part of casting it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from marin.distributed.mesh import BATCH, by_rows, num_batch_shards_here, whole_but_vocabulary

CHUNK_TOKENS = 512
"""Tokens whose logits exist at one time on CPU: their logits stay in cache, and the products are still large."""

CHUNK_BYTES = 2**30
"""Bytes of logits that exist at one time on an accelerator. Few, since each chunk adds to the matrix's gradient."""

VOCAB_MULTIPLE = 128
"""To which the vocabulary is filled up on an accelerator, whose matrix units take whole tiles (50,257: 50,304)."""


class LossSums(NamedTuple):
    """Sums over tokens, each already multiplied by its token's weight; float32 (float64 for float64 states)."""

    total: Float[Array, ""]
    """What is minimized: nll plus z-loss."""
    nll: Float[Array, ""]
    """Negative log-likelihood in nats. No gradient flows through it."""


def next_token_loss(
    states: Float[Array | np.ndarray, "*batch hidden"],
    unembedding: Float[Array | np.ndarray, "hidden vocab"],
    targets: Int[Array | np.ndarray, "*batch"],
    weights: Float[Array | np.ndarray, "*batch"],
    *,
    z_loss_weight: float = 0.0,
    logit_softcap: float | None = None,
    chunk_tokens: int | None = None,
    logits_dtype: Any = None,
    vocab_multiple: int | None = None,
) -> LossSums:
    """Weighted sums of the loss over all tokens; formulas in the module's docstring.

    Args:
        states: after the final norm; products are made in this dtype and summed in float32.
        unembedding: cast to the dtype of `states`.
        targets: each in [0, vocab), also where the weight is 0.
        weights: 0 leaves a token out.
        z_loss_weight: factor of the squared log-normalizer.
        logit_softcap: logits are bent to stay within it; None: they are not.
        chunk_tokens: tokens at a time; memory is chunk_tokens * vocab logits. No effect on the result but rounding.
            None: `CHUNK_TOKENS` on CPU, what `CHUNK_BYTES` hold elsewhere.
        logits_dtype: in which logits are kept; None: float32 (float64 for float64 states) on CPU, that of the states
            elsewhere.
        vocab_multiple: the vocabulary is filled up to a multiple of it, which has no effect on the result but rounding.
            None: 1 on CPU, `VOCAB_MULTIPLE` elsewhere.
    """
    hidden, vocab = unembedding.shape
    is_cpu = jax.default_backend() == "cpu"
    if logits_dtype is None:
        logits_dtype = _wide(states.dtype) if is_cpu else states.dtype
    if chunk_tokens is None:
        logits_of_token: int = vocab * jnp.dtype(logits_dtype).itemsize  # bytes
        chunk_tokens = CHUNK_TOKENS if is_cpu else max(CHUNK_TOKENS, CHUNK_BYTES // logits_of_token)
    if vocab_multiple is None:
        vocab_multiple = 1 if is_cpu else VOCAB_MULTIPLE
    unembedding = jnp.pad(unembedding, ((0, 0), (0, -vocab % vocab_multiple)))
    how = _How(vocab, z_loss_weight, logit_softcap, chunk_tokens, jnp.dtype(logits_dtype))
    states, targets, weights = states.reshape(-1, hidden), targets.reshape(-1), weights.reshape(-1)

    def sums(*arrays: Any) -> Any:
        return _fused_sums(*arrays, how)

    shards = num_batch_shards_here()
    if shards == 1 or targets.size % shards:
        total, nll = sums(states, unembedding, targets, weights)
    else:  # each device goes through its own tokens, a chunk at a time, and what they found is summed once
        states, targets, weights = by_rows(
            jax.tree.map(lambda a: a.reshape(shards, -1, *a.shape[1:]), (states, targets, weights))
        )
        over_shards = jax.vmap(sums, in_axes=(0, None, 0, 0), spmd_axis_name=BATCH)
        total, nll = jax.tree.map(jnp.sum, over_shards(states, whole_but_vocabulary(unembedding), targets, weights))
    return LossSums(total, jax.lax.stop_gradient(nll))


class _How(NamedTuple):
    """What is no array."""

    vocab: int  # columns of the matrix that are tokens
    z_loss_weight: float
    logit_softcap: float | None
    chunk_tokens: int
    logits_dtype: Any


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _fused_sums(states, unembedding, targets, weights, how):
    """(total, nll) of states (N, D), unembedding (D, V), targets (N,), weights (N,)."""
    matrix = unembedding.astype(states.dtype)
    wide = _wide(states.dtype)

    def chunk(sums, arrays):
        chunk_states, chunk_targets, chunk_weights = arrays
        logits = _logits(chunk_states, matrix, how)
        total, nll, _ = _sums(logits, chunk_targets, chunk_weights.astype(wide), how.z_loss_weight)
        return (sums[0] + total, sums[1] + nll), None

    zero = jnp.zeros((), wide)
    return _over_chunks(chunk, (zero, zero), (states, targets, weights), how.chunk_tokens)[0]


def _fused_forward(states, unembedding, targets, weights, how):
    """The sums, and the gradients of `total` as residuals."""
    matrix = unembedding.astype(states.dtype)
    wide = _wide(states.dtype)

    def chunk(carry, arrays):
        total, nll, matrix_gradient = carry
        chunk_states, chunk_targets, chunk_weights = arrays
        chunk_weights = chunk_weights.astype(wide)
        logits = _logits(chunk_states, matrix, how)  # (C, V)
        chunk_total, chunk_nll, log_z = _sums(logits, chunk_targets, chunk_weights, how.z_loss_weight)
        factor = chunk_weights * (1 + 2 * how.z_loss_weight * log_z)
        is_target = jnp.arange(logits.shape[1], dtype=chunk_targets.dtype) == chunk_targets[:, None]
        logits_gradient = factor[:, None] * jnp.exp(logits - log_z[:, None])
        logits_gradient -= jnp.where(is_target, chunk_weights[:, None], 0)
        if how.logit_softcap is not None:
            slope = 1 - (logits / how.logit_softcap) ** 2  # the derivative of the softcap
            logits_gradient *= _of_tokens(slope, how.vocab, 0)
        logits_gradient = logits_gradient.astype(states.dtype)
        states_gradient = jnp.matmul(logits_gradient, matrix.T)
        matrix_gradient += jnp.matmul(chunk_states.T, logits_gradient, preferred_element_type=wide)
        return (total + chunk_total, nll + chunk_nll, matrix_gradient), states_gradient

    zero = jnp.zeros((), wide)
    start = (zero, zero, jnp.zeros(unembedding.shape, wide))
    (total, nll, matrix_gradient), states_gradient = _over_chunks(
        chunk, start, (states, targets, weights), how.chunk_tokens
    )
    return (total, nll), (states_gradient, matrix_gradient.astype(unembedding.dtype))


def _fused_backward(how, gradients, cotangents):
    scale, _ = cotangents  # of (total, nll); nll has no gradient
    states_gradient, matrix_gradient = gradients
    return states_gradient * scale.astype(states_gradient.dtype), matrix_gradient * scale, None, None


_fused_sums.defvjp(_fused_forward, _fused_backward)


def _logits(states, matrix, how):
    """(C, V) in float32 or float64, rounded to the dtype in which they are kept; minus infinity where no token is."""
    logits = jnp.matmul(states, matrix, preferred_element_type=how.logits_dtype).astype(_wide(states.dtype))
    if how.logit_softcap is not None:
        logits = how.logit_softcap * jnp.tanh(logits / how.logit_softcap)
    return _of_tokens(logits, how.vocab, -jnp.inf)


def _of_tokens(values, vocab, otherwise):
    """`values` (C, V) in the columns that are tokens."""
    if vocab == values.shape[1]:
        return values
    return jnp.where(jnp.arange(values.shape[1]) < vocab, values, otherwise)


def _sums(logits, targets, weights, z_loss_weight):
    """(total, nll, logsumexp (C,)) of one chunk's logits (C, V), all in the logits' dtype."""
    log_z = jax.nn.logsumexp(logits, axis=1)
    nll = log_z - jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    per_token = nll + z_loss_weight * log_z**2 if z_loss_weight else nll
    return jnp.sum(weights * per_token), jnp.sum(weights * nll), log_z


def _over_chunks(chunk, carry, arrays, chunk_tokens):
    """Scan `chunk` over arrays (N, ...), a chunk of rows at a time; the remainder is one smaller chunk at the end."""
    num_tokens = arrays[0].shape[0]
    num_chunks, remainder = divmod(num_tokens, chunk_tokens)
    whole = num_chunks * chunk_tokens
    outputs = []
    if num_chunks:
        stacked = tuple(a[:whole].reshape(num_chunks, chunk_tokens, *a.shape[1:]) for a in arrays)
        carry, output = jax.lax.scan(chunk, carry, stacked)
        outputs.append(None if output is None else output.reshape(whole, *output.shape[2:]))
    if remainder:
        carry, output = chunk(carry, tuple(a[whole:] for a in arrays))
        outputs.append(output)
    if outputs[0] is None:
        return carry, None
    return carry, outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs)


def _wide(dtype):
    """float32, or float64 for float64: what sums are kept in."""
    return jnp.promote_types(dtype, jnp.float32)
