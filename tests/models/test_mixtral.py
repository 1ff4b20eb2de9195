"""The mixture of experts is the mean that its definition says, and its router's losses push towards balance."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin.models.mixtral import MixtralConfig
from marin.training.train_step import DeviceBatch, loss_sums

VOCAB = 31
CONFIG = MixtralConfig(
    seq_len=16,
    hidden_dim=8,
    intermediate_dim=12,
    num_heads=2,
    num_kv_heads=1,
    num_layers=1,
    num_experts=4,
    load_balance_loss_weight=0.3,
    router_z_loss_weight=0.2,
)


@pytest.fixture(scope="module")
def params():
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: CONFIG.init(VOCAB, key=jax.random.key(0)))
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * random.standard_normal(leaf.shape, np.float32)), shapes)


@pytest.fixture(scope="module")
def tokens():
    return jnp.asarray(np.random.default_rng(1).integers(0, VOCAB, (2, 16)).astype(np.int32))


def by_definition(params, tokens):
    """States and router logits, every expert computed for every token; attention is taken out by a zero projection."""
    p = jax.tree.map(lambda a: a[0], params.layers)

    def norm(x, scale):
        return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale

    x = params.embedding[tokens]
    normed = norm(x, p.mlp_norm)
    logits = normed @ p.router
    probabilities = jax.nn.softmax(logits)
    second = jnp.sort(probabilities, axis=-1)[..., -2, None]
    weights = jnp.where(probabilities >= second, probabilities, 0)
    weights = weights / weights.sum(-1, keepdims=True)
    for expert in range(4):
        gate, up = normed @ p.gate_up[expert, :, 0], normed @ p.gate_up[expert, :, 1]
        x = x + weights[..., expert, None] * ((jax.nn.silu(gate) * up) @ p.down[expert])
    return norm(x, params.final_norm), logits, weights > 0


def test_a_token_gets_the_weighted_mean_of_its_two_best_experts_and_so_does_its_gradient(params, tokens):
    params = replace(params, layers=replace(params.layers, attention_out=jnp.zeros_like(params.layers.attention_out)))
    wave = jnp.cos(jnp.arange(tokens.size * 8.0)).reshape(*tokens.shape, 8)

    def ours(params):
        return CONFIG.hidden_states(params, tokens)

    def definition(params):
        return by_definition(params, tokens)[0]

    np.testing.assert_allclose(jax.jit(ours)(params), jax.jit(definition)(params), atol=1e-5)
    found, expected = (jax.jit(jax.grad(lambda p, f=f: (f(p) * wave).sum()))(params) for f in (ours, definition))
    for (path, given), want in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        if "attention_out" not in jax.tree_util.keystr(path):  # the definition has none
            np.testing.assert_allclose(given, want, atol=1e-4, err_msg=jax.tree_util.keystr(path))


def test_router_losses_are_those_of_their_formulas(params, tokens):
    params = replace(params, layers=replace(params.layers, attention_out=jnp.zeros_like(params.layers.attention_out)))
    _, losses = jax.jit(CONFIG.hidden_states_and_router_losses)(params, tokens)
    _, logits, chosen = by_definition(params, tokens)
    share = np.asarray(chosen).reshape(-1, 4).mean(axis=0)
    probability = np.asarray(jax.nn.softmax(logits)).reshape(-1, 4).mean(axis=0)
    assert float(losses.load_balance) == pytest.approx(4 * (share * probability).sum(), rel=1e-5)
    assert float(losses.z) == pytest.approx(float((jax.nn.logsumexp(logits, axis=-1) ** 2).mean()), rel=1e-5)


def test_padding_has_no_part_in_the_router_losses(params, tokens):
    whole = jax.jit(CONFIG.hidden_states_and_router_losses)
    _, expected = whole(params, tokens[:, :10], segment_ids=jnp.zeros((2, 10), jnp.int32))
    segments = jnp.where(jnp.arange(16) < 10, 0, -1) * jnp.ones((2, 1), jnp.int32)
    _, found = whole(params, tokens.at[:, 10:].set(3), segment_ids=segments)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    _, of_padding = whole(params, tokens, segment_ids=jnp.full((2, 16), -1))
    assert [float(loss) for loss in of_padding] == [0.0, 0.0]


def test_the_load_balance_loss_falls_along_its_gradient_and_is_known_for_even_probabilities(params, tokens):
    @jax.jit
    @jax.value_and_grad
    def load_balance(router):
        changed = replace(params, layers=replace(params.layers, router=router))
        return CONFIG.hidden_states_and_router_losses(changed, tokens)[1].load_balance

    router = params.layers.router
    even, _ = load_balance(jnp.zeros_like(router))
    assert float(even) == pytest.approx(CONFIG.experts_per_token, rel=1e-6)
    before, gradient = load_balance(router)
    after, _ = load_balance(router - 1e-2 * gradient / jnp.linalg.norm(gradient))
    assert float(after) < float(before)


def test_the_trainer_minimizes_the_router_losses_and_reports_the_loss_without_them(params, tokens):
    weights = np.linspace(0, 1, tokens.size, dtype=np.float32).reshape(tokens.shape)
    batch = DeviceBatch(tokens, jnp.roll(tokens, -1, axis=1), jnp.asarray(weights), None)
    sums = jax.jit(lambda params: loss_sums(CONFIG, params, batch))(params)
    _, losses = jax.jit(CONFIG.hidden_states_and_router_losses)(params, tokens)
    expected = (0.3 * float(losses.load_balance) + 0.2 * float(losses.z)) * weights.sum()
    assert float(sums.total - sums.nll) == pytest.approx(expected, rel=1e-4)
