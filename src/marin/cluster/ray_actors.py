"""One job on one machine of a Ray cluster: the actor that runs it, the wait for its place, and what its loss means."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from marin.cluster.job import (
    ERROR,
    OOM,
    PREEMPTED,
    UNSCHEDULABLE,
    WORKER_LOST,
    JobError,
    JobResult,
)
from marin.cluster.remote import News, RemoteJob, killed, run_packed
from marin.cluster.resources import ResourceConfig, parse_bytes

_FETCH_S = 5.0  # the longest that one request for news waits for some
_SILENCE_S = 300.0  # a job that has not answered for so long counts as lost
KILL_MARGIN_S = 10.0  # after the grace of a cancelled job, for it to say how it ended
LOOK_S = 2.0  # between two looks at the machines while a job waits for a place


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long to wait for what."""

    linger_s: float
    unschedulable_after_s: float
    queue_timeout_s: float


def actor_class(cls: type, **options: Any) -> Any:
    import ray

    # several requests at a time: for news, to stop, for a sign of life
    return ray.remote(cls).options(max_restarts=0, max_task_retries=0, max_concurrency=8, **options)


def away_from_tpus() -> Any:
    """Where the owner of a gang goes if it can: machines with TPUs are those that get lost."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    steady = [node for node in live_nodes() if "TPU" not in node["Resources"]]
    steady.sort(key=lambda node: "node:__internal_head__" not in node["Resources"])
    return NodeAffinitySchedulingStrategy(steady[0]["NodeID"], soft=True) if steady else "DEFAULT"


def kill_actor(actor: Any) -> None:
    import ray
    from ray.exceptions import RayError

    if ray.is_initialized():  # else Ray would start a cluster of its own to ask it
        with contextlib.suppress(RayError, ValueError):  # it is gone
            ray.kill(actor)


class Place:
    """The wait for a place: it ends badly when there can be none, when it takes too long, or when it is called off."""

    def __init__(self, *, problem: Callable[[], str | None], kind: str, limits: Limits, stop: threading.Event) -> None:
        self._problem, self._kind, self._limits, self._stop = problem, kind, limits, stop
        self._began = time.monotonic()
        self._next_look = self._began
        self._hopeless_since: float | None = None

    def check(self) -> JobResult | None:
        """None: go on waiting."""
        now = time.monotonic()
        if self._stop.is_set():
            return killed("it had not started")
        if now < self._next_look:
            return None
        self._next_look = now + min(LOOK_S, self._limits.unschedulable_after_s / 2)
        problem = self._problem()
        if problem is None:
            self._hopeless_since = None
            waited_s = now - self._began
            if waited_s > self._limits.queue_timeout_s:
                text = f"it waited {waited_s:.0f} s for machines that are large enough but busy"
                return failed(UNSCHEDULABLE, "Unschedulable", text)
            return None
        if self._hopeless_since is None:
            self._hopeless_since = now
        if now - self._hopeless_since >= self._limits.unschedulable_after_s:
            return failed(self._kind, "Unschedulable" if self._kind == UNSCHEDULABLE else "Preempted", problem)
        return None


_START_HEARD_S = 1.0
"""After which word of a start has come from an actor that has started, before it is said that it has not."""


def wait_for_start(first: Any, place: Place) -> JobResult | None:
    """None once the actor has started, or cannot; else why it never will."""
    import ray

    while not ray.wait([first], timeout=0.25)[0]:
        result = place.check()
        if result is not None:
            is_on_its_way = result.cancelled and ray.wait([first], timeout=_START_HEARD_S)[0]
            return None if is_on_its_way else result
    return None


def follow(actor: Any, first: Any, on_output: Callable[[bytes], None] | None, preemptible: bool) -> JobResult:
    """Pass on what a started job prints, and see it to its end, whatever that is."""
    import ray
    from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError, RayTaskError

    node_id: str | None = None
    position, silent_since = 0, None
    while True:
        try:
            if node_id is None:
                node_id = ray.get(first, timeout=_SILENCE_S)
            news: News = ray.get(actor.fetch.remote(position, _FETCH_S), timeout=3 * _FETCH_S)
        except (ActorUnavailableError, GetTimeoutError) as error:
            silent_since = silent_since or time.monotonic()
            silent_s = time.monotonic() - silent_since
            if silent_s > _SILENCE_S or death_of(node_id) is not None:
                return lost_job(error, node_id, preemptible)
            time.sleep(0.2)
            continue
        except RayTaskError:  # a mistake of this module, not of the cluster
            raise
        except RayError as error:
            return lost_job(error, node_id, preemptible)
        silent_since = None
        position = news.position
        if news.output and on_output is not None:
            on_output(news.output)
        if news.result is not None:
            return news.result


# -- what went wrong --------------------------------------------------------------------------------------------------


def failed(kind: str, type_: str, message: str) -> JobResult:
    return JobResult(error=JobError(type=type_, message=message, kind=kind))


def death_of(node_id: str | None) -> str | None:
    """Why a machine left the cluster, as Ray names it; None if it is there or nothing is known of it."""
    import ray
    from ray.core.generated.common_pb2 import NodeDeathInfo  # pyright: ignore[reportAttributeAccessIssue]

    for node in ray.nodes():
        if node["NodeID"] == node_id and not node["Alive"]:
            return NodeDeathInfo.Reason.Name(node["DeathReason"])
    return None


def lost_job(error: Exception, node_id: str | None, preemptible: bool) -> JobResult:
    """The result of a job whose process does not answer and will not."""
    from ray.exceptions import ActorUnschedulableError, OutOfMemoryError, RuntimeEnvSetupError

    text = str(error)
    type_ = type(error).__name__
    if isinstance(error, OutOfMemoryError) or "low on memory" in text:
        return failed(OOM, "OutOfMemoryError", f"Ray killed it because memory ran low on node {node_id}")
    if isinstance(error, ActorUnschedulableError):
        return failed(UNSCHEDULABLE, type_, text)
    if isinstance(error, RuntimeEnvSetupError) or getattr(error, "actor_init_failed", False):
        return failed(ERROR, type_, text)
    death = death_of(node_id)
    if death is not None or getattr(error, "preempted", False):
        taken = getattr(error, "preempted", False) or preemptible or death != "UNEXPECTED_TERMINATION"
        how = f"left the cluster ({death or 'AUTOSCALER_DRAIN_PREEMPTED'})"
        return failed(PREEMPTED if taken else WORKER_LOST, type_, f"its machine {how}: node {node_id}")
    if node_id is None:  # lost before it told where it is
        return failed(PREEMPTED if preemptible else WORKER_LOST, type_, f"it was lost at its start: {last_line(text)}")
    return failed(WORKER_LOST, type_, f"its process was lost on node {node_id}: {last_line(text)}")


def last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


# -- resources --------------------------------------------------------------------------------------------------------


def ray_options(resources: ResourceConfig) -> dict[str, Any]:
    """Options of a Ray actor that asks for these resources; scratch space is not among what Ray counts."""
    options: dict[str, Any] = {"num_cpus": resources.cpu}
    if resources.ram is not None:
        options["memory"] = parse_bytes(resources.ram)
    if resources.device == "gpu":
        options["num_gpus"] = resources.device_count
        if resources.device_type is not None:
            options["accelerator_type"] = resources.device_type.upper()
    if resources.custom:
        options["resources"] = dict(resources.custom)
    return options


def resource_table(resources: ResourceConfig) -> dict[str, float]:
    """What these resources are called in Ray's table of a machine, and how much of each is asked for."""
    asked: dict[str, float] = {"CPU": resources.cpu, **resources.custom}
    if resources.ram is not None:
        asked["memory"] = parse_bytes(resources.ram)
    if resources.device == "gpu":
        asked["GPU"] = resources.device_count
        if resources.device_type is not None:
            asked[f"accelerator_type:{resources.device_type.upper()}"] = 0.001
    return asked


def live_nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def has_room(asked: Mapping[str, float], has: Mapping[str, float]) -> bool:
    return all(has.get(name, 0) >= amount for name, amount in asked.items())


def too_large(name: str, asked: Mapping[str, float]) -> str | None:
    """None if some machine could hold `asked` were it idle; else what is asked and what the largest has."""
    nodes = [node["Resources"] for node in live_nodes()]
    if any(has_room(asked, has) for has in nodes):
        return None
    if not nodes:
        return f"job {name!r} asks for {amounts_text(asked)}; the cluster has no machine"
    largest = max(nodes, key=lambda has: (sum(has.get(n, 0) >= a for n, a in asked.items()), has.get("CPU", 0)))
    return (
        f"job {name!r} asks for {amounts_text(asked)} on one machine; no machine of the cluster has that, "
        f"the largest has {amounts_text({n: largest.get(n, 0) for n in asked})}"
    )


def amounts_text(table: Mapping[str, float]) -> str:
    return ", ".join(
        f"{amount / 1e9:.3g} GB memory" if name == "memory" else name if ":" in name else f"{amount:g} {name}"
        for name, amount in table.items()
    )


# -- the job's end: actors --------------------------------------------------------------------------------------------


class JobActor:
    """A job, a member of a gang, or the owner of one, on the machine that Ray chose."""

    def __init__(self, linger_s: float) -> None:
        self._linger_s = linger_s
        self._job: RemoteJob | None = None
        self._leave = _leaver()

    def facts(self) -> dict[str, Any]:
        """Where it is, a free port there, and which host of its slice the machine says it is."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        return {
            "node": ray.get_runtime_context().get_node_id(),
            "ip": ray.util.get_node_ip_address(),
            "port": port,
            "worker_id": os.environ.get("TPU_WORKER_ID"),
        }

    def start(self, payload: bytes, env: Mapping[str, str], log_suffix: str = "") -> str:
        """Begin; the node's id. The job finds this cluster under RAY_ADDRESS."""
        import ray

        context = ray.get_runtime_context()
        env = {"RAY_ADDRESS": context.gcs_address, **env}
        self._job = RemoteJob(
            lambda mailbox: run_packed(payload, mailbox, env=env, log_suffix=log_suffix),
            linger_s=self._linger_s,
            leave=self._leave,
        )
        return context.get_node_id()

    def start_gang(self, gang: Any) -> str:
        """Begin to run a `ray_gangs.Gang`, whose reservations and members end with this actor; the node's id."""
        import ray

        self._job = RemoteJob(gang.run, linger_s=self._linger_s, leave=self._leave)
        return ray.get_runtime_context().get_node_id()

    def fetch(self, position: int, timeout_s: float) -> News:
        assert self._job is not None
        return self._job.fetch(position, timeout_s)

    def cancel(self, grace_s: float) -> None:
        if self._job is not None:
            self._job.cancel(grace_s)

    def ping(self) -> None:
        """Answering is all."""


def _leaver() -> Callable[[], None]:
    """A function that ends this actor from any thread."""
    import ray

    actor = ray.get_runtime_context().current_actor
    return lambda: ray.kill(actor)
