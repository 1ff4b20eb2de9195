"""The pass that removes: documents and their attributes, row by row, to documents."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from marin.processing.formats.splits import Split
from marin.processing.paragraphs import without_spans
from marin.processing.shards import read_shard, write_shard


@dataclass(frozen=True, kw_only=True)
class RemoveTask:
    """A shard of documents, its attributes, and where what is left goes."""

    documents: Split
    attributes: str
    output: str
    drop_column: str | None  # of the attributes: true of documents that go
    spans_column: str | None  # [start, end) in bytes of what goes of the others


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What became of the rows of a shard; they add up."""

    rows_in: int
    rows_out: int
    dropped: int
    emptied: int  # of whose text nothing but white space was left


def remove_shard(task: RemoveTask) -> Removed:
    """Write the documents of a shard that stay, without their repeated spans."""
    rows_in = dropped = emptied = 0
    kept: list[pa.RecordBatch] = []
    attribute_table = pq.read_table(task.attributes)
    for batch in read_shard(task.documents):
        attributes = attribute_table.slice(rows_in, len(batch)).combine_chunks()
        rows_in += len(batch)
        keep, dropped_here, emptied_here = _kept_rows(batch, attributes, task)
        kept.append(keep)
        dropped += dropped_here
        emptied += emptied_here
    rows_out = sum(map(len, kept))
    assert rows_in == rows_out + dropped + emptied
    write_shard(Path(task.output), kept, None)
    return Removed(rows_in=rows_in, rows_out=rows_out, dropped=dropped, emptied=emptied)


def _kept_rows(batch: pa.RecordBatch, attributes: pa.Table, task: RemoveTask) -> tuple[pa.RecordBatch, int, int]:
    """What stays of a batch of documents, how many were dropped, and how many had nothing left."""
    ids, attribute_ids = batch.column("id").to_pylist(), attributes["id"].to_pylist()
    if ids != attribute_ids:
        row = next((i for i, pair in enumerate(zip(ids, attribute_ids, strict=False)) if pair[0] != pair[1]), len(ids))
        there = repr(attribute_ids[row]) if row < len(attribute_ids) else "at its end"
        raise ValueError(
            f"{task.attributes} is not of these documents: where they have id {ids[min(row, len(ids) - 1)]!r} it is "
            f"{there}. Make the attributes anew."
        )
    keep = [True] * len(batch)
    if task.drop_column is not None:
        keep = [not dropped for dropped in attributes[task.drop_column].to_pylist()]
    num_dropped = len(keep) - sum(keep)
    if task.spans_column is None:
        return batch.filter(pa.array(keep)), num_dropped, 0
    texts = batch.column("text").to_pylist()
    emptied = 0
    for row, spans in enumerate(attributes[task.spans_column].to_pylist()):
        if keep[row] and spans:
            left = without_spans(texts[row].encode("utf-8"), [(span["start"], span["end"]) for span in spans])
            texts[row] = left.decode("utf-8")
            if not left.strip():
                keep[row] = False
                emptied += 1
    column = batch.schema.get_field_index("text")
    changed = batch.set_column(column, batch.schema.field("text"), pa.array(texts, batch.schema.field("text").type))
    return changed.filter(pa.array(keep)), num_dropped, emptied
