"""Articles of Wikipedia's HTML dumps as documents: with links or without, with references or without.

Two forms of page are read: rows of the Enterprise dumps (one JSON object an article, `article_body.html` made by
Parsoid), and pages as the site shows them. Both have the same classes, by which everything that is no article text is
cut; nothing is guessed, so no article is lost to the heuristics of general pages. The price: the classes are those of
the English wiki and of those that share its templates; section titles to leave out are a setting for the same reason.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from selectolax.lexbor import LexborHTMLParser, LexborNode

from marin.processing.extract.config import ArticleFormat
from marin.processing.extract.latex import gather_formulas
from marin.processing.extract.markdown import Style, rows_of, text_within, write
from marin.processing.extract.methods import TRANSFORM_VERSION
from marin.processing.extract.page import about_page, html_of, valid_unicode
from marin.processing.extract.rows import document_row
from marin.processing.extract.tree import Element, light_tree, parse
from marin.processing.pipeline import Dropped

# Not of the article: the site's own, notices to editors, boxes that lead to other articles.
_NEVER = ", ".join(
    (
        ".ambox, .asbox, .authority-control, .catlinks, .hatnote, .infobox-navbar, .mbox-small, .metadata",
        ".mw-editsection, .mw-empty-elt, .mw-jump-link, .mw-kartographer-container, .navbar, .navbox, .noexcerpt",
        ".noprint, .portalbox, .printfooter, .shortdescription, .sidebar, .side-box, .sistersitebox, .stub, .tmbox",
        ".toc, .vertical-navbox, #catlinks, #coordinates, #mw-navigation, #siteSub, #toc, audio, link, meta, style",
    )
)
_REFERENCE_MARKS = ".mw-ref, sup.reference, .mw-cite-backlink"
_REFERENCE_LISTS = ".mw-references-wrap, .reflist, .refbegin, ol.references"
_IMAGES = ".gallery, .mw-gallery-traditional, .thumb, figure, .tmulti"
_INFOBOX = ".infobox, .infobox_v2, .taxobox, .vcard"
# Where a page as the site shows it has its article.
_ARTICLE = ".mw-parser-output"


@dataclass(frozen=True, kw_only=True)
class WikipediaArticle:
    """Row function: a row of a dump to a document, dropped where it is no article or has no text.

    Reads `article_body.html`, `name`, `url`, `namespace.identifier`, `in_language.identifier`, `date_modified` and
    `identifier` of Enterprise rows; of other rows `html` (text or bytes), and `url`, `title` where given. Raises
    ValueError for a row that has neither form of HTML.
    """

    version: ClassVar[int] = TRANSFORM_VERSION

    format: ArticleFormat = ArticleFormat()
    source: str = "wikipedia"

    def __call__(self, row: dict[str, Any]) -> dict[str, Any] | Dropped:
        if _identifier(row.get("namespace")) not in (None, 0, "0"):
            return Dropped("not an article")
        body = row.get("article_body")
        tree = parse(html_of(body if isinstance(body, dict) else row))
        url, title = row.get("url") or "", row.get("name") or row.get("title") or ""
        about = about_page(tree)
        text = self.text_of(tree, title=title or about.title, url=url)
        if not text:
            return Dropped("empty page")
        metadata = {
            "url": url,
            "title": title or about.title,
            "language": _identifier(row.get("in_language")) or about.language,
            "date": row.get("date_modified") or about.date,
            "article": row.get("identifier"),
            "method": f"wikipedia {self.version}",
        }
        return document_row(text, self.source, metadata)

    def text_of(self, tree: LexborHTMLParser, *, title: str, url: str = "") -> str:
        """The article on a page, under its title; empty where nothing stands under it. Changes the parser's tree."""
        place = tree.css_first(_ARTICLE) or tree.body
        if place is None:
            return ""
        gather_formulas(tree)
        self._cut(place)
        article = light_tree(place)
        boxes = [_list_of_facts(box) for box in _take(article, _is_infobox)] if self.format.keep_infobox else []
        style = Style(
            markdown=self.format.output == "markdown",
            keep_links=self.format.keep_links,
            keep_references=self.format.keep_references,
            url=url,
        )
        body = write(Element("article", {}, [*boxes, article]), style)
        if not body:
            return ""
        return valid_unicode(f"{'# ' if style.markdown else ''}{title}\n\n{body}" if title else body)

    def _cut(self, place: LexborNode) -> None:
        unwanted = [_NEVER, _IMAGES]
        if not self.format.keep_references:
            unwanted += [_REFERENCE_MARKS, _REFERENCE_LISTS]
            _cut_sections(place, frozenset(title.casefold() for title in self.format.reference_sections))
        if not self.format.keep_infobox:
            unwanted.append(_INFOBOX)
        for node in place.css(", ".join(unwanted)):
            node.decompose()
        _cut_empty_sections(place)


def _identifier(part: Any) -> Any:
    return part.get("identifier") if isinstance(part, dict) else None


def _heading_of(node: LexborNode) -> LexborNode | None:
    """The heading that a node is or wraps, as newer pages do."""
    if node.tag in ("h2", "h3", "h4", "h5", "h6"):
        return node
    if node.tag == "div" and "mw-heading" in (node.attributes.get("class") or ""):
        return node.css_first("h2, h3, h4, h5, h6")
    return None


def _cut_sections(place: LexborNode, titles: frozenset[str]) -> None:
    """Take away the sections of these titles: elements `section`, or all up to the next heading of their level."""
    for heading in place.css("h2, h3"):
        if " ".join(heading.text().split()).removesuffix("[edit]").strip().casefold() not in titles:
            continue
        parent = heading.parent
        start = parent if parent is not None and parent.tag == "div" and _heading_of(parent) is not None else heading
        holder = start.parent
        if holder is not None and holder.tag == "section":
            holder.decompose()
            continue
        level = heading.tag or "h2"
        node = start.next
        start.decompose()
        while node is not None:
            following = node.next
            found = _heading_of(node)
            if found is not None and (found.tag or "") <= level:
                break
            node.decompose()
            node = following


def _cut_empty_sections(place: LexborNode) -> None:
    for section in reversed(place.css("section")):
        heading = section.css_first("h2, h3, h4, h5, h6")
        if heading is not None and len(section.text(strip=True)) <= len(heading.text(strip=True)):
            section.decompose()


def _is_infobox(element: Element) -> bool:
    return element.tag == "table" and "infobox" in (element.attributes.get("class") or "")


def _take(element: Element, is_wanted: Any) -> list[Element]:
    """Take the wanted elements out of a tree."""
    taken: list[Element] = []
    left: list[str | Element] = []
    for child in element.children:
        if isinstance(child, str):
            left.append(child)
        elif is_wanted(child):
            taken.append(child)
        else:
            taken += _take(child, is_wanted)
            left.append(child)
    element.children = left
    return taken


def _list_of_facts(box: Element) -> Element:
    """An infobox as a list: `label: value` for rows that have both, else their text."""
    items: list[str | Element] = []
    plain = Style(markdown=False)
    for row in rows_of(box)[0]:
        cells = [text_within(cell, plain) for cell in row]
        cells = [text.replace("\n", ", ") for text in cells if text]
        if cells:
            items.append(Element("li", {}, [": ".join([cells[0], " ".join(cells[1:])]) if cells[1:] else cells[0]]))
    return Element("ul", {}, items)
