"""Documents of rows whose text is in a column of another name."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from marin.processing.pipeline import BadRow, BatchResult, Dataset

if TYPE_CHECKING:
    import pyarrow as pa

TEXT = "text"


def documents_of(path: str, text_column: str) -> Dataset:
    """The documents of files, their text taken from `text_column`."""
    rows = Dataset.from_files(path)
    return rows if text_column == TEXT else rows.map_batches(TextFrom(text_column), name="text column")


@dataclass(frozen=True)
class TextFrom:
    """Makes documents of rows: the values of a column of strings become their `text`, and that column goes.

    A `text` that was there gives way; source and metadata are empty where there are none. A row without a text is a bad
    one. ValueError where the column is not there, or holds something else than strings.
    """

    version: ClassVar[int] = 1

    column: str

    def __call__(self, batch: "pa.RecordBatch") -> BatchResult:
        import pyarrow as pa

        from marin.processing.formats.record import JSON_COLUMN

        names = batch.schema.names
        if self.column not in names:
            raise ValueError(
                f"no column {self.column!r}, which is to hold the text; the columns are {', '.join(names)}"
            )
        texts = batch.column(self.column)
        if not pa.types.is_string(texts.type):
            raise ValueError(f"column {self.column!r} is to hold the text and is of type {texts.type}, not string")
        columns = {"id": batch.column("id"), TEXT: texts}
        for name, value in (("source", ""), ("metadata", "{}")):
            columns[name] = batch.column(name) if name in names else pa.array([value] * batch.num_rows, pa.string())
        columns |= {name: batch.column(name) for name in names if name not in columns and name != self.column}
        known = {TEXT: pa.field(TEXT, pa.string()), "source": pa.field("source", pa.string())}
        known["metadata"] = pa.field("metadata", pa.string(), metadata=JSON_COLUMN)
        fields = [known.get(name) or batch.schema.field(name) for name in columns]
        made = pa.RecordBatch.from_arrays(list(columns.values()), schema=pa.schema(fields))
        if not texts.null_count:
            return BatchResult(made)
        is_there = texts.is_valid()
        ids = batch.filter(texts.is_null()).column("id").to_pylist()
        bad = [BadRow(id=str(one), reason=f"no text: {self.column} is null") for one in ids]
        return BatchResult(made.filter(is_there), bad=bad)
