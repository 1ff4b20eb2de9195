"""Reducers that work on columns instead of rows; as values, for plans."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class KeepFirst:
    """The first row of each group (by the plan's `order_by`); the others are dropped by a rule of this name."""

    version: ClassVar[int] = 1
    rule: str = "duplicate"

    @property
    def name(self) -> str:
        return "keep_first"


@dataclass(frozen=True, kw_only=True)
class Count:
    """One row for each group: its keys, and how many rows it has."""

    version: ClassVar[int] = 1
    column: str = "count"

    @property
    def name(self) -> str:
        return "count"
