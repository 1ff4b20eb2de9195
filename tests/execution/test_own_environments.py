"""Steps with packages of their own, run by the executor and recorded."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from marin.execution.executor import Executor, ExecutorStep, this_output_path
from wheels import offline_wheels


@dataclass(frozen=True)
class Config:
    output_path: object = this_output_path()


def ask(config: Config) -> str:
    import tinypkg  # type: ignore[import-not-found]

    Path(config.output_path, "version").write_text(tinypkg.version)
    return tinypkg.version


@pytest.fixture
def executor(tmp_path, monkeypatch):
    offline_wheels(tmp_path, monkeypatch)
    return Executor(tmp_path / "store", fsync=False, stream=io.StringIO())


def test_a_step_finds_the_packages_it_asks_for_and_the_record_lists_them(executor):
    asked = ExecutorStep(name="asked", fn=ask, config=Config(), pip_dependency_groups=["tinypkg==2.0"])
    plain = ExecutorStep(name="plain", fn=ask, config=Config())
    result = executor.run([asked, plain])
    assert [(s.name, s.action) for s in result.steps] == [("asked", "ran"), ("plain", "failed")]
    assert result[plain].error.type == "ModuleNotFoundError"
    assert Path(result.output_path(asked), "version").read_text() == "2.0"
    record = executor.store.read(f"{executor.prefix}/{result[asked].node.path}").record
    assert record["packages"] == {"tinydep": "2.0", "tinypkg": "2.0"}
    run = json.loads(Path(executor.prefix, ".exec/runs", result.run_id, "run.json").read_text())
    assert run["packages"]["pytest"] == pytest.__version__
    assert record["env"]["packages_sha256"] == run["env"]["packages_sha256"]


def test_a_package_that_nobody_has_fails_the_step_and_names_it(executor):
    step = ExecutorStep(name="asked", fn=ask, config=Config(), pip_dependency_groups=["nowhere==1.0"])
    (failed,) = executor.run([step]).steps
    assert failed.action == "failed" and "nowhere" in failed.error.message
