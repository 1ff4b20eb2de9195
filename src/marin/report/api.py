"""Steps that write reports."""

from collections.abc import Mapping
from typing import Any

from marin.execution.executor import ExecutorStep, InputName, output_path_of, this_output_path
from marin.report.config import ReportConfig


def report(name: str, *, title: str, steps: Mapping[str, ExecutorStep | InputName]) -> ExecutorStep:
    """A step that writes report.md and report.html about the outputs of steps, given by role.

    Roles a report looks into: documents, train, export, evaluation, and any token store. Others appear in the lineage.
    """
    inputs: dict[str, Any] = {
        role: output_path_of(s) if isinstance(s, ExecutorStep) else s for role, s in steps.items()
    }
    return ExecutorStep(
        name=name,
        fn="marin.report.render:write_report",
        config=ReportConfig(title=title, steps=inputs, output_path=this_output_path()),
        description=title,
    )
