"""Carry out a plan: find what is left to do, have it done, and tell what became of the rows.

The truth is in the manifests. What a run reports is read from them at the end, whoever made the shards and whenever, so
a run that went on after an interruption reports the same as one that was not interrupted.
"""

import os
import pickle
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import cloudpickle

from marin.io.files import each, remove_all
from marin.processing.pipeline.agree import agree_on_columns
from marin.processing.pipeline.backend import Backend, chosen_backend, make_shards
from marin.processing.pipeline.batch import BadRow
from marin.processing.pipeline.counts import Counts
from marin.processing.pipeline.dataset import Dataset
from marin.processing.pipeline.execution import Kept, Step, apply
from marin.processing.pipeline.manifest import WORK_FOLDER, Manifest, Survey, read_manifest
from marin.processing.pipeline.operations import Attach, FlatMapRows, MapRows, Operation
from marin.processing.pipeline.output import (
    confirm,
    locked,
    log_attempt,
    prepare,
    remove_empty_folders,
    remove_leftovers,
    unfinish,
)
from marin.processing.pipeline.planning import Planned, plan, shards_of
from marin.processing.pipeline.pool import Events, kept_workers
from marin.processing.pipeline.progress import Progress
from marin.processing.pipeline.result import Result, conclude
from marin.processing.pipeline.rows import to_rows
from marin.processing.pipeline.sinks import WholeSink
from marin.processing.pipeline.stage import Task, Watchers, run_task
from marin.processing.pipeline.worker import reason_of

_SHOWN_FAILURES = 20


def run(
    dataset: Dataset,
    *,
    workers: int | None = None,
    backend: Backend | None = None,
    address: str | None = None,
    max_bad: float = 0.01,
    retries: int = 2,
    progress: bool = True,
    label: str | None = None,
    verify: bool = False,
) -> Result:
    """Do the work of a plan, or what is left of it, and return what became of the rows.

    `workers`: processes, None for up to one a CPU while shards wait, 0 for none but this one (and one where rows have a
    time limit). The result does not depend on it, nor on the backend, with one exception: `hash` of a string, and the
    order in which a function goes through a set of them, are the same in all worker processes, but with 0 they are
    those of this process, which differ from run to run unless it was started with PYTHONHASHSEED=0.
    "ray" uses the cluster at `address` (None: RAY_ADDRESS, or the one on this machine), whose machines share the
    folders; None is what MARIN_DATA_BACKEND says, or "local". `max_bad`: the largest share of rows that may be bad.
    `retries`: how often a shard is tried again whose process died. `progress`: lines on stderr; with `label` they tell
    shards alone, under that name. `verify`: hash the outputs of finished shards, instead of comparing their sizes.

    Raises RuntimeError naming the shards that failed, once all others are done, and ValueError where more than the
    share `max_bad` of the rows was bad. Call it again after an interruption: finished shards are kept.
    """
    chosen = chosen_backend(backend, workers)
    if not 0 <= max_bad <= 1:
        raise ValueError(f"max_bad is {max_bad}; it is a share of the rows, between 0 and 1")
    if workers is not None and workers < 0:
        raise ValueError(f"workers is {workers}; a number of processes, 0 or None is expected")
    stages = plan(dataset)
    root = stages[-1].stage.root
    with locked(root), kept_workers():
        survey = Survey(root)
        prepare(survey, stages)
        said = Progress(root, stages, shown=progress, label=label)
        needed = _needed(survey, stages, verify)
        if needed:
            unfinish(root)
            sink = stages[-1].stage.sink
            if isinstance(sink, WholeSink):
                sink.begin(root)
        for planned in needed:
            pending = [task for task in planned.tasks if not _is_done(survey, planned, task, verify)]
            said.begin(planned, pending)
            if not pending:
                continue
            failures = _do(planned, pending, workers, chosen, address, retries, said)
            if failures:
                raise RuntimeError(_told(planned, failures))
        remove_leftovers(root)
        remove_empty_folders(root)
        manifests = [_manifests(planned) for planned in stages]
        manifests[-1] = agree_on_columns(stages[-1], manifests[-1])
        confirm(stages[-1], manifests[-1])
        result = conclude(root, stages, manifests, max_bad)
        remove_all(os.path.join(root, WORK_FOLDER))
    said.finish(result)
    return result


def _needed(survey: Survey, stages: Sequence[Planned], verify: bool) -> list[Planned]:
    """The stages that have something to do, or whose output is needed by one that has."""
    needed: list[Planned] = []
    for planned in reversed(stages):
        is_read = planned.feeds is None or any(_feeds(planned, other) for other in needed)
        if is_read and not all(_is_done(survey, planned, task, verify) for task in planned.tasks):
            needed.append(planned)
    return needed[::-1]


def _feeds(planned: Planned, other: Planned) -> bool:
    return planned.feeds is not None and planned.feeds.rpartition(".")[0] == other.stage.name


def _is_done(survey: Survey, planned: Planned, task: Task, verify: bool) -> bool:
    return survey.is_done(planned.stage.name, task.name, task.key, verify=verify)


def _manifests(planned: Planned) -> list[Manifest]:
    """Those of all shards of a stage, which are made."""
    root, stage = planned.stage.root, planned.stage.name

    def manifest_of(task: Task) -> Manifest:
        manifest = read_manifest(root, stage, task.name)
        assert manifest is not None, f"shard {task.name} was reported as done and has no manifest"
        return manifest

    return each(manifest_of, planned.tasks, where=root)


def _do(
    planned: Planned,
    pending: Sequence[Any],
    workers: int | None,
    backend: str,
    address: str | None,
    retries: int,
    said: Progress,
) -> dict[str, str]:
    """Make the shards; the reasons of those that failed, by name."""
    root, stage = planned.stage.root, planned.stage.name
    is_watched = any(_is_watched(chain) for chain in planned.stage.chains)
    if workers == 0 and backend == "local" and not is_watched:
        return _in_this_process(planned, pending, said)
    names = [task.name for task in pending]
    try:
        stage_data = cloudpickle.dumps(planned.stage)
        tasks = [(task.name, cloudpickle.dumps(task)) for task in pending]
    except (TypeError, pickle.PicklingError) as error:
        raise TypeError(
            f"the operations of {stage} cannot be sent to other processes: {error}. What holds files, locks or "
            "connections should open them where it is called"
        ) from error
    events = Events(
        started=lambda name: log_attempt(root, stage, name),
        progress=said.read,
        done=lambda index: said.done(pending[index]),
    )
    watched = [_is_watched(planned.stage.chains[task.chain]) for task in pending]
    failures = make_shards(
        stage_data,
        tasks,
        backend=backend,
        address=address,
        workers=workers,
        retries=retries,
        events=events,
        watched=watched,
    )
    return {names[index]: reason for index, reason in sorted(failures.items())}


def _is_watched(operations: Sequence[Operation]) -> bool:
    return any(isinstance(one, MapRows | FlatMapRows) and one.timeout_s is not None for one in operations)


def _in_this_process(planned: Planned, pending: Sequence[Any], said: Progress) -> dict[str, str]:
    failures = {}
    for task in pending:
        log_attempt(planned.stage.root, planned.stage.name, task.name)
        try:
            run_task(planned.stage, task, watchers=Watchers(progress=said.read))
        except Exception as error:
            failures[task.name] = reason_of(error)
        else:
            said.done(task)
    return failures


def _told(planned: Planned, failures: dict[str, str]) -> str:
    inputs = {task.name: task.inputs() for task in planned.tasks}
    by_reason: dict[str, list[str]] = {}
    for name, reason in failures.items():
        by_reason.setdefault(reason, []).append(name)
    lines = []
    for reason, names in list(by_reason.items())[:_SHOWN_FAILURES]:
        read = ", ".join(dict.fromkeys(str(one["label"]) for one in inputs[names[0]][:3]))
        more = f" and {len(names) - 1} others" if len(names) > 1 else ""
        lines.append(f"  {names[0]} ({read}){more}: {reason}")
    if len(by_reason) > _SHOWN_FAILURES:
        lines.append(f"  and {len(by_reason) - _SHOWN_FAILURES} other reasons")
    others = len(planned.tasks) - len(failures)
    rest = f"\nThe other {others} are complete; the same call makes only these again." if others else ""
    listed = "\n".join(lines)
    return f"{len(failures)} of {len(planned.tasks)} shards of {planned.stage.name} were not made:\n{listed}{rest}"


def iter_rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The rows of a plan that ends with no writing, in this process; on stderr, at the end, how many were bad."""
    kept: Kept = {}
    bad: list[str] = []  # their kinds
    first = ""

    def pass_over(operation: str, row: BadRow) -> None:
        nonlocal first
        first = first or f"{row.id}: {row.reason}"
        bad.append(row.kind)

    try:
        for part, source, attached in shards_of(dataset):
            batches = source.read(Counts(name="read"), pass_over)
            others = iter(attached)
            for operation in part.operations:
                other = next(others) if isinstance(operation, Attach) else None
                step = Step(counts=Counts(name=operation.name), on_bad=pass_over, attached=other, kept=kept)
                batches = apply(operation, batches, step)
            for batch in batches:
                yield from to_rows(batch)
    finally:
        if bad:
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in Counter(bad).most_common())
            print(f"bad rows, which were passed over: {kinds}; the first is {first}", file=sys.stderr)
