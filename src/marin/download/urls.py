"""One spelling for each address, so that no page is fetched twice under two.

What RFC 3986 calls equivalent becomes equal: case of scheme and host, default ports, dot segments, escapes of
characters that need none, case of the hex digits of others. A fragment is not part of what is asked for. The order of a
query and a slash at the end are kept: servers do tell them apart.
"""

import re
import urllib.parse

_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_KEPT = "!#$%&'()*+,/:;=?@[]~"
_MAX_LENGTH = 2_000  # of an address; longer ones are traps, or nobody's page


def normalize_url(url: str, base: str | None = None) -> str | None:
    """The address in its one spelling, taken relative to `base`; None where it is none of HTTP, or is malformed."""
    try:
        parts = urllib.parse.urlsplit(urllib.parse.urljoin(base or "", url.strip()))
        scheme, port = parts.scheme.lower(), parts.port
        host = (parts.hostname or "").rstrip(".").encode("idna").decode("ascii") if parts.hostname else ""
    except (ValueError, UnicodeError):
        return None
    if scheme not in _DEFAULT_PORTS or not host or parts.username is not None or re.search(r"\s", host):
        return None
    place = f"[{host}]" if ":" in host else host
    if port is not None and port != _DEFAULT_PORTS[scheme]:
        place += f":{port}"
    path = _without_dots(_escapes(parts.path)) or "/"
    normalized = urllib.parse.urlunsplit((scheme, place, path, _escapes(parts.query), ""))
    return normalized if len(normalized) <= _MAX_LENGTH else None


def host_of(url: str) -> str:
    """scheme://host[:port] of an address: what has one robots.txt and one pace."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _escapes(text: str) -> str:
    """Percent escapes where they are needed, and nowhere else."""

    def spell(match: re.Match[str]) -> str:
        character = chr(int(match[1], 16))
        return character if character in _UNRESERVED else f"%{match[1].upper()}"

    quoted = urllib.parse.quote(text, safe=_KEPT, encoding="utf-8", errors="replace")
    return re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", _ESCAPE.sub(spell, quoted))


def _without_dots(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")
    for i, segment in enumerate(segments):
        is_last = i + 1 == len(segments)
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
            if is_last:
                kept.append("")
        elif segment == ".":
            if is_last:
                kept.append("")
        else:
            kept.append(segment)
    return "/".join(kept)
