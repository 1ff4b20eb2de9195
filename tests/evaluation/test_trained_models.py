"""A training run as what is evaluated: while it trains, by its checkpoints, on validation sets."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marin.cli import main as cli
from marin.cli.recorded import tokenizer_of_run
from marin.config import encode
from marin.data.config import LmDataConfig
from marin.evaluation.api import default_eval
from marin.evaluation.checkpoints import draw, shown_tasks, summarize
from marin.evaluation.checkpoints import run as run_checkpoints
from marin.evaluation.compare import compare, read_run
from marin.evaluation.config import CheckpointsConfig, TaskEvaluationConfig, ValidationConfig
from marin.evaluation.models import checkpoints_of, open_model, run_tokenizer
from marin.evaluation.perplexity import document_bits
from marin.evaluation.results import read_results, read_samples
from marin.evaluation.task_step import run as run_tasks
from marin.evaluation.tasks import EvalTaskConfig
from marin.evaluation.validation import run as run_validation
from marin.execution.executor import Executor
from marin.models.llama import LlamaConfig
from marin.optim.adamw import AdamWConfig
from marin.processing.tokenize.api import default_tokenize
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.testing.tasks import write_task_data
from marin.testing.tiny import make_token_store, tiny_documents, write_byte_tokenizer
from marin.tracking.jsonl import read_rows
from marin.training.api import default_train
from marin.training.callback_config import EvalsConfig
from marin.training.config import RuntimeConfig, SimpleTrainConfig, TrainerConfig, TrainLmConfig
from marin.training.train_lm import train_lm

TASKS = (EvalTaskConfig("copa", 0), EvalTaskConfig("arc_easy", 1), EvalTaskConfig("piqa", 0))
SETS = {"prose/one": 2, "prose/two": 5, "other": 9}  # tag -> seed
NUM_STEPS = 4


def config(root: Path, output: Path) -> TrainLmConfig:
    return TrainLmConfig(
        data=LmDataConfig(
            train={"text": str(root / "train")},
            validation={tag: str(root / "sets" / tag) for tag in SETS},
            tokenizer=str(root / "tokenizer"),
        ),
        model=LlamaConfig(seq_len=64, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1),
        optimizer=AdamWConfig(learning_rate=3e-2, warmup=1),
        trainer=TrainerConfig(
            num_train_steps=NUM_STEPS,
            train_batch_size=4,
            seed=0,
            steps_per_eval=NUM_STEPS,
            steps_per_checkpoint=2,
            runtime=RuntimeConfig(show_progress=False),
        ),
        callbacks=(EvalsConfig(tasks=TASKS, every=2, metrics="core"),),
        output_path=str(output),
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run/`, trained for four steps with a checkpoint every two, `data/` of tasks, `sets/`, `tokenizer/`."""
    root = tmp_path_factory.mktemp("trained")
    write_byte_tokenizer(root / "tokenizer")
    make_token_store(root / "train", 40, seed=1, tokenizer=root / "tokenizer")
    for tag, seed in SETS.items():
        (root / "sets" / tag).parent.mkdir(parents=True, exist_ok=True)
        make_token_store(root / "sets" / tag, 5, seed=seed, tokenizer=root / "tokenizer")
    write_task_data(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARIN_EVAL_DATA", str(root / "data"))
        train_lm(config(root, root / "run"))
    return root


def asked(place: Path, output: Path, **changes) -> TaskEvaluationConfig:
    settings = {"model_path": str(place / "run"), "tasks": TASKS, "data_path": str(place / "data")} | changes
    return TaskEvaluationConfig(output_path=str(output), **settings)


def test_scores_in_training_are_those_of_an_evaluation_of_the_checkpoint(place: Path, tmp_path: Path):
    rows = {row["step"]: row for row in read_rows(place / "run" / "metrics.jsonl") if "eval/copa/acc" in row}
    assert sorted(rows) == [2, 4]
    for step, row in rows.items():
        output = tmp_path / str(step)
        results = read_results(run_tasks(asked(place, output, checkpoint=f"checkpoints/step-{step:08d}")))
        for task in ("copa", "arc_easy"):
            for metric, entry in results["tasks"][task]["metrics"].items():
                assert row[f"eval/{task}/{metric}"] == pytest.approx(entry["value"], abs=1e-5), (step, task, metric)
                assert row[f"eval/{task}/{metric}_stderr"] == pytest.approx(entry["stderr"], abs=1e-5)
        assert (row["eval/copa/questions"], row["eval/skipped_tasks"]) == (8, 1)
        assert results["model"]["checkpoint"] == f"step-{step:08d}" and results["model"]["step"] == step
    assert "eval/CORE-1/centred" in rows[4]  # copa: arc_easy is of CORE at ten examples, not at one


@pytest.mark.slow
def test_a_run_on_four_devices_is_asked_by_all_of_them(place: Path, tmp_path: Path, repository: Path):
    """In a process of its own, as the number of devices is fixed when JAX starts."""
    (tmp_path / "jobs.json").write_text(json.dumps([encode(config(place, tmp_path / "run"))]))
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "MARIN_EVAL_DATA": str(place / "data"),
        "PYTHONPATH": str(repository / "src"),
    }
    command = [sys.executable, str(repository / "tests/distributed/on_devices.py"), str(tmp_path / "jobs.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [None]
    row = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "eval/copa/acc" in row][-1]
    results = read_results(run_tasks(asked(place, tmp_path / "out", model_path=str(tmp_path / "run"))))
    for task in ("copa", "arc_easy"):
        for metric, entry in results["tasks"][task]["metrics"].items():
            assert row[f"eval/{task}/{metric}"] == pytest.approx(entry["value"], abs=1e-5), (task, metric)


def test_what_was_asked_in_training_and_what_was_left_out_is_on_record(place: Path):
    [first, *_] = read_rows(place / "run" / "evals.jsonl")
    assert {key: task["n"] for key, task in first["tasks"].items()} == {"copa": 8, "arc_easy": 8}
    assert [task["task"] for task in first["skipped"]] == ["piqa"]


def test_a_run_does_not_go_on_with_other_questions(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(place / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    monkeypatch.setenv("MARIN_EVAL_DATA", str(write_task_data(tmp_path / "data", seed=1)))
    with pytest.raises(
        ValueError, match="task '(copa|arc_easy)': .* has other questions than when this run was scored"
    ):
        train_lm(config(place, tmp_path / "run"))
    monkeypatch.setenv("MARIN_EVAL_DATA", str(place / "data"))
    train_lm(config(place, tmp_path / "run"))
    for name in ("metrics.jsonl", "evals.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (place / "run" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda file: file.write_text('{"query": 3}\n'), "arc_easy.jsonl, line 1"),
        (lambda file: file.write_text(file.read_text().splitlines()[0] + "\n"), "arc_easy"),  # no row for its example
    ],
)
def test_a_broken_task_is_told_before_the_first_step(place: Path, tmp_path: Path, monkeypatch, break_it, told: str):
    break_it(write_task_data(tmp_path / "data") / "mosaic" / "world_knowledge" / "arc_easy.jsonl")
    monkeypatch.setenv("MARIN_EVAL_DATA", str(tmp_path / "data"))
    with pytest.raises(ValueError, match=told):
        train_lm(config(place, tmp_path / "run"))
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))
    monkeypatch.setenv("MARIN_EVAL_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="the evals callback: none of the 3 tasks could be asked"):
        train_lm(config(place, tmp_path / "run"))
    metrics = tmp_path / "run" / "metrics.jsonl"
    assert not metrics.is_file() or not any("train/loss" in row for row in read_rows(metrics))


def test_validation_in_training_has_micro_and_macro_averages(place: Path):
    last = next(row for row in read_rows(place / "run" / "metrics.jsonl") if "validation/prose/loss" in row)
    for name in ("loss", "bits_per_byte"):
        each = [last[f"validation/prose/{child}/{name}"] for child in ("one", "two")]
        assert last[f"validation/prose/macro_{name}"] == pytest.approx(sum(each) / 2, rel=1e-12)
    assert "validation/other/macro_loss" not in last


def test_a_run_is_its_last_checkpoint_and_a_checkpoint_can_be_named_by_its_folder(place: Path):
    assert checkpoints_of(place / "run") == ["checkpoints/step-00000002", "checkpoints/step-00000004"]
    assert open_model(place / "run").description["step"] == 4
    assert open_model(place / "run" / "checkpoints" / "step-00000002").description["step"] == 2


def test_another_tokenizer_than_the_run_was_trained_with_is_refused(place: Path, tmp_path: Path):
    write_byte_tokenizer(tmp_path, extra_special_tokens=["<|more|>"])
    with pytest.raises(ValueError, match="is not the one that .*run was trained with"):
        open_model(place / "run", tokenizer=tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a folder in the Hugging Face format .* a training run"):
        open_model(tmp_path)


def test_a_run_that_names_no_tokenizer_is_asked_with_the_one_that_made_its_tokens(place: Path, tmp_path: Path):
    """In a graph of steps by the step of its tokens, on the command line by their record."""
    rows = "".join(json.dumps(row) + "\n" for row in tiny_documents(3, seed=1))
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "rows.jsonl").write_text(rows)
    step = default_tokenize("text", dataset=str(tmp_path / "documents"), tokenizer=str(place / "tokenizer"))
    train = SimpleTrainConfig(train_batch_size=4, num_train_steps=2, learning_rate=1e-3, weight_decay=0.1)
    trained = default_train("tiny", step, config(place, tmp_path).model, train)
    evaluation = default_eval(trained, TASKS, data=str(place / "data")).config
    assert isinstance(evaluation, TaskEvaluationConfig)
    assert evaluation.tokenizer_path == str(place / "tokenizer")

    recorded = Executor(str(tmp_path / "store")).run([step]).output_path(step)
    run = tmp_path / "run"
    (run / "checkpoints" / "step-00000002").mkdir(parents=True)
    for store, expected in ((recorded, str(place / "tokenizer")), (place / "train", None)):
        (run / "config.yaml").write_text(json.dumps({"data": {"train": {"text": str(store)}, "tokenizer": None}}))
        assert tokenizer_of_run(str(run)) == tokenizer_of_run(str(run / "checkpoints" / "step-00000002")) == expected
    with pytest.raises(ValueError, match="does not name its tokenizer"):
        run_tokenizer(run)


def test_every_checkpoint_is_asked_once_and_drawn_with_a_band(place: Path, tmp_path: Path, capsys):
    checkpoints = CheckpointsConfig(evaluation=asked(place, tmp_path))
    summary = json.loads(run_checkpoints(checkpoints).read_text())
    assert summary["steps"] == [2, 4]
    points = summary["tasks"]["copa"]["metrics"]["acc"]
    for point in points:
        results = read_results(tmp_path / f"step-{point['step']:08d}")
        assert point["value"] == results["tasks"]["copa"]["metrics"]["acc"]["value"]
    assert all(len(point["ci95"]) == 2 for point in points)
    table = (tmp_path / "checkpoints.md").read_text()
    assert table.startswith("| step | copa (acc) | arc_easy (acc) |") and "1 tasks were skipped: piqa" in table
    svg = (tmp_path / "curve.svg").read_text()
    assert "copa (n = 8)" in svg and draw(summary)["curve.svg"].decode() == svg
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert summary["skipped"][0]["fetch"]


def test_a_checkpoint_is_scored_again_only_where_there_is_more_to_ask(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    data = write_task_data(tmp_path / "data")
    arc_easy = data / "mosaic" / "world_knowledge" / "arc_easy.jsonl"
    rows = arc_easy.read_bytes()
    arc_easy.unlink()
    tasks = TASKS[:2]  # the second has no data yet
    checkpoints = CheckpointsConfig(evaluation=asked(place, tmp_path, tasks=tasks, data_path=str(data)), every=2)

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob("step-*/results.json")}

    before = json.loads(run_checkpoints(checkpoints).read_text())
    first = times()
    assert len(first) == 2 and [task["task"] for task in before["skipped"]] == ["arc_easy"]
    assert json.loads(run_checkpoints(checkpoints).read_text()) == before and times() == first
    arc_easy.write_bytes(rows)
    more = json.loads(run_checkpoints(checkpoints).read_text())
    assert set(more["tasks"]) == {"copa", "arc_easy"} and more["tasks"]["copa"] == before["tasks"]["copa"]
    assert "step-00000002: scored again, it lacks arc_easy" in capfd.readouterr().err
    second = times()
    monkeypatch.setattr("marin.evaluation.run_tasks.EVALUATION_VERSION", 1000)
    run_checkpoints(checkpoints)
    assert "and this is 1000" in capfd.readouterr().err and not set(times().values()) & set(second.values())
    write_task_data(data, seed=1)
    with pytest.raises(ValueError, match="step-00000002 has the results of another evaluation .*'copa' asked other"):
        run_checkpoints(checkpoints)
    other = CheckpointsConfig(evaluation=asked(place, tmp_path, tasks=TASKS[:1], data_path=str(data)), every=2)
    with pytest.raises(ValueError, match="step-00000002 has the results of another evaluation"):
        run_checkpoints(other)


def test_all_checkpoints_are_asked_from_the_command_line(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture):
    arguments = ["--tasks", "copa", "--data", str(place / "data"), "-o", str(tmp_path), "--every", "4"]
    assert cli.main(["eval", str(place / "run"), "--all-checkpoints", *arguments]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[0].split() == ["task", "n", "metric", "step", "4"] and "copa  8  acc" in out
    assert "| 4 |" in (tmp_path / "checkpoints.md").read_text()
    assert "curve.svg has the curves" in err


def test_all_checkpoints_asked_anew_are_found_and_on_other_data_stand_apart(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    write_task_data(Path("data"))

    def folders() -> list[Path]:
        assert cli.main(["eval", str(place / "run"), "--all-checkpoints", "--tasks", "copa", "--data", "data"]) == 0
        return sorted(Path("evaluations").glob("run/copa-*/step-00000002/results.json"))

    [first] = folders()
    before = first.stat().st_mtime_ns
    assert folders() == [first] and first.stat().st_mtime_ns == before
    write_task_data(Path("data"), seed=1)
    assert len(folders()) == 2 and first.stat().st_mtime_ns == before


def test_groups_are_shown_of_many_tasks_and_not_their_members():
    def entry(**more: Any) -> dict[str, Any]:
        metrics = {more.pop("metric", "acc"): {"value": 0.5, "stderr": 0.1}}
        return {"n": 10, "prompt_hash": "x", "metrics": metrics, **more}

    subjects = {shots: [f"mmlu_{number:02d}@{shots}" for number in range(20)] for shots in (0, 5)}
    alone = ["copa", "mmlu@0_of_ours", *(f"task_{number:02d}" for number in range(25))]
    results = {
        "tasks": {key: entry(primary_metric="acc") for key in [*subjects[0], *subjects[5], *alone]},
        "groups": {f"mmlu@{shots}": entry(tasks=members) for shots, members in subjects.items()}
        | {"CORE-1": entry(tasks=["copa"], metric="centred")},
        "skipped": [],
    }
    shown = shown_tasks(summarize({1: results}))
    assert list(shown) == [*alone[:21], "mmlu@0", "mmlu@5", "CORE-1"]


def test_scores_on_other_questions_make_no_curve(place: Path, tmp_path: Path):
    summary_of = lambda path: read_results(run_tasks(asked(place, path, tasks=TASKS[:1], data_path=str(path / "data"))))  # noqa: E731
    write_task_data(tmp_path / "a" / "data", seed=0)
    write_task_data(tmp_path / "b" / "data", seed=1)
    with pytest.raises(ValueError, match="task 'copa' was asked other questions at step 4"):
        summarize({2: summary_of(tmp_path / "a"), 4: summary_of(tmp_path / "b")})


def test_no_data_at_all_is_an_error_with_the_command_that_fetches_it(place: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="none of the 1 tasks could be asked: .*To fetch data: marin data download hf"):
        run_tasks(asked(place, tmp_path, tasks=TASKS[2:]))


# -- validation sets ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validated(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sets = {tag: str(place / "sets" / tag) for tag in SETS}
    output = tmp_path_factory.mktemp("validated")
    return run_validation(ValidationConfig(model_path=str(place / "run"), sets=sets, output_path=str(output))).parent


def test_a_set_costs_what_its_documents_cost(place: Path, validated: Path):
    model = open_model(place / "run")
    texts = [document["text"] for document in tiny_documents(5, seed=2)]
    bits = document_bits(model.scored, model.tokenizer, texts)
    one = read_results(validated)["tasks"]["prose/one"]
    assert one["n"] == 5
    assert one["metrics"]["bits_per_byte"]["value"] == pytest.approx(bits.bits.sum() / bits.num_bytes.sum(), rel=1e-6)
    nats = bits.bits.sum() * math.log(2)
    assert one["metrics"]["loss"]["value"] == pytest.approx(nats / bits.num_tokens.sum(), rel=1e-6)
    assert one["metrics"]["bits_per_byte"]["stderr"] > 0


def test_sets_of_one_parent_have_a_micro_and_a_macro_average(validated: Path):
    results = read_results(validated)
    tasks, groups = results["tasks"], results["groups"]
    rows = [row for row in read_samples(validated) if row["task"].startswith("prose/")]
    micro = sum(row["bits"] for row in rows) / sum(row["num_bytes"] for row in rows)
    assert groups["prose"]["metrics"]["bits_per_byte"]["value"] == pytest.approx(micro, rel=1e-9)
    each = [tasks[f"prose/{child}"]["metrics"]["bits_per_byte"] for child in ("one", "two")]
    macro = groups["prose"]["metrics"]["macro_bits_per_byte"]
    assert macro["value"] == pytest.approx(np.mean([entry["value"] for entry in each]))
    assert macro["stderr"] == pytest.approx(math.hypot(*(entry["stderr"] for entry in each)) / 2)
    assert set(tasks) == set(SETS) and set(groups) == {"prose"}
    assert groups["prose"]["tasks"] == ["prose/one", "prose/two"]


def test_parents_of_validation_sets_are_compared(validated: Path, tmp_path: Path):
    """Against the same model with documents that cost more: micro by bytes and tokens, macro by sets."""
    a = read_run(validated, "a")
    rng = np.random.default_rng(0)
    rows = [row | {"bits": row["bits"] * rng.uniform(1.0, 1.4)} for row in read_samples(validated)]
    content = read_results(validated)
    for tag, entry in content["tasks"].items():
        own = [row for row in rows if row["task"] == tag]
        bits, num_bytes, num_tokens = (sum(row[name] for row in own) for name in ("bits", "num_bytes", "num_tokens"))
        entry["metrics"]["bits_per_byte"]["value"] = bits / num_bytes
        entry["metrics"]["loss"]["value"] = bits * math.log(2) / num_tokens
    (tmp_path / "results.json").write_text(json.dumps(content))
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare([a], [read_run(tmp_path, "b")])
    [group] = found.groups
    assert group.group == "prose" and found.groups_not_compared == {}
    by_name = {metric.metric: metric.comparison.difference for metric in group.metrics}
    assert set(by_name) == {"bits_per_byte", "loss", "macro_bits_per_byte", "macro_loss"}
    both = [row for row in rows if row["task"].startswith("prose/")]
    before = {(row["task"], row["doc_id"]): row["bits"] for row in read_samples(validated)}
    less = sum(before[row["task"], row["doc_id"]] - row["bits"] for row in both)
    assert by_name["bits_per_byte"].value == pytest.approx(less / sum(row["num_bytes"] for row in both))
    assert by_name["loss"].value == pytest.approx(less * math.log(2) / sum(row["num_tokens"] for row in both))
    parts = [m for m in found.metrics if m.task.startswith("prose/") and m.metric == "bits_per_byte"]
    assert by_name["macro_bits_per_byte"].value == pytest.approx(
        np.mean([m.comparison.difference.value for m in parts])
    )
    errors = [m.question_stderr for m in parts]
    assert by_name["macro_bits_per_byte"].stderr == pytest.approx(math.hypot(*errors) / 2)


def test_a_set_of_another_tokenizer_is_refused(place: Path, tmp_path: Path):
    write_byte_tokenizer(tmp_path / "tokenizer", extra_special_tokens=["<|more|>"])
    make_token_store(tmp_path / "set", 3, tokenizer=tmp_path / "tokenizer")
    asked_of = ValidationConfig(
        model_path=str(place / "run"), sets={"set": str(tmp_path / "set")}, output_path=str(tmp_path / "out")
    )
    with pytest.raises(ValueError, match="validation set 'set': .* was made with another tokenizer"):
        run_validation(asked_of)


def test_models_with_different_tokenizers_are_compared_in_bits_per_byte(
    place: Path, validated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The other tokenizer has a token for two letters, of which the model knows nothing."""
    write_byte_tokenizer(tmp_path / "tokenizer")
    file = tmp_path / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["th"] = vocabulary.pop("ÿ")  # a byte that no text has
    content["model"]["merges"] = [["t", "h"]]
    file.write_text(json.dumps(content))
    model = open_model(place / "run")
    other = replace(model, tokenizer=load_tokenizer(tmp_path / "tokenizer"))
    monkeypatch.setattr("marin.evaluation.validation.open_model", lambda *args, **settings: other)

    def compared(seed: int) -> Any:
        make_token_store(tmp_path / f"set{seed}", 5, seed=seed, tokenizer=tmp_path / "tokenizer")
        sets = {"other": str(tmp_path / f"set{seed}")}
        out = str(tmp_path / f"out{seed}")
        run_validation(ValidationConfig(model_path=str(place / "run"), sets=sets, output_path=out))
        return compare([read_run(validated)], [read_run(out)], tasks=["other"], metrics=["all"])

    [task] = compared(SETS["other"]).tasks
    assert [metric.metric for metric in task.metrics] == ["bits_per_byte"] and task.num_paired == 5
    assert "Compare bits per byte" in task.not_compared["loss"]
    assert "prompt_hash" in compared(SETS["other"] + 1).refused["other"]
