"""Pinned versions and drift; outputs as typed values; progress."""

import io
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from marin.cluster import ResourceConfig
from marin.execution.artifact import Artifact, OutputError
from marin.execution.executor import (
    Executor,
    ExecutorStep,
    RefusedError,
    materialize,
    output_path_of,
    this_output_path,
)
from marin.execution.graph import GraphError, build_graph
from marin.execution.lease import LeaseTimes
from marin.execution.plan import Choices
from marin.execution.store import LocalStore
from marin.tracking.progress import report_progress


@dataclass(frozen=True)
class Config:
    value: int
    input_path: object = None
    output_path: object = this_output_path()


def write(config: Config) -> None:
    text = Path(config.input_path, "out.txt").read_text() if config.input_path else ""
    Path(config.output_path, "out.txt").write_text(f"{text}{config.value}")


def pinned(value: int, version: str = "2026.11") -> ExecutorStep:
    return ExecutorStep(name="data/wiki", fn=write, config=Config(value), version=version)


def reader(step: ExecutorStep) -> ExecutorStep:
    return ExecutorStep(name="reader", fn=write, config=Config(0, output_path_of(step)))


@pytest.fixture
def executor(tmp_path):
    return Executor(tmp_path / "store", fsync=False, stream=io.StringIO())


def test_a_version_is_the_address_of_an_output(executor):
    step = pinned(1)
    result = executor.run([step])
    assert result.output_path(step).startswith(f"{executor.prefix}/data/wiki/2026.11/attempts/")
    assert executor.run([pinned(1)]).plan.is_done


def test_what_reads_a_pinned_step_does_not_fork_when_its_recipe_drifts():
    one, two = (build_graph([reader(pinned(value))]) for value in (1, 2))
    assert one.targets == two.targets
    assert build_graph([reader(pinned(1, "2026.12"))]).targets != one.targets


def test_drift_between_recipe_and_output_is_refused_until_it_is_accepted_and_that_is_recorded(executor):
    executor.run([pinned(1)])
    drifted = reader(pinned(2))
    plan = executor.plan([drifted])
    assert [(i.node.name, i.action) for i in plan] == [("data/wiki", "DRIFT"), ("reader", "BLOCKED")]
    with pytest.raises(RefusedError, match=r"data/wiki @\w+: version 2026.11 was made by another recipe"):
        executor.run([drifted])
    result = executor.run([drifted], choices=Choices(accept_drift=True))
    assert result.is_ok and Path(result.output_path(drifted), "out.txt").read_text() == "10"
    accepted = executor.store.read(f"{executor.prefix}/data/wiki/2026.11").accepted
    assert [a["recipe"] for a in accepted] == [plan.items[0].node.recipe] and accepted[0]["user"]
    assert executor.plan([drifted]).is_done  # once accepted, it stays so
    assert executor.plan([reader(pinned(3)), pinned(3)]).refused


def test_one_version_with_two_recipes_in_one_plan_is_an_error():
    with pytest.raises(GraphError, match="two steps are 'data/wiki' version '2026.11' with different recipes"):
        build_graph([pinned(1), pinned(2)])


@pytest.mark.parametrize(
    "options", [{"version": ".."}, {"version": "a/b"}, {"version": "1", "override_output_path": "x"}]
)
def test_a_version_that_is_no_address_is_refused(options):
    with pytest.raises(ValueError, match=r"version="):
        ExecutorStep(name="a", fn=write, config=1, **options)


# -- typed outputs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stats:
    num_words: int
    mean: float
    names: tuple[str, ...] = ()


def count(config: Config) -> Stats:
    return Stats(num_words=config.value, mean=config.value / 2, names=("a", "b"))


def count_wrongly(config: Config) -> dict:
    return {"num_words": "many"}


class Text(Artifact):
    REQUIRED_FILES = ("out.txt",)

    def read(self) -> str:
        return Path(self.path, "out.txt").read_text()


@pytest.mark.parametrize("resources", [None, ResourceConfig.with_cpu()])
def test_a_step_gives_back_the_value_that_its_function_returned(executor, resources):
    step = ExecutorStep(name="stats", fn=count, config=Config(3), output_type=Stats, resources=resources)
    executor.run([step])
    assert step.load(prefix=executor.prefix) == Stats(3, 1.5, ("a", "b"))


def test_a_kind_of_output_has_its_own_methods(executor):
    step = ExecutorStep(name="text", fn=write, config=Config(7), output_type=Text)
    assert materialize(step, prefix=executor.prefix).read() == "7"
    loaded = step.load(prefix=executor.prefix)
    assert isinstance(loaded, Text) and loaded.record["name"] == "text"


def test_an_output_of_the_wrong_type_does_not_count(executor):
    step = ExecutorStep(name="stats", fn=count_wrongly, config=Config(3), output_type=Stats)
    result = executor.run([step])
    assert not result.is_ok
    state = executor.store.read(result.plan.paths(result.plan.items[0].node).root)
    assert state.status == "FAILED" and state.error["class"] == "OUTPUT_INVALID"
    assert "the step should return a Stats, and returned {'num_words': 'many'}" in state.error["message"]


def test_an_output_without_the_files_of_its_kind_does_not_count(executor):
    step = ExecutorStep(name="text", fn=count, config=Config(7), output_type=Text)
    result = executor.run([step])
    assert "an output of type Text must have out.txt; its folder holds nothing" in result[step].error.message


def test_what_was_not_run_cannot_be_loaded(executor):
    step = ExecutorStep(name="text", fn=write, config=Config(7), output_type=Text)
    with pytest.raises(ValueError, match=r"step 'text' @\w+ has no output in .*: no output yet. Run it first"):
        step.load(prefix=executor.prefix)


def test_a_stored_value_of_another_type_is_refused_when_it_is_loaded(executor):
    executor.run([ExecutorStep(name="stats", fn=count, config=Config(3), output_type=Stats)])
    other = ExecutorStep(name="stats", fn=count, config=Config(3), output_type=int)
    with pytest.raises(OutputError, match="should return int, and returned"):
        other.load(prefix=executor.prefix)


def test_the_type_of_an_output_is_no_part_of_its_identity():
    one = ExecutorStep(name="stats", fn=count, config=Config(3), output_type=Stats)
    assert build_graph([one]).targets == build_graph([ExecutorStep(name="stats", fn=count, config=Config(3))]).targets


@pytest.mark.parametrize("wrong", [3, "Stats", set])
def test_an_output_type_that_cannot_be_loaded_is_refused(wrong):
    with pytest.raises(TypeError, match="output_type must be Artifact or a subclass of it, a dataclass, or one of"):
        ExecutorStep(name="a", fn=count, config=1, output_type=wrong)


# -- progress ---------------------------------------------------------------------------------------------------------


def reporting(config: Config) -> None:
    """Reports, and waits until its own register says so."""
    report_progress(3, 9, "steps")
    root = os.path.dirname(os.path.dirname(str(config.output_path)))
    while (progress := LocalStore().read(root).progress) is None:
        time.sleep(0.02)
    Path(config.output_path, "seen.json").write_text(json.dumps(progress))


def test_progress_of_a_running_step_is_in_its_register(tmp_path):
    times = LeaseTimes(renew_s=0.05, fence_s=5.0, ttl_s=10.0)
    executor = Executor(tmp_path / "store", fsync=False, stream=io.StringIO(), lease_times=times)
    step = ExecutorStep(name="slow", fn=reporting, config=Config(1), resources=ResourceConfig.with_cpu())
    result = executor.run([step])
    assert json.loads(Path(result.output_path(step), "seen.json").read_text()) == {
        "done": 3,
        "total": 9,
        "unit": "steps",
    }
    assert executor.store.read(result.plan.paths(result.plan.items[0].node).root).progress is None
