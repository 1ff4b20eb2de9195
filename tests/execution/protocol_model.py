"""The protocol of a step's register as a small machine, and a search through everything that it can do.

Two runners want one step. Each may stop, crash and begin again between any two of its operations, and may hold any
lease for stale at any moment: no assumption about time is left. What a runner does is written as in the code, and each
move carries the name of the function that makes it. The body writes two files, each with the number of its attempt in
it; an output is sound if both files are as the record of the commit says.

`explore` visits every state up to a number of writes to the register, breadth first, so the shortest way to a fault is
what it reports. The variants that this project did not choose are here too: they show that the search finds faults.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

ABSENT, RUNNING, SUCCEEDED, FAILED = "ABSENT", "RUNNING", "SUCCEEDED", "FAILED"
CANCELLED, INVALID, EVICTED, GONE = "CANCELLED", "INVALID", "EVICTED", "EVICTED for good"

NOTHING = (0, 0)  # the two files of an output before anything is written


class Register(NamedTuple):
    """The one register of a step."""

    status: str = ABSENT
    epoch: int = 0  # of the attempt, which it also names: an epoch is given out once
    version: int = 0  # counts writes
    writer: str = ""  # who wrote this version: it makes every write differ from every other, as the nonce does
    record: tuple[int, int] = NOTHING  # of a committed output: its manifest


class Run(NamedTuple):
    """What one runner, or one worker, remembers."""

    at: str = "idle"  # the operation that comes next
    held: Any = None  # the register as it last read or wrote it
    manifest: tuple[int, int] = NOTHING
    unsure: tuple[Register, ...] = ()  # its own writes whose replies were lost


class World(NamedTuple):
    """Everything there is."""

    register: Register
    files: tuple[tuple[int, int], ...]  # by attempt; the first is the place that all attempts share
    runs: tuple[Run, ...]
    flying: tuple[Any, ...] = ()  # (what it expects, what it writes, function): a write on its way without a reply
    gc: tuple[Any, ...] = ()  # what a collection of garbage under way remembers


class Move(NamedTuple):
    """One step from a world to the next."""

    who: str
    function: str  # the function of the code that does this
    after: Any


class Fault(Exception):
    """A state, or a move, that must not be."""


@dataclass(frozen=True, kw_only=True)
class Explored:
    """What a search found."""

    num_states: int
    fault: str | None  # what is wrong, None if nothing is
    trace: tuple[str, ...]  # the moves that lead there, shortest first
    stuck: tuple[Any, ...] = ()  # states from which a runner that goes on alone does not reach an output
    changes: frozenset[tuple[str, str, str, int]] = frozenset()  # (function, status before, after, epochs gained)


def explore(
    start: Any,
    moves: Callable[[Any], Iterator[Move]],
    check: Callable[[Any, Move], None],
    *,
    alone: tuple[str, ...] = (),
    is_goal: Callable[[Any], bool] = lambda world: False,
    must_reach: Callable[[Any], bool] = lambda world: False,
) -> Explored:
    """Visit all states; stop at the first fault. `alone`: who must be able to reach a goal without the others."""
    reached: dict[Any, tuple[Any, str] | None] = {start: None}
    order = [start]
    changes = set()
    backwards: dict[str, dict[Any, list[Any]]] = {who: {} for who in alone}
    for world in order:  # grows while it is read
        for move in moves(world):
            after = move.after
            if after not in reached:
                reached[after] = (world, f"{move.who}: {move.function}")
                order.append(after)
            try:
                check(world, move)
            except Fault as fault:
                trace = [f"{move.who}: {move.function}"]
                while (previous := reached[world]) is not None:
                    world = previous[0]
                    trace.append(previous[1])
                return Explored(num_states=len(reached), fault=str(fault), trace=tuple(reversed(trace)))
            if move.who in backwards:
                backwards[move.who].setdefault(after, []).append(world)
            before, now = getattr(world, "register", None), getattr(after, "register", None)
            if before is not now and before is not None and now is not None and before != now:
                changes.add((move.function, before.status, now.status, now.epoch - before.epoch))
    stuck = []
    for edges in backwards.values():
        able = {world for world in order if is_goal(world)}
        pending = list(able)
        while pending:
            for world in edges.get(pending.pop(), ()):
                if world not in able:
                    able.add(world)
                    pending.append(world)
        stuck += [world for world in order if must_reach(world) and world not in able]
    return Explored(num_states=len(reached), fault=None, trace=(), stuck=tuple(stuck[:3]), changes=frozenset(changes))


def _put(items: tuple, index: int, item: Any) -> tuple:
    return (*items[:index], item, *items[index + 1 :])


# -- one register, changed by compare-and-swap ------------------------------------------------------------------------

_HOLDING = ("write 0", "write 1", "manifest", "rename 0", "rename 1", "end")  # operations of a holder, in order
IDLE = Run()


@dataclass(frozen=True, kw_only=True)
class OneRegister:
    """The protocol, with what can be added to it or done wrong."""

    versions: int  # writes to the register that are followed
    epochs: int  # attempts that are followed
    staged: bool = False  # rename the files of an attempt to a place that all share, instead of naming its folder
    worker: bool = False  # the first runner hands its lease to a worker that carries the attempt out
    people: bool = False  # somebody strikes the output out and takes that back; a gc makes room
    gc_reads_first: bool = False  # the gc reads the register before it lists the attempts, not after
    gc_asks: bool = True  # the gc deletes what was evicted for good only, after which nobody takes it back
    lost_replies: bool = False  # the reply to a write may get lost, and the write land later
    commit_stands: bool = True  # a commit whose reply was lost, and that landed, is not overwritten with FAILED
    room_at_once: bool = False  # files of an attempt that seems to have failed are deleted before FAILED is written
    names: tuple[str, ...] = field(default=("A", "B"))

    def explore(self) -> Explored:
        runs = (IDLE,) * (len(self.names) + self.worker)
        start = World(Register(), (NOTHING,) * (self.epochs + 1), runs)
        return explore(
            start,
            self._moves,
            self._check,
            alone=self.names[1:] if self.worker else self.names,
            is_goal=lambda world: world.register.status == SUCCEEDED,
            # an attempt takes two writes, and one more after a reply that was lost
            must_reach=lambda world: (
                world.register.version <= self.versions - 2 - 2 * self.lost_replies
                and world.register.epoch < self.epochs
                and not world.flying
            ),
        )

    # what must hold

    def _check(self, before: World, move: Move) -> None:
        old, new = before.register, move.after.register
        if new.status in (SUCCEEDED, INVALID, EVICTED) and (self.gc_asks or new.status != EVICTED):
            found = move.after.files[0 if self.staged else new.epoch]
            if found != new.record:
                raise Fault(f"the output of attempt {new.epoch} is {found}, its record says {new.record}")
            if new.record != (new.epoch, new.epoch):
                raise Fault(f"attempt {new.epoch} committed files of {new.record}")
        if new == old:
            return
        if new.version != old.version + 1:
            raise Fault("a write skipped a version")
        is_forced = self.people and move.function == "acquire"
        if old.status == SUCCEEDED and new.status in (RUNNING, FAILED, CANCELLED) and not is_forced:
            raise Fault(f"a committed output became {new.status}")
        if new.epoch != old.epoch + (move.function == "acquire"):
            raise Fault("only a new attempt has a new epoch")

    # what a world can do next

    def _moves(self, world: World) -> Iterator[Move]:
        for index, name in enumerate(self.names):
            yield from self._runner(world, index, name)
        if self.worker:
            yield from self._worker(world)
        if self.people:
            yield from self._people(world)
        for expected, new, function in world.flying:  # lands, or is refused: either way it flies no more
            landed = world._replace(flying=())
            if world.register == expected:
                yield Move("the network", function, landed._replace(register=new))
            else:
                yield Move("the network", "refuse", landed)

    def _runner(self, world: World, index: int, name: str) -> Iterator[Move]:
        run, register = world.runs[index], world.register
        if run.at == "idle":
            # RUNNING: judged stale, which may be wrong; SUCCEEDED: forced by somebody
            if (register.status != SUCCEEDED or self.people) and register.epoch < self.epochs:
                yield Move(name, "Judge.judge", self._with(world, index, Run("acquire", register)))
            return
        yield Move(name, "crash", self._with(world, index, IDLE))
        if run.at == "acquire":
            new = Register(RUNNING, run.held.epoch + 1, run.held.version + 1, name)
            for answer, after in self._compare_and_swap(world, run.held, new, "acquire"):
                at = "submit" if self.worker and index == 0 else "write 0"
                yield Move(name, "acquire", self._with(after, index, Run(at, new) if answer else IDLE))
        elif run.at == "submit":  # to the worker, if that is free; the runner only watches from now on
            if world.runs[-1] == IDLE:
                after = self._with(world, index, run._replace(at="watch"))
                yield Move(name, "submit", self._with(after, -1, Run("hand over", run.held)))
        elif run.at == "watch":
            if world.runs[-1] == IDLE:
                yield Move(name, "wait", self._with(world, index, IDLE))
        else:
            yield from self._holder(world, index, name)

    def _worker(self, world: World) -> Iterator[Move]:
        run, index = world.runs[-1], len(world.runs) - 1
        if run.at == "idle":
            return
        yield Move("worker", "crash", self._with(world, index, IDLE))
        if run.at == "hand over":
            yield from self._swap(world, index, "worker", RUNNING, "Lease.hand_over", then="write 0")
        else:
            yield from self._holder(world, index, "worker")

    def _holder(self, world: World, index: int, name: str) -> Iterator[Move]:
        """What whoever holds, or believes to hold, the lease may do."""
        run = world.runs[index]
        epoch = run.held.epoch
        if run.at == "conclude":  # the commit's reply was lost: `attempt.conclude` writes down a failure
            if self.room_at_once:
                emptied = world._replace(files=_put(world.files, epoch, NOTHING))
                yield Move(name, "conclude: make room", self._with(emptied, index, run))
            yield from self._swap(world, index, name, FAILED, "Lease.end", then="idle")
            return
        yield from self._swap(world, index, name, RUNNING, "Lease.renew", then=run.at)
        yield from self._swap(world, index, name, FAILED, "Lease.end", then="idle")
        yield from self._swap(world, index, name, CANCELLED, "Lease.end", then="idle")
        if run.at in ("write 0", "write 1"):
            number = int(run.at[-1])
            written = _put(world.files, epoch, _put(world.files[epoch], number, epoch))
            at = "write 1" if number == 0 else "manifest"
            yield Move(name, "body", self._with(world._replace(files=written), index, run._replace(at=at)))
        elif run.at == "manifest":
            at = "rename 0" if self.staged else "end"
            seen = world.files[epoch]
            yield Move(name, "build_manifest", self._with(world, index, run._replace(at=at, manifest=seen)))
        elif run.at in ("rename 0", "rename 1"):
            number = int(run.at[-1])
            moved = _put(world.files, 0, _put(world.files[0], number, world.files[epoch][number]))
            at = "rename 1" if number == 0 else "end"
            yield Move(name, "rename", self._with(world._replace(files=moved), index, run._replace(at=at)))
        elif run.at == "end":
            yield from self._swap(world, index, name, SUCCEEDED, "Lease.end", then="idle")

    def _swap(self, world: World, index: int, name: str, status: str, function: str, *, then: str) -> Iterator[Move]:
        """`Lease._swap`: from the state that is held to a new one; a lease that is lost is given up."""
        run = world.runs[index]
        record = run.manifest if status == SUCCEEDED else NOTHING
        new = Register(status, run.held.epoch, run.held.version + 1, name, record)
        for answer, after in self._compare_and_swap(world, run.held, new, function):
            if answer is None:
                at = "conclude" if status == SUCCEEDED else "idle" if status != RUNNING else run.at
                kept = run._replace(at=at, unsure=tuple(sorted({*run.unsure, new})))
                yield Move(name, f"{function} (no reply)", self._with(after, index, kept if at != "idle" else IDLE))
            elif answer:
                kept = run._replace(at=then, held=new)
                yield Move(name, function, self._with(after, index, kept if then != "idle" else IDLE))
            elif world.register in run.unsure:  # an earlier write of its own landed late
                late = world.register
                if late.status != RUNNING and self.commit_stands:
                    yield Move(name, "Lease.end (stands)", self._with(world, index, IDLE))
                elif late.version < self.versions:
                    new = Register(status, late.epoch, late.version + 1, name, record)
                    kept = run._replace(at=then, held=new) if then != "idle" else IDLE
                    yield Move(name, function, self._with(world._replace(register=new), index, kept))
            else:
                yield Move(name, "LeaseLost", self._with(world, index, IDLE))

    def _compare_and_swap(
        self, world: World, expected: Register, new: Register, function: str
    ) -> list[tuple[bool | None, World]]:
        """(what the caller learns, the world then); None: no reply, and reading does not tell either."""
        if new.version > self.versions:
            return []
        if world.register != expected:
            return [(False, world)]
        answers: list[tuple[bool | None, World]] = [(True, world._replace(register=new))]
        if self.lost_replies and not world.flying:
            answers.append((None, world._replace(flying=((expected, new, function),))))
        return answers

    def _people(self, world: World) -> Iterator[Move]:
        register = world.register
        if register.version < self.versions:
            for function, before, status in (
                ("_settle_one", (SUCCEEDED, INVALID), INVALID),
                ("_settle_one", (INVALID,), SUCCEEDED),
                ("accept", (SUCCEEDED,), SUCCEEDED),
                ("_evict", (SUCCEEDED,), EVICTED),
                ("_is_needed", (EVICTED,), SUCCEEDED),
                ("_make_final", (EVICTED,), GONE),
            ):
                if register.status in before:
                    new = register._replace(status=status, version=register.version + 1, writer=function)
                    yield Move("somebody", function, world._replace(register=new))
        yield from self._gc(world)

    def _gc(self, world: World) -> Iterator[Move]:
        """Delete the attempts that the register no longer names, and the data of an output that was evicted."""
        gc = world.gc
        if gc:
            yield Move("gc", "crash", world._replace(gc=()))
        listed = tuple(epoch for epoch, files in enumerate(world.files) if epoch and files != NOTHING)
        read = (world.register.epoch, world.register.status)
        if not gc:
            if self.gc_reads_first:
                yield Move("gc", "read", world._replace(gc=("list", read)))
            elif listed:
                yield Move("gc", "list", world._replace(gc=("read", listed)))
        elif gc[0] == "list":
            yield Move("gc", "list", world._replace(gc=("delete", self._garbage(listed, gc[1]))))
        elif gc[0] == "read":
            yield Move("gc", "read", world._replace(gc=("delete", self._garbage(gc[1], read))))
        elif gc[1]:
            first, *rest = gc[1]
            for number in (0, 1):  # not at once: a kill may come between two files
                if world.files[first][number]:
                    left = _put(world.files[first], number, 0)
                    after = ("delete", gc[1] if left != NOTHING else tuple(rest))
                    yield Move("gc", "delete_tree", world._replace(files=_put(world.files, first, left), gc=after))
        else:
            yield Move("gc", "done", world._replace(gc=()))

    def _garbage(self, listed: tuple[int, ...], read: tuple[int, str]) -> tuple[int, ...]:
        epoch, status = read
        may_go = (GONE,) if self.gc_asks else (GONE, EVICTED)
        return tuple(e for e in listed if e != epoch or status in may_go)

    @staticmethod
    def _with(world: World, index: int, run: Run) -> World:
        return world._replace(runs=_put(world.runs, index % len(world.runs), run))


# -- a status file and a lock file beside it ---------------------------------------------------------------------------


class Locked(NamedTuple):
    """A world with a status file, a lock file, and one place for the output."""

    status: str
    lock: tuple[int, str]  # how often it was taken, by whom ("" for free)
    files: tuple[int, int]
    runs: tuple[tuple[str, int], ...]  # (next operation, number of the lock it took)


@dataclass(frozen=True, kw_only=True)
class StatusAndLock:
    """Take the lock, look again whether the work is done, write the status, work in place, write the status."""

    locks: int  # times that the lock is taken
    regression: bool  # whether SUCCEEDED that becomes RUNNING is a fault too, beside a mixed output
    names: tuple[str, ...] = ("A", "B")

    def explore(self) -> Explored:
        return explore(Locked(ABSENT, (0, ""), NOTHING, (("idle", 0),) * 2), self._moves, self._check)

    def _check(self, before: Locked, move: Move) -> None:
        after = move.after
        if self.regression and (before.status, after.status) == (SUCCEEDED, RUNNING):
            raise Fault("SUCCEEDED became RUNNING")
        if after.status == SUCCEEDED and after.files[0] != after.files[1]:
            raise Fault(f"mixed outputs {after.files} under SUCCEEDED")

    def _moves(self, world: Locked) -> Iterator[Move]:
        for index, name in enumerate(self.names):
            at, taken = world.runs[index]

            def to(at: str, taken: int = taken, index: int = index, **changes: Any) -> Locked:
                return world._replace(runs=_put(world.runs, index, (at, taken)), **changes)

            if at != "idle":
                yield Move(name, "crash", to("idle", 0))
            if at == "idle":
                if world.status != SUCCEEDED and world.lock[0] < self.locks:  # free, or judged stale
                    number = world.lock[0] + 1
                    yield Move(name, "take the lock", to("look", number, lock=(number, name)))
            elif at == "look":
                if world.status == SUCCEEDED:
                    yield Move(name, "see that it is done", to("idle", 0))
                else:
                    yield Move(name, "see that it is not done", to("start"))
            elif at == "start":
                yield Move(name, "write RUNNING", to("write 0", status=RUNNING))
            elif at in ("write 0", "write 1"):
                number = int(at[-1])
                files = _put(world.files, number, taken)
                yield Move(name, f"write file {number}", to("write 1" if number == 0 else "end", files=files))
            elif at == "end":
                yield Move(name, "write SUCCEEDED", to("release", status=SUCCEEDED))
            elif at == "release":
                mine = world.lock == (taken, name)
                yield Move(name, "release", to("idle", 0, lock=(taken, "") if mine else world.lock))
