"""The folder of a step that publishes in place, in which an attempt goes on from what earlier ones left there.

It may do so only where all of it was made by the same recipe from the same data; the register keeps what that takes to
tell. Otherwise it begins anew: whoever takes the lease writes `must_clear` into the register with the same swap,
empties the folder, and takes the mark back with another. Killed in between, the next holder finds the mark and empties
the folder first. So nobody deletes without the lease, and nobody takes for his own what he did not make.
"""

from collections.abc import Collection

from marin.execution.lease import Lease
from marin.execution.status import EVICTED, EXEC, INVALID, State, recipe_of
from marin.execution.store import Store


def may_resume(state: State, recipe: str, inputs: Collection[tuple[str, str]]) -> bool:
    """Whether an attempt by `recipe` may go on from what is in the folder of a step whose register reads `state`.

    Not if that was struck out, adopted, or made by another recipe, nor if it was made from other data than `inputs`,
    the (digest, root digest) of what the attempt will read: the new record would name inputs, or a recipe, that the
    old data was not made from. An input that is not waited for may have been absent before.
    """
    record = state.record or {}
    if state.status in (INVALID, EVICTED) or recipe_of(state) != recipe or record.get("adopted"):
        return False
    read = set(state.inputs) or {
        (used["digest"], used["root_digest"]) for used in record.get("inputs", ()) if used.get("root_digest")
    }
    return read <= set(inputs)


def clear(store: Store, root: str) -> None:
    """Delete all data in a step's folder; what is the executor's stays. Call it with the step's lease."""
    for item in store.items(root):
        if item.name == EXEC:
            continue
        if item.is_folder:
            store.delete_tree(f"{root}/{item.name}")
        else:
            store.delete(f"{root}/{item.name}")


def clear_if_marked(store: Store, lease: Lease) -> None:
    """Empty the folder of a step on a disk if its register says so, and take the mark back."""
    if lease.state.must_clear:
        clear(store, lease.paths.root)
        lease.cleared()
