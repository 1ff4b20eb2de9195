"""C4's last filter: texts with a word of a list. The list is yours to bring; C4's was LDNOOBW's."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from marin.processing.filter.filters import Operation
from marin.processing.filter.lists import digest_of, entries
from marin.processing.filter.rules import Rule

if TYPE_CHECKING:
    import pyarrow as pa

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class BadWordsSignal:
    """Adds `bad_words.num_found`, 1 where the text has an entry of the list, and `bad_words.lot`, in [0, 1) by id."""

    version: ClassVar[int] = 1
    edits_text: ClassVar[bool] = False

    path: str = field(compare=False)  # the digest says what is in it
    sha256: str
    spaces_between_words: bool

    def adds(self) -> tuple[str, ...]:
        return ("bad_words.num_found", "bad_words.lot")

    def __call__(self, batch: "pa.RecordBatch") -> "pa.RecordBatch":
        import numpy as np
        import xxhash

        from marin.processing.filter.columns import texts_of, with_columns

        bad = entries(self.path, self.sha256)
        words = (
            frozenset(entry for entry in bad if _WORD.fullmatch(entry)) if self.spaces_between_words else frozenset()
        )
        phrases = sorted(bad - words)
        pattern = "|".join(map(re.escape, phrases)) if phrases else r"(?!)"
        phrase = re.compile(rf"(?<!\w)(?:{pattern})(?!\w)" if self.spaces_between_words else pattern)
        found = [
            not words.isdisjoint(_WORD.findall(text)) or phrase.search(text) is not None
            for text in map(str.lower, texts_of(batch))
        ]
        ids = (str(name).encode() for name in batch.column("id").to_pylist())
        lots = [(xxhash.xxh3_64_intdigest(name) >> 11) / 2**53 for name in ids]
        columns = {"bad_words.num_found": np.array(found, np.int64), "bad_words.lot": np.array(lots, np.float64)}
        return with_columns(batch, columns)


@dataclass(frozen=True, kw_only=True)
class BadWords:
    """Texts without a word of a list, in small or capital letters; a share of those with one may stay, chosen by id."""

    version: ClassVar[int] = 1

    # File of words and phrases, one a line.
    path: str
    # Whether a word is found only between characters that are no letters; False for Chinese, Japanese and Thai.
    spaces_between_words: bool = True
    # Share of the documents found that stay.
    keep_fraction: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.keep_fraction, int | float) and not 0 <= self.keep_fraction <= 1:
            raise ValueError(f"keep_fraction is {self.keep_fraction}; it is a share of documents, between 0 and 1")

    def operations(self) -> tuple[Operation, ...]:
        signal = BadWordsSignal(
            path=self.path, sha256=digest_of(self.path), spaces_between_words=self.spaces_between_words
        )
        return (signal,)

    def rules(self) -> tuple[Rule, ...]:
        lucky = f" or bad_words.lot < {self.keep_fraction!r}" if self.keep_fraction else ""
        return (
            Rule(
                name="bad_words.found",
                keep=f"bad_words.num_found == 0{lucky}",
                description="has a word of the list",
                source="Raffel et al. 2020 (arXiv:1910.10683), 2.2; keep_fraction: mC4",
            ),
        )
