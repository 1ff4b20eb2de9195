"""A whole training run on tiny data: what it leaves, how it resumes, what it refuses."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin.checkpoint import format as checkpoint
from marin.checkpoint.discover import list_checkpoints
from marin.checkpoint.policy import KeepPolicy
from marin.config import decode, load_yaml
from marin.data.lm_data import open_data
from marin.data.loader import sequential_batches
from marin.models.config import LmConfig
from marin.models.lm import token_log_probs
from marin.testing.tiny import make_token_store, tiny_documents, write_byte_tokenizer
from marin.tracking.jsonl import read_rows
from marin.training.callbacks import NonFiniteLossError
from marin.training.config import SimpleTrainConfig, TrainerConfig, TrainLmConfig
from marin.training.train_lm import train_lm


def final_bits(output):
    """What the law is about. The manifest holds the hash of every array of parameters and optimizer state."""
    newest = list_checkpoints(Path(output) / "checkpoints")[-1]
    checkpoint.verify(newest.path)
    return {
        "step": newest.step,
        "manifest": (newest.path / "manifest.json").read_bytes(),
        "metrics": (Path(output) / "metrics.jsonl").read_bytes(),
        "summary": (Path(output) / "summary.json").read_bytes(),
    }


def test_a_run_learns_and_leaves_all_that_its_docstring_lists(tiny_config):
    config = tiny_config(num_train_steps=40, steps_per_eval=20)
    result = train_lm(config)
    output = Path(config.output_path)
    assert load_yaml(TrainLmConfig, output / "config.yaml") == config
    description = json.loads((output / "model.json").read_text())
    assert decode(LmConfig, description["model"]) == config.model
    assert (description["vocab_size"], description["eos_id"], description["bos_id"]) == (257, 256, None)

    rows = read_rows(output / "metrics.jsonl")
    train_rows = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in train_rows] == list(range(1, 41))
    assert [row["step"] for row in rows if "validation/held_out/loss" in row] == [20, 40]
    assert abs(train_rows[0]["train/loss"] - math.log(257)) < 0.1
    assert train_rows[-1]["train/loss"] < 0.75 * train_rows[0]["train/loss"]
    assert train_rows[-1]["train/total_loss"] > train_rows[-1]["train/loss"]
    schedule = config.optimizer.schedule(40)
    assert [row["train/learning_rate"] for row in train_rows] == [schedule(step) for step in range(40)]
    assert train_rows[-1]["train/tokens"] == 40 * 4 * 16 == result.num_tokens
    times = read_rows(output / "timing.jsonl")
    assert len(times) == 40 and times[-1]["tokens_per_second"] > 0 and times[-1]["peak_memory_bytes"] > 1e6
    assert "mfu" not in times[-1], "the peak of a CPU is not known"

    summary = json.loads((output / "summary.json").read_text())
    assert summary["final_step"] == result.final_step == 40
    assert summary["final_loss"] == train_rows[-1]["train/loss"] == result.final_loss
    assert summary["final_validation"]["held_out"]["loss"] == rows[-1]["validation/held_out/loss"]
    assert summary["checkpoint"] == "checkpoints/step-00000040"
    assert checkpoint.read_metadata(output / summary["checkpoint"])["step"] == 40


def test_validation_is_what_the_saved_parameters_give(tiny_config):
    config = tiny_config(num_train_steps=3, max_eval_batches=None)
    reported = train_lm(config).final_validation["held_out"]
    shapes = jax.eval_shape(lambda: config.model.init(257, key=jax.random.key(0)))
    params = checkpoint.load(Path(config.output_path) / "checkpoints/step-00000003", shapes)
    data = open_data(config.data, 16)
    nats, num_tokens, num_bytes = 0.0, 0, 0
    for batch in sequential_batches(data.validation["held_out"], 2):
        tokens, targets, segments = map(jnp.asarray, (batch.tokens, batch.targets, batch.segment_ids))
        log_probs = token_log_probs(config.model, params, tokens, targets, segment_ids=segments)
        counted = batch.loss_weights > 0
        nats -= float(np.asarray(log_probs, np.float64)[counted].sum())
        num_tokens += counted.sum()
        num_bytes += (batch.targets[counted] != data.eos_id).sum()  # every other token of this store is one byte
    assert num_bytes == sum(len(d["text"].encode()) for d in tiny_documents(6, seed=2))
    assert reported["loss"] == pytest.approx(nats / num_tokens, rel=1e-5)
    assert reported["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


def test_equal_configs_give_equal_bits_and_another_seed_does_not(tiny_config):
    one, two, three = tiny_config("one"), tiny_config("two"), tiny_config("three", seed=1)
    for config in (one, two, three):
        train_lm(config)
    assert final_bits(one.output_path) == final_bits(two.output_path)
    assert final_bits(one.output_path)["metrics"] != final_bits(three.output_path)["metrics"]


def test_a_finished_run_started_again_does_nothing(tiny_config):
    config = tiny_config()
    first = train_lm(config)
    before = {path: path.read_bytes() for path in Path(config.output_path).rglob("*") if path.is_file()}
    assert train_lm(config) == first
    assert {path: path.read_bytes() for path in Path(config.output_path).rglob("*") if path.is_file()} == before


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before_and_no_bit(tiny_config):
    whole, damaged = tiny_config("whole"), tiny_config("damaged")
    for config in (whole, damaged):
        train_lm(config)
    chunk = Path(damaged.output_path) / "checkpoints/step-00000012/arrays/params.final_norm/c.0"
    content = bytearray(chunk.read_bytes())
    content[5] ^= 16
    chunk.write_bytes(content)
    with pytest.warns(checkpoint.CorruptCheckpointWarning, match="step-00000012.*params.final_norm"):
        train_lm(damaged)
    assert final_bits(damaged.output_path) == final_bits(whole.output_path)


def test_microbatches_give_the_losses_of_the_batch(tiny_config):
    whole, parts = tiny_config("whole"), tiny_config("parts", microbatch_size=1)
    for config in (whole, parts):
        train_lm(config)
    losses = [
        [row["train/loss"] for row in read_rows(Path(config.output_path) / "metrics.jsonl") if "train/loss" in row]
        for config in (whole, parts)
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_old_checkpoints_go_and_rows_are_written_every_few_steps(tiny_config):
    config = tiny_config(
        num_train_steps=11,
        steps_per_checkpoint=2,
        keep_checkpoints=KeepPolicy(keep_last=1, keep_every=4),
        steps_per_log=4,
    )
    train_lm(config)
    folders = list_checkpoints(Path(config.output_path) / "checkpoints")
    assert [folder.step for folder in folders] == [4, 8, 11]
    rows = read_rows(Path(config.output_path) / "metrics.jsonl")
    assert [row["step"] for row in rows if "train/loss" in row] == [4, 8, 11]


def test_a_loss_that_is_no_number_ends_the_run_with_its_step_and_keeps_the_checkpoint(tiny_config):
    config = tiny_config(learning_rate=1e36, warmup=0, steps_per_checkpoint=1, lr_schedule="constant", weight_decay=0.0)
    with pytest.raises(
        NonFiniteLossError, match=r"step \d+: train/loss is .*expected finite.*step-0000000.*lower"
    ) as e:
        train_lm(config)
    step = int(str(e.value).split()[1].rstrip(":"))
    newest = list_checkpoints(Path(config.output_path) / "checkpoints")[-1]
    assert newest.step == step - 1
    checkpoint.verify(newest.path)


def test_a_folder_with_another_configs_run_is_refused_with_the_fields_that_differ(tiny_config):
    train_lm(tiny_config())
    with pytest.raises(ValueError, match=r"another config: optimizer.learning_rate was 0.01, is 0.02.*output_path"):
        train_lm(tiny_config(learning_rate=2e-2))


def test_other_tokens_in_the_same_place_are_refused_on_resuming(tiny_config, stores):
    train_lm(tiny_config())
    with pytest.raises(ValueError, match="store of training source 'text' has changed since"):
        train_lm(tiny_config(train={"text": str(stores / "other")}))


def test_rows_that_went_missing_are_noticed_on_resuming(tiny_config):
    train_lm(tiny_config())
    path = Path(tiny_config().output_path) / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match="metrics.jsonl has .* bytes of rows up to step 12, but had"):
        train_lm(tiny_config())


def test_a_sequence_longer_than_the_model_is_refused(tiny_config):
    with pytest.raises(ValueError, match="train_seq_len is 17 tokens, but the model takes 16 at most"):
        train_lm(tiny_config(train_seq_len=17))


def test_a_vocabulary_that_is_not_the_stores_is_refused(tiny_config):
    with pytest.raises(ValueError, match="vocabulary of 300 tokens, .* has 257"):
        train_lm(tiny_config(vocab_size=300))


def test_a_tokenizer_that_is_not_the_stores_is_refused(tiny_config, tmp_path):
    tokenizer = write_byte_tokenizer(tmp_path / "tokenizer")
    train_lm(tiny_config("same", num_train_steps=3, tokenizer=str(tokenizer)))
    description = json.loads((tokenizer / "tokenizer.json").read_text())
    description["model"]["merges"] = [["a", "b"]]
    description["model"]["vocab"]["ab"] = 257
    (tokenizer / "tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="tokenizer.*digest"):
        train_lm(tiny_config("other", num_train_steps=3, tokenizer=str(tokenizer)))


def test_a_batch_that_microbatches_do_not_divide_is_refused_with_the_arithmetic():
    with pytest.raises(ValueError, match=r"3 \* 10 = 30 leaves 2 rows.*30 and 40"):
        TrainerConfig(num_train_steps=1, train_batch_size=32, seed=0, microbatch_size=10)


def test_a_simple_config_says_nothing_twice_and_leaves_defaults_to_the_full_one():
    simple = SimpleTrainConfig(train_batch_size=8, num_train_steps=10, learning_rate=1e-3, per_device_parallelism=2)
    assert simple.trainer() == TrainerConfig(num_train_steps=10, train_batch_size=8, seed=0, microbatch_size=2)
    assert simple.optimizer().learning_rate == 1e-3
    with pytest.raises(ValueError, match="optimizer_config and warmup are both given"):
        replace(simple, optimizer_config=simple.optimizer(), warmup=10)
    with pytest.raises(ValueError, match="say the same thing twice"):
        replace(simple, accelerator_type="v4-8", resources=object())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_train_steps", 0, "num_train_steps must be 1 or more, got 0"),
        ("steps_per_eval", 0, "steps_per_eval must be 1 or more or None, got 0"),
        ("precision", "bf16", "unknown precision 'bf16': expected one of 'p=f32,c=f32'"),
        ("z_loss_weight", -1.0, "z_loss_weight must be 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(tiny_config, field, value, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**{field: value})


def test_describing_a_run_loads_no_tensor_library():
    script = "import marin.training.config, sys; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_bfloat16_trains_too(tiny_config):
    config = tiny_config(precision="p=f32,c=bfloat16", num_train_steps=3)
    assert config.trainer.compute_dtype == "bfloat16"
    assert jnp.isfinite(train_lm(config).final_loss)


def test_a_store_of_another_vocabulary_cannot_join_a_mixture(tiny_config, stores, tmp_path):
    tokenizer = write_byte_tokenizer(tmp_path / "tokenizer")
    description = json.loads((tokenizer / "tokenizer.json").read_text())
    description["model"]["merges"] = [["a", "b"]]
    description["model"]["vocab"]["ab"] = 257
    (tokenizer / "tokenizer.json").write_text(json.dumps(description))
    make_token_store(tmp_path / "merged", 20, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="'text'.*'merged'.*different tokenizers"):
        train_lm(tiny_config(train={"text": str(stores / "train"), "merged": str(tmp_path / "merged")}))
