"""Configs of decontamination: plain values, importable without a data library."""

from dataclasses import dataclass, field
from typing import Literal

# Part of the identity of a step: raised when the same input would give another output.
RECIPE_VERSION = 4

# Fields that ask. A short text in one of them says what item it is; a short answer ("none of the above") does not.
PROMPT_FIELDS = ("question", "query", "context", "context_options", "prompt", "problem", "goal", "ctx", "sentence")


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Items that must not be trained on."""

    # How the report calls it.
    name: str
    # A file, a folder or a pattern: rows of .jsonl (.gz, .zst), .parquet or .arrow; or lines of .txt (.gz, .bz2).
    # A file that is named may be .json, too.
    path: str
    # Fields whose texts make up an item, by their names at the top of the row. (): every text in the row.
    fields: tuple[str, ...] = ()
    # Of those, the ones whose short texts count too.
    prompt_fields: tuple[str, ...] = PROMPT_FIELDS
    # Of .txt files: how many lines make an item, of which the first asks. HellaSwag as text has 6.
    lines_per_item: int | None = None


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig:
    """Which documents, against which evaluation sets, and what counts as a hit.

    n-grams are of normalised words (see `marin.processing.kernels.normalized_words`), within paragraphs, which empty
    lines end; those without a letter do not count. So an item with other numbers in it is the same item.
    """

    # Folder with documents, or one file.
    input_path: str
    # Folder of attributes/, report.json, hits.jsonl and documents/.
    output_path: str
    against: tuple[EvaluationSet, ...]
    # Words in an n-gram.
    ngram: int = 13
    # A paragraph of fewer words than an n-gram, and at least so many, is one n-gram: it hits where it is all there.
    min_words: int = 3
    # A paragraph is contaminated if at least this share of its n-grams is in evaluation items.
    min_paragraph_overlap: float = 0.5
    # And so is a document that has at least this share of the n-grams of one text of an item, wherever they stand.
    min_item_coverage: float = 0.5
    # n-grams in more than this share of the documents are common phrases, and do not count; they are found by one more
    # pass, and the report has them. None: all count.
    max_document_share: float | None = None
    # "document": contaminated documents are left out. "paragraph": of them every paragraph with an n-gram of an item
    # that contaminates the document is. "attributes": nothing is, and no documents are written.
    remove: Literal["document", "paragraph", "attributes"] = "document"
    # The column that holds the text; it is `text` in what is written.
    text_column: str = field(default="text", metadata={"version": {"omit_when": "text"}})
    # Largest share of rows that may be no documents before the run fails.
    max_bad: float = 0.01
    # Processes; None: one a CPU, or this one for little text; 0: this one. Nothing but the time depends on it.
    num_workers: int | None = field(default=None, metadata={"version": {"exclude": True}})

    def __post_init__(self) -> None:
        if not self.against:
            raise ValueError("against is empty: name at least one evaluation set")
        for name in ("min_paragraph_overlap", "min_item_coverage", "max_document_share"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 < value <= 1:
                raise ValueError(f"{name} is {value}; it is a share, above 0 and at most 1")
        if isinstance(self.ngram, int) and isinstance(self.min_words, int) and not 1 <= self.min_words <= self.ngram:
            raise ValueError(f"min_words is {self.min_words} and ngram {self.ngram}; 1 <= min_words <= ngram is needed")
        if self.remove not in ("document", "paragraph", "attributes"):
            raise ValueError(f"remove is {self.remove!r}; it is 'document', 'paragraph' or 'attributes'")
        names = [evaluation.name for evaluation in self.against if isinstance(evaluation, EvaluationSet)]
        if len(set(names)) != len(names):
            raise ValueError(f"two evaluation sets have one name: {', '.join(names)}")
