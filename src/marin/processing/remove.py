"""The pass that removes: documents and the attributes beside them, to what is left of the documents."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from marin.processing.paragraphs import without_spans
from marin.processing.pipeline import Dataset
from marin.processing.pipeline.batch import SAMPLES_PER_RULE, SHOWN_CHARACTERS, BatchResult, Sample

if TYPE_CHECKING:
    import pyarrow as pa

EMPTIED = "nothing left"


@dataclass(frozen=True, kw_only=True)
class RemoveMarked:
    """Leaves out the documents that an attribute marks, and of the others the spans that another one names."""

    version: ClassVar[int] = 1
    rule: str  # what it is called that a document is marked
    drop_column: str | None  # true of documents that go; None: none does
    spans_column: str | None  # [start, end) in bytes of the text: what goes of the others; None: nothing does
    shown_columns: tuple[str, ...] = ()  # what is told of the samples

    @property
    def columns(self) -> tuple[str, ...]:
        """The attributes that it looks at."""
        return tuple(name for name in (self.drop_column, self.spans_column, *self.shown_columns) if name is not None)

    def __call__(self, batch: "pa.RecordBatch") -> BatchResult:
        """What is left of documents with their attributes, without these. A text that is emptied goes too."""
        import pyarrow as pa

        rules: list[str | None] = [None] * len(batch)
        if self.drop_column is not None:
            rules = [self.rule if is_marked else None for is_marked in batch.column(self.drop_column).to_pylist()]
        documents = batch.select([name for name in batch.schema.names if name not in self.columns])
        if self.spans_column is not None:
            texts = batch.column("text").to_pylist()
            for row, spans in enumerate(batch.column(self.spans_column).to_pylist()):
                if rules[row] is None and spans:
                    left = without_spans(texts[row].encode("utf-8"), [(span["start"], span["end"]) for span in spans])
                    texts[row] = left.decode("utf-8")
                    rules[row] = None if left.strip() else EMPTIED
            place, field = batch.schema.get_field_index("text"), batch.schema.field("text")
            documents = documents.set_column(place, field, pa.array(texts, field.type))
        dropped = Counter(rule for rule in rules if rule is not None)
        samples = {rule: self._samples(batch, [i for i, r in enumerate(rules) if r == rule]) for rule in dropped}
        return BatchResult(
            documents.filter(pa.array([rule is None for rule in rules])), dropped=dropped, samples=samples
        )

    def _samples(self, batch: "pa.RecordBatch", rows: Sequence[int]) -> list[Sample]:
        samples = []
        for row in rows[:SAMPLES_PER_RULE]:
            values = {name: batch.column(name)[row].as_py() for name in ("id", "source", "text", *self.shown_columns)}
            samples.append(
                Sample(
                    id=values.pop("id"),
                    source=values.pop("source"),
                    text=values.pop("text")[:SHOWN_CHARACTERS],
                    numbers=values,
                )
            )
        return samples


def remove_marked(
    documents: str, attributes: Path, output: Path, remove: RemoveMarked, *, max_bad: float, num_workers: int | None
) -> dict[str, int]:
    """Write what is left of documents, a file for each of theirs: rows in, out, and by which rule the others went.

    `attributes` has a file of the same name for each, with its rows in the same order.
    """
    marked = Dataset.from_files(documents).join(
        Dataset.from_files(str(attributes)), columns=list(remove.columns), strategy="files", name="attributes"
    )
    result = (
        marked.map_batches(remove, name=remove.rule)
        .write_parquet(str(output), names="input")
        .run(workers=num_workers, max_bad=max_bad)
    )
    by_rule = Counter[str]()
    for counts in result.funnel:
        by_rule.update(counts.dropped)
    return {name: result.counters[name] for name in ("rows_in", "rows_out", "bad")} | dict(sorted(by_rule.items()))
