"""Which texts may hold an e-mail or IP address: a quick look at bytes, before any pattern is tried.

Most texts have none, and need not be decoded at all. It errs on one side: where there is no mark, there is no address.
"""

import re

import numpy as np
from numpy.typing import NDArray

from marin.processing.kernels.compiled import compiled, inner

EMAIL, IP4, IP6 = 1, 2, 4

_AT, _DOT, _COLON = ord("@"), ord("."), ord(":")
# Of bytes: 1 a digit, 2 another hexadecimal digit, 4 another letter.
_KINDS = np.zeros(256, np.uint8)
_KINDS[list(b"0123456789")] = 1
_KINDS[list(b"abcdefABCDEF")] = 2
_KINDS[list(b"ghijklmnopqrstuvwxyzGHIJKLMNOPQRSTUVWXYZ")] = 4

_MARKS = {
    EMAIL: re.compile(r"@[A-Za-z0-9]"),
    IP4: re.compile(r"[0-9](?:\.[0-9]{1,3}){2}\.[0-9]"),
    IP6: re.compile(r"[23][0-9A-Fa-f]{3}:"),
}


def address_marks(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.uint8]:
    """For each text, the kinds of address that it has marks of, as bits: what `address_marks_reference` says."""
    return _address_marks(data, offsets, _KINDS)


def address_marks_reference(text: str) -> int:
    """`@` before a letter or digit, three dots around digits, a colon behind 2xxx or 3xxx: EMAIL, IP4, IP6."""
    return sum(kind for kind, mark in _MARKS.items() if mark.search(text))


@compiled
def _address_marks(data, offsets, kinds):
    result = np.zeros(len(offsets) - 1, np.uint8)
    for text in range(len(offsets) - 1):
        start, end = offsets[text], offsets[text + 1]
        for index in range(start, end):
            byte = data[index]
            if byte == _DOT:
                if _is_first_dot(data, start, end, index, kinds):
                    result[text] |= IP4
            elif byte == _AT:
                if index + 1 < end and kinds[data[index + 1]] != 0:
                    result[text] |= EMAIL
            elif byte == _COLON and _behind_a_group(data, start, index, kinds):
                result[text] |= IP6
    return result


@inner
def _is_first_dot(data, start, end, dot, kinds):
    """Whether this is the first of three dots with one to three digits between them, and digits around all."""
    if dot == start or kinds[data[dot - 1]] != 1:
        return False
    for _ in range(2):
        index = dot + 1
        while index < end and index <= dot + 3 and kinds[data[index]] == 1:
            index += 1
        if index == dot + 1 or index == end or data[index] != _DOT:
            return False
        dot = index
    return dot + 1 < end and kinds[data[dot + 1]] == 1


@inner
def _behind_a_group(data, start, colon, kinds):
    """Whether four hexadecimal digits stand before the colon, the first of them 2 or 3."""
    if colon - 4 < start or (data[colon - 4] != 50 and data[colon - 4] != 51):
        return False
    second, third, fourth = kinds[data[colon - 3]], kinds[data[colon - 2]], kinds[data[colon - 1]]
    return second & 3 != 0 and third & 3 != 0 and fourth & 3 != 0
