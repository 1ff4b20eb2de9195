"""TPU jobs on a Ray cluster: on every host of their slices one process, all together or none.

One actor owns the gang: it reserves whole slices and owns a member on each of their hosts, so that all of it ends, and
is given back, with that one.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from marin.cluster.job import (
    PREEMPTED,
    UNSCHEDULABLE,
    WORKER_LOST,
    JobResult,
    error_of,
)
from marin.cluster.ray_actors import (
    KILL_MARGIN_S,
    JobActor,
    Limits,
    Place,
    actor_class,
    amounts_text,
    failed,
    follow,
    has_room,
    kill_actor,
    live_nodes,
    lost_job,
    ray_options,
    resource_table,
)
from marin.cluster.remote import Mailbox, killed
from marin.cluster.resources import ResourceConfig
from marin.cluster.tpu import TpuSlice, tpu_slice

_GANG_START_S = 300.0  # for the members of a gang to start once their machines are reserved
_GANG_TAIL_S = 300.0  # for the other members to end after the first one has
SETTLE_S = 30.0  # for Ray to notice that a machine is gone whose neighbours already feel it


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
class Gang:
    """A TPU job: on every host of its slices one process, all together or none."""

    name: str
    resources: ResourceConfig
    payload: bytes
    limits: Limits

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
        nodes = live_nodes()
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
                actor = actor_class(JobActor, scheduling_strategy=strategy, **options).remote(self.limits.linger_s)
                stack.callback(kill_actor, actor)
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
                failed(WORKER_LOST, "Timeout", f"not all of {len(actors)} processes started within {_GANG_START_S} s")
            ) from None
        except RayError as error:
            raise _Over(lost_job(error, None, self.resources.preemptible)) from error
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

        place = Place(problem=problem, kind=kind, limits=self.limits, stop=mailbox.stop)
        group = placement_group(bundles, strategy=strategy)
        stack.callback(remove_placement_group, group)
        while not group.wait(timeout_seconds=0.25):
            result = place.check()
            if result is not None:
                raise _Over(result)
        return group

    def _wait_for_hosts(self, mailbox: Mailbox, slices: Sequence[tuple[str, str]]) -> None:
        """Hosts of a slice join one after the other; a slice that lost one is of no use, and soon gone."""
        place = Place(
            problem=lambda: self._missing_hosts(slices), kind=PREEMPTED, limits=self.limits, stop=mailbox.stop
        )
        while self._missing_hosts(slices) is not None:
            result = place.check()
            if result is not None:
                raise _Over(result)
            time.sleep(0.25)

    def _missing_slices(self) -> str | None:
        tpu, count = self._shape(), self.resources.device_count
        heads = [name for node in live_nodes() for name in node["Resources"] if is_head_resource(name)]
        if heads.count(tpu.head_resource) >= count:
            return None
        there = ", ".join(f"{heads.count(name)} of {name[4:-5]}" for name in sorted(set(heads))) or "none"
        return f"job {self.name!r} asks for {count} TPU slice(s) of {tpu.type}; the cluster has {there}"

    def _missing_hosts(self, slices: Sequence[tuple[str, str]]) -> str | None:
        tpu, nodes = self._shape(), live_nodes()
        for name, first_host in slices:
            found = [node["NodeID"] for node in nodes if name in node["Resources"] and "TPU" in node["Resources"]]
            if first_host not in found:
                return f"the first host of slice {name!r} left the cluster"
            if len(found) < tpu.num_hosts:
                return f"slice {name!r} ({tpu.type}) has {len(found)} of its {tpu.num_hosts} hosts"
        return None

    def _too_small(self, slices: Sequence[tuple[str, str]], asked: Mapping[str, float]) -> str | None:
        nodes = live_nodes()
        for name, _ in slices:
            for node in nodes:
                has = node["Resources"]
                if name in has and not has_room(asked, has):
                    return (
                        f"job {self.name!r} asks for {amounts_text(asked)} on every host of a slice; a host of slice "
                        f"{name!r} has {amounts_text({n: has.get(n, 0) for n in asked})}"
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
                deadline = time.monotonic() + mailbox.grace_s + KILL_MARGIN_S / 2
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
            result = follow(member.actor, member.first, on_output, self.resources.preemptible)
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
            give_up = time.monotonic() + SETTLE_S
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


def is_head_resource(name: str) -> bool:
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
            failed(
                UNSCHEDULABLE,
                "Unschedulable",
                f"node {first_host} has {tpu.head_resource} but no resource that names its slice; it has "
                f"{', '.join(sorted(own)) or 'nothing: it has left'}",
            )
        )
    return max(fitting, key=lambda name: (candidates[name], name))


def _is_rays(name: str) -> bool:
    known = ("CPU", "GPU", "TPU", "memory", "object_store_memory")
    return name in known or name.startswith(("node:", "accelerator_type:")) or is_head_resource(name)
