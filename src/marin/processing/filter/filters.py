"""What every filter is, and the list of all of them.

A filter is a config of plain values. `operations()` are functions of record batches that add its signals as columns,
and where it edits, change the text; `rules()` are what must then hold of these columns. So the same filter can measure
without dropping, drop without measuring again, and be documented from itself.

To add one, write its class and register it here: tests/contracts/test_filters.py then holds it to the contract.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from marin.config import register_choice
from marin.processing.filter.rules import Rule

if TYPE_CHECKING:
    import pyarrow as pa


class Operation(Protocol):
    """A function of record batches, as a frozen dataclass."""

    # Raised whenever an equal operation could give another result.
    version: ClassVar[int]
    # Whether the text behind it may be another one; all signals before it are then those of another text.
    edits_text: ClassVar[bool]

    def adds(self) -> tuple[str, ...]:
        """The columns that it adds."""
        ...

    def __call__(self, batch: "pa.RecordBatch") -> "pa.RecordBatch":
        """The batch, of as many rows, with more columns."""
        ...


@runtime_checkable
class Filter(Protocol):
    """The config of a filter: a frozen dataclass."""

    # Raised whenever an equal config could give other signals, edits or decisions.
    version: ClassVar[int]

    def operations(self) -> tuple[Operation, ...]:
        """What adds the signals of the rules, from `text`, `id` and what the filter says it needs."""
        ...

    def rules(self) -> tuple[Rule, ...]:
        """What a document must satisfy, in the order in which it is asked: the first that fails counts."""
        ...


# Name -> class. One line adds a filter to configs, the command line, the contract test and docs/reference/filters.md.
FILTERS: dict[str, str] = {
    "url_lists": "marin.processing.filter.url_lists:UrlLists",
    "language": "marin.processing.filter.language:LanguageIs",
    "gopher_repetition": "marin.processing.filter.gopher:GopherRepetition",
    "gopher_quality": "marin.processing.filter.gopher:GopherQuality",
    "c4": "marin.processing.filter.c4:C4",
    "c4_paragraphs": "marin.processing.filter.c4:C4Paragraphs",
    "bad_words": "marin.processing.filter.bad_words:BadWords",
    "fineweb_quality": "marin.processing.filter.fineweb:FineWebQuality",
    "dclm_lines": "marin.processing.filter.dclm:DclmLines",
    "compression_ratio": "marin.processing.filter.compression:CompressionRatio",
    "pii": "marin.processing.filter.pii:MaskPii",
}
for _name, _target in FILTERS.items():
    register_choice(Filter, _name, _target)


def name_of(given: Filter) -> str:
    """The name that a filter is registered by, or that of its class."""
    target = f"{type(given).__module__}:{type(given).__qualname__}"
    return next((name for name, known in FILTERS.items() if known == target), type(given).__name__)


def merge(first: Any, second: Any) -> Any:
    """Both operations as one that does the work of one, or None where they are not of that kind."""
    merged_with = getattr(first, "merged_with", None)
    return merged_with(second) if merged_with else None
