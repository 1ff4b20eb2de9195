"""Steps that consolidate documents."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from marin.execution.executor import ExecutorStep, InputName, this_output_path
from marin.processing.consolidate.config import RECIPE_VERSION, ConsolidateConfig, KeepFraction

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
