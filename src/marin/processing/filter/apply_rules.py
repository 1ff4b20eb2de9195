"""The operation that drops rows by rules: all rules of a filter at once, so that the texts are copied once."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

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
    # what becomes of a row in which a rule's column has no value: an error, or it goes or stays
    missing: Literal["error", "drop", "keep"] = "error"

    @staticmethod
    def of(rules: Sequence[Rule], *, missing: Literal["error", "drop", "keep"] = "error") -> "ApplyRules":
        return ApplyRules(tuple((rule.name, rule.keep) for rule in rules), missing)

    def __call__(self, batch: "pa.RecordBatch") -> BatchResult:
        """Raises ValueError where a rule's column is not there, or has no value in a row and must have one."""
        import numpy as np
        import pyarrow as pa

        from marin.processing.pipeline.rows import samples_of

        kept = np.ones(batch.num_rows, np.bool_)
        dropped: dict[str, int] = {}
        samples: dict[str, Sequence[Sample]] = {}
        for name, keep in self.rules:
            condition = _parsed(keep)
            holds, is_undecided = _decided(name, condition, batch, missing=self.missing)
            goes = {name: ~holds & ~is_undecided}
            if self.missing == "drop":
                goes[f"{name}: missing"] = is_undecided
            for why, rows_of in goes.items():
                if (failed := kept & rows_of).any():
                    rows = np.flatnonzero(failed).tolist()
                    dropped[why] = len(rows)
                    samples[why] = samples_of(batch, rows, condition.columns())
                    kept &= ~failed
        stay = batch if not dropped else batch.filter(pa.array(kept))
        return BatchResult(stay, dropped=dropped, samples=samples)


def _decided(
    rule: str, condition: Expression, batch: "pa.RecordBatch", *, missing: str
) -> "tuple[NDArray[np.bool_], NDArray[np.bool_]]":
    """bool (rows,): whether the condition is true, and whether it is neither true nor false.

    ValueError where it is neither and `missing` is "error", or no condition.
    """
    import numpy as np

    from marin.processing.pipeline.evaluate import check_columns, evaluate

    check_columns(condition.columns(), batch.schema.names, f"rule {rule!r}")
    values = evaluate(condition, batch)
    if str(values.type) != "bool":
        raise ValueError(f"rule {rule!r}: {condition} cannot be decided: it is {values.type}, not true or false")
    if values.null_count and missing == "error":
        nulls = ", ".join(name for name in condition.columns() if batch.column(name).null_count)
        raise ValueError(
            f"rule {rule!r}: {condition} cannot be decided: {nulls} has no value in some rows; say missing='drop' or "
            "missing='keep' (--missing) where that may be"
        )
    holds, is_undecided = (one.to_numpy(zero_copy_only=False) for one in (values.fill_null(False), values.is_null()))
    return np.asarray(holds, np.bool_), np.asarray(is_undecided, np.bool_)
