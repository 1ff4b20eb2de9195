"""HTML bytes as text, by the rules that browsers have for finding the encoding.

In this order: a byte order mark, the charset of the HTTP header, that of a meta element in the first 4,096 bytes
(browsers look at 1,024, but web archives put scripts of their own before a page), UTF-8 where the bytes are valid, else
windows-1252. Labels mean what the WHATWG encoding standard says they mean, which is often a larger encoding than their
name (iso-8859-1 is windows-1252, gb2312 is gb18030). A label that is unknown, or a lie about UTF-8, is passed over.
Bytes that the encoding has not become U+FFFD, as in browsers.
"""

import codecs
import re

_PRESCAN_BYTES = 4096
_META = re.compile(rb"""<meta[^>]+?charset\s*=\s*["']?\s*([A-Za-z0-9_:.()-]+)""", re.IGNORECASE)
_XML = re.compile(rb"""^\s*<\?xml[^>]+?encoding\s*=\s*["']([A-Za-z0-9_:.()-]+)""", re.IGNORECASE)
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

# Where the encoding standard means more by a label than Python does.
_WIDER = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "euc_kr": "cp949",
    "shift_jis": "cp932",
    "big5": "big5hkscs",
}


def decode_html(data: bytes, *, declared: str | None = None) -> tuple[str, str]:
    """(text, Python's name of the encoding) of a page; `declared` is the charset of its HTTP header."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace"), encoding
    for encoding in (_codec(declared), _declared_inside(data)):
        if encoding == "utf-8" and not _is_utf8(data):
            continue  # a page that says UTF-8 and is not; windows-1252 reads more of it
        if encoding is not None:
            return data.decode(encoding, errors="replace"), encoding
    encoding = "utf-8" if _is_utf8(data) else "cp1252"
    return data.decode(encoding, errors="replace"), encoding


def _is_utf8(data: bytes) -> bool:
    """Whether bytes are UTF-8, but for fewer than one broken place in a thousand bytes."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("utf-8", errors="replace").count("\ufffd") * 1000 < len(data)
    return True


def _declared_inside(data: bytes) -> str | None:
    head = data[:_PRESCAN_BYTES]
    found = _XML.match(head) or _META.search(head)
    encoding = _codec(found.group(1).decode("ascii")) if found else None
    # whoever could read the label was not reading UTF-16
    return "utf-8" if encoding is not None and encoding.startswith("utf-16") else encoding


def _codec(label: str | None) -> str | None:
    """Python's name of the encoding that a label means in HTML; None where it is none of text."""
    if not label:
        return None
    try:
        info = codecs.lookup(label.strip().strip("\"'"))
    except (LookupError, ValueError):
        return None
    if not info._is_text_encoding:  # rot13 and the like
        return None
    return _WIDER.get(info.name, info.name)
