"""The filter that FineWeb adds to those of Gopher and C4 (Penedo et al. 2024, arXiv:2406.17557, section 3.6)."""

from dataclasses import dataclass
from typing import ClassVar

from marin.processing.filter.filters import Operation
from marin.processing.filter.rules import Rule, bounded
from marin.processing.filter.signals import TextSignals, WordSplit, check_word_split

_PAPER = "Penedo et al. 2024, 3.6"


@dataclass(frozen=True, kw_only=True)
class FineWebQuality:
    """Texts whose lines are sentences: not menus, not lists. Of lines that are not blank; None turns a rule off."""

    version: ClassVar[int] = 1

    # What a word is, for the newlines a word.
    words: WordSplit = "whitespace"
    # Share of the lines that end a sentence.
    min_terminal_line_ratio: float | None = 0.12
    # Share of the lines of at most 30 characters.
    max_short_line_ratio: float | None = 0.67
    # Share of the characters in lines that equal one before: 0.01 in the code that made FineWeb, 0.1 in its paper.
    max_duplicate_line_char_ratio: float | None = 0.01
    # Newlines for each word.
    max_newline_word_ratio: float | None = 0.3

    def __post_init__(self) -> None:
        check_word_split(self.words)

    def operations(self) -> tuple[Operation, ...]:
        return (TextSignals(groups=("fineweb",), words=self.words),)

    def rules(self) -> tuple[Rule, ...]:
        return (
            *bounded(
                "fineweb_quality.no_sentences",
                "fineweb.terminal_line_ratio",
                "too few lines end a sentence",
                _PAPER,
                at_least=self.min_terminal_line_ratio,
            ),
            *bounded(
                "fineweb_quality.short_lines",
                "fineweb.short_line_ratio",
                "too many short lines",
                _PAPER,
                at_most=self.max_short_line_ratio,
            ),
            *bounded(
                "fineweb_quality.duplicate_lines",
                "fineweb.duplicate_line_char_ratio",
                "text in repeated lines",
                "0.01: datatrove 0.10.1, as FineWeb ran; the paper has 0.1",
                at_most=self.max_duplicate_line_char_ratio,
            ),
            *bounded(
                "fineweb_quality.newlines",
                "fineweb.newline_word_ratio",
                "a list: many newlines for its words",
                "datatrove 0.10.1, as FineWeb ran",
                at_most=self.max_newline_word_ratio,
            ),
        )
