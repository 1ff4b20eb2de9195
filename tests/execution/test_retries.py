"""What is tried again, how often, and what is not."""

import io
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from marin.cluster import ResourceConfig
from marin.cluster.retry import Retry
from marin.execution.catalog import runs_of
from marin.execution.executor import Executor, ExecutorStep, this_output_path
from marin.execution.store import LocalStore

CPU = ResourceConfig.with_cpu()


@dataclass(frozen=True)
class Flaky:
    calls: str  # file that gets a line for each call
    trouble: str  # what goes wrong
    until: int  # in so many calls
    output_path: object = this_output_path()


def flaky(config: Flaky) -> None:
    with open(config.calls, "a") as file:
        file.write("x\n")
    if len(Path(config.calls).read_text().split()) <= config.until:
        if config.trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if config.trouble == "slow":
            time.sleep(60)
        raise ConnectionError("reset by peer") if config.trouble == "network" else ValueError("a bug")
    Path(config.output_path, "out.txt").write_text("done")


@pytest.fixture
def screen():
    return io.StringIO()


def run(tmp_path, screen, trouble, until, **options):
    config = Flaky(str(tmp_path / "calls"), trouble, until)
    step = ExecutorStep(name="flaky", fn=flaky, config=config, **{"resources": CPU, **options})
    result = Executor(tmp_path / "store", fsync=False, stream=screen).run([step])
    calls = tmp_path / "calls"
    return result, len(calls.read_text().split()) if calls.exists() else 0


def register(result):
    return LocalStore().read(result.plan.paths(result.plan.items[0].node).root)


def quick(**options) -> Retry:
    return Retry(first_delay_s=0.01, **options)


def test_a_bug_is_not_tried_again(tmp_path, screen):
    result, calls = run(tmp_path, screen, "bug", 1)
    assert not result.is_ok and calls == 1


def test_a_step_may_ask_for_tries_and_each_is_an_attempt_on_record(tmp_path, screen):
    result, calls = run(tmp_path, screen, "bug", 2, retry=quick(max_failures=2))
    assert result.is_ok and calls == 3
    assert register(result).epoch == 3
    assert [a["error_class"] for a in register(result).record["attempts"]] == ["USER_ERROR", "USER_ERROR"]
    assert screen.getvalue().count("tried again in") == 2
    (entry,) = runs_of(LocalStore(tmp_path / "store"))
    lines = (tmp_path / f"store/.exec/runs/{entry.run_id}/events.jsonl").read_text().splitlines()
    retries = [event for event in map(json.loads, lines) if event["event"] == "retry"]
    assert [(e["num_failures"], e["num_preemptions"]) for e in retries] == [(1, 0), (2, 0)]


def test_tries_end_when_they_are_used_up(tmp_path, screen):
    result, calls = run(tmp_path, screen, "bug", 9, retry=quick(max_failures=2))
    assert not result.is_ok and calls == 3


def test_a_network_that_fails_for_a_while_is_tried_again_without_asking(tmp_path, screen):
    result, calls = run(tmp_path, screen, "network", 1)
    assert result.is_ok and calls == 2
    assert "transient after" in screen.getvalue()


def test_a_step_in_the_runners_process_is_tried_again_too(tmp_path, screen):
    result, calls = run(tmp_path, screen, "network", 1, resources=None)
    assert result.is_ok and calls == 2


def test_a_process_killed_on_this_machine_is_not_started_again_unless_asked(tmp_path, screen):
    result, calls = run(tmp_path, screen, "killed", 1)
    assert not result.is_ok and calls == 1
    assert register(result).error["class"] == "WORKER_LOST"


def test_interruptions_are_counted_apart_from_failures(tmp_path, screen):
    result, calls = run(tmp_path, screen, "killed", 3, retry=quick(max_failures=0, max_preemptions=5))
    assert result.is_ok and calls == 4
    assert "(0 failed, 3 interrupted)" in screen.getvalue()


def test_a_step_that_takes_too_long_is_stopped_and_has_failed(tmp_path, screen):
    started = time.monotonic()
    result, calls = run(tmp_path, screen, "slow", 1, timeout_s=1.0)
    assert not result.is_ok and calls <= 1 and time.monotonic() - started < 30
    error = register(result).error
    assert error["class"] == "TIMEOUT" and error["message"] == "not done after 1.0s (timeout_s), so it was stopped"


def test_a_time_limit_needs_a_process(tmp_path):
    with pytest.raises(ValueError, match="a step that can be stopped needs a process of its own"):
        ExecutorStep(name="a", fn=flaky, config=1, timeout_s=1.0)
