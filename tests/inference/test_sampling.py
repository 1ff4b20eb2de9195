"""Sampling draws what it says, with the stated frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin.inference.sampling import Sampling, penalized, sample
from marin.inference.sampling import _draw_ranked as ranked_draws

PROBABILITIES = np.array([0.05, 0.4, 0.1, 0.25, 0.2])
NUM_DRAWS = 4000


def frequencies(**settings) -> np.ndarray:
    logits = jnp.broadcast_to(jnp.log(PROBABILITIES), (NUM_DRAWS, 5))
    keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
    drawn = jax.jit(sample, static_argnums=2)(logits, keys, Sampling(**settings))
    return np.bincount(drawn, minlength=5) / NUM_DRAWS


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 1, 0, 0, 0]),
        ({"temperature": 1.0}, PROBABILITIES),
        ({"temperature": 0.5}, PROBABILITIES**2 / (PROBABILITIES**2).sum()),
        ({"temperature": 1.0, "top_k": 1}, [0, 1, 0, 0, 0]),
        ({"temperature": 1.0, "top_k": 2}, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        ({"temperature": 1.0, "top_k": 99}, PROBABILITIES),
        # 0.4 + 0.25 falls short of 0.7, so the token that crosses it stays
        ({"temperature": 1.0, "top_p": 0.7}, [0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85]),
        ({"temperature": 1.0, "top_p": 0.01}, [0, 1, 0, 0, 0]),
        # of the two that top-k leaves, the first alone has 0.62
        ({"temperature": 1.0, "top_k": 2, "top_p": 0.6}, [0, 1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_with_the_stated_probabilities(settings, expected):
    expected = np.asarray(expected)
    tolerance = 4 * np.sqrt(expected * (1 - expected) / NUM_DRAWS) + 1e-9
    assert (np.abs(frequencies(**settings) - expected) <= tolerance).all()


def test_equal_logits_fall_to_the_smaller_ids():
    keys = jax.random.split(jax.random.key(0), 200)
    flat = jnp.zeros((200, 6))
    assert set(sample(flat, keys, Sampling(temperature=1.0, top_k=3)).tolist()) == {0, 1, 2}
    assert set(sample(flat, keys, Sampling()).tolist()) == {0}


def test_greedy_is_the_first_of_the_largest_and_a_token_even_of_logits_that_are_none():
    keys = jax.random.split(jax.random.key(0), 4)
    nan, inf = float("nan"), float("inf")
    logits = jnp.array([[-2.0, -1, -3, -1], [-inf, -inf, -inf, -inf], [-inf, -1e30, -inf, -2e30], [nan, nan, nan, nan]])
    greedy = sample(logits, keys, Sampling())
    assert greedy.tolist() == [1, 0, 1, 0] and greedy.dtype == jnp.int32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 must be 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"min_p": -0.1}, "min_p=-0.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 must be above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7, "top_k": 5},
        {"temperature": 1.3, "top_p": 0.8},
        {"temperature": 1.0, "top_p": 1.0, "top_k": 40},
        {"temperature": 0.9, "top_k": 20, "top_p": 0.6, "min_p": 0.05},
        {"temperature": 2.0, "top_k": 40, "min_p": 0.3},
        {"temperature": 1.1, "top_k": 7, "top_p": 0.9, "repetition_penalty": 1.7},
        {"temperature": 0.8, "top_p": 0.5, "repetition_penalty": 0.6},
    ],
    ids=str,
)
def test_the_distribution_is_the_one_that_transformers_makes(settings):
    torch = pytest.importorskip("torch", reason="transformers' processors need PyTorch: `make torch`")
    from transformers import generation

    vocab_size, num_draws = 40, 4000
    random = np.random.default_rng(0)
    logits = random.standard_normal((1, vocab_size), np.float32) * 2
    text = random.integers(0, vocab_size, (1, 10))
    processors = generation.LogitsProcessorList()
    if "repetition_penalty" in settings:
        processors.append(generation.RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]))
    processors.append(generation.TemperatureLogitsWarper(settings["temperature"]))
    if "top_k" in settings:
        processors.append(generation.TopKLogitsWarper(settings["top_k"]))
    if settings.get("top_p", 1.0) < 1:
        processors.append(generation.TopPLogitsWarper(settings["top_p"]))
    if "min_p" in settings:
        processors.append(generation.MinPLogitsWarper(settings["min_p"]))
    expected = torch.softmax(processors(torch.tensor(text), torch.tensor(logits)), dim=-1)[0].numpy()

    sampling = Sampling(**settings)
    seen = jnp.zeros((1, vocab_size), bool).at[0, text[0]].set(True) if "repetition_penalty" in settings else None
    bent = penalized(jnp.asarray(logits), seen, sampling) / sampling.temperature
    # evenly spread over [0, 1), the draws give each token its probability to within one of them
    draws = (jnp.arange(num_draws) + 0.5) / num_draws
    rows = jnp.broadcast_to(bent, (num_draws, vocab_size))
    drawn, _ = ranked_draws(rows, min(settings.get("top_k", vocab_size), vocab_size), draws, sampling)
    found = np.bincount(drawn, minlength=vocab_size) / num_draws
    np.testing.assert_allclose(found, expected, atol=1.5 / num_draws)


def test_min_p_alone_leaves_out_the_improbable():
    frequency = frequencies(temperature=1.0, min_p=0.4)  # 0.16 and more of the 0.4 that the first has
    assert set(np.flatnonzero(frequency)) == {1, 3, 4}


@pytest.mark.slow
def test_the_vocabulary_is_sorted_whole_where_the_first_thousand_are_too_few():
    random = np.random.default_rng(0)
    flat = jnp.asarray(random.standard_normal((2, 5000), np.float32) * 0.01)
    peaked = flat.at[:, 7].add(20.0)
    keys = jax.random.split(jax.random.key(0), 2)
    sampling = Sampling(temperature=1.0, top_p=0.9)
    assert sample(peaked, keys, sampling).tolist() == [7, 7]
    mixed = jnp.stack([flat[0], peaked[1]])
    alone = sample(flat, keys, sampling)
    assert sample(mixed, keys, sampling).tolist() == [int(alone[0]), 7]  # the other row changes nothing
    many = sample(jnp.tile(flat[:1], (300, 1)), jax.random.split(jax.random.key(1), 300), sampling)
    ranks = np.argsort(np.argsort(-np.asarray(flat[0])))[np.asarray(many)]
    assert 3000 < ranks.max() < 4700  # nine tenths of a nearly flat distribution
