"""Removal by attributes: documents that one marks, and of their texts the spans that another names."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from marin.processing.filter.run import DropColumns
from marin.processing.paragraphs import without_spans
from marin.processing.pipeline import BadRow, BatchResult, Dataset

if TYPE_CHECKING:
    import pyarrow as pa

EMPTIED = "nothing left of the text"


@dataclass(frozen=True, kw_only=True)
class DropMarked:
    """Leaves out the documents of which a column is true."""

    version: ClassVar[int] = 1
    rule: str  # what it is called that a document is marked
    column: str
    shown_columns: tuple[str, ...] = ()  # what is told of the samples

    def __call__(self, batch: "pa.RecordBatch") -> BatchResult:
        import pyarrow as pa

        from marin.processing.pipeline.rows import samples_of

        marked = [bool(value) for value in batch.column(self.column).to_pylist()]
        rows = [row for row, is_marked in enumerate(marked) if is_marked]
        if not rows:
            return BatchResult(batch)
        return BatchResult(
            batch.filter(pa.array([not is_marked for is_marked in marked])),
            dropped={self.rule: len(rows)},
            samples={self.rule: samples_of(batch, rows, self.shown_columns)},
        )


@dataclass(frozen=True, kw_only=True)
class RemoveSpans:
    """Removes from each text the union of the spans in these columns, [start, end) in bytes of UTF-8.

    A text of which only white space is left is dropped; a span that is none of its text, or would cut a character,
    makes its row a bad one.
    """

    version: ClassVar[int] = 1

    columns: tuple[str, ...]
    shown_columns: tuple[str, ...] = ()  # what is told of the samples, beside the spans

    def __call__(self, batch: "pa.RecordBatch") -> BatchResult:
        import pyarrow as pa

        from marin.processing.pipeline.rows import samples_of

        lists = [batch.column(name).to_pylist() for name in self.columns]
        spans_of = [[span for spans in row if spans for span in spans] for row in zip(*lists, strict=True)]
        if not any(spans_of):
            return BatchResult(batch)
        texts: list[str | None] = batch.column("text").to_pylist()
        ids = batch.column("id").to_pylist()
        bad: list[BadRow] = []
        emptied: list[int] = []
        for row, spans in enumerate(spans_of):
            if spans:
                text = texts[row] or ""
                try:
                    texts[row] = remove(text, spans)
                except ValueError as error:
                    bad.append(BadRow(id=ids[row], reason=str(error), text=text[:200]))
                    texts[row] = None
                else:
                    emptied += [] if (texts[row] or "").strip() else [row]
        gone = {row for row, text in enumerate(texts) if text is None} | set(emptied)
        field = batch.schema.field("text")
        changed = batch.set_column(batch.schema.get_field_index("text"), field, pa.array(texts, field.type))
        return BatchResult(
            changed.filter(pa.array([row not in gone for row in range(batch.num_rows)])),
            dropped={EMPTIED: len(emptied)} if emptied else {},
            bad=bad,
            samples={EMPTIED: samples_of(batch, emptied, (*self.columns, *self.shown_columns))} if emptied else {},
        )


def remove(text: str, spans: Sequence[Mapping[str, Any]]) -> str:
    """The text without its spans. Raises ValueError where one is not of this text, or would cut a character."""
    data = text.encode("utf-8")
    for span in spans:
        if not 0 <= span["start"] <= span["end"] <= len(data):
            raise ValueError(f"span beyond the text: [{span['start']}, {span['end']}) of {len(data)} bytes")
    try:
        return without_spans(data, [(span["start"], span["end"]) for span in spans]).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"span within a character: at byte {error.start}") from error


def remove_marked(
    documents: Dataset,
    attributes: Path,
    output: Path,
    *,
    rule: str,
    drop_column: str | None,
    spans_column: str | None,
    shown_columns: tuple[str, ...],
    max_bad: float,
    num_workers: int | None,
) -> dict[str, int]:
    """Write what is left of documents, a file for each of theirs: rows in, out, and by which rule the others went.

    Args:
        documents: Those of files.
        attributes: Folder with a file of the same name for each, its rows in the same order.
        output: Folder of what is left.
        rule: What it is called that a document goes.
        drop_column: Attribute that is true of documents that go; None: none does.
        spans_column: Attribute with the spans that go of the others; None: nothing does.
        shown_columns: Attributes that are told of the samples of what goes.
        max_bad: Largest share of bad rows.
        num_workers: Processes; None: one a CPU, 0: this one.
    """
    columns = tuple(name for name in (drop_column, spans_column, *shown_columns) if name is not None)
    left = documents.join(
        Dataset.from_files(str(attributes)), columns=list(columns), strategy="files", name="attributes"
    )
    if drop_column is not None:
        marked = DropMarked(rule=rule, column=drop_column, shown_columns=shown_columns)
        left = left.map_batches(marked, name=rule)
    if spans_column is not None:
        spans = RemoveSpans(columns=(spans_column,), shown_columns=shown_columns)
        left = left.map_batches(spans, name="remove spans")
    left = left.map_batches(DropColumns(columns), name="without attributes")
    result = left.write_parquet(str(output), names="input").run(workers=num_workers, max_bad=max_bad)
    by_rule = Counter[str]()
    for counts in result.funnel:
        by_rule.update(counts.dropped)
    return {name: result.counters[name] for name in ("rows_in", "rows_out", "bad")} | dict(sorted(by_rule.items()))
