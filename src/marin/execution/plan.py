"""What a run would do, and why, decided from the registers alone and changing nothing.

A step is needed if it was asked for or if a needed step that has to run reads it. What only committed steps read is
not needed, so an intermediate result that was thrown away after its use is not made again. An output that is needed
must still have every file of its manifest with the recorded size; looking costs one `lstat` a file, and a change that
keeps the size is not seen, for seeing it would mean reading everything.
"""

import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from marin.execution.graph import Graph, Node, no_collection
from marin.execution.invalidation import Taint
from marin.execution.lease import Observer
from marin.execution.manifest import first_difference
from marin.execution.status import (
    CANCELLED,
    EVICTED,
    FAILED,
    INVALID,
    RUNNING,
    SUCCEEDED,
    Owner,
    State,
    StepPaths,
    recipe_of,
)
from marin.execution.step import ExecutorStep
from marin.execution.store import Store

if TYPE_CHECKING:  # when it runs, imported where there is something to compare with
    from marin.execution.explain import Change, Earlier, Explanation

HIT = "HIT"  # committed already
RUN = "RUN"  # will run
WAIT = "WAIT"  # another runner has it; this one will wait for it
FAILED_BEFORE = "FAILED"  # failed in an earlier run and will not run again unless forced
BLOCKED = "BLOCKED"  # reads a step that failed, or one that must not be served
SKIP = "SKIP"  # nothing that has to run reads it
TAINTED = "TAINTED"  # committed, and struck out or built on what was struck out: not served
DRIFT = "DRIFT"  # committed at this version= by another recipe: not served until somebody accepts it

REFUSED = frozenset({TAINTED, DRIFT})  # a plan with one of these is not carried out


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a person decides about a plan: which steps, and what to do where the default is not to go on."""

    run_only: tuple[str, ...] = ()  # regular expressions of step names to run, with what they read; (): the targets
    force: tuple[str, ...] = ()  # regular expressions of step names to run again although they are committed
    expect_cached: tuple[str, ...] = ()  # regular expressions of step names that must not have to run
    force_run_failed: bool = False  # run again what failed in an earlier run
    allow_tainted: bool = False  # serve outputs that are struck out or tainted; consent is recorded
    rerun_tainted: bool = False  # run them again
    only: frozenset[str] | None = None  # digests of the steps to run, with what they read; None: the targets
    accept_drift: bool = False  # take stored outputs of pinned versions for today's recipes; recorded in the register
    strict_code: bool = False  # run again what was made by other code
    takeover: bool = False  # take steps over from runners that may still be alive

    def __post_init__(self) -> None:
        for name in ("run_only", "force", "expect_cached"):
            check_patterns(name, getattr(self, name))


class SelectionError(ValueError):
    """`run_only` selects nothing, or something that should be a regular expression is none."""


def check_patterns(name: str, patterns: Sequence[str]) -> None:
    """Raise SelectionError, with the name under which they were given, if one is no regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise SelectionError(f"{name}: {pattern!r} is not a regular expression: {error}") from None


class DigestCollision(ValueError):
    """A step's folder holds the output of another recipe."""


@dataclass(slots=True)
class PlanItem:
    """One step of a plan. Read-only, as `Node` is."""

    node: Node  # the step
    action: str  # HIT, RUN, WAIT, FAILED, BLOCKED or SKIP
    reason: str  # why, in words
    changes: "tuple[Change, ...]" = ()  # what differs from the nearest committed output of this name, if asked for
    state: State | None = None  # the register as it was read
    code_drift: tuple[str, ...] = ()  # HIT only: definitions that are not what they were when the output was made
    estimate: "Estimate | None" = None  # RUN only: what earlier runs of a step of this name took, if asked for

    @property
    def num_bytes(self) -> int | None:
        """Size of the committed output in bytes; None if there is none."""
        record = self.state.record if self.state is not None else None
        return record["bytes"] if record is not None and self.action != RUN else None


@dataclass(frozen=True)
class Estimate:
    """What a step will take, judged by earlier outputs of its name."""

    wall_s: float  # median of their seconds
    num_bytes: int  # median of their sizes


@dataclass(frozen=True)
class Plan:
    """What to do with every step, inputs first."""

    graph: Graph  # all steps
    items: tuple[PlanItem, ...]  # in the graph's order; only the steps that the targets lead to
    targets: tuple[str, ...]  # digests asked for
    prefix: str  # absolute path or URL of the store
    choices: Choices = Choices()  # what was decided by hand

    def __iter__(self) -> Iterator[PlanItem]:
        return iter(self.items)

    def count(self, action: str) -> int:
        return sum(item.action == action for item in self.items)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to run, to wait for or to complain about."""
        return all(item.action in (HIT, SKIP) for item in self.items)

    @functools.cached_property
    def consented(self) -> frozenset[str]:
        """Digests of the steps whose output is used although it is struck out or tainted, by somebody's consent.

        Also of those that will run, and will be tainted for they read such an output.
        """
        found: set[str] = set()
        for item in self.items:
            is_served = item.action == HIT and item.reason != "cached"
            is_to_be = item.action in (RUN, WAIT) and not found.isdisjoint((*item.node.deps, *item.node.pseudo))
            if is_served or is_to_be:
                found.add(item.node.digest)
        return frozenset(found)

    @property
    def unexpected(self) -> tuple[PlanItem, ...]:
        """The steps that were expected to be cached and are not."""
        patterns = [re.compile(pattern) for pattern in self.choices.expect_cached]
        return tuple(
            item
            for item in self.items
            if item.action not in (HIT, SKIP) and any(pattern.search(item.node.name) for pattern in patterns)
        )

    @property
    def refused(self) -> tuple[PlanItem, ...]:
        """The steps for which a person must decide first."""
        return tuple(item for item in self.items if item.action in REFUSED)

    def paths(self, node: Node) -> StepPaths:
        return StepPaths(f"{self.prefix}/{node.path}")


def select(graph: Graph, patterns: Sequence[str]) -> tuple[str, ...]:
    """Digests of the targets, or of the steps whose name one of the regular expressions is found in."""
    if not patterns:
        return graph.targets
    compiled = [re.compile(pattern) for pattern in patterns]
    chosen = tuple(n.digest for n in graph.nodes if any(p.search(n.step.name) for p in compiled))
    if not chosen:
        names = sorted({n.step.name for n in graph.nodes})
        shown = ", ".join(names[:10]) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")
        raise SelectionError(f"run_only: no step's name matches {' or '.join(map(repr, patterns))}; there are {shown}")
    return chosen


def _targets(graph: Graph, choices: Choices) -> tuple[str, ...]:
    if choices.only is None:
        return select(graph, choices.run_only)
    return tuple(node.digest for node in graph.nodes if node.digest in choices.only)


def _reachable(graph: Graph, targets: Sequence[str]) -> Sequence[Node]:
    """The nodes that the targets lead to, in the graph's order."""
    if targets == graph.targets:  # it holds nothing else
        return graph.nodes
    reached, pending = set(targets), list(targets)
    while pending:
        node = graph[pending.pop()]
        new = [d for d in (*node.deps, *node.pseudo) if d not in reached]
        reached.update(new)
        pending.extend(new)
    return [node for node in graph.nodes if node.digest in reached]


def _at_it(state: State) -> str:
    owner, progress = state.owner, state.progress
    far = f", {progress_text(progress)}" if progress else ""
    return f"run {owner.run_id} (process {owner.pid} on {owner.host}) is at it{far}"


def progress_text(progress: Mapping[str, Any]) -> str:
    """{"done": 20, "total": 100, "unit": "steps"} as "20/100 steps"."""
    total = f"/{progress['total']:,}" if progress.get("total") else ""
    return f"{progress.get('done', 0):,}{total} {progress.get('unit') or ''}".rstrip()


class Judge:
    """Says what a run should do about one step, from its register."""

    def __init__(
        self, store: Store, choices: Choices, observer: Observer | None = None, taint: Taint | None = None
    ) -> None:
        self._store = store
        self._choices = choices
        self._observer = observer or Observer(store=store)
        self.taint = taint or Taint(store)
        self._forced = [re.compile(pattern) for pattern in choices.force]
        self._code_memo: dict[Any, list[str]] = {}  # steps of one function look at its files once

    def judge(
        self, node: Node, state: State | None, paths: StepPaths, *, look_at_files: bool = True
    ) -> tuple[str, str]:
        """(action, reason) for a needed step whose register reads `state`, its inputs aside.

        `look_at_files`: whether a committed output must still have all its files, by name and size, to be a hit.
        """
        if state is None:
            return RUN, "no output yet"
        if state.digest != node.digest:
            return self._other_recipe(node, state, paths)
        if state.status == RUNNING:
            if self._choices.takeover or self._observer.is_stale(paths.root, state):
                return RUN, "its runner is gone" if not self._choices.takeover else "taken over by hand"
            return WAIT, _at_it(state)
        if state.status == FAILED:
            if self._choices.force_run_failed or self.is_forced(node):
                return RUN, "failed before, forced"
            error = state.error or {}
            if error.get("retry_in_s") is not None:  # its run is about to try it again
                if self._observer.is_stale(paths.root, _in_pause(state)):
                    return RUN, "its run was gone before it tried again"
                return WAIT, f"run {state.owner.run_id} tries it again after its {error.get('type')}"
            if recipe_of(state) != node.recipe:
                return RUN, f"another recipe of version {node.step.version} failed before"
            return FAILED_BEFORE, f"failed before with {error.get('type')}: {error.get('message')}"
        if state.status == CANCELLED:
            return RUN, "was cancelled before"
        if state.status == EVICTED:
            return RUN, "its data was deleted by gc"
        if state.status in (SUCCEEDED, INVALID):
            return self._committed(node, state, paths, look_at_files)
        raise ValueError(f"{paths.state}: unknown status {state.status!r}; update marin")

    def _committed(self, node: Node, state: State, paths: StepPaths, look_at_files: bool) -> tuple[str, str]:
        record, root = state.record or {}, paths.data_root(state)
        trouble = self.trouble_with(state)
        if trouble is not None and not self._choices.allow_tainted and not self.is_forced(node):
            return (RUN if self._choices.rerun_tainted else TAINTED), trouble
        if trouble is None and (drift := self._drift(node, state)) is not None:
            return drift
        if self.is_forced(node):
            return RUN, "forced"
        if self._store.is_local and not os.path.isdir(root):
            return RUN, "its output folder is gone"
        if look_at_files and record.get("files"):
            difference = first_difference(self._store, root, f"{paths.root}/{record['manifest_ref']}")
            if difference is not None:
                return RUN, difference
        if self._choices.strict_code and (changed := self.code_drift(node.step, record)):
            return RUN, drift_text(changed)
        return HIT, f"cached, {trouble}" if trouble else "cached"

    def _drift(self, node: Node, state: State) -> tuple[str, str] | None:
        """What to do about an output of another recipe at this version, also where its data is damaged.

        Forced or not: to put another output in its place would pull it away under those who read it.
        """
        if self._choices.accept_drift or not has_drifted(node, state):
            return None
        return DRIFT, f"version {node.step.version} was made by another recipe (@{recipe_of(state)[:10]})"

    def stale_input(self, node: Node, state: State, graph: Graph, states: Mapping[str, State | None]) -> str | None:
        """Why a committed output is not what the step would make now, although its identity is the same; or None.

        An input with version= keeps its identity when its output is made again by another recipe. `states`: the
        registers of the inputs.
        """
        if not any(graph[digest].step.version is not None for digest in node.deps):
            return None
        for used in (state.record or {}).get("inputs", ()):
            now = states.get(used["digest"])
            if used["pseudo"] or used["digest"] not in graph or graph[used["digest"]].step.version is None:
                continue
            if now is not None and now.status == SUCCEEDED and (now.record or {})["root_digest"] != used["root_digest"]:
                return f"input {used['name']} was made again and is another one now"
        return None

    def begins_anew(self, node: Node, state: State, run_id: str) -> bool:
        """Whether somebody decided that a step that will run makes everything again, from an empty folder on.

        Decided once in a run: what its own attempts left is gone on from.
        """
        if state.owner.run_id == run_id:
            return False
        is_other_code = self._choices.strict_code and bool(self.code_drift(node.step, state.record or {}))
        return self.is_forced(node) or (state.status == SUCCEEDED and is_other_code)

    def code_drift(self, step: ExecutorStep, record: Mapping[str, Any]) -> tuple[str, ...]:
        """The definitions that changed since an output was made, if the step asks to be told."""
        if step.code_policy != "warn":
            return ()
        from marin.execution.fingerprint import code_difference  # an output is needed first

        return tuple(code_difference(step.fn, record, step.config, self._code_memo))

    def trouble_with(self, state: State) -> str | None:
        """Why a committed output must not be served, in words; None if it may."""
        return self.taint.trouble(state)

    def is_forced(self, node: Node) -> bool:
        """Whether somebody decided that the step runs again in any case."""
        return bool(self._forced) and any(pattern.search(node.step.name) for pattern in self._forced)

    def _other_recipe(self, node: Node, state: State, paths: StepPaths) -> tuple[str, str]:
        step = node.step
        if step.override_output_path is None:
            raise DigestCollision(
                f"step '{step.name}': {paths.root} belongs to a step with digest {state.digest}, this one has "
                f"{node.digest}; give one of the two another name"
            )
        if state.status == RUNNING and not self._observer.is_stale(paths.root, state):
            return WAIT, _at_it(state)
        if step.publish == "inplace":
            raise DigestCollision(
                f"step '{step.name}' publishes in place into override_output_path "
                f"{step.override_output_path!r}, which holds the output of another recipe "
                f"({state.digest[:10]}, this one is {node.digest[:10]}); the two must not mix. "
                "Name another output path, or move the old folder away"
            )
        return RUN, "its fixed output path holds the output of another recipe"


def _in_pause(state: State) -> State:
    """The register of a step that failed and will be tried again, as a lease of the run that will do it."""
    error = state.error or {}
    owner = Owner(**error["retry_owner"]) if "retry_owner" in error else state.owner
    return replace(state, owner=owner, ttl=state.ttl + error["retry_in_s"])


def drift_text(drift: Sequence[str]) -> str:
    """Changed definitions in words."""
    more = f" and {len(drift) - 1} more" if len(drift) > 1 else ""
    return f"code drift: {drift[0]}{more} changed since this output"


def has_drifted(node: Node, state: State) -> bool:
    """Whether a step with version= has a committed output of another recipe that nobody accepted for this one."""
    if node.step.version is None or recipe_of(state) == node.recipe:
        return False
    return all(accepted["recipe"] not in (node.recipe, "any") for accepted in state.accepted)


class Folders:
    """What lies in the folders of a store, each looked at once: a plan asks for many steps of one folder."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._names: dict[str, frozenset[str]] = {}
        self._outputs: dict[str, dict[str, list[str]]] = {}  # folder -> name without digest -> names

    def names(self, folder: str) -> frozenset[str]:
        """What lies in a folder, which is given relative to the prefix: "" for the prefix itself."""
        if folder not in self._names:
            place = f"{self._store.prefix}/{folder}" if folder else self._store.prefix
            self._names[folder] = frozenset(item.name for item in self._store.items(place))
        return self._names[folder]

    def outputs(self, folder: str, name: str) -> Sequence[str]:
        """What lies in a folder under the name of a step and some digest, sorted."""
        if folder not in self._outputs:
            by_name: dict[str, list[str]] = {}
            for found in sorted(self.names(folder)):
                if found[-11:-10] == "-":
                    by_name.setdefault(found[:-11], []).append(found)
            self._outputs[folder] = by_name
        return self._outputs[folder].get(name, ())


class Siblings:
    """What was committed before under a step's name: what a changed step is compared with."""

    def __init__(self, store: Store, folders: Folders | None = None) -> None:
        self._store = store
        self._folders = folders or Folders(store)

    def earlier(self, node: Node) -> "list[Earlier]":
        """The recipes of this step's name, or of its fixed output path, that were carried out; not its own."""
        paths = self._paths(node)
        if not paths:
            return []
        from marin.execution.explain import Earlier

        found = []
        for path in paths:
            state = self._store.read(f"{self._store.prefix}/{path}")
            if state is not None and state.record is not None and recipe_of(state) != node.recipe:
                record = state.record
                found.append(
                    Earlier(
                        digest=state.digest,
                        canonical=record["canonical"],
                        ended=record["ended"],
                        wall_s=record["wall_s"],
                        num_bytes=record["bytes"],
                        names={i["digest"]: i.get("name") or _step_name(i["path"]) for i in record["inputs"]},
                    )
                )
        return [earlier for earlier in found if earlier.canonical]  # adopted data has no recipe

    def _paths(self, node: Node) -> list[str]:
        name = node.step.name
        folder, slash, base = name.rpartition("/")
        paths = [folder + slash + found for found in self._folders.outputs(folder, base)]
        if node.step.version is not None:
            paths += [f"{name}/{version}" for version in sorted(self._folders.names(name))]
        if node.step.override_output_path is not None:
            paths.append(node.path)
        return paths


def _step_name(path: str) -> str:
    """The name of the step whose folder this is: the path without its digest."""
    return re.sub(r"-[0-9a-f]{10}$", "", path)


def _estimate(state: State | None, earlier: "Sequence[Earlier]") -> Estimate | None:
    """What a step took before, by its register, or what others of its name did; None if none was carried out."""
    if state is not None and state.record is not None:
        return Estimate(state.record["wall_s"], state.record["bytes"])
    measured = [e for e in earlier if e.wall_s is not None]
    if not measured:
        return None
    walls, sizes = sorted(e.wall_s or 0.0 for e in measured), sorted(e.num_bytes or 0 for e in measured)
    middle = len(measured) // 2
    return Estimate(walls[middle], sizes[middle])


def _explain(node: Node, earlier: "Sequence[Earlier]", names: Mapping[str, str]) -> "tuple[str, tuple[Change, ...]]":
    if not earlier:
        return "new step", ()
    from marin.execution.explain import nearest

    match = nearest(node, earlier, names)
    assert match is not None
    _, changes = match
    own = [str(change) for change in changes if not change.is_input]
    inputs = [change.path.removeprefix("dep ") for change in changes if change.is_input]
    shown = own[:3] + ["..."] * (len(own) > 3)
    if inputs:
        shown.append(f"input {', '.join(inputs[:3])}{', ...' * (len(inputs) > 3)} changed")
    return "; ".join(shown), tuple(changes)


@no_collection()
def make_plan(
    graph: Graph,
    store: Store,
    *,
    choices: Choices | None = None,
    with_changes: bool = False,
    observer: Observer | None = None,
) -> Plan:
    """Decide for every step what a run would do.

    Reads each register once; `with_changes` also compares changed steps with the nearest output of their name.
    """
    choices = choices or Choices()
    judge = Judge(store, choices, observer)
    targets = _targets(graph, choices)
    nodes = _reachable(graph, targets)
    needed = {*targets, *(node.digest for node in nodes if judge.is_forced(node))}
    decided: dict[str, tuple[str, str, State | None]] = {}
    folders = Folders(store)
    states = _read_all(store, nodes, folders)
    judge.taint.learn(states.values())
    read_if_there: set[str] = set()  # inputs that are not waited for, of steps that will run
    for node in reversed(nodes):
        paths, state = StepPaths(f"{store.prefix}/{node.path}"), states[node.digest]
        action, reason = judge.judge(node, state, paths, look_at_files=node.digest in needed)
        if action == HIT and state is not None and (stale := judge.stale_input(node, state, graph, states)):
            action, reason = RUN, stale
        is_bad_and_read = (
            node.digest in read_if_there
            and state is not None
            and state.digest == node.digest
            and judge.trouble_with(state) is not None
        )
        if node.digest not in needed and action not in (HIT, DRIFT) and not is_bad_and_read:
            action, reason = SKIP, "nothing that has to run reads it"
        elif action in (RUN, WAIT, TAINTED):  # the one that is waited for may die, and then this run needs the inputs
            needed.update(node.deps)
            read_if_there.update(node.pseudo)
        decided[node.digest] = (action, reason, state)
    items = []
    siblings = Siblings(store, folders)
    names = {node.digest: node.step.name for node in nodes}
    stopped: dict[str, tuple[str, str]] = {}  # steps that nothing can run after: the first of them, and what it is
    for node in nodes:
        action, reason, state = decided[node.digest]
        changes: tuple[Change, ...] = ()
        estimate = None
        drift: tuple[str, ...] = ()
        broken = [d for d in node.deps if d in stopped] if action in (RUN, WAIT) else []
        if broken:
            first, what = stopped[node.digest] = stopped[broken[0]]
            action, reason = BLOCKED, f"{'input' if first == broken[0] else 'upstream'} {names[first]} {what}"
        elif action == DRIFT and with_changes:
            own = [e for e in siblings.earlier(node) if e.digest == node.digest]
            text, changes = _explain(node, own, names)
            reason += f": {text}"
        elif action == RUN:
            is_changed = state is None or state.digest != node.digest
            is_measured = state is not None and state.record is not None
            earlier = siblings.earlier(node) if not is_measured or (is_changed and with_changes) else ()
            if is_changed and with_changes:
                reason, changes = _explain(node, earlier, names)
            estimate = _estimate(state, earlier)
        elif action == HIT and state is not None:
            drift = judge.code_drift(node.step, state.record or {})
        if action in _STOPPED:
            stopped[node.digest] = (node.digest, _STOPPED[action])
        items.append(PlanItem(node, action, reason, changes, state, drift, estimate))
    return Plan(graph, tuple(items), targets, store.prefix, choices)


_STOPPED = {FAILED_BEFORE: "failed", TAINTED: "must not be used", DRIFT: "has drifted"}
_MAX_READERS = 64


def _read_all(store: Store, nodes: Sequence[Node], folders: Folders) -> dict[str, State | None]:
    """The registers of the nodes; many at a time where each read is a request over a network."""
    if store.is_local or len(nodes) < 2:
        return {node.digest: state for node, state in _read_each(store, nodes, folders)}
    from concurrent.futures import ThreadPoolExecutor

    roots = [f"{store.prefix}/{node.path}" for node in nodes]
    with ThreadPoolExecutor(min(_MAX_READERS, len(nodes))) as pool:
        states = pool.map(store.read, roots)
        return {node.digest: state for node, state in zip(nodes, states, strict=True)}


def _read_each(store: Store, nodes: Sequence[Node], folders: Folders) -> Iterator[tuple[Node, State | None]]:
    """Read one register after the other. Where one is not there, a look at its folder says which others are not."""
    with_gaps: set[str] = set()
    for node in nodes:
        folder, _, name = node.path.rpartition("/")
        state = None
        if folder not in with_gaps or name in folders.names(folder):
            state = store.read(f"{store.prefix}/{node.path}")
            if state is None:
                with_gaps.add(folder)
        yield node, state


def explain_plan(
    plan: Plan, store: Store, names: Sequence[str] | None = None
) -> "list[tuple[PlanItem, Explanation | None]]":
    """What the steps of a plan differ in from earlier ones, upstream first: those of the given names, or all that are
    not cached.

    The explanation is None where the recipe is not the reason that a step runs: its last run failed or was abandoned.
    """
    from marin.execution.explain import explain

    siblings = Siblings(store)
    found: list[tuple[PlanItem, Explanation | None]] = []
    for item in plan:
        if names is None and item.action in (HIT, SKIP) or names is not None and item.node.name not in names:
            continue
        has_run = item.state is not None and item.state.digest == item.node.digest
        is_explained = item.action == HIT or not has_run
        found.append((item, explain(plan.graph, item.node.digest, siblings.earlier) if is_explained else None))
    return found
