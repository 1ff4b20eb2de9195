"""Which texts may hold an e-mail or IP address: a quick look at bytes, before any pattern is tried.

Most texts have none, and need not be decoded at all. It errs on one side: where it says no, there is none.
"""

import re

import numba
import numpy as np
from numpy.typing import NDArray

_AT, _DOT, _COLON = ord("@"), ord("."), ord(":")
# Of bytes: 1 a digit, 2 another hexadecimal digit, 4 another letter.
_KINDS = np.zeros(256, np.uint8)
_KINDS[list(b"0123456789")] = 1
_KINDS[list(b"abcdefABCDEF")] = 2
_KINDS[list(b"ghijklmnopqrstuvwxyzGHIJKLMNOPQRSTUVWXYZ")] = 4

_MARKS = re.compile(r"@[A-Za-z0-9]|[0-9]\.[0-9]{1,3}\.[0-9]|[23][0-9A-Fa-f]{3}:")


def may_have_addresses(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each text, whether it has a mark of an address: what `has_address_marks` says."""
    return _may_have_addresses(data, offsets, _KINDS)


def has_address_marks(text: str) -> bool:
    """Whether `@` stands before a letter or digit, two dots around digits, or a colon behind 2xxx or 3xxx."""
    return _MARKS.search(text) is not None


@numba.njit(cache=True, nogil=True)
def _may_have_addresses(data, offsets, kinds):
    result = np.zeros(len(offsets) - 1, np.bool_)
    for text in range(len(offsets) - 1):
        start, end = offsets[text], offsets[text + 1]
        for index in range(start, end):
            byte = data[index]
            if byte == _DOT:
                found = _between_dots(data, start, end, index, kinds)
            elif byte == _AT:
                found = index + 1 < end and kinds[data[index + 1]] != 0
            elif byte == _COLON:
                found = _behind_a_group(data, start, index, kinds)
            else:
                continue
            if found:
                result[text] = True
                break
    return result


@numba.njit(cache=True, nogil=True)
def _between_dots(data, start, end, dot, kinds):
    """Whether one to three digits stand between this dot and another, and digits around both."""
    if dot == start or kinds[data[dot - 1]] != 1:
        return False
    index = dot + 1
    while index < end and index <= dot + 3 and kinds[data[index]] == 1:
        index += 1
    return index > dot + 1 and index + 1 < end and data[index] == _DOT and kinds[data[index + 1]] == 1


@numba.njit(cache=True, nogil=True)
def _behind_a_group(data, start, colon, kinds):
    """Whether four hexadecimal digits stand before the colon, the first of them 2 or 3."""
    if colon - 4 < start or (data[colon - 4] != 50 and data[colon - 4] != 51):
        return False
    second, third, fourth = kinds[data[colon - 3]], kinds[data[colon - 2]], kinds[data[colon - 1]]
    return second & 3 != 0 and third & 3 != 0 and fourth & 3 != 0
