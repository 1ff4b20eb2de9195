"""Jobs on real Ray clusters of several nodes: what comes back, what survives whom, and gangs on slices.

One cluster serves all tests. Its nodes are processes of this machine; a node is lost by killing its processes.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray_jobs import (
    add,
    be_killed,
    fail,
    fail_in_process,
    meet,
    meet_and_tell_where,
    read_variable,
    shrug_at_sigterm,
    sleep_as_member,
    sleep_in,
    stop_when_asked,
    talk,
)

from marin.cluster import Entrypoint, JobRequest, JobResult, ResourceConfig
from marin.cluster.ray import RayCluster, unwrap_ray_function
from marin.cluster.ray_actors import ray_options
from marin.cluster.ray_gangs import slice_name_of
from marin.cluster.tpu import tpu_slice

ray = pytest.importorskip("ray", reason="needs the extra `ray`")

from ray_nodes import Nodes, running_nodes, wait_until  # noqa: E402 - it imports Ray

pytestmark = pytest.mark.ray

SOURCE = str(Path(__file__).resolve().parents[2] / "src")
WAIT_S = 60.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with running_nodes(SOURCE, steady=2, spot=2, TPU=4, TPU_v4_8_head=1, other=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cluster(nodes: Nodes) -> RayCluster:
    return RayCluster(nodes.address, linger_s=2.0, unschedulable_after_s=1.0)


def job(function: Callable | str, *args, name: str = "job", **options) -> JobRequest:
    return JobRequest(name=name, entrypoint=Entrypoint.from_callable(function, args), **options)


def run(cluster: RayCluster, request: JobRequest, **watchers) -> JobResult:
    result = cluster.launch(request, **watchers).wait(WAIT_S)
    assert result is not None, f"{request.name} has not ended within {WAIT_S} s"
    return result


def named_actors() -> list[str]:
    return [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]


def in_use() -> dict[str, float]:
    """What is reserved of every resource that jobs ask for."""
    total, free = ray.cluster_resources(), ray.available_resources()
    return {k: v - free.get(k, 0) for k, v in total.items() if v - free.get(k, 0) > 0 and "memory" not in k}


# -- what comes back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_process", [False, True])
def test_a_job_returns_what_its_function_returned_as_plain_values(cluster, in_process):
    ends = []
    result = run(cluster, job(add, 2, in_process=in_process), on_end=ends.append)
    assert result.error is None
    assert result.value == {"number": 3, "path": "x"}
    assert result.wall_s > 0 and result.cpu_s > 0 and result.max_rss > 1 << 20
    assert ends == [result]


@pytest.mark.parametrize("in_process", [False, True])
def test_an_exception_comes_back_with_type_message_and_the_end_of_its_traceback(cluster, in_process):
    error = run(cluster, job(fail, "lost", in_process=in_process)).error
    assert (error.type, error.message, error.kind) == ("KeyError", "'lost'", "error")
    assert error.traceback.endswith("KeyError: 'lost'") and "raise KeyError(message)" in error.traceback
    assert "marin/cluster" not in error.traceback


@pytest.mark.parametrize("in_process", [False, True])
def test_output_goes_to_the_log_and_to_the_watcher(cluster, tmp_path, in_process):
    log, seen = tmp_path / "folder" / "log", []
    result = run(cluster, job(talk, log_path=str(log), in_process=in_process), on_output=seen.append)
    assert result.error is None
    assert sorted(log.read_text().splitlines()) == ["from a child", "to stderr", "to stdout"]
    assert b"".join(seen) == log.read_bytes()


@pytest.mark.parametrize("in_process", [False, True])
def test_variables_are_set_for_the_job_which_finds_its_cluster_too(cluster, nodes, in_process):
    env = {"JOB_A": "inside"}
    assert run(cluster, job(read_variable, "JOB_A", env=env, in_process=in_process)).value == "inside"
    assert run(cluster, job(read_variable, "RAY_ADDRESS", in_process=in_process)).value == nodes.address


def test_a_command_runs_and_its_exit_code_is_reported(cluster):
    result = run(cluster, JobRequest(name="c", entrypoint=Entrypoint.from_binary("sh", ("-c", "exit 7"))))
    assert (result.exit_code, result.error.type, result.error.kind) == (7, "ExitCode", "error")


def test_a_name_that_leads_nowhere_fails_with_the_part_that_is_missing(cluster):
    assert "no module 'nowhere'" in run(cluster, job("nowhere.at.all:f")).error.message


def test_what_cannot_be_pickled_is_refused():
    import threading

    with pytest.raises(ValueError, match="'job' cannot be sent to another machine.*lock"):
        from marin.cluster.remote import packed

        packed(job(add, threading.Lock()), ray.cloudpickle.dumps)


def test_a_function_that_has_no_name_is_sent_by_value(cluster):
    assert run(cluster, job(lambda x: x + 1, 41)).value == 42


def test_a_job_that_has_ended_leaves_nothing_behind(cluster):
    run(cluster, job(add, 1, name="tidy"))
    wait_until(lambda: not any(name.startswith("tidy") for name in named_actors()), "its actor is gone")
    wait_until(lambda: not in_use(), "its core is free")


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_a_cancelled_job_ends_with_its_process(cluster, tmp_path):
    handle = cluster.launch(job(sleep_in, str(tmp_path)))
    wait_until((tmp_path / "ready").exists, "the job runs")
    handle.cancel()
    result = handle.wait(20)
    assert result.cancelled and result.error.kind == "cancelled" and "SIGTERM" in result.error.message


def test_a_job_that_ignores_being_asked_is_killed_after_its_grace(cluster, tmp_path):
    handle = cluster.launch(job(shrug_at_sigterm, str(tmp_path)))
    wait_until((tmp_path / "ready").exists, "the job runs")
    handle.cancel(grace_s=0.1)
    result = handle.wait(20)
    assert result.cancelled and result.error.kind == "cancelled" and "SIGKILL" in result.error.message


def test_a_job_in_the_clusters_process_is_asked_by_an_event_and_killed_after_its_grace(cluster, tmp_path):
    handle = cluster.launch(job(stop_when_asked, str(tmp_path), in_process=True))
    wait_until((tmp_path / "ready").exists, "the job runs")
    handle.cancel()
    assert handle.wait(20).value == "stopped"

    handle = cluster.launch(job(sleep_in, str(tmp_path), "deaf", in_process=True))
    wait_until((tmp_path / "deaf").exists, "the job runs")
    handle.cancel(grace_s=0.2)
    result = handle.wait(20)
    assert result.cancelled and result.error.message == "cancelled: it did not stop within 0.2 s"
    pid = int((tmp_path / "deaf").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its process is gone")


def test_a_job_is_killed_at_once_without_grace(cluster, tmp_path):
    handle = cluster.launch(job(sleep_in, str(tmp_path)))
    wait_until((tmp_path / "ready").exists, "the job runs")
    handle.cancel(grace_s=0)
    result = handle.wait(20)
    assert result.cancelled and result.error.kind == "cancelled"
    pid = int((tmp_path / "ready").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its process is gone")


# -- places -----------------------------------------------------------------------------------------------------------


def test_a_job_that_no_machine_can_ever_hold_is_told_so(cluster):
    resources = ResourceConfig(device="cpu", cpu=64, custom={"steady": 1})
    error = run(cluster, job(add, 1, resources=resources)).error
    assert error.kind == "unschedulable"
    assert "asks for 64 CPU, 1 steady on one machine" in error.message
    assert "the largest has 2 CPU, 2 steady" in error.message


def test_a_job_that_waits_for_a_busy_machine_can_be_called_off_and_is_told_when_it_takes_too_long(
    cluster, nodes, tmp_path
):
    impatient = RayCluster(nodes.address, queue_timeout_s=1.0, unschedulable_after_s=1.0)
    all_of_it = ResourceConfig(device="cpu", custom={"steady": 2})
    holder = cluster.launch(job(sleep_in, str(tmp_path), resources=all_of_it))
    wait_until((tmp_path / "ready").exists, "the job runs")
    try:
        error = run(impatient, job(add, 1, resources=all_of_it)).error
        assert error.kind == "unschedulable" and "large enough but busy" in error.message
        waiting = cluster.launch(job(add, 1, resources=all_of_it))
        assert waiting.wait(1.0) is None
        waiting.cancel()
        result = waiting.wait(20)
        assert result.cancelled and result.error.message == "cancelled: it had not started"
    finally:
        holder.cancel(grace_s=0)
    holder.wait(20)


# -- losses -----------------------------------------------------------------------------------------------------------


def test_a_job_whose_process_is_killed_is_lost(cluster):
    child = run(cluster, job(be_killed)).error
    assert (child.type, child.kind) == ("Killed", "worker_lost")
    actor = run(cluster, job(be_killed, in_process=True)).error
    assert (actor.type, actor.kind) == ("ActorDiedError", "worker_lost")
    # it kills itself at once: on a loaded machine before the driver has heard that it started
    assert any(said in actor.message for said in ("its process was lost on node", "it was lost at its start"))


def on_spot(folder: Path, name: str, preemptible: bool = False) -> JobRequest:
    resources = ResourceConfig(device="cpu", custom={"spot": 1}, preemptible=preemptible)
    return job(sleep_in, str(folder), name, name=name, resources=resources)


def test_jobs_whose_machine_vanishes_are_lost_within_seconds_and_can_go_elsewhere(cluster, nodes, tmp_path):
    doomed = nodes.add(spot=2)
    elsewhere = ResourceConfig(device="cpu", custom={"spot": 2, "steady": 1})
    holder = cluster.launch(job(sleep_in, str(tmp_path), "holder", resources=elsewhere))
    wait_until((tmp_path / "holder").exists, "all of the other machine is taken")
    handles = [cluster.launch(on_spot(tmp_path, name, name == "preemptible")) for name in ("plain", "preemptible")]
    wait_until(lambda: len(list(tmp_path.glob("p*"))) == 2, "both jobs run")
    nodes.kill(doomed)
    killed_at = time.monotonic()
    results = [handle.wait(WAIT_S) for handle in handles]
    assert time.monotonic() - killed_at < 15
    assert [result.error.kind for result in results] == ["worker_lost", "preempted"]
    assert all("its machine left the cluster" in result.error.message for result in results)
    holder.cancel(grace_s=0)
    again = cluster.launch(on_spot(tmp_path, "again"))
    wait_until((tmp_path / "again").exists, "the job runs on the other machine")
    again.cancel()
    assert again.wait(WAIT_S).cancelled and holder.wait(WAIT_S).cancelled


@pytest.mark.slow
def test_a_job_whose_machine_is_reclaimed_is_preempted(cluster, nodes, tmp_path):
    reclaimed = nodes.add(reclaimed=1)
    handle = cluster.launch(
        job(sleep_in, str(tmp_path), resources=ResourceConfig(device="cpu", custom={"reclaimed": 1}))
    )
    wait_until((tmp_path / "ready").exists, "the job runs")
    nodes.drain(reclaimed)
    nodes.kill(reclaimed)
    error = handle.wait(WAIT_S).error
    assert error.kind == "preempted" and "(AUTOSCALER_DRAIN_PREEMPTED)" in error.message


DRIVER = """
import signal, sys, time
from pathlib import Path
from marin.cluster import Entrypoint, JobRequest
from marin.cluster.ray import RayCluster

class Config:
    folder = sys.argv[2]

def work(config):
    Path(config.folder, "begun").touch()
    time.sleep(3)
    print("the end", flush=True)
    Path(config.folder, "done").touch()

if __name__ == "__main__":
    config = Config()
    config.folder = sys.argv[2]
    entry = Entrypoint.from_callable(work, (config,))
    cluster = RayCluster(sys.argv[1], linger_s=2.0)
    before = signal.getsignal(signal.SIGTERM)
    handle = cluster.launch(JobRequest(name="orphan", entrypoint=entry, log_path=sys.argv[2] + "/log"))
    print(signal.getsignal(signal.SIGTERM) == before, handle.wait(60))
"""


def driver(nodes: Nodes, folder: Path) -> subprocess.Popen:
    script = folder / "driver.py"
    script.write_text(DRIVER)
    command = [sys.executable, str(script), nodes.address, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/")


@pytest.mark.slow
def test_a_script_gets_the_result_of_its_own_functions_and_keeps_its_stdout_and_signals(nodes, tmp_path):
    out, _ = driver(nodes, tmp_path).communicate(timeout=WAIT_S)
    assert out.startswith("True JobResult(error=None") and out.count("\n") == 1, out


def test_a_job_goes_on_when_its_driver_is_killed_and_then_removes_itself(cluster, nodes, tmp_path):
    process = driver(nodes, tmp_path)
    wait_until((tmp_path / "begun").exists, "the job runs")
    process.kill()
    process.wait()
    assert any(name.startswith("orphan") for name in named_actors())
    wait_until((tmp_path / "done").exists, "the job has done its work")
    assert (tmp_path / "log").read_text() == "the end\n"
    wait_until(lambda: not any(name.startswith("orphan") for name in named_actors()), "its actor is gone")
    wait_until(lambda: not in_use(), "its core is free")


# -- slices -----------------------------------------------------------------------------------------------------------


def add_slice(nodes: Nodes, name: str) -> list:
    """Two nodes with the resources that Ray gives to the hosts of a v4-16."""
    hosts = [nodes.add(wait=False, TPU=4, **{name: 1}, **head) for head in ({"TPU_v4_16_head": 1}, {})]
    nodes.wait_for_all()
    return hosts


@pytest.fixture(scope="module")
def left(nodes: Nodes) -> list:
    return add_slice(nodes, "left")


@pytest.fixture(scope="module")
def slices(nodes: Nodes, left: list) -> dict[str, list]:
    return {"left": left, "right": add_slice(nodes, "right")}


def test_a_gang_runs_on_the_hosts_of_a_slice_at_the_same_time(cluster, left, tmp_path):
    seen, used = [], []
    request = job(
        meet_and_tell_where,
        str(tmp_path),
        resources=ResourceConfig.with_tpu("v4-16"),
        log_path=str(tmp_path / "log"),
        in_process=True,
    )
    handle = cluster.launch(request, on_output=seen.append)
    while handle.wait(0.1) is None:
        used.append(in_use())
    result = handle.wait(0)
    assert result.error is None, result.error
    address = result.value.pop("MARIN_COORDINATOR_ADDRESS")
    assert re.fullmatch(r"[\d.]+:\d+", address)
    told = {"MARIN_PROCESS_ID": "0", "MARIN_NUM_PROCESSES": "2", "MARIN_SLICE_ID": "0"}
    assert told.items() <= result.value.items()  # beside what somebody has in the environment
    places = [(tmp_path / f"node-{i}").read_text() for i in range(2)]
    assert places == [host.node_id for host in left], "first host first"
    assert b"".join(seen) == b"process 0 of 2\n" == (tmp_path / "log").read_bytes()
    assert (tmp_path / "log.1").read_text() == "process 1 of 2\n"
    most = max(used, key=lambda table: table.get("TPU", 0))
    assert (most["TPU"], most["TPU-v4-16-head"], most["left"]) == (8, 1, 2)
    assert not any("other" in table or "TPU-v4-8-head" in table for table in used)
    wait_until(lambda: not in_use(), "all that was reserved is free")


@pytest.mark.slow
def test_a_gang_takes_several_slices_or_none(cluster, slices, tmp_path):
    result = run(cluster, job(meet, str(tmp_path), resources=ResourceConfig.with_tpu("v4-16", slice_count=2)))
    assert result.error is None, result.error
    assert result.value["MARIN_NUM_PROCESSES"] == "4" and result.value["MEGASCALE_NUM_SLICES"] == "2"
    error = run(cluster, job(meet, str(tmp_path), resources=ResourceConfig.with_tpu("v4-16", slice_count=3))).error
    assert error.kind == "unschedulable"
    assert error.message.endswith("asks for 3 TPU slice(s) of v4-16; the cluster has 2 of v4-16, 1 of v4-8")
    wait_until(lambda: not in_use(), "all that was reserved is free")


def test_one_member_that_fails_ends_the_gang_with_its_error(cluster, left, tmp_path):
    request = job(fail_in_process, "1", str(tmp_path), resources=ResourceConfig.with_tpu("v4-16"))
    error = run(cluster, request).error
    assert (error.type, error.kind) == ("ValueError", "error")
    assert error.message.startswith("process 1 of 2 (slice ") and error.message.endswith(": a planned failure")
    assert "a planned failure" in error.traceback
    wait_until(lambda: not in_use(), "all that was reserved is free")


@pytest.mark.slow
def test_a_gang_is_cancelled_as_a_whole(cluster, slices, tmp_path):
    handle = cluster.launch(job(sleep_as_member, str(tmp_path), resources=ResourceConfig.with_tpu("v4-16")))
    wait_until(lambda: len(list(tmp_path.glob("member-*"))) == 2, "both members run")
    handle.cancel()
    result = handle.wait(30)
    assert result.cancelled and result.error.kind == "cancelled"
    wait_until(lambda: not in_use(), "all that was reserved is free")


@pytest.mark.slow
def test_the_loss_of_a_gangs_owner_ends_its_members_and_frees_everything(cluster, slices, tmp_path):
    handle = cluster.launch(
        job(sleep_as_member, str(tmp_path), name="gang", resources=ResourceConfig.with_tpu("v4-16"))
    )
    wait_until(lambda: len(list(tmp_path.glob("member-*"))) == 2, "both members run")
    name = next(name for name in named_actors() if name.startswith("gang-"))
    ray.kill(ray.get_actor(name, namespace="marin"))
    assert handle.wait(30).error.kind == "worker_lost"
    wait_until(lambda: not in_use(), "all that was reserved is free")
    pids = [int(path.read_text()) for path in tmp_path.glob("member-*")]
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the members are gone")


@pytest.mark.slow
def test_a_lost_host_ends_the_whole_gang_as_preempted_and_another_slice_takes_the_next(
    cluster, nodes, slices, tmp_path
):
    request = job(sleep_as_member, str(tmp_path), resources=ResourceConfig.with_tpu("v4-16"))
    handle = cluster.launch(request)
    wait_until(lambda: len(list(tmp_path.glob("member-*"))) == 2, "both members run")
    (name,) = in_use().keys() & {"left", "right"}
    nodes.kill(slices[name][1])
    result = handle.wait(WAIT_S)
    assert result.error.kind == "preempted", result.error
    assert f"process 1 of 2 (slice {name}, " in result.error.message
    wait_until(lambda: not in_use(), "all that was reserved is free")
    nodes.kill(slices[name][0])
    nodes.wait_for_all()
    second = run(cluster, job(meet, str(tmp_path), resources=ResourceConfig.with_tpu("v4-16")))
    assert second.error is None, second.error


# -- without a cluster ------------------------------------------------------------------------------------------------


def test_a_wrong_tpu_type_is_refused_with_those_there_are(cluster):
    with pytest.raises(ValueError, match="no TPU type 'v99-8'.*v4.*v5p"):
        cluster.launch(job(add, 1, resources=ResourceConfig.with_tpu("v99-8")))


def node(name: str, **resources: float) -> dict:
    return {"NodeID": name, "Resources": {k.replace("_", "-"): v for k, v in resources.items()}}


def test_the_name_of_a_slice_is_the_resource_that_its_hosts_share():
    table = [
        node("a", CPU=8, TPU=4, TPU_v4_16_head=1, mine=1, zone=1, spot=1, ssd=1),
        node("b", CPU=8, TPU=4, mine=1, zone=1, spot=1),
        node("c", CPU=8, TPU=4, TPU_v4_16_head=1, yours=1, zone=1, spot=1),
        node("d", CPU=8, TPU=4, yours=1, zone=1),
        node("e", CPU=8, spot=1),
    ]
    assert slice_name_of("a", table, tpu_slice("v4-16")) == "mine"
    assert slice_name_of("c", table, tpu_slice("v4-16")) == "yours"
    table[0]["Labels"] = {"ray.io/tpu-slice-name": "ssd"}
    assert slice_name_of("a", table, tpu_slice("v4-16")) == "ssd"


def test_resources_become_rays_options():
    assert ray_options(ResourceConfig.with_cpu(cpu=3, ram="2g")) == {"num_cpus": 3, "memory": 2 * 10**9}
    assert ray_options(ResourceConfig.with_gpu("h100", count=8)) == {
        "num_cpus": 1,
        "num_gpus": 8,
        "accelerator_type": "H100",
    }


def test_a_function_of_ray_is_taken_apart_into_the_function_and_its_resources():
    remote = ray.remote(num_cpus=2.5, memory=10**9, max_retries=7, resources={"disk": 1})(add)
    plain, resources = unwrap_ray_function(remote)
    assert plain is add
    assert (resources.device, resources.cpu, resources.ram, resources.custom) == ("cpu", 3, str(10**9), {"disk": 1})
    plain, resources = unwrap_ray_function(ray.remote(add).options(num_gpus=2, accelerator_type="H100"))
    assert plain is add and (resources.device, resources.device_type, resources.device_count) == ("gpu", "h100", 2)
    _, resources = unwrap_ray_function(ray.remote(resources={"TPU-v4-8-head": 1, "TPU": 4})(add))
    assert (resources.device, resources.device_type, resources.custom) == ("tpu", "v4-8", {})
    assert unwrap_ray_function(add) is None and unwrap_ray_function(3) is None


def test_taking_a_function_apart_does_not_import_ray():
    code = "import sys; from marin.cluster.ray import unwrap_ray_function as u; u(len); print('ray' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": SOURCE}
    )
    assert done.stdout == "False\n"


def test_a_missing_cluster_is_told_with_what_to_do(tmp_path):
    code = "from marin.cluster.ray import connect; connect(None, 'x')"
    env = {**os.environ, "PYTHONPATH": SOURCE, "RAY_ADDRESS": "127.0.0.1:1", "RAY_TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=WAIT_S)
    assert "ValueError: no Ray cluster at 127.0.0.1:1" in done.stderr and "ray start --head" in done.stderr
