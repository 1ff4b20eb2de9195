"""One shard of one stage, from its source through all operations to its file and its manifest, in one pass.

A stage is what can be done shard by shard. The operations are fused: nothing is written between them. Everything here
happens in one process and knows of no other; the order in which things reach the disk (output, bad rows, manifest) is
what makes `kill -9` harmless at any moment.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from marin.io.files import make_folder, open_output, remove
from marin.processing.pipeline.batch import BadRow
from marin.processing.pipeline.counts import Counts
from marin.processing.pipeline.execution import Kept, Step, apply
from marin.processing.pipeline.join import Chained
from marin.processing.pipeline.manifest import Manifest, bad_path, described_output, manifest_path, write_manifest
from marin.processing.pipeline.operations import Attach, Operation
from marin.processing.pipeline.rows import SchemaWidened
from marin.processing.pipeline.sinks import Sink
from marin.processing.pipeline.sources import Source

_MAX_WIDENINGS = 50  # times that a shard begins anew for a column or type that turned up late
TooSlow = Mapping[int, frozenset[int]]  # number of the operation -> numbers of rows that were stopped at it


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is the same for all shards of a stage."""

    name: str  # 00-map; in the names of folders
    root: str  # the output folder of the run
    folder: str  # below it, where the shards' outputs are; "" for the last stage
    chains: tuple[tuple[Operation, ...], ...]  # a shard goes through one of them
    sink: Sink
    kept: Kept = field(default_factory=dict, compare=False, repr=False)  # in a process, between its shards

    def make(self, task: "Task", *, too_slow: TooSlow, watchers: "Watchers") -> None:
        """What a worker process does with a task."""
        run_task(self, task, too_slow=too_slow, watchers=watchers)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One shard."""

    name: str
    chain: int
    source: Source
    source_name: str = "read"  # what counts call the reading
    attached: tuple[Chained, ...] = ()  # for each Attach of the chain, the rows of the other data set
    key: str = ""  # what shard this is: stage, operations, inputs

    def inputs(self) -> list[dict[str, Any]]:
        """All that it reads, as JSON values."""
        return [one for source in (self.source, *self.attached) for one in source.inputs()]


@dataclass(frozen=True)
class Watchers:
    """Who is told what while a shard is made."""

    # after each batch: (its bytes, its rows)
    progress: Callable[[int, int], None] = lambda num_bytes, num_rows: None
    # before each row of an operation with a time limit: (number of the operation, number of the row, limit)
    row: Callable[[int, int, float], None] = lambda operation, row, limit_s: None


def output_path(stage: Stage, task: Task) -> str:
    """Where the output of a shard is, below the output folder."""
    return os.path.join(stage.folder, task.name + stage.sink.ending)


def run_task(
    stage: Stage, task: Task, *, too_slow: TooSlow | None = None, watchers: Watchers | None = None
) -> Manifest:
    """Make a shard and publish it; its manifest.

    An exception or a kill leaves no output that could pass for a complete one. OSError names the output where the disk
    is full.
    """
    path = os.path.join(stage.root, output_path(stage, task))
    remove(manifest_path(stage.root, stage.name, task.name))  # of an earlier plan: must not vouch for what comes now
    make_folder(os.path.dirname(path))
    schema: pa.Schema | None = None
    try:
        for _ in range(_MAX_WIDENINGS):
            try:
                return _attempt(stage, task, path, schema, too_slow or {}, watchers or Watchers())
            except SchemaWidened as widened:
                schema = widened.schema
        raise ValueError(
            f"{path}: more than {_MAX_WIDENINGS} columns or types turned up only later in the shard: {schema}"
        )
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), path) from error  # a failed write does not know its file


def _attempt(
    stage: Stage, task: Task, path: str, schema: pa.Schema | None, too_slow: TooSlow, watchers: Watchers
) -> Manifest:
    began = time.process_time()
    reading = Counts(name=task.source_name)
    with _BadRows(bad_path(stage.root, stage.name, task.name), stage.name) as bad_rows:
        first = Step(counts=reading, on_bad=bad_rows.add)
        batches = _observed(task.source.read(reading, bad_rows.add), first, watchers)
        steps = [first]
        attached = iter(task.attached)
        for number, operation in enumerate(stage.chains[task.chain]):
            step = Step(
                counts=Counts(name=operation.name),
                on_bad=bad_rows.add,
                watch=lambda row, limit_s, number=number: watchers.row(number, row, limit_s),
                attached=next(attached) if isinstance(operation, Attach) else None,
                kept=stage.kept,
                too_slow=frozenset(too_slow.get(number, ())),
            )
            steps.append(step)
            batches = apply(operation, batches, step)
        written = stage.sink.write(path, batches, schema)
    counts = [step.counts for step in steps]
    for before, after in zip(counts, counts[1:], strict=False):
        assert before.rows_out == after.rows_in, (before, after)
    for one in counts:
        one.check()
    assert counts[-1].rows_out == written.rows, (counts[-1], written)
    manifest = Manifest(
        stage=stage.name,
        shard=task.name,
        key=task.key,
        inputs=task.inputs(),
        operations=counts,
        output=described_output(stage.root, output_path(stage, task), written),
        timing={
            "cpu_s": round(time.process_time() - began, 3),
            "cpu_s_of": _own_seconds(steps),
            "host": socket.gethostname(),
        },
    )
    write_manifest(stage.root, manifest)
    return manifest


def _own_seconds(steps: list[Step]) -> dict[str, float]:
    """CPU seconds of each operation alone: a step's clock has those before it in it."""
    before = [0.0, *(step.seconds for step in steps)]
    own = {step.counts.name: step.seconds - earlier for step, earlier in zip(steps, before, strict=False)}
    return {name: round(seconds, 3) for name, seconds in own.items()}


def _observed(batches: Iterator[pa.RecordBatch], reading: Step, watchers: Watchers) -> Iterator[pa.RecordBatch]:
    """The batches that are read, with the time that takes, and others told about it."""
    while True:
        began = time.process_time()
        batch = next(batches, None)
        reading.seconds += time.process_time() - began
        if batch is None:
            return
        watchers.progress(batch.nbytes, batch.num_rows)
        yield batch


class _BadRows:
    """The file of a shard's bad rows, made with the first one; an older file goes with the first row or none."""

    def __init__(self, path: str, stage: str):
        self._path, self._stage = path, stage
        self._stack = contextlib.ExitStack()
        self._file: Any = None

    def __enter__(self) -> "_BadRows":
        return self

    def add(self, operation: str, row: BadRow) -> None:
        if self._file is None:
            make_folder(os.path.dirname(self._path))
            self._file = self._stack.enter_context(open_output(self._path))
        line = {"id": row.id, "operation": operation, "reason": row.reason, "text": row.text}
        self._file.write(json.dumps(line).encode() + b"\n")

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if self._file is None and kind is None:
            remove(self._path)
        self._stack.__exit__(kind, error, traceback)
