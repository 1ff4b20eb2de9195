"""Ask a run to stop.

Word is left in the run's folder, where its runner looks whenever it renews its leases: that reaches a run on any
machine, within seconds. A run on this machine gets SIGINT as well, as by Ctrl-C, and so stops at once. The process is
named by id, start time and boot: none that merely has the same id is ever signalled.

On a cluster a worker outlives its run and looks for the same word. So there is something to stop as long as a register
names the run, whatever became of the run's own process.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass

from marin.execution.catalog import AddressError, RunEntry, StepEntry, find, runs_of
from marin.execution.record import cancellation_path, utc
from marin.execution.status import ABANDONED, EXEC, RUNNING, Owner, RegisterError, current_user, said
from marin.execution.store import Store

_POLL_S = 0.1
_BETWEEN_SIGNALS_S = 0.5  # two signals that come together are one to a process


class NotRunningError(AddressError):
    """There is nothing to stop."""


@dataclass(frozen=True, kw_only=True)
class Cancellation:
    """What became of it."""

    run_id: str  # the run
    status: str  # of the run: RUNNING if it, or a step of it, has not ended yet
    steps: Mapping[str, str]  # the steps that it had under way, by folder in the store: what their registers say now
    signalled: bool  # whether its process got a signal; else it was only left word
    host: str  # where it runs, or ran
    waited_s: float  # for how long this was watched


def run_of(store: Store, address: str) -> RunEntry:
    """The run that a person means: itself, or the one that has the step.

    A step that was given by its name alone stands for all recipes of that name; AddressError if several runs have
    some, for nobody's run is stopped by a guess. NotRunningError if none is running.
    """
    entry = find(store.prefix, address)
    if isinstance(entry, RunEntry):
        return entry
    owners: dict[str, tuple[StepEntry, Owner]] = {}
    for step in (entry, *entry.others):
        if step.state is not None and step.status == RUNNING:
            owners.setdefault(step.state.owner.run_id, (step, step.state.owner))
    if not owners:
        raise NotRunningError(f"{entry.name} @{entry.digest[:6]} is not running: {said(entry.status)}")
    if len(owners) > 1:
        shown = [f"{step.name}@{step.digest[:10]} by run {run_id} of {o.user}" for run_id, (step, o) in owners.items()]
        raise AddressError(f"{entry.name} is run by several: {', '.join(shown)}; name the run")
    ((run_id, (step, owner)),) = owners.items()
    found = next((run for run in runs_of(store) if run.run_id == run_id), None)
    if found is None:
        raise NotRunningError(
            f"{step.name} @{step.digest[:6]} is run by {run_id}, process {owner.pid} on "
            f"{owner.host}, which keeps no record in this store; stop that process"
        )
    return found


def cancel(store: Store, run: RunEntry, *, now: bool = False, wait_s: float = 20.0) -> Cancellation:
    """Ask a run to stop, and watch for up to `wait_s` seconds whether it does, and its steps with it.

    `now`: kill its steps, instead of giving them the time to end well. NotRunningError if neither it nor any of its
    steps runs.
    """
    status = run.record.get("status")
    steps = _steps_under_way(store, run)
    if status != RUNNING and not steps:
        raise NotRunningError(f"run {run.run_id} is not running: {said(str(status))}")
    folder = f"{store.prefix}/{EXEC}/runs/{run.run_id}"
    owner = Owner(**run.record["owner"])
    word = {"format": 1, "when": utc(), "user": current_user(), "host": os.uname().nodename, "now": now}
    store.put(cancellation_path(folder), json.dumps(word).encode() + b"\n")
    started = time.monotonic()
    signalled = _signal(owner)
    if signalled and now:
        time.sleep(_BETWEEN_SIGNALS_S)
        _signal(owner)
    while True:
        status = _status(folder, store, owner)
        found = {path: _step_status(store, path, run.run_id) for path in steps}
        goes_on = RUNNING in (status, *found.values())
        if not goes_on or time.monotonic() - started >= wait_s:
            break
        time.sleep(_POLL_S)
    return Cancellation(
        run_id=run.run_id,
        status=RUNNING if goes_on else status,
        steps=found,
        signalled=signalled,
        host=owner.host,
        waited_s=time.monotonic() - started,
    )


def _steps_under_way(store: Store, run: RunEntry) -> list[str]:
    """Folders, relative to the store, of the steps that the run is at, or a worker that it left behind."""
    planned = dict.fromkeys(step["path"] for step in run.record.get("plan", ()))
    return [path for path in planned if _step_status(store, path, run.run_id) == RUNNING]


def _step_status(store: Store, path: str, run_id: str) -> str:
    """What a step's register says; ABANDONED where it says RUNNING and this run's holder is gone."""
    try:
        state = store.read(f"{store.prefix}/{path}")
    except RegisterError:
        return "CORRUPT"
    if state is None or state.status != RUNNING:
        return state.status if state is not None else ABANDONED
    return ABANDONED if state.owner.run_id != run_id or state.owner.is_gone() else RUNNING


def _signal(owner: Owner) -> bool:
    if not owner.is_here() or owner.pid == os.getpid() or owner.is_gone():
        return False
    number = signal.SIGTERM if _ignores(owner.pid, signal.SIGINT) else signal.SIGINT
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(owner.pid, number)
        return True
    return False


def _ignores(pid: int, number: int) -> bool:
    """Whether a process ignores a signal: one that a shell script started in the background ignores SIGINT."""
    with (
        contextlib.suppress(OSError, ValueError),
        open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file,
    ):
        for line in file:
            if line.startswith("SigIgn:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def _status(folder: str, store: Store, owner: Owner) -> str:
    data = store.get(f"{folder}/run.json")
    with contextlib.suppress(ValueError):
        status = json.loads(data or b"")["status"]
        if status == RUNNING and owner.is_gone():
            return ABANDONED
        return status
    return RUNNING
