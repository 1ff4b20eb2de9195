"""What every optimizer keeps, whichever it is: adding one is adding a line to OPTIMIZERS and a formula to FORMULAS.

The formulas are written here a second time, in float64 numpy, matrix by matrix and sharing no code with the library.
"""

import dataclasses
import json
import os
import subprocess
import sys
from functools import lru_cache
from typing import no_type_check

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from marin.checkpoint import format as checkpoint
from marin.config import decode, encode
from marin.distributed.compilation_cache import use_compilation_cache
from marin.optim.adafactor import AdafactorConfig
from marin.optim.adamw import AdamWConfig
from marin.optim.lion import LionConfig
from marin.optim.muon import MuonConfig
from marin.optim.optimizer import OptimizerConfig, update_parameters
from marin.optim.soap import SoapConfig
from marin.optim.sophia import SophiaHConfig


@pytest.fixture(scope="module", autouse=True)
def in_float64():
    """All in one dtype, each optimizer compiled once: most of the time of these tests is compiling."""
    use_compilation_cache()
    with jax.enable_x64(True):
        yield


SETTINGS = {"learning_rate": 0.05, "weight_decay": 0.2, "max_grad_norm": 1.5}
OPTIMIZERS = {
    "adamw": AdamWConfig(**SETTINGS),
    "adamw, cautious": AdamWConfig(**SETTINGS, cautious=True),
    "lion": LionConfig(**SETTINGS),
    "lion, cautious": LionConfig(**SETTINGS, cautious=True),
    "muon": MuonConfig(**SETTINGS),
    "muon, cautious": MuonConfig(**SETTINGS, cautious=True, num_iterations=2),
    "muon, Jordan's": MuonConfig(
        **SETTINGS, consistent_rms=None, nesterov=False, adam_learning_rate=0.01, num_iterations=2
    ),
    "sophia_h": SophiaHConfig(**SETTINGS, update_interval=2, gamma=0.5),
    # the sides of 8 are rotated, longer ones are not; a first gradient has no unique basis on the longer side anyway
    "soap": SoapConfig(**SETTINGS, precondition_frequency=2, max_precondition_dim=8),
    "adafactor": AdafactorConfig(**SETTINGS, min_dim_size_to_factor=4),
    "adafactor, relative": AdafactorConfig(**SETTINGS, multiply_by_parameter_scale=True, clipping_threshold=None),
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)

LAYERS, WIDTH, MLP, VOCAB = 2, 8, 12, 10


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, kw_only=True)
class Params:
    """A parameter of each kind that our models have, annotated as theirs are."""

    embedding: Float[Array, "vocab hidden"]
    qkv: Float[Array, "layers hidden kv_heads group_plus_2 head_dim"]
    out: Float[Array, "layers kv_heads group head_dim hidden"]
    gate_up: Float[Array, "layers hidden 2 mlp"]
    norm: Float[Array, "layers hidden"]
    unembedding: Float[Array, "hidden vocab"] | None


SHAPES = {
    "embedding": (VOCAB, WIDTH),
    "qkv": (LAYERS, WIDTH, 2, 3 + 2, 4),
    "out": (LAYERS, 2, 3, 4, WIDTH),
    "gate_up": (LAYERS, WIDTH, 2, MLP),
    "norm": (LAYERS, WIDTH),
    "unembedding": (WIDTH, VOCAB),
}
DECAYS = {"qkv", "out", "gate_up", "unembedding"}
MASK = Params(**{name: name in DECAYS for name in SHAPES})


def draw(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


def curvature():
    return {name: np.random.default_rng(7).uniform(0.3, 3.0, size=shape) for name, shape in SHAPES.items()}


def toy_loss(params):
    """A quadratic with a diagonal Hessian, so that Hutchinson's estimate is exact whatever is drawn."""
    curved = Params(**{name: jnp.asarray(c, params.norm.dtype) for name, c in curvature().items()})
    return sum(jnp.sum(0.5 * c * x**2) for c, x in zip(jax.tree.leaves(curved), jax.tree.leaves(params), strict=True))


@lru_cache
def compiled(name):
    """(jitted init, jitted update) of one optimizer."""
    config = OPTIMIZERS[name]
    transformation = config.transformation(MASK)

    def update(params, state, gradient, rate):
        one = jnp.ones((), params.norm.dtype)
        return update_parameters(
            transformation, config.max_grad_norm, params, state, gradient, one, rate, objective=toy_loss
        )[:2]

    return jax.jit(transformation.init), jax.jit(update)


def run(name, params, gradients, rates, state=None):
    init, update = compiled(name)
    state = init(params) if state is None else state
    for gradient, rate in zip(gradients, rates, strict=True):
        params, state = update(params, state, gradient, rate)
    return params, state


# --- the formulas, again ---


def as_matrices(name, array):
    """(view or copy of the matrix, how to put a result back) for each matrix of a parameter; none for what is none."""
    for layer in range(LAYERS if name in ("qkv", "out", "gate_up") else 0):
        if name == "out":
            yield (name, layer), (layer,), array[layer].reshape(-1, WIDTH)
        elif name == "gate_up":
            for which in range(2):
                yield (name, layer, which), (layer, slice(None), which), array[layer, :, which]
        else:
            for which in (slice(0, 3), slice(3, 4), slice(4, 5)):
                chosen = array[layer, :, :, which]
                yield (name, layer, which.start), (layer, slice(None), slice(None), which), chosen.reshape(WIDTH, -1)


class Adam:
    """Direction of one array."""

    def __init__(self, config):
        self.config, self.m, self.v, self.t = config, 0.0, 0.0, 0

    def __call__(self, g, x):
        c = self.config
        self.t += 1
        self.m = c.beta1 * self.m + (1 - c.beta1) * g
        self.v = c.beta2 * self.v + (1 - c.beta2) * g**2
        return self.m / (1 - c.beta1**self.t) / (np.sqrt(self.v / (1 - c.beta2**self.t)) + c.epsilon)


class Lion:
    def __init__(self, config):
        self.config, self.m = config, 0.0

    def __call__(self, g, x):
        u = np.sign(self.config.beta1 * self.m + (1 - self.config.beta1) * g)
        self.m = self.config.beta2 * self.m + (1 - self.config.beta2) * g
        return u


class Sophia:
    def __init__(self, config, hessian):
        self.config, self.hessian, self.m, self.h, self.t = config, hessian, 0.0, np.zeros_like(hessian), 0

    def __call__(self, g, x):
        c = self.config
        self.t += 1
        self.m = c.beta1 * self.m + (1 - c.beta1) * g
        u = self.m / (1 - c.beta1**self.t) / np.maximum(c.gamma * self.h, c.epsilon)
        if self.t % c.update_interval == 1:
            self.h = c.beta2 * self.h + (1 - c.beta2) * self.hessian
        return np.clip(u, -c.clip_threshold, c.clip_threshold)


class Adafactor:
    def __init__(self, config):
        self.config, self.row, self.column, self.v, self.t = config, 0.0, 0.0, 0.0, 0

    def __call__(self, g, x):
        c = self.config
        self.t += 1
        b = 1 - self.t**-c.decay_rate
        short, long = np.argsort(g.shape)[-2:] if g.ndim > 1 else (0, 0)
        square = g**2 + c.epsilon
        if g.ndim > 1 and g.shape[short] >= c.min_dim_size_to_factor:
            self.row = b * self.row + (1 - b) * square.mean(axis=long, keepdims=True)
            self.column = b * self.column + (1 - b) * square.mean(axis=short, keepdims=True)
            u = g / np.sqrt(self.row * self.column / self.row.mean(axis=short, keepdims=True))
        else:
            self.v = b * self.v + (1 - b) * square
            u = g / np.sqrt(self.v)
        if c.clipping_threshold is not None:
            u = u / max(1.0, np.sqrt((u**2).mean()) / c.clipping_threshold)
        return u * max(np.sqrt((x**2).mean()), 1e-3) if c.multiply_by_parameter_scale else u


class Muon:
    """Direction of one matrix."""

    def __init__(self, config):
        self.config, self.m, self.t = config, 0.0, 0

    def __call__(self, g, x):
        c, b = self.config, self.config.momentum
        self.t += 1
        self.m = b * self.m + (1 - b) * g
        n = b * self.m / (1 - b ** (self.t + 1)) + (1 - b) * g / (1 - b**self.t) if c.nesterov else self.m
        y = n / np.sqrt((n**2).sum())
        for _ in range(c.num_iterations):
            a = y @ y.T
            y = 3.4445 * y + (-4.7750 * a + 2.0315 * a @ a) @ y
        inputs, outputs = g.shape
        if c.consistent_rms is None:
            return y * np.sqrt(max(1, outputs / inputs))
        return y * c.consistent_rms * np.sqrt(max(inputs, outputs))


class Soap:
    """Direction of one matrix."""

    def __init__(self, config):
        self.config, self.t = config, 0

    def __call__(self, g, x):
        c = self.config
        self.t += 1
        grams = [g @ g.T, g.T @ g]
        if self.t == 1:
            self.moments = [(1 - c.shampoo_beta) * gram for gram in grams]
            self.bases = [
                np.linalg.eigh(m)[1][:, ::-1] if len(m) <= c.max_precondition_dim else np.eye(len(m))
                for m in self.moments
            ]
            self.m = self.v = np.zeros_like(g)
            return np.zeros_like(g)
        p, q = self.bases
        self.m = c.beta1 * self.m + (1 - c.beta1) * g
        self.v = c.beta2 * self.v + (1 - c.beta2) * (p.T @ g @ q) ** 2
        k = self.t - 1
        rotated = (p.T @ self.m @ q) / (1 - c.beta1**k) / (np.sqrt(self.v / (1 - c.beta2**k)) + c.epsilon)
        self.moments = [
            c.shampoo_beta * m + (1 - c.shampoo_beta) * gram for m, gram in zip(self.moments, grams, strict=True)
        ]
        if k % c.precondition_frequency == 0:
            for side in (0, 1):
                if len(self.bases[side]) <= c.max_precondition_dim:
                    order = np.argsort(-np.diag(self.bases[side].T @ self.moments[side] @ self.bases[side]))
                    self.v = np.take(self.v, order, axis=side)
                    self.bases[side] = np.linalg.qr(self.moments[side] @ self.bases[side][:, order])[0]
        return p @ rotated @ q.T


FORMULAS = {
    AdamWConfig: lambda config, _: Adam(config),
    LionConfig: lambda config, _: Lion(config),
    SophiaHConfig: lambda config, name: Sophia(config, curvature()[name]),
    AdafactorConfig: lambda config, _: Adafactor(config),
}
OF_MATRICES = {MuonConfig: Muon, SoapConfig: Soap}


def numpy_run(config, params, gradients, rates):
    """`update_parameters` and the optimizer, in float64."""
    of_arrays, of_matrices = {}, {}
    params = {name: array.astype(np.float64) for name, array in params.items()}
    for gradient, rate in zip(gradients, rates, strict=True):
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        for name, x in params.items():
            g = gradient[name] * min(1.0, config.max_grad_norm / norm)
            u = np.full_like(g, np.nan)
            if type(config) in OF_MATRICES:
                views = zip(as_matrices(name, g), as_matrices(name, x), strict=True)
                for (key, place, matrix), (_, _, of_x) in views:
                    formula = of_matrices.setdefault(key, OF_MATRICES[type(config)](config))
                    u[place] = formula(matrix, of_x).reshape(u[place].shape)
            if np.isnan(u).all():
                formula = FORMULAS.get(type(config), FORMULAS[AdamWConfig])
                u = of_arrays.setdefault(name, formula(config, name))(g, x)
                if getattr(config, "adam_learning_rate", None) is not None:
                    u = u * config.adam_learning_rate / config.learning_rate
            assert not np.isnan(u).any()
            if getattr(config, "cautious", False):
                agrees = u * g > 0
                u = u * agrees / max(agrees.mean(), 1e-3)
            params[name] = x - rate * (u + config.weight_decay * (name in DECAYS) * x)
    return params


# --- the contract ---


@each_optimizer
def test_four_updates_equal_the_formula(name):
    gradients, rates = [draw(10 + t) for t in range(4)], [0.05, 0.04, 0.03, 0.02]
    found, _ = run(name, Params(**draw(1)), [Params(**g) for g in gradients], rates)
    for key, expected in numpy_run(OPTIMIZERS[name], draw(1), gradients, rates).items():
        assert getattr(found, key).dtype == np.float64
        # optax takes powers of its betas in float32
        np.testing.assert_allclose(getattr(found, key), expected, rtol=0, atol=5e-7, err_msg=key)


@each_optimizer
def test_updates_have_the_shapes_and_dtypes_of_the_parameters(name):
    init, update = compiled(name)
    params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, np.float32), Params(**draw(1)))
    with jax.enable_x64(False):
        fresh = jax.eval_shape(init, params)
        after = jax.eval_shape(update, params, fresh, params, jax.ShapeDtypeStruct((), np.float32))
    assert after == (params, fresh)
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} <= {np.dtype(t) for t in ("f4", "i4", "u4")}


@each_optimizer
def test_without_a_gradient_the_masked_parameters_decay_and_no_other_moves(name):
    params = draw(1)
    nothing = Params(**jax.tree.map(np.zeros_like, params))
    found, _ = run(name, Params(**params), [nothing] * 2, [0.1] * 2)
    for key, before in params.items():
        if key in DECAYS:
            np.testing.assert_allclose(getattr(found, key), before * (1 - 0.1 * 0.2) ** 2, rtol=1e-12, err_msg=key)
        else:
            np.testing.assert_array_equal(getattr(found, key), before, err_msg=key)


@each_optimizer
def test_saved_loaded_and_gone_on_with_it_gives_the_same_bits(name, tmp_path):
    gradients, rates = [Params(**draw(t)) for t in range(6)], [0.05, 0.04, 0.03, 0.03, 0.02, 0.01]
    whole = run(name, Params(**draw(1)), gradients, rates)
    half = run(name, Params(**draw(1)), gradients[:3], rates[:3])
    folder = checkpoint.save(tmp_path, 3, {"params": half[0], "optimizer": half[1]})
    like = jax.eval_shape(lambda p: {"params": p, "optimizer": compiled(name)[0](p)}, Params(**draw(1)))
    loaded = checkpoint.load(folder, like, "")
    again = run(name, loaded["params"], gradients[3:], rates[3:], loaded["optimizer"])
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@each_optimizer
def test_a_toy_loss_falls(name):
    params = Params(**jax.tree.map(jnp.asarray, draw(1)))
    before = float(toy_loss(params))
    init, update = compiled(name)
    state, gradient = init(params), jax.jit(jax.grad(toy_loss))
    for _ in range(40):
        params, state = update(params, state, gradient(params), 0.03)
    assert float(toy_loss(params)) < 0.5 * before


@each_optimizer
def test_a_config_is_named_by_its_type(name):
    config = OPTIMIZERS[name]
    assert isinstance(config, OptimizerConfig)
    assert encode(config)["type"] == name.partition(",")[0]
    assert decode(OptimizerConfig, json.loads(json.dumps(encode(config)))) == config


SHARDED = """
import jax, numpy as np, sys
jax.config.update('jax_enable_x64', True)
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
sys.path.insert(0, "tests/contracts")
from test_optimizers import Params, draw, run
from marin.distributed.compilation_cache import use_compilation_cache
use_compilation_cache()
mesh = Mesh(np.array(jax.devices()), ("fsdp",))
specs = dict(embedding=P(None, "fsdp"), qkv=P(None, "fsdp"), out=P(None, None, None, None, "fsdp"),
             gate_up=P(None, "fsdp"), norm=P(), unembedding=P("fsdp"))
put = lambda tree: Params(**{k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in tree.items()})
found = {}
for name in sys.argv[2:]:
    params, state = run(name, put(draw(1)), [put(draw(t)) for t in range(2)], [0.02] * 2)
    for k, spec in specs.items():
        array = getattr(params, k)
        assert array.sharding.is_equivalent_to(NamedSharding(mesh, spec), array.ndim), (name, k, array.sharding)
        found[f"{name} {k}"] = np.asarray(array)
np.savez(sys.argv[1], **found)
"""


def check_on_two_devices(names, repository, tmp_path):
    """The script checks that parameters stay where they lie; here they are compared with those of one device."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"  # compiling is most of the time
    script = [sys.executable, "-c", SHARDED, str(tmp_path / "found.npz"), *names]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, cwd=repository)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    for name in names:
        alone, _ = run(name, Params(**draw(1)), [Params(**draw(t)) for t in range(2)], [0.02] * 2)
        for key in SHAPES:
            np.testing.assert_allclose(found[f"{name} {key}"], getattr(alone, key), atol=1e-9, err_msg=f"{name} {key}")


def test_on_two_devices_parameters_stay_where_they_are_and_go_the_same_way(repository, tmp_path):
    check_on_two_devices(["muon, cautious"], repository, tmp_path)


@pytest.mark.slow
def test_on_two_devices_all_optimizers_keep_parameters_where_they_are(repository, tmp_path):
    check_on_two_devices(list(OPTIMIZERS), repository, tmp_path)
