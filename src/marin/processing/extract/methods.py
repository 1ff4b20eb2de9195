"""The ways from a page to its text: ours, and those of other corpora, each a versioned choice.

Every method gives text or Markdown of the same page. Where a library gives HTML of the content only, our writer makes
Markdown of it, so that methods differ by what they take for content and not by how they write a list. The price: a
method's Markdown is not always what its library alone would write.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from marin.processing.extract.config import PageOptions

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser

    from marin.processing.extract.markdown import Style

# Raised when the same page would give another text by our own code.
OURS_VERSION = 2
# Likewise of what stands around the libraries of the other methods.
ADAPTER_VERSION = 1
# Likewise of the transforms of Wikipedia, ar5iv and StackExchange, which have no other library than the parser.
TRANSFORM_VERSION = 2
TRANSFORM_LIBRARIES = ("selectolax",)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A page to extract from."""

    html: str
    # The same, parsed; a method may change it.
    tree: "LexborHTMLParser"
    # Its address, or nothing.
    url: str


# The content of a page, or nothing where none was found.
Extract = Callable[[Source, PageOptions], str]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way of extraction."""

    extract: Extract
    # Of our code in it.
    version: int
    # The distributions whose versions decide the text.
    libraries: tuple[str, ...]
    # The extra of this project that brings them.
    extra: str

    def identity(self) -> str:
        """The versions that decide the text: `1, selectolax 1.0.2`. Raises ValueError where a library is missing."""
        return identity_of(self.version, self.libraries, self.extra)


def identity_of(code_version: int, libraries: tuple[str, ...], extra: str) -> str:
    """The version of our code and those of libraries; ValueError names one that is missing, and the extra it is in."""
    return ", ".join([str(code_version), *(f"{name} {_installed(name, extra)}" for name in libraries)])


def _installed(library: str, extra: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        raise ValueError(
            f"this extraction needs {library}, which is not installed: pip install 'marin[{extra}]'"
        ) from None


def method_of(name: str) -> Method:
    """The method of a name. Raises ValueError naming those there are."""
    if name not in METHODS:
        raise ValueError(f"no extraction method {name!r}; there are {', '.join(METHODS)}")
    return METHODS[name]


def extract_ours(source: Source, options: PageOptions) -> str:
    """Content by marin.processing.extract.content, written by marin.processing.extract.markdown."""
    from marin.processing.extract.content import main_content
    from marin.processing.extract.latex import gather_formulas
    from marin.processing.extract.markdown import write

    gather_formulas(source.tree)
    return write(main_content(source.tree), _style(source.url, options))


def extract_resiliparse(source: Source, options: PageOptions) -> str:
    """Content by resiliparse's heuristics; its reduced HTML has no tables and no inline code."""
    from resiliparse.extract.html2text import extract_plain_text

    if options.output == "text":
        return extract_plain_text(
            source.html, main_content=True, preserve_formatting=True, links=False, alt_texts=False
        )
    content = extract_plain_text(
        source.html, main_content=True, preserve_formatting="minimal_html", links=options.keep_links, alt_texts=False
    )
    return _written(content, source.url, options)


def extract_trafilatura(source: Source, options: PageOptions) -> str:
    """Content and text by trafilatura, without comments, with tables."""
    import trafilatura

    text = trafilatura.extract(
        source.html,
        url=source.url or None,
        output_format="txt" if options.output == "text" else "markdown",
        include_comments=False,
        include_tables=True,
        include_links=options.keep_links,
        include_images=options.keep_images,
        include_formatting=options.output == "markdown",
    )
    return text or ""


def extract_readability(source: Source, options: PageOptions) -> str:
    """Content by readability-lxml, after the reader views of browsers, written by our writer."""
    from lxml.etree import ParserError
    from readability import Document
    from readability.readability import Unparseable

    try:
        content = Document(source.html, url=source.url or None).summary(html_partial=True)
    except (ParserError, Unparseable):
        return ""
    return _written(content, source.url, options)


def _written(content: str, url: str, options: PageOptions) -> str:
    from marin.processing.extract.page import write_fragment

    return write_fragment(content, _style(url, options))


def _style(url: str, options: PageOptions) -> "Style":
    from marin.processing.extract.markdown import Style

    return Style(
        markdown=options.output == "markdown",
        keep_links=options.keep_links,
        keep_images=options.keep_images,
        keep_references=options.keep_references,
        url=url,
    )


# By the names in config.METHOD_NAMES.
METHODS: dict[str, Method] = {
    "ours": Method(extract=extract_ours, version=OURS_VERSION, libraries=("selectolax",), extra="data"),
    "resiliparse": Method(
        extract=extract_resiliparse,
        version=ADAPTER_VERSION,
        libraries=("resiliparse", "selectolax"),
        extra="data,extractors",
    ),
    "trafilatura": Method(
        extract=extract_trafilatura, version=ADAPTER_VERSION, libraries=("trafilatura",), extra="data,extractors"
    ),
    "readability": Method(
        extract=extract_readability,
        version=ADAPTER_VERSION,
        libraries=("readability-lxml", "selectolax"),
        extra="data,extractors",
    ),
}
