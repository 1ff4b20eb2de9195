"""Which joins can be made file by file: those whose right side has a file for each file of the left, by name."""

from collections.abc import Iterator
from dataclasses import replace

from marin.processing.formats.splits import FORMATS, find_files
from marin.processing.pipeline.dataset import (
    Dataset,
    FilesInput,
    GroupInput,
    ItemsInput,
    JoinInput,
    Part,
    uniquely_named,
)
from marin.processing.pipeline.operations import Attach


def by_files(dataset: Dataset) -> Dataset:
    """The data set with those joins as operations on the rows of files.

    ValueError where a join asks for that and it cannot be.
    """
    parts: list[Part] = []
    for part in dataset.parts:
        if isinstance(part.input, JoinInput):
            parts += _parts_of_join(part, part.input)
        else:
            parts.append(part)
    return replace(dataset, parts=tuple(parts))


def _parts_of_join(part: Part, join: JoinInput) -> list[Part]:
    # in the file of the same name alone no partner may be found; only an error cannot be taken for "there is none"
    if join.strategy == "shuffle" or (join.strategy == "auto" and join.missing != "error"):
        return [part]
    left = by_files(join.left)
    problem = _problem(left, join.right, join.on)
    if problem is not None:
        if join.strategy == "files":
            raise ValueError(f"join {join.name!r} cannot be made file by file: {problem}")
        return [part]
    parts = []
    for one in left.parts:
        attach = Attach(name=join.name, on=join.on[0], columns=join.columns, missing=join.missing)
        operations = one.operations
        for operation in (attach, *part.operations):
            operations = (*operations, uniquely_named(operation, operations, one.input))
        parts.append(Part(input=one.input, operations=operations, others=(*one.others, join.right, *part.others)))
    return parts


def _problem(left: Dataset, right: Dataset, on: tuple[str, ...]) -> str | None:
    """Why the files cannot be joined by name; None if they can."""
    if len(on) != 1:
        return "it is on several columns"
    if len(right.parts) != 1 or not isinstance(right.parts[0].input, FilesInput) or right.parts[0].others:
        return "its right side is not the rows of files"
    if not all(isinstance(part.input, FilesInput) for part in left.parts):
        return "its left side is not the rows of files"
    has = {stem(label) for label, _ in files_of(right)}
    for part in left.parts:
        for label, _ in files_of(Dataset(parts=(replace(part, others=()),))):
            if stem(label) not in has:
                return f"its right side has no file {stem(label)!r}"
    return None


def files_of(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """(label, path) of all files that a data set reads."""
    for part in dataset.parts:
        given = part.input
        if isinstance(given, FilesInput):
            yield from find_files(given.paths, format=given.format)
        elif isinstance(given, GroupInput):
            yield from files_of(given.dataset)
        elif isinstance(given, JoinInput):
            yield from files_of(given.left)
            yield from files_of(given.right)
        else:
            assert isinstance(given, ItemsInput)
        for other in part.others:
            yield from files_of(other)


def stem(label: str) -> str:
    """A file's label without the ending that says its format."""
    fitting = [ending for ending in FORMATS if label.endswith(ending)]
    return label.removesuffix(max(fitting, key=len)) if fitting else label
