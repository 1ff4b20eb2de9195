"""Addresses that a page or a sitemap names."""

import re
import zlib
from html import unescape

from marin.download.urls import normalize_url

_MAX_SITEMAP_BYTES = 50 << 20  # unpacked, as the format itself limits them
_LOCATION = re.compile(r"<(?:\w+:)?loc>\s*(?:<!\[CDATA\[)?\s*(.*?)\s*(?:\]\]>)?\s*</(?:\w+:)?loc>", re.DOTALL)


def links_of(html: str, url: str) -> list[str]:
    """The addresses that a page links to, each once, in their order; none of those it asks crawlers not to follow."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(html)
    for meta in tree.css("meta[name][content]"):
        attributes = meta.attributes
        if (attributes.get("name") or "").lower() == "robots" and re.search(
            r"\b(nofollow|none)\b", (attributes.get("content") or "").lower()
        ):
            return []
    base = tree.css_first("base[href]")
    root = normalize_url(base.attributes.get("href") or "", url) if base is not None else None
    found = []
    for node in tree.css("a[href], area[href], frame[src], iframe[src]"):
        attributes = node.attributes
        if "nofollow" in (attributes.get("rel") or "").lower().split():
            continue
        target = normalize_url(attributes.get("href") or attributes.get("src") or "", root or url)
        if target is not None:
            found.append(target)
    return list(dict.fromkeys(found))


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
