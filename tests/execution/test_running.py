"""Running steps: each once, failures kept apart, everything on record."""

import errno
import io
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from marin.cluster import ResourceConfig
from marin.cluster.current import use_cluster
from marin.cluster.job import JobResult
from marin.execution.executor import (
    Executor,
    ExecutorStep,
    output_path_of,
    run,
    this_output_path,
)
from marin.execution.launcher import ImpossibleRequest
from marin.execution.lease import LeaseTimes, acquire
from marin.execution.manifest import build_manifest
from marin.execution.plan import Choices
from marin.execution.status import active_run, process_start
from marin.execution.store import LocalStore, PrefixError

CPU = ResourceConfig.with_cpu()


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the steps of these tests are told."""

    output_path: object
    calls: str  # file that gets one line per call of a body
    name: str
    inputs: tuple = ()
    trouble: str = ""


def work(config: Work) -> dict:
    """Writes its name and its inputs' texts to out.txt; on the way, does what `trouble` says."""
    with open(config.calls, "a") as file:
        file.write(config.name + "\n")
    text = "".join(Path(folder, "out.txt").read_text() for folder in config.inputs)
    out = Path(config.output_path, "out.txt")
    out.write_text(f"({text}{config.name})")
    if config.trouble and not Path(config.calls + ".repaired").exists():
        if config.trouble == "disk full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))
        if config.trouble == "interrupt":
            raise KeyboardInterrupt
        raise ValueError(f"{config.name} is in trouble: {config.trouble}")
    return {"length": len(out.read_text())}


@pytest.fixture
def calls(tmp_path):
    """The names of the steps whose bodies were called, in order."""

    class Calls:
        path = tmp_path / "calls"

        def __call__(self):
            return self.path.read_text().split() if self.path.exists() else []

        def repair(self):
            (tmp_path / "calls.repaired").touch()

        def step(self, name, *inputs, trouble="", fn=work, **options):
            config = Work(
                output_path=this_output_path(),
                calls=str(self.path),
                name=name,
                inputs=tuple(output_path_of(i) for i in inputs),
                trouble=trouble,
            )
            return ExecutorStep(name=name, fn=fn, config=config, **options)

    return Calls()


@pytest.fixture
def screen():
    return io.StringIO()


@pytest.fixture
def executor(tmp_path, screen):
    return Executor(tmp_path / "store", fsync=False, stream=screen)


def state_of(result, step):
    item = next(i for i in result.plan if i.node.step is step)
    return LocalStore().read(result.plan.paths(item.node).root)


def text_of(result, step):
    return Path(result.output_path(step), "out.txt").read_text()


# -- once ------------------------------------------------------------


def test_a_body_runs_once_and_a_second_run_does_nothing(executor, calls):
    a = calls.step("a")
    b, c = calls.step("b", a), calls.step("c", a)
    d = calls.step("d", b, c)
    first = executor.run([d])
    assert calls() == ["a", "b", "c", "d"]
    assert [s.action for s in first.steps] == ["ran"] * 4
    second = executor.run([d])
    assert calls() == ["a", "b", "c", "d"]
    assert [s.action for s in second.steps] == ["cached"] * 4 and second.plan.is_done
    assert text_of(second, d) == "(((a)b)((a)c)d)"


def test_outputs_lie_in_the_attempt_that_the_register_names_and_a_link_shows_them(executor, calls, tmp_path):
    a = calls.step("group/a")
    result = executor.run([a])
    state = state_of(result, a)
    path = result.output_path(a)
    root = os.path.dirname(os.path.dirname(path))
    assert path == f"{root}/attempts/{state.attempt}"
    assert root.startswith(f"{tmp_path}/store/group/a-")
    assert os.path.realpath(f"{root}/data") == os.path.realpath(path)


def test_a_lost_link_is_mended_by_the_next_run(executor, calls):
    a = calls.step("a")
    link = Path(executor.run([a]).output_path(a)).parent.parent / "data"
    link.unlink()
    executor.run([a])
    assert (link / "out.txt").exists()


def test_only_what_is_missing_runs(executor, calls):
    a = calls.step("a")
    executor.run([a])
    executor.run([calls.step("b", a)])
    assert calls() == ["a", "b"]


def test_an_output_that_was_deleted_is_made_again_only_when_something_needs_it(executor, calls):
    a = calls.step("a")
    b = calls.step("b", a)
    result = executor.run([b])
    subprocess.run(["rm", "-r", result.output_path(a)], check=True)
    again = executor.run([b])
    assert [s.action for s in again.steps] == ["skipped", "cached"]
    c = calls.step("c", a)
    third = executor.run([c])
    assert calls() == ["a", "b", "a", "c"]
    assert state_of(third, a).epoch == 2


@pytest.mark.parametrize("publish", ["attempt", "inplace"])
def test_an_output_that_lost_a_file_or_part_of_one_is_made_again_before_it_is_used(executor, calls, publish):
    a = calls.step("a", publish=publish)
    b = calls.step("b", a)
    result = executor.run([b])
    out = Path(result.output_path(a), "out.txt")
    out.write_text("(a")
    assert executor.run([b]).plan.is_done  # nobody needs it
    assert executor.plan([a]).items[0].reason == "file out.txt of its output has 2 bytes, recorded 3"
    out.unlink()
    c = calls.step("c", a)
    plan = executor.plan([c])
    assert [(i.action, i.reason) for i in plan][0] == ("RUN", "file out.txt of its output is missing")
    result = executor.run([c])
    assert text_of(result, c) == "((a)c)" and calls() == ["a", "b", "a", "c"]
    assert state_of(result, a).record["attempts"][0]["outcome"] == "SUCCEEDED"
    assert executor.run([a, c]).plan.is_done


def test_links_and_strange_names_in_an_output_are_recognised(executor, calls):
    step = calls.step("links", fn=make_links)
    executor.run([step])
    assert executor.run([step]).plan.is_done


def make_links(config):
    os.symlink("nowhere", os.path.join(config.output_path, "broken"))
    os.symlink("/etc", os.path.join(config.output_path, "folder"))
    Path(os.fsdecode(os.fsencode(config.output_path) + b"/a\n\xff")).write_text("x")


def test_a_step_learns_where_it_is_from_its_environment(executor, tmp_path):
    step = ExecutorStep(name="env", fn=save_environment, config={"path": this_output_path("env.json")})
    jobs = ExecutorStep(name="job", fn=save_environment, config={"path": this_output_path("env.json")}, resources=CPU)
    result = executor.run([step, jobs])
    for each in (step, jobs):
        seen = json.loads(Path(result.output_path(each), "env.json").read_text())
        assert seen["MARIN_STEP_NAME"] == each.name
        assert seen["MARIN_STEP_DIGEST"] == result[each].digest
        assert seen["MARIN_PREFIX"] == str(tmp_path / "store")
        assert seen["MARIN_RUN_ID"] == result.run_id
    assert "MARIN_STEP_NAME" not in os.environ


def save_environment(config):
    mine = {name: value for name, value in os.environ.items() if name.startswith("MARIN_")}
    Path(config["path"]).write_text(json.dumps(mine))


def test_a_nonblocking_input_is_neither_waited_for_nor_run(executor, calls):
    slow = calls.step("slow")
    follow = ExecutorStep(
        name="follow",
        fn=save_config,
        config={"follows": output_path_of(slow).nonblocking(), "out": this_output_path("config.json")},
    )
    result = executor.run([follow])
    assert calls() == []
    follows = json.loads(Path(result.output_path(follow), "config.json").read_text())["follows"]
    assert not os.path.exists(follows)
    executor.run([slow])
    assert Path(follows, "out.txt").read_text() == "(slow)"


def save_config(config):
    Path(config["out"]).write_text(json.dumps(config))


def test_only_the_steps_that_were_named_and_what_they_read_run(executor, calls):
    a = calls.step("data/a")
    b, c = calls.step("train/b", a), calls.step("train/c", a)
    executor.run([b, c], run_only=["train/b$"])
    assert calls() == ["data/a", "train/b"]
    with pytest.raises(ValueError, match=r"no step's name matches 'tokens'; there are data/a, train/b, train/c"):
        executor.run([b, c], run_only=["tokens"])
    with pytest.raises(ValueError, match=r"run_only: '\(' is not a regular expression"):
        executor.run([b, c], run_only=["("])
    for name in ("force", "expect_cached"):
        with pytest.raises(ValueError, match=rf"{name}: '\(' is not a regular expression"):
            Choices(**{name: ("(",)})


def test_a_dry_run_shows_the_plan_and_leaves_no_trace(executor, calls, screen, tmp_path):
    executor.run([calls.step("b", calls.step("a"))], dry_run=True)
    assert calls() == [] and not (tmp_path / "store").exists()
    assert "Plan: 2 run." in screen.getvalue()


def test_fixed_output_paths_hold_one_recipe_at_a_time(executor, calls):
    one = calls.step("a", override_output_path="fixed")
    two = calls.step("a", trouble="none really", override_output_path="fixed")
    calls.repair()
    first = executor.run([one])
    second = executor.run([two])
    assert calls() == ["a", "a"]
    assert first.output_path(one) != second.output_path(two)  # both are kept
    inplace = calls.step("a", override_output_path="fixed", publish="inplace", code_version="2")
    with pytest.raises(ValueError, match="'fixed', which holds the output of another recipe"):
        executor.run([inplace])


# -- failure ------------------------------------------------------------


@pytest.mark.parametrize("resources", [None, CPU])
def test_a_step_that_fails_stops_only_what_reads_it(executor, calls, screen, resources):
    a = calls.step("a")
    bad = calls.step("bad", a, trouble="fire", resources=resources)
    after, other = calls.step("after", bad), calls.step("other", a)
    result = executor.run([after, other])
    assert not result.is_ok
    assert {s.name: s.action for s in result.steps} == {"a": "ran", "bad": "failed", "after": "blocked", "other": "ran"}
    assert result[bad].error.message == "bad is in trouble: fire"
    state = state_of(result, bad)
    assert (state.status, state.error["class"], state.error["type"]) == ("FAILED", "USER_ERROR", "ValueError")
    assert state_of(result, after) is None
    shown = screen.getvalue()
    assert "✗ bad  " in shown and "ValueError: bad is in trouble: fire" in shown
    assert "    raise ValueError(f" in shown  # the end of the log
    assert f"log: {result[bad].log_path}" in shown and os.path.exists(result[bad].log_path)
    assert "· after  not run: input bad failed" in shown
    with pytest.raises(ValueError, match="'bad' has no output: failed"):
        result.output_path(bad)


def test_what_failed_before_is_reported_and_not_run_again_until_forced(executor, calls, screen):
    bad = calls.step("bad", trouble="fire")
    after = calls.step("after", bad)
    executor.run([after])
    screen.truncate(0)
    second = executor.run([after])
    assert calls() == ["bad"]
    assert {s.name: s.action for s in second.steps} == {"bad": "failed", "after": "blocked"}
    assert "bad is in trouble: fire" in screen.getvalue() and "--force-run-failed" in screen.getvalue()
    calls.repair()
    third = executor.run([after], force_run_failed=True)
    assert third.is_ok and calls() == ["bad", "bad", "after"]
    record = state_of(third, bad).record
    assert [(a["epoch"], a["outcome"], a["error_class"]) for a in record["attempts"]] == [(1, "FAILED", "USER_ERROR")]


def test_a_disk_that_fills_up_during_a_step_leaves_nothing_that_looks_complete(executor, calls, screen):
    full = calls.step("full", trouble="disk full")
    result = executor.run([full])
    state = state_of(result, full)
    assert (state.status, state.error["class"]) == ("FAILED", "DISK_FULL")
    assert "the disk is full" in screen.getvalue() and "Nothing of this attempt counts" in screen.getvalue()
    root = result.plan.paths(result.plan.items[0].node).root
    assert [p.name for p in Path(root).rglob("*") if p.name in ("out.txt", "data")] == []


def fill_the_disk(config: Work) -> None:
    with open(os.path.join(config.output_path, "large"), "wb") as file:
        for _ in range(64):
            file.write(b"x" * (1 << 20))


@pytest.mark.parametrize("resources", [None, CPU])
def test_a_disk_that_is_really_full_is_named_and_has_room_again_afterwards(calls, screen, tmp_path, resources):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small disk")
    try:
        full = calls.step("full", fn=fill_the_disk, resources=resources)
        result = Executor(small, stream=screen).run([full])
        assert state_of(result, full).error["class"] == "DISK_FULL"
        assert "the disk is full; 0.0 GB free" in screen.getvalue()
        assert Executor(small, quiet=True).run([calls.step("other")]).is_ok
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_file_larger_than_the_system_allows_fails_the_step_that_writes_it(executor, calls, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "FILE_SIZE_LIMIT", 1 << 16)
    limited = calls.step("limited", fn=write_past_the_limit)
    result = executor.run([limited])
    assert state_of(result, limited).status == "FAILED"
    assert result[limited].error.errno == errno.EFBIG


FILE_SIZE_LIMIT = 0


def write_past_the_limit(config: Work) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE_LIMIT, before[1]))
    try:
        Path(config.output_path, "large").write_bytes(b"x" * (2 * FILE_SIZE_LIMIT))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ["below a file", "read only"])
def test_a_prefix_that_cannot_be_written_is_refused_before_anything_runs(calls, tmp_path, kind):
    if kind == "below a file":
        (tmp_path / "file").touch()
        prefix = tmp_path / "file" / "store"
    else:
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        prefix = tmp_path / "store"
        prefix.mkdir(mode=0o500)
    with pytest.raises(PrefixError, match=r"cannot write to prefix .*store: .*--prefix or MARIN_PREFIX"):
        run([calls.step("a")], prefix=prefix)
    assert calls() == []


@pytest.mark.parametrize(
    ("prefix", "complaint"),
    [
        ("hdfs://host/x", "'hdfs://host/x' is neither a folder nor an object store"),
        ("", "the prefix is empty"),
        ("s3:/bucket/x", r"'s3:/bucket/x' looks like the URL s3://bucket/x; \./s3:/bucket/x is a folder"),
        ("x" * 300, "cannot look at prefix x*: File name too long"),
    ],
)
def test_a_prefix_that_can_be_no_store_is_refused_with_the_reason(prefix, complaint):
    with pytest.raises(PrefixError, match=complaint):
        Executor(prefix)


def test_without_a_prefix_the_environment_decides_else_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MARIN_PREFIX", raising=False)
    assert Executor().prefix == str(tmp_path / "local_store")
    monkeypatch.setenv("MARIN_PREFIX", "elsewhere")
    assert Executor().prefix == str(tmp_path / "elsewhere")


def test_a_step_that_cannot_be_sent_to_a_process_fails_with_advice(executor, calls):
    step = calls.step("a", resources=CPU)
    config = Work(output_path=this_output_path(), calls=str(calls.path), name="b", inputs=(Unpicklable(),))
    bad = ExecutorStep(name="b", fn=work, config=config, resources=CPU)
    result = executor.run([step, bad])
    assert result[step].action == "ran"
    assert "cannot be sent to another process: no" in result[bad].error.message


@dataclass(frozen=True)
class Unpicklable:
    x: int = 0

    def __reduce__(self):
        raise TypeError("no")


def test_a_cancelled_step_runs_again_without_being_forced(executor, calls):
    stopped = calls.step("stopped", trouble="interrupt")
    later = calls.step("later", stopped)
    with pytest.raises(KeyboardInterrupt):
        executor.run([later])
    plan = executor.plan([later])
    assert plan.items[0].state.status == "CANCELLED"
    calls.repair()
    assert executor.run([later]).is_ok
    assert calls() == ["stopped", "stopped", "later"]


def test_at_least_one_step_at_a_time(executor, calls):
    with pytest.raises(ValueError, match="max_concurrent must be at least 1, got 0"):
        executor.run([calls.step("a")], max_concurrent=0)


# -- attempts and resuming ------------------------------------------------------------


def count_to_three(config: Work) -> None:
    """Makes one file per call, and is content with three."""
    have = sorted(p.name for p in Path(config.output_path).glob("part-*"))
    Path(config.output_path, f"part-{len(have)}").touch()
    if len(have) < 2:
        raise RuntimeError(f"stopped at {len(have)}")


def test_a_step_in_place_finds_its_partial_output_again(executor, calls):
    step = calls.step("resumes", fn=count_to_three, publish="inplace")
    results = [executor.run([step], force_run_failed=True) for _ in range(3)]
    assert [r.is_ok for r in results] == [False, False, True]
    root = results[2].output_path(step)
    assert root == results[2].plan.paths(results[2].plan.items[0].node).root
    assert sorted(p for p in os.listdir(root) if p != ".exec") == ["part-0", "part-1", "part-2"]
    state = state_of(results[2], step)
    assert (state.data_root, state.record["files"], state.epoch) == (".", 3, 3)


def test_every_attempt_of_another_step_begins_with_an_empty_folder(executor, calls):
    step = calls.step("restarts", fn=count_to_three)
    for _ in range(3):
        result = executor.run([step], force_run_failed=True)
        assert result[step].error.message == "stopped at 0"
    attempts = os.listdir(result.plan.paths(result.plan.items[0].node).root + "/attempts")
    assert sorted(name[:5] for name in attempts) == ["0001-", "0002-", "0003-"]


def start_from_nothing(config: Work) -> None:
    """Deletes its whole output folder and makes it anew."""
    with open(config.calls, "a") as file:
        file.write(config.name + "\n")
    shutil.rmtree(config.output_path)
    os.makedirs(config.output_path)
    Path(config.output_path, "out.txt").write_text("new")
    if config.trouble:
        raise ValueError(config.trouble)


@pytest.mark.parametrize("resources", [None, CPU])
def test_a_step_in_place_that_deletes_its_register_fails_and_says_what_to_do(executor, calls, resources):
    step = calls.step("careless", fn=start_from_nothing, publish="inplace", resources=resources)
    result = executor.run([step])
    assert result[step].action == "failed" and calls() == ["careless"]
    assert "the step deleted its own register" in result[step].error.message
    assert "empty the folder but for .exec" in result[step].error.message
    assert state_of(result, step).status == "FAILED"
    assert executor.run([step])[step].action == "failed" and calls() == ["careless"]
    worse = calls.step("worse", fn=start_from_nothing, publish="inplace", resources=resources, trouble="fire")
    error = executor.run([worse])[worse].error
    assert error.type == "ValueError" and error.message.startswith("fire (and the step deleted its own register")


@pytest.mark.parametrize("resources", [None, CPU])
def test_a_step_may_make_the_folder_of_its_attempt_anew(executor, calls, resources):
    step = calls.step("thorough", fn=start_from_nothing, resources=resources)
    result = executor.run([step])
    assert text_of(result, step) == "new" and state_of(result, step).record["files"] == 1
    assert os.path.exists(result[step].log_path)


def use_names_of_the_executor(config: Work) -> None:
    names = (".log", "attempts") if os.path.exists(f"{config.output_path}/.exec") else (".exec", ".log", "attempts")
    for name in names:
        folder = Path(config.output_path, name)
        folder.mkdir()
        (folder / "model.bin").write_text("m")


@pytest.mark.parametrize("publish", ["attempt", "inplace"])
def test_whatever_a_step_calls_its_files_they_are_its_output(executor, calls, publish):
    step = calls.step("names", fn=use_names_of_the_executor, publish=publish)
    result = executor.run([step])
    record = state_of(result, step).record
    root = result.plan.paths(result.plan.items[0].node).root
    files = json.loads(Path(root, record["manifest_ref"]).read_text())["files"]
    own = [".exec/model.bin"] if publish == "attempt" else []
    assert [path for path, _, _ in files] == [*own, ".log/model.bin", "attempts/model.bin"]


# -- processes ------------------------------------------------------------


def speak(config: Work) -> None:
    print("a word on stdout")
    print("10%\r50%\r90%", file=sys.stderr)
    print("held", len(b"\1" * 50_000_000))


def test_what_a_step_in_a_process_prints_is_shown_and_kept_and_its_memory_measured(executor, calls, screen):
    step = calls.step("speaker", fn=speak, resources=CPU)
    result = executor.run([step])
    assert "a word on stdout\n90%\nheld 50000000\n" in screen.getvalue()
    assert Path(result[step].log_path).read_bytes() == b"a word on stdout\n10%\r50%\r90%\nheld 50000000\n"
    record = state_of(result, step).record
    assert record["max_rss"] > 50_000_000 and record["max_rss_scope"] == "job"
    assert record["cpu_s"] > 0 and record["exit"] == 0


def test_what_a_step_in_this_process_prints_is_shown_where_progress_is_and_kept(executor, calls, screen, capsys):
    step = calls.step("speaker", fn=speak)
    result = executor.run([step])
    assert "a word on stdout\nheld 50000000\n" in screen.getvalue()
    assert capsys.readouterr().out == ""
    log = Path(result[step].log_path).read_text()
    assert "speaker started in the runner's process" in log and "speaker ended" in log
    assert "a word on stdout\nheld 50000000\n" in log


def meet(config: Work) -> None:
    """Ends only when another step with the same `calls` file runs at the same time."""
    with open(config.calls, "a") as file:
        file.write(config.name + "\n")
    deadline = time.monotonic() + 20
    while len(Path(config.calls).read_text().split()) < 2:
        assert time.monotonic() < deadline, "nobody came"
        time.sleep(0.01)


def test_steps_in_processes_run_side_by_side(executor, calls, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    pair = [calls.step(name, fn=meet, resources=CPU) for name in ("left", "right")]
    assert executor.run(pair).is_ok


def overlap(config: Work) -> None:
    marker = Path(config.calls + ".busy")
    marker.touch(exist_ok=False)
    time.sleep(0.05)
    marker.unlink()


@pytest.mark.parametrize(
    "resources, limit",
    [(CPU, 1), (ResourceConfig.with_cpu(cpu=3), None), (ResourceConfig.with_gpu(), None), (None, None)],
)
def test_never_more_at_once_than_allowed_or_than_the_machine_has(executor, calls, resources, limit, monkeypatch):
    monkeypatch.setenv("MARIN_CAPACITY", "cpu=4,gpu=1")
    steps = [calls.step(name, fn=overlap, resources=resources) for name in ("a", "b", "c")]
    assert executor.run(steps, max_concurrent=limit).is_ok


def say_gpus(config: Work) -> None:
    time.sleep(0.3)
    Path(config.output_path, "out.txt").write_text(os.environ["CUDA_VISIBLE_DEVICES"])


def test_two_gpu_steps_at_once_get_different_gpus(executor, calls, monkeypatch):
    monkeypatch.setenv("MARIN_CAPACITY", "cpu=4,gpu=2")
    steps = [calls.step(name, fn=say_gpus, resources=ResourceConfig.with_gpu()) for name in ("a", "b")]
    result = executor.run(steps)
    assert sorted(text_of(result, step) for step in steps) == ["0", "1"]


def test_a_step_that_asks_for_more_than_the_machine_has_is_refused_before_anything_runs(executor, calls, monkeypatch):
    monkeypatch.setenv("MARIN_CAPACITY", "cpu=2")
    a = calls.step("a")
    b = calls.step("b", a, resources=ResourceConfig.with_cpu(cpu=8))
    with pytest.raises(ImpossibleRequest, match=r"step 'b' asks for 8 cores, this machine .* has 2\nchange the steps'"):
        executor.run([b])
    assert calls() == []


# -- records ------------------------------------------------------------


def test_the_record_of_a_step_says_how_its_output_came_to_be(executor, calls):
    a = calls.step("a", description="the first", tags=frozenset({"small"}))
    b = calls.step("b", a)
    result = executor.run([b])
    state_a, state_b = state_of(result, a), state_of(result, b)
    record = state_b.record
    assert record["name"] == "b" and record["digest"] == result[b].digest == state_b.digest
    assert record["inputs"] == [
        {
            "digest": result[a].digest,
            "attempt": state_a.attempt,
            "root_digest": state_a.record["root_digest"],
            "name": "a",
            "path": os.path.relpath(os.path.dirname(os.path.dirname(result.output_path(a))), result.prefix),
            "sub": None,
            "pseudo": False,
        }
    ]
    assert record["config_resolved"]["inputs"] == [result.output_path(a)]
    manifest = build_manifest(result.output_path(b))
    assert record["root_digest"] == manifest.root_digest
    root = result.plan.paths(result.plan.items[1].node).root
    assert Path(root, record["manifest_ref"]).read_text() == manifest.to_json()
    assert (record["files"], record["bytes"], record["result"]) == (1, 6, {"length": 6})
    assert (state_a.record["description"], state_a.record["tags"]) == ("the first", ["small"])
    assert record["wall_s"] > 0 and record["max_rss"] > 0 and record["run_id"] == result.run_id
    assert record["env"]["python"] == sys.version.split()[0]
    edge = Path(result.prefix, ".exec/used_by", result[a].digest, result[b].digest)
    assert edge.read_bytes() == b""


def test_the_record_of_a_run_says_what_was_asked_planned_and_done(executor, calls, tmp_path):
    executor = Executor(tmp_path / "store", description="an experiment", fsync=False, quiet=True)
    a, bad = calls.step("a"), calls.step("bad", trouble="fire")
    executor.run([a])
    result = executor.run([a, bad])
    folder = tmp_path / "store/.exec/runs" / result.run_id
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["description"]) == ("FAILED", "an experiment")
    assert record["targets"] == [result[a].digest, result[bad].digest]
    assert [(p["name"], p["action"]) for p in record["plan"]] == [("a", "HIT"), ("bad", "RUN")]
    assert [(s["name"], s["action"]) for s in record["steps"]] == [("a", "cached"), ("bad", "failed")]
    assert record["steps"][1]["error"]["type"] == "ValueError" and record["steps"][1]["wall_s"] > 0
    assert record["command"] and record["env"]["argv"] == sys.argv and record["ended"] >= record["started"]
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    told = [(e["event"], e.get("step")) for e in events]
    assert told == [("run_started", None), ("started", "bad"), ("failed", "bad"), ("run_ended", None)]


def git(folder, *args):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *args], check=True, capture_output=True)


def test_the_code_that_ran_is_on_record_down_to_uncommitted_changes(tmp_path):
    from marin.execution.record import git_state

    assert git_state(str(tmp_path)) is None
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "m")
    clean = git_state(str(tmp_path))
    assert len(clean["commit"]) == 40 and clean["dirty_sha256"] is None
    seen = {None}
    for name, text in (("code.py", "x = 2\n"), ("new.py", "y = 1\n"), ("new.py", "y = 2\n")):
        (tmp_path / name).write_text(text)
        state = git_state(str(tmp_path))
        assert state["commit"] == clean["commit"] and state["dirty_sha256"] not in seen
        seen.add(state["dirty_sha256"])


# -- other runners ------------------------------------------------------------


def test_a_step_that_another_run_has_is_waited_for_and_not_run_twice(calls, tmp_path, screen):
    store = LocalStore(fsync=False)
    step = calls.step("a")
    waiting = Executor(tmp_path / "store", fsync=False, stream=screen)
    node = waiting.plan([step]).items[0].node
    root = str(tmp_path / "store" / node.path)
    results = []
    with active_run("other-run") as owner:
        lease = acquire(store, root, None, digest=node.digest, owner=owner, publish="attempt")
        thread = threading.Thread(target=lambda: results.append(waiting.run([step])))
        thread.start()
        while "waiting" not in screen.getvalue():
            time.sleep(0.01)
        assert f"waiting: run other-run (process {os.getpid()} on " in screen.getvalue()
        os.makedirs(lease.data_root)
        lease.end("SUCCEEDED", record={"root_digest": "r"})
    thread.join(20)
    assert results[0][step].action == "cached" and results[0].output_path(step) == lease.data_root
    assert calls() == []


def test_a_failure_of_the_run_that_was_waited_for_is_reported_even_when_forced(calls, tmp_path, screen):
    step = calls.step("a")
    waiting = Executor(tmp_path / "store", fsync=False, stream=screen)
    node = waiting.plan([step]).items[0].node
    results = []
    with active_run("other-run") as owner:
        lease = acquire(
            LocalStore(fsync=False),
            str(tmp_path / "store" / node.path),
            None,
            digest=node.digest,
            owner=owner,
            publish="attempt",
        )
        thread = threading.Thread(target=lambda: results.append(waiting.run([step], force_run_failed=True)))
        thread.start()
        while "waiting" not in screen.getvalue():
            time.sleep(0.01)
        lease.end("FAILED", error={"type": "ValueError", "message": "over there"})
    thread.join(20)
    assert results[0][step].error.message == "over there" and calls() == []


def test_a_run_that_was_left_without_its_runner_is_taken_over_at_once(executor, calls, tmp_path):
    step = calls.step("a")
    node = executor.plan([step]).items[0].node
    with active_run("aborted") as owner:
        acquire(
            LocalStore(fsync=False),
            str(tmp_path / "store" / node.path),
            None,
            digest=node.digest,
            owner=owner,
            publish="attempt",
        )
    started = time.monotonic()
    result = executor.run([step])
    assert result.is_ok and time.monotonic() - started < 10
    state = state_of(result, step)
    assert state.epoch == 2
    attempts = [(a["epoch"], a["outcome"], a["run_id"]) for a in state.record["attempts"]]
    assert attempts == [(1, "ABANDONED", "aborted")]


def test_a_process_that_a_dead_runner_left_behind_is_ended_before_its_step_resumes(
    executor, calls, tmp_path, monkeypatch
):
    monkeypatch.setattr("marin.execution.orphan._PATIENCE_S", 0.1)
    step = calls.step("resumes", publish="inplace")
    node = executor.plan([step]).items[0].node
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with active_run("aborted") as owner:
        root = str(tmp_path / "store" / node.path)
        lease = acquire(LocalStore(fsync=False), root, None, digest=node.digest, owner=owner, publish="inplace")
    os.makedirs(lease.log_dir)
    process = {"pid": orphan.pid, "start": process_start(orphan.pid)}
    Path(lease.log_dir, "process.json").write_text(json.dumps(process))
    assert executor.run([step]).is_ok
    assert orphan.poll() is not None


def test_an_attempt_that_was_taken_over_while_it_ran_counts_for_nothing(calls, tmp_path, screen):
    """The other runner commits first; this one finds that out at its own commit, and serves the other's output."""
    step = calls.step("slow", fn=be_overtaken)
    times = LeaseTimes(ttl_s=60, renew_s=15, fence_s=45)
    result = Executor(tmp_path / "store", fsync=False, stream=screen, lease_times=times).run([step])
    assert "taken over by another run" in screen.getvalue()
    assert result[step].action == "cached"
    assert Path(result.output_path(step), "out.txt").read_text() == "the other's"


def be_overtaken(config: Work) -> None:
    root = os.path.dirname(os.path.dirname(config.output_path))
    store = LocalStore(fsync=False)
    state = store.read(root)
    with active_run("overtaker") as owner:
        lease = acquire(store, root, state, digest=state.digest, owner=owner, publish="attempt")
        os.makedirs(lease.data_root)
        Path(lease.data_root, "out.txt").write_text("the other's")
        lease.end("SUCCEEDED", record={"root_digest": "r"})
    Path(config.output_path, "out.txt").write_text("mine")


class SilentCluster:
    """Its jobs end at once and without a word, and from then on their registers cannot be read."""

    is_remote = True
    pid = None
    pack = staticmethod(pickle.dumps)

    def launch(self, request, *, on_end, **_):
        (task,) = request.entrypoint.args
        register = Path(task.root, ".exec", "state.json")
        register.unlink()
        register.mkdir()
        on_end(JobResult(error=None))
        return self

    def cancel(self, grace_s: float) -> None:
        pass


def test_a_second_ctrl_c_does_not_wait_for_a_store_that_does_not_answer(executor, calls):
    sent = []

    def interrupt() -> None:
        for _ in range(2):
            time.sleep(0.7)
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=interrupt)
    sender.start()
    with use_cluster(SilentCluster()), pytest.raises(KeyboardInterrupt):
        executor.run([calls.step("silent", resources=CPU)])
    took_s = time.monotonic() - sent[-1]
    sender.join()
    assert len(sent) == 2 and took_s < 1.0, f"{len(sent)} times Ctrl-C, and {took_s:.1f} s after the last it was over"


def set_a_variable(config: Work) -> None:
    """Changes its process's environment, and goes on until the job beside it has started."""
    os.environ["MARIN_TEST_TRACE"] = "left by a step"
    Path(config.calls + ".set").touch()
    deadline = time.monotonic() + 30
    while not Path(config.calls + ".seen").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until_it_is_set(config: Work) -> None:
    while not Path(config.calls + ".set").exists():
        time.sleep(0.01)


def tell_the_variable(config: Work) -> dict:
    Path(config.calls + ".seen").touch()
    return {"seen": os.environ.get("MARIN_TEST_TRACE")}


def test_what_a_step_does_to_its_process_reaches_no_step_beside_or_after_it(executor, calls, monkeypatch):
    monkeypatch.setenv("MARIN_CAPACITY", "cpu=2")
    loud = calls.step("loud", fn=set_a_variable)
    first = calls.step("first", fn=wait_until_it_is_set, resources=CPU)
    beside = calls.step("beside", first, fn=tell_the_variable, resources=CPU)
    after = calls.step("after", loud, fn=tell_the_variable)
    result = executor.run([beside, after])
    assert result.is_ok
    assert [state_of(result, step).record["result"]["seen"] for step in (beside, after)] == [None, None]
