"""One row, some or none for each group of rows with the same key.

A reducer is a function of (key, iterator of rows), or one of the reducers here, which work on columns.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from marin.processing.formats.reading import BATCH_BYTES, BATCH_ROWS, bounded
from marin.processing.pipeline.batch import BadRow, Dropped
from marin.processing.pipeline.counts import Counts
from marin.processing.pipeline.execution import OperationError, failed
from marin.processing.pipeline.identity import identity_of
from marin.processing.pipeline.reducers import Count, KeepFirst
from marin.processing.pipeline.rows import RowsToBatches, samples_of, text_bytes, to_rows
from marin.processing.pipeline.shuffle import Spills
from marin.processing.pipeline.sources import OnBad


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The rows that a reducer makes of the groups of one partition."""

    version: ClassVar[int] = 1
    name: str
    spills: Spills
    keys: tuple[str, ...]
    reducer: Any

    @property
    def num_bytes(self) -> int:
        return 0  # not known before the stage before is done

    def inputs(self) -> list[dict[str, Any]]:
        reducer = {"name": self.name, "keys": list(self.keys), "reducer": identity_of(self.reducer)}
        return [{**self.spills.identity(), "version": self.version, "reduce": reducer}]

    def read(self, counts: Counts, on_bad: OnBad) -> Iterator[pa.RecordBatch]:
        tables = _counted(self.spills.sorted(), counts)
        if isinstance(self.reducer, KeepFirst):
            batches = _first_rows(tables, self.keys, self.reducer.rule, counts)
        elif isinstance(self.reducer, Count):
            batches = _count_rows(tables, self.keys, self.reducer.column)
        else:
            batches = self._of_function(tables, counts, on_bad)
        for batch in batches:
            counts.rows_out += batch.num_rows
            counts.text_bytes_out += text_bytes(batch)
            yield batch
        more = counts.rows_out + counts.num_dropped + counts.num_bad - counts.rows_in
        counts.expanded += max(0, more)
        counts.merged += max(0, -more)

    def _of_function(self, tables: Iterator[pa.Table], counts: Counts, on_bad: OnBad) -> Iterator[pa.RecordBatch]:
        maker = RowsToBatches()
        rows = self._results(tables, counts)
        while part := list(itertools.islice(rows, BATCH_ROWS)):
            batch, unfit = maker.batch(part)
            for index, reason in sorted(unfit.items()):
                row = BadRow(
                    id=str(part[index].get("id", "")), reason=reason, text=str(part[index].get("text", ""))[:200]
                )
                counts.quarantine(row)
                on_bad(self.name, row)
            yield from bounded(batch, BATCH_ROWS, BATCH_BYTES)

    def _results(self, tables: Iterator[pa.Table], counts: Counts) -> Iterator[Mapping[str, Any]]:
        every = (row for table in tables for batch in table.to_batches(BATCH_ROWS) for row in to_rows(batch))
        for key, group in itertools.groupby(every, self._key):
            members = _Counting(group)
            try:
                made = self.reducer(key, members)
            except Exception as error:
                raise failed(self.name, f"group {key!r}", error) from error
            for _ in members:  # what it has not looked at counts too
                pass
            if isinstance(made, Dropped):
                counts.drop(made.rule, members.count)
            elif isinstance(made, Mapping):
                yield made
            elif isinstance(made, list | tuple) and all(isinstance(row, Mapping) for row in made):
                yield from made
            else:
                kind = "None" if made is None else type(made).__name__
                raise OperationError(
                    f"{self.name}: group {key!r}: returned {kind}; a dict, a list of dicts or Dropped(rule) is expected"
                )

    def _key(self, row: Mapping[str, Any]) -> Any:
        return row[self.keys[0]] if len(self.keys) == 1 else tuple(row[name] for name in self.keys)


class _Counting:
    """An iterator that counts."""

    def __init__(self, rows: Iterator[dict[str, Any]]):
        self._rows = rows
        self.count = 0

    def __iter__(self) -> "_Counting":
        return self

    def __next__(self) -> dict[str, Any]:
        row = next(self._rows)
        self.count += 1
        return row


def _counted(tables: Iterator[pa.Table], counts: Counts) -> Iterator[pa.Table]:
    for table in tables:
        counts.rows_in += table.num_rows
        counts.text_bytes_in += sum(text_bytes(batch) for batch in table.to_batches())
        yield table


def _starts(table: pa.Table, keys: tuple[str, ...], before: tuple[Any, ...] | None) -> np.ndarray:
    """For each row of a sorted table, whether a group begins there; `before` is the key of the row before the first."""
    starts = np.zeros(table.num_rows, bool)
    for name in keys:
        column = table.column(name).combine_chunks()
        if table.num_rows > 1:
            starts[1:] |= np.asarray(column.slice(1)) != np.asarray(column.slice(0, table.num_rows - 1))
    starts[0] = before is None or before != _key_at(table, keys, 0)
    return starts


def _key_at(table: pa.Table, keys: tuple[str, ...], index: int) -> tuple[Any, ...]:
    return tuple(table.column(name)[index].as_py() for name in keys)


def _first_rows(
    tables: Iterator[pa.Table], keys: tuple[str, ...], rule: str, counts: Counts
) -> Iterator[pa.RecordBatch]:
    before = None
    for table in tables:
        if table.num_rows:
            starts = _starts(table, keys, before)
            before = _key_at(table, keys, table.num_rows - 1)
            gone = table.filter(pa.array(~starts))
            shown = gone.slice(0, 3).combine_chunks().to_batches()
            samples = samples_of(shown[0], range(shown[0].num_rows), keys) if shown else []
            counts.drop(rule, gone.num_rows, samples)
            table = table.filter(pa.array(starts))
        yield from _pieces(table)


def _count_rows(tables: Iterator[pa.Table], keys: tuple[str, ...], column: str) -> Iterator[pa.RecordBatch]:
    held: pa.Table | None = None  # the last group so far, which may go on
    for table in tables:
        if not table.num_rows:
            yield from _pieces(table.select(list(keys)).append_column(column, pa.array([], pa.int64())))
            continue
        starts = np.flatnonzero(_starts(table, keys, None))
        sizes = np.diff(np.append(starts, table.num_rows))
        groups = table.select(list(keys)).take(starts).append_column(column, pa.array(sizes, pa.int64()))
        if held is not None and _key_at(held, keys, 0) == _key_at(groups, keys, 0):
            total = held.column(column)[0].as_py() + sizes[0]
            held = held.set_column(len(keys), column, pa.array([total], pa.int64()))
            groups = groups.slice(1)
        if groups.num_rows:
            done = groups.slice(0, groups.num_rows - 1)
            yield from _pieces(done if held is None else pa.concat_tables([held, done]))
            held = groups.slice(groups.num_rows - 1)
    if held is not None:
        yield from _pieces(held)


def _pieces(table: pa.Table) -> Iterator[pa.RecordBatch]:
    if not table.num_rows:
        yield pa.RecordBatch.from_arrays([pa.array([], field.type) for field in table.schema], schema=table.schema)
    for batch in table.combine_chunks().to_batches():
        yield from bounded(batch, BATCH_ROWS, BATCH_BYTES)
