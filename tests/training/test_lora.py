"""Training an adapter: the model stays as it is, merged is unmerged, and the adapter leaves in the peft format."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_initialize import folder, hashes, train_rows
from test_killed_runs import start, wait_for
from test_train_lm import final_bits

from marin.checkpoint import format as checkpoint
from marin.checkpoint.policy import KeepPolicy
from marin.export import peft as peft_format
from marin.export.config import ExportConfig
from marin.export.export import export_model
from marin.export.hf import load_hf, save_hf, weights_to_hf
from marin.export.peft import ADAPTER_CONFIG_FILE, apply_adapter, save_adapter
from marin.export.verify import ExportMismatch
from marin.models.gemma2 import Gemma2Config
from marin.models.gpt2 import Gpt2Config
from marin.models.llama import LlamaConfig
from marin.models.lm import logits
from marin.models.lora import LoraLm
from marin.models.lora_config import LoraConfig
from marin.models.mixtral import MixtralConfig
from marin.models.olmo2 import Olmo2Config
from marin.models.qwen2 import Qwen2Config
from marin.training.callback_config import ExportHfConfig, SamplesConfig
from marin.training.initialize_config import InitializeFrom, InitializeFromHf
from marin.training.train_lm import train_lm

SHAPE = {"seq_len": 16, "hidden_dim": 16, "num_heads": 4, "num_layers": 2}
WIDE = {**SHAPE, "intermediate_dim": 24, "num_kv_heads": 2}
MODELS = {
    "llama": LlamaConfig(**WIDE, head_dim=6),
    "gpt2": Gpt2Config(**SHAPE),
    "qwen2": Qwen2Config(**WIDE, tie_word_embeddings=True),
    "mixtral": MixtralConfig(**WIDE, num_experts=4, experts_per_token=2),
    "gemma2": Gemma2Config(**WIDE, head_dim=4),
    "olmo2": Olmo2Config(**WIDE),
}
LORA = LoraConfig(r=3, alpha=6.0)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 257, (2, 16)), jnp.int32)


def random_adapter(model: LoraLm, scale: float = 0.3):
    """Parameters whose adapter is not 0 anywhere."""
    params = model.init(257, key=jax.random.key(1))
    random = np.random.default_rng(2)
    adapter = jax.tree.map(
        lambda leaf: jnp.asarray(scale * random.standard_normal(leaf.shape, np.float32)), params.adapter
    )
    return replace(params, adapter=adapter)


@pytest.fixture(params=MODELS)
def adapted(request):
    model = LoraLm(base=MODELS[request.param], lora=LORA)
    return model, random_adapter(model)


def test_an_adapter_changes_nothing_until_it_is_trained_and_merged_is_unmerged(adapted):
    model, params = adapted
    fresh = model.init(257, key=jax.random.key(1))
    before = logits(model.base, fresh.base, TOKENS)
    np.testing.assert_array_equal(logits(model, fresh, TOKENS), before)
    unmerged = logits(model, params, TOKENS)
    np.testing.assert_allclose(logits(model.base, model.merge(params), TOKENS), unmerged, atol=1e-6)
    assert np.abs(unmerged - before).max() > 0.01
    num_trained = sum(leaf.size for leaf in jax.tree.leaves(params.adapter))
    assert model.num_params(257) == model.base.num_params(257) + num_trained


def test_what_is_written_for_peft_gives_the_merged_model_and_a_wrong_layout_is_refused(adapted, tmp_path, monkeypatch):
    model, params = adapted
    save_adapter(model, params, tmp_path / "a", base_model="us/tiny")
    found = apply_adapter(weights_to_hf(model.base, params.base, 257), tmp_path / "a")
    for name, tensor in weights_to_hf(model.base, model.merge(params), 257).items():
        np.testing.assert_allclose(found[name], tensor, atol=1e-6)
    described = json.loads((tmp_path / "a" / ADAPTER_CONFIG_FILE).read_text())
    assert (described["r"], described["lora_alpha"]) == (3, 6.0)
    assert described["base_model_name_or_path"] == "us/tiny"
    monkeypatch.setattr(peft_format, "_in_their_order", lambda model, module, b: b[:, ::-1])
    with pytest.raises(ExportMismatch, match="does not give the merged model"):
        save_adapter(model, params, tmp_path / "b")
    assert not any((tmp_path / "b").iterdir())


def test_a_wrong_layout_is_refused_however_little_the_adapter_has_learned(adapted, tmp_path, monkeypatch):
    model, _ = adapted
    params = random_adapter(model, scale=3e-4)  # changes of about 1e-6 or less
    save_adapter(model, params, tmp_path / "a")
    monkeypatch.setattr(peft_format, "_in_their_order", lambda model, module, b: b[:, ::-1])
    with pytest.raises(ExportMismatch, match="does not give the merged model"):
        save_adapter(model, params, tmp_path / "b")


@pytest.mark.parametrize("lora", [LORA, LoraConfig(r=2, alpha=1.0, exclude=r"\.0\.|v_proj|c_fc")])
def test_the_peft_library_computes_the_same_with_the_adapter(adapted, stores, tmp_path, lora):
    why = "torch, transformers and peft are not all installed"
    torch, transformers, peft = (pytest.importorskip(name, reason=why) for name in ("torch", "transformers", "peft"))
    model = replace(adapted[0], lora=lora)
    params = random_adapter(model)
    save_hf(model.base, params.base, 257, stores / "train-tokenizer", tmp_path / "base")
    save_adapter(model, params, tmp_path / "adapter")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(theirs, str(tmp_path / "adapter"))
    with torch.no_grad():
        found = theirs.eval().float()(torch.asarray(np.asarray(TOKENS), dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(found, logits(model, params, TOKENS), atol=2e-5)


def test_layers_are_chosen_by_module_and_by_name():
    model = MODELS["llama"]

    def keys(**options):
        lora = LoraConfig(r=1, alpha=1.0, **options)
        shapes = jax.eval_shape(lambda: LoraLm(base=model, lora=lora).init(8, key=jax.random.key(0)))
        return {name.rpartition("-")[2]: leaf.a.shape[0] for name, leaf in shapes.adapter.items()}

    assert keys() == dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), 2)
    assert keys(target_modules=("q_proj", "mlp.up_proj")) == {"q_proj": 2, "up_proj": 2}
    assert keys(include=r"layers\.1\.", exclude="mlp") == dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), 1)
    with pytest.raises(ValueError, match="names 'query'; a LlamaConfig has down_proj, gate_proj, "):
        keys(target_modules=("query",))
    with pytest.raises(ValueError, match="lora adapts nothing: .* names are like 'model.layers.0.self_attn.q_proj'"):
        keys(include="nowhere")
    with pytest.raises(ValueError, match="exclude is '\\(', which is no regular expression"):
        LoraConfig(r=1, alpha=1.0, exclude="(")
    with pytest.raises(ValueError, match="rank and must be 1 or more, got 0"):
        LoraConfig(r=0, alpha=1.0)


@pytest.fixture
def base(tiny_config, stores, tmp_path) -> Path:
    """A model in the Hugging Face format."""
    model = tiny_config().model
    params = jax.tree.map(lambda leaf: 3 * leaf, model.init(257, key=jax.random.key(5)))
    save_hf(model, params, 257, stores / "train-tokenizer", tmp_path / "base")
    return tmp_path / "base"


def test_only_the_adapter_is_trained_and_the_run_leaves_a_verified_model(tiny_config, base, stores, tmp_path):
    tokenizer = str(stores / "train-tokenizer")
    config = tiny_config(
        num_train_steps=30,
        learning_rate=3e-2,
        initialize_from_hf=InitializeFromHf(path=str(base)),
        lora=LoraConfig(r=4, alpha=8.0),
        tokenizer=tokenizer,
        callbacks=(ExportHfConfig(), SamplesConfig(prompts=("the",), max_new_tokens=4)),
    )
    train_lm(config)
    rows = train_rows(config.output_path)
    assert rows[30]["train/loss"] < rows[1]["train/loss"] - 0.2
    before = load_hf(base).params
    model = LoraLm(base=config.model, lora=config.lora)
    shapes = jax.eval_shape(lambda: model.init(257, key=jax.random.key(0)))
    saved = checkpoint.load(folder(config.output_path, 30), shapes)
    jax.tree.map(np.testing.assert_array_equal, saved.base, before)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(saved.adapter))
    moments = [
        name for name in checkpoint.saved_arrays(folder(config.output_path, 30)) if name.startswith("optimizer.")
    ]
    assert not any("embedding" in name for name in moments) and any("q_proj" in name for name in moments)
    merged = model.merge(saved)
    on_the_way = load_hf(Path(config.output_path) / "hf/step-00000030")
    export = ExportConfig(train_path=config.output_path, tokenizer_path=tokenizer, output_path=str(tmp_path / "out"))
    assert export_model(export).passed
    for loaded in (on_the_way, load_hf(tmp_path / "out")):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), loaded.params, merged)
    alone = tmp_path / "adapter"
    assert export_model(replace(export, adapter_alone=True, output_path=str(alone))) is None
    assert json.loads((alone / ADAPTER_CONFIG_FILE).read_text())["base_model_name_or_path"] == str(base)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits_also_when_the_model_it_adapts_is_gone(tiny_config, base, tmp_path):
    shape = {"num_train_steps": 300, "steps_per_checkpoint": 50, "steps_per_eval": None}
    quiet, killed = (
        tiny_config(name, initialize_from_hf=InitializeFromHf(path=str(base)), lora=LORA, **shape)
        for name in ("quiet", "killed")
    )
    train_lm(quiet)
    process = start(killed, tmp_path)
    checkpoints = Path(killed.output_path) / "checkpoints"
    assert wait_for(lambda: checkpoints.is_dir() and any(checkpoints.glob("step-*")), process)
    process.kill()
    process.communicate()
    shutil.rmtree(base)
    train_lm(killed)
    assert final_bits(killed.output_path) == final_bits(quiet.output_path)


def test_an_adapter_is_handed_over_and_a_checkpoint_is_adapted(tiny_config, tmp_path):
    plain = tiny_config("plain", num_train_steps=4)
    train_lm(plain)

    def state(path, **options):
        return InitializeFrom(path=str(path), **{"content": "state", "reset_data_loader_on_init": False} | options)

    whole = tiny_config(
        "whole",
        initialize_from=state(plain.output_path, content="weights"),
        lora=LORA,
        keep_checkpoints=KeepPolicy(keep_last=3),
    )
    train_lm(whole)
    handed = tiny_config("handed", initialize_from=state(folder(whole.output_path, 8)), lora=LORA)
    train_lm(handed)
    assert hashes(handed.output_path, 12) == hashes(whole.output_path, 12)
    with pytest.raises(ValueError, match="holds a model with a LoRA adapter. Export it, which merges"):
        train_lm(tiny_config("back", initialize_from=state(whole.output_path, content="weights")))
    with pytest.raises(ValueError, match="holds no LoRA adapter to train further.*set content to 'weights'"):
        train_lm(tiny_config("first", initialize_from=state(plain.output_path), lora=LORA))


def test_what_makes_no_sense_with_an_adapter_is_refused(tiny_config):
    source = InitializeFromHf(path="x")
    with pytest.raises(ValueError, match="lora adapts a model: say which"):
        tiny_config(lora=LORA)
    with pytest.raises(ValueError, match="lora goes with neither mup_base_model nor trainer.ema_beta"):
        replace(tiny_config(ema_beta=0.9), initialize_from_hf=source, lora=LORA)
    with pytest.raises(ValueError, match="reinit_tokens draws embeddings that lora would leave"):
        tiny_config(initialize_from_hf=replace(source, reinit_tokens=(1,)), lora=LORA)
