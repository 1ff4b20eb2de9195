"""What tokenizing asks of a kind of row: to be picked out of a record batch, and to become token ids.

`marin.processing.tokenize.shard` knows files, counts and bad rows; here and in `marin.processing.tokenize.chat` is what
a row is. Rows are encoded a batch at a time, in the buffers that Arrow holds them in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from marin.processing.tokenize.encoder import Encoder, Utf8Texts

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """One row as the store takes it."""

    text: str  # what the ids stand for
    ids: np.ndarray  # int32 (n,), without the end-of-text token that the store adds
    num_bytes: int  # UTF-8 bytes of the text outside special tokens
    loss_mask: np.ndarray | None  # bool (n + 1,), the end-of-text token included; None: every token counts


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedBatch:
    """Rows as the store takes them: row i has the ids `ids[offsets[i] : offsets[i + 1]]`."""

    ids: np.ndarray  # integers, without the end-of-text tokens that the store adds
    offsets: Sequence[int]
    num_bytes: Sequence[int]  # UTF-8 bytes of each text outside special tokens
    loss_masks: Sequence[np.ndarray] | None  # bool, the end-of-text token included; None: every token counts
    text: Callable[[int], str]  # what the ids of row i stand for


class RowBatch(Protocol):
    """Rows of one kind that were picked out of a record batch."""

    document_ids: list[str]
    sources: list[str]
    num_empty: int  # rows without text, which are not among these

    def sample(self) -> Utf8Texts:
        """Texts as they will be encoded; the first are enough."""
        ...

    def encode(self, encoder: Encoder) -> EncodedBatch: ...


class Rows(Protocol):
    """A kind of row."""

    def columns(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those to read, of a file that has columns of these names."""
        ...

    def pick(self, batch: "pa.RecordBatch", on_bad: Callable[[int, str, str], None]) -> RowBatch:
        """The rows of a batch that are of this kind; `on_bad(line from 1, reason, beginning)` is told of the others."""
        ...


class TextRows:
    """Rows that are documents: all of the text, and all of it is trained on."""

    def __init__(self, text_column: str = "text"):
        self._text_column = text_column

    def columns(self, names: Sequence[str]) -> tuple[str, ...]:
        if self._text_column == "text":  # what is absent of a document is made
            return ("id", "text", "source")
        from marin.processing.formats.record import ROW

        return ("id", self._text_column, *(name for name in ("source",) if name in names), ROW)

    def pick(self, batch: "pa.RecordBatch", on_bad: Callable[[int, str, str], None]) -> "TextBatch":
        if self._text_column != "text":  # a row with a text is a document, and readers see to that; not so others
            batch = _rows_with_text(batch, self._text_column, on_bad)
        texts = texts_of(batch.column(self._text_column))
        document_ids = batch.column("id").to_pylist()
        has_source = "source" in batch.schema.names
        sources = [name or "" for name in batch.column("source").to_pylist()] if has_source else [""] * batch.num_rows
        is_full = texts.num_bytes > 0
        if not is_full.all():
            kept = np.flatnonzero(is_full).tolist()
            document_ids, sources = [document_ids[i] for i in kept], [sources[i] for i in kept]
            texts = Utf8Texts(texts.data, np.append(texts.offsets[:-1][is_full], texts.offsets[-1]))
        return TextBatch(document_ids, sources, texts, num_empty=batch.num_rows - len(document_ids))


def _rows_with_text(batch: "pa.RecordBatch", column: str, on_bad: Callable[[int, str, str], None]) -> "pa.RecordBatch":
    """The rows whose column holds a text; ValueError where it holds something else."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from marin.processing.formats.record import ROW

    values = batch.column(column)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_null(values.type)):
        raise ValueError(
            f"text_column {column!r} holds {values.type}; expected strings. Name the column with the text."
        )
    batch = batch.set_column(batch.schema.get_field_index(column), column, values.cast(pa.string()))
    if not values.null_count:
        return batch
    for number in batch.filter(pc.is_null(values)).column(ROW).to_pylist():  # pyright: ignore
        on_bad(number + 1, f"no text: {column} is null", "")
    return batch.filter(pc.is_valid(values))  # pyright: ignore


class TextBatch:
    """Documents that are to be encoded."""

    def __init__(self, document_ids: list[str], sources: list[str], texts: Utf8Texts, *, num_empty: int):
        self.document_ids, self.sources, self.num_empty = document_ids, sources, num_empty
        self._texts = texts

    def sample(self) -> Utf8Texts:
        return self._texts

    def encode(self, encoder: Encoder) -> EncodedBatch:
        rows = encoder.encode(self._texts)
        return EncodedBatch(
            ids=rows.ids,
            offsets=rows.offsets.tolist(),
            num_bytes=self._texts.num_bytes.tolist(),
            loss_masks=None,
            text=self._texts.__getitem__,
        )


def texts_of(column: "pa.Array") -> Utf8Texts:
    """An Arrow column of strings without nulls, not copied."""
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    return Utf8Texts(np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8), bounds)
