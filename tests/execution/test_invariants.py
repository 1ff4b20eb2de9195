"""What must hold whatever runners, people and disks do, in any order: the invariants of the executor, by number.

Up to three runners work on one store at once, each with the real code (`acquire`, `Lease`, `Observer`, `Judge`,
`Dispatcher`, `conclude`), a clock that is up to an hour off, and a store that fails on command. Only the scheduling
is played: which runner does what next is drawn, so a runner may stop between any two operations, die, or come back
after its lease was taken. After every move all that can be looked at is looked at:

 1. one commit for each attempt; the epoch only grows; history is only added to
 2. a committed output is as its manifest says, until it is evicted
 3. a body starts only when all its inputs are committed and none is tainted; inputs that do not block never hold it up
 4. whatever happened, one living runner brings everything to its end, without waiting longer than leases live
 5. a body runs once, and once more for each takeover, each retry and each output that was made to go
 6. a lease that is renewed is never stolen, and clocks that are off steal nothing
 7. a write whose reply was lost is judged rightly
 8. what a plan says is what a run does, and a second run does nothing
 9. tainted is what was built on what was struck out, no less and no more, and nobody is served it unasked
10. an output is deleted only after its register says that it is evicted
11. whoever cancels or fails leaves no lease behind
12. records hold what readers need, and fields of later versions are kept
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from recording import Change, RecordingStore

from marin.cluster.job import JobError, JobResult
from marin.execution.attempt import Attempt, conclude, prepare
from marin.execution.dispatch import Dispatcher
from marin.execution.executor import Executor, ExecutorStep, output_path_of, this_output_path
from marin.execution.graph import Node, build_graph
from marin.execution.invalidation import Taint, all_tombstones
from marin.execution.lease import Lease, LeaseLost, LeaseTimes, Observer, acquire, swap
from marin.execution.manifest import build_manifest
from marin.execution.outputs import all_outputs
from marin.execution.plan import HIT, RUN, TAINTED, WAIT, Choices, Judge, make_plan
from marin.execution.record import utc
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
from marin.execution.store import LocalStore
from marin.execution.strike import revoke, strike_out
from marin.testing.faults import KINDS, Fault, FaultyStore, SimulatedCrash

TIMES = LeaseTimes()
HOUR = 3600.0
NAMES = ("a", "b", "c")
# (before, after, epochs gained): all that a register may do
ALLOWED = {
    *((None, RUNNING, 1), (RUNNING, RUNNING, 0), (RUNNING, RUNNING, 1)),
    *((RUNNING, ended, 0) for ended in (SUCCEEDED, FAILED, CANCELLED)),
    *((ended, RUNNING, 1) for ended in (SUCCEEDED, FAILED, CANCELLED, INVALID, EVICTED)),
    *((SUCCEEDED, INVALID, 0), (SUCCEEDED, EVICTED, 0), (SUCCEEDED, SUCCEEDED, 0)),
    *((EVICTED, EVICTED, 0), (EVICTED, SUCCEEDED, 0), (INVALID, SUCCEEDED, 0), (INVALID, INVALID, 0)),
}

Output = tuple[str, str]  # (digest, attempt)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the steps here are told."""

    output_path: object
    inputs: tuple = ()


def work(config: Work) -> None:
    """The identity of the bodies; what they do is played by `Runner.write`."""


def three_steps() -> list[ExecutorStep]:
    """b reads a; c reads a, and looks at b without waiting for it."""
    a = ExecutorStep(name="a", fn=work, config=Work(output_path=this_output_path()))
    b = ExecutorStep(name="b", fn=work, config=Work(output_path=this_output_path(), inputs=(output_path_of(a),)))
    follow = output_path_of(b).nonblocking()
    c = ExecutorStep(name="c", fn=work, config=Work(output_path=this_output_path(), inputs=(output_path_of(a), follow)))
    return [b, c]


@dataclass(eq=False)
class Task:
    """One attempt that a runner has under way."""

    node: Node
    lease: Lease
    attempt: Attempt
    written: int = 0  # of its two files
    fenced: bool = False  # given up for want of renewals


class Runner:
    """One process that runs steps, or what is left of it."""

    def __init__(self, world: "World", *, is_here: bool, skew_s: float) -> None:
        self.world = world
        self.skew_s = skew_s
        self.is_here = is_here
        self.is_paused = False
        self.is_dead = False
        self.tasks: dict[str, Task] = {}
        self.run_id = f"run-{len(world.runners)}"
        self._life = contextlib.ExitStack()
        owner = self._life.enter_context(active_run(self.run_id))
        # not here: another machine, of whose processes nobody can tell whether they live
        self.owner: Owner = owner if is_here else replace(owner, boot_id=f"boot-of-{self.run_id}", host="elsewhere")
        self.store = FaultyStore(world.recorded, sleep=world.pass_)
        self.observer = Observer(self.clock)
        self.dispatcher = Dispatcher(world.plan, self.store, self.run_id, owner.user, {})
        world.runners.append(self)

    def clock(self) -> float:
        return self.world.now + self.skew_s

    def die(self) -> None:
        """kill -9: nothing is tidied up, and only its own machine can tell."""
        self.is_dead = True
        self.store.is_dead = True
        self._life.close()

    @contextlib.contextmanager
    def trouble(self) -> Iterator[None]:
        """Inside, a crash is the end of this runner, and an error of the store one that it reports."""
        try:
            yield
        except SimulatedCrash:
            pass
        except OSError:
            pass
        if self.store.is_dead and not self.is_dead:
            self.die()

    def start(self, node: Node, choices: Choices) -> Task | None:
        """What `marin.execution.runner.Runner._start` does."""
        task = None
        with self.trouble():
            judge = Judge(self.store, choices, self.observer)
            states = {}
            for digest in node.deps:
                dep = self.world.plan.graph[digest]
                state = self.store.read(self.world.root(dep))
                if judge.judge(dep, state, self.world.paths(dep))[0] != HIT:
                    return None
                states[digest] = state
            root = self.world.root(node)
            state = self.store.read(root)
            if judge.judge(node, state, self.world.paths(node))[0] != RUN:
                return None
            if choices.takeover and state is not None:
                self.world.by_hand.add((state.nonce, self.run_id))
            num_changes, num_met = len(self.world.recorded.changes), len(self.store.met)
            try:
                lease = acquire(
                    self.store,
                    root,
                    state,
                    digest=node.digest,
                    owner=self.owner,
                    publish="attempt",
                    times=TIMES,
                    clock=self.clock,
                )
            except OSError:
                could_ask = all(method != "read" for _, method in self.store.met[num_met:])
                took_effect = len(self.world.recorded.changes) > num_changes
                assert not (took_effect and could_ask), "7: a write that took effect, and could be seen to, failed"
                raise
            if lease is None:
                return None
            assert self.world.has_applied(lease.state), "7: a lease whose write did not take effect"
            attempt, error = self.dispatcher.attempt(node, lease, states)
            if error is not None:
                conclude(self.store, lease, attempt, JobResult(error=JobError(type="E", message=str(error))))
                return None
            prepare(self.store, attempt)
            task = Task(node, lease, attempt)
            self.tasks[node.name] = task
            self.world.body_started(task, states)
        return task

    def write(self, task: Task) -> None:
        """The body goes on: it writes the next of its two files, each with its attempt's name in it."""
        text = f"{task.node.name} {task.lease.state.attempt}"
        # the folder may have been cleared away under a body that lost its step
        with contextlib.suppress(FileNotFoundError):
            Path(task.attempt.work_dir, f"file-{task.written}").write_text(text)
        task.written += 1

    def renew(self, task: Task) -> None:
        with self.trouble():
            try:
                task.lease.renew({"done": task.written, "total": 2})
            except LeaseLost as lost:
                task.fenced = "could not renew" in str(lost)
                self._check_lost(task)
                # the step is stopped; where it runs in the runner's process it goes on, as `tasks` does here

    def end(self, task: Task, result: JobResult) -> None:
        with self.trouble():
            state, error = conclude(self.store, task.lease, task.attempt, result)
            if self.store.is_dead:
                return
            del self.tasks[task.node.name]
            if state is not None:
                assert self.world.has_applied(state), "7: an end whose write did not take effect"
                assert (state.status == SUCCEEDED) == (error is None)
                assert self.world.raw.read(self.world.root(task.node)) == state, "11: it still holds what it ended"
            elif error is None:
                self._check_lost(task)

    def _check_lost(self, task: Task) -> None:
        current = self.world.raw.read(self.world.root(task.node))
        mine = current is not None and current.attempt == task.lease.state.attempt and current.status == RUNNING
        assert task.fenced or not mine, "7: a lease that is still held was given up for lost"


SUCCESS = JobResult(error=None, value={"n": 1})
FAILURE = JobResult(error=JobError(type="ValueError", message="no"))
FULL = JobResult(error=JobError(type="OSError", message="No space left on device", errno=28))
CANCEL = JobResult(error=JobError(type="KeyboardInterrupt", message=""), cancelled=True)


@dataclass(eq=False)
class World:
    """A store, three steps, and what is known of all that happened."""

    folder: str
    now: float = 0.0  # true time, in seconds
    runners: list[Runner] = field(default_factory=list)
    by_hand: set[tuple[str, str]] = field(default_factory=set)  # (nonce, run) that was told to take a lease over
    written_at: dict[str, float] = field(default_factory=dict)  # by nonce, true time
    num_seen: int = 0  # changes that were checked
    last: dict[str, State] = field(default_factory=dict)  # by root
    ends: dict[tuple[str, int], State] = field(default_factory=dict)  # last state of each epoch, by (root, epoch)
    commits: dict[Output, State] = field(default_factory=dict)
    num_starts: dict[str, int] = field(default_factory=dict)  # bodies that began, by step
    num_acquired: dict[str, int] = field(default_factory=dict)
    num_explained: dict[str, int] = field(default_factory=dict)  # takeovers, retries, outputs made to go
    started: set[Output] = field(default_factory=set)
    struck: set[Output] = field(default_factory=set)
    tainted: set[Output] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.raw = LocalStore(f"{self.folder}/store", fsync=False)
        self.raw.prepare()
        self.recorded = RecordingStore(self.raw)
        self.plan = make_plan(build_graph(three_steps(), prefix=self.raw.prefix), self.raw)
        self.nodes: Mapping[str, Node] = {item.node.name: item.node for item in self.plan}

    def root(self, node: Node) -> str:
        return f"{self.raw.prefix}/{node.path}"

    def paths(self, node: Node) -> StepPaths:
        return StepPaths(self.root(node))

    def pass_(self, seconds: float) -> None:
        self._take_note()  # of when the changes so far were made
        self.now += seconds

    def has_applied(self, state: State) -> bool:
        return any(change.after.nonce == state.nonce for change in self.recorded.changes)

    def body_started(self, task: Task, states: Mapping[str, State]) -> None:
        output = (task.node.digest, task.lease.state.attempt)
        assert output not in self.started, "5: a body began twice in one attempt"
        self.started.add(output)
        self.num_starts[task.node.name] = self.num_starts.get(task.node.name, 0) + 1
        for digest in task.node.deps:
            used = (digest, states[digest].attempt)
            assert used in self.commits or self.has_applied(states[digest]), "3: an input that was never committed"
            assert used not in self._tainted_now(), "3: an input that is struck out or tainted"

    # -- what must hold after every move

    def check(self) -> None:
        self._take_note()
        for name, node in self.nodes.items():
            state = self.raw.read(self.root(node))
            assert state == self.last.get(self.root(node)), "1: a register changed by itself"
            starts = self.num_starts.get(name, 0)
            assert starts <= self.num_acquired.get(name, 0) <= 1 + self.num_explained.get(name, 0), "5"
            if state is None:
                continue
            self._check_output(node, state)
            self._check_history(node, state)
            data = Path(self.paths(node).state).read_bytes()
            assert State.from_json(data).to_json() == data, "12: a register that does not survive being read"
        self._check_taint()

    def _take_note(self) -> None:
        for change in self.recorded.changes[self.num_seen :]:
            self._check_change(change)
        self.num_seen = len(self.recorded.changes)

    def _check_change(self, change: Change) -> None:
        before, after, root = change.before, change.after, change.root
        assert before == self.last.get(root), "1: a write over a state that nobody read"
        gained = after.epoch - (before.epoch if before else 0)
        assert (before.status if before else None, after.status, gained) in ALLOWED, "1: a change that must not be"
        name = next(n for n, node in self.nodes.items() if self.root(node) == root)
        if gained:
            self.num_acquired[name] = self.num_acquired.get(name, 0) + 1
            if before is not None:
                self.num_explained[name] = self.num_explained.get(name, 0) + 1
                assert before.status != SUCCEEDED or self._was_to_be_made_again(change), "5: an output made twice"
            if (
                before is not None
                and before.status == RUNNING
                and (before.nonce, after.owner.run_id) not in self.by_hand
            ):
                silent_s = self.now - self.written_at[before.nonce]
                assert before.owner.is_gone() or silent_s >= before.ttl, "6: a lease stolen from a living holder"
        elif before is not None:
            assert (before.attempt, before.data_root) == (after.attempt, after.data_root)
            assert before.extra.items() <= after.extra.items(), "12: a field of a later version was dropped"
        if after.status == SUCCEEDED and before is not None and before.status == RUNNING:
            output = (after.digest, after.attempt)
            assert output not in self.commits, "1: an attempt that was committed twice"
            self.commits[output] = after
            record = json.loads(json.dumps(after.record))
            for key in ("format", "digest", "name", "canonical", "inputs", "root_digest", "manifest_ref", "files"):
                assert key in record, f"12: a record without {key}"
        self.last[root] = after
        self.ends[root, after.epoch] = after
        self.written_at[after.nonce] = self.now

    def _was_to_be_made_again(self, change: Change) -> bool:
        assert change.before is not None
        output = (change.before.digest, change.before.attempt)
        return output in self.struck or output in self.tainted

    def _check_output(self, node: Node, state: State) -> None:
        may_be_used = (SUCCEEDED, INVALID) if is_final(state) else (SUCCEEDED, INVALID, EVICTED)
        if state.status not in may_be_used:
            return
        folder = self.paths(node).data_root(state)
        manifest = build_manifest(folder)
        assert manifest.root_digest == (state.record or {})["root_digest"], "2: a committed output changed"
        text = f"{node.name} {state.attempt}"
        assert {p.name: p.read_text() for p in Path(folder).iterdir()} == {"file-0": text, "file-1": text}, "2: mixed"

    def _check_history(self, node: Node, state: State) -> None:
        kept = self.raw.items(self.paths(node).history_dir)
        assert {item.name for item in kept if item.name.endswith(".json")} == {
            f"{epoch:04}.json" for epoch in range(1, state.epoch)
        }, "1: history with a gap"
        for epoch in range(1, state.epoch):
            data = Path(self.paths(node).history_dir, f"{epoch:04}.json").read_bytes()
            assert State.from_json(data) == self.ends[self.root(node), epoch], "1: history was changed"

    def _tainted_now(self) -> set[Output]:
        """What was struck out, and all that was built on it: by the records alone."""
        tainted = set(self.struck)
        while True:
            new = {
                output
                for output, state in self.commits.items()
                if output not in tainted
                and any((used["digest"], used["attempt"]) in tainted for used in (state.record or {})["inputs"])
            }
            if not new:
                return tainted
            tainted |= new

    def _check_taint(self) -> None:
        now = self._tainted_now()
        assert self.tainted <= now, "9: what was tainted is so no more"
        self.tainted = now
        taint, judge = Taint(self.raw), Judge(self.raw, Choices())
        for node in self.nodes.values():
            state = self.raw.read(self.root(node))
            if state is None or state.status not in (SUCCEEDED, INVALID):
                continue
            is_bad = taint.mark(state) is not None
            assert is_bad == ((state.digest, state.attempt) in now), "9: taint and records disagree"
            if is_bad:
                assert judge.judge(node, state, self.paths(node))[0] == TAINTED, "9: served unasked"

    # -- people

    def strike_out(self, node: Node, store: FaultyStore) -> None:
        """The real one, which a crash may stop between the tombstone and the register."""
        state = self.raw.read(self.root(node))
        found = [o for o in all_outputs(self.raw) if state is not None and o.key == (state.digest, state.attempt)]
        try:
            if found:
                strike_out(store, found, "wrong")
        finally:
            self._read_tombstones()

    def take_back(self, store: FaultyStore, which: int) -> None:
        """Take back one of the strikings out, if there is one."""
        standing = [tombstone for tombstone in all_tombstones(self.raw) if tombstone.revoked is None]
        try:
            if standing:
                revoke(store, standing[which % len(standing)].id, "it was right")
        finally:
            self._read_tombstones()

    def _read_tombstones(self) -> None:
        tombstones = all_tombstones(self.raw)
        before = self.struck
        self.struck = {(o["digest"], o["attempt"]) for t in tombstones if t.revoked is None for o in t.outputs}
        if before - self.struck:
            self.tainted = set()  # something was taken back

    def evict(self, node: Node, store: FaultyStore, how_far: int) -> None:
        """What `marin.execution.gc` does: evict; take that back, or make it final; only then delete."""

        def change(state: State, **changes) -> State | None:
            new = replace(state, seq=state.seq + 1, nonce=os.urandom(8).hex(), **changes)
            return new if swap(store, self.root(node), state, new) else None

        state = store.read(self.root(node))
        if state is not None and state.status == SUCCEEDED:
            state = change(state, status=EVICTED, evicted={"when": utc(), "is_final": False})
        if state is None or state.status != EVICTED or is_final(state) or how_far == 0:
            return
        if how_far == 1:
            change(state, status=SUCCEEDED, evicted=None)
        elif change(state, evicted={"when": utc(), "is_final": True}) is not None:
            store.delete_tree(self.paths(node).data_root(state))


def is_final(state: State) -> bool:
    """Whether an eviction may have begun to delete."""
    return bool((state.evicted or {}).get("is_final"))


METHODS = ("compare_and_swap", "compare_and_swap", "read", "put", "create", "delete_tree")
ONE_FAULT = [
    (Fault(kind=kind, method=method, skip=skip, times=times, slow_s=20.0),)
    for kind in KINDS
    for method in METHODS
    for skip in (0, 1)
    for times in (1, 3)
    if kind != "late" or method == "compare_and_swap"
]
# The hardest: the reply is lost, and so is the answer to the question whether the write took effect.
TWO_FAULTS = [
    (Fault(kind=kind, method="compare_and_swap"), Fault(kind="broken", method="read", skip=skip))
    for kind in ("lost reply", "late")
    for skip in (0, 0, 1)  # 1: where the register is read before it is written
]
FAULTS = st.one_of(st.just(()), st.just(()), st.sampled_from(ONE_FAULT), st.sampled_from(TWO_FAULTS))
CHOICES = [Choices(), Choices(), Choices(force_run_failed=True, rerun_tainted=True), Choices(takeover=True)]
# How often each move is drawn. One rule draws them all: of many rules Hypothesis leaves most out of each example, and
# hardly any would lead to a commit.
MOVES = {
    "run": 3,
    "start": 5,
    "renew": 3,
    "commit": 4,
    "end_badly": 1,
    "pause": 2,
    "resume": 2,
    "crash_and_begin_anew": 1,
    "wait": 2,
    "live": 2,
    "strike_out": 2,
    "take_back": 1,
    "evict": 1,
    "a_later_version_adds_a_field": 1,
}


@dataclass(frozen=True, kw_only=True)
class Move:
    """One thing that happens, with all that it might need; a move that makes no sense now changes nothing."""

    what: str  # a method of `Runners`
    who: int  # which of the runners that are at work
    which: int  # of the steps or attempts that it can befall
    number: int  # for whatever else there is to choose
    choices: Choices
    faults: tuple[Fault, ...]  # of the runner's store, from this move on
    lands: bool  # whether writes that are late land right after this move
    is_here: bool  # a new runner: on this machine
    skew_s: float  # a new runner: how far its clock is off


SKEWS = st.sampled_from([0.0, HOUR, -HOUR])
SOME = st.integers(0, 8)
moves = st.builds(
    Move,
    what=st.sampled_from([what for what, weight in MOVES.items() for _ in range(weight)]),
    who=SOME,
    which=SOME,
    number=SOME,
    choices=st.sampled_from(CHOICES),
    faults=FAULTS,
    lands=st.booleans(),
    is_here=st.booleans(),
    skew_s=SKEWS,
)


class Runners(RuleBasedStateMachine):
    """Everything that can happen, as moves to draw from."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="marin-invariants-")
        self.world = World(self.folder)

    @initialize(kinds=st.lists(st.tuples(st.booleans(), SKEWS), min_size=1, max_size=3))
    def begin(self, kinds):
        for is_here, skew_s in kinds:
            Runner(self.world, is_here=is_here, skew_s=skew_s)

    @rule(move=moves)
    def go_on(self, move):
        getattr(self, move.what)(move)
        if move.lands:
            self.land_late_writes(move)

    # -- who and what there is

    def _awake(self) -> list[Runner]:
        return [runner for runner in self.world.runners if not runner.is_dead and not runner.is_paused]

    def _runner(self, move: Move) -> Runner | None:
        awake = self._awake()
        return awake[move.who % len(awake)] if awake else None

    def _task(self, move: Move) -> tuple[Runner | None, Task | None]:
        found = [(runner, task) for runner in self._awake() for task in runner.tasks.values()]
        return found[move.which % len(found)] if found else (None, None)

    def _status(self, node: Node) -> str | None:
        state = self.world.raw.read(self.world.root(node))
        return state.status if state is not None else None

    def _committed(self, move: Move) -> Node | None:
        found = [node for node in self.world.nodes.values() if self._status(node) == SUCCEEDED]
        return found[move.which % len(found)] if found else None

    def _startable(self, runner: Runner) -> list[Node]:
        """The steps that may have something to start; all that the runner does not have already, if none has."""
        graph = self.world.plan.graph
        own = [node for name, node in self.world.nodes.items() if name not in runner.tasks]
        missing = [node for node in own if self._status(node) != SUCCEEDED]
        ready = [n for n in missing if all(self._status(graph[d]) == SUCCEEDED for d in n.deps)]
        return ready or own

    # -- moves

    def start(self, move: Move) -> tuple[Runner | None, Task | None]:
        runner = self._runner(move)
        nodes = self._startable(runner) if runner is not None else []
        if runner is None or not nodes:
            return None, None
        if move.what == "start":
            runner.store.add(*move.faults)
        task = runner.start(nodes[move.which % len(nodes)], move.choices)
        if task is None or task.node.name not in runner.tasks:
            return None, None
        for _ in range(move.number % 3):
            runner.write(task)
        return runner, task

    def run(self, move: Move) -> None:
        self._commit(*self.start(move), move)

    def commit(self, move: Move) -> None:
        self._commit(*self._task(move), move)

    def _commit(self, runner: Runner | None, task: Task | None, move: Move) -> None:
        if runner is not None and task is not None:
            while task.written < 2:
                runner.write(task)
            runner.store.add(*move.faults)
            runner.end(task, SUCCESS)

    def renew(self, move: Move) -> None:
        runner, task = self._task(move)
        if runner is not None and task is not None:
            runner.store.add(*move.faults)
            runner.renew(task)

    def end_badly(self, move: Move) -> None:
        runner, task = self._task(move)
        if runner is not None and task is not None:
            runner.store.add(*move.faults)
            runner.end(task, (FAILURE, FULL, CANCEL)[move.number % 3])

    def pause(self, move: Move) -> None:
        runner = self._runner(move)
        if runner is not None and len(self._awake()) > 1:
            runner.is_paused = True

    def resume(self, move: Move) -> None:
        for runner in self.world.runners:
            runner.is_paused = False

    def crash_and_begin_anew(self, move: Move) -> None:
        alive = [runner for runner in self.world.runners if not runner.is_dead]
        if len(alive) == 3:
            alive[move.who % 3].die()
        Runner(self.world, is_here=move.is_here, skew_s=move.skew_s)

    def land_late_writes(self, move: Move) -> None:
        self.world.check()  # what the move itself did
        for runner in self.world.runners:
            runner.store.land()

    def wait(self, move: Move) -> None:
        self.world.pass_((1.0, 20.0, 61.0, HOUR)[move.number % 4])

    def live(self, move: Move) -> None:
        """Time passes as it should: holders renew, and those that wait look."""
        for _ in range(1 + move.number):
            self.world.pass_(TIMES.renew_s)
            for runner in self._awake():
                for task in list(runner.tasks.values()):
                    runner.renew(task)
            for runner in self._awake():
                for node in self.world.nodes.values():
                    state = self.world.raw.read(self.world.root(node))
                    if state is not None and state.status == RUNNING:
                        runner.observer.is_stale(self.world.root(node), state)

    def strike_out(self, move: Move) -> None:
        node, runner = self._committed(move), self._runner(move)
        if node is not None and runner is not None:
            runner.store.add(*move.faults)
            with runner.trouble():
                self.world.strike_out(node, runner.store)

    def take_back(self, move: Move) -> None:
        runner = self._runner(move)
        if runner is not None:
            runner.store.add(*move.faults)
            with runner.trouble():
                self.world.take_back(runner.store, move.which)

    def evict(self, move: Move) -> None:
        nodes = [n for n in self.world.nodes.values() if self._status(n) in (SUCCEEDED, EVICTED)]
        runner = self._runner(move)
        if nodes and runner is not None:
            node = nodes[move.which % len(nodes)]
            runner.store.add(*move.faults)
            with runner.trouble():
                self.world.evict(node, runner.store, move.number % 3)

    def a_later_version_adds_a_field(self, move: Move) -> None:
        node = self._committed(move)
        if node is not None:
            root = self.world.root(node)
            state = self.world.raw.read(root)
            assert state is not None
            new = replace(state, seq=state.seq + 1, nonce=os.urandom(8).hex(), extra={"later": {"x": [1]}})
            assert self.world.recorded.compare_and_swap(root, state, new)

    @invariant()
    def all_that_must_hold_does(self):
        self.world.check()

    def teardown(self):
        try:
            self._one_runner_brings_all_to_an_end()
        finally:
            for runner in self.world.runners:
                if not runner.is_dead:
                    runner.die()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _one_runner_brings_all_to_an_end(self) -> None:
        """4: the others stay as they are, dead or stopped; then the stopped ones come back and spoil nothing."""
        world = self.world
        others = [runner for runner in world.runners if not runner.is_dead]
        survivor = Runner(world, is_here=False, skew_s=-HOUR)
        started = world.now
        choices = Choices(force_run_failed=True, rerun_tainted=True)
        while True:
            world.check()
            actions = []
            for name, node in world.nodes.items():
                judge = Judge(survivor.store, choices, survivor.observer)
                action, _ = judge.judge(node, survivor.store.read(world.root(node)), world.paths(node))
                actions.append(action)
                assert action in (HIT, RUN, WAIT)
                task = survivor.start(node, choices)
                if task is not None:
                    survivor.write(task)
                    survivor.write(task)
                    survivor.end(task, SUCCESS)
                    assert name not in survivor.tasks
            if actions == [HIT] * len(NAMES):
                break
            assert world.now - started <= 4 * TIMES.ttl_s, f"4: stuck at {actions}"
            world.pass_(10.0)
        assert make_plan(world.plan.graph, world.raw).count(HIT) == len(NAMES), "8: there is still work"
        done = dict(world.last)
        for runner in others:
            runner.store.heal()
            runner.store.land()
            for task in list(runner.tasks.values()):
                runner.write(task)
                runner.renew(task)
                runner.end(task, SUCCESS)
        world.check()
        for root, state in world.last.items():  # a late word of a person's may still land
            assert state == done[root] or state.status in (INVALID, EVICTED), "2: a zombie changed what was committed"


def profile(max_examples: int, steps: int) -> settings:
    return settings(
        max_examples=max_examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def test_whatever_runners_people_and_disks_do_the_invariants_hold():
    run_state_machine_as_test(Runners, settings=profile(40, 40))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_whatever_they_do_for_longer_the_invariants_hold():
    run_state_machine_as_test(Runners, settings=profile(400, 60))


# -- 8, with the executor itself ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What the steps below are told."""

    output_path: object
    name: str
    calls: str  # a file of this machine that gets a line for each call
    inputs: tuple = ()
    fails: bool = False


def traced(config: Traced) -> None:
    for folder in config.inputs:
        assert Path(folder, "out").exists()
    with open(config.calls, "a") as file:
        file.write(config.name + "\n")
    Path(config.output_path, "out").write_text(config.name)
    if config.fails:
        raise ValueError(config.name)


graphs = st.lists(st.tuples(st.sets(st.integers(0, 5), max_size=3), st.booleans()), min_size=1, max_size=6)


@settings(profile(25, 1))
@given(shape=graphs, first=st.sets(st.integers(0, 5), max_size=2))
def test_a_run_does_what_its_plan_says_and_a_second_one_nothing(shape, first):
    """8: some steps fail, some were made before; steps that read what failed are not run."""
    with tempfile.TemporaryDirectory() as folder:
        executor = Executor(f"{folder}/store", fsync=False, quiet=True)
        calls = Path(folder, "calls")
        steps: list[ExecutorStep] = []
        for number, (inputs, is_good) in enumerate(shape):
            used = tuple(output_path_of(steps[i]) for i in sorted(inputs) if i < number)
            config = Traced(
                output_path=this_output_path(),
                name=f"s{number}",
                calls=str(calls),
                inputs=used,
                fails=not is_good and number % 2 == 1,
            )
            steps.append(ExecutorStep(name=f"s{number}", fn=traced, config=config))
        executor.run([steps[i] for i in first if i < len(steps)] or steps[:1])
        before = calls.read_text().split()
        plan = executor.plan(steps)
        result = executor.run(steps)
        ran = calls.read_text().split()[len(before) :]
        blocked = {step.name for step in result.steps if step.action == "blocked"}
        assert len(ran) == len(set(ran))
        assert set(ran) == {item.node.name for item in plan if item.action == RUN} - blocked
        assert not blocked & set(ran)
        again = executor.plan(steps)
        assert again.count(RUN) == 0 and {i.node.name for i in again if i.action == HIT} == {
            step.name for step in result.steps if step.action in ("ran", "cached")
        }
        executor.run(steps)
        assert calls.read_text().split() == before + ran
