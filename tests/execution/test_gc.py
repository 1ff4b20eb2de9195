"""Garbage collection deletes what nothing needs and nothing else, whenever it is killed."""

import hashlib
import json
from dataclasses import dataclass, replace

import pytest
from fake_store import FakeStore, Killed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marin.execution import gc
from marin.execution.gc import Policy, UnknownUseError, collect, find_garbage
from marin.execution.inplace import clear_if_marked, may_resume
from marin.execution.lease import acquire
from marin.execution.refs import pin
from marin.execution.status import (
    CANCELLED,
    EVICTED,
    FAILED,
    INVALID,
    RUNNING,
    SUCCEEDED,
    Owner,
    State,
    StepPaths,
    active_run,
)

DAY = 86400.0
HOUR = 3600.0
NOW = 400 * DAY


def elsewhere(run_id: str) -> Owner:
    """A runner of another machine: nobody here can tell whether it lives."""
    return Owner(host="far", boot_id="other", pid_ns="ns", pid=1, pid_start=1, run_id=run_id, user="u")


def gone(run_id: str) -> Owner:
    with active_run(run_id) as owner:
        pass
    return owner


@dataclass(frozen=True)
class Step:
    """One step of a made-up store."""

    status: str
    inputs: tuple[tuple[int, int], ...] = ()  # (step, which of its outputs)
    age_days: float = 100.0  # of its register
    publish: str = "attempt"
    num_older: int = 0  # outputs that were replaced
    dead_hours: tuple[float, ...] = ()  # ages of folders of attempts that made no output
    runner_is_gone: bool = False


@dataclass(frozen=True)
class Run:
    """One run of a made-up store."""

    plan: tuple[int, ...]
    age_days: float = 100.0
    status: str = SUCCEEDED
    is_tagged: bool = False


def digest_of(index: int) -> str:
    return hashlib.sha256(b"step %d" % index).hexdigest()


def root_of(store: FakeStore, index: int) -> str:
    return f"{store.prefix}/s{index}-{digest_of(index)[:10]}"


def attempt_of(index: int, number: int) -> str:
    return f"{number + 1:04}-{index:04x}{number:04x}"


def record_of(index: int, number: int, step: Step) -> dict:
    inputs = [
        {
            "digest": digest_of(other),
            "attempt": attempt_of(other, which),
            "root_digest": "r",
            "name": f"s{other}",
            "path": f"s{other}-{digest_of(other)[:10]}",
            "sub": None,
            "pseudo": False,
        }
        for other, which in step.inputs
    ]
    return {
        "name": f"s{index}",
        "digest": digest_of(index),
        "root_digest": f"{index}.{number}",
        "inputs": inputs,
        "bytes": 3,
        "ended": "2026-01-01T00:00:00Z",
        "publish": step.publish,
        "manifest_ref": f".exec/manifests/{attempt_of(index, number)}.json",
    }


def data_root(index: int, number: int, step: Step) -> str:
    return "." if step.publish == "inplace" else f"attempts/{attempt_of(index, number)}"


def build(steps: list[Step], runs: list[Run] = (), refs: tuple[tuple[int, int], ...] = ()) -> FakeStore:
    store = FakeStore()
    store.now = NOW - 200 * DAY
    store.put(f"{store.prefix}/.exec/probe", b"")
    for i, step in enumerate(steps):
        paths = StepPaths(root_of(store, i))
        last = step.num_older if step.publish == "attempt" else 0
        for number in range(last + 1):
            store.now = NOW - (step.age_days + last - number) * DAY
            is_last = number == last
            status = step.status if is_last else SUCCEEDED
            has_record = status in (SUCCEEDED, INVALID)
            state = State(
                status=status,
                digest=digest_of(i),
                epoch=number + 1,
                seq=1,
                nonce=f"{i}.{number}",
                owner=gone(f"run{i}") if step.runner_is_gone else elsewhere("run-live"),
                attempt=attempt_of(i, number),
                data_root=data_root(i, number, step),
                ttl=60.0,
                record=record_of(i, number, step) if has_record else None,
            )
            folder = paths.root if step.publish == "inplace" else f"{paths.root}/{state.data_root}"
            store.put(f"{folder}/a", b"a")
            store.put(f"{folder}/sub/b", b"bb")
            store.put(paths.manifest(state.attempt), b"{}")
            store.put(f"{paths.logs(state)}/stdout.log", b"hello\n")
            store.put(paths.state if is_last else paths.history(state), state.to_json())
        for number, hours in enumerate(step.dead_hours):
            store.now = NOW - hours * HOUR
            store.put(f"{paths.root}/attempts/{90 + number:04}-dead{number:04}/half", b"half")
        for other, _ in step.inputs:
            store.now = NOW - step.age_days * DAY
            store.create(f"{store.prefix}/.exec/used_by/{digest_of(other)}/{digest_of(i)}", b"")
    for number, run in enumerate(runs):
        store.now = NOW - run.age_days * DAY
        run_id = "run-live" if number == 0 else f"run-{number}"
        owner = elsewhere(run_id)
        content = {
            "run_id": run_id,
            "status": run.status,
            "owner": vars(owner),
            "plan": [{"digest": digest_of(i), "name": f"s{i}", "action": "RUN", "reason": ""} for i in run.plan],
            "targets": [digest_of(run.plan[-1])] if run.plan else [],
            "tags": ["paper"] if run.is_tagged else [],
        }
        store.put_json(f"{store.prefix}/.exec/runs/{run_id}/run.json", content)
    store.now = NOW
    for i, number in refs:
        ref = {
            "format": 1,
            "name": f"ref-{i}-{number}",
            "digest": digest_of(i),
            "attempt": attempt_of(i, number),
            "root_digest": "r",
            "step": f"s{i}",
            "path": "p",
            "when": "w",
            "user": "u",
        }
        store.put_json(f"{store.prefix}/.exec/refs/{ref['name']}.json", ref)
    store.num_writes = 0
    return store


# -- an oracle that is written apart from the collector ----------------------------------------------------------------


def must_stay(steps: list[Step], runs: list[Run], refs: tuple, policy: Policy) -> set[tuple[int, int]]:
    """(step, number of the output) that may not be deleted."""

    def outputs(i: int) -> list[tuple[int, int]]:
        last = steps[i].num_older if steps[i].publish == "attempt" else 0
        return [(i, n) for n in range(last + (steps[i].status in (SUCCEEDED, INVALID)))]

    everything = [o for i in range(len(steps)) for o in outputs(i)]
    if not policy.outputs:
        return set(everything)
    stay = {o for o in everything if o in refs}
    for i, step in enumerate(steps):
        if step.status == RUNNING and not step.runner_is_gone and step.age_days * DAY < HOUR:
            stay.update(outputs(i))
            stay.update(o for j in runs[0].plan for o in outputs(j))
        if step.status == INVALID:
            stay.add(outputs(i)[-1])
        if not policy.only_refs:
            last = step.num_older if step.publish == "attempt" else 0
            stay.update((j, n) for j, n in outputs(i) if step.age_days + last - n < policy.keep_days)
    for run in runs:
        if run.status == RUNNING and run.age_days < 7:
            stay.update(o for j in run.plan for o in outputs(j))
        if not policy.only_refs and run.age_days < policy.keep_days:
            stay.update(o for j in run.plan for o in outputs(j))
        if not policy.only_refs and run.is_tagged and run.plan:
            stay.update(outputs(run.plan[-1]))
    # what was struck out stays itself, without what it was made from
    keeps_inputs = {o for o in stay if not (steps[o[0]].status == INVALID and o == outputs(o[0])[-1])} | {
        o for o in stay if _is_root(o, steps, runs, refs, policy, outputs)
    }
    pending = list(keeps_inputs)
    while pending:
        i, _ = pending.pop()
        for used in steps[i].inputs:
            if used in everything and used not in keeps_inputs:
                keeps_inputs.add(used)
                stay.add(used)
                pending.append(used)
    return stay


def _is_root(output, steps, runs, refs, policy, outputs) -> bool:
    """Whether something other than having been struck out keeps an output."""
    i, n = output
    if output in refs:
        return True
    busy = any(s.status == RUNNING and not s.runner_is_gone and s.age_days * DAY < HOUR for s in steps)
    if busy and i in runs[0].plan:
        return True
    last = steps[i].num_older if steps[i].publish == "attempt" else 0
    if not policy.only_refs and steps[i].age_days + last - n < policy.keep_days:
        return True
    for run in runs:
        if i in run.plan and run.status == RUNNING and run.age_days < 7:
            return True
        if not policy.only_refs and i in run.plan and run.age_days < policy.keep_days:
            return True
        if not policy.only_refs and run.is_tagged and run.plan and run.plan[-1] == i:
            return True
    return False


def is_whole(store: FakeStore, index: int, number: int, step: Step) -> bool:
    root = root_of(store, index)
    folder = root if step.publish == "inplace" else f"{root}/attempts/{attempt_of(index, number)}"
    return f"{folder}/a" in store.files and f"{folder}/sub/b" in store.files


def check(store: FakeStore, steps: list[Step], stay: set[tuple[int, int]]) -> None:
    """What must stay is whole and served as before; of everything the record, manifest and logs are there."""
    for i, step in enumerate(steps):
        paths = StepPaths(root_of(store, i))
        state = store.read(paths.root)
        assert state is not None
        last = step.num_older if step.publish == "attempt" else 0
        for number in range(last + 1):
            attempt = attempt_of(i, number)
            assert paths.manifest(attempt) in store.files
            if (i, number) in stay:
                assert is_whole(store, i, number, step), f"s{i} output {number}"
                if number == last:
                    assert state.status == step.status
            if number < last or step.status in (SUCCEEDED, INVALID):
                states = [state] + [
                    State.from_json(data) for p, (data, _) in store.files.items() if p.startswith(paths.history_dir)
                ]
                assert any(s.record is not None and s.record["root_digest"] == f"{i}.{number}" for s in states), (
                    "its record is gone"
                )


def snapshot(store: FakeStore) -> dict[str, bytes]:
    return {path: data for path, (data, _) in store.files.items()}


# -- properties --------------------------------------------------------------------------------------------------------

ages = st.sampled_from([0.001, 0.5, 5.0, 20.0, 40.0, 100.0])


@st.composite
def stores(draw):
    number = draw(st.integers(1, 6))
    steps: list[Step] = []
    for i in range(number):
        publish = draw(st.sampled_from(["attempt", "attempt", "inplace"]))
        candidates = [
            (j, n)
            for j in range(i)
            for n in range((steps[j].num_older if steps[j].publish == "attempt" else 0) + 1)
            if n < steps[j].num_older or steps[j].status in (SUCCEEDED, INVALID)
        ]
        steps.append(
            Step(
                status=draw(st.sampled_from([SUCCEEDED] * 4 + [FAILED, CANCELLED, RUNNING, INVALID])),
                inputs=tuple(draw(st.lists(st.sampled_from(candidates), unique=True, max_size=3)))
                if candidates
                else (),
                age_days=draw(ages),
                publish=publish,
                num_older=draw(st.sampled_from([0, 0, 1, 2])) if publish == "attempt" else 0,
                dead_hours=tuple(draw(st.lists(st.sampled_from([0.1, 0.9, 1.1, 50.0]), max_size=2)))
                if publish == "attempt"
                else (),
                runner_is_gone=draw(st.booleans()),
            )
        )
    plans = st.lists(st.integers(0, number - 1), unique=True, max_size=number)
    runs = [
        Run(
            plan=tuple(draw(plans)),
            age_days=draw(ages),
            status=draw(st.sampled_from([SUCCEEDED, RUNNING])),
            is_tagged=draw(st.booleans()),
        )
        for _ in range(draw(st.integers(1, 3)))
    ]
    everything = [(i, n) for i, s in enumerate(steps) for n in range(s.num_older + (s.status == SUCCEEDED))]
    refs = tuple(draw(st.lists(st.sampled_from(everything), unique=True, max_size=2))) if everything else ()
    policy = Policy(
        outputs=draw(st.sampled_from([True, True, True, False])),
        keep_days=draw(st.sampled_from([0.0, 10.0, 30.0])),
        only_refs=draw(st.booleans()),
    )
    return steps, runs, refs, policy


laws = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@laws
@given(stores())
def test_what_is_reachable_stays_and_what_is_not_goes(made):
    steps, runs, refs, policy = made
    store = build(steps, runs, refs)
    stay = must_stay(steps, runs, refs, policy)
    collect(store, find_garbage(store, policy), policy)
    check(store, steps, stay)
    for i, step in enumerate(steps):
        state = store.read(root_of(store, i))
        last = step.num_older if step.publish == "attempt" else 0
        for number in range(last + (step.status in (SUCCEEDED, INVALID))):
            if (i, number) not in stay:
                assert not any(
                    p.startswith(f"{root_of(store, i)}/attempts/{attempt_of(i, number)}") for p in store.files
                )
                if step.publish == "inplace":
                    assert not is_whole(store, i, number, step)
                if number == last:
                    assert state.status == EVICTED


@laws
@given(stores())
def test_collecting_twice_is_collecting_once(made):
    steps, runs, refs, policy = made
    store = build(steps, runs, refs)
    collect(store, find_garbage(store, policy), policy)
    before = snapshot(store)
    assert find_garbage(store, policy) == []
    collect(store, [], policy)
    assert snapshot(store) == before


@settings(laws, max_examples=15)
@given(stores())
def test_killed_at_any_write_it_deletes_nothing_needed_and_the_next_one_completes(made):
    kill_at_every_write(*made)


@pytest.mark.slow
@settings(laws, max_examples=400)
@given(stores())
def test_killed_at_any_write_of_many_stores_it_does_so_too(made):
    kill_at_every_write(*made)


def kill_at_every_write(steps, runs, refs, policy) -> None:
    start = build(steps, runs, refs)
    stay = must_stay(steps, runs, refs, policy)
    whole = start.copy()
    collect(whole, find_garbage(whole, policy), policy)
    end = data_of(whole)
    for point in range(1, whole.num_writes + 1):
        store = start.copy()
        store.kill_at = point
        with pytest.raises(Killed):
            collect(store, find_garbage(store, policy), policy)
        store.kill_at = 0
        check(store, steps, stay)
        collect(store, find_garbage(store, policy), policy)
        check(store, steps, stay)
        assert data_of(store) == end
        assert find_garbage(store, policy) == []


def data_of(store: FakeStore) -> set[str]:
    """The files that are no records: outputs, and what attempts left."""
    return {path for path in store.files if "/.exec/" not in path}


# -- particular cases --------------------------------------------------------------------------------------------------


def test_by_default_only_what_never_was_an_output_goes():
    store = build([Step(SUCCEEDED, dead_hours=(0.5, 2.0)), Step(FAILED), Step(FAILED, age_days=0.01)], [Run(())])
    store.now = NOW - 2 * HOUR
    store.put(f"{store.prefix}/.exec/used_by/{digest_of(0)}/{'e' * 64}", b"")
    store.put(f"{root_of(store, 0)}/.exec/state.json.0123456789ab.tmp", b"torn")
    store.now = NOW
    store.put(f"{root_of(store, 0)}/.exec/state.json.aaaaaaaaaaaa.tmp", b"being written")
    found = find_garbage(store)
    assert sorted((item.kind, item.path.rpartition("/")[2]) for item in found) == [
        ("attempt", attempt_of(1, 0)),
        ("attempt", "0091-dead0001"),
        ("edge", "e" * 64),
        ("temporary", "state.json.0123456789ab.tmp"),
    ]


def test_what_a_step_at_work_reads_is_kept_whatever_its_age():
    steps = [Step(SUCCEEDED), Step(RUNNING, age_days=0.001, inputs=((0, 0),)), Step(SUCCEEDED)]
    store = build(steps, [Run((0, 1), age_days=300, status=RUNNING)])
    found = find_garbage(store, Policy(outputs=True, only_refs=True))
    assert [item.path.partition("-")[0] for item in found] == ["s2"]


def test_nothing_is_evicted_while_it_cannot_be_told_what_is_in_use():
    store = build([Step(SUCCEEDED), Step(RUNNING, age_days=0.001)])
    with pytest.raises(UnknownUseError, match="s1 is running in run run-live, whose record is not in this store"):
        find_garbage(store, Policy(outputs=True))
    store = build([Step(SUCCEEDED), Step(SUCCEEDED)])
    store.put(StepPaths(root_of(store, 1)).state, b"{")
    with pytest.raises(UnknownUseError, match="not a register"):
        find_garbage(store, Policy(outputs=True))
    assert find_garbage(store) == []


def test_what_a_run_or_a_ref_came_to_need_meanwhile_stays():
    store = build([Step(SUCCEEDED), Step(SUCCEEDED)], [Run(())])
    policy = Policy(outputs=True)
    found = find_garbage(store, policy)
    assert len(found) == 2

    class Late(FakeStore):
        """Another process starts a run just after the first eviction."""

        def compare_and_swap(self, root, expected, new, **options):
            won = super().compare_and_swap(root, expected, new, **options)
            if new.status == EVICTED and not self.get(f"{self.prefix}/.exec/runs/late/run.json"):
                plan = [{"digest": digest_of(0), "name": "s0", "action": "HIT", "reason": ""}]
                record = {"run_id": "late", "status": RUNNING, "owner": vars(elsewhere("late")), "plan": plan}
                self.put_json(f"{self.prefix}/.exec/runs/late/run.json", record)
            return won

    late = Late()
    late.now, late.files = store.now, store.files
    assert [item.path.partition("-")[0] for item in collect(late, found, policy)] == ["s1"]
    assert late.read(root_of(late, 0)).status == SUCCEEDED
    assert is_whole(late, 0, 0, Step(SUCCEEDED))


def test_an_eviction_that_became_final_is_not_taken_back():
    steps = [Step(SUCCEEDED)]
    store = build(steps, [Run(())])
    policy = Policy(outputs=True)
    whole = store.copy()
    collect(whole, find_garbage(whole, policy), policy)
    store.kill_at = whole.num_writes  # all but the last file is deleted
    with pytest.raises(Killed):
        collect(store, find_garbage(store, policy), policy)
    store.kill_at = 0
    store.put_json(
        f"{store.prefix}/.exec/runs/late/run.json",
        {"run_id": "late", "status": RUNNING, "owner": vars(elsewhere("late")), "plan": [{"digest": digest_of(0)}]},
    )
    assert [item.kind for item in find_garbage(store, policy)] == ["leftover"]
    collect(store, find_garbage(store, policy), policy)
    assert store.read(root_of(store, 0)).status == EVICTED
    assert not is_whole(store, 0, 0, steps[0])


def test_an_edge_that_a_commit_needs_meanwhile_comes_back():
    store = build([Step(SUCCEEDED), Step(FAILED, inputs=((0, 0),))], [Run(())])
    edge = f"{store.prefix}/.exec/used_by/{digest_of(0)}/{digest_of(1)}"

    class Committing(FakeStore):
        """The step commits at the moment its edge is deleted."""

        def delete(self, path):
            super().delete(path)
            if path == edge:
                root = root_of(self, 1)
                state = self.read(root)
                new = replace(state, status=SUCCEEDED, nonce="new", record=record_of(1, 0, Step(SUCCEEDED)), error=None)
                assert self.compare_and_swap(root, state, new)

    racing = Committing()
    racing.now, racing.files = store.now, store.files
    found = [item for item in find_garbage(racing) if item.kind == "edge"]
    assert len(found) == 1
    assert collect(racing, found) == []
    assert edge in racing.files


def test_a_ref_keeps_an_output_that_is_evicted_while_it_is_made():
    from marin.execution.catalog import read_step
    from marin.execution.executor import RefusedError

    store = build([Step(SUCCEEDED)], [Run(())])
    entry = read_step(store, root_of(store, 0))
    collect(store, find_garbage(store, Policy(outputs=True)), Policy(outputs=True))
    with pytest.raises(RefusedError, match="was changed meanwhile"):
        pin(store, entry, user="u")
    assert not store.items(f"{store.prefix}/.exec/refs")


def test_an_attempt_after_a_killed_deletion_in_place_starts_from_nothing():
    steps = [Step(SUCCEEDED, publish="inplace")]
    store = build(steps, [Run(())])
    policy = Policy(outputs=True)
    whole = store.copy()
    collect(whole, find_garbage(whole, policy), policy)
    halves = 0
    for point in range(1, whole.num_writes + 1):
        killed = store.copy()
        killed.kill_at = point
        with pytest.raises(Killed):
            collect(killed, find_garbage(killed, policy), policy)
        killed.kill_at = 0
        left = [p for p in killed.files if "/.exec/" not in p]
        state = killed.read(root_of(killed, 0))
        if state.status == RUNNING:
            resumes = may_resume(state, digest_of(0), ())
            lease = acquire(
                killed,
                root_of(killed, 0),
                state,
                digest=digest_of(0),
                owner=state.owner,
                publish="inplace",
                resumes=resumes,
                must_clear=not resumes,
            )
            clear_if_marked(killed, lease)
            assert not data_of(killed) and not killed.read(root_of(killed, 0)).must_clear
        halves += 0 < len(left) < 2
        if len(left) < 2 and state.status != RUNNING:
            assert state.status == EVICTED and not left
    assert halves


def test_the_record_of_an_evicted_output_says_how_to_make_it_again():
    store = build([Step(SUCCEEDED)], [Run(())])
    collect(store, find_garbage(store, Policy(outputs=True)), Policy(outputs=True))
    state = store.read(root_of(store, 0))
    assert state.status == EVICTED
    assert state.evicted["is_final"]
    assert state.record == json.loads(json.dumps(record_of(0, 0, Step(SUCCEEDED))))
    assert gc.is_evicted(store, StepPaths(root_of(store, 0)), state)
