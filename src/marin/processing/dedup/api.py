"""Steps that deduplicate documents. The work function is named, not imported: planning loads no data library."""

from typing import TypeAlias

from marin.execution.executor import ExecutorStep, InputName, this_output_path
from marin.processing.dedup.config import RECIPE_VERSION, DedupConfig, Method

PathLike: TypeAlias = ExecutorStep | InputName | str


def deduplicate(
    name: str,
    dataset: PathLike,
    method: Method,
    *,
    priority: tuple[str, ...] = (),
    index: PathLike | None = None,
    max_removed_per_source: float = 0.8,
    max_removed_of: dict[str, float] | None = None,
    text_column: str = "text",
    max_bad: float = 0.01,
    write_documents: bool = True,
    num_workers: int | None = None,
    description: str | None = None,
    tags: frozenset[str] = frozenset(),
) -> ExecutorStep:
    """A step `deduplicated/<name>`: `step / "documents"` has what is left, `step / "attributes"` what was found.

    `dataset` is a step, a folder in one, or a path; `index` is `other / "index"`, the one of an earlier such step with
    the same method, whose documents come first. The step fails, with nothing removed, where a source would lose more of
    its documents than its limit.
    """
    return ExecutorStep(
        name=f"deduplicated/{name}",
        fn="marin.processing.dedup.run:dedup",
        config=DedupConfig(
            input_path=dataset,  # type: ignore[arg-type]  # a path when the step runs
            output_path=this_output_path(),  # type: ignore[arg-type]
            method=method,
            priority=priority,
            index_path=index,  # type: ignore[arg-type]
            max_removed_per_source=max_removed_per_source,
            max_removed_of=max_removed_of or {},
            text_column=text_column,
            max_bad=max_bad,
            write_documents=write_documents,
            num_workers=num_workers,
        ),
        description=description or f"remove duplicates from {name}",
        publish="inplace",
        code_version=str(RECIPE_VERSION),
        tags=tags,
    )
