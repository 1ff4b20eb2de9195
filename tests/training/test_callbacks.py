"""What callbacks leave, against what the saved parameters say; and that a killed run leaves the same."""

import gzip
import json
import math
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_killed_runs import kill_again_and_again, num_bytes, start, wait_for
from test_train_lm import final_bits
from test_train_step import MODEL, VOCAB, random_batch, transformation

from marin.checkpoint import format as checkpoint
from marin.checkpoint.discover import list_checkpoints
from marin.checkpoint.policy import KeepPolicy
from marin.data.config import LmDataConfig
from marin.data.store import TokenStore
from marin.evaluation.exported import doubt_of, read_parity
from marin.evaluation.multiple_choice import METRICS, answer_questions, correct
from marin.evaluation.scoring import scored_model
from marin.evaluation.tasks import EvalTaskConfig, MultipleChoiceTask, Question
from marin.export.hf import load_hf
from marin.inference.generate import generate
from marin.models import lm
from marin.models.llama import LlamaConfig
from marin.optim.adamw import AdamWConfig
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.tracking.jsonl import read_rows
from marin.training.callback_config import (
    EarlyStoppingConfig,
    EvalsConfig,
    ExportHfConfig,
    MemorizationConfig,
    SamplesConfig,
    WatchConfig,
)
from marin.training.callbacks import ValidationSums, parent_sums
from marin.training.config import ProfileConfig, RuntimeConfig, TrainerConfig, TrainLmConfig
from marin.training.state import init_state
from marin.training.train_lm import train_lm
from marin.training.train_step import loss_gradient, make_train_step
from marin.training.watch_statistics import LOWEST, NUM_BINS, magnitude_histogram

TINY_MODEL = LlamaConfig(seq_len=16, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)
QUESTIONS = [
    {"query": "the small red", "choices": ["house", "tree", "river and"], "gold": 1},
    {"query": "one two", "choices": ["three four", "stone"], "gold": 0},
    {"query": "writes", "choices": ["holds", "over the big"], "gold": 0},
]
SAMPLES = SamplesConfig(prompts=("the ", "a big"), every=4, max_new_tokens=5, temperature=1.0, seed=3)
MEMORIZATION = MemorizationConfig(source="text", prefix_lengths=(0, 5), continuation_length=4, num_sequences=7)


@pytest.fixture(scope="module")
def full_config(stores, tmp_path_factory):
    """`full_config(folder)`: a run of 10 steps with every callback."""
    root = tmp_path_factory.mktemp("callbacks")
    questions = root / "questions.jsonl"
    questions.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))

    def make(name: str) -> TrainLmConfig:
        return TrainLmConfig(
            data=LmDataConfig(
                train={"text": str(stores / "train")},
                validation={"held/a": str(stores / "validation"), "held/b": str(stores / "other")},
                packing="best_fit",
                tokenizer=str(stores / "train-tokenizer"),
            ),
            model=TINY_MODEL,
            optimizer=AdamWConfig(learning_rate=1e-2, warmup=3),
            trainer=TrainerConfig(
                num_train_steps=10,
                train_batch_size=4,
                seed=0,
                steps_per_eval=4,
                max_eval_batches=3,
                steps_per_checkpoint=3,
                runtime=RuntimeConfig(show_progress=False),
            ),
            output_path=str(root / name),
            callbacks=(
                WatchConfig(every=4),
                SAMPLES,
                MEMORIZATION,
                EvalsConfig(tasks=(EvalTaskConfig("toy", 0, file=str(questions)),), mutual_information=True),
                ExportHfConfig(every=4),
                EarlyStoppingConfig(metric="validation/held/loss", patience=50),
            ),
        )

    return make


@pytest.fixture(scope="module")
def full_run(full_config):
    """(config, rows of metrics.jsonl by their last step, final parameters)."""
    config = full_config("whole")
    train_lm(config)
    shapes = jax.eval_shape(lambda: config.model.init(257, key=jax.random.key(0)))
    params = checkpoint.load(Path(config.output_path) / "checkpoints/step-00000010", shapes, prefix="params")
    last: dict[str, float] = {}
    for row in read_rows(Path(config.output_path) / "metrics.jsonl"):
        last |= row
    return config, last, params


@pytest.mark.slow
def test_norms_and_histograms_are_written_when_due_and_fit_the_run(full_run):
    config, last, params = full_run
    output = Path(config.output_path)
    rows = [row for row in read_rows(output / "metrics.jsonl") if "watch/grad_norm" in row]
    assert [row["step"] for row in rows] == [4, 8, 10]
    norm = math.sqrt(sum(float(np.sum(np.square(leaf, dtype=np.float64))) for leaf in jax.tree.leaves(params)))
    assert last["watch/param_norm"] == pytest.approx(norm, rel=1e-5)
    assert last["watch/grad_norm"] == pytest.approx(last["train/grad_norm"], rel=1e-5)
    histograms = [json.loads(line) for line in (output / "histograms.jsonl").read_text().splitlines()]
    assert [row["step"] for row in histograms] == [4, 8, 10]
    counts = histograms[-1]["param/layers.qkv"]
    assert counts == np.asarray(magnitude_histogram(params.layers.qkv)).tolist()
    assert sum(counts) == params.layers.qkv.size


def test_what_is_watched_is_what_its_formulas_say():
    state = init_state(MODEL, transformation(), VOCAB, seed=0)
    batch = random_batch(np.random.default_rng(0), 4)
    before = jax.tree.map(np.array, state.params)
    gradient, _ = jax.jit(loss_gradient, static_argnums=0)(MODEL, state.params, batch)
    weight = float(np.sum(batch.loss_weights))
    plain, _ = make_train_step(MODEL, transformation(), max_grad_norm=1.0)(jax.tree.map(jnp.copy, state), batch, 0.01)
    after, _, watched = make_train_step(MODEL, transformation(), max_grad_norm=1.0, is_watched=True)(state, batch, 0.01)
    for one, other in zip(jax.tree.leaves(after.params), jax.tree.leaves(plain.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)

    def norm(x) -> float:
        return math.sqrt(float(np.sum(np.square(np.asarray(x, np.float64)))))

    name = "layers.gate_up"
    assert watched.grad_norm[name] == pytest.approx(norm(gradient.layers.gate_up) / weight, rel=1e-4)
    assert watched.param_norm[name] == pytest.approx(norm(after.params.layers.gate_up), rel=1e-5)
    moved = np.asarray(after.params.layers.gate_up, np.float64) - before.layers.gate_up
    assert watched.update_norm[name] == pytest.approx(norm(moved), rel=1e-3)


def test_a_histogram_counts_magnitudes_by_powers_of_two():
    x = np.array([[0.0, 1.0, -1.5, 2.0], [0.25, -0.4999, 1e-30, 1e30]], np.float32)
    counts = np.asarray(magnitude_histogram(x))
    expected = np.zeros(NUM_BINS, int)
    for exponent, count in ((0, 2), (1, 1), (-2, 2)):
        expected[exponent - LOWEST] = count
    expected[0], expected[-1] = 2, 1  # zero and 1e-30; 1e30
    assert counts.tolist() == expected.tolist()


def test_samples_are_what_the_parameters_write(full_run):
    config, _, params = full_run
    tokenizer = load_tokenizer(config.data.tokenizer)
    rows = [json.loads(line) for line in (Path(config.output_path) / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 10]
    prompts = [[tokenizer.eos_id, *map(int, tokenizer.encode(prompt))] for prompt in SAMPLES.prompts]
    options = {"max_new_tokens": 5, "stop_ids": (tokenizer.eos_id,), "temperature": 1.0, "seed": 3}
    completions = generate(config.model, params, prompts, **options)
    assert [sample["completion"] for sample in rows[-1]["samples"]] == [tokenizer.decode(c) for c in completions]
    assert [sample["prompt"] for sample in rows[-1]["samples"]] == list(SAMPLES.prompts)


def test_the_probability_of_a_held_text_is_the_product_over_its_tokens(full_run):
    config, last, params = full_run
    store = TokenStore.open(config.data.train["text"])
    offsets = np.asarray(store.document_offsets)
    starts = offsets[:-1][np.diff(offsets) >= 9]
    chosen = starts[(2 * np.arange(7) + 1) * starts.size // 14]
    score = jax.jit(lambda params, tokens: lm.logits(config.model, params, tokens))
    for prefix in (0, 5):
        products = []
        for start_at in chosen.tolist():
            tokens = store.gather(np.array([start_at]), 9)[0]
            product = 1.0
            for position in range(prefix, prefix + 4):
                context = np.zeros((1, 10), np.int32)  # what stands behind the prefix is hidden from the model
                context[0, : position + 1] = [store.eos_id, *tokens[:position]]
                scores = np.asarray(score(params, context), np.float64)[0, position]
                product *= math.exp(scores[tokens[position]] - scores.max()) / np.exp(scores - scores.max()).sum()
            products.append(product)
        name = f"memorization/prefix_{prefix}"
        assert last[f"{name}/mean_probability"] == pytest.approx(sum(products) / 7, rel=1e-4)
        assert last[f"{name}/max_probability"] == pytest.approx(max(products), rel=1e-4)
        assert last[f"{name}/mean_log_probability"] == pytest.approx(np.log(products).mean(), rel=1e-4)
    assert last["memorization/documents"] == 7


def test_task_scores_are_those_of_an_evaluation_of_the_same_parameters(full_run):
    config, last, params = full_run
    questions = [
        Question(id=str(number), **{**row, "choices": tuple(row["choices"])}) for number, row in enumerate(QUESTIONS)
    ]
    task = MultipleChoiceTask(name="toy", version=1, questions=tuple(questions), delimiter=" ")
    model = scored_model(config.model, params, 257, document_prefix="eos")
    answers = answer_questions(model, load_tokenizer(config.data.tokenizer), task)
    assert last["eval/toy/questions"] == 3
    for metric in METRICS:
        assert last[f"eval/toy/{metric}"] == correct(answers, metric).mean()


def test_exports_on_the_way_are_verified_and_load(full_run):
    config, _, params = full_run
    folder = Path(config.output_path) / "hf"
    assert sorted(path.name for path in folder.iterdir()) == [f"step-{step:08d}" for step in (4, 8, 10)]
    loaded = load_hf(folder / "step-00000010")
    for one, other in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(one, other)
    parity = read_parity(folder / "step-00000010")
    assert parity["step"] == 10 and parity["num_positions"] > 0
    assert doubt_of(folder / "step-00000010", parity) is None


@pytest.mark.slow
def test_the_average_is_exported_where_that_is_asked_for(tiny_config, stores):
    export = ExportHfConfig(average=True, max_shard_bytes=6_000)
    config = tiny_config(num_train_steps=3, callbacks=(export,), tokenizer=str(stores / "train-tokenizer"))
    with pytest.raises(ValueError, match=r"none is kept: set trainer\.ema_beta"):
        train_lm(config)
    config = replace(config, trainer=replace(config.trainer, ema_beta=0.5))
    train_lm(config)
    folder = Path(config.output_path) / "hf/step-00000003"
    shapes = jax.eval_shape(lambda: config.model.init(257, key=jax.random.key(0)))
    average = checkpoint.load(Path(config.output_path) / "checkpoints/step-00000003", shapes, "average")
    jax.tree.map(np.testing.assert_array_equal, load_hf(folder).params, average)
    assert read_parity(folder)["average"] is True and len(list(folder.glob("model-*.safetensors"))) > 1


def test_the_program_and_the_picture_are_there_and_stalls_are_counted(full_run):
    config, _, _ = full_run
    output = Path(config.output_path)
    program = gzip.decompress((output / "train_step.b4.stablehlo.gz").read_bytes()).decode()
    assert program.startswith("module @") and "stablehlo.dot_general" in program
    assert (output / "schedules.svg").read_text().startswith("<svg ")
    stalls = [row["loader_stalls"] for row in read_rows(output / "timing.jsonl")]
    assert all(isinstance(count, int) and 0 <= count <= 2 for count in stalls)


@pytest.mark.slow  # it takes jax's profiler seconds to start
def test_a_window_of_updates_is_profiled(tiny_config):
    config = tiny_config(runtime=RuntimeConfig(show_progress=False, profile=ProfileConfig(start=3, num_steps=2)))
    train_lm(config)
    assert list(Path(config.output_path).glob("profile/plugins/profile/*/*.xplane.pb"))
    ends_within = tiny_config("ends", runtime=RuntimeConfig(show_progress=False, profile=ProfileConfig(start=11)))
    train_lm(ends_within)
    assert list(Path(ends_within.output_path).glob("profile/plugins/profile/*/*.xplane.pb"))


def test_parents_are_measured_over_all_tokens_of_their_sets(full_run):
    _, last, _ = full_run
    children = ("held/a", "held/b")
    tokens = [last[f"validation/{tag}/tokens"] for tag in children]
    nats = [last[f"validation/{tag}/loss"] * count for tag, count in zip(children, tokens, strict=True)]
    assert last["validation/held/tokens"] == sum(tokens)
    assert last["validation/held/loss"] == pytest.approx(sum(nats) / sum(tokens), rel=1e-12)
    num_bytes = sum(last[f"validation/{tag}/bytes"] for tag in children)
    assert last["validation/held/bits_per_byte"] == pytest.approx(sum(nats) / math.log(2) / num_bytes, rel=1e-12)


def test_a_parent_of_parents_counts_each_token_once():
    sums = {
        "a/b/c": ValidationSums(nats=1.0, num_tokens=1, num_bytes=2),
        "a/b/d": ValidationSums(nats=2.0, num_tokens=3, num_bytes=4),
        "a/e": ValidationSums(nats=4.0, num_tokens=5, num_bytes=6),
        "f": ValidationSums(nats=8.0, num_tokens=7, num_bytes=8),
    }
    assert parent_sums(sums) == {
        "a": ValidationSums(nats=7.0, num_tokens=9, num_bytes=12),
        "a/b": ValidationSums(nats=3.0, num_tokens=4, num_bytes=6),
    }


def all_bits(output):
    files = ["samples.jsonl", "histograms.jsonl", "schedules.svg", "train_step.b4.stablehlo.gz"]
    exports = sorted(path for path in (Path(output) / "hf").rglob("*") if path.is_file())
    return (
        final_bits(output)
        | {name: (Path(output) / name).read_bytes() for name in files}
        | {str(path.relative_to(output)): path.read_bytes() for path in exports}
    )


def test_a_run_with_every_callback_killed_and_resumed_leaves_the_same_bits(full_config, full_run, tmp_path):
    config = full_config("killed")
    process = start(config, tmp_path)
    metrics = Path(config.output_path) / "metrics.jsonl"
    # after the callbacks of step 8, whose rows come after the checkpoint of step 6
    assert wait_for(
        lambda: metrics.exists() and re.search(rb'"step": 8, "eval|"step": 9', metrics.read_bytes()), process
    )
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert [folder.step for folder in list_checkpoints(Path(config.output_path) / "checkpoints")][-1] < 10
    assert num_bytes(Path(config.output_path) / "samples.jsonl") > 0
    train_lm(config)
    assert all_bits(config.output_path) == all_bits(full_run[0].output_path)


# -- early stopping ----------------------------------------------------------------------------------------------------


def stopping(tiny_config, output, **changes):
    """A run that cannot get better by as much as it is asked to, so it stops at its fourth measurement."""
    shape = {"num_train_steps": 40, "steps_per_eval": 2, "steps_per_checkpoint": 3, "steps_per_log": 3}
    patience = EarlyStoppingConfig(metric="validation/held_out/loss", patience=3, min_delta=100.0)
    return tiny_config(output, callbacks=(patience,), **shape | changes)


@pytest.mark.slow
def test_other_numbers_written_first_do_not_count_as_a_metric_that_is_missing(tiny_config):
    callbacks = (WatchConfig(every=4), EarlyStoppingConfig(metric="validation/held_out/loss"))
    assert train_lm(tiny_config(callbacks=callbacks, num_train_steps=6)).final_step == 6
    callbacks = (WatchConfig(every=4), EarlyStoppingConfig(metric="watch/grad_nom"))
    with pytest.raises(ValueError, match="'watch/grad_nom', which this run does not write.*'watch/grad_norm'"):
        train_lm(tiny_config("wrong", callbacks=callbacks, num_train_steps=6))


def test_a_run_that_gets_no_better_stops_saves_and_is_done(tiny_config):
    config = stopping(tiny_config, "stops")
    result = train_lm(config)
    assert result.final_step == 8 and result.checkpoint == "checkpoints/step-00000008"
    assert result.final_validation["held_out"]["loss"] > 0
    rows = read_rows(Path(config.output_path) / "metrics.jsonl")
    assert rows[-1]["step"] == 8
    before = final_bits(config.output_path)
    assert train_lm(config) == result
    assert final_bits(config.output_path) == before


def test_a_run_that_stops_before_a_row_was_due_has_the_row_of_its_last_step(tiny_config):
    config = stopping(tiny_config, "stops", steps_per_log=100)
    result = train_lm(config)
    rows = [row for row in read_rows(Path(config.output_path) / "metrics.jsonl") if "train/loss" in row]
    assert [row["step"] for row in rows] == [8] == [result.final_step]
    assert result.final_loss == rows[0]["train/loss"]
    assert [row["step"] for row in read_rows(Path(config.output_path) / "timing.jsonl")] == [8]


def test_a_run_that_is_stopped_by_another_metric_between_validations_ends_with_one(tiny_config):
    probe = MemorizationConfig(source="text", prefix_lengths=(2,), continuation_length=4, every=2)
    watching = EarlyStoppingConfig(metric="memorization/prefix_2/mean_probability", patience=1, min_delta=100.0)
    config = tiny_config(callbacks=(probe, watching), steps_per_eval=100)
    result = train_lm(config)
    assert result.final_step == 4 and result.final_validation["held_out"]["loss"] > 0
    rows = read_rows(Path(config.output_path) / "metrics.jsonl")
    assert [row["step"] for row in rows if "validation/held_out/loss" in row] == [4]


def test_a_metric_that_a_later_callback_writes_is_refused_once_it_is_seen(tiny_config):
    probe = MemorizationConfig(source="text", prefix_lengths=(2,), continuation_length=4, every=2)
    watching = EarlyStoppingConfig(metric="memorization/prefix_2/mean_probability", patience=1, min_delta=100.0)
    assert train_lm(tiny_config("behind", callbacks=(probe, watching))).final_step == 4
    with pytest.raises(ValueError, match="a callback behind it in the list writes .as at step 2.* List early_stopping"):
        train_lm(tiny_config("before", callbacks=(watching, probe)))


def test_killed_before_its_last_checkpoint_a_run_stops_at_the_same_step(tiny_config):
    whole, killed = stopping(tiny_config, "whole"), stopping(tiny_config, "killed")
    train_lm(whole)
    train_lm(replace(killed, trainer=replace(killed.trainer, keep_checkpoints=KeepPolicy())))
    last = Path(killed.output_path) / "checkpoints/step-00000008"
    for path in sorted(last.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    last.rmdir()
    train_lm(killed)
    assert final_bits(killed.output_path) == final_bits(whole.output_path)


def test_a_metric_that_gets_better_does_not_stop_a_run(tiny_config):
    better = EarlyStoppingConfig(metric="validation/held_out/loss", patience=1)
    assert train_lm(tiny_config(callbacks=(better,), steps_per_eval=4)).final_step == 12


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (SamplesConfig(prompts=("a",)), "needs the tokenizer of the token stores: set data.tokenizer"),
        (MemorizationConfig(source="txt"), "no training source or validation set.*did you mean 'text'"),
        (MemorizationConfig(source="text", prefix_lengths=(60,)), "reads 76 tokens .*, the model 16 at most"),
        (MemorizationConfig(source="text"), "reads 48 tokens"),
        (
            EarlyStoppingConfig(metric="validation/heldout/loss"),
            "'validation/heldout/loss', which this run does not write; did you mean 'validation/held_out/loss'",
        ),
        (EarlyStoppingConfig(metric="valdation/held_out/loss"), "did you mean 'validation/held_out/loss'"),
        (EarlyStoppingConfig(metric="evla/a/acc"), "did you mean 'eval/...'"),
        (EarlyStoppingConfig(metric="train/loss"), "'train/loss', a number of every step.*validation/NAME/loss"),
    ],
)
def test_a_callback_that_cannot_work_is_refused_before_anything_is_written(tiny_config, callback, message):
    config = tiny_config(callbacks=(callback,))
    if "source" in vars(callback) and callback.prefix_lengths == (8, 32) and callback.source == "txt":
        config = replace(config, model=replace(config.model, seq_len=64))
    with pytest.raises(ValueError, match=message):
        train_lm(config)
    assert not Path(config.output_path).exists()


def test_a_validation_set_named_like_the_parent_of_others_is_refused(tiny_config, stores):
    path = str(stores / "validation")
    with pytest.raises(ValueError, match="'a' has the name under which 'a/b' and its like are measured together"):
        train_lm(tiny_config(validation={"a": path, "a/b": path}))
    held_out = tiny_config(validation={"text/b": path}, num_validation_sequences={"text": 3})
    with pytest.raises(ValueError, match="'text' has the name under which 'text/b'"):
        train_lm(held_out)
    assert not Path(held_out.output_path).exists()


def test_a_validation_set_named_like_what_the_average_is_measured_as_is_refused(tiny_config, stores):
    path = str(stores / "validation")
    train_lm(tiny_config("without", num_train_steps=3, validation={"ema/a": path}))
    with pytest.raises(ValueError, match="'ema/a' has a name of those under which the average"):
        train_lm(tiny_config(validation={"a": path, "ema/a": path}, ema_beta=0.5))


def test_settings_without_sense_are_refused():
    with pytest.raises(ValueError, match="every must be 1 or more, got 0"):
        WatchConfig(every=0)
    with pytest.raises(ValueError, match="prompts must be texts"):
        SamplesConfig(prompts=())
    with pytest.raises(ValueError, match="start must be 2 or more"):
        ProfileConfig(start=1)


def test_a_run_does_not_go_on_with_other_questions_than_it_was_scored_on(full_config, tmp_path):
    config = full_config("other_questions")
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps(QUESTIONS[0]) + "\n")
    few = replace(config.trainer, num_train_steps=4, steps_per_eval=None)
    asked = EvalsConfig(tasks=(EvalTaskConfig("toy", 0, file=str(questions)),), every=2)
    config = replace(config, trainer=few, callbacks=(asked,))
    train_lm(config)
    rows = [row["tasks"]["toy"] for row in read_rows(Path(config.output_path) / "evals.jsonl")]
    assert [row["n"] for row in rows] == [1, 1] and rows[0] == rows[1]
    train_lm(config)  # the same questions: nothing to do
    questions.write_text(json.dumps(QUESTIONS[1]) + "\n")
    with pytest.raises(ValueError, match=rf"task 'toy': {questions} has other questions than when this run was scored"):
        train_lm(config)


@pytest.mark.slow
def test_a_candidate_that_the_model_cannot_read_ends_the_run_with_that_reason(full_config, tmp_path):
    config = full_config("too_long")
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"query": "q", "choices": ["a " * 2000, "b"], "gold": 1}) + "\n")
    few = replace(config.trainer, num_train_steps=4, steps_per_eval=None)
    asked = EvalsConfig(tasks=(EvalTaskConfig("long", 0, file=str(questions)),))
    with pytest.raises(ValueError, match="task 'long', question 0: continuation .* the model reads"):
        train_lm(replace(config, trainer=few, callbacks=(asked,)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_kills_change_no_bit_of_what_callbacks_write(full_config, tmp_path):
    config = full_config("killed_often")
    config = replace(config, trainer=replace(config.trainer, num_train_steps=120, steps_per_checkpoint=5))
    quiet = replace(config, output_path=config.output_path + "_not")
    train_lm(quiet)
    hits, _ = kill_again_and_again(config, tmp_path, 10, seed=1)
    assert hits > 5
    assert all_bits(config.output_path) == all_bits(quiet.output_path)
