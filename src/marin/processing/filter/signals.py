"""The operation that measures a text: one visit of it for the signals of all filters that only look."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import pyarrow as pa

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
GROUPS = ("text", "gopher", "repetition", "fineweb", "c4")

# What a word is. "whitespace": what stands between whitespace, as in the Gopher paper, dolma and DCLM. "unicode": a run
# of letters, digits, marks and connectors, one ideograph, or any other single character that is no space; near to the
# words of FineWeb's tokenizers, which part punctuation from words.
WordSplit = Literal["whitespace", "unicode"]


@dataclass(frozen=True, kw_only=True)
class TextSignals:
    """Adds a column for each signal of the groups: whole numbers as int64, ratios as float64."""

    version: ClassVar[int] = 1
    edits_text: ClassVar[bool] = False

    # Of "text", "gopher", "repetition", "fineweb", "c4".
    groups: tuple[str, ...]
    words: WordSplit = "whitespace"
    stop_words: tuple[str, ...] = STOP_WORDS

    def __post_init__(self) -> None:
        unknown = sorted(set(self.groups) - set(GROUPS))
        if unknown:
            raise ValueError(f"no signals {', '.join(unknown)}; there are {', '.join(GROUPS)}")
        check_word_split(self.words)

    def merged_with(self, other: Any) -> "TextSignals | None":
        """Both in one pass, where they mean the same by a word."""
        if not isinstance(other, TextSignals) or (other.words, other.stop_words) != (self.words, self.stop_words):
            return None
        return replace(self, groups=tuple(dict.fromkeys((*self.groups, *other.groups))))

    def of_column(self, column: str) -> "TextSignals":
        """What measures this column alone."""
        return replace(self, groups=(column.partition(".")[0],))

    def adds(self) -> tuple[str, ...]:
        from marin.processing.kernels.text_signals import SIGNALS

        return tuple(name for name in SIGNALS if name.split(".")[0] in self.groups)

    def __call__(self, batch: "pa.RecordBatch") -> "pa.RecordBatch":
        from marin.processing.filter.columns import with_columns
        from marin.processing.kernels.arrow_text import text_buffer
        from marin.processing.kernels.text_signals import SIGNALS, text_signals

        data, offsets = text_buffer(batch.column("text"))
        values = text_signals(data, offsets, unicode_words=self.words == "unicode", stop_words=self.stop_words)
        columns = dict(zip(SIGNALS, values.T, strict=True))
        return with_columns(batch, {name: columns[name] for name in self.adds()})


def check_word_split(words: str) -> None:
    if words not in ("whitespace", "unicode"):
        raise ValueError(f"words is {words!r}; a word is found by 'whitespace' or by 'unicode' rules")
