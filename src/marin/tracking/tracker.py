"""Numbers out of a run: what every tracker offers."""

from collections.abc import Mapping
from typing import Protocol

Value = float | int | str


class Tracker(Protocol):
    """Takes rows of named numbers, each at a step (updates done)."""

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Take one row. Steps never go down."""
        ...

    def flush(self) -> None:
        """Return when all rows taken so far would survive the process, and the machine."""
        ...

    def close(self) -> None:
        """Flush and let go; no row is taken afterwards."""
        ...


class NoTracker:
    """Drops all rows: what a process has that leaves writing to another."""

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Drop a row."""

    def flush(self) -> None:
        """There is nothing to."""

    def close(self) -> None:
        """There is nothing to."""
