"""Every optimizer: its formula in float64, its mask, its clip, and bitwise continuation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin.config import ConfigError, decode, encode
from marin.optim.adamw import AdamWConfig
from marin.optim.optimizer import OptimizerConfig, update_parameters


def parameters(dtype=np.float32):
    rng = np.random.default_rng(1)
    return {"matrix": rng.normal(size=(4, 3)).astype(dtype), "scale": rng.normal(size=(3,)).astype(dtype)}


def gradients(step, dtype=np.float32):
    rng = np.random.default_rng(100 + step)
    return {"matrix": rng.normal(size=(4, 3)).astype(dtype), "scale": rng.normal(size=(3,)).astype(dtype)}


MASK = {"matrix": True, "scale": False}


def numpy_adamw(config, params, grads, rates):
    """The docstring's formula, float64, one parameter tree, no shared code."""
    params = {name: value.astype(np.float64) for name, value in params.items()}
    mean = {name: np.zeros_like(value) for name, value in params.items()}
    square = {name: np.zeros_like(value) for name, value in params.items()}
    for t, (gradient, rate) in enumerate(zip(grads, rates, strict=True), start=1):
        gradient = {name: value.astype(np.float64) for name, value in gradient.items()}
        norm = np.sqrt(sum((value**2).sum() for value in gradient.values()))
        factor = min(1.0, config.max_grad_norm / norm) if config.max_grad_norm else 1.0
        for name, x in params.items():
            g = gradient[name] * factor
            mean[name] = config.beta1 * mean[name] + (1 - config.beta1) * g
            square[name] = config.beta2 * square[name] + (1 - config.beta2) * g**2
            adam = (mean[name] / (1 - config.beta1**t)) / (
                np.sqrt(square[name] / (1 - config.beta2**t)) + config.epsilon
            )
            params[name] = x - rate * (adam + config.weight_decay * MASK[name] * x)
    return params


def run(config, params, grads, rates, state=None, weight=1.0):
    transformation = config.transformation(MASK)
    state = transformation.init(params) if state is None else state
    step = jax.jit(lambda *a: update_parameters(transformation, config.max_grad_norm, *a))
    norm = None
    for gradient, rate in zip(grads, rates, strict=True):
        summed = jax.tree.map(lambda g: g * weight, gradient)
        params, state, norm = step(params, state, summed, jnp.asarray(weight), jnp.asarray(rate))
    return params, state, norm


@pytest.mark.parametrize("max_grad_norm", [None, 0.5, 100.0])
def test_adamw_equals_its_formula_in_float64(max_grad_norm):
    config = AdamWConfig(learning_rate=0.1, weight_decay=0.1, max_grad_norm=max_grad_norm)
    grads, rates = [gradients(t, np.float64) for t in range(3)], [0.1, 0.05, 0.02]
    with jax.enable_x64(True):
        found, _, norm = run(config, jax.tree.map(jnp.asarray, parameters(np.float64)), grads, rates, weight=8.0)
        expected = numpy_adamw(config, parameters(np.float64), grads, rates)
        for name, value in expected.items():
            # optax takes beta^t in float32
            np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-7)
        assert float(norm) == pytest.approx(np.sqrt(sum((g**2).sum() for g in grads[-1].values())))


def test_one_known_step_in_float32():
    config = AdamWConfig(learning_rate=0.1, weight_decay=0.1)
    found, _, _ = run(config, parameters(), [gradients(0)], [0.1])
    expected = numpy_adamw(config, parameters(), [gradients(0)], [0.1])
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


def test_decay_touches_only_what_the_mask_says():
    config = AdamWConfig(learning_rate=0.1, weight_decay=0.5)
    nothing = jax.tree.map(np.zeros_like, parameters())
    found, _, _ = run(config, parameters(), [nothing], [0.1])
    np.testing.assert_array_equal(found["scale"], parameters()["scale"])
    np.testing.assert_allclose(found["matrix"], parameters()["matrix"] * (1 - 0.1 * 0.5), rtol=1e-6)


def test_stopping_and_going_on_gives_the_same_bits():
    config = AdamWConfig(learning_rate=0.1)
    grads, rates = [gradients(t) for t in range(6)], [0.1, 0.09, 0.08, 0.07, 0.06, 0.05]
    whole, whole_state, _ = run(config, parameters(), grads, rates)
    half, half_state, _ = run(config, parameters(), grads[:3], rates[:3])
    half, half_state = jax.tree.map(lambda x: jnp.array(np.asarray(x)), (half, half_state))
    again, again_state, _ = run(config, half, grads[3:], rates[3:], half_state)
    for a, b in zip(jax.tree.leaves((whole, whole_state)), jax.tree.leaves((again, again_state)), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_the_gradient_is_the_sum_over_the_total_weight():
    config = AdamWConfig(learning_rate=0.1, max_grad_norm=0.5)
    one, _, norm_one = run(config, parameters(), [gradients(0)], [0.1], weight=1.0)
    many, _, norm_many = run(config, parameters(), [gradients(0)], [0.1], weight=4096.0)
    assert float(norm_one) == pytest.approx(float(norm_many), rel=1e-6)
    np.testing.assert_allclose(one["matrix"], many["matrix"], rtol=1e-6)


def test_an_optimizer_is_named_by_type_in_a_config():
    config = AdamWConfig(learning_rate=3e-4, warmup=0.1, decay=100, lr_schedule="wsd")
    written = encode(config)
    assert written["type"] == "adamw"
    assert decode(OptimizerConfig, written) == config
    with pytest.raises(ConfigError, match="learning_rat: .*did you mean 'learning_rate'"):
        decode(OptimizerConfig, {"type": "adamw", "learning_rat": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta2": 1.0}, "beta2 must be 0 or more and below 1"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be more than 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        AdamWConfig(learning_rate=0.1, **changes)
