"""What an output was made from, and what was made from it, by the records of the attempts that did it.

Upwards, records name the inputs they read, down to the attempt, so the answer holds even where an input was made again
since. Downwards, `.exec/used_by` names the steps that may have read an output; an edge counts only if a committed
record of that step says so, for an edge is written before the commit that it announces. Every output is looked at once,
without recursion.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marin.execution.catalog import StepEntry, read_step, steps_of
from marin.execution.invalidation import Taint
from marin.execution.manifest import ManifestEntry
from marin.execution.outputs import Committed, find_output, outputs_of
from marin.execution.status import EXEC
from marin.execution.store import Store


@dataclass(frozen=True, kw_only=True)
class LineageNode:
    """One output."""

    name: str  # of its step
    digest: str  # of its step
    attempt: str | None  # which output of that step; None if the record that names it does not say
    path: str  # the step's folder, relative to the store
    mark: str | None  # "invalid", "tainted", or None for what may be served
    is_there: bool  # whether the store still knows it
    output: Committed | None  # the output itself, if the store knows it

    @property
    def key(self) -> tuple[str, str | None]:
        return self.digest, self.attempt

    @property
    def label(self) -> str:
        """One line: name, digits, and what is to be said of it."""
        gone = "" if self.is_there else "  (no longer in the store)"
        superseded = "  (superseded)" if self.output is not None and not self.output.is_current else ""
        return f"{self.name} @{self.digest[:10]}{f'  {self.mark.upper()}' if self.mark else ''}{superseded}{gone}"


Key = tuple[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """The outputs that one leads to in one direction."""

    start: LineageNode  # where the question began
    file: ManifestEntry | None  # the file that was asked about, if it was one
    direction: str  # "up": what it was made from; "down": what was made from it
    nodes: Mapping[Key, LineageNode]  # nearest first
    edges: Mapping[Key, tuple[Key, ...]]  # from each output to the next ones in that direction


def lineage(store: Store, address: str, *, direction: str = "up", depth: int | None = None) -> Lineage:
    """Follow an output up or down, `depth` outputs far (None: to the end).

    `address`: as for `find_output`. Raises AddressError.
    """
    place = find_output(store, address)
    walk = _Walk(store)
    follow = walk.inputs if direction == "up" else walk.readers
    start = walk.node(place.output)
    nodes: dict[Key, LineageNode] = {start.key: start}
    edges: dict[Key, tuple[Key, ...]] = {}
    waiting = deque([(start, 0)])
    while waiting:
        node, distance = waiting.popleft()
        if depth is not None and distance >= depth:
            continue
        found = follow(node)
        edges[node.key] = tuple(dict.fromkeys(other.key for other in found))
        for other in found:
            if other.key not in nodes:
                nodes[other.key] = other
                waiting.append((other, distance + 1))
    return Lineage(start=start, file=place.file, direction=direction, nodes=nodes, edges=edges)


class _Walk:
    """Reads each step of a store at most once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._taint = Taint(store)
        self._outputs: dict[str, list[Committed]] = {}  # by the step's folder
        self._folders: dict[str, list[str]] | None = None  # by digest

    def node(self, output: Committed) -> LineageNode:
        return LineageNode(
            name=output.name,
            digest=output.state.digest,
            attempt=output.state.attempt,
            path=output.step.path,
            mark=self._taint.mark(output.state),
            is_there=True,
            output=output,
        )

    def inputs(self, node: LineageNode) -> list[LineageNode]:
        """What an output was made from, as its record says."""
        if node.output is None:
            return []
        return [self._input(used) for used in node.output.record["inputs"] if _was_read(used)]

    def readers(self, node: LineageNode) -> list[LineageNode]:
        """What was made from an output: the edges that a committed record bears out."""
        found = []
        for item in self._store.items(f"{self._store.prefix}/{EXEC}/used_by/{node.digest}"):
            for path in self._folders_of(item.name):
                for output in self._outputs_at(path):
                    is_its = output.state.digest == item.name
                    if is_its and any(_is_of(used, node) for used in output.record["inputs"]):
                        found.append(self.node(output))
        return sorted(found, key=lambda other: (other.name, other.digest, other.attempt or ""))

    def _input(self, used: Mapping[str, Any]) -> LineageNode:
        for output in self._outputs_at(used["path"]):
            if output.state.digest == used["digest"] and _is_output(used, output):
                return self.node(output)
        return LineageNode(
            name=used["name"],
            digest=used["digest"],
            attempt=used.get("attempt"),
            path=used["path"],
            mark=None,
            is_there=False,
            output=None,
        )

    def _outputs_at(self, path: str) -> list[Committed]:
        if path not in self._outputs:
            step = read_step(self._store, f"{self._store.prefix}/{path}")
            self._outputs[path] = self._of_step(step)
        return self._outputs[path]

    def _of_step(self, step: StepEntry | None) -> list[Committed]:
        return outputs_of(step) if step is not None else []

    def _folders_of(self, digest: str) -> list[str]:
        if self._folders is None:  # an edge names digests alone
            self._folders = {}
            for step in steps_of(self._store):
                self._outputs[step.path] = self._of_step(step)
                for output in self._outputs[step.path]:
                    paths = self._folders.setdefault(output.state.digest, [])
                    if step.path not in paths:
                        paths.append(step.path)
        return self._folders.get(digest, [])


def _was_read(used: Mapping[str, Any]) -> bool:
    """An input that is not waited for may not have been there; then nothing was read."""
    return used.get("attempt") is not None or used.get("root_digest") is not None


def _is_output(used: Mapping[str, Any], output: Committed) -> bool:
    if used.get("attempt") is not None:
        return used["attempt"] == output.state.attempt
    return used.get("root_digest") == output.record["root_digest"]


def _is_of(used: Mapping[str, Any], node: LineageNode) -> bool:
    return used["digest"] == node.digest and node.output is not None and _is_output(used, node.output)


# -- as text ----------------------------------------------------------------------------------------------------------

_MAX_INDENT = 40  # levels; below that the level is told by its number


def as_tree(found: Lineage) -> list[str]:
    """Lines of a tree; an output that is met again is not followed again."""
    lines: list[str] = []
    shown: set[Key] = set()

    def line(key: Key, lead: str, depth: int) -> None:
        node = found.nodes[key]
        again = key in shown and bool(found.edges.get(key))
        text = f"{node.label}  (see above)" if again else node.label
        lines.append(f"{lead}{text}" if depth <= _MAX_INDENT else f"{lead}[{depth}] {text}")

    stack: list[tuple[Key, str, str, int]] = [(found.start.key, "", "", 0)]
    while stack:
        key, lead, below, depth = stack.pop()
        line(key, lead, depth)
        if key in shown:
            continue
        shown.add(key)
        children = found.edges.get(key, ())
        for index in reversed(range(len(children))):
            is_last = index == len(children) - 1
            if depth < _MAX_INDENT:
                stack.append(
                    (
                        children[index],
                        below + ("└─ " if is_last else "├─ "),
                        below + ("   " if is_last else "│  "),
                        depth + 1,
                    )
                )
            else:
                stack.append((children[index], below, below, depth + 1))
    return lines


def as_dot(found: Lineage) -> list[str]:
    """The graph for Graphviz; arrows go from an input to what was made from it."""
    names = {key: f"n{index}" for index, key in enumerate(found.nodes)}
    colors = {"invalid": ', style=filled, fillcolor="#f8d7da"', "tainted": ', style=filled, fillcolor="#fff3cd"'}
    lines = ["digraph lineage {", "  rankdir=LR; node [shape=box];"]
    for key, node in found.nodes.items():
        label = node.label.replace("\\", "\\\\").replace('"', '\\"').replace("  ", "\\n")
        lines.append(f'  {names[key]} [label="{label}"{colors.get(node.mark or "", "")}];')
    for key, others in found.edges.items():
        for other in others:
            first, second = (other, key) if found.direction == "up" else (key, other)
            lines.append(f"  {names[first]} -> {names[second]};")
    return [*lines, "}"]


def as_json(found: Lineage) -> dict[str, Any]:
    """Plain values; edges go from an input to what was made from it."""
    order = {key: index for index, key in enumerate(found.nodes)}
    pairs = [(key, other) for key, others in found.edges.items() for other in others]
    if found.direction == "up":
        pairs = [(other, key) for key, other in pairs]
    entry = found.file
    return {
        "direction": found.direction,
        "file": {"path": entry.path, "bytes": entry.size, "sha256": entry.sha256} if entry is not None else None,
        "nodes": [
            {
                "name": node.name,
                "digest": node.digest,
                "attempt": node.attempt,
                "path": node.path,
                "state": node.mark or ("succeeded" if node.is_there else "unknown"),
            }
            for node in found.nodes.values()
        ],
        "edges": [{"from": order[first], "to": order[second]} for first, second in pairs],
    }
