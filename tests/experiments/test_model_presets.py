"""The presets have the sizes of the models that they are named after."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from marin.models.config import LmConfig

# (preset, rows of the vocabulary, parameters). The totals are those of the published weights: what their model cards
# on the Hugging Face hub give for the safetensors files, tied embeddings counted once.
PUBLISHED = [
    ("gpt2.gpt2_small", 50257, 124_439_808),
    ("gpt2.gpt2_medium", 50257, 354_823_168),
    ("gpt2.gpt2_large", 50257, 774_030_080),
    ("gpt2.gpt2_xl", 50257, 1_557_611_200),
    ("llama.llama_3_2_1b", 128256, 1_235_814_400),
    ("llama.llama_8b", 128256, 8_030_261_248),
    ("llama.llama_8b_old_rotary", 128256, 8_030_261_248),
    ("llama.llama_70b", 128256, 70_553_706_496),
    ("qwen3.qwen3_0_6b", 151936, 596_049_920),
    ("qwen3.qwen3_1_7b", 151936, 1_720_574_976),
    ("qwen3.qwen3_4b", 151936, 4_022_468_096),
    ("qwen3.qwen3_8b", 151936, 8_190_735_360),
    ("qwen3.qwen3_14b", 151936, 14_768_307_200),
    ("qwen3.qwen3_32b", 151936, 32_762_123_264),
    ("qwen2.qwen2_0_5b", 151936, 494_032_768),
    ("qwen2.qwen2_1_5b", 151936, 1_543_714_304),
    ("qwen2.qwen2_7b", 152064, 7_615_616_512),
    ("qwen2.qwen2_72b", 152064, 72_706_203_648),
    ("mistral.mistral_7b", 32000, 7_241_732_096),
    ("mixtral.mixtral_8x7b", 32000, 46_702_792_704),
    ("olmo2.olmo2_1b", 100352, 1_484_916_736),
    ("olmo2.olmo2_7b", 100352, 7_298_617_344),
    ("olmo2.olmo2_13b", 100352, 13_716_198_400),
    ("olmo2.olmo2_32b", 100352, 32_234_279_936),
    ("gemma.gemma_2b", 256000, 2_506_172_416),
    ("gemma.gemma_7b", 256000, 8_537_680_896),
    ("gemma2.gemma2_2b", 256000, 2_614_341_888),
    ("gemma2.gemma2_9b", 256000, 9_241_705_984),
    ("gemma2.gemma2_27b", 256000, 27_227_128_320),
    ("gemma3.gemma3_270m", 262144, 268_098_176),
    ("gemma3.gemma3_1b", 262144, 999_885_952),
]

# Our own shapes, by the size in their names; with the Llama 3 vocabulary, which is most of the smallest.
NAMED = {
    "llama_50m": 50e6,
    "llama_75m": 75e6,
    "llama_150m": 150e6,
    "llama_300m": 300e6,
    "llama_600m": 600e6,
    "llama_1_4b": 1.4e9,
    "llama_1_9b": 1.9e9,
    "llama_3_5b": 3.5e9,
    "llama_13b": 13e9,
    "llama_24b": 24e9,
    "llama_32b": 32e9,
    "llama_56b": 56e9,
}


@pytest.fixture
def preset(repository: Path, monkeypatch):
    """A preset by `module.name`."""
    monkeypatch.syspath_prepend(str(repository))

    def load(name: str) -> LmConfig:
        module, _, attribute = name.partition(".")
        return getattr(importlib.import_module(f"experiments.models.{module}"), attribute)

    return load


@pytest.mark.parametrize(("name", "vocab_size", "num_params"), PUBLISHED)
def test_a_preset_has_as_many_parameters_as_the_published_model(preset, name, vocab_size, num_params):
    assert preset(name).num_params(vocab_size) == num_params


@pytest.mark.parametrize("name", NAMED)
def test_a_shape_of_our_own_has_the_size_in_its_name(preset, name):
    config = preset(f"llama.{name}")
    assert config.num_params(128256) == pytest.approx(NAMED[name], rel=0.06)


def test_the_old_rotary_differs_in_nothing_else(preset):
    new, old = preset("llama.llama_8b"), preset("llama.llama_8b_old_rotary")
    assert new != old and replace(new, rope=old.rope) == old
