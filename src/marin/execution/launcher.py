"""How the attempts of a run get machines: what fits now, what can never fit, and the job that is started.

On this machine jobs share its cores, memory and GPUs by their resources. A cluster keeps its own books, so there every
step that is ready is sent, and the worker holds the lease (`marin.execution.remote`).
"""

import functools
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from marin.cluster.capacity import Allocation, Allocator, Capacity
from marin.cluster.job import Cluster, Entrypoint, JobHandle, JobRequest, JobResult
from marin.cluster.resources import ResourceConfig
from marin.cluster.retry import Retry
from marin.cluster.tpu import tpu_slice
from marin.execution.attempt import Attempt, prepare
from marin.execution.graph import Node
from marin.execution.lease import Lease, LeaseTimes
from marin.execution.plan import RUN, WAIT, Plan
from marin.execution.remote import RemoteAttempt
from marin.execution.step import ExecutorStep
from marin.execution.store import Store


class ImpossibleRequest(ValueError):
    """A step asks for what no machine here has."""


_ONE_CORE = ResourceConfig.with_cpu()


def resources_of(step: ExecutorStep) -> ResourceConfig:
    """What a step's job asks for; one core if it does not say."""
    return step.resources if isinstance(step.resources, ResourceConfig) else _ONE_CORE


def retry_of(step: ExecutorStep, *, on_cluster: bool) -> Retry:
    """How often a step is tried again.

    Unless it says so itself, a process that is killed on one's own machine is not started again: somebody killed it, or
    memory ran out, and neither gets better by repeating.
    """
    return step.retry if step.retry is not None else _usual_retry(resources_of(step), on_cluster)


@functools.cache
def _usual_retry(resources: ResourceConfig, on_cluster: bool) -> Retry:
    rule = Retry.for_resources(resources)
    return rule if on_cluster else replace(rule, max_preemptions=0)


def check_resources(plan: Plan, cluster: Cluster) -> None:
    """Raise ImpossibleRequest, naming step and resource, if a step that would run asks for more than there is."""
    steps = {item.node.step for item in plan if item.action in (RUN, WAIT) and item.node.step.runs_as_process}
    _check_groups(steps)
    if not steps or cluster.is_remote:
        return
    allocator = Allocator(Capacity.of_this_machine())
    troubles = [f"step '{s.name}' {reason}" for s in steps if (reason := allocator.why_never(resources_of(s)))]
    if troubles:
        raise ImpossibleRequest(
            "nothing was run: "
            + "\n  ".join(sorted(troubles))
            + "\nchange the steps' resources, run on a cluster (--cluster ray), or state in MARIN_CAPACITY what this "
            "machine has"
        )


def _check_groups(steps: Iterable[ExecutorStep]) -> None:
    """Raise ImpossibleRequest if a step names a dependency group that its project does not have."""
    for step in steps:
        if step.pip_dependency_groups:
            from marin.cluster.environment import requirements_of

            try:
                requirements_of(step.pip_dependency_groups, project=_project())
            except ValueError as error:
                raise ImpossibleRequest(f"nothing was run: step '{step.name}': {error}") from error


class Launcher:
    """Starts the jobs of one run."""

    def __init__(self, cluster: Cluster, store: Store, run_id: str, times: LeaseTimes) -> None:
        self.is_remote = cluster.is_remote
        self._cluster = cluster
        self._store = store
        self._run_id = run_id
        self._times = times
        # As it is before any step runs in this process and changes it for its own purposes.
        self._environ = dict(os.environ)
        self._books: Allocator | None = None

    @property
    def _allocator(self) -> Allocator:
        if self._books is None:  # looking takes time, and many runs start no job
            # Free scratch space comes and goes; it was looked at before the run, and nothing waits for it.
            self._books = Allocator(replace(Capacity.of_this_machine(), disk=None))
        return self._books

    def fits(self, step: ExecutorStep) -> bool:
        """Whether there is room for a job of the step now."""
        return self.is_remote or self._allocator.fits(resources_of(step))

    def take(self, step: ExecutorStep) -> Allocation | None:
        """Hold what the step's job needs; None on a cluster."""
        return None if self.is_remote else self._allocator.take(resources_of(step))

    def free(self, allocation: Allocation | None) -> None:
        """Give it back."""
        if allocation is not None:
            self._allocator.free(allocation)

    def is_slow_to_prepare(self, step: ExecutorStep) -> bool:
        """Whether `prepare` may take long: it then belongs into a thread of its own."""
        return not self.is_remote and (not self._store.is_local or bool(step.pip_dependency_groups))

    def prepare(
        self, step: ExecutorStep, attempt: Attempt, on_output: Callable[[bytes], None], stop: threading.Event
    ) -> str | None:
        """Fetch the attempt's inputs, make the step's environment; the interpreter to use, None for this one.

        After `stop`, KeyboardInterrupt while inputs are fetched, CancelledError while an environment is made.
        """
        prepare(self._store, attempt, stop)
        if not step.pip_dependency_groups:
            return None
        from marin.cluster.environment import prepare_environment

        return prepare_environment(step.pip_dependency_groups, project=_project(), on_output=on_output, stop=stop)

    def launch(
        self,
        node: Node,
        attempt: Attempt,
        lease: Lease,
        *,
        env: Mapping[str, str],
        allocation: Allocation | None,
        python: str | None,
        on_output: Callable[[bytes], None],
        on_end: Callable[[JobResult], None],
    ) -> JobHandle:
        """Start the attempt's job. On a cluster, the job takes the lease over."""
        if self.is_remote:
            request = self._remote_request(node, attempt, lease, env)
        else:
            request = JobRequest(
                name=attempt.name,
                entrypoint=Entrypoint.from_callable(attempt.fn, (attempt.config,)),
                resources=resources_of(node.step),
                env={**env, **(allocation.env if allocation is not None else {})},
                inherited=self._environ,
                log_path=attempt.log_path,
                python=python,
            )
        return self._cluster.launch(request, on_output=on_output, on_end=on_end)

    def _remote_request(self, node: Node, attempt: Attempt, lease: Lease, env: Mapping[str, str]) -> JobRequest:
        step, resources = node.step, resources_of(node.step)
        if not self._store.is_local and _num_machines(resources) > 1:
            raise ValueError(
                f"step '{step.name}' runs on {_num_machines(resources)} machines at once, and the store "
                f"{self._store.prefix} is no disk that they share: only the first one's files would be kept. "
                "Use a prefix on a shared file system"
            )
        pack: Callable[[Any], bytes] = self._cluster.pack  # type: ignore[attr-defined]
        call = pack((attempt.fn, (attempt.config,), {}))
        task = RemoteAttempt(
            attempt=replace(attempt, fn="marin.cluster.remote:call_pickled", config=call),
            dependency_groups=tuple(step.pip_dependency_groups or ()),
            project=_project() if step.pip_dependency_groups else None,
            prefix=self._store.prefix,
            fsync=self._store.fsync,
            single_runner=self._store.single_runner,
            root=lease.paths.root,
            state=lease.state,
            times=self._times,
            run_id=self._run_id,
            env=env,
        )
        return JobRequest(
            name=step.name,
            entrypoint=Entrypoint.from_callable("marin.execution.remote:carry_out", (task,)),
            resources=resources,
            in_process=True,
        )


def _project() -> str | None:
    from marin.cluster.environment import find_project

    return find_project()


def _num_machines(resources: ResourceConfig) -> int:
    if resources.device != "tpu" or resources.device_type is None:
        return 1
    return resources.device_count * tpu_slice(resources.device_type).num_hosts
