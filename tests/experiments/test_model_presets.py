"""The presets have the sizes of the models that they are named after."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from marin.models.config import LmConfig

# (preset, rows of the vocabulary, parameters, whose): the totals are those of the published weights, as model cards on
# the Hugging Face hub give them for the safetensors files, tied embeddings counted once (and GPT-2's masks not at all).
PUBLISHED = [
    ("gpt2.gpt2_small", 50257, 124_439_808, "openai-community/gpt2"),
    ("gpt2.gpt2_medium", 50257, 354_823_168, "openai-community/gpt2-medium"),
    ("gpt2.gpt2_large", 50257, 774_030_080, "openai-community/gpt2-large"),
    ("gpt2.gpt2_xl", 50257, 1_557_611_200, "openai-community/gpt2-xl"),
    ("llama.llama_3_2_1b", 128256, 1_235_814_400, "meta-llama/Llama-3.2-1B"),
    ("llama.llama_8b", 128256, 8_030_261_248, "meta-llama/Llama-3.1-8B"),
    ("llama.llama_8b_old_rotary", 128256, 8_030_261_248, "meta-llama/Llama-3.1-8B"),
    ("llama.llama_70b", 128256, 70_553_706_496, "meta-llama/Llama-3.1-70B"),
    ("llama.llama_3_2_3b", 128256, 3_212_749_824, "meta-llama/Llama-3.2-3B"),
    ("llama.llama_405b", 128256, 405_853_388_800, "meta-llama/Llama-3.1-405B"),
    ("llama.llama2_7b", 32000, 6_738_415_616, "meta-llama/Llama-2-7b-hf"),
    ("llama.llama2_13b", 32000, 13_015_864_320, "meta-llama/Llama-2-13b-hf"),
    ("llama.llama2_70b", 32000, 68_976_648_192, "meta-llama/Llama-2-70b-hf"),
    ("qwen3.qwen3_0_6b", 151936, 596_049_920, "Qwen/Qwen3-0.6B"),
    ("qwen3.qwen3_1_7b", 151936, 1_720_574_976, "Qwen/Qwen3-1.7B"),
    ("qwen3.qwen3_4b", 151936, 4_022_468_096, "Qwen/Qwen3-4B"),
    ("qwen3.qwen3_8b", 151936, 8_190_735_360, "Qwen/Qwen3-8B"),
    ("qwen3.qwen3_14b", 151936, 14_768_307_200, "Qwen/Qwen3-14B"),
    ("qwen3.qwen3_32b", 151936, 32_762_123_264, "Qwen/Qwen3-32B"),
    ("qwen2.qwen2_0_5b", 151936, 494_032_768, "Qwen/Qwen2-0.5B"),
    ("qwen2.qwen2_1_5b", 151936, 1_543_714_304, "Qwen/Qwen2-1.5B"),
    ("qwen2.qwen2_7b", 152064, 7_615_616_512, "Qwen/Qwen2-7B"),
    ("qwen2.qwen2_72b", 152064, 72_706_203_648, "Qwen/Qwen2-72B"),
    ("qwen2.qwen2_5_3b", 151936, 3_085_938_688, "Qwen/Qwen2.5-3B"),
    ("qwen2.qwen2_5_14b", 152064, 14_770_033_664, "Qwen/Qwen2.5-14B"),
    ("qwen2.qwen2_5_32b", 152064, 32_763_876_352, "Qwen/Qwen2.5-32B"),
    ("mistral.mistral_7b", 32000, 7_241_732_096, "mistralai/Mistral-7B-v0.1"),
    ("mistral.mistral_7b_v0_3", 32768, 7_248_023_552, "mistralai/Mistral-7B-v0.3"),
    ("mistral.mistral_nemo_12b", 131072, 12_247_782_400, "mistralai/Mistral-Nemo-Base-2407"),
    ("mixtral.mixtral_8x7b", 32000, 46_702_792_704, "mistralai/Mixtral-8x7B-v0.1"),
    ("mixtral.mixtral_8x22b", 32000, 140_620_634_112, "mistralai/Mixtral-8x22B-v0.1"),
    ("olmo2.olmo2_1b", 100352, 1_484_916_736, "allenai/OLMo-2-0425-1B"),
    ("olmo2.olmo2_7b", 100352, 7_298_617_344, "allenai/OLMo-2-1124-7B"),
    ("olmo2.olmo2_13b", 100352, 13_716_198_400, "allenai/OLMo-2-1124-13B"),
    ("olmo2.olmo2_32b", 100352, 32_234_279_936, "allenai/OLMo-2-0325-32B"),
    ("gemma.gemma_2b", 256000, 2_506_172_416, "google/gemma-2b"),
    ("gemma.gemma_7b", 256000, 8_537_680_896, "google/gemma-7b"),
    ("gemma2.gemma2_2b", 256000, 2_614_341_888, "google/gemma-2-2b"),
    ("gemma2.gemma2_9b", 256000, 9_241_705_984, "google/gemma-2-9b"),
    ("gemma2.gemma2_27b", 256000, 27_227_128_320, "google/gemma-2-27b"),
    ("gemma3.gemma3_270m", 262144, 268_098_176, "google/gemma-3-270m"),
    ("gemma3.gemma3_1b", 262144, 999_885_952, "google/gemma-3-1b-pt"),
]

# Where what is published also has vision, which ours leaves out: millions of parameters of the language model,
# embedding and the rest, from table 1 of the Gemma 3 report (arXiv:2503.19786).
REPORTED = {"gemma3.gemma3_4b": 675 + 3209, "gemma3.gemma3_12b": 1012 + 10759, "gemma3.gemma3_27b": 1416 + 25600}

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


@pytest.mark.parametrize(("name", "vocab_size", "num_params", "whose"), PUBLISHED)
def test_a_preset_has_as_many_parameters_as_the_published_model(preset, name, vocab_size, num_params, whose):
    assert preset(name).num_params(vocab_size) == num_params, whose


@pytest.mark.parametrize("name", REPORTED)
def test_a_preset_has_about_as_many_parameters_as_its_report_says(preset, name):
    assert preset(name).num_params(262144) == pytest.approx(REPORTED[name] * 1e6, rel=0.002)


@pytest.mark.parametrize("name", NAMED)
def test_a_shape_of_our_own_has_the_size_in_its_name(preset, name):
    config = preset(f"llama.{name}")
    assert config.num_params(128256) == pytest.approx(NAMED[name], rel=0.06)


def test_the_old_rotary_differs_in_nothing_else(preset):
    new, old = preset("llama.llama_8b"), preset("llama.llama_8b_old_rotary")
    assert new != old and replace(new, rope=old.rope) == old
