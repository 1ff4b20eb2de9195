"""The whole line at toy size, by the commands a user types."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TOY = [
    "validation_fraction=0.2",
    "max_documents=40",
    "vocab_size=512",
    "model.seq_len=128",
    "model.hidden_dim=32",
    "model.intermediate_dim=64",
    "model.num_heads=2",
    "model.num_kv_heads=1",
    "model.num_layers=2",
    "train.train_batch_size=4",
    "train.num_train_steps=30",
    "train.warmup=5",
    "train.steps_per_eval=10",
    "train.steps_per_checkpoint=10",
    "num_questions=20",
]
STEPS = [
    "documents/python",
    "tokenizers/python",
    "tokenized/python/train",
    "tokenized/python/validation",
    "checkpoints/quickstart",
    "exports/quickstart",
    "evaluations/quickstart",
    "reports/quickstart",
]


def command(repository: Path, prefix: Path, *more: str) -> list[str]:
    sets = [part for value in TOY for part in ("--set", value)]
    return [sys.executable, str(repository / "experiments/quickstart.py"), "--prefix", str(prefix), *sets, *more]


def environment(repository: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(repository / "src")}


def run(repository: Path, prefix: Path, *more: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        command(repository, prefix, *more), env=environment(repository), capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def committed(prefix: Path) -> dict[str, list[Path]]:
    """Data folders of the committed steps, by name."""
    found: dict[str, list[Path]] = {}
    for path in prefix.rglob(".exec/state.json"):
        state = json.loads(path.read_text())
        if state["status"] != "SUCCEEDED":
            continue
        found.setdefault(state["record"]["name"], []).append(path.parent.parent / state["data_root"])
    return found


def output_of(prefix: Path, name: str) -> Path:
    (folder,) = committed(prefix)[name]
    return folder


@pytest.fixture(scope="module")
def finished(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("store")
    run(repository, prefix)
    return prefix


def test_every_step_is_recorded_and_the_report_is_one_file(finished: Path):
    assert sorted(committed(finished)) == sorted(STEPS)
    html = (output_of(finished, "reports/quickstart") / "report.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!#)", html), "the page must need no other file"
    assert html.count("<svg") >= 3
    results = json.loads((output_of(finished, "evaluations/quickstart") / "results.json").read_text())
    shown = [e["value"] for t in results["tasks"].values() for e in t["metrics"].values()]
    assert len(shown) >= 4
    for value in shown:
        assert f"{value:.4f}" in html


def test_running_it_again_does_nothing_and_says_so(repository: Path, finished: Path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(repository, finished)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "nothing to do" in done.stdout + done.stderr
    assert {name: len(folders) for name, folders in committed(finished).items()} == dict.fromkeys(STEPS, 1)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert cpu_s < 3, f"a cached run took {cpu_s:.1f} s of CPU time"  # it takes 0.8 on an idle machine


def test_changing_the_learning_rate_reruns_training_and_what_follows(repository: Path, finished: Path):
    marin = [sys.executable, "-m", "marin.cli.main"]
    script, *options = command(repository, finished, "--set", "train.learning_rate=1e-3")[1:]
    planned = subprocess.run(
        [*marin, "plan", script, *options, "--json"], env=environment(repository), capture_output=True, text=True
    )
    assert planned.returncode == 0, planned.stderr
    actions = {item["name"]: item["action"] for item in json.loads(planned.stdout)["steps"]}
    assert [name for name, action in actions.items() if action == "RUN"] == STEPS[4:]
    assert [name for name, action in actions.items() if action == "HIT"] == STEPS[:4]
    why = subprocess.run(
        [*marin, "why", script, "evaluations/quickstart", *options],
        env=environment(repository),
        capture_output=True,
        text=True,
    )
    assert "learning_rate" in why.stdout and "checkpoints/quickstart" in why.stdout, why.stdout + why.stderr


def kill_when(repository: Path, prefix: Path, reached: Callable[[], bool]) -> None:
    """Start the experiment and kill its runner, as nothing could catch, at the moment that `reached` says."""
    process = subprocess.Popen(
        command(repository, prefix), env=environment(repository), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    while not reached():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_training_killed_with_9_resumes_to_the_same_bits(repository: Path, finished: Path, tmp_path: Path):
    kill_when(repository, tmp_path, lambda: any(tmp_path.glob("checkpoints/*/checkpoints/step-*/manifest.json")))
    run(repository, tmp_path)
    assert same_files(tmp_path, finished) == []


@pytest.mark.slow
def test_a_kill_in_every_step_changes_no_result(repository: Path, finished: Path, tmp_path: Path):
    for name in STEPS:

        def is_running(name: str = name) -> bool:
            states = [json.loads(path.read_text()) for path in tmp_path.glob(f"{name}-*/.exec/state.json")]
            return any(state["status"] == "RUNNING" for state in states)

        kill_when(repository, tmp_path, is_running)
        # what was left looks like no output: the step is not committed
        assert name not in committed(tmp_path)
    run(repository, tmp_path)
    assert same_files(tmp_path, finished) == []


# What names the store's place or the clock, and so differs between two runs in two places.
NOT_COMPARED = {"config.yaml", "timing.jsonl", "report.md", "report.html", "steps.svg"}


def same_files(prefix: Path, other: Path) -> list[str]:
    """Output files whose bytes differ between two stores, or that only one of them has."""
    contents = []
    for store in (prefix, other):
        files: dict[str, bytes] = {}
        for name in STEPS:
            folder = output_of(store, name)
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                inside = path.relative_to(folder)
                if ".exec" not in inside.parts and inside.name not in NOT_COMPARED:
                    files[f"{name}/{inside}"] = path.read_bytes()
        contents.append(files)
    assert len(contents[0]) > 30
    return [n for n in sorted(contents[0] | contents[1]) if contents[0].get(n) != contents[1].get(n)]
