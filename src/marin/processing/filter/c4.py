"""The filters of C4 (Raffel et al. 2020, arXiv:1910.10683, section 2.2) and mC4: lines that are sentences, and enough.

Sentences are counted by a rule of ours (`line_edits_reference.num_sentences`), where C4 has NLTK's Punkt and datatrove
spaCy's sentencizer: what they find differs in abbreviations and initials, and decides only near the threshold (how
often: benchmarks/results/filters.md).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from marin.processing.filter.filters import Operation
from marin.processing.filter.rules import Rule, bounded
from marin.processing.filter.signals import TextSignals

if TYPE_CHECKING:
    import pyarrow as pa

_PAPER = "Raffel et al. 2020, 2.2"


@dataclass(frozen=True, kw_only=True)
class C4LineEdits:
    """Replaces the text by the lines that C4 keeps, and adds why the others went."""

    version: ClassVar[int] = 1
    edits_text: ClassVar[bool] = True

    terminal_punctuation: bool
    min_words_per_line: int
    max_word_chars: int
    remove_citations: bool

    def adds(self) -> tuple[str, ...]:
        from marin.processing.kernels.c4_lines import C4_COUNTS

        return C4_COUNTS

    def __call__(self, batch: "pa.RecordBatch") -> "pa.RecordBatch":
        from marin.processing.filter.columns import with_columns, with_text
        from marin.processing.kernels.arrow_text import text_buffer
        from marin.processing.kernels.c4_lines import C4_COUNTS, c4_lines

        edited = c4_lines(
            *text_buffer(batch.column("text")),
            terminal_punctuation=self.terminal_punctuation,
            min_words=self.min_words_per_line,
            max_word_chars=self.max_word_chars,
            remove_citations=self.remove_citations,
        )
        batch = with_text(batch, edited.data, edited.offsets)
        return with_columns(batch, dict(zip(C4_COUNTS, edited.counts.T, strict=True)))


@dataclass(frozen=True, kw_only=True)
class C4:
    """Lines of at least three words that end in . ? ! or a quotation mark, in texts of at least five sentences.

    Lines with `javascript` or a phrase of privacy notices go, and marks like [1] and [edit]. FineWeb ran it with
    terminal_punctuation=False.
    """

    version: ClassVar[int] = 1

    # Drop lines that do not end in . ? ! " or ', or end in three dots.
    terminal_punctuation: bool = True
    # Drop lines of fewer words.
    min_words_per_line: int = 3
    # Drop lines with a longer word.
    max_word_chars: int = 1000
    # Take out [1], [], [edit] and [citation needed].
    remove_citations: bool = True
    # Of the lines that stay; None turns the rule off.
    min_sentences: int | None = 5
    # Whether `lorem ipsum` in a line is a reason against the whole text.
    reject_lorem_ipsum: bool = True
    # Whether a curly bracket is.
    reject_curly_brackets: bool = True

    def operations(self) -> tuple[Operation, ...]:
        edits = C4LineEdits(
            terminal_punctuation=self.terminal_punctuation,
            min_words_per_line=self.min_words_per_line,
            max_word_chars=self.max_word_chars,
            remove_citations=self.remove_citations,
        )
        return (edits,)

    def rules(self) -> tuple[Rule, ...]:
        lorem = bounded("c4.lorem_ipsum", "c4.num_lorem_ipsum", "has `lorem ipsum`", _PAPER, at_most=0)
        curly = bounded("c4.curly_bracket", "c4.num_curly_brackets", "has a curly bracket", _PAPER, at_most=0)
        sentences = bounded(
            "c4.few_sentences", "c4.num_sentences", "too few sentences", _PAPER, at_least=self.min_sentences
        )
        return (*(lorem if self.reject_lorem_ipsum else ()), *(curly if self.reject_curly_brackets else ()), *sentences)


@dataclass(frozen=True, kw_only=True)
class C4Paragraphs:
    """Texts with a few long lines, which mC4 takes for paragraphs."""

    version: ClassVar[int] = 1

    # Lines of at least 200 characters.
    min_paragraphs: int = 3

    def operations(self) -> tuple[Operation, ...]:
        return (TextSignals(groups=("c4",)),)

    def rules(self) -> tuple[Rule, ...]:
        source = "Xue et al. 2021 (arXiv:2010.11934), 3.1"
        return bounded(
            "c4_paragraphs.few", "c4.num_paragraphs", "too few long lines", source, at_least=self.min_paragraphs
        )
