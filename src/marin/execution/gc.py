"""Delete what a store needs no more, and nothing else.

By default that is only what never was an output: folders of attempts that failed, were cancelled or crashed, `used_by`
edges to steps that made no output, temporary files. With `Policy.outputs` committed outputs go too, if nothing keeps
them. What keeps an output: a ref; a run under way that has its step in its plan; its age, or that of a run which had
it in its plan; being asked for by a run with tags; and being an input, by the records, of an output that is kept.

Deleting an output takes two phases. Its register goes from SUCCEEDED to EVICTED by compare-and-swap: from then on no
plan uses it. Refs and runs are read once more after that, and if any came to need it meanwhile, the swap is taken
back. Only then the eviction becomes final, by another swap, and the data goes. Killed anywhere, the next collection
finds EVICTED registers and goes on. Records, manifests and logs stay, so an evicted output can still be explained and
made again.

No clock of this machine decides: ages are the store's own (`Store.age_s`), so two machines that disagree about the time
agree about what is old.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from marin.execution.attempt import earlier_states
from marin.execution.catalog import RunEntry, StepEntry, runs_of, steps_of
from marin.execution.inplace import clear
from marin.execution.invalidation import Output, struck_out_outputs
from marin.execution.lease import LeaseLost, LeaseTimes, Renewer, acquire, swap
from marin.execution.record import new_run_id, utc
from marin.execution.refs import read_refs
from marin.execution.status import (
    CANCELLED,
    EVICTED,
    EXEC,
    RUNNING,
    SUCCEEDED,
    Owner,
    State,
    StepPaths,
    active_run,
    recipe_of,
)
from marin.execution.store import Store

_LEAST_GRACE_S = 3600.0
_DAY_S = 86400.0
# A run of another machine that does not say that it ended, and has no step at work, is believed to go on for so long.
_SILENT_RUN_DAYS = 7.0
# Beside files that are replaced whole (marin.io.atomic), and in the prefix when it is tried.
_TEMPORARY = re.compile(r"(^|/)([^/]+\.[0-9a-f]{8,12}\.tmp|(probe|selftest)-[0-9a-f]{8,12}(-link)?)$")
# Owners of leases that are no runs and use no outputs.
_OWN_RUN = "gc-"
_NO_RUN = (_OWN_RUN, "adopt-")


class UnknownUseError(ValueError):
    """It cannot be told what is in use, so no output may be deleted."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What may be deleted."""

    outputs: bool = False  # also committed outputs that nothing keeps
    keep_days: float = 30.0  # outputs younger than this are kept, and outputs in the plans of younger runs
    only_refs: bool = False  # neither ages nor runs that ended keep anything: only refs do, and what is in use


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """One thing that may be deleted."""

    kind: str  # attempt, output, superseded, leftover, edge or temporary
    path: str  # relative to the prefix
    num_bytes: int  # what deleting it frees
    why: str  # in words
    root: str = ""  # the step's folder; "" for edges and temporary files
    state: State | None = None  # of an output: the state that names it

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, "path": self.path, "bytes": self.num_bytes, "why": self.why}


# -- what is kept -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What must stay."""

    outputs: frozenset[Output]  # outputs that something reaches
    digests: frozenset[str]  # steps in the plans of runs under way: all their outputs stay

    def holds(self, state: State) -> bool:
        """Whether the output that a state names must stay."""
        return (state.digest, state.attempt) in self.outputs or state.digest in self.digests


@dataclass(frozen=True, kw_only=True)
class _Survey:
    """A store's steps and committed outputs as they were read once."""

    steps: Sequence[StepEntry]
    states: Mapping[Output, State]  # the state that names the output and has its record
    entries: Mapping[Output, StepEntry]  # its step
    by_digest: Mapping[str, Sequence[Output]]  # the outputs of a step


def _survey(store: Store) -> _Survey:
    steps = steps_of(store)
    states: dict[Output, State] = {}
    entries: dict[Output, StepEntry] = {}
    by_digest: dict[str, list[Output]] = {}
    for entry in steps:
        if entry.state is None:
            continue
        older = earlier_states(store, entry.paths) if entry.state.epoch > 1 else []
        for state in (*older, entry.state):  # the register has the last word
            if state.record is not None:
                output = (state.digest, state.attempt)
                if output not in states:
                    by_digest.setdefault(state.digest, []).append(output)
                states[output], entries[output] = state, entry
    return _Survey(steps=steps, states=states, entries=entries, by_digest=by_digest)


def _mark(store: Store, survey: _Survey, policy: Policy) -> Kept:
    """What must stay. UnknownUseError if what a step at work uses cannot be told."""
    runs = runs_of(store)
    in_use = _in_use(store, survey, runs)
    roots: set[Output] = {(ref.digest, ref.attempt) for ref in read_refs(store)}
    wanted = set(in_use)
    if not policy.only_refs:
        for run in runs:
            if _is_younger(store, _run_folder(store, run), policy.keep_days):
                wanted.update(_planned(run))
            if run.record.get("tags"):
                wanted.update(run.record.get("targets", ()))
        for output, state in survey.states.items():
            # the manifest is written once, when the output is; the register changes when it is evicted
            manifest = f"{survey.entries[output].paths.root}/{(state.record or {})['manifest_ref']}"
            if _is_younger(store, manifest, policy.keep_days):
                roots.add(output)
    for digest in wanted:
        roots.update(survey.by_digest.get(digest, ()))
    # what was struck out stays to be looked into, also where a later output replaced it
    outputs = _with_inputs(survey, roots) | struck_out_outputs(store)
    return Kept(outputs=frozenset(outputs), digests=frozenset(in_use))


def _planned(run: RunEntry) -> list[str]:
    return [item["digest"] for item in run.record.get("plan", ())]


def _is_younger(store: Store, path: str, days: float) -> bool:
    age_s = store.age_s(path)
    return age_s is None or age_s < days * _DAY_S  # unknown: kept


def _run_folder(store: Store, run: RunEntry) -> str:
    return f"{store.prefix}/{EXEC}/runs/{run.run_id}"


def _in_use(store: Store, survey: _Survey, runs: Sequence[RunEntry]) -> set[str]:
    """Digests of the steps in the plans of runs under way."""
    in_use: set[str] = set()
    holders: dict[str, str] = {}
    for entry in survey.steps:
        if entry.state is None:
            raise UnknownUseError(f"no output may be deleted, for what this step uses cannot be told: {entry.trouble}")
        if entry.state.status == RUNNING and not _is_over(store, entry.paths, entry.state):
            in_use.add(entry.digest)
            holders[entry.state.owner.run_id] = entry.name
    known = {run.run_id for run in runs}
    for run_id, name in holders.items():
        if run_id not in known and not run_id.startswith(_NO_RUN):
            raise UnknownUseError(
                f"no output may be deleted: {name} is running in run {run_id}, whose record is not in this store, so "
                "what it uses cannot be told. Try again when it has ended"
            )
    for run in runs:
        if run.run_id in holders or (run.record.get("status") == RUNNING and _may_go_on(store, run)):
            in_use.update(_planned(run))
    return in_use


def _may_go_on(store: Store, run: RunEntry) -> bool:
    """Of a run that does not say that it ended, and whose process is not known to be gone."""
    owner = run.record.get("owner")
    if owner is not None and Owner(**owner).is_here():
        return True
    return _is_younger(store, _run_folder(store, run), _SILENT_RUN_DAYS)


def _with_inputs(survey: _Survey, roots: set[Output]) -> set[Output]:
    reached: set[Output] = set()
    pending = list(roots)
    while pending:
        output = pending.pop()
        if output in reached:
            continue
        reached.add(output)
        state = survey.states.get(output)
        record = state.record if state is not None else None
        for used in (record or {}).get("inputs", ()):
            if used.get("attempt"):
                pending.append((used["digest"], used["attempt"]))
            else:  # a record that does not say which: all of them
                pending += survey.by_digest.get(used["digest"], ())
    return reached


# -- what may go ------------------------------------------------------------------------------------------------------


def find_garbage(
    store: Store, policy: Policy | None = None, *, on_young: Callable[[float], None] = lambda wait_s: None
) -> list[Garbage]:
    """What may be deleted, steps by name; changes nothing.

    `on_young` is called for each attempt without an output that is too young to be deleted yet, with the seconds until
    it is not. UnknownUseError if outputs are asked for and what is in use cannot be told.
    """
    policy = policy or Policy()
    survey = _survey(store)
    kept = _mark(store, survey, policy) if policy.outputs else None
    steps = [entry for entry in survey.steps if entry.state is not None]
    found = [garbage for entry in steps for garbage in _of_step(store, entry, kept, on_young)]
    return [*found, *_orphan_edges(store, survey), *_temporary_files(store, f"{store.prefix}/{EXEC}")]


def _of_step(store: Store, entry: StepEntry, kept: Kept | None, on_young: Callable[[float], None]) -> Iterator[Garbage]:
    paths = entry.paths
    # In this order: an attempt that is listed now and named by no register read after that can never be committed.
    folders = {item.name for item in store.items(f"{paths.root}/attempts") if item.is_folder}
    state = store.read(paths.root)
    if state is None:
        return
    outputs = {state.attempt: state} if state.record is not None else {}
    for older in earlier_states(store, paths) if state.epoch > 1 else ():
        if older.record is not None and older.data_root != ".":
            outputs.setdefault(older.attempt, older)
    for name in sorted(folders - outputs.keys()):
        if (garbage := _dead_attempt(store, entry, state, name, on_young)) is not None:
            yield garbage
    for name, output in outputs.items():
        has_data = name in folders if output.data_root != "." else _has_inplace_data(store, paths.root)
        if not has_data:
            continue
        is_current = name == state.attempt
        if state.status == EVICTED if is_current else is_evicted(store, paths, output):
            yield _output(store, paths, output, "leftover", "evicted before; its deletion was interrupted")
        elif kept is None or kept.holds(output):
            continue
        elif not is_current:
            yield _output(store, paths, output, "superseded", "replaced by a later output; nothing reaches it")
        elif state.status == SUCCEEDED:  # what was struck out stays, to be looked into
            yield _output(store, paths, output, "output", "no ref, no run and no kept output reaches it")
    # gc was killed while it held the step's lease
    is_own = state.status == RUNNING and state.owner.run_id.startswith(_OWN_RUN)
    if is_own and _is_over(store, paths, state):
        yield _output(store, paths, state, "leftover", "its deletion was interrupted")
    yield from _temporary_files(store, paths.exec_dir)


def _output(store: Store, paths: StepPaths, state: State, kind: str, why: str) -> Garbage:
    folder = paths.data_root(state)
    num_bytes = sum(size for path, size in store.tree(folder) if path.partition("/")[0] != EXEC)
    return Garbage(kind=kind, path=_below(store, folder), num_bytes=num_bytes, why=why, root=paths.root, state=state)


def _dead_attempt(
    store: Store, entry: StepEntry, state: State, name: str, on_young: Callable[[float], None]
) -> Garbage | None:
    is_last = name == state.attempt
    if is_last and not _is_over(store, entry.paths, state):
        return None
    folder = f"{entry.paths.root}/attempts/{name}"
    age_s = store.age_s(folder)
    if age_s is None:
        return None
    if age_s < _grace_s(state):
        on_young(_grace_s(state) - age_s)
        return None
    why = "its runner is gone" if state.status == RUNNING else state.status.lower()
    return Garbage(
        kind="attempt",
        path=_below(store, folder),
        num_bytes=sum(size for _, size in store.tree(folder)),
        why=why if is_last else "an earlier attempt that made no output",
        root=entry.paths.root,
    )


def _has_inplace_data(store: Store, root: str) -> bool:
    return any(item.name != EXEC for item in store.items(root))


def _makers(store: Store, survey: _Survey) -> set[str]:
    """Digests of the steps that have an output or may be making one."""
    running = [e for e in survey.steps if e.state is not None and e.status == RUNNING]
    return {e.digest for e in running if e.state and not _is_over(store, e.paths, e.state)} | survey.by_digest.keys()


def _orphan_edges(store: Store, survey: _Survey) -> Iterator[Garbage]:
    """Edges to steps that have no output and are not at making one."""
    if any(entry.state is None for entry in survey.steps):
        return
    folder, makers = f"{store.prefix}/{EXEC}/used_by", _makers(store, survey)
    for item in store.items(folder):
        for edge in store.items(f"{folder}/{item.name}"):
            path = f"{folder}/{item.name}/{edge.name}"
            if edge.name not in makers and not _TEMPORARY.search(edge.name) and _is_old(store, path):
                yield Garbage(kind="edge", path=_below(store, path), num_bytes=0, why="its step has no output")


def _temporary_files(store: Store, folder: str) -> Iterator[Garbage]:
    for path, size in store.tree(folder):
        if _TEMPORARY.search(path) and _is_old(store, f"{folder}/{path}"):
            inner = _below(store, f"{folder}/{path}")
            yield Garbage(kind="temporary", path=inner, num_bytes=size, why="left by something that was killed")


def _is_old(store: Store, path: str) -> bool:
    age_s = store.age_s(path)
    return age_s is not None and age_s >= _LEAST_GRACE_S


def _is_over(store: Store, paths: StepPaths, state: State) -> bool:
    """Whether no runner can be at work on a step any more: by its process, or by the age of its register."""
    if state.status != RUNNING or state.owner.is_gone():
        return True
    age_s = store.age_s(paths.state)  # a holder renews far more often
    return age_s is not None and age_s >= _grace_s(state)


def _grace_s(state: State) -> float:
    return max(_LEAST_GRACE_S, 2 * state.ttl)


def _below(store: Store, path: str) -> str:
    return path[len(store.prefix) + 1 :]


# -- deleting ---------------------------------------------------------------------------------------------------------


def collect(
    store: Store,
    garbage: Sequence[Garbage],
    policy: Policy | None = None,
    on_deleted: Callable[[Garbage], None] | None = None,
) -> list[Garbage]:
    """Delete what `find_garbage` found; what was deleted. What came into use since then is left alone."""
    todo = [item for item in garbage if item.kind not in _EVICTED_FIRST or _evict(store, item)]
    if any(item.kind in _EVICTED_FIRST for item in todo):
        try:
            kept = _mark(store, _survey(store), policy or Policy())
        except UnknownUseError:
            kept = None
        todo = [item for item in todo if item.kind not in _EVICTED_FIRST or not _is_needed(store, item, kept)]
    deleted = []
    for item in todo:
        if item.kind != "edge" and _delete(store, item):
            deleted.append(item)
            if on_deleted is not None:
                on_deleted(item)
    return [*deleted, *_delete_edges(store, [item for item in todo if item.kind == "edge"])]


# Kinds that were outputs: they are evicted, and looked at once more, before anything is deleted.
_EVICTED_FIRST = frozenset({"output", "superseded", "leftover"})


def is_evicted(store: Store, paths: StepPaths, state: State) -> bool:
    """Whether an output that a later attempt replaced was deleted by gc; of the latest one the register says it."""
    return state.status == EVICTED or store.get(_eviction_note(paths, state)) is not None


def _eviction_note(paths: StepPaths, state: State) -> str:
    return f"{paths.exec_dir}/evicted/{state.attempt}.json"


def _evict(store: Store, item: Garbage) -> bool:
    """Phase one: nobody takes this output for one from now on. False if it changed meanwhile."""
    assert item.state is not None
    if item.kind != "output":  # nobody plans with outputs that were replaced
        return True
    new = _next(item.state, status=EVICTED, evicted={"when": utc(), "is_final": False})
    return swap(store, item.root, item.state, new)


def _next(state: State, **changes: Any) -> State:
    return replace(state, seq=state.seq + 1, nonce=os.urandom(8).hex(), **changes)


def _is_needed(store: Store, item: Garbage, kept: Kept | None) -> bool:
    """Whether an output came to be needed after it was chosen; then its eviction is taken back, if it is not final.

    `kept` is None if that cannot be told, which counts as a yes.
    """
    assert item.state is not None
    if kept is not None and not kept.holds(item.state):
        return False
    if item.kind == "superseded":
        return True
    current = store.read(item.root)
    if current is None or current.status != EVICTED or current.attempt != item.state.attempt:
        return False
    if (current.evicted or {}).get("is_final", True):
        return False  # parts of it may be gone
    swap(store, item.root, current, _next(current, status=SUCCEEDED, evicted=None))
    return True


def _delete(store: Store, item: Garbage) -> bool:
    """Phase two. False if it is in use again."""
    path = f"{store.prefix}/{item.path}"
    if item.kind == "temporary":
        store.delete(path)
        return True
    if item.kind == "attempt":
        return _delete_attempt(store, item, path)
    assert item.state is not None
    if item.state.data_root == ".":
        return _delete_inplace(store, item)
    paths = StepPaths(item.root)
    current = store.read(item.root)
    if current is None or current.attempt != item.state.attempt:  # a later attempt has the register
        note = {"format": 1, "digest": item.state.digest, "attempt": item.state.attempt, "when": utc()}
        store.put(_eviction_note(paths, item.state), json.dumps(note).encode() + b"\n")
    elif current.status != EVICTED or not _make_final(store, item.root, current):
        return False
    if store.is_local:
        _unlink_data(paths, item.state)
    store.delete_tree(path)
    return True


def _make_final(store: Store, root: str, current: State) -> bool:
    if (current.evicted or {}).get("is_final", True):
        return True
    return swap(store, root, current, _next(current, evicted={**(current.evicted or {}), "is_final": True}))


def _delete_attempt(store: Store, item: Garbage, path: str) -> bool:
    now = store.read(item.root)
    if now is None:
        return False
    is_last = now.attempt == path.rpartition("/")[2]
    if is_last and (now.record is not None or not _is_over(store, StepPaths(item.root), now)):
        return False
    if is_last and now.status == RUNNING:  # its holder may wake up one day, and must not commit what is left
        error = {"class": "ABANDONED", "type": "Abandoned", "message": "its runner was gone, and gc deleted its data"}
        if not swap(store, item.root, now, _next(now, status=CANCELLED, error={**error, "ended": utc()})):
            return False
    store.delete_tree(path)
    return True


def _delete_inplace(store: Store, item: Garbage) -> bool:
    """Under the step's lease: another attempt writes into the same folder."""
    paths = StepPaths(item.root)
    current = store.read(item.root)
    if current is None or current.status not in (EVICTED, RUNNING) or not _is_over(store, paths, current):
        return False
    if current.status == RUNNING and not current.owner.run_id.startswith(_OWN_RUN):
        return False
    record = current.record or _last_record(store, paths)
    times = LeaseTimes()
    with active_run(f"{_OWN_RUN}{new_run_id()}") as owner:
        lease = acquire(
            store,
            item.root,
            current,
            digest=current.digest,
            owner=owner,
            publish="inplace",
            times=times,
            recipe=recipe_of(current),
            must_clear=True,
        )
        if lease is None:
            return False
        renewer = Renewer(times, lambda *_: None)
        renewer.add(lease)
        try:
            clear(store, item.root)
            lease.end(EVICTED, record=record)
        except LeaseLost:
            return False
        finally:
            renewer.close()
    return True


def _last_record(store: Store, paths: StepPaths) -> Mapping[str, Any] | None:
    records = [state.record for state in earlier_states(store, paths) if state.record is not None]
    return records[-1] if records else None


def _delete_edges(store: Store, edges: Sequence[Garbage]) -> list[Garbage]:
    """An attempt that commits just now finds its edge there and does not write it again; so look before and after."""
    if not edges:
        return []
    makers = _makers(store, _survey(store))
    deleted = [item for item in edges if item.path.rpartition("/")[2] not in makers]
    for item in deleted:
        store.delete(f"{store.prefix}/{item.path}")
    makers = _makers(store, _survey(store))
    back = [item for item in deleted if item.path.rpartition("/")[2] in makers]
    for item in back:
        store.create(f"{store.prefix}/{item.path}", b"")
    return [item for item in deleted if item not in back]


def _unlink_data(paths: StepPaths, state: State) -> None:
    """The link that shows people the data would lead nowhere."""
    with contextlib.suppress(OSError):
        if os.readlink(paths.data_link) == state.data_root:
            os.unlink(paths.data_link)
