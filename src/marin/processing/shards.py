"""Shards of documents, and tasks over them.

A shard is a split of the input (`marin.processing.formats`). Its documents are always read with all columns: which rows
are bad depends on the columns that are asked for, and what is written beside a shard must have its rows.
"""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from marin.config import decode, encode
from marin.io.records import read_records
from marin.processing.document import BadInputError
from marin.processing.formats.reading import BadRecord, first_columns, read_split
from marin.processing.formats.splits import FORMATS, Split, plan_splits
from marin.processing.formats.writing import open_writer
from marin.processing.pipeline import Dataset
from marin.processing.pipeline.execution import OperationError
from marin.processing.text_column import TEXT, TextFrom

Task = TypeVar("Task")
Result = TypeVar("Result")

WORK = "work"
REPORT = "report.json"
_SHOWN_BAD = 3
_MOST_SHARDS = 256  # of tasks; more of them share one, for each is a file that is flushed to the disk


@dataclass(frozen=True, kw_only=True)
class BadRows:
    """Rows that are no documents: how many of each kind, and the first of them."""

    kinds: dict[str, int] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)

    def add(self, record: BadRecord) -> None:
        """Count one."""
        self.kinds[record.kind] = self.kinds.get(record.kind, 0) + 1
        if len(self.shown) < _SHOWN_BAD:
            self.shown.append(f"{record.position}: {record.reason}")

    def check(self, num_documents: int, max_bad: float) -> None:
        """BadInputError where more than the share `max_bad` of the rows is bad."""
        num_bad = sum(self.kinds.values())
        if num_bad > max_bad * (num_bad + num_documents):
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(self.kinds.items()))
            raise BadInputError(
                f"{num_bad:,} of {num_bad + num_documents:,} rows are no documents ({kinds}), more than max_bad="
                f"{max_bad:.2%}: {'; '.join(self.shown)}"
            )


def total_bad(parts: Iterable[BadRows]) -> BadRows:
    """All of them together."""
    kinds: Counter[str] = Counter()
    shown: list[str] = []
    for part in parts:
        kinds.update(part.kinds)
        shown += part.shown
    return BadRows(kinds=dict(sorted(kinds.items())), shown=shown[:_SHOWN_BAD])


def document_shards(path: str, text_column: str = TEXT) -> list[Split]:
    """The shards of a folder of documents, or of one file, in their order. ValueError where the first has no text."""
    shards = [replace(split, text_column=text_column) for split in plan_splits(path)]
    columns = first_columns(shards)
    if columns is not None and text_column not in columns:
        raise ValueError(
            f"{shards[0].path}: no column {text_column!r}, which documents have; the columns are {', '.join(columns)}. "
            "Name the one that holds the text: text_column= (--text-column)"
        )
    return shards


def read_shard(split: Split, bad: BadRows | None = None) -> Iterator[pa.RecordBatch]:
    """The documents of a shard, with all their columns; rows that are none are counted in `bad`."""
    bad = bad or BadRows()
    for batch in read_split(split, on_bad=bad.add):
        if split.text_column == TEXT:
            yield batch
            continue
        result = TextFrom(split.text_column)(batch)
        for row in result.bad:
            bad.add(BadRecord(position=f"{split.label}, id {row.id}", reason=row.reason, text=""))
        if result.batch.num_rows:
            yield result.batch


@dataclass(frozen=True, kw_only=True)
class _Do:
    """A row operation: the task that a row holds, and its result."""

    function: Callable[[Any], Any]
    task_type: type
    recipe: int

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        task = decode(self.task_type, json.loads(row["task"]))
        try:
            result = self.function(task)
        except ValueError as error:  # which would only put the row aside
            raise OperationError(str(error)) from error
        return {"id": row["id"], "result": json.dumps(encode(result))}


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    result_type: type[Result],
    *,
    folder: Path,
    recipe: int,
    num_workers: int | None,
) -> list[Result]:
    """The result of every task, in their order; what a killed run has done is not done again.

    Args:
        function: Of a module, so that a worker finds it. It writes its files whole or not at all.
        tasks: Frozen dataclasses of one type, of plain values, as are the results.
        folder: For the results, of these tasks alone. As long as it is there they are kept.
        recipe: Raised when the function gives another result for an equal task.
        num_workers: Processes; None: one a CPU, 0: this one.
    """
    rows = [{"id": f"{number:06d}", "task": json.dumps(encode(task))} for number, task in enumerate(tasks)]
    work = Dataset.from_items(rows, num_shards=min(len(rows), _MOST_SHARDS)).map(
        _Do(function=function, task_type=type(tasks[0]), recipe=recipe), name=function.__name__
    )
    label = function.__name__.replace("_", " ")
    workers = 0 if len(tasks) == 1 else num_workers
    work.write_jsonl(str(folder), compression=None).run(workers=workers, max_bad=0.0, label=label)
    found = {row["id"]: row["result"] for file in sorted(folder.glob("part-*")) for row in read_records(file)}
    return [decode(result_type, json.loads(found[row["id"]])) for row in rows]


# Of so many bytes two workers, which each load their libraries first, are no sooner done than one process: 127 MB took
# one process 1.9 s and two workers 2.7 s to deduplicate, 2.5 and 2.4 s to filter.
_SMALL_BYTES = 128 << 20


def enough_workers(num_bytes: int, num_workers: int | None) -> int | None:
    """`num_workers`; where none is said and the files, of so many bytes, are small, 0: none but this process."""
    return 0 if num_workers is None and num_bytes < _SMALL_BYTES else num_workers


def bytes_of(shards: Sequence[Split]) -> int:
    """The size of the files that these are parts of."""
    return sum({split.path: split.size for split in shards}.values())


def begin_work(output: Path, identity: Any, *, owned: Sequence[str]) -> Path:
    """A folder in `output` for what a run needs on its way; that of an interrupted run of the same identity, if any.

    What else stands there is of another run, over other documents or with another config. It is removed first, with the
    folders `owned` in `output`, for nothing of two runs may be mixed. ValueError where those are not of a run.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    work = output / WORK / digest
    if work.is_dir():
        return work
    there = [name for name in (WORK, *owned, REPORT) if (output / name).exists()]
    if there and not _is_of_a_run(output):
        raise ValueError(f"{output} has {', '.join(there)}, and no run has made them: write to another folder")
    for name in (*owned, WORK):  # that last: who is killed on the way finds by it that all this is a run's
        shutil.rmtree(output / name, ignore_errors=True)
    work.mkdir(parents=True)
    return work


def _is_of_a_run(output: Path) -> bool:
    """Whether a folder was written by `begin_work`, which would remove what is in it, or has a report that we write."""
    on_the_way = [entry.name for entry in (output / WORK).iterdir()] if (output / WORK).is_dir() else []
    if on_the_way and all(re.fullmatch("[0-9a-f]{16}", name) for name in on_the_way):
        return True
    try:
        report = json.loads((output / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return not on_the_way and isinstance(report, dict) and "sources" in report


def check_apart(output: Path, shards: Sequence[Split], *, owned: Sequence[str]) -> None:
    """ValueError where documents that are read lie beside what is written, or where `begin_work` would remove them."""
    beside = [split.path for split in shards if Path(split.path).resolve().parent == output.resolve()]
    if beside:
        raise ValueError(
            f"{beside[0]} is to be read and lies in {output}, which is to be written: what is written would be read as "
            "documents the next time. Write to another folder"
        )
    for folder in ((output / name).resolve() for name in owned):
        inside = [split.path for split in shards if folder in Path(split.path).resolve().parents]
        if inside:
            raise ValueError(f"{inside[0]} is to be read, and {folder} is written anew: write to another folder")


def end_work(output: Path) -> None:
    """Remove what was needed on the way."""
    shutil.rmtree(output / WORK, ignore_errors=True)


def files_of(shards: Sequence[Split]) -> list[tuple[str, list[int]]]:
    """(name, numbers of its shards) of every file of documents: what is written beside it has that name, in parquet."""
    files: dict[str, list[int]] = {}
    for number, split in enumerate(shards):
        files.setdefault(split.label, []).append(number)
    named: dict[str, str] = {}
    for label in files:
        fitting = [ending for ending in FORMATS if label.endswith(ending)]
        name = label.removesuffix(max(fitting, key=len, default="")) + ".parquet"
        if name in named:
            raise ValueError(f"{named[name]} and {label} would both become {name}: give one of them another name")
        named[name] = label
    return [(name, files[label]) for name, label in named.items()]


def write_shard(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema | None) -> None:
    """Write a parquet file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_writer(path, "parquet", schema=schema) as writer:
        for batch in batches:
            writer.write(batch)
