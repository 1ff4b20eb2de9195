"""Completions through the cache are those of recomputing everything, whatever the batch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin.inference import decoding
from marin.inference.generate import generate
from marin.models.gpt2 import Gpt2Config
from marin.models.llama import LlamaConfig
from marin.models.lm import logits

VOCAB = 50
MODELS = {
    "llama": LlamaConfig(seq_len=40, hidden_dim=16, intermediate_dim=24, num_heads=4, num_kv_heads=2, num_layers=2),
    "gpt2": Gpt2Config(seq_len=40, hidden_dim=16, num_heads=2, num_layers=2),
}
PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2], [7], [1, 2, 3], [49, 0, 49, 0, 49, 0]]

jitted_logits = jax.jit(logits, static_argnums=0)


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    config = MODELS[request.param]
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: config.init(VOCAB, key=jax.random.key(0)))

    def weight(path, leaf):  # large matrices and no biases: completions then hang on the prompt and wander
        size = 0.0 if "bias" in jax.tree_util.keystr(path) else 1.0
        return jnp.asarray(size * random.standard_normal(leaf.shape, np.float32))

    return config, jax.tree.map_with_path(weight, shapes)


def by_recomputing(config, params, prompt, num_tokens):
    """Greedy completion without a cache: the whole sequence again for every token."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        padded = np.zeros((1, config.seq_len), np.int32)
        padded[0, : len(tokens)] = tokens
        tokens.append(int(jitted_logits(config, params, padded)[0, len(tokens) - 1].argmax()))
    return tokens[len(prompt) :]


def test_greedy_through_the_cache_equals_recomputing_token_for_token(model):
    config, params = model
    completions = generate(config, params, PROMPTS, max_new_tokens=14)
    expected = [by_recomputing(config, params, prompt, 14) for prompt in PROMPTS]
    assert completions == expected
    assert len({tuple(completion) for completion in completions}) == len(PROMPTS)
    # one row alone reads the unembedding in another way
    assert generate(config, params, PROMPTS[:1], max_new_tokens=14) == expected[:1]


def test_a_completion_ends_before_a_stop_token(model):
    config, params = model
    free = generate(config, params, PROMPTS, max_new_tokens=14)
    stop = free[0][5]
    stopped = generate(config, params, PROMPTS, max_new_tokens=14, stop_ids=[stop])
    for whole, cut in zip(free, stopped, strict=True):
        assert cut == (whole[: whole.index(stop)] if stop in whole else whole)
    assert len(stopped[0]) <= 5


def test_a_completion_ends_where_the_model_ends(model):
    config, params = model
    completions = generate(config, params, PROMPTS[:2], max_new_tokens=100)
    assert [len(c) for c in completions] == [config.seq_len - len(p) for p in PROMPTS[:2]]
    assert completions[0] == by_recomputing(config, params, PROMPTS[0], config.seq_len - len(PROMPTS[0]))
    assert generate(config, params, PROMPTS, max_new_tokens=0) == [[], [], [], []]
    assert generate(config, params, [], max_new_tokens=5) == []


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_sampling_depends_on_the_seed_and_not_on_the_other_prompts(model):
    config, params = model
    settings = {"max_new_tokens": 12, "temperature": 5.0, "top_k": 20, "top_p": 0.95}
    first = generate(config, params, PROMPTS, seed=1, **settings)
    assert first == generate(config, params, PROMPTS, seed=1, **settings)
    assert first != generate(config, params, PROMPTS, seed=2, **settings)
    assert first[:2] == generate(config, params, PROMPTS[:2], seed=1, **settings)
    assert first == generate(config, params, PROMPTS, seed=1, batch_size=2, **settings)
    # the same prompt twice gets two draws
    twice = generate(config, params, [PROMPTS[0]] * 2, seed=1, **settings)
    assert twice[0] != twice[1]


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
def test_many_lengths_compile_few_programs(model):
    config, params = model
    config = replace(config, initializer_range=0.5)  # its own entries in the cache of compiled programs
    before = decoding.decode._cache_size(), decoding.admit._cache_size()
    for length in range(1, 12):
        generate(config, params, [[1] * length, [2]], max_new_tokens=4)
    assert (decoding.decode._cache_size() - before[0], decoding.admit._cache_size() - before[1]) == (1, 1)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[1], [2] * 40], "prompt 1 has 40 tokens, which leaves no room .* seq_len=40; cut it to at most 39"),
        ([[]], "prompt 0 is empty; begin it with the tokenizer's BOS or EOS"),
        ([[1, VOCAB]], r"prompt 0 holds token 50, but the model's vocabulary is 0\.\.49"),
        ([[-1]], "prompt 0 holds token -1"),
    ],
)
def test_a_prompt_that_cannot_be_completed_is_refused(model, prompts, message):
    config, params = model
    with pytest.raises(ValueError, match=message):
        generate(config, params, prompts, max_new_tokens=3)
