"""`marin compare` as a person types it: folders, steps, seeds, and what it will not compare."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = """
import random
from dataclasses import dataclass
from typing import Any

from marin.evaluation.api import compare_evaluations
from marin.evaluation.results import TaskResult, metric_entry, write_results
from marin.evaluation.statistics import proportion_estimate
from marin.execution.executor import ExecutorStep, executor_main, this_output_path


@dataclass(frozen=True)
class Config:
    skill: float
    seed: int
    version: int = 1
    output_path: Any = this_output_path()


def evaluate(config: Config) -> None:
    hard, luck = random.Random(0), random.Random(config.seed)
    hits = [0.7 * hard.random() + 0.3 * luck.random() < config.skill for _ in range(300)]
    entry = metric_entry(proportion_estimate(hits), higher_is_better=True)
    rows = [
        {"task": "arc", "doc_id": i, "query": f"question {i}", "choices": ["yes", "no"], "target": 0, "acc": hit}
        for i, hit in enumerate(hits)
    ]
    task = TaskResult(version=config.version, n=300, prompt_hash="a" * 64, metrics={"acc": entry})
    write_results(config.output_path, model={}, tasks={"arc": task}, samples=rows)


def step(name, *config):
    return ExecutorStep(name=name, fn=evaluate, config=Config(*config))


steps = [step("eval/base", 0.45, 1), step("eval/tuned", 0.6, 2), step("eval/other", 0.45, 1, 2)]
steps += [step(f"eval/seed{seed}", 0.47, seed) for seed in (11, 12, 13)]
steps += [compare_evaluations("compared", steps[1], steps[3:], a_name="tuned", b_name="seed")]

if __name__ == "__main__":
    executor_main(steps=steps)
"""


@pytest.fixture
def place(folder: Path) -> Path:
    (folder / "evals.py").write_text(SCRIPT)
    return folder


@pytest.fixture
def evaluated(place: Path, marin: Callable[..., SimpleNamespace]) -> Callable[..., SimpleNamespace]:
    marin("run", "evals.py")
    return marin


def test_steps_folders_and_seeds_are_compared(evaluated: Callable[..., SimpleNamespace], place: Path):
    marin = evaluated
    shown = marin("compare", "eval/base", "eval/tuned")
    assert "A  eval/base\nB  eval/tuned\n" in shown.out and "B is better" in shown.out
    assert "1 comparison: 1 differs" in shown.err and "nothing of other seeds" in shown.err

    [folder] = (place / "store").glob("eval/base-*/data")
    same = marin("compare", str(folder), "eval/base", "--json")
    content = json.loads(same.out)
    metric = content["tasks"][0]["metrics"]["acc"]
    assert (content["format_version"], metric["difference"], metric["p_value"]) == ("1.0", 0.0, 1.0)
    assert metric["verdict"] == "no difference seen: the same on every question"

    seeds = marin("compare", "eval/seed11,eval/seed12", "eval/seed13, eval/base", "--json")
    spread = json.loads(seeds.out)["tasks"][0]["metrics"]["acc"]["seeds"]
    assert len(spread["scores_a"]) == len(spread["scores_b"]) == 2 and spread["sd"] > 0
    assert "sd between seeds" in seeds.err

    listed = marin(
        "compare", "eval/base", "eval/tuned", "--tasks", "a*", "--metrics", "acc", "--disagreements", "2"
    ).out
    assert "arc acc: B did better on" in listed and listed.count("question ") <= 4 and "target  yes" in listed


def test_another_task_is_refused_with_its_own_code(evaluated: Callable[..., SimpleNamespace]):
    refused = evaluated("compare", "eval/base", "eval/other", expect=3)
    assert "error: not compared, not the same task: arc: version is 1 in eval/base and 2 in eval/other" in refused.err
    assert json.loads(evaluated("compare", "eval/base", "eval/other", "--json", expect=3).out)["refused"]


def test_scores_that_were_struck_out_are_refused(evaluated: Callable[..., SimpleNamespace]):
    evaluated("invalidate", "eval/base", "--reason", "wrong questions", "--yes")
    refused = evaluated("compare", "eval/base", "eval/tuned", expect=3)
    assert "eval/base@" in refused.err and 'was struck out: "wrong questions"' in refused.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("eval/base", "eval/tuned", "--tasks", "arcs"), "no task 'arcs' with rows in any of eval/base, eval/tuned"),
        (("eval/base", "eval/tuned", "--tasks", "arc,"), "'arc,' has an empty name between its commas"),
        (
            ("eval/base", "eval/tuned", "--metrics", "f1"),
            "no metric 'f1' in the tasks that are compared; there are acc",
        ),
        (("eval/base", "eval/tuned", "--disagreements", "-1"), "num_disagreements is -1"),
        (("eval/base,eval/base", "eval/tuned"), "names an evaluation twice"),
        (("eval/base,", "eval/tuned"), "has an empty address between its commas"),
        (("eval/bas", "eval/tuned"), "eval/base"),
        ((".", "eval/tuned"), "results.json"),
        (("kept", "eval/tuned"), "it has those of kept/one: name one of them"),
    ],
)
def test_a_senseless_command_line_is_told_what_is_wrong(place: Path, marin: Callable, arguments: tuple, said: str):
    marin("run", "evals.py", "eval/base", "eval/tuned")
    (place / "kept" / "one").mkdir(parents=True)
    (place / "kept" / "one" / "results.json").write_text("{}")
    assert said in marin("compare", *arguments, expect=2).err


def test_without_a_store_a_missing_folder_is_told(place: Path, marin: Callable):
    assert "no results.json in 'here', and no store at" in marin("compare", "here", "there", expect=2).err


def test_a_comparison_is_a_step_that_reads_evaluations_of_others(place: Path, marin: Callable):
    marin("run", "evals.py", "compared")
    [folder] = (place / "store").glob("compared-*/data")
    content = json.loads((folder / "comparison.json").read_text())
    assert (content["a"], content["b"]) == (["tuned"], ["seed 1", "seed 2", "seed 3"])
    assert content["tasks"][0]["metrics"]["acc"]["verdict"] == "A is better"
    assert "eval/seed12" in marin("lineage", "compared").out
