"""kill -9 of the runner before any file-system operation: the next run recovers, and nothing half-done counts."""

import json
import subprocess
import sys

import pytest

# Runs alone in a process without threads, for it forks: once for every point at which the runner is killed.
DRIVER = '''
import json, os, shutil, signal, sys, time
from dataclasses import dataclass
from pathlib import Path
from marin.execution.executor import Executor, ExecutorStep, output_path_of, this_output_path
from marin.execution.manifest import build_manifest
from marin.execution.status import NOT_DATA
from marin.execution.store import LocalStore
import marin.execution.runner, marin.execution.record, marin.execution.console, marin.execution.plan  # before the forks

@dataclass(frozen=True)
class Work:
    name: str
    output_path: str
    input_path: str = ""

def work(config):
    text = Path(config.input_path, "out").read_text() if config.input_path else ""
    Path(config.output_path, "half").write_text("half of " + config.name)
    Path(config.output_path, "out").write_text(text + config.name)

def step(name, before=None, **options):
    config = Work(name, this_output_path(), output_path_of(before) if before else "")
    return ExecutorStep(name=name, fn=work, config=config, **options)

a = step("a")
b = step("b", a, publish="inplace")
c = step("c", b)
prefix = os.path.abspath("store")
EVENTS = {"open", "os.mkdir", "os.rename", "os.symlink", "os.link", "os.remove"}

def arm(point):
    """Kill this process just before its point-th operation in the store."""
    count = 0
    def tick():
        nonlocal count
        count += 1
        if count == point:
            os.kill(os.getpid(), signal.SIGKILL)
    def hook(event, args):
        if event in EVENTS and str(args[0]).startswith(prefix):
            tick()
    sys.addaudithook(hook)
    fsync = os.fsync
    def counted_fsync(descriptor):
        tick()
        fsync(descriptor)
    os.fsync = counted_fsync
    return lambda: count

def run(point=0, fsync=True):
    """Run in a child; (killed, seconds, number of operations)"""
    read, write = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        counted = arm(point)
        ok = Executor(prefix, quiet=True, fsync=fsync).run([c]).is_ok
        os.write(write, str(counted()).encode())
        os._exit(0 if ok else 1)
    os.close(write)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    count = os.read(read, 100)
    os.close(read)
    assert status in (0, -signal.SIGKILL), f"point {point}: exit {status}"
    return status != 0, time.monotonic() - started, int(count or 0)

def look():
    """What the registers say, each committed output checked against its manifest: {name: text}"""
    found = {}
    for item in Executor(prefix).plan([c], explain=False):
        root = os.path.join(prefix, item.node.path)
        state = LocalStore().read(root)
        if state is not None and state.status == "SUCCEEDED":
            data = os.path.normpath(os.path.join(root, state.data_root))
            manifest = build_manifest(data, exclude=NOT_DATA[item.node.step.publish])
            assert manifest.root_digest == state.record["root_digest"], item.node.step.name
            found[item.node.step.name] = Path(data, "out").read_text(), manifest.root_digest
    return found

stride, offset = int(sys.argv[1]), int(sys.argv[2])
_, _, total = run()
expected = look()
assert {name: text for name, (text, _) in expected.items()} == {"a": "a", "b": "ab", "c": "abc"}
kills, slowest, leftovers = 0, 0.0, 0
for point in range(1 + offset, total + 1, stride):
    shutil.rmtree(prefix)
    killed, _, _ = run(point)
    assert killed, point
    kills += 1
    before = look()
    assert all(expected[name] == value for name, value in before.items()), point
    _, seconds, _ = run(fsync=False)
    slowest = max(slowest, seconds)
    assert look() == expected, point
    _, _, idle = run(fsync=False)
    assert idle < 20, f"point {point}: a third run did {idle} operations"
print(json.dumps({"operations": total, "kills": kills, "slowest_recovery_s": slowest}))
'''


def kill_at(tmp_path, stride: int, offset: int) -> dict:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    command = [sys.executable, str(script), str(stride), str(offset)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"kill -9: {result}")
    assert result["slowest_recovery_s"] < 20  # a lease lives for 60
    return result


def test_a_runner_killed_at_any_of_many_points_is_recovered_from(tmp_path):
    result = kill_at(tmp_path, stride=7, offset=0)
    assert result["kills"] >= 15


@pytest.mark.slow
def test_a_runner_killed_at_every_point_is_recovered_from(tmp_path):
    result = kill_at(tmp_path, stride=1, offset=0)
    assert result["kills"] == result["operations"]
