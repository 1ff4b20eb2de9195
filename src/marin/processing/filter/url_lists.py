"""Documents by where they come from: lists of domains, addresses and words that you bring.

A domain blocks everything below it, so no list of public suffixes is needed; the price is that an entry `co.uk` blocks
all of it.
"""

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal
from urllib.parse import urlsplit

from marin.processing.filter.filters import Operation
from marin.processing.filter.lists import digest_of, entries
from marin.processing.filter.rules import Rule, bounded

if TYPE_CHECKING:
    import pyarrow as pa

_SCHEME = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]+")
_KINDS = ("domains", "urls", "words", "soft_words", "substrings")


@dataclass(frozen=True, kw_only=True)
class UrlSignals:
    """Adds `url.num_...`: how many entries of each list apply to the address, and whether there is none."""

    version: ClassVar[int] = 2
    edits_text: ClassVar[bool] = False

    # (kind, path, SHA-256) of each list.
    lists: tuple[tuple[str, str, str], ...]
    allow_missing: bool

    def of_column(self, column: str) -> "UrlSignals":
        """What measures this column alone: that of a list depends on no other list."""
        kind = column.removeprefix("url.num_")
        return replace(self, lists=tuple(listed for listed in self.lists if listed[0] == kind))

    def adds(self) -> tuple[str, ...]:
        return tuple(f"url.num_{kind}" for kind in (*_KINDS, "missing"))

    def __call__(self, batch: "pa.RecordBatch") -> "pa.RecordBatch":
        import numpy as np

        from marin.processing.filter.columns import with_columns

        lists = {kind: prepared(kind, entries(path, sha256)) for kind, path, sha256 in self.lists}
        counts = {kind: np.zeros(batch.num_rows, np.int64) for kind in (*_KINDS, "missing")}
        for row, url in enumerate(_urls(batch)):
            if url is None:
                if not self.allow_missing:
                    raise ValueError(
                        f"document {batch.column('id')[row].as_py()!r} has no address: neither a column `url` nor "
                        "metadata.url; set missing_url to 'keep' or 'drop' to say what shall become of such ones"
                    )
                counts["missing"][row] = 1
                continue
            for kind, found in matches(url, lists).items():
                counts[kind][row] = found
        return with_columns(batch, {f"url.num_{kind}": values for kind, values in counts.items()})


@dataclass(frozen=True, kw_only=True)
class UrlLists:
    """Documents whose address is on none of the lists. Each list is a file of entries, one a line, or None."""

    version: ClassVar[int] = 2

    # Domains: `example.com` is also `www.example.com`.
    domains: str | None = None
    # Addresses, with or without scheme, `www.` and a slash at the end.
    urls: str | None = None
    # Words between characters of the address that are no letters or digits.
    words: str | None = None
    # Words of which several must be there.
    soft_words: str | None = None
    # How many of them.
    min_soft_words: int = 2
    # Letters and digits that follow each other in the address, whatever stands between.
    substrings: str | None = None
    # What becomes of documents without an address: neither a column `url` nor metadata.url.
    missing_url: Literal["error", "keep", "drop"] = "error"

    def __post_init__(self) -> None:
        if all(getattr(self, kind) is None for kind in _KINDS):
            raise ValueError(f"UrlLists without a list drops nothing; give one of {', '.join(_KINDS)}")

    def operations(self) -> tuple[Operation, ...]:
        given = [(kind, getattr(self, kind)) for kind in _KINDS if getattr(self, kind) is not None]
        lists = tuple((kind, path, digest_of(path)) for kind, path in given)
        return (UrlSignals(lists=lists, allow_missing=self.missing_url != "error"),)

    def rules(self) -> tuple[Rule, ...]:
        source = "Penedo et al. 2023 (arXiv:2306.01116), G.1; the lists are yours"
        limits = {
            "missing": ("no address", 0 if self.missing_url == "drop" else None),
            "domains": ("a listed domain", 0 if self.domains else None),
            "urls": ("a listed address", 0 if self.urls else None),
            "words": ("a listed word in the address", 0 if self.words else None),
            "soft_words": ("listed words in the address", self.min_soft_words - 1 if self.soft_words else None),
            "substrings": ("a listed string in the address", 0 if self.substrings else None),
        }
        return tuple(
            rule
            for kind, (description, most) in limits.items()
            for rule in bounded(f"url_lists.{kind}", f"url.num_{kind}", description, source, at_most=most)
        )


@functools.cache
def prepared(kind: str, listed: frozenset[str]) -> frozenset[str]:
    """The entries of a list as `matches` compares them. ValueError for an address among domains."""
    if kind == "domains":
        addresses = sorted(entry for entry in listed if "/" in _SCHEME.sub("", entry).rstrip("/"))
        if addresses:
            raise ValueError(f"{addresses[0]!r} is an address, and would block no domain: list it under urls")
        return frozenset((domains_of(entry.lstrip(".")) or [entry])[0] for entry in listed)
    if kind == "urls":
        return frozenset(map(bare, listed))
    return frozenset(_NOT_ALPHANUMERIC.sub("", entry) for entry in listed) if kind == "substrings" else listed


def matches(url: str, lists: Mapping[str, frozenset[str]]) -> dict[str, int]:
    """Kind -> how many entries of that list, as `prepared`, apply to an address."""
    url = url.lower()
    found = {}
    for kind, listed in lists.items():
        if kind == "domains":
            found[kind] = sum(domain in listed for domain in domains_of(url))
        elif kind == "urls":
            found[kind] = int(bare(url) in listed)
        elif kind == "substrings":
            together = _NOT_ALPHANUMERIC.sub("", url)
            found[kind] = sum(entry in together for entry in listed)
        else:
            found[kind] = len(listed.intersection(_NOT_ALPHANUMERIC.split(url)))
    return found


def domains_of(url: str) -> list[str]:
    """The host of an address and all domains above it: a.b.org, b.org, org. None for what has no host."""
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname or ""
    except ValueError:  # an address that is none, as [::1 without its bracket
        return []
    labels = host.rstrip(".").split(".")
    return [".".join(labels[index:]) for index in range(len(labels))]


def bare(url: str) -> str:
    """An address without scheme, `www.` and a slash at the end."""
    return _SCHEME.sub("", url).removeprefix("www.").rstrip("/")


def _urls(batch: "pa.RecordBatch") -> list[str | None]:
    if "url" in batch.schema.names:
        return batch.column("url").to_pylist()
    if "metadata" in batch.schema.names:
        return [json.loads(value or "{}").get("url") for value in batch.column("metadata").to_pylist()]
    return [None] * batch.num_rows
