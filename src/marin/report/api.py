"""Steps that write reports."""

from collections.abc import Mapping
from typing import Any

from marin.execution.executor import ExecutorStep, InputName, output_path_of, this_output_path
from marin.report.config import FunnelConfig, ReportConfig


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


def funnel_report(name: str, *, title: str, stages: Mapping[str, ExecutorStep | InputName]) -> ExecutorStep:
    """A step that writes funnel.html: documents, bytes and tokens in and out of each stage, and what each rule took.

    `stages` are the steps that documents pass through, by name, in order; last the token store.
    """
    inputs: dict[str, Any] = {
        label: output_path_of(step) if isinstance(step, ExecutorStep) else step for label, step in stages.items()
    }
    return ExecutorStep(
        name=name,
        fn="marin.report.funnel:write_funnel",
        config=FunnelConfig(title=title, stages=inputs, output_path=this_output_path()),
        description=title,
    )
