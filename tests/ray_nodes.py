"""A real Ray cluster whose nodes are processes of this machine; a node is lost by killing its processes."""

import time
from collections.abc import Callable

import ray
from ray.cluster_utils import Cluster


class Nodes:
    """A head without cores, and nodes that come and go."""

    def __init__(self) -> None:
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 << 20},
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

    def kill(self, node) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    def stop(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what}"
        time.sleep(0.05)
