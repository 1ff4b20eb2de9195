"""The cluster that jobs go to when nobody names one: this machine, unless a caller has put another in place."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from marin.cluster.job import Cluster

_CURRENT: ContextVar[Cluster | None] = ContextVar("marin_cluster", default=None)


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
