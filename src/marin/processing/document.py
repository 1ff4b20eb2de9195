"""A document: the row that passes from stage to stage, one JSON object a line.

Only `text` is required, and null is the same as absent. A row without an id is named by its file and line, so that
public files need no rewriting; the price is that such an id is only as stable as the file.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from marin.io.records import LineReader, parse_record


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text and where it came from."""

    id: str
    text: str  # valid Unicode: no lone surrogates
    source: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


class BadInputError(ValueError):
    """What is to be read is damaged, changes while it is read, or has more bad rows than are allowed."""


class RecipeError(ValueError):
    """What is done to every row cannot be done: the fault is not the row's, so no BadRow is made of it."""


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A line that is no document, and why."""

    line: int  # counted from 1
    reason: str  # a kind, then details after a colon
    text: str  # how the line begins

    @property
    def kind(self) -> str:
        return self.reason.partition(":")[0]


SHOWN_CHARACTERS = 200
SHOWN_ROWS = 3  # bad rows that a refusal names


def parse_documents(lines: LineReader, *, file: str) -> Iterator[Document | BadRow]:
    """Every row of a record file as a document, or as a BadRow where it is none. `file` names it in made-up ids."""
    for number, line in lines:
        try:
            yield _document(parse_record(line), f"{file}:{number}")
        except ValueError as error:
            shown = line[: 4 * SHOWN_CHARACTERS].decode("utf-8", errors="replace")[:SHOWN_CHARACTERS]
            yield BadRow(line=number, reason=str(error), text=shown)


def _document(row: dict[str, Any], default_id: str) -> Document:
    if "text" not in row:
        raise ValueError(f"no text: the fields are {', '.join(sorted(row)[:8]) or 'none'}")
    text = row["text"]
    if not isinstance(text, str):
        raise ValueError(f"text is no string: it is {type(text).__name__}")
    document_id, source = identity_of(row, default_id)
    metadata = {} if row.get("metadata") is None else row["metadata"]
    if not isinstance(metadata, dict):
        raise ValueError(f"metadata is no object: it is {type(metadata).__name__}")
    check_unicode("text", text)
    return Document(id=document_id, text=text, source=source, metadata=metadata)


def identity_of(row: dict[str, Any], default_id: str) -> tuple[str, str]:
    """(id, source) of a row. Raises ValueError where they are no text."""
    given = {name: value for name, value in row.items() if value is not None}
    row_id, source = given.get("id", default_id), given.get("source", "")
    if isinstance(row_id, int) and not isinstance(row_id, bool):
        row_id = str(row_id)
    if not isinstance(row_id, str) or not isinstance(source, str):
        raise ValueError("id or source is no string")
    check_unicode("id", row_id)
    check_unicode("source", source)
    return row_id, source


def check_unicode(name: str, text: str) -> None:
    """ValueError naming the field whose text cannot be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"not valid Unicode: {name} has a lone surrogate at {error.start}") from error
