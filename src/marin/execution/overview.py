"""What runs in a store now: its runs under way, and how far each of their steps is.

Read from the runs' records, their events, and the registers of the steps in their plans; nothing is asked of the
processes that do the work, so it is the same for a run on another machine. A look costs one small read for each run,
and one for each step of those under way.
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from marin.execution.catalog import RunEntry, runs_of
from marin.execution.status import (
    ABANDONED,
    CANCELLED,
    EVICTED,
    EXEC,
    FAILED,
    INVALID,
    RUNNING,
    SUCCEEDED,
    Owner,
    State,
    StepPaths,
)
from marin.execution.store import Store
from marin.tracking.progress import read_progress, seconds_left

WAITING = "WAITING"  # on a step that another run has
PENDING = "PENDING"  # its inputs are being made
DONE = (SUCCEEDED, INVALID, EVICTED)


@dataclass(frozen=True, kw_only=True)
class StepView:
    """One step of a run."""

    name: str  # its name
    digest: str  # its identity
    status: str  # RUNNING, WAITING, PENDING, SUCCEEDED, FAILED or CANCELLED
    attempt: str | None = None  # RUNNING: which
    started: str | None = None  # RUNNING: since when, UTC
    elapsed_s: float | None = None  # RUNNING: by this machine's clock
    progress: Mapping[str, Any] | None = None  # RUNNING: {"done", "total", "unit"}
    eta_s: float | None = None  # RUNNING: seconds left, by its progress or by what steps of its name took before
    host: str | None = None  # RUNNING, WAITING: where it runs
    run_id: str | None = None  # WAITING: the run that has it
    lease_age_s: float | None = None  # RUNNING, WAITING: since its holder last showed that it is alive
    error: str | None = None  # FAILED: type and message

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not known is left out."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run."""

    run_id: str  # its name
    status: str  # RUNNING, or how it ended; ABANDONED: its process is gone
    record: Mapping[str, Any]  # run.json
    elapsed_s: float  # from its start to now, or to its end
    steps: tuple[StepView, ...]  # of its plan, but for those that were cached before it began

    def count(self, status: str) -> int:
        return sum(step.status == status for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "run_id": self.run_id,
            "status": self.status,
            "command": self.record.get("command"),
            "script": self.record.get("script"),
            "host": (self.record.get("owner") or {}).get("host"),
            "started": self.record.get("started"),
            "ended": self.record.get("ended"),
            "elapsed_s": round(self.elapsed_s, 1),
            "steps": [step.to_json() for step in self.steps],
        }


class Overview:
    """Looks at a store again and again; remembers what cannot change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._usual: dict[str, float | None] = {}  # step name -> seconds that it took before

    def runs(self, *, script: str | None = None, run_id: str | None = None) -> list[RunView]:
        """The runs under way, the latest first; if there are none, the last run alone.

        `script`, `run_id`: only runs of this file, or this one.
        """
        runs = runs_of(self._store)
        if script is not None:
            runs = [run for run in runs if run.record.get("script") == script]
        if run_id is not None:
            runs = [run for run in runs if run.run_id == run_id]
        alive = [run for run in runs if run.record.get("status") == RUNNING]
        return [self._view(run) for run in alive or runs[:1]]

    def _view(self, run: RunEntry) -> RunView:
        record = run.record
        events = _Events(self._store.get(f"{self._store.prefix}/{EXEC}/runs/{run.run_id}/events.jsonl") or b"")
        is_alive = record.get("status") == RUNNING
        steps = [
            self._step(run.run_id, item, events, is_alive)
            for item in record.get("plan", ())
            if item["action"] not in ("HIT", "SKIP")
        ]
        return RunView(
            run_id=run.run_id,
            status=str(record.get("status")),
            record=record,
            elapsed_s=_seconds(record.get("started"), record.get("ended")),
            steps=tuple(steps),
        )

    def _step(self, run_id: str, item: Mapping[str, Any], events: "_Events", is_alive: bool) -> StepView:
        name, digest = item["name"], item["digest"]
        paths = StepPaths(f"{self._store.prefix}/{item.get('path') or f'{name}-{digest[:10]}'}")
        try:
            state = self._store.read(paths.root)
        except ValueError:
            state = None
        ended = events.ended.get(digest)
        if not is_alive or ended is not None or state is None or state.status != RUNNING:
            return StepView(name=name, digest=digest, **_at_rest(run_id, ended, state, is_alive))
        age_s = self._store.age_s(paths.state)
        if state.owner.run_id != run_id:
            owner = state.owner
            return StepView(
                name=name,
                digest=digest,
                status=WAITING,
                host=owner.host,
                run_id=owner.run_id,
                lease_age_s=age_s,
                progress=state.progress,
            )
        progress = self._progress(paths, state)
        started = events.started.get(digest, {}).get("time")
        elapsed_s = _seconds(started, None) if started else None
        return StepView(
            name=name,
            digest=digest,
            status=RUNNING,
            attempt=state.attempt,
            started=started,
            elapsed_s=elapsed_s,
            progress=progress,
            eta_s=self._eta(name, digest, elapsed_s, progress),
            host=state.owner.host,
            lease_age_s=age_s,
        )

    def _progress(self, paths: StepPaths, state: State) -> Mapping[str, Any] | None:
        """What the step reported last: on a disk its own file, which is newer than what the register repeats."""
        reported = read_progress(f"{paths.logs(state)}/progress.json") if self._store.is_local else None
        return reported or state.progress

    def _eta(self, name: str, digest: str, elapsed_s: float | None, progress: Mapping[str, Any] | None) -> float | None:
        told = seconds_left(elapsed_s, progress)
        if told is not None or elapsed_s is None:
            return told
        if name not in self._usual:
            self._usual[name] = usual_wall_s(self._store, name, digest)
        return seconds_left(elapsed_s, None, self._usual[name])


def usual_wall_s(store: Store, name: str, digest: str) -> float | None:
    """Median of the seconds that outputs of a step's name took; None if there are none."""
    folder, _, base = name.rpartition("/")
    above = f"{store.prefix}/{folder}" if folder else store.prefix
    roots = [f"{above}/{item.name}" for item in store.items(above) if item.name[:-11] == base]
    walls = []
    for root in roots:
        try:
            state = store.read(root)
        except ValueError:
            continue
        if state is not None and state.record is not None and state.digest != digest:
            walls.append(state.record["wall_s"])
    return sorted(walls)[len(walls) // 2] if walls else None


def changes(before: Iterable[RunView], after: Iterable[RunView]) -> list[tuple[RunView, StepView]]:
    """The steps whose status, attempt or progress is another than it was."""
    old = {(run.run_id, step.digest): step for run in before for step in run.steps}
    found = []
    for run in after:
        for step in run.steps:
            was = old.get((run.run_id, step.digest))
            now = (step.status, step.attempt, step.progress)
            if was is None or (was.status, was.attempt, was.progress) != now:
                found.append((run, step))
    return found


class _Events:
    """Of a run's events: when steps were last started, and how they ended."""

    def __init__(self, data: bytes) -> None:
        self.started: dict[str, Mapping[str, Any]] = {}
        self.ended: dict[str, Mapping[str, Any]] = {}
        for line in data.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # being written
            digest = event.get("digest")
            if digest is None:
                continue
            if event["event"] == "started":
                self.started[digest] = event
                self.ended.pop(digest, None)
            elif event["event"] in _ENDS:
                self.ended[digest] = event


# What a run says of a step that it is done with: see StepResult.action.
_ENDS = {
    "ran": SUCCEEDED,
    "cached": SUCCEEDED,
    "failed": FAILED,
    "blocked": "BLOCKED",
    "cancelled": CANCELLED,
    "skipped": "SKIPPED",
}


def _at_rest(run_id: str, ended: Mapping[str, Any] | None, state: State | None, is_alive: bool) -> dict[str, Any]:
    """Status and error of a step that is not under way."""
    if ended is not None:
        return {"status": _ENDS[ended["event"]], "error": _error(ended.get("error"))}
    if state is not None and state.status in DONE:
        return {"status": SUCCEEDED}
    if state is not None and state.status in (FAILED, CANCELLED) and state.owner.run_id == run_id:
        return {"status": state.status, "error": _error(state.error)}
    if not is_alive and state is not None and state.status == RUNNING and state.owner.run_id == run_id:
        return {"status": ABANDONED}
    return {"status": PENDING}


def _error(error: Mapping[str, Any] | None) -> str | None:
    return f"{error.get('type')}: {error.get('message')}" if error else None


def _seconds(start: str | None, end: str | None) -> float:
    if not start:
        return 0.0
    until = datetime.fromisoformat(end).timestamp() if end else time.time()
    return max(0.0, until - datetime.fromisoformat(start).timestamp())


def is_under_way(run: RunView) -> bool:
    """Whether a run goes on, as far as can be told from here."""
    owner = run.record.get("owner")
    return run.status == RUNNING and not (owner is not None and Owner(**owner).is_gone())
