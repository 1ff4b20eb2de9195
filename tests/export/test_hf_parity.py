"""Logits of our models and of transformers on the same files, both ways; transformers is the oracle of the format."""

import json
import re
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin.export.hf import load_hf, save_hf
from marin.export.reference import reference_logits
from marin.models.gemma import GemmaConfig
from marin.models.gemma2 import Gemma2Config
from marin.models.gemma3 import Gemma3Config
from marin.models.gpt2 import Gpt2Config
from marin.models.llama import DefaultRotaryEmbeddingsConfig, Llama3RotaryEmbeddingsConfig, LlamaConfig
from marin.models.lm import logits
from marin.models.mistral import MistralConfig
from marin.models.mixtral import MixtralConfig
from marin.models.olmo2 import Olmo2Config
from marin.models.qwen2 import Qwen2Config
from marin.models.qwen3 import Qwen3Config
from marin.models.rotary import LinearRotaryEmbeddingsConfig
from marin.testing.tiny import write_byte_tokenizer

VOCAB = 261  # four ids more than the tokenizer has
LLAMA = LlamaConfig(seq_len=48, hidden_dim=16, intermediate_dim=20, num_heads=4, num_kv_heads=4, num_layers=2)
# Wavelengths from 6 to 300 tokens around a context of 24: all three cases of the stretching occur.
LLAMA3_ROPE = Llama3RotaryEmbeddingsConfig(theta=500.0, factor=8.0, original_max_position_embeddings=24)
GPT2 = Gpt2Config(seq_len=48, hidden_dim=16, num_heads=2, num_layers=2)
SHAPE = {"seq_len": 48, "hidden_dim": 16, "intermediate_dim": 20, "num_heads": 4, "num_kv_heads": 2, "num_layers": 2}
MODELS = {
    "llama, every projection square": replace(
        LLAMA, intermediate_dim=16, rope=DefaultRotaryEmbeddingsConfig(theta=99.0)
    ),
    "llama grouped, tied": replace(LLAMA, num_kv_heads=2, tie_word_embeddings=True),
    "llama one kv head, wide heads, llama3 rope": replace(LLAMA, num_kv_heads=1, head_dim=8, rope=LLAMA3_ROPE),
    "gpt2": GPT2,
    "gpt2, square mlp": replace(GPT2, intermediate_dim=16),
    "qwen3, wide heads": Qwen3Config(**SHAPE, head_dim=8),
    "qwen3, tied, window in the last layer": Qwen3Config(
        **SHAPE | {"num_kv_heads": 4}, tie_word_embeddings=True, sliding_window=7, max_window_layers=1
    ),
    "qwen2, tied": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen2, a window everywhere, one kv head": Qwen2Config(**SHAPE | {"num_kv_heads": 1}, sliding_window=7),
    "mistral with a window": MistralConfig(**SHAPE, head_dim=6, sliding_window=7),
    "mistral, tied": MistralConfig(**SHAPE, tie_word_embeddings=True),
    "mixtral": MixtralConfig(**SHAPE, num_experts=5, head_dim=6),
    "mixtral, three of four experts, window": MixtralConfig(
        **SHAPE, num_experts=4, experts_per_token=3, sliding_window=7, tie_word_embeddings=True
    ),
    "olmo2": Olmo2Config(**SHAPE),
    "olmo2, one kv head": Olmo2Config(**SHAPE | {"num_kv_heads": 1}, tie_word_embeddings=True),
    "gemma": GemmaConfig(**SHAPE, head_dim=6),
    "gemma2, strongly bent": Gemma2Config(
        **SHAPE | {"num_layers": 3},
        head_dim=6,
        sliding_window=7,
        query_pre_attn_scalar=9,
        attention_logit_softcap=2.0,
        final_logit_softcap=5.0,
    ),
    "gemma2, nothing bent, untied": Gemma2Config(
        **SHAPE,
        head_dim=4,
        sliding_window=48,
        tie_word_embeddings=False,
        attention_logit_softcap=None,
        final_logit_softcap=None,
    ),
    "gemma3": Gemma3Config(**SHAPE | {"num_layers": 3}, head_dim=6, sliding_window=7, sliding_window_pattern=2),
    "gemma3, stretched": Gemma3Config(
        **SHAPE,
        head_dim=4,
        sliding_window=7,
        sliding_window_pattern=1,
        query_pre_attn_scalar=9,
        rope=LinearRotaryEmbeddingsConfig(theta=50.0, factor=3.0),
    ),
}

jitted_logits = jax.jit(logits, static_argnums=0)


def random_params(config, vocab_size: int, seed: int = 0):
    """Weights large enough for every part to matter, none of them 0 or 1."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: config.init(vocab_size, key=jax.random.key(0)))
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * random.standard_normal(leaf.shape, np.float32)), shapes)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(params=MODELS, scope="module")
def config(request):
    return MODELS[request.param]


@pytest.fixture(scope="module")
def exported(config, tokenizer, tmp_path_factory):
    """Our parameters and the folder they were written to."""
    folder = tmp_path_factory.mktemp("export")
    params = random_params(config, VOCAB)
    save_hf(config, params, VOCAB, tokenizer, folder)
    return params, folder


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(1).integers(0, VOCAB, (2, 48)).astype(np.int32)


def transformers_logits(model, tokens):
    import torch

    with torch.no_grad():
        return model.eval().float()(torch.asarray(tokens, dtype=torch.long)).logits.numpy()


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(expected).max() > 1


def test_transformers_computes_what_we_exported(config, exported, transformers, tokens):
    params, folder = exported
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert_same(transformers_logits(theirs, tokens), np.asarray(jitted_logits(config, params, tokens)))
    assert theirs.num_parameters() == config.num_params(VOCAB)
    assert transformers.AutoConfig.from_pretrained(folder).vocab_size == VOCAB
    assert theirs.generation_config.eos_token_id == 256


def test_we_compute_what_transformers_saved(config, exported, transformers, tokens, tmp_path):
    _, folder = exported
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder))
    generator = np.random.default_rng(3)
    import torch

    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.asarray(0.3 * generator.standard_normal(tuple(parameter.shape), np.float32)))
    theirs.save_pretrained(tmp_path)
    loaded = load_hf(tmp_path)
    assert loaded.config == config and loaded.vocab_size == VOCAB
    ours = np.asarray(jitted_logits(loaded.config, loaded.params, tokens))
    assert_same(ours, transformers_logits(theirs, tokens))


def test_transformers_loads_the_shards_that_we_write(transformers, tokenizer, tmp_path, tokens):
    params = random_params(LLAMA, VOCAB)
    save_hf(LLAMA, params, VOCAB, tokenizer, tmp_path, max_shard_bytes=6_000)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_same(transformers_logits(theirs, tokens), np.asarray(jitted_logits(LLAMA, params, tokens)))


def test_transformers_reads_the_chat_template_that_is_carried_along(transformers, tokenizer, tmp_path):
    chatting = shutil.copytree(tokenizer, tmp_path / "tokenizer")
    (chatting / "chat_template.jinja").write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    save_hf(LLAMA, random_params(LLAMA, VOCAB), VOCAB, chatting, tmp_path / "model")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert theirs.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<user>hi"


def test_the_load_balance_loss_is_that_of_transformers(transformers, tmp_path, tokenizer, tokens):
    import torch

    config = MixtralConfig(**SHAPE | {"num_layers": 1}, num_experts=5)  # they mix the layers before they multiply
    params = random_params(config, VOCAB)
    save_hf(config, params, VOCAB, tokenizer, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    _, losses = jax.jit(config.hidden_states_and_router_losses)(params, tokens)
    with torch.no_grad():
        expected = theirs(torch.asarray(tokens, dtype=torch.long), output_router_logits=True).aux_loss
    assert float(losses.load_balance) == pytest.approx(float(expected), rel=1e-5)


def test_what_was_exported_loads_bit_for_bit(config, exported):
    params, folder = exported
    loaded = load_hf(folder)
    assert (loaded.config, loaded.vocab_size) == (config, VOCAB)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def test_the_reference_reader_computes_what_we_exported(config, exported, tokens):
    params, folder = exported
    assert_same(reference_logits(folder, tokens), np.asarray(jitted_logits(config, params, tokens)))


def test_transformers_tokenizes_as_we_do(exported, transformers):
    from marin.processing.tokenize.tokenizer import load_tokenizer

    _, folder = exported
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    text = "def f(x):\n    return 'naïve café 東京 🙂'\n"
    assert theirs(text)["input_ids"] == ours.encode(text).tolist()
    assert theirs.decode(ours.encode(text)) == text
    assert theirs.eos_token_id == ours.eos_id == 256


def test_shards_and_half_precision_are_read(transformers, tmp_path, tokens):
    import torch

    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=48,
        bos_token_id=None,
        eos_token_id=256,
    )
    theirs = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    loaded = load_hf(tmp_path)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(loaded.params))
    ours = jitted_logits(loaded.config, loaded.params, tokens)
    np.testing.assert_allclose(ours, transformers_logits(theirs, tokens), atol=2e-5)


def test_configs_of_older_transformers_are_read(tmp_path, tokenizer):
    config = replace(LLAMA, rope=LLAMA3_ROPE)
    save_hf(config, random_params(config, VOCAB), VOCAB, tokenizer, tmp_path)
    description = json.loads((tmp_path / "config.json").read_text())
    rope = description.pop("rope_parameters")
    description |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    (tmp_path / "config.json").write_text(json.dumps(description))
    assert load_hf(tmp_path).config == config


def test_rows_beyond_the_vocabulary_are_cut(tmp_path, tokenizer, tokens):
    for name, config in {"tied": MODELS["gpt2"], "untied": LLAMA}.items():
        padded = random_params(config, VOCAB + 27)
        save_hf(config, padded, VOCAB, tokenizer, tmp_path / name)
        loaded = load_hf(tmp_path / name)
        assert loaded.vocab_size == VOCAB
        whole = jitted_logits(config, padded, tokens)
        np.testing.assert_allclose(jitted_logits(config, loaded.params, tokens), whole[..., :VOCAB], atol=1e-6)


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path, tokenizer):
    params = random_params(GPT2, VOCAB)
    with pytest.raises(ValueError, match="has 257 ids but the model a vocabulary of 200"):
        save_hf(GPT2, params, 200, tokenizer, tmp_path)
    with pytest.raises(ValueError, match="embeds 261 tokens, fewer than vocab_size=300"):
        save_hf(GPT2, params, 300, tokenizer, tmp_path)


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (LLAMA, {"model_type": "mamba"}, "a model of type 'mamba'; marin reads 'llama', 'gpt2', "),
        (LLAMA, {"attention_bias": True}, "attention_bias=True"),
        (LLAMA, {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type='yarn'"),
        (LLAMA, {"num_hidden_layers": 3}, "lacks the tensor 'model.layers.2"),
        (
            LLAMA,
            {"intermediate_size": 21},
            r"gate_up have shape \(2, 16, 2, 20\), but config.json asks for \(2, 16, 2, 21",
        ),
        (LLAMA, {"vocab_size": 9}, "says vocab_size=9, but 261 tokens are embedded"),
        (GPT2, {"activation_function": "relu"}, "activation_function='relu'"),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ],
)
def test_a_folder_that_is_not_what_its_config_says_is_refused(tmp_path, tokenizer, model, change, message):
    save_hf(model, random_params(model, VOCAB), VOCAB, tokenizer, tmp_path)
    description = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=message):
        load_hf(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "config.json is no JSON: "),
        ("config.json", "[1]", "config.json: expected a JSON object, got list"),
        ("config.json", '{"model_type": "mamba"}', "config.json describes a model of type 'mamba'"),
        ("config.json", '{"model_type": "llama"}', "config.json lacks '.*', which describes its llama model"),
        ("model.safetensors", None, r"model.safetensors \(.* bytes\) is no whole safetensors file: .*Get it again"),
    ],
)
def test_a_damaged_folder_is_refused_with_its_name(tmp_path, tokenizer, file, content, message):
    save_hf(LLAMA, random_params(LLAMA, VOCAB), VOCAB, tokenizer, tmp_path)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[:-9] if content is None else content.encode())
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path))}.*{message}"):
        load_hf(tmp_path)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder with config.json"):
        load_hf(tmp_path)
