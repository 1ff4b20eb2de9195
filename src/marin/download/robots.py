"""What a site lets a crawler fetch: robots.txt by RFC 9309.

The most specific rule wins, at equal length the one that allows; `*` and `$` are wildcards (Python's own parser knows
neither, and takes the first rule that fits). Crawl-delay and Sitemap are no part of the RFC and are minded as everybody
does.
"""

import urllib.parse
from dataclasses import dataclass

MAX_BYTES = 500 << 10  # what the RFC wants to be read at least; the rest is passed over


@dataclass(frozen=True)
class _Rule:
    allows: bool
    pattern: str

    def matches(self, path: str) -> bool:
        """Whether the path begins with the pattern, or is all of it where that ends in `$`.

        Each piece between wildcards is taken at its first place behind the one before it: where any choice of places
        fits, that one does, so nothing is tried twice and the time grows with the lengths alone.
        """
        first, *others = self.pattern.removesuffix("$").split("*")
        is_whole = self.pattern.endswith("$")
        if not path.startswith(first):
            return False
        if not others:
            return not is_whole or len(path) == len(first)
        at = len(first)
        for piece in others[:-1]:
            found = path.find(piece, at)
            if found < 0:
                return False
            at = found + len(piece)
        return path.endswith(others[-1], at) if is_whole else path.find(others[-1], at) >= 0


@dataclass(frozen=True)
class Robots:
    """The rules for one crawler on one site."""

    rules: tuple[_Rule, ...] = ()
    crawl_delay_s: float | None = None
    sitemaps: tuple[str, ...] = ()

    def allows(self, url: str) -> bool:
        """Whether an address may be fetched."""
        parts = urllib.parse.urlsplit(url)
        path = _spelled(parts.path + (f"?{parts.query}" if parts.query else "")) or "/"
        if path == "/robots.txt":
            return True
        fitting = [rule for rule in self.rules if rule.matches(path)]
        best = max(fitting, key=lambda rule: (len(rule.pattern), rule.allows), default=None)
        return best is None or best.allows


ALLOWS_ALL = Robots()
ALLOWS_NOTHING = Robots(rules=(_Rule(False, "/"),))  # of a site whose robots.txt cannot be had: the RFC's caution


def parse_robots(text: str, agent: str) -> Robots:
    """The rules for a crawler whose product name is `agent`: those of its own groups, else those for all (`*`)."""
    groups: dict[str, list[_Rule]] = {}
    delays: dict[str, float] = {}
    sitemaps: list[str] = []
    names: list[str] = []  # of the group that is read
    in_rules = False
    for line in text.splitlines():
        key, colon, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            names = [] if in_rules else names
            in_rules = False
            names.append(value.lower())
            groups.setdefault(value.lower(), [])
        elif key in ("allow", "disallow"):
            in_rules = True
            if value:
                for name in names:
                    groups[name].append(_Rule(key == "allow", _spelled(value)))
        elif key == "crawl-delay":
            in_rules = True
            if (seconds := _seconds(value)) is not None:
                delays.update(dict.fromkeys(names, seconds))
        elif key == "sitemap":
            sitemaps.append(value)
    product = agent.lower().partition("/")[0]
    name = product if product in groups else "*"
    return Robots(rules=tuple(groups.get(name, ())), crawl_delay_s=delays.get(name), sitemaps=tuple(sitemaps))


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86_400 else None


def _spelled(path: str) -> str:
    """A path with its escapes as all are compared: unreserved characters plain, others escaped."""
    return urllib.parse.quote(
        urllib.parse.unquote(path, errors="surrogateescape"), safe="/*$?&=:@!',;+()~%", errors="surrogateescape"
    )
