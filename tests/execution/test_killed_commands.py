"""kill -9 of `gc` and `adopt` before any file-system operation: nothing needed is lost, and the next one completes."""

import json
import subprocess
import sys

import pytest

# Runs alone in a process without threads, for it forks: once for every point at which the work is killed.
DRIVER = '''
import json, os, shutil, signal, sys
from dataclasses import dataclass
from pathlib import Path
from marin.execution.adoption import adopt
from marin.execution.executor import Executor, ExecutorStep, output_path_of, this_output_path
from marin.execution.catalog import steps_of
from marin.execution.gc import Policy, collect, find_garbage
from marin.execution.refs import pin
from marin.execution.store import LocalStore
from marin.execution.verify import verify
import marin.execution.runner, marin.execution.console, concurrent.futures.thread  # before the forks

@dataclass(frozen=True)
class Work:
    name: str
    output_path: str
    input_path: str = ""

def work(config):
    for part in ("a", "b/c", "b/d"):
        path = Path(config.output_path, part)
        path.parent.mkdir(exist_ok=True)
        path.write_text(config.name)

def step(name, before=None, **options):
    config = Work(name, this_output_path(), output_path_of(before) if before else "")
    return ExecutorStep(name=name, fn=work, config=config, **options)

kept_below = step("kept/below")
kept = step("kept/top", kept_below, publish="inplace")
lost_below = step("lost/below", publish="inplace")
lost = step("lost/top", lost_below)
prefix, whole = os.path.abspath("store"), os.path.abspath("whole")
EVENTS = {"open", "os.mkdir", "os.rename", "os.symlink", "os.link", "os.remove", "os.rmdir"}
store = LocalStore(prefix, fsync=False)

def arm(point):
    """Kill this process just before its point-th operation in the store."""
    count = 0
    def hook(event, args):
        nonlocal count
        if event in EVENTS and any(prefix in os.fsdecode(a) for a in args[:2] if isinstance(a, (str, bytes))):
            count += 1
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)
        elif event in ("os.remove", "os.rmdir"):  # by a folder's descriptor, as rmtree does it
            count += 1
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    return lambda: count

def child(work, point=0):
    """Run in a child; (killed, number of operations)"""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        counted = arm(point)
        work()
        os.write(write, str(counted()).encode())
        os._exit(0)
    os.close(write)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    count = int(os.read(read, 100) or 0)
    os.close(read)
    assert status in (0, -signal.SIGKILL), f"point {point}: exit {status}"
    return status != 0, count

def restore():
    shutil.rmtree(prefix, ignore_errors=True)
    shutil.copytree(whole, prefix, symlinks=True)

def files():
    return sorted(str(p.relative_to(prefix)) for p in Path(prefix).rglob("*") if p.is_file() and ".exec" not in p.parts)

def steps():
    return {entry.name: entry for entry in steps_of(store)}

policy = Policy(outputs=True, only_refs=True)

def gc():
    collect(store, find_garbage(store, policy), policy)

def adopt_data():
    adopt("data", "source", version="1", reason="a test", prefix=prefix)

def look(point):
    """What a ref keeps is whole; of the rest, nothing that is half there is served."""
    found = steps()
    for name, entry in found.items():
        if name.startswith("kept"):
            assert entry.status == "SUCCEEDED", (point, name, entry.status)
        if entry.status == "SUCCEEDED":
            assert all(v.is_ok for v in verify(store, [entry], deep=True, dry_run=True)), (point, name)

def try_gc():
    Executor(prefix, quiet=True, fsync=False).run([kept, lost])
    pin(store, steps()["kept/top"], name="ref", user="u")
    shutil.copytree(prefix, whole, symlinks=True)
    _, total = child(gc)
    after = files()
    assert after and all(path.startswith("kept") for path in after), after
    for point in range(1, total + 1, stride):
        restore()
        assert child(gc, point)[0], point
        look(point)
        gc()
        assert files() == after, (point, set(files()) ^ set(after))
        found = steps()
        assert found["lost/top"].status == found["lost/below"].status == "EVICTED"
        assert found["lost/top"].record["name"] == "lost/top" and found["lost/below"].record["files"] == 3
        assert find_garbage(store, policy) == [], point
    reruns = 0
    for point in range(2, total + 1, 3 * stride):  # and a run comes before the next gc
        restore()
        child(gc, point)
        result = Executor(prefix, quiet=True, fsync=False).run([kept, lost])
        assert result.is_ok, point
        reruns += any(s.action == "ran" for s in result.steps)
        look(point)
        assert [e.name for e in steps_of(store) if e.status == "SUCCEEDED"].count("lost/top") == 1
    return {"operations": total, "reruns": reruns}

def try_adopt():
    for part in ("a", "b/c", "b/d"):
        path = Path("source", part)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(part)
    Executor(prefix, quiet=True, fsync=False).run([kept])
    shutil.copytree(prefix, whole, symlinks=True)
    _, total = child(adopt_data)
    digest = steps()["data"].record["root_digest"]
    done = 0
    for point in range(1, total + 1, stride):
        restore()
        assert child(adopt_data, point)[0], point
        before = steps().get("data")
        assert before is None or before.status in ("ABANDONED", "SUCCEEDED"), (point, before.status)
        look(point)
        done += before is not None and before.status == "SUCCEEDED"
        adopt_data()
        after = steps()["data"]
        assert after.status == "SUCCEEDED" and after.record["root_digest"] == digest, point
        assert after.state.accepted[0]["recipe"] == "any"
        look(point)
    assert all(Path("source", part).read_text() == part for part in ("a", "b/c", "b/d"))
    return {"operations": total, "done": done}

stride = int(sys.argv[2])
print(json.dumps({"gc": try_gc, "adopt": try_adopt}[sys.argv[1]]()))
'''


def drive(tmp_path, what: str, stride: int) -> dict:
    (tmp_path / "driver.py").write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, "driver.py", what, str(stride)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"kill -9 of {what}: {result}")
    return result


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_gc_killed_before_any_operation_loses_nothing_and_is_completed_by_the_next(tmp_path, stride):
    result = drive(tmp_path, "gc", stride)
    assert result["operations"] >= 40
    assert result["reruns"] >= 2


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_adopt_killed_before_any_operation_leaves_all_or_nothing(tmp_path, stride):
    result = drive(tmp_path, "adopt", stride)
    assert result["operations"] >= 30
    assert result["done"] >= 1
