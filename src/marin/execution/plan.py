"""What a run would do, and why, decided from the registers alone and changing nothing.

A step is needed if it was asked for or if a needed step that has to run reads it. What only committed steps read is
not needed, so an intermediate result that was thrown away after its use is not made again. An output that is needed
must still have every file of its manifest with the recorded size; looking costs one `lstat` a file, and a change that
keeps the size is not seen, for seeing it would mean reading everything.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from marin.execution.explain import Change, Earlier, Explanation, explain, nearest
from marin.execution.fingerprint import code_changed
from marin.execution.graph import Graph, Node
from marin.execution.manifest import first_difference
from marin.execution.status import CANCELLED, FAILED, RUNNING, SUCCEEDED, LocalStore, Observer, State, StepPaths

HIT = "HIT"  # committed already
RUN = "RUN"  # will run
WAIT = "WAIT"  # another runner has it; this one will wait for it
FAILED_BEFORE = "FAILED"  # failed in an earlier run and will not run again unless forced
BLOCKED = "BLOCKED"  # reads a step that failed
SKIP = "SKIP"  # nothing that has to run reads it


class SelectionError(ValueError):
    """`run_only` selects nothing, or is no regular expression."""


class DigestCollision(ValueError):
    """A step's folder holds the output of another recipe."""


@dataclass(frozen=True)
class PlanItem:
    """One step of a plan."""

    node: Node  # the step
    action: str  # HIT, RUN, WAIT, FAILED, BLOCKED or SKIP
    reason: str  # why, in words
    changes: tuple[Change, ...] = ()  # what differs from the nearest committed output of this name, if asked for
    state: State | None = None  # the register as it was read
    code_changed: bool = False  # HIT only: the function's code is not what it was when the output was made


@dataclass(frozen=True)
class Plan:
    """What to do with every step, inputs first."""

    graph: Graph  # all steps
    items: tuple[PlanItem, ...]  # in the graph's order; only the steps that the targets lead to
    targets: tuple[str, ...]  # digests asked for
    prefix: str  # absolute path of the store

    def __iter__(self) -> Iterator[PlanItem]:
        return iter(self.items)

    def count(self, action: str) -> int:
        return sum(item.action == action for item in self.items)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to run, to wait for or to complain about."""
        return all(item.action in (HIT, SKIP) for item in self.items)

    def paths(self, node: Node) -> StepPaths:
        return StepPaths(os.path.join(self.prefix, node.path))


def select(graph: Graph, patterns: Sequence[str] | None) -> tuple[str, ...]:
    """Digests of the targets, or of the steps whose name one of the regular expressions is found in."""
    if not patterns:
        return graph.targets
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise SelectionError(f"run_only: {pattern!r} is not a regular expression: {error}") from error
    chosen = tuple(n.digest for n in graph.nodes if any(p.search(n.step.name) for p in compiled))
    if not chosen:
        names = sorted({n.step.name for n in graph.nodes})
        shown = ", ".join(names[:10]) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")
        raise SelectionError(f"run_only: no step's name matches {' or '.join(map(repr, patterns))}; there are {shown}")
    return chosen


def _reachable(graph: Graph, targets: Sequence[str]) -> set[str]:
    reached, pending = set(targets), list(targets)
    while pending:
        node = graph[pending.pop()]
        new = [d for d in (*node.deps, *node.pseudo) if d not in reached]
        reached.update(new)
        pending.extend(new)
    return reached


def _is_live(state: State, paths: StepPaths, observer: Observer) -> bool:
    return state.status == RUNNING and not observer.is_stale(paths.root, state)


def _at_it(state: State) -> str:
    owner = state.owner
    return f"run {owner.run_id} (process {owner.pid} on {owner.host}) is at it"


def judge(
    node: Node,
    state: State | None,
    paths: StepPaths,
    *,
    force_run_failed: bool,
    observer: Observer,
    look_at_files: bool = True,
) -> tuple[str, str]:
    """(action, reason) for a needed step whose register reads `state`, its inputs aside.

    `look_at_files`: whether a committed output must still have all its files, by name and size, to be a hit.
    """
    if state is None:
        return RUN, "no output yet"
    if state.digest != node.digest:
        if node.step.override_output_path is not None and _is_live(state, paths, observer):
            return WAIT, _at_it(state)
        if node.step.override_output_path is None:
            raise DigestCollision(
                f"step '{node.step.name}': {paths.root} belongs to a step with digest {state.digest}, this one has "
                f"{node.digest}; give one of the two another name"
            )
        if node.step.publish == "inplace":
            raise DigestCollision(
                f"step '{node.step.name}' publishes in place into override_output_path "
                f"{node.step.override_output_path!r}, which holds the output of another recipe "
                f"({state.digest[:10]}, this one is {node.digest[:10]}); the two must not mix. "
                "Name another output path, or move the old folder away"
            )
        return RUN, "its fixed output path holds the output of another recipe"
    if state.status == SUCCEEDED:
        root, record = paths.data_root(state), state.record or {}
        if not os.path.isdir(root):
            return RUN, "its output folder is gone"
        if look_at_files and record.get("files"):
            difference = first_difference(root, f"{paths.root}/{record['manifest_ref']}")
            if difference is not None:
                return RUN, difference
        return HIT, "cached"
    if state.status == FAILED:
        error = state.error or {}
        if force_run_failed:
            return RUN, "failed before, forced"
        return FAILED_BEFORE, f"failed before with {error.get('type')}: {error.get('message')}"
    if state.status == CANCELLED:
        return RUN, "was cancelled before"
    if state.status == RUNNING:
        return (WAIT, _at_it(state)) if _is_live(state, paths, observer) else (RUN, "its runner is gone")
    raise ValueError(f"{paths.state}: unknown status {state.status!r}; update marin")


class Siblings:
    """What was committed before under a step's name: what a changed step is compared with."""

    def __init__(self, store: LocalStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._folders: dict[str, list[str]] = {}

    def earlier(self, node: Node) -> list[Earlier]:
        """The recipes of this step's name, or of its fixed output path, that were carried out; not its own."""
        folder, _, base = node.step.name.rpartition("/")
        if folder not in self._folders:
            try:
                self._folders[folder] = os.listdir(os.path.join(self._prefix, folder))
            except (FileNotFoundError, NotADirectoryError):
                self._folders[folder] = []
        paths = [os.path.join(folder, n) for n in self._folders[folder] if n[:-11] == base and n[-11:-10] == "-"]
        if node.step.override_output_path is not None:
            paths.append(node.path)
        found = []
        for path in paths:
            state = self._store.read(os.path.join(self._prefix, path))
            if state is not None and state.record is not None and state.digest != node.digest:
                names = {i["digest"]: _step_name(i["path"]) for i in state.record["inputs"]}
                canonical, ended = state.record["canonical"], state.record["ended"]
                found.append(Earlier(digest=state.digest, canonical=canonical, ended=ended, names=names))
        return found


def _step_name(path: str) -> str:
    """The name of the step whose folder this is: the path without its digest."""
    return re.sub(r"-[0-9a-f]{10}$", "", path)


def _explain(node: Node, siblings: Siblings, names: Mapping[str, str]) -> tuple[str, tuple[Change, ...]]:
    match = nearest(node, siblings.earlier(node), names)
    if match is None:
        return "new step", ()
    old, changes = match
    own = [str(change) for change in changes if not change.is_input]
    inputs = [change.path.removeprefix("dep ") for change in changes if change.is_input]
    shown = own[:3] + ["..."] * (len(own) > 3)
    if inputs:
        shown.append(f"input {', '.join(inputs[:3])}{', ...' * (len(inputs) > 3)} changed")
    return "; ".join(shown), tuple(changes)


def make_plan(
    graph: Graph,
    store: LocalStore,
    prefix: str,
    *,
    run_only: Sequence[str] | None = None,
    force_run_failed: bool = False,
    with_changes: bool = False,
    observer: Observer | None = None,
) -> Plan:
    """Decide for every step what a run would do.

    Reads each register once; `with_changes` also compares changed steps with the nearest output of their name.
    """
    observer = observer or Observer()
    targets = select(graph, run_only)
    reached = _reachable(graph, targets)
    nodes = [node for node in graph.nodes if node.digest in reached]
    needed = set(targets)
    decided: dict[str, tuple[str, str, State | None]] = {}
    for node in reversed(nodes):
        paths = StepPaths(os.path.join(prefix, node.path))
        state = store.read(paths.root)
        action, reason = judge(
            node,
            state,
            paths,
            force_run_failed=force_run_failed,
            observer=observer,
            look_at_files=node.digest in needed,
        )
        if node.digest not in needed and action != HIT:
            action, reason = SKIP, "nothing that has to run reads it"
        elif action in (RUN, WAIT):  # the one that is waited for may die, and then this run needs the inputs
            needed.update(node.deps)
        decided[node.digest] = (action, reason, state)
    items = []
    siblings = Siblings(store, prefix)
    names = {node.digest: node.step.name for node in nodes}
    final: dict[str, str] = {}
    for node in nodes:
        action, reason, state = decided[node.digest]
        changes: tuple[Change, ...] = ()
        broken = [d for d in node.deps if final.get(d) in (FAILED_BEFORE, BLOCKED)] if action in (RUN, WAIT) else []
        if broken:
            action, reason = BLOCKED, f"input {graph[broken[0]].step.name} failed"
        elif action == RUN and with_changes and (state is None or state.digest != node.digest):
            reason, changes = _explain(node, siblings, names)
        final[node.digest] = action
        record = state.record if action == HIT and state is not None and node.step.code_policy == "warn" else None
        is_other = code_changed(node.step.fn, record or {}, node.step.config)
        items.append(PlanItem(node, action, reason, changes, state, is_other))
    return Plan(graph, tuple(items), targets, prefix)


def explain_plan(
    plan: Plan, names: Sequence[str] | None = None, store: LocalStore | None = None
) -> list[tuple[PlanItem, Explanation | None]]:
    """What the steps of a plan differ in from earlier ones, upstream first: those of the given names, or all that are
    not cached.

    The explanation is None where the recipe is not the reason that a step runs: its last run failed or was abandoned.
    """
    siblings = Siblings(store or LocalStore(), plan.prefix)
    found: list[tuple[PlanItem, Explanation | None]] = []
    for item in plan:
        if names is None and item.action in (HIT, SKIP) or names is not None and item.node.name not in names:
            continue
        has_run = item.state is not None and item.state.digest == item.node.digest
        is_explained = item.action == HIT or not has_run
        found.append((item, explain(plan.graph, item.node.digest, siblings.earlier) if is_explained else None))
    return found
