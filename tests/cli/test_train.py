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
from marin.processing.tokenize.config import TrainBpeConfig
from marin.processing.tokenize.train_bpe import train_bpe
from marin.testing.tiny import make_token_store, tiny_documents, write_documents
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
    make_token_store(root / "other", 20, seed=3)
    make_token_store(root / "empty", [], num_shards=1, tokenizer=root / "train-tokenizer")
    documents = write_documents(root / "documents", tiny_documents(20))
    train_bpe(TrainBpeConfig(input_path=str(documents), output_path=str(root / "bpe"), vocab_size=280))
    make_token_store(root / "other_tokens", 20, tokenizer=root / "bpe")
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
        (["--output_path", "--dry-run"], "--output_path expects a value after it.*, but --dry-run stands there"),
        (["--help"], "marin train --help"),
        (
            ["--trainer.train_batch_size", "[{start: 0, valu: 4}]"],
            "trainer.train_batch_size.0.valu: .* has no such field; did you mean 'value'",
        ),
        (["--trainer.train_batch_size", "8.5"], "expected an int or a list of {start, value}, got 8.5"),
        (["--model.num_heads", "5"], "config.yaml --model.num_heads=5: model: "),
        (["--trainer.skip_bad_steps", "{windo: 4}"], "skip_bad_steps.windo: .* did you mean 'window'"),
        (
            ["--data.weights", "[{start: {num_tokens: -5}, weights: {text: 1}}]"],
            "data.weights.0.start: Tokens counts tokens: a whole number, 0 or more; got -5",
        ),
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


def stages(*starts: object) -> str:
    return json.dumps([{"start": start, "weights": {"text": 1}} for start in starts])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--trainer.train_batch_size", "10", "--trainer.per_device_parallelism", "4"],
            r"train_batch_size 10 is not a multiple of per_device_parallelism 4: 2 \* 4 = 8 leaves 2 rows. "
            "Nearest batch sizes: 8 and 12.",
        ),
        (
            ["--trainer.mesh.model", "2"],
            "mesh: replica 1 x model 2 needs 2 devices, or a multiple of them, but there are 1. Make the mesh",
        ),
        (["--trainer.mesh.data", "4"], "mesh: replica 1 x data 4 x model 1 needs 4 devices, but there are 1."),
        (
            ["--model.seq_len", "9999"],
            "'text' at stores/train has .* tokens, one row needs 9999 .*Use a shorter seq_len or more text",
        ),
        (
            ["--data.train.empty", "stores/empty"],
            "training source 'empty': the store at stores/empty is empty: it has no token. Leave it out, or",
        ),
        (["--data.weights", "{text: 0}"], "all weights are 0 .*at least one source must have a share"),
        (["--data.weights", "{text: -1}"], "weights are finite and 0 or more; given {'text': -1.0}"),
        (
            ["--data.weights", stages(0, 8, 5)],
            "stage from 5 on stands after the one from 8 on; put the stages in order",
        ),
        (["--data.weights", stages(3)], "the first stage starts at 3; it must start at 0"),
        (
            ["--data.weights", stages(0, 8, {"num_tokens": 64})],
            r"starts of stages must rise: .*8 is row 32, Tokens\(num_tokens=64\) is row 4. Put the stages in order",
        ),
        (
            ["--trainer.train_batch_size", "[{start: 0, value: 4}, {start: 6, value: 8}, {start: 3, value: 2}]"],
            r"its starts rise; got starts \[0, 6, 3\]. Put them in order",
        ),
        (
            ["--data.train.other", "stores/other_tokens"],
            "'text' at stores/train and training source 'other' at stores/other_tokens were made with different "
            "tokenizers .*Tokenize both with one",
        ),
        (
            ["--data.tokenizer", "stores/bpe"],
            "the tokenizer 'stores/bpe' .* is not the one that training source 'text'",
        ),
    ],
)
def test_a_run_that_cannot_be_is_refused_with_what_to_do(marin, place, words, message):
    err = marin("train", "config.yaml", *words, expect=2).err
    assert re.search(message, err) and "Traceback" not in err
    assert not (place / "run").exists()


def test_a_loss_that_is_no_number_names_its_step_and_documents_and_how_to_read_them(marin, place):
    config = ["config.yaml", "--optimizer.learning_rate", "1e30", "--data.tokenizer", "stores/train-tokenizer"]
    err = marin("train", *config, expect=1).err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert re.search(r"step 2: train/loss is nan.*Its batch held text: 'tiny-1-\d+'.*A lower learning_rate", line)
    command = re.search(r"marin (data at-step run 2 --text)", line)
    named = re.findall(r"'(tiny-1-\d+)'", line)
    read = marin(*command[1].split()).out
    assert all(f"document {name}," in read for name in named)


def test_a_checkpoint_of_another_model_or_tokenizer_is_refused_with_what_differs(marin, place):
    marin("train", "config.yaml", "--trainer.num_train_steps", "4", "--output_path", "first")
    begin = ["--initialize_from", "{path: first, content: weights}"]
    err = marin("train", "config.yaml", *begin, "--model.hidden_dim", "32", expect=2).err
    assert "first/checkpoints/step-00000004: it is of another model: 'params.embedding' is float32[257, 16]" in err
    other = ["--data.train", "{text: stores/other_tokens}", "--data.validation", "{}"]
    err = marin("train", "config.yaml", *begin, *other, expect=2).err
    assert "was trained on tokens of another tokenizer" in err and "Tokenize the text with its tokenizer" in err
    err = marin("train", "config.yaml", "--output_path", "first", "--model.hidden_dim", "32", expect=2).err
    assert "first holds a run of another config: model.hidden_dim was 16, is 32" in err
    assert not (place / "run").exists()


def test_a_model_folder_of_another_architecture_is_refused_with_its_name(marin, place):
    text = (place / "config.yaml").read_text()
    (place / "hf.yaml").write_text("\n".join(line for line in text.splitlines() if not line.startswith("model:")))
    (place / "base").mkdir()
    (place / "base" / "config.json").write_text('{"model_type": "mamba"}')
    err = marin("train", "hf.yaml", "--initialize_from_hf.path", "base", expect=2).err
    assert err.startswith("error: --initialize_from_hf.path: base: config.json describes a model of type 'mamba'")
    assert err.count("\n") == 1


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
