"""The register of a step: who may change it, and when a lease may be taken over."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.execution import lease as leases
from marin.execution.lease import Lease, LeaseLost, LeaseTimes, Observer, Renewer
from marin.execution.status import CANCELLED, FAILED, RUNNING, SUCCEEDED, Owner, RegisterError, State, active_run
from marin.execution.store import LocalStore
from marin.testing.faults import Fault, FaultyStore

DIGEST = "d" * 64
ELSEWHERE = Owner(host="other", boot_id="b", pid_ns="n", pid=1, pid_start=1, run_id="r0", user="u")


@pytest.fixture
def store():
    return LocalStore(fsync=False)


@pytest.fixture
def owner():
    with active_run("run-1") as owner:
        yield owner


def acquire(store, root, owner, expected=None, **options) -> Lease | None:
    options = {"digest": DIGEST, "publish": "attempt", **options}
    return leases.acquire(store, str(root), expected, owner=owner, **options)


def test_a_step_without_a_register_has_no_state(store, tmp_path):
    assert store.read(str(tmp_path / "nothing")) is None


def test_an_attempt_is_acquired_and_committed_under_its_own_folder(store, tmp_path, owner):
    lease = acquire(store, tmp_path, owner)
    state = store.read(str(tmp_path))
    assert (state.status, state.epoch, state.owner) == (RUNNING, 1, owner)
    assert lease.data_root == f"{tmp_path}/attempts/{state.attempt}" and state.attempt.startswith("0001-")
    lease.end(SUCCEEDED, record={"root_digest": "r"})
    assert store.read(str(tmp_path)).record == {"root_digest": "r"}


def test_a_step_that_publishes_in_place_has_its_data_in_its_folder(store, tmp_path, owner):
    lease = acquire(store, tmp_path, owner, publish="inplace")
    assert lease.data_root == str(tmp_path)
    assert lease.log_dir == f"{tmp_path}/.exec/logs/{lease.state.attempt}"


def test_a_superseded_end_is_kept_in_the_history_and_the_epoch_grows(store, tmp_path, owner):
    failed = acquire(store, tmp_path, owner).end(FAILED, error={"type": "ValueError"})
    lease = acquire(store, tmp_path, owner, failed)
    assert lease.state.epoch == 2 and lease.state.attempt != failed.attempt
    kept = State.from_json((tmp_path / ".exec/history/0001.json").read_bytes())
    assert kept == failed


def test_of_two_runners_that_saw_the_same_register_one_acquires(store, tmp_path, owner):
    assert acquire(store, tmp_path, owner) is not None
    assert acquire(store, tmp_path, owner) is None


def test_whoever_was_taken_over_can_neither_renew_nor_commit(store, tmp_path, owner):
    first = acquire(store, tmp_path, owner)
    second = acquire(store, tmp_path, owner, first.state)
    with pytest.raises(LeaseLost, match="taken over"):
        first.end(SUCCEEDED, record={})
    with pytest.raises(LeaseLost):
        first.end(FAILED)
    second.renew()
    assert second.end(SUCCEEDED, record={}).epoch == 2


def test_a_lease_that_ended_is_not_renewed(store, tmp_path, owner):
    lease = acquire(store, tmp_path, owner)
    end = lease.end(CANCELLED)
    lease.renew()
    assert store.read(str(tmp_path)) == end


SWAP, READ = {"method": "compare_and_swap"}, {"method": "read"}


@pytest.mark.parametrize("kind", ["lost reply", "broken after"])
def test_a_write_that_took_effect_before_its_error_counts(store, tmp_path, owner, kind):
    faulty = FaultyStore(store, [Fault(kind=kind, **SWAP, times=3)])
    lease = acquire(faulty, tmp_path, owner)
    lease.renew()
    assert lease.end(SUCCEEDED, record={}) == store.read(str(tmp_path))
    assert store.read(str(tmp_path)).status == SUCCEEDED


def test_a_write_that_did_not_take_effect_raises_and_may_be_repeated(store, tmp_path, owner):
    faulty = FaultyStore(store, [Fault(kind="lost request", **SWAP)])
    with pytest.raises(TimeoutError):
        acquire(faulty, tmp_path, owner)
    lease = acquire(faulty, tmp_path, owner)
    faulty.add(Fault(kind="busy", **SWAP))
    with pytest.raises(BlockingIOError):
        lease.end(SUCCEEDED, record={})
    assert lease.end(SUCCEEDED, record={}) == store.read(str(tmp_path))


def test_a_renewal_that_lands_late_is_known_again(store, tmp_path, owner):
    lease = acquire(faulty := FaultyStore(store), tmp_path, owner)
    faulty.add(Fault(kind="late", **SWAP))
    lease.renew()
    assert faulty.land() == [True]
    assert lease.end(SUCCEEDED, record={}) == store.read(str(tmp_path))


@pytest.mark.parametrize("then", ["renew", "end"])
def test_a_commit_that_nobody_could_confirm_is_not_taken_back_once_it_stands(store, tmp_path, owner, then):
    """The reply got lost and so did the answer to the question after it: what was committed may be in use."""
    lease = acquire(faulty := FaultyStore(store), tmp_path, owner)
    faulty.add(Fault(kind="lost reply", **SWAP), Fault(kind="broken", **READ))
    with pytest.raises(OSError):
        lease.end(SUCCEEDED, record={"root_digest": "r"})
    assert lease.may_have_committed
    if then == "renew":
        lease.renew()
    committed = store.read(str(tmp_path))
    assert lease.end(FAILED, error={"type": "OSError"}) == committed == store.read(str(tmp_path))
    assert committed.status == SUCCEEDED


def test_a_commit_that_lands_after_the_failure_was_written_down_is_refused(store, tmp_path, owner):
    lease = acquire(faulty := FaultyStore(store), tmp_path, owner)
    faulty.add(Fault(kind="late", **SWAP))
    with pytest.raises(TimeoutError):
        lease.end(SUCCEEDED, record={})
    assert lease.end(FAILED, error={}).status == FAILED
    assert faulty.land() == [False] and store.read(str(tmp_path)).status == FAILED


def test_threads_that_change_one_register_lose_no_change(store, tmp_path, owner):
    start = acquire(store, tmp_path, owner).state
    won = []

    def count_up() -> None:
        for _ in range(25):
            while True:
                now = store.read(str(tmp_path))
                if store.compare_and_swap(str(tmp_path), now, replace(now, seq=now.seq + 1, nonce=os.urandom(8).hex())):
                    won.append(1)
                    break

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read(str(tmp_path)).seq == start.seq + len(won) == 100


text = st.text(max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | text, lambda v: st.dictionaries(text, v), max_leaves=5
)
states = st.builds(
    State,
    status=st.sampled_from([RUNNING, SUCCEEDED, FAILED, CANCELLED]),
    digest=text,
    epoch=st.integers(1, 9999),
    seq=st.integers(0),
    nonce=text,
    owner=st.builds(
        Owner,
        host=text,
        boot_id=st.none() | text,
        pid_ns=st.none() | text,
        pid=st.integers(0),
        pid_start=st.none() | st.integers(0),
        run_id=text,
        user=text,
    ),
    attempt=text,
    data_root=text,
    ttl=st.floats(1, 100),
    record=st.none()
    | st.dictionaries(text | st.sampled_from(["recipe", "files", "code_fingerprint", "env"]), json_values, max_size=4),
    extra=st.dictionaries(st.sampled_from(["later", "lateron"]), json_values, max_size=2),
)


@settings(max_examples=60, deadline=None)
@given(states)
def test_a_state_survives_writing_and_reading_fields_of_later_versions_too(state):
    written = state.to_json()
    assert State.from_json(written) == state and State.from_json(written).to_json() == written
    assert json.loads(written)["v"] == 1 and json.loads(written).get("record") == state.record


@settings(max_examples=30, deadline=None)
@given(states, st.sampled_from([None, 1]))
def test_a_register_of_another_layout_says_the_same(state, indent):
    assert State.from_json(json.dumps(json.loads(state.to_json()), indent=indent).encode() + b"\n") == state


@pytest.mark.parametrize("line_end", [b"\r\n", b" \n", b"\n\n"])
def test_a_register_whose_line_ends_were_changed_says_the_same(store, owner, tmp_path, line_end):
    committed = acquire(store, tmp_path, owner).end(SUCCEEDED, record={"files": 2, "env": {"python": "3.11"}})
    register = tmp_path / ".exec/state.json"
    assert b"\n" in register.read_bytes()
    register.write_bytes(register.read_bytes().replace(b"\n", line_end))
    assert store.read(str(tmp_path)) == committed


def test_what_few_ask_for_is_parsed_when_it_is_asked_for(store, owner, tmp_path):
    lease = acquire(store, tmp_path, owner)
    code = {"root": "0" * 64, "files": {"a.py": {"sha256": "1" * 64, "definitions": {"f": "2" * 16}}}}
    lease.end(SUCCEEDED, record={"name": "step", "files": 2, "code_fingerprint": code, "env": {"python": "3.11"}})
    register = tmp_path / ".exec/state.json"
    register.write_text(register.read_text().replace('"env":{', '"env":['))
    record = store.read(str(tmp_path)).record
    assert record["files"] == 2 and record["code_fingerprint"] == code and bool(record)
    with pytest.raises(RegisterError, match=r"\.exec/state\.json: the record in it is damaged .*restore it"):
        record["env"]


def test_a_file_that_is_no_register_is_named_with_a_way_out(store, tmp_path):
    (tmp_path / ".exec").mkdir()
    (tmp_path / ".exec/state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"state.json: not a register .*move the folder"):
        store.read(str(tmp_path))


# -- who is gone ------------------------------------------------------------------------------------------------------


def test_a_run_of_this_process_is_gone_when_it_has_ended():
    with active_run("run-a") as owner:
        assert not owner.is_gone()
    assert owner.is_gone()


def test_a_process_that_ended_is_gone_and_one_that_runs_is_not(owner):
    script = (
        "import json, sys; from dataclasses import asdict; from marin.execution.status import active_run\n"
        "with active_run('r') as owner: print(json.dumps(asdict(owner)), flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    other = Owner(**json.loads(process.stdout.readline()))
    assert not other.is_gone()
    process.kill()
    while process.poll() is None:
        pass
    assert other.is_gone()
    process.stdin.close()
    process.stdout.close()


def test_a_process_id_that_was_given_to_another_process_counts_as_gone(owner):
    assert replace(owner, pid=os.getppid(), pid_start=1).is_gone()


@pytest.mark.parametrize("field", ["boot_id", "pid_ns"])
def test_nothing_is_known_of_a_process_on_another_machine_or_in_another_container(owner, field):
    assert not replace(owner, pid=999_999_999, **{field: "another"}).is_gone()


def running_elsewhere(**changes) -> State:
    state = State(
        status=RUNNING,
        digest=DIGEST,
        epoch=1,
        seq=0,
        nonce="n0",
        owner=ELSEWHERE,
        attempt="0001-n0",
        data_root="attempts/0001-n0",
        ttl=60.0,
    )
    return replace(state, **changes)


def test_a_lease_is_stale_when_it_stood_unchanged_for_its_time_to_live():
    now = [0.0]
    observer = Observer(lambda: now[0])
    assert not observer.is_stale("step", running_elsewhere())
    now[0] = 59.9
    assert not observer.is_stale("step", running_elsewhere())
    now[0] = 60.0
    assert observer.is_stale("step", running_elsewhere())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 59.9), min_size=1, max_size=20), st.floats(-1e6, 1e6))
def test_a_lease_that_is_renewed_is_never_stale_whatever_the_clock_shows(gaps, skew):
    now = [skew]
    observer = Observer(lambda: now[0])
    for i, gap in enumerate(gaps):
        assert not observer.is_stale("step", running_elsewhere(nonce=f"n{i}"))
        now[0] += gap
        assert not observer.is_stale("step", running_elsewhere(nonce=f"n{i}"))


def test_the_renewer_renews_and_reports_what_was_lost(store, tmp_path, owner):
    times = LeaseTimes(ttl_s=1.0, fence_s=0.5, renew_s=0.01)
    lost = []
    told = threading.Event()
    renewer = Renewer(times, lambda lease, error: (lost.append(lease), told.set()))
    kept = acquire(store, tmp_path / "kept", owner, times=times)
    taken = acquire(store, tmp_path / "taken", owner, times=times)
    acquire(store, tmp_path / "taken", owner, taken.state)
    renewer.add(kept)
    renewer.add(taken)
    assert told.wait(10)
    while kept.state.seq == 0:
        pass
    renewer.close()
    assert lost == [taken]


def test_many_leases_of_a_slow_store_are_renewed_side_by_side(tmp_path, owner):
    at_once, most = set(), []

    class Slow(LocalStore):
        def compare_and_swap(self, root, *args, **kwargs):
            at_once.add(root)
            most.append(len(at_once))
            time.sleep(0.1)
            at_once.discard(root)
            return super().compare_and_swap(root, *args, **kwargs)

    slow, times = Slow(fsync=False), LeaseTimes(ttl_s=60.0, fence_s=50.0, renew_s=0.05)
    leases = [acquire(LocalStore(fsync=False), tmp_path / str(i), owner, times=times) for i in range(12)]
    renewer = Renewer(times, lambda *_: None, at_once=4)
    for lease in leases:
        renewer.add(Lease(slow, lease.paths, lease.state, times))
    deadline = time.monotonic() + 20
    while any(slow.read(lease.paths.root).seq == 0 for lease in leases):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    renewer.close()
    assert max(most) == 4


def test_a_lease_that_cannot_be_renewed_in_time_is_given_up(store, tmp_path, owner):
    times = LeaseTimes(ttl_s=0.3, fence_s=0.1, renew_s=0.01)
    lease = acquire(store, tmp_path / "step", owner, times=times)
    (tmp_path / "step").rename(tmp_path / "gone")  # as if the disk were unmounted
    lease.renew()  # for a while that is borne
    with pytest.raises(LeaseLost, match="could not renew the lease for"):
        while True:
            lease.renew()


def test_a_register_that_something_else_wrote_into_is_reported_as_lost(store, tmp_path, owner):
    told = threading.Event()
    renewer = Renewer(LeaseTimes(ttl_s=1.0, fence_s=0.5, renew_s=0.01), lambda *_: told.set())
    lease = acquire(store, tmp_path / "step", owner)
    Path(lease.paths.state).write_text("{")
    renewer.add(lease)
    assert told.wait(10)
    renewer.close()
    with pytest.raises(LeaseLost):
        lease.end("SUCCEEDED", record={})


@pytest.mark.parametrize("times", [{"renew_s": 0.0}, {"fence_s": 60.0}, {"renew_s": 50.0}])
def test_lease_times_that_cannot_work_are_refused(times):
    with pytest.raises(ValueError, match="0 < renew_s < fence_s < ttl_s"):
        LeaseTimes(**times)
