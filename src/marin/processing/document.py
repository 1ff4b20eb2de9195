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
            yield _document(parse_record(line), default_id=f"{file}:{number}")
        except ValueError as error:
            shown = line[: 4 * SHOWN_CHARACTERS].decode("utf-8", errors="replace")[:SHOWN_CHARACTERS]
            yield BadRow(line=number, reason=str(error), text=shown)


def _document(row: dict[str, Any], *, default_id: str) -> Document:
    if "text" not in row:
        raise ValueError(f"no text: the fields are {', '.join(sorted(row)[:8]) or 'none'}")
    text = row["text"]
    if not isinstance(text, str):
        raise ValueError(f"text is no string: it is {type(text).__name__}")
    given = {name: value for name, value in row.items() if value is not None}
    document_id, source, metadata = given.get("id", default_id), given.get("source", ""), given.get("metadata", {})
    if isinstance(document_id, int) and not isinstance(document_id, bool):
        document_id = str(document_id)
    if not isinstance(document_id, str) or not isinstance(source, str):
        raise ValueError("id or source is no string")
    if not isinstance(metadata, dict):
        raise ValueError(f"metadata is no object: it is {type(metadata).__name__}")
    for name, value in (("text", text), ("id", document_id), ("source", source)):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"not valid Unicode: {name} has a lone surrogate at {error.start}") from error
    return Document(id=document_id, text=text, source=source, metadata=metadata)
