"""Experiments whose store is an S3 bucket, as a user runs them: the same commands, the same answers."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from marin.cli import main as cli
from marin.cluster import ResourceConfig
from marin.execution.catalog import find_step
from marin.execution.executor import Executor, ExecutorStep, output_path_of, this_output_path
from marin.execution.logs import attempt_log
from marin.execution.status import FAILED, SUCCEEDED
from marin.execution.store import open_store
from marin.report.api import report
from s3_server import Doorkeeper

CPU = ResourceConfig.with_cpu()


@pytest.fixture
def marin(
    s3_prefix: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., SimpleNamespace]:
    """Runs a command line on the S3 store, named by the environment; checks the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARIN_PREFIX", s3_prefix)

    def run(*arguments: str, expect: int = 0) -> SimpleNamespace:
        capsys.readouterr()
        try:
            code = cli.main(list(arguments))
        except SystemExit as stop:
            code = stop.code
        done = SimpleNamespace(**capsys.readouterr()._asdict())
        assert code == expect, done.out + done.err
        return done

    return run


def test_hello_world_on_s3(marin: Callable[..., SimpleNamespace], repository: Path, s3_prefix: str, tmp_path: Path):
    script = str(repository / "experiments/hello_world.py")
    assert "Plan: 2 run." in marin("plan", script).out
    assert "no store at" in marin("ls", expect=2).err
    done = marin("run", script)
    assert re.fullmatch(rf"hello_world/stats  {s3_prefix}/hello_world/stats-\w{{10}}/attempts/0001-\w{{8}}\n", done.out)
    assert "2 ran" in done.err
    assert "nothing to do: 2 steps cached" in marin("run", script).err
    assert "Plan: 2 cached." in marin("plan", script, "--check").out

    listed = marin("ls").out
    assert re.search(r"hello_world/data +\w{10} +succeeded .* 394 B", listed)
    assert re.search(r"hello_world/stats +\w{10} +succeeded .* 75 B", listed)
    assert len(json.loads(marin("ls", "runs", "--json").out)["runs"]) == 2
    shown = marin("show", "hello_world/stats").out
    assert f"output    {s3_prefix}/hello_world/stats-" in shown and "75 B in 1 file" in shown
    path = re.search(rf"{s3_prefix}/hello_world/stats-\S+/attempts/\S+", shown)
    assert path is not None and marin("show", f"{path[0]}/stats.json").out == shown
    assert "100 numbers, mean 48.91\n" in marin("logs", "hello_world/stats").out
    assert "is cached" in marin("why", script, "hello_world/stats").out
    assert not os.path.exists(tmp_path / "s3:")  # nothing took the URL for a path


# -- steps by the Python interface ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the steps of these tests are told."""

    output_path: object
    name: str
    inputs: tuple = ()
    files: tuple[tuple[str, str], ...] = ()


def work(config: Work) -> dict:
    """Writes its name after its inputs' texts, and `files`; finds what an earlier attempt left in its folder."""
    out = Path(config.output_path, "out.txt")
    found = out.exists()
    text = "".join(Path(folder, "out.txt").read_text() for folder in config.inputs)
    out.write_text(f"({text}{config.name})")
    for name, content in config.files:
        path = Path(config.output_path, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    print(f"{config.name} was here")
    return {"found": found}


def fail_once(config: Work) -> dict:
    """Leaves its output behind and fails, unless it finds it."""
    result = work(config)
    if not result["found"]:
        raise ValueError("failed on purpose")
    return result


def make(name: str, *inputs: ExecutorStep, files: dict[str, str] | None = None, fn=work, **options) -> ExecutorStep:
    config = Work(
        output_path=this_output_path(),
        name=name,
        inputs=tuple(output_path_of(step) for step in inputs),
        files=tuple((files or {}).items()),
    )
    return ExecutorStep(name=name, fn=fn, config=config, **options)


@pytest.fixture
def executor(s3_prefix: str) -> Executor:
    return Executor(s3_prefix, quiet=True)


def test_steps_in_processes_and_in_place_hand_their_outputs_on(executor: Executor, s3_prefix: str):
    first = make("a", files={"deep/er/é #1.txt": "x"})
    second = make("b", first, resources=CPU)
    third = make("c", first, second, resources=CPU, publish="inplace")
    result = executor.run([third])
    assert [step.action for step in result.steps] == ["ran"] * 3
    assert result.output_path(third) == f"{s3_prefix}/{find_step(s3_prefix, 'c').path}"
    assert executor.store.get(f"{result.output_path(third)}/out.txt") == b"((a)((a)b)c)"
    assert executor.store.get(f"{result.output_path(first)}/deep/er/é #1.txt") == b"x"
    assert b"b was here\n" in attempt_log(find_step(s3_prefix, "b")).read()
    assert [step.action for step in executor.run([third]).steps] == ["cached"] * 3


def test_an_output_is_loaded_as_a_folder_of_this_machine(executor: Executor, s3_prefix: str):
    step = make("a", files={"sub/x.txt": "text"})
    executor.run([step])
    loaded = step.load(prefix=s3_prefix)
    assert Path(loaded.path, "sub/x.txt").read_text() == "text"
    assert loaded.record["name"] == "a"


def test_a_step_in_place_goes_on_from_what_its_last_attempt_left_on_this_machine(executor: Executor, s3_prefix: str):
    step = make("a", fn=fail_once, publish="inplace", resources=CPU)
    assert executor.run([step])[step].action == "failed"
    entry = find_step(s3_prefix, "a")
    assert entry.status == FAILED and b"a was here\n" in attempt_log(entry).read()
    assert executor.run([step], force_run_failed=True)[step].action == "ran"
    state = executor.store.read(entry.paths.root)
    assert state is not None and (state.status, state.epoch, state.record["result"]) == (SUCCEEDED, 2, {"found": True})


def test_an_object_that_is_damaged_is_not_used(executor: Executor, s3_door: Doorkeeper):
    first = make("a")
    second = make("b", first)
    executor.run([first])
    s3_door.flips = "out.txt"
    failed = executor.run([second])[second]
    assert failed.error is not None and re.search(
        r"a-\w{10}/attempts/.*/out.txt has 3 bytes and .*: damaged", failed.error.message
    )
    s3_door.flips = ""
    assert executor.run([second], force_run_failed=True)[second].action == "ran"


def test_an_object_that_is_missing_has_its_step_run_again(executor: Executor):
    step = make("a", files={"one": "1", "two": "22"})
    folder = executor.run([step]).output_path(step)
    executor.store.delete(f"{folder}/two")
    (item,) = executor.plan([step])
    assert (item.action, item.reason) == ("RUN", "file two of its output is missing")
    assert executor.run([step])[step].action == "ran"


def test_a_report_finds_the_records_of_all_that_led_to_it(executor: Executor, tmp_path: Path):
    text = make("text")
    tokens = make("tokens", text)
    model = make("model", tokens, text, resources=CPU)
    page = report("reports/page", title="Page", steps={"model": model})
    result = executor.run([page])
    assert result.is_ok, [step.error for step in result.steps]
    executor.store.download(f"{result.output_path(page)}/report.md", str(tmp_path / "report.md"))
    written = (tmp_path / "report.md").read_text()
    for name in ("text", "tokens", "model"):
        assert result[name].digest[:10] in written


SLOW = """
import os, time
from dataclasses import dataclass
from marin.cluster import ResourceConfig
from marin.execution.executor import ExecutorStep, executor_main, this_output_path


@dataclass(frozen=True)
class Config:
    output_path: object = this_output_path()


def work(config):
    first = not os.path.exists(MARK)
    open(MARK, "a").close()
    with open(os.path.join(config.output_path, "x"), "w") as file:
        file.write("half")
    if first:
        time.sleep(60)
    with open(os.path.join(config.output_path, "x"), "w") as file:
        file.write("whole")


if __name__ == "__main__":
    executor_main([ExecutorStep(name="slow", fn=work, config=Config(), resources=ResourceConfig.with_cpu())])
"""


def test_a_run_that_was_killed_is_taken_over_at_once(s3_prefix: str, tmp_path: Path, repository: Path):
    script = tmp_path / "slow.py"
    script.write_text(SLOW.replace("MARK", repr(str(tmp_path / "mark"))))
    command = [sys.executable, str(script), "--prefix", s3_prefix]
    environment = os.environ | {"PYTHONPATH": str(repository / "src")}
    killed = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "mark").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    store = open_store(s3_prefix)
    assert find_step(s3_prefix, "slow").status == "ABANDONED"
    started = time.monotonic()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - started < 45  # nobody waited for the lease to run out
    entry = find_step(s3_prefix, "slow")
    assert (entry.status, entry.state.epoch) == (SUCCEEDED, 2)
    assert store.get(f"{entry.data_path}/x") == b"whole"


MANY_FILES = """
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marin.cluster.resources import ResourceConfig
from marin.execution.executor import ExecutorStep, executor_main, output_path_of, this_output_path


@dataclass(frozen=True)
class Config:
    input_path: Any = None
    output_path: Any = this_output_path()


def write(config):
    for number in range(20):
        Path(config.output_path, f"part-{number}").write_text(str(number))


def read(config):
    Path(config.output_path, "x").write_text("".join(path.read_text() for path in Path(config.input_path).iterdir()))


parts = ExecutorStep(name="parts", fn=write, config=Config())
reading = Config(output_path_of(parts))
job = ExecutorStep(name="job", fn=read, config=reading, resources=ResourceConfig.with_cpu())
here = ExecutorStep(name="here", fn=read, config=reading)
if __name__ == "__main__":
    executor_main(steps=[parts, job, here])
"""


def test_on_a_store_without_conditional_writes_nothing_is_written_before_somebody_says_single_runner(
    marin: Callable[..., SimpleNamespace], s3_door: Doorkeeper, s3_prefix: str, tmp_path: Path
):
    s3_door.ignores_conditions = True
    store = open_store(s3_prefix)
    (tmp_path / "script.py").write_text(MANY_FILES)
    (tmp_path / "data").write_text("downloaded")
    marin("run", "script.py", "here", "--single-runner")

    def refused_then_done(*words: str) -> SimpleNamespace:
        before = sorted(store.tree(s3_prefix))
        refused = marin(*words, expect=2)
        assert "cannot hold registers" in refused.err and "--single-runner" in refused.err
        assert sorted(store.tree(s3_prefix)) == before
        return marin(*words, "--single-runner")

    refused_then_done("verify")
    refused_then_done("pin", "parts")
    refused_then_done("adopt", "corpus", "--from", "data", "--version", "1", "--reason", "downloaded by hand")
    id = re.search(r"struck out as (\S+);", refused_then_done("invalidate", "here", "--reason", "x", "--yes").err)
    assert id is not None
    refused_then_done("invalidate", "--revoke", id[1], "--reason", "it was right")
    marin("invalidate", "here", "--reason", "wrong", "--yes", "--single-runner")
    marin("invalidate", "--list")
    for words in (("invalidate", "parts", "--reason", "x"), ("gc",), ("verify",), ("rerun", "--tainted", "--force")):
        marin(*words, "--dry-run")  # who only looks need not say it
    refused_then_done("rerun", "--tainted", "--force")  # in a process of its own
    assert find_step(s3_prefix, "here").state.epoch == 2
    refused_then_done("gc", "--outputs", "--keep-days", "0", "--yes")


@pytest.mark.parametrize("name", ["job", "here"])
def test_ctrl_c_waits_for_no_download_nor_does_the_end_of_the_process(
    marin: Callable[..., SimpleNamespace], s3_door: Doorkeeper, tmp_path: Path, name: str
):
    (tmp_path / "script.py").write_text(MANY_FILES)
    marin("run", "script.py", "parts")
    asked = []

    def slowly(method: str, path: str) -> None:
        if method == "GET" and "/part-" in path:
            asked.append(path)
            time.sleep(10)

    s3_door.rule = slowly
    command = [sys.executable, "-m", "marin.cli.main", "run", "script.py", name]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not asked:
        assert time.monotonic() < deadline and process.poll() is None, "no input was asked for"
        time.sleep(0.05)
    interrupted = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    took_s = time.monotonic() - interrupted
    assert process.returncode == 130, told
    assert took_s < 6 and len(asked) <= 6, f"gone after {took_s:.1f} s and {len(asked)} downloads"
    state = find_step(os.environ["MARIN_PREFIX"], name).state
    assert state is not None and state.status == "CANCELLED"
    assert not list((tmp_path / "scratch").rglob("part-*"))


SCRATCHY = """
import time
from dataclasses import dataclass
from pathlib import Path

from marin.execution.executor import ExecutorStep, executor_main, output_path_of, this_output_path


@dataclass(frozen=True)
class Work:
    output_path: str
    input_path: str = ""
    how: str = ""


def work(config):
    Path(config.output_path, "out").write_text("x" * 1000)
    while config.how == "waits" and not Path("go").exists():
        Path("waits").touch()
        time.sleep(0.02)
    if config.how == "fails":
        raise ValueError("on purpose")


first = ExecutorStep(name="first", fn=work, config=Work(this_output_path()))
steps = [
    ExecutorStep(
        name=f"{how}-{publish}", fn=work, config=Work(this_output_path(), output_path_of(first), how), publish=publish
    )
    for how, publish in (("reads", "attempt"), ("fails", "attempt"), ("fails", "inplace"), ("waits", "attempt"))
]
if __name__ == "__main__":
    executor_main(steps)
"""


def test_the_scratch_folder_is_tidied_but_for_what_is_in_use_or_unfinished(
    marin: Callable[..., SimpleNamespace], tmp_path: Path
):
    (tmp_path / "script.py").write_text(SCRATCHY)
    scratch = tmp_path / "scratch"
    process = subprocess.Popen([sys.executable, "-m", "marin.cli.main", "run", "script.py"], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (tmp_path / "waits").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    before = sorted(scratch.rglob("out"))
    assert "in use by a run of this machine" in marin("gc", "--scratch", "--yes").err
    assert sorted(scratch.rglob("out")) == before
    (tmp_path / "go").touch()
    process.communicate(timeout=60)
    found = json.loads(marin("gc", "--scratch", "--dry-run", "--json").out)["found"]
    assert {item["kind"] for item in found} == {"copies", "attempts"} and not any(item["is_in_use"] for item in found)
    assert re.search(r"copies of what is in object stores: [\d.]+ MB .*\n +`marin gc --scratch`", marin("doctor").out)
    assert "deleted" in marin("gc", "--scratch", "--yes").err
    (left,) = scratch.rglob("out")
    assert "inplace-" in str(left)  # the next attempt goes on from it
    assert "deleted 1 thing, 1.0 kB" in marin("gc", "--scratch", "--keep-days", "0", "--yes").err
    assert not list(scratch.rglob("out"))
    assert "nothing to delete in" in marin("gc", "--scratch").err
    command = [sys.executable, "-m", "marin.cli.main", "run", "script.py", "waits-attempt", "--force", "waits-attempt"]
    assert subprocess.run(command).returncode == 0  # its input is fetched again
