"""One page, from bytes to a text with its title, date and language: what every source of pages shares."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selectolax.lexbor import LexborHTMLParser

from marin.processing.extract.config import PageOptions
from marin.processing.extract.decode import check_page, decode_page
from marin.processing.extract.latex import gather_formulas
from marin.processing.extract.markdown import Style, write
from marin.processing.extract.methods import Source, method_of
from marin.processing.extract.tree import check_depth, light_tree, parse

_DAY = re.compile(r"(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?!\d)")
_TITLE_NAMES = ("og:title", "twitter:title", "citation_title", "dc.title")
_DATE_NAMES = (
    "article:published_time", "datepublished", "og:published_time", "citation_publication_date", "dc.date",
    "dcterms.date", "date", "publish-date", "pubdate",
)  # fmt: skip
_LANGUAGE = re.compile(r"[a-zA-Z]{2,3}(?:[-_][a-zA-Z0-9]{2,8}){0,3}")


class TooLarge(ValueError):
    """The page has more bytes than are read."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What a page says of itself; empty where it does not."""

    title: str = ""
    # The day of its publication, as YYYY-MM-DD.
    date: str = ""
    # As the page declares it, such as en or pt-BR.
    language: str = ""

    def items(self) -> dict[str, str]:
        """The parts that are known, for a document's metadata."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass(frozen=True, kw_only=True)
class Page:
    """What was extracted of a page; `text` is empty where it has no content."""

    text: str
    about: About


def extract_page(
    html: bytes | str,
    method: str,
    options: PageOptions,
    *,
    url: str = "",
    charset: str | None = None,
    max_bytes: int = 20_000_000,
) -> Page:
    """Text of a page by a method, and what it says of itself.

    `charset` is what came with bytes, of a Content-Type header. Raises NotHtml, TooLarge and TooDeep, which are
    ValueErrors, for what is no page or would take too long.
    """
    if len(html) > max_bytes:
        raise TooLarge(f"too large: {len(html):,} bytes of HTML, at most {max_bytes:,} are read")
    page = check_page(html) if isinstance(html, str) else decode_page(html, charset)
    tree = parse(page)
    about = about_page(tree)
    if method != "ours":  # whose walk has a bound of its own
        check_depth(tree)
    text = method_of(method).extract(Source(html=page, tree=tree, url=url), options)
    return Page(text=valid_unicode(text).strip(), about=about)


def html_of(row: Mapping[str, Any], column: str = "html") -> str:
    """The HTML of a row, whose column may be text or bytes. Raises ValueError where it is neither."""
    html = row.get(column)
    if isinstance(html, bytes):
        return decode_page(html)
    if not isinstance(html, str):
        raise ValueError(f"no HTML: {column} is {type(html).__name__}; the columns are {', '.join(sorted(row)[:8])}")
    return html


def write_fragment(html: str, style: Style) -> str:
    """All of a piece of HTML as text, for where nothing has to be chosen: a post, a cell, an article's body."""
    tree = parse(html)
    gather_formulas(tree)
    return write(light_tree(tree.body), style) if tree.body is not None else ""


def about_page(tree: LexborHTMLParser) -> About:
    """What a page says of itself, in its head and by its first heading."""
    named: dict[str, str] = {}
    for meta in tree.head.css("meta[content]") if tree.head is not None else ():
        attributes = meta.attributes
        name = attributes.get("property") or attributes.get("name") or attributes.get("itemprop")
        if name and (content := attributes.get("content")):
            named.setdefault(name.lower(), content)
    return About(title=_title(tree, named), date=_date(tree, named), language=_language(tree))


def _title(tree: LexborHTMLParser, named: dict[str, str]) -> str:
    for name in _TITLE_NAMES:
        if title := " ".join(named.get(name, "").split()):
            return title
    for selector in ("head > title", "h1"):
        node = tree.css_first(selector)
        if node is not None and (title := " ".join(node.text().split())):
            return title
    return ""


def _date(tree: LexborHTMLParser, named: dict[str, str]) -> str:
    for name in _DATE_NAMES:
        if found := _DAY.match(named.get(name, "").strip().replace("/", "-")):
            return found[0]
    time = tree.css_first("time[datetime]")
    found = _DAY.match(time.attributes.get("datetime") or "") if time is not None else None
    return found[0] if found else ""


def _language(tree: LexborHTMLParser) -> str:
    root = tree.root
    declared = (root.attributes.get("lang") or root.attributes.get("xml:lang") or "") if root is not None else ""
    return declared if _LANGUAGE.fullmatch(declared) else ""


def valid_unicode(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot have, as U+FFFD."""
    return text if text.isascii() else text.encode("utf-8", errors="replace").decode("utf-8")
