"""What the commands share: words for sizes and times, colour where it is wanted, JSON, errors.

Data goes to stdout, everything else to stderr, so that `marin ... | jq` and `marin ... > file` get data alone. Colour
only repeats what a symbol or word says.
"""

import os
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TextIO

from marin.execution.console import size as size

FORMAT_VERSION = "1.0"  # of all JSON output: a minor step adds fields, a major one changes them

_MAX_OTHERS = 5
_COLORS = {"green": "32", "yellow": "33", "red": "31", "dim": "2", "bold": "1"}


class UsageError(ValueError):
    """The command line asks for something that does not exist or makes no sense; the exit code is 2."""


class RefusedError(ValueError):
    """What is asked for would damage what is there; the exit code is 3."""


def error_line(text: str) -> None:
    """Print an error to stderr."""
    print(paint("error:", "red", sys.stderr), text, file=sys.stderr)


def note(text: str) -> None:
    """Print something for people, not data, to stderr."""
    print(text, file=sys.stderr)


def note_others(entry: Any) -> None:
    """Say which other recipes there are, of a step that was found by its name alone."""
    if not entry.others:
        return
    shown = [f"{step.name}@{step.digest[:6]} {step.status.lower()}" for step in entry.others[:_MAX_OTHERS]]
    more = f" and {len(entry.others) - _MAX_OTHERS} more" if len(entry.others) > _MAX_OTHERS else ""
    note(f"{entry.name}@{entry.digest[:6]} ({entry.status.lower()}); of that name also: {', '.join(shown)}{more}")


def wants_color(stream: TextIO) -> bool:
    """NO_COLOR wins, then FORCE_COLOR, then whether the stream is a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, color: str, stream: TextIO | None = None) -> str:
    """`text` in a colour, if the stream (default: stdout) is to have any."""
    return f"\x1b[{_COLORS[color]}m{text}\x1b[0m" if wants_color(stream or sys.stdout) else text


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object with its format version."""
    import json

    print(json.dumps({"format_version": FORMAT_VERSION, **value}, indent=2, ensure_ascii=False))


def local_time(utc: str | None) -> str:
    """2026-01-31T23:59:59Z as 2026-02-01T00:59:59 on a clock one hour ahead."""
    if not utc:
        return "-"
    return datetime.fromisoformat(utc.replace("Z", "+00:00")).astimezone().strftime("%Y-%m-%dT%H:%M:%S")


def table(rows: Sequence[Sequence[str]], header: Sequence[str], right: Sequence[int] = ()) -> str:
    """Columns as wide as they need to be; those whose index is in `right` end at the right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    shown = [
        "  ".join(f"{c:>{w}}" if i in right else f"{c:<{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    return "\n".join([paint(shown[0].rstrip(), "dim"), *(line.rstrip() for line in shown[1:])])
