"""What filters give that take lines out of a text, and the one of RefinedWeb as DCLM rebuilt it; C4's is `c4_lines`.

A text is decoded, what stays is written beside it, and that is encoded again. Why each line went is counted. The plain
form, with regular expressions, is `line_edits_reference`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marin.processing.kernels.characters import (
    DECIMAL,
    DIGIT,
    SPACE,
    UPPER,
    WORD,
    character_classes,
)
from marin.processing.kernels.compiled import compiled, inner
from marin.processing.kernels.text_signals import decode

DCLM_COUNTS: tuple[str, ...] = (
    "dclm.num_lines",
    "dclm.num_kept_lines",
    "dclm.num_lines_uppercase",
    "dclm.num_lines_numeric",
    "dclm.num_lines_counter",
    "dclm.num_lines_few_words",
    "dclm.num_substrings",
    "dclm.num_words_before",
    "dclm.num_words_after",
)

_NUM_DCLM = len(DCLM_COUNTS)

COUNTED = (
    *("likes", "shares", "comments", "retweets", "reposts", "quotes", "bookmarks", "upvotes", "downvotes"),
    *("downloads", "views", "followers"),
)
ITEMS_IN_CART, READ_MORE, SIGN_IN = "items in cart", "read more...", "sign-in"
SUBSTRING_LINE_WORDS = 10  # substrings are taken out of lines of at most so many words

_NEWLINE, _DOT = ord("\n"), ord(".")
_KELVIN = 0x212A  # the only letter but K itself whose small form is k


@dataclass(frozen=True)
class EditedTexts:
    """Texts after their lines were chosen, and why lines went."""

    data: NDArray[np.uint8]  # UTF-8
    offsets: NDArray[np.int64]  # (texts + 1,)
    counts: NDArray[np.int64]  # (texts, kinds)


def _phrases(*phrases: str) -> NDArray[np.uint32]:
    """(phrases, longest + 1), filled with zeros."""
    table = np.zeros((len(phrases), max(map(len, phrases)) + 1), np.uint32)
    for row, phrase in zip(table, phrases, strict=True):
        row[: len(phrase)] = [ord(character) for character in phrase]
    return table


_COUNTED = _phrases(*COUNTED)
_SUBSTRINGS = _phrases(ITEMS_IN_CART, READ_MORE, SIGN_IN)


def dclm_lines(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    *,
    max_uppercase_ratio: float = 0.5,
    max_digit_ratio: float = 0.999999,
    min_words: int = 2,
) -> EditedTexts:
    """The lines that DCLM's RefinedWeb recipe keeps; counts are `DCLM_COUNTS`."""
    edited = _dclm(
        *(data, offsets, character_classes(), _COUNTED, _SUBSTRINGS),
        *(max_uppercase_ratio, max_digit_ratio, min_words),
    )
    return EditedTexts(*edited)


@inner
def _longest(offsets):
    longest = 0
    for text in range(len(offsets) - 1):
        longest = max(longest, offsets[text + 1] - offsets[text])
    return longest


@compiled
def _dclm(data, offsets, classes, counted, substrings, max_uppercase_ratio, max_digit_ratio, min_words):
    num_texts = len(offsets) - 1
    chars = np.empty(_longest(offsets), np.uint32)
    kept = np.empty(len(chars) + 1, np.uint32)
    edited = np.empty(offsets[num_texts] - offsets[0], np.uint8)
    edited_offsets = np.zeros(num_texts + 1, np.int64)
    counts = np.zeros((num_texts, _NUM_DCLM), np.int64)
    for text in range(num_texts):
        num_chars = decode(data, offsets[text], offsets[text + 1], chars)
        row = counts[text]
        start, num_chars = _stripped(chars, 0, num_chars, classes)
        num_kept = 0
        while start < num_chars:
            end = start
            uppercase = digits = 0
            while end < num_chars and chars[end] != _NEWLINE:
                kind = classes[chars[end]]
                uppercase += kind & UPPER != 0
                digits += kind & DIGIT != 0
                end += 1
            length = end - start
            row[0] += 1
            num_words, _ = _count_words(chars, start, end, classes)
            row[7] += num_words
            if length and uppercase / length > max_uppercase_ratio:
                row[2] += 1
            elif length and digits / length > max_digit_ratio:
                row[3] += 1
            elif _is_counter(chars, start, end, classes, counted):
                row[4] += 1
            elif length and num_words < min_words:
                row[5] += 1
            else:
                line_end = num_kept + length
                kept[num_kept:line_end] = chars[start:end]
                if length and num_words <= SUBSTRING_LINE_WORDS:
                    line_end, num_removed = _without_substrings(kept, num_kept, line_end, classes, substrings)
                    row[6] += num_removed
                    num_words, _ = _count_words(kept, num_kept, line_end, classes)
                if num_words or not length:
                    row[1] += 1
                    row[8] += num_words
                    kept[line_end] = _NEWLINE
                    num_kept = line_end + 1
            start = end + 1
        first, last = _stripped(kept, 0, num_kept, classes)
        edited_offsets[text + 1] = _encode(kept, first, last, edited, edited_offsets[text])
    return edited[: edited_offsets[num_texts]], edited_offsets, counts


# --- of one line


@inner
def _stripped(chars, start, end, classes):
    while start < end and classes[chars[start]] & SPACE:
        start += 1
    while end > start and classes[chars[end - 1]] & SPACE:
        end -= 1
    return start, end


@inner
def _count_words(chars, start, end, classes):
    """(words, characters of the longest)."""
    num_words = longest = length = 0
    for index in range(start, end):
        if classes[chars[index]] & SPACE:
            length = 0
        else:
            num_words += length == 0
            length += 1
            longest = max(longest, length)
    return num_words, longest


@inner
def _match(chars, start, end, phrase, any_case):
    """Length of the phrase if it stands there, else 0."""
    index = 0
    while phrase[index]:
        if start + index >= end:
            return 0
        char = chars[start + index]
        if any_case:
            char = _small(char)
        if char != phrase[index]:
            return 0
        index += 1
    return index


@inner
def _small(char):
    if 65 <= char <= 90:
        return np.uint32(char + np.uint32(32))
    return np.uint32(107) if char == _KELVIN else char


@inner
def _is_counter(chars, start, end, classes, counted):
    """Whether the line is nothing but a number of likes, views and such."""
    while start < end and not classes[chars[start]] & WORD:
        start += 1
    if start == end or not classes[chars[start]] & DECIMAL:
        return False
    while start < end and (classes[chars[start]] & DECIMAL or chars[start] == 44 or chars[start] == _DOT):
        start += 1
    if start < end and (_small(chars[start]) == 107 or _small(chars[start]) == 109 or _small(chars[start]) == 98):
        start += 1  # k m b
    if start == end or not classes[chars[start]] & SPACE:
        return False
    while start < end and classes[chars[start]] & SPACE:
        start += 1
    for phrase in range(len(counted)):
        length = _match(chars, start, end, counted[phrase], True)
        if length:
            start += length
            while start < end and not classes[chars[start]] & WORD:
                start += 1
            return start == end
    return False


@inner
def _without_substrings(line, start, end, classes, substrings):
    """(end of the line, substrings taken out): 'items in cart' anywhere, 'read more...' behind, 'sign-in' before."""
    num_removed = 0
    position = index = start
    removed_to = -1
    while index < end:
        length = _match(line, index, end, substrings[0], True)
        if length:
            num_removed += 1
            if index != removed_to and position > start and classes[line[position - 1]] & SPACE:
                position -= 1
            index += length
            removed_to = index
        else:
            line[position] = line[index]
            position += 1
            index += 1
    end = position
    length = len(READ_MORE)
    if end - start >= length and _match(line, end - length, end, substrings[1], True):
        num_removed += 1
        end -= length
        if end > start and classes[line[end - 1]] & SPACE:
            end -= 1
    length = _match(line, start, end, substrings[2], True)
    if length:
        num_removed += 1
        if start + length < end and classes[line[start + length]] & SPACE:
            length += 1
        for index in range(start, end - length):
            line[index] = line[index + length]
        end -= length
    return end, num_removed


@inner
def _encode(chars, start, end, data, position):
    """Write code points as UTF-8 into `data`; returns where they end."""
    for index in range(start, end):
        char = chars[index]
        if char < 0x80:
            data[position] = char
            position += 1
        elif char < 0x800:
            data[position] = 0xC0 | (char >> 6)
            data[position + 1] = 0x80 | (char & 0x3F)
            position += 2
        elif char < 0x10000:
            data[position] = 0xE0 | (char >> 12)
            data[position + 1] = 0x80 | ((char >> 6) & 0x3F)
            data[position + 2] = 0x80 | (char & 0x3F)
            position += 3
        else:
            data[position] = 0xF0 | (char >> 18)
            data[position + 1] = 0x80 | ((char >> 12) & 0x3F)
            data[position + 2] = 0x80 | ((char >> 6) & 0x3F)
            data[position + 3] = 0x80 | (char & 0x3F)
            position += 4
    return position
