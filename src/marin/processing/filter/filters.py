"""What every filter is, and the list of all of them.

A filter is a config of plain values. `operations()` are functions of record batches that add its signals as columns,
and where it edits, change the text; `rules()` are what must then hold of these columns. So the same filter can measure
without dropping, drop without measuring again, and be documented from itself.

To add one, write its class and register it here: tests/contracts/test_filters.py then holds it to the contract.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias, runtime_checkable

from marin.config import register_choice
from marin.processing.filter.rules import Rule

if TYPE_CHECKING:
    import pyarrow as pa

Operation: TypeAlias = "Callable[[pa.RecordBatch], pa.RecordBatch]"


@runtime_checkable
class Filter(Protocol):
    """The config of a filter: a frozen dataclass."""

    # Raised whenever an equal config could give other signals, edits or decisions.
    version: ClassVar[int]

    def operations(self) -> tuple[Operation, ...]:
        """Frozen dataclasses that are called with a record batch which has `text` and return it with more columns."""
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


def merged(operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """The operations, those that come one after the other and can be done in one pass as one of them."""
    result: list[Operation] = []
    for operation in operations:
        merge = getattr(result[-1], "merged_with", None) if result else None
        together = merge(operation) if merge else None
        if together is None:
            result.append(operation)
        else:
            result[-1] = together
    return tuple(result)
