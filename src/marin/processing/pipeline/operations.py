"""The operations of a plan, as values; what they do to batches is in `execution`.

Each is identical to its class, version and fields. `name` is what counts, manifests and the funnel call it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from marin.processing.pipeline.expressions import Expression

Missing: TypeAlias = Literal["error", "drop", "keep"]
Function: TypeAlias = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class MapRows:
    """A function of each row. With `timeout_s`, a row that takes more CPU seconds is quarantined."""

    version: ClassVar[int] = 1
    name: str
    function: Function
    timeout_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class FlatMapRows:
    """A function of each row that returns a list of rows; none is the row dropped."""

    version: ClassVar[int] = 1
    name: str
    function: Function
    timeout_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class MapBatches:
    """A function of a record batch. `expanding`: it may return more rows than it got.

    A function with an attribute `columns_read` looks at these columns alone, and returns none of the others.
    """

    version: ClassVar[int] = 1
    name: str
    function: Function
    expanding: bool = False


@dataclass(frozen=True, kw_only=True)
class FilterRows:
    """Keep the rows for which a condition is true: an expression, or a function of the row."""

    version: ClassVar[int] = 1
    name: str
    condition: Expression | Function
    missing: Missing = "error"  # what a null condition means


@dataclass(frozen=True, kw_only=True)
class Select:
    """These columns alone, in this order."""

    version: ClassVar[int] = 1
    name: str = field(default="select", compare=False)
    columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class WithColumns:
    """New columns, or other values for old ones, by expressions over the columns as they came."""

    version: ClassVar[int] = 1
    name: str = field(default="with_columns", compare=False)
    columns: tuple[tuple[str, Expression], ...]


@dataclass(frozen=True, kw_only=True)
class SampleRows:
    """Keep each row with probability `share`, decided by a hash of seed and `on` alone: whatever the order."""

    version: ClassVar[int] = 1
    name: str
    share: float
    seed: int
    on: str = "id"


@dataclass(frozen=True, kw_only=True)
class MapShard:
    """A function of an iterator of all batches of a shard, which gives batches."""

    version: ClassVar[int] = 1
    name: str
    function: Function


@dataclass(frozen=True, kw_only=True)
class Attach:
    """Columns of the rows with the same id in the file of the same name of another data set.

    `columns`: which to take, None for all that the rows do not have.
    """

    version: ClassVar[int] = 1
    name: str
    on: str
    columns: tuple[str, ...] | None
    missing: Missing


Operation: TypeAlias = (
    MapRows | FlatMapRows | MapBatches | FilterRows | Select | WithColumns | SampleRows | MapShard | Attach
)


def columns_needed(operations: tuple[Operation, ...]) -> tuple[str, ...] | None:
    """The columns that must be read from files for these operations, None where all must.

    What a function looks at cannot be told unless it says so, so only what comes before the first function counts.
    """
    needed: dict[str, None] = {}
    made: set[str] = set()
    for operation in operations:
        if isinstance(operation, FilterRows) and isinstance(operation.condition, Expression):
            looked_at = operation.condition.columns()
        elif isinstance(operation, WithColumns):
            looked_at = tuple(name for _, expression in operation.columns for name in expression.columns())
        elif isinstance(operation, SampleRows):
            looked_at = (operation.on,)
        elif isinstance(operation, MapBatches) and hasattr(operation.function, "columns_read"):
            needed.update((name, None) for name in operation.function.columns_read if name not in made)
            return tuple(needed)
        elif isinstance(operation, Select):
            needed.update((name, None) for name in operation.columns if name not in made)
            return tuple(needed)
        else:
            return None
        needed.update((name, None) for name in looked_at if name not in made)
        if isinstance(operation, WithColumns):
            made.update(name for name, _ in operation.columns)
    return None
