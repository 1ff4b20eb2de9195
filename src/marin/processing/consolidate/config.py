"""Config of consolidation: plain values, importable without Arrow."""

from dataclasses import dataclass, field
from typing import Literal

# Part of the identity of the stage: raised when the same input and config would give another output.
RECIPE_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class KeepFraction:
    """Keep the documents with the highest (or lowest) values of a column: exactly so many, whatever ties there are."""

    # Attribute with numbers.
    column: str
    # Share of all documents that have a value; round(share * their number) of them stay.
    share: float
    # Whether the highest values stay.
    highest: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.share, int | float) and not 0 < self.share <= 1:
            raise ValueError(f"KeepFraction({self.column!r}).share is {self.share}; it is above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class ConsolidateConfig:
    """Which documents stay, by their attributes, and which of their text."""

    # Folder with documents, or one file or glob of them.
    input_path: str
    # Folder that gets the documents that stay (parquet), and _funnel.json: what each rule dropped, with samples.
    output_path: str
    # Folders with attributes of these documents: signals, scores, duplicates, overlaps.
    attributes: tuple[str, ...]
    # Conditions that a document must satisfy, over its columns and attributes, like "quality.hq >= 0.018112".
    rules: tuple[str, ...] = ()
    # Shares to keep. Each is of all documents that come in, not of those that a rule has left, so that no order of the
    # rules changes what stays.
    keep_fractions: tuple[KeepFraction, ...] = ()
    # Attributes with spans to remove, lists of {start, end} in bytes of the UTF-8 text. Of all of them the union goes;
    # a document of which nothing but white space is left goes too.
    remove_spans: tuple[str, ...] = ()
    # What a document without attributes, or with a null in a rule, means: an error, or that it is dropped, or kept.
    missing: Literal["error", "drop", "keep"] = "error"
    # Keep this share of what is left, by a hash of the id; None: all.
    sample: float | None = None
    # Of the sample.
    seed: int = 0
    # Whether the attributes are written with the documents.
    keep_attributes: bool = False
    # Largest share of rows that may be no documents before the stage fails.
    max_bad: float = 0.01
    # Processes; None: one a CPU. The output does not depend on it.
    num_workers: int | None = field(default=None, metadata={"version": {"exclude": True}})

    def __post_init__(self) -> None:
        if not (self.rules or self.keep_fractions or self.remove_spans or self.sample is not None):
            raise ValueError(
                "ConsolidateConfig has no rules, keep_fractions, remove_spans or sample: every document would stay as "
                "it is"
            )
