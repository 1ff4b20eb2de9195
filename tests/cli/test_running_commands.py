"""status, logs -f, cancel and completion: what a person does beside a run."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from marin.cli import main as cli
from marin.execution.catalog import find_step
from marin.execution.lease import LeaseTimes, acquire
from marin.execution.status import FAILED, Owner, State
from marin.execution.store import LocalStore

SCRIPT = """
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marin.cluster.resources import ResourceConfig
from marin.execution.executor import ExecutorStep, executor_main, output_path_of, this_output_path
from marin.tracking.progress import report_progress


@dataclass(frozen=True)
class Config:
    until: str = ""
    input_path: Any = None
    output_path: Any = this_output_path()


def work(config: Config) -> None:
    report_progress(2, 12, "things")
    time.sleep(1.1)  # of more reports in a second one is kept
    report_progress(3, 12, "things")
    print("begun", flush=True)
    while config.until and not os.path.exists(config.until):
        time.sleep(0.02)
    print("ended", flush=True)
    Path(config.output_path, "out").touch()


apart = ResourceConfig.with_cpu() if "APART" in os.environ else None
slow = ExecutorStep(name="slow", fn=work, config=Config(until=os.path.abspath("go")), resources=apart)
after = ExecutorStep(name="after", fn=work, config=Config(input_path=output_path_of(slow)))

if __name__ == "__main__":
    executor_main(steps=[after])
"""


@pytest.fixture
def place(folder: Path) -> Path:
    (folder / "slow.py").write_text(SCRIPT)
    return folder


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def num_begun(place: Path) -> int:
    return sum(path.read_text().count("begun") for path in place.glob("store/slow-*/.exec/logs/*/stdout.log"))


def begun(place: Path) -> bool:
    return num_begun(place) > 0


@pytest.fixture
def running(place: Path) -> Iterator[subprocess.Popen]:
    """A run whose first step goes on until there is a file `go`."""
    process = start(place, apart=True)
    yield process
    process.kill()
    process.communicate()


def start(place: Path, *, apart: bool, ignore_interrupts: bool = False) -> subprocess.Popen:
    environment = os.environ | ({"APART": "1"} if apart else {})
    process = subprocess.Popen(
        [sys.executable, "slow.py"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignore_interrupts else None,
    )
    wait_until(lambda: begun(place) or process.poll() is not None)
    assert process.poll() is None
    return process


# -- status ------------------------------------------------------------------------------------------------------------


def test_status_shows_what_runs_how_far_it_is_and_what_waits(marin, running, place: Path):
    done = marin("status")
    run, where, slow, after = done.out.splitlines()
    assert re.fullmatch(r"\d{8}-\d{6}-\w{6}  running  \S*python\S* slow.py", run)
    assert re.search(r"1 running, 1 pending$", where)
    assert re.search(r"▶ slow +@\w{6}  running  \S+s  3/12 things  eta \S+s  on \S+  renewed \S+s ago", slow)
    assert re.search(r"· after +@\w{6}  pending", after)
    assert re.search(r"Next: marin logs slow@\w{6} -f", done.err)
    (view,) = json.loads(marin("status", "slow.py", "--json").out)["runs"]
    assert [step["status"] for step in view["steps"]] == ["RUNNING", "PENDING"]
    progress = view["steps"][0]["progress"]
    assert 0 < progress.pop("pace") <= 1 / 1.1  # one in over 1.1 s, however long the step took to start
    assert progress == {"done": 3, "total": 12, "unit": "things"}
    assert json.loads(marin("status", view["run_id"][:18], "--json").out)["runs"][0]["run_id"] == view["run_id"]


def test_status_of_a_second_run_says_for_what_it_waits(marin, running, place: Path):
    second = subprocess.Popen([sys.executable, "slow.py"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: marin("status").out.count("running  ") > 2 or "waiting" in marin("status").out)
        assert re.search(r"w slow +@\w{6}  waiting  3/12 things|w slow +@\w{6}  waiting  for run", marin("status").out)
        (place / "go").touch()
        assert second.wait(60) == running.wait(60) == 0
    finally:
        second.kill()
        second.wait()


def test_status_when_nothing_runs_is_the_last_run(marin, running, place: Path):
    running.kill()
    running.wait()
    abandoned = marin("status").out
    assert re.search(r"^\S+  abandoned  ", abandoned)
    assert re.search(r"✗ slow +@\w{6}  abandoned", abandoned)
    (place / "go").touch()
    time.sleep(1.1)  # the names of runs sort by the second in which they began
    subprocess.run([sys.executable, "slow.py"], check=True, capture_output=True)
    assert re.search(r"succeeded.*\n.*2 succeeded$", marin("status").out.rstrip())


def test_status_watched_through_a_pipe_is_a_line_for_each_change_and_ends_with_the_run(running, place: Path):
    command = [sys.executable, "-m", "marin.cli.main", "status", "--watch"]
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(4)
    (place / "go").touch()
    out, err = watch.communicate(timeout=60)
    assert watch.returncode == 0
    assert len(re.findall(r"slow @\w{6}  running", out)) == 1
    assert re.search(r"slow @\w{6}  succeeded", out)
    assert err == "nothing runs\n"


def test_a_watch_ends_well_at_ctrl_c(running):
    command = [sys.executable, "-m", "marin.cli.main", "status", "--watch"]
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watch.stdout is not None
    assert "slow" in watch.stdout.readline()
    time.sleep(0.3)
    watch.send_signal(signal.SIGINT)
    _, err = watch.communicate(timeout=20)
    assert (watch.returncode, err) == (0, "")


def test_status_and_logs_load_no_tensor_library(running):
    script = (
        "import sys; from marin.cli.main import main\n"
        "assert main(['status']) == 0 and main(['status', 'slow.py']) == 0 and main(['logs', 'slow']) == 0\n"
        "print(sorted({'jax', 'numpy', 'torch', 'ray', 'optax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# -- logs --------------------------------------------------------------------------------------------------------------


def test_a_log_is_followed_until_its_step_ends(marin, running, place: Path):
    command = [sys.executable, "-m", "marin.cli.main", "logs", "slow", "-f"]
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert follower.stdout is not None
    assert follower.stdout.readline() == "begun\n"
    time.sleep(0.5)
    assert follower.poll() is None
    (place / "go").touch()
    out, err = follower.communicate(timeout=60)
    assert out == "ended\n"
    assert re.search(r"slow @\w{6}: succeeded", err)
    assert follower.returncode == 0


def test_a_follower_goes_on_with_the_next_attempt(place: Path):
    store = LocalStore("store", fsync=False)
    store.prepare()
    owner = Owner(host="far", boot_id="other", pid_ns="ns", pid=1, pid_start=1, run_id="r", user="u")
    root, times = f"{store.prefix}/retried-{'ab' * 5}", LeaseTimes()

    def begin(before: State | None):
        lease = acquire(store, root, before, digest="ab" * 32, owner=owner, publish="attempt", times=times)
        assert lease is not None
        Path(lease.log_dir).mkdir(parents=True)
        return lease

    def say(lease, text: str) -> None:
        with open(f"{lease.log_dir}/stdout.log", "a") as file:
            file.write(text)

    first = begin(None)
    say(first, "first try\n")
    command = [sys.executable, "-m", "marin.cli.main", "logs", "retried", "-f"]
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert follower.stdout is not None
    assert follower.stdout.readline() == "first try\n"
    say(first, "it fails\n")
    failed = first.end(FAILED, error={"class": "TRANSIENT", "type": "OSError", "message": "busy"})
    second = begin(failed)
    say(second, "second try\n")
    assert [follower.stdout.readline() for _ in range(2)] == ["it fails\n", "second try\n"]
    say(second, "done\n")
    second.end(FAILED, error={"class": "USER_ERROR", "type": "ValueError", "message": "no"})
    out, err = follower.communicate(timeout=30)
    assert out == "done\n"
    assert f"attempt {second.state.attempt}\n" in err
    old = subprocess.run([*command[:-1], "--attempt", "1"], capture_output=True, text=True)
    assert old.stdout == "first try\nit fails\n"
    missing = subprocess.run([*command[:-1], "--attempt", "3"], capture_output=True, text=True)
    assert missing.returncode == 2
    assert "has no log of attempt 3; there are logs of 1, 2" in missing.stderr


def test_a_log_as_json(marin, running, place: Path):
    (place / "go").touch()
    assert running.wait(60) == 0
    answer = json.loads(marin("logs", "slow", "--json", "-n", "1").out)
    assert (answer["name"], answer["lines"]) == ("slow", ["ended"])
    marin("logs", "slow", "-f", "--json", expect=2)


def test_a_log_in_a_store_that_is_no_disk_is_polled():
    sys.path.insert(0, str(Path(__file__).parent.parent / "execution"))
    from fake_store import FakeStore

    from marin.execution.catalog import read_step
    from marin.execution.logs import follow

    store = FakeStore()
    owner = Owner(host="far", boot_id="other", pid_ns="ns", pid=1, pid_start=1, run_id="r", user="u")
    root = f"{store.prefix}/far"
    lease = acquire(store, root, None, digest="ab" * 32, owner=owner, publish="attempt")
    assert lease is not None
    log = f"{lease.log_dir}/stdout.log"
    store.put(log, b"one\n")
    steps = iter([lambda: store.put(log, b"one\ntwo\n"), lambda: lease.end("SUCCEEDED", record={"name": "far"})])
    entry = read_step(store, root)
    assert entry is not None
    chunks = list(follow(entry, 0, lambda attempt: None, sleep=lambda seconds: next(steps)()))
    assert chunks == [b"one\n", b"two\n"]


# -- cancel ------------------------------------------------------------------------------------------------------------


def test_a_run_is_cancelled_by_its_step_or_its_id(marin, running, place: Path):
    done = marin("cancel", "slow")
    assert re.fullmatch(r"run \S+: cancelled\n", done.out)
    assert running.wait(30) == 130
    assert find_step("store", "slow").status == "CANCELLED"
    run_id = done.out.split()[1].rstrip(":")
    again = marin("cancel", run_id, expect=2)
    assert f"run {run_id} is not running: it was cancelled" in again.err
    assert "slow @" in marin("cancel", "slow", expect=2).err


def test_a_name_means_the_step_that_runs_although_an_earlier_one_of_that_name_is_done(marin, place: Path):
    (place / "go").touch()
    subprocess.run([sys.executable, "slow.py"], check=True, capture_output=True)
    done = find_step("store", "slow")
    shutil.rmtree(done.paths.root + "/.exec/logs")  # `start` waits for what the step prints
    (place / "slow.py").write_text(SCRIPT.replace('abspath("go")', 'abspath("never")'))
    process = start(place, apart=True)
    assert f"{done.digest[:6]} is not running: it has succeeded" in marin("cancel", f"slow@{done.digest}", expect=2).err
    assert re.fullmatch(r"run \S+: cancelled\n", marin("cancel", "slow").out)
    assert process.wait(30) == 130


def test_a_run_that_ignores_ctrl_c_is_cancelled_too(marin, place: Path):
    process = start(place, apart=True, ignore_interrupts=True)
    answer = json.loads(marin("cancel", "slow", "--now", "--json").out)
    assert (answer["status"], answer["signalled"]) == ("CANCELLED", True)
    process.wait(30)


def test_a_run_of_another_machine_finds_the_word_that_was_left_for_it(marin, place: Path):
    """The run lives here, but its record says that it does not: as from another machine, no signal can be sent."""
    code = (
        "import sys; sys.argv = ['slow.py']\n"
        "import slow\n"
        "from marin.execution.executor import Executor\n"
        "from marin.execution.lease import LeaseTimes\n"
        "Executor(lease_times=LeaseTimes(renew_s=0.2), quiet=True).run([slow.after])\n"
    )
    for apart in (False, True):
        shutil.rmtree(place / "store", ignore_errors=True)
        environment = os.environ | ({"APART": "1"} if apart else {}) | {"PYTHONPATH": _paths(place)}
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
        wait_until(lambda: begun(place))
        (path,) = place.glob("store/.exec/runs/*/run.json")
        record = json.loads(path.read_text())
        record["owner"] |= {"boot_id": "another", "host": "far"}
        path.write_text(json.dumps(record))
        answer = json.loads(marin("cancel", record["run_id"], "--json").out)
        assert (answer["status"], answer["signalled"], answer["host"]) == ("CANCELLED", False, "far")
        assert process.wait(30) != 0
        assert find_step("store", "slow").status == "CANCELLED"


def _paths(place: Path) -> str:
    return os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])


RUN_ON_A_CLUSTER = """
import pickle, subprocess, sys
sys.argv = ["slow.py"]
import slow
from marin.cluster.current import use_cluster
from marin.execution.executor import Executor
from marin.execution.lease import LeaseTimes

WORKER = "import pickle; from marin.execution.remote import carry_out; carry_out(pickle.load(open('task', 'rb')))"

class Cluster:
    is_remote = True
    pid = None
    pack = staticmethod(pickle.dumps)
    def launch(self, request, **_):
        (task,) = request.entrypoint.args
        with open("task", "wb") as file:
            pickle.dump(task, file)
        worker = subprocess.Popen([sys.executable, "-c", WORKER], start_new_session=True)
        open("worker", "w").write(str(worker.pid))
        return self

with use_cluster(Cluster()):
    Executor(lease_times=LeaseTimes(renew_s=0.2), quiet=True).run([slow.after])
"""


@pytest.mark.parametrize("said", ["step", "run"])
@pytest.mark.parametrize("status", ["ABANDONED", "CRASHED"])
def test_a_worker_that_outlived_its_run_is_cancelled(marin, place: Path, said: str, status: str):
    environment = os.environ | {"APART": "1", "PYTHONPATH": _paths(place)}
    process = subprocess.Popen([sys.executable, "-c", RUN_ON_A_CLUSTER], env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: begun(place) or process.poll() is not None)
        process.kill()
        process.wait()
        (path,) = place.glob("store/.exec/runs/*/run.json")
        record = json.loads(path.read_text())
        if status == "CRASHED":
            path.write_text(json.dumps(record | {"status": status}))
        assert find_step("store", "slow").status == "RUNNING"
        done = marin("cancel", "slow" if said == "step" else record["run_id"])
        assert done.out == f"run {record['run_id']}: {status.lower()}; {find_step('store', 'slow').path}: cancelled\n"
        assert find_step("store", "slow").status == "CANCELLED"
        again = marin("cancel", record["run_id"], expect=2)
        became = {"ABANDONED": "its runner is gone", "CRASHED": "it crashed"}
        assert f"run {record['run_id']} is not running: {became[status]}" in again.err
    finally:
        process.kill()
        with contextlib.suppress(OSError):
            os.kill(int((place / "worker").read_text()), signal.SIGKILL)


def test_a_run_that_does_not_end_in_time_is_said_to_go_on(marin, running, place: Path):
    (path,) = place.glob("store/.exec/runs/*/run.json")
    record = json.loads(path.read_text())
    record["owner"] |= {"boot_id": "another", "host": "far"}
    path.write_text(json.dumps(record))
    done = marin("cancel", record["run_id"], "--wait", "0.3", expect=1)
    assert "still running after 0 s; word was left for it on far" in done.out
    assert json.loads((path.parent / "cancel.json").read_text())["now"] is False


# -- a name that several recipes had -----------------------------------------------------------------------------------


def run_quickly(place: Path, work: str = "") -> None:
    """Run steps of the same names, made by other recipes, to their end: `slow` succeeds, or does `work` and fails."""
    script = SCRIPT.replace('os.path.abspath("go")', f'"{"now" if work else ""}"')
    (place / "quick.py").write_text(script.replace('    report_progress(3, 12, "things")\n', work))
    subprocess.run([sys.executable, "quick.py"], check=not work, capture_output=True)


def test_a_name_means_what_runs_although_another_recipe_of_it_succeeded(marin, place: Path):
    run_quickly(place)
    older = find_step("store", "slow")
    process = start(place, apart=True)
    wait_until(lambda: num_begun(place) == 2)
    command = [sys.executable, "-m", "marin.cli.main", "logs", "slow", "-f"]
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        shown = marin("show", "slow")
        assert re.search(r"^state +running$", shown.out, re.MULTILINE)
        assert f"of that name also: slow@{older.digest[:6]} succeeded" in shown.err
        assert marin("logs", "slow").out == "begun\n"
        done = marin("cancel", "slow")
        assert re.fullmatch(r"run \S+: cancelled\n", done.out)
        assert process.wait(30) == 130
        out, err = follower.communicate(timeout=60)
        assert (out, follower.returncode) == ("begun\n", 0)
        assert re.search(r"slow @\w{6}: cancelled", err)
        again = marin("cancel", "slow", expect=2)
        assert "is not running: it was cancelled" in again.err
        assert json.loads(marin("diff", "slow", "slow", "--json").out)["old"]["digest"] == older.digest
    finally:
        for child in (process, follower):
            child.kill()
            child.communicate()


def test_after_a_failure_a_name_means_what_failed(marin, place: Path):
    run_quickly(place)
    run_quickly(place, work='    raise ValueError("no luck")\n')
    done = marin("logs", "slow")
    assert "ended" not in done.out
    assert "no luck" in done.out
    assert re.search(r"slow@\w{6} \(failed\); of that name also: slow@\w{6} succeeded", done.err)
    assert re.search(r"error +ValueError: no luck", marin("show", "slow").out)


def test_a_name_that_several_runs_are_at_stops_neither(marin, place: Path):
    (place / "second.py").write_text(SCRIPT.replace('os.path.abspath("go")', 'os.path.abspath("go2")'))
    process = start(place, apart=True)
    second = subprocess.Popen([sys.executable, "second.py"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: num_begun(place) == 2)
        done = marin("cancel", "slow", expect=2)
        first_id, second_id = re.findall(r"by run (\S+) of", done.err)
        assert (process.poll(), second.poll()) == (None, None)
        marin("cancel", first_id)
        marin("cancel", second_id)
    finally:
        for child in (process, second):
            child.kill()
            child.communicate()


# -- completion --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(place: Path, marin, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with two steps, and `marin` on the path."""
    (place / "go").touch()
    subprocess.run([sys.executable, "slow.py"], check=True, capture_output=True)
    marin("pin", "slow", "--name", "paper")
    folder = place / "bin"
    folder.mkdir()
    command = folder / "marin"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m marin.cli.main "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return place


CASES = [
    (["ver"], ["verify"]),
    (["show", "sl"], ["slow"]),
    (["show", "pa"], ["paper"]),
    (["diff", "af"], ["after"]),
    (["cancel", ""], []),
    (["lineage", "slow", "--format", ""], ["tree", "dot", "json"]),
    (["logs", ""], ["after", "slow"]),
    (["logs", "--fol"], ["--follow"]),
    (["logs", "-n", "3", "af"], ["after"]),
    (["plan", "slow.py", "--strict"], ["--strict-code"]),
    (["plan", "slow.py", "--strict_"], ["--strict_code"]),
    (["run", "sl"], ["slow.py"]),
    (["run", "slow.py", "af"], ["after"]),
    (["unpin", ""], ["paper"]),
    (["ls", "r"], ["runs", "refs"]),
    (["adopt", "slow", "--file", "sl"], ["slow.py"]),
    (["completion", ""], ["bash", "zsh", "fish"]),
    (["nonsense", "x"], []),
]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes(shell: Path):
    lines = ["source <(marin completion bash)"]
    for words, _ in CASES:
        quoted = " ".join(f"'{word}'" for word in ["marin", *words])
        lines.append(f'COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; COMPREPLY=(); _marin; echo "${{COMPREPLY[*]}}"')
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert [line.split() for line in done.stdout.splitlines()] == [wanted for _, wanted in CASES]
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh_completes(shell: Path):
    for words, wanted in CASES:
        quoted = " ".join(f"'{word}'" for word in ["marin", *words])
        script = (
            "compadd() { shift; print -r -- $@ }; _files() { print }; compdef() { : }\n"
            f"source <(marin completion zsh)\nwords=({quoted}); CURRENT={len(words) + 1}; _marin\n"
        )
        done = subprocess.run(["zsh", "-fc", script], capture_output=True, text=True, check=True)
        assert done.stdout.split() == wanted


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
def test_fish_completes(shell: Path):
    for words, wanted in CASES:
        script = f"marin completion fish | source; complete -C '{' '.join(['marin', *words])}'"
        done = subprocess.run(["fish", "-c", script], capture_output=True, text=True, check=True)
        assert sorted(done.stdout.split()) == sorted(wanted)


def test_runs_are_completed_and_for_cancel_only_those_that_run(marin, running, place: Path):
    run_id = json.loads(marin("status", "--json").out)["runs"][0]["run_id"]
    for words, found in (
        (["show", run_id[:4]], [run_id]),
        (["show", ""], ["slow"]),
        (["cancel", ""], [run_id, "slow"]),
        (["cancel", "sl"], ["slow"]),
    ):
        assert marin("completion", "bash", "--", *words).out.split() == found
    marin("cancel", "slow")
    assert marin("completion", "bash", "--", "cancel", "").out == ""
    assert marin("completion", "bash", "--", "show", run_id[:4]).out.split() == [run_id]


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script_that_asks_marin(name: str, marin):
    out = marin("completion", name).out
    assert f"marin completion {name} --" in out


def test_completion_for_an_unknown_shell_or_without_a_store_fails_quietly(marin):
    assert "no completion for 'tcsh'" in marin("completion", "tcsh", expect=2).err
    done = marin("completion", "bash", "--", "show", "", expect=2)
    assert done.out == ""


# -- all of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", sorted(set(cli.command_names()) - {"completion", "chat"}))
def test_every_command_but_a_conversation_can_answer_in_json(command: str, marin):
    assert re.search(r"^  --json ", marin(*command.split(), "--help").out, re.MULTILINE)


def test_no_color_means_none(marin, shell: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in marin("status").out
    assert "\x1b[" in marin("verify").out
    monkeypatch.setenv("NO_COLOR", "1")
    for words in (["status"], ["verify"], ["ls", "refs"], ["gc"]):
        done = marin(*words)
        assert "\x1b[" not in done.out + done.err
