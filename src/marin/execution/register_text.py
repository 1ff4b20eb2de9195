"""The text of a register: one JSON object on a few lines, of which most readers need the first.

A plan reads the registers of all its steps, and of each it wants to know little: the status and a few members of the
record. Those are the first line. The fingerprint of the code is the second, for it is the same in many registers; all
else, most of the text, is the third, and is parsed when somebody asks for it. What that costs: a register that
something damaged beyond its first line is noticed when that part is read, not before. Any JSON parser reads the whole,
and a register of another layout, written by an earlier version or by hand, is parsed whole at once.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_AT_HAND = ("recipe", "root_digest", "manifest_ref", "files", "bytes", "wall_s")  # what a plan asks every record for
_CODE = "code_fingerprint"
_BEFORE_CODE = f'\n"{_CODE}":'

_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)
_DECODER = json.JSONDecoder()


class RegisterError(ValueError):
    """A step's register cannot be read. The message names the file and says what to do."""


def register_text(fields: Mapping[str, Any], record: Mapping[str, Any] | None) -> str:
    """The text of a register with these fields and, if it has one, this record."""
    head = _ENCODER.encode(fields)
    if record is None:
        return head
    rest = dict(record)
    at_hand = {name: rest.pop(name) for name in _AT_HAND if name in rest}
    lines = [_ENCODER.encode(at_hand)[1:-1]]
    if _CODE in rest:
        lines.append(_BEFORE_CODE + _ENCODER.encode(rest.pop(_CODE)))
    if rest:
        lines.append("\n" + _ENCODER.encode(rest)[1:-1])
    return f'{head[:-1]},"record":{{{",".join(filter(None, lines))}}}}}'


def parse_register(text: str, path: str) -> dict[str, Any]:
    """The fields of a register, its record as a `Record`. ValueError if the text is not a JSON object.

    `path` is for messages.
    """
    text = text.strip()
    try:
        value, rest = _first_line(text)
    except ValueError:  # spaces or carriage returns at the ends of its lines: another layout
        value, rest = _loads(text), ""
    if value.get("record") is not None:
        value["record"] = Record(value["record"], rest, path)
    return value


def _first_line(text: str) -> tuple[dict[str, Any], str]:
    """(what the first line says, the other lines of the record), or all and nothing if there is but one line."""
    head, line_end, _ = text.partition("\n")  # in no JSON value there is one
    if line_end and '"record":{' in head and text.endswith("}}"):
        return _loads(head.removesuffix(",") + "}}"), text[len(head) : -2]
    return _loads(text), ""


def _loads(text: str) -> Any:
    value, end = _DECODER.raw_decode(text)  # what json.loads does after it guessed the encoding
    if end != len(text):
        raise ValueError(f"more follows what should be all, from character {end} on")
    return value


_code = functools.lru_cache(maxsize=64)(_loads)


class Record(Mapping[str, Any]):
    """The record of a register, parsed as far as it is asked for. Read-only, with all that is in it: it is shared."""

    __slots__ = ("_members", "_path", "_rest")

    def __init__(self, members: dict[str, Any], rest: str, path: str) -> None:
        """`members`: those that are parsed already. `rest`: the lines of the others. `path`: of the register."""
        self._members = members
        self._rest = rest
        self._path = path

    def __getitem__(self, name: str) -> Any:
        if name not in self._members and self._rest:
            if name == _CODE and self._rest.startswith(_BEFORE_CODE):
                line, _, _ = self._rest[1:].partition(",\n")
                self._members[_CODE] = self._loads(_code, line[len(_BEFORE_CODE) - 1 :])
            else:
                self._parse()
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        self._parse()
        return iter(self._members)

    def __len__(self) -> int:
        self._parse()
        return len(self._members)

    def __bool__(self) -> bool:
        return bool(self._members or self._rest)

    def __repr__(self) -> str:
        return f"Record({dict(self)!r})"

    def _parse(self) -> None:
        if self._rest:
            self._members |= self._loads(_loads, "{" + self._rest + "}")
            self._rest = ""

    def _loads(self, loads: Callable[[str], Any], text: str) -> Any:
        try:
            return loads(text)
        except ValueError as error:
            raise RegisterError(
                f"{self._path}: the record in it is damaged ({error}). It is only ever replaced whole, so something "
                "else changed it: restore it, or move the step's folder away to have it run again"
            ) from error
