"""What tests/contracts/test_optimizers.py does not ask of every optimizer: clipping, and what is special to one."""

from dataclasses import dataclass
from typing import no_type_check

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from marin.config import ConfigError, decode, encode
from marin.models.gpt2 import Gpt2Config
from marin.models.llama import LlamaConfig
from marin.models.mixtral import MixtralConfig
from marin.optim.adafactor import AdafactorConfig
from marin.optim.adamw import AdamWConfig
from marin.optim.hutchinson import hutchinson_estimate, random_signs
from marin.optim.matrices import matrix_layout
from marin.optim.muon import MuonConfig
from marin.optim.optimizer import OptimizerConfig, update_parameters
from marin.optim.soap import SoapConfig
from marin.optim.sophia import SophiaHConfig


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
    ("config", "changes", "message"),
    [
        (AdamWConfig, {"beta2": 1.0}, "beta2 must be 0 or more and below 1"),
        (AdamWConfig, {"weight_decay": -0.1}, "weight_decay must be 0 or more"),
        (AdamWConfig, {"max_grad_norm": 0.0}, "max_grad_norm must be more than 0"),
        (MuonConfig, {"momentum": 1.0}, "momentum must be 0 or more and below 1"),
        (MuonConfig, {"consistent_rms": 0.0}, "consistent_rms must be more than 0, or None"),
        (MuonConfig, {"num_iterations": 0}, "num_iterations must be 1 or more"),
        (SophiaHConfig, {"update_interval": 0}, "update_interval must be 1 or more"),
        (SophiaHConfig, {"gamma": 0.0}, "gamma must be more than 0"),
        (SoapConfig, {"precondition_frequency": 0}, "precondition_frequency must be 1 or more"),
        (AdafactorConfig, {"decay_rate": 1.5}, "decay_rate must be more than 0 and at most 1"),
        (AdafactorConfig, {"clipping_threshold": 0.0}, "clipping_threshold must be more than 0 or None"),
    ],
)
def test_settings_out_of_range_are_refused(config, changes, message):
    with pytest.raises(ValueError, match=message):
        config(learning_rate=0.1, **changes)


def test_muon_makes_each_matrix_of_a_fused_array_orthogonal_by_itself():
    config = LlamaConfig(seq_len=8, hidden_dim=16, intermediate_dim=24, num_heads=4, num_kv_heads=2, num_layers=2)
    params = config.init(11, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    gradient = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    muon = MuonConfig(learning_rate=1.0, weight_decay=0.0, consistent_rms=None, num_iterations=8)
    transformation = muon.transformation(config.weight_decay_mask(params))
    directions, _ = jax.jit(transformation.update)(gradient, transformation.init(params), params)
    qkv, gate_up, down = (np.asarray(getattr(directions.layers, name)) for name in ("qkv", "gate_up", "down"))
    matrices = [
        *(qkv[layer][:, :, which].reshape(16, -1) for layer in (0, 1) for which in (slice(0, 2), slice(2, 3), [3])),
        *(gate_up[layer][:, which] / np.sqrt(24 / 16) for layer in (0, 1) for which in (0, 1)),
        *down,
    ]
    for matrix in matrices:
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values.min() > 0.6 and values.max() < 1.3
    # the whole array at once would be something else
    fused = np.linalg.svd(qkv[0].reshape(16, -1), compute_uv=False)
    assert fused.max() > 1.3


def test_muon_and_soap_leave_embeddings_unembedding_and_norms_to_adam():
    model = LlamaConfig(seq_len=8, hidden_dim=16, intermediate_dim=24, num_heads=4, num_kv_heads=2, num_layers=2)
    shapes = jax.eval_shape(lambda: model.init(11, key=jax.random.key(0)))
    layout = matrix_layout(shapes, model.weight_decay_mask(shapes))
    assert [part.name for part in layout.parts] == [
        *("layers-qkv-0", "layers-qkv-1", "layers-qkv-2", "layers-attention_out", "layers-gate_up", "layers-down")
    ]
    assert sorted(layout.rest) == [
        *("embedding", "final_norm", "layers-attention_norm", "layers-mlp_norm", "unembedding")
    ]
    gpt2 = Gpt2Config(seq_len=8, hidden_dim=16, num_heads=4, num_layers=2)
    shapes = jax.eval_shape(lambda: gpt2.init(11, key=jax.random.key(0)))
    layout = matrix_layout(shapes, gpt2.weight_decay_mask(shapes))
    sides = {part.name: (part.inputs, part.outputs) for part in layout.parts}
    assert sides["layers-qkv"] == ((1,), (2, 4)), "query, key and value are three matrices: axis 3 counts them"
    assert sides["layers-attention_out"] == ((1, 2), (3,))
    assert sides["layers-up"] == ((1,), (2,)) == sides["layers-down"]


def test_in_a_mixture_each_expert_is_a_matrix_and_the_router_is_one_of_all_experts():
    mixtral = MixtralConfig(
        seq_len=8, hidden_dim=16, intermediate_dim=24, num_heads=4, num_kv_heads=2, num_layers=2, num_experts=3
    )
    shapes = jax.eval_shape(lambda: mixtral.init(11, key=jax.random.key(0)))
    mask = mixtral.weight_decay_mask(shapes)
    sides = {part.name: (part.inputs, part.outputs) for part in matrix_layout(shapes, mask).parts}
    assert sides["layers-router"] == ((1,), (2,))
    assert sides["layers-gate_up"] == ((2,), (4,)) and sides["layers-down"] == ((2,), (3,))
    for config in (MuonConfig(learning_rate=0.1), SoapConfig(learning_rate=0.1)):
        transformation = config.transformation(mask)
        directions, _ = jax.eval_shape(
            transformation.update, shapes, jax.eval_shape(transformation.init, shapes), shapes
        )
        assert jax.tree.map(lambda d: d.shape, directions) == jax.tree.map(lambda s: s.shape, shapes)


def test_an_array_whose_axes_do_not_say_what_is_input_is_refused_by_name():
    @jax.tree_util.register_dataclass
    @no_type_check
    @dataclass(frozen=True)
    class Odd:
        mixer: Float[Array, "layers heads head_dim"]

    params = Odd(jnp.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="parameter mixer with axes layers heads head_dim decays like a matrix"):
        MuonConfig(learning_rate=0.1).transformation(Odd(True)).init(params)


def test_hutchinson_signs_are_fair_independent_and_new_with_each_draw():
    like = {"a": jnp.zeros((40, 50)), "b": jnp.zeros((3, 7, 90))}
    draws = [jax.tree.leaves(random_signs(jnp.uint32(n), like)) for n in range(40)]
    flat = np.stack([np.concatenate([np.asarray(leaf).ravel() for leaf in draw]) for draw in draws])
    assert set(np.unique(flat)) == {-1.0, 1.0}
    size = flat.shape[1]
    assert abs(flat.mean()) < 4 / np.sqrt(flat.size)
    assert np.abs(flat.mean(axis=1)).max() < 4.5 / np.sqrt(size)
    between_draws = flat @ flat.T / size - np.eye(len(flat))
    assert np.abs(between_draws).max() < 5 / np.sqrt(size)
    for lag in (1, 2, 50, 90):  # neighbours along every axis
        assert abs((flat[:, lag:] * flat[:, :-lag]).mean()) < 5 / np.sqrt(flat.size)


def test_hutchinsons_mean_is_the_diagonal_of_the_hessian():
    mixer = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
    loss = lambda params: jnp.sum(jnp.tanh(mixer @ params["x"]) ** 2) + params["x"][0] ** 4  # noqa: E731
    params = {"x": jnp.linspace(-0.5, 0.5, 6)}
    estimate = hutchinson_estimate()

    def one(state, _):
        found, state = estimate.update(params, state, params, obj_fn=loss)
        return state, found["x"]

    _, found = jax.lax.scan(one, estimate.init(params), None, length=4000)
    exact = np.diag(jax.hessian(lambda x: loss({"x": x}))(params["x"]))
    error = np.asarray(found).std(axis=0) / np.sqrt(4000)
    assert (np.abs(np.asarray(found).mean(axis=0) - exact) < 4.5 * error + 1e-5).all()
    with pytest.raises(ValueError, match="pass it to the update as obj_fn"):
        estimate.update(params, estimate.init(params), params)
