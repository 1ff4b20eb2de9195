"""Steps that bring raw text in."""

from marin.download.standard_library import StandardLibraryConfig
from marin.execution.executor import ExecutorStep, this_output_path


def standard_library(
    name: str = "documents/python", *, validation_fraction: float = 0.05, max_documents: int | None = None
) -> ExecutorStep:
    """A step whose output has train/ and validation/ documents of the running interpreter's standard library."""
    return ExecutorStep(
        name=name,
        fn="marin.download.standard_library:collect_standard_library",
        config=StandardLibraryConfig(
            output_path=this_output_path(), validation_fraction=validation_fraction, max_documents=max_documents
        ),
        description="Sources and documentation topics of the running Python, split by file",
    )
