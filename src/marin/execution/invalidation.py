"""Outputs that were found wrong: tombstones, and what is tainted because it was built on one.

Striking out writes one tombstone, `<prefix>/.exec/invalid/<id>.json`, which names outputs by their step's digest and
their attempt; that file alone decides. An output is tainted if its record names, among the inputs it read, an output
that is struck out or tainted itself. That is worked out from the records each time, not stored, so it also holds for
what was committed after the tombstone was written. The cost: with tombstones in a store, planning follows records
upstream. A later attempt of the same step is another output and is not struck out.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from marin.execution.attempt import earlier_states
from marin.execution.lease import swap
from marin.execution.record import new_run_id, utc
from marin.execution.status import INVALID, SUCCEEDED, State, StepPaths
from marin.execution.store import Store

Output = tuple[str, str]  # (digest of the step, its attempt): one output that was committed once


@dataclass(frozen=True, kw_only=True)
class Tombstone:
    """One striking out."""

    id: str  # names the file
    reason: str  # why, in somebody's words
    when: str  # UTC, ISO 8601
    user: str  # who
    outputs: tuple[Mapping[str, Any], ...]  # {"digest", "attempt", "root_digest", "name", "path"} of each output
    content: Mapping[str, Any]  # the whole file


def tombstones_dir(store: Store) -> str:
    return f"{store.prefix}/.exec/invalid"


def read_tombstones(store: Store) -> list[Tombstone]:
    """All that stand, oldest first; one that was taken back (`<id>.revoked.json` beside it) is left out."""
    folder = tombstones_dir(store)
    names = {item.name for item in store.items(folder)}
    found = []
    for name in sorted(names):
        key = name.removesuffix(".json")
        if not name.endswith(".json") or name.endswith(".revoked.json") or f"{key}.revoked.json" in names:
            continue
        data = store.get(f"{folder}/{name}")
        if data is None:
            continue
        content = json.loads(data)
        found.append(
            Tombstone(
                id=key,
                reason=content["reason"],
                when=content["when"],
                user=content["user"],
                outputs=tuple(content["outputs"]),
                content=content,
            )
        )
    return sorted(found, key=lambda t: (t.when, t.id))


def strike_out(store: Store, outputs: Sequence[Mapping[str, Any]], reason: str, *, user: str, **more: Any) -> Tombstone:
    """Strike outputs out: the tombstone first, for it decides, then their registers, which only repeat it.

    `outputs`: {"digest", "attempt", "root_digest", "name", "path"} of each. `more` goes into the tombstone as it is.
    """
    tombstone = Tombstone(id=new_run_id(), reason=reason, when=utc(), user=user, outputs=tuple(outputs), content={})
    content = {
        "format": 1,
        "id": tombstone.id,
        "reason": reason,
        "when": tombstone.when,
        "user": user,
        "outputs": [dict(output) for output in outputs],
        **more,
    }
    store.put(f"{tombstones_dir(store)}/{tombstone.id}.json", json.dumps(content).encode() + b"\n")
    for output in outputs:
        mark_invalid(store, f"{store.prefix}/{output['path']}", (output["digest"], output["attempt"]), tombstone)
    return replace(tombstone, content=content)


def mark_invalid(store: Store, root: str, output: Output, tombstone: Tombstone) -> None:
    """Let the register of a struck-out output say so, if it still names that output."""
    error = {
        "class": "STRUCK_OUT",
        "type": "StruckOut",
        "message": tombstone.reason,
        "tombstone": tombstone.id,
        "user": tombstone.user,
        "ended": tombstone.when,
    }
    while True:
        state = store.read(root)
        if state is None or state.status != SUCCEEDED or (state.digest, state.attempt) != output:
            return
        new = replace(state, status=INVALID, seq=state.seq + 1, nonce=os.urandom(8).hex(), error=error)
        if swap(store, root, state, new):
            return


class Taint:
    """Which outputs of a store must not be served."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._names: set[str] | None = None
        self.refresh()

    def refresh(self) -> bool:
        """Look for new tombstones; whether there are any at all."""
        names = {item.name for item in self._store.items(tombstones_dir(self._store))}
        if names != self._names:
            self._names = names
            self._load()
        return bool(self._struck)

    def _load(self) -> None:
        self._struck: dict[Output, Tombstone] = {}
        self._same_bytes: dict[tuple[str, str], Tombstone] = {}  # by root digest, for records that name no attempt
        for tombstone in read_tombstones(self._store):
            for output in tombstone.outputs:
                self._struck.setdefault((output["digest"], output["attempt"]), tombstone)
                self._same_bytes.setdefault((output["digest"], output["root_digest"]), tombstone)
        self._known: dict[Output, tuple[Tombstone, str] | None] = {}
        self._records: dict[Output, Mapping[str, Any] | None] = {}

    def struck_out(self, state: State) -> Tombstone | None:
        """The tombstone that names the output of a register, None if none does."""
        return self._struck.get((state.digest, state.attempt))

    def built_on(self, state: State) -> tuple[Tombstone, str] | None:
        """(tombstone, name of the struck-out step) that the output of a register goes back to; None if none."""
        if not self._struck or state.record is None:
            return None
        start = (state.digest, state.attempt)
        self._records[start] = state.record
        stack = [start]
        while stack:
            output = stack[-1]
            if output in self._known:
                stack.pop()
                continue
            record = self._records.get(output)
            found, waiting = None, []
            for used in (record or {}).get("inputs", ()):
                below = self._input(used)
                if isinstance(below, Tombstone):
                    found = (below, used["name"])
                    break
                if below is None:
                    continue
                if below not in self._known:
                    waiting.append(below)
                elif self._known[below] is not None:
                    found = self._known[below]
                    break
            if found is None and waiting:
                stack += waiting
                continue
            self._known[output] = found
            stack.pop()
        return self._known[start]

    def _input(self, used: Mapping[str, Any]) -> Tombstone | Output | None:
        """What an input of a record is: struck out, an output to look at further, or nothing that is known."""
        digest, attempt = used["digest"], used.get("attempt")
        if attempt is None:
            struck = self._same_bytes.get((digest, used.get("root_digest") or ""))
            if struck is not None:
                return struck
        elif (digest, attempt) in self._struck:
            return self._struck[digest, attempt]
        paths = StepPaths(f"{self._store.prefix}/{used['path']}")
        for state in self._states(paths):
            if state.digest == digest and state.record is not None:
                is_it = state.attempt == attempt if attempt else state.record["root_digest"] == used.get("root_digest")
                if is_it:
                    output = (digest, state.attempt)
                    self._records.setdefault(output, state.record)
                    return output
        return None

    def _states(self, paths: StepPaths) -> Iterator[State]:
        current = self._store.read(paths.root)
        if current is not None:
            yield current
            if current.epoch > 1:
                yield from earlier_states(self._store, paths)
