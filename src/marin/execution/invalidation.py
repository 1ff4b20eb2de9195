"""Outputs that were found wrong: tombstones, and what is tainted because it was built on one.

Striking out writes one tombstone, `<prefix>/.exec/invalid/<id>.json`, which names outputs by their step's digest and
their attempt; that file alone decides, and the registers follow it. An output is tainted if its record names, among the
inputs it read, an output that is struck out or tainted itself. That is worked out from the records each time, not
stored, so it also holds for what was committed after the tombstone was written. The cost: with tombstones in a store,
planning follows records upstream. A later attempt of the same step is another output and is not struck out.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from marin.execution.status import EXEC, INVALID, RegisterError, State, StepPaths
from marin.execution.store import Store

Output = tuple[str, str]  # (digest of the step, its attempt): one output that was committed once

_MAX_ROOTS = 8  # struck-out outputs that are remembered for each tainted one: enough to say why


@dataclass(frozen=True, kw_only=True)
class Tombstone:
    """One striking out."""

    id: str  # names the file; sorts by time
    reason: str  # why, in somebody's words
    when: str  # UTC, ISO 8601
    user: str  # who
    outputs: tuple[Mapping[str, Any], ...]  # {"digest", "attempt", "root_digest", "name", "path"} of each output
    content: Mapping[str, Any]  # the whole file
    revoked: Mapping[str, Any] | None = None  # the file that took it back; None while it stands


class Root(NamedTuple):
    """A struck-out output that another one goes back to."""

    tombstone: Tombstone
    name: str  # of the step that was struck out


def tombstones_dir(store: Store) -> str:
    return f"{store.prefix}/{EXEC}/invalid"


def all_tombstones(store: Store) -> list[Tombstone]:
    """All that were ever written, oldest first; those that were taken back say so. RegisterError if one is damaged."""
    folder = tombstones_dir(store)
    names = {item.name for item in store.items(folder)}
    found = []
    for name in names:
        key = name.removesuffix(".json")
        if not name.endswith(".json") or name.endswith(".revoked.json"):
            continue
        content = _read(store, f"{folder}/{name}")
        revoked = _read(store, f"{folder}/{key}.revoked.json") if f"{key}.revoked.json" in names else None
        try:
            found.append(
                Tombstone(
                    id=key,
                    reason=content["reason"],
                    when=content["when"],
                    user=content["user"],
                    outputs=tuple(content["outputs"]),
                    content=content,
                    revoked=revoked,
                )
            )
        except (KeyError, TypeError) as error:
            raise _damaged(f"{folder}/{name}", error) from error
    return sorted(found, key=lambda t: (t.when, t.id))


def struck_out_outputs(store: Store) -> set[Output]:
    """The outputs that tombstones name which nobody took back."""
    standing = (tombstone for tombstone in all_tombstones(store) if tombstone.revoked is None)
    return {(output["digest"], output["attempt"]) for tombstone in standing for output in tombstone.outputs}


def _read(store: Store, path: str) -> Mapping[str, Any]:
    try:
        return json.loads(store.get(path) or b"")
    except ValueError as error:
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> RegisterError:
    # to go on without it might serve what it strikes out
    return RegisterError(
        f"{path}: not a tombstone ({error}), so nobody can tell which outputs are struck out. Restore it; if it is "
        "lost, move it away and strike out again with `marin invalidate`"
    )


class Taint:
    """Which outputs of a store must not be served."""

    def __init__(self, store: Store, assumed: Sequence[Tombstone] = ()) -> None:
        """`assumed`: tombstones to reckon with although they are not, or not yet, in the store."""
        self._store = store
        self._assumed = tuple(assumed)
        self._names: set[str] | None = None
        self._records: dict[Output, Mapping[str, Any] | None] = {}  # committed outputs never change
        self._paths: dict[Output, str] = {}
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
        self._revoked: set[str] = set()
        for tombstone in (*all_tombstones(self._store), *self._assumed):
            if tombstone.revoked is not None:
                self._revoked.add(tombstone.id)
                continue
            for output in tombstone.outputs:
                self._struck.setdefault((output["digest"], output["attempt"]), tombstone)
                self._same_bytes.setdefault((output["digest"], output["root_digest"]), tombstone)
        self._known: dict[Output, tuple[Root, ...]] = {}
        self._inputs: dict[Output, list[Root | Output]] = {}

    def learn(self, states: Iterable[State | None]) -> None:
        """Registers that were read anyway: their records need not be read again."""
        if self._struck:
            for state in states:
                if state is not None and state.record is not None:
                    self._records[state.digest, state.attempt] = state.record

    def struck_out(self, state: State) -> Tombstone | None:
        """The tombstone that names the output of a register, None if none does."""
        return self._struck.get((state.digest, state.attempt))

    def mark(self, state: State) -> str | None:
        """ "invalid", "tainted", or None for an output that may be served."""
        if state.record is None:
            return None
        if self.struck_out(state) is not None or self._is_invalid_otherwise(state):
            return "invalid"
        return "tainted" if self.built_on(state) else None

    def trouble(self, state: State) -> str | None:
        """Why a committed output must not be served, in words; None if it may."""
        tombstone = self.struck_out(state)
        if tombstone is not None:
            return f'struck out: "{tombstone.reason}"'
        if self._is_invalid_otherwise(state):
            return f"invalid: {(state.error or {}).get('message', 'its register does not say why')}"
        roots = self.built_on(state)
        if not roots:
            return None
        names = list(dict.fromkeys(root.name for root in roots))
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        return (
            f'built on {shown}, which {"was" if len(names) == 1 else "were"} struck out: "{roots[0].tombstone.reason}"'
        )

    def _is_invalid_otherwise(self, state: State) -> bool:
        """Whether the register says INVALID for another reason than a tombstone that was taken back."""
        return state.status == INVALID and (state.error or {}).get("tombstone") not in self._revoked

    def built_on(self, state: State) -> tuple[Root, ...]:
        """The nearest struck-out outputs that the output of a register goes back to, some of them if many; () if none.

        Its own tombstone does not count.
        """
        if not self._struck or state.record is None:
            return ()
        start = (state.digest, state.attempt)
        self._records[start] = state.record
        stack, opened = [start], set()
        while stack:
            output = stack[-1]
            if output in self._known:
                stack.pop()
                continue
            inputs = self._inputs_of(output)
            # opened a second time before it is known: a cycle, which only damaged records can have
            waiting = (
                [] if output in opened else [i for i in inputs if not isinstance(i, Root) and i not in self._known]
            )
            opened.add(output)
            if waiting:
                stack += waiting
                continue
            roots: dict[tuple[str, str], Root] = {}
            for used in inputs:
                for root in (used,) if isinstance(used, Root) else self._known.get(used, ()):
                    roots.setdefault((root.tombstone.id, root.name), root)
            self._known[output] = tuple(roots.values())[:_MAX_ROOTS]
            stack.pop()
        return self._known[start]

    def _inputs_of(self, output: Output) -> list["Root | Output"]:
        """What an output was made from, as far as it is known: outputs, and roots for those that are struck out."""
        if output not in self._inputs:
            record = self._record_of(output) or {}
            found = (self._input(used) for used in record.get("inputs", ()))
            self._inputs[output] = [used for used in found if used is not None]
        return self._inputs[output]

    def _input(self, used: Mapping[str, Any]) -> "Root | Output | None":
        digest, attempt, path = used["digest"], used.get("attempt"), used["path"]
        if attempt is None:  # not there when it was read, or from before records named attempts
            root_digest = used.get("root_digest")
            if root_digest is None:
                return None
            if (digest, root_digest) in self._same_bytes:
                return Root(self._same_bytes[digest, root_digest], used["name"])
            attempt = self._attempt_with(digest, root_digest, path)
            if attempt is None:
                return None
        if (digest, attempt) in self._struck:
            return Root(self._struck[digest, attempt], used["name"])
        self._paths.setdefault((digest, attempt), path)
        return digest, attempt

    def _record_of(self, output: Output) -> Mapping[str, Any] | None:
        if output not in self._records:
            states = self._states(self._paths[output], output[0])
            self._records[output] = next((s.record for s in states if s.attempt == output[1]), None)
        return self._records[output]

    def _attempt_with(self, digest: str, root_digest: str, path: str) -> str | None:
        states = self._states(path, digest)
        return next((s.attempt for s in states if (s.record or {}).get("root_digest") == root_digest), None)

    def _states(self, path: str, digest: str) -> Iterator[State]:
        """Committed outputs of one recipe in a step's folder, the latest first."""
        from marin.execution.attempt import earlier_states  # most plans have nothing that is struck out

        paths = StepPaths(f"{self._store.prefix}/{path}")
        current = self._store.read(paths.root)
        if current is None:
            return
        states = [current, *(reversed(earlier_states(self._store, paths)) if current.epoch > 1 else ())]
        yield from (state for state in states if state.digest == digest and state.record is not None)
