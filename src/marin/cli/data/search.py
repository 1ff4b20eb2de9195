"""Prints the rows whose text has a pattern in it: where they are, their id, and what is around the first hit.

Everything is read through, so the time is that of reading. The place is FILE:LINE (FILE:ROW where the format has rows),
counted from 1; `marin data show PATH FILE:LINE` prints the row. Exit code 0 also where nothing is found.

PATH is a file, a folder of shards, a glob in quotes, or the address of a step (name, name@digits, ref, digest), whose
output is meant. Formats: JSON lines (.jsonl, also .gz and .zst), parquet, Arrow, WARC, HTML, plain text.
"""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from marin.cli.data.inputs import BadCount, Input, Reading, add_path_arguments, find_input, planned
from marin.cli.errors import told
from marin.cli.experiment import hint
from marin.cli.output import UsageError, note, print_json

EXAMPLES = """\
  marin data search documents/ "gradient descent"
  marin data search documents/ '\\bfoo\\d+' --regex -n 100
  marin data search crawl/ "Not Found" --column html --json
"""

_AROUND = 60  # characters before and behind a hit


def add_arguments(parser: ArgumentParser) -> None:
    add_path_arguments(parser)
    parser.add_argument("pattern", metavar="PATTERN", help="the text to look for, letter for letter")
    parser.add_argument("--regex", action="store_true", help="PATTERN is a regular expression, as Python has them")
    parser.add_argument("--column", metavar="NAME", default="text", help="where to look (text)")
    parser.add_argument("-n", type=int, default=20, metavar="HITS", help="stop after so many (20); 0 for all")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    found = find_input(arguments)
    if found.is_token_store:
        raise UsageError(f"{found.path} is a token store: search the documents that it was made from")
    try:
        pattern = re.compile(arguments.pattern if arguments.regex else re.escape(arguments.pattern))
    except re.error as error:
        raise UsageError(f"{arguments.pattern!r} is no regular expression: {error}") from error
    hits = []
    for hit in _hits(found, arguments, pattern):
        hits.append(hit)
        if not arguments.json:
            print(f"{hit['at']}  {hit['id']}\n    {hit['before']}⟦{hit['match']}⟧{hit['after']}")
        if len(hits) == arguments.n:
            note(f"stopped after {len(hits)} rows: -n 0 finds all")
            break
    if arguments.json:
        print_json({"path": found.path, "pattern": arguments.pattern, "hits": hits})
    elif hits:
        note(f"Next: {hint(['marin', 'data', 'show', arguments.path, hits[0]['at']], arguments)}")
    else:
        note(f"no row of {found.path} has {arguments.pattern!r} in its {arguments.column}")
    return 0


def _hits(found: Input, arguments: Namespace, pattern: "re.Pattern[str]") -> Iterator[dict[str, Any]]:
    from marin.processing.formats.reading import read_split
    from marin.processing.formats.record import ROW

    splits, bad = planned(found), BadCount()
    reading = Reading(splits)
    columns = list(dict.fromkeys(["id", arguments.column, ROW]))
    without: dict[str, str] = {}  # files that lack the column, and what they have
    try:
        with told():
            for split in splits:
                for batch in _with_column(read_split(split, columns=columns, on_bad=bad), split, without):
                    texts = batch.column(columns.index(arguments.column))
                    for i in _candidates(texts, None if arguments.regex else arguments.pattern):
                        text = texts[i].as_py()
                        if (match := pattern.search(text if isinstance(text, str) else "")) is not None:
                            row = batch.column(len(columns) - 1)[i].as_py()
                            yield _hit(f"{split.label}:{row + 1}", batch.column(0)[i].as_py(), text, match)
                    reading.tell()
                reading.split_done()
            if without and len(without) == len({split.path for split in splits}):
                raise ValueError(next(iter(without.values())))
    finally:
        reading.close()
        bad.tell()
        if 0 < len(without) < len({split.path for split in splits}):
            note(f"not searched: {len(without):,} files; the first: {next(iter(without.values()))} (--column)")


def _with_column(batches: "Iterator[Any]", split: Any, without: dict[str, str]) -> "Iterator[Any]":
    """The batches of a split; none where its file lacks the column, which is noted in `without`."""
    from marin.processing.document import BadInputError
    from marin.processing.formats.splits import FormatError

    try:
        yield from batches
    except FormatError as error:
        if isinstance(error, BadInputError):
            raise
        without[split.path] = str(error)


def _candidates(texts: Any, literal: str | None) -> "list[int] | range":
    """Rows in which a pattern may be: those with the literal text, by Arrow's own search."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if literal is None or not pa.types.is_string(texts.type):
        return range(len(texts))
    matches = pc.call_function("match_substring", [texts], pc.MatchSubstringOptions(literal))
    return np.flatnonzero(matches.fill_null(False).to_numpy(zero_copy_only=False)).tolist()


def _hit(place: str, row_id: str, text: str, match: "re.Match[str]") -> dict[str, Any]:
    start, end = match.span()
    shown = {
        "before": text[max(0, start - _AROUND) : start],
        "match": text[start : min(end, start + 4 * _AROUND)],
        "after": text[end : end + _AROUND],
    }
    return {"at": place, "id": row_id, **{name: " ".join(part.split("\n")) for name, part in shown.items()}}
