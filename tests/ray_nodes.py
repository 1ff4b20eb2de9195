"""A real Ray cluster whose nodes are processes of this machine; a node is lost by killing its processes."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator

import pytest
import ray
from ray.cluster_utils import Cluster


class Nodes:
    """A head without cores, and nodes that come and go."""

    def __init__(self) -> None:
        self._cluster = Cluster()
        self.address = ""

    def start(self) -> None:
        self._cluster.add_node(
            num_cpus=0,
            include_dashboard=False,
            object_store_memory=80 << 20,
            # a dead node is noticed after 2 s instead of 15
            _system_config={"health_check_period_ms": 500, "health_check_failure_threshold": 4},
        )
        self.address = self._cluster.address

    def add(self, wait: bool = True, **resources: float):
        """A node of two cores; `-` in a resource's name is written `_`."""
        return self._cluster.add_node(
            wait=wait,
            num_cpus=2,
            object_store_memory=80 << 20,
            resources={name.replace("_", "-"): amount for name, amount in resources.items()},
        )

    def wait_for_all(self) -> None:
        self._cluster.wait_for_nodes()

    def drain(self, node) -> None:
        """Tell Ray, as a cloud does beforehand, that the machine will be taken away in a moment."""
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        client = ray._raylet.GcsClient(address=self.address)
        accepted, why_not = client.drain_node(node.node_id, reason, "reclaimed", int((time.time() + 1) * 1000))
        assert accepted, why_not

    def kill(self, node) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    def stop(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()


@contextlib.contextmanager
def running_nodes(*python_path: str, **resources: float) -> Iterator[Nodes]:
    """A cluster with a head and one node that has these resources; jobs find modules in `python_path`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(python_path))
        nodes = Nodes()
        try:
            nodes.start()
            nodes.add(**resources)
            yield nodes
        finally:
            nodes.stop()


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what}"
        time.sleep(0.05)
