"""Jobs on this machine: one contract for both ways to run a function, and what only processes can do."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from marin.cluster import Entrypoint, JobRequest, current_cluster, use_cluster
from marin.cluster.job import Stopped
from marin.cluster.local import InProcessCluster, LocalCluster
from marin.execution.status import process_is_alive, process_start


@dataclass(frozen=True)
class Answer:
    number: int
    path: Path


def add(a: int, b: int = 1) -> Answer:
    return Answer(a + b, Path("x"))


def fail(message: str) -> None:
    raise KeyError(message)


def leave(code: int) -> None:
    sys.exit(code)


def read_variable(name: str) -> str | None:
    return os.environ.get(name)


def return_something_large() -> list[int]:
    return list(range(100_000))


def job(function, *args, **options) -> JobRequest:
    return JobRequest(name="job", entrypoint=Entrypoint.from_callable(function, args), **options)


@pytest.fixture(params=[InProcessCluster, LocalCluster])
def cluster(request):
    return request.param()


def test_a_job_returns_what_its_function_returned_as_plain_values(cluster):
    result = cluster.launch(job(add, 2)).wait()
    assert result.error is None
    assert result.value == {"number": 3, "path": "x"}
    assert result.wall_s > 0 and result.cpu_s > 0 and result.max_rss > 1 << 20


def test_a_function_can_be_named(cluster):
    assert cluster.launch(job("os.path:join", "a", "b")).wait().value == "a/b"


@pytest.mark.parametrize(
    "name, message",
    [
        ("nowhere.at.all:f", "no module 'nowhere'"),
        ("os.path:jion", "module 'os.path' has no 'jion'"),
        ("os.path", "'module:qualname'"),
        ("os.path:sep", "is a str, not a function"),
    ],
)
def test_a_name_that_leads_nowhere_fails_with_the_part_that_is_missing(name, message):
    error = InProcessCluster().launch(job(name)).wait().error
    assert error.type == "ValueError" and message in error.message


def test_an_exception_comes_back_with_type_message_and_the_end_of_its_traceback(cluster):
    error = cluster.launch(job(fail, "lost")).wait().error
    assert (error.type, error.message) == ("KeyError", "'lost'")
    assert error.traceback.endswith("KeyError: 'lost'")
    assert "raise KeyError(message)" in error.traceback
    assert "marin/cluster" not in error.traceback


def test_leaving_by_exit_is_no_success_even_with_code_zero(cluster):
    assert cluster.launch(job(leave, 0)).wait().error.type == "SystemExit"


def stop_in_good_order() -> None:
    raise Stopped("saved, and left", exit_code=75)


def test_a_job_that_left_in_good_order_shows_its_message_and_no_traceback(cluster, tmp_path):
    result = cluster.launch(job(stop_in_good_order, log_path=str(tmp_path / "log"))).wait()
    assert (result.error.type, result.error.message, result.error.traceback) == ("Stopped", "saved, and left", "")
    log = (tmp_path / "log").read_text()
    assert "saved, and left" in log and "Traceback" not in log


def test_variables_are_set_for_the_job_only(cluster, monkeypatch):
    monkeypatch.setenv("JOB_B", "outside")
    env = {"JOB_A": "1", "JOB_B": "inside"}
    assert cluster.launch(job(read_variable, "JOB_B", env=env)).wait().value == "inside"
    assert "JOB_A" not in os.environ and os.environ["JOB_B"] == "outside"


def leave_traces(folder: str) -> None:
    os.environ["TRACE"] = "left"
    os.environ["KNOWN"] = "changed"
    del os.environ["TAKEN"]
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    raise ValueError("and then it failed")


def test_what_a_job_changes_of_its_process_is_as_it_was_when_it_has_ended(cluster, monkeypatch, tmp_path):
    monkeypatch.delenv("TRACE", raising=False)
    monkeypatch.setenv("KNOWN", "before")
    monkeypatch.setenv("TAKEN", "there")

    def seen():
        return dict(os.environ), os.getcwd(), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    before = seen()
    assert cluster.launch(job(leave_traces, str(tmp_path))).wait().error.message == "and then it failed"
    assert seen() == before
    told = subprocess.run([sys.executable, "-c", "import os; print(os.environ['TAKEN'])"], capture_output=True)
    assert told.stdout == b"there\n"  # the system's own copy, too, which children get


class Mute(Exception):
    def __str__(self) -> str:
        raise LookupError("no words")


def fail_without_words() -> None:
    raise Mute


def test_an_exception_that_cannot_be_printed_is_told_by_its_type(cluster):
    error = cluster.launch(job(fail_without_words)).wait().error
    assert error.type == "Mute" and "LookupError: no words" in error.message
    assert "fail_without_words" in error.traceback


def test_a_value_that_is_no_small_json_is_left_out(cluster):
    assert cluster.launch(job(return_something_large)).wait().value is None


def test_the_end_is_reported_once(cluster):
    results = []
    result = cluster.launch(job(add, 1), on_end=results.append).wait()
    assert results == [result]


def test_a_command_needs_a_process():
    with pytest.raises(ValueError, match="is a command and needs a process"):
        InProcessCluster().launch(JobRequest(name="c", entrypoint=Entrypoint.from_binary("true")))


def test_the_current_cluster_is_this_machine_unless_another_is_in_use():
    assert isinstance(current_cluster(), LocalCluster)
    inner = InProcessCluster()
    with use_cluster(inner):
        assert current_cluster() is inner
    assert isinstance(current_cluster(), LocalCluster)


# -- processes --------------------------------------------------------------------------------------------------------


def talk() -> None:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    os.system("echo from a child")


def test_output_goes_to_the_log_and_to_the_watcher(tmp_path):
    log, seen = tmp_path / "log", []
    LocalCluster().launch(job(talk, log_path=str(log)), on_output=seen.append).wait()
    assert log.read_text() == "to stdout\nto stderr\nfrom a child\n"
    assert b"".join(seen) == log.read_bytes()


def use_memory(num_bytes: int) -> None:
    len(b"\1" * num_bytes)


def test_peak_memory_is_that_of_the_job():
    small = LocalCluster().launch(job(use_memory, 1)).wait()
    large = LocalCluster().launch(job(use_memory, 100_000_000)).wait()
    assert 80e6 < large.max_rss - small.max_rss < 130e6


def test_a_command_runs_and_its_exit_code_is_reported(tmp_path):
    def launch(text):
        return LocalCluster().launch(JobRequest(name="c", entrypoint=Entrypoint.from_binary("sh", ("-c", text)))).wait()

    assert launch("exit 0").error is None
    assert launch("exit 7").error.message == "the process ended with exit code 7"
    assert "SIGSEGV" in launch("kill -11 $$").error.message
    missing = LocalCluster().launch(JobRequest(name="c", entrypoint=Entrypoint.from_binary("no-such-program"))).wait()
    assert missing.error.message == "no-such-program: No such file or directory"


def test_what_cannot_be_sent_to_a_process_is_refused_with_advice():
    with pytest.raises(ValueError, match="'job' cannot be sent to another process.*top level"):
        LocalCluster().launch(job(lambda: 1))


def linger(folder: str) -> None:
    """Starts a process of its own that would go on writing for ever, and waits."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(folder, "pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(60)


def wait_until(condition, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def pids_in(folder: Path) -> list[tuple[int, int | None]]:
    wait_until(lambda: (folder / "pids").exists() and len((folder / "pids").read_text().split()) == 2)
    return [(pid, process_start(pid)) for pid in map(int, (folder / "pids").read_text().split())]


def test_a_cancelled_job_ends_with_everything_it_started(tmp_path):
    handle = LocalCluster().launch(job(linger, str(tmp_path)))
    processes = pids_in(tmp_path)
    handle.cancel()
    result = handle.wait()
    assert result.cancelled and "SIGTERM" in result.error.message
    wait_until(lambda: not any(process_is_alive(*p) for p in processes))


def shrug_at_sigterm(folder: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(folder, "ready").touch()
    time.sleep(60)


def test_a_job_that_ignores_being_asked_is_killed_after_its_grace(tmp_path):
    handle = LocalCluster().launch(job(shrug_at_sigterm, str(tmp_path)))
    wait_until((tmp_path / "ready").exists)
    handle.cancel(grace_s=0.1)
    assert "SIGKILL" in handle.wait(20).error.message


def vanish() -> None:
    os._exit(0)


def test_a_process_that_ends_before_its_function_returned_has_not_succeeded():
    result = LocalCluster().launch(job(vanish)).wait()
    assert (result.error.type, result.exit_code) == ("ExitCode", 0)
    assert "the process ended before the function returned" in result.error.message


def vanish_when_asked_to_stop(folder: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    Path(folder, "ready").touch()
    time.sleep(60)


def test_a_job_that_leaves_well_when_it_is_cancelled_is_cancelled_all_the_same(tmp_path):
    handle = LocalCluster().launch(job(vanish_when_asked_to_stop, str(tmp_path)))
    wait_until((tmp_path / "ready").exists)
    handle.cancel()
    result = handle.wait(20)
    assert result.cancelled and "before the function returned" in result.error.message


def fork_and(how: str) -> str:
    """The forked process comes back out of this function, too, and earlier than the one that was asked."""
    child = os.fork()
    if child == 0:
        if how == "raise":
            raise RuntimeError("in the forked process")
        return "the forked process's"
    os.waitpid(child, 0)
    if how == "vanish":
        os._exit(0)
    return "the job's"


def test_only_the_process_that_was_asked_answers():
    assert LocalCluster().launch(job(fork_and, "return")).wait().value == "the job's"
    assert LocalCluster().launch(job(fork_and, "raise")).wait().value == "the job's"
    assert LocalCluster().launch(job(fork_and, "vanish")).wait().error.type == "ExitCode"


def leave_daemons_behind(folder: str) -> None:
    """Two generations in sessions of their own, which write into the output a moment later."""
    inner = f"sleep 0.5; touch {folder}/late"
    for text in (f"echo $$ >> {folder}/pids; {inner}", f"setsid sh -c 'echo $$ >> {folder}/pids; {inner}'; {inner}"):
        subprocess.Popen(["sh", "-c", text], start_new_session=True, stdout=subprocess.DEVNULL)
    while not Path(folder, "pids").exists() or len(Path(folder, "pids").read_text().split()) < 2:
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt what others leave behind")
def test_daemons_that_a_job_leaves_behind_end_before_it_counts_as_ended(tmp_path):
    assert LocalCluster().launch(job(leave_daemons_behind, str(tmp_path))).wait().error is None
    assert not any(process_is_alive(*p) for p in pids_in(tmp_path))
    time.sleep(0.7)
    assert not (tmp_path / "late").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent ended")
def test_a_job_and_everything_it_started_die_with_a_launcher_that_is_killed(tmp_path):
    script = tmp_path / "launcher.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from marin.cluster import Entrypoint, JobRequest\n"
        "from marin.cluster.local import LocalCluster\n"
        "import test_local_cluster\n"
        "entry = Entrypoint.from_callable(test_local_cluster.linger, (sys.argv[2],))\n"
        "LocalCluster().launch(JobRequest(name='job', entrypoint=entry)).wait()\n"
    )
    launcher = subprocess.Popen([sys.executable, script, str(Path(__file__).parent), str(tmp_path)])
    processes = pids_in(tmp_path)
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not any(process_is_alive(*p) for p in processes))


def test_functions_and_classes_of_a_script_are_found_by_its_jobs(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from dataclasses import dataclass\n"
        "from marin.cluster import Entrypoint, JobRequest, current_cluster\n"
        "@dataclass(frozen=True)\n"
        "class Config:\n"
        "    x: int\n"
        "def double(config):\n"
        "    assert isinstance(config, Config)\n"
        "    return 2 * config.x\n"
        "if __name__ == '__main__':\n"
        "    entry = Entrypoint.from_callable(double, (Config(21),))\n"
        "    print(current_cluster().launch(JobRequest(name='j', entrypoint=entry)).wait())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd="/")
    assert "value=42" in done.stdout, done.stdout + done.stderr
