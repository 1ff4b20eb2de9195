"""Jobs on a Ray cluster. Only the modules named ray* import Ray, and only when a cluster is asked for.

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
import secrets
import shlex
import signal
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from marin.cluster.job import (
    CANCELLED,
    UNSCHEDULABLE,
    JobHandle,
    JobRequest,
    JobResult,
    error_of,
)
from marin.cluster.ray_actors import (
    KILL_MARGIN_S,
    JobActor,
    Limits,
    Place,
    actor_class,
    away_from_tpus,
    follow,
    kill_actor,
    ray_options,
    resource_table,
    too_large,
    wait_for_start,
)
from marin.cluster.ray_gangs import Gang, is_head_resource
from marin.cluster.remote import packed
from marin.cluster.resources import ResourceConfig

_PROBE_S = 10.0  # for a cluster's address to answer
_MAX_RECONNECTIONS = 100  # to the log of a command

_CONNECTING = threading.Lock()


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
        self._limits = Limits(
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

    def __init__(self, request: JobRequest, namespace: str, limits: Limits, on_output, on_end) -> None:
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
            gang = Gang(name=request.name, resources=request.resources, payload=payload, limits=limits)
            self._asked: Mapping[str, float] = {}
            strategy = away_from_tpus()
            actor = actor_class(JobActor, num_cpus=0, scheduling_strategy=strategy, **detached)
            self._actor = actor.remote(limits.linger_s)
            self._first = self._actor.start_gang.remote(gang)
        else:
            self._asked = resource_table(request.resources)
            self._actor = actor_class(JobActor, **ray_options(request.resources), **detached).remote(limits.linger_s)
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
            self._kill_timer = threading.Timer(grace_s + KILL_MARGIN_S, kill_actor, (self._actor,))
            self._kill_timer.daemon = True
            self._kill_timer.start()
        else:
            kill_actor(self._actor)

    def _watch(self) -> None:
        try:
            result = self._follow()
        except BaseException as error:  # whatever it is: whoever waits must be told
            result = JobResult(error=error_of(error))
        kill_actor(self._actor)
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self._result = replace(result, wall_s=result.wall_s or time.monotonic() - self._started)
        if self._on_end is not None:
            self._on_end(self._result)
        self._ended.set()

    def _follow(self) -> JobResult:
        resources = self._request.resources
        place = Place(
            problem=lambda: too_large(self.name, self._asked),
            kind=UNSCHEDULABLE,
            limits=self._limits,
            stop=self._stop,
        )
        result = wait_for_start(self._first, place)
        if result is None:
            result = follow(self._actor, self._first, self._on_output, resources.preemptible)
        if self._stop.is_set() and result.error is not None and not result.cancelled:  # it had to be killed
            result = replace(result, cancelled=True, error=replace(result.error, kind=CANCELLED))
        return result


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


# A head answers before the agents of its nodes have reported to it; until one has, it takes no job.
_NO_AGENT_YET = "No available agent"
_AGENT_WAIT_S = 60.0


def submit_command(
    command: Sequence[str], *, address: str | None, env: Mapping[str, str], working_dir: str | None
) -> SubmittedCommand:
    """Have the head of a Ray cluster run a command in a copy of `working_dir` (None: without one).

    `address` is that of the cluster, "host:port", or of its job server, "http://host:8265" (None: $RAY_ADDRESS or the
    cluster here). A cluster that has just started is given a minute to be ready. ValueError: there is none, or it does
    not take the command.
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
    deadline = time.monotonic() + _AGENT_WAIT_S
    while True:
        try:
            return SubmittedCommand(client, client.submit_job(entrypoint=shlex.join(command), runtime_env=runtime_env))
        except (OSError, RuntimeError, ValueError) as error:
            if _NO_AGENT_YET not in str(error) or time.monotonic() > deadline:
                raise ValueError(f"the Ray cluster does not take the command: {error}") from error
            time.sleep(1)


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
    head = next((name for name in custom if is_head_resource(name)), None)
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
