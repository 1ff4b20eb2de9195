"""Where shards are made: by processes of this machine, or by tasks of a Ray cluster, behind one call.

What comes out is the same. A shard is any pickled task of a pickled stage, an object with a method
`make(task, too_slow=, watchers=)`: those of a plan, and those of the tokenizing step.
"""

import os
import pickle
from collections.abc import Sequence
from typing import Literal, TypeAlias

from marin.processing.pipeline.pool import Events, run_in_processes

Backend: TypeAlias = Literal["local", "ray"]
BACKENDS = ("local", "ray")
BACKEND_VARIABLE = "MARIN_DATA_BACKEND"


def chosen_backend(backend: str | None, workers: int | None) -> str:
    """The backend that is asked for; None is what MARIN_DATA_BACKEND says, or "local", which 0 workers always are.

    ValueError for an unknown one.
    """
    if backend is None:  # a step's work that is done in its own process stays there
        backend = "local" if workers == 0 else os.environ.get(BACKEND_VARIABLE, "local")
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; 'local' or 'ray' is expected (of {BACKEND_VARIABLE} too)")
    return backend


def make_shards(
    stage_data: bytes,
    tasks: Sequence[tuple[str, bytes]],
    *,
    backend: str,
    address: str | None,
    workers: int | None,
    retries: int,
    events: Events,
    watched: Sequence[bool] | None = None,
) -> dict[int, str]:
    """Make all shards, (name, pickle of the task) each; the reasons of those that failed, by their index in `tasks`.

    `workers`: how many at a time, None for one a CPU of the machine or cluster. `watched`: of each task, whether rows
    of it have a time limit. `address` is the cluster's. Raises ValueError where there is none.
    """
    if backend == "ray":
        return _on_ray(stage_data, tasks, watched or [False] * len(tasks), workers, address, retries, events)
    num_workers = num_cpus() if workers is None else max(1, workers)
    return run_in_processes(
        stage_data, tasks, workers=num_workers, retries=retries, events=events, few_first=workers is None
    )


def num_cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _on_ray(
    stage_data: bytes,
    tasks: Sequence[tuple[str, bytes]],
    watched: Sequence[bool],
    workers: int | None,
    address: str | None,
    retries: int,
    events: Events,
) -> dict[int, str]:
    """Make the shards as tasks of a Ray cluster; the reasons of those that failed, by their index."""
    from marin.cluster.ray_tasks import run_tasks

    packed = [pickle.dumps((name, data, is_watched)) for (name, data), is_watched in zip(tasks, watched, strict=True)]
    failures: dict[int, str] = {}
    function = "marin.processing.pipeline.worker:make_packed"
    for index, kind, result in run_tasks(
        function, stage_data, packed, address=address, retries=retries, at_once=workers
    ):
        if kind == "started":
            events.started(tasks[index][0])
        elif kind == "lost" or result:
            failures[index] = result.decode()
        else:
            events.done(index)
    return failures
