"""What must hold when something that was decided turns out otherwise: wrong inputs, other recipes, sleepers, pauses."""

import errno
import io
import json
import os
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from marin.cluster import ResourceConfig
from marin.cluster.job import JobResult
from marin.cluster.retry import Retry
from marin.execution.attempt import retry_notice
from marin.execution.executor import Executor, ExecutorStep, RefusedError, output_path_of, this_output_path
from marin.execution.gc import Policy, collect, find_garbage
from marin.execution.graph import build_graph
from marin.execution.lease import Lease, LeaseLost, LeaseTimes, Observer, acquire
from marin.execution.plan import Choices, Judge
from marin.execution.selection import Selection
from marin.execution.status import StepPaths, active_run
from marin.execution.store import LocalStore
from marin.execution.strike import invalidate


@dataclass(frozen=True)
class Config:
    folder: str
    value: int = 0
    input_path: object = None
    output_path: object = this_output_path()


def source(config: Config) -> None:
    Path(config.output_path, "x").write_text(Path(config.folder, "text").read_text())


def train(config: Config) -> None:
    """Resumes: with a checkpoint there is nothing left to do."""
    checkpoint = Path(config.output_path, "checkpoint")
    if not checkpoint.exists():
        checkpoint.write_text(f"trained on {Path(config.input_path, 'x').read_text()}")


@pytest.fixture
def executor(tmp_path):
    return Executor(tmp_path / "store", fsync=False, stream=io.StringIO())


def training(folder: Path) -> ExecutorStep:
    data = ExecutorStep(name="source", fn=source, config=Config(str(folder)))
    return ExecutorStep(
        name="train", fn=train, config=Config(str(folder), input_path=output_path_of(data)), publish="inplace"
    )


def test_a_step_in_place_does_not_go_on_from_what_was_made_of_struck_out_data(executor, tmp_path):
    (tmp_path / "text").write_text("bad")
    step = training(tmp_path)
    executor.run([step])
    invalidate(executor.store, Selection(addresses=("source",)), "bad text")
    (tmp_path / "text").write_text("good")
    result = executor.run([step], choices=Choices(rerun_tainted=True))
    assert Path(result.output_path(step), "checkpoint").read_text() == "trained on good"


def test_a_step_in_place_that_was_itself_struck_out_begins_anew(executor, tmp_path):
    (tmp_path / "text").write_text("good")
    step = training(tmp_path)
    path = executor.run([step]).output_path(step)
    Path(path, "checkpoint").write_text("trained wrongly")
    invalidate(executor.store, Selection(addresses=("train",)), "a bug")
    executor.run([step], choices=Choices(rerun_tainted=True))
    assert Path(path, "checkpoint").read_text() == "trained on good"


def test_a_step_in_place_whose_input_was_made_again_alike_goes_on(executor, tmp_path):
    (tmp_path / "text").write_text("good")
    step = training(tmp_path)
    path = executor.run([step]).output_path(step)
    Path(path, "checkpoint").write_text("half-way")
    invalidate(executor.store, Selection(addresses=("source",)), "not sure")
    executor.run([step], choices=Choices(rerun_tainted=True))
    assert Path(path, "checkpoint").read_text() == "half-way"


# -- drift ------------------------------------------------------------------------------------------------------------


def pinned(folder: Path, value: int) -> ExecutorStep:
    return ExecutorStep(name="data", fn=source, config=Config(str(folder), value), version="1")


def reading(data: ExecutorStep, folder: Path) -> ExecutorStep:
    config = Config(str(folder), input_path=output_path_of(data))
    return ExecutorStep(name="reader", fn=train, config=config)


def test_drift_is_told_also_where_nothing_that_has_to_run_reads_it(executor, tmp_path):
    (tmp_path / "text").write_text("one")
    executor.run([reading(pinned(tmp_path, 1), tmp_path)])
    plan = executor.plan([reading(pinned(tmp_path, 2), tmp_path)])
    assert [item.action for item in plan.items] == ["DRIFT", "HIT"]
    assert plan.items[0].reason.endswith("config.value  1 -> 2")
    with pytest.raises(RefusedError, match=r"another recipe"):
        executor.run([reading(pinned(tmp_path, 2), tmp_path)])


def test_a_version_is_not_replaced_by_force_alone_and_never_under_those_who_read_it(executor, tmp_path):
    (tmp_path / "text").write_text("one")
    executor.run([reading(pinned(tmp_path, 1), tmp_path)])
    (tmp_path / "text").write_text("two")
    changed = reading(pinned(tmp_path, 2), tmp_path)
    with pytest.raises(RefusedError, match="another recipe"):
        executor.run([changed], choices=Choices(force=("data",)))
    executor.run([changed], choices=Choices(force=("data",), accept_drift=True))
    plan = executor.plan([changed])
    assert [(item.action, item.reason) for item in plan.items] == [
        ("HIT", "cached"),
        ("RUN", "input data was made again and is another one now"),
    ]
    result = executor.run([changed])
    assert [s.action for s in result.steps] == ["cached", "ran"]
    assert Path(result.output_path(changed), "checkpoint").read_text() == "trained on two"
    assert executor.plan([changed]).is_done


def test_a_step_that_cannot_run_names_what_stops_it_and_not_what_lies_between(executor, tmp_path):
    (tmp_path / "text").write_text("one")
    executor.run([pinned(tmp_path, 1)])
    between = reading(pinned(tmp_path, 2), tmp_path)
    last = ExecutorStep(name="last", fn=train, config=Config(str(tmp_path), input_path=output_path_of(between)))
    reasons = {item.node.name: item.reason for item in executor.plan([last]).items}
    assert reasons["reader"] == "input data has drifted" and reasons["last"] == "upstream data has drifted"


def test_what_is_struck_out_has_not_drifted_where_it_is_made_again(executor, tmp_path):
    (tmp_path / "text").write_text("one")
    executor.run([pinned(tmp_path, 1)])
    invalidate(executor.store, Selection(addresses=("data",)), "wrong value")
    with pytest.raises(RefusedError, match="struck out"):
        executor.run([pinned(tmp_path, 2)])
    assert executor.run([pinned(tmp_path, 2)], choices=Choices(rerun_tainted=True)).is_ok


def test_what_was_deleted_to_make_room_has_not_drifted_but_is_made_by_todays_recipe(executor, tmp_path):
    (tmp_path / "text").write_text("one")
    executor.run([pinned(tmp_path, 1)])
    policy = Policy(outputs=True, keep_days=0, only_refs=True)
    assert collect(executor.store, find_garbage(executor.store, policy), policy)
    assert executor.plan([pinned(tmp_path, 2)]).items[0].action == "RUN"


@pytest.mark.parametrize("damage", ["a file is missing", "the folder is gone"])
def test_drift_is_refused_also_where_the_stored_output_is_damaged(executor, tmp_path, damage):
    (tmp_path / "text").write_text("one")
    path = Path(executor.run([pinned(tmp_path, 1)]).plan.prefix, "data/1/attempts")
    (attempt,) = path.iterdir()
    (attempt / "x").unlink()
    if damage == "the folder is gone":
        attempt.rmdir()
    with pytest.raises(RefusedError, match="was made by another recipe"):
        executor.run([pinned(tmp_path, 2)])


# -- leases -----------------------------------------------------------------------------------------------------------


def test_a_lease_that_was_handed_over_is_not_lost_and_its_first_holder_leaves_it_alone(tmp_path):
    store, root = LocalStore(tmp_path, fsync=False), str(tmp_path / "step")
    with active_run("driver") as driver, active_run("worker") as worker:
        first = acquire(store, root, None, digest="d" * 64, owner=driver, publish="attempt")
        sent = first.state
        first.renew()  # the job waits for a machine; the driver shows that somebody is there
        second = Lease(store, StepPaths(root), sent, LeaseTimes())
        second.hand_over(worker)
        first.renew()
        second.renew()
        assert store.read(root).owner == worker and store.read(root).attempt == sent.attempt
        with pytest.raises(LeaseLost):
            first.end("SUCCEEDED", record={})
        assert second.end("SUCCEEDED", record={}).status == "SUCCEEDED"


def test_a_holder_whose_data_gc_deleted_while_it_slept_cannot_commit(tmp_path):
    store, root = LocalStore(tmp_path, fsync=False), str(tmp_path / "step-0123456789")
    store.prepare()
    with active_run("sleeper") as owner:
        elsewhere = replace(owner, boot_id="another machine")
        lease = acquire(store, root, None, digest="d" * 64, owner=elsewhere, publish="attempt")
        os.makedirs(lease.data_root)
        Path(lease.data_root, "part-0").write_text("0")
        long_ago = time.time() - 7200
        for folder, _, names in os.walk(root):
            for name in (*names, "."):
                os.utime(os.path.join(folder, name), (long_ago, long_ago))
        assert [item.kind for item in collect(store, find_garbage(store))] == ["attempt"]
        assert not os.path.exists(lease.data_root)
        with pytest.raises(LeaseLost):
            lease.end("SUCCEEDED", record={"result": JobResult(error=None).value})


# -- pauses -----------------------------------------------------------------------------------------------------------


def flaky(config: Config) -> None:
    with open(f"{config.folder}/calls", "a") as file:
        file.write("x\n")
    if len(Path(config.folder, "calls").read_text().split()) == 1:
        raise ConnectionError("reset by peer")


def test_a_pause_belongs_to_the_run_that_will_try_again_wherever_the_attempt_was_made(tmp_path):
    store, root = LocalStore(tmp_path, fsync=False), str(tmp_path / "step")
    step = ExecutorStep(name="flaky", fn=flaky, config=Config(str(tmp_path)))
    (node,) = build_graph([step]).nodes
    with active_run("driver") as driver:
        with active_run("worker") as worker:
            lease = acquire(store, root, None, digest=node.digest, owner=worker, publish="attempt")
            error = {"class": "TRANSIENT", "type": "ConnectionError", "message": "", **retry_notice(3600.0, driver)}
            lease.end("FAILED", error=error)
        judge = Judge(store, Choices())
        state = store.read(root)
        assert state.owner.is_gone()
        assert judge.judge(node, state, StepPaths(root))[0] == "WAIT"
        clock = iter((0.0, 3000.0, 3700.0))
        far = replace(state, error={**error, "retry_owner": asdict(replace(driver, boot_id="elsewhere"))})
        judge = Judge(store, Choices(), Observer(clock=lambda: next(clock)))
        actions = [judge.judge(node, far, StepPaths(root))[0] for _ in range(3)]
        assert actions == ["WAIT", "WAIT", "RUN"]
    assert Judge(store, Choices()).judge(node, state, StepPaths(root))[0] == "RUN"


def test_a_log_that_cannot_be_kept_changes_nothing_in_how_a_step_ended(tmp_path, monkeypatch):
    pytest.importorskip("obstore", reason="needs the extra `remote`")
    monkeypatch.setenv("MARIN_SCRATCH", str(tmp_path / "scratch"))
    executor = Executor(f"memory://{tmp_path.name}", stream=io.StringIO())
    real = executor.store.upload

    def upload(local_path: str, path: str) -> None:
        if path.endswith("stdout.log"):
            raise OSError("503 slow down")
        real(local_path, path)

    monkeypatch.setattr(executor.store, "upload", upload)
    (tmp_path / "text").write_text("good")
    good = ExecutorStep(name="source", fn=source, config=Config(str(tmp_path)))
    bad = ExecutorStep(name="bad", fn=source, config=Config(str(tmp_path / "nowhere")))
    result = executor.run([good, bad])
    assert [(s.name, s.action) for s in result.steps] == [("source", "ran"), ("bad", "failed")]
    state = executor.store.read(f"{executor.prefix}/{result[bad].node.path}")
    assert state.status == "FAILED" and state.error["type"] == "FileNotFoundError"


def test_a_run_that_looks_between_two_tries_waits_for_the_next_one(executor, tmp_path):
    step = ExecutorStep(
        name="flaky",
        fn=flaky,
        config=Config(str(tmp_path)),
        resources=ResourceConfig.with_cpu(),
        retry=Retry(first_delay_s=3.0, jitter=0.0),
    )
    results = []
    first = threading.Thread(target=lambda: results.append(executor.run([step])))
    first.start()
    item = executor.plan([step]).items[0]
    register = Path(executor.prefix, item.node.path, ".exec/state.json")
    deadline = time.monotonic() + 60
    while not register.exists() or json.loads(register.read_text())["status"] != "FAILED":
        assert time.monotonic() < deadline, "the first try has not failed"
        time.sleep(0.02)
    assert executor.plan([step]).items[0].action == "WAIT"
    second = Executor(executor.prefix, fsync=False, stream=io.StringIO()).run([step])
    first.join(60)
    assert second.is_ok and [s.action for s in second.steps] == ["cached"] and results[0].is_ok
    assert len((tmp_path / "calls").read_text().split()) == 2


# -- commits of which nobody knows ------------------------------------------------------------------------------------


class FullAtCommit(LocalStore):
    """Says that the disk is full when a commit is written; nobody can tell whether it was."""

    def compare_and_swap(self, root, expected, new, **options):
        if new.status == "SUCCEEDED":
            raise OSError(errno.ENOSPC, "no space left")
        return super().compare_and_swap(root, expected, new, **options)


def fill(config: Config) -> None:
    Path(config.output_path, "x").write_text("all of it")
    if config.value:
        raise OSError(errno.ENOSPC, "no space left")


@pytest.mark.parametrize("is_full_at_commit", [True, False])
def test_data_goes_to_make_room_only_where_no_commit_may_have_named_it(executor, tmp_path, is_full_at_commit):
    if is_full_at_commit:
        executor.store.__class__ = FullAtCommit
    step = ExecutorStep(name="fill", fn=fill, config=Config(str(tmp_path), value=int(not is_full_at_commit)))
    (failed,) = executor.run([step]).steps
    assert failed.action == "failed" and failed.error.errno == errno.ENOSPC
    left = list(Path(executor.prefix, failed.node.path, "attempts").glob("*/x"))
    assert bool(left) is is_full_at_commit
