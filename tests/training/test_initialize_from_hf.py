"""Beginning with a model in the Hugging Face format: the same function, other tokens' embeddings, what is refused."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin.checkpoint import format as checkpoint
from marin.config import dump_yaml, load_yaml
from marin.data.lm_data import open_data
from marin.export.hf import load_hf, save_hf
from marin.models.gemma3 import Gemma3Config
from marin.models.gpt2 import Gpt2Config
from marin.models.lm import token_log_probs
from marin.models.mixtral import MixtralConfig
from marin.models.olmo2 import Olmo2Config
from marin.models.qwen3 import Qwen3Config
from marin.testing.tiny import EOS_TOKEN
from marin.tracking.jsonl import read_rows
from marin.training.config import SimpleTrainConfig, TrainLmConfig
from marin.training.initialize_config import InitializeFrom, InitializeFromHf
from marin.training.train_lm import train_lm

SHAPE = {"seq_len": 16, "hidden_dim": 16, "num_heads": 2, "num_layers": 2}
WIDE = {**SHAPE, "intermediate_dim": 24, "num_kv_heads": 1}
MODELS = {
    "gpt2": Gpt2Config(**SHAPE),
    "qwen3": Qwen3Config(**WIDE, tie_word_embeddings=True),
    "mixtral": MixtralConfig(**WIDE, num_experts=4, experts_per_token=2),
    "olmo2": Olmo2Config(**WIDE),
    "gemma3": Gemma3Config(**WIDE, head_dim=8),
}


def write_model(folder: Path, model, tokenizer: Path, rows: int = 257) -> Path:
    """A folder with random weights, larger than those of a fresh model, and `rows` embedded tokens."""
    params = jax.tree.map(lambda leaf: 3 * leaf, model.init(rows, key=jax.random.key(7)))
    save_hf(model, params, rows, tokenizer, folder)
    return folder


def first_loss(output) -> float:
    return next(row["train/loss"] for row in read_rows(Path(output) / "metrics.jsonl") if "train/loss" in row)


def loss_of(config, params) -> float:
    """Of the first batch of the run."""
    batch = open_data(config.data, 16).train.rows(np.arange(config.trainer.train_batch_size))
    tokens, targets, segments = map(jnp.asarray, (batch.tokens, batch.targets, batch.segment_ids))
    nats = -np.asarray(token_log_probs(config.model, params, tokens, targets, segment_ids=segments))
    return float((nats * batch.loss_weights).sum() / batch.loss_weights.sum())


@pytest.fixture
def tokenizer(stores) -> Path:
    return stores / "train-tokenizer"


@pytest.mark.parametrize(
    "name", [name if name == "gpt2" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_the_first_loss_is_that_of_the_model_in_the_folder(tiny_config, tokenizer, tmp_path, name):
    folder = write_model(tmp_path / "hf", MODELS[name], tokenizer)
    source = InitializeFromHf(path=str(folder))
    config = tiny_config(model=MODELS[name], num_train_steps=1, warmup=0, initialize_from_hf=source)
    result = train_lm(config)
    assert first_loss(config.output_path) == pytest.approx(loss_of(config, load_hf(folder).params), rel=1e-5)
    assert result.start_step == 0
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert train_lm(config) == result, "the source is needed no more"
    (moved / "generation_config.json").write_text("{}")
    with pytest.raises(ValueError, match="initialized from something else than there is now at .*moved"):
        train_lm(replace(config, initialize_from_hf=InitializeFromHf(path=str(moved))))


def test_rows_that_pad_the_table_are_left_out(tiny_config, tokenizer, tmp_path, capfd):
    config = tiny_config(num_train_steps=1, warmup=0)
    folder = write_model(tmp_path / "hf", config.model, tokenizer, rows=320)
    runtime = replace(config.trainer.runtime, show_progress=True)
    config = replace(
        config, initialize_from_hf=InitializeFromHf(path=str(folder)), trainer=replace(config.trainer, runtime=runtime)
    )
    train_lm(config)
    assert "left out: '63 tokens beyond the vocabulary'" in capfd.readouterr().err
    params = load_hf(folder).params
    cut = replace(params, embedding=params.embedding[:257], unembedding=params.unembedding[:, :257])
    assert first_loss(config.output_path) == pytest.approx(loss_of(config, cut), rel=1e-5)


@pytest.mark.parametrize("tie", [False, True])
def test_tokens_are_drawn_anew_like_the_others_and_no_other_changes(tiny_config, tokenizer, tmp_path, tie):
    config = tiny_config(num_train_steps=1, warmup=0, learning_rate=1e-12, tie_word_embeddings=tie)
    data = replace(config.data, tokenizer=str(tokenizer))
    folder = write_model(tmp_path / "hf", config.model, tokenizer)
    source = InitializeFromHf(path=str(folder), reinit_tokens=(EOS_TOKEN, 3, 3))
    config = replace(config, data=data, initialize_from_hf=source)
    train_lm(config)
    before = load_hf(folder).params
    shapes = jax.eval_shape(lambda: config.model.init(257, key=jax.random.key(0)))
    after = checkpoint.load(Path(config.output_path) / "checkpoints/step-00000001", shapes)
    tables = [(before.embedding, after.embedding)]
    if not tie:
        tables.append((before.unembedding.T, after.unembedding.T))
    for old, new in tables:
        changed = np.flatnonzero(np.abs(np.asarray(new) - np.asarray(old)).max(axis=1) > 1e-6)
        assert changed.tolist() == [3, 256]
        kept = np.delete(np.asarray(old), [3, 256], axis=0)
        standardized = (np.asarray(new)[[3, 256]] - kept.mean(axis=0)) / kept.std(axis=0)
        assert abs(standardized.mean()) < 0.6 and 0.6 < standardized.std() < 1.5


def test_the_command_takes_the_model_from_the_folder(tiny_config, tokenizer, tmp_path, marin, monkeypatch):
    config = tiny_config(num_train_steps=1, warmup=0)
    model = replace(config.model, num_layers=2)
    cache = tmp_path / "hub/models--us--tiny"
    write_model(cache / "snapshots/abc", model, tokenizer)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    text = re.sub(r"(?m)^model:\n( .*\n)+", "", dump_yaml(config))
    assert "num_layers" not in text
    (tmp_path / "given.yaml").write_text(text.replace("initialize_from_hf: null\n", ""))
    command = ["train", str(tmp_path / "given.yaml"), "--initialize_from_hf.path"]
    printed = marin(*command, "hf://us/tiny", "--print-config")
    assert re.search(r"num_layers: 2 +# config.json of hf://us/tiny", printed)
    marin(*command, "hf://us/tiny")
    assert load_yaml(TrainLmConfig, Path(config.output_path) / "config.yaml").model == model
    elsewhere = ("--output_path", str(tmp_path / "elsewhere"))
    assert "no model at hf://us/other" in marin(*command, "hf://us/other", *elsewhere, expect=2)
    given = ("--model", "{type: gpt2, seq_len: 16, hidden_dim: 16, num_heads: 2, num_layers: 2}")
    assert "us/other is not in the local cache" in marin(*command, "hf://us/other", *elsewhere, *given, expect=2)
    shutil.rmtree(tmp_path / "hub")
    assert "1 updates, loss" in marin(*command, "hf://us/tiny"), "what it began with is needed no more"


def test_what_does_not_fit_is_refused_before_anything_is_written(tiny_config, tokenizer, stores, tmp_path):
    def refused(message, **changes):
        config = tiny_config("refused", **changes)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train_lm(config)
        assert not Path(config.output_path).exists()

    model = tiny_config().model
    source = InitializeFromHf(path=str(write_model(tmp_path / "hf", model, tokenizer)))
    wide = replace(model, intermediate_dim=32)
    refused("another shape: intermediate_size is 24 there and 32 here", model=wide, initialize_from_hf=source)
    rope = replace(model, rope=replace(model.rope, theta=5.0))
    refused("another shape: rope_parameters is .*10000.* there and .*5.0", model=rope, initialize_from_hf=source)
    refused("holds a LlamaConfig, and the config says Gpt2Config", model=MODELS["gpt2"], initialize_from_hf=source)
    few = InitializeFromHf(path=str(tmp_path / "few"))
    shutil.copytree(tmp_path / "hf", tmp_path / "few")
    (tmp_path / "few/tokenizer.json").unlink()
    refused("no tokenizer at", initialize_from_hf=few)
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "hf", other)
    special = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(special | {"eos_token": "a"}))
    refused("of another tokenizer .* set allow_other_tokenizer", initialize_from_hf=replace(source, path=str(other)))
    train_lm(
        tiny_config(
            num_train_steps=1,
            warmup=0,
            initialize_from_hf=InitializeFromHf(path=str(other), allow_other_tokenizer=True),
        )
    )
    refused("names 'x' by its text, which needs", initialize_from_hf=replace(source, reinit_tokens=("x",)))
    refused("names the id 257; the vocabulary has 0 to 256", initialize_from_hf=replace(source, reinit_tokens=(257,)))
    both = {"initialize_from": InitializeFrom(path="a", content="weights"), "initialize_from_hf": source}
    with pytest.raises(ValueError, match="both say what to begin with"):
        tiny_config(**both)
    shape = {"train_batch_size": 4, "num_train_steps": 9, "learning_rate": 1e-2}
    with pytest.raises(ValueError, match="both say what to begin with"):
        SimpleTrainConfig(**shape, initialize_from_checkpoint_path="a", initialize_from_hf="b")
    with pytest.raises(ValueError, match=r"reinit_tokens \(3,\) would break with the optimizer's state"):
        InitializeFrom(path="a", content="state", reinit_tokens=(3,))
