"""What is particular to one architecture: sizes of known models, rotary frequencies, configs that mean nothing."""

import doctest
import math
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from marin.config import ConfigError, decode
from marin.inference import generate as generate_module
from marin.models import gemma, gemma2, gemma3, gpt2, layers, llama, mistral, mixtral, olmo2, qwen2, qwen3
from marin.models.config import LmConfig
from marin.models.gpt2 import Gpt2Config
from marin.models.llama import DefaultRotaryEmbeddingsConfig, Llama3RotaryEmbeddingsConfig, LlamaConfig

LLAMA3_8B = LlamaConfig(
    seq_len=8192, hidden_dim=4096, intermediate_dim=14336, num_heads=32, num_kv_heads=8, num_layers=32
)
GPT2_SMALL = Gpt2Config(seq_len=1024, hidden_dim=768, num_layers=12, num_heads=12)


def test_known_models_have_their_known_sizes():
    assert GPT2_SMALL.num_params(50257) == 124_439_808
    assert LLAMA3_8B.num_params(128256) == 8_030_261_248


def test_flops_of_gpt2_follow_the_full_attention_convention():
    assert GPT2_SMALL.flops_per_token(50304, 1024) == pytest.approx(854.7e6, rel=1e-4)


def test_llama3_frequencies_keep_the_fast_pairs_and_slow_the_slow_ones():
    plain = DefaultRotaryEmbeddingsConfig(theta=500_000.0).inverse_frequencies(128)
    stretched = Llama3RotaryEmbeddingsConfig().inverse_frequencies(128)
    wavelengths = 2 * math.pi / plain
    fast, slow = wavelengths < 8192 / 4, wavelengths > 8192
    np.testing.assert_array_equal(stretched[fast], plain[fast])
    np.testing.assert_allclose(stretched[slow], plain[slow] / 8, rtol=1e-6)
    between = ~fast & ~slow
    assert between.any() and (stretched[between] < plain[between]).all()
    assert (np.diff(stretched) < 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_kv_heads": 3}, "num_heads=4 must be a multiple of num_kv_heads=3"),
        ({"hidden_dim": 18}, "hidden_dim=18 is not a multiple of num_heads=4; set head_dim"),
        ({"head_dim": 5}, "heads of width 5 cannot be rotated in pairs"),
        ({"num_layers": 0}, "num_layers=0 must be at least 1"),
        ({"rope": {"type": "llama3", "low_freq_factor": 4.0, "high_freq_factor": 4.0}}, "low_freq_factor=4.0 must be"),
        ({"rope": {"type": "yarn"}}, "expected one of default, linear, llama3, got 'yarn'"),
        ({"hiden_dim": 4}, "did you mean 'hidden_dim'"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(change, message):
    fields = {"hidden_dim": 16, "intermediate_dim": 24, "num_heads": 4, "num_kv_heads": 2, "num_layers": 1}
    with pytest.raises(ConfigError, match=message):
        decode(LmConfig, {"type": "llama", "seq_len": 8} | fields | change)
    with pytest.raises(ValueError, match="hidden_dim=10 must be a multiple of num_heads=3"):
        Gpt2Config(seq_len=8, hidden_dim=10, num_layers=1, num_heads=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "mistral", "sliding_window": 0}, "sliding_window=0 must be at least 1"),
        ({"type": "qwen3", "max_window_layers": 1}, "max_window_layers=1 means nothing without sliding_window"),
        ({"type": "mixtral", "experts_per_token": 9}, "experts_per_token=9 must be from 1 to num_experts=8"),
        ({"type": "gemma3", "sliding_window_pattern": 0}, "sliding_window_pattern=0 must be at least 1"),
        ({"type": "olmo2", "hidden_dim": 18}, "hidden_dim=18 is not a multiple of num_heads=4$"),
    ],
)
def test_a_shape_of_its_family_that_cannot_be_is_refused(change, message):
    fields = {"hidden_dim": 16, "intermediate_dim": 24, "num_heads": 4, "num_kv_heads": 2, "num_layers": 1}
    with pytest.raises(ConfigError, match=message):
        decode(LmConfig, {"seq_len": 8} | fields | change)


def test_layers_of_several_kinds_scan_by_period_and_keep_their_order():
    stacked = {"w": jnp.arange(1.0, 8.0)}
    twice, plus = (lambda p, x: 2 * x + p["w"]), (lambda p, x: x + 10 * p["w"])
    each = [twice, plus, plus, twice, plus, plus, twice]  # two periods of three, and one layer over
    x = jnp.zeros((1, 1, 1))
    scanned, unrolled = (
        layers.run_layers(each, stacked, x, num_layers=7, remat="none", scan_layers=scan) for scan in (True, False)
    )
    expected = 0.0
    for index, function in enumerate(each):
        expected = function({"w": index + 1.0}, expected)
    assert float(scanned[0, 0, 0]) == float(unrolled[0, 0, 0]) == expected


def test_the_examples_in_the_docstrings_run():
    models = (llama, gpt2, qwen3, qwen2, mistral, mixtral, olmo2, gemma, gemma2, gemma3)
    for module in (*models, generate_module):
        result = doctest.testmod(module)
        assert result.attempted and not result.failed


def test_naming_a_model_loads_no_tensor_library():
    script = "import sys, marin.models.config, marin.export.api; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize(("policy", "tanhs"), [("none", 1), ("dots", 2), ("full", 2), ("attention", 2)])
def test_what_a_remat_policy_does_not_keep_is_computed_again_to_the_same_gradient(policy, tanhs):
    stacked = 0.3 * jax.random.normal(jax.random.key(0), (1, 5, 5))
    x = jax.random.normal(jax.random.key(1), (2, 3, 5))

    def total(weights, remat):
        out = layers.run_layers(lambda w, x: jnp.tanh(x @ w), weights, x, num_layers=1, remat=remat, scan_layers=False)
        return jnp.sum(out**2)

    gradient = jax.grad(total)
    np.testing.assert_allclose(gradient(stacked, policy), gradient(stacked, "none"), rtol=1e-5)
    program = str(jax.make_jaxpr(partial(gradient, remat=policy))(stacked))
    assert program.count("tanh ") == tanhs, program


def test_each_remat_policy_keeps_of_a_model_what_it_says(capsys):
    model = LlamaConfig(seq_len=8, hidden_dim=8, intermediate_dim=24, num_heads=2, num_kv_heads=2, num_layers=1)
    params, tokens = model.init(11, key=jax.random.key(0)), jnp.zeros((1, 8), jnp.int32)

    def num_kept(policy):
        print_saved_residuals(lambda params: model.hidden_states(params, tokens, remat=policy).sum(), params)
        return len(capsys.readouterr().out.splitlines())

    assert num_kept("attention") == num_kept("full") + 1 == num_kept("names:attention")
    assert num_kept("dots") == num_kept("names:projection") == num_kept("full") + 3  # qkv, output, gate with up
    assert num_kept("names:attention,projection") == num_kept("full") + 4 < num_kept("none")


def test_a_remat_policy_that_nobody_knows_is_refused_with_those_there_are():
    with pytest.raises(
        ValueError, match="unknown remat 'some': expected one of 'none', 'dots', 'attention', 'full', or"
    ):
        layers.rematerialized(lambda params, x: x, "some")


def test_layers_of_one_kind_are_traced_once_and_stand_in_the_program_as_if_each_had_been():
    num_traced = 0

    def layer(params, x):
        nonlocal num_traced
        num_traced += 1
        return jnp.tanh(x @ params)

    def once(params, x):
        return layers.run_layers(layer, params, x, num_layers=3, remat="none", scan_layers=False)

    def each(params, x):
        for matrix in layers.unstack(params, 3):
            x = layer(matrix, x)
        return x

    def program(function):
        def step(params, x):
            return jax.grad(lambda params: function(params, x).sum())(params)

        return jax.jit(step).lower(jnp.ones((3, 4, 4)), jnp.ones((2, 4))).as_text()

    text = program(once)
    assert num_traced == 1
    assert text == program(each) and num_traced == 4
