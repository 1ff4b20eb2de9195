"""What a report is about. Apart from the rendering, so that planning one loads no plotting library."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """A page about one trained model."""

    title: str
    """Heading of the page."""

    steps: Mapping[str, str]
    """Output path of a step by its role: documents, tokenizer, tokens..., train, export, evaluation."""

    output_path: str
    """Folder that gets report.md, report.html and the pictures."""


@dataclass(frozen=True, kw_only=True)
class FunnelConfig:
    """How many documents are left of a pipeline's, stage by stage."""

    title: str
    """Heading of the page."""

    stages: Mapping[str, str]
    """Output folders of the stages that documents pass through, by name, in order; last the token store, if any."""

    output_path: str
    """Folder that gets funnel.json, funnel.md, funnel.html and funnel.svg."""
