"""The data of outputs that are published in place, deleted so that nobody takes half of it for his own.

A step that publishes in place finds what earlier attempts left in its folder. So before gc deletes there, it leaves a
marker in the step's `.exec`, and takes the step's lease; whoever has the lease and finds the marker, because gc was
killed, deletes the rest first.
"""

import json
import shutil
from collections.abc import Collection

from marin.execution.record import utc
from marin.execution.status import EXEC, INVALID, State, StepPaths
from marin.execution.store import Store


def eviction_marker(root: str) -> str:
    """The file that says that the data in a step's folder is being deleted."""
    return f"{root}/{EXEC}/evicting.json"


def announce_eviction(store: Store, root: str) -> None:
    """Leave the marker."""
    store.put(eviction_marker(root), json.dumps({"format": 1, "when": utc()}).encode() + b"\n")


def clear_inplace(store: Store, root: str) -> None:
    """Delete all data in a step's folder; what is the executor's stays. Call it with the step's lease."""
    for item in store.items(root):
        if item.name == EXEC:
            continue
        if item.is_folder:
            store.delete_tree(f"{root}/{item.name}")
        else:
            store.delete(f"{root}/{item.name}")


def finish_eviction(store: Store, root: str) -> None:
    """If there is a marker, do what is left to do and delete it. Call it with the step's lease."""
    if store.get(eviction_marker(root)) is not None:
        clear_inplace(store, root)
        store.delete(eviction_marker(root))


def may_resume(state: State, inputs: Collection[tuple[str, str]]) -> bool:
    """Whether another attempt may go on from what is in the folder of a step that publishes in place.

    Not if that was struck out, nor if it was made from other data than `inputs`, the (digest, root digest) of what the
    attempt will read: the new record would name inputs that the old data was not made from.
    """
    if state.status == INVALID:
        return False
    known = set(state.inputs) or {
        (used["digest"], used["root_digest"])
        for used in (state.record or {}).get("inputs", ())
        if used.get("root_digest") and not used["pseudo"]
    }
    return not known or known == set(inputs)


def forget_inplace(store: Store, paths: StepPaths, work_dir: str) -> None:
    """Have the next attempt of a step that publishes in place begin anew; `work_dir`: its folder on this machine."""
    if store.is_local:
        announce_eviction(store, paths.root)
    else:
        shutil.rmtree(work_dir, ignore_errors=True)
