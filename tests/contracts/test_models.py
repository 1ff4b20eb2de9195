"""What every architecture promises. A new one adds a line to MODELS."""

from dataclasses import is_dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin.config import decode, encode
from marin.evaluation.engine import Engine
from marin.evaluation.packing import Scored, plan
from marin.models.config import LmConfig
from marin.models.gemma import GemmaConfig
from marin.models.gemma2 import Gemma2Config
from marin.models.gemma3 import Gemma3Config
from marin.models.gpt2 import Gpt2Config
from marin.models.llama import Llama3RotaryEmbeddingsConfig, LlamaConfig
from marin.models.lm import logits, token_log_probs, unembed
from marin.models.mistral import MistralConfig
from marin.models.mixtral import MixtralConfig
from marin.models.olmo2 import Olmo2Config
from marin.models.qwen2 import Qwen2Config
from marin.models.qwen3 import Qwen3Config

VOCAB = 61
SEQ = 70  # two blocks of the blocked attention, the second one ragged
SHAPE = {"seq_len": 160, "hidden_dim": 24, "intermediate_dim": 40, "num_heads": 4, "num_kv_heads": 2}
MODELS = {
    "llama": LlamaConfig(seq_len=160, hidden_dim=24, intermediate_dim=40, num_heads=4, num_kv_heads=4, num_layers=2),
    "llama grouped, tied, llama3 rope, wide heads": LlamaConfig(
        seq_len=160,
        hidden_dim=24,
        intermediate_dim=40,
        num_heads=4,
        num_kv_heads=2,
        num_layers=2,
        head_dim=10,
        tie_word_embeddings=True,
        rope=Llama3RotaryEmbeddingsConfig(theta=1000.0, factor=4.0, original_max_position_embeddings=16),
    ),
    "llama, norms behind and of embeddings": LlamaConfig(
        **SHAPE, num_layers=2, hybrid_norm=True, input_embedding_norm=True
    ),
    "gpt2": Gpt2Config(seq_len=160, hidden_dim=24, num_heads=3, num_layers=2, intermediate_dim=40),
    "qwen3": Qwen3Config(**SHAPE, num_layers=2, head_dim=10),
    "qwen2, window in the last layer": Qwen2Config(**SHAPE, num_layers=2, sliding_window=9, max_window_layers=1),
    "mistral with a window": MistralConfig(**SHAPE, num_layers=2, sliding_window=9),
    "mixtral": MixtralConfig(**SHAPE, num_layers=2, num_experts=4),
    "olmo2": Olmo2Config(**SHAPE, num_layers=2),
    "gemma": GemmaConfig(**SHAPE, num_layers=2, head_dim=8),
    "gemma2": Gemma2Config(**SHAPE, num_layers=2, head_dim=8, sliding_window=9, attention_logit_softcap=2.0),
    "gemma3, a period and a half": Gemma3Config(
        **SHAPE, num_layers=3, head_dim=8, sliding_window=9, sliding_window_pattern=2
    ),
}

OFFSETS_FROM_ONE = (GemmaConfig, Gemma2Config, Gemma3Config)  # what the weights of their norms are

# Tests that compile several programs take these in `make test`, all in `make test-all`: one of each kind of attention.
FEW = (
    "gpt2",
    "llama grouped, tied, llama3 rope, wide heads",
    "mistral with a window",
    "mixtral",
    "gemma2",
)
compiles_much = pytest.mark.parametrize(
    "config",
    [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
    indirect=True,
    scope="module",
)

# Compiling is most of what these tests cost, so they share few functions and shapes.
jitted_init = jax.jit(lambda config, key, vocab_size: config.init(vocab_size, key=key), static_argnums=(0, 2))
jitted_logits = jax.jit(
    logits, static_argnums=0, static_argnames=("remat", "scan_layers", "compute_dtype", "attention")
)
jitted_log_probs = jax.jit(token_log_probs, static_argnums=0)
jitted_cached = jax.jit(lambda config, *args, **kw: config.hidden_states_cached(*args, **kw), static_argnums=0)


def jittered(params):
    """The weights without the zeros and ones of an initialization, which would hide a bias or a norm left out."""
    random = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x) + 0.2 * random.standard_normal(x.shape, np.float32)), params
    )


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly():
    """Programs of this module run once or twice, so optimizing them would cost more than it gives."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(params=MODELS, scope="module")
def config(request) -> LmConfig:
    return MODELS[request.param]


@pytest.fixture(scope="module")
def params(config):
    return jittered(jitted_init(config, jax.random.key(0), VOCAB))


def random_tokens(batch: int, seq: int, seed: int = 2) -> jax.Array:
    return jax.random.randint(jax.random.key(seed), (batch, seq), 0, VOCAB)


def test_a_model_is_a_config_that_survives_yaml(config):
    assert isinstance(config, LmConfig)
    assert decode(LmConfig, encode(config)) == config
    assert hash(config) == hash(decode(LmConfig, encode(config)))


@compiles_much
def test_logits_are_float32_of_batch_seq_vocab(config, params):
    tokens = random_tokens(2, SEQ)
    out = jitted_logits(config, params, tokens)
    assert out.shape == (2, SEQ, VOCAB) and out.dtype == jnp.float32
    half = jitted_logits(config, params, tokens, compute_dtype="bfloat16")
    assert half.dtype == jnp.float32
    off = jnp.abs(half - out).max(axis=(0, 2))
    if isinstance(config, MixtralConfig):  # rounding sends some token to another expert, which is no small change
        off = off[off < jnp.quantile(off, 0.8)]
    assert 0 < off.max() < 0.1 * jnp.abs(out).max()


def test_num_params_is_exact(config, params):
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == config.num_params(VOCAB)


def test_initial_weights_have_the_stated_spread(config):
    params, other = (jax.device_get(jitted_init(config, jax.random.key(seed), VOCAB)) for seed in (3, 4))
    other = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(other)}
    for path, leaf in jax.tree.leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        assert leaf.dtype == np.float32
        if leaf.ndim - ("layers" in name) <= 1 or "bias" in name:
            assert (leaf == (0 if "bias" in name or isinstance(config, OFFSETS_FROM_ONE) else 1)).all(), name
            continue
        scale = config.initializer_range
        if isinstance(config, Gpt2Config) and ("attention_out" in name or "down" in name):
            scale /= np.sqrt(2 * config.num_layers)
        assert abs(float(leaf.mean())) < 5 * scale / np.sqrt(leaf.size), name
        assert float(leaf.std()) == pytest.approx(scale, rel=4 / np.sqrt(leaf.size)), name
        assert not (leaf == other[name]).all(), name


def test_an_untrained_model_knows_nothing(config):
    params = jitted_init(config, jax.random.key(3), VOCAB)
    mean = jitted_log_probs(config, params, random_tokens(8, SEQ), random_tokens(8, SEQ, seed=3)).mean()
    assert float(mean) == pytest.approx(-np.log(VOCAB), abs=0.1)


def test_log_probs_are_the_log_softmax_of_the_logits_at_the_targets(config, params):
    tokens, targets = random_tokens(8, SEQ), random_tokens(8, SEQ, seed=3)  # more than one chunk, the last one ragged
    expected = jax.nn.log_softmax(jitted_logits(config, params, tokens))
    expected = jnp.take_along_axis(expected, targets[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(jitted_log_probs(config, params, tokens, targets), expected, atol=2e-5)


def test_the_future_changes_nothing(config, params):
    cuts = (1, 35, 63, 65)
    tokens = random_tokens(1, SEQ)
    changed = [tokens.at[:, cut:].set((tokens[:, cut:] + 1) % VOCAB) for cut in cuts]
    out, *others = np.asarray(jitted_logits(config, params, jnp.concatenate([tokens, *changed])))
    for cut, other in zip(cuts, others, strict=True):
        np.testing.assert_array_equal(out[:cut], other[:cut])
        assert (out[cut:] != other[cut:]).any(axis=-1).all()


@compiles_much
def test_packed_documents_score_as_they_do_alone(config, params):
    lengths = (3, 46, 1, 20)
    tokens = np.asarray(random_tokens(1, SEQ))
    segments = np.repeat([4, 1, 7, 2], lengths)[None]
    positions = np.concatenate([np.arange(n) for n in lengths])[None]
    ends = np.cumsum(lengths)
    alone = np.zeros((len(lengths), SEQ), np.int32)  # each document at the start of its own row
    for row, end, length in zip(alone, ends, lengths, strict=True):
        row[:length] = tokens[0, end - length : end]
    expected = jitted_logits(config, params, alone)
    expected = jnp.concatenate([row[:length] for row, length in zip(expected, lengths, strict=True)])
    naive = replace(config, use_flash_attention=False)
    for way, where in ((config, None), (naive, positions)):
        packed = jitted_logits(way, params, tokens, segment_ids=segments, positions=where)[0]
        np.testing.assert_allclose(packed, expected, atol=2e-5)


@compiles_much
def test_every_way_to_run_it_gives_the_same_logits(config, params):
    tokens = random_tokens(2, SEQ)
    expected = jitted_logits(config, params, tokens)
    naive = replace(config, use_flash_attention=False)
    np.testing.assert_allclose(jitted_logits(naive, params, tokens), expected, atol=2e-5)
    scanned = jitted_logits(config, params, tokens, scan_layers=True, remat="full")
    np.testing.assert_allclose(scanned, expected, atol=2e-5)
    if getattr(config, "attention_logit_softcap", None) is None:  # which the library's attention lacks
        by_library = jitted_logits(config, params, tokens, attention="xla")
        np.testing.assert_allclose(by_library, expected, atol=2e-5)


@compiles_much
def test_the_cache_gives_what_recomputing_gives(config, params):
    tokens = random_tokens(2, SEQ)
    expected = jitted_logits(config, params, tokens)
    cache = config.init_cache(2, 48)
    start = 0
    for length in (17, 1, 1, 17, 1):
        positions = np.broadcast_to(np.arange(start, start + length), (2, length))
        states, cache = jitted_cached(config, params, tokens[:, start : start + length], cache, positions=positions)
        out = unembed(states, config.unembedding(params), config.final_logit_softcap)
        np.testing.assert_allclose(out, expected[:, start : start + length], atol=2e-5)
        start += length


def test_rows_of_a_cache_may_be_at_different_positions(config, params):
    tokens = np.asarray(random_tokens(2, SEQ))
    expected = jitted_logits(config, params, tokens)
    # Row 1 begins with six tokens and eleven of padding, whose slots are overwritten before anything may read them.
    prompt = tokens[:, :17].copy()
    prompt[1, 6:] = 0
    positions = np.broadcast_to(np.arange(17), (2, 17))
    _, cache = jitted_cached(config, params, prompt, config.init_cache(2, 48), positions=positions)
    for offset in range(8):
        where = np.array([[17 + offset], [6 + offset]])
        given = np.take_along_axis(tokens, where, axis=1)
        states, cache = jitted_cached(config, params, given, cache, positions=where)
        out = unembed(states[:, 0], config.unembedding(params), config.final_logit_softcap)
        np.testing.assert_allclose(out, expected[np.arange(2), where[:, 0]], atol=2e-5)


@compiles_much
def test_gradients_are_those_of_finite_differences(config, params):
    tokens, targets = random_tokens(2, SEQ), random_tokens(2, SEQ, seed=3)
    segments = (jnp.arange(SEQ)[None] >= jnp.array([[25], [SEQ]])).astype(jnp.int32)
    if isinstance(config, MixtralConfig):  # where a token changes its experts the loss jumps, and has no slope
        config = replace(config, experts_per_token=config.num_experts)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        return -token_log_probs(config, params, tokens, targets, segment_ids=segments).mean()

    _, gradient = jax.device_get(loss(params))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    assert all((g != 0).any() for g in jax.tree.leaves(gradient))
    # along the gradient itself the slope is its squared norm
    squared = sum(float(np.vdot(g, g)) for g in jax.tree.leaves(gradient))
    step = 1e-2 / squared
    ahead, behind = (jax.tree.map(lambda p, g, s=s: p + s * step * g, params, gradient) for s in (1, -1))
    assert float(loss(ahead)[0] - loss(behind)[0]) / (2 * step) == pytest.approx(squared, rel=2e-2)


def test_one_shape_compiles_once(config):
    traces = []

    @jax.jit
    def run(params, tokens):
        traces.append(None)
        return logits(config, params, tokens)

    for seed in range(3):
        run(jitted_init(config, jax.random.key(seed), VOCAB), random_tokens(2, 9, seed=seed))
    assert len(traces) == 1


def test_weight_decay_falls_on_matrices_only(config, params):
    mask = config.weight_decay_mask(params)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    for (path, decays), leaf in zip(jax.tree.leaves_with_path(mask), jax.tree.leaves(params), strict=True):
        name = jax.tree_util.keystr(path)
        is_vector = leaf.ndim - ("layers" in name) <= 1 or "bias" in name
        embeds = name in (".embedding", ".position_embedding")
        assert decays == (not is_vector and not embeds), name


def test_parameters_are_frozen_dataclasses_with_layers_stacked(config, params):
    assert is_dataclass(params) and params.__dataclass_params__.frozen
    assert is_dataclass(params.layers)
    for leaf in jax.tree.leaves(params.layers):
        assert leaf.shape[0] == config.num_layers


def test_a_sequence_longer_than_the_model_is_refused(config, params):
    with pytest.raises(ValueError, match="161 tokens does not fit a model with seq_len=160"):
        config.hidden_states(params, random_tokens(1, 161))
    with pytest.raises(ValueError, match="a cache of 200 tokens"):
        config.init_cache(1, 200)


def test_flops_count_the_matrices_and_the_attention(config):
    per_token = config.flops_per_token(VOCAB, 100)
    more_vocabulary = config.flops_per_token(VOCAB + 1, 100) - per_token
    assert more_vocabulary == 6 * config.hidden_dim
    longer = config.flops_per_token(VOCAB, 101) - per_token
    head_dim = getattr(config, "head_dim", None) or config.hidden_dim // config.num_heads
    windows = getattr(config, "attention_windows", (None,) * config.num_layers)
    assert longer == 12 * windows.count(None) * config.num_heads * head_dim
    assert config.flops_per_token(VOCAB, 3) < config.flops_per_token(VOCAB, 4)  # no window is as short


def test_a_window_hides_what_is_further_back(config):
    windows = getattr(config, "attention_windows", (None,))
    if None in windows:
        pytest.skip("a layer without a window sees everything")
    reach = sum(window - 1 for window in windows)  # places back, through all layers
    params, tokens = jittered(jitted_init(config, jax.random.key(0), VOCAB)), random_tokens(2, SEQ)
    tokens = tokens.at[1].set(tokens[0]).at[1, 5].set((tokens[0, 5] + 1) % VOCAB)
    one, other = np.asarray(jitted_logits(config, params, tokens))
    assert (one[5 : 5 + reach + 1] != other[5 : 5 + reach + 1]).any(axis=-1).all()
    np.testing.assert_allclose(one[5 + reach + 1 :], other[5 + reach + 1 :], atol=1e-6)


def requests_of_questions() -> list[Scored]:
    """Questions behind the same examples, each with several choices, and texts that share nothing."""
    rng = np.random.default_rng(0)
    examples = rng.integers(0, VOCAB, 40)
    wholes = [
        (np.concatenate([context, rng.integers(0, VOCAB, size)]), size)
        for context in [np.concatenate([examples, rng.integers(0, VOCAB, 4 + number % 20)]) for number in range(80)]
        for size in (1, 1, 4)
    ]
    wholes += [(rng.integers(0, VOCAB, size), size - 1) for size in (2, 30, SEQ, SEQ)]
    return [
        Scored(tokens=whole[:-1].astype(np.int32), targets=whole[-asked:].astype(np.int32)) for whole, asked in wholes
    ]


@compiles_much
def test_packed_requests_score_as_one_at_a_time(config, params):
    requests = requests_of_questions()
    planned = plan(requests, row_len=128, num_rows=1)
    assert {len(group.prefix) for group in planned} == {0, 40}, "both ways are to be seen here"
    scored = Engine(config=config, params=params, tokens_per_batch=128).score(requests)
    tokens = np.stack([np.pad(request.tokens, (0, SEQ - len(request.tokens))) for request in requests])
    expected = np.asarray(jitted_logits(config, params, tokens), np.float64)
    for request, (log_probs, greedy), row in zip(requests, scored, expected, strict=True):
        end, asked = len(request.tokens), len(request.targets)
        row = row[end - asked : end]
        chosen = row[np.arange(asked), request.targets]
        np.testing.assert_allclose(log_probs, chosen - np.log(np.exp(row).sum(axis=-1)), atol=1e-4)
        assert greedy.tolist() == (row.argmax(axis=-1) == request.targets).tolist()
