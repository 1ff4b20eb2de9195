"""Many short pieces of work on a Ray cluster: a function of bytes, run once for each payload, as Ray tasks.

Jobs (`marin.cluster.ray`) are actors, for work that has machines to itself for hours. Here a piece takes seconds or
minutes, there are thousands, and any machine will do, so Ray places them. A piece whose process or machine is lost is
run again; an exception of the function is not. The function is named, not sent: the machines need the package.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from marin.cluster.ray import connect

_AHEAD = 2  # pieces submitted for each core, so that none waits for the next one


def run_tasks(
    function: str,
    shared: bytes,
    payloads: Sequence[bytes],
    *,
    address: str | None = None,
    namespace: str = "marin",
    retries: int = 2,
    at_once: int | None = None,
) -> Iterator[tuple[int, str, bytes]]:
    """(index, "started" | "done" | "lost", result) as they come: results of `function(shared, payload)`.

    `function` is "module:name". A piece is "lost", with the reason as its result, when its process died `retries` times
    more, or the function raised. `at_once`: how many run at the same time, None for one a core of the cluster.
    Raises ValueError where there is no cluster.
    """
    connect(address, namespace)
    import ray
    from ray.exceptions import RayError

    environment = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    remote = ray.remote(_call).options(
        num_cpus=1, max_retries=retries, retry_exceptions=False, runtime_env={"env_vars": environment}
    )
    shared_ref = ray.put(shared)
    limit = at_once or _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: dict[Any, int] = {}
    waiting = iter(enumerate(payloads))
    try:
        while True:
            while len(running) < limit and (piece := next(waiting, None)) is not None:
                index, payload = piece
                yield index, "started", b""
                running[remote.remote(function, sys.path, shared_ref, payload)] = index
            if not running:
                return
            (ready,), _ = ray.wait(list(running), num_returns=1)
            index = running.pop(ready)
            try:
                result: bytes = ray.get(ready)
            except RayError as error:
                yield index, "lost", _reason(error).encode()
            else:
                yield index, "done", result
    finally:
        for ref in running:
            ray.cancel(ref, force=True)


def _call(function: str, path: list[str], shared: bytes, payload: bytes) -> bytes:
    """The function's result, on the machine that Ray chose, where modules are found as the caller finds them."""
    sys.path[:] = [*sys.path, *(folder for folder in path if folder not in sys.path)]
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(shared, payload)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else error}"
