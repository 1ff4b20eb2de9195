"""Strike outputs out, with everything built on them, and take it back.

    found = consider(store, Selection(producer="pretrain.export_hf:main", before_commit="4be1a9c"), reason="...")
    strike(store, found)

Order: the tombstone, then each register from SUCCEEDED to INVALID, then the notes beside reports. The tombstone is one
file, written whole, and planning looks at tombstones alone; so a striking out that is killed half-way is done, and
`settle`, which every later one begins with, brings the registers into line. What is tainted is never written down as
such: it follows from the records. Taking back writes another file beside the tombstone and deletes nothing.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from marin.execution.banner import write_banners
from marin.execution.catalog import AddressError, StepEntry, find_step, near_misses, runs_of
from marin.execution.invalidation import Taint, Tombstone, all_tombstones, tombstones_dir
from marin.execution.lease import swap
from marin.execution.outputs import Committed, all_outputs
from marin.execution.record import utc
from marin.execution.selection import Selection, select_outputs
from marin.execution.status import INVALID, SUCCEEDED, State, current_user
from marin.execution.store import Store


@dataclass(frozen=True, kw_only=True)
class Striking:
    """What a striking out concerns."""

    tombstone: Tombstone | None  # what is, or would be, written; None if all that was selected is struck out already
    struck: tuple[Committed, ...]  # outputs that it strikes out
    already: tuple[Committed, ...]  # selected, and struck out before
    tainted: tuple[Committed, ...]  # outputs that must not be served any more because of it
    runs: tuple[tuple[str, str], ...]  # (run id, command) of the runs that made or used any of them
    reports: tuple[Committed, ...]  # those of them that are pages for people
    notes: tuple[str, ...]  # what the selection decided where records could not tell


def consider(
    store: Store,
    selection: Selection,
    reason: str,
    *,
    superseded_by: str | None = None,
    argv: Sequence[str] | None = None,
) -> Striking:
    """What would be struck out, and what would be tainted by it; writes nothing.

    `superseded_by`: address of the step whose output should be used instead. `argv`: what was typed, for the record.
    Raises AddressError if nothing is selected, or there is no such step; ValueError without a reason.
    """
    if not reason.strip():
        raise AddressError("say why: the reason is what everybody will see who meets these outputs")
    instead = find_step(store.prefix, superseded_by) if superseded_by is not None else None
    selected = select_outputs(store, selection)
    before = Taint(store)
    new = tuple(o for o in selected.outputs if before.struck_out(o.state) is None)
    already = tuple(o for o in selected.outputs if before.struck_out(o.state) is not None)
    if not new:
        return Striking(
            tombstone=None, struck=(), already=already, tainted=(), runs=(), reports=(), notes=selected.notes
        )
    tombstone = _tombstone(new, reason, selection, instead, list(argv if argv is not None else sys.argv))
    after = Taint(store, assumed=[tombstone])
    keys = {output.key for output in new}
    tainted = tuple(
        o
        for o in all_outputs(store)
        if o.key not in keys and before.mark(o.state) is None and after.mark(o.state) is not None
    )
    return Striking(
        tombstone=tombstone,
        struck=new,
        already=already,
        tainted=tainted,
        runs=runs_with(store, (*new, *tainted)),
        reports=tuple(o for o in (*new, *tainted) if is_report(o)),
        notes=selected.notes,
    )


def strike(store: Store, found: Striking) -> str | None:
    """Write the tombstone; then the registers, also those that an earlier striking out left behind. Its id."""
    if found.tombstone is not None:
        path = f"{tombstones_dir(store)}/{found.tombstone.id}.json"
        if not store.create(path, _to_bytes(found.tombstone.content)):
            raise AddressError(f"{path} exists already; run the command again")
    settle(store)
    return found.tombstone.id if found.tombstone is not None else None


def invalidate(store: Store, selection: Selection, reason: str, **details: Any) -> Striking:
    """Strike outputs out: `consider` and `strike`, without asking anybody in between."""
    found = consider(store, selection, reason, **details)
    strike(store, found)
    return found


def strike_out(store: Store, outputs: Sequence[Committed], reason: str, *, is_damage: bool = False) -> Tombstone:
    """Strike out these outputs, however they were chosen.

    `is_damage`: their files are not what was committed, so neither their steps nor their inputs are to blame.
    """
    named = Selection(addresses=tuple(output.address for output in outputs))
    tombstone = _tombstone(outputs, reason, named, None, list(sys.argv))
    if is_damage:
        tombstone = replace(tombstone, content={**tombstone.content, "is_damage": True})
    store.create(f"{tombstones_dir(store)}/{tombstone.id}.json", _to_bytes(tombstone.content))
    settle(store)
    return tombstone


def revoke(store: Store, id: str, reason: str, *, argv: Sequence[str] | None = None) -> Tombstone:
    """Take a striking out back: what it alone struck out is served again, and nothing is tainted by it any more.

    `id` may be abbreviated. Raises AddressError if there is no such tombstone, or it was taken back before.
    """
    tombstone = find_tombstone(store, id)
    if not reason.strip():
        raise AddressError("say why it is taken back")
    content = {
        "format": 1,
        "id": tombstone.id,
        "when": utc(),
        "user": current_user(),
        "reason": reason,
        "argv": list(argv if argv is not None else sys.argv),
    }
    is_new = store.create(f"{tombstones_dir(store)}/{tombstone.id}.revoked.json", _to_bytes(content))
    settle(store)
    if not is_new:
        before = tombstone.revoked or {}
        raise AddressError(f"{tombstone.id} was taken back before, by {before.get('user')} at {before.get('when')}")
    return replace(tombstone, revoked=content)


def find_tombstone(store: Store, id: str) -> Tombstone:
    """The tombstone with this id, or whose id begins or ends like this."""
    known = all_tombstones(store)
    matches = [t for t in known if t.id == id] or [
        t for t in known if id and (t.id.startswith(id) or t.id.endswith(id))
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise AddressError(f"{id!r} could be any of {', '.join(t.id for t in matches[:8])}; give more of it")
    near = near_misses(id, [t.id for t in known]) or [t.id for t in known[-3:]]
    hint = f"there are {', '.join(near)}" if near else "nothing was ever struck out here"
    raise AddressError(f"no striking out {id!r} in {store.prefix}; {hint}")


def settle(store: Store) -> int:
    """Bring registers, and the notes beside reports, into line with the tombstones; how many registers changed.

    Needed only where something was killed in between; doing it twice changes nothing.
    """
    tombstones = all_tombstones(store)
    standing: dict[tuple[str, str], Tombstone] = {}
    for tombstone in tombstones:
        if tombstone.revoked is None:
            for output in tombstone.outputs:
                standing.setdefault((output["digest"], output["attempt"]), tombstone)
    named = {(o["path"], o["digest"], o["attempt"]): None for tombstone in tombstones for o in tombstone.outputs}
    known = {tombstone.id for tombstone in tombstones}
    changed = sum(
        _settle_one(store, f"{store.prefix}/{path}", (digest, attempt), standing.get((digest, attempt)), known)
        for path, digest, attempt in named
    )
    if tombstones:
        write_banners(store)
    return changed


def _settle_one(store: Store, root: str, output: tuple[str, str], tombstone: Tombstone | None, known: set[str]) -> bool:
    while True:
        state = store.read(root)
        if state is None or (state.digest, state.attempt) != output:
            return False  # superseded: the tombstone alone speaks of it
        new = _in_line(state, tombstone, known)
        if new is None:
            return False
        if swap(store, root, state, new):
            return True


def _in_line(state: State, tombstone: Tombstone | None, known: set[str]) -> State | None:
    """The register as the tombstone wants it; None if it is so already, or is no tombstone's business."""
    said = (state.error or {}).get("tombstone")
    change = {"seq": state.seq + 1, "nonce": os.urandom(8).hex()}
    if tombstone is None:
        return replace(state, status=SUCCEEDED, error=None, **change) if said in known else None
    is_so = state.status == INVALID and said == tombstone.id
    if is_so or state.status not in (SUCCEEDED, INVALID):
        return None
    error = {
        "class": "STRUCK_OUT",
        "type": "StruckOut",
        "message": tombstone.reason,
        "tombstone": tombstone.id,
        "user": tombstone.user,
        "ended": tombstone.when,
    }
    return replace(state, status=INVALID, error=error, **change)


def _tombstone(
    outputs: Sequence[Committed], reason: str, selection: Selection, instead: StepEntry | None, argv: list[str]
) -> Tombstone:
    now = time.time()
    id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{os.urandom(3).hex()}"
    content = {
        "format": 1,
        "id": id,
        "when": utc(now),
        "user": current_user(),
        "reason": reason,
        "argv": argv,
        "selector": {
            "addresses": list(selection.addresses),
            "producer": selection.producer,
            "before_commit": selection.before_commit,
            "code_fingerprint": selection.code_fingerprint,
            "since": selection.since,
            "until": selection.until,
        },
        "superseded_by": {"name": instead.name, "digest": instead.digest} if instead is not None else None,
        "outputs": [
            {
                "digest": output.state.digest,
                "attempt": output.state.attempt,
                "root_digest": output.record["root_digest"],
                "name": output.name,
                "path": output.step.path,
            }
            for output in outputs
        ],
    }
    return Tombstone(
        id=id,
        reason=reason,
        when=content["when"],
        user=content["user"],
        outputs=tuple(content["outputs"]),
        content=content,
    )


def _to_bytes(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode() + b"\n"


# -- what is affected -------------------------------------------------------------------------------------------------


def bad_outputs(store: Store, taint: Taint | None = None) -> list[tuple[Committed, str]]:
    """Every output that must not be served, with "invalid" or "tainted"."""
    taint = taint or Taint(store)
    marked = ((output, taint.mark(output.state)) for output in all_outputs(store))
    return [(output, mark) for output, mark in marked if mark is not None]


def runs_with(store: Store, outputs: Sequence[Committed]) -> tuple[tuple[str, str], ...]:
    """(run id, command) of the runs that made or used any of the outputs, the latest first."""
    made = {output.record["run_id"] for output in outputs}
    places = {(o.state.digest, f"{o.step.path}/{o.state.data_root}".removesuffix("/.")) for o in outputs}
    found = []
    for run in runs_of(store):
        used = (
            (step["digest"], (step.get("output") or "")[len(run.record["prefix"]) + 1 :])
            for step in run.record.get("steps", ())
        )
        if run.run_id in made or any(place in places for place in used):
            found.append((run.run_id, run.record.get("command", "")))
    return tuple(found)


def is_report(output: Committed) -> bool:
    """Whether an output is a page that people read."""
    fn = output.record["fn"]
    if fn.startswith("marin.report.") and fn.endswith(":write_report"):
        return True
    try:
        manifest = output.manifest()
    except ValueError:  # altered: `marin verify` is for that
        return False
    return manifest is not None and any(entry.path == "report.html" for entry in manifest.entries)
