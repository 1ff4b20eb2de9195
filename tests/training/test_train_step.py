"""One step: microbatches are the batch, masks are exact, and equal inputs give equal bits."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin.models.llama import LlamaConfig
from marin.optim.adamw import AdamWConfig
from marin.training.config import TrainerConfig
from marin.training.state import init_state, state_shapes
from marin.training.train_step import METRICS, DeviceBatch, loss_gradient, make_train_step

VOCAB = 17
MODEL = LlamaConfig(seq_len=8, hidden_dim=8, intermediate_dim=12, num_heads=2, num_kv_heads=1, num_layers=1)
OPTIMIZER = AdamWConfig(learning_rate=1e-2, warmup=2)


def transformation():
    shapes = jax.eval_shape(lambda: MODEL.init(VOCAB, key=jax.random.key(0)))
    return OPTIMIZER.transformation(MODEL.weight_decay_mask(shapes))


def random_batch(seed, rows=4):
    rng = np.random.default_rng(seed)
    return DeviceBatch(
        tokens=rng.integers(0, VOCAB, (rows, 8)).astype(np.int32),
        targets=rng.integers(0, VOCAB, (rows, 8)).astype(np.int32),
        # rows of very different weight: a mean of means would be far off
        loss_weights=(rng.random((rows, 8)) < np.linspace(0.1, 1, rows)[:, None]).astype(np.float32),
        segment_ids=np.sort(rng.integers(0, 2, (rows, 8)), axis=1).astype(np.int32),
    )


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


class Float64Model(LlamaConfig):
    """The smallest forward, in float64 throughout: real models take norms in float32. The rest is never asked for."""

    def hidden_states(self, params, tokens, *, segment_ids, compute_dtype, remat):
        del remat
        mixed = jnp.tanh(params["embedding"][tokens] @ params["matrix"] + segment_ids[..., None])
        return mixed.astype(compute_dtype)

    def unembedding(self, params):
        return params["embedding"].T


def test_one_batch_equals_its_microbatches_with_masks_in_float64():
    rng = np.random.default_rng(0)
    batch = random_batch(1)
    with jax.enable_x64(True):
        params = {"embedding": jnp.asarray(rng.normal(size=(VOCAB, 6))), "matrix": jnp.asarray(rng.normal(size=(6, 6)))}
        model = Float64Model(**dataclasses.asdict(MODEL) | {"rope": MODEL.rope})
        options = {"compute_dtype": jnp.float64, "z_loss_weight": 1e-2}
        gradient = jax.jit(partial(loss_gradient, model, **options), static_argnames="num_microbatches")
        whole, whole_sums = gradient(params, batch)
        for num_microbatches in (2, 4):
            parts, sums = gradient(params, batch, num_microbatches=num_microbatches)
            np.testing.assert_allclose(sums, whole_sums, rtol=1e-14)
            for found, expected in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
                assert found.dtype == jnp.float64
                np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
        # the trap: a mean over microbatches of their own means is another number, since rows differ in weight
        means = [
            gradient(params, jax.tree.map(lambda a, i=i: a[i : i + 1], batch))[1].nll / batch.loss_weights[i].sum()
            for i in range(4)
        ]
        assert abs(float(np.mean(means) - whole_sums.nll / batch.loss_weights.sum())) > 1e-2


def test_a_step_takes_one_batch_or_its_microbatches_to_nearly_the_same_place():
    steps = [make_train_step(MODEL, transformation(), max_grad_norm=1.0, num_microbatches=n) for n in (1, 4)]
    results = [step(init_state(MODEL, transformation(), VOCAB, seed=0), random_batch(0), 1e-2) for step in steps]
    (one, one_metrics), (four, four_metrics) = results
    np.testing.assert_allclose(one_metrics, four_metrics, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(four.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_equal_inputs_give_equal_bits():
    def run():
        step = make_train_step(MODEL, transformation(), max_grad_norm=1.0, z_loss_weight=1e-4)
        state = init_state(MODEL, transformation(), VOCAB, seed=3)
        for i in range(3):
            state, metrics = step(state, random_batch(i), 1e-2)
        return bits((state, metrics))

    assert run() == run()


def test_the_numbers_returned_are_means_over_the_weighted_tokens():
    batch = random_batch(1)
    params = init_state(MODEL, transformation(), VOCAB, seed=0).params
    gradient, sums = jax.jit(partial(loss_gradient, MODEL, z_loss_weight=0.1))(params, batch)
    step = make_train_step(MODEL, transformation(), max_grad_norm=1e-3, z_loss_weight=0.1)
    _, metrics = step(init_state(MODEL, transformation(), VOCAB, seed=0), batch, 1e-2)
    found = dict(zip(METRICS, np.asarray(metrics).tolist(), strict=True))
    weight = batch.loss_weights.sum()
    norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(gradient))) / weight
    assert found["train/loss"] == pytest.approx(float(sums.nll) / weight, rel=1e-5)
    assert found["train/total_loss"] == pytest.approx(float(sums.total) / weight, rel=1e-5)
    assert found["train/grad_norm"] == pytest.approx(float(norm), rel=1e-4)


def test_the_loss_falls_on_a_batch_seen_again_and_again():
    step = make_train_step(MODEL, transformation(), max_grad_norm=1.0)
    state, losses = init_state(MODEL, transformation(), VOCAB, seed=0), []
    for _ in range(30):
        state, metrics = step(state, random_batch(0), 1e-2)
        losses.append(float(metrics[0]))
    assert losses[-1] < 0.5 * losses[0]


def test_a_batch_of_padding_gives_no_nan():
    step = make_train_step(MODEL, transformation(), max_grad_norm=1.0)
    batch = random_batch(0)._replace(loss_weights=np.zeros((4, 8), np.float32))
    state, metrics = step(init_state(MODEL, transformation(), VOCAB, seed=0), batch, 1e-2)
    assert np.asarray(metrics).tolist() == [0.0, 0.0, 0.0]
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state))


def test_bfloat16_computes_coarsely_and_keeps_float32_parameters():
    batch = random_batch(2)
    fine = make_train_step(MODEL, transformation(), max_grad_norm=1.0)
    coarse = make_train_step(MODEL, transformation(), max_grad_norm=1.0, compute_dtype=jnp.bfloat16, remat="full")
    _, metrics = fine(init_state(MODEL, transformation(), VOCAB, seed=0), batch, 1e-2)
    state, coarse_metrics = coarse(init_state(MODEL, transformation(), VOCAB, seed=0), batch, 1e-2)
    np.testing.assert_allclose(metrics, coarse_metrics, rtol=2e-2)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


def test_a_policy_that_nobody_knows_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="unknown remat 'some': expected one of 'none', 'dots', 'attention', 'full'"):
        TrainerConfig(num_train_steps=1, train_batch_size=1, seed=0, remat="some")


def test_the_shapes_a_checkpoint_is_loaded_into_are_those_of_a_fresh_state():
    fresh = init_state(MODEL, transformation(), VOCAB, seed=0)
    shapes = state_shapes(MODEL, transformation(), VOCAB)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), fresh) == jax.tree.map(lambda s: (s.shape, s.dtype), shapes)
