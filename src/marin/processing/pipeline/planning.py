"""From a data set to stages and tasks: which shards there are, what each reads, and by what key it is known.

A plan depends on the operations and the files alone, never on how many work on it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import pyarrow as pa

from marin.processing.formats.splits import FORMATS, Split, find_files, format_of, plan_splits
from marin.processing.pipeline.dataset import Dataset, FilesInput, ItemsInput, Part
from marin.processing.pipeline.identity import digest_of, identity_of
from marin.processing.pipeline.operations import Operation, columns_needed
from marin.processing.pipeline.rows import wider_type
from marin.processing.pipeline.sinks import Sink
from marin.processing.pipeline.sources import FileParts, Items, Source, split_bytes
from marin.processing.pipeline.stage import Stage, Task

ENGINE_VERSION = 1
PACKED_BYTES = 8 << 20  # small files share a shard up to this
_MADE_BY_READERS = ("id", "source", "metadata")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A stage and its shards."""

    stage: Stage
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class _Shard:
    """A shard that has no name yet."""

    part: int
    source: Source
    label: str  # of its one file, "" where it has several or none


def plan(dataset: Dataset) -> list[Planned]:
    """The stages of a data set that is to be written, in the order in which they must be done."""
    target = dataset.target
    if target is None:
        raise ValueError("the plan does not say where the rows go: end it with write_parquet(folder) or write_jsonl")
    _check_output(target.path, dataset)
    shards = [shard for number in range(len(dataset.parts)) for shard in _shards(dataset, number)]
    names = _names(shards, target.names)
    chains = tuple(part.operations for part in dataset.parts)
    stage = Stage(name="00-map", root=target.path, folder="", chains=chains, sink=target.sink)
    tasks = [Task(name=name, chain=shard.part, source=shard.source) for name, shard in zip(names, shards, strict=True)]
    return [Planned(stage=stage, tasks=_keyed(stage, tasks))]


def shards_of(dataset: Dataset) -> Iterator[tuple[Part, Source]]:
    """The shards of a plan that need not end with writing."""
    for number, part in enumerate(dataset.parts):
        for shard in _shards(dataset, number):
            yield part, shard.source


def _keyed(stage: Stage, tasks: list[Task]) -> tuple[Task, ...]:
    """The tasks with their keys."""
    whats = [_identity_of_chain(chain, stage.sink) for chain in stage.chains]
    return tuple(
        replace(task, key=digest_of([ENGINE_VERSION, stage.name, task.name, whats[task.chain], task.inputs()]))
        for task in tasks
    )


def _identity_of_chain(operations: tuple[Operation, ...], sink: Sink) -> list[object]:
    return [identity_of(operations), identity_of(sink)]


def _shards(dataset: Dataset, number: int) -> Iterator[_Shard]:
    part = dataset.parts[number]
    if isinstance(part.input, ItemsInput):
        for source in _item_shards(part.input):
            yield _Shard(number, source, "")
    else:
        by_file = dataset.target is not None and dataset.target.names == "input"
        for source in file_shards(part.input, part.operations, by_file=by_file):
            labels = {split.label for split in source.splits}
            yield _Shard(number, source, labels.pop() if len(labels) == 1 else "")


def _item_shards(items: ItemsInput) -> Iterator[Items]:
    size = -(-len(items.rows) // items.num_shards)
    for shard in range(items.num_shards):
        yield Items(first=shard * size, rows=items.rows[shard * size : (shard + 1) * size])


def file_shards(files: FilesInput, operations: tuple[Operation, ...], *, by_file: bool) -> list[FileParts]:
    """Shards of files: large ones split, small ones packed, or with `by_file` one a file."""
    splits = plan_splits(files.paths, format=files.format, split_bytes=files.split_bytes)
    columns = columns_needed(operations)
    columns = files.columns if columns is None else columns
    casts = _casts(files, columns)
    groups = [list(group) for _, group in groupby(splits, lambda split: split.label)] if by_file else _packed(splits)
    return [FileParts(splits=tuple(group), columns=columns, casts=casts) for group in groups]


def _packed(splits: list[Split]) -> list[list[Split]]:
    groups: list[list[Split]] = []
    held = 0
    for split in splits:
        size = split_bytes(split)
        is_same_file = bool(groups) and groups[-1][-1].label == split.label
        if groups and held + size <= PACKED_BYTES and not is_same_file:
            groups[-1].append(split)
            held += size
        else:
            groups.append([split])
            held = size
    return groups


def _names(shards: list[_Shard], kind: str) -> list[str]:
    if kind == "part":
        return [f"part-{number:05d}-of-{len(shards):05d}" for number in range(len(shards))]
    names: dict[str, str] = {}
    for shard in shards:
        if not shard.label:
            raise ValueError("names='input' names shards by the files that are read, and some rows come from no file")
        name = stem(shard.label)
        if name in names:
            raise ValueError(f"names='input': {names[name]} and {shard.label} would both become {name}")
        names[name] = shard.label
    return list(names)


def stem(label: str) -> str:
    """A file's label without the ending that says its format."""
    fitting = [ending for ending in FORMATS if label.endswith(ending)]
    return label.removesuffix(max(fitting, key=len)) if fitting else label


def _check_output(output: str, dataset: Dataset) -> None:
    """ValueError where the output folder is read from as well."""
    root = os.path.realpath(output)
    for part in dataset.parts:
        if isinstance(part.input, FilesInput):
            for label, path in find_files(part.input.paths, format=part.input.format):
                if os.path.realpath(path).startswith(root + os.sep):
                    raise ValueError(
                        f"{output}: {label} is read from the folder that is written to; choose another one"
                    )


# -- columns of many files --------------------------------------------------------------------------------------------


def _casts(files: FilesInput, columns: tuple[str, ...] | None) -> tuple[tuple[str, pa.DataType], ...]:
    """The columns whose types differ between files, and the type that holds them all.

    ValueError naming files and types where there is none, or where a column that is read is not in all files.
    """
    types: dict[str, tuple[str, pa.DataType]] = {}  # column -> (a file that has it, type for all)
    schemas = {label: _schema_of(path, files.format or format_of(path)) for label, path in _typed_files(files)}
    changed: set[str] = set()
    for label, schema in schemas.items():
        for field in schema:
            if columns is not None and field.name not in columns:
                continue
            first, known = types.setdefault(field.name, (label, _plain_type(field.type)))
            wide = wider_type(known, _plain_type(field.type))
            if wide is None:
                raise ValueError(
                    f"column {field.name!r} is {known} in {first} and {field.type} in {label}: read them apart, and "
                    "make them of one type before they are put together"
                )
            if wide != known or wide != _plain_type(field.type):
                changed.add(field.name)
            types[field.name] = (first, wide)
    for name, (first, _) in types.items():
        for label, schema in schemas.items():
            if name not in schema.names and name not in _MADE_BY_READERS:
                raise ValueError(
                    f"column {name!r} is in {first} and not in {label}: say which columns to read, "
                    "Dataset.from_files(..., columns=[...]), or read the files apart"
                )
    return tuple((name, types[name][1]) for name in sorted(changed))


def _typed_files(files: FilesInput) -> list[tuple[str, str]]:
    found = find_files(files.paths, format=files.format)
    typed = [(label, path) for label, path in found if (files.format or format_of(path)) in ("parquet", "arrow")]
    return typed if len(typed) > 1 else []


def _schema_of(path: str, format: str) -> pa.Schema:
    import pyarrow.parquet as pq

    from marin.processing.formats.splits import is_arrow_file

    if format == "parquet":
        return pq.read_schema(path)
    with pa.memory_map(path) as source:
        return pa.ipc.open_file(source).schema if is_arrow_file(path) else pa.ipc.open_stream(source).schema


def _plain_type(type_: pa.DataType) -> pa.DataType:
    """The type as readers give it: strings are `string`."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return pa.string() if pa.types.is_large_string(type_) or pa.types.is_string_view(type_) else type_
