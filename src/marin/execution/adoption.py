"""Data that the executor did not make, or did not make by today's recipe, taken for a step's output; on the record.

Two cases. A step with `version=` whose recipe no longer is the stored output's has drifted: it is refused until
somebody accepts the stored output for the new recipe. And a folder that exists already can be adopted as the output of
a step: its files are hashed and committed as if the step had run, with a record that says who said so. Both are a
person's word in place of a computation, which is why both leave who, when and why.
"""

import os
from dataclasses import replace

from marin.execution.lease import swap
from marin.execution.plan import HIT, Plan, has_drifted
from marin.execution.record import utc
from marin.execution.status import State
from marin.execution.store import Store


def accept_drift(store: Store, plan: Plan, user: str) -> None:
    """Write into the registers of drifted steps that a plan accepts that it does."""
    for item in plan:
        if item.action == HIT and item.state is not None and has_drifted(item.node, item.state):
            root = f"{store.prefix}/{item.node.path}"
            state = store.read(root)  # whole: the plan's is without parts of its record
            if state is None or state.attempt != item.state.attempt:
                raise ValueError(f"{root}: its register changed since the plan was made; run the command again")
            accept(store, root, state, item.node.recipe, user)


def accept(store: Store, root: str, state: State, recipe: str, user: str, reason: str | None = None) -> State:
    """Accept a stored output for the recipe with this digest; the register's new state.

    Raises ValueError if the register changed meanwhile.
    """
    entry = {"recipe": recipe, "when": utc(), "user": user, "reason": reason}
    new = replace(state, seq=state.seq + 1, nonce=os.urandom(8).hex(), accepted=(*state.accepted, entry))
    if not swap(store, root, state, new):
        raise ValueError(f"{root}: its register changed while the drift was being accepted; run the command again")
    return new
