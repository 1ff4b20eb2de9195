"""The cluster that jobs go to when nobody names one, and the wish to stop of a job that runs in its cluster's process.

Jobs go to this machine, unless a caller has put another cluster in place.
"""

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar

from marin.cluster.job import Cluster

_CURRENT: ContextVar[Cluster | None] = ContextVar("marin_cluster", default=None)
_STOP: ContextVar[threading.Event | None] = ContextVar("marin_stop", default=None)


def current_cluster() -> Cluster:
    """The innermost `use_cluster`, else a `LocalCluster`."""
    cluster = _CURRENT.get()
    if cluster is None:
        from marin.cluster.local import LocalCluster

        cluster = LocalCluster()
    return cluster


@contextlib.contextmanager
def use_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """Make `cluster` the current one inside the block."""
    token = _CURRENT.set(cluster)
    try:
        yield cluster
    finally:
        _CURRENT.reset(token)


def stop_event() -> threading.Event:
    """The event that is set when the job of `JobRequest.in_process` that this thread runs is asked to stop.

    Such a job gets no SIGTERM. Outside of one, the event is never set.
    """
    return _STOP.get() or threading.Event()


@contextlib.contextmanager
def use_stop_event(event: threading.Event) -> Iterator[None]:
    """Make `event` the one that `stop_event` returns inside the block."""
    token = _STOP.set(event)
    try:
        yield
    finally:
        _STOP.reset(token)
