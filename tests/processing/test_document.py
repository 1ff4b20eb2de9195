"""Documents from rows: the text is required, everything else has a sensible absence."""

import json
from pathlib import Path

import pytest

from marin.io.records import LineReader
from marin.processing.document import BadRow, Document, parse_documents


def parse(tmp_path: Path, *lines: str) -> list[Document | BadRow]:
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    with LineReader(tmp_path / "rows.jsonl") as reader:
        return list(parse_documents(reader, file="rows.jsonl"))


def test_a_row_becomes_a_document_and_an_absent_id_is_its_place(tmp_path: Path):
    row = {"id": "a", "text": "x", "source": "web", "metadata": {"k": 1}}
    full, bare, numbered = parse(tmp_path, json.dumps(row), '{"text": ""}', '{"text": "y", "id": 7}')
    assert full == Document(**row)
    assert bare == Document(id="rows.jsonl:2", text="")
    assert numbered == Document(id="7", text="y")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("{", "not JSON"),
        ('{"body": "x"}', "no text"),
        ('{"text": null}', "text is no string"),
        ('{"text": "x", "id": ["a"]}', "id or source is no string"),
        ('{"text": "x", "id": true}', "id or source is no string"),
        ('{"text": "x", "id": 1.5}', "id or source is no string"),
        ('{"text": "x", "source": 3}', "id or source is no string"),
        ('{"text": "x", "metadata": ["a"]}', "metadata is no object"),
        ('{"text": "x", "metadata": false}', "metadata is no object"),
        ('{"text": "half a pair \\ud83d"}', "not valid Unicode"),
    ],
)
def test_a_row_that_is_no_document_is_kept_with_its_line_and_kind(tmp_path: Path, line: str, kind: str):
    good, bad, after = parse(tmp_path, '{"text": "x"}', line, '{"text": "y"}')
    assert isinstance(good, Document) and isinstance(after, Document)
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.kind, bad.text) == (2, kind, line)


def test_null_is_absent(tmp_path: Path):
    (document,) = parse(tmp_path, '{"text": "x", "id": null, "source": null, "metadata": null}')
    assert document == Document(id="rows.jsonl:1", text="x")


def test_only_the_beginning_of_a_long_bad_row_is_kept(tmp_path: Path):
    (bad,) = parse(tmp_path, "é" * 10_000)
    assert isinstance(bad, BadRow) and bad.text == "é" * 200
