"""Carry out a plan: start what is ready, commit what has ended, keep going where something failed.

One thread decides, on events; it never waits for a step. Steps that ask for resources run as jobs of the current
cluster, in processes of their own. The others run one at a time in the thread that called `run`, normally the main
thread: there they may use whatever a plain script may (signal handlers, event loops), Ctrl-C reaches them at once, and
environment variables are theirs alone. So two steps without resources never run side by side: a step that takes long
should ask for resources.

Order of a commit: data, manifest, forward edges, register. Only the last one makes the output exist.
"""

import contextlib
import errno
import heapq
import json
import os
import queue
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Any

from marin.cluster.current import current_cluster
from marin.cluster.job import Cluster, Entrypoint, JobError, JobHandle, JobRequest, JobResult, error_of
from marin.cluster.local import InProcessCluster
from marin.execution.console import Console, StepOutput, duration
from marin.execution.fingerprint import code_of
from marin.execution.graph import Graph, Node, resolve_config
from marin.execution.manifest import build_manifest
from marin.execution.plan import BLOCKED, FAILED_BEFORE, HIT, SKIP, WAIT, Plan, judge
from marin.execution.record import RunRecord, inputs_of, readable, utc
from marin.execution.status import (
    ABANDONED,
    CANCELLED,
    FAILED,
    NOT_DATA,
    RUNNING,
    SUCCEEDED,
    Lease,
    LeaseLost,
    LeaseTimes,
    LocalStore,
    Observer,
    Owner,
    RegisterGone,
    Renewer,
    State,
    StepPaths,
    process_is_alive,
    process_start,
)
from marin.io.atomic import append, fsync_directory, write_bytes, write_text

_CANCEL_GRACE_S = 10.0
_SIGNAL_LATENCY_S = 0.25
_ORPHAN_PATIENCE_S = 5.0
_FIRST_POLL_S = 0.05
_LONGEST_POLL_S = 1.0
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What became of one step in one run."""

    node: Node  # the step
    action: str  # cached, ran, failed, blocked, cancelled or skipped
    output_path: str | None = None  # absolute path of its committed data; None if it has none
    wall_s: float = 0.0  # seconds its function took in this run
    cpu_s: float = 0.0  # processor seconds
    max_rss: int | None = None  # peak resident bytes
    error: JobError | None = None  # why it failed
    log_path: str | None = None  # log of its last attempt

    @property
    def name(self) -> str:
        return self.node.step.name

    @property
    def digest(self) -> str:
        return self.node.digest

    @property
    def is_ok(self) -> bool:
        return self.action in ("cached", "ran", "skipped")

    def to_json(self) -> dict[str, Any]:
        """The step's entry in the run's record."""
        return {
            "digest": self.digest,
            "name": self.name,
            "action": self.action,
            "output": self.output_path,
            "wall_s": round(self.wall_s, 6),
            "cpu_s": round(self.cpu_s, 6),
            "max_rss": self.max_rss,
            "error": asdict(self.error) if self.error else None,
            "log": self.log_path,
        }


@dataclass(eq=False)
class _Running:
    """One attempt under way."""

    node: Node
    lease: Lease
    started: float  # seconds since the epoch
    log_path: str
    config: Any = None
    code: Mapping[str, str | None] = field(default_factory=dict)
    handle: JobHandle | None = None
    output: StepOutput | None = None


def _is_disk_full(error: JobError) -> bool:
    return error.errno in _DISK_FULL or "No space left on device" in error.message


class Runner:
    """Runs one plan once."""

    def __init__(
        self,
        plan: Plan,
        *,
        store: LocalStore,
        owner: Owner,
        run_record: RunRecord,
        environment: Mapping[str, Any],
        console: Console,
        force_run_failed: bool = False,
        max_concurrent: int | None = None,
        times: LeaseTimes | None = None,
    ) -> None:
        self._plan = plan
        self._graph: Graph = plan.graph
        self._store = store
        self._owner = owner
        self._record = run_record
        self._environment = environment
        self._console = console
        self._force = force_run_failed
        self._limit = max_concurrent
        self._times = times or LeaseTimes()
        self._observer = Observer()
        self._cluster: Cluster = current_cluster()
        self._cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._events: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        # What this thread puts in, the calling thread runs; None ends it.
        self._lane: queue.SimpleQueue[tuple[_Running, JobRequest] | None] = queue.SimpleQueue()
        self._lane_is_free = True
        self._in_body = False  # the calling thread is inside a step's function
        self._renewer = Renewer(self._times, lambda lease, lost: self._events.put(("lost", lease, lost)))
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
        self._poll_s = _FIRST_POLL_S
        self._interrupts = 0
        self._crash: BaseException | None = None

    @property
    def results(self) -> tuple[StepResult, ...]:
        """Results so far, in the plan's order."""
        return tuple(self._results[i.node.digest] for i in self._plan if i.node.digest in self._results)

    # -- the calling thread ------------------------------------------------------------------------------------------

    def run(self) -> tuple[StepResult, ...]:
        """Carry out the plan; a result for each of its steps, in the plan's order.

        Ctrl-C (or SIGTERM) stops: nothing new starts, running steps are asked to end and get 10 seconds; a second one
        kills them. Both leave CANCELLED registers, and KeyboardInterrupt rises when all is written down.
        """
        scheduler = threading.Thread(target=self._schedule, name="marin-scheduler", daemon=True)
        with self._interrupts_noted():
            scheduler.start()
            try:
                while (job := self._next_in_lane()) is not None:
                    running, request = job
                    self._conclude(running, self._run_here(running, request))
            except BaseException:  # thrown in from outside, by a signal handler that is not ours
                self._interrupts += 2
                self._events.put(("interrupt",))
                raise
            scheduler.join()
        if self._crash is not None:
            raise self._crash
        if self._interrupts:
            raise KeyboardInterrupt
        return self.results

    def _next_in_lane(self) -> tuple[_Running, JobRequest] | None:
        while True:
            try:
                # A signal that comes just before the wait begins is not noticed until it ends.
                return self._lane.get(timeout=_SIGNAL_LATENCY_S)
            except queue.Empty:
                continue

    def _run_here(self, running: _Running, request: JobRequest) -> JobResult:
        assert running.output is not None
        output = running.output
        if self._interrupts:
            return JobResult(error=JobError(type="KeyboardInterrupt", message=""), cancelled=True)
        try:
            try:
                self._in_body = True
                result = InProcessCluster().launch(request, on_output=output.feed).wait()
                assert result is not None
            finally:
                self._in_body = False
        except BaseException as error:  # the log could not be opened, or the interrupt came just outside the step
            self._in_body = False
            result = JobResult(error=error_of(error), cancelled=isinstance(error, KeyboardInterrupt))
        return result

    @contextlib.contextmanager
    def _interrupts_noted(self) -> Iterator[None]:
        """Inside, Ctrl-C and SIGTERM are events of this run, and an exception only in the step that runs here."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's business
            return
        import signal

        def note(number: int, frame: Any) -> None:
            self._interrupts += 1
            self._events.put(("interrupt",))
            if self._in_body:
                raise KeyboardInterrupt

        before = {}
        for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            if signal.getsignal(number) == usual:  # someone else's handler, or "ignore", stays
                before[number] = signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # -- the scheduling thread ---------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        try:
            self._begin()
            while len(self._results) < len(self._plan.items):
                self._start_ready()
                if len(self._results) == len(self._plan.items):
                    break
                try:
                    event = self._events.get(timeout=self._poll_s if self._waiting else None)
                except queue.Empty:
                    self._poll_waiting()
                    continue
                self._handle(*event)
        except BaseException as error:
            self._crash = error
            for running in list(self._running.values()):
                if running.handle is not None:
                    running.handle.cancel(0)
        finally:
            self._lane.put(None)
            self._renewer.close()

    def _handle(self, kind: str, *details: Any) -> None:
        if kind == "ended":
            threading.Thread(target=self._conclude, args=details, name="marin-commit").start()
        elif kind == "concluded":
            self._concluded(*details)
        elif kind == "lost":
            self._lost(*details)
        else:
            self._stop()

    def _begin(self) -> None:
        cached = []
        for item in self._plan:
            node = item.node
            if item.action == HIT:
                assert item.state is not None
                self._states[node.digest] = item.state
                paths = self._plan.paths(node)
                _link_data(paths, item.state)
                self._results[node.digest] = StepResult(
                    node=node, action="cached", output_path=paths.data_root(item.state)
                )
                cached.append(node.step.name)
        if not self._plan.is_done:
            self._console.cached(cached)
        for item in self._plan:
            node = item.node
            if item.action == HIT:
                continue
            if item.action == SKIP:
                self._results[node.digest] = StepResult(node=node, action="skipped")
            elif item.action == FAILED_BEFORE:
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
        here = self._graph[digest].step.resources is None
        heapq.heappush(self._ready_here if here else self._ready_jobs, self._order[digest])

    def _start_ready(self) -> None:
        while not self._interrupts and (self._limit is None or len(self._running) < self._limit):
            heads = []
            if self._ready_here and self._lane_is_free:
                heads.append(self._ready_here)
            # in order: a step that needs much is not overtaken for ever by steps that need little
            if self._ready_jobs and self._fits(self._node_at(self._ready_jobs[0]).step.resources):
                heads.append(self._ready_jobs)
            if not heads:
                return
            self._start(self._node_at(heapq.heappop(min(heads))))

    def _node_at(self, position: int) -> Node:
        return self._plan.items[position].node

    def _fits(self, resources: Any) -> bool:
        """Whether a step may start beside those that run: cores add up, and accelerators are used by one at a time."""
        used = [r.node.step.resources for r in self._running.values() if r.node.step.resources is not None]
        if not used:
            return True
        if getattr(resources, "device_count", 0) and any(getattr(u, "device_count", 0) for u in used):
            return False
        return sum(getattr(r, "cpu", 1) for r in (*used, resources)) <= self._cores

    def _start(self, node: Node) -> None:
        """Take the step's lease and start it; or see that there is no need to, or that it is another's."""
        paths = self._plan.paths(node)
        try:
            while True:
                state = self._store.read(paths.root)
                waited = node.digest in self._waited
                action, reason = judge(
                    node,
                    state,
                    paths,
                    # a failure of the run that this one waited for is its failure too
                    force_run_failed=self._force and not waited,
                    observer=self._observer,
                )
                if action == HIT:
                    self._console.shared(node.step.name)
                    self._succeed(node, state, StepResult(node=node, action="cached"))
                    return
                if action == FAILED_BEFORE:
                    self._failed_before(node, state)
                    return
                if action == WAIT:
                    self._wait_for(node, reason)
                    return
                if state is not None and state.status == RUNNING:
                    _await_orphan(paths, state)
                lease = self._store.acquire(
                    paths.root,
                    state,
                    digest=node.digest,
                    owner=self._owner,
                    publish=node.step.publish,
                    times=self._times,
                )
                if lease is not None:
                    break
        except (OSError, ValueError) as error:  # ValueError: the register is none, or another recipe's by now
            self._fail(node, error_of(error), text=f"could not start: {error}")
            return
        self._launch(node, lease)

    def _launch(self, node: Node, lease: Lease) -> None:
        self._renewer.add(lease)
        step, log_path = node.step, f"{lease.log_dir}/stdout.log"
        running = _Running(node=node, lease=lease, started=time.time(), log_path=log_path)
        self._running[node.digest] = running
        self._record.event("started", step=step.name, digest=node.digest, attempt=lease.state.attempt)
        self._console.started(step.name)
        try:
            os.makedirs(lease.data_root, exist_ok=True)
            os.makedirs(lease.log_dir, exist_ok=True)
            _note(lease.log_dir, "started", run_id=self._record.run_id, in_process=step.resources is None)
            roots, prefix = self._data_roots(node), self._plan.prefix
            running.code = code_of(step.fn, step.config)
            running.config = resolve_config(node, self._graph, lease.data_root, roots, prefix=prefix)
            env = {
                "MARIN_STEP_NAME": step.name,
                "MARIN_STEP_DIGEST": node.digest,
                "MARIN_PREFIX": self._plan.prefix,
                "MARIN_RUN_ID": self._record.run_id,
            }
            request = JobRequest(
                name=step.name,
                entrypoint=Entrypoint.from_callable(step.fn, (running.config,)),
                env=env,
                log_path=log_path,
            )
            running.output = self._console.output_of(step.name)
            if step.resources is None:
                self._lane_is_free = False
                self._lane.put((running, request))
                return
            running.handle = self._cluster.launch(
                replace(request, resources=step.resources),
                on_output=running.output.feed,
                on_end=lambda result: self._events.put(("ended", running, result)),
            )
            if running.handle.pid is not None:
                _note_process(lease.log_dir, running.handle.pid)
        except Exception as error:
            self._events.put(("ended", running, JobResult(error=error_of(error))))

    def _data_roots(self, node: Node) -> dict[str, str]:
        roots = {}
        for digest in node.deps:
            roots[digest] = self._plan.paths(self._graph[digest]).data_root(self._states[digest])
        for digest in node.pseudo:
            other = self._graph[digest]
            paths = self._plan.paths(other)
            state = self._states.get(digest) or self._store.read(paths.root)
            if state is not None and state.status == SUCCEEDED:
                roots[digest] = paths.data_root(state)
            else:  # where its output is, or will appear
                roots[digest] = paths.root if other.step.publish == "inplace" else paths.data_link
        return roots

    # -- waiting for other runners -----------------------------------------------------------------------------------

    def _wait_for(self, node: Node, reason: str) -> None:
        self._waiting.add(node.digest)
        if node.digest not in self._waited:
            self._waited.add(node.digest)
            self._poll_s = _FIRST_POLL_S
            self._console.waiting(node.step.name, reason)
            self._record.event("waiting", step=node.step.name, digest=node.digest, reason=reason)

    def _poll_waiting(self) -> None:
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

    # -- the end of an attempt: in the thread that ran it, or one of its own ------------------------------------------

    def _conclude(self, running: _Running, result: JobResult) -> None:
        lease = running.lease
        if running.output is not None:
            running.output.close()
        state: State | None = None
        error = result.error
        try:
            is_gone = False
            try:
                lease.check_register()
                if error is None:
                    state = self._commit(running, result)
            except LeaseLost:
                raise
            except Exception as trouble:
                is_gone = isinstance(trouble, RegisterGone)
                if error is None or result.cancelled:
                    error = error_of(trouble)
                else:
                    error = replace(error, message=f"{error.message} (and {trouble})")
            if error is not None:
                if _is_disk_full(error) and running.node.step.publish == "attempt":
                    _discard_data(lease)
                cancelled = result.cancelled and result.error is not None and not is_gone
                _note(lease.log_dir, "cancelled" if cancelled else "failed", type=error.type, message=error.message)
                recorded = {
                    "class": _error_class(error, cancelled),
                    **asdict(error),
                    "log": os.path.relpath(running.log_path, lease.paths.root),
                    "exit": result.exit_code,
                    "wall_s": round(result.wall_s, 6),
                    "cpu_s": round(result.cpu_s, 6),
                    "max_rss": result.max_rss,
                    "ended": utc(),
                }
                if is_gone:
                    state = lease.end_without_register(error=recorded)
                else:
                    state = lease.end(CANCELLED if cancelled else FAILED, error=recorded)
        except LeaseLost:
            state, error = None, None
        except BaseException as trouble:
            # Not even the failure could be written down; the register keeps naming this run, which will be gone.
            error = error or error_of(trouble)
            error = JobError(
                type=error.type,
                message=f"{error.message} (and the register could not be changed: {trouble})",
                traceback=error.traceback,
                errno=error.errno or getattr(trouble, "errno", None),
            )
        self._events.put(("concluded", running, result, state, error))

    def _commit(self, running: _Running, result: JobResult) -> State:
        node, lease = running.node, running.lease
        step, paths, attempt = node.step, lease.paths, lease.state.attempt
        fsync = self._store.fsync
        _note(lease.log_dir, "ended", wall_s=round(result.wall_s, 6))
        manifest = build_manifest(lease.data_root, exclude=NOT_DATA[step.publish], fsync=fsync)
        os.makedirs(os.path.dirname(paths.manifest(attempt)), exist_ok=True)
        write_bytes(paths.manifest(attempt), manifest.to_json().encode(), fsync=fsync)
        if fsync:
            fsync_directory(os.path.dirname(lease.data_root))
            fsync_directory(paths.root)
            fsync_directory(os.path.dirname(paths.root))
        self._write_edges(node)
        record = {
            "format": 1,
            "digest": node.digest,
            "name": step.name,
            "description": step.description,
            "tags": sorted(step.tags),
            "fn": node.fn_ref,
            "code_version": step.code_version,
            **running.code,
            "publish": step.publish,
            "canonical": node.canonical,
            "config_resolved": readable(running.config),
            "inputs": [
                {
                    "digest": digest,
                    "root_digest": self._root_digest(digest),
                    "name": self._graph[digest].step.name,
                    "path": self._graph[digest].path,
                    "sub": sub,
                    "pseudo": pseudo,
                }
                for digest, sub, pseudo in inputs_of(node.canonical, node.deps, node.pseudo)
            ],
            "root_digest": manifest.root_digest,
            "manifest_ref": os.path.relpath(paths.manifest(attempt), paths.root),
            "files": manifest.num_files,
            "bytes": manifest.num_bytes,
            "result": result.value,
            "started": utc(running.started),
            "ended": utc(),
            "wall_s": round(result.wall_s, 6),
            "cpu_s": round(result.cpu_s, 6),
            "max_rss": result.max_rss,
            "max_rss_scope": result.max_rss_scope,
            "exit": result.exit_code,
            "attempts": _earlier_attempts(paths),
            "resources": readable(step.resources) if is_dataclass(step.resources) else None,
            "env": dict(self._environment),
            "run_id": self._record.run_id,
            "user": self._owner.user,
        }
        if node.unmarked_digest is not None:
            record["unmarked_digest"] = node.unmarked_digest
        state = lease.end(SUCCEEDED, record=record)
        _link_data(paths, state)
        return state

    def _root_digest(self, digest: str) -> str | None:
        state = self._states.get(digest)
        return state.record["root_digest"] if state is not None and state.record is not None else None

    def _write_edges(self, node: Node) -> None:
        for digest in (*node.deps, *node.pseudo):
            folder = f"{self._plan.prefix}/.exec/used_by/{digest}"
            os.makedirs(folder, exist_ok=True)
            os.close(os.open(f"{folder}/{node.digest}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
            if self._store.fsync:
                fsync_directory(folder)

    # -- and back in the scheduling thread ---------------------------------------------------------------------------

    def _concluded(self, running: _Running, result: JobResult, state: State | None, error: JobError | None) -> None:
        node = running.node
        name = node.step.name
        self._renewer.discard(running.lease)
        del self._running[node.digest]
        if node.step.resources is None:
            self._lane_is_free = True
        measured = {
            "wall_s": result.wall_s,
            "cpu_s": result.cpu_s,
            "max_rss": result.max_rss,
            "log_path": running.log_path,
        }
        if state is None and error is None:
            self._console.lost(name)
            self._record.event("lost", step=name, digest=node.digest)
            if self._interrupts:
                self._results[node.digest] = StepResult(node=node, action="cancelled", **measured)
            else:  # whoever took it over will finish it
                self._make_ready(node.digest)
            return
        if error is None:
            self._console.done(name, result.wall_s)
            self._succeed(node, state, StepResult(node=node, action="ran", **measured))
        elif state is not None and state.status == CANCELLED:
            self._console.cancelled(name, result.wall_s)
            self._finish(StepResult(node=node, action="cancelled", error=error, **measured))
            if not self._interrupts:  # the step raised KeyboardInterrupt itself: it means the run
                self._interrupts = 1
                self._stop()
        else:
            text = f"failed after {duration(result.wall_s)}: {error.type}: {error.message}"
            if result.exit_code not in (None, 0):
                text = f"exit {result.exit_code} after {duration(result.wall_s)}: {error.type}: {error.message}"
            if _is_disk_full(error):
                text += (
                    f"\n    the disk is full; {_free_text(self._plan.prefix)} free at {self._plan.prefix} now. "
                    "Nothing of this attempt counts as output"
                )
            self._fail(node, error, text=text, measured=measured, was_running=True)

    def _succeed(self, node: Node, state: State | None, result: StepResult) -> None:
        assert state is not None
        self._states[node.digest] = state
        paths = self._plan.paths(node)
        self._finish(replace(result, output_path=paths.data_root(state)))
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
        recorded = state.error or {}
        error = JobError(
            type=recorded.get("type", "Error"),
            message=recorded.get("message", ""),
            traceback=recorded.get("traceback", ""),
            errno=recorded.get("errno"),
        )
        log_path = os.path.join(self._plan.paths(node).root, recorded.get("log", ""))
        self._fail(
            node,
            error,
            text=f"failed in run {state.owner.run_id}: {error.type}: {error.message}\n"
            "    not run again; --force_run_failed runs it again",
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
        grace_s = _CANCEL_GRACE_S if self._interrupts == 1 else 0.0
        if self._running:
            names = ", ".join(r.node.step.name for r in self._running.values())
            how = f"up to {grace_s:.0f} s; Ctrl-C again kills" if grace_s else "killing"
            self._console.line(f"interrupted: stopping {names} ({how})")
        for running in self._running.values():
            if running.handle is not None:
                running.handle.cancel(grace_s)
        for item in self._plan:
            if item.node.digest not in self._results and item.node.digest not in self._running:
                self._waiting.discard(item.node.digest)
                self._finish(StepResult(node=item.node, action="cancelled"))


def _error_class(error: JobError, cancelled: bool) -> str:
    if cancelled:
        return "CANCELLED"
    if _is_disk_full(error):
        return "DISK_FULL"
    return "WORKER_LOST" if error.type == "Killed" else "USER_ERROR"


def _free_text(path: str) -> str:
    try:
        return f"{shutil.disk_usage(path).free / 1e9:.1f} GB"
    except OSError:
        return "nothing"


def _discard_data(lease: Lease) -> None:
    """Delete what a failed attempt wrote: room for writing down that it failed."""
    shutil.rmtree(lease.data_root, ignore_errors=True)


def _note(log_dir: str, kind: str, **fields: Any) -> None:
    """Append one line to an attempt's events.jsonl; a full disk must not stop a step over it."""
    with contextlib.suppress(OSError):
        append(f"{log_dir}/events.jsonl", json.dumps({"time": utc(), "event": kind, **fields}).encode() + b"\n")


def _link_data(paths: StepPaths, state: State) -> None:
    """Point the step's `data` link at the committed attempt. For people: if it cannot be done, nothing is lost."""
    if state.data_root == ".":
        return
    with contextlib.suppress(OSError):
        if os.path.lexists(paths.data_link) and os.readlink(paths.data_link) == state.data_root:
            return
        temporary = f"{paths.exec_dir}/data.{os.urandom(4).hex()}.tmp"
        os.symlink(state.data_root, temporary)
        os.replace(temporary, paths.data_link)


def _earlier_attempts(paths: StepPaths) -> list[dict[str, Any]]:
    """How earlier attempts of the step ended, from its history."""
    folder = f"{paths.exec_dir}/history"
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    attempts = []
    for name in names:
        if name.endswith(".json"):
            with open(f"{folder}/{name}", "rb") as file:
                state = State.from_json(file.read())
            attempts.append(
                {
                    "epoch": state.epoch,
                    # a register that was superseded while it said RUNNING: its runner was gone
                    "outcome": ABANDONED if state.status == RUNNING else state.status,
                    "error_class": (state.error or {}).get("class"),
                    "run_id": state.owner.run_id,
                }
            )
    return attempts


def _note_process(log_dir: str, pid: int) -> None:
    """Write down which process works on an attempt, for whoever takes the step over from a dead runner."""
    with contextlib.suppress(OSError):
        write_text(f"{log_dir}/process.json", json.dumps({"pid": pid, "start": process_start(pid)}), fsync=False)


def _await_orphan(paths: StepPaths, state: State) -> None:
    """See a dead runner's job on this machine to its end before another attempt starts.

    The job ends by itself within milliseconds of its runner; in between it may still write, which would harm a step
    that publishes in place.
    """
    if not state.owner.is_gone():
        return
    try:
        with open(f"{paths.logs(state)}/process.json", encoding="utf-8") as file:
            process = json.load(file)
    except (OSError, ValueError):
        return
    deadline = time.monotonic() + _ORPHAN_PATIENCE_S
    killed = False
    while process_is_alive(process["pid"], process["start"]):
        if time.monotonic() > deadline:
            if killed:
                raise OSError(
                    f"process {process['pid']} of an earlier attempt ({state.attempt}) of {paths.root} does not end"
                )
            killed = True
            deadline += _ORPHAN_PATIENCE_S
            with contextlib.suppress(OSError):
                os.kill(process["pid"], 9)
        time.sleep(0.01)
