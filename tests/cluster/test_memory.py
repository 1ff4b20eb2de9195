"""Whether a job was killed for memory: the kernel's counters, and a job that really runs out."""

import contextlib
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from marin.cluster.memory import oom_kills

SOURCE = str(Path(__file__).resolve().parents[2] / "src")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_counter_of_the_own_control_group_is_read(tmp_path):
    write(tmp_path / "proc/vmstat", "nr_free_pages 1\noom_kill 9\n")
    assert oom_kills(str(tmp_path)) == 9
    write(tmp_path / "proc/self/cgroup", "4:cpu:/\n5:memory:/jobs/a\n0::/\n")
    write(tmp_path / "sys/fs/cgroup/memory/jobs/a/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert oom_kills(str(tmp_path)) == 3
    write(tmp_path / "proc/self/cgroup", "0::/jobs/b\n")
    write(tmp_path / "sys/fs/cgroup/jobs/b/memory.events", "low 0\nhigh 0\nmax 8\noom 2\noom_kill 2\n")
    assert oom_kills(str(tmp_path)) == 2


def test_a_container_finds_its_own_group_at_the_top(tmp_path):
    write(tmp_path / "proc/self/cgroup", "0::/outside/name\n")
    write(tmp_path / "sys/fs/cgroup/memory.events", "oom_kill 5\n")
    assert oom_kills(str(tmp_path)) == 5


def test_a_system_that_counts_nothing_says_so(tmp_path):
    assert oom_kills(str(tmp_path)) is None


LAUNCHER = """
import os, sys, time
sys.path.insert(0, {source!r})
open(os.path.join(sys.argv[1], "cgroup.procs"), "w").write(str(os.getpid()))
from marin.cluster import Entrypoint, JobRequest
from marin.cluster.local import LocalCluster

text = "import sys, os\\nif sys.argv[1] == 'eat': b = bytearray(b'1') * (400 << 20)\\nos.kill(os.getpid(), 9)"
for what in ("die", "eat"):
    entry = Entrypoint.from_binary(sys.executable, ("-c", text, what))
    error = LocalCluster().launch(JobRequest(name=what, entrypoint=entry)).wait(60).error
    print(what, error.kind, error.message)
"""


@pytest.fixture
def small_group():
    """A control group (version 1 or 2) of little memory; the test skips where none can be made."""
    top = Path("/sys/fs/cgroup")
    for folder, limit in ((top / "memory", "memory.limit_in_bytes"), (top, "memory.max")):
        group = folder / f"marin-test-{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):
            group.mkdir()
            try:
                (group / limit).write_text(str(120 << 20))
                yield group
            finally:
                group.rmdir()
            return
    pytest.skip("this user may not make a control group with a memory limit here")


@pytest.mark.skipif(not os.path.exists("/sys/fs/cgroup"), reason="no control groups on this system")
def test_a_job_that_is_killed_for_memory_is_told_from_one_that_is_just_killed(small_group):
    code = LAUNCHER.format(source=SOURCE)
    done = subprocess.run([sys.executable, "-c", code, small_group], capture_output=True, text=True, timeout=90)
    assert done.stdout.splitlines() == [
        "die worker_lost the process was killed by SIGKILL (the system kills so when memory runs out)",
        "eat oom the process was killed by SIGKILL: memory ran out",
    ], done.stdout + done.stderr
