"""Bytes of a page to text, as a browser would guess the encoding, but by what works before what is declared.

Bytes that are valid UTF-8 are UTF-8, whatever the page says: other encodings hardly ever give such bytes by chance,
and pages that declare wrongly are many. Then comes what the transport or the page declares, then windows-1252, in
which every page can be read. What the encoding cannot read becomes U+FFFD, which the caller can count.
"""

import codecs
import re

# A declaration stands in the first bytes; browsers look at 1,024 of them, and pages have long comments.
_DECLARED_WITHIN = 4096
_META = re.compile(rb"<meta[^>]{0,300}?charset\s*=\s*[\"']?\s*([a-zA-Z0-9_:.-]+)", re.IGNORECASE)
_XML = re.compile(rb"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([a-zA-Z0-9_:.-]+)", re.IGNORECASE)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What a label means on the web, where Python takes it to mean less.
_ON_THE_WEB = {
    "ascii": "cp1252",
    "big5": "big5hkscs",
    "euc-kr": "cp949",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gb_2312-80": "gb18030",
    "gbk": "gb18030",
    "iso-8859-1": "cp1252",
    "iso-8859-9": "cp1254",
    "iso-8859-11": "cp874",
    "iso8859-1": "cp1252",
    "ks_c_5601-1987": "cp949",
    "latin-1": "cp1252",
    "latin1": "cp1252",
    "shift-jis": "cp932",
    "shift_jis": "cp932",
    "sjis": "cp932",
    "tis-620": "cp874",
    "us-ascii": "cp1252",
    "windows-31j": "cp932",
    "windows-874": "cp874",
    "x-gbk": "gb18030",
    "x-sjis": "cp932",
    "x-user-defined": "cp1252",
}
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
# Share of control characters from which on text is none.
_MAX_CONTROLS = 0.02
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_LOOKED_AT = 4096


class NotHtml(ValueError):
    """The bytes are no page."""


def decode_page(raw: bytes, declared: str | None = None) -> str:
    """The text of a page; `declared` is the character set that came with it, of a Content-Type header.

    Raises NotHtml for bytes that are something else: another known format, binary, or without a tag.
    """
    for magic, what in _MAGIC.items():
        if raw.startswith(magic):
            raise NotHtml(f"not HTML: it is {what}")
    text = decode(raw, declared)
    beginning = text[:_LOOKED_AT]
    if len(_CONTROLS.findall(beginning)) > _MAX_CONTROLS * len(beginning):
        raise NotHtml("not HTML: it has the control characters of binary data")
    if "<" not in text:
        raise NotHtml("not HTML: there is no tag in it" if text.strip() else "not HTML: there is nothing in it")
    return text.replace("\x00", "")


def decode(raw: bytes, declared: str | None = None) -> str:
    """Bytes as text: by byte order mark, else as UTF-8 where valid, else as declared, else as windows-1252."""
    for mark, name in _BOMS:
        if raw.startswith(mark):
            return raw.decode(name, errors="replace")
    labels = (declared, _declared_in(raw))
    if any(label and label.lower().startswith("iso-2022") for label in labels) and b"\x1b" in raw:
        return raw.decode("iso2022_jp", errors="replace")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(raw) - error.start < 4:  # cut off within a character
            return raw.decode("utf-8", errors="replace")
    for label in labels:
        name = codec_of(label)
        if name is None:
            continue
        text = raw.decode(name, errors="replace")
        # a page that declares UTF-8 and is mostly something else
        if name != "utf-8" or text.count("\ufffd") * 10 < sum(byte > 127 for byte in raw):
            return text
    return raw.decode("cp1252", errors="replace")


def codec_of(label: str | None) -> str | None:
    """Python's name of the encoding that a label means on the web; None for none and for one that nobody knows."""
    if not label:
        return None
    label = label.strip("\"' ").lower()
    try:
        name = codecs.lookup(_ON_THE_WEB.get(label, label)).name
    except LookupError:
        return None
    # an ASCII-readable declaration is not in UTF-16; and codecs such as rot13 are none of text
    if name.startswith(("utf-16", "utf-32")):
        return "utf-8"
    return name if codecs.lookup(name)._is_text_encoding else None


def _declared_in(raw: bytes) -> str | None:
    found = _XML.search(raw[:_DECLARED_WITHIN]) or _META.search(raw[:_DECLARED_WITHIN])
    return found[1].decode("ascii") if found else None
