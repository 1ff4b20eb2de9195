"""E-mail and public IP addresses are replaced by ones that belong to nobody.

Patterns are FineWeb's, with three changes: an address of 5 numbers is a version and stays, IPv6 is masked too, and the
work is bounded for any text. Which replacement a text gets depends on that text alone.
"""

import ipaddress
import json
import re
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, ClassVar

from marin.processing.filter.filters import Operation
from marin.processing.filter.rules import Rule

if TYPE_CHECKING:
    import pyarrow as pa

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"@(?:{_LABEL}\.)+{_LABEL}")
_LOCAL = re.compile(rf"\b{_ATOM}+(?:\.{_ATOM}+)*\Z")
EMAIL, IP4, IP6 = 1, 2, 4  # as in marin.processing.kernels.address_marks
_MAX_LOCAL = 64  # RFC 5321, 4.5.3.1.1
# What may stand before an address is looked at behind a match: a pattern that begins with a class is searched faster.
_IP4 = re.compile(r"[0-9][0-9]{0,2}(?:\.[0-9]{1,3}){3}(?!\.?\d)")
_NUMBER_BEFORE = re.compile(r"\d\.?\Z")
# What is assigned lies in 2000::/3.
_IP6 = re.compile(r"[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_WORD_BEFORE = re.compile(r"[\w:.]\Z")


@dataclass(frozen=True, kw_only=True)
class PiiMask:
    """Replaces addresses in the text and counts them, in columns and under `pii` in the metadata of what had any."""

    version: ClassVar[int] = 1
    edits_text: ClassVar[bool] = True

    emails: bool
    ip_addresses: bool
    email_replacements: tuple[str, ...]
    ip4_replacements: tuple[str, ...]
    ip6_replacements: tuple[str, ...]

    def adds(self) -> tuple[str, ...]:
        return ("pii.num_emails", "pii.num_ip_addresses")

    def __call__(self, batch: "pa.RecordBatch") -> "pa.RecordBatch":
        import numpy as np
        import pyarrow as pa

        from marin.processing.filter.columns import replaced, with_columns
        from marin.processing.kernels.address_marks import address_marks
        from marin.processing.kernels.arrow_text import text_buffer

        texts = batch.column("text")
        num_emails, num_addresses = (np.zeros(len(texts), np.int64) for _ in range(2))
        masked: dict[int, str] = {}
        marks = address_marks(*text_buffer(texts))
        for row in np.flatnonzero(marks).tolist():
            text, num_emails[row], num_addresses[row] = self.mask(texts[row].as_py(), int(marks[row]))
            if num_emails[row] or num_addresses[row]:
                masked[row] = text
        columns: dict[str, pa.Array | np.ndarray] = {
            "pii.num_emails": num_emails,
            "pii.num_ip_addresses": num_addresses,
        }
        if masked:
            columns["text"] = replaced(texts, masked)
        if masked and "metadata" in batch.schema.names:
            old = batch.column("metadata")
            counted = {row: _counted(old[row].as_py(), int(num_emails[row]), int(num_addresses[row])) for row in masked}
            columns["metadata"] = replaced(old, counted)
        return with_columns(batch, columns)

    def mask(self, text: str, marks: int) -> tuple[str, int, int]:
        """(text with addresses replaced, e-mail addresses, IP addresses); `marks` are those of the text."""
        num_emails = num_ip4 = num_ip6 = 0
        if self.emails and marks & EMAIL:
            text, num_emails = _mask_emails(text, self.email_replacements)
        if self.ip_addresses and marks & IP4:
            text, num_ip4 = _mask_addresses(text, _IP4, _NUMBER_BEFORE, self.ip4_replacements)
        if self.ip_addresses and marks & IP6:
            text, num_ip6 = _mask_addresses(text, _IP6, _WORD_BEFORE, self.ip6_replacements)
        return text, num_emails, num_ip4 + num_ip6


@dataclass(frozen=True, kw_only=True)
class MaskPii:
    """Masks addresses; drops nothing. Replacements are used in turn, within each text."""

    version: ClassVar[int] = 1

    # Whether e-mail addresses are masked.
    emails: bool = True
    # Whether IP addresses are: public ones; those of local networks and documentation stay.
    ip_addresses: bool = True
    # As in FineWeb.
    email_replacements: tuple[str, ...] = ("email@example.com", "firstname.lastname@example.org")
    # Of the blocks for documentation: RFC 5737, RFC 3849.
    ip4_replacements: tuple[str, ...] = ("192.0.2.1", "198.51.100.1", "203.0.113.1")
    # Likewise.
    ip6_replacements: tuple[str, ...] = ("2001:db8::1", "2001:db8::2")

    def __post_init__(self) -> None:
        for name in ("email_replacements", "ip4_replacements", "ip6_replacements"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give at least one text that stands in for an address")

    def operations(self) -> tuple[Operation, ...]:
        mask = PiiMask(
            emails=self.emails,
            ip_addresses=self.ip_addresses,
            email_replacements=self.email_replacements,
            ip4_replacements=self.ip4_replacements,
            ip6_replacements=self.ip6_replacements,
        )
        return (mask,)

    def rules(self) -> tuple[Rule, ...]:
        return ()


def _mask_emails(text: str, replacements: tuple[str, ...]) -> tuple[str, int]:
    """Searched from each `@`, so that a long run without one costs nothing."""
    parts, begins, replacement = [], 0, cycle(replacements)
    for domain in _DOMAIN.finditer(text):
        at = domain.start()
        local = _LOCAL.search(text, max(begins, at - _MAX_LOCAL), at)
        if local:
            parts += [text[begins : local.start()], next(replacement)]
            begins = domain.end()
    return "".join([*parts, text[begins:]]), len(parts) // 2


def _mask_addresses(
    text: str, pattern: re.Pattern, not_behind: re.Pattern, replacements: tuple[str, ...]
) -> tuple[str, int]:
    """Public addresses that the pattern matches are replaced, save where `not_behind` matches what stands before."""
    parts, begins, replacement = [], 0, cycle(replacements)
    for match in pattern.finditer(text):
        start = match.start()
        if _is_public(match[0]) and not not_behind.search(text[max(0, start - 2) : start]):
            parts += [text[begins:start], next(replacement)]
            begins = match.end()
    return "".join([*parts, text[begins:]]), len(parts) // 2


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _counted(metadata: str | None, num_emails: int, num_addresses: int) -> str:
    """The metadata, with what was masked."""
    counts = {"emails": num_emails, "ip_addresses": num_addresses}
    return json.dumps({**json.loads(metadata or "{}"), "pii": counts}, ensure_ascii=False)
