"""The right to run one attempt of a step: taken, renewed, handed over, ended, and lost.

A lease is a RUNNING register. Its holder renews it; whoever finds it unchanged for its whole time to live may take it
over. Correctness never hangs on that timing: an attempt that was taken over while it still ran cannot commit, because
its compare-and-swap is refused.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from marin.execution.status import EVICTED, EXEC, FAILED, RUNNING, SUCCEEDED, Owner, State, StepPaths
from marin.execution.store import Store
from marin.tracking.progress import read_progress


@dataclass(frozen=True, kw_only=True)
class LeaseTimes:
    """How long a lease lives and how often it is renewed, in seconds."""

    ttl_s: float = 60.0  # an observer that saw no change for this long may take over
    renew_s: float = 15.0  # the holder renews this often
    # A holder that could not renew for this long stops its step if that has a process of its own; one inside the
    # runner's process cannot be stopped and goes on, but its commit is refused.
    fence_s: float = 45.0

    def __post_init__(self) -> None:
        if not 0 < self.renew_s < self.fence_s < self.ttl_s:
            raise ValueError(f"lease times must satisfy 0 < renew_s < fence_s < ttl_s, got {self}")


def acquire(
    store: Store,
    root: str,
    expected: State | None,
    *,
    digest: str,
    owner: Owner,
    publish: str,
    times: LeaseTimes | None = None,
    accepted: tuple[Mapping[str, Any], ...] = (),
    recipe: str | None = None,
    inputs: tuple[tuple[str, str], ...] = (),
    resumes: bool = False,
    must_clear: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> "Lease | None":
    """Take the lease of a step for a new attempt; None if the register is no longer `expected`.

    `accepted`: what the register will say of recipes for which the output is accepted (`State.accepted`). `recipe`:
    the recipe that the attempt carries out (`State.recipe`). Of a step that publishes in place, `inputs` are the
    outputs that it will read, `resumes` says that it goes on from what `expected` left in the folder, and `must_clear`
    that what is there is none of its data: the folder is emptied before its function is called, by whoever has the
    lease then.

    The caller has judged `expected`: absent, an attempt that ended, an output that must not be served, or RUNNING and
    stale. How the earlier attempt stood, ended or abandoned, goes to the step's history. `clock`: by which the holder
    tells for how long it could not renew.
    """
    times = times or LeaseTimes()
    epoch = expected.epoch + 1 if expected else 1
    nonce = os.urandom(8).hex()
    attempt = f"{epoch:04}-{nonce[:8]}"
    is_inplace = publish == "inplace"
    earlier = expected if resumes else None
    state = State(
        status=RUNNING,
        digest=digest,
        epoch=epoch,
        seq=0,
        nonce=nonce,
        owner=owner,
        attempt=attempt,
        data_root="." if is_inplace else f"attempts/{attempt}",
        ttl=times.ttl_s,
        accepted=accepted,
        recipe=recipe if recipe != digest else None,
        inputs=inputs if is_inplace else (),
        began=((earlier and (earlier.began or earlier.attempt)) or attempt) if is_inplace else None,
        must_clear=is_inplace and (must_clear or (earlier is not None and earlier.must_clear)),
    )
    if not swap(store, root, expected, state, archive=True):
        return None
    return Lease(store, StepPaths(root), state, times, clock)


def swap(
    store: Store, root: str, expected: State | None, new: State, *, durable: bool = True, archive: bool = False
) -> bool:
    """Compare-and-swap whose outcome is known even where the store's answer is not.

    An error may come after the write took effect (a flush that fails after the rename, a reply that got lost): then
    the register's nonce says whether this write is the one that stands. Raises OSError if it is not.
    """
    try:
        return store.compare_and_swap(root, expected, new, durable=durable, archive=archive)
    except OSError:
        current = store.read(root)
        if current is None or current.nonce != new.nonce:
            raise
        return True


class LeaseLost(RuntimeError):
    """The register no longer names this attempt: another runner took the step over."""


class HandedOver(LeaseLost):
    """The attempt goes on, and another process holds its lease now: the one that carries it out."""


class RegisterGone(RuntimeError):
    """The register of a running attempt was deleted, most likely by the step itself."""


class Lease:
    """The right to run one attempt of one step and to say how it ended. Safe to use from several threads."""

    def __init__(
        self,
        store: Store,
        paths: StepPaths,
        state: State,
        times: LeaseTimes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.paths = paths
        self.times = times
        self._clock = clock
        self._store = store
        self._state = state
        self._mutex = threading.Lock()
        self._ended = False
        self._renewed = clock()
        self._unsure: dict[str, State] = {}  # writes whose outcome the store did not tell: they may land late

    @property
    def state(self) -> State:
        return self._state

    @property
    def data_root(self) -> str:
        """Absolute path of the folder into which this attempt writes."""
        return self.paths.data_root(self._state)

    @property
    def log_dir(self) -> str:
        """Absolute path of the folder for this attempt's logs."""
        return self.paths.logs(self._state)

    @property
    def may_have_committed(self) -> bool:
        """Whether a commit was tried of which nobody knows yet if it took effect: then the data must stay."""
        return any(state.status == SUCCEEDED for state in self._unsure.values())

    def _swap(self, new: State, durable: bool) -> None:
        """Change the register; afterwards `state` is what stands: `new`, or the end that an earlier call wrote."""
        root = self.paths.root
        try:
            won = swap(self._store, root, self._state, new, durable=durable)
            if not won and self._unsure:
                current = self._store.read(root)
                late = self._unsure.get(current.nonce) if current is not None else None
                if late is not None and late.status != RUNNING:
                    # That attempt has ended, and others may have seen how: a commit is never taken back.
                    new, won, self._ended = late, True, True
                elif late is not None:
                    self._state = late
                    new = replace(new, seq=late.seq + 1)
                    won = swap(self._store, root, late, new, durable=durable)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self._store.read(root) is None:
                raise RegisterGone(self._gone()) from error
            self._unsure[new.nonce] = new
            raise
        if not won:
            current = self._store.read(root)
            if current is None:
                raise RegisterGone(self._gone())
            self._ended = True
            if current.attempt == self._state.attempt and current.owner != self._state.owner:
                raise HandedOver(f"{root}: attempt {current.attempt} is held by process {current.owner.pid} now")
            raise LeaseLost(f"{root}: attempt {self._state.attempt} was taken over by another runner")
        self._state = new

    def _gone(self) -> str:
        return f"the step deleted its own register {self.paths.state}; empty the folder but for {EXEC}"

    def renew(self, progress: Mapping[str, Any] | None = None) -> None:
        """Show that the holder is alive, and how far the step is.

        Raises LeaseLost if the step was taken over, cannot be renewed in time, or has a register that is none.
        """
        with self._mutex:
            if self._ended:
                return
            new = replace(
                self._state,
                seq=self._state.seq + 1,
                nonce=os.urandom(8).hex(),
                progress=progress or self._state.progress,
            )
            try:
                # Not flushed: after a power cut the machine's boot id says that the owner is gone.
                self._swap(new, durable=False)
            except HandedOver:
                return
            except (OSError, RegisterGone) as error:
                silent_s = self._clock() - self._renewed
                if silent_s < self.times.fence_s:
                    return
                self._ended = True
                raise LeaseLost(
                    f"{self.paths.root}: could not renew the lease for {silent_s:.0f} s: {error}"
                ) from error
            except ValueError as error:  # something else wrote into the register
                self._ended = True
                raise LeaseLost(str(error)) from error
            self._renewed = self._clock()

    def confirm(self) -> None:
        """Renew; LeaseLost if the attempt does not hold its lease any more, also if that was known before."""
        self.renew()
        if self._ended:
            raise LeaseLost(f"{self.paths.root}: attempt {self._state.attempt} no longer holds its lease")

    def hand_over(self, owner: Owner) -> None:
        """Make `owner` the holder: the process that carries the attempt out, when it is not the one that took it.

        Who has the lease renews it until then, so it is looked up first. Raises LeaseLost if the step was taken over
        meanwhile.
        """
        with self._mutex:
            while True:
                current = self._store.read(self.paths.root)
                if current is None:
                    raise RegisterGone(self._gone())
                if current.status != RUNNING or current.attempt != self._state.attempt:
                    self._ended = True
                    raise LeaseLost(f"{self.paths.root}: attempt {self._state.attempt} was taken over meanwhile")
                new = replace(current, owner=owner, seq=current.seq + 1, nonce=os.urandom(8).hex())
                if swap(self._store, self.paths.root, current, new):
                    self._state, self._renewed = new, self._clock()
                    return

    def cleared(self) -> None:
        """Write down that the folder of the step was emptied (`State.must_clear`). Raises LeaseLost and OSError."""
        with self._mutex:
            self._swap(
                replace(self._state, must_clear=False, seq=self._state.seq + 1, nonce=os.urandom(8).hex()), durable=True
            )

    def end_without_register(self, *, error: Mapping[str, Any]) -> State:
        """Write a new register that says FAILED in place of the one that was deleted.

        Raises LeaseLost if there is one again: another runner began anew.
        """
        with self._mutex:
            self._ended = True
            new = replace(self._state, status=FAILED, seq=self._state.seq + 1, nonce=os.urandom(8).hex(), error=error)
            if not self._store.compare_and_swap(self.paths.root, None, new):
                raise LeaseLost(f"{self.paths.root}: attempt {self._state.attempt} was taken over by another runner")
            self._state = new
            return new

    def end(
        self, status: str, *, record: Mapping[str, Any] | None = None, error: Mapping[str, Any] | None = None
    ) -> State:
        """Swap the register to SUCCEEDED, FAILED or CANCELLED; the state that stands.

        That is another than the one asked for if an earlier call raised OSError and took effect all the same. Raises
        LeaseLost if the step was taken over, RegisterGone if it has no register any more.
        """
        with self._mutex:
            if self._state.nonce in self._unsure and self._state.status != RUNNING:
                return self._state
            if self._ended:
                raise LeaseLost(f"{self.paths.root}: attempt {self._state.attempt} no longer holds its lease")
            new = replace(
                self._state,
                status=status,
                seq=self._state.seq + 1,
                nonce=os.urandom(8).hex(),
                record=record,
                error=error,
                progress=None,
                must_clear=self._state.must_clear and status not in (SUCCEEDED, EVICTED),
            )
            self._swap(new, durable=True)
            self._ended = True
            return self._state


_CLOCK_STEP_S = 2.0  # stores tell times in whole seconds; two of them, each cut off


class Observer:
    """Judges other runners' leases by the process table, its own clock, and the store's.

    A lease is seen again and again until it has stood unchanged for its time to live. That waiting is spared where the
    store's clock, which alone is asked at both ends, already shows as much when the lease is first seen. Not for an
    owner on this machine that still runs: the machine may have slept, and it too is about to renew.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, store: Store | None = None) -> None:
        """`store`: where the leases are; without it, only waiting shows that one is stale."""
        self._clock = clock
        self._store = store
        self._seen: dict[str, tuple[str, float]] = {}

    def is_stale(self, root: str, state: State) -> bool:
        """Whether a RUNNING register may be taken over now. Call it again and again while waiting."""
        if state.owner.is_gone():
            return True
        now = self._clock()
        nonce, since = self._seen.get(root, (None, now))
        if nonce != state.nonce:
            self._seen[root] = (state.nonce, now)
            return nonce is None and self._is_old(root, state)
        return now - since >= state.ttl

    def _is_old(self, root: str, state: State) -> bool:
        if self._store is None or state.owner.is_here():
            return False
        try:
            age_s = self._store.age_s(StepPaths(root).state)
        except OSError:  # nothing can be written there, so the store's clock cannot be read; waiting will tell
            return False
        return age_s is not None and age_s >= state.ttl + _CLOCK_STEP_S


class Renewer:
    """One thread that renews all leases of a run; it starts with the first and ends with `close`.

    With every renewal it passes on what the step reports of its progress, and calls `on_tick`.
    """

    def __init__(
        self,
        times: LeaseTimes,
        on_lost: Callable[[Lease, LeaseLost], None],
        on_tick: Callable[[], None] | None = None,
        at_once: int = 1,
    ) -> None:
        """`at_once`: so many leases are renewed side by side, where a renewal is a request that takes its time."""
        self._times = times
        self._at_once = at_once
        self._on_lost = on_lost
        self._on_tick = on_tick
        self._leases: dict[Lease, str | None] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease, progress_path: str | None = None) -> None:
        """Renew this lease from now on; `progress_path`: a file of this machine in which the step reports."""
        with self._changed:
            self._leases[lease] = progress_path
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew_all, name="marin-lease", daemon=True)
                self._thread.start()

    def discard(self, lease: Lease) -> None:
        with self._changed:
            self._leases.pop(lease, None)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _renew_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed, timeout=self._times.renew_s)
                if self._closed:
                    return
                leases = list(self._leases.items())
            if self._on_tick is not None:
                self._on_tick()
            self._renew_each(leases)

    def _renew_each(self, leases: Sequence[tuple[Lease, str | None]]) -> None:
        pending = iter(leases)
        taking = threading.Lock()

        def work() -> None:
            while True:
                with taking:
                    lease, progress_path = next(pending, (None, None))
                if lease is None:
                    return
                try:
                    lease.renew(read_progress(progress_path) if progress_path else None)
                except LeaseLost as lost:
                    self.discard(lease)
                    self._on_lost(lease, lost)

        # daemons: the end of the process does not wait for a store that does not answer
        others = [threading.Thread(target=work, daemon=True) for _ in leases[1 : self._at_once]]
        for thread in others:
            thread.start()
        work()
        for thread in others:
            thread.join()
