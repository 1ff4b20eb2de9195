"""Several runners on one store at once: every body runs once, whoever is killed or stopped, and nothing is spoilt."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marin.execution.catalog import steps_of
from marin.execution.manifest import build_manifest
from marin.execution.status import SUCCEEDED
from marin.execution.store import LocalStore

# A chain, a diamond and a fan; every third step in a process of its own.
EXPERIMENT = """
import os, sys, time
from dataclasses import dataclass
from pathlib import Path
from marin.cluster import ResourceConfig
from marin.execution.executor import Executor, ExecutorStep, output_path_of, this_output_path
from marin.execution.lease import LeaseTimes

@dataclass(frozen=True)
class Work:
    name: str
    calls: str
    output_path: str
    inputs: tuple = ()

def work(config):
    line = f"{config.name} {os.path.basename(config.output_path)}\\n".encode()
    calls = os.open(config.calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(calls, line)
    os.close(calls)
    text = "".join(Path(folder, "out").read_text() for folder in config.inputs)
    Path(config.output_path, "first").write_text(config.name)
    time.sleep(float(os.environ["SLEEP_S"]))
    Path(config.output_path, "out").write_text(f"({text}{config.name})")

made = []
def step(name, *inputs):
    resources = ResourceConfig.with_cpu() if len(made) % 3 == 2 else None
    config = Work(name, os.path.abspath("calls"), this_output_path(), tuple(map(output_path_of, inputs)))
    made.append(ExecutorStep(name=name, fn=work, config=config, resources=resources))
    return made[-1]

chain = step("chain-3", step("chain-2", step("chain-1")))
top = step("diamond-top", chain)
bottom = step("diamond-bottom", step("diamond-left", top), step("diamond-right", top))
end = step("end", *[step(f"fan-{i}", bottom) for i in range(4)])

if __name__ == "__main__":
    ttl_s = float(sys.argv[1])
    times = LeaseTimes(ttl_s=ttl_s, renew_s=ttl_s / 6, fence_s=ttl_s / 2)
    result = Executor("store", fsync=False, quiet=True, lease_times=times).run([end])
    print(" ".join(sorted(s.name for s in result.steps if s.action == "ran")))
    sys.exit(0 if result.is_ok else 1)
"""
NUM_STEPS = 12
RARELY = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 10)]


class Runners:
    """Processes that run the experiment in one folder."""

    def __init__(self, folder: Path, *, ttl_s: float = 60.0, sleep_s: float = 0.02) -> None:
        self.folder, self.ttl_s = folder, ttl_s
        self.processes: list[subprocess.Popen] = []
        self._environment = {**os.environ, "SLEEP_S": str(sleep_s)}
        (folder / "experiment.py").write_text(EXPERIMENT)

    def start(self, count: int) -> None:
        for _ in range(count):
            command = [sys.executable, "experiment.py", str(self.ttl_s)]
            self.processes.append(
                subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env=self._environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )

    def wait(self, process: subprocess.Popen) -> list[str]:
        """Names of the steps that a runner ran."""
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
        return output.split()

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.communicate()

    def calls(self) -> list[tuple[str, str]]:
        """(step, attempt) of every body that began."""
        path = self.folder / "calls"
        return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_calls(self, count: int) -> None:
        deadline = time.monotonic() + 100
        while len(self.calls()) < count:
            assert time.monotonic() < deadline, f"only {self.calls()} began"
            time.sleep(0.005)

    def committed(self) -> dict[str, tuple[str, str, int]]:
        """(text, attempt, when written) of every committed output, each checked against its manifest."""
        found = {}
        for entry in steps_of(LocalStore(self.folder / "store", fsync=False)):
            if entry.state is not None and entry.state.status == SUCCEEDED:
                data = Path(entry.paths.data_root(entry.state))
                assert build_manifest(data).root_digest == entry.state.record["root_digest"], entry.name
                out = data / "out"
                found[entry.name] = (out.read_text(), entry.state.attempt, out.stat().st_mtime_ns)
        return found

    def takeovers(self) -> int:
        """Attempts that were left RUNNING and taken over, by the step's history."""
        count = 0
        for path in (self.folder / "store").glob("*/.exec/history/*.json"):
            count += json.loads(path.read_text())["status"] == "RUNNING"
        return count


@pytest.fixture
def runners(tmp_path):
    with contextlib.ExitStack() as stack:

        def make(**options) -> Runners:
            made = Runners(tmp_path, **options)
            stack.callback(made.close)
            return made

        yield make


def is_whole(committed: dict) -> None:
    assert len(committed) == NUM_STEPS
    assert committed["chain-3"][0] == "(((chain-1)chain-2)chain-3)"
    end = committed["end"][0]
    assert [end.count(f"fan-{i})") for i in range(4)] == [1, 1, 1, 1] and end.count("chain-1)") == 8


@pytest.mark.parametrize("count", [2, 4, 8])
def test_however_many_runners_there_are_every_body_runs_once(runners, count):
    group = runners()
    group.start(count)
    ran = [name for process in group.processes for name in group.wait(process)]
    assert sorted(name for name, _ in group.calls()) == sorted(ran) and len(ran) == len(set(ran)) == NUM_STEPS
    assert group.takeovers() == 0
    is_whole(group.committed())


@pytest.mark.parametrize("seed", [0, 1, *RARELY])
def test_when_one_of_them_is_killed_the_others_do_its_work_at_once(runners, seed):
    """Its lease would live for a minute; its process is known to be gone."""
    draw = random.Random(seed)
    group = runners(sleep_s=0.05)
    group.start(3)
    group.wait_for_calls(draw.randint(1, NUM_STEPS - 2))
    time.sleep(draw.random() * 0.05)
    before = group.committed()
    victim = group.processes[draw.randrange(3)]
    victim.kill()
    killed_at = time.monotonic()
    for process in group.processes:
        if process is not victim:
            group.wait(process)
    assert time.monotonic() - killed_at < 40
    after = group.committed()
    is_whole(after)
    assert all(after[name] == output for name, output in before.items())
    calls = group.calls()
    assert len(set(calls)) == len(calls), "a body began twice in one attempt"
    assert NUM_STEPS <= len(calls) <= NUM_STEPS + group.takeovers()
    assert group.takeovers() <= 3  # what the victim had under way: one in its own process, two in others


@pytest.mark.parametrize("seed", [0, *RARELY])
def test_one_that_was_stopped_until_its_lease_ran_out_spoils_nothing_when_it_goes_on(runners, seed):
    draw = random.Random(seed)
    group = runners(ttl_s=3.0, sleep_s=0.3)
    group.start(2)
    group.wait_for_calls(draw.randint(1, NUM_STEPS // 2))
    time.sleep(draw.random() * 0.2)
    zombie, other = group.processes
    if zombie.poll() is None:
        zombie.send_signal(signal.SIGSTOP)
    group.wait(other)
    before = group.committed()
    is_whole(before)
    zombie.send_signal(signal.SIGCONT)
    group.wait(zombie)
    assert group.committed() == before
    calls = group.calls()
    assert len(set(calls)) == len(calls)
    assert NUM_STEPS <= len(calls) <= NUM_STEPS + group.takeovers()
