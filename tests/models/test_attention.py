"""Each implementation of attention is softmax over the allowed keys, whatever the lengths, groups and segments."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.models.attention import IMPLEMENTATIONS, cached_attention, causal_attention

HERE = [name for name in IMPLEMENTATIONS if name != "cudnn" or jax.default_backend() == "gpu"]
WITH_SOFTCAP = ["blocked", "reference"]

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


@pytest.mark.parametrize("implementation", HERE)
@pytest.mark.parametrize(("kv_heads", "group", "segments"), [(2, 1, False), (1, 3, True)])
def test_attention_is_softmax_over_the_allowed_keys(implementation, kv_heads, group, segments):
    seq = 67  # two blocks, the second of three rows
    query, key, value = random_inputs(2, seq, kv_heads, group, 4)
    segment_ids = np.sort(np.random.default_rng(1).integers(0, 4, (2, seq))).astype(np.int32) if segments else None
    out = jitted_attention(query, key, value, segment_ids=segment_ids, implementation=implementation)
    np.testing.assert_allclose(out, by_definition(query, key, value, segment_ids), atol=1e-5)


@pytest.mark.parametrize(
    ("implementation", "options"),
    [
        *((name, {"window": 5, "scale": 0.9, "softcap": 1.5}) for name in WITH_SOFTCAP),
        *((name, options) for name in HERE for options in ({"window": 1, "scale": 0.9}, {"window": 66})),
    ],
    ids=str,
)
def test_windows_scales_and_softcaps_do_what_their_definition_says(implementation, options):
    query, key, value = random_inputs(1, 67, 1, 2, 4)
    segment_ids = (np.arange(67)[None] >= 50).astype(np.int32)
    out = jitted_attention(query, key, value, segment_ids=segment_ids, implementation=implementation, **options)
    np.testing.assert_allclose(out, by_definition(query, key, value, segment_ids, **options), atol=1e-5)
    positions = jnp.arange(67, dtype=jnp.int32)[None]
    cached = cached_attention(query, *(jnp.swapaxes(x, 1, 2) for x in (key, value)), positions, **options)
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

    names = WITH_SOFTCAP if "softcap" in options else HERE
    expected, *others = (gradient(inputs, name) for name in names)
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), other, expected)


def test_scores_too_large_for_an_exponential_are_no_trouble():
    query, key, value = (100 * x for x in random_inputs(1, 70, 1, 1, 4))
    for implementation in HERE:
        out = jitted_attention(query, key, value, implementation=implementation)
        np.testing.assert_allclose(out, by_definition(query, key, value, None), rtol=1e-4, atol=1e-2)


def test_half_precision_stays_half_precision():
    inputs = [jnp.asarray(x, jnp.bfloat16) for x in random_inputs(1, 70, 2, 1, 8)]
    outs = [jitted_attention(*inputs, implementation=name) for name in HERE]
    assert all(out.dtype == jnp.bfloat16 for out in outs)
    first, *others = (np.asarray(out, np.float32) for out in outs)
    for other in others:
        np.testing.assert_allclose(other, first, atol=2e-2)


@pytest.mark.parametrize("implementation", HERE)
@pytest.mark.parametrize("window", [None, 6])
def test_packed_sequences_are_attended_to_as_if_each_stood_alone(implementation, window):
    query, key, value = random_inputs(1, 70, 2, 2, 8)
    segment_ids = np.repeat([0, 1, 2], [17, 1, 52])[None].astype(np.int32)
    packed = jitted_attention(query, key, value, segment_ids=segment_ids, implementation=implementation, window=window)
    for segment in range(3):
        places = np.flatnonzero(segment_ids[0] == segment)
        alone = jitted_attention(
            *(x[:, places] for x in (query, key, value)), implementation=implementation, window=window
        )
        np.testing.assert_allclose(packed[:, places], alone, atol=1e-5)


def test_a_cache_slot_beyond_the_query_is_not_read():
    query, key, value = random_inputs(2, 9, 2, 2, 4)
    garbage = jnp.full_like(key[:, :3], 1e9)
    positions = jnp.broadcast_to(jnp.arange(9, dtype=jnp.int32), (2, 9))
    slots = (jnp.swapaxes(jnp.concatenate([x, garbage], 1), 1, 2) for x in (key, value))
    out = cached_attention(query, *slots, positions)
    np.testing.assert_allclose(out, by_definition(query, key, value, None), atol=1e-5)


def test_an_unknown_implementation_is_refused_by_name():
    with pytest.raises(ValueError, match="'flash': expected one of 'blocked', 'cudnn', 'reference', 'xla'"):
        causal_attention(*random_inputs(1, 4, 1, 1, 2), implementation="flash")


def test_an_implementation_that_cannot_run_here_is_refused_and_not_replaced():
    inputs = random_inputs(1, 4, 1, 1, 8)
    refusal = "takes bfloat16 or float16, got float32" if "cudnn" in HERE else "runs on NVIDIA GPUs, and this is 'cpu'"
    with pytest.raises(ValueError, match=f"'cudnn' {refusal}"):
        causal_attention(*inputs, implementation="cudnn")
    for library in ("cudnn", "xla"):
        with pytest.raises(ValueError, match=f"'{library}' has no softcap, and this model has 2.0. Take 'blocked'"):
            causal_attention(*inputs, implementation=library, softcap=2.0)
