"""Prints one row whole: by its number, by its id, or by the place that `marin data search` names.

A number is counted from 0 over all files. An id that is a number is found with --id. FILE:LINE is a row of one file,
counted from 1, as in ids that marin makes up.

PATH is a file, a folder of shards, a glob in quotes, or the address of a step (name, name@digits, ref, digest), whose
output is meant. Formats: JSON lines (.jsonl, also .gz and .zst), parquet, Arrow, WARC, HTML, plain text; token stores.
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from marin.cli.data.head import plain, rows_of
from marin.cli.data.inputs import Input, Reading, add_path_arguments, find_input, planned, print_row
from marin.cli.output import UsageError, print_json

EXAMPLES = """\
  marin data show documents/ 10000000                     row 10,000,000, counted from 0
  marin data show documents/ part-00003-of-00008.parquet:17
  marin data show documents/ 0a1b2c3d4e5f60718293a4b5c6d7e8f9 --json
"""


def add_arguments(parser: ArgumentParser) -> None:
    add_path_arguments(parser)
    parser.add_argument("row", metavar="N|ID|FILE:LINE", help="which row")
    parser.add_argument("--id", action="store_true", help="it is an id, also where it looks like a number")
    parser.add_argument("--tokenizer", metavar="DIR", help="of a token store, where no record tells it")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    found = find_input(arguments)
    if arguments.row.isdigit() and not arguments.id:
        number, row = next(rows_of(found, arguments, int(arguments.row), 1), (None, None))
        if row is None:
            raise UsageError(f"{found.path} has no row {arguments.row}")
    else:
        number, row = _by_name(found, arguments)
    if arguments.json:
        print_json({"path": found.path, "row": number, **plain(row)})
    elif isinstance(row, dict):
        print_row(number, row, characters=None)
    else:
        print(f"--- row {number} is no record: {row.reason}\n{row.text}")
    return 0


def _by_name(found: Input, arguments: Namespace) -> tuple[int | None, Any]:
    """(number, row) of the row with an id or at a place; without number in files."""
    if found.is_token_store:
        from marin.cli.data.token_rows import TokenRows

        rows = TokenRows(found.path, arguments)
        number = rows.find(arguments.row)
        if number is None:
            raise UsageError(f"{found.path} has no document with the id {arguments.row!r}")
        return number, rows.row(number)
    from marin.processing.formats.reading import read_split
    from marin.processing.formats.record import ROW

    label, _, line = arguments.row.rpartition(":")
    splits = planned(found)
    reading = Reading(splits)
    for split in splits:
        is_of_file = split.label == label and line.isdigit()
        for batch in read_split(split, columns=["id", ROW], on_bad=lambda bad: None):
            for row_id, number in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
                if row_id == arguments.row or (is_of_file and number + 1 == int(line)):
                    reading.close()
                    return None, _whole_row(split, number)
            reading.tell()
        reading.split_done()
    reading.close()
    raise UsageError(f"{found.path} has no row with the id or at the place {arguments.row!r}")


def _whole_row(split: Any, number: int) -> dict[str, Any]:
    from marin.processing.formats.reading import read_split
    from marin.processing.formats.record import ROW

    for batch in read_split(split, columns=[*_columns(split), ROW], on_bad=lambda bad: None):
        numbers = batch.column(batch.num_columns - 1).to_pylist()
        if number in numbers:
            return batch.drop_columns([ROW]).slice(numbers.index(number), 1).to_pylist()[0]
    raise AssertionError(f"row {number} of {split.path} was there a moment ago")


def _columns(split: Any) -> list[str]:
    """Every column of a split."""
    from marin.processing.formats.reading import read_split

    return next(read_split(split, on_bad=lambda bad: None)).schema.names
