"""Configs of extraction: plain values, importable without a parser.

In a step's config a value may still be wrapped (`versioned("ours")`), so the checks here pass over what is not yet what
it will be; they run again when the step does.
"""

from dataclasses import dataclass, field

OUTPUTS = ("text", "markdown")
METHOD_NAMES = ("ours", "resiliparse", "trafilatura", "readability")
THREAD_FORMS = ("posts", "api", "pages")
# Sections of encyclopedia articles that have references and nothing else.
REFERENCE_SECTIONS = (
    "Bibliography",
    "Citations",
    "External links",
    "Footnotes",
    "Further reading",
    "Notes",
    "Notes and references",
    "References",
    "Sources",
    "Works cited",
)


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """How a page is written."""

    # One of OUTPUTS.
    output: str
    # Links as [text](address) in Markdown; otherwise their text alone.
    keep_links: bool = False
    # Images as ![text](address) in Markdown; otherwise nothing of them. Of methods that keep images.
    keep_images: bool = False
    # Marks that lead to references, as [1]; otherwise nothing of them. Of our method.
    keep_references: bool = False

    def __post_init__(self) -> None:
        _check_choice("output", self.output, OUTPUTS)


@dataclass(frozen=True, kw_only=True)
class ArticleFormat:
    """How an article of Wikipedia is written."""

    # One of OUTPUTS.
    output: str = "markdown"
    # Links to other articles and to anywhere, as [text](address) in Markdown.
    keep_links: bool = False
    # Marks of references in the text, their lists, and the sections that `reference_sections` names.
    keep_references: bool = False
    # The box of facts, as a list before the text.
    keep_infobox: bool = False
    # Titles of sections to leave out with the references, in any case.
    reference_sections: tuple[str, ...] = REFERENCE_SECTIONS

    def __post_init__(self) -> None:
        _check_choice("output", self.output, OUTPUTS)


@dataclass(frozen=True, kw_only=True)
class PaperFormat:
    """How a paper of ar5iv is written."""

    # One of OUTPUTS.
    output: str = "markdown"
    keep_links: bool = False
    # Bibliography, and citations by number.
    keep_references: bool = False
    keep_authors: bool = False
    # In parentheses, where their mark stands.
    keep_footnotes: bool = False
    # Captions of figures, whose images are never kept.
    keep_captions: bool = False

    def __post_init__(self) -> None:
        _check_choice("output", self.output, OUTPUTS)


@dataclass(frozen=True, kw_only=True)
class ThreadFormat:
    """Which threads and answers of StackExchange are documents, and how they are written."""

    # One of OUTPUTS.
    output: str = "markdown"
    keep_links: bool = False
    keep_images: bool = False
    # Whether an answer's heading has its score, and that it was accepted.
    keep_scores: bool = True
    # Answers with a lower score are left out; None: none are.
    min_answer_score: int | None = None
    # At most so many answers, the best; None: all.
    max_answers: int | None = None
    # A thread with fewer answers left is no document.
    min_answers: int = 0

    def __post_init__(self) -> None:
        _check_choice("output", self.output, OUTPUTS)


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """What bounds the reading of pages, and who does it."""

    # More bytes than this are no page that is read: its row is quarantined.
    max_page_bytes: int = 20_000_000
    # CPU seconds that a page may take; one that takes more is quarantined.
    timeout_s: float = 30.0
    # Largest share of rows that may be quarantined before the run fails.
    max_bad: float = 0.01
    # Processes; None: one a CPU, 0: none but this one. The result does not depend on it.
    num_workers: int | None = field(default=None, metadata={"version": {"exclude": True}})

    def __post_init__(self) -> None:
        if isinstance(self.max_bad, int | float) and not 0 <= self.max_bad <= 1:
            raise ValueError(f"max_bad is {self.max_bad}; it is a share of the rows, between 0 and 1")
        if isinstance(self.num_workers, int) and self.num_workers < 0:
            raise ValueError(f"num_workers is {self.num_workers}; a number of processes, 0 or None is expected")


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Which pages, by which method, written how."""

    # Files, folder or glob: crawl archives, files of HTML, JSON lines, parquet, Arrow.
    input_path: str
    # Folder of the documents.
    output_path: str
    # One of METHOD_NAMES.
    method: str
    options: PageOptions
    # The column of HTML, and that of the page's address, in files of rows; crawl archives have these.
    html_column: str = "html"
    url_column: str = "url"
    # What documents have as their source.
    source: str = "web"
    reading: ReadingOptions = ReadingOptions()

    def __post_init__(self) -> None:
        _check_choice("method", self.method, METHOD_NAMES)


@dataclass(frozen=True, kw_only=True)
class WikipediaConfig:
    """Which articles, written how."""

    # Files, folder or glob of the rows of HTML dumps, or of articles' pages.
    input_path: str
    # Folder of the documents.
    output_path: str
    format: ArticleFormat
    source: str = "wikipedia"
    reading: ReadingOptions = ReadingOptions()


@dataclass(frozen=True, kw_only=True)
class Ar5ivConfig:
    """Which papers, written how."""

    # Files, folder or glob of ar5iv's pages, as files of HTML or in a column `html`.
    input_path: str
    # Folder of the documents.
    output_path: str
    format: PaperFormat
    source: str = "ar5iv"
    reading: ReadingOptions = ReadingOptions()


@dataclass(frozen=True, kw_only=True)
class StackExchangeConfig:
    """Which threads, in which form they come, written how."""

    # For "posts": a Posts.xml, or a folder or glob of some. Otherwise files, folder or glob of rows or pages.
    input_path: str
    # Folder of the documents.
    output_path: str
    # One of THREAD_FORMS: a dump's Posts.xml, rows as the API gives them, pages as the sites show them.
    form: str
    format: ThreadFormat
    # The site's address, such as https://physics.stackexchange.com, from which those of the threads of a dump are made.
    site: str = ""
    source: str = "stackexchange"
    reading: ReadingOptions = ReadingOptions()

    def __post_init__(self) -> None:
        _check_choice("form", self.form, THREAD_FORMS)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if isinstance(value, str) and value not in choices:
        raise ValueError(f"{name} is {value!r}; it is one of {', '.join(choices)}")
