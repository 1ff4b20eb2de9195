"""`marin ray-run` against a real cluster, and without one."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from marin.cli.main import main

SOURCE = str(Path(__file__).resolve().parents[2] / "src")


def marin(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`marin ray-run` in a process of its own, for Ray lets a process have one cluster."""
    command = [sys.executable, "-m", "marin.cli.main", "ray-run", *arguments]
    variables = {**os.environ, "PYTHONPATH": SOURCE, **env}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=variables)


def test_a_command_is_asked_for(capsys):
    assert main(["ray-run"]) == 2
    assert "error: no command: write it after --" in capsys.readouterr().err


def test_a_folder_that_does_not_exist_is_refused(capsys, tmp_path):
    assert main(["ray-run", "--working_dir", str(tmp_path / "no"), "--", "true"]) == 2
    assert "--working_dir: there is no folder" in capsys.readouterr().err


def test_without_ray_the_extra_is_named(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['ray'] = None")
    done = marin("--", "true", PYTHONPATH=f"{tmp_path}{os.pathsep}{SOURCE}")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("pip install 'marin[ray]'\n")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://127.0.0.1:1"])
def test_without_a_cluster_it_is_told_how_to_get_one(address):
    pytest.importorskip("ray", reason="needs the extra `ray`")
    done = marin("--address", address, "--", "true")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: no Ray cluster at {address}: ") and "ray start --head" in done.stderr
    assert done.stderr.count("\n") == 1


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, str]]:
    """The addresses of a cluster and of its job server."""
    pytest.importorskip("ray", reason="needs the extra `ray`")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", SOURCE)
        patch.setenv("PATH", f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}")
        running = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 2,
                "object_store_memory": 80 << 20,
                "include_dashboard": True,
                "dashboard_port": 0,
                # the agent that takes commands has one fixed port otherwise, which a second cluster here would want too
                "dashboard_agent_listen_port": free_port(),
            },
        )
        try:
            yield running.address, f"http://{running.head_node.webui_url}"
        finally:
            running.shutdown()


SCRIPT = """
import os, sys
from marin.cluster import Entrypoint, JobRequest
from marin.cluster.ray import RayCluster

def work():
    return os.environ["A"] + " " + os.environ["MARIN_PREFIX"]

request = JobRequest(name="inner", entrypoint=Entrypoint.from_callable(work))
print(RayCluster().launch(request).wait(60).value, os.environ["MARIN_CLUSTER"], sys.argv[1:], flush=True)
sys.exit(7)
"""


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "script.py").write_text(SCRIPT)
    return str(tmp_path)


@pytest.mark.ray
def test_a_command_runs_on_the_cluster_and_its_output_and_exit_code_come_back(cluster, folder):
    command = ("python", "script.py", "with space", "--flag")
    options = ("--address", cluster[1], "--working_dir", folder, "--env_vars", "A", "x y")
    done = marin(*options, "--", *command, MARIN_PREFIX="/store")
    assert done.stdout == "x y /store ray ['with space', '--flag']\n", done.stdout + done.stderr
    assert done.returncode == 7
    assert done.stderr.startswith("job raysubmit_") and done.stderr.count("\n") == 1


@pytest.mark.ray
def test_without_waiting_the_id_is_all_of_the_output(cluster, folder):
    done = marin("--address", cluster[0], "--working_dir", folder, "--no_wait", "--", "sleep", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("raysubmit_") and done.stdout.count("\n") == 1
    assert done.stdout.strip() in done.stderr
