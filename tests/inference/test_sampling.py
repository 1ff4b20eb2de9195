"""Sampling draws what it says, with the stated frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin.inference.sampling import Sampling, sample

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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 must be 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0"),
        ({"top_p": 1.5}, "top_p=1.5"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)
