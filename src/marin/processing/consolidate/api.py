"""Steps that consolidate documents, and deal them out to parts."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from marin.execution.executor import ExecutorStep, InputName, this_output_path
from marin.processing.consolidate.config import RECIPE_VERSION, ConsolidateConfig, KeepFraction
from marin.processing.consolidate.split import RECIPE_VERSION as SPLIT_RECIPE_VERSION
from marin.processing.consolidate.split import SplitConfig

PathLike: TypeAlias = ExecutorStep | InputName | str


def consolidate(
    name: str,
    documents: PathLike,
    attributes: Sequence[PathLike],
    *,
    rules: Sequence[str] = (),
    keep_fractions: Sequence[KeepFraction] = (),
    remove_spans: Sequence[str] = (),
    missing: Literal["error", "drop", "keep"] = "error",
    sample: float | None = None,
    seed: int = 0,
    keep_attributes: bool = False,
    max_bad: float = 0.01,
    num_workers: int | None = None,
    description: str | None = None,
    tags: frozenset[str] = frozenset(),
) -> ExecutorStep:
    """A step `consolidated/<name>` with the documents that stay, by their attributes: signals, scores, duplicates.

    `documents` and `attributes` are steps, folders in them, or paths; see `ConsolidateConfig` for the rest.
    """
    return ExecutorStep(
        name=f"consolidated/{name}",
        fn="marin.processing.consolidate.run:consolidate",
        config=ConsolidateConfig(
            input_path=documents,  # type: ignore[arg-type]  # a path when the step runs
            output_path=this_output_path(),  # type: ignore[arg-type]
            attributes=tuple(attributes),  # type: ignore[arg-type]
            rules=tuple(rules),
            keep_fractions=tuple(keep_fractions),
            remove_spans=tuple(remove_spans),
            missing=missing,
            sample=sample,
            seed=seed,
            keep_attributes=keep_attributes,
            max_bad=max_bad,
            num_workers=num_workers,
        ),
        description=description or f"consolidate {name}",
        publish="inplace",
        code_version=str(RECIPE_VERSION),
        tags=tags,
    )


def split(
    name: str, documents: PathLike, parts: Mapping[str, float], *, seed: int = 0, num_workers: int | None = None
) -> ExecutorStep:
    """A step `split/<name>` with the documents of each part in a folder of its name, by a hash of their ids.

    `split("docs", documents, {"train": 0.95, "validation": 0.05}) / "train"` is what a tokenizing step takes.
    """
    return ExecutorStep(
        name=f"split/{name}",
        fn="marin.processing.consolidate.split:split_documents",
        config=SplitConfig(
            input_path=documents,  # type: ignore[arg-type]  # a path when the step runs
            output_path=this_output_path(),  # type: ignore[arg-type]
            parts=dict(parts),
            seed=seed,
            num_workers=num_workers,
        ),
        description=f"{name} in parts: {', '.join(f'{part} {share:g}' for part, share in parts.items())}",
        publish="inplace",
        code_version=str(SPLIT_RECIPE_VERSION),
    )
