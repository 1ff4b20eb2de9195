"""Steps that measure the signals of documents, and filter them.

The work functions are named, not imported, so that planning loads no Arrow. What a filter is, with its version, is part
of a step's identity; so are lists that are given as steps, and the paths of others.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from marin.execution.executor import ExecutorStep, InputName, this_output_path
from marin.processing.filter.config import RECIPE_VERSION, FilterConfig, SignalsConfig
from marin.processing.filter.filters import Filter

PathLike: TypeAlias = ExecutorStep | InputName | str


def measure_signals(
    name: str,
    documents: PathLike,
    filters: Sequence[Filter],
    *,
    text_column: str = "text",
    max_bad: float = 0.01,
    num_workers: int | None = None,
    description: str | None = None,
    tags: frozenset[str] = frozenset(),
) -> ExecutorStep:
    """A step `signals/<name>` with the signals of every document, in files of the documents' names, row by row.

    `documents` is a step, a folder in one, or a path. Any number of `filter_documents` can then try thresholds on them.
    """
    return ExecutorStep(
        name=f"signals/{name}",
        fn="marin.processing.filter.run:measure_signals",
        config=SignalsConfig(
            input_path=documents,  # type: ignore[arg-type]  # a path when the step runs
            output_path=this_output_path(),  # type: ignore[arg-type]
            filters=tuple(filters),
            text_column=text_column,
            max_bad=max_bad,
            num_workers=num_workers,
        ),
        description=description or f"signals of {name}",
        publish="inplace",
        code_version=_versions(filters),
        tags=tags,
    )


def filter_documents(
    name: str,
    documents: PathLike,
    filters: Sequence[Filter] = (),
    *,
    rules: Sequence[str] = (),
    attributes: Sequence[PathLike] = (),
    missing: Literal["error", "drop", "keep"] = "error",
    keep_signals: bool = False,
    text_column: str = "text",
    max_bad: float = 0.01,
    num_workers: int | None = None,
    description: str | None = None,
    tags: frozenset[str] = frozenset(),
) -> ExecutorStep:
    """A step `filtered/<name>` with the documents that satisfy the rules of all filters, and `rules` beside them.

    `attributes` are signals or scores of these documents: steps, folders in them, or paths. `missing` says
    what a document means that is not among them, or has no value there: an error, or that it goes or stays.
    """
    return ExecutorStep(
        name=f"filtered/{name}",
        fn="marin.processing.filter.run:filter_documents",
        config=FilterConfig(
            input_path=documents,  # type: ignore[arg-type]  # a path when the step runs
            output_path=this_output_path(),  # type: ignore[arg-type]
            filters=tuple(filters),
            rules=tuple(rules),
            attributes=tuple(attributes),  # type: ignore[arg-type]
            missing=missing,
            keep_signals=keep_signals,
            text_column=text_column,
            max_bad=max_bad,
            num_workers=num_workers,
        ),
        description=description or f"filter {name}",
        publish="inplace",
        code_version=_versions(filters),
        tags=tags,
    )


def _versions(filters: Sequence[Filter]) -> str:
    return ", ".join([str(RECIPE_VERSION), *(f"{type(each).__name__} {type(each).version}" for each in filters)])
