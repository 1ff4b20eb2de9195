"""What PATH means to the commands that look into data: files, or a token store, by path or by the address of a step."""

import os
import sys
import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from typing import Any

from marin.cli.errors import told
from marin.cli.experiment import add_prefix_argument, prefix_of
from marin.cli.output import UsageError, note, note_others, size


@dataclass(frozen=True, kw_only=True)
class Input:
    """Data that a command looks into."""

    path: str  # of a file or folder, or a glob
    format: str | None  # of the files, where their endings do not tell
    is_token_store: bool


def add_path_arguments(parser: ArgumentParser, metavar: str = "PATH|STEP") -> None:
    """What to look into, and how it is written."""
    parser.add_argument("path", metavar=metavar, help="files, a folder, a glob, a token store, or a step's address")
    parser.add_argument(
        "--format",
        metavar="jsonl|parquet|arrow|warc|wet|html|text|text-paragraphs|text-lines",
        help="of the files, where their endings do not tell",
    )
    add_prefix_argument(parser)


def find_input(arguments: Namespace) -> Input:
    """The data that PATH means. UsageError where there is none."""
    import glob

    from marin.io.files import address, is_file, is_remote

    with told():
        path = address(arguments.path)
        if is_remote(path):
            if is_file(f"{path}/store.json"):
                raise UsageError(f"{path} is a token store, which is read from a disk alone: copy it to this machine")
            return Input(path=path, format=arguments.format, is_token_store=False)
    if not os.path.exists(path) and not (glob.has_magic(path) and glob.glob(path, recursive=True)):
        path = _output_of_step(arguments)
    is_token_store = os.path.isfile(os.path.join(path, "store.json"))
    if not is_token_store and arguments.format is None:
        note_passed_over(path)
    return Input(path=path, format=arguments.format, is_token_store=is_token_store)


def note_passed_over(path: str) -> None:
    """Say which files of a folder are not read, for others there are of another kind."""
    from marin.processing.formats.splits import passed_over

    if counts := passed_over(path):
        listed = ", ".join(f"{count:,} {ending}" for ending, count in sorted(counts.items()))
        pattern = os.path.join(path, "**", f"*{min(counts)}")
        note(f"{path}: not read, beside files of another kind: {listed}; to read those, name them: '{pattern}'")


def _output_of_step(arguments: Namespace) -> str:
    from marin.execution.catalog import NoStoreError, find_step

    try:
        entry = find_step(prefix_of(arguments), arguments.path)
    except NoStoreError as error:
        raise UsageError(f"no file or folder {arguments.path!r}, and {error}") from error
    note_others(entry)
    if not entry.store.is_local:
        raise UsageError(f"{entry.name} lies in {entry.store.prefix}, and this command reads files from disk")
    if entry.data_path is None:
        raise UsageError(f"{entry.name}@{entry.digest[:6]} has no output yet: it is {entry.status.lower()}")
    return entry.data_path


def planned(found: Input, *, split_bytes: int | None = None) -> "list[Any]":
    """The splits of the files, for reading them through. UsageError where they cannot be read."""
    from marin.processing.formats.splits import SPLIT_BYTES, plan_splits

    with told():
        return plan_splits(found.path, format=found.format, split_bytes=split_bytes or SPLIT_BYTES)


def bytes_of(split: Any) -> int:
    """Bytes on disk that a split stands for, about: a file is shared out among its splits."""
    if split.format == "jsonl":
        return (split.size if split.end is None else split.end) - split.start
    return split.size


class Reading:
    """A line on stderr now and then while files are read through: how far, how fast, how long still."""

    EVERY_S = 5.0

    def __init__(self, splits: "list[Any]"):
        seen: set[str] = set()
        self._sizes = [
            bytes_of(split)
            if split.format == "jsonl"
            else 0
            if split.path in seen or seen.add(split.path)
            else split.size
            for split in splits
        ]
        self._total = sum(self._sizes)
        self._done = 0
        self._number = 0
        self._began = self._told = time.monotonic()
        self._is_shown = False

    def split_done(self) -> None:
        """One more split has been read."""
        self._done += self._sizes[self._number]
        self._number += 1
        self.tell()

    def tell(self) -> None:
        """Say where it stands, if it is time to."""
        now = time.monotonic()
        if now - self._told < self.EVERY_S or not self._total:
            return
        self._told = now
        pace = self._done / (now - self._began)
        left = f", {(self._total - self._done) / pace:.0f} s left" if pace else ""
        text = f"read {size(self._done)} of {size(self._total)}, {pace / 1e6:.0f} MB/s{left}"
        if sys.stderr.isatty():
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
            self._is_shown = True
        else:
            note(text)

    def close(self) -> None:
        """Leave the line."""
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


class BadCount:
    """Counts what is no record, to be told at the end."""

    def __init__(self) -> None:
        self.kinds: dict[str, int] = {}
        self.first: Any = None

    def __call__(self, bad: Any) -> None:
        self.kinds[bad.kind] = self.kinds.get(bad.kind, 0) + 1
        self.first = self.first or bad

    def tell(self) -> None:
        """A line on stderr, if there was any."""
        if self.first is not None:
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
            note(f"no records: {counts}; the first is {self.first.position}: {self.first.reason}")


def plain_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its metadata as an object, where it is one in a string."""
    import json

    metadata = row.get("metadata")
    if isinstance(metadata, str):
        try:
            return {**row, "metadata": json.loads(metadata)}
        except ValueError:
            return row
    return row


def print_row(number: int | None, row: dict[str, Any], *, characters: int | None) -> None:
    """A row for people: what is short on the first line, then its text, or page; `characters` of it (None: all)."""
    import json

    row = plain_row(row)
    long = next((name for name in ("text", "html") if isinstance(row.get(name), str)), None)
    short = {name: value for name, value in row.items() if name != long and value not in (None, "", {})}
    lead = "---" if number is None else f"--- row {number}"
    told = [
        f"{name} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)}"
        for name, value in short.items()
    ]
    if long is not None:
        told.append(f"{len(row[long].encode()):,} bytes of {long}")
    line = f"{lead}: " + ", ".join(told)
    print(line if characters is None else _cut(line, max(characters, 200)))
    if long is not None:
        print(row[long] if characters is None else _cut(row[long], characters))


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[:characters] + "…"
