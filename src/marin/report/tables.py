"""Numbers as people read them, and Markdown tables."""

from collections.abc import Mapping, Sequence
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; numbers are for the caller to format. A pipe in a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def seconds(value: float) -> str:
    """0.42 s, 12.3 s, 3m05s, 2h07m."""
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def size(num_bytes: float) -> str:
    """Bytes in powers of 1,000: 812 B, 3.4 MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    raise AssertionError


def with_error(entry: Mapping[str, Any], digits: int = 4) -> str:
    """A score of results.json as value ± standard error; says so if it is exact or its error is unknown."""
    value = f"{entry['value']:.{digits}f}"
    if entry.get("interval") == "exact":
        return f"{value} exactly"
    stderr = entry.get("stderr")
    return f"{value}, error unknown" if stderr is None else f"{value} ± {stderr:.{digits}f}"


def interval(entry: Mapping[str, Any], digits: int = 4) -> str:
    """The 95% interval of a score, or why there is none."""
    if entry.get("interval") == "exact":
        return "exact"
    ends = entry.get("ci95")
    return "unknown" if ends is None else f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"
