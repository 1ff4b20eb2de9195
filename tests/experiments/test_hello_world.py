"""The two-step example: it works, twice, for little."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path


def run(repository: Path, store: Path) -> tuple[subprocess.CompletedProcess, float]:
    """The finished process and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, str(repository / "experiments" / "hello_world.py"), "--prefix", str(store)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_hello_world_runs_once_within_a_second_of_cpu(repository: Path, tmp_path: Path):
    first, seconds = run(repository, tmp_path)
    assert "100 numbers, mean 48.91" in first.stderr
    (stats,) = tmp_path.glob("hello_world/stats-*/data/stats.json")
    assert json.loads(stats.read_text())["count"] == 100
    second, _ = run(repository, tmp_path)
    assert "nothing to do: 2 steps cached" in second.stderr
    assert seconds < 1.0


def test_hello_world_is_the_same_step_for_whoever_imports_it(repository: Path, tmp_path: Path):
    run(repository, tmp_path)
    code = (
        "from experiments.hello_world import stats_step\n"
        "from marin.execution.executor import plan\n"
        f"print([item.action for item in plan([stats_step], prefix={str(tmp_path)!r})])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(repository), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout == "['HIT', 'HIT']\n"
