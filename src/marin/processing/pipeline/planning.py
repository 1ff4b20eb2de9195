"""From a data set to stages and tasks: which shards there are, what each reads, and by what key it is known.

A plan depends on the operations and the files alone, never on how many work on it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

from marin.io.files import each, file_info, real_path
from marin.processing.formats.splits import Split, plan_splits
from marin.processing.pipeline.aligned import by_files, files_of, stem
from marin.processing.pipeline.columns import casts_of
from marin.processing.pipeline.dataset import Dataset, FilesInput, GroupInput, ItemsInput, JoinInput, Names, Part
from marin.processing.pipeline.identity import digest_of, identity_of
from marin.processing.pipeline.join import Chained, Joined, PartOfFile
from marin.processing.pipeline.manifest import WORK_FOLDER
from marin.processing.pipeline.operations import Attach, Operation, columns_needed
from marin.processing.pipeline.reduce import Groups
from marin.processing.pipeline.shuffle import Spills, SpillSink
from marin.processing.pipeline.sinks import Sink
from marin.processing.pipeline.sources import FileParts, Items, Source, split_bytes
from marin.processing.pipeline.stage import Stage, Task, output_path

ENGINE_VERSION = 2  # of what readers and operations make of the same files
PACKED_BYTES = 8 << 20  # small files share a shard up to this
PARTITION_BYTES = 64 << 20  # of input, for each partition where their number is not given


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A stage and its shards."""

    stage: Stage
    tasks: tuple[Task, ...]
    feeds: str | None  # the stage that reads what this one makes, None of the last


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """A shard that has no name yet."""

    part: int
    source: Source
    source_name: str = "read"
    attached: tuple[Chained, ...] = ()
    label: str = ""  # of its one file, "" where it has several or none


def plan(dataset: Dataset) -> list[Planned]:
    """The stages of a data set that is to be written, in the order in which they must be done."""
    target = dataset.target
    if target is None:
        raise ValueError("the plan does not say where the rows go: end it with write_parquet(folder) or write_jsonl")
    planner = _Planner(target.path)
    planner.add(dataset, "write", target.sink, folder="", names=target.names, feeds=None)
    return planner.stages


def shards_of(dataset: Dataset) -> Iterator[tuple[Part, Source, tuple[Chained, ...]]]:
    """The shards of a plan that need not end with writing, and what is attached to them."""
    dataset = by_files(dataset)
    planner = _Planner(None)
    for number, part in enumerate(dataset.parts):
        for shard in planner.shards(part, number, names="part", stage=""):
            yield part, shard.source, shard.attached


class _Planner:
    """Collects the stages, those first that others read from."""

    def __init__(self, root: str | None):
        self._root = root
        self.stages: list[Planned] = []

    def add(
        self, dataset: Dataset, kind: str, sink: Sink, *, folder: str | None, names: Names, feeds: str | None
    ) -> Planned:
        """Plan the stage that carries out a data set, after those that it needs."""
        assert self._root is not None
        dataset = by_files(dataset)
        name = f"{kind}" if feeds is None else f"{feeds}.{kind}"
        shards = [
            shard
            for number, part in enumerate(dataset.parts)
            for shard in self.shards(part, number, names=names, stage=name)
        ]
        stage = Stage(
            name=name,
            root=self._root,
            folder=os.path.join(WORK_FOLDER, name) if folder is None else folder,
            chains=tuple(part.operations for part in dataset.parts),
            sink=sink,
        )
        tasks = [
            Task(
                name=task_name,
                chain=shard.part,
                source=shard.source,
                source_name=shard.source_name,
                attached=shard.attached,
            )
            for task_name, shard in zip(_names(shards, names), shards, strict=True)
        ]
        planned = Planned(stage=stage, tasks=_keyed(stage, tasks), feeds=feeds)
        self.stages.append(planned)
        return planned

    def shards(self, part: Part, number: int, *, names: Names, stage: str) -> list[_Shard]:
        """The shards of one part of a data set."""
        given = part.input
        if isinstance(given, ItemsInput):
            return [_Shard(part=number, source=source) for source in _item_shards(given)]
        if isinstance(given, FilesInput):
            return _file_shards(part, given, number, names=names, root=self._root)
        if self._root is None:
            raise ValueError(
                f"{given.name}: a group or join puts rows on the disk on their way, so it cannot be iterated: end the "
                "plan with write_parquet, run it, and read the result"
            )
        if isinstance(given, GroupInput):
            return self._group_shards(given, number, f"{stage}.{number}")
        return self._join_shards(given, number, f"{stage}.{number}")

    def _group_shards(self, given: GroupInput, number: int, feeds: str) -> list[_Shard]:
        size = given.num_shards or _num_partitions([given.dataset])
        spills = self._partitioned(given.dataset, "group", given.keys, given.order_by, size, feeds)
        return [
            _Shard(
                part=number,
                source=Groups(name=given.name, spills=spill, keys=given.keys, reducer=given.reducer),
                source_name=given.name,
            )
            for spill in spills
        ]

    def _join_shards(self, given: JoinInput, number: int, feeds: str) -> list[_Shard]:
        size = given.num_shards or _num_partitions([given.left, given.right])
        left = self._partitioned(given.left, "left", given.on, (), size, feeds)
        right = self._partitioned(given.right, "right", given.on, (), size, feeds)
        return [
            _Shard(
                part=number,
                source=Joined(
                    name=given.name, left=one, right=other, on=given.on, columns=given.columns, missing=given.missing
                ),
                source_name=given.name,
            )
            for one, other in zip(left, right, strict=True)
        ]

    def _partitioned(
        self, dataset: Dataset, kind: str, keys: tuple[str, ...], order_by: tuple[str, ...], size: int, feeds: str
    ) -> list[Spills]:
        """The partitions of a data set, which another stage writes."""
        sink = SpillSink(keys=keys, order_by=order_by, num_partitions=size)
        planned = self.add(dataset, kind, sink, folder=None, names="part", feeds=feeds)
        assert self._root is not None
        return [
            Spills(
                root=self._root,
                paths=tuple(output_path(planned.stage, task) for task in planned.tasks),
                stage=planned.stage.name,
                digest=digest_of([task.key for task in planned.tasks]),
                partition=partition,
                order=tuple(sink.order),
            )
            for partition in range(size)
        ]


def _keyed(stage: Stage, tasks: list[Task]) -> tuple[Task, ...]:
    """The tasks with their keys."""
    whats = [_identity_of_chain(chain, stage.sink) for chain in stage.chains]
    return tuple(
        replace(task, key=digest_of([ENGINE_VERSION, stage.name, task.name, whats[task.chain], task.inputs()]))
        for task in tasks
    )


def _identity_of_chain(operations: tuple[Operation, ...], sink: Sink) -> list[object]:
    return [identity_of(operations), identity_of(sink)]


def _item_shards(items: ItemsInput) -> Iterator[Items]:
    size = -(-len(items.rows) // items.num_shards)
    for shard in range(items.num_shards):
        yield Items(first=shard * size, rows=items.rows[shard * size : (shard + 1) * size])


def _file_shards(part: Part, files: FilesInput, number: int, *, names: Names, root: str | None) -> list[_Shard]:
    """Shards of files: large ones split, small ones packed; named by the input one a file, of a whole none packed.

    Where other files are attached by name, a shard is of one file. `root` is the output folder, which cannot be read.
    """
    splits = plan_splits(files.paths, format=files.format, split_bytes=files.split_bytes)
    if root is not None:
        _check_outside(root, splits)
    columns = columns_needed(part.operations)
    columns = files.columns if columns is None else columns
    casts = casts_of(splits, columns)
    if names == "input":
        groups = [list(group) for _, group in groupby(splits, lambda split: split.label)]
    elif names == "shard" or part.others:
        groups = [[split] for split in splits]
    else:
        groups = _packed(splits)
    attached = _attachments(part, root)
    last = {split.label: split for split in splits}
    shards = []
    for group in groups:
        labels = {split.label for split in group}
        label = labels.pop() if len(labels) == 1 else ""
        of_file = PartOfFile(is_first=group[0].start == 0, is_last=bool(label) and group[-1] is last[label])
        shards.append(
            _Shard(
                part=number,
                source=FileParts(splits=tuple(group), columns=columns, casts=casts),
                attached=tuple(replace(sources[stem(label)], part=of_file) for sources in attached),
                label=label,
            )
        )
    return shards


def _attachments(part: Part, root: str | None) -> list[dict[str, Chained]]:
    """For each join of files, the right side's rows by the name of their file."""
    found = []
    joins = [operation for operation in part.operations if isinstance(operation, Attach)]
    for join, other in zip(joins, part.others, strict=True):
        (right,) = other.parts
        wanted = None if join.columns is None else tuple(dict.fromkeys([join.on, *join.columns]))
        assert isinstance(right.input, FilesInput)
        files = right.input if right.operations or wanted is None else replace(right.input, columns=wanted)
        sources: dict[str, Chained] = {}
        identity = identity_of(right.operations)
        for shard in _file_shards(replace(right, input=files), files, 0, names="input", root=root):
            sources[stem(shard.label)] = Chained(source=shard.source, operations=right.operations, identity=identity)
        found.append(sources)
    return found


def _check_outside(root: str, splits: list[Split]) -> None:
    """ValueError where the output folder is read from as well."""
    output = real_path(root)
    labels = {os.path.dirname(split.path): split.label for split in splits}
    for folder, label in labels.items():
        if (real_path(folder) + os.sep).startswith(output + os.sep):
            raise ValueError(f"{root}: {label} is read from the folder that is written to; choose another one")


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


def _num_partitions(datasets: list[Dataset]) -> int:
    paths = [path for dataset in datasets for _, path in files_of(dataset)]
    size = sum(each(lambda path: file_info(path).size, paths, where=paths[0] if paths else ""))
    return max(1, -(-size // PARTITION_BYTES))


def _names(shards: list[_Shard], by: Names) -> list[str]:
    if by == "part":
        return [f"part-{number:05d}-of-{len(shards):05d}" for number in range(len(shards))]
    if by == "shard":
        return [f"shard-{number:05d}" for number in range(len(shards))]
    names: dict[str, str] = {}
    for shard in shards:
        if not shard.label:
            raise ValueError("names='input' names shards by the files that are read, and some rows come from no file")
        name = stem(shard.label)
        if any(not part or part[0] in "._" for part in name.split("/")):  # absolute, "..", or passed over by readers
            raise ValueError(
                f"names='input': {shard.label} would become {name!r}, and readers of the output pass over names that "
                "begin with '.' or '_': name a folder above it as the input, or move the file"
            )
        if name in names:
            raise ValueError(f"names='input': {names[name]} and {shard.label} would both become {name}")
        names[name] = shard.label
    return list(names)
