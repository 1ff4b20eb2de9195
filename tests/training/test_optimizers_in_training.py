"""Runs with every optimizer, an average, skipped updates, batches that grow, and muP."""

import dataclasses
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train_lm import damage, final_bits
from test_train_step import MODEL, VOCAB, Float64Model, bits, random_batch, transformation

from marin.checkpoint import format as checkpoint
from marin.config import decode, dump_yaml, load_yaml
from marin.data.batch_schedule import ScheduleStep
from marin.models.config import embedding_multiplier
from marin.models.gemma import GemmaConfig
from marin.models.llama import LlamaConfig
from marin.models.mixtral import MixtralConfig
from marin.optim.adamw import AdamWConfig
from marin.optim.muon import MuonConfig
from marin.optim.mup import mup_scales
from marin.optim.optimizer import OptimizerConfig
from marin.optim.skip import SkipBadSteps
from marin.tracking.jsonl import read_rows
from marin.training.config import SimpleTrainConfig, TrainLmConfig
from marin.training.state import init_state
from marin.training.train_lm import train_lm
from marin.training.train_step import METRICS, loss_sums, make_train_step

ALL_AT_ONCE = {
    "train_batch_size": (ScheduleStep(0, 2), ScheduleStep(3, 4)),
    "per_device_parallelism": 2,
    "ema_beta": 0.9,
    "skip_bad_steps": SkipBadSteps(window=4, sigma=0.2),
}


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("optimizer", "changes"),
    [
        (
            {"type": "lion", "learning_rate": 0.003, "lr_schedule": "wsd", "decay": 1, "cycles": 2, "cautious": True},
            ALL_AT_ONCE,
        ),
        # the contract test saves and loads each of these too; a whole run of each is mostly compiling
        slow({"type": "sophia_h", "learning_rate": 0.003, "update_interval": 2}, {"per_device_parallelism": 2}),
        slow({"type": "soap", "learning_rate": 0.01, "precondition_frequency": 2}, {}),
        slow({"type": "muon", "learning_rate": 0.01, "cautious": True}, ALL_AT_ONCE),
        slow({"type": "adafactor", "learning_rate": 0.01, "min_dim_size_to_factor": 8}, {"ema_beta": 0.5}),
    ],
    ids=["lion", "sophia_h", "soap", "muon", "adafactor"],
)
def test_a_run_that_lost_its_last_checkpoint_ends_with_the_same_bits(optimizer, changes, tiny_config, tmp_path):
    shape = {"num_train_steps": 8, "steps_per_checkpoint": 2, "steps_per_eval": None} | changes
    configs = [
        tiny_config(name, optimizer=decode(OptimizerConfig, optimizer), **shape) for name in ("whole", "resumed")
    ]
    for config in configs:
        path = tmp_path / "given.yaml"
        path.write_text(dump_yaml(config))
        assert load_yaml(TrainLmConfig, path) == config
        train_lm(config)
    damage(configs[1].output_path, 8)
    with pytest.warns(checkpoint.CorruptCheckpointWarning):
        train_lm(configs[1])
    assert final_bits(configs[0].output_path) == final_bits(configs[1].output_path)
    rows = [row for row in read_rows(Path(configs[0].output_path) / "metrics.jsonl") if "train/loss" in row]
    assert len(rows) == 8 and all(np.isfinite(row["train/loss"]) for row in rows)
    if changes is ALL_AT_ONCE:
        assert [row["train/tokens"] for row in rows] == [16 * n for n in (2, 4, 6, 10, 14, 18, 22, 26)]
        assert {row["train/skipped"] for row in rows} == {0.0, 1.0}, "some updates are skipped, and not all"
    last = list(read_rows(Path(configs[0].output_path) / "metrics.jsonl"))[-1]
    assert ("validation/ema/held_out/loss" in last) == ("ema_beta" in changes)


def test_the_average_follows_the_parameters_as_its_formula_says():
    step = make_train_step(MODEL, transformation(), max_grad_norm=1.0, ema_beta=0.75)
    state = init_state(MODEL, transformation(), VOCAB, seed=0, has_average=True)
    expected = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(state.params)]
    for i in range(4):
        state, _ = step(state, random_batch(i), 1e-2)
        params = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(state.params)]
        expected = [0.75 * a + 0.25 * p for a, p in zip(expected, params, strict=True)]
    for found, average in zip(jax.tree.leaves(state.average), expected, strict=True):
        np.testing.assert_allclose(found, average, rtol=1e-5, atol=1e-7)


def test_an_outlier_changes_nothing_but_the_window_and_the_next_batch_is_taken():
    skip = SkipBadSteps(window=6, sigma=3.0)
    step = make_train_step(MODEL, transformation(), max_grad_norm=1.0, skip=skip, ema_beta=0.9)
    state = init_state(MODEL, transformation(), VOCAB, seed=0, has_average=True, skip=skip)
    for _ in range(5):
        state, metrics = step(state, random_batch(0), 1e-3)
        assert metrics.shape == (len(METRICS) + 1,) and metrics[-1] == 0
    one_token = random_batch(0)
    one_token.loss_weights[:] = 0.0
    one_token.loss_weights[0, 3] = 1.0  # a mean of one: its gradient is much longer
    before = bits((state.params, state.optimizer, state.average))
    state, metrics = step(state, one_token, 1e-3)
    assert metrics[-1] == 1 and metrics[1] > 0
    assert bits((state.params, state.optimizer, state.average)) == before
    assert int(state.skip_window.count) == 6
    state, metrics = step(state, random_batch(0), 1e-3)
    assert metrics[-1] == 0 and bits(state.params) != before[: len(bits(state.params))]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 10, width=32), st.floats(0, 10, width=32)), min_size=1, max_size=14))
def test_what_is_an_outlier_is_told_from_the_last_updates_alone(numbers):
    rule = SkipBadSteps(window=6, sigma=1.5)
    window = rule.init()
    for index, (loss, norm) in enumerate(numbers):
        is_bad, window = JUDGE(window, np.float32(loss), np.float32(norm))
        seen = np.array(numbers[max(0, index - 6) : index], np.float64).reshape(-1, 2)
        if len(seen) < 3:
            assert not is_bad
            continue
        limits = seen.mean(axis=0) + 1.5 * seen.std(axis=0)
        if np.abs(limits - (loss, norm)).min() > 1e-4:  # else a matter of rounding
            assert bool(is_bad) == bool(((loss, norm) > limits).any())


JUDGE = jax.jit(SkipBadSteps(window=6, sigma=1.5).judge)


def test_the_curvature_that_sophia_asks_for_is_that_of_the_loss_in_float64():
    """The loss has a gradient rule of its own; a derivative of that rule must be right too."""
    rng = np.random.default_rng(0)
    batch = random_batch(1)
    with jax.enable_x64(True):
        params = {"embedding": jnp.asarray(rng.normal(size=(VOCAB, 6))), "matrix": jnp.asarray(rng.normal(size=(6, 6)))}
        along = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
        model = Float64Model(**dataclasses.asdict(MODEL) | {"rope": MODEL.rope})
        gradient = jax.jit(
            jax.grad(lambda p: loss_sums(model, p, batch, compute_dtype=jnp.float64, z_loss_weight=1e-2).total)
        )
        found = jax.jit(lambda p: jax.jvp(gradient, (p,), (along,))[1])(params)
        ahead, behind = (jax.tree.map(lambda p, a, s=s: p + s * 1e-5 * a, params, along) for s in (1, -1))
        differences = jax.tree.map(lambda a, b: (a - b) / 2e-5, gradient(ahead), gradient(behind))
        for name in params:
            np.testing.assert_allclose(found[name], differences[name], rtol=1e-6, atol=1e-6)


def widths(hidden_dim):
    return LlamaConfig(
        seq_len=8, hidden_dim=hidden_dim, intermediate_dim=2 * hidden_dim, num_heads=hidden_dim // 8,
        num_kv_heads=hidden_dim // 8, num_layers=1, initializer_range=0.1,
    )  # fmt: skip


def shapes_of(model):
    return jax.eval_shape(lambda: model.init(VOCAB, key=jax.random.key(0)))


def test_mup_scales_by_fan_in_and_leaves_embeddings_and_norms():
    scales = mup_scales(shapes_of(widths(64)), shapes_of(widths(16)))
    rate, init = scales.learning_rate, scales.init
    assert (rate.embedding, rate.final_norm, rate.layers.mlp_norm) == (1, 1, 1) == (init.embedding, 1, 1)
    assert rate.layers.qkv == rate.layers.attention_out == rate.layers.down == rate.unembedding == 1 / 4
    assert init.layers.qkv == init.layers.down == 1 / 2 and init.unembedding == 1 / 4


def test_mup_scales_the_router_of_a_mixture_as_it_does_the_unembedding():
    def mixture(hidden_dim, num_experts=4):
        llama = widths(hidden_dim)
        shared = {f.name for f in dataclasses.fields(llama)} & {f.name for f in dataclasses.fields(MixtralConfig)}
        return MixtralConfig(**{name: getattr(llama, name) for name in shared}, num_experts=num_experts)

    scales = mup_scales(shapes_of(mixture(64)), shapes_of(mixture(16)))
    assert scales.learning_rate.layers.router == scales.init.layers.router == 1 / 4
    assert scales.learning_rate.layers.gate_up == 1 / 4 and scales.init.layers.gate_up == 1 / 2
    with pytest.raises(ValueError, match="'experts' is 4 in the model and 2"):
        mup_scales(shapes_of(mixture(16)), shapes_of(mixture(16, num_experts=2)))


@pytest.mark.slow
def test_with_mup_one_rate_moves_the_logits_of_a_wide_model_as_far_as_those_of_a_narrow_one():
    def movement(model, scales):
        adamw = AdamWConfig(learning_rate=1.0, weight_decay=0.0, max_grad_norm=None)
        optimizer = adamw.transformation(model.weight_decay_mask(shapes_of(model)), scales and scales.learning_rate)
        step = make_train_step(model, optimizer, max_grad_norm=None)
        state = init_state(model, optimizer, VOCAB, seed=0, init_scale=scales and scales.init)
        logits = jax.jit(lambda p: model.hidden_states(p, jnp.asarray(random_batch(9).tokens)) @ model.unembedding(p))
        before = np.asarray(logits(state.params))
        for i in range(3):
            state, _ = step(state, random_batch(i), 5e-3)
        return float(np.sqrt(((np.asarray(logits(state.params)) - before) ** 2).mean()))

    narrow, wide = widths(16), widths(128)
    base = movement(narrow, None)
    assert movement(wide, None) > 3 * base, "without muP the same rate is far too large for the wide model"
    assert 0.4 * base < movement(wide, mup_scales(shapes_of(wide), shapes_of(narrow))) < 1.6 * base


def test_with_mup_what_enters_the_first_layer_of_a_wide_gemma_is_as_large_as_in_a_narrow_one():
    def gemma(hidden_dim):
        llama = widths(hidden_dim)
        shared = {f.name for f in dataclasses.fields(llama)} & {f.name for f in dataclasses.fields(GemmaConfig)}
        values = {name: getattr(llama, name) for name in shared}
        return GemmaConfig(**{**values, "head_dim": 8, "tie_word_embeddings": False})

    narrow, wide = gemma(16), gemma(64)
    ratio = embedding_multiplier(wide) / embedding_multiplier(narrow)
    assert ratio == 2 and embedding_multiplier(widths(64)) == 1
    scales = mup_scales(shapes_of(wide), shapes_of(narrow), embedding_ratio=ratio)
    assert scales.init.embedding == scales.learning_rate.embedding == 1 / 2
    assert scales.learning_rate.unembedding == 1 / 4 and scales.learning_rate.final_norm == 1


@pytest.mark.slow
def test_a_run_with_mup_is_the_base_run_at_the_base_width_and_another_beside_it(tiny_config):
    plain, same = tiny_config("plain", num_train_steps=3), tiny_config("same", num_train_steps=3)
    same = replace(same, mup_base_model=same.model)
    for config in (plain, same):
        train_lm(config)
    assert final_bits(plain.output_path)["metrics"] == final_bits(same.output_path)["metrics"]
    narrow = replace(plain.model, hidden_dim=8, num_heads=1)
    other = replace(tiny_config("other", num_train_steps=3), mup_base_model=narrow)
    train_lm(other)
    assert final_bits(plain.output_path)["metrics"] != final_bits(other.output_path)["metrics"]


@pytest.mark.parametrize(
    ("model", "base", "message"),
    [
        (replace(widths(32), tie_word_embeddings=True), replace(widths(16), tie_word_embeddings=True), "tie_word"),
        (widths(32), replace(widths(16), num_heads=1, num_kv_heads=1), "'head_dim' is 8 in the model and 16"),
        (widths(32), replace(widths(16), num_layers=2), "'layers' is 1 in the model and 2"),
        (widths(32), replace(widths(16), tie_word_embeddings=True), "other parameters"),
    ],
)
def test_a_base_model_that_differs_in_more_than_width_is_refused(model, base, message):
    with pytest.raises(ValueError, match=message):
        mup_scales(shapes_of(model), shapes_of(base))


def test_mup_and_updates_that_scale_by_themselves_exclude_each_other():
    shapes = shapes_of(widths(16))
    ones, mask = jax.tree.map(lambda _: 1.0, shapes), widths(16).weight_decay_mask(shapes)
    with pytest.raises(ValueError, match="Set consistent_rms to null"):
        MuonConfig(learning_rate=0.1).transformation(mask, ones)


def test_the_simple_config_passes_on_what_the_full_one_knows():
    simple = SimpleTrainConfig(
        train_batch_size=(ScheduleStep(0, 2), ScheduleStep(5, 8)), num_train_steps=10, learning_rate=1e-3,
        ema_beta=0.99, skip_bad_steps=True, lr_schedule="wsd", decay=2, cycles=2, rewarmup=1,
    )  # fmt: skip
    trainer, optimizer = simple.trainer(), simple.optimizer()
    assert (trainer.ema_beta, trainer.skip_bad_steps) == (0.99, SkipBadSteps())
    assert trainer.batches.offset(10) == 5 * 2 + 5 * 8
    assert isinstance(optimizer, AdamWConfig) and (optimizer.cycles, optimizer.rewarmup) == (2, 1)
