"""Every architecture that a config can name generates with its cache what it would without one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin.config import decode
from marin.inference.generate import generate
from marin.models.config import LmConfig
from marin.models.lm import logits

VOCAB = 40
NUM_TOKENS = 12
SHAPE = {
    "seq_len": 32,
    "hidden_dim": 16,
    "intermediate_dim": 24,
    "num_heads": 4,
    "num_kv_heads": 2,
    "num_layers": 3,
    "head_dim": 6,
    "sliding_window": 5,
    "sliding_window_pattern": 2,
    "max_window_layers": 1,
    "num_experts": 3,
}
PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2], [7], [1, 2, 3], [30, 0, 30, 0, 30, 0], [8, 8]]


def registered() -> dict[str, type]:
    from marin import config

    return {name: config._import_choice(target) for name, target in config._CHOICES[LmConfig].items()}


FEW = ("gpt2", "llama", "gemma3")  # in `make test`; all in `make test-all`


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in registered()]
)
def test_greedy_generation_is_that_of_recomputing_everything_token_for_token(name):
    fields = {field.name for field in dataclasses.fields(registered()[name])}
    config = decode(LmConfig, {"type": name} | {key: value for key, value in SHAPE.items() if key in fields})
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: config.init(VOCAB, key=jax.random.key(0)))
    params = jax.tree.map(lambda leaf: jnp.asarray(0.7 * random.standard_normal(leaf.shape, np.float32)), shapes)
    scores = jax.jit(lambda tokens: logits(config, params, tokens))

    def recomputed(prompt):
        tokens = list(prompt)
        for _ in range(NUM_TOKENS):
            padded = np.zeros((1, config.seq_len), np.int32)
            padded[0, : len(tokens)] = tokens
            tokens.append(int(scores(jnp.asarray(padded))[0, len(tokens) - 1].argmax()))
        return tokens[len(prompt) :]

    # five prompts in four rows: the last takes over a row that another has used
    completions = generate(config, params, PROMPTS, max_new_tokens=NUM_TOKENS, batch_size=4)
    assert completions == [recomputed(prompt) for prompt in PROMPTS]
    assert len(set(map(tuple, completions))) > 2
