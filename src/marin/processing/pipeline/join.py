# pyright: reportAttributeAccessIssue=false
"""Columns of another data set for the rows with the same key.

Two ways. Where the other data set has files of the same names (attributes of documents), each file is joined with its
namesake, in place: nothing is moved. Otherwise both sides are brought together by key, and a partition of the right
side is held in memory. The rows of the left side stay what they are; each gets the columns of one row of the right.

The result is the same where rows and their partners are in files of one name. Where rows were dealt out to files anew
and the names met by chance, a partner in another file is not found in place. That is an error; where a row may be
without partner it could not be told, so those joins are by key, unless strategy="files" says that no file is mixed.

A key that is twice on the right with the same values is taken once: documents with equal texts have equal ids. With
other values it is an error, for which of them was meant cannot be known; unless the file on the right has all rows of
its namesake in their order, as what is written beside documents has.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc  # its functions are made when it is imported, unknown to type checkers

from marin.processing.formats.reading import BATCH_ROWS
from marin.processing.pipeline.counts import Counts
from marin.processing.pipeline.evaluate import check_columns
from marin.processing.pipeline.operations import Missing, Operation
from marin.processing.pipeline.rows import of_one_schema, text_bytes
from marin.processing.pipeline.shuffle import Spills
from marin.processing.pipeline.sources import OnBad, Source


@dataclass(frozen=True, kw_only=True)
class PartOfFile:
    """Which part of its file those rows are that are joined with the file of the same name."""

    is_first: bool
    is_last: bool


class RightSide:
    """The right side of a join, in memory: the keys, and the values for them. It may serve several shards."""

    def __init__(self, table: pa.Table, *, on: Sequence[str], columns: Sequence[str] | None, name: str):
        self.on, self.name = tuple(on), name
        check_columns(self.on, table.schema.names, f"join {name!r} (its right side)")
        chosen = [c for c in table.schema.names if c not in self.on] if columns is None else list(columns)
        check_columns(tuple(chosen), table.schema.names, f"join {name!r} (its right side)")
        self.keys = table.select(list(self.on)).combine_chunks()
        self.values = table.select(chosen).combine_chunks()
        self.is_distinct = self.keys.group_by(list(self.on)).aggregate([]).num_rows == self.keys.num_rows

    @cached_property
    def index(self) -> dict[Any, int]:
        """The first row with each key."""
        index: dict[Any, int] = {}
        for place, key in enumerate(_keys_of(self.keys, self.on)):
            index.setdefault(key, place)
        return index

    @cached_property
    def conflict(self) -> str | None:
        """Of a key that is there twice with other values, an error message; None if there is none."""
        if self.is_distinct:
            return None
        for place, key in enumerate(_keys_of(self.keys, self.on)):
            first = self.index[key]
            if first != place and not self.values.slice(first, 1).equals(self.values.slice(place, 1)):
                return (
                    f"join {self.name!r}: {' and '.join(self.on)} {key!r} is twice on the right side, with other "
                    "values; which is meant can be told only where a file on the right has the rows of its namesake "
                    "on the left, all of them in their order"
                )
        return None

    def is_at(self, place: int, batch: pa.RecordBatch) -> bool:
        """Whether the rows from `place` on have the keys of a batch."""
        return place + batch.num_rows <= self.keys.num_rows and all(
            batch.column(name).equals(self.keys.column(name).slice(place, batch.num_rows).combine_chunks())
            for name in self.on
        )

    def places_of(self, batch: pa.RecordBatch) -> list[int]:
        """All places from which on the rows have the keys of a batch."""
        name = self.on[0]
        first = batch.column(name)[0]
        column = self.keys.column(name)
        if not first.is_valid or column.type != first.type:
            return []
        places = np.flatnonzero(pc.equal(column, first).to_numpy(zero_copy_only=False))
        return [place for place in places.tolist() if self.is_at(place, batch)]


class Lookup:
    """Finds the rows of a right side for the batches of one shard.

    `part`: of which file the shard is a part, where the right side is the file of the same name; a key that is on it
    twice with other values is an error unless all rows of the two are in step. Of other right sides it always is.
    """

    def __init__(self, right: RightSide, *, missing: Missing, part: PartOfFile | None = None):
        self._right, self._missing, self._part = right, missing, part
        self._next: int | None = None  # the row of the right side that follows the one found last
        self.used = np.zeros(right.keys.num_rows, bool)
        if part is None:
            self._refuse_conflict()

    def join(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, np.ndarray]:
        """The batch with the columns of the right side, and which of its rows (before) are to be left out.

        ValueError for a row that has no partner where that is an error, and for columns that are on both sides.
        """
        right = self._right
        check_columns(right.on, batch.schema.names, f"join {right.name!r}")
        both = [name for name in right.values.schema.names if name in batch.schema.names]
        if both:
            raise ValueError(
                f"join {right.name!r}: column {both[0]!r} is on both sides; choose those of the right side "
                "with columns=[...]"
            )
        places = self._places(batch)
        found = places >= 0
        self.used[places[found]] = True
        if self._missing == "error" and not found.all():
            key = _keys_of(batch.slice(int(np.argmin(found)), 1), right.on)[0]
            is_of_file = self._part is not None
            raise ValueError(
                f"join {right.name!r}: nothing has {' and '.join(right.on)} {key!r} on the right side; say "
                "missing='drop' or missing='keep' (--missing) where that may be"
                + (", or strategy='shuffle' to look beyond the file of the same name" if is_of_file else "")
            )
        gone = ~found if self._missing == "drop" else np.zeros(len(found), bool)
        if gone.any():
            batch, places = batch.filter(pa.array(~gone)), places[~gone]
        taken = right.values.take(pa.array(places, mask=places < 0))
        columns = [column.combine_chunks() for column in taken.columns]
        arrays = [*batch.columns, *(c.chunk(0) if isinstance(c, pa.ChunkedArray) else c for c in columns)]
        schema = pa.schema([*batch.schema, *taken.schema])
        return pa.RecordBatch.from_arrays(arrays, schema=schema), gone

    def finish(self) -> None:
        """ValueError where a key stood for several rows, and the rows were not in step to the end."""
        if self._part is not None and self._part.is_last and self._next not in (None, self._right.keys.num_rows):
            self._refuse_conflict()

    def _places(self, batch: pa.RecordBatch) -> np.ndarray:
        """For each row the row of the right side with its key, -1 where there is none."""
        size = batch.num_rows
        if size == 0:
            return np.zeros(0, np.int64)
        begin = self._begin(batch) if self._next is None else self._next
        if begin is not None and self._right.is_at(begin, batch):
            self._next = begin + size  # in step, as files of attributes are
            return np.arange(begin, begin + size)
        self._refuse_conflict()
        index = self._right.index
        places = np.array([index.get(key, -1) for key in _keys_of(batch, self._right.on)], np.int64)
        self._next = int(places[-1]) + 1 if places[-1] >= 0 else (self._next or 0)
        return places

    def _begin(self, batch: pa.RecordBatch) -> int | None:
        """Where the first batch is on the right side; None where its rows are not there in their order."""
        if self._right.is_distinct or self._right.conflict is None:
            return next(iter(self._right.places_of(batch)), None) if self._right.is_distinct else 0
        if self._part is not None and self._part.is_first:
            return 0
        places = self._right.places_of(batch)
        return places[0] if len(places) == 1 else None  # None: it could be any of them

    def _refuse_conflict(self) -> None:
        if self._right.conflict is not None:
            raise ValueError(self._right.conflict)


def _keys_of(table: pa.Table | pa.RecordBatch, on: Sequence[str]) -> list[Any]:
    if len(on) == 1:
        return table.column(on[0]).to_pylist()
    return list(zip(*(table.column(name).to_pylist() for name in on), strict=True))


def table_of(batches: Iterator[pa.RecordBatch], where: str) -> pa.Table:
    """All batches in memory."""
    from marin.processing.pipeline.rows import SchemaWidened

    held = list(batches)
    schema, conformed = of_one_schema(iter(held), None, where)
    while True:
        try:
            return pa.Table.from_batches(list(conformed), schema)
        except SchemaWidened as widened:
            schema, conformed = of_one_schema(iter(held), widened.schema, where)


@dataclass(frozen=True, kw_only=True)
class Chained:
    """The rows of a source after operations: the right side of a join of files. None of them may be bad."""

    source: Source
    operations: tuple[Operation, ...]
    identity: Any  # of the operations
    part: PartOfFile = PartOfFile(is_first=True, is_last=True)  # on the left side, whose rows they are joined with

    @property
    def num_bytes(self) -> int:
        return self.source.num_bytes

    def inputs(self) -> list[dict[str, Any]]:
        return [{**one, "then": self.identity} for one in self.source.inputs()]

    def is_of_same_rows(self, other: "Chained") -> bool:
        """Whether another one, of the same stage, has the same rows."""
        return self.source == other.source and self.identity == other.identity

    def read(self, counts: Counts, on_bad: OnBad) -> Iterator[pa.RecordBatch]:
        from marin.processing.pipeline.execution import Step, apply

        batches = self.source.read(counts, on_bad)
        for operation in self.operations:
            batches = apply(operation, batches, Step(counts=Counts(name=operation.name), on_bad=on_bad))
        yield from batches


@dataclass(frozen=True, kw_only=True)
class Joined:
    """One partition of two data sets, joined. The left rows come by key; those that are equal in it as they were."""

    version: ClassVar[int] = 1
    name: str
    left: Spills
    right: Spills
    on: tuple[str, ...]
    columns: tuple[str, ...] | None
    missing: Missing

    @property
    def num_bytes(self) -> int:
        return 0  # not known before the stages before are done

    def inputs(self) -> list[dict[str, Any]]:
        how = {"name": self.name, "on": list(self.on), "columns": self.columns, "missing": self.missing}
        sides = [self.left.identity(), self.right.identity()]
        return [{**side, "version": self.version, "join": how} for side in sides]

    def read(self, counts: Counts, on_bad: OnBad) -> Iterator[pa.RecordBatch]:
        lookup = None
        tables = list(self.right.sorted())
        if tables:
            right = pa.concat_tables(tables)
            counts.rows_in += right.num_rows
            side = RightSide(right, on=self.on, columns=self.columns, name=self.name)
            lookup = Lookup(side, missing=self.missing)
        for table in self.left.sorted():
            for batch in table.to_batches(BATCH_ROWS):
                counts.rows_in += batch.num_rows
                counts.text_bytes_in += text_bytes(batch)
                if lookup is None:
                    raise ValueError(f"join {self.name!r}: the right side has no rows, so no columns are known")
                made, gone = lookup.join(batch)
                counts.drop(f"{self.name}: missing", int(gone.sum()))
                counts.rows_out += made.num_rows
                counts.text_bytes_out += text_bytes(made)
                yield made
        if lookup is not None:
            counts.merged += int(lookup.used.sum())
            counts.drop(f"{self.name}: unused on the right side", int((~lookup.used).sum()))
