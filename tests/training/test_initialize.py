"""Beginning with what another run has saved: what is carried over, which rows come then, what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from test_killed_runs import num_bytes, start, wait_for
from test_train_lm import damage, files, final_bits

from marin.checkpoint import format as checkpoint
from marin.checkpoint.discover import list_checkpoints
from marin.checkpoint.policy import KeepPolicy
from marin.config import dump_yaml
from marin.data.at_step import name_documents, rows_at_update
from marin.data.batch_schedule import BatchSchedule, ScheduleStep
from marin.data.config import LmDataConfig, MixtureStage
from marin.data.lm_data import open_data
from marin.data.loader import DataLoader
from marin.optim.adamw import AdamWConfig
from marin.optim.lion import LionConfig
from marin.testing.tiny import make_token_store
from marin.tracking.jsonl import read_rows
from marin.training.callbacks import NonFiniteLossError
from marin.training.config import SimpleTrainConfig
from marin.training.initialize import SOURCE_FILE
from marin.training.initialize_config import InitializeFrom
from marin.training.train_lm import train_lm


@pytest.fixture(scope="module")
def source(tiny_config_at, tmp_path_factory) -> Path:
    """A run of 12 updates with checkpoints at 4, 8 and 12."""
    config = tiny_config_at(tmp_path_factory.mktemp("source") / "run", keep_checkpoints=KeepPolicy(keep_last=3))
    train_lm(config)
    return Path(config.output_path)


def state(path, **options) -> InitializeFrom:
    return InitializeFrom(path=str(path), content="state", **options)


def weights(path, **options) -> InitializeFrom:
    return InitializeFrom(path=str(path), content="weights", **options)


def folder(output, step) -> Path:
    return Path(output) / f"checkpoints/step-{step:08d}"


def hashes(output, step) -> dict[str, list[list[str]]]:
    """Array -> the hashes of its shards: equal hashes, equal bits."""
    manifest = json.loads((folder(output, step) / "manifest.json").read_text())
    return {array["path"]: [shard["sha256"] for shard in array["shards"]] for array in manifest["arrays"]}


def train_rows(output) -> dict[int, dict]:
    rows = read_rows(Path(output) / "metrics.jsonl")
    return {row["step"]: row for row in rows if "train/loss" in row}


def params(config, step, prefix="params"):
    shapes = jax.eval_shape(lambda: config.model.init(257, key=jax.random.key(0)))
    return jax.tree.leaves(checkpoint.load(folder(config.output_path, step), shapes, prefix))


def test_state_and_place_in_the_data_handed_over_go_on_as_if_there_had_been_one_run(tiny_config, source):
    given = state(folder(source, 8), reset_data_loader_on_init=False)
    config = tiny_config(initialize_from=given)
    result = train_lm(config)
    assert train_rows(config.output_path) == {step: row for step, row in train_rows(source).items() if step > 8}
    assert hashes(config.output_path, 12) == hashes(source, 12)
    assert (result.start_step, result.final_step) == (8, 12)
    summary = json.loads((source / "summary.json").read_text())
    assert (result.num_tokens, result.epochs) == (summary["num_tokens"], summary["epochs"])


def test_a_runs_folder_means_its_newest_checkpoint_that_is_whole(tiny_config, source, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    damage(copy, 12)
    config = tiny_config(initialize_from=state(copy, reset_data_loader_on_init=False))
    with pytest.warns(checkpoint.CorruptCheckpointWarning, match="step-00000012 is corrupt.*Passed over for .* step 8"):
        train_lm(config)
    assert hashes(config.output_path, 12) == hashes(source, 12)
    assert json.loads((Path(config.output_path) / SOURCE_FILE).read_text())["checkpoint"] == "checkpoints/step-00000008"
    named = tiny_config("named", initialize_from=weights(folder(copy, 12)))
    with pytest.raises(checkpoint.CorruptCheckpointError, match="step-00000012 is corrupt"):
        train_lm(named)
    assert not Path(named.output_path).exists()


def loader_of(config, first_step: int) -> DataLoader:
    batches = BatchSchedule(config.trainer.train_batch_size, first_step=first_step)
    return DataLoader(open_data(config.data, 16, batches=batches).train, batches)


def test_with_the_loader_reset_the_count_goes_on_and_the_rows_begin_anew(tiny_config, source, stores, marin):
    """Batch sizes and stages are in steps from the very first run; only the rows are counted from this one's first."""
    stages = (
        MixtureStage(start=0, weights={"text": 1.0}),
        MixtureStage(start=5, weights={"text": 1.0, "more": 3.0}),
        MixtureStage(start=11, weights={"more": 1.0}),
    )
    data = LmDataConfig(
        train={"text": str(stores / "train"), "more": str(stores / "other")},
        weights=stages,
        mixture_block_size=4,
        shuffle_seed=5,
        packing="best_fit",
        max_train_batches={"more": 6},
    )
    sizes = (ScheduleStep(0, 3), ScheduleStep(10, 8))
    config = tiny_config(
        num_train_steps=13, data=data, train_batch_size=sizes, initialize_from=state(folder(source, 8))
    )
    result = train_lm(config)
    taken = {9: (0, 3), 10: (3, 6), 11: (6, 14), 12: (14, 22), 13: (22, 30)}
    assert {step: row["train/tokens"] for step, row in train_rows(config.output_path).items()} == {
        step: end * 16 for step, (_, end) in taken.items()
    }
    assert result.num_tokens == 30 * 16
    sources = []
    for step, (first, end) in taken.items():
        found = json.loads(marin("data", "at-step", config.output_path, str(step), "--json"))["rows"]
        assert [row["position"] for row in found] == list(range(first, end))
        sources += [row["source"] for row in found]
    assert set(sources[14:]) == {"more"}, "the stage from update 11 (counted from 0) on"
    assert sources[:4].count("more") == sources[4:8].count("more") == 3
    num_rows = json.loads((Path(config.output_path) / "data.json").read_text())["order"]["num_rows"]
    assert result.epochs == {name: sources.count(name) / num_rows[name] for name in num_rows}
    report = json.loads(marin("data", "mixture", config.output_path, "--json"))
    assert {name: source["rows_used"] for name, source in report["sources"].items()} == {
        name: sources.count(name) for name in num_rows
    }
    assert (report["num_steps"], report["num_rows"]) == (5, 30)
    assert [(stage["first_update"], stage["num_rows"]) for stage in report["stages"]] == [(9, 14), (12, 16)]
    refused = marin("data", "at-step", config.output_path, "8", expect=2)
    assert "those are 9 to 13" in refused
    # the first batch is that of row 0, and the parameters those of the checkpoint
    plain = replace(data, weights=stages[1].weights)
    other = tiny_config("other", data=plain, train_batch_size=3, num_train_steps=1, warmup=0)
    train_lm(replace(other, initialize_from=weights(folder(source, 8))))
    assert train_rows(other.output_path)[1]["train/loss"] == train_rows(config.output_path)[9]["train/loss"]


def test_without_reset_the_rows_are_those_at_that_place_of_the_new_mixture(tiny_config, source, stores, marin):
    data = LmDataConfig(
        train={"text": str(stores / "train"), "more": str(stores / "other")},
        weights=(MixtureStage(start=0, weights={"text": 1.0}), MixtureStage(start=8, weights={"more": 1.0})),
        mixture_block_size=4,
        packing="best_fit",
    )
    given = state(folder(source, 8), reset_data_loader_on_init=False)
    config = tiny_config(data=data, initialize_from=given)
    result = train_lm(config)
    for step in (9, 12):
        found = json.loads(marin("data", "at-step", config.output_path, str(step), "--json"))["rows"]
        assert [row["position"] for row in found] == list(range(4 * (step - 1), 4 * step))
        assert {row["source"] for row in found} == {"more"}
    assert result.num_tokens == 48 * 16
    report = json.loads(marin("data", "mixture", config.output_path, "--json"))
    assert {name: source["rows_used"] for name, source in report["sources"].items()} == {"text": 0, "more": 16}
    assert report["num_rows"] == 16


def test_weights_alone_begin_at_update_0_with_a_fresh_optimizer(tiny_config, source):
    config = tiny_config(num_train_steps=2, steps_per_checkpoint=1, warmup=0, initialize_from=weights(source))
    result = train_lm(config)
    rows = train_rows(config.output_path)
    assert list(rows) == [1, 2] and result.start_step == 0 and result.num_tokens == 2 * 4 * 16
    assert [row["train/learning_rate"] for row in rows.values()] == [config.optimizer.schedule(2)(i) for i in (0, 1)]
    assert rows[1]["train/loss"] < train_rows(source)[1]["train/loss"] - 0.5, "it has learned before"
    saved = checkpoint.saved_arrays(folder(config.output_path, 1))
    assert saved.keys() == checkpoint.saved_arrays(folder(source, 12)).keys()
    # of a fresh AdamW, the first update moves each parameter by the learning rate or not at all
    before, after = params(replace(config, output_path=str(source)), 12), params(config, 1)
    moved = np.concatenate([np.abs(a - b).ravel() for a, b in zip(after, before, strict=True)])
    rate = rows[1]["train/learning_rate"]
    assert np.median(moved) == pytest.approx(rate, rel=0.05) and moved.max() < 1.2 * rate


def test_an_average_added_midway_begins_as_the_parameters_and_is_named(tiny_config, source, capfd):
    given = state(folder(source, 8), reset_data_loader_on_init=False)
    with pytest.raises(ValueError, match=r"lacks \d+ of 'average' of this run's state.*allow_partial"):
        train_lm(tiny_config(ema_beta=0.75, initialize_from=given))
    assert not Path(tiny_config().output_path).exists()
    config = tiny_config(ema_beta=0.75, num_train_steps=9, initialize_from=replace(given, allow_partial=True))
    config = replace(
        config, trainer=replace(config.trainer, runtime=replace(config.trainer.runtime, show_progress=True))
    )
    train_lm(config)
    before = params(replace(config, output_path=str(source)), 8)
    for old, new, average in zip(before, params(config, 9), params(config, 9, "average"), strict=True):
        np.testing.assert_allclose(average, 0.75 * old + 0.25 * new, rtol=1e-6, atol=1e-8)
    said = capfd.readouterr().err
    assert "from step 8, initialized from" in said and "fresh: 9 of 'average'" in said
    # and the way back, which would drop it
    back = tiny_config("back", num_train_steps=10, initialize_from=state(config.output_path))
    with pytest.raises(ValueError, match="has 9 of 'average' beyond it"):
        train_lm(back)
    train_lm(replace(back, initialize_from=state(config.output_path, allow_partial=True)))
    assert list(train_rows(back.output_path)) == [10]


@pytest.mark.slow
def test_parameters_that_the_checkpoint_lacks_start_fresh_where_that_is_allowed(tiny_config, tmp_path):
    tied = tiny_config("tied", num_train_steps=1, warmup=0, tie_word_embeddings=True)
    train_lm(tied)
    untied = tiny_config(
        "untied", num_train_steps=1, warmup=0, initialize_from=weights(tied.output_path), learning_rate=1e-12
    )
    with pytest.raises(ValueError, match="lacks 'params.unembedding' of this run's state.*Set allow_partial"):
        train_lm(untied)
    untied = replace(untied, initialize_from=weights(tied.output_path, allow_partial=True))
    train_lm(untied)
    fresh = untied.model.init(257, key=jax.random.key(untied.trainer.seed))
    shapes = jax.eval_shape(lambda: fresh)
    found = checkpoint.load(folder(untied.output_path, 1), shapes)
    kept = checkpoint.load(
        folder(tied.output_path, 1), jax.eval_shape(lambda: tied.model.init(257, key=jax.random.key(0)))
    )
    np.testing.assert_allclose(found.unembedding, fresh.unembedding, atol=1e-7)
    np.testing.assert_allclose(found.embedding, kept.embedding, atol=1e-7)
    back = tiny_config(
        "back", tie_word_embeddings=True, initialize_from=weights(untied.output_path, allow_partial=True)
    )
    with pytest.raises(ValueError, match="another model: it has 'params.unembedding', which this run's model does not"):
        train_lm(back)


@pytest.mark.slow
def test_killed_and_started_again_it_goes_on_from_its_own_checkpoints_bit_for_bit(tiny_config, tmp_path, source):
    """Also when the run that it began with has gone on since, or is gone."""
    shape = {"num_train_steps": 400, "steps_per_checkpoint": 50, "steps_per_eval": None, "ema_beta": 0.9}
    origin = tmp_path / "origin"
    shutil.copytree(source, origin)
    quiet, killed = (
        tiny_config(name, initialize_from=state(origin, allow_partial=True), **shape) for name in ("quiet", "killed")
    )
    train_lm(quiet)
    metrics = Path(killed.output_path) / "metrics.jsonl"
    own = Path(killed.output_path) / "checkpoints"
    moments = [
        lambda: num_bytes(metrics) > 2000,  # before it has saved anything
        lambda: list_checkpoints(own),
        lambda: len(list_checkpoints(own)) > 1,
    ]
    for number, moment in enumerate(moments):
        process = start(killed, tmp_path)
        assert wait_for(moment, process)
        process.kill()
        process.communicate()
        if number == 0:
            shutil.copytree(folder(origin, 8), folder(origin, 16))  # a newer one, in the eyes of who looks for it
    shutil.rmtree(origin)
    train_lm(killed)
    assert final_bits(killed.output_path) == final_bits(quiet.output_path)
    assert list(train_rows(killed.output_path))[0] == 13


def test_a_run_does_not_go_on_when_another_checkpoint_lies_where_it_began(tiny_config, tmp_path, source):
    origin = tmp_path / "origin"
    shutil.copytree(source, origin)
    config = tiny_config(initialize_from=state(origin / "checkpoints/step-00000004"))
    train_lm(config)
    before = files(config.output_path)
    moved = tmp_path / "moved"
    origin.rename(moved)
    train_lm(config)
    elsewhere = replace(config, initialize_from=state(moved / "checkpoints/step-00000004"))
    train_lm(elsewhere)
    shutil.rmtree(folder(moved, 4))
    shutil.copytree(folder(moved, 8), folder(moved, 4))
    with pytest.raises(ValueError, match="initialized from something else than there is now at .*step-00000004"):
        train_lm(elsewhere)
    with pytest.raises(ValueError, match="another config: initialize_from.content was 'state', is 'weights'"):
        train_lm(replace(elsewhere, initialize_from=weights(moved)))
    (Path(config.output_path) / SOURCE_FILE).unlink()
    with pytest.raises(ValueError, match="not the initialized_from.json that says from which"):
        train_lm(elsewhere)
    assert {p: b for p, b in before.items() if p.name not in (SOURCE_FILE, "config.yaml")} == {
        p: b for p, b in files(config.output_path).items() if p.name != "config.yaml"
    }


def test_what_does_not_fit_is_refused_before_anything_is_written(tiny_config, source, stores, tmp_path):
    def refused(message, **changes):
        config = tiny_config("refused", **changes)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train_lm(config)
        assert not Path(config.output_path).exists()

    wider = {"intermediate_dim": 32, "initialize_from": weights(source)}
    refused(
        r"another model: 'params.layers.gate_up' is float32\[1, 16, 2, 24\] there and float32\[1, 16, 2, 32\]", **wider
    )
    refused("has done 12 updates, and trainer.num_train_steps is 12.*the count goes on", initialize_from=state(source))
    refused(
        "lacks nothing of this run's state, and has 9 of 'optimizer' beyond it",
        optimizer=LionConfig(learning_rate=1e-2),
        num_train_steps=13,
        initialize_from=state(source),
    )
    refused(
        "no checkpoint at .*step-00000099.*there are step-00000004, step-00000008, step-00000012",
        initialize_from=weights(folder(source, 99)),
    )
    refused("no checkpoint at .*nowhere: expected the folder of a run", initialize_from=weights(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="content is 'all'; expected one of 'weights', 'state'"):
        InitializeFrom(path="x", content="all")  # type: ignore[arg-type]
    other = tmp_path / "other"
    shutil.copytree(stores / "train-tokenizer", other)
    description = json.loads((other / "tokenizer.json").read_text())
    ids = description["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    (other / "tokenizer.json").write_text(json.dumps(description))
    make_token_store(tmp_path / "store", 60, tokenizer=other)
    data = LmDataConfig(train={"text": str(tmp_path / "store")}, packing="best_fit")
    refused("tokens of another tokenizer .* than the stores of this run", data=data, initialize_from=weights(source))


def test_the_error_about_a_loss_that_is_no_number_names_the_documents_of_that_step(tiny_config, source):
    optimizer = AdamWConfig(learning_rate=1e36, weight_decay=0.0, lr_schedule="constant", warmup=0)
    config = tiny_config(optimizer=optimizer, initialize_from=state(folder(source, 8)))
    with pytest.raises(NonFiniteLossError) as raised:
        train_lm(config)
    step = int(str(raised.value).split()[1].rstrip(":"))
    assert step > 8
    documents = name_documents(rows_at_update(loader_of(config, first_step=8), step), at_most=8)
    assert f"Its batch held {documents} (all of them" in str(raised.value)


def test_what_is_drawn_before_launch_is_of_the_steps_that_the_run_will_do(tiny_config, source, marin, tmp_path):
    config = tiny_config(
        train_batch_size=(ScheduleStep(0, 3), ScheduleStep(8, 8)), initialize_from=state(folder(source, 8))
    )
    (tmp_path / "given.yaml").write_text(dump_yaml(config))
    out = marin("train", str(tmp_path / "given.yaml"), "--dry-run")
    assert "step 8 to 11\n" in out and "batch size 8 rows throughout" in out and " 32 rows, " in out
    assert not Path(config.output_path).exists()
    train_lm(config)
    assert ">4 updates, 32 rows<" in (Path(config.output_path) / "schedules.svg").read_text()
    assert [path.name for path in Path(config.output_path).glob("*.stablehlo.gz")] == ["train_step.b8.stablehlo.gz"]


def test_the_short_form_names_a_checkpoint_as_users_of_the_reference_do():
    shape = {"train_batch_size": 4, "num_train_steps": 9, "learning_rate": 1e-2}
    simple = SimpleTrainConfig(**shape, initialize_from_checkpoint_path="run", reset_data_loader_on_init=False)
    assert simple.initialize_from() == state("run", reset_data_loader_on_init=False)
    simple = SimpleTrainConfig(**shape, initialize_from_checkpoint_path="run", allow_partial_checkpoint=True)
    assert simple.initialize_from() == state("run", allow_partial=True)
    assert SimpleTrainConfig(**shape).initialize_from() is None
    with pytest.raises(ValueError, match="allow_partial_checkpoint is for initialize_from_checkpoint_path"):
        SimpleTrainConfig(**shape, allow_partial_checkpoint=True)
