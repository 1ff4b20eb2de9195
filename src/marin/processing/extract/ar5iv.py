"""Papers of arXiv as ar5iv shows them (LaTeXML's HTML) as documents: sections, formulas as LaTeX, tables.

LaTeXML names everything it writes, so authors, footnotes, bibliography and the site's own parts are told apart without
guessing. Displayed equations come as tables of formulas, with numbers in cells of their own; they are put together as
one formula an equation.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from selectolax.lexbor import LexborHTMLParser, LexborNode

from marin.processing.extract.config import PaperFormat
from marin.processing.extract.latex import formula_node, gather_formulas, latex_of
from marin.processing.extract.markdown import Style, write
from marin.processing.extract.methods import TRANSFORM_VERSION
from marin.processing.extract.page import about_page, html_of, valid_unicode
from marin.processing.extract.rows import document_row
from marin.processing.extract.tree import light_tree, parse
from marin.processing.pipeline import Dropped

_NEVER = (
    ".ar5iv-footer, .ltx_ERROR, .ltx_TOC, .ltx_dates, .ltx_listing_data, .ltx_page_footer, .ltx_page_header, "
    ".ltx_page_logo, .ltx_pagination, .ltx_rdf, .ltx_role_affiliationmark, .ltx_tag_equation, .ltx_tag_equationgroup, "
    "footer, nav, button"
)
_AUTHORS = ".ltx_authors, .ltx_author_notes, .ltx_role_thanks"
_FOOTNOTES = ".ltx_note"
_BIBLIOGRAPHY = ".ltx_bibliography"
_EQUATIONS = ".ltx_equationgroup, .ltx_equation"
_FIGURES = "figure.ltx_figure"
# Citations by numbers say nothing without the list that they count.
_NUMBERS_ONLY = re.compile(r"[\s\[\](),;–—\-0-9]*")
_ARXIV_ID = re.compile(r"(?:[a-z-]+(?:\.[A-Z]{2})?/\d{7}|\d{4}\.\d{4,5})(?:v\d+)?")


@dataclass(frozen=True, kw_only=True)
class Ar5ivPaper:
    """Row function: a row with a paper's HTML to a document, dropped where there is no text.

    Reads `html` (text or bytes), and of `arxiv_id`, `url`, `filename`, `id` whichever first has the paper's number.
    Raises ValueError for a row without HTML.
    """

    version: ClassVar[int] = TRANSFORM_VERSION

    format: PaperFormat = PaperFormat()
    source: str = "ar5iv"

    def __call__(self, row: dict[str, Any]) -> dict[str, Any] | Dropped:
        tree = parse(html_of(row))
        about = about_page(tree)
        num_errors = len(tree.css(".ltx_ERROR"))
        title = tree.css_first("h1.ltx_title_document")
        shown = " ".join(title.text().split()) if title is not None and title.css_first("math") is None else about.title
        text = self.text_of(tree)
        if not text:
            return Dropped("empty page")
        arxiv_id = arxiv_id_of(row)
        metadata = {
            "url": row.get("url") or (f"https://arxiv.org/abs/{arxiv_id}" if arxiv_id else ""),
            "title": shown,
            "arxiv_id": arxiv_id,
            # what LaTeXML could not convert, and left in the text as its name
            "num_conversion_errors": num_errors or None,
            "method": f"ar5iv {self.version}",
        }
        return document_row(text, self.source, metadata)

    def text_of(self, tree: LexborHTMLParser) -> str:
        """The paper on a page; empty where there is none. Changes the parser's tree."""
        paper = tree.css_first("article.ltx_document") or tree.css_first(".ltx_page_content") or tree.body
        if paper is None:
            return ""
        unwanted = [_NEVER]
        unwanted += [] if self.format.keep_authors else [_AUTHORS]
        unwanted += [] if self.format.keep_footnotes else [_FOOTNOTES]
        unwanted += [] if self.format.keep_captions else [_FIGURES]
        unwanted += [] if self.format.keep_references else [_BIBLIOGRAPHY]
        for node in paper.css(", ".join(unwanted)):
            node.decompose()
        if not self.format.keep_references:
            for cite in paper.css("cite"):
                if _NUMBERS_ONLY.fullmatch(cite.text()):
                    cite.decompose()
        gather_formulas(tree)
        _join_equations(paper)
        _unfold_code(paper)
        _name_parts(paper)
        style = Style(
            markdown=self.format.output == "markdown",
            keep_links=self.format.keep_links,
            keep_references=self.format.keep_references,
        )
        return valid_unicode(_SPACE_BEFORE_STOP.sub(r"\1", write(light_tree(paper), style)))


# What a citation that was cut leaves behind.
_SPACE_BEFORE_STOP = re.compile(r"(?<=\w) +([.,;])(?=\s|$)")


def arxiv_id_of(row: dict[str, Any]) -> str:
    """The paper's number in the first field that has one, such as 2404.01234 or math/0211159; else nothing."""
    for field in ("arxiv_id", "url", "filename", "id"):
        if found := _ARXIV_ID.search(str(row.get(field) or "")):
            return found[0]
    return ""


def _join_equations(paper: LexborNode) -> None:
    """Make every displayed equation, or group of them, one formula."""
    for equation in paper.css(_EQUATIONS):
        parent = equation.parent
        if parent is None or equation.tag not in ("table", "div", "tbody"):
            continue  # a row of a group that was joined as a whole
        rows = equation.css("tr") or [equation]
        lines = [" ".join(latex_of(math) for math in row.css("math")) for row in rows]
        lines = [line for line in lines if line]
        if lines:
            equation.replace_with(formula_node(" \\\\ ".join(lines), display=True))


def _unfold_code(paper: LexborNode) -> None:
    """Make listings, which come as a division a line, preformatted text."""
    for listing in paper.css(".ltx_listing"):
        lines = listing.css(".ltx_listingline")
        if not lines:
            continue
        for line in lines:
            for tag in line.css(".ltx_tag_listingline"):
                tag.decompose()
        code = "\n".join(line.text().replace("\xa0", " ").replace("\n", "").rstrip() for line in lines)
        listing.replace_with(_element("pre", code, verbatim=True))


def _name_parts(paper: LexborNode) -> None:
    """Titles that LaTeXML writes as headings of the lowest level, for want of a place in the outline.

    That of the abstract is one of a section; those of theorems and proofs begin their text.
    """
    for title in paper.css("h6.ltx_title_abstract, h6.ltx_title_acknowledgements"):
        title.replace_with(_element("h2", title.text()))
    for title in paper.css("h6.ltx_title_theorem, h6.ltx_title_proof, h5.ltx_title_paragraph, h6.ltx_title_keywords"):
        if title.css_first("math") is None:
            title.replace_with(_element("p", title.text(), inside="b"))
    for note in paper.css(".ltx_note"):
        content = note.css_first(".ltx_note_content") or note.css_first(".ltx_note_outer") or note
        for mark in content.css(".ltx_note_mark, .ltx_tag_note, .ltx_note_type"):
            mark.decompose()
        note.replace_with(f" (Footnote: {' '.join(content.text().split())})")


def _element(tag: str, text: str, *, inside: str = "", verbatim: bool = False) -> LexborNode:
    html = f"<{tag}><{inside}></{inside}></{tag}>" if inside else f"<{tag}></{tag}>"
    element = LexborHTMLParser(html).css_first(tag)
    assert element is not None
    holder = element.css_first(inside) if inside else element
    assert holder is not None
    holder.insert_child(text if verbatim else " ".join(text.split()))
    return element
