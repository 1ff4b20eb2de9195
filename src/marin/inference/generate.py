"""Complete prompts with a language model, through a key-value cache.

The whole of a batch (prompt, loop, stop) is one compiled program, so a token costs no call from Python. Prompts are
batched by similar length. What a prompt gets depends on its place in the list and the seed, never on the other prompts.
"""

import functools
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from marin.distributed.mesh import everywhere
from marin.inference.kv_cache import bucket, extend, pad_prompts, prefill
from marin.inference.sampling import Sampling, sample
from marin.models.config import LmConfig


def generate(
    config: LmConfig,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    batch_size: int = 16,
    compute_dtype: Any = jnp.float32,
) -> list[list[int]]:
    """The completion of each prompt: new tokens only, without the stop token that ended it.

    A completion ends at a token of `stop_ids`, after `max_new_tokens`, or where prompt and completion fill the
    model's `seq_len`. `temperature=0` is greedy; `Sampling` describes the rest.

    Raises ValueError for a prompt that is empty, holds an id outside the vocabulary or leaves no room for a token.

    >>> from marin.models.llama import LlamaConfig
    >>> config = LlamaConfig(
    ...     seq_len=32, hidden_dim=8, intermediate_dim=16, num_heads=2, num_kv_heads=1, num_layers=1
    ... )
    >>> params = config.init(vocab_size=10, key=jax.random.key(0))
    >>> [len(completion) for completion in generate(config, params, [[1, 2], [3]], max_new_tokens=4)]
    [4, 4]
    """
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    vocab_size = jax.eval_shape(config.unembedding, params).shape[1]
    _check(prompts, config.seq_len, vocab_size, max_new_tokens, batch_size)
    stops = np.zeros(vocab_size, bool)
    stops[[i for i in stop_ids if 0 <= i < vocab_size]] = True
    completions: list[list[int]] = [[] for _ in prompts]
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(by_length), batch_size):
        indices = by_length[start : start + batch_size]
        # Rows beyond the prompts repeat the first, up to a power of two: few shapes, few compilations.
        rows = indices + indices[:1] * (_power_of_two(len(indices), batch_size) - len(indices))
        longest = max(len(prompts[i]) for i in rows)
        total = bucket(min(longest + max_new_tokens, config.seq_len), config.seq_len)
        tokens, lengths = pad_prompts([prompts[i] for i in rows], min(bucket(longest, config.seq_len), total))
        limits = np.minimum(lengths + max_new_tokens, config.seq_len).astype(np.int32)
        tokens, ends = jax.device_get(
            _complete(
                config, sampling, total, compute_dtype, params, tokens, lengths, limits, stops, seed, np.array(rows)
            )
        )
        for row, index in enumerate(indices):
            completions[index] = tokens[row, lengths[row] : ends[row]].tolist()
    return completions


@functools.partial(jax.jit, static_argnames=("config", "sampling", "max_len", "compute_dtype"))
def _complete(
    config: LmConfig,
    sampling: Sampling,
    max_len: int,
    compute_dtype: Any,
    params: Any,
    prompts: Int[Array, "batch seq"],
    lengths: Int[Array, " batch"],
    limits: Int[Array, " batch"],
    stops: Bool[Array, " vocab"],
    seed: Int[Array, ""],
    indices: Int[Array, " batch"],
) -> tuple[Int[Array, "batch max_len"], Int[Array, " batch"]]:
    """Prompts with their completions, and where each ends."""
    batch, seq = prompts.shape
    rows = jnp.arange(batch)
    keys: Key[Array, " batch"] = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(indices)
    logits, cache = prefill(config, params, prompts, lengths, max_len, compute_dtype)

    def unfinished(state):
        return ~state[2].all()

    def step(state):
        tokens, ends, done, logits, cache = state
        # An id drawn at one place of one prompt has one key, whatever the batch around it.
        chosen = sample(logits, jax.vmap(jax.random.fold_in)(keys, ends), sampling)
        done = done | stops[chosen]
        tokens = tokens.at[rows, ends].set(jnp.where(done, tokens[rows, ends], chosen))
        positions = ends
        ends = jnp.where(done, ends, ends + 1)
        done = done | (ends >= limits)
        logits, cache = extend(config, params, chosen, cache, positions, compute_dtype)
        return tokens, ends, done, logits, cache

    tokens = jnp.pad(prompts, ((0, 0), (0, max_len - seq)))
    state = (tokens, lengths, lengths >= limits, logits, cache)
    tokens, ends, *_ = jax.lax.while_loop(unfinished, step, state)
    return everywhere((tokens, ends))


def _power_of_two(size: int, limit: int) -> int:
    return min(1 << (size - 1).bit_length(), limit)


def _check(
    prompts: Sequence[Sequence[int]], seq_len: int, vocab_size: int, max_new_tokens: int, batch_size: int
) -> None:
    if max_new_tokens < 0 or batch_size < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 0 and batch_size={batch_size} at least 1")
    for index, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ValueError(f"prompt {index} is empty; begin it with the tokenizer's BOS or EOS token")
        if len(prompt) >= seq_len:
            raise ValueError(
                f"prompt {index} has {len(prompt)} tokens, which leaves no room for another in a model with "
                f"seq_len={seq_len}; cut it to at most {seq_len - 1} tokens"
            )
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            bad = next(i for i in prompt if not 0 <= i < vocab_size)
            raise ValueError(
                f"prompt {index} holds token {bad}, but the model's vocabulary is 0..{vocab_size - 1}; "
                f"encode it with the tokenizer that the model was trained with"
            )
