"""An attempt that another machine carries out: the worker holds the lease, so it outlives the run that started it.

The runner takes the lease, sends the attempt, and the worker makes itself the lease's owner: it renews, calls the
function in a process of its own, and commits. Whoever looks at the register sees a living holder, also when the runner
is dead; a second run waits for it as for any other. The runner reads the register to learn how it ended. If the cluster
says that the worker is gone and the register still names its attempt, the runner writes down the loss.
"""

import contextlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from marin.cluster.current import stop_event
from marin.cluster.job import CANCELLED as KIND_CANCELLED
from marin.cluster.job import Entrypoint, JobError, JobRequest, JobResult, error_of
from marin.cluster.local import LocalCluster
from marin.execution.attempt import Attempt, conclude, error_class, prepare
from marin.execution.lease import Lease, LeaseLost, LeaseTimes, Renewer
from marin.execution.status import CANCELLED, FAILED, RUNNING, SUCCEEDED, State, StepPaths, active_run
from marin.execution.store import Store, open_store

_GRACE_S = 10.0
_LOOK_S = 0.5  # between two looks at whether the job was asked to stop


@dataclass(frozen=True, kw_only=True, eq=False)
class RemoteAttempt:
    """What is sent: an attempt with the lease that was taken for it."""

    attempt: Attempt  # its function and config are packed into bytes: those of a script travel by value
    prefix: str  # the store
    fsync: bool  # whether writes to it are flushed
    single_runner: bool  # whether nobody else runs on it, so that it need not have conditional writes
    root: str  # folder of the step in the store
    state: State  # the register as the runner left it
    times: LeaseTimes  # of the lease
    run_id: str  # the run
    env: Mapping[str, str]  # environment variables of the function
    dependency_groups: tuple[str, ...] = ()  # the worker makes the environment for them
    project: str | None = None  # folder of the project whose groups they are


def carry_out(task: RemoteAttempt) -> dict[str, Any]:
    """Carry the attempt out on this machine, and commit it; runs in the worker. What it returns says how it went.

    Of a job on several machines the first one does this; the others call the function, and their failure is the job's.
    """
    store = open_store(task.prefix, fsync=task.fsync, single_runner=task.single_runner)
    is_first = os.environ.get("MARIN_PROCESS_ID", "0") == "0"
    if not is_first:
        prepare(store, task.attempt)
        result = _call(task, log_path=None, lost=lambda: False)
        if result.error is not None:
            raise RuntimeError(f"{result.error.type}: {result.error.message}\n{result.error.traceback}")
        return {"outcome": "done"}
    with active_run(task.run_id) as owner:
        lease = Lease(store, StepPaths(task.root), task.state, task.times)
        lost: list[LeaseLost] = []
        try:
            lease.hand_over(owner)
        except LeaseLost:
            return {"outcome": "lost"}
        renewer = Renewer(task.times, lambda _, error: lost.append(error))
        renewer.add(lease, task.attempt.progress_path)
        try:
            prepare(store, task.attempt)
            result = _call(task, log_path=task.attempt.log_path, lost=lambda: bool(lost))
        except Exception as error:
            result = JobResult(error=error_of(error))
        finally:
            renewer.close()
        state, error = conclude(store, lease, task.attempt, result)
    if state is None and error is None:
        return {"outcome": "lost"}
    return {"outcome": "ended", "measured": _measured(result)}


def _call(task: RemoteAttempt, *, log_path: str | None, lost: Any) -> JobResult:
    """Call the step's function in a process of this machine; stopped when asked to, when its lease or time is gone."""
    attempt, stop = task.attempt, stop_event()
    request = JobRequest(
        name=attempt.name,
        entrypoint=Entrypoint.from_callable(attempt.fn, (attempt.config,)),
        env=task.env,
        log_path=log_path,
        python=_environment(task),
    )
    handle = LocalCluster().launch(request, on_output=_show)
    waited, asked = 0.0, False
    while (result := handle.wait(_LOOK_S)) is None:
        waited += _LOOK_S
        is_late = attempt.timeout_s is not None and waited > attempt.timeout_s
        if not asked and (stop.is_set() or lost() or is_late):
            asked = True
            handle.cancel(_GRACE_S)
    if result.error is not None and not stop.is_set() and asked and not lost():
        error = JobError(
            type="Timeout", message=f"not done after {attempt.timeout_s:g} s (timeout_s), so it was stopped"
        )
        result = replace(result, error=error, cancelled=False)
    return result


def _environment(task: RemoteAttempt) -> str | None:
    if not task.dependency_groups:
        return None
    from marin.cluster.environment import prepare_environment

    return prepare_environment(task.dependency_groups, project=task.project, on_output=_show)


def _show(chunk: bytes) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def _measured(result: JobResult) -> dict[str, Any]:
    return {
        "wall_s": result.wall_s,
        "cpu_s": result.cpu_s,
        "max_rss": result.max_rss,
        "exit_code": result.exit_code,
    }


def settle(store: Store, lease: Lease, job: JobResult) -> tuple[State | None, JobError | None, JobResult]:
    """How an attempt that another machine carried out ended, for the runner: (register, error, what was measured).

    `job`: how the worker's job ended, as the cluster tells. (None, None, ...) if the step was taken over meanwhile.
    """
    answer = job.value if isinstance(job.value, dict) else {}
    measured = replace(job, **answer["measured"]) if "measured" in answer else job
    paths = lease.paths
    state = store.read(paths.root)
    if state is None or state.attempt != lease.state.attempt:
        return None, None, measured
    if state.status == RUNNING:  # the worker could not say how it ended
        lost = job.error or JobError(type="WorkerLost", message="the worker ended without a word", kind="worker_lost")
        status = CANCELLED if job.cancelled else FAILED
        recorded = {
            "class": error_class(lost, job.cancelled),
            "type": lost.type,
            "message": lost.message,
            "kind": lost.kind,
        }
        try:
            # the cluster says that the holder is gone, so its lease may be ended in its place
            state = Lease(store, paths, state, lease.times).end(status, error=recorded)
        except LeaseLost:
            return settle(store, lease, job)
        return state, lost, measured
    if state.status == SUCCEEDED:
        return state, None, measured
    told = state.error or {}
    error = JobError(
        type=told.get("type", "Error"),
        message=told.get("message", ""),
        traceback=told.get("traceback", ""),
        errno=told.get("errno"),
        kind=told.get("kind") or (KIND_CANCELLED if state.status == CANCELLED else "error"),
    )
    return state, error, measured
