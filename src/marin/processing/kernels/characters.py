"""What kind of character each code point is: one table that all kernels over text look into.

Whitespace, line ends, letters, digits and capitals are those of Python's `str`, so they follow the Unicode version of
the interpreter: a text with characters that are newer may count differently on Python 3.11 and 3.12. Symbols and
sentence ends are written here, since a published filter is defined by them.
"""

import functools
import sys
import unicodedata

import numpy as np
from numpy.typing import NDArray

SPACE = 1  # str.isspace
LINE_END = 2  # where str.splitlines cuts
ALPHA = 4  # str.isalpha
SYMBOL = 8  # a word of nothing else is a symbol, no word
TERMINAL = 16  # ends a sentence: Unicode's Sentence_Terminal
UPPER = 32  # str.isupper
DIGIT = 64  # str.isdigit
WORD = 128  # letter, number, mark or connector
IDEOGRAPH = 256  # a word by itself where words are found by Unicode's rules
DECIMAL = 512  # str.isdecimal, a regular expression's \d
LOWER = 1024  # str.islower

LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"

# Code points and ranges, hexadecimal. Sentence_Terminal of Unicode 15, as FineWeb's filter lists them.
_TERMINALS = """
21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D6 17D9-17DA
1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 2E2E 2E3C 2E53-2E54
3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F
FF61 10A56-10A57 10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239
1123B-1123C 112A9 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C
11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88
"""
# Beside them: the punctuation and control characters that datatrove 0.10.1 passes over where it counts words.
_OTHER_SYMBOLS = """
0-8 B-1F 21-2F 3A-40 5B-60 7B-9F AB B4 BB 2013-2014 2019 201C-201E 2026 2236 2501 25BA 3001 3008-300D 3010-3011 FF05
FF08-FF09 FF0C FF11 FF1A-FF1B FF5E
"""
# Scripts written without spaces: kana, Han with its extensions. Hangul has spaces.
_IDEOGRAPHS = "3005-3007 3041-3096 309D-309F 30A1-30FA 30FD-30FF 3400-4DBF 4E00-9FFF F900-FAFF 20000-323AF"


def code_points(ranges: str) -> list[int]:
    """'21 2E-30' -> [0x21, 0x2E, 0x2F, 0x30]."""
    found: list[int] = []
    for part in ranges.split():
        first, _, last = part.partition("-")
        found += range(int(first, 16), int(last or first, 16) + 1)
    return found


_OF_STR = {  # numpy's are those of str, for all code points at once
    SPACE: np.strings.isspace,
    ALPHA: np.strings.isalpha,
    UPPER: np.strings.isupper,
    LOWER: np.strings.islower,
    DIGIT: np.strings.isdigit,
    DECIMAL: np.strings.isdecimal,
    WORD: np.strings.isalnum,
}
_NUM_LOOKED_AT = 0x40000  # behind them nothing is a letter, digit or space; marks are
# Marks and connectors are among these: the others are ideographs, unassigned or private.
_MARKED = (range(0x20000), range(0xE0000, 0xE1000))


@functools.cache
def character_classes() -> NDArray[np.uint16]:
    """The table (0x110000,): code point -> its classes, as bits."""
    characters = np.arange(_NUM_LOOKED_AT, dtype=np.uint32).view("<U1")
    table = np.zeros(sys.maxunicode + 1, np.uint16)
    for bit, belongs in _OF_STR.items():
        table[:_NUM_LOOKED_AT][belongs(characters)] |= bit
    for block in _MARKED:
        others = block.start + np.flatnonzero(table[block.start : block.stop] & WORD == 0)
        marks = [point for point in others.tolist() if unicodedata.category(chr(point)) in ("Mn", "Mc", "Me", "Pc")]
        table[marks] |= WORD
    table[[ord(character) for character in LINE_ENDS]] |= LINE_END
    table[code_points(_TERMINALS)] |= TERMINAL | SYMBOL
    table[code_points(_OTHER_SYMBOLS)] |= SYMBOL
    table[code_points(_IDEOGRAPHS)] |= IDEOGRAPH
    table.flags.writeable = False
    return table
