"""A whole training run on tiny data: what it leaves, how it resumes, what it refuses."""

import json
import math
import shutil
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
from marin.data.at_step import name_documents, rows_at_update
from marin.data.batch_schedule import ScheduleStep
from marin.data.config import LmDataConfig, MixtureStage
from marin.data.lm_data import open_data
from marin.data.loader import DataLoader, sequential_batches
from marin.data.units import Sequences, Tokens
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
    assert description["document_prefix"] == "eos"

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
    assert (reported["tokens"], reported["bytes"]) == (num_tokens, num_bytes)
    assert reported["loss"] == pytest.approx(nats / num_tokens, rel=1e-5)
    assert reported["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


def test_validation_on_a_part_is_of_rows_from_the_whole_set_and_says_how_many_tokens(tiny_config):
    config = tiny_config(num_train_steps=3, max_eval_batches=3)
    reported = train_lm(config).final_validation["held_out"]
    dataset = open_data(config.data, 16).validation["held_out"]
    assert dataset.num_rows > 3 * 4
    rows = dataset.rows(np.array([(2 * i + 1) * dataset.num_rows // 24 for i in range(12)]))
    targets = rows.targets[rows.loss_weights > 0]
    assert reported["tokens"] == targets.size < dataset.store.num_tokens
    assert reported["bytes"] == (targets != dataset.store.eos_id).sum() and isinstance(reported["bytes"], int)


def test_equal_configs_give_equal_bits_and_another_seed_does_not(tiny_config):
    one, two, three = tiny_config("one"), tiny_config("two"), tiny_config("three", seed=1)
    for config in (one, two, three):
        train_lm(config)
    assert final_bits(one.output_path) == final_bits(two.output_path)
    assert final_bits(one.output_path)["metrics"] != final_bits(three.output_path)["metrics"]


def test_a_finished_run_started_again_does_nothing(tiny_config):
    config = tiny_config()
    first = train_lm(config)
    before = files(config.output_path)
    assert train_lm(config) == first
    assert files(config.output_path) == before


def test_two_processes_do_not_train_in_one_folder(tiny_config):
    output = Path(tiny_config().output_path)
    output.mkdir(parents=True)
    hold = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); print(); input()"
    command = [sys.executable, "-c", hold, str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        with pytest.raises(ValueError, match="another process trains in .*Nothing was changed"):
            train_lm(tiny_config())
        assert not any(output.iterdir())
        other.kill()
    train_lm(tiny_config())
    train_lm(tiny_config())  # what this process claimed it has given back


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before_and_no_bit(tiny_config):
    whole, damaged = tiny_config("whole"), tiny_config("damaged")
    for config in (whole, damaged):
        train_lm(config)
    damage(damaged.output_path, 12)
    with pytest.warns(checkpoint.CorruptCheckpointWarning) as caught:
        train_lm(damaged)
    passed_over, renamed = (str(warning.message) for warning in caught)
    assert (
        "step-00000012 is corrupt: file 'process-00000.safetensors' has sha256" in passed_over
        and "params.final_norm" in passed_over
    )
    assert "step-00000012 is corrupt and was renamed to corrupt-step-00000012; training goes on from step 8" in renamed
    assert final_bits(damaged.output_path) == final_bits(whole.output_path)


def test_a_run_on_a_mixture_that_changes_goes_on_in_it_bit_for_bit(tiny_config, stores):
    """Weights, batch size and held-out rows all change what comes next; none of it is replayed."""
    data = LmDataConfig(
        train={"text": str(stores / "train"), "more": str(stores / "other")},
        weights=(
            MixtureStage(start=0, weights={"text": 3.0, "more": 1.0}),
            MixtureStage(start=Sequences(27), weights={"text": 1.0, "more": 3.0}),
            MixtureStage(start=Tokens(50 * 16), weights={"more": 1.0}),
        ),
        mixture_block_size=8,
        packing="best_fit",
        num_validation_sequences={"text": 5},
        max_train_batches={"more": 6},
    )
    sizes = (ScheduleStep(0, 4), ScheduleStep(7, 8))
    whole, cut = (tiny_config(name, data=data, train_batch_size=sizes) for name in ("whole", "cut"))
    for config in (whole, cut):
        train_lm(config)
    shutil.rmtree(Path(cut.output_path) / "checkpoints/step-00000012")
    result = train_lm(cut)
    assert final_bits(cut.output_path) == final_bits(whole.output_path)
    assert set(result.final_validation) == {"text"}
    described = json.loads((Path(cut.output_path) / "data.json").read_text())
    assert [stage["start"] for stage in described["order"]["stages"]] == [0, 27, 50]
    num_rows = described["order"]["num_rows"]
    assert num_rows["more"] == 6 * 4
    loader = DataLoader(open_data(data, 16, batches=cut.trainer.batches).train, cut.trainer.batches)
    sources = [row.source for update in range(1, 13) for row in rows_at_update(loader, update)]
    assert result.epochs == {name: sources.count(name) / num_rows[name] for name in num_rows}


def test_data_that_ends_before_the_run_is_refused_before_anything_is_written(tiny_config):
    config = tiny_config(num_train_steps=10_000, stop_strategy="first_exhausted")
    with pytest.raises(ValueError, match=r"10000 batches take 40000 rows, and the mixture ends after \d+ .* fewer"):
        train_lm(config)
    assert not Path(config.output_path).exists()


def test_a_program_that_makes_another_order_does_not_go_on_with_a_run(tiny_config):
    config = tiny_config()
    train_lm(config)
    path = Path(config.output_path) / "data.json"
    path.write_text(path.read_text().replace("marin-permutation-v1", "marin-permutation-v0"))
    with pytest.raises(ValueError, match="saw its rows in another order: order.algorithm was 'marin-permutation-v0'"):
        train_lm(config)


def damage(output, step):
    """Flip a bit of the last norm's scale."""
    folder = Path(output) / f"checkpoints/step-{step:08d}"
    arrays = json.loads((folder / "manifest.json").read_text())["arrays"]
    (shard,) = next(array["shards"] for array in arrays if array["path"] == "params.final_norm")
    content = bytearray((folder / shard["file"]).read_bytes())
    content[shard["begin"] + 5] ^= 16
    (folder / shard["file"]).write_bytes(content)


def test_where_every_checkpoint_is_damaged_the_run_is_refused_and_nothing_is_touched(tiny_config):
    config = tiny_config()
    train_lm(config)
    for step in (8, 12):
        damage(config.output_path, step)
    before = files(config.output_path)
    with pytest.raises(checkpoint.CorruptCheckpointError, match="(?s)step-00000012.*step-00000008.*to start anew"):
        train_lm(config)
    assert files(config.output_path) == before


def files(output):
    return {path: path.read_bytes() for path in Path(output).rglob("*") if path.is_file()}


def test_microbatches_give_the_losses_of_the_batch(tiny_config):
    whole, parts = tiny_config("whole"), tiny_config("parts", per_device_parallelism=1)
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


def test_a_checkpoint_that_is_kept_for_good_is_saved_at_its_step_whatever_the_others_are(tiny_config):
    config = tiny_config(
        num_train_steps=11, steps_per_checkpoint=4, keep_checkpoints=KeepPolicy(keep_last=1, keep_every=3)
    )
    train_lm(config)
    assert [folder.step for folder in list_checkpoints(Path(config.output_path) / "checkpoints")] == [3, 6, 9, 11]


def test_parameters_that_are_no_numbers_are_not_saved_though_loss_and_gradient_were(tiny_config):
    # without epsilon, the moments of a token that no row has are 0 / 0 at once, and no loss knows of it yet
    config = tiny_config(epsilon=0.0, max_grad_norm=None, steps_per_checkpoint=1)
    with pytest.raises(NonFiniteLossError, match="step 1: the update made parameters that are NaN.*No checkpoint"):
        train_lm(config)
    assert list_checkpoints(Path(config.output_path) / "checkpoints") == []


def test_rows_at_one_time_may_be_more_than_the_batch_has(tiny_config):
    trainer = tiny_config(per_device_parallelism=8, train_batch_size=4).trainer
    assert (trainer.num_microbatches(4), trainer.num_microbatches(4, 2), trainer.num_microbatches(16)) == (1, 1, 2)


def test_a_loss_that_is_no_number_ends_the_run_with_its_step_and_keeps_the_checkpoint(tiny_config):
    config = tiny_config(learning_rate=1e36, warmup=0, steps_per_checkpoint=1, lr_schedule="constant", weight_decay=0.0)
    with pytest.raises(
        NonFiniteLossError, match=r"step \d+: train/loss is .*expected finite.*step-0000000.*lower"
    ) as e:
        train_lm(config)
    step = int(str(e.value).split()[1].rstrip(":"))
    loader = DataLoader(open_data(config.data, 16).train, config.trainer.batches)
    documents = name_documents(rows_at_update(loader, step), at_most=8)
    assert f"Its batch held {documents} (all of them" in str(e.value)
    assert f"marin data at-step {config.output_path} {step})" in str(e.value)
    newest = list_checkpoints(Path(config.output_path) / "checkpoints")[-1]
    assert newest.step == step - 1
    checkpoint.verify(newest.path)


def test_a_folder_with_another_configs_run_is_refused_with_the_fields_that_differ(tiny_config):
    train_lm(tiny_config())
    before = files(tiny_config().output_path)
    with pytest.raises(ValueError, match=r"another config: optimizer.learning_rate was 0.01, is 0.02.*output_path"):
        train_lm(tiny_config(learning_rate=2e-2))
    assert files(tiny_config().output_path) == before


def test_so_is_one_whose_checkpoints_are_gone_but_not_what_it_came_to(tiny_config):
    config = tiny_config()
    train_lm(config)
    shutil.rmtree(Path(config.output_path) / "checkpoints")
    before = files(config.output_path)
    with pytest.raises(ValueError, match=r"another config: optimizer.learning_rate was 0.01, is 0.02"):
        train_lm(tiny_config(learning_rate=2e-2))
    assert files(config.output_path) == before
    (Path(config.output_path) / "summary.json").unlink()
    export = Path(config.output_path) / "hf/step-00000004"
    export.mkdir(parents=True)
    with pytest.raises(ValueError, match="another config"):
        train_lm(tiny_config(learning_rate=2e-2))
    export.rmdir()
    assert train_lm(tiny_config(learning_rate=2e-2)).final_step == 12, "a run that came to nothing is in nobody's way"


def test_other_tokens_in_the_same_place_are_refused_on_resuming(tiny_config, stores):
    train_lm(tiny_config())
    before = files(tiny_config().output_path)
    with pytest.raises(ValueError, match="store of training source 'text' has changed since"):
        train_lm(tiny_config(train={"text": str(stores / "other")}))
    with pytest.raises(ValueError, match="store of validation set 'held_out' has changed since"):
        train_lm(tiny_config(validation={"held_out": str(stores / "other")}))
    assert files(tiny_config().output_path) == before


def test_rows_that_went_missing_are_noticed_on_resuming(tiny_config):
    train_lm(tiny_config())
    path = Path(tiny_config().output_path) / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    before = files(tiny_config().output_path)
    with pytest.raises(ValueError, match="metrics.jsonl has .* bytes of rows up to step 12, but had"):
        train_lm(tiny_config())
    assert files(tiny_config().output_path) == before


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


def test_a_tokenizer_with_another_end_of_text_than_the_stores_is_refused(tiny_config, tmp_path):
    tokenizer = write_byte_tokenizer(tmp_path / "tokenizer")
    settings = json.loads((tokenizer / "tokenizer_config.json").read_text())
    for changed in ({"eos_token": "a"}, {"bos_token": "<|endoftext|>"}):
        (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings | changed))
        with pytest.raises(ValueError, match="tokenizer.*digest.*is not the one.*was tokenized with"):
            train_lm(tiny_config(num_train_steps=3, tokenizer=str(tokenizer)))


def test_a_batch_that_microbatches_do_not_divide_is_refused_with_the_arithmetic():
    with pytest.raises(ValueError, match=r"3 \* 10 = 30 leaves 2 rows.*30 and 40"):
        TrainerConfig(num_train_steps=1, train_batch_size=32, seed=0, per_device_parallelism=10)


def test_a_simple_config_says_nothing_twice_and_leaves_defaults_to_the_full_one():
    simple = SimpleTrainConfig(train_batch_size=8, num_train_steps=10, learning_rate=1e-3, per_device_parallelism=2)
    assert simple.trainer() == TrainerConfig(num_train_steps=10, train_batch_size=8, seed=0, per_device_parallelism=2)
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
