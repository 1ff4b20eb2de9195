"""Steps on a real Ray cluster: what outlives whom, what is tried again, and what a second run does.

One cluster serves all tests. Workers hold the leases, so a step goes on when its run is dead.
"""

import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ray_steps import step

from marin.cli import main as cli
from marin.cluster.current import use_cluster
from marin.cluster.resources import ResourceConfig
from marin.cluster.retry import Retry
from marin.execution.executor import Executor
from marin.execution.graph import build_graph
from marin.execution.lease import LeaseTimes
from marin.execution.status import StepPaths, process_is_alive

ray = pytest.importorskip("ray", reason="needs the extra `ray`")

from ray_nodes import running_nodes, wait_until  # noqa: E402 - it imports Ray

pytestmark = pytest.mark.ray

HERE = Path(__file__).resolve().parent
QUICK = Retry(first_delay_s=0.1, max_failures=10)


@pytest.fixture(scope="module")
def nodes():
    with running_nodes(str(HERE.parents[1] / "src"), str(HERE), steady=2) as cluster:
        yield cluster


@pytest.fixture
def on_ray(nodes):
    from marin.cluster.ray import RayCluster

    with use_cluster(RayCluster(nodes.address, linger_s=2.0, unschedulable_after_s=1.0)):
        yield nodes


@pytest.fixture
def screen():
    return io.StringIO()


@pytest.fixture
def executor(tmp_path, screen):
    times = LeaseTimes(renew_s=0.5, fence_s=20.0, ttl_s=30.0)
    return Executor(tmp_path / "store", fsync=False, stream=screen, lease_times=times)


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().split() if path.exists() else []


def started(folder: Path, name: str, rank: int = 0) -> bool:
    return (folder / f"{name}.{rank}.started").exists()


def root_of(executor, step):
    return f"{executor.prefix}/{build_graph([step]).nodes[-1].path}"


def state_of(executor, step):
    return executor.store.read(root_of(executor, step))


class InBackground:
    """A run in a thread, for the test does something meanwhile."""

    def __init__(self, executor, steps) -> None:
        from marin.cluster.current import current_cluster

        self.result = None
        self.was_interrupted = False
        cluster = current_cluster()

        def run() -> None:
            with use_cluster(cluster):
                try:
                    self.result = executor.run(steps)
                except KeyboardInterrupt:
                    self.was_interrupted = True

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def join(self):
        self._thread.join(120)
        assert not self._thread.is_alive(), "the run has not ended within 120 s"
        return self.result


def test_steps_run_on_the_cluster_and_workers_commit_them(on_ray, executor, tmp_path, screen):
    a = step(tmp_path, "a", resources=ResourceConfig(device="cpu", custom={"steady": 1}))
    b = step(tmp_path, "b", a)
    result = executor.run([b])
    assert result.is_ok and calls(tmp_path) == ["a:0", "b:0"]
    assert Path(result.output_path(b), "out.txt").read_text() == "ab"
    state = state_of(executor, b)
    assert state.owner.pid != os.getpid() and state.record["result"] == {"name": "b"}
    assert state.record["max_rss"] and state.record["wall_s"] > 0 and result[b].cpu_s > 0
    assert "a is at work" in screen.getvalue() and "a is at work" in Path(result[a].log_path).read_text()
    assert executor.run([b]).plan.is_done


def test_a_function_of_the_running_script_runs_there_too(on_ray, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from dataclasses import dataclass\nfrom pathlib import Path\n"
        "from marin.cluster import ResourceConfig\n"
        "from marin.execution.executor import *\n"
        "@dataclass(frozen=True)\nclass C:\n    out: object = this_output_path()\n"
        "def f(c):\n    Path(c.out, 'x').write_text('from the script')\n"
        "executor_main([ExecutorStep(name='s', fn=f, config=C(), resources=ResourceConfig.with_cpu())])\n"
    )
    command = [sys.executable, str(script), "--prefix", "store", "--cluster", f"ray:{on_ray.address}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.split()[1] / "x").read_text() == "from the script"


def test_a_bug_fails_the_step_with_its_traceback_and_is_not_tried_again(on_ray, executor, tmp_path, screen):
    result = executor.run([step(tmp_path, "bug", fail_times=1)])
    (failed,) = result.steps
    assert failed.action == "failed" and (failed.error.type, failed.error.message) == ("ValueError", "a bug")
    assert "raise ValueError" in failed.error.traceback and calls(tmp_path) == ["bug:0"]


def test_a_node_lost_in_the_middle_of_a_step_is_an_interruption(on_ray, executor, tmp_path, screen):
    node = on_ray.add(doomed=1)
    a = step(
        tmp_path,
        "a",
        resources=ResourceConfig(device="cpu", custom={"doomed": 1}),
        wait_for="go",
        retry=QUICK,
    )
    run = InBackground(executor, [step(tmp_path, "b", a)])
    wait_until(lambda: started(tmp_path, "a"), "the step starts")
    on_ray.add(doomed=1)  # before: a step that no machine can hold for a second is given up here
    on_ray.kill(node)
    wait_until(lambda: calls(tmp_path) == ["a:0", "a:0"], "it is tried again")
    (tmp_path / "go").touch()
    result = run.join()
    assert result.is_ok and calls(tmp_path) == ["a:0", "a:0", "b:0"]
    attempts = state_of(executor, a).record["attempts"]
    assert [a["error_class"] for a in attempts] in (["WORKER_LOST"], ["PREEMPTED"]), screen.getvalue()


def test_a_store_in_s3_gives_inputs_to_workers_and_takes_what_they_made_even_when_a_node_is_lost(
    on_ray, s3_prefix, tmp_path, screen
):
    times = LeaseTimes(renew_s=0.5, fence_s=20.0, ttl_s=30.0)
    executor = Executor(s3_prefix, stream=screen, lease_times=times)
    here = ResourceConfig(device="cpu", custom={"bucket": 1})
    node = on_ray.add(bucket=1)  # after the server: a machine's address and keys of the store are the machine's
    a = step(tmp_path, "a", resources=here)
    b = step(tmp_path, "b", a, resources=here, wait_for="go", retry=QUICK)
    c = step(tmp_path, "c", b, resources=here, publish="inplace")
    run = InBackground(executor, [c])
    wait_until(lambda: started(tmp_path, "b"), "the second step starts")
    first = state_of(executor, b)
    wait_until(lambda: state_of(executor, b).progress == {"done": 1, "total": 2, "unit": "halves"}, "it reports")
    last = on_ray.add(bucket=1)
    on_ray.kill(node)
    wait_until(lambda: calls(tmp_path) == ["a:0", "b:0", "b:0"], "it is tried again")
    (tmp_path / "go").touch()
    result = run.join()
    assert result.is_ok and calls(tmp_path) == ["a:0", "b:0", "b:0", "c:0"], screen.getvalue()
    assert executor.store.get(f"{result.output_path(c)}/out.txt") == b"abc"
    state = state_of(executor, b)
    assert state.epoch == 2 and state.owner.pid not in (os.getpid(), first.owner.pid)
    assert [i["name"] for i in state.record["inputs"]] == ["a"]
    assert [x["error_class"] for x in state.record["attempts"]] in (["WORKER_LOST"], ["PREEMPTED"])
    assert b"b is at work" in executor.store.get(f"{StepPaths(root_of(executor, b)).logs(state)}/stdout.log")
    assert cli.main(["verify", "--deep", "--prefix", s3_prefix]) == 0
    assert executor.run([c]).plan.is_done
    on_ray.kill(last)


DRIVER = """
import sys
sys.path.insert(0, {here!r})
from ray_steps import step
from marin.cluster.current import use_cluster
from marin.cluster.ray import RayCluster
from marin.execution.executor import Executor
from marin.execution.lease import LeaseTimes
with use_cluster(RayCluster({address!r}, linger_s=2.0)):
    times = LeaseTimes(renew_s=0.5, fence_s=20.0, ttl_s=30.0)
    Executor({store!r}, fsync=False, lease_times=times).run([step({folder!r}, "long", wait_for="go")])
"""


def test_a_worker_outlives_its_driver_and_a_second_run_waits_for_it(on_ray, executor, tmp_path, screen):
    code = DRIVER.format(here=str(HERE), address=on_ray.address, store=executor.prefix, folder=str(tmp_path))
    driver = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    wait_until(lambda: started(tmp_path, "long"), "the step starts")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    long = step(tmp_path, "long", wait_for="go")
    first = state_of(executor, long)
    assert first.status == "RUNNING" and first.owner.pid != driver.pid
    run = InBackground(executor, [long])
    wait_until(lambda: "is at it" in screen.getvalue(), "the second run waits")
    wait_until(lambda: state_of(executor, long).seq > first.seq, "the worker renews its lease")
    (tmp_path / "go").touch()
    assert run.join().is_ok and calls(tmp_path) == ["long:0"]
    state = state_of(executor, long)
    assert state.status == "SUCCEEDED" and state.attempt == first.attempt


TWO_HOSTS = ResourceConfig.with_tpu("v4-16", ram="50m")


def slice_of_two_hosts(nodes, name: str) -> list:
    hosts = [nodes.add(wait=False, TPU=4, **{name: 1}, **head) for head in ({"TPU_v4_16_head": 1}, {})]
    nodes.wait_for_all()
    return hosts


@pytest.fixture(scope="module")
def lasting_slice(nodes):
    """Two hosts that stay."""
    return slice_of_two_hosts(nodes, "lasting")


def test_a_step_on_a_slice_runs_on_all_its_hosts_and_comes_back_after_preemption(on_ray, executor, tmp_path, request):
    first = slice_of_two_hosts(on_ray, "doomed_slice")
    train = step(tmp_path, "train", resources=TWO_HOSTS, wait_for="go", retry=QUICK)
    run = InBackground(executor, [train])
    wait_until(lambda: started(tmp_path, "train", 0) and started(tmp_path, "train", 1), "both hosts start")
    request.getfixturevalue("lasting_slice")  # before: a gang that no slice can hold for a second is given up here
    on_ray.kill(first[1])
    on_ray.kill(first[0])
    wait_until(lambda: min(calls(tmp_path).count(f"train:{rank}") for rank in (0, 1)) >= 2, "both are tried again")
    (tmp_path / "go").touch()
    assert run.join().is_ok
    attempts = [a["error_class"] for a in state_of(executor, train).record["attempts"]]
    assert set(attempts) == {"PREEMPTED"}  # once, or again if the second host went while a new gang took the first
    assert calls(tmp_path).count("train:1") >= 2 and calls(tmp_path).count("train:0") >= 2


def test_failures_on_preemptible_machines_are_tried_ten_times(on_ray, executor, tmp_path):
    resources = ResourceConfig.with_cpu(preemptible=True)
    flaky = step(tmp_path, "flaky", resources=resources, fail_times=2)
    assert executor.run([flaky]).is_ok and calls(tmp_path) == ["flaky:0"] * 3


def test_a_step_that_no_node_can_hold_fails_and_says_so(on_ray, executor, tmp_path):
    result = executor.run([step(tmp_path, "huge", resources=ResourceConfig.with_cpu(cpu=999))])
    (failed,) = result.steps
    assert failed.error.kind == "unschedulable" and "999" in failed.error.message
    assert state_of(executor, failed.node.step).error["class"] == "UNSCHEDULABLE"


def test_a_ray_remote_function_is_a_steps_function(on_ray, executor, tmp_path):
    remote = ray.remote(num_cpus=1, resources={"steady": 1})(__import__("ray_steps").work)
    a = step(tmp_path, "remote")
    decorated = type(a)(name="remote", fn=remote, config=a.config)
    assert build_graph([decorated]).targets == build_graph([a]).targets  # the function is what counts
    assert decorated.resources.custom == {"steady": 1}
    assert executor.run([decorated]).is_ok and calls(tmp_path) == ["remote:0"]


def test_a_run_that_is_interrupted_stops_its_workers(on_ray, executor, tmp_path):
    code = DRIVER.format(here=str(HERE), address=on_ray.address, store=executor.prefix, folder=str(tmp_path))
    driver = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    wait_until(lambda: started(tmp_path, "long"), "the step starts")
    driver.send_signal(signal.SIGINT)
    driver.wait(60)
    assert state_of(executor, step(tmp_path, "long", wait_for="go")).status == "CANCELLED"


@pytest.mark.parametrize("is_driver_alive", [True, False])
def test_a_step_is_cancelled_by_its_name_whether_its_driver_lives_or_not(
    on_ray, executor, tmp_path, capfd, is_driver_alive: bool
):
    code = DRIVER.format(here=str(HERE), address=on_ray.address, store=executor.prefix, folder=str(tmp_path))
    driver = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    wait_until(lambda: started(tmp_path, "long"), "the step starts")
    worker = int((tmp_path / "long.0.started").read_text().split()[0])
    if not is_driver_alive:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert cli.main(["cancel", "long", "--prefix", executor.prefix]) == 0
    told = capfd.readouterr().out
    assert ("cancelled\n" if is_driver_alive else "abandoned; long-") in told
    assert state_of(executor, step(tmp_path, "long", wait_for="go")).status == "CANCELLED"
    wait_until(lambda: not process_is_alive(worker, None), "the step's process ends")
    driver.wait(60)


@pytest.mark.usefixtures("lasting_slice")
def test_a_gang_that_is_cancelled_while_its_first_process_waits_for_the_others_is_cancelled(on_ray, executor, tmp_path):
    train = step(tmp_path, "train", resources=TWO_HOSTS, wait_for="never", waiting_ranks=("1",))
    run = InBackground(executor, [train])
    wait_until(lambda: list(Path(executor.prefix).glob("train-*/attempts/*/out.txt")), "the first process is done")
    wait_until(lambda: started(tmp_path, "train", 1), "the second process is at work")
    (folder,) = Path(executor.prefix, ".exec", "runs").iterdir()
    (folder / "cancel.json").write_text("{}")
    run.join()
    assert run.was_interrupted
    state = state_of(executor, train)
    assert state.status == "CANCELLED" and state.error["wall_s"] > 0


@pytest.mark.usefixtures("lasting_slice")
def test_a_time_limit_holds_for_every_process_of_a_gang_and_is_no_reason_to_try_again(on_ray, executor, tmp_path):
    train = step(tmp_path, "train", resources=TWO_HOSTS, wait_for="never", waiting_ranks=("1",), timeout_s=3.0)
    (failed,) = executor.run([train]).steps
    assert failed.error.type == "Timeout" and "process 1 of 2" in failed.error.message
    state = state_of(executor, train)
    assert (state.error["class"], state.epoch) == ("TIMEOUT", 1) and "retry_in_s" not in state.error


@pytest.mark.slow
@pytest.mark.usefixtures("lasting_slice")
def test_a_training_step_on_a_slice_trains_on_the_devices_of_all_its_hosts_as_one(on_ray, executor, tmp_path):
    from marin.models.llama import LlamaConfig
    from marin.testing.tiny import make_token_store
    from marin.training.api import default_train
    from marin.training.config import SimpleTrainConfig

    make_token_store(tmp_path / "tokens", 60, seed=1)
    model = LlamaConfig(seq_len=16, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)
    config = SimpleTrainConfig(resources=TWO_HOSTS, train_batch_size=4, num_train_steps=4, learning_rate=1e-2, warmup=1)
    train = default_train("gang", str(tmp_path / "tokens"), model, config)
    assert executor.run([train]).is_ok
    (output,) = Path(executor.prefix).glob("checkpoints/gang-*")
    saved = sorted(path.name for path in (output / "checkpoints" / "step-00000004").iterdir())
    assert saved == ["manifest.json", "process-00000.safetensors", "process-00001.safetensors"]
    assert len((output / "metrics.jsonl").read_text().splitlines()) == 4
