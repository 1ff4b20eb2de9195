"""Steps that decontaminate. The work function is named, not imported: planning loads no data library."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from marin.execution.executor import ExecutorStep, InputName, this_output_path
from marin.processing.decontaminate.config import RECIPE_VERSION, DecontaminateConfig, EvaluationSet

PathLike: TypeAlias = ExecutorStep | InputName | str


def remove_evaluation_items(
    name: str,
    dataset: PathLike,
    against: Sequence[EvaluationSet],
    *,
    remove: Literal["document", "paragraph", "attributes"] = "document",
    ngram: int = 13,
    min_paragraph_overlap: float = 0.5,
    min_item_coverage: float = 0.5,
    max_document_share: float | None = None,
    text_column: str = "text",
    max_bad: float = 0.01,
    num_workers: int | None = None,
    description: str | None = None,
    tags: frozenset[str] = frozenset(),
) -> ExecutorStep:
    """A step `decontaminated/<name>`: `step / "documents"` has what is left, its report.json names the items found.

    `dataset` is a step, a folder in one, or a path. With remove="attributes" nothing is removed, and the step is a
    report on the overlap of two data sets.
    """
    return ExecutorStep(
        name=f"decontaminated/{name}",
        fn="marin.processing.decontaminate.run:decontaminate",
        config=DecontaminateConfig(
            input_path=dataset,  # type: ignore[arg-type]  # a path when the step runs
            output_path=this_output_path(),  # type: ignore[arg-type]
            against=tuple(against),
            remove=remove,
            ngram=ngram,
            min_paragraph_overlap=min_paragraph_overlap,
            min_item_coverage=min_item_coverage,
            max_document_share=max_document_share,
            text_column=text_column,
            max_bad=max_bad,
            num_workers=num_workers,
        ),
        description=description or f"remove evaluation items from {name}",
        publish="inplace",
        code_version=str(RECIPE_VERSION),
        tags=tags,
    )
