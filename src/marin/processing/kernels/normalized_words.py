"""The normalised words of texts, as 64-bit hashes: what near-duplicates and contamination are counted in.

Two texts that differ in case, accents, numbers, punctuation or spacing have the same words. Each step is one of
FineWeb's; all of them are decided a code point at a time, so that one table lookup normalises and one pass hashes.
The price is that what depends on neighbours is not done: a final sigma is lowered like any other.

    lower case                      each code point by itself
    NFD, without marks              decomposed, then category Mn dropped, and Cf (soft hyphens, joiners) too
    numbers                         a run of decimal digits (Nd) is one 0
    punctuation and symbols         P*, S*, Z* and Cc end a word
    scripts written without spaces  each of their letters is a word: Han, kana, Thai, Lao, Khmer, Myanmar

`VERSION` is part of the identity of everything that is made from these words.
"""

import sys
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from marin.processing.kernels.compiled import compiled, inner

VERSION = f"words 1, unicode {unicodedata.unidata_version}"

# What the table says of a code point besides the one that it becomes.
_SEPARATOR = 0xFFFFFFFF
_DROPPED = 0xFFFFFFFE
_DIGIT = 0xFFFFFFFD
# The rest of the value is a place in `expansions`: a count, whose highest bit tells of letters, and the code points.
_SEVERAL = 0x80000000
_ALONE = 0x40000000  # a word by itself
_LETTER = 0x20000000
_CODE_POINT = 0x1FFFFF

_NUM_CODE_POINTS = sys.maxunicode + 1
# The others are unassigned or private: no letters, and no step changes them.
_LOOKED_AT = (range(0x33480), range(0xE0000, 0xE1000))
_ROW = 64  # of them that are looked at together; it divides the blocks
_WITHOUT_SPACES = (
    range(0x0E00, 0x0F00),  # Thai, Lao
    range(0x1000, 0x10A0),  # Myanmar
    range(0x1780, 0x1800),  # Khmer
    range(0x3005, 0x3008),  # ideographic iteration marks
    range(0x3040, 0x3100),  # kana
    range(0x31F0, 0x3200),
    range(0x3400, 0x4DC0),  # Han
    range(0x4E00, 0xA000),
    range(0xF900, 0xFB00),
    range(0x20000, 0x33480),
)

_SEED = 0x9E3779B97F4A7C15
_MULTIPLIER = 0xD6E8FEB86659FD93
_MIX = 0xFF51AFD7ED558CCD


def normalize(text: str) -> list[str]:
    """The words of a text, normalised: the definition that the fast path is held to."""
    words: list[str] = []
    word: list[str] = []

    def end_word() -> None:
        if word:
            words.append("".join(word))
            word.clear()

    for character in text:
        parts = _normalized_code_points(character)
        if parts is None:
            end_word()
        elif len(parts) == 1 and _is_alone(ord(parts)):
            end_word()
            words.append(parts)
        else:
            # a digit is dropped if the character before it was one
            word += [part for part in parts if part != "0" or word[-1:] != ["0"]]
    end_word()
    return words


def hash_word(word: str) -> int:
    """The 64-bit hash of a normalised word, whose lowest bit says whether the word has a letter.

    Multiplied and mixed a code point at a time, then finished as by Murmur3.
    """
    value = _SEED
    for character in word:
        value = ((value ^ ord(character)) * _MULTIPLIER) & 0xFFFFFFFFFFFFFFFF
    value ^= value >> 32
    value = (value * _MIX) & 0xFFFFFFFFFFFFFFFF
    value ^= value >> 29
    return value | 1 if any(map(str.isalpha, word)) else value & ~1


def _normalized_code_points(character: str) -> str | None:
    """What one character becomes; None where it ends a word, "" where it is dropped."""
    decomposed = unicodedata.normalize("NFD", character.lower())
    if unicodedata.category(character)[0] in "PSZ" or unicodedata.category(character) == "Cc":
        return None
    kept = [c for c in decomposed if unicodedata.category(c) not in ("Mn", "Cf")]
    return "".join("0" if unicodedata.category(c) == "Nd" else c for c in kept)


def _is_alone(code_point: int) -> bool:
    return any(code_point in block for block in _WITHOUT_SPACES)


@dataclass(frozen=True, kw_only=True)
class _Tables:
    ascii: np.ndarray  # uint8 (128,): 0 ends a word, else the byte that it becomes
    code_points: np.ndarray  # uint32 (1114112,)
    expansions: np.ndarray  # uint32


@cache
def _tables() -> _Tables:
    table = np.arange(_NUM_CODE_POINTS, dtype=np.uint32)
    expansions: list[int] = []
    for block in _LOOKED_AT:
        for start in range(block.start, block.stop, _ROW):
            row = "".join(map(chr, range(start, start + _ROW)))
            if row.isalpha() and row == row.lower() == unicodedata.normalize("NFD", row):  # most: no step changes them
                table[start : start + _ROW] |= _LETTER
                continue
            for point, character in enumerate(row, start):
                kind = unicodedata.category(character)
                if kind[0] in "PSZ" or kind == "Cc":
                    table[point] = _SEPARATOR
                elif kind == "Lo" and unicodedata.is_normalized("NFD", character):
                    table[point] |= _LETTER
                elif 0xAC00 <= point < 0xD7A4:  # a syllable of Hangul is two or three letters
                    parts = [ord(part) for part in unicodedata.normalize("NFD", character)]
                    table[point] = _SEVERAL | len(expansions)
                    expansions += [len(parts) | _SEVERAL, *parts]
                elif kind not in ("Cn", "Co", "Cs"):
                    table[point] = _entry(character, expansions)
    for block in _WITHOUT_SPACES:
        part = table[block.start : block.stop]
        part[part < _SEVERAL] |= _ALONE
    ascii_table = np.zeros(128, np.uint8)
    for code_point in range(128):
        value = int(table[code_point])
        ascii_table[code_point] = 0 if value == _SEPARATOR else ord("0") if value == _DIGIT else value & 0x7F
    return _Tables(ascii=ascii_table, code_points=table, expansions=np.array(expansions or [0], dtype=np.uint32))


def _entry(character: str, expansions: list[int]) -> int:
    parts = _normalized_code_points(character)
    if parts is None:
        return _SEPARATOR
    if not parts:
        return _DROPPED
    if parts == "0":
        return _DIGIT
    if len(parts) == 1:
        return ord(parts) | (_LETTER if parts.isalpha() else 0)
    place = len(expansions)
    expansions += [len(parts) | (_SEVERAL if any(map(str.isalpha, parts)) else 0), *map(ord, parts)]
    return _SEVERAL | place


@dataclass(frozen=True, kw_only=True)
class Words:
    """The words of several texts, one text after the other."""

    hashes: np.ndarray  # uint64 (num_words,); the lowest bit: whether the word has a letter
    offsets: np.ndarray  # int64 (num_texts + 1,): the words of text i are offsets[i]:offsets[i + 1]
    starts: np.ndarray  # int64 (num_words,): first byte of each word in `data`; empty if no spans were asked for
    ends: np.ndarray  # int64 (num_words,): the byte after it


def words_of(data: np.ndarray, text_offsets: np.ndarray, *, spans: bool = False) -> Words:
    """The words of texts that lie in one buffer of UTF-8.

    Args:
        data: uint8 (num_bytes,).
        text_offsets: int64 (num_texts + 1,): text i is data[text_offsets[i]:text_offsets[i + 1]].
        spans: Whether to tell where each word stands.
    """
    tables = _tables()
    # a word and what ends it are two bytes at least, but for letters that are words alone: those have three
    room = int(text_offsets[-1] - text_offsets[0]) // 2 + len(text_offsets)
    hashes = np.empty(room, np.uint64)
    starts, ends = (np.empty(room if spans else 0, np.int64) for _ in range(2))
    offsets = np.empty(len(text_offsets), np.int64)
    num_words = _scan(
        data, text_offsets, tables.ascii, tables.code_points, tables.expansions, hashes, starts, ends, offsets
    )
    cut = slice(num_words)
    return Words(hashes=hashes[cut], offsets=offsets, starts=starts[cut], ends=ends[cut])


@inner
def _finish(value: Any, has_letter: bool) -> Any:
    value ^= value >> np.uint64(32)
    value *= np.uint64(_MIX)
    value ^= value >> np.uint64(29)
    return value | np.uint64(1) if has_letter else value & np.uint64(0xFFFFFFFFFFFFFFFE)


@compiled
def _scan(
    data: Any,
    text_offsets: Any,
    ascii_table: Any,
    table: Any,
    expansions: Any,
    hashes: Any,
    starts: Any,
    ends: Any,
    offsets: Any,
) -> int:
    """Fills the arrays of Words and returns num_words. (Without the branch at each word's end it was slower.)"""
    spans = starts.size > 0
    multiplier = np.uint64(_MULTIPLIER)
    seed = np.uint64(_SEED)
    num_words = 0
    offsets[0] = 0
    for text in range(text_offsets.size - 1):
        i = text_offsets[text]
        end = text_offsets[text + 1]
        value = seed
        in_word = after_digit = has_letter = False
        first = i
        while i < end:
            here = i
            byte = data[i]
            i += 1
            if byte < 128:
                code = ascii_table[byte]
                if code != 0:
                    if not in_word:
                        in_word = True
                        first = here
                    if code == 48:
                        if not after_digit:
                            value = (value ^ np.uint64(48)) * multiplier
                        after_digit = True
                    else:
                        value = (value ^ np.uint64(code)) * multiplier
                        after_digit = False
                        has_letter = True
                    continue
                entry = np.uint32(_SEPARATOR)
            else:
                if byte < 0xE0:
                    width = 2
                    code_point = np.uint32(byte & 0x1F)
                elif byte < 0xF0:
                    width = 3
                    code_point = np.uint32(byte & 0x0F)
                else:
                    width = 4
                    code_point = np.uint32(byte & 0x07)
                while i < end and i < here + width:
                    code_point = np.uint32((code_point << np.uint32(6)) | np.uint32(data[i] & 0x3F))
                    i += 1
                entry = table[min(code_point, np.uint32(0x10FFFF))]
                if entry == np.uint32(_DROPPED):
                    continue
            alone = entry < np.uint32(_SEVERAL) and (entry & np.uint32(_ALONE)) != 0
            if entry == np.uint32(_SEPARATOR) or alone:
                if in_word:
                    hashes[num_words] = _finish(value, has_letter)
                    if spans:
                        starts[num_words] = first
                        ends[num_words] = here
                    num_words += 1
                    value = seed
                    in_word = after_digit = has_letter = False
                if alone:
                    value = (seed ^ np.uint64(entry & np.uint32(_CODE_POINT))) * multiplier
                    hashes[num_words] = _finish(value, (entry & np.uint32(_LETTER)) != 0)
                    value = seed
                    if spans:
                        starts[num_words] = here
                        ends[num_words] = i
                    num_words += 1
                continue
            if not in_word:
                in_word = True
                first = here
            if entry == np.uint32(_DIGIT):
                if not after_digit:
                    value = (value ^ np.uint64(48)) * multiplier
                after_digit = True
                continue
            after_digit = False
            if entry & np.uint32(_SEVERAL):
                place = np.int64(entry & np.uint32(0x7FFFFFFF))
                count = np.int64(expansions[place] & np.uint32(0x7FFFFFFF))
                for k in range(place + 1, place + 1 + count):
                    value = (value ^ np.uint64(expansions[k])) * multiplier
                has_letter = has_letter or (expansions[place] & np.uint32(_SEVERAL)) != 0
            else:
                value = (value ^ np.uint64(entry & np.uint32(_CODE_POINT))) * multiplier
                has_letter = has_letter or (entry & np.uint32(_LETTER)) != 0
        if in_word:
            hashes[num_words] = _finish(value, has_letter)
            if spans:
                starts[num_words] = first
                ends[num_words] = end
            num_words += 1
        offsets[text + 1] = num_words
    return num_words
