"""Configs of the stages that measure and filter documents: plain values, importable without Arrow."""

from dataclasses import dataclass, field
from typing import Literal

from marin.processing.filter.filters import Filter

# Part of the identity of both stages: raised when the same input and the same filters would give another output.
RECIPE_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class SignalsConfig:
    """What to measure of which documents."""

    # Folder with documents, or one file or glob of them.
    input_path: str
    # Folder that gets a parquet file of signals beside each file of documents, row by row.
    output_path: str
    # The filters whose signals are measured. Nothing is dropped.
    filters: tuple[Filter, ...]
    # The column that holds the text; it is `text` in what is written.
    text_column: str = field(default="text", metadata={"version": {"omit_when": "text"}})
    # Largest share of rows that may be no documents before the stage fails.
    max_bad: float = 0.01
    # Processes; None: one a CPU. The output does not depend on it.
    num_workers: int | None = field(default=None, metadata={"version": {"exclude": True}})

    def __post_init__(self) -> None:
        if isinstance(self.filters, tuple) and not self.filters:
            raise ValueError("SignalsConfig.filters is empty: there would be nothing to measure")


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which documents stay."""

    # Folder with documents, or one file or glob of them.
    input_path: str
    # Folder that gets the documents that stay (parquet), and _funnel.json: what each rule dropped, with samples.
    output_path: str
    # In the order in which they are asked and edit; each sees what the ones before left.
    filters: tuple[Filter, ...] = ()
    # Further rules, asked last: expressions over columns, like "gopher.num_words >= 50".
    rules: tuple[str, ...] = ()
    # Folders of signals of the documents as they are in input_path, made by `measure_signals` or by scoring. Up to the
    # first filter that edits texts, what `measure_signals` measured with the same settings is not measured again.
    attributes: tuple[str, ...] = ()
    # What a document means that has no attributes, or no value that a rule asks for: an error, or it goes or stays.
    missing: Literal["error", "drop", "keep"] = field(default="error", metadata={"version": {"omit_when": "error"}})
    # Whether the columns of signals and attributes are written with the documents.
    keep_signals: bool = False
    # The column that holds the text; it is `text` in what is written.
    text_column: str = field(default="text", metadata={"version": {"omit_when": "text"}})
    # Largest share of rows that may be no documents before the stage fails.
    max_bad: float = 0.01
    # Processes; None: one a CPU. The output does not depend on it.
    num_workers: int | None = field(default=None, metadata={"version": {"exclude": True}})

    def __post_init__(self) -> None:
        if self.missing not in ("error", "drop", "keep"):
            raise ValueError(f"FilterConfig.missing is {self.missing!r}; it is 'error', 'drop' or 'keep'")
        if (self.filters, self.rules) == ((), ()):
            raise ValueError("FilterConfig has neither filters nor rules: every document would stay")
