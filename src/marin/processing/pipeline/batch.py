"""What an operation gives back for a batch or a row, where that is more than the rows themselves.

Rows leave a pipeline in two ways, and both are counted: dropped on purpose by a named rule, or bad (quarantined with a
reason). An operation that returns fewer rows than it got and names neither is an error, not a filter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN_CHARACTERS = 200
SAMPLES_PER_RULE = 3


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that could not be processed, and why."""

    id: str
    reason: str  # a kind, then details after a colon
    text: str = ""  # how it begins

    @property
    def kind(self) -> str:
        return self.reason.partition(":")[0]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A row that a rule dropped, for a person who asks whether the rule is right."""

    id: str
    source: str = ""
    text: str = ""  # how it begins
    numbers: Mapping[str, Any] = field(default_factory=dict)  # what the rule looked at


@dataclass(frozen=True)
class Dropped:
    """Returned by a row function instead of a row: leave this row out, by this rule."""

    rule: str
    numbers: Mapping[str, Any] = field(default_factory=dict)  # what the rule looked at


@dataclass(frozen=True)
class BatchResult:
    """What a batch operation made of a batch: rows in = rows of `batch` + dropped + bad."""

    batch: "pa.RecordBatch"
    dropped: Mapping[str, int] = field(default_factory=dict)  # rule -> rows
    bad: Sequence[BadRow] = ()
    samples: Mapping[str, Sequence[Sample]] = field(default_factory=dict)  # rule -> some of the rows it dropped
