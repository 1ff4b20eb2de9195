"""What a store holds: its steps and runs, and how a person names one.

A name without digits may be that of several recipes. Commands on outputs (diff, lineage, pin, ...) then mean the latest
output; commands on work (show, logs, cancel) mean what runs now, else the attempt that ended last, whatever became of
it: somebody who asks after a step that has just failed must not be told of the older one that succeeded.

Everything is read from registers and run records where they lie; there is no index that could disagree with them. The
cost: a listing walks the store's folders, though never into an output.
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from marin.execution.status import ABANDONED, EXEC, RUNNING, Owner, RegisterError, State, StepPaths
from marin.execution.store import Store, open_store

_SHORTEST = 4  # digits that may abbreviate a digest


class NoStoreError(ValueError):
    """There is no store where one was looked for."""


class AddressError(ValueError):
    """An address names nothing in the store, or several things."""


@dataclass(frozen=True, kw_only=True)
class StepEntry:
    """One step folder of a store."""

    name: str  # the step's name
    digest: str  # 64 hexadecimal digits
    path: str  # of the folder, relative to the store
    paths: StepPaths  # its places
    store: Store  # where it lies
    state: State | None  # the register; None if it cannot be read
    trouble: str | None = None  # why it cannot be read
    named_attempt: str | None = None  # the output that a ref named; `state` then is the register as that was committed
    others: tuple["StepEntry", ...] = ()  # the other recipes of its name, where it was found by the name alone

    @property
    def record(self) -> Mapping[str, Any] | None:
        """How the committed output came to be; None if there is none."""
        return self.state.record if self.state is not None else None

    @property
    def status(self) -> str:
        """The register's status; "ABANDONED" where it says RUNNING and its runner is gone; "CORRUPT"."""
        if self.state is None:
            return "CORRUPT"
        is_abandoned = self.state.status == RUNNING and self.state.owner.is_gone()
        return ABANDONED if is_abandoned else self.state.status

    @property
    def when(self) -> str | None:
        """When it ended, or its register last changed: UTC, ISO 8601."""
        if self.record is not None:
            return self.record["ended"]
        if self.state is not None and self.state.error is not None:
            return self.state.error.get("ended")
        from marin.execution.record import utc

        age_s = self.store.age_s(self.paths.state)
        return utc(time.time() - age_s) if age_s is not None else None

    @property
    def num_bytes(self) -> int | None:
        """Size of the committed output in bytes."""
        return self.record["bytes"] if self.record is not None else None

    @property
    def wall_s(self) -> float | None:
        """Seconds that the committed attempt took."""
        return self.record["wall_s"] if self.record is not None else None

    @property
    def data_path(self) -> str | None:
        """Absolute path of the committed output."""
        return self.paths.data_root(self.state) if self.state is not None and self.state.record is not None else None

    @property
    def log_path(self) -> str:
        """Where the last attempt's printed output is, if it printed any. RegisterError if nobody can tell."""
        if self.state is None:
            raise RegisterError(self.trouble or "")
        return f"{self.paths.logs(self.state)}/stdout.log"

    def to_json(self) -> dict[str, Any]:
        """Plain values: the register with its record, and where things are. RegisterError if it cannot be read."""
        if self.state is None:
            raise RegisterError(self.trouble or "")
        state = json.loads(self.state.to_json())
        return {"name": self.name, "path": self.path, "data_path": self.data_path, "log_path": self.log_path, **state}


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """One run of a store."""

    run_id: str  # sorts by time
    record: Mapping[str, Any]  # run.json; its status is "ABANDONED" where it says RUNNING and its process is gone


def list_steps(prefix: str) -> list[StepEntry]:
    """All steps of a store, by name, each name's latest first. Raises NoStoreError."""
    return steps_of(existing_store(prefix))


def steps_of(store: Store) -> list[StepEntry]:
    """All steps of a store, by name, each name's latest first."""
    with side_by_side(store) as each:
        found = each(lambda root: read_step(store, root), list(_step_roots(store, each)))
    entries = [entry for entry in found if entry is not None]
    entries.sort(key=lambda e: (e.when or "", e.digest), reverse=True)
    return sorted(entries, key=lambda e: e.name)


def list_runs(prefix: str) -> list[RunEntry]:
    """All runs of a store, the latest first. Raises NoStoreError."""
    return runs_of(existing_store(prefix))


def runs_of(store: Store) -> list[RunEntry]:
    """All runs of a store that can be read, the latest first."""
    return _runs(store)[0]


def unreadable_runs(store: Store) -> list[str]:
    """Paths, below the prefix, of the records of runs that cannot be read: no command shows these runs."""
    return _runs(store)[1]


def _runs(store: Store) -> tuple[list[RunEntry], list[str]]:
    folder = f"{EXEC}/runs"
    found, damaged = [], []
    items = [item for item in reversed(store.items(f"{store.prefix}/{folder}")) if item.is_folder]
    with side_by_side(store) as each:
        contents = each(lambda item: store.get(f"{store.prefix}/{folder}/{item.name}/run.json"), items)
    for item, data in zip(items, contents, strict=True):
        if data is None:  # the run has just begun, or was killed when it had
            continue
        try:
            record = json.loads(data)
            if record.get("status") == RUNNING and Owner(**record["owner"]).is_gone():
                record["status"] = ABANDONED
        except (ValueError, TypeError, KeyError, AttributeError):
            damaged.append(f"{folder}/{item.name}/run.json")
            continue
        found.append(RunEntry(run_id=item.name, record=record))
    return found, damaged


def find(prefix: str, address: str) -> StepEntry | RunEntry:
    """The step or run that a person means.

    `address`: a step's name (what runs, else what ended last), `name@digits`, a ref (`marin pin`), the first digits of
    a digest, a run id or its beginning, or a path to a step's folder or to anything inside its output. Raises
    AddressError with near misses or with all that it could mean.
    """
    store = existing_store(prefix)
    inside = step_around(store, address)
    if inside is not None:
        return _sound(inside)
    runs = [run for run in runs_of(store) if run.run_id.startswith(address)] if address else []
    if len(runs) == 1 or (runs and runs[0].run_id == address):
        return runs[0]
    return _sound(_one(store, address, runs, _latest_work))


def find_work(prefix: str, address: str) -> StepEntry:
    """Like `find`, steps only."""
    return _find_step(prefix, address, _latest_work)


def find_step(prefix: str, address: str) -> StepEntry:
    """Like `find`, steps only; a name means the recipe with the latest output of that name."""
    return _find_step(prefix, address, _latest_output)


def _find_step(prefix: str, address: str, choose: Callable[[list[StepEntry]], StepEntry]) -> StepEntry:
    store = existing_store(prefix)
    inside = step_around(store, address)
    return _sound(inside if inside is not None else _one(store, address, (), choose))


def _latest_output(named: list[StepEntry]) -> StepEntry:
    return next((step for step in named if step.record is not None), named[0])


def _latest_work(named: list[StepEntry]) -> StepEntry:
    """What runs, else what ended last; two that did in one second are told apart by when their registers changed."""

    def order(step: StepEntry) -> tuple[bool, bool, str, float]:
        age_s = step.store.age_s(step.paths.state)
        return step.state is not None, step.status == RUNNING, step.when or "", -(age_s or 0.0)

    return max(named, key=order)


def _sound(entry: StepEntry) -> StepEntry:
    if entry.state is None:
        raise RegisterError(entry.trouble or "")
    return entry


def _one(
    store: Store, address: str, runs: Sequence[RunEntry], choose: Callable[[list[StepEntry]], StepEntry]
) -> StepEntry:
    steps = steps_of(store)
    name, _, digits = address.rpartition("@") if "@" in address else (address, "", "")
    named = [step for step in steps if step.name == name and step.digest.startswith(digits)]
    if named and (not digits or len(named) == 1):
        chosen = choose(named)
        return replace(chosen, others=tuple(step for step in named if step is not chosen))
    if not named and (by_ref := _by_ref(store, address)) is not None:
        return by_ref
    is_digest = re.fullmatch(rf"@?[0-9a-f]{{{_SHORTEST},64}}", address)
    matches = named or ([s for s in steps if s.digest.startswith(address.lstrip("@"))] if is_digest else [])
    if len(matches) == 1:
        return matches[0]
    if matches or runs:
        shown = [f"{s.name}@{s.digest[:10]}" for s in matches[:8]] + [run.run_id for run in runs[:8]]
        raise AddressError(f"{address!r} could be any of {', '.join(shown)}; give more of it")
    from marin.execution.refs import ref_names

    near = near_misses(name or address, {*(step.name for step in steps), *ref_names(store)})
    hint = f"did you mean {' or '.join(near)}?" if near else "`marin ls` lists what there is"
    raise AddressError(f"no step or run {address!r} in {store.prefix}; {hint}")


def _by_ref(store: Store, name: str) -> StepEntry | None:
    """The step whose output the ref of this name names, as it was when that was committed; None if there is no ref."""
    from marin.execution.attempt import earlier_states
    from marin.execution.refs import read_ref, ref_names

    ref = read_ref(store, name) if name in ref_names(store) else None
    if ref is None:
        return None
    entry = read_step(store, f"{store.prefix}/{ref.path}")
    if entry is None:
        raise AddressError(f"ref {name!r} names {ref.path}, which is gone; `marin unpin {name}` deletes the ref")
    if entry.state is None or entry.state.attempt == ref.attempt:
        return replace(entry, named_attempt=ref.attempt)
    for state in earlier_states(store, entry.paths):
        if state.attempt == ref.attempt and state.record is not None:
            return replace(entry, state=state, named_attempt=ref.attempt)
    raise AddressError(f"ref {name!r} names attempt {ref.attempt} of {ref.path}, of which nothing is on record")


def near_misses(word: str, known: "set[str] | Sequence[str]") -> list[str]:
    """Up to three of `known` that a person who typed `word` may have meant."""
    import difflib

    ends = [name for name in sorted(known) if name.rpartition("/")[2] == word or name.startswith(word)]
    return list(dict.fromkeys([*ends, *difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.6)]))[:3]


def read_step(store: Store, root: str) -> StepEntry | None:
    """The step whose folder is `root`; None if the folder is none."""
    paths, path = StepPaths(root), root[len(store.prefix) + 1 :]
    try:
        state = store.read(root)
    except RegisterError as error:
        name, _, digits = path.rpartition("-")
        is_usual = re.fullmatch(r"[0-9a-f]{10}", digits) is not None
        return StepEntry(
            name=name if is_usual else path,
            digest=digits if is_usual else "",
            path=path,
            paths=paths,
            store=store,
            state=None,
            trouble=str(error),
        )
    if state is None:
        return None
    name = state.record["name"] if state.record is not None else _name_in(path, state.digest)
    return StepEntry(name=name, digest=state.digest, path=path, paths=paths, store=store, state=state)


def _name_in(path: str, digest: str) -> str:
    """The step's name as its folder tells it: <name>-<10 digits>, or <name>/<version>."""
    from marin.execution.graph import pinned_digest

    name, _, version = path.rpartition("/")
    return name if name and pinned_digest(name, version) == digest else path.removesuffix(f"-{digest[:10]}")


def existing_store(prefix: str, *, single_runner: bool = False) -> Store:
    """The store of a prefix, which must have been used; NoStoreError says where stores are, if it was not."""
    store = open_store(prefix, single_runner=single_runner)
    # an object store has no folders, so one that holds nothing but adopted data has no `.exec` yet
    is_used = store.items(f"{store.prefix}/{EXEC}") or (not store.is_local and store.items(store.prefix))
    if not is_used:
        raise NoStoreError(
            f"no store at {prefix}: nothing was ever run there. Name another with --prefix or MARIN_PREFIX"
        )
    return store


_MAX_READERS = 32


@contextlib.contextmanager
def side_by_side(store: Store) -> Iterator[Callable[[Callable[[Any], Any], list[Any]], list[Any]]]:
    """Inside, a `map` that asks many things at a time where each is a request over a network."""
    if store.is_local:
        yield lambda function, values: [function(value) for value in values]
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_MAX_READERS) as pool:
        yield lambda function, values: list(pool.map(function, values))


def _step_roots(store: Store, each: Callable[[Callable[[Any], Any], list[Any]], list[Any]]) -> Iterator[str]:
    """Folders that hold a register; nothing inside an output is looked at."""
    level = [store.prefix]
    while level:
        below = []
        for folder, items in zip(level, each(store.items, level), strict=True):
            if folder != store.prefix and any(item.name == EXEC for item in items):
                yield folder
                continue
            below += [f"{folder}/{item.name}" for item in items if item.is_folder and not item.name.startswith(".")]
        level = below


def step_around(store: Store, address: str) -> StepEntry | None:
    """The step whose folder `address` is, or lies in; paths may be relative to the store or to the working folder.

    None for a path that does not exist, or lies in no step.
    """
    if not address:
        return None
    starts = [address if address.startswith(store.prefix) else f"{store.prefix}/{address}"]
    if store.is_local:
        if not os.path.isabs(address):
            starts.append(os.path.abspath(address))
        prefix = os.path.realpath(store.prefix)
        starts = [
            store.prefix + os.path.realpath(start)[len(prefix) :]
            for start in starts
            if os.path.exists(start) and os.path.realpath(start).startswith(prefix + "/")
        ]
    for start in starts:
        folder = start.rstrip("/")
        while len(folder) > len(store.prefix):
            if (entry := read_step(store, folder)) is not None:
                return entry
            folder = folder.rpartition("/")[0]
    return None
