"""An object store that fails, lies or loses answers: what the registers do about it."""

import os
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from marin.execution import lease as leases
from marin.execution.lease import Lease, LeaseTimes, Observer
from marin.execution.status import RUNNING, SUCCEEDED, Owner, State, StepPaths, active_run
from marin.execution.store import LocalStore, PrefixError, Store, open_store
from s3_server import LOST, Answer, Doorkeeper

ELSEWHERE = Owner(host="other", boot_id="b", pid_ns="n", pid=1, pid_start=1, run_id="r0", user="u")


@pytest.fixture
def owner():
    with active_run("run-1") as owner:
        yield owner


def acquire(store: Store, root: str, owner: Owner, expected: State | None = None) -> Lease | None:
    return leases.acquire(store, root, expected, digest="d" * 64, owner=owner, publish="attempt")


def once(*answers: Answer, method: str = "PUT", path: str = "state.json"):
    """A rule for the doorkeeper: these answers to the next matching requests, and then the server's own."""
    left = list(answers)
    return lambda asked, where: left.pop(0) if left and asked == method and path in where else None


# -- a store that will do, and one that will not ----------------------------------------------------------------------


def test_a_store_is_tried_with_eight_requests_and_once_for_a_while(s3_prefix: str, s3_door: Doorkeeper):
    open_store(s3_prefix).prepare()
    assert s3_door.counts == {"PUT": 4, "GET": 2, "LIST": 1, "POST": 1}
    open_store(s3_prefix).prepare()
    assert s3_door.counts.total() == 8


def test_a_store_that_ignores_conditions_is_refused(s3_prefix: str, s3_door: Doorkeeper, owner: Owner):
    s3_door.ignores_conditions = True
    store = open_store(s3_prefix)
    with pytest.raises(PrefixError) as refusal:
        store.prepare()
    told = str(refusal.value)
    assert told.startswith(f"{s3_prefix} cannot hold registers that several runs may change: ")
    assert "a second creation is refused: it was accepted: the store ignores If-None-Match" in told
    assert "replacing an older version is refused: it was accepted: the store ignores If-Match" in told
    assert "--single-runner" in told
    with pytest.raises(PrefixError, match="several runs"):  # also where nobody called prepare
        acquire(store, f"{s3_prefix}/step", owner)
    assert store.read(f"{s3_prefix}/step") is None


def test_a_store_that_rejects_conditions_is_refused_for_that(s3_prefix: str, s3_door: Doorkeeper):
    s3_door.rule = once((501, "NotImplemented"), (501, "NotImplemented"), path="selftest")
    with pytest.raises(PrefixError, match=r"an object can be created: .*NotImplemented"):
        open_store(s3_prefix).prepare()


def test_a_single_runner_may_use_such_a_store_and_is_warned_once(
    s3_prefix: str, s3_door: Doorkeeper, owner: Owner, capsys: pytest.CaptureFixture
):
    s3_door.ignores_conditions = True
    for _ in range(2):
        store = open_store(s3_prefix, single_runner=True)
        store.prepare()
    assert capsys.readouterr().err.count("warning: ") == 1
    lease = acquire(store, f"{s3_prefix}/step", owner)
    assert lease is not None and acquire(store, f"{s3_prefix}/step", owner) is None
    lease.renew()
    assert lease.end(SUCCEEDED, record={}) == store.read(f"{s3_prefix}/step")


def test_a_single_runner_on_a_store_that_keeps_its_word_has_all_its_safety(
    s3_prefix: str, owner: Owner, capsys: pytest.CaptureFixture
):
    store = open_store(s3_prefix, single_runner=True)
    store.prepare()
    assert capsys.readouterr().err == ""
    assert acquire(store, f"{s3_prefix}/step", owner) is not None


def test_a_bucket_that_does_not_exist_is_named(s3_door: Doorkeeper):
    with pytest.raises(
        PrefixError, match=r"writing s3://nowhere-\w+/x/.exec/selftest-\w+ failed: NoSuchBucket: .*name"
    ):
        open_store(f"s3://nowhere-{uuid.uuid4().hex[:8]}/x").prepare()


def test_a_denied_request_says_what_to_check(s3_prefix: str, s3_door: Doorkeeper):
    s3_door.rule = lambda method, path: (403, "AccessDenied")
    store = open_store(s3_prefix)
    for refused in (store.prepare, lambda: store.items(s3_prefix), lambda: store.get(f"{s3_prefix}/x")):
        with pytest.raises(PrefixError, match=r"AccessDenied.*HTTP 403.*AWS_ACCESS_KEY_ID"):
            refused()


def test_a_server_that_nobody_answers_for_is_named(s3_prefix: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("marin.io.objects._PATIENCE_S", 0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"listing .*AWS_ENDPOINT_URL"):
        open_store(s3_prefix).items(s3_prefix)


@pytest.mark.parametrize("prefix", ["ftp://host/x", "s3://", "s3://bucket/a//b", "s3://bucket/../x", "s3://bucket/x?y"])
def test_a_prefix_that_is_no_store_is_refused(prefix: str):
    with pytest.raises(PrefixError, match="prefix '"):
        open_store(prefix)


def test_without_the_extra_package_its_name_is_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(PrefixError, match=r"pip install 'marin\[remote\]'"):
        open_store("s3://bucket/x")


# -- answers that fail, and answers that never come -------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [(503, "SlowDown"), (429, "TooManyRequests"), (500, "InternalError")])
def test_a_busy_server_is_asked_again(trouble: Answer, s3_prefix: str, s3_door: Doorkeeper, owner: Owner):
    store, root = open_store(s3_prefix), f"{s3_prefix}/step"
    s3_door.rule = once(trouble, trouble)
    lease = acquire(store, root, owner)
    assert lease is not None
    s3_door.rule = once(trouble, trouble, method="GET")
    assert store.read(root) == lease.state


def test_a_server_that_stays_busy_is_an_os_error(
    s3_prefix: str, s3_door: Doorkeeper, owner: Owner, monkeypatch: pytest.MonkeyPatch
):
    store = open_store(s3_prefix)
    store.prepare()
    monkeypatch.setattr("marin.io.objects._PATIENCE_S", 0.5)
    s3_door.rule = lambda method, path: (503, "SlowDown") if method == "PUT" else None
    with pytest.raises(OSError, match="SlowDown"):
        acquire(store, f"{s3_prefix}/step", owner)
    assert 3 <= s3_door.counts["PUT"] - 4 <= 12  # with pauses, not as fast as it can


def test_a_write_whose_answer_was_lost_counts_once(s3_prefix: str, s3_door: Doorkeeper, owner: Owner, monkeypatch):
    monkeypatch.setattr("marin.io.objects._REQUEST_S", 1)
    store, root = open_store(s3_prefix), f"{s3_prefix}/step"
    store.prepare()
    s3_door.rule = once(LOST)
    lease = acquire(store, root, owner)
    assert lease is not None and store.read(root) == lease.state
    s3_door.rule = once(LOST)
    assert lease.end(SUCCEEDED, record={}) == store.read(root)


def test_whoever_loses_an_answer_and_the_race_is_told_that_it_lost(
    s3_prefix: str, s3_door: Doorkeeper, owner: Owner, monkeypatch
):
    monkeypatch.setattr("marin.io.objects._REQUEST_S", 1)
    store, other, root = open_store(s3_prefix), open_store(s3_prefix), f"{s3_prefix}/step"
    store.prepare()
    inside = []

    def rule(method: str, path: str) -> Answer | None:
        if method == "PUT" and "state.json" in path and not inside:
            inside.append(1)
            inside.append(acquire(other, root, owner))  # another one is faster
            return 500, "InternalError"
        return None

    s3_door.rule = rule
    assert acquire(store, root, owner) is None
    assert store.read(root) == inside[1].state


def test_a_conflict_of_two_requests_is_decided_by_what_is_there(s3_prefix: str, s3_door: Doorkeeper, owner: Owner):
    store = open_store(s3_prefix)
    s3_door.rule = once((409, "ConditionalRequestConflict"))
    lease = acquire(store, f"{s3_prefix}/step", owner)
    assert lease is not None
    s3_door.rule = once((409, "ConditionalRequestConflict"))
    lease.renew()
    assert lease.state.seq == 1


def test_whoever_paused_before_keeping_an_old_state_does_not_write_it_over_a_newer_one(
    s3_prefix: str, s3_door: Doorkeeper, owner: Owner
):
    """It takes the first attempt for abandoned; meanwhile that commits, and a third runner begins a second one."""
    root = f"{s3_prefix}/step"
    first = acquire(open_store(s3_prefix), root, owner)
    assert first is not None
    abandoned, others = first.state, open_store(s3_prefix)
    others.prepare()
    committed: list[State] = []

    def rule(method: str, path: str) -> Answer | None:
        if method == "PUT" and "history" in path and not committed:  # just before it arrives
            committed.append(first.end(SUCCEEDED, record={"root_digest": "r"}))
            assert acquire(others, root, owner, committed[0]) is not None
        return None

    s3_door.rule = rule
    assert acquire(open_store(s3_prefix), root, owner, abandoned) is None
    kept = others.get(StepPaths(root).history(abandoned))
    assert kept is not None and State.from_json(kept) == committed[0]


def test_a_plain_write_that_meets_another_is_tried_again(s3_prefix: str, s3_door: Doorkeeper):
    store = open_store(s3_prefix)
    s3_door.rule = once((409, "OperationAborted"), path="thing")
    store.put(f"{s3_prefix}/thing", b"1")
    assert store.get(f"{s3_prefix}/thing") == b"1"


def test_who_created_a_file_is_not_guessed_when_the_answer_was_lost(s3_prefix: str, s3_door: Doorkeeper, monkeypatch):
    monkeypatch.setattr("marin.io.objects._REQUEST_S", 1)
    store = open_store(s3_prefix)
    s3_door.rule = once(LOST, path="edge")
    with pytest.raises(OSError, match="not known whether this call"):
        store.create(f"{s3_prefix}/edge", b"")
    assert store.create(f"{s3_prefix}/edge", b"") is False


def test_a_renewal_that_cannot_be_written_is_borne_for_a_while(
    s3_prefix: str, s3_door: Doorkeeper, owner: Owner, monkeypatch: pytest.MonkeyPatch
):
    store = open_store(s3_prefix)
    lease = acquire(store, f"{s3_prefix}/step", owner)
    assert lease is not None
    monkeypatch.setattr("marin.io.objects._PATIENCE_S", 0.2)
    s3_door.rule = lambda method, path: (403, "ExpiredToken")
    lease.renew()
    s3_door.rule = lambda method, path: None
    lease.renew()
    assert lease.state.seq == 1


def test_a_log_shows_its_lines_while_it_grows(s3_prefix: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("marin.execution.object_store._LOG_EVERY_S", 0.05)
    store = open_store(s3_prefix)
    log = store.open_log(f"{s3_prefix}/log")
    log.write(b"one\n")
    while store.get(f"{s3_prefix}/log") != b"one\n":
        pass
    log.write(b"two\n")
    log.close()
    assert store.get(f"{s3_prefix}/log") == b"one\ntwo\n"


def test_numbers_that_a_step_draws_are_not_disturbed_by_waiting(s3_prefix: str, s3_door: Doorkeeper):
    import random

    random.seed(1)
    expected = random.random()
    random.seed(1)
    s3_door.rule = once((503, "SlowDown"), (503, "SlowDown"), method="GET", path="thing")
    open_store(s3_prefix).get(f"{s3_prefix}/thing")
    assert random.random() == expected


# -- whether a lease is stale, by the store's own clock ---------------------------------------------------------------


def running(owner: Owner, ttl: float = 60.0) -> State:
    return State(
        status=RUNNING,
        digest="d" * 64,
        epoch=1,
        seq=0,
        nonce=os.urandom(8).hex(),
        owner=owner,
        attempt="0001-n0",
        data_root="attempts/0001-n0",
        ttl=ttl,
    )


@pytest.fixture
def disk(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path, fsync=False)
    store.prepare()
    return store


def written_long_ago(store: LocalStore, state: State, ago_s: float) -> str:
    root = f"{store.prefix}/step"
    assert store.compare_and_swap(root, None, state)
    now = os.stat(StepPaths(root).state).st_mtime
    os.utime(StepPaths(root).state, (now - ago_s, now - ago_s))
    return root


def test_a_lease_that_was_last_renewed_long_ago_is_stale_at_first_sight(disk: LocalStore):
    state = running(ELSEWHERE)
    root = written_long_ago(disk, state, 63)
    assert Observer(store=disk).is_stale(root, state)
    assert not Observer().is_stale(root, state)  # nobody to ask but the own clock


@pytest.mark.parametrize("ago_s", [0, 30, 59])
def test_a_lease_that_may_still_be_renewed_is_not_stale(ago_s: float, disk: LocalStore):
    state = running(ELSEWHERE)
    root = written_long_ago(disk, state, ago_s)
    observer = Observer(lambda: 1e9, store=disk)
    assert not observer.is_stale(root, state) and not observer.is_stale(root, state)


def test_a_lease_that_is_renewed_is_not_stale_though_it_was_read_before(disk: LocalStore):
    state = running(ELSEWHERE)
    root = written_long_ago(disk, state, 1000)
    renewed = replace(state, nonce="n1", seq=1)
    assert disk.compare_and_swap(root, state, renewed)
    observer = Observer(store=disk)
    assert not observer.is_stale(root, state)  # as it was read a moment too early
    assert not observer.is_stale(root, renewed)


def test_the_lease_of_a_process_that_runs_here_is_waited_for_even_if_it_is_old(disk: LocalStore, owner: Owner):
    state = running(owner)  # this machine has slept, perhaps
    root = written_long_ago(disk, state, 1000)
    assert not Observer(store=disk).is_stale(root, state)


def test_a_folder_that_cannot_be_written_to_says_nothing_about_leases(disk: LocalStore, tmp_path: Path):
    state = running(ELSEWHERE)
    root = written_long_ago(disk, state, 1000)
    elsewhere = LocalStore(tmp_path / "without-exec-folder")
    assert not Observer(store=elsewhere).is_stale(root, state)


def test_an_object_stores_clock_is_asked_too(s3_prefix: str):
    import time

    store, state = open_store(s3_prefix), running(ELSEWHERE, ttl=0.5)
    root = f"{s3_prefix}/step"
    assert store.compare_and_swap(root, None, state)
    fresh = running(ELSEWHERE, ttl=60.0)
    assert store.compare_and_swap(f"{s3_prefix}/fresh", None, fresh)
    time.sleep(3.6)
    assert Observer(lambda: 0.0, store=store).is_stale(root, state)
    assert not Observer(lambda: 0.0, store=store).is_stale(f"{s3_prefix}/fresh", fresh)


def test_a_second_run_takes_over_at_once_what_another_machine_left_behind(tmp_path: Path):
    from marin.execution.executor import Executor, ExecutorStep

    step = ExecutorStep(name="left", fn=str, config="x")
    executor = Executor(tmp_path, fsync=False, quiet=True, lease_times=LeaseTimes())
    item = next(iter(executor.plan([step])))
    executor.store.prepare()
    root = executor.plan([step]).paths(item.node).root
    state = replace(running(ELSEWHERE), digest=item.node.digest)
    assert executor.store.compare_and_swap(root, None, state)
    os.utime(StepPaths(root).state, (0, 0))
    assert executor.run([step])[step].action == "ran"  # it would have waited for a minute
