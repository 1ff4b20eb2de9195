"""The line edits of RefinedWeb as DCLM rebuilt them: a text that loses much by them was no article, and goes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from marin.processing.filter.filters import Operation
from marin.processing.filter.rules import Rule, bounded

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class DclmLineEdits:
    """Replaces the text by the lines that stay, and adds why the others went and which share of the words that was."""

    version: ClassVar[int] = 1
    edits_text: ClassVar[bool] = True

    max_uppercase_ratio: float
    max_digit_ratio: float
    min_words_per_line: int

    def adds(self) -> tuple[str, ...]:
        from marin.processing.kernels.line_edits import DCLM_COUNTS

        return (*DCLM_COUNTS, "dclm.removed_word_ratio")

    def __call__(self, batch: "pa.RecordBatch") -> "pa.RecordBatch":
        import numpy as np

        from marin.processing.filter.columns import with_columns, with_text
        from marin.processing.kernels.arrow_text import text_buffer
        from marin.processing.kernels.line_edits import DCLM_COUNTS, dclm_lines

        edited = dclm_lines(
            *text_buffer(batch.column("text")),
            max_uppercase_ratio=self.max_uppercase_ratio,
            max_digit_ratio=self.max_digit_ratio,
            min_words=self.min_words_per_line,
        )
        columns = dict(zip(DCLM_COUNTS, edited.counts.T, strict=True))
        before, after = columns["dclm.num_words_before"], columns["dclm.num_words_after"]
        columns["dclm.removed_word_ratio"] = (before - after) / np.maximum(before, 1)
        return with_columns(with_text(batch, edited.data, edited.offsets), columns)


@dataclass(frozen=True, kw_only=True)
class DclmLines:
    """Without lines of capitals, digits, counters and single words; of texts that hardly had any."""

    version: ClassVar[int] = 1

    # Drop lines with a larger share of capitals among their characters.
    max_uppercase_ratio: float = 0.5
    # Drop lines with a larger share of digits: this one drops those of nothing else.
    max_digit_ratio: float = 0.999999
    # Drop lines of fewer words; empty ones stay.
    min_words_per_line: int = 2
    # Share of the words that may be lost before the text goes; None turns the rule off.
    max_removed_word_ratio: float | None = 0.05

    def operations(self) -> tuple[Operation, ...]:
        edits = DclmLineEdits(
            max_uppercase_ratio=self.max_uppercase_ratio,
            max_digit_ratio=self.max_digit_ratio,
            min_words_per_line=self.min_words_per_line,
        )
        return (edits,)

    def rules(self) -> tuple[Rule, ...]:
        return (
            Rule(
                name="dclm_lines.empty",
                keep="dclm.num_words_after >= 1",
                description="no line was left",
                source="DCLM, dclm_baseline_refinedweb.yaml",
            ),
            *bounded(
                "dclm_lines.removed_words",
                "dclm.removed_word_ratio",
                "the line edits took too much of it",
                "DCLM, dclm_baseline_refinedweb.yaml; Penedo et al. 2023 (arXiv:2306.01116), G.2",
                at_most=self.max_removed_word_ratio,
            ),
        )
