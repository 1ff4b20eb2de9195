"""Where the rows of a shard come from. Each source says what it is before anything is read."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from marin.processing.formats.reading import BATCH_BYTES, BATCH_ROWS, bounded, read_split
from marin.processing.formats.record import BadRecord
from marin.processing.formats.splits import Split
from marin.processing.pipeline.batch import BadRow
from marin.processing.pipeline.counts import Counts
from marin.processing.pipeline.rows import RowsToBatches, text_bytes

OnBad = Callable[[str, BadRow], None]


class Source(Protocol):
    """The rows of one shard, as a value that can be sent to a worker."""

    @property
    def num_bytes(self) -> int:
        """How much there is to read, for progress."""
        ...

    def inputs(self) -> list[dict[str, Any]]:
        """What it reads, as JSON values: part of the shard's identity."""
        ...

    def read(self, counts: Counts, on_bad: OnBad) -> Iterator[pa.RecordBatch]:
        """The rows, counted as they come."""
        ...


@dataclass(frozen=True, kw_only=True)
class FileParts:
    """Splits of files, one after the other."""

    splits: tuple[Split, ...]
    columns: tuple[str, ...] | None  # that are read, None for all
    casts: tuple[tuple[str, pa.DataType], ...] = ()  # columns that are of several types in the files of the input

    @property
    def num_bytes(self) -> int:
        return sum(split_bytes(split) for split in self.splits)

    def inputs(self) -> list[dict[str, Any]]:
        """Each split, and what is read of it: which columns, and as which types where files have several."""
        columns = None if self.columns is None else list(self.columns)
        casts = [[name, str(type_)] for name, type_ in self.casts]
        return [{**split_input(split), "columns": columns, "casts": casts} for split in self.splits]

    def read(self, counts: Counts, on_bad: OnBad) -> Iterator[pa.RecordBatch]:
        def bad(record: BadRecord) -> None:
            row = BadRow(id=record.position, reason=record.reason, text=record.text)
            counts.rows_in += 1
            counts.quarantine(row)
            on_bad(counts.name, row)

        for split in self.splits:
            for batch in read_split(split, columns=self.columns, on_bad=bad):
                yield count_read(self._cast(batch), counts)

    def _cast(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        for name, type_ in self.casts:
            index = batch.schema.get_field_index(name)
            if index >= 0:
                values = batch.column(index).cast(type_)
                batch = batch.set_column(index, batch.schema.field(index).with_type(type_), values)
        return batch


def count_read(batch: pa.RecordBatch, counts: Counts) -> pa.RecordBatch:
    """The batch, its rows counted as read."""
    counts.rows_in += batch.num_rows
    counts.rows_out += batch.num_rows
    counts.text_bytes_in += (size := text_bytes(batch))
    counts.text_bytes_out += size
    return batch


def split_bytes(split: Split) -> int:
    """Bytes on disk of a split, about, where its format is not cut by bytes."""
    if split.format in ("jsonl", "text", "text-lines", "text-paragraphs"):
        return (split.size if split.end is None else split.end) - split.start
    return split.size


def split_input(split: Split) -> dict[str, Any]:
    """What a split is, as JSON values, whatever folder its file is in."""
    version = {"version": split.version} if split.version else {}
    return {
        **version,
        "label": split.label,
        "format": split.format,
        "start": split.start,
        "end": split.end,
        "size": split.size,
        "mtime_ns": split.mtime_ns,
        "fields": [list(field) for field in split.fields],
    }


@dataclass(frozen=True, kw_only=True)
class Items:
    """Rows that are given in the plan."""

    first: int  # number of the first one in the whole
    rows: tuple[Mapping[str, Any], ...]

    @property
    def num_bytes(self) -> int:
        return 0

    def inputs(self) -> list[dict[str, Any]]:
        from marin.processing.pipeline.identity import digest_of

        return [{"label": f"items {self.first}", "rows": len(self.rows), "digest": digest_of(self.rows)}]

    def read(self, counts: Counts, on_bad: OnBad) -> Iterator[pa.RecordBatch]:
        rows = [row if "id" in row else {"id": f"item:{self.first + i + 1}", **row} for i, row in enumerate(self.rows)]
        maker = RowsToBatches()
        for begin in range(0, len(rows), BATCH_ROWS):
            part = rows[begin : begin + BATCH_ROWS]
            batch, unfit = maker.batch(part)
            counts.rows_in += len(unfit)
            for index, reason in sorted(unfit.items()):
                bad = BadRow(id=str(part[index]["id"]), reason=reason, text=str(part[index].get("text", ""))[:200])
                counts.quarantine(bad)
                on_bad(counts.name, bad)
            for piece in bounded(batch, BATCH_ROWS, BATCH_BYTES):
                yield count_read(piece, counts)
