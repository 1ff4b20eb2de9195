"""What is particular to one architecture: sizes of known models, rotary frequencies, configs that mean nothing."""

import doctest
import math
import subprocess
import sys

import numpy as np
import pytest

from marin.config import ConfigError, decode
from marin.inference import generate as generate_module
from marin.models import gpt2, llama
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


def test_the_examples_in_the_docstrings_run():
    for module in (llama, gpt2, generate_module):
        result = doctest.testmod(module)
        assert result.attempted and not result.failed


def test_naming_a_model_loads_no_tensor_library():
    script = "import sys, marin.models.config, marin.export.api; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"
