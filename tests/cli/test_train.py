"""`marin train`: a YAML file, values set by flags, and nothing of the executor."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from marin.config import load_yaml
from marin.testing.tiny import make_token_store
from marin.tracking.jsonl import read_rows
from marin.training.config import TrainLmConfig

CONFIG = """\
output_path: run
data:
  train: {text: stores/train}
  validation: {held_out: stores/validation}
  packing: best_fit
model: {type: llama, seq_len: 16, hidden_dim: 16, intermediate_dim: 24, num_heads: 2, num_kv_heads: 1, num_layers: 1}
optimizer: {type: adamw, learning_rate: 1e-2, warmup: 3}
trainer:
  num_train_steps: 12
  train_batch_size: 4
  seed: 0
  z_loss_weight: 1e-4
  max_eval_batches: 3
"""


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("train_command")
    make_token_store(root / "train", 60, seed=1)
    make_token_store(root / "validation", 6, seed=2)
    return root


@pytest.fixture
def place(folder: Path, stores: Path) -> Path:
    (folder / "stores").symlink_to(stores)
    (folder / "config.yaml").write_text(CONFIG)
    return folder


def test_every_value_is_printed_with_where_it_comes_from(marin, place):
    out = marin("train", "config.yaml", "--print-config", "--optimizer.learning_rate", "2e-2", "--trainer.seed=3").out
    assert re.search(r"^  learning_rate: 0\.02 +# command line$", out, re.M)
    assert re.search(r"^  seed: 3 +# command line$", out, re.M)
    assert re.search(r"^  warmup: 3 +# config\.yaml:7$", out, re.M)
    assert re.search(r"^  beta1: 0\.9 +# default of AdamWConfig$", out, re.M)
    assert not (place / "run").exists()
    (place / "printed.yaml").write_text(out)
    assert load_yaml(TrainLmConfig, place / "printed.yaml").optimizer.learning_rate == 0.02


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--optimizer.learning_rat", "1"],
            "--optimizer.learning_rat: .* has no such field; did you mean 'learning_rate'",
        ),
        (["--trainer.seed", "x"], "--trainer.seed: expected an int, got 'x'"),
        (["--trainer.seed"], "--trainer.seed expects a value after it"),
        (["--trainer.seed", "1", "--trainer.seed=2"], "--trainer.seed is given twice, as 1 and as 2: keep one"),
        (["seed=1"], "'seed=1': expected --PLACE VALUE"),
        (["--set", "trainer.seed"], "--set expects place=value"),
        (["--trainer.train_seq_len", "17"], "train_seq_len is 17 tokens, but the model takes 16 at most"),
        (["--trainer.attention", "flash"], "unknown attention 'flash': expected one of 'blocked', 'cudnn'"),
        (["--trainer.attention", "cudnn"], "'cudnn' runs on NVIDIA GPUs, and this is 'cpu'. Take 'blocked'"),
        (["--data.train.text", "nowhere"], "training source 'text': .*nowhere"),
        (["--trackers", "[tensorbord]"], "--trackers.0.type: .*did you mean 'tensorboard'"),
    ],
)
def test_a_mistake_is_said_in_one_line_and_nothing_is_written(marin, place, words, message):
    err = marin("train", "config.yaml", *words, expect=2).err
    assert re.search(message, err) and "Traceback" not in err
    assert not (place / "run").exists()


def test_a_file_that_is_not_there_is_named(marin):
    assert "no file nowhere.yaml" in marin("train", "nowhere.yaml", expect=2).err
    assert "takes a YAML file" in marin("train", expect=2).err


def test_a_dry_run_draws_and_writes_nothing(marin, place):
    out = marin(
        "train",
        "config.yaml",
        "--dry-run",
        "--trainer.train_batch_size",
        "[{start: 0, value: 2}, {start: 6, value: 4}]",
    ).out
    assert out.startswith("learning rate, 0 to 0.01\n|") and "batch size, rows, 0 to 4\n" in out
    assert re.search(r"^text \|█{12}\| 100\.0%, 36 rows, ", out, re.M)
    assert not (place / "run").exists()


def test_it_trains_goes_on_when_typed_again_and_then_has_nothing_to_do(marin, place):
    command = [sys.executable, "-m", "marin.cli.main", "train", "config.yaml"]
    long = ["--trainer.num_train_steps", "1200", "--trainer.steps_per_checkpoint", "1000"]
    process = subprocess.Popen([*command, *long], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = place / "run/metrics.jsonl"
    while not metrics.exists() or metrics.stat().st_size < 2000:
        assert process.poll() is None, process.stderr.read()
    os.kill(process.pid, signal.SIGINT)  # as Ctrl-C does
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err
    assert "finishing this step, then saving" in err and "saved, and ready to resume" in err
    stopped_at = max(row["step"] for row in read_rows(metrics))
    assert 0 < stopped_at < 1200

    again = subprocess.run([*command, *long, "--json"], capture_output=True, text=True, check=True)
    assert f"resuming at step {stopped_at:,}" in again.stderr
    result = json.loads(again.stdout)
    assert result["output_path"] == "run" and result["result"]["final_step"] == 1200
    steps = [row["step"] for row in read_rows(metrics) if "train/loss" in row]
    assert steps == list(range(1, 1201))

    before = {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()}
    assert marin("train", "config.yaml", *long).out.startswith("run  1,200 updates, loss ")
    assert {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()} == before
    other = marin("train", "config.yaml", *long, "--optimizer.learning_rate", "5e-3", expect=2).err
    assert "optimizer.learning_rate was 0.01, is 0.005" in other


def test_the_run_folder_says_what_was_set_where(marin, place):
    marin("train", "config.yaml", "--trainer.num_train_steps", "4", "--trainer.runtime.show_progress", "false")
    text = (place / "run/config.yaml").read_text()
    assert re.search(r"^  num_train_steps: 4 +# command line$", text, re.M)
    assert re.search(r"^  z_loss_weight: 0\.0001 +# config\.yaml:12$", text, re.M)


def test_the_reference_in_the_docs_is_the_one_that_is_printed(marin, repository):
    page = (repository / "docs/reference/train-config.md").read_text(encoding="utf-8")
    assert marin("train", "--reference").out == page, "run `marin train --reference > docs/reference/train-config.md`"


EXPERIMENT = """
from marin.execution.executor import executor_main
from marin.models.llama import LlamaConfig
from marin.training.api import default_train
from marin.training.config import RuntimeConfig, SimpleTrainConfig

model = LlamaConfig(seq_len=16, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)
config = SimpleTrainConfig(
    train_batch_size=4, num_train_steps=4, learning_rate=1e-2, warmup=1, runtime=RuntimeConfig(show_progress=False)
)
if __name__ == "__main__":
    executor_main(steps=[default_train("tiny", STORE, model, config)])
"""


def test_plan_and_show_say_where_the_values_of_a_training_step_come_from(marin, place, stores):
    (place / "experiment.py").write_text(EXPERIMENT.replace("STORE", repr(str(stores / "train"))))
    planned = marin("plan", "experiment.py", "--config").out
    assert re.match(r"# checkpoints/tiny @[0-9a-f]{10}\n", planned)
    marin("run", "experiment.py")
    shown = marin("show", "checkpoints/tiny").out
    for text in (planned, shown):
        assert re.search(r"^  learning_rate: 0\.01 +# SimpleTrainConfig\.learning_rate$", text, re.M)
        assert re.search(r"^  type: adamw +# default of SimpleTrainConfig\.optimizer_config$", text, re.M)
        assert re.search(r"^  beta1: 0\.9 +# default of AdamWConfig$", text, re.M)
        assert re.search(r"^  hidden_dim: 16 +# model_config of default_train$", text, re.M)
