"""The items of evaluation sets, whatever files they come in."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marin.io.records import SUFFIXES as JSONL
from marin.io.rows import TEXT_SUFFIXES as _TEXT
from marin.io.rows import read_rows
from marin.processing.decontaminate.config import EvaluationSet
from marin.processing.formats.splits import find_files

_ROWS = (*JSONL, ".parquet", ".arrow")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that is asked."""

    id: str  # the row's own, else FILE:ROW, counted from 1
    prompts: tuple[str, ...]  # texts of which short ones count too
    others: tuple[str, ...]


def items_of(evaluation: EvaluationSet) -> Iterator[Item]:
    """All items of a set. ValueError where there are none, or where a named field is absent."""
    found = False
    for label, name in _files_of(evaluation):
        path = Path(name)
        parse = _from_lines if name.endswith(_TEXT) else _from_rows
        for item in parse(label, path, evaluation):
            found = True
            yield item
    if not found:
        raise ValueError(
            f"evaluation set {evaluation.name!r}: {evaluation.path} has no item with text. Rows of {', '.join(_ROWS)} "
            f"are looked for, and with lines_per_item lines of {', '.join(_TEXT)}"
        )


def _files_of(evaluation: EvaluationSet) -> list[tuple[str, str]]:
    """(label, path) of each file; of a folder those that hold rows or lines, a README or a script not.

    Nor what stands below a name with _ or . in front: `_done` and `_bad` are what a run says of its rows.
    """
    root = Path(evaluation.path)
    if not root.is_dir():
        return find_files(evaluation.path)
    endings = _ROWS if evaluation.lines_per_item is None else (*_ROWS, *_TEXT)
    files = sorted(path for path in root.rglob("*") if path.name.endswith(endings) and path.is_file())
    labels = [path.relative_to(root).as_posix() for path in files]
    return [
        (label, str(path))
        for label, path in zip(labels, files, strict=True)
        if not any(part.startswith(("_", ".")) for part in label.split("/"))
    ]


def _from_rows(label: str, path: Path, evaluation: EvaluationSet) -> Iterator[Item]:
    for number, (place, row) in enumerate(_read(path, evaluation), 1):
        absent = [name for name in evaluation.fields if name not in row]
        if absent:
            kind = "line" if path.name.endswith(JSONL) else "row"
            raise ValueError(
                f"evaluation set {evaluation.name!r}: {kind} {place} of {path} has no field {absent[0]!r}; its fields "
                f"are {', '.join(sorted(row))}"
            )
        prompts, others = [], []
        for name in evaluation.fields or row:
            if name != "id":
                (prompts if name in evaluation.prompt_fields else others).extend(_texts(row[name]))
        if prompts or others:
            given = row.get("id")
            yield Item(
                id=str(given) if isinstance(given, str | int) else f"{label}:{number}",
                prompts=tuple(prompts),
                others=tuple(others),
            )


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _from_lines(label: str, path: Path, evaluation: EvaluationSet) -> Iterator[Item]:
    if evaluation.lines_per_item is None:
        raise ValueError(
            f"evaluation set {evaluation.name!r}: {path} is plain text; give lines_per_item (--lines-per-item)"
        )
    for number, (_, row) in enumerate(_read(path, evaluation), 1):
        prompt, *others = row["lines"]
        yield Item(id=f"{label}:{number}", prompts=(prompt,), others=tuple(others))


def _read(path: Path, evaluation: EvaluationSet) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row or line number, row). ValueError that names the set for a file that cannot be read."""
    try:
        yield from read_rows(path, lines_per_item=evaluation.lines_per_item)
    except ValueError as error:
        raise ValueError(f"evaluation set {evaluation.name!r}: {error}") from error
