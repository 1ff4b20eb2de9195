"""Prints rows of files or documents of a token store, from the first on, or from any other.

Rows are numbered from 0 over all files. --offset is at once where the format knows its rows: parquet, Arrow, .jsonl.gz
and .jsonl.zst that marin wrote, token stores. Somebody else's big .gz or .zst is read through once, and a copy that
knows is kept in the user's cache.

PATH is a file, a folder of shards, a glob in quotes, or the address of a step (name, name@digits, ref, digest), whose
output is meant. Formats: JSON lines (.jsonl, also .gz and .zst), parquet, Arrow, WARC, HTML, plain text; token stores.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from itertools import chain
from typing import Any

from marin.cli.data.inputs import Input, add_path_arguments, find_input, plain_row, print_row
from marin.cli.errors import told
from marin.cli.output import UsageError, note, print_json

EXAMPLES = """\
  marin data head documents/                              the first five rows
  marin data head "raw/*.jsonl.gz" -n 1 --offset 10000000 row 10,000,000
  marin data head documents/python --json | jq '.rows[0].text'
"""


def add_arguments(parser: ArgumentParser) -> None:
    add_path_arguments(parser)
    parser.add_argument("-n", type=int, default=5, metavar="ROWS", help="how many rows (5)")
    parser.add_argument("--offset", type=int, default=0, metavar="N", help="from row N on, counted from 0")
    parser.add_argument("--chars", type=int, default=400, metavar="C", help="characters of each text (400); 0 for all")
    parser.add_argument("--tokenizer", metavar="DIR", help="of a token store, where no record tells it")
    parser.add_argument("--json", action="store_true", help="whole rows, as one JSON object")


def run(arguments: Namespace) -> int:
    if arguments.n < 0 or arguments.offset < 0:
        raise UsageError("-n and --offset are counts, not negative")
    found = find_input(arguments)
    rows = rows_of(found, arguments, arguments.offset, arguments.n)
    if arguments.offset and arguments.n:
        first = next(rows, None)
        if first is None:
            raise UsageError(f"--offset {arguments.offset}: {found.path} has {_count(found, arguments):,} rows")
        rows = chain([first], rows)
    if arguments.json:
        print_json({"path": found.path, "rows": [{"row": number, **plain(row)} for number, row in rows]})
        return 0
    number = None
    for number, row in rows:
        if isinstance(row, dict):
            print_row(number, row, characters=arguments.chars or None)
        else:
            print(f"--- row {number} is no record: {row.reason}\n{row.text}")
    if number is None and arguments.n:
        note(f"{found.path} has no rows")
    return 0


def _count(found: Input, arguments: Namespace) -> int:
    if found.is_token_store:
        from marin.cli.data.token_rows import TokenRows

        return TokenRows(found.path, arguments).store.num_documents
    from marin.processing.formats.rows import count_rows

    return count_rows(found.path, format=found.format)


def rows_of(found: Input, arguments: Namespace, start: int, count: int) -> Iterator[tuple[int, Any]]:
    """(number, row) of files or of a token store."""
    if found.is_token_store:
        from marin.cli.data.token_rows import TokenRows

        yield from TokenRows(found.path, arguments).rows(start, count)
        return
    from marin.processing.formats.rows import rows

    with told():
        yield from rows(found.path, start, count, format=found.format, progress=_tell_copying)


def plain(row: Any) -> dict[str, Any]:
    """A row, or what is none, as values for JSON."""
    if isinstance(row, dict):
        return plain_row(row)
    return {"bad": {"position": row.position, "reason": row.reason, "text": row.text}}


_told: dict[str, int] = {}


def _tell_copying(path: str, done: int, total: int) -> None:
    tenth = 10 * done // max(total, 1)
    if _told.get(path) != tenth:
        _told[path] = tenth
        note(f"{path}: making an index, {10 * tenth}%")
