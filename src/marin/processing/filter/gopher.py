"""The filters of Gopher (Rae et al. 2021, arXiv:2112.11446, appendix A.1): quality, and repetition.

They are counted as datatrove 0.10.1 counts them, so that their decisions are those of FineWeb where words are the same;
what a word is decides more than any threshold, so it is part of the config.
"""

from dataclasses import dataclass
from typing import ClassVar

from marin.processing.filter.filters import Operation
from marin.processing.filter.rules import Rule, bounded
from marin.processing.filter.signals import STOP_WORDS, TextSignals, WordSplit, check_word_split

_QUALITY = "Rae et al. 2021, appendix A.1"
_REPETITION = "Rae et al. 2021, table A1"


@dataclass(frozen=True, kw_only=True)
class GopherQuality:
    """Texts of words that look like prose: neither lists, nor tables, nor code. None turns a rule off."""

    version: ClassVar[int] = 1

    # What a word is.
    words: WordSplit = "whitespace"
    # Words, those of nothing but punctuation left out.
    min_words: int | None = 50
    # Likewise.
    max_words: int | None = 100_000
    # Mean characters of a word.
    min_mean_word_length: float | None = 3.0
    # Likewise.
    max_mean_word_length: float | None = 10.0
    # Hash signs for each word.
    max_hash_ratio: float | None = 0.1
    # Ellipses for each word.
    max_ellipsis_ratio: float | None = 0.1
    # Share of the lines that begin with a bullet.
    max_bullet_line_ratio: float | None = 0.9
    # Share of the lines that end in an ellipsis.
    max_ellipsis_line_ratio: float | None = 0.3
    # Share of the words that have a letter.
    min_alpha_word_ratio: float | None = 0.8
    # Stop words that must occur.
    min_stop_words: int | None = 2
    # Whether these must be different ones; False counts each as often as it occurs, as DCLM does.
    distinct_stop_words: bool = True
    # Letter for letter: `The` is none.
    stop_words: tuple[str, ...] = STOP_WORDS

    def __post_init__(self) -> None:
        check_word_split(self.words)

    def operations(self) -> tuple[Operation, ...]:
        return (TextSignals(groups=("gopher",), words=self.words, stop_words=self.stop_words),)

    def rules(self) -> tuple[Rule, ...]:
        stop = "gopher.num_stop_words" if self.distinct_stop_words else "gopher.num_stop_word_occurrences"
        return (
            *self._rule("few_words", "gopher.num_words", "too few words", at_least=self.min_words),
            *self._rule("many_words", "gopher.num_words", "too many words", at_most=self.max_words),
            *self._rule(
                "short_words", "gopher.mean_word_length", "words too short", at_least=self.min_mean_word_length
            ),
            *self._rule("long_words", "gopher.mean_word_length", "words too long", at_most=self.max_mean_word_length),
            *self._rule("hashes", "gopher.hash_ratio", "too many hash signs", at_most=self.max_hash_ratio),
            *self._rule("ellipses", "gopher.ellipsis_ratio", "too many ellipses", at_most=self.max_ellipsis_ratio),
            *self._rule(
                "bullets",
                "gopher.bullet_line_ratio",
                "almost all lines are bullets",
                at_most=self.max_bullet_line_ratio,
            ),
            *self._rule(
                "ellipsis_lines",
                "gopher.ellipsis_line_ratio",
                "too many lines break off in an ellipsis",
                at_most=self.max_ellipsis_line_ratio,
            ),
            *self._rule(
                "no_letters",
                "gopher.alpha_word_ratio",
                "too many words without a letter",
                at_least=self.min_alpha_word_ratio,
            ),
            *self._rule("few_stop_words", stop, "too few stop words", at_least=self.min_stop_words),
        )

    @staticmethod
    def _rule(reason: str, signal: str, description: str, **threshold: float | None) -> tuple[Rule, ...]:
        return bounded(f"gopher_quality.{reason}", signal, description, _QUALITY, **threshold)


@dataclass(frozen=True, kw_only=True)
class GopherRepetition:
    """Texts that do not say the same again and again. None turns a rule off."""

    version: ClassVar[int] = 1

    # What a word is.
    words: WordSplit = "whitespace"
    # Share of the lines that equal one before.
    max_duplicate_line_ratio: float | None = 0.3
    # Share of the paragraphs that equal one before.
    max_duplicate_paragraph_ratio: float | None = 0.3
    # Share of the characters that stand in such lines.
    max_duplicate_line_char_ratio: float | None = 0.2
    # Share of the characters that stand in such paragraphs.
    max_duplicate_paragraph_char_ratio: float | None = 0.2
    # Share of the characters in the most frequent n-gram, for n = 2, 3, 4.
    max_top_ngram_char_ratio: tuple[float, ...] = (0.20, 0.18, 0.16)
    # Share of the characters in n-grams that occurred before, for n = 5 to 10.
    max_duplicate_ngram_char_ratio: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)

    def __post_init__(self) -> None:
        check_word_split(self.words)
        for name, most in (("max_top_ngram_char_ratio", 3), ("max_duplicate_ngram_char_ratio", 6)):
            given = getattr(self, name)
            if isinstance(given, tuple) and len(given) > most:
                raise ValueError(f"{name} has {len(given)} thresholds; there are signals for {most} lengths of n-gram")

    def operations(self) -> tuple[Operation, ...]:
        return (TextSignals(groups=("text", "repetition"), words=self.words),)

    def rules(self) -> tuple[Rule, ...]:
        return (
            Rule(
                name="gopher_repetition.empty",
                keep="text.num_chars >= 1",
                description="no text",
                source="datatrove 0.10.1",
            ),
            *self._rule("duplicate_paragraph_ratio", "repeated paragraphs", self.max_duplicate_paragraph_ratio),
            *self._rule(
                "duplicate_paragraph_char_ratio", "text in repeated paragraphs", self.max_duplicate_paragraph_char_ratio
            ),
            *self._rule("duplicate_line_ratio", "repeated lines", self.max_duplicate_line_ratio),
            *self._rule("duplicate_line_char_ratio", "text in repeated lines", self.max_duplicate_line_char_ratio),
            *(
                rule
                for n, threshold in enumerate(self.max_top_ngram_char_ratio, start=2)
                for rule in self._rule(f"top_{n}gram_char_ratio", f"one {n}-gram is much of the text", threshold)
            ),
            *(
                rule
                for n, threshold in enumerate(self.max_duplicate_ngram_char_ratio, start=5)
                for rule in self._rule(f"duplicate_{n}gram_char_ratio", f"text in repeated {n}-grams", threshold)
            ),
        )

    @staticmethod
    def _rule(statistic: str, description: str, threshold: float | None) -> tuple[Rule, ...]:
        name, signal = f"gopher_repetition.{statistic.removesuffix('_ratio')}", f"repetition.{statistic}"
        return bounded(name, signal, description, _REPETITION, at_most=threshold)
