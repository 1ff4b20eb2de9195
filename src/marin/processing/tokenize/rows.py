"""What tokenizing asks of a kind of row: to be read from a line, and to become token ids.

`marin.processing.tokenize.tokenize` knows shards, counts and resuming; here and in `marin.processing.tokenize.chat` is
what a row is. Rows are encoded many at a time, since the tokenizer library is faster so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from marin.io.records import LineReader
from marin.processing.document import BadRow, Document, parse_documents
from marin.processing.tokenize.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """One row as the store takes it."""

    text: str  # what the ids stand for
    ids: np.ndarray  # int32 (n,), without the end-of-text token that the store adds
    num_bytes: int  # UTF-8 bytes of the text outside special tokens
    loss_mask: np.ndarray | None  # bool (n + 1,), the end-of-text token included; None: every token counts


class Row(Protocol):
    """A row that was read."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def text(self) -> str: ...


class Rows(Protocol):
    """A kind of row."""

    def parse(self, lines: LineReader, *, file: str) -> Iterator[Any]:
        """Every row of a file, or a BadRow where it is none of this kind; `file` names it in made-up ids."""
        ...

    def encode(self, rows: Sequence[Any]) -> list[Encoded]: ...


class TextRows:
    """Rows that are documents: all of the text, and all of it is trained on."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    def parse(self, lines: LineReader, *, file: str) -> Iterator[Document | BadRow]:
        return parse_documents(lines, file=file)

    def encode(self, rows: Sequence[Document]) -> list[Encoded]:
        encoded = self._tokenizer.encode_batch([row.text for row in rows])
        return [
            Encoded(text=row.text, ids=ids, num_bytes=len(row.text.encode("utf-8")), loss_mask=None)
            for row, ids in zip(rows, encoded, strict=True)
        ]
