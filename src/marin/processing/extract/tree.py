"""A page as a light tree: what is visible, with the counts that tell prose from links.

One walk over the parser's tree makes ours, and leaves out what no reader sees as text (scripts, buttons, hidden
elements). Choosing the content and writing it work on this tree. The price is a second tree; what it buys is that a
parser's node is touched once, for touching them is what extraction costs in Python.

The parser needs time quadratic in the depth of nesting (30 s for 100,000 levels), so the depth is bounded before it
begins, and the walk's own bound keeps the recursion of all that follows within Python's.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from selectolax.lexbor import LexborHTMLParser, LexborNode

from marin.processing.extract.latex import latex_of

# Levels of elements that are read. Real pages have 30; a browser flattens what is deeper than 512.
MAX_DEPTH = 200
# Levels that the parser is given, by a count of tags that takes elements left open for nested ones.
PARSER_DEPTH = 5_000
# A run of text (what stands between two blocks) is prose from this length on, in characters.
PROSE_CHARS = 50


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


# Their content is never part of the text.
UNSEEN = names(
    "-comment applet area audio base button canvas col colgroup datalist embed frame frameset head iframe input link "
    "map meta meter noembed noframes noscript object optgroup option param progress script select source style svg "
    "template textarea title track video"
)
BLOCKS = names(
    "address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure "
    "footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li listing main menu nav ol p plaintext pre search "
    "section summary table tbody td tfoot th thead tr ul xmp"
)
# These say what they hold by their tag; any other element that has no attributes goes unjudged.
TELLING = names("article aside body dialog figcaption footer html main menu nav search")
HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
# White space right in these is between lines of HTML, never between words.
_WITHOUT_TEXT = frozenset(("dl", "html", "ol", "table", "tbody", "tfoot", "thead", "tr", "ul"))
VERBATIM = frozenset(("listing", "plaintext", "pre", "xmp"))
_HIDING_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_OPENED_OR_CLOSED = re.compile(rb"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
# The next of their kind closes them: they make no depth.
_SHALLOW = names("dd dt hr li p tbody td tfoot th thead tr")
_NESTING = frozenset(name.encode() for name in BLOCKS - _SHALLOW)
_FORMATTING = re.compile(rb"<(/?)(b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)(\s[^<>]*)?>", re.IGNORECASE)
# So many tags more than pairs of tags have no page that left many elements open.
_FEW_OPEN = 400
# Elements that the parser may open again, as the product of those left open and of tags.
_MAX_REOPENED = 2_000_000
_LONG_TAG = re.compile(rb"<[a-zA-Z][^<>]{10000,}")
_SMALL_PAGE = 100_000
_MAX_ATTRIBUTES = 5_000

Attributes: TypeAlias = dict[str, str | None]
# Of an element, by its tag and attributes: marks to remember it by, or None to leave it out.
Judge: TypeAlias = Callable[[LexborNode, str, Attributes], int | None]


class TooDeep(ValueError):
    """The page is nested deeper than is worth reading."""


class Element:
    """An element: children are strings (white space collapsed, but in verbatim elements) and elements, in order.

    `block`: it starts a line of its own, as does an inline element that holds a block. `chars` counts the characters
    of its text, `link_chars` those of them in links, `value` those that read like prose: of runs of text that are long
    and not mostly links. `marks` are what the judge of the walk said of it, `num_left_out` how many elements below it
    the judge left out.
    """

    __slots__ = ("attributes", "block", "chars", "children", "link_chars", "marks", "num_left_out", "tag", "value")

    def __init__(
        self,
        tag: str,
        attributes: Attributes,
        children: "list[str | Element]",
        block: bool = True,
        chars: int = 0,
        link_chars: int = 0,
        value: int = 0,
        marks: int = 0,
        num_left_out: int = 0,
    ):
        self.tag = tag
        self.attributes = attributes
        self.children = children
        self.block = block
        self.chars = chars
        self.link_chars = link_chars
        self.value = value
        self.marks = marks
        self.num_left_out = num_left_out


def parse(html: str) -> LexborHTMLParser:
    """The parser's tree of a page. Raises TooDeep, before parsing, where that would take very long."""
    raw = html.encode("utf-8", errors="replace")
    check_parsable(raw)
    return LexborHTMLParser(raw)


def check_parsable(html: bytes) -> None:
    """TooDeep for a page on which the parser, right in every step, would spend minutes or gigabytes.

    Counted over tags, without a parser: elements inside each other that have to be closed; elements of formatting left
    open, which the standard opens again in every block; attributes of one element, each compared with all before it.
    """
    num_tags = html.count(b"<")
    if num_tags >= PARSER_DEPTH and (depth := nesting_depth(html)) > PARSER_DEPTH:
        raise TooDeep(f"nested too deep: about {depth:,} levels of blocks, at most {PARSER_DEPTH:,} are parsed")
    if num_tags**2 > _MAX_REOPENED and num_tags - 2 * html.count(b"</") > _FEW_OPEN:
        left_open = formatting_left_open(html)
        if left_open * num_tags > _MAX_REOPENED:
            raise TooDeep(f"nested too deep: {left_open:,} elements of formatting are left open over {num_tags:,} tags")
    if len(html) > _SMALL_PAGE:
        for tag in _LONG_TAG.findall(html):
            if (num_attributes := len(tag.split())) > _MAX_ATTRIBUTES and b"=" in tag:
                raise TooDeep(f"too many attributes: about {num_attributes:,} in one element")


def nesting_depth(html: bytes) -> int:
    """About how deep the blocks of a page are nested, by its tags.

    Of each block that opens, the parser looks through all that are open; of other elements it does not.
    """
    depth = deepest = 0
    for closing, name in _OPENED_OR_CLOSED.findall(html):
        if name.lower() not in _NESTING:
            continue
        if closing:
            depth -= depth > 0
        else:
            depth += 1
            deepest = max(deepest, depth)
    return deepest


def formatting_left_open(html: bytes) -> int:
    """About how many elements of formatting a page never closes; of equal ones the standard opens three again."""
    opened: dict[bytes, Counter[bytes]] = {}
    closed: Counter[bytes] = Counter()
    for closing, name, attributes in _FORMATTING.findall(html):
        if closing:
            closed[name.lower()] += 1
        else:
            opened.setdefault(name.lower(), Counter())[attributes] += 1
    return sum(
        max(min(tags.total() - closed[name], sum(min(count, 3) for count in tags.values())), 0)
        for name, tags in opened.items()
    )


def check_depth(tree: LexborHTMLParser) -> None:
    """TooDeep beyond MAX_DEPTH levels, for those that follow them by other means than a light tree."""
    node, depth = tree.root, 0
    while node is not None:
        if depth > MAX_DEPTH:
            raise TooDeep(f"nested too deep: at most {MAX_DEPTH} levels of elements are read")
        if node.first_child is not None:
            node, depth = node.first_child, depth + 1
            continue
        while node is not None and node.next is None:
            node, depth = node.parent, depth - 1
        node = node.next if node is not None and depth > 0 else None


def light_tree(node: LexborNode, judge: Judge | None = None) -> Element:
    """What is visible in and below a parser's node, without what `judge` leaves out.

    Raises TooDeep beyond MAX_DEPTH levels.
    """
    return _copy(node, node.tag or "", node.attributes, 0, judge, False, False, MAX_DEPTH)


# All line breaks are alike, and nothing changes an element without children.
_LINE_BREAK = Element("br", {}, [], block=False)


def _copy(
    node: LexborNode,
    tag: str,
    attributes: Attributes,
    marks: int,
    judge: Judge | None,
    verbatim: bool,
    linked: bool,
    levels: int,
) -> Element:
    if levels == 0:
        raise TooDeep(f"nested too deep: at most {MAX_DEPTH} levels of elements are read")
    children: list[str | Element] = []
    chars = link_chars = value = num_left_out = 0
    run = run_links = 0  # characters since the last block
    block = tag in BLOCKS
    spaces = tag not in _WITHOUT_TEXT
    after = node.first_child
    while (child := after) is not None:  # a third quicker than the parser's own iterator
        after = child.next
        name = child.tag
        if name == "-text":
            text = child.text_content or ""
            if verbatim:
                text = text.replace("\xa0", " ")
            else:
                words = " ".join(text.split())
                if words:  # white space as a browser shows it: every run of it is one space, also at the ends
                    if text[0].isspace():
                        words = " " + words
                    text = words + " " if text[-1].isspace() else words
                elif spaces and children:
                    text = " "
                else:
                    continue
            children.append(text)
            chars += len(text)
            run += len(text)
            continue
        if name is None or name in UNSEEN:
            continue
        if name == "br":
            children.append(_LINE_BREAK)
            continue
        given = child.attributes
        if given and ("style" in given or "hidden" in given) and is_hidden(given):
            continue
        said: int | None = 0
        # what stands in code is code, whatever a highlighter names it
        if (given or name in TELLING) and judge is not None and not verbatim:
            said = judge(child, name, given)
            if said is None:
                num_left_out += 1
                continue
        if name == "math":
            below = _formula(child, given)
        else:
            below = _copy(
                child,
                name,
                given,
                said,
                judge,
                verbatim or name in VERBATIM,
                linked or (name == "a" and is_link(given)),
                levels - 1,
            )
        children.append(below)
        chars += below.chars
        link_chars += below.link_chars
        num_left_out += below.num_left_out
        if below.block:
            block = True
            if run >= PROSE_CHARS and run_links * 2 <= run and not linked:
                value += run - run_links
            run = run_links = 0
            value += below.value
        else:
            run += below.chars
            run_links += below.link_chars
    if linked:
        link_chars = chars
    elif block and run >= PROSE_CHARS and run_links * 2 <= run:
        value += run - run_links
    return Element(tag, attributes, children, block, chars, link_chars, value, marks, num_left_out)


def _formula(node: LexborNode, attributes: Attributes) -> Element:
    """A formula as an element `math` whose text is LaTeX."""
    formula = latex_of(node)
    return Element("math", attributes, [formula], attributes.get("display") == "block", len(formula))


def is_hidden(attributes: Attributes) -> bool:
    """Whether the page says of an element that it is not shown."""
    if "hidden" in attributes:
        return True
    style = attributes.get("style")
    return style is not None and _HIDING_STYLE.search(style) is not None


def is_link(attributes: Attributes) -> bool:
    """Whether an element `a` leads anywhere: it may be a name for others to lead to, or a button."""
    address = attributes.get("href")
    return bool(address) and not address.startswith("javascript:")


def text_of(element: Element) -> str:
    """All text below an element, as it stands, without spaces between blocks."""
    return "".join(child if isinstance(child, str) else text_of(child) for child in element.children)
