"""Bytes of a page to text, and what is no page at all.

The encoding is found as browsers find it (marin.io.charset). Beyond that, what is plainly something else is refused, by
how it begins: the alternative is a document of what a parser makes of a picture.
"""

from marin.io.charset import decode_html

# What files begin with that are no pages.
_MAGIC = {
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"\x1f\x8b": "gzip data",
    b"PK\x03\x04": "a zip archive",
    b"\xd0\xcf\x11\xe0": "an Office document",
    b"\x7fELF": "a program",
    b"ID3": "an MP3 file",
    b"RIFF": "a RIFF file (audio, video or WebP)",
    b"wOFF": "a font",
    b"{\\rtf": "an RTF document",
}
# Share of control characters from which on text is none, and how much of the beginning is looked at.
_MAX_CONTROLS = 0.02
_LOOKED_AT = 4096
_CONTROLS = bytes(code for code in range(32) if code not in b"\t\n\v\f\r\x1b")


class NotHtml(ValueError):
    """The bytes are no page."""


def decode_page(raw: bytes, declared: str | None = None) -> str:
    """The text of a page; `declared` is the character set that came with it, of a Content-Type header.

    Raises NotHtml for bytes that are something else: another known format, binary, or without a tag.
    """
    for magic, what in _MAGIC.items():
        if raw.startswith(magic):
            raise NotHtml(f"not HTML: it is {what}")
    return check_page(decode_html(raw, declared=declared)[0])


def check_page(text: str) -> str:
    """The text without null characters. Raises NotHtml where it is binary data, or has no tag."""
    beginning = text[:_LOOKED_AT].encode("utf-8", errors="replace")
    if len(beginning) - len(beginning.translate(None, _CONTROLS)) > _MAX_CONTROLS * len(beginning):
        raise NotHtml("not HTML: it has the control characters of binary data")
    if "<" not in text:
        raise NotHtml("not HTML: there is no tag in it" if text.strip() else "not HTML: there is nothing in it")
    return text.replace("\x00", "")
