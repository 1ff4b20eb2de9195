"""Names that people give to outputs, which keep them: `<prefix>/.exec/refs/<name>.json`.

A ref names one output (a step's digest and its attempt), not whatever the step's output is today. Garbage collection
keeps what a ref names and all that went into it. A ref is one small file, created only if its name is free.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marin.execution.catalog import AddressError, StepEntry, near_misses
from marin.execution.executor import RefusedError
from marin.execution.record import utc
from marin.execution.status import EXEC, SUCCEEDED, RegisterError, said
from marin.execution.store import Store

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, kw_only=True)
class Ref:
    """One name for one output."""

    name: str  # the name
    digest: str  # of the step
    attempt: str  # which of the step's outputs
    root_digest: str  # of its manifest
    step: str  # the step's name
    path: str  # of the step's folder, relative to the prefix
    when: str  # UTC, ISO 8601
    user: str  # who

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in the file."""
        return {"format": 1, **vars(self)}


def refs_dir(store: Store) -> str:
    return f"{store.prefix}/{EXEC}/refs"


def _path(store: Store, name: str) -> str:
    return f"{refs_dir(store)}/{name}.json"


def ref_names(store: Store) -> list[str]:
    """The names of all refs of a store."""
    return [item.name.removesuffix(".json") for item in store.items(refs_dir(store)) if item.name.endswith(".json")]


def read_refs(store: Store) -> list[Ref]:
    """All refs of a store, by name."""
    return [ref for name in ref_names(store) if (ref := read_ref(store, name)) is not None]


def read_ref(store: Store, name: str) -> Ref | None:
    """The ref of this name, None if there is none. RegisterError if its file is none."""
    data = store.get(_path(store, name))
    if data is None:
        return None
    try:
        content: Mapping[str, Any] = json.loads(data)
        return Ref(**{key: content[key] for key in Ref.__dataclass_fields__})
    except (ValueError, KeyError, TypeError) as error:
        raise RegisterError(f"{_path(store, name)}: not a ref ({error}); restore it or delete it") from error


def default_name(entry: StepEntry) -> str:
    """What a ref to an output is called when nobody says: the step's name with '-' for '/', and six digits."""
    return f"{entry.name.replace('/', '-')}-{entry.digest[:6]}"


def pin(store: Store, entry: StepEntry, *, name: str | None = None, user: str, move: bool = False) -> Ref:
    """Name the committed output of a step; the ref. Pinning the same output under the same name again is no error.

    `move`: take the name from another output. Raises ValueError for a bad name, RefusedError if there is no output
    that may be used, or the name is another's.
    """
    name = name or default_name(entry)
    if not _NAME.fullmatch(name):
        raise AddressError(f"bad ref name {name!r}: use up to 200 of A-Z a-z 0-9 . _ -, not beginning with '.'")
    state = entry.state
    if state is None or state.record is None or state.status != SUCCEEDED:
        raise RefusedError(
            f"{entry.name} @{entry.digest[:6]} cannot be pinned: {said(entry.status)}; only an output that is there can"
        )
    ref = Ref(
        name=name,
        digest=state.digest,
        attempt=state.attempt,
        root_digest=state.record["root_digest"],
        step=entry.name,
        path=entry.path,
        when=utc(),
        user=user,
    )
    data = json.dumps(ref.to_json()).encode() + b"\n"
    if store.create(_path(store, name), data):
        # gc evicts first and looks for refs after that, so one of the two sees the other
        now = store.read(entry.paths.root)
        if now is None or now.status != SUCCEEDED or now.attempt != state.attempt:
            store.delete(_path(store, name))
            raise RefusedError(f"{entry.name} @{entry.digest[:6]} was changed meanwhile; look at it and pin it again")
        return ref
    before = read_ref(store, name)
    if before is not None and (before.digest, before.attempt) == (ref.digest, ref.attempt):
        return before
    if not move:
        what = f"{before.step} @{before.digest[:6]} attempt {before.attempt}" if before else "something"
        raise RefusedError(f"ref {name!r} names {what} already; give another --name, or --move it")
    store.put(_path(store, name), data)
    return ref


def unpin(store: Store, name: str) -> Ref:
    """Delete a ref; the ref that it was. AddressError if there is none of that name."""
    ref = read_ref(store, name)
    if ref is None:
        near = near_misses(name, ref_names(store))
        hint = f"did you mean {' or '.join(near)}?" if near else "`marin ls refs` lists what there is"
        raise AddressError(f"no ref {name!r} in {store.prefix}; {hint}")
    store.delete(_path(store, name))
    return ref
