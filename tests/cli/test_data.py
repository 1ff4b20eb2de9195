"""`marin data`: from a step's name and an update to the very text that was trained on."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from marin.cli import main as cli
from marin.config import dump_yaml, load_yaml
from marin.data.lm_data import open_data
from marin.data.loader import DataLoader
from marin.execution.executor import InputName, run
from marin.models.llama import LlamaConfig
from marin.processing.tokenize.api import default_tokenize, train_tokenizer
from marin.processing.tokenize.data_configs import lm_varying_mixture_data_config
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.testing.tiny import tiny_documents, write_byte_tokenizer, write_documents
from marin.training.api import default_train
from marin.training.config import SimpleTrainConfig, TrainLmConfig

MODEL = LlamaConfig(seq_len=16, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)
TEXTS = {name: {row["id"]: row["text"] for row in tiny_documents(60, seed=seed)} for seed, name in enumerate("ab")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> SimpleNamespace:
    """A store with a training step on a mixture of two tokenized sources; its run folder, loader and tokenizer."""
    root = tmp_path_factory.mktemp("trained")
    (root / "pyproject.toml").touch()
    texts = {
        name: InputName.hardcoded(str(write_documents(root / name, tiny_documents(60, seed=seed))))
        for seed, name in enumerate("ab")
    }
    tokenizer = train_tokenizer("tiny", texts["a"], 300)
    data = lm_varying_mixture_data_config(
        {name: default_tokenize(name, text, tokenizer, num_workers=1) for name, text in texts.items()},
        [(0, {"a": 3, "b": 1}), (2, {"a": 1, "b": 3})],
        mixture_block_size=8,
        packing="greedy",
    )
    step = default_train(
        "mix", data, MODEL, SimpleTrainConfig(train_batch_size=4, num_train_steps=4, learning_rate=1e-2, warmup=1)
    )
    done = run([step], prefix=root / "store")
    assert done.is_ok
    folder = Path(done.output_path(step))
    config = load_yaml(TrainLmConfig, folder / "config.yaml")
    loader = DataLoader(open_data(config.data, 16, batches=config.trainer.batches).train, config.trainer.batches)
    return SimpleNamespace(
        root=root, folder=folder, config=config, loader=loader, tokenizer=Path(done.output_path(tokenizer))
    )


@pytest.fixture
def place(trained: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained.root)
    monkeypatch.setenv("MARIN_PREFIX", "store")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return trained.root


Marin = Callable[..., SimpleNamespace]


@pytest.mark.parametrize("address", ["checkpoints/mix", "folder", "config"])
def test_the_text_of_every_row_is_that_of_the_documents_that_it_names(marin: Marin, trained, address: str):
    given = {"folder": str(trained.folder), "config": str(trained.folder / "config.yaml")}.get(address, address)
    tokenizer = load_tokenizer(trained.tokenizer)
    for update in (1, 4):
        found = json.loads(marin("data", "at-step", given, str(update), "--text", "--json").out)
        batch = trained.loader.batch(update - 1)
        assert found["step"] == update and found["seq_len"] == 16 and len(found["rows"]) == 4
        for row in found["rows"]:
            used = np.zeros(16, bool)
            for piece in row["pieces"]:
                slots = slice(piece["slot"], piece["slot"] + piece["length"])
                assert piece["text"] == tokenizer.decode(batch.targets[row["row"], slots])
                used[slots] = True
                if piece["length"] == piece["document_length"]:
                    assert piece["text"] == TEXTS[row["source"]][piece["document_id"]] + "<|endoftext|>"
            assert np.array_equal(used, batch.loss_weights[row["row"]] > 0)


def test_without_text_it_is_a_table_and_a_next_command_that_works(marin: Marin, trained):
    shown = marin("data", "at-step", "checkpoints/mix", "3")
    header, *lines = shown.out.splitlines()
    assert header.split() == ["row", "source", "document", "tokens", "slots", "store"]
    assert {line.split()[0] for line in lines} == {"0", "1", "2", "3"}
    assert all(re.search(r"tiny-[01]-\d+ +\d+-\d+ of \d+ +\d+-\d+ +/.* #\d+$", line) for line in lines)
    command = shown.err.splitlines()[-1].removeprefix("Next: marin ").split()
    text = marin(*command).out
    assert text.count("--- row ") == len(lines)


def test_the_mixture_is_told_from_a_config_before_any_run(marin: Marin, trained, tmp_path: Path):
    config = replace(trained.config, output_path=str(tmp_path / "run"))
    (tmp_path / "config.yaml").write_text(dump_yaml(config))
    shown = marin("data", "mixture", str(tmp_path / "config.yaml")).out
    assert "16 rows in 4 updates" in shown and "from update 3" in shown
    report = json.loads(marin("data", "mixture", "checkpoints/mix", "--json").out)
    assert [stage["rows_of_a_block"] for stage in report["stages"]] == [{"a": 6, "b": 2}, {"a": 2, "b": 6}]
    assert sum(source["rows_used"] for source in report["sources"].values()) == 16


def test_stores_that_are_not_those_of_the_run_are_refused(marin: Marin, trained, tmp_path: Path):
    other = replace(
        trained.config.data, train={"a": trained.config.data.train["b"], "b": trained.config.data.train["a"]}
    )
    (tmp_path / "config.yaml").write_text(dump_yaml(replace(trained.config, data=other)))
    (tmp_path / "data.json").write_bytes((trained.folder / "data.json").read_bytes())
    refused = marin("data", "at-step", str(tmp_path), "1", expect=cli.REFUSED).err
    assert "saw other rows than there are now: the store of a, b has changed. Restore the stores" in refused


def test_what_cannot_be_told_is_refused_with_the_reason(marin: Marin, trained, tmp_path: Path):
    def refused(*arguments: str) -> str:
        return marin("data", *arguments, expect=cli.USAGE).err

    assert "no update of" in (error := refused("at-step", "checkpoints/mix", "5")) and "1 to 4" in error
    assert "1 to 4" in refused("at-step", "checkpoints/mix", "0")
    assert "are required: N" in refused("at-step", "checkpoints/mix")
    assert "unrecognized arguments: 3" in refused("mixture", "checkpoints/mix", "3")
    assert "did you mean `marin data mixture`" in refused("mixtures", "checkpoints/mix")
    assert "marin data at-step" in refused()
    assert "it is no training step" in refused("at-step", "tokenized/a", "3")
    assert "did you mean checkpoints/mix" in refused("at-step", "checkpoints/mx", "3")
    without_store = refused("at-step", "nothere", "1", "--prefix", "nowhere")
    assert "no folder or file 'nothere', and no store at nowhere" in without_store
    assert "has no config.yaml" in refused("at-step", str(tmp_path), "3")
    bytes_alone = str(write_byte_tokenizer(tmp_path / "bytes"))
    assert "is not the one that the stores were made with" in refused(
        "at-step", "checkpoints/mix", "3", "--text", "--tokenizer", bytes_alone
    )
    gone = replace(trained.config.data, train={name: str(tmp_path / "gone") for name in "ab"})
    (tmp_path / "config.yaml").write_text(dump_yaml(replace(trained.config, data=gone)))
    assert "training source 'a': no token store" in refused("at-step", str(tmp_path), "3")
