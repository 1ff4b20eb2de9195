"""What a store holds: its steps and runs, and how a person names one.

Everything is read from registers and run records where they lie; there is no index that could disagree with them. The
cost: a listing walks the store's folders, though never into an output.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marin.execution.status import ABANDONED, RUNNING, LocalStore, Owner, RegisterError, State, StepPaths

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
    paths: StepPaths  # its places on disk
    state: State | None  # the register; None if it cannot be read
    trouble: str | None = None  # why it cannot be read

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
        from marin.execution.record import utc

        try:
            return utc(os.stat(self.paths.state).st_mtime)
        except OSError:
            return None

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
    root = _store(prefix)
    entries = [entry for folder in _step_folders(root) if (entry := read_step(root, folder)) is not None]
    entries.sort(key=lambda e: (e.when or "", e.digest), reverse=True)
    return sorted(entries, key=lambda e: e.name)


def list_runs(prefix: str) -> list[RunEntry]:
    """All runs of a store, the latest first. Raises NoStoreError."""
    folder = os.path.join(_store(prefix), ".exec", "runs")
    found = []
    for run_id in sorted(os.listdir(folder) if os.path.isdir(folder) else [], reverse=True):
        try:
            with open(os.path.join(folder, run_id, "run.json"), encoding="utf-8") as file:
                record = json.load(file)
            if record.get("status") == RUNNING and Owner(**record["owner"]).is_gone():
                record["status"] = ABANDONED
            found.append(RunEntry(run_id=run_id, record=record))
        except (OSError, ValueError, TypeError, KeyError):
            continue  # being written, or left half-written by a killed run: no record to show
    return found


def find(prefix: str, address: str) -> StepEntry | RunEntry:
    """The step or run that a person means.

    `address`: a step's name (its latest output), `name@digits`, the first digits of a digest, a run id or its
    beginning, or a path to a step's folder or to anything inside its output. Raises AddressError with near misses or
    with all that it could mean.
    """
    root = _store(prefix)
    inside = _step_around(root, address)
    if inside is not None:
        return _sound(inside)
    runs = [run for run in list_runs(prefix) if run.run_id.startswith(address)] if address else []
    if len(runs) == 1 or (runs and runs[0].run_id == address):
        return runs[0]
    return _sound(_one(list_steps(prefix), address, prefix, runs))


def find_step(prefix: str, address: str) -> StepEntry:
    """Like `find`, steps only."""
    root = _store(prefix)
    inside = _step_around(root, address)
    return _sound(inside if inside is not None else _one(list_steps(prefix), address, prefix, ()))


def _sound(entry: StepEntry) -> StepEntry:
    if entry.state is None:
        raise RegisterError(entry.trouble or "")
    return entry


def _one(steps: list[StepEntry], address: str, prefix: str, runs: Sequence[RunEntry]) -> StepEntry:
    name, _, digits = address.rpartition("@") if "@" in address else (address, "", "")
    named = [step for step in steps if step.name == name and step.digest.startswith(digits)]
    if named and (not digits or len(named) == 1):
        return next((step for step in named if step.record is not None), named[0])
    is_digest = re.fullmatch(rf"@?[0-9a-f]{{{_SHORTEST},64}}", address)
    matches = named or ([s for s in steps if s.digest.startswith(address.lstrip("@"))] if is_digest else [])
    if len(matches) == 1:
        return matches[0]
    if matches or runs:
        shown = [f"{s.name}@{s.digest[:10]}" for s in matches[:8]] + [run.run_id for run in runs[:8]]
        raise AddressError(f"{address!r} could be any of {', '.join(shown)}; give more of it")
    near = near_misses(name or address, {step.name for step in steps})
    hint = f"did you mean {' or '.join(near)}?" if near else "`marin ls` lists what there is"
    raise AddressError(f"no step or run {address!r} in {prefix}; {hint}")


def near_misses(word: str, known: "set[str] | Sequence[str]") -> list[str]:
    """Up to three of `known` that a person who typed `word` may have meant."""
    import difflib

    ends = [name for name in sorted(known) if name.rpartition("/")[2] == word or name.startswith(word)]
    return list(dict.fromkeys([*ends, *difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.6)]))[:3]


def read_step(root: str, folder: str) -> StepEntry | None:
    """The step in a folder below the store `root`; None if the folder is none."""
    paths, path = StepPaths(folder), os.path.relpath(folder, root)
    try:
        state = LocalStore().read(folder)
    except RegisterError as error:
        name, _, digits = path.rpartition("-")
        is_usual = re.fullmatch(r"[0-9a-f]{10}", digits) is not None
        return StepEntry(
            name=name if is_usual else path,
            digest=digits if is_usual else "",
            path=path,
            paths=paths,
            state=None,
            trouble=str(error),
        )
    if state is None:
        return None
    name = state.record["name"] if state.record is not None else path.removesuffix(f"-{state.digest[:10]}")
    return StepEntry(name=name, digest=state.digest, path=path, paths=paths, state=state)


def _store(prefix: str) -> str:
    root = os.path.abspath(prefix)
    if not os.path.isdir(os.path.join(root, ".exec")):
        raise NoStoreError(f"no store at {prefix}: nothing was run there; name another with --prefix or MARIN_PREFIX")
    return root


def _step_folders(root: str) -> Iterator[str]:
    """Folders with a register, without looking into any of them."""
    todo = [root]
    while todo:
        folder = todo.pop()
        try:
            with os.scandir(folder) as items:
                inner = [i.path for i in items if i.is_dir(follow_symlinks=False) and not i.name.startswith(".")]
        except OSError:
            continue
        for path in inner:
            if os.path.isfile(os.path.join(path, ".exec", "state.json")):
                yield path
            else:
                todo.append(path)


def _step_around(root: str, address: str) -> StepEntry | None:
    """The step whose folder `address` is, or lies in; paths may be relative to the store or to the working folder."""
    for start in (os.path.join(root, address), os.path.abspath(address)):
        folder = os.path.realpath(start)
        while address and folder.startswith(os.path.realpath(root) + os.sep):
            if os.path.isfile(os.path.join(folder, ".exec", "state.json")):
                return read_step(os.path.realpath(root), folder) if os.path.exists(start) else None
            folder = os.path.dirname(folder)
    return None
