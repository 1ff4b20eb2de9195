"""The operation that drops rows by rules: all rules of a filter at once, so that the texts are copied once."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from marin.processing.filter.rules import Rule
from marin.processing.pipeline import BatchResult, Expression, Sample, parse

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

_parsed = functools.cache(parse)


@dataclass(frozen=True)
class ApplyRules:
    """Keeps the rows that satisfy every rule; one that does not counts for the first that it fails."""

    version: ClassVar[int] = 1

    # (name, expression that must hold), in the order in which they are asked
    rules: tuple[tuple[str, str], ...]

    @staticmethod
    def of(rules: Sequence[Rule]) -> "ApplyRules":
        return ApplyRules(tuple((rule.name, rule.keep) for rule in rules))

    def __call__(self, batch: "pa.RecordBatch") -> BatchResult:
        """Raises ValueError where a rule's column is not there, or has no value in a row."""
        import numpy as np
        import pyarrow as pa

        from marin.processing.pipeline.rows import samples_of

        kept = np.ones(batch.num_rows, np.bool_)
        dropped: dict[str, int] = {}
        samples: dict[str, Sequence[Sample]] = {}
        for name, keep in self.rules:
            condition = _parsed(keep)
            failed = kept & ~_holds(name, condition, batch)
            if failed.any():
                rows = np.flatnonzero(failed).tolist()
                dropped[name] = len(rows)
                samples[name] = samples_of(batch, rows, condition.columns())
                kept &= ~failed
        stay = batch if not dropped else batch.filter(pa.array(kept))
        return BatchResult(stay, dropped=dropped, samples=samples)


def _holds(rule: str, condition: Expression, batch: "pa.RecordBatch") -> "NDArray[np.bool_]":
    """bool (rows,): whether the condition is true. ValueError where it is neither true nor false."""
    import numpy as np

    from marin.processing.pipeline.evaluate import check_columns, evaluate

    check_columns(condition.columns(), batch.schema.names, f"rule {rule!r}")
    values = evaluate(condition, batch)
    if values.null_count or str(values.type) != "bool":
        missing = [name for name in condition.columns() if batch.column(name).null_count]
        why = (
            f"{', '.join(missing)} has no value in some rows" if missing else f"it is {values.type}, not true or false"
        )
        raise ValueError(f"rule {rule!r}: {condition} cannot be decided: {why}")
    return np.asarray(values.to_numpy(zero_copy_only=False), np.bool_)
