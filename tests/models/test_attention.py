"""Each implementation of attention is softmax over the allowed keys, whatever the lengths, groups and segments."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.models.attention import IMPLEMENTATIONS, cached_attention, causal_attention

jitted_attention = jax.jit(causal_attention, static_argnames=("implementation", "window", "scale", "softcap"))


def by_definition(query, key, value, segment_ids, window=None, scale=None, softcap=None):
    """One query at a time, in float64."""
    query, key, value = (np.asarray(x) for x in (query, key, value))  # indexing these is a hundred times faster
    batch, seq, kv_heads, group, head_dim = query.shape
    out = np.zeros(query.shape)
    for b, t, k, g in np.ndindex(batch, seq, kv_heads, group):
        first = 0 if window is None else max(0, t - window + 1)
        allowed = [s for s in range(first, t + 1) if segment_ids is None or segment_ids[b, s] == segment_ids[b, t]]
        scores = np.array([query[b, t, k, g].astype(float) @ key[b, s, k] for s in allowed])
        scores = scores / np.sqrt(head_dim) if scale is None else scores * scale
        scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
        weights = np.exp(scores - scores.max())
        out[b, t, k, g] = weights / weights.sum() @ value[b, allowed, k].astype(float)
    return out


def random_inputs(batch, seq, kv_heads, group, head_dim, seed=0):
    random = np.random.default_rng(seed)
    shapes = (batch, seq, kv_heads, group, head_dim), (batch, seq, kv_heads, head_dim), (batch, seq, kv_heads, head_dim)
    return [jnp.asarray(random.standard_normal(shape, np.float32)) for shape in shapes]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("kv_heads", "group", "segments"), [(2, 1, False), (1, 3, True)])
def test_attention_is_softmax_over_the_allowed_keys(implementation, kv_heads, group, segments):
    seq = 67  # two blocks, the second of three rows
    query, key, value = random_inputs(2, seq, kv_heads, group, 4)
    segment_ids = np.sort(np.random.default_rng(1).integers(0, 4, (2, seq))).astype(np.int32) if segments else None
    out = jitted_attention(query, key, value, segment_ids=segment_ids, implementation=implementation)
    np.testing.assert_allclose(out, by_definition(query, key, value, segment_ids), atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "options", [{"window": 5, "scale": 0.9, "softcap": 1.5}, {"window": 1}, {"window": 66}], ids=str
)
def test_windows_scales_and_softcaps_do_what_their_definition_says(implementation, options):
    query, key, value = random_inputs(1, 67, 1, 2, 4)
    segment_ids = (np.arange(67)[None] >= 50).astype(np.int32)
    out = jitted_attention(query, key, value, segment_ids=segment_ids, implementation=implementation, **options)
    np.testing.assert_allclose(out, by_definition(query, key, value, segment_ids, **options), atol=1e-5)
    positions = jnp.arange(67, dtype=jnp.int32)[None]
    cached = cached_attention(query, key, value, positions, **options)
    np.testing.assert_allclose(cached, by_definition(query, key, value, None, **options), atol=1e-5)


@settings(max_examples=5, deadline=None)
@given(
    seq=st.sampled_from([1, 64, 65]),
    group=st.integers(1, 2),
    seed=st.integers(0, 99),
    options=st.sampled_from([{}, {"window": 3, "softcap": 2.0}]),
)
def test_implementations_agree_and_so_do_their_gradients(seq, group, seed, options):
    inputs = random_inputs(1, seq, 2, group, 4, seed)
    segment_ids = np.sort(np.random.default_rng(seed).integers(0, 3, (1, seq))).astype(np.int32)

    @partial(jax.jit, static_argnums=1)
    @jax.grad
    def gradient(inputs, implementation):
        out = jitted_attention(*inputs, segment_ids=segment_ids, implementation=implementation, **options)
        return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum()

    expected, *others = (gradient(inputs, name) for name in IMPLEMENTATIONS)
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), other, expected)


def test_scores_too_large_for_an_exponential_are_no_trouble():
    query, key, value = (100 * x for x in random_inputs(1, 70, 1, 1, 4))
    for implementation in IMPLEMENTATIONS:
        out = jitted_attention(query, key, value, implementation=implementation)
        np.testing.assert_allclose(out, by_definition(query, key, value, None), rtol=1e-4, atol=1e-2)


def test_half_precision_stays_half_precision():
    inputs = [jnp.asarray(x, jnp.bfloat16) for x in random_inputs(1, 70, 2, 1, 8)]
    outs = [jitted_attention(*inputs, implementation=name) for name in IMPLEMENTATIONS]
    assert all(out.dtype == jnp.bfloat16 for out in outs)
    np.testing.assert_allclose(*(np.asarray(out, np.float32) for out in outs), atol=2e-2)


def test_a_cache_slot_beyond_the_query_is_not_read():
    query, key, value = random_inputs(2, 9, 2, 2, 4)
    garbage = jnp.full_like(key[:, :3], 1e9)
    positions = jnp.broadcast_to(jnp.arange(9, dtype=jnp.int32), (2, 9))
    out = cached_attention(query, *(jnp.concatenate([x, garbage], 1) for x in (key, value)), positions)
    np.testing.assert_allclose(out, by_definition(query, key, value, None), atol=1e-5)


def test_an_unknown_implementation_is_refused_by_name():
    with pytest.raises(ValueError, match="'cudnn': expected one of 'blocked', 'reference'"):
        causal_attention(*random_inputs(1, 4, 1, 1, 2), implementation="cudnn")
