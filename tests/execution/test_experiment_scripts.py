"""Experiments as people start them: scripts in processes of their own, interrupted, killed, and run twice at once."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marin.execution.catalog import list_runs
from marin.execution.executor import capturing, executor_main, parse_command_line
from marin.execution.status import process_is_alive, process_start
from marin.execution.store import LocalStore

SCRIPT = """
import json, os, sys, time
from dataclasses import dataclass
from pathlib import Path
from marin.cluster import ResourceConfig
from marin.execution.executor import ExecutorStep, executor_main, output_path_of, this_output_path

@dataclass(frozen=True)
class Work:
    name: str
    calls: str
    output_path: str
    input_path: str = ""

def work(config):
    with open(config.calls, "a") as file:
        file.write(f"{config.name} {os.getpid()}\\n")
    print(f"{config.name} works", flush=True)
    while Path(config.calls + ".hold").exists():  # held by the test
        time.sleep(0.01)
    if Path(config.calls + ".fail").exists():
        raise ValueError(f"{config.name} has no luck")
    text = Path(config.input_path, "out").read_text() if config.input_path else ""
    Path(config.output_path, "out").write_text(text + config.name)

calls = os.environ["CALLS"]
RESOURCES = ResourceConfig.with_cpu() if os.environ.get("PROCESSES") else None

def step(name, before=None):
    config = Work(name, calls, this_output_path(), output_path_of(before) if before else "")
    return ExecutorStep(name=name, fn=work, config=config, resources=RESOURCES)

a = step("a")
b = step("b", a)
c = step("c", b)
if __name__ == "__main__":
    executor_main(steps=[c], description="three steps")
"""


class Experiment:
    """A script of three steps in a chain, and what can be seen of its runs."""

    def __init__(self, folder: Path, processes: bool):
        self.folder = folder
        self.script = folder / "experiment.py"
        self.script.write_text(SCRIPT)
        self.prefix = folder / "store"
        self.env = {**os.environ, "CALLS": str(folder / "calls"), "MARIN_PREFIX": str(self.prefix)}
        if processes:
            self.env["PROCESSES"] = "1"

    def start(self, *flags: str) -> subprocess.Popen:
        command = [sys.executable, str(self.script), *flags]
        return subprocess.Popen(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder
        )

    def run(self, *flags: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)"""
        process = self.start(*flags)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def mark(self, what: str, on: bool = True) -> None:
        path = self.folder / f"calls.{what}"
        path.touch() if on else path.unlink()

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_calls(self, count: int) -> int:
        """Wait until so many bodies began; the process id of the last."""
        wait_until(lambda: len(self.calls()) >= count)
        return int((self.folder / "calls").read_text().split()[-1])

    def state(self, name: str):
        (folder,) = self.prefix.glob(f"{name}-*")
        return LocalStore().read(str(folder))

    def output(self, name: str) -> str:
        (folder,) = self.prefix.glob(f"{name}-*")
        return (folder / "data/out").read_text()


def wait_until(condition, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(params=[False, True], ids=["in this process", "in processes"])
def experiment(tmp_path, request):
    return Experiment(tmp_path, request.param)


@pytest.fixture
def plain_experiment(tmp_path):
    return Experiment(tmp_path, processes=False)


def test_a_script_says_where_it_stores_what_it_does_and_where_its_outputs_are(experiment):
    code, out, err = experiment.run()
    assert code == 0, err
    lines = err.splitlines()
    assert lines[0] == f"store: {experiment.prefix}"
    assert [line for line in lines if line[0] in "▶✓"][:2] == ["▶ a", next(x for x in lines if x.startswith("✓ a"))]
    assert re.search(r"^3 ran    \d", lines[-1])
    assert re.fullmatch(r"c  store/c-\w{10}/attempts/0001-\w{8}", out.splitlines()[-1])
    assert experiment.output("c") == "abc"
    code, out, err = experiment.run()
    assert code == 0 and err.splitlines()[1:] == ["nothing to do: 3 steps cached"]
    assert experiment.calls() == ["a", "b", "c"]


def test_a_failure_is_shown_with_the_end_of_its_log_and_exits_with_one(experiment):
    experiment.mark("fail")
    code, out, err = experiment.run()
    assert code == 1
    assert "ValueError: a has no luck" in err and "\n    log: " in err and 'raise ValueError(f"{config' in err
    assert "1 failed  2 blocked" in err and "--force-run-failed" in err and err.count("Traceback") == 1
    log = re.search(r"log: (.*)", err)[1]
    assert "a has no luck" in Path(log).read_text()
    experiment.mark("fail", on=False)
    assert experiment.run()[0] == 1
    assert experiment.run("--force_run_failed")[0] == 0
    assert experiment.calls() == ["a", "a", "b", "c"]


@pytest.mark.parametrize("luck", [True, False])
def test_a_reader_that_went_away_changes_neither_steps_nor_exit_code(experiment, luck):
    if not luck:
        experiment.mark("fail")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, str(experiment.script)]
    for streams in ({"stdout": write, "stderr": subprocess.PIPE}, {"stdout": write, "stderr": write}):
        done = subprocess.run(command, env=experiment.env, cwd=experiment.folder, text=True, **streams)
        assert done.returncode == (0 if luck else 1), done.stderr
        assert "BrokenPipe" not in (done.stderr or "")
    os.close(write)
    assert experiment.state("a").status == ("SUCCEEDED" if luck else "FAILED")


def test_the_standard_output_of_a_run_is_its_data_alone(experiment):
    _, out, err = experiment.run()
    assert "a works" in err and len(out.splitlines()) == 1


def test_two_runs_at_once_call_each_body_once_and_both_end_well(experiment):
    experiment.mark("hold")
    first = experiment.start()
    experiment.wait_for_calls(1)
    second = experiment.start()
    line = ""
    while "waiting" not in line:
        line = second.stderr.readline()
        assert line, "the second run ended without waiting"
    assert re.search(rf"· a  waiting: run \S+ \(process {first.pid} on ", line)
    experiment.mark("hold", on=False)
    for process in (first, second):
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert sorted(experiment.calls()) == ["a", "b", "c"]
    assert experiment.output("c") == "abc"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_cancelled_registers_and_the_next_run_goes_on(experiment, number):
    experiment.mark("hold")
    process = experiment.start()
    body = experiment.wait_for_calls(1)
    body_start = process_start(body)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted; run the same command again to go on" in err
    assert experiment.state("a").status == "CANCELLED"
    assert not process_is_alive(body, body_start)
    run = json.loads(next(experiment.prefix.glob(".exec/runs/*/run.json")).read_text())
    assert run["status"] == "CANCELLED" and [s["action"] for s in run["steps"]] == ["cancelled"] * 3
    experiment.mark("hold", on=False)
    assert experiment.run()[0] == 0
    assert experiment.output("c") == "abc" and experiment.calls() == ["a", "a", "b", "c"]


def test_a_run_that_was_started_to_outlive_its_terminal_does(plain_experiment):
    plain_experiment.mark("hold")
    command = ["nohup", sys.executable, str(plain_experiment.script)]
    process = subprocess.Popen(command, env=plain_experiment.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    plain_experiment.wait_for_calls(1)
    process.send_signal(signal.SIGHUP)
    plain_experiment.mark("hold", on=False)
    assert process.wait(timeout=60) == 0


def test_a_second_interrupt_kills_a_step_that_does_not_want_to_end(tmp_path):
    experiment = Experiment(tmp_path, processes=True)
    experiment.script.write_text(
        SCRIPT.replace('print(f"', 'import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    print(f"')
    )
    experiment.mark("hold")
    process = experiment.start()
    experiment.wait_for_calls(1)
    time.sleep(0.2)  # until the step ignores SIGTERM
    process.send_signal(signal.SIGINT)
    line = ""
    while "Ctrl-C again kills" not in line:
        line = process.stderr.readline()
        assert line
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - started < 5
    assert experiment.state("a").status == "CANCELLED"


def test_a_third_interrupt_ends_a_process_whose_step_catches_them(tmp_path):
    experiment = Experiment(tmp_path, processes=False)
    hold = """    while Path(config.calls + ".hold").exists():  # held by the test
        time.sleep(0.01)
"""
    shrug = """    while True:
        try:
            while Path(config.calls + ".hold").exists():
                time.sleep(0.01)
            break
        except KeyboardInterrupt:
            print("goes on", flush=True)
"""
    experiment.script.write_text(SCRIPT.replace(hold, shrug))
    experiment.mark("hold")
    process = experiment.start()
    experiment.wait_for_calls(1)
    time.sleep(0.2)  # until it is in its loop
    for said in ("Ctrl-C again kills", "once more ends the process"):
        process.send_signal(signal.SIGINT)
        line = ""
        while said not in line:
            line = process.stderr.readline()
            assert line
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT and experiment.state("a").status == "RUNNING"
    experiment.mark("hold", on=False)
    started = time.monotonic()
    assert experiment.run()[0] == 0 and experiment.output("c") == "abc"  # taken over at once
    assert time.monotonic() - started < 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent ended")
def test_a_runner_that_is_killed_takes_its_step_along_and_the_next_run_does_not_wait(experiment):
    experiment.mark("hold")
    process = experiment.start()
    body = experiment.wait_for_calls(1)
    body_start = process_start(body)
    process.kill()
    process.communicate()
    wait_until(lambda: not process_is_alive(body, body_start), timeout_s=10)
    assert experiment.state("a").status == "RUNNING"
    assert [run.record["status"] for run in list_runs(str(experiment.prefix))] == ["ABANDONED"]
    experiment.mark("hold", on=False)
    started = time.monotonic()
    code, _, err = experiment.run()
    assert code == 0, err
    assert time.monotonic() - started < 20  # the lease would live for 60 seconds
    assert experiment.output("c") == "abc" and experiment.state("a").epoch == 2
    assert [a["outcome"] for a in experiment.state("a").record["attempts"]] == ["ABANDONED"]
    assert sorted(run.record["status"] for run in list_runs(str(experiment.prefix))) == ["ABANDONED", "SUCCEEDED"]


# -- flags and hooks ------------------------------------------------------------


def test_the_flags_of_a_script():
    config = parse_command_line(["--prefix", "p", "--run_only", "a", "b", "--max-concurrent=3", "--set", "train.lr=1"])
    assert (config.prefix, config.run_only, config.max_concurrent) == ("p", ("a", "b"), 3)
    assert not config.dry_run and not config.force_run_failed
    assert parse_command_line(["--dry_run", "--force_run_failed"]).dry_run


@pytest.mark.parametrize("flags", [["--dryrun"], ["--max_concurrent", "0"], ["step"]])
def test_a_wrong_flag_is_refused_with_usage(flags, capsys):
    with pytest.raises(SystemExit) as error:
        parse_command_line(flags)
    assert error.value.code == 2 and "usage:" in capsys.readouterr().err


def test_a_dry_run_of_a_script_runs_nothing(plain_experiment):
    code, _, err = plain_experiment.run("--dry_run")
    assert code == 0 and "Plan: 3 run." in err
    assert plain_experiment.calls() == [] and not plain_experiment.prefix.exists()


def test_a_store_that_cannot_be_written_is_an_error_in_one_line_before_anything_runs(plain_experiment, tmp_path):
    code, _, err = plain_experiment.run("--prefix", str(plain_experiment.script / "store"))
    assert code == 2 and plain_experiment.calls() == []
    assert err.splitlines()[-1].startswith("error: cannot write to prefix ") and "Traceback" not in err


def test_a_script_can_be_captured_and_its_steps_run_in_processes_while_it_is_main(tmp_path, monkeypatch):
    experiment = Experiment(tmp_path, processes=True)
    caught = []

    def command(steps, description):
        from marin.execution.executor import Executor

        caught.append((steps, description))
        assert Executor(experiment.prefix, quiet=True).run(steps).is_ok

    monkeypatch.setenv("PROCESSES", "1")
    monkeypatch.setenv("CALLS", experiment.env["CALLS"])
    with capturing(command):
        runpy.run_path(str(experiment.script), run_name="__main__")
    ((steps, description),) = caught
    assert [s.name for s in steps] == ["c"] and description == "three steps"
    assert experiment.output("c") == "abc"
    # the command and the script agree on what the steps are
    code, _, err = experiment.run()
    assert code == 0 and "nothing to do: 3 steps cached" in err


def test_a_script_that_runs_its_steps_on_import_is_told_how_to_guard_them(tmp_path):
    experiment = Experiment(tmp_path, processes=True)
    experiment.script.write_text(SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    code, _, err = experiment.run()
    assert code == 1 and "put the call under `if __name__ == '__main__':`" in err


def test_without_a_hook_the_main_function_exits_only_for_a_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--prefix", str(tmp_path)])
    result = executor_main(steps=[])
    assert result.is_ok and "nothing to do: 0 steps cached" in capsys.readouterr().err
