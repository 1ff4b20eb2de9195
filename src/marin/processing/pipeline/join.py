"""Columns of another data set for the rows with the same key.

Two ways, one result. Where the other data set has files of the same names (attributes of documents), each file is
joined with its namesake, in place: nothing is moved. Otherwise both sides are brought together by key, and a partition
of the right side is held in memory. The rows of the left side stay what they are; each gets the columns of one row of
the right.

A key that is twice on the right with the same values is taken once: documents with equal texts have equal ids. With
other values it is an error, for which of them was meant cannot be known.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from marin.processing.formats.reading import BATCH_ROWS
from marin.processing.pipeline.counts import Counts
from marin.processing.pipeline.evaluate import check_columns
from marin.processing.pipeline.identity import identity_of
from marin.processing.pipeline.operations import Missing, Operation
from marin.processing.pipeline.rows import of_one_schema, text_bytes
from marin.processing.pipeline.shuffle import Spills
from marin.processing.pipeline.sources import OnBad, Source


class Lookup:
    """The right side of a join, in memory."""

    def __init__(
        self, table: pa.Table, *, on: Sequence[str], columns: Sequence[str] | None, missing: Missing, name: str
    ):
        self._name, self._missing = name, missing
        self._on = tuple(on)
        check_columns(self._on, table.schema.names, f"join {name!r} (its right side)")
        chosen = [c for c in table.schema.names if c not in self._on] if columns is None else list(columns)
        check_columns(tuple(chosen), table.schema.names, f"join {name!r} (its right side)")
        self._keys = table.select(list(self._on)).combine_chunks()
        self._values = table.select(chosen).combine_chunks()
        self._index: dict[Any, int] | None = None
        self._next = 0  # the row of the right side that follows the one found last
        self.used = np.zeros(table.num_rows, bool)

    def join(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, np.ndarray]:
        """The batch with the columns of the right side, and which of its rows (before) are to be left out.

        ValueError for a row that has no partner where that is an error, and for columns that are on both sides.
        """
        check_columns(self._on, batch.schema.names, f"join {self._name!r}")
        both = [name for name in self._values.schema.names if name in batch.schema.names]
        if both:
            raise ValueError(
                f"join {self._name!r}: column {both[0]!r} is on both sides; choose those of the right side "
                "with columns=[...]"
            )
        places = self._places(batch)
        found = places >= 0
        self.used[places[found]] = True
        if self._missing == "error" and not found.all():
            key = self._key(batch, int(np.argmin(found)))
            raise ValueError(
                f"join {self._name!r}: nothing has {' and '.join(self._on)} {key!r} on the right side; say "
                "missing='drop' or missing='keep' where that may be"
            )
        gone = ~found if self._missing == "drop" else np.zeros(len(found), bool)
        if gone.any():
            batch, places = batch.filter(pa.array(~gone)), places[~gone]
        taken = self._values.take(pa.array(places, mask=places < 0))
        columns = [column.combine_chunks() for column in taken.columns]
        arrays = [*batch.columns, *(c.chunk(0) if isinstance(c, pa.ChunkedArray) else c for c in columns)]
        schema = pa.schema([*batch.schema, *taken.schema])
        return pa.RecordBatch.from_arrays(arrays, schema=schema), gone

    def _places(self, batch: pa.RecordBatch) -> np.ndarray:
        """For each row the row of the right side with its key, -1 where there is none."""
        size, begin = batch.num_rows, self._next
        if begin + size <= self._keys.num_rows and all(
            batch.column(name).equals(self._keys.column(name).slice(begin, size).combine_chunks()) for name in self._on
        ):
            self._next += size  # in step, as files of attributes are
            return np.arange(begin, begin + size)
        if self._index is None:
            self._index = self._indexed()
        keys = _keys_of(batch, self._on)
        places = np.array([self._index.get(key, -1) for key in keys], np.int64)
        if size and places[-1] >= 0:
            self._next = int(places[-1]) + 1
        return places

    def _indexed(self) -> dict[Any, int]:
        index: dict[Any, int] = {}
        for place, key in enumerate(_keys_of(self._keys, self._on)):
            first = index.setdefault(key, place)
            if first != place and not self._values.slice(first, 1).equals(self._values.slice(place, 1)):
                raise ValueError(
                    f"join {self._name!r}: {' and '.join(self._on)} {key!r} is twice on the right side, "
                    "with other values"
                )
        return index

    def _key(self, batch: pa.RecordBatch, row: int) -> Any:
        return _keys_of(batch.slice(row, 1), self._on)[0]


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

    @property
    def num_bytes(self) -> int:
        return self.source.num_bytes

    def inputs(self) -> list[dict[str, Any]]:
        return [{**one, "then": identity_of(self.operations)} for one in self.source.inputs()]

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
            lookup = Lookup(right, on=self.on, columns=self.columns, missing=self.missing, name=self.name)
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
