"""Leases between machines whose clocks disagree, and what becomes of a step whose lease is lost."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.cluster import ResourceConfig
from marin.execution.executor import Executor, ExecutorStep, this_output_path
from marin.execution.graph import build_graph
from marin.execution.lease import LeaseLost, LeaseTimes, Observer, acquire
from marin.execution.plan import RUN, WAIT, Choices, Judge, make_plan
from marin.execution.status import RUNNING, SUCCEEDED, Owner, StepPaths, active_run, process_is_alive, process_start
from marin.execution.store import LocalStore
from marin.testing.faults import Fault, FaultyStore

TIMES = LeaseTimes()


# -- clocks -----------------------------------------------------------------------------------------------------------


def machine(name: str) -> Owner:
    """A runner on a machine of which nobody here can tell whether it lives."""
    return Owner(host=name, boot_id=f"boot of {name}", pid_ns="n", pid=7, pid_start=7, run_id=f"on {name}", user="u")


def nothing(config: str) -> None:
    """The body of a step that is only judged."""


# in eighths of a second, so that sums are exact
skews = st.integers(-8 * 3600, 8 * 3600).map(lambda eighths: eighths / 8)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    skew_of_holder=skews,
    skew_of_other=skews,
    gaps=st.lists(
        st.tuples(st.integers(1, 8 * 44).map(lambda eighths: eighths / 8), st.booleans()), min_size=1, max_size=12
    ),
)
def test_clocks_that_are_off_by_an_hour_take_no_lease_from_a_holder_that_renews(
    tmp_path_factory, skew_of_holder, skew_of_other, gaps
):
    """The whole judgement, not only the observer's; `gaps`: seconds between renewals, and whether the other looks."""
    store = LocalStore(tmp_path_factory.mktemp("store"), fsync=False)
    store.prepare()
    now = 0.0

    def clock_off_by(skew_s: float) -> Callable[[], float]:
        return lambda: now + skew_s

    node = make_plan(build_graph([ExecutorStep(name="a", fn=nothing, config="c")]), store).items[0].node
    paths = StepPaths(f"{store.prefix}/{node.path}")
    judge = Judge(store, Choices(), Observer(clock_off_by(skew_of_other), store))
    options = {"digest": node.digest, "publish": "attempt", "times": TIMES}
    holder = acquire(store, paths.root, None, owner=machine("one"), clock=clock_off_by(skew_of_holder), **options)

    def verdict() -> str:
        return judge.judge(node, store.read(paths.root), paths)[0]

    for gap, looks in gaps:
        now += gap
        if looks:
            assert verdict() == WAIT
        holder.renew()
        assert verdict() == WAIT
    last_change = now
    while verdict() == WAIT:  # from here on the holder is silent
        assert now - last_change < TIMES.ttl_s + 1.0
        now += 1.0
    assert verdict() == RUN and now - last_change >= TIMES.ttl_s
    taken = acquire(store, paths.root, store.read(paths.root), owner=machine("two"), **options)
    with pytest.raises(LeaseLost):
        holder.end(SUCCEEDED, record={})
    assert taken.end(SUCCEEDED, record={}).epoch == 2


# -- a step whose lease is lost ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the step is told."""

    output_path: object
    pids: str  # file that gets the process's id when its body begins
    is_stubborn: bool  # SIGTERM does not end it


def wait_long(config: Work) -> None:
    """The first time for as long as nobody ends it, after that not at all."""
    import signal

    if config.is_stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    is_first = not os.path.exists(config.pids)
    Path(f"{config.pids}.new").write_text(str(os.getpid()))
    os.replace(f"{config.pids}.new", config.pids)
    if is_first:
        time.sleep(250)
    Path(config.output_path, "out").write_text("done")


def wait_until(is_so: Callable[[], object], seconds: float) -> float:
    """Seconds until it was so."""
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < seconds, "it did not come to pass"
        time.sleep(0.01)
    return time.monotonic() - started


class Run:
    """A run of one step in a process of its own, in the background."""

    def __init__(self, tmp_path: Path, times: LeaseTimes, is_stubborn: bool) -> None:
        self.executor = Executor(tmp_path / "store", fsync=False, quiet=True, lease_times=times)
        self.raw = self.executor.store
        self.store = self.executor.store = FaultyStore(self.raw)
        self.pids = tmp_path / "pid"
        config = Work(output_path=this_output_path(), pids=str(self.pids), is_stubborn=is_stubborn)
        self.step = ExecutorStep(name="long", fn=wait_long, config=config, resources=ResourceConfig.with_cpu())
        self.node = self.executor.plan([self.step]).items[0].node
        self.root = f"{self.raw.prefix}/{self.node.path}"
        self.results = []
        self.thread = threading.Thread(target=lambda: self.results.append(self.executor.run([self.step])))
        self.thread.start()
        wait_until(self.pids.exists, 60)
        self.pid = int(self.pids.read_text())
        self.pid_start = process_start(self.pid)

    def is_alive(self) -> bool:
        return process_is_alive(self.pid, self.pid_start)


@pytest.mark.parametrize("is_stubborn", [False, True])
def test_a_step_that_was_taken_over_is_stopped_at_its_next_renewal(tmp_path, monkeypatch, is_stubborn):
    monkeypatch.setattr("marin.execution.runner._CANCEL_GRACE_S", 0.5)
    run = Run(tmp_path, LeaseTimes(ttl_s=60.0, renew_s=0.1, fence_s=45.0), is_stubborn)
    assert run.is_alive()
    with active_run("overtaker") as owner:
        lease = None
        while lease is None:  # a renewal may come in between
            state = run.raw.read(run.root)
            assert state.status == RUNNING
            lease = acquire(run.raw, run.root, state, digest=state.digest, owner=owner, publish="attempt")
        seconds = wait_until(lambda: not run.is_alive(), 60)
        assert seconds >= 0.5 or not is_stubborn
        os.makedirs(lease.data_root)
        lease.end(SUCCEEDED, record={"root_digest": "r"})
    run.thread.join(60)
    assert run.results[0][run.step].action == "cached" and run.raw.read(run.root).attempt == lease.state.attempt


def test_a_step_whose_lease_cannot_be_renewed_is_stopped_before_anybody_may_take_it(tmp_path, monkeypatch):
    """The holder fences itself off; when the store works again it takes the step once more, and ends it."""
    monkeypatch.setattr("marin.execution.runner._CANCEL_GRACE_S", 0.5)
    times = LeaseTimes(ttl_s=5.0, renew_s=0.1, fence_s=2.0)
    run = Run(tmp_path, times, False)
    run.store.add(Fault(kind="broken", method="compare_and_swap", times=1_000_000))
    time.sleep(times.fence_s / 2)
    last = run.raw.read(run.root)
    assert run.is_alive()  # for a while that is borne
    wait_until(lambda: not run.is_alive(), 60)
    assert run.raw.read(run.root) == last  # nobody has taken it yet
    run.store.heal()
    run.thread.join(100)
    assert run.results[0].is_ok and run.raw.read(run.root).epoch == 2
    assert Path(run.results[0].output_path(run.step), "out").read_text() == "done"
