"""Shards of documents, and tasks over them.

A shard is a split of the input (`marin.processing.formats`). Its documents are always read with all columns: which rows
are bad depends on the columns that are asked for, and what is written beside a shard must have its rows.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from marin.processing.formats.reading import BadRecord, read_split
from marin.processing.formats.splits import Split, plan_splits
from marin.processing.formats.writing import open_writer

Task = TypeVar("Task")
Result = TypeVar("Result")

_SHOWN_BAD = 3


@dataclass(kw_only=True)
class BadRows:
    """Rows that are no documents: how many of each kind, and the first of them."""

    kinds: Counter[str] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)

    def add(self, record: BadRecord) -> None:
        """Count one."""
        self.kinds[record.kind] += 1
        if len(self.shown) < _SHOWN_BAD:
            self.shown.append(f"{record.position}: {record.reason}")

    def check(self, num_documents: int, max_bad: float) -> None:
        """ValueError where more than the share `max_bad` of the rows is bad."""
        num_bad = sum(self.kinds.values())
        if num_bad > max_bad * (num_bad + num_documents):
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(self.kinds.items()))
            raise ValueError(
                f"{num_bad:,} of {num_bad + num_documents:,} rows are no documents ({kinds}), more than max_bad="
                f"{max_bad:.2%}: {'; '.join(self.shown)}"
            )


def total_bad(parts: Iterable[BadRows]) -> BadRows:
    """All of them together."""
    total = BadRows()
    for part in parts:
        total.kinds.update(part.kinds)
        total.shown += part.shown[: _SHOWN_BAD - len(total.shown)]
    return total


def document_shards(path: str) -> list[Split]:
    """The shards of a folder of documents, or of one file, in their order."""
    return plan_splits(path)


def read_shard(split: Split, bad: BadRows | None = None) -> Iterator[pa.RecordBatch]:
    """The documents of a shard, with all their columns; rows that are none are counted in `bad`."""
    return read_split(split, on_bad=(bad or BadRows()).add)


def run_tasks(function: Callable[[Task], Result], tasks: Sequence[Task], num_workers: int | None) -> list[Result]:
    """The result of every task, in their order."""
    return [function(task) for task in tasks]


def part_name(shard: int, num_shards: int) -> str:
    """The file of a shard, in every folder that has one for each."""
    return f"part-{shard:05d}-of-{num_shards:05d}.parquet"


def write_shard(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema | None) -> None:
    """Write a parquet file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_writer(path, "parquet", schema=schema) as writer:
        for batch in batches:
            writer.write(batch)
