"""The fused loss is the plain formula, and its gradient is what autodiff makes of that formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.training.loss import next_token_loss


def plain_sums(states, unembedding, targets, weights, z_loss_weight, softcap=None):
    """The formula of the module, all logits at once."""
    logits = (states @ unembedding).astype(jnp.promote_types(states.dtype, jnp.float32))
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    log_z = jnp.log(jnp.sum(jnp.exp(logits), axis=-1))
    nll = log_z - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.sum(weights * (nll + z_loss_weight * log_z**2)), jnp.sum(weights * nll)


def inputs(seed, batch=2, seq=9, hidden=4, vocab=11, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(batch, seq, hidden)).astype(dtype),
        rng.normal(size=(hidden, vocab)).astype(dtype),
        rng.integers(0, vocab, size=(batch, seq)).astype(np.int32),
        rng.integers(0, 2, size=(batch, seq)).astype(dtype),
    )


@settings(max_examples=8)
@given(
    seed=st.integers(0, 1000),
    chunk=st.sampled_from([1, 4, 6, 18, 64]),
    z=st.sampled_from([0.0, 0.3]),
    cap=st.sampled_from([None, 1.5]),
    multiple=st.sampled_from([1, 8]),  # 8 fills a vocabulary of 11 up to 16
)
def test_sums_and_gradients_equal_the_formula_in_float64(seed, chunk, z, cap, multiple):
    with jax.enable_x64(True):
        states, unembedding, targets, weights = inputs(seed)

        def fused(states, unembedding):
            sums = next_token_loss(
                *(states, unembedding, targets, weights),
                z_loss_weight=z,
                logit_softcap=cap,
                chunk_tokens=chunk,
                vocab_multiple=multiple,
            )
            return sums.total, sums.nll

        def plain(states, unembedding):
            return plain_sums(states, unembedding, targets, weights, z, cap)

        (total, nll), gradients = jax.value_and_grad(fused, (0, 1), has_aux=True)(states, unembedding)
        (plain_total, plain_nll), plain_gradients = jax.value_and_grad(plain, (0, 1), has_aux=True)(states, unembedding)
        assert total.dtype == jnp.float64
        np.testing.assert_allclose([total, nll], [plain_total, plain_nll], rtol=1e-12)
        for found, expected in zip(gradients, plain_gradients, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(fused(states, unembedding), (plain_total, plain_nll), rtol=1e-12)


def test_in_float32_it_stays_close_and_in_bfloat16_sums_are_float32():
    states, unembedding, targets, weights = inputs(3, batch=4, seq=32, hidden=16, vocab=50, dtype=np.float32)
    expected = float(plain_sums(*(a.astype(np.float64) for a in (states, unembedding)), targets, weights, 1e-3)[0])
    total, _ = next_token_loss(states, unembedding, targets, weights, z_loss_weight=1e-3)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    coarse = next_token_loss(jnp.asarray(states, jnp.bfloat16), unembedding, targets, weights, z_loss_weight=1e-3)
    assert coarse.total.dtype == jnp.float32
    assert float(coarse.total) == pytest.approx(expected, rel=2e-2)


def test_logits_kept_in_bfloat16_move_the_loss_by_less_than_their_rounding():
    states, unembedding, targets, weights = (jnp.asarray(a) for a in inputs(3, seq=300, hidden=8, dtype=np.float32))
    states = states.astype(jnp.bfloat16)

    def nll(logits_dtype):
        sums = next_token_loss(states, unembedding, targets, weights, logits_dtype=logits_dtype, vocab_multiple=128)
        assert sums.nll.dtype == jnp.float32
        return sums.nll / weights.sum()

    wide, narrow = nll(jnp.float32), nll(jnp.bfloat16)
    largest_logit = jnp.abs(states.astype(jnp.float32) @ unembedding).max()
    assert wide != narrow
    assert abs(wide - narrow) < 2**-9 * largest_logit  # half a unit in the last place of bfloat16


def test_a_scaled_loss_has_a_scaled_gradient():
    states, unembedding, targets, weights = inputs(4, dtype=np.float32)

    def loss(states, scale):
        return scale * next_token_loss(states, unembedding, targets, weights).total

    np.testing.assert_allclose(jax.grad(loss)(states, 3.0), 3.0 * jax.grad(loss)(states, 1.0), rtol=1e-6)


def test_tokens_of_weight_zero_change_nothing():
    states, unembedding, targets, weights = inputs(5, dtype=np.float32)
    other = np.where(weights == 0, (targets + 1) % 11, targets)
    assert next_token_loss(states, unembedding, targets, weights) == next_token_loss(
        states, unembedding, other, weights
    )


def test_large_logits_do_not_overflow():
    states, unembedding, targets, weights = inputs(6, dtype=np.float32)
    sums = next_token_loss(states * 1e4, unembedding, targets, weights)
    gradient = jax.grad(lambda s: next_token_loss(s, unembedding, targets, weights).total)(states * 1e4)
    assert np.isfinite(float(sums.total)) and np.isfinite(np.asarray(gradient)).all()
