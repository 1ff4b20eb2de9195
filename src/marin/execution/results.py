"""What became of the steps of a run, and what becomes of those that need not run.

A plan that is wholly done is settled by these few lines, without what starts, watches and commits attempts: most plans
that people ask for are done already, and importing all that would cost as much as planning hundreds of steps.
"""

import contextlib
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from marin.execution.graph import Node
from marin.execution.plan import HIT, SKIP, Plan
from marin.execution.status import State, StepPaths

if TYPE_CHECKING:
    from marin.cluster.job import JobError


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What became of one step in one run."""

    node: Node  # the step
    action: str  # cached, ran, failed, blocked, cancelled or skipped
    output_path: str | None = None  # absolute path of its committed data; None if it has none
    wall_s: float = 0.0  # seconds its function took in this run
    cpu_s: float = 0.0  # processor seconds
    max_rss: int | None = None  # peak resident bytes
    error: "JobError | None" = None  # why it failed
    log_path: str | None = None  # log of its last attempt

    @property
    def name(self) -> str:
        return self.node.step.name

    @property
    def digest(self) -> str:
        return self.node.digest

    @property
    def is_ok(self) -> bool:
        return self.action in ("cached", "ran", "skipped")

    def to_json(self) -> dict[str, Any]:
        """The step's entry in the run's record."""
        return {
            "digest": self.digest,
            "name": self.name,
            "action": self.action,
            "output": self.output_path,
            "wall_s": round(self.wall_s, 6),
            "cpu_s": round(self.cpu_s, 6),
            "max_rss": self.max_rss,
            "error": asdict(self.error) if self.error else None,
            "log": self.log_path,
        }


def settled(plan: Plan, *, on_disk: bool) -> dict[str, StepResult]:
    """The results, by digest, of the steps that need not run; where the store is `on_disk` their links are mended."""
    results = {}
    for item in plan:
        node = item.node
        if item.action == HIT:
            assert item.state is not None
            paths = plan.paths(node)
            if on_disk:
                link_data(paths, item.state)
            results[node.digest] = StepResult(node=node, action="cached", output_path=paths.data_root(item.state))
        elif item.action == SKIP:
            results[node.digest] = StepResult(node=node, action="skipped")
    return results


def link_data(paths: StepPaths, state: State) -> None:
    """Point the step's `data` link at the committed attempt. For people: if it cannot be done, nothing is lost."""
    if state.data_root == ".":
        return
    with contextlib.suppress(OSError):
        try:
            if os.readlink(paths.data_link) == state.data_root:
                return
        except FileNotFoundError:
            os.symlink(state.data_root, paths.data_link)
            return
        temporary = f"{paths.exec_dir}/data.{os.urandom(4).hex()}.tmp"
        os.symlink(state.data_root, temporary)
        os.replace(temporary, paths.data_link)
