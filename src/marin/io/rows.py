"""Rows of data sets from files: JSON lines, JSON, parquet, Arrow, and items of so many lines of text.

An error names the file and the row in it, counted from 1, since a benchmark that loses a row silently is another
benchmark.
"""

import bz2
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from marin.io.records import SUFFIXES, RecordError, numbered_records

TEXT_SUFFIXES = (".txt", ".txt.gz", ".txt.bz2")
ROW_SUFFIXES = (*SUFFIXES, ".json", ".parquet", ".arrow")


def read_rows(path: str | Path, *, lines_per_item: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, row) of each row of a file; of a text file {"lines": [...]} for every lines_per_item lines.

    The number is that of the line in files of lines. Raises RecordError, a ValueError that begins with file and line,
    for what is no row; ValueError for a file of another kind.
    """
    path = Path(path)
    name = path.name
    if name.endswith(SUFFIXES):
        yield from numbered_records(path)
    elif name.endswith(".json"):
        yield from _from_json(path)
    elif name.endswith((".parquet", ".arrow")):
        yield from enumerate(_from_arrow(path), start=1)
    elif name.endswith(TEXT_SUFFIXES):
        yield from _from_text(path, lines_per_item)
    else:
        known = ", ".join((*ROW_SUFFIXES, *TEXT_SUFFIXES))
        raise ValueError(f"{path}: no file of rows by its name; expected one that ends in {known}")


def _from_json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """A list of objects, or an object with one such list in it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{path}: not JSON: {error}") from error
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else None
    if not isinstance(content, list):
        raise RecordError(f"{path}: expected a JSON list of objects, or an object with one list in it")
    for number, row in enumerate(content, start=1):
        if not isinstance(row, dict):
            raise RecordError(f"{path}: row {number}: not a JSON object but {type(row).__name__}")
        yield number, row


def _from_arrow(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            for batch in pq.ParquetFile(path).iter_batches(2048):
                yield from batch.to_pylist()
            return
        with pa.memory_map(str(path)) as source:
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source).read_all()
            yield from table.to_pylist()
    except pa.ArrowInvalid as error:
        raise RecordError(f"{path}: damaged, or not what its name says: {error}") from error


def _from_text(path: Path, lines_per_item: int | None) -> Iterator[tuple[int, dict[str, Any]]]:
    if lines_per_item is None:
        raise ValueError(f"{path}: a text file has rows only where it is said how many lines make one")
    opened: Any = {".bz2": bz2.open, ".gz": gzip.open}.get(path.suffix, open)
    with opened(path, "rt", encoding="utf-8", newline="\n") as file:
        lines = file.read().split("\n")
    if lines[-1] == "":
        lines.pop()
    if len(lines) % lines_per_item:
        raise RecordError(
            f"{path}: {len(lines)} lines are no whole number of items of {lines_per_item} lines: the last item begins "
            f"on line {len(lines) - len(lines) % lines_per_item + 1} and is cut"
        )
    for start in range(0, len(lines), lines_per_item):
        yield start + 1, {"lines": lines[start : start + lines_per_item]}
