# pyright: reportAttributeAccessIssue=false
"""What each operation does to the batches of a shard: one generator over another, counting as rows go by.

Only one batch of each operation is in memory at a time. A batch without rows is not handed to functions.
"""

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc  # its functions are made when it is imported, unknown to type checkers
import xxhash

from marin.processing.formats.reading import BATCH_BYTES, BATCH_ROWS, bounded
from marin.processing.pipeline.batch import SHOWN_CHARACTERS, BadRow, BatchResult, Dropped, Sample
from marin.processing.pipeline.counts import Counts
from marin.processing.pipeline.evaluate import check_columns, evaluate
from marin.processing.pipeline.expressions import Expression
from marin.processing.pipeline.join import Chained, Lookup, RightSide, table_of
from marin.processing.pipeline.operations import (
    Attach,
    FilterRows,
    FlatMapRows,
    MapBatches,
    MapRows,
    MapShard,
    Operation,
    SampleRows,
    Select,
    WithColumns,
)
from marin.processing.pipeline.rows import RowsToBatches, plain, samples_of, shown_row, text_bytes, to_rows

Batches = Iterator[pa.RecordBatch]
# By the name of an Attach, the right side that the shard before was joined with: the next is often of the same file.
Kept = dict[str, tuple[Attach, Chained, RightSide]]
TIMEOUT = "timeout"  # the kind of rows that took too long

# Told before each row of a function with a time limit: the row's number and the limit in CPU seconds; at the end -1, 0.
Watch = Callable[[int, float], None]


class OperationError(Exception):
    """A function of an operation raised something that is not about a row; the message has its part of the trace.

    A function that raises this itself has said all there is to say.
    """


def failed(operation: str, where: str, error: Exception) -> OperationError:
    """The error to raise for one that came out of a function."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first one is ours
    trace = "".join(traceback.format_list(frames)).rstrip()
    return OperationError(f"{operation}: {where}: {type(error).__name__}: {error}" + (f"\n{trace}" if trace else ""))


@dataclass
class Step:
    """One operation at work on one shard."""

    counts: Counts
    on_bad: Callable[[str, BadRow], None]  # (operation, row)
    watch: Watch = lambda row, limit_s: None
    attached: Chained | None = None  # the other data set's rows, for Attach
    kept: "Kept" = field(default_factory=dict)
    too_slow: frozenset[int] = frozenset()  # rows, by their number at this operation, that were stopped before
    seconds: float = field(default=0.0)  # CPU time up to and with this operation

    def bad(self, row: BadRow) -> None:
        self.counts.quarantine(row)
        self.on_bad(self.counts.name, row)


def apply(operation: Operation, batches: Batches, step: Step) -> Batches:
    """The rows that an operation makes of others, counted in `step`; the numbers are checked at the end."""
    incoming = _counted_in(batches, step.counts)
    if isinstance(operation, MapShard):
        results: Iterable[pa.RecordBatch | BatchResult] = operation.function(incoming)
        yield from _timed(_free(_checked_results(results, operation.name), step), step)
        if next(incoming, None) is not None:
            raise ValueError(
                f"{operation.name}: it ended before all batches of its shard were read, so rows would be lost"
            )
        return
    if isinstance(operation, Attach):
        yield from _timed(_attach(operation, incoming, step), step)
        return
    yield from _timed(_narrow(_TRANSFORMS[type(operation)], operation, incoming, step), step)


def _counted_in(batches: Batches, counts: Counts) -> Batches:
    for batch in batches:
        counts.rows_in += batch.num_rows
        counts.text_bytes_in += text_bytes(batch)
        yield batch


def _timed(batches: Batches, step: Step) -> Batches:
    """Count what comes out, and the CPU time up to there."""
    while True:
        began = time.process_time()
        batch = next(batches, None)
        step.seconds += time.process_time() - began
        if batch is None:
            return
        step.counts.rows_out += batch.num_rows
        step.counts.text_bytes_out += text_bytes(batch)
        yield batch


def _narrow(transform: "Transform", operation: Any, batches: Batches, step: Step) -> Batches:
    maker = RowsToBatches()
    for batch in batches:
        before = step.counts.num_dropped + step.counts.num_bad + step.counts.rows_in - batch.num_rows
        result = transform(operation, batch, step, maker)
        gone = step.counts.num_dropped + step.counts.num_bad + step.counts.rows_in - batch.num_rows - before
        more = result.num_rows + gone - batch.num_rows
        if more < 0 or (more > 0 and not _may_expand(operation)):
            raise ValueError(
                f"{operation.name}: {batch.num_rows} rows went in, {result.num_rows} came out, and {gone} were dropped "
                "or bad: say of every row that does not come out why (BatchResult.dropped, BatchResult.bad)"
                + ("" if more < 0 else ", and use expanding=True where rows are added")
            )
        step.counts.expanded += more
        if result.num_rows == 0:
            yield result
        else:
            yield from bounded(result, BATCH_ROWS, BATCH_BYTES)


def _attach(operation: Attach, batches: Batches, step: Step) -> Batches:
    """Join with the file of the same name, whose rows are read first."""
    assert step.attached is not None
    right = _right_side(operation, step.attached, step)
    lookup = None if right is None else Lookup(right, missing=operation.missing, part=step.attached.part)
    for batch in batches:
        if lookup is None and batch.num_rows:
            raise ValueError(f"join {operation.name!r}: the right side has no rows, so no columns are known")
        if lookup is not None and batch.schema.names:
            batch, gone = lookup.join(batch)
            step.counts.drop(f"{operation.name}: missing", int(gone.sum()))
        yield batch
    if lookup is not None:
        lookup.finish()


def _right_side(operation: Attach, attached: Chained, step: Step) -> RightSide | None:
    """The rows that are attached, in memory; None where there are none and no columns are known."""
    kept = step.kept.pop(operation.name, None)
    if kept is not None and kept[0] == operation and kept[1].is_of_same_rows(attached):
        step.kept[operation.name] = kept
        return kept[2]
    del kept  # two of them need not fit into memory
    reading = Counts(name=f"{operation.name}: read")
    table = table_of(attached.read(reading, step.on_bad), operation.name)
    if reading.num_bad:
        raise ValueError(f"join {operation.name!r}: {reading.num_bad} rows of its right side are bad: {reading.bad}")
    if not table.schema.names:
        return None
    right = RightSide(table, on=(operation.on,), columns=operation.columns, name=operation.name)
    step.kept[operation.name] = (operation, attached, right)
    return right


def _may_expand(operation: Operation) -> bool:
    return isinstance(operation, FlatMapRows) or (isinstance(operation, MapBatches) and operation.expanding)


# -- operations of batches --------------------------------------------------------------------------------------------

Transform = Callable[[Any, pa.RecordBatch, Step, RowsToBatches], pa.RecordBatch]


def _map_batches(operation: MapBatches, batch: pa.RecordBatch, step: Step, maker: RowsToBatches) -> pa.RecordBatch:
    if batch.num_rows == 0:
        return pa.record_batch([], schema=pa.schema([]))
    try:
        result = operation.function(batch)
    except Exception as error:
        first = shown_row(batch, 0)[0]
        raise failed(operation.name, f"the {batch.num_rows} rows from {first!r} on", error) from error
    return _take_result(result, operation.name, step)


def _take_result(result: Any, name: str, step: Step) -> pa.RecordBatch:
    if isinstance(result, pa.RecordBatch):
        return result
    if not isinstance(result, BatchResult):
        raise TypeError(f"{name}: returned {type(result).__name__}; a RecordBatch or BatchResult is expected")
    for rule, num_rows in result.dropped.items():
        step.counts.drop(rule, num_rows, result.samples.get(rule, ()))
    for row in result.bad:
        step.bad(row)
    return result.batch


def _checked_results(results: Any, name: str) -> Iterator[Any]:
    if results is None:
        raise TypeError(f"{name}: returned None; an iterator of record batches is expected")
    yield from results


def _free(results: Iterator[Any], step: Step) -> Batches:
    """The batches of a function of a whole shard; rows that it made fewer or more are counted as such at its end."""
    counts, rows_out = step.counts, 0
    for result in results:
        batch = _take_result(result, counts.name, step)
        rows_out += batch.num_rows
        yield from bounded(batch, BATCH_ROWS, BATCH_BYTES) if batch.num_rows else [batch]
    more = rows_out + counts.num_dropped + counts.num_bad - counts.rows_in
    counts.expanded += max(0, more)
    counts.merged += max(0, -more)


def _select(operation: Select, batch: pa.RecordBatch, step: Step, maker: RowsToBatches) -> pa.RecordBatch:
    if not batch.schema.names:
        return batch
    check_columns(operation.columns, batch.schema.names, operation.name)
    return batch.select(list(operation.columns))


def _with_columns(operation: WithColumns, batch: pa.RecordBatch, step: Step, maker: RowsToBatches) -> pa.RecordBatch:
    if not batch.schema.names:
        return batch
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    fields = {one.name: one for one in batch.schema}
    for name, expression in operation.columns:
        columns[name] = evaluate(expression, batch)
        fields[name] = pa.field(name, columns[name].type)
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=pa.schema(list(fields.values())))


def _filter(operation: FilterRows, batch: pa.RecordBatch, step: Step, maker: RowsToBatches) -> pa.RecordBatch:
    if batch.num_rows == 0:
        return batch
    condition = operation.condition
    if not isinstance(condition, Expression):
        return _filter_by_function(operation, batch, step)
    check_columns(condition.columns(), batch.schema.names, f"filter {operation.name!r}")
    mask = evaluate(condition, batch)
    if not pa.types.is_boolean(mask.type):
        raise ValueError(f"filter {operation.name!r}: {condition} is {mask.type}, and must be true or false")
    if mask.null_count and operation.missing == "error":
        raise ValueError(_undecided(operation, condition, batch, mask))
    if operation.missing == "drop":
        _count_dropped(f"{operation.name}: missing", batch, pc.is_null(mask), step, condition.columns())
    _count_dropped(operation.name, batch, pc.invert(mask).fill_null(False), step, condition.columns())
    kept = mask.fill_null(operation.missing == "keep")
    return batch if kept.true_count == batch.num_rows else batch.filter(kept)


def _undecided(operation: FilterRows, condition: Expression, batch: pa.RecordBatch, mask: pa.Array) -> str:
    index = pc.index(pc.is_null(mask), True).as_py()
    nulls = [name for name in condition.columns() if not batch.column(name)[index].is_valid]
    return (
        f"filter {operation.name!r}: row {shown_row(batch, index)[0]!r} has no value in {', '.join(nulls)}, so "
        f"{condition} is neither true nor false; say missing='drop' or missing='keep' (--missing) where that may be"
    )


def _count_dropped(rule: str, batch: pa.RecordBatch, is_out: pa.Array, step: Step, columns: tuple[str, ...]) -> None:
    out = pc.indices_nonzero(is_out).to_pylist()
    if out:
        is_new = rule not in step.counts.dropped
        step.counts.drop(rule, len(out), samples_of(batch, out, columns) if is_new else ())


def _sample(operation: SampleRows, batch: pa.RecordBatch, step: Step, maker: RowsToBatches) -> pa.RecordBatch:
    if batch.num_rows == 0:
        return batch
    check_columns((operation.on,), batch.schema.names, operation.name)
    limit = int(operation.share * 2**64)
    begin = f"{operation.seed}:".encode()
    values = batch.column(operation.on).to_pylist()
    keep = [xxhash.xxh3_64_intdigest(begin + str(value).encode()) < limit for value in values]
    step.counts.drop(operation.name, len(keep) - sum(keep))
    return batch.filter(pa.array(keep, pa.bool_()))


# -- operations of rows -----------------------------------------------------------------------------------------------


def _map_rows(operation: MapRows, batch: pa.RecordBatch, step: Step, maker: RowsToBatches) -> pa.RecordBatch:
    made: list[Any] = []
    origins: list[int] = []
    for index, result in _results_of_rows(operation, batch, step):
        if not isinstance(result, dict):
            raise TypeError(f"{operation.name}: returned {_kind(result)}; a dict or Dropped(rule) is expected")
        made.append(result)
        origins.append(index)
    return _batch_of(made, origins, batch, step, maker)


def _flat_map_rows(operation: FlatMapRows, batch: pa.RecordBatch, step: Step, maker: RowsToBatches) -> pa.RecordBatch:
    made: list[Any] = []
    origins: list[int] = []
    for index, result in _results_of_rows(operation, batch, step):
        if not isinstance(result, list | tuple) or not all(isinstance(row, dict) for row in result):
            raise TypeError(f"{operation.name}: returned {_kind(result)}; a list of dicts or Dropped(rule) is expected")
        if not result:
            step.counts.drop(f"{operation.name}: no rows", 1, samples_of(batch, [index], ()))
        made += result
        origins += [index] * len(result)
    return _batch_of(made, origins, batch, step, maker)


def _kind(result: Any) -> str:
    return "None" if result is None else type(result).__name__


def _results_of_rows(operation: MapRows | FlatMapRows, batch: pa.RecordBatch, step: Step) -> Iterator[tuple[int, Any]]:
    """(index in the batch, what the function returned) of the rows that are neither dropped nor bad."""
    first = step.counts.rows_in - batch.num_rows
    limit_s = operation.timeout_s
    for index, row in enumerate(to_rows(batch)):
        if limit_s is not None:
            if first + index in step.too_slow:
                reason = f"{TIMEOUT}: more than {limit_s:g} s of processor time"
                step.bad(_bad_row(batch, index, reason))
                continue
            step.watch(first + index, limit_s)
        try:
            result = operation.function(row)
        except ValueError as error:
            step.bad(_bad_row(batch, index, str(error) or "ValueError"))
            continue
        except OperationError:
            raise
        except Exception as error:
            raise failed(operation.name, f"row {shown_row(batch, index)[0]!r}", error) from error
        if isinstance(result, Dropped):
            row_id, source, text = shown_row(batch, index)
            numbers = {name: plain(value) for name, value in result.numbers.items()}
            step.counts.drop(result.rule, 1, [Sample(id=row_id, source=source, text=text, numbers=numbers)])
            continue
        yield index, result
    if limit_s is not None:
        step.watch(-1, 0.0)


def _bad_row(batch: pa.RecordBatch, index: int, reason: str) -> BadRow:
    row_id, _, text = shown_row(batch, index)
    return BadRow(id=row_id, reason=reason, text=text[:SHOWN_CHARACTERS])


def _batch_of(
    rows: list[Any], origins: list[int], batch: pa.RecordBatch, step: Step, maker: RowsToBatches
) -> pa.RecordBatch:
    made, unfit = maker.batch(rows)
    for index, reason in sorted(unfit.items()):
        step.bad(_bad_row(batch, origins[index], reason))
    return made


def _filter_by_function(operation: FilterRows, batch: pa.RecordBatch, step: Step) -> pa.RecordBatch:
    keep, bad = [], set()
    for index, row in enumerate(to_rows(batch)):
        try:
            keep.append(bool(operation.condition(row)))  # type: ignore[operator]
        except ValueError as error:
            step.bad(_bad_row(batch, index, str(error) or "ValueError"))
            keep.append(False)
            bad.add(index)
        except Exception as error:
            raise failed(operation.name, f"row {shown_row(batch, index)[0]!r}", error) from error
    out = [not kept and index not in bad for index, kept in enumerate(keep)]
    _count_dropped(operation.name, batch, pa.array(out, pa.bool_()), step, ())
    return batch.filter(pa.array(keep, pa.bool_()))


_TRANSFORMS: dict[type, Transform] = {
    MapRows: _map_rows,
    FlatMapRows: _flat_map_rows,
    MapBatches: _map_batches,
    FilterRows: _filter,
    Select: _select,
    WithColumns: _with_columns,
    SampleRows: _sample,
}
