"""A light tree as Markdown or as text.

Both have the same blocks: paragraphs, lists with their markers and nesting, tables with a row a line, code as it
stands, formulas as LaTeX between dollar signs. Markdown adds the marks of headings, emphasis, code, quotations, tables,
links and images; text has none of them.

Written here rather than by a converter library, for three things that those tried did wrong: code blocks keep every
character, formulas survive, and the tree need not be made HTML again to be parsed a second time. Two prices: nothing
is escaped, so that a `*` of the text stays what the author typed, and a page about Markdown may read as Markdown; and a
line break is a newline, where strict Markdown wants two spaces that nobody sees.
"""

import re
from dataclasses import dataclass
from urllib.parse import urljoin

from marin.processing.extract.tree import HEADINGS, VERBATIM, Attributes, Element, text_of

_SPACES = re.compile(r" {2,}")
_AROUND_BREAK = re.compile(r" *\n *")
_LINE_NUMBERS = frozenset(
    ("gutter", "line-number", "line-numbers", "lineno", "linenos", "linenodiv", "linenumber", "ln-num")
)
# Signs that a page puts behind headings for others to link to.
_PERMALINKS = frozenset(("#", "¶", "§", "🔗", "[link]", "⚓"))
_LANGUAGE = re.compile(
    r"(?:^|\s)(?:language|lang|highlight-source|highlight|brush:?|sourceCode|code)[-: ]\s*([A-Za-z][\w+#.-]*)"
)
# Names that highlighters give to code without a language.
_NO_LANGUAGE = frozenset(
    ("default", "none", "nohighlight", "notranslate", "plain", "plaintext", "text", "txt", "block", "box")
)
_SIGNED_NUMBER = re.compile(r"[-−+]?\d+")
# What would end the address of a link in Markdown.
_IN_LINKS = str.maketrans({" ": "%20", "(": "%28", ")": "%29"})
_BACKTICKS = re.compile(r"`+")

_STRONG = frozenset(("b", "strong"))
_EMPHASIS = frozenset(("dfn", "em", "i", "var"))
_STRUCK = frozenset(("del", "s", "strike"))
_CODE = frozenset(("code", "kbd", "samp", "tt"))
_CELLS = frozenset(("td", "th"))
_ROW_GROUPS = frozenset(("tbody", "tfoot", "thead"))
# In a cell, these mean that the table lays out the page.
_NO_CELL_CONTENT = frozenset(("blockquote", "dl", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "ol", "pre", "table", "ul"))


@dataclass(frozen=True, kw_only=True)
class Style:
    """What is written beside the text itself."""

    # Markdown, or plain text.
    markdown: bool
    # Links as [text](address); otherwise their text alone. Of Markdown only.
    keep_links: bool = False
    # Images as ![alternative text](address); otherwise nothing of them. Of Markdown only.
    keep_images: bool = False
    # Marks in the text that lead to a reference or footnote, as [1]; otherwise nothing.
    keep_references: bool = False
    # The page's address, which addresses of links are relative to.
    url: str = ""


def write(element: Element, style: Style) -> str:
    """The text of a tree, without newlines at its ends."""
    return "\n\n".join(_Writer(style).blocks(element))


def text_within(element: Element, style: Style) -> str:
    """Everything in an element as one run of text, as in a cell of a table."""
    return _Writer(style).text_within(element)


class _Writer:
    def __init__(self, style: Style):
        self.style = style
        self.markdown = style.markdown
        self.language = ""  # of code, by an element around it

    # ---- blocks: an element to a list of them, each without blank lines around it

    def blocks(self, element: Element) -> list[str]:
        blocks: list[str] = []
        run: list[str | Element] = []
        for child in element.children:
            if isinstance(child, str) or not child.block:
                run.append(child)
                continue
            if run:
                blocks += self.paragraphs(run)
                run = []
            blocks += self.block(child)
        if run:
            blocks += self.paragraphs(run)
        return blocks

    def block(self, element: Element) -> list[str]:
        tag = element.tag
        if tag in HEADINGS:
            return self.heading(element)
        if tag in ("ul", "ol", "menu", "dir"):
            return self.list_of(element)
        if tag in VERBATIM:
            return self.code_block(element)
        if tag == "table":
            return self.table(element)
        if tag == "blockquote":
            return self.quotation(element)
        if tag == "dl":
            return self.definitions(element)
        if tag == "li":
            return self.items([element], ["- "])
        if tag == "hr":
            return ["---"] if self.markdown else []
        if tag == "math":
            return [f"$$\n{element.children[0]}\n$$"] if element.children[0] else []
        if "highlight-" in (element.attributes.get("class") or ""):
            return self.highlighted(element)
        return self.blocks(element)

    def highlighted(self, element: Element) -> list[str]:
        """The blocks of an element that names the language of the code in it, as documentation generators do."""
        around, self.language = self.language, language_named(element.attributes) or self.language
        blocks = self.blocks(element)
        self.language = around
        return blocks

    def paragraphs(self, run: list[str | Element]) -> list[str]:
        """Inline content: one paragraph, or more where two line breaks stand together."""
        text = tidy("".join(map(self.inline, run)))
        if "\n\n" not in text:
            text = text.strip()
            return [text] if text else []
        return [part for paragraph in re.split(r"\n{2,}", text) if (part := paragraph.strip())]

    def heading(self, element: Element) -> list[str]:
        text = " ".join(self.text_within(element).split())
        if not text:
            return []
        return [f"{'#' * int(element.tag[1])} {text}" if self.markdown else text]

    def text_within(self, element: Element) -> str:
        """Everything in an element as one run, for where blocks cannot stand: headings, terms and cells of tables."""
        pieces = []
        for child in element.children:
            if isinstance(child, str) or not child.block:
                pieces.append(self.inline(child))
            elif child.tag in VERBATIM:
                pieces.append(" " + self.code_span(text_of(child)) + " ")
            elif child.tag == "math":
                pieces.append(f" ${child.children[0]}$ ")
            else:
                pieces.append(" " + self.text_within(child) + " ")
        return tidy("".join(pieces)).strip()

    def list_of(self, element: Element) -> list[str]:
        items: list[Element] = []
        for child in element.children:
            if isinstance(child, str):
                if child.strip():
                    items.append(Element("li", {}, [child]))
            elif child.tag == "li" or not items:
                items.append(child)
            else:  # a list right in a list, as browsers show it: below the item before
                items[-1] = Element("li", items[-1].attributes, [*items[-1].children, child])
        if element.tag != "ol":
            return self.items(items, ["- "] * len(items))
        first = element.attributes.get("start") or "1"
        number = int(first) if _SIGNED_NUMBER.fullmatch(first) and len(first) < 10 else 1
        return self.items(items, [f"{number + index}. " for index in range(len(items))])

    def items(self, items: list[Element], markers: list[str]) -> list[str]:
        written = []
        is_loose = False
        for item, marker in zip(items, markers, strict=True):
            blocks = self.blocks(item)
            if not blocks:
                continue
            nested = sum(1 for child in item.children if not isinstance(child, str) and child.tag in ("ul", "ol"))
            separator = "\n" if len(blocks) <= 1 + nested else "\n\n"
            is_loose = is_loose or separator == "\n\n"
            written.append(marker + indented(separator.join(blocks), " " * len(marker)))
        return ["\n\n".join(written) if is_loose else "\n".join(written)] if written else []

    def definitions(self, element: Element) -> list[str]:
        blocks: list[str] = []
        for child in element.children:
            if isinstance(child, str):
                blocks += self.paragraphs([child])
            elif child.tag == "dt":
                blocks += self.blocks(child)
            elif child.tag == "dd":
                definition = "\n\n".join(self.blocks(child))
                if definition:
                    text = ": " + indented(definition, "  ") if self.markdown else definition
                    blocks[-1:] = [f"{blocks[-1]}\n{text}"] if blocks else [text]
            elif child.tag == "div":
                blocks += self.definitions(child)
            else:
                blocks += self.block(child)
        return blocks

    def quotation(self, element: Element) -> list[str]:
        text = "\n\n".join(self.blocks(element))
        if not text or not self.markdown:
            return [text] if text else []
        return ["\n".join(f"> {line}" if line else ">" for line in text.split("\n"))]

    def code_block(self, element: Element) -> list[str]:
        code = code_of(element).strip("\n").rstrip()
        if not code:
            return []
        if not self.markdown:
            return [code]
        fence = fence_for(code, 3)
        return [f"{fence}{language_of(element) or self.language}\n{code}\n{fence}"]

    def table(self, table: Element) -> list[str]:
        rows, captions = rows_of(table)
        if table.attributes.get("role") == "presentation" or is_layout(rows):
            return [block for child in table.children if not isinstance(child, str) for block in self.layout(child)]
        cells = [[self.text_within(cell).replace("\n", " ") for cell in row] for row in rows]
        spans = [[_span(cell) for cell in row] for row in rows]
        lines = [
            [text for cell, span in zip(row, widths, strict=True) for text in [cell] + [""] * (span - 1)]
            for row, widths in zip(cells, spans, strict=True)
        ]
        lines = [line for line in lines if any(line)]
        blocks = [block for caption in captions for block in self.blocks(caption)]
        if not lines:
            return blocks
        if not self.markdown:
            return [*blocks, "\n".join(" | ".join(line) for line in lines)]
        width = max(map(len, lines))
        padded = [[text.replace("|", "\\|") for text in line] + [""] * (width - len(line)) for line in lines]
        head, *body = [f"| {' | '.join(line)} |" for line in padded]
        return [*blocks, "\n".join([head, f"|{' --- |' * width}", *body])]

    def layout(self, element: Element) -> list[str]:
        """The blocks of a table that lays out the page, cell after cell, without columns of line numbers."""
        if element.tag in _CELLS:
            return [] if is_line_numbers(element) else self.blocks(element)
        if element.tag in _ROW_GROUPS or element.tag == "tr":
            return [block for child in element.children if not isinstance(child, str) for block in self.layout(child)]
        return self.block(element)

    # ---- inline: a piece to a string, in which "\n" is a line break

    def inline(self, piece: "str | Element") -> str:
        if isinstance(piece, str):
            return piece
        tag = piece.tag
        if tag == "br":
            return "\n"
        if tag == "img":
            return self.image(piece)
        if tag == "math":
            return f"${piece.children[0]}$" if piece.children[0] else ""
        if tag in _CODE:
            return self.code_span(text_of(piece))
        if tag == "sup" and is_reference(piece):
            return self.reference(piece)
        text = "".join(map(self.inline, piece.children))
        if tag == "a":
            return self.link(piece, text)
        if tag == "sup":
            return f"^{text}" if _SIGNED_NUMBER.fullmatch(text) else text
        if tag == "q":
            return f"“{text}”"
        if not self.markdown:
            return text
        if tag in _STRONG:
            return marked(text, "**")
        if tag in _EMPHASIS:
            return marked(text, "*")
        if tag in _STRUCK:
            return marked(text, "~~")
        return text

    def link(self, element: Element, text: str) -> str:
        address = element.attributes.get("href") or ""
        shown = text.strip()
        if shown in _PERMALINKS and address.startswith("#"):
            return ""
        if not (self.markdown and self.style.keep_links and shown) or address.startswith(("#", "javascript:")):
            return text
        if not address or "\n" in shown:
            return text
        return text.replace(shown, f"[{shown}]({absolute(self.style.url, address)})", 1)

    def reference(self, element: Element) -> str:
        if not self.style.keep_references:
            return ""
        text = text_of(element).strip().strip("[]")
        return f"[{text}]" if text else ""

    def image(self, element: Element) -> str:
        address = element.attributes.get("src") or ""
        if not (self.markdown and self.style.keep_images) or not address or address.startswith("data:"):
            return ""
        alternative = " ".join((element.attributes.get("alt") or "").split())
        return f"![{alternative}]({absolute(self.style.url, address)})"

    def code_span(self, code: str) -> str:
        code = " ".join(code.split())
        if not code or not self.markdown:
            return code
        fence = fence_for(code, 1)
        space = " " if code.startswith("`") or code.endswith("`") else ""
        return f"{fence}{space}{code}{space}{fence}"


def is_reference(raised: Element) -> bool:
    """Whether raised text leads to a place in a page, as the marks of footnotes and references do."""
    links = (child for child in raised.children if not isinstance(child, str) and child.tag == "a")
    return any("#" in (link.attributes.get("href") or "") for link in links)


def tidy(text: str) -> str:
    """Inline text with one space where pieces brought two, and none around line breaks."""
    if "  " in text:
        text = _SPACES.sub(" ", text)
    return _AROUND_BREAK.sub("\n", text) if "\n" in text else text


def marked(text: str, mark: str) -> str:
    """Text between marks, which touch it: spaces stay outside."""
    inside = text.strip()
    if not inside or "\n\n" in inside or inside.startswith(mark):
        return text
    return text.replace(inside, f"{mark}{inside}{mark}", 1)


def indented(text: str, by: str) -> str:
    """All lines after the first moved to the right, but for empty ones."""
    return "\n".join(by + line if line and index else line for index, line in enumerate(text.split("\n")))


def fence_for(code: str, least: int) -> str:
    """As many backticks as enclose code that may have some itself."""
    return "`" * max([least, *(len(run) + 1 for run in _BACKTICKS.findall(code) if len(run) >= least)])


def absolute(url: str, address: str) -> str:
    """An address as the page at `url` means it; as it stands where that makes no sense."""
    try:
        return urljoin(url, address).translate(_IN_LINKS)
    except ValueError:
        return address


def code_of(element: Element) -> str:
    """The text of code as it stands, without line numbers. A block in it (a line of some highlighters) is a line."""
    parts: list[str] = []
    for child in element.children:
        if isinstance(child, str):
            parts.append(child)
        elif child.tag == "br":
            parts.append("\n")
        elif is_line_numbers(child):
            continue
        else:
            if child.block and parts and not parts[-1].endswith("\n"):
                parts.append("\n")
            parts.append(code_of(child))
            if child.block and not parts[-1].endswith("\n"):
                parts.append("\n")
    return "".join(parts)


def is_line_numbers(element: Element) -> bool:
    """Whether an element holds the line numbers of code."""
    classes = element.attributes.get("class")
    return bool(classes) and not _LINE_NUMBERS.isdisjoint(classes.split())


def language_of(element: Element) -> str:
    """The language of code by its element or the first one in it, else nothing."""
    inner = [child.attributes for child in element.children if not isinstance(child, str)][:1]
    return next(filter(None, map(language_named, [element.attributes, *inner])), "")


def language_named(attributes: Attributes) -> str:
    """The language that an element says its code is in, else nothing."""
    named = attributes.get("data-lang") or attributes.get("data-language")
    if not named and (found := _LANGUAGE.search(attributes.get("class") or "")):
        named = found[1]
    return named.lower() if named and named.lower() not in _NO_LANGUAGE else ""


def rows_of(table: Element) -> tuple[list[list[Element]], list[Element]]:
    """(the cells of each row, the captions) of a table."""
    rows, captions = [], []
    for child in table.children:
        if isinstance(child, str):
            continue
        if child.tag in _ROW_GROUPS:
            rows += rows_of(child)[0]
        elif child.tag == "tr":
            rows.append([cell for cell in child.children if not isinstance(cell, str) and cell.tag in _CELLS])
        elif child.tag == "caption":
            captions.append(child)
    return rows, captions


def is_layout(rows: list[list[Element]]) -> bool:
    """Whether a table lays out the page: at most one cell a row, or what no cell of data holds."""
    return all(len(row) <= 1 for row in rows) or any(_holds_blocks(cell) for row in rows for cell in row)


def _holds_blocks(element: Element) -> bool:
    return any(
        child.tag in _NO_CELL_CONTENT or _holds_blocks(child)
        for child in element.children
        if not isinstance(child, str) and child.block
    )


def _span(cell: Element) -> int:
    span = cell.attributes.get("colspan") or "1"
    return min(max(int(span), 1), 100) if span.isascii() and span.isdigit() and len(span) < 5 else 1
