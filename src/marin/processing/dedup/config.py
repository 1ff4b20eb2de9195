"""Configs of deduplication: plain values, importable without a data library.

Every method first writes attributes, rows beside the documents that say what each duplicates; removal reads those. So
what would be removed can be looked at before it is, and a limit holds it up that no method can be talked out of:
`max_removed_per_source`.
"""

from dataclasses import dataclass, field
from typing import Literal

# Part of the identity of a step: raised when the same input would give another output.
RECIPE_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class ExactConfig:
    """The same text, by its 128-bit xxh3 hash."""

    # "document": whole texts. "paragraph": what empty lines divide, within a document and across.
    on: Literal["document", "paragraph"] = "document"
    # Paragraphs of fewer UTF-8 bytes stay wherever they are: a brace or a date says nothing of its document.
    min_paragraph_bytes: int = 64

    def __post_init__(self) -> None:
        if self.on not in ("document", "paragraph"):
            raise ValueError(f"on is {self.on!r}; it is 'document' or 'paragraph'")


@dataclass(frozen=True, kw_only=True)
class MinHashConfig:
    """Nearly the same text, by MinHash signatures in bands, each candidate verified.

    Texts whose sets of shingles have a Jaccard similarity of s share a band with probability
    1 - (1 - s^rows_per_band)^num_bands: 0.92 at s = 0.8, and half at 0.7, with the defaults, which are FineWeb's.
    """

    # Words in a shingle. Documents of fewer words have no shingle, and are never removed by this method.
    ngram: int = 5
    # "word" or "character". Five characters in a row are in most texts of a language: with "character" take 20 or more.
    unit: Literal["word", "character"] = "word"
    num_bands: int = 14
    rows_per_band: int = 8
    # What a candidate is verified by, against the document that it would be removed for. "signature": the share of
    # equal values of the signatures, which estimates Jaccard similarity with a standard error of at most
    # 0.5 / sqrt(num_bands * rows_per_band). "jaccard": of the sets of shingles. "containment": which share of its
    # shingles that document has. The last two keep every document's shingles in the index.
    verify: Literal["signature", "jaccard", "containment"] = "signature"
    # The least similarity, so measured, that makes a duplicate.
    min_similarity: float = 0.7
    # Different documents of one bucket that its later members are compared with. More than this and some duplicates are
    # not found by this bucket; with it, the work is linear in the size of a bucket.
    max_leaders: int = 16
    # Shingles of a document that are kept for "jaccard" and "containment". Of a longer document a sample is kept, by
    # the shingles' hashes, so that it is the same sample wherever a shingle occurs.
    max_shingles: int = 65536
    # Of the hash functions.
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("ngram", "num_bands", "rows_per_band", "max_leaders", "max_shingles"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} is {value}; at least 1 is needed")
        if self.unit not in ("word", "character"):
            raise ValueError(f"unit is {self.unit!r}; it is 'word' or 'character'")
        if self.verify not in ("signature", "jaccard", "containment"):
            raise ValueError(f"verify is {self.verify!r}; it is 'signature', 'jaccard' or 'containment'")
        if isinstance(self.min_similarity, float | int) and not 0 < self.min_similarity <= 1:
            raise ValueError(f"min_similarity is {self.min_similarity}; it is a share, above 0 and at most 1")

    @property
    def num_hashes(self) -> int:
        return self.num_bands * self.rows_per_band


@dataclass(frozen=True, kw_only=True)
class BloomConfig:
    """What a Bloom filter has seen: DCLM's `old-both`, in one pass and fixed memory.

    A line is removed if more than `threshold` of its n-grams were seen before it, a document if more than that of all
    its n-grams were. The result depends on the order of the documents, so one process reads them, in the order of their
    shards. A false positive removes an n-gram that is new; `false_positive_rate` bounds how often, while no more than
    `num_units` come.
    """

    # Words in an n-gram; lines of fewer words are never removed. None: each line is one unit, hashed as it is.
    ngram: int | None = 13
    threshold: float = 0.8
    false_positive_rate: float = 0.01
    # n-grams (or lines) that the filter is sized for. None: they are counted first, in a pass over the text.
    num_units: int | None = None
    # With ngram=None, lines of fewer bytes are never removed.
    min_paragraph_bytes: int = 64

    def __post_init__(self) -> None:
        if isinstance(self.threshold, float | int) and not 0 <= self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; it is a share, at least 0 and below 1")
        if isinstance(self.ngram, int) and self.ngram < 1:
            raise ValueError(f"ngram is {self.ngram}; at least one word is needed, or None for whole lines")
        if isinstance(self.false_positive_rate, float | int) and not 0 < self.false_positive_rate < 1:
            raise ValueError(f"false_positive_rate is {self.false_positive_rate}; it is between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class SubstringConfig:
    """Substrings that occur twice, of at least `min_tokens` tokens (Lee et al. 2022). Not implemented.

    It needs a suffix array of the whole corpus. What to use meanwhile is in the error that `dedup` raises.
    """

    min_tokens: int = 50


Method = ExactConfig | MinHashConfig | BloomConfig | SubstringConfig


@dataclass(frozen=True, kw_only=True)
class DedupConfig:
    """Which documents, by which method, and how much may go."""

    # Folder with documents, or one file.
    input_path: str
    # Folder of attributes/, report.json, documents/ and, except for bloom, index/.
    output_path: str
    method: Method
    # Sources in the order in which they keep their documents: of two duplicates the one whose source comes earlier here
    # stays. Sources that are not named come last, all alike. Among equals the first document stays.
    priority: tuple[str, ...] = ()
    # The index of an earlier run with the same method: its documents come first, and this run removes none of them.
    index_path: str | None = None
    # Larger share of any source that would be removed, of its documents or, where passages go too, of its bytes: the
    # run fails, with its report written.
    max_removed_per_source: float = 0.8
    # Other limits, by source.
    max_removed_of: dict[str, float] = field(default_factory=dict)
    # Sources with fewer documents are reported and not held to a limit: of two documents, one is half.
    min_documents_for_limit: int = 100
    # The column that holds the text; it is `text` in what is written.
    text_column: str = field(default="text", metadata={"version": {"omit_when": "text"}})
    # Largest share of rows that may be no documents before the run fails.
    max_bad: float = 0.01
    # Whether documents/ is written, with what is left. False: attributes alone.
    write_documents: bool = True
    # Processes; None: one a CPU, or this one for little text; 0: this one. Nothing but the time depends on it.
    num_workers: int | None = field(default=None, metadata={"version": {"exclude": True}})

    def __post_init__(self) -> None:
        limits = {"max_removed_per_source": self.max_removed_per_source} | {
            f"max_removed_of[{source!r}]": limit for source, limit in self.max_removed_of.items()
        }
        for name, limit in limits.items():
            if isinstance(limit, int | float) and not 0 <= limit <= 1:
                raise ValueError(f"{name} is {limit}; it is a share of a source's documents, between 0 and 1")
        if len(set(self.priority)) != len(self.priority):
            raise ValueError(f"priority names a source twice: {', '.join(self.priority)}")
