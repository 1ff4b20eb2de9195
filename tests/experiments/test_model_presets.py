"""The presets have the sizes of the models that they are named after."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from marin.models.config import LmConfig

# (preset, rows of the vocabulary, parameters, where that number stands). `hub`: `safetensors.total` of the model at
# huggingface.co/api/models/NAME. Where a file holds what is no parameter of the model (the frequencies of the rotary
# positions, an embedding saved a second time as the head that is tied to it) that is taken off, as said. `keras-hub`:
# `params` in keras_hub/src/models/*/*_presets.py of github.com/keras-team/keras-hub. `quoted`: seen only in programs of
# others that name the model. Qwen2.5 has the shapes of Qwen2 in the sizes that both have.
PUBLISHED = [
    ("gpt2.gpt2_small", 50257, 124_439_808, "keras-hub: gpt2_base_en"),
    ("gpt2.gpt2_medium", 50257, 354_823_168, "keras-hub: gpt2_medium_en"),
    ("gpt2.gpt2_large", 50257, 774_030_080, "keras-hub: gpt2_large_en"),
    ("gpt2.gpt2_xl", 50257, 1_557_611_200, "keras-hub: gpt2_extra_large_en"),
    ("llama.llama_3_2_1b", 128256, 1_235_814_400, "hub: meta-llama/Llama-3.2-1B-Instruct"),
    ("llama.llama_8b", 128256, 8_030_261_248, "hub: meta-llama/Llama-3.1-8B"),
    ("llama.llama_8b_old_rotary", 128256, 8_030_261_248, "hub: meta-llama/Llama-3.1-8B"),
    ("llama.llama_70b", 128256, 70_553_706_496, "hub: meta-llama/Llama-3.1-70B"),
    ("llama.llama_3_2_3b", 128256, 3_212_749_824, "hub: meta-llama/Llama-3.2-3B-Instruct"),
    ("llama.llama_405b", 128256, 405_853_388_800, "hub: meta-llama/Llama-3.1-405B"),
    ("llama.llama2_7b", 32000, 6_738_415_616, "hub: meta-llama/Llama-2-7b-hf, without 32 x 64 frequencies"),
    ("llama.llama2_13b", 32000, 13_015_864_320, "hub: meta-llama/Llama-2-13b-hf, without 40 x 64 frequencies"),
    ("llama.llama2_70b", 32000, 68_976_648_192, "hub: meta-llama/Llama-2-70b-hf, without 80 x 64 frequencies"),
    ("qwen3.qwen3_0_6b", 151936, 596_049_920, "hub: Qwen/Qwen3-0.6B, without its second copy of the embedding"),
    ("qwen3.qwen3_1_7b", 151936, 1_720_574_976, "hub: Qwen/Qwen3-1.7B, without its second copy of the embedding"),
    ("qwen3.qwen3_4b", 151936, 4_022_468_096, "hub: Qwen/Qwen3-4B"),
    ("qwen3.qwen3_8b", 151936, 8_190_735_360, "hub: Qwen/Qwen3-8B"),
    ("qwen3.qwen3_14b", 151936, 14_768_307_200, "keras-hub: qwen3_14b_en"),
    ("qwen3.qwen3_32b", 151936, 32_762_123_264, "hub: Qwen/Qwen3-32B"),
    ("qwen2.qwen2_0_5b", 151936, 494_032_768, "keras-hub: qwen2.5_0.5b_en"),
    ("qwen2.qwen2_1_5b", 151936, 1_543_714_304, "keras-hub: qwen2.5_math_1.5b_en"),
    ("qwen2.qwen2_7b", 152064, 7_615_616_512, "keras-hub: qwen2.5_math_7b_en"),
    ("qwen2.qwen2_72b", 152064, 72_706_203_648, "keras-hub: qwen2.5_instruct_72b_en"),
    ("qwen2.qwen2_5_3b", 151936, 3_085_938_688, "keras-hub: qwen2.5_3b_en"),
    ("qwen2.qwen2_5_14b", 152064, 14_770_033_664, "quoted: Qwen/Qwen2.5-14B"),
    ("qwen2.qwen2_5_32b", 152064, 32_763_876_352, "hub: Qwen/Qwen2.5-32B-Instruct"),
    ("mistral.mistral_7b", 32000, 7_241_732_096, "keras-hub: mistral_7b_en"),
    ("mistral.mistral_7b_v0_3", 32768, 7_248_023_552, "hub: mistralai/Mistral-7B-v0.3"),
    ("mistral.mistral_nemo_12b", 131072, 12_247_782_400, "quoted: mistralai/Mistral-Nemo-Base-2407"),
    ("mixtral.mixtral_8x7b", 32000, 46_702_792_704, "hub: mistralai/Mixtral-8x7B-Instruct-v0.1"),
    ("mixtral.mixtral_8x22b", 32000, 140_620_634_112, "hub: mistral-community/Mixtral-8x22B-v0.1"),
    ("olmo2.olmo2_1b", 100352, 1_484_916_736, "hub: allenai/OLMo-2-0425-1B-Instruct"),
    ("olmo2.olmo2_7b", 100352, 7_298_617_344, "hub: allenai/OLMo-2-1124-7B"),
    ("olmo2.olmo2_13b", 100352, 13_716_198_400, "hub: allenai/OLMo-2-1124-13B"),
    (
        "olmo2.olmo2_32b",
        100352,
        32_234_279_936,
        "no total found; of the shape in config.json of allenai/OLMo-2-0325-32B",
    ),
    ("gemma.gemma_2b", 256000, 2_506_172_416, "keras-hub: gemma"),
    ("gemma.gemma_7b", 256000, 8_537_680_896, "keras-hub: gemma"),
    ("gemma2.gemma2_2b", 256000, 2_614_341_888, "keras-hub: gemma2"),
    ("gemma2.gemma2_9b", 256000, 9_241_705_984, "keras-hub: gemma2"),
    ("gemma2.gemma2_27b", 256000, 27_227_128_320, "keras-hub: gemma2"),
    ("gemma3.gemma3_270m", 262144, 268_098_176, "keras-hub: gemma3"),
    ("gemma3.gemma3_1b", 262144, 999_885_952, "keras-hub: gemma3"),
    ("gemma3.gemma3_4b", 262144, 3_880_099_328, "keras-hub: gemma3_4b_text"),
    ("gemma3.gemma3_12b", 262144, 11_765_788_416, "keras-hub: gemma3_12b_text"),
    ("gemma3.gemma3_27b", 262144, 27_009_002_240, "keras-hub: gemma3_27b_text"),
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


@pytest.mark.parametrize(("name", "vocab_size", "num_params", "source"), PUBLISHED)
def test_a_preset_has_as_many_parameters_as_the_published_model(preset, name, vocab_size, num_params, source):
    assert preset(name).num_params(vocab_size) == num_params, source


@pytest.mark.parametrize("name", NAMED)
def test_a_shape_of_our_own_has_the_size_in_its_name(preset, name):
    config = preset(f"llama.{name}")
    assert config.num_params(128256) == pytest.approx(NAMED[name], rel=0.06)


def test_the_old_rotary_differs_in_nothing_else(preset):
    new, old = preset("llama.llama_8b"), preset("llama.llama_8b_old_rotary")
    assert new != old and replace(new, rope=old.rope) == old
