"""Make again what was struck out and what is tainted: which steps, from which scripts, and whether it makes sense yet.

What has to be made again is read from the store; how, from the scripts and settings that the records of runs name, each
planned anew. If a recipe changed since (a raised `code_version`, say), its step has another digest, and the step of the
same name stands in for it; a step with `version=` keeps its digest. A step whose recipe is the same and whose function
reads as it did when its output was struck out would make the same again, so that is refused until it was mended; not
where `verify` found the files damaged, for which no code is to blame.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from marin.execution.catalog import runs_of, steps_of
from marin.execution.fingerprint import code_changed
from marin.execution.graph import Graph
from marin.execution.invalidation import Taint
from marin.execution.outputs import Committed, outputs_of
from marin.execution.status import EVICTED, SUCCEEDED, recipe_of
from marin.execution.store import Store


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A script with settings that made outputs which have to be made again."""

    script: str | None  # absolute path; None if the runs on record name none
    settings: tuple[str, ...]  # its --set values
    folder: str | None  # the working folder of that run
    outputs: tuple[Committed, ...]  # what it made

    @property
    def exists(self) -> bool:
        """Whether the script is still there."""
        return self.script is not None and os.path.isfile(self.script)


def to_remake(store: Store, taint: Taint | None = None) -> list[Committed]:
    """The latest output of every step where it is struck out or tainted; not where its data was given up for room."""
    taint = taint or Taint(store)
    found = []
    for step in steps_of(store):
        latest = next(iter(outputs_of(step)), None)
        is_given_up = step.state is not None and step.state.status == EVICTED
        if latest is not None and not is_given_up and taint.mark(latest.state) is not None:
            found.append(latest)
    return found


def origins(store: Store, outputs: Sequence[Committed]) -> list[Origin]:
    """Where outputs came from, the earliest run first.

    That is the run that made one, or, if its script is gone, the latest run that used it and whose script is there.
    """
    runs = runs_of(store)
    records = {run.run_id: run.record for run in runs}
    found: dict[tuple[str | None, tuple[str, ...]], tuple[str, str | None, list[Committed]]] = {}
    for output in outputs:
        users = [r.run_id for r in runs if any(s["digest"] == output.state.digest for s in r.record.get("plan", ()))]
        candidates = [output.record["run_id"], *users]
        there = (id for id in candidates if _is_file(records.get(id, {}).get("script")))
        chosen = next(there, candidates[0])
        record = records.get(chosen, {})
        key = (record.get("script"), tuple(record.get("settings", ())))
        run_id, _, made = found.setdefault(key, (chosen, record.get("cwd"), []))
        made.append(output)
        if chosen < run_id:
            found[key] = (chosen, record.get("cwd"), made)
    return [
        Origin(script=script, settings=settings, folder=folder, outputs=tuple(made))
        for (script, settings), (_, folder, made) in sorted(found.items(), key=lambda item: item[1][0])
    ]


def _is_file(path: str | None) -> bool:
    return path is not None and os.path.isfile(path)


def steps_to_remake(graph: Graph, store: Store, outputs: Sequence[Committed]) -> frozenset[str]:
    """Digests of the graph's steps that make the outputs again: they themselves, or their successors of other recipes.

    A successor has the name of an output whose step the graph no longer has, and nothing committed.
    """
    here = {node.digest for node in graph}
    names = {output.name for output in outputs if output.state.digest not in here}
    digests = {output.state.digest for output in outputs}
    chosen = set()
    for node in graph:
        if node.digest in digests or (node.name in names and not _is_committed(store, node.path)):
            chosen.add(node.digest)
    return frozenset(chosen)


def _is_committed(store: Store, path: str) -> bool:
    state = store.read(f"{store.prefix}/{path}")
    return state is not None and state.status == SUCCEEDED


def unchanged_producers(
    graph: Graph, chosen: frozenset[str], outputs: Sequence[Committed], taint: Taint
) -> list[tuple[Committed, str, bool]]:
    """(output, function, whether there is a fingerprint to tell by) of the steps that would make the same again.

    Only what a tombstone names itself is looked at: what is merely tainted was made by sound code from bad input.
    """
    by_digest = {output.state.digest: output for output in outputs}
    found = []
    for node in graph:
        output = by_digest.get(node.digest) if node.digest in chosen else None
        tombstone = taint.struck_out(output.state) if output is not None else None
        if output is None or tombstone is None or tombstone.content.get("is_damage"):
            continue
        if recipe_of(output.state) != node.recipe or code_changed(node.step.fn, output.record, node.step.config):
            continue
        found.append((output, node.fn_ref, output.record.get("code_fingerprint") is not None))
    return found
