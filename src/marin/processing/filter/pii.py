"""E-mail and public IP addresses are replaced by ones that belong to nobody; telephone numbers too, where asked for.

Patterns are FineWeb's, with three changes: an address of 5 numbers is a version and stays, IPv6 is masked too, and the
work is bounded for any text. Which replacement a text gets depends on that text alone.

Telephone numbers have no form of their own: what is masked is written internationally, with a plus and a country code
(ITU-T E.164), or as North America does, in groups of 3, 3 and 4 with separators, of digits that an area and an exchange
may have. So a number in the national form of another country stays, and some part number goes; hence the option is off
by default. Numbers that are reserved for fiction (555-0100 to 555-0199) stay.
"""

import ipaddress
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING, ClassVar

from marin.processing.filter.filters import Operation
from marin.processing.filter.rules import Rule

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"@(?:{_LABEL}\.)+{_LABEL}")
_LOCAL = re.compile(rf"\b{_ATOM}+(?:\.{_ATOM}+)*\Z")
EMAIL, IP4, IP6 = 1, 2, 4  # as in marin.processing.kernels.address_marks
PHONE = 8
_FICTIONAL_PHONES = ("202-555-0100", "202-555-0101")
_MAX_LOCAL = 64  # RFC 5321, 4.5.3.1.1
# What may stand before an address is looked at behind a match: a pattern that begins with a class is searched faster.
_IP4 = re.compile(r"[0-9][0-9]{0,2}(?:\.[0-9]{1,3}){3}(?!\.?\d)")
_NUMBER_BEFORE = re.compile(r"\d\.?\Z")
# What is assigned lies in 2000::/3.
_IP6 = re.compile(r"[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_WORD_BEFORE = re.compile(r"[\w:.]\Z")
_PHONE = re.compile(
    r"\+[1-9][0-9]{0,3}(?:[ .-]?\(?[0-9]{1,4}\)?){2,6}(?!\w)"
    r"|(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}(?!\w|[.-][0-9])"
)
_MAY_HAVE_PHONE = r"\+[1-9]|[0-9]{3}[ .-][0-9]{4}"  # for Arrow, which has this without look-ahead
_NO_PHONE_BEFORE = re.compile(r"[\w+/]\Z|[0-9][.-]\Z")
_NOT_DIGITS = re.compile(r"[^0-9]")
_FICTION = re.compile(r"1?[0-9]{3}55501[0-9]{2}")


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
    phone_numbers: bool = False
    phone_replacements: tuple[str, ...] = ()

    def adds(self) -> tuple[str, ...]:
        phones = ("pii.num_phone_numbers",) if self.phone_numbers else ()
        return ("pii.num_emails", "pii.num_ip_addresses", *phones)

    def __call__(self, batch: "pa.RecordBatch") -> "pa.RecordBatch":
        import numpy as np
        import pyarrow as pa

        from marin.processing.filter.columns import replaced, with_columns
        from marin.processing.kernels.address_marks import address_marks
        from marin.processing.kernels.arrow_text import text_buffer

        texts = batch.column("text")
        counts = np.zeros((len(self.adds()), len(texts)), np.int64)
        masked: dict[int, str] = {}
        marks = address_marks(*text_buffer(texts))
        if self.phone_numbers:
            marks = marks | np.where(_matches(texts, _MAY_HAVE_PHONE), PHONE, 0).astype(marks.dtype)
        for row in np.flatnonzero(marks).tolist():
            text, *found = self.mask(texts[row].as_py(), int(marks[row]))
            counts[:, row] = found[: len(counts)]
            if any(found):
                masked[row] = text
        columns: dict[str, pa.Array | np.ndarray] = dict(zip(self.adds(), counts, strict=True))
        if masked:
            columns["text"] = replaced(texts, masked)
        if masked and "metadata" in batch.schema.names:
            old = batch.column("metadata")
            names = [name.removeprefix("pii.num_") for name in self.adds()]
            counted = {
                row: _counted(old[row].as_py(), dict(zip(names, counts[:, row].tolist(), strict=True)))
                for row in masked
            }
            columns["metadata"] = replaced(old, counted)
        return with_columns(batch, columns)

    def mask(self, text: str, marks: int) -> tuple[str, int, int, int]:
        """(text with addresses replaced, e-mail addresses, IP addresses, telephone numbers); `marks` are the text's."""
        num_emails = num_ip4 = num_ip6 = num_phones = 0
        if self.emails and marks & EMAIL:
            text, num_emails = _mask_emails(text, self.email_replacements)
        if self.ip_addresses and marks & IP4:
            text, num_ip4 = _mask_matches(text, _IP4, _is_public, _NUMBER_BEFORE, self.ip4_replacements)
        if self.ip_addresses and marks & IP6:
            text, num_ip6 = _mask_matches(text, _IP6, _is_public, _WORD_BEFORE, self.ip6_replacements)
        if self.phone_numbers and marks & PHONE:
            text, num_phones = _mask_matches(text, _PHONE, _is_phone, _NO_PHONE_BEFORE, self.phone_replacements)
        return text, num_emails, num_ip4 + num_ip6, num_phones


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
    # Whether telephone numbers are: international ones with a plus, and North American ones in groups.
    phone_numbers: bool = field(default=False, metadata={"version": {"omit_when": False}})
    # Of those that are reserved for fiction.
    phone_replacements: tuple[str, ...] = field(
        default=_FICTIONAL_PHONES, metadata={"version": {"omit_when": _FICTIONAL_PHONES}}
    )

    def __post_init__(self) -> None:
        for name in ("email_replacements", "ip4_replacements", "ip6_replacements", "phone_replacements"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give at least one text that stands in for an address")

    def operations(self) -> tuple[Operation, ...]:
        mask = PiiMask(
            emails=self.emails,
            ip_addresses=self.ip_addresses,
            email_replacements=self.email_replacements,
            ip4_replacements=self.ip4_replacements,
            ip6_replacements=self.ip6_replacements,
            phone_numbers=self.phone_numbers,
            phone_replacements=self.phone_replacements if self.phone_numbers else (),
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


def _mask_matches(
    text: str,
    pattern: re.Pattern,
    counts: Callable[[str], bool],
    not_behind: re.Pattern,
    replacements: tuple[str, ...],
) -> tuple[str, int]:
    """What the pattern matches and `counts` is replaced, save where `not_behind` matches what stands before."""
    parts, begins, replacement = [], 0, cycle(replacements)
    for match in pattern.finditer(text):
        start = match.start()
        if counts(match[0]) and not not_behind.search(text[max(0, start - 2) : start]):
            parts += [text[begins:start], next(replacement)]
            begins = match.end()
    return "".join([*parts, text[begins:]]), len(parts) // 2


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _is_phone(written: str) -> bool:
    """Whether a number of that form can be somebody's: by its digits, and not one of fiction."""
    digits = _NOT_DIGITS.sub("", written)
    if _FICTION.fullmatch(digits) or len(set(digits)) < 3:
        return False
    if not written.startswith("+"):
        return True
    if digits[0] == "1":  # North America: an area and an exchange that begin with 2 to 9
        return len(digits) == 11 and digits[1] > "1" and digits[4] > "1"
    return 8 <= len(digits) <= 15


def _matches(texts: "pa.Array", pattern: str) -> "np.ndarray":
    """bool (rows,): whether a pattern of Arrow's is found in each text."""
    import pyarrow.compute as pc

    return pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)  # pyright: ignore[reportAttributeAccessIssue]


def _counted(metadata: str | None, counts: dict[str, int]) -> str:
    """The metadata, with what was masked."""
    return json.dumps({**json.loads(metadata or "{}"), "pii": counts}, ensure_ascii=False)
