"""Jobs that a dead runner left behind on this machine: which they are, and how they are seen to their end."""

import contextlib
import json
import os
import time

from marin.execution.scratch import work_place
from marin.execution.status import State, StepPaths, process_is_alive, process_start
from marin.execution.store import Store
from marin.io.atomic import write_text

_PATIENCE_S = 5.0


def note_process(log_dir: str, pid: int) -> None:
    """Write down which process works on an attempt, for whoever takes the step over from a dead runner."""
    with contextlib.suppress(OSError):
        write_text(f"{log_dir}/process.json", json.dumps({"pid": pid, "start": process_start(pid)}), fsync=False)


def await_orphan(store: Store, paths: StepPaths, state: State) -> None:
    """See a dead runner's job on this machine to its end before another attempt starts.

    The job ends by itself within milliseconds of its runner; in between it may still write, which would harm a step
    that publishes in place.
    """
    owner = state.owner
    # a runner that is stopped, and not gone, still has a job that writes into the folder that all attempts share
    if not (owner.is_gone() or (state.data_root == "." and owner.is_here())):
        return
    try:
        with open(f"{work_place(store, paths, state)[1]}/process.json", encoding="utf-8") as file:
            process = json.load(file)
    except (OSError, ValueError):
        return
    deadline = time.monotonic() + _PATIENCE_S
    killed = False
    while process_is_alive(process["pid"], process["start"]):
        if time.monotonic() > deadline:
            if killed:
                raise OSError(
                    f"process {process['pid']} of an earlier attempt ({state.attempt}) of {paths.root} does not end"
                )
            killed = True
            deadline += _PATIENCE_S
            with contextlib.suppress(OSError):
                os.kill(process["pid"], 9)
        time.sleep(0.01)
