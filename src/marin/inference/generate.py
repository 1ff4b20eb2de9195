"""Complete prompts of tokens with a language model, through a key-value cache.

What a prompt gets depends on its place in the list and the seed, never on the other prompts. For texts, stop strings
and log-probabilities see `marin.inference.text`.
"""

from collections.abc import Collection, Sequence
from typing import Any

import jax.numpy as jnp

from marin.inference.batching import Job, run_jobs
from marin.inference.sampling import Sampling
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
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    batch_size: int = 16,
    compute_dtype: Any = jnp.float32,
) -> list[list[int]]:
    """The completion of each prompt: new tokens only, without the stop token that ended it.

    A completion ends at a token of `stop_ids`, after `max_new_tokens`, or where prompt and completion fill the
    model's `seq_len`. `temperature=0` is greedy; `Sampling` describes the rest.

    Raises ValueError for a prompt that is empty, holds an id outside the vocabulary or leaves no room for a token.

    >>> import jax
    >>> from marin.models.llama import LlamaConfig
    >>> config = LlamaConfig(
    ...     seq_len=32, hidden_dim=8, intermediate_dim=16, num_heads=2, num_kv_heads=1, num_layers=1
    ... )
    >>> params = config.init(vocab_size=10, key=jax.random.key(0))
    >>> [len(completion) for completion in generate(config, params, [[1, 2], [3]], max_new_tokens=4)]
    [4, 4]
    """
    stops = frozenset(stop_ids)
    completions: list[list[int]] = [[] for _ in prompts]

    def keep(index: int, tokens: list[int], log_probs: list[float]) -> bool:
        completions[index] += [token for token in tokens if token not in stops]
        return False

    run_jobs(
        config,
        params,
        [Job(prompt=prompt, max_new_tokens=max_new_tokens, stream=i) for i, prompt in enumerate(prompts)],
        keep,
        sampling=Sampling(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty
        ),
        stop_ids=stops,
        seed=seed,
        batch_size=batch_size,
        compute_dtype=compute_dtype,
    )
    return completions
