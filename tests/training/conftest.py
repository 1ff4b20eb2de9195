"""A tiny run: token stores of a few documents, a model of one layer, seconds of work."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from marin.cli import main as cli
from marin.data.config import LmDataConfig
from marin.distributed.compilation_cache import use_compilation_cache
from marin.models.llama import LlamaConfig
from marin.optim.adamw import AdamWConfig
from marin.testing.tiny import make_token_store
from marin.training.config import RuntimeConfig, TrainerConfig, TrainLmConfig


@pytest.fixture(scope="session", autouse=True)
def compiled_programs_are_kept():
    """Between tests, processes and sessions: most of the time of these tests is compiling the same programs."""
    use_compilation_cache()


@pytest.fixture(scope="session")
def stores(tmp_path_factory) -> Path:
    """Token stores `train`, `validation` and `other` (trained on nothing, another seed), of single bytes."""
    root = tmp_path_factory.mktemp("stores")
    make_token_store(root / "train", 60, seed=1)
    make_token_store(root / "validation", 6, seed=2)
    make_token_store(root / "other", 60, seed=3)
    return root


TINY_MODEL = LlamaConfig(seq_len=16, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)


@pytest.fixture(scope="session")
def tiny_config_at(stores):
    """`tiny_config_at(folder, num_train_steps=9, ...)`: a TrainLmConfig; names are looked up in its parts."""

    def make(output: Path, **changes: Any) -> TrainLmConfig:
        config = TrainLmConfig(
            data=LmDataConfig(
                train={"text": str(stores / "train")},
                validation={"held_out": str(stores / "validation")},
                packing="best_fit",
            ),
            model=TINY_MODEL,
            optimizer=AdamWConfig(learning_rate=1e-2, warmup=3),
            trainer=TrainerConfig(
                num_train_steps=12,
                train_batch_size=4,
                seed=0,
                z_loss_weight=1e-4,
                steps_per_eval=5,
                max_eval_batches=3,
                steps_per_checkpoint=4,
                runtime=RuntimeConfig(show_progress=False),
            ),
            output_path=str(output),
        )
        for name, value in changes.items():
            if hasattr(config, name):
                config = replace(config, **{name: value})
                continue
            (part,) = (p for p in ("trainer", "optimizer", "data", "model") if hasattr(getattr(config, p), name))
            config = replace(config, **{part: replace(getattr(config, part), **{name: value})})
        return config

    return make


@pytest.fixture
def tiny_config(tiny_config_at, tmp_path):
    """`tiny_config(num_train_steps=9, learning_rate=...)`, in a folder of the test."""
    return lambda output="run", **changes: tiny_config_at(tmp_path / output, **changes)


@pytest.fixture
def marin(capfd):
    """Runs one command line in this process: its output on success, its errors otherwise."""

    def run(*arguments: str, expect: int = 0) -> str:
        capfd.readouterr()
        code = cli.main(arguments)
        out, err = capfd.readouterr()
        assert code == expect, err
        return err if expect else out

    return run
