"""What became of the rows at each operation, so that the numbers add up.

    rows_in + expanded = rows_out + dropped + bad + merged

holds for every operation of every shard, and for their sums; a count that breaks it is our mistake and stops the run.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from marin.processing.pipeline.batch import SAMPLES_PER_RULE, BadRow, Sample


@dataclass(kw_only=True)
class Counts:
    """The rows at one operation."""

    name: str
    rows_in: int = 0
    rows_out: int = 0
    text_bytes_in: int = 0  # UTF-8 bytes of the column `text`
    text_bytes_out: int = 0
    expanded: int = 0  # rows that an operation made of others, beyond one each
    merged: int = 0  # rows that went into others
    dropped: dict[str, int] = field(default_factory=dict)  # rule -> rows
    bad: dict[str, int] = field(default_factory=dict)  # kind -> rows
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # rule -> the first rows it dropped

    def drop(self, rule: str, num_rows: int, samples: Iterable[Sample] = ()) -> None:
        """Count rows that a rule left out."""
        if num_rows:
            self.dropped[rule] = self.dropped.get(rule, 0) + num_rows
            shown = self.samples.setdefault(rule, [])
            for sample in samples:
                if len(shown) >= SAMPLES_PER_RULE:
                    break
                shown.append(asdict(sample))

    def quarantine(self, row: BadRow) -> None:
        """Count a bad row."""
        self.bad[row.kind] = self.bad.get(row.kind, 0) + 1

    @property
    def num_dropped(self) -> int:
        return sum(self.dropped.values())

    @property
    def num_bad(self) -> int:
        return sum(self.bad.values())

    def check(self) -> None:
        """AssertionError unless the numbers add up."""
        left = self.rows_in + self.expanded
        right = self.rows_out + self.num_dropped + self.num_bad + self.merged
        assert left == right, f"rows of {self.name!r} do not add up: {asdict(self) | {'samples': ...}}"


def total(counts: Sequence[Counts]) -> Counts:
    """The sum of counts of one operation, with the first samples."""
    result = Counts(name=counts[0].name)
    for one in counts:
        for name in ("rows_in", "rows_out", "text_bytes_in", "text_bytes_out", "expanded", "merged"):
            setattr(result, name, getattr(result, name) + getattr(one, name))
        for rule, num_rows in one.dropped.items():
            result.drop(rule, num_rows, [Sample(**sample) for sample in one.samples.get(rule, ())])
        for kind, num_rows in one.bad.items():
            result.bad[kind] = result.bad.get(kind, 0) + num_rows
    result.dropped = dict(sorted(result.dropped.items()))
    result.bad = dict(sorted(result.bad.items()))
    result.samples = {rule: result.samples.get(rule, []) for rule in result.dropped}
    result.check()
    return result


def to_json(counts: Counts) -> dict[str, Any]:
    """Plain values, with the names of the fields."""
    return asdict(counts)


def from_json(value: Mapping[str, Any]) -> Counts:
    """What `to_json` wrote."""
    return Counts(**value)
