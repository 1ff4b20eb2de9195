"""The protocol of the register, every way it can go: the one in use is safe, those that were not chosen are not.

The search and the variants are in `protocol_model`; that it finds faults is shown by the variants that have them.
"""

import os
import time
from dataclasses import dataclass, replace

import pytest
from protocol_model import OneRegister, StatusAndLock
from recording import RecordingStore

from marin.cluster import ResourceConfig
from marin.execution.executor import Executor, ExecutorStep, output_path_of, this_output_path
from marin.execution.gc import Policy, collect, find_garbage
from marin.execution.lease import LeaseTimes, acquire
from marin.execution.outputs import all_outputs
from marin.execution.plan import Choices
from marin.execution.status import active_run
from marin.execution.strike import revoke, strike_out

IN_USE = OneRegister(versions=6, epochs=3)
WITH_A_WORKER = OneRegister(versions=5, epochs=2, worker=True)
WITH_PEOPLE = OneRegister(versions=4, epochs=2, people=True)
WITH_LOST_REPLIES = OneRegister(versions=4, epochs=2, lost_replies=True)


# -- what was not chosen: the search finds what is wrong with it ------------------------------------------------------


def test_a_status_file_with_a_lock_beside_it_lets_two_runners_mix_their_outputs():
    found = StatusAndLock(locks=3, regression=False).explore()
    assert found.fault == "mixed outputs (2, 1) under SUCCEEDED"
    assert found.trace[-3:] == ("B: write RUNNING", "A: write SUCCEEDED", "B: write file 0")


def test_a_status_file_with_a_lock_beside_it_lets_a_success_be_taken_back():
    found = StatusAndLock(locks=3, regression=True).explore()
    assert found.fault == "SUCCEEDED became RUNNING"
    assert found.trace[-3:] == ("B: see that it is not done", "A: write SUCCEEDED", "B: write RUNNING")


def test_renaming_files_into_a_shared_place_before_the_commit_lets_a_late_runner_spoil_it():
    found = OneRegister(versions=6, epochs=3, staged=True).explore()
    assert found.fault == "the output of attempt 2 is (1, 2), its record says (2, 2)"
    assert found.trace[-4:] == ("B: rename", "A: rename", "B: rename", "B: Lease.end")


def test_taking_back_a_commit_whose_reply_was_lost_would_be_found():
    found = replace(WITH_LOST_REPLIES, commit_stands=False).explore()
    assert found.fault == "a committed output became FAILED"
    assert found.trace[-3:] == ("A: Lease.end (no reply)", "the network: Lease.end", "A: Lease.end")


def test_making_room_after_a_commit_whose_reply_was_lost_would_be_found():
    found = replace(WITH_LOST_REPLIES, room_at_once=True).explore()
    assert found.fault == "the output of attempt 1 is (0, 0), its record says (1, 1)"
    assert found.trace[-2:] == ("A: conclude: make room", "the network: Lease.end")


def test_a_gc_that_reads_the_register_before_it_lists_the_attempts_would_delete_a_commit():
    found = replace(WITH_PEOPLE, gc_reads_first=True).explore()
    assert found.fault == "the output of attempt 1 is (0, 1), its record says (1, 1)"
    assert found.trace[-3:] == ("A: Lease.end", "gc: list", "gc: delete_tree")


def test_a_gc_that_deletes_what_another_may_still_take_back_would_be_found():
    found = replace(WITH_PEOPLE, versions=5, gc_asks=False).explore()
    assert found.fault == "the output of attempt 1 is (0, 1), its record says (1, 1)"
    assert found.trace[-2:] == ("somebody: _is_needed", "gc: delete_tree")


# -- what is in use ----------------------------------------------------------------------------------------------------


def is_safe(protocol: OneRegister, num_states: int) -> None:
    found = protocol.explore()
    assert found.fault is None, (found.fault, found.trace)
    assert found.stuck == ()
    assert found.num_states == num_states  # a search that grew or shrank was changed: look whether on purpose


def test_one_register_that_names_the_attempts_folder_is_safe_and_never_stuck():
    is_safe(IN_USE, 38_774)


def test_it_is_safe_when_the_lease_is_handed_to_a_worker():
    is_safe(WITH_A_WORKER, 7_966)


def test_it_is_safe_while_outputs_are_struck_out_taken_back_and_evicted():
    is_safe(WITH_PEOPLE, 24_091)


def test_it_is_safe_when_replies_get_lost_and_writes_land_late():
    is_safe(WITH_LOST_REPLIES, 44_356)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "protocol",
    [
        OneRegister(versions=7, epochs=4),
        OneRegister(versions=5, epochs=3, worker=True, people=True),
        OneRegister(versions=5, epochs=3, lost_replies=True),
        OneRegister(versions=4, epochs=2, worker=True, people=True, lost_replies=True),
    ],
    ids=repr,
)
def test_it_is_safe_further_out(protocol):
    found = protocol.explore()
    print(f"{found.num_states:,} states")
    assert found.fault is None, (found.fault, found.trace)
    assert found.stuck == ()


# -- and the code does what the model does -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the steps here are told."""

    output_path: object
    how: str  # what happens: "", a name of an exception, or "slowly"
    inputs: tuple = ()


def work(config: Work) -> None:
    with open(os.path.join(config.output_path, "out"), "w") as file:
        file.write(config.how)
    if config.how == "slowly":
        time.sleep(0.2)
    elif config.how == "fails":
        raise ValueError(config.how)
    elif config.how == "stops":
        raise KeyboardInterrupt


def step(name: str, *inputs: ExecutorStep, how: str = "", **options) -> ExecutorStep:
    config = Work(output_path=this_output_path(), how=how, inputs=tuple(map(output_path_of, inputs)))
    return ExecutorStep(name=name, fn=work, config=config, **options)


def test_every_change_that_the_code_makes_is_one_of_the_model_and_the_other_way_round(tmp_path):
    # one runner is enough for the kinds of changes, and six writes for all of them
    alone = [replace(p, versions=6, epochs=2, names=("A",)) for p in (IN_USE, WITH_PEOPLE)]
    allowed = {
        (function, before.removesuffix(" for good"), after.removesuffix(" for good"), gained)
        for protocol in (WITH_A_WORKER, *alone)
        for function, before, after, gained in protocol.explore().changes
    }
    times = LeaseTimes(ttl_s=5.0, renew_s=0.01, fence_s=4.0)
    executor = Executor(tmp_path / "store", fsync=False, quiet=True, lease_times=times)
    store = executor.store = RecordingStore(executor.store)

    def root_and_digest(a_step: ExecutorStep) -> tuple[str, str]:
        node = executor.plan([a_step]).items[0].node
        return f"{store.prefix}/{node.path}", node.digest

    plain, slow = step("plain"), step("slow", how="slowly", resources=ResourceConfig.with_cpu())
    failing, stopping = step("failing", how="fails"), step("stopping", how="stops")
    assert executor.run([step("next", plain, slow)]).is_ok
    for _ in range(2):
        assert not executor.run([failing], force_run_failed=True).is_ok
        with pytest.raises(KeyboardInterrupt):
            executor.run([stopping])
    assert executor.run([plain], choices=Choices(force=("plain",))).is_ok

    abandoned = step("abandoned")
    root, digest = root_and_digest(abandoned)
    with active_run("aborted") as owner:
        lease = acquire(store, root, None, digest=digest, owner=owner, publish="attempt")
        lease.hand_over(replace(owner, run_id="worker"))
    assert executor.run([abandoned]).is_ok

    pinned = step("pinned", version="1")
    assert executor.run([pinned]).is_ok
    assert executor.run([step("pinned", how="other", version="1")], choices=Choices(accept_drift=True)).is_ok

    struck, kept, evicted = step("struck"), step("kept"), step("evicted")
    assert executor.run([struck, kept, evicted]).is_ok
    output = [output for output in all_outputs(store) if output.name == "struck"]
    first, second = strike_out(store, output, "wrong"), strike_out(store, output, "wrong for another reason too")
    revoke(store, first.id, "it was right")
    revoke(store, second.id, "in all respects")
    strike_out(store, output, "wrong after all")
    assert executor.run([struck], choices=Choices(rerun_tainted=True)).is_ok

    may_go = find_garbage(store, Policy(outputs=True, only_refs=True))
    of_kept = [garbage for garbage in may_go if garbage.path.startswith("kept-")]
    of_evicted = [garbage for garbage in may_go if garbage.path.startswith("evicted-")]
    assert collect(store, of_kept, Policy(outputs=True, keep_days=1.0)) == []  # it is young: taken back
    assert collect(store, of_evicted, Policy(outputs=True, only_refs=True)) == of_evicted
    assert executor.run([kept, evicted]).is_ok

    seen = set()
    for change in store.changes:
        before = change.before.status if change.before else "ABSENT"
        gained = change.after.epoch - (change.before.epoch if change.before else 0)
        as_in_model = {(caller, before, change.after.status, gained) for caller in change.callers} & allowed
        assert len(as_in_model) == 1, (change.callers[:4], before, change.after.status, gained)
        seen |= as_in_model
    assert seen == allowed
