"""Which part of a page is its content.

From the body down, as long as one child holds most of what reads like prose; then back up, for headings and leads that
stand before it; then, inside, what is mostly links, or named like navigation, comments, sharing or advertising, is cut.
It is a handful of rules with few numbers, tuned on half of the pages of a public benchmark and measured on the other
half too (benchmarks/bench_extract.py). The price of rules: a page that is no article (a list of links, a forum) keeps
less than a reader would.
"""

import math
import re
from functools import lru_cache, partial

from selectolax.lexbor import LexborHTMLParser, LexborNode

from marin.processing.extract.tree import HEADINGS, Attributes, Element, light_tree, names

# Marks of an element, by the words in its class and id.
AWAY = 1  # never content: navigation, comments, sharing, advertising; left out of the tree
ABOUT = 2  # about the text rather than of it: author, date, tags
CONTENT = 4  # named like content
CAPTION = 8  # of an image
WHOLE = 16  # a whole article or page, so that nothing else that its names say counts

# Share of an element's prose that a child must hold for the child to be gone down to.
MAIN_SHARE = 0.75
# Prose before the content, within its ancestors, that is a lead, in characters.
LEAD_CHARS = 60
# What is left of a box with navigation on top of the content goes with it if it has fewer characters.
BANNER_CHARS = 100
# Share of a page's text from which on a part is not away, whatever it is named.
MOST_OF_A_PAGE = 0.4
# An element that is about the text is cut if it has fewer characters, and less prose, than these.
ABOUT_CHARS, ABOUT_VALUE = 250, 150
# A paragraph with fewer characters that is nothing but a link leads elsewhere.
LINK_CHARS = 200
# Share of an element's text in links from which on it leads elsewhere, unless it has as much prose.
MOSTLY_LINKS = 0.55
# A form with less prose than this is there to be filled in; with more, it holds the page.
FORM_VALUE = 100

_AWAY_WORDS = names(
    "ad addthis addtoany ads adsense advert advertisement anzeige banner breadcrumb breadcrumbs comment "
    "comments consent cookie cookies crumbs disqus footer gdpr jp kommentar kommentare leftbar login mainnav masthead "
    "menu menus modal nav navbar navi navigation newsletter outbrain pager pagination paging popup print promo "
    "promotion recommended recommendations related reply respond rightbar rss share sharebar sharedaddy shares sharing "
    "sidebar sidebars sidenav signin signup skip sociable social socials sponsor sponsored subnav subscribe "
    "subscription taboola teasers toolbar tooltip topnav widget widgets"
)
_ABOUT_WORDS = names(
    "author authors bio byline categories category copyright credit date meta postmeta published source tag tagcloud "
    "tags time timestamp"
)
_CONTENT_WORDS = names(
    "article articlebody articlecontent blog body content entry entrycontent hentry intro lead main maincontent post "
    "postcontent story text"
)
_CAPTION_WORDS = frozenset(("caption", "captions", "figcaption"))
# A name with one of these says how a page is laid out, not what is in it: content-with-sidebar, has-no-banner.
_LAYOUT_WORDS = names(
    "align aligned allow closed col cols column columns enabled grid has hide layout no not open separator support "
    "supports template theme with without wp"
)
# What publishing systems put on a whole article or page: its category, tags, author, format.
_LABELLING = ("category-", "elementor", "format-", "has-", "is-", "no-", "page-", "single-", "tag-", "type-")
_BARS = frozenset(("left", "right", "share", "side", "top"))
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")

_MARKS_OF_TAGS = {
    **dict.fromkeys(("aside", "dialog", "footer", "menu", "search"), AWAY),
    **dict.fromkeys(("article", "body", "html", "main"), WHOLE),
    "figcaption": CAPTION,
}
_AWAY_ROLES = names(
    "alert alertdialog banner complementary contentinfo dialog menu menubar navigation search tablist toolbar"
)
# What counts as text for the parser, and for nobody else.
_NO_TEXT = "noscript, script, style"
# Not gone down into: they are content, not places for it.
_PARAGRAPHS = frozenset(("blockquote", "dl", "li", "ol", "p", "pre", "ul"))
# Code and formulas are kept whole.
_AS_THEY_ARE = frozenset(("math", "pre"))
# Parts of lists and tables stand or fall with the whole.
_PARTS = frozenset(("dd", "dt", "li", "pre", "tbody", "td", "tfoot", "th", "thead", "tr"))


def main_content(tree: LexborHTMLParser) -> Element:
    """The content of a page: an element `article` with its headings, leads and main part. Changes the parser's tree."""
    body = tree.body
    if body is None:
        return Element("article", {}, [])
    whole = _without_away(body)
    leads, main = _main_part(whole)
    _cut_banners(main)
    article = Element("article", {}, [prune(part) for part in [*leads, main] if _is_kept(part) or part is main])
    _cut_last_headings(article)
    if main.value and not _has_text(article):  # prose in a list full of links, as in indexes of documentation
        return Element("article", {}, [_main_part(_without_away(body))[1]])
    return article


def _without_away(body: LexborNode) -> Element:
    """The body without what is named as no content, but for a part that has most of the page's text."""
    left_out: list[tuple[int, LexborNode]] = []
    whole = light_tree(body, partial(_judge, left_out, math.inf))
    most = MOST_OF_A_PAGE * (whole.chars + sum(chars for chars, _ in left_out))
    if not any(chars >= most and not _is_mostly_links(node, chars) for chars, node in left_out):
        return whole
    for node in body.css(_NO_TEXT):
        node.decompose()
    return light_tree(body, partial(_judge, [], MOST_OF_A_PAGE * len(body.text(strip=True))))


def _judge(
    left_out: list[tuple[int, LexborNode]], most: float, node: LexborNode, tag: str, attributes: Attributes
) -> int | None:
    """Marks elements by name; leaves out what is away and has less than `most` characters, noting how many it has."""
    if tag == "nav":
        return None
    marks = marks_of(tag, attributes)
    if marks & AWAY:
        chars = len(node.text(strip=True))
        if chars < most or _is_mostly_links(node, chars):
            left_out.append((chars, node))
            return None
        marks &= ~AWAY
    return marks


def _is_mostly_links(node: LexborNode, chars: int) -> bool:
    return 2 * sum(len(link.text(strip=True)) for link in node.css("a")) > chars


def marks_of(tag: str, attributes: Attributes) -> int:
    """What the names of an element say of it."""
    marks = _MARKS_OF_TAGS.get(tag, 0)
    for name, value in attributes.items():
        if not value:
            continue
        if name == "class":
            marks |= _marks_of_classes(value)
        elif name == "id":
            marks |= _marks_of_name(value)
        elif name == "role":
            marks |= AWAY if value in _AWAY_ROLES else 0
        elif name == "aria-hidden":
            marks |= AWAY if value == "true" else 0
        elif name == "itemprop":
            marks |= _marks_of_item(value)
    return CONTENT if marks & WHOLE else marks


def _marks_of_item(item: str) -> int:
    if "articleBody" in item:
        return WHOLE
    return ABOUT if item in ("author", "dateModified", "datePublished", "publisher") else 0


@lru_cache(maxsize=1 << 16)
def _marks_of_classes(classes: str) -> int:
    marks = WHOLE if "hentry" in classes else 0
    for name in classes.split():
        marks |= _marks_of_name(name)
    return marks


@lru_cache(maxsize=1 << 16)
def _marks_of_name(name: str) -> int:
    if name.startswith(_LABELLING):
        return 0
    words = [word.lower() for word in _WORDS.findall(name)]
    marks = AWAY if words[-1:] == ["bar"] and not _BARS.isdisjoint(words) else 0
    is_layout = not _LAYOUT_WORDS.isdisjoint(words)
    for word in words:
        if word in _CONTENT_WORDS:
            marks |= CONTENT
        elif word in _CAPTION_WORDS:
            marks |= CAPTION
        elif word in _AWAY_WORDS and not is_layout:
            marks |= AWAY
        elif word in _ABOUT_WORDS and not is_layout:
            marks |= ABOUT
    return marks


def _main_part(whole: Element) -> tuple[list[Element], Element]:
    """(headings and leads before it, the smallest element that holds most of the prose at each level)."""
    main = whole
    path: list[tuple[Element, Element]] = []
    while True:
        places = [child for child in main.children if not isinstance(child, str) and child.block]
        best = max(places, key=_value, default=None)
        if best is None or best.tag in _PARAGRAPHS or best.value == 0 or best.value < MAIN_SHARE * main.value:
            break
        path.append((main, best))
        main = best
    leads: list[Element] = []
    for parent, taken in path:
        if parent is whole:
            continue
        for child in parent.children:
            if child is taken:
                break
            if not isinstance(child, str) and _is_lead(child):
                leads.append(child)
    return leads, main


def _value(element: Element) -> int:
    return element.value


def _cut_banners(main: Element) -> None:
    """Cut what stands before the first heading or prose of the content, in parts that held navigation, and is short.

    Where the paragraphs of a page lie loose in its body, so does what is put on top of every page: a logo, a slogan
    and menus in one box. The menus are left out by their names; a slogan has no name that could tell.
    """
    kept = main.children
    for child in main.children:
        if isinstance(child, str) or not child.chars:
            continue
        if child.value or _has_heading(child):
            break
        if child.num_left_out and child.chars < BANNER_CHARS:
            kept = [other for other in kept if other is not child]
    main.children = kept


def _has_heading(element: Element) -> bool:
    """Whether there is a heading that is not itself a link elsewhere, such as a site's name."""
    if element.tag in HEADINGS:
        return element.link_chars * 2 <= element.chars
    return any(_has_heading(child) for child in element.children if not isinstance(child, str))


def _is_lead(element: Element) -> bool:
    if not element.block or element.marks & ABOUT:
        return False
    if element.tag in ("h1", "h2"):
        return element.link_chars * 2 <= element.chars
    return element.value >= LEAD_CHARS and element.link_chars < 0.3 * element.chars


def prune(element: Element) -> Element:
    """The element without those below it that are no content."""
    children: list[str | Element] = []
    for child in element.children:
        if isinstance(child, str) or child.tag in _AS_THEY_ARE:
            children.append(child)
        elif _is_kept(child):
            children.append(prune(child))
    element.children = children
    return element


def _is_kept(element: Element) -> bool:
    marks, tag, chars = element.marks, element.tag, element.chars
    if not element.block or not chars or tag in HEADINGS:
        return True
    if marks & CAPTION:
        return False
    if marks & ABOUT and not marks & CONTENT and chars < ABOUT_CHARS and element.value < ABOUT_VALUE:
        return False
    if tag in ("fieldset", "form") and element.value < FORM_VALUE:
        return False
    if tag in _PARTS:
        return True
    if tag == "p":
        return element.link_chars <= 0.9 * chars or chars >= LINK_CHARS
    return element.link_chars <= MOSTLY_LINKS * chars or element.value >= element.link_chars


def _cut_last_headings(element: Element) -> bool:
    """Cut headings with nothing behind them from the end; True if something else ends the element."""
    while element.children:
        last = element.children[-1]
        if isinstance(last, str):
            if last.strip():
                return True
        elif last.tag in HEADINGS:
            pass
        elif not last.block or last.tag in _PARTS or _cut_last_headings(last):
            return True
        element.children.pop()
    return False


def _has_text(element: Element) -> bool:
    return any(bool(child.strip()) if isinstance(child, str) else _has_text(child) for child in element.children)
