"""Texts without the spans that attributes name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from marin.processing.paragraphs import without_spans
from marin.processing.pipeline import BadRow, BatchResult

if TYPE_CHECKING:
    import pyarrow as pa

EMPTIED = "nothing left of the text"


@dataclass(frozen=True, kw_only=True)
class RemoveSpans:
    """Removes from each text the union of the spans in these columns, [start, end) in bytes of UTF-8.

    A text of which only white space is left is dropped; a span that is none of its text, or would cut a character,
    makes its row a bad one.
    """

    version: ClassVar[int] = 1

    columns: tuple[str, ...]

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
            samples={EMPTIED: samples_of(batch, emptied, self.columns)} if emptied else {},
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
