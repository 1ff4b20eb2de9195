"""Any row of files, by its number, as it is stored.

Parquet and Arrow have an index in their footer, our .gz and .zst in the marks of their blocks: there a row is reached
at once, however far behind it lies. JSON lines that are not compressed have their line ends counted. Of somebody else's
compressed file everything before a row must be read, so beyond COPY_BYTES a copy in our blocks is made, once, in the
user's cache; that costs the size of the file again, on the disk.

Rows are numbered from 0 over all the files, bad ones with them: row n of JSON lines is line n + 1 of the file.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from marin.io.atomic import open_atomic, write_text
from marin.io.compression import BlockWriter, DamagedError, compression_of, content_chunks
from marin.io.files import open_input, read_range
from marin.io.records import parse_record
from marin.processing.formats import record
from marin.processing.formats.arrow_files import arrow_source, is_arrow_file
from marin.processing.formats.json_lines import lines_of
from marin.processing.formats.lines import TooLong, split_lines
from marin.processing.formats.reading import read_split
from marin.processing.formats.record import BadRecord, shown_text
from marin.processing.formats.splits import DamagedFileError, FormatError, Split, count_newlines, plan_splits

COPY_BYTES = 64 << 20  # compressed, of a file with no index of its own; smaller ones are read through
PIECE_BYTES = 8 << 20  # of JSON lines that are not compressed, between two places whose line number is known

Row = dict[str, Any] | BadRecord
Progress = Callable[[str, int, int], None]  # (file, bytes done, bytes in all)


def read_row(paths: str | Path | Sequence[str | Path], number: int, *, format: str | None = None) -> dict[str, Any]:
    """Row `number`, from 0, of files that `plan_splits` would read.

    Raises IndexError beyond the end, FormatError where that row is a bad one.
    """
    for _, row in rows(paths, number, 1, format=format):
        if isinstance(row, BadRecord):
            raise FormatError(f"row {number} is no record: {row.position}: {row.reason}")
        return row
    raise IndexError(f"no row {number}: the last is {count_rows(paths, format=format) - 1}")


def rows(
    paths: str | Path | Sequence[str | Path],
    start: int,
    count: int,
    *,
    format: str | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[int, Row]]:
    """(number, row) of at most `count` rows from row `start` on. `progress` is told of files that are read through."""
    number = 0
    for split in _numbered_splits(paths, format, progress):
        if number >= start + count:
            return
        if split.num_rows is not None and number + split.num_rows <= start:
            number += split.num_rows
            continue
        after = None if split.num_rows is None else number + split.num_rows
        for row in _rows_of(split, max(0, start - number)):
            if number >= start + count:
                return
            if number >= start and row is not None:
                yield number, row
            number += 1
        number = number if after is None else after  # blank lines at the end are no rows, but have numbers


def count_rows(
    paths: str | Path | Sequence[str | Path], *, format: str | None = None, progress: Progress | None = None
) -> int:
    """How many rows there are, bad ones with them."""
    total = 0
    for split in _numbered_splits(paths, format, progress):
        total += split.num_rows if split.num_rows is not None else sum(1 for _ in _rows_of(split, 0))
    return total


def _numbered_splits(
    paths: str | Path | Sequence[str | Path], format: str | None, progress: Progress | None
) -> Iterator[Split]:
    """Splits as small as can be, with their number of rows where it can be known without reading all."""
    for split in plan_splits(paths, format=format, split_bytes=1 << 62):
        if split.format != "jsonl":
            yield from plan_splits(split.path, format=split.format, split_bytes=1)
        elif compression_of(split.path) is None:
            yield from _counted_pieces(split)
        elif split.num_rows is not None:
            yield from _with_label(split, plan_splits(split.path, format="jsonl", split_bytes=1))
        elif split.size > COPY_BYTES:
            copy = _copy_in_blocks(split, progress)
            yield from _with_label(split, plan_splits(copy, format="jsonl", split_bytes=1))
        else:
            yield split


def _with_label(whole: Split, parts: list[Split]) -> Iterator[Split]:
    for part in parts:
        yield replace(part, label=whole.label, fields=whole.fields)


def _counted_pieces(split: Split) -> Iterator[Split]:
    """Pieces of a file of plain JSON lines. The line around a piece's end belongs to it, see `lines_of`."""
    starts = list(range(0, max(split.size, 1), PIECE_BYTES))
    newlines = _newlines(split, starts)
    lines = sum(newlines) + (0 if _ends_in_newline(split) else 1)
    firsts, before = [0], 0
    for number in newlines[:-1]:
        before += number
        firsts.append(min(before + 1, lines))
    for i, start in enumerate(starts):
        is_last = i + 1 == len(starts)
        end, after = (None, lines) if is_last else (starts[i + 1], firsts[i + 1])
        yield replace(split, start=start, end=end, first_row=firsts[i], num_rows=after - firsts[i])


def _newlines(split: Split, starts: list[int]) -> list[int]:
    """Newlines in each piece of a file; remembered in the user's cache where counting takes a while."""
    remembered = _cache_file(split, ".lines.json")
    is_big = split.size > 32 * PIECE_BYTES
    if is_big and remembered.is_file():
        return json.loads(remembered.read_text(encoding="utf-8"))
    counts = [count_newlines(split.path, start, min(start + PIECE_BYTES, split.size)) for start in starts]
    if is_big:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_text(remembered, json.dumps(counts), fsync=False)
    return counts


def _ends_in_newline(split: Split) -> bool:
    if split.size == 0:
        return True
    return read_range(split.path, split.size - 1, 1) == b"\n"


def _copy_in_blocks(split: Split, progress: Progress | None) -> Path:
    """A copy of a compressed file of JSON lines, in our blocks."""
    copy = _cache_file(split, ".jsonl.zst")
    if copy.is_file():
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    number = 0
    with open_input(split.path) as file, open_atomic(copy, "wb", fsync=False) as target:
        blocks = BlockWriter(target, "zstd")
        try:
            lines = split_lines(content_chunks(file, compression_of(split.path)), record.MAX_RECORD_BYTES)
            for number, line in enumerate(lines, start=1):
                if isinstance(line, TooLong):  # a line of its own in the copy too, and as bad
                    line = line.begin
                blocks.write_line(line + b"\n")
                if progress and number % 4096 == 0:
                    progress(split.path, file.tell(), split.size)
        except DamagedError as error:
            raise DamagedFileError(f"{split.path}: after line {number}: {error}") from error
        blocks.close()
    return copy


def _cache_file(split: Split, ending: str) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    identity = f"{os.path.abspath(split.path)}\n{split.size}\n{split.mtime_ns}"
    return base / "marin" / "rows" / (hashlib.sha256(identity.encode()).hexdigest()[:32] + ending)


def _rows_of(split: Split, skip: int) -> Iterator[Row | None]:
    """Every row of a split as it is stored; the first `skip` may be None, unread."""
    if split.format == "jsonl":
        yield from _json_rows(split, skip)
    elif split.format == "parquet":
        with arrow_source(split.path) as source, pq.ParquetFile(source) as file:
            groups = list(range(split.start, file.num_row_groups if split.end is None else split.end))
            yield from _batch_rows(file.iter_batches(256, row_groups=groups, use_threads=False), skip)
    elif split.format == "arrow":
        with arrow_source(split.path) as source:
            if is_arrow_file(split.path):
                reader = pa.ipc.open_file(source)
                end = reader.num_record_batches if split.end is None else split.end
                yield from _batch_rows(map(reader.get_batch, range(split.start, end)), skip)
            else:
                yield from _batch_rows(iter(pa.ipc.open_stream(source)), skip)
    else:
        bad: list[BadRecord] = []
        for batch in read_split(split, on_bad=bad.append):
            yield from batch.to_pylist()
        yield from bad


def _batch_rows(batches: Iterator[pa.RecordBatch], skip: int) -> Iterator[Row | None]:
    for batch in batches:
        passed = min(skip, batch.num_rows)
        skip -= passed
        yield from [None] * passed
        if passed < batch.num_rows:
            yield from batch.slice(passed).to_pylist()


def _json_rows(split: Split, skip: int) -> Iterator[Row | None]:
    before = split.first_row or 0
    next_number = 1
    for number, line in lines_of(split):
        for blank in range(next_number, number):
            yield BadRecord(position=f"{split.label}:{before + blank}", reason="blank: an empty line", text="")
        next_number = number + 1
        if number <= skip:
            yield None
            continue
        position = f"{split.label}:{before + number}"
        if isinstance(line, TooLong):
            reason = f"too long: a line of {line.size} bytes"
            yield BadRecord(position=position, reason=reason, text=shown_text(line.begin))
            continue
        try:
            row = parse_record(line)
        except ValueError as error:
            yield BadRecord(position=position, reason=str(error), text=shown_text(line))
        else:
            yield {"id": position, **row} if row.get("id") is None else row
