"""Carry out a plan: start what is ready, commit what has ended, keep going where something failed.

Steps that ask for resources run as jobs of the current cluster, in processes of their own. The others run one at a
time in the thread that called `run`, normally the main thread: there they may use whatever a plain script may (signal
handlers, event loops), Ctrl-C reaches them at once, and environment variables are theirs alone. So two steps without
resources never run side by side: a step that takes long should ask for resources.

What to do next is decided under one lock, on events, and never waits for a step. A thread of its own looks for events;
but when a step in the calling thread has ended, that thread decides itself and goes on: to wake another one for it, and
be woken, would cost a quarter of a small step.

Order of a commit: data, manifest, forward edges, register. Only the last one makes the output exist.
"""

import contextlib
import functools
import heapq
import queue
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from marin.cluster.capacity import Allocation
from marin.cluster.current import current_cluster
from marin.cluster.job import Entrypoint, JobError, JobHandle, JobRequest, JobResult, error_of
from marin.cluster.local import InProcessCluster, environment_variables
from marin.cluster.retry import INTERRUPTIONS
from marin.execution.adoption import accept
from marin.execution.attempt import (
    Attempt,
    conclude,
    is_disk_full,
    prepare,
    recorded_error,
    with_packages,
)
from marin.execution.console import Console, StepOutput, duration
from marin.execution.dispatch import Dispatcher
from marin.execution.graph import Graph, Node
from marin.execution.inplace import clear_if_marked, may_resume
from marin.execution.lane import Lane
from marin.execution.launcher import Launcher, retry_of
from marin.execution.lease import Lease, LeaseLost, LeaseTimes, Observer, Renewer, acquire
from marin.execution.orphan import await_orphan, note_process
from marin.execution.plan import BLOCKED, FAILED_BEFORE, HIT, REFUSED, WAIT, Judge, Plan, has_drifted
from marin.execution.record import RunRecord
from marin.execution.remote import settle_patiently
from marin.execution.results import StepResult, settled
from marin.execution.scratch import scratch_root
from marin.execution.status import (
    CANCELLED,
    RUNNING,
    Owner,
    State,
)
from marin.execution.store import Store

if TYPE_CHECKING:
    from marin.execution.live import Scene

_CANCEL_GRACE_S = 10.0
_TIDYING_S = 1.0
_FIRST_POLL_S = 0.05
_LONGEST_POLL_S = 1.0
_RENEWED_AT_ONCE = 16


@dataclass(eq=False)
class _Running:
    """One attempt under way."""

    node: Node
    lease: Lease
    attempt: Attempt
    output: StepOutput
    handle: JobHandle | None = None
    allocation: Allocation | None = None  # what it holds of this machine
    python: str | None = None  # interpreter of its own environment
    timer: threading.Timer | None = None  # stops it when its time is over
    timed_out: bool = False
    is_preparing: bool = False  # in a thread of its own, before its job can be launched
    since: float = field(default_factory=time.monotonic)  # when it was launched
    stop: threading.Event = field(default_factory=threading.Event)  # tells who prepares it that nobody waits any more


@dataclass
class _Tries:
    """How often a step failed in this run: by itself, and because of the machine."""

    num_failures: int = 0
    num_preemptions: int = 0


class Runner:
    """Runs one plan once."""

    def __init__(
        self,
        plan: Plan,
        *,
        store: Store,
        owner: Owner,
        run_record: RunRecord,
        surroundings: Mapping[str, Any],
        console: Console,
        max_concurrent: int | None = None,
        times: LeaseTimes | None = None,
    ) -> None:
        self._plan = plan
        self._graph: Graph = plan.graph
        self._store = store
        self._owner = owner
        self._record = run_record
        self._console = console
        self._dispatcher = Dispatcher(plan, store, run_record.run_id, owner.user, surroundings)
        self._limit = max_concurrent
        self._times = times or LeaseTimes()
        self._observer = Observer(store=store)
        self._judge = Judge(store, plan.choices, self._observer)
        taint = self._judge.taint
        # a failure of the run that this one waited for is its failure too
        self._judge_waited = Judge(
            store, replace(plan.choices, force_run_failed=False, force=()), self._observer, taint
        )
        self._judge_retry = Judge(store, replace(plan.choices, force_run_failed=True), self._observer, taint)
        self._launcher = Launcher(current_cluster(), store, run_record.run_id, self._times)
        self._deciding = threading.Lock()
        self._events: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        self._lane = Lane(on_interrupt=lambda: self._events.put(("interrupt",)))
        self._renewer = Renewer(
            self._times,
            lambda lease, lost: self._events.put(("lost", lease, lost)),
            on_tick=self._look_for_cancellation,
            at_once=1 if store.is_local else _RENEWED_AT_ONCE,
        )
        self._results: dict[str, StepResult] = {}
        self._states: dict[str, State] = {}  # committed inputs
        self._order = {item.node.digest: i for i, item in enumerate(plan.items)}
        self._missing: dict[str, int] = {}  # blocking inputs that are not there yet
        self._readers: dict[str, list[str]] = {}
        self._ready_here: list[int] = []  # heaps of positions in the plan: steps that run in this process,
        self._ready_jobs: list[int] = []  # and steps that run as jobs
        self._waiting: set[str] = set()  # steps that another runner has
        self._waited: set[str] = set()  # those, and those that were
        self._running: dict[str, _Running] = {}
        self._preparing: list[threading.Thread] = []
        self._must_hurry = threading.Event()  # a second Ctrl-C: nobody waits for a store that does not answer
        self._tries: dict[str, _Tries] = {}  # steps that failed in this run and were tried again
        self._poll_s = _FIRST_POLL_S
        self._crash: BaseException | None = None
        self._began = time.monotonic()

    @property
    def results(self) -> tuple[StepResult, ...]:
        """Results so far, in the plan's order."""
        return tuple(self._results[i.node.digest] for i in self._plan if i.node.digest in self._results)

    # -- the calling thread ------------------------------------------------------------------------------------------

    def run(self) -> tuple[StepResult, ...]:
        """Carry out the plan; a result for each of its steps, in the plan's order.

        Ctrl-C (or SIGTERM, or SIGHUP) stops: nothing new starts, running steps are asked to end and get 10 seconds; a
        second one kills them. Both leave CANCELLED registers, and KeyboardInterrupt rises when all is written down.
        """
        scheduler = threading.Thread(target=self._schedule, name="marin-scheduler", daemon=True)
        with (
            environment_variables(self._dispatcher.variables_of_run),  # once, not again for each step
            self._drawn_live(),
        ):
            self._lane.serve(before=scheduler.start)
            scheduler.join()
        deadline = time.monotonic() + _TIDYING_S
        for thread in self._preparing:  # those that were given up delete what they fetched by half
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._crash is not None:
            raise self._crash
        if self._lane.interrupts:
            raise KeyboardInterrupt
        return self.results

    def _run_here(self, running: _Running) -> JobResult:
        if not self._store.is_local:
            prepare(self._store, running.attempt, running.stop)
        result = InProcessCluster().launch(self._request_here(running), on_output=running.output.feed).wait()
        assert result is not None
        return result

    @contextlib.contextmanager
    def _drawn_live(self) -> Iterator[None]:
        """Inside, a terminal shows what runs, below the lines."""
        if not self._console.can_draw:
            yield
            return
        from marin.execution.live import LiveView

        live = LiveView(self._console, self._scene)
        try:
            yield
        finally:
            live.close()

    def _scene(self) -> "Scene":
        """What a terminal shows of the run now."""
        from marin.execution.live import scene_of

        with self._deciding:
            return scene_of(
                self._plan,
                running={digest: (r.since, r.attempt.progress_path) for digest, r in self._running.items()},
                waiting=self._waiting,
                ready=[self._node_at(position).digest for position in sorted(self._ready_here + self._ready_jobs)],
                results=self._results,
                readers=self._readers,
                elapsed_s=time.monotonic() - self._began,
            )

    # -- the scheduling thread ---------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        try:
            with self._deciding:
                self._begin()
            while True:
                with self._deciding:
                    self._start_ready()
                    if len(self._results) == len(self._plan.items):
                        break
                    timeout_s = self._poll_s if self._waiting else None
                try:
                    event = self._events.get(timeout=timeout_s)
                except queue.Empty:
                    event = ("poll",)
                with self._deciding:
                    self._handle(*event)
        except BaseException as error:
            self._crash = error
            for running in list(self._running.values()):
                if running.handle is not None:
                    running.handle.cancel(0)
        finally:
            self._lane.close()
            self._renewer.close()

    def _handle(self, kind: str, *details: Any) -> None:
        if kind == "poll":
            self._poll_waiting()
        elif kind == "decided":
            pass  # by the calling thread: there may be nothing left to do, or something to wait for
        elif kind == "crashed":
            raise details[0]
        elif kind == "prepared":
            self._prepared(*details)
        elif kind == "ended":
            threading.Thread(target=self._conclude, args=details, name="marin-commit").start()
        elif kind == "concluded":
            self._concluded(*details)
        elif kind == "retry":
            if not self._lane.interrupts:
                self._make_ready(*details)
        elif kind == "lost":
            self._lost(*details)
        else:
            self._stop()

    def _begin(self) -> None:
        self._results = settled(self._plan, on_disk=self._store.is_local)
        for item in self._plan:
            if item.action == HIT:
                assert item.state is not None
                self._states[item.node.digest] = item.state
        self._console.cached([self._graph[digest].step.name for digest in self._states])
        for item in self._plan:
            node = item.node
            if node.digest in self._results:
                continue
            if item.action == FAILED_BEFORE:
                self._failed_before(node, item.state)
            elif item.action == BLOCKED:
                self._block(node)
            else:
                missing = [d for d in dict.fromkeys(node.deps) if d not in self._states]
                self._missing[node.digest] = len(missing)
                for digest in missing:
                    self._readers.setdefault(digest, []).append(node.digest)
                if not missing:
                    self._make_ready(node.digest)

    def _make_ready(self, digest: str) -> None:
        jobs = self._graph[digest].step.runs_as_process
        heapq.heappush(self._ready_jobs if jobs else self._ready_here, self._order[digest])

    def _start_ready(self) -> None:
        while not self._lane.interrupts and (self._limit is None or len(self._running) < self._limit):
            heads = []
            if self._ready_here and self._lane.is_free:
                heads.append(self._ready_here)
            # in order: a step that needs much is not overtaken for ever by steps that need little
            if self._ready_jobs and self._launcher.fits(self._node_at(self._ready_jobs[0]).step):
                heads.append(self._ready_jobs)
            if not heads:
                return
            self._start(self._node_at(heapq.heappop(min(heads))))

    def _node_at(self, position: int) -> Node:
        return self._plan.items[position].node

    def _start(self, node: Node) -> None:
        """Take the step's lease and start it; or see that there is no need to, or that it is another's."""
        paths = self._plan.paths(node)
        judge = self._judge_waited if node.digest in self._waited else self._judge
        if node.digest in self._tries:
            judge = self._judge_retry
        try:
            if (trouble := self._struck_out_since(node)) is not None:
                self._fail(node, trouble, text=trouble.message)
                return
            while True:
                state = self._store.read(paths.root)
                action, reason = judge.judge(node, state, paths)
                is_stale = state is not None and judge.stale_input(node, state, self._graph, self._states)
                if action == HIT and state is not None and not is_stale:
                    if has_drifted(node, state):  # another run committed it meanwhile
                        state = accept(self._store, paths.root, state, node.recipe, self._owner.user)
                    self._console.shared(node.step.name)
                    self._succeed(node, state, "cached")
                    return
                if action == FAILED_BEFORE:
                    self._failed_before(node, state)
                    return
                if action == WAIT:
                    self._wait_for(node, reason)
                    return
                if action in REFUSED:
                    self._fail(node, JobError(type=action.title(), message=reason), text=reason)
                    return
                if state is not None and state.status == RUNNING:
                    await_orphan(self._store, paths, state)
                used = self._dispatcher.used_states(node, self._states)
                lease = self._acquire(node, state, judge, used)
                if lease is not None:
                    break
        except (OSError, ValueError) as error:  # ValueError: the register is none, or another recipe's by now
            self._fail(node, error_of(error), text=f"could not start: {error}")
            return
        self._launch(node, lease, used)

    def _acquire(self, node: Node, state: State | None, judge: Judge, used: Mapping[str, State]) -> Lease | None:
        inputs: tuple[tuple[str, str], ...] = ()
        resumes = must_clear = False
        if node.step.publish == "inplace":
            inputs = tuple((digest, (other.record or {})["root_digest"]) for digest, other in used.items())
            resumes = (
                state is not None
                and may_resume(state, node.recipe, inputs)
                and not judge.begins_anew(node, state, self._owner.run_id)
            )
            must_clear = state is not None and not resumes  # at first nothing there is the executor's to delete
        return acquire(
            self._store,
            self._plan.paths(node).root,
            state,
            digest=node.digest,
            owner=self._owner,
            publish=node.step.publish,
            times=self._times,
            recipe=node.recipe,
            inputs=inputs,
            resumes=resumes,
            must_clear=must_clear,
        )

    def _struck_out_since(self, node: Node) -> JobError | None:
        """What is wrong with an input that was fine when the plan was made."""
        if not self._judge.taint.refresh():
            return None
        for digest in (*node.deps, *node.pseudo):
            state = self._states.get(digest) or self._store.read(self._plan.paths(self._graph[digest]).root)
            reason = self._judge.trouble_with(state) if state is not None else None
            if reason is not None and digest not in self._plan.consented:
                name = self._graph[digest].step.name
                return JobError(type="Tainted", message=f"its input {name} is {reason} (while this run was under way)")
        return None

    def _launch(self, node: Node, lease: Lease, used: Mapping[str, State]) -> None:
        tries = self._tries.get(node.digest, _Tries())
        attempt, error = self._dispatcher.attempt(
            node,
            lease,
            used,
            retry=retry_of(node.step, on_cluster=self._launcher.is_remote),
            tries=(tries.num_failures, tries.num_preemptions),
        )
        running = _Running(node=node, lease=lease, attempt=attempt, output=self._console.output_of(node.step.name))
        self._running[node.digest] = running
        self._renewer.add(lease, attempt.progress_path)  # on a cluster, until the worker has taken the lease over
        self._record.event("started", step=node.step.name, digest=node.digest, attempt=lease.state.attempt)
        self._console.started(node.step.name)
        try:
            if error is not None:
                raise error
            if self._store.is_local:
                clear_if_marked(self._store, lease)
                prepare(self._store, attempt)
            if not node.step.runs_as_process:
                self._console.lend()
                body, done = self._run_here, self._conclude_here
                self._lane.put(functools.partial(body, running), functools.partial(done, running))
                return
            running.allocation = self._launcher.take(node.step)
            if self._launcher.is_slow_to_prepare(node.step):
                running.is_preparing = True
                thread = threading.Thread(target=self._prepare, args=(running,), name="marin-prepare", daemon=True)
                self._preparing = [other for other in self._preparing if other.is_alive()] + [thread]
                thread.start()
            else:
                self._launch_job(running)
        except Exception as trouble:
            self._events.put(("ended", running, JobResult(error=error_of(trouble))))

    def _request_here(self, running: _Running) -> JobRequest:
        attempt = running.attempt
        return JobRequest(
            name=attempt.name,
            entrypoint=Entrypoint.from_callable(attempt.fn, (attempt.config,)),
            env=self._dispatcher.variables_of(running.node, attempt),
            log_path=attempt.log_path,
        )

    def _prepare(self, running: _Running) -> None:
        """What may take long before a job can be launched, in a thread of its own."""
        try:
            running.python = self._launcher.prepare(
                running.node.step, running.attempt, running.output.feed, running.stop
            )
            self._events.put(("prepared", running, None))
        except (Exception, KeyboardInterrupt) as trouble:
            self._events.put(("prepared", running, trouble))

    def _prepared(self, running: _Running, trouble: BaseException | None) -> None:
        if not running.is_preparing:  # it was given up meanwhile
            return
        running.is_preparing = False
        if trouble is not None:
            self._events.put(("ended", running, JobResult(error=error_of(trouble))))
            return
        if running.python is not None:
            running.attempt = with_packages(running.attempt, running.python)
        self._launch_job(running)

    def _give_up_preparing(self, running: _Running) -> None:
        running.is_preparing = False
        running.stop.set()
        error = JobError(type="KeyboardInterrupt", message="stopped while it was prepared", kind="cancelled")
        self._events.put(("ended", running, JobResult(error=error, cancelled=True)))

    def _launch_job(self, running: _Running) -> None:
        attempt = running.attempt
        try:
            if self._lane.interrupts:
                raise KeyboardInterrupt
            running.handle = self._launcher.launch(
                running.node,
                attempt,
                running.lease,
                env=self._dispatcher.variables_of(running.node, attempt),
                allocation=running.allocation,
                python=running.python,
                on_output=running.output.feed,
                on_end=lambda result: self._events.put(("ended", running, result)),
            )
        except KeyboardInterrupt as stopped:
            self._events.put(("ended", running, JobResult(error=error_of(stopped), cancelled=True)))
            return
        except Exception as trouble:
            self._events.put(("ended", running, JobResult(error=error_of(trouble))))
            return
        if running.handle.pid is not None:
            note_process(attempt.log_dir, running.handle.pid)
        if attempt.timeout_s is not None and not self._launcher.is_remote:
            running.timer = threading.Timer(attempt.timeout_s, self._time_is_over, (running,))
            running.timer.daemon = True
            running.timer.start()

    def _time_is_over(self, running: _Running) -> None:
        running.timed_out = True
        if running.handle is not None:
            running.handle.cancel(_CANCEL_GRACE_S)

    # -- waiting for other runners -----------------------------------------------------------------------------------

    def _wait_for(self, node: Node, reason: str) -> None:
        self._waiting.add(node.digest)
        if node.digest not in self._waited:
            self._waited.add(node.digest)
            self._poll_s = _FIRST_POLL_S
            self._console.waiting(node.step.name, reason)
            self._record.event("waiting", step=node.step.name, digest=node.digest, reason=reason)

    def _poll_waiting(self) -> None:
        self._look_for_cancellation()
        self._poll_s = min(self._poll_s * 1.5, _LONGEST_POLL_S)
        for digest in list(self._waiting):
            paths = self._plan.paths(self._graph[digest])
            with contextlib.suppress(OSError, ValueError):  # its start will meet the same trouble, and report it
                state = self._store.read(paths.root)
                if state is not None and state.status == RUNNING and not self._observer.is_stale(paths.root, state):
                    continue
            self._waiting.discard(digest)
            self._make_ready(digest)

    def _lost(self, lease: Lease, lost: LeaseLost) -> None:
        for running in self._running.values():
            if running.lease is lease and running.handle is not None:
                running.handle.cancel(_CANCEL_GRACE_S)
            elif running.lease is lease and running.is_preparing:
                self._give_up_preparing(running)

    def _look_for_cancellation(self) -> None:
        """`marin cancel` leaves word in the run's folder: for a run on another machine, the only way to reach it."""
        with contextlib.suppress(OSError):
            self._lane.interrupt(self._record.asked_to_stop())

    # -- the end of an attempt: in the thread that ran it, or one of its own ------------------------------------------

    def _conclude(self, running: _Running, result: JobResult) -> None:
        """Write down how the attempt ended, and tell the scheduling thread."""
        self._events.put(("concluded", *self._written(running, result)))

    def _conclude_here(self, running: _Running, result: JobResult) -> None:
        """The same in the calling thread, which then decides what is next."""
        ended = self._written(running, result)
        try:
            with self._deciding:
                self._concluded(*ended)
                self._start_ready()
                if self._lane.is_free or self._waiting:
                    self._events.put(("decided",))
        except BaseException as error:
            self._events.put(("crashed", error))

    def _written(
        self, running: _Running, result: JobResult
    ) -> tuple[_Running, JobResult, State | None, JobError | None]:
        """Write down how the attempt ended, whatever happens: what it came to."""
        state, error = None, None
        try:
            if running.timer is not None:
                running.timer.cancel()
            running.output.close()
            if self._launcher.is_remote and running.handle is not None:
                state, error, result = settle_patiently(
                    self._store, running.lease, running.attempt, result, self._must_hurry
                )
            else:
                state, error, result = self._write_end(running, result)
        except BaseException as trouble:
            error = error_of(trouble)
        return running, result, state, error

    def _write_end(self, running: _Running, result: JobResult) -> tuple[State | None, JobError | None, JobResult]:
        if running.timed_out and result.error is not None:
            message = f"not done after {duration(running.attempt.timeout_s or 0)} (timeout_s), so it was stopped"
            result = replace(result, error=JobError(type="Timeout", message=message), cancelled=False)
        return (*conclude(self._store, running.lease, running.attempt, result), result)

    # -- and what follows from it ------------------------------------------------------------------------------------

    def _concluded(self, running: _Running, result: JobResult, state: State | None, error: JobError | None) -> None:
        node = running.node
        name = node.step.name
        self._renewer.discard(running.lease)
        del self._running[node.digest]
        self._launcher.free(running.allocation)
        if not node.step.runs_as_process:
            self._lane.is_free = True
            self._console.take_back()
        measured = {
            "wall_s": result.wall_s,
            "cpu_s": result.cpu_s,
            "max_rss": result.max_rss,
            "log_path": running.attempt.log_path,
        }
        if state is None and error is None:
            self._console.lost(name)
            self._record.event("lost", step=name, digest=node.digest)
            if self._lane.interrupts:
                self._results[node.digest] = StepResult(node=node, action="cancelled", **measured)
            else:  # whoever took it over will finish it
                self._make_ready(node.digest)
            return
        if error is None:
            self._console.done(name, result.wall_s)
            self._succeed(node, state, "ran", measured)
        elif state is not None and state.status == CANCELLED:
            self._console.cancelled(name, result.wall_s)
            self._finish(StepResult(node=node, action="cancelled", error=error, **measured))
            if not self._lane.interrupts:  # the step raised KeyboardInterrupt itself: it means the run
                self._lane.interrupt(1)
        elif (delay_s := self._delay_before_retry(node, state, error)) is not None:
            self._try_again(node, error, result, delay_s)
        else:
            text = f"failed after {duration(result.wall_s)}: {error.type}: {error.message}"
            if result.exit_code not in (None, 0):
                text = f"exit {result.exit_code} after {duration(result.wall_s)}: {error.type}: {error.message}"
            if is_disk_full(error):
                place = self._plan.prefix if self._store.is_local else scratch_root()
                text += (
                    f"\n    the disk is full; {_free_text(place)} free at {place} now. "
                    "Nothing of this attempt counts as output"
                )
            self._fail(node, error, text=text, measured=measured, was_running=True)

    def _delay_before_retry(self, node: Node, state: State | None, error: JobError) -> float | None:
        """Seconds until the step is tried again, as its register says; None if it is not."""
        delay_s = (state.error or {}).get("retry_in_s") if state is not None else None
        if self._lane.interrupts or delay_s is None:
            return None
        tries = self._tries.setdefault(node.digest, _Tries())
        if error.kind in INTERRUPTIONS:
            tries.num_preemptions += 1
        else:
            tries.num_failures += 1
        return delay_s

    def _try_again(self, node: Node, error: JobError, result: JobResult, delay_s: float) -> None:
        tries = self._tries[node.digest]
        self._record.event(
            "retry",
            step=node.step.name,
            digest=node.digest,
            error=asdict(error),
            delay_s=round(delay_s, 3),
            num_failures=tries.num_failures,
            num_preemptions=tries.num_preemptions,
        )
        what = f"{error.kind.replace('_', ' ')} after {duration(result.wall_s)}: {error.type}: {error.message}"
        count = f"{tries.num_failures} failed, {tries.num_preemptions} interrupted"
        self._console.retried(node.step.name, f"{what}\n    tried again in {duration(delay_s)} ({count})")
        timer = threading.Timer(delay_s, self._events.put, (("retry", node.digest),))
        timer.daemon = True
        timer.start()

    def _succeed(self, node: Node, state: State | None, action: str, measured: Mapping[str, Any] | None = None) -> None:
        assert state is not None
        self._states[node.digest] = state
        output_path = self._plan.paths(node).data_root(state)
        self._finish(StepResult(node=node, action=action, output_path=output_path, **(measured or {})))
        for reader in self._readers.get(node.digest, ()):
            if reader in self._results:
                continue
            self._missing[reader] -= 1
            if self._missing[reader] == 0:
                self._make_ready(reader)

    def _fail(
        self,
        node: Node,
        error: JobError,
        *,
        text: str,
        measured: Mapping[str, Any] | None = None,
        was_running: bool = False,
    ) -> None:
        measured = measured or {}
        self._console.failed(node.step.name, text, log=measured.get("log_path"), was_running=was_running)
        self._finish(StepResult(node=node, action="failed", error=error, **measured))
        self._block_readers(node)

    def _failed_before(self, node: Node, state: State | None) -> None:
        assert state is not None
        error = recorded_error(state)
        log_path = f"{self._plan.paths(node).root}/{(state.error or {}).get('log', '')}"
        self._fail(
            node,
            error,
            text=f"failed in run {state.owner.run_id}: {error.type}: {error.message}\n"
            "    not run again; --force-run-failed runs it again",
            measured={"log_path": log_path},
        )

    def _block(self, node: Node) -> None:
        broken = [d for d in node.deps if d in self._results and not self._results[d].is_ok]
        name = self._graph[broken[0]].step.name if broken else "?"
        self._console.blocked(node.step.name, name)
        self._finish(StepResult(node=node, action="blocked"))

    def _block_readers(self, node: Node) -> None:
        pending = [node.digest]
        while pending:
            for reader in self._readers.get(pending.pop(), ()):
                if reader not in self._results:
                    self._block(self._graph[reader])
                    pending.append(reader)

    def _finish(self, result: StepResult) -> None:
        self._results[result.digest] = result
        self._record.event(
            result.action,
            step=result.name,
            digest=result.digest,
            wall_s=round(result.wall_s, 6),
            cpu_s=round(result.cpu_s, 6),
            max_rss=result.max_rss,
            **({"error": asdict(result.error), "log": result.log_path} if result.error else {}),
        )

    def _stop(self) -> None:
        grace_s = _CANCEL_GRACE_S if self._lane.interrupts == 1 else 0.0
        if not grace_s:
            self._must_hurry.set()
        if self._running:
            names = ", ".join(r.node.step.name for r in self._running.values())
            how = f"up to {grace_s:.0f} s; Ctrl-C again kills" if grace_s else "killing"
            if not grace_s and self._lane.is_in_body:
                how += "; what runs in this process catches Ctrl-C, and once more ends the process"
            self._console.line(f"interrupted: stopping {names} ({how})")
        for running in self._running.values():
            if running.handle is not None:
                running.handle.cancel(grace_s)
            elif running.is_preparing:
                self._give_up_preparing(running)
            else:  # in the calling thread
                running.stop.set()
        for item in self._plan:
            if item.node.digest not in self._results and item.node.digest not in self._running:
                self._waiting.discard(item.node.digest)
                self._finish(StepResult(node=item.node, action="cancelled"))


def _free_text(path: str) -> str:
    try:
        return f"{shutil.disk_usage(path).free / 1e9:.1f} GB"
    except OSError:
        return "nothing"
