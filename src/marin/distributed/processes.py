"""Several processes that train as one: who they are, and what they must agree on.

Each runs the same program on devices of its own and sees all of them as one mesh; `jax.distributed` connects them. What
decides the course of a run must be the same in each: a number from the device is, a clock, a signal or the listing of
a folder is not. Such things are asked of the first process (`said_by_first`), of all (`true_everywhere`), or, in the
training loop, by a `Vote` that is counted while the next steps run. The price of the last is that a wish comes true
some steps late.

With one process nothing here talks to anybody.
"""

import json
import os
from collections import deque
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from marin.distributed.config import AUTOMATIC, ProcessesConfig

T = TypeVar("T")

_VARIABLES = {
    "coordinator": "MARIN_COORDINATOR_ADDRESS",
    "num_processes": "MARIN_NUM_PROCESSES",
    "process_id": "MARIN_PROCESS_ID",
}
"""Fields of ProcessesConfig -> where the cluster tells a process the same."""

_LAG = 2  # votes under way; by then the step that came before is done, as the loop has read its numbers


def connect(config: ProcessesConfig) -> None:
    """Join the other processes, if there are any: the config names them, or the environment does.

    Nothing happens for one process, or where they are connected already. To be called before JAX looks for devices.

    Raises:
        ValueError: something is missing or makes no sense; the message says which variable or field.
        RuntimeError: the others cannot be reached.
    """
    place = _place(config)
    if place is None or jax.distributed.is_initialized():
        return
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which training hears itself
    jax.distributed.initialize(
        **place,
        initialization_timeout=config.start_timeout_s,
        heartbeat_timeout_seconds=config.lost_after_s,
        # one that has failed waits no longer for the others to say goodbye
        shutdown_timeout_seconds=config.lost_after_s,
    )


def _place(config: ProcessesConfig) -> dict[str, Any] | None:
    """Arguments of `jax.distributed.initialize`; None for a process that is alone."""
    if config.coordinator == AUTOMATIC:
        return {}
    given: dict[str, Any] = {}
    for field, variable in _VARIABLES.items():
        value = getattr(config, field)
        given[field] = os.environ.get(variable) if value is None else value
    if given["num_processes"] in (None, 1, "1") and given["coordinator"] is None:
        return None
    missing = [f"{field} (${_VARIABLES[field]})" for field, value in given.items() if value is None]
    if missing:
        raise ValueError(
            f"processes: {_said(given)} is given without {', '.join(missing)}. Each process needs all three, or "
            f"coordinator '{AUTOMATIC}' where JAX knows the cluster."
        )
    if given["num_processes"] in (1, "1"):
        return None
    try:
        num_processes, process_id = (int(given[name]) for name in ("num_processes", "process_id"))
    except ValueError:
        raise ValueError(f"processes: num_processes and process_id are whole numbers, got {_said(given)}") from None
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"processes: process_id {process_id} of num_processes {num_processes}; they are counted from 0, so the "
            f"last is {num_processes - 1}"
        )
    return {
        "coordinator_address": given["coordinator"],
        "num_processes": num_processes,
        "process_id": process_id,
        "cluster_detection_method": "deactivate",
    }


def _said(given: dict[str, Any]) -> str:
    return ", ".join(f"{field} {value!r}" for field, value in given.items() if value is not None)


def is_first() -> bool:
    """Whether this process is the one that writes files and speaks to the user."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Return when all processes have called this with the same words."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def said_by_first(value: T) -> T:
    """What the first process passes, a JSON value, in all of them."""
    if jax.process_count() == 1:
        return value
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(content.size)))
    padded = np.resize(content, size) if is_first() else np.zeros(size, np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())


def true_everywhere(flag: bool) -> bool:
    """Whether all processes pass True."""
    if jax.process_count() == 1:
        return flag
    return bool(np.all(multihost_utils.process_allgather(np.asarray(flag))))


def fetch(tree: T) -> T:
    """Arrays as numpy arrays in every process, whole, wherever their parts lie. All processes call it.

    With one process this is `jax.device_get`. Each process must have room for all of it.
    """
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


class Vote:
    """Whether any process wishes something, learnt by all at the same call.

    Every process calls the vote equally often, once a step. Each answer is that of some calls ago, so that nothing
    waits for it; alone, a process gets its own wish at once.
    """

    def __init__(self, mesh: Mesh | None) -> None:
        """`mesh` has the devices of all processes; it may be None for a process that is alone."""
        self._under_way: deque[jax.Array] = deque()
        self._is_alone = jax.process_count() == 1
        if not self._is_alone:
            assert mesh is not None, "several processes have several devices"
            self._ballots = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
            self._num_ballots = len(self._ballots.addressable_devices)
            self._any = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, wish: bool) -> bool:
        """Take part with this wish; whether there was any in the vote that ends now."""
        if self._is_alone:
            return wish
        ballots = np.full(self._num_ballots, wish, np.int8)
        self._under_way.append(self._any(jax.make_array_from_process_local_data(self._ballots, ballots)))
        if len(self._under_way) <= _LAG:
            return False
        return bool(self._under_way.popleft())

    def forget(self) -> None:
        """Drop the votes under way: what they asked for has been done. All processes call it at the same step."""
        self._under_way.clear()
