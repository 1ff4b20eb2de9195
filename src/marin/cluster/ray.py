"""Jobs on a Ray cluster. The only module that imports Ray, and only when a cluster is asked for.

A job is a detached actor: it belongs to nobody, so it goes on when its launcher dies, and removes itself when it has
ended and nobody asks for its result. Ray never tries a job again; whoever launched it decides that, from the `kind` of
its error. A TPU job is a gang: one actor that reserves whole slices and owns a member on each of their hosts, so that
all of it ends, and is given back, with that one. The price is a process more for each job than Ray's own tasks need.

Output is fetched by the launcher while it lives; the log file is written on the machine where the job runs, so its
folder should be one that all machines share.
"""

import contextlib
import inspect
import logging
import os
import queue
import secrets
import shlex
import signal
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from marin.cluster.job import (
    CANCELLED,
    ERROR,
    OOM,
    PREEMPTED,
    UNSCHEDULABLE,
    WORKER_LOST,
    JobError,
    JobHandle,
    JobRequest,
    JobResult,
    error_of,
)
from marin.cluster.remote import Mailbox, News, RemoteJob, killed, packed, run_packed
from marin.cluster.resources import ResourceConfig, parse_bytes
from marin.cluster.tpu import TpuSlice, tpu_slice

_PROBE_S = 10.0  # for a cluster's address to answer
_FETCH_S = 5.0  # the longest that one request for news waits for some
_SILENCE_S = 300.0  # a job that has not answered for so long counts as lost
_KILL_MARGIN_S = 10.0  # after the grace of a cancelled job, for it to say how it ended
_LOOK_S = 2.0  # between two looks at the machines while a job waits for a place
_GANG_START_S = 300.0  # for the members of a gang to start once their machines are reserved
_GANG_TAIL_S = 300.0  # for the other members to end after the first one has
_MAX_RECONNECTIONS = 100  # to the log of a command
_SETTLE_S = 30.0  # for Ray to notice that a machine is gone whose neighbours already feel it

_CONNECTING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """How long to wait for what."""

    linger_s: float
    unschedulable_after_s: float
    queue_timeout_s: float


class RayCluster:
    """Runs jobs on the Ray cluster at `address`: "host:port", or None or "auto" for $RAY_ADDRESS or the one here.

    Connects with the first job, or uses the connection that the process has. Functions and classes are sent by name,
    those of the running script by value. The machines need this package, and the folders that hold the jobs' modules.

    `linger_s`: how long a job's result waits for a launcher that asks no more. `unschedulable_after_s`: how long no
    machine may be large enough for a job until it fails; give minutes where an autoscaler adds machines.
    `queue_timeout_s`: how long a job may wait for machines that are large enough but busy.
    """

    is_remote = True

    def __init__(
        self,
        address: str | None = None,
        namespace: str = "marin",
        *,
        linger_s: float = 30.0,
        unschedulable_after_s: float = 10.0,
        queue_timeout_s: float = 86_400.0,
    ) -> None:
        self._address = None if address == "auto" else address
        self._namespace = namespace
        self._limits = _Limits(
            linger_s=linger_s, unschedulable_after_s=unschedulable_after_s, queue_timeout_s=queue_timeout_s
        )

    def pack(self, value: Any) -> bytes:
        """`value` as bytes for `pickle.loads` on any machine of the cluster: what a script defines goes by value."""
        connect(self._address, self._namespace)
        from ray import cloudpickle

        return cloudpickle.dumps(value)

    def launch(
        self,
        request: JobRequest,
        *,
        on_output: Callable[[bytes], None] | None = None,
        on_end: Callable[[JobResult], None] | None = None,
    ) -> JobHandle:
        """Start the job, and return at once; of a TPU job, `on_output` gets what its first process prints.

        The other processes of a TPU job log to the log file's name with ".1", ".2" and so on. ValueError: there is no
        such cluster, or the job cannot be sent to it.
        """
        connect(self._address, self._namespace)
        return RayJob(request, self._namespace, self._limits, on_output, on_end)


def connect(address: str | None, namespace: str) -> None:
    """Connect this process to a Ray cluster unless it is; ValueError if there is none, or another one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ValueError(f"Ray is not installed ({error}): pip install 'marin[ray]'") from error
    with _CONNECTING:
        if ray.is_initialized():
            connected = ray.get_runtime_context().gcs_address
            if address is not None and "://" not in address and address != connected:
                raise ValueError(
                    f"this process is connected to the Ray cluster at {connected}, and can use no other one ({address})"
                )
            return
        try:
            _probe(address)
            with _no_error_printer(), _sigterm_kept():
                ray.init(address or "auto", namespace=namespace, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"no Ray cluster at {address or os.environ.get('RAY_ADDRESS') or 'this machine'}: {error}. Start one "
                "with `ray start --head`, or name one by address or RAY_ADDRESS"
            ) from error


def _probe(address: str | None) -> None:
    """See whether anyone listens at a cluster's address: Ray itself would try for minutes."""
    from ray._private.services import canonicalize_bootstrap_address

    if address is not None and "://" in address:
        found = urllib.parse.urlsplit(address).netloc
    else:
        found = canonicalize_bootstrap_address(address or "auto")
    host, colon, port = (found or "").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=_PROBE_S).close()


@contextlib.contextmanager
def _no_error_printer() -> Iterator[None]:
    """Inside, Ray connects without its thread that prints errors of all machines to stdout, which is for data."""
    from ray._private import worker

    before = worker.listen_error_messages
    worker.listen_error_messages = lambda *_: None
    try:
        yield
    finally:
        worker.listen_error_messages = before


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Inside, Ray may set its handler of SIGTERM; afterwards the process has its own again."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


# -- the launcher's end -----------------------------------------------------------------------------------------------


class RayJob:
    """The handle of a job on a Ray cluster."""

    def __init__(self, request: JobRequest, namespace: str, limits: _Limits, on_output, on_end) -> None:
        import ray
        import ray.cloudpickle

        self.name = request.name
        self.pid: int | None = None
        self._request, self._limits, self._on_output, self._on_end = request, limits, on_output, on_end
        self._started = time.monotonic()
        self._result: JobResult | None = None
        self._ended = threading.Event()
        self._stop = threading.Event()
        self._kill_timer: threading.Timer | None = None
        payload = packed(request, ray.cloudpickle.dumps)
        self.actor_name = f"{request.name}-{secrets.token_hex(4)}"
        detached = {"name": self.actor_name, "namespace": namespace, "lifetime": "detached"}
        if request.resources.device == "tpu":
            # checks the type here, where the caller can still be told
            gang = _Gang(name=request.name, resources=request.resources, payload=payload, limits=limits)
            self._asked: Mapping[str, float] = {}
            strategy = _away_from_tpus()
            actor = _remote(_GangActor, num_cpus=0, scheduling_strategy=strategy, **detached)
            self._actor = actor.remote(limits.linger_s)
            self._first = self._actor.start.remote(gang)
        else:
            self._asked = resource_table(request.resources)
            self._actor = _remote(_JobActor, **ray_options(request.resources), **detached).remote(limits.linger_s)
            self._first = self._actor.start.remote(payload, {})
        threading.Thread(target=self._watch, name=f"job {self.name}", daemon=True).start()

    def wait(self, timeout_s: float | None = None) -> JobResult | None:
        self._ended.wait(timeout_s)
        return self._result

    def cancel(self, grace_s: float = 10.0) -> None:
        self._stop.set()
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        if grace_s > 0:
            self._actor.cancel.remote(grace_s)
            self._kill_timer = threading.Timer(grace_s + _KILL_MARGIN_S, _kill, (self._actor,))
            self._kill_timer.daemon = True
            self._kill_timer.start()
        else:
            _kill(self._actor)

    def _watch(self) -> None:
        try:
            result = self._follow()
        except BaseException as error:  # whatever it is: whoever waits must be told
            result = JobResult(error=error_of(error))
        _kill(self._actor)
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self._result = replace(result, wall_s=result.wall_s or time.monotonic() - self._started)
        if self._on_end is not None:
            self._on_end(self._result)
        self._ended.set()

    def _follow(self) -> JobResult:
        resources = self._request.resources
        place = _Place(
            problem=lambda: _too_large(self.name, self._asked),
            kind=UNSCHEDULABLE,
            limits=self._limits,
            stop=self._stop,
        )
        result = _wait_for_start(self._first, place)
        if result is None:
            result = _follow(self._actor, self._first, self._on_output, resources.preemptible)
        if self._stop.is_set() and result.error is not None and not result.cancelled:  # it had to be killed
            result = replace(result, cancelled=True, error=replace(result.error, kind=CANCELLED))
        return result


def _remote(cls: type, **options: Any) -> Any:
    import ray

    # several requests at a time: for news, to stop, for a sign of life
    return ray.remote(cls).options(max_restarts=0, max_task_retries=0, max_concurrency=8, **options)


def _away_from_tpus() -> Any:
    """Where the owner of a gang goes if it can: machines with TPUs are those that get lost."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    steady = [node for node in _live_nodes() if "TPU" not in node["Resources"]]
    steady.sort(key=lambda node: "node:__internal_head__" not in node["Resources"])
    return NodeAffinitySchedulingStrategy(steady[0]["NodeID"], soft=True) if steady else "DEFAULT"


def _kill(actor: Any) -> None:
    import ray
    from ray.exceptions import RayError

    if ray.is_initialized():  # else Ray would start a cluster of its own to ask it
        with contextlib.suppress(RayError, ValueError):  # it is gone
            ray.kill(actor)


class _Place:
    """The wait for a place: it ends badly when there can be none, when it takes too long, or when it is called off."""

    def __init__(self, *, problem: Callable[[], str | None], kind: str, limits: _Limits, stop: threading.Event) -> None:
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
        self._next_look = now + min(_LOOK_S, self._limits.unschedulable_after_s / 2)
        problem = self._problem()
        if problem is None:
            self._hopeless_since = None
            waited_s = now - self._began
            if waited_s > self._limits.queue_timeout_s:
                text = f"it waited {waited_s:.0f} s for machines that are large enough but busy"
                return _failure(UNSCHEDULABLE, "Unschedulable", text)
            return None
        if self._hopeless_since is None:
            self._hopeless_since = now
        if now - self._hopeless_since >= self._limits.unschedulable_after_s:
            return _failure(self._kind, "Unschedulable" if self._kind == UNSCHEDULABLE else "Preempted", problem)
        return None


def _wait_for_start(first: Any, place: _Place) -> JobResult | None:
    """None once the actor has started, or cannot; else why it never will."""
    import ray

    while not ray.wait([first], timeout=0.25)[0]:
        result = place.check()
        if result is not None:
            return result
    return None


def _follow(actor: Any, first: Any, on_output: Callable[[bytes], None] | None, preemptible: bool) -> JobResult:
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
            if silent_s > _SILENCE_S or _death_of(node_id) is not None:
                return _lost(error, node_id, preemptible)
            time.sleep(0.2)
            continue
        except RayTaskError:  # a mistake of this module, not of the cluster
            raise
        except RayError as error:
            return _lost(error, node_id, preemptible)
        silent_since = None
        position = news.position
        if news.output and on_output is not None:
            on_output(news.output)
        if news.result is not None:
            return news.result


# -- what went wrong --------------------------------------------------------------------------------------------------


def _failure(kind: str, type_: str, message: str) -> JobResult:
    return JobResult(error=JobError(type=type_, message=message, kind=kind))


def _death_of(node_id: str | None) -> str | None:
    """Why a machine left the cluster, as Ray names it; None if it is there or nothing is known of it."""
    import ray
    from ray.core.generated.common_pb2 import NodeDeathInfo  # pyright: ignore[reportAttributeAccessIssue]

    for node in ray.nodes():
        if node["NodeID"] == node_id and not node["Alive"]:
            return NodeDeathInfo.Reason.Name(node["DeathReason"])
    return None


def _lost(error: Exception, node_id: str | None, preemptible: bool) -> JobResult:
    """The result of a job whose process does not answer and will not."""
    from ray.exceptions import ActorUnschedulableError, OutOfMemoryError, RuntimeEnvSetupError

    text = str(error)
    type_ = type(error).__name__
    if isinstance(error, OutOfMemoryError) or "low on memory" in text:
        return _failure(OOM, "OutOfMemoryError", f"Ray killed it because memory ran low on node {node_id}")
    if isinstance(error, ActorUnschedulableError):
        return _failure(UNSCHEDULABLE, type_, text)
    if isinstance(error, RuntimeEnvSetupError) or getattr(error, "actor_init_failed", False):
        return _failure(ERROR, type_, text)
    death = _death_of(node_id)
    if death is not None or getattr(error, "preempted", False):
        taken = getattr(error, "preempted", False) or preemptible or death != "UNEXPECTED_TERMINATION"
        how = f"left the cluster ({death or 'AUTOSCALER_DRAIN_PREEMPTED'})"
        return _failure(PREEMPTED if taken else WORKER_LOST, type_, f"its machine {how}: node {node_id}")
    if node_id is None:  # lost before it told where it is
        return _failure(
            PREEMPTED if preemptible else WORKER_LOST, type_, f"it was lost at its start: {_last_line(text)}"
        )
    return _failure(WORKER_LOST, type_, f"its process was lost on node {node_id}: {_last_line(text)}")


def _last_line(text: str) -> str:
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


def _live_nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _fits(asked: Mapping[str, float], has: Mapping[str, float]) -> bool:
    return all(has.get(name, 0) >= amount for name, amount in asked.items())


def _too_large(name: str, asked: Mapping[str, float]) -> str | None:
    """None if some machine could hold `asked` were it idle; else what is asked and what the largest has."""
    nodes = [node["Resources"] for node in _live_nodes()]
    if any(_fits(asked, has) for has in nodes):
        return None
    if not nodes:
        return f"job {name!r} asks for {_amounts(asked)}; the cluster has no machine"
    largest = max(nodes, key=lambda has: (sum(has.get(n, 0) >= a for n, a in asked.items()), has.get("CPU", 0)))
    return (
        f"job {name!r} asks for {_amounts(asked)} on one machine; no machine of the cluster has that, the largest has "
        f"{_amounts({n: largest.get(n, 0) for n in asked})}"
    )


def _amounts(table: Mapping[str, float]) -> str:
    return ", ".join(
        f"{amount / 1e9:.3g} GB memory" if name == "memory" else name if ":" in name else f"{amount:g} {name}"
        for name, amount in table.items()
    )


# -- the job's end: actors --------------------------------------------------------------------------------------------


class _JobActor:
    """A job, or a member of a gang, on the machine that Ray chose."""

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

    def fetch(self, position: int, timeout_s: float) -> News:
        assert self._job is not None
        return self._job.fetch(position, timeout_s)

    def cancel(self, grace_s: float) -> None:
        if self._job is not None:
            self._job.cancel(grace_s)

    def ping(self) -> None:
        """Answering is all."""


class _GangActor:
    """What owns a gang: its reservations and members end with it."""

    def __init__(self, linger_s: float) -> None:
        self._linger_s = linger_s
        self._job: RemoteJob | None = None
        self._leave = _leaver()

    def start(self, gang: "_Gang") -> str:
        import ray

        self._job = RemoteJob(gang.run, linger_s=self._linger_s, leave=self._leave)
        return ray.get_runtime_context().get_node_id()

    def fetch(self, position: int, timeout_s: float) -> News:
        assert self._job is not None
        return self._job.fetch(position, timeout_s)

    def cancel(self, grace_s: float) -> None:
        if self._job is not None:
            self._job.cancel(grace_s)


def _leaver() -> Callable[[], None]:
    """A function that ends this actor from any thread."""
    import ray

    actor = ray.get_runtime_context().current_actor
    return lambda: ray.kill(actor)


# -- gangs ------------------------------------------------------------------------------------------------------------


class _Over(Exception):
    """A gang has ended before all of its members did."""

    def __init__(self, result: JobResult) -> None:
        self.result = result


@dataclass(frozen=True, kw_only=True)
class _Member:
    """One process of a gang."""

    actor: Any
    first: Any  # reference to what its start returns
    ip: str  # of its machine
    slice_name: str


@dataclass(frozen=True, kw_only=True)
class _Gang:
    """A TPU job: on every host of its slices one process, all together or none."""

    name: str
    resources: ResourceConfig
    payload: bytes
    limits: _Limits

    def __post_init__(self) -> None:
        self._shape()

    def _shape(self) -> TpuSlice:
        return tpu_slice(self.resources.device_type or "")

    def run(self, mailbox: Mailbox) -> JobResult:
        """Reserve, start, watch; whatever the end, nothing stays reserved."""
        with contextlib.ExitStack() as stack:
            try:
                slices = self._reserve_slices(stack, mailbox)
                return self._watch(self._start_members(stack, mailbox, slices), mailbox)
            except _Over as over:
                return over.result

    # The first host of a slice has a resource that no other host of it has: who holds it may claim the others.

    def _reserve_slices(self, stack: contextlib.ExitStack, mailbox: Mailbox) -> list[tuple[str, str]]:
        """(name, id of its first host) of every slice."""
        from ray.util.placement_group import placement_group_table

        tpu, count = self._shape(), self.resources.device_count
        heads = self._reserve(stack, mailbox, [{tpu.head_resource: 1}] * count, "SPREAD", self._missing_slices)
        first_hosts = placement_group_table(heads)["bundles_to_node_id"]
        nodes = _live_nodes()
        return [(slice_name_of(first_hosts[i], nodes, tpu), first_hosts[i]) for i in range(count)]

    def _start_members(
        self, stack: contextlib.ExitStack, mailbox: Mailbox, slices: Sequence[tuple[str, str]]
    ) -> list[_Member]:
        import ray
        from ray.exceptions import GetTimeoutError, RayError
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        tpu = self._shape()
        host = {**resource_table(self.resources), "TPU": tpu.chips_per_host}
        bundles = [{**host, name: 1} for name, _ in slices for _ in range(tpu.num_hosts)]
        self._wait_for_hosts(mailbox, slices)
        hosts = self._reserve(
            stack, mailbox, bundles, "STRICT_SPREAD", lambda: self._too_small(slices, host), kind=UNSCHEDULABLE
        )
        options = ray_options(self.resources)
        actors = []
        for index, (name, _) in enumerate(slices):
            options["resources"] = {**self.resources.custom, "TPU": tpu.chips_per_host, name: 1}
            for i in range(tpu.num_hosts):
                strategy = PlacementGroupSchedulingStrategy(hosts, index * tpu.num_hosts + i)
                actor = _remote(_JobActor, scheduling_strategy=strategy, **options).remote(self.limits.linger_s)
                stack.callback(_kill, actor)
                actors.append(actor)
        try:
            facts = ray.get([actor.facts.remote() for actor in actors], timeout=_GANG_START_S)
            order = self._order(facts, slices)
            members = [
                _Member(
                    actor=actors[i],
                    first=actors[i].start.remote(
                        self.payload,
                        self._variables(rank, i // tpu.num_hosts, facts[order[0]]),
                        f".{rank}" if rank else "",
                    ),
                    ip=facts[i]["ip"],
                    slice_name=slices[i // tpu.num_hosts][0],
                )
                for rank, i in enumerate(order)
            ]
            ray.get([member.first for member in members], timeout=_GANG_START_S)
        except GetTimeoutError:
            raise _Over(
                _failure(WORKER_LOST, "Timeout", f"not all of {len(actors)} processes started within {_GANG_START_S} s")
            ) from None
        except RayError as error:
            raise _Over(_lost(error, None, self.resources.preemptible)) from error
        return members

    def _order(self, facts: Sequence[Mapping[str, Any]], slices: Sequence[tuple[str, str]]) -> list[int]:
        """Slice by slice, the first host first, the others as the machines number themselves."""
        num_hosts = self._shape().num_hosts

        def rank(i: int) -> tuple[int, bool, int, str]:
            worker_id = facts[i]["worker_id"]
            number = int(worker_id) if worker_id is not None and worker_id.isdigit() else len(facts)
            return i // num_hosts, facts[i]["node"] != slices[i // num_hosts][1], number, facts[i]["node"]

        return sorted(range(len(facts)), key=rank)

    def _variables(self, rank: int, slice_index: int, first: Mapping[str, Any]) -> dict[str, str]:
        """What tells a process its place; `first` are the facts of process 0."""
        variables = {
            "MARIN_PROCESS_ID": str(rank),
            "MARIN_NUM_PROCESSES": str(self.resources.device_count * self._shape().num_hosts),
            "MARIN_COORDINATOR_ADDRESS": f"{first['ip']}:{first['port']}",
            "MARIN_SLICE_ID": str(slice_index),
        }
        if self.resources.device_count > 1:  # what libtpu reads to connect slices
            variables |= {
                "MEGASCALE_COORDINATOR_ADDRESS": first["ip"],
                "MEGASCALE_PORT": "8081",
                "MEGASCALE_NUM_SLICES": str(self.resources.device_count),
                "MEGASCALE_SLICE_ID": str(slice_index),
            }
        return variables

    # -- waiting for machines

    def _reserve(
        self,
        stack: contextlib.ExitStack,
        mailbox: Mailbox,
        bundles: list[dict[str, float]],
        strategy: str,
        problem: Callable[[], str | None],
        kind: str = UNSCHEDULABLE,
    ) -> Any:
        """A placement group of all bundles or none, until `stack` is left."""
        from ray.util.placement_group import placement_group, remove_placement_group

        place = _Place(problem=problem, kind=kind, limits=self.limits, stop=mailbox.stop)
        group = placement_group(bundles, strategy=strategy)
        stack.callback(remove_placement_group, group)
        while not group.wait(timeout_seconds=0.25):
            result = place.check()
            if result is not None:
                raise _Over(result)
        return group

    def _wait_for_hosts(self, mailbox: Mailbox, slices: Sequence[tuple[str, str]]) -> None:
        """Hosts of a slice join one after the other; a slice that lost one is of no use, and soon gone."""
        place = _Place(
            problem=lambda: self._missing_hosts(slices), kind=PREEMPTED, limits=self.limits, stop=mailbox.stop
        )
        while self._missing_hosts(slices) is not None:
            result = place.check()
            if result is not None:
                raise _Over(result)
            time.sleep(0.25)

    def _missing_slices(self) -> str | None:
        tpu, count = self._shape(), self.resources.device_count
        heads = [name for node in _live_nodes() for name in node["Resources"] if _is_head_resource(name)]
        if heads.count(tpu.head_resource) >= count:
            return None
        there = ", ".join(f"{heads.count(name)} of {name[4:-5]}" for name in sorted(set(heads))) or "none"
        return f"job {self.name!r} asks for {count} TPU slice(s) of {tpu.type}; the cluster has {there}"

    def _missing_hosts(self, slices: Sequence[tuple[str, str]]) -> str | None:
        tpu, nodes = self._shape(), _live_nodes()
        for name, first_host in slices:
            found = [node["NodeID"] for node in nodes if name in node["Resources"] and "TPU" in node["Resources"]]
            if first_host not in found:
                return f"the first host of slice {name!r} left the cluster"
            if len(found) < tpu.num_hosts:
                return f"slice {name!r} ({tpu.type}) has {len(found)} of its {tpu.num_hosts} hosts"
        return None

    def _too_small(self, slices: Sequence[tuple[str, str]], asked: Mapping[str, float]) -> str | None:
        nodes = _live_nodes()
        for name, _ in slices:
            for node in nodes:
                has = node["Resources"]
                if name in has and not _fits(asked, has):
                    return (
                        f"job {self.name!r} asks for {_amounts(asked)} on every host of a slice; a host of slice "
                        f"{name!r} has {_amounts({n: has.get(n, 0) for n in asked})}"
                    )
        return self._missing_hosts(slices)

    # -- watching

    def _watch(self, members: Sequence[_Member], mailbox: Mailbox) -> JobResult:
        """Until all have ended, or one has ended badly; the result is that of the first process, or what went wrong."""
        events: queue.Queue[tuple[int, JobResult]] = queue.Queue()
        for i, member in enumerate(members):
            threading.Thread(target=self._follow_member, args=(i, member, mailbox, events), daemon=True).start()
        ends: dict[int, JobResult] = {}
        deadline: float | None = None
        while len(ends) < len(members):
            if mailbox.stop.is_set() and deadline is None:
                deadline = time.monotonic() + mailbox.grace_s + _KILL_MARGIN_S / 2
                for member in members:
                    member.actor.cancel.remote(mailbox.grace_s)
            with contextlib.suppress(queue.Empty):
                index, result = events.get(timeout=0.25)
                ends[index] = result
                if result.error is not None and not mailbox.stop.is_set():
                    return self._failure_of(members, index, result, events)
                if index == 0 and deadline is None:
                    deadline = time.monotonic() + _GANG_TAIL_S
            if deadline is not None and time.monotonic() > deadline:
                break
        return ends[0] if 0 in ends else killed(f"it did not stop within {mailbox.grace_s:g} s")

    def _follow_member(
        self, index: int, member: _Member, mailbox: Mailbox, events: "queue.Queue[tuple[int, JobResult]]"
    ) -> None:
        try:
            on_output = mailbox.write if index == 0 else None
            result = _follow(member.actor, member.first, on_output, self.resources.preemptible)
        except BaseException as error:
            result = JobResult(error=error_of(error))
        events.put((index, result))

    def _failure_of(
        self,
        members: Sequence[_Member],
        index: int,
        result: JobResult,
        events: "queue.Queue[tuple[int, JobResult]]",
    ) -> JobResult:
        """`result`, unless it failed because another member was lost: its neighbours feel that before Ray tells it."""
        lost = (PREEMPTED, WORKER_LOST)
        assert result.error is not None
        if result.error.kind not in lost and not self._all_answer(members):
            give_up = time.monotonic() + _SETTLE_S
            while (left_s := give_up - time.monotonic()) > 0:
                with contextlib.suppress(queue.Empty):
                    other_index, other = events.get(timeout=left_s)
                    if other.error is not None and other.error.kind in lost:
                        index, result = other_index, other
                        break
        assert result.error is not None
        member = members[index]
        where = f"process {index} of {len(members)} (slice {member.slice_name}, {member.ip})"
        return replace(result, error=replace(result.error, message=f"{where}: {result.error.message}"))

    @staticmethod
    def _all_answer(members: Sequence[_Member]) -> bool:
        import ray
        from ray.exceptions import RayError

        try:
            ray.get([member.actor.ping.remote() for member in members], timeout=10.0)
        except RayError:
            return False
        return True


def _is_head_resource(name: str) -> bool:
    return name.startswith("TPU-") and name.endswith("-head")


def slice_name_of(first_host: str, nodes: Sequence[Mapping[str, Any]], tpu: TpuSlice) -> str:
    """The name of the slice whose first host is this: a resource that its hosts have, and no other machine.

    A label of Ray says it where the machine knows; else it is the resource of as many machines as the slice has hosts.
    """
    tables = {node["NodeID"]: node["Resources"] for node in nodes}
    labels = {node["NodeID"]: node.get("Labels") or {} for node in nodes}
    own = tables.get(first_host, {})
    label = labels.get(first_host, {}).get("ray.io/tpu-slice-name")
    if label is not None and label in own:
        return label
    candidates = {
        name: sum(name in table and "TPU" in table for table in tables.values())
        for name, amount in own.items()
        if amount == 1 and not _is_rays(name)
    }
    # most hosts, up to as many as the slice has: other resources may stand on this machine alone, or on many slices
    fitting = [name for name, hosts in candidates.items() if hosts <= tpu.num_hosts]
    if not fitting:
        raise _Over(
            _failure(
                UNSCHEDULABLE,
                "Unschedulable",
                f"node {first_host} has {tpu.head_resource} but no resource that names its slice; it has "
                f"{', '.join(sorted(own)) or 'nothing: it has left'}",
            )
        )
    return max(fitting, key=lambda name: (candidates[name], name))


def _is_rays(name: str) -> bool:
    known = ("CPU", "GPU", "TPU", "memory", "object_store_memory")
    return name in known or name.startswith(("node:", "accelerator_type:")) or _is_head_resource(name)


# -- whole commands ---------------------------------------------------------------------------------------------------


class SubmittedCommand:
    """A command on a Ray cluster, which goes on whatever becomes of this process. Made by `submit_command`."""

    def __init__(self, client: Any, submission_id: str) -> None:
        self.id = submission_id
        self._client = client

    def follow(self, on_output: Callable[[str], None]) -> int:
        """Pass on what the command prints, to its end; its exit code (1 if Ray could not run it)."""
        import asyncio

        seen, failures = 0, 0
        while True:
            try:
                seen = asyncio.run(self._tail(on_output, seen))
            except (OSError, RuntimeError) as error:  # the connection broke
                failures += 1
                if failures > _MAX_RECONNECTIONS:
                    raise ValueError(f"the Ray cluster tells no more of job {self.id}: {error}") from error
            info = self._client.get_job_info(self.id)
            if info.status.is_terminal():
                if info.status == "SUCCEEDED":
                    return 0
                if info.driver_exit_code is None and info.message:
                    on_output(f"{info.message}\n")
                return info.driver_exit_code or 1
            time.sleep(1.0)

    async def _tail(self, on_output: Callable[[str], None], seen: int) -> int:
        """Pass on the log from character `seen` on, until it ends or breaks off; how far it came."""
        position = 0
        async for text in self._client.tail_job_logs(self.id):
            position += len(text)
            if position > seen:
                on_output(text[-(position - seen) :])
                seen = position
        return seen


def submit_command(
    command: Sequence[str], *, address: str | None, env: Mapping[str, str], working_dir: str | None
) -> SubmittedCommand:
    """Have the head of a Ray cluster run a command in a copy of `working_dir` (None: without one).

    `address` is that of the cluster, "host:port", or of its job server, "http://host:8265" (None: $RAY_ADDRESS or the
    cluster here). ValueError: there is none, or it does not take the command.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray.dashboard.utils import get_address_for_submission_client
        from ray.job_submission import JobSubmissionClient
    except ModuleNotFoundError as error:
        raise ValueError(f"Ray is not installed ({error}): pip install 'marin[ray]'") from error
    for handler in logging.getLogger(ray.__name__).handlers:  # loggers below it have levels of their own
        handler.setLevel(logging.ERROR)
    try:
        address = address or os.environ.get("RAY_API_SERVER_ADDRESS")
        _probe(address)
        client = JobSubmissionClient(get_address_for_submission_client(address))
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"no Ray cluster at {address or os.environ.get('RAY_ADDRESS') or 'this machine'}: {error}. Start one with "
            "`ray start --head`, or name one by its address or that of its job server (http://HOST:8265)"
        ) from error
    runtime_env: dict[str, Any] = {"env_vars": {"RAY_USAGE_STATS_ENABLED": "0", **env}}
    if working_dir is not None:
        runtime_env["working_dir"] = os.path.abspath(working_dir)
    try:
        return SubmittedCommand(client, client.submit_job(entrypoint=shlex.join(command), runtime_env=runtime_env))
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"the Ray cluster does not take the command: {error}") from error


# -- functions that belong to Ray -------------------------------------------------------------------------------------


def unwrap_ray_function(function: Any) -> tuple[Callable[..., Any], ResourceConfig] | None:
    """The plain function under `@ray.remote` (or its `.options(...)`) and the resources it asks for; None for others.

    Does not import Ray: a process that has such a function has it. What concerns retries is left out: they are not
    Ray's here.
    """
    if not (type(function).__module__ or "").startswith("ray.remote_function"):
        return None
    options: Mapping[str, Any] = getattr(function, "_default_options", {})
    plain = getattr(function, "_function", None)
    if plain is None:  # what `.options(...)` returns keeps both in its method alone
        inside = inspect.getclosurevars(type(function).remote).nonlocals
        plain, options = inside["func_cls"]._function, inside["updated_options"]
    return plain, _resources_of(options)


def _resources_of(options: Mapping[str, Any]) -> ResourceConfig:
    import math

    custom = dict(options.get("resources") or {})
    shared = {
        "cpu": max(1, math.ceil(options.get("num_cpus") or 1)),
        "ram": str(int(options["memory"])) if options.get("memory") else None,
    }
    head = next((name for name in custom if _is_head_resource(name)), None)
    if head is not None:
        others = {name: amount for name, amount in custom.items() if name not in (head, "TPU")}
        return ResourceConfig(
            device="tpu",
            device_type=head.removeprefix("TPU-").removesuffix("-head"),
            device_count=max(1, math.ceil(custom[head])),
            preemptible=True,
            custom=others,
            **shared,
        )
    num_gpus = math.ceil(options.get("num_gpus") or 0)
    return ResourceConfig(
        device="gpu" if num_gpus else "cpu",
        device_type=(options.get("accelerator_type") or "").lower() or None if num_gpus else None,
        device_count=num_gpus,
        custom=custom,
        **shared,
    )
