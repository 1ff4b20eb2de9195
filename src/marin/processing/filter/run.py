"""Measure the signals of documents, and filter documents by them: the work of both stages, on the engine.

The order of a chain is kept: a rule sees what the filters before it left, and an edit changes what those behind it see.
Filters that only look are measured in one pass as early as that allows, since one visit of the text costs the same
for one signal as for all. What stands in attributes is not measured again, if it was measured as it would be here.
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from marin.io.files import file_info
from marin.processing.attributes import join_attributes
from marin.processing.filter.apply_rules import ApplyRules
from marin.processing.filter.config import FilterConfig, SignalsConfig
from marin.processing.filter.filters import Filter, Operation, merge, name_of
from marin.processing.filter.measured import forget_measured, made_by, read_measured, write_measured
from marin.processing.formats.reading import first_columns
from marin.processing.pipeline import BadRow, BatchResult, parse
from marin.processing.shards import document_shards
from marin.processing.text_column import documents_of

if TYPE_CHECKING:
    import pyarrow as pa

    from marin.processing.formats.splits import Split
    from marin.processing.pipeline.result import Result


# A longer text is a bad row: what is kept of a text while it is measured is some twenty times its size.
MAX_TEXT_BYTES = 32 << 20
_SHOWN = 4


@dataclass(frozen=True)
class RefuseLongTexts:
    """Texts of more bytes are bad rows."""

    version: ClassVar[int] = 1

    max_bytes: int = MAX_TEXT_BYTES

    def __call__(self, batch: "pa.RecordBatch") -> "pa.RecordBatch | BatchResult":
        import numpy as np
        import pyarrow as pa

        from marin.processing.kernels.arrow_text import text_buffer

        _, offsets = text_buffer(batch.column("text"))
        sizes = np.diff(offsets)
        if not len(sizes) or sizes.max() <= self.max_bytes:
            return batch
        bad = [
            BadRow(id=str(batch.column("id")[row].as_py()), reason=f"too long: {sizes[row]:,} bytes of text")
            for row in np.flatnonzero(sizes > self.max_bytes).tolist()
        ]
        return BatchResult(batch.filter(pa.array(sizes <= self.max_bytes)), bad=bad)


@dataclass(frozen=True)
class DropColumns:
    """Leaves out these columns, where they are."""

    version: ClassVar[int] = 1

    names: tuple[str, ...]

    def __call__(self, batch: "pa.RecordBatch") -> "pa.RecordBatch":
        return batch.select([name for name in batch.schema.names if name not in self.names])


def measure_signals(config: SignalsConfig) -> "Result":
    """Write the signals of every document, `id` first: one file for each of the documents, of its name, row by row.

    Raises ValueError for a filter that edits texts: its signals are those of another text.
    """
    editing = [
        type(each).__name__ for each in config.filters if any(operation.edits_text for operation in each.operations())
    ]
    if editing:
        raise ValueError(
            f"{', '.join(editing)} edits texts, so its signals are no attributes of the documents as they are; filter "
            "with it first, and measure what it wrote"
        )
    document_shards(config.input_path, config.text_column)
    documents = documents_of(config.input_path, config.text_column)
    documents = documents.map_batches(RefuseLongTexts(), name="length")
    measures = [step for step in steps(config.filters) if not isinstance(step.operation, ApplyRules)]
    for step in measures:
        documents = documents.map_batches(step.operation, name=step.name)
    signals = documents.select(["id", *_added(measures)])
    plan = signals.write_parquet(config.output_path, names="input")
    forget_measured(config.output_path)
    result = plan.run(workers=_workers(config), max_bad=config.max_bad)
    write_measured(config.output_path, [step.operation for step in measures])
    return result


def filter_documents(config: FilterConfig) -> "Result":
    """Write the documents that stay; the result has the funnel, which is in OUTPUT/_funnel.json too.

    Raises ValueError where the documents have no text, or a rule's column is not there, naming the nearest one, or the
    filter that measures it.
    """
    shards = document_shards(config.input_path, config.text_column)
    documents = documents_of(config.input_path, config.text_column)
    documents = documents.map_batches(RefuseLongTexts(), name="length")
    known: dict[str, Any] = {}
    for path in config.attributes:
        documents, columns = join_attributes(documents, path, missing=config.missing)
        measured = read_measured(path)
        known |= {name: measured.get(name) for name in columns}
    chain = steps(config.filters, known=known, missing=config.missing)
    _tell_of_others(known, chain)
    for step in chain:
        documents = documents.map_batches(step.operation, name=step.name)
    for rule in config.rules:
        documents = documents.filter(rule, missing=config.missing)
    added = known.keys() | set(_added(chain))
    _check_signals(config.rules, added, shards)
    if added and not config.keep_signals:
        documents = documents.map_batches(DropColumns(tuple(sorted(added))), name="without signals")
    return documents.write_parquet(config.output_path).run(workers=_workers(config), max_bad=config.max_bad)


def _check_signals(rules: Sequence[str], added: Collection[str], shards: Sequence["Split"]) -> None:
    """ValueError for a rule on a signal that no filter before it measures and the first file does not bring along."""
    from marin.processing.filter.reference import filters_that_measure

    missing = [(rule, name) for rule in rules for name in parse(rule).columns() if name not in added]
    missing = [(rule, name, makers) for rule, name in missing if (makers := filters_that_measure(name))]
    columns = first_columns(shards) if missing else None
    for rule, name, makers in missing:
        if columns is None or name in columns:
            continue
        raise ValueError(
            f"rule {rule!r}: nothing measures {name}, and {shards[0].path} has no such column. The filter "
            f"{' or '.join(makers)} measures it: apply it too (--filter {makers[0]}), or name attributes that have it "
            "(--attributes)"
        )


def _workers(config: SignalsConfig | FilterConfig) -> int | None:
    from marin.processing.formats.splits import find_files
    from marin.processing.shards import enough_workers

    sizes = [file_info(path).size for _, path in find_files(config.input_path)]
    return enough_workers(sum(sizes), config.num_workers)


def _tell_of_others(known: Mapping[str, Any], chain: Sequence["Step"]) -> None:
    """Say on stderr which columns are measured again, because the attributes have them by other settings or unknown."""
    others = []
    for step in chain:
        if isinstance(step.operation, ApplyRules):
            continue
        if step.operation.edits_text:
            break
        others += [name for name in step.operation.adds() if name in known]
    if others:
        shown = ", ".join(others[:_SHOWN]) + (" ..." if len(others) > _SHOWN else "")
        print(
            f"filter: measured again, since the attributes have them by other settings or do not say how: {shown}",
            file=sys.stderr,
        )


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation of a chain, and what counts call it."""

    name: str
    operation: Operation | ApplyRules


def steps(
    filters: Sequence[Filter],
    *,
    known: Mapping[str, Any] = MappingProxyType({}),
    missing: Literal["error", "drop", "keep"] = "error",
) -> list[Step]:
    """What a chain does, in order: measures, edits, and the rules of each filter.

    `known` has the columns that are there, with what made them (`made_by`). Before the first edit, an operation is left
    out whose columns are there as it would make them.
    """
    found: list[Step] = []
    last: int | None = None  # the measure or edit in `found` that came last
    for each in filters:
        for operation in each.operations():
            if operation.edits_text:
                known = {}
            elif known and all(known.get(name) == made_by(operation, name) for name in operation.adds()):
                continue
            together = None if last is None else merge(found[last].operation, operation)
            if last is not None and together is not None:
                found[last] = replace(found[last], operation=together)
            else:
                last = len(found)
                found.append(Step(name=type(operation).__name__, operation=operation))
        if each.rules():
            found.append(Step(name=name_of(each), operation=ApplyRules.of(each.rules(), missing=missing)))
    return found


def _added(chain: Sequence[Step]) -> tuple[str, ...]:
    """The columns that the measures and edits of a chain add, each once."""
    operations = (step.operation for step in chain if not isinstance(step.operation, ApplyRules))
    return tuple(dict.fromkeys(name for operation in operations for name in operation.adds()))
