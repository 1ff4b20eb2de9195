"""Where code runs: resources and the ways to start a job."""

from marin.cluster.current import current_cluster, use_cluster
from marin.cluster.job import Cluster, Entrypoint, JobError, JobHandle, JobRequest, JobResult
from marin.cluster.resources import ResourceConfig

__all__ = [
    "Cluster",
    "Entrypoint",
    "JobError",
    "JobHandle",
    "JobRequest",
    "JobResult",
    "ResourceConfig",
    "current_cluster",
    "use_cluster",
]
