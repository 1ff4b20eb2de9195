"""Addresses that a page or a sitemap names.

Tags are found one after the other, without building a tree: links need none, and parsers take time that grows with the
square of how deep a page is nested, which a page can choose.
"""

import re
import zlib
from collections.abc import Iterator
from html import unescape

from marin.download.urls import normalize_url

_MAX_SITEMAP_BYTES = 50 << 20  # unpacked, as the format itself limits them
_LOCATION = re.compile(r"<(?:\w+:)?loc>\s*(?:<!\[CDATA\[)?\s*(.*?)\s*(?:\]\]>)?\s*</(?:\w+:)?loc>", re.DOTALL)
# A comment, a script with all in it, or a tag. What is never closed goes on to the end, so each character is read once.
_TAG = re.compile(
    r"""<(?:!--.*?(?:-->|\Z)
      |(?P<raw>script|style|template)\b.*?(?:</(?P=raw)\s*>|\Z)
      |(?P<name>[a-z][^\s/>]*)(?P<attributes>(?:[^>"']++|"[^"]*(?:"|\Z)|'[^']*(?:'|\Z))*+)(?:>|\Z))""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
_ATTRIBUTE = re.compile(r"""([^\s=>"'/]++)\s*+=\s*+("[^"]*+"|'[^']*+'|[^\s>"']++)""")
_LINKING = {"a": "href", "area": "href", "frame": "src", "iframe": "src", "base": "href", "meta": "content"}


def links_of(html: str, url: str) -> list[str]:
    """The addresses that a page links to, each once, in their order; none of those it asks crawlers not to follow."""
    root = None
    found: dict[str, None] = {}  # as written, each once
    for name, attributes in _linking_tags(html):
        target = attributes.get(_LINKING[name])
        if name == "meta":
            if _forbids_following(attributes):
                return []
        elif name == "base":
            root = root or normalize_url(target or "", url)
        elif target is not None and "nofollow" not in attributes.get("rel", "").lower().split():
            found[target] = None
    targets = [normalize_url(target, root or url) for target in found]
    return list(dict.fromkeys(target for target in targets if target is not None))


def _forbids_following(meta: dict[str, str]) -> bool:
    says = meta.get("content", "").lower()
    return meta.get("name", "").lower() == "robots" and re.search(r"\b(nofollow|none)\b", says) is not None


def _linking_tags(html: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(name, attributes) of the tags that may name an address, in lower case."""
    for tag in _TAG.finditer(html):
        name = (tag["name"] or "").lower()
        if name in _LINKING:
            pairs = _ATTRIBUTE.findall(tag["attributes"])
            yield name, {key.lower(): unescape(value.strip("\"'")) for key, value in reversed(pairs)}


def sitemap_links(content: bytes, url: str) -> tuple[list[str], list[str]]:
    """(pages, further sitemaps) that a sitemap names; it may be packed by gzip."""
    if content[:2] == b"\x1f\x8b":
        try:
            content = zlib.decompressobj(wbits=31).decompress(content, _MAX_SITEMAP_BYTES)
        except zlib.error:
            return [], []
    text = content[:_MAX_SITEMAP_BYTES].decode("utf-8", errors="replace")
    located = [normalize_url(unescape(place), url) for place in _LOCATION.findall(text)]
    places = list(dict.fromkeys(place for place in located if place is not None))
    return ([], places) if re.search(r"<(?:\w+:)?sitemapindex\b", text) else (places, [])
