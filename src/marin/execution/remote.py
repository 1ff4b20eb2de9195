"""An attempt that another machine carries out: the worker holds the lease, so it outlives the run that started it.

The runner takes the lease, sends the attempt, and the worker makes itself the lease's owner: it renews, calls the
function in a process of its own, and commits. Whoever looks at the register sees a living holder, also when the runner
is dead; a second run waits for it as for any other. The runner reads the register to learn how it ended. If the cluster
says that the worker is gone and the register still names its attempt, the runner writes down the loss.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from marin.cluster.current import stop_event
from marin.cluster.job import Entrypoint, JobError, JobFailed, JobRequest, JobResult, error_of
from marin.cluster.local import LocalCluster
from marin.execution.attempt import (
    Attempt,
    conclude,
    error_class,
    prepare,
    recorded_error,
    retry_notice,
    with_packages,
)
from marin.execution.lease import Lease, LeaseLost, LeaseTimes, Renewer
from marin.execution.record import cancellation_path
from marin.execution.status import CANCELLED, FAILED, RUNNING, SUCCEEDED, State, StepPaths, active_run
from marin.execution.store import Store, open_store
from marin.io.atomic import write_bytes

_PAUSES_S = (1.0, 4.0, 10.0, 20.0, 25.0)  # between tries to learn from the store how an attempt ended
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
        result = _call(task, python=_environment(task), log_path=None, lost=lambda: False)
        if result.error is not None:
            raise JobFailed(result.error)
        write_bytes(_done_path(task, os.environ["MARIN_PROCESS_ID"]), b"")
        return {"outcome": "done"}
    with active_run(task.run_id) as owner:
        lease = Lease(store, StepPaths(task.root), task.state, task.times)
        lost: list[LeaseLost] = []
        try:
            lease.hand_over(owner)
        except LeaseLost:
            return {"outcome": "lost"}
        is_cancelled = threading.Event()
        word = cancellation_path(f"{store.prefix}/.exec/runs/{task.run_id}")

        def look_for_cancellation() -> None:
            with contextlib.suppress(OSError):
                if store.get(word) is not None:
                    is_cancelled.set()

        renewer = Renewer(task.times, lambda _, error: lost.append(error), on_tick=look_for_cancellation)
        renewer.add(lease, task.attempt.progress_path)
        result, attempt = JobResult(error=None), task.attempt

        def must_stop() -> bool:
            return bool(lost) or is_cancelled.is_set()

        try:
            prepare(store, attempt, stop_event())
            python = _environment(task)
            if python is not None:
                attempt = with_packages(attempt, python)
            result = _call(task, python=python, log_path=attempt.log_path, lost=must_stop)
            if result.error is None:
                _await_others(task, must_stop)
        except (Exception, KeyboardInterrupt) as error:
            result = replace(result, error=error_of(error), cancelled=isinstance(error, KeyboardInterrupt))
        finally:
            renewer.close()
        state, error = conclude(store, lease, attempt, result, retry_owner=task.state.owner)
    if state is None and error is None:
        return {"outcome": "lost"}
    return {"outcome": "ended", "measured": _measured(result)}


def _call(task: RemoteAttempt, *, python: str | None, log_path: str | None, lost: Callable[[], bool]) -> JobResult:
    """Call the step's function in a process of this machine; stopped when asked to, when its lease or time is gone."""
    attempt, stop = task.attempt, stop_event()
    request = JobRequest(
        name=attempt.name,
        entrypoint=Entrypoint.from_callable(attempt.fn, (attempt.config,)),
        env=task.env,
        log_path=log_path,
        python=python,
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


def _done_path(task: RemoteAttempt, rank: str) -> str:
    """The file by which a process of a job on several machines says that its function has returned."""
    return f"{task.attempt.log_dir}/process-{rank}.done"


def _await_others(task: RemoteAttempt, is_stopped: Callable[[], bool]) -> None:
    """Wait until all processes of the job have returned: before that, nobody knows whether the output is whole.

    If one fails, the cluster ends this process too. Raises KeyboardInterrupt if the job is to stop.
    """
    ranks = [str(rank) for rank in range(1, int(os.environ.get("MARIN_NUM_PROCESSES", "1")))]
    stop = stop_event()
    while not all(os.path.exists(_done_path(task, rank)) for rank in ranks):
        if stop.wait(_LOOK_S) or is_stopped():
            raise KeyboardInterrupt("stopped while it waited for the other processes of the job")


def _environment(task: RemoteAttempt) -> str | None:
    if not task.dependency_groups:
        return None
    from marin.cluster.environment import prepare_environment

    return prepare_environment(task.dependency_groups, project=task.project, on_output=_show, stop=stop_event())


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


def settle_patiently(
    store: Store, lease: Lease, attempt: Attempt, job: JobResult, stop: threading.Event
) -> tuple[State | None, JobError | None, JobResult]:
    """`settle`, again and again for a minute while the store does not answer: the worker may have committed.

    After `stop` no more; then OSError says why the end is not known.
    """
    for pause_s in _PAUSES_S:
        try:
            return settle(store, lease, attempt, job)
        except OSError:
            if stop.wait(pause_s):
                raise
    return settle(store, lease, attempt, job)


def settle(
    store: Store, lease: Lease, attempt: Attempt, job: JobResult
) -> tuple[State | None, JobError | None, JobResult]:
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
        recorded: dict[str, Any] = {
            "class": error_class(lost, job.cancelled),
            "type": lost.type,
            "message": lost.message,
            "kind": lost.kind,
        }
        delay_s = None if job.cancelled else attempt.retry_delay(lost)
        if delay_s is not None:
            recorded |= retry_notice(delay_s, lease.state.owner)
        try:
            # the cluster says that the holder is gone, so its lease may be ended in its place
            state = Lease(store, paths, state, lease.times).end(status, error=recorded)
        except LeaseLost:
            return settle(store, lease, attempt, job)
        return state, lost, measured
    if state.status == SUCCEEDED:
        return state, None, measured
    return state, recorded_error(state), measured
