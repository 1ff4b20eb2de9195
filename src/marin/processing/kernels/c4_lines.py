"""C4's line edits, on the bytes of UTF-8 texts as they are: nothing is decoded but what is not ASCII.

A line is looked at once for where it ends, its words and what is rare in it; what stays is copied. Why lines went is
counted. The plain form, with regular expressions, is `line_edits_reference`.
"""

import numpy as np
from numpy.typing import NDArray

from marin.processing.kernels.characters import (
    DECIMAL,
    LINE_END,
    LOWER,
    SPACE,
    TERMINAL,
    UPPER,
    WORD,
    character_classes,
)
from marin.processing.kernels.compiled import compiled, inner
from marin.processing.kernels.line_edits import EditedTexts

C4_COUNTS: tuple[str, ...] = (
    "c4.num_lines",
    "c4.num_kept_lines",
    "c4.num_lines_long_word",
    "c4.num_lines_no_terminal",
    "c4.num_lines_few_words",
    "c4.num_lines_javascript",
    "c4.num_lines_policy",
    "c4.num_sentences",
    "c4.num_lorem_ipsum",
    "c4.num_curly_brackets",
)
_NUM_COUNTS = len(C4_COUNTS)

LOREM_IPSUM, JAVASCRIPT = "lorem ipsum", "javascript"
POLICY_PHRASES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
CITATIONS = ("[edit]", "[citation needed]")  # and numbers in brackets, also empty ones

_NEWLINE, _RETURN, _OPEN, _CLOSE, _CURLY, _DOT, _K = b"\n\r[]{.k"
_KELVIN = tuple("\u212a".encode())  # the only letter but K itself whose small form is k

# A phrase is looked for where one of its rarer letters stands with the next one. Before it all is ASCII.
_PHRASES = (LOREM_IPSUM, JAVASCRIPT, *POLICY_PHRASES)
_RARE_AT = np.array([next(i for i, letter in enumerate(phrase) if letter in "kmv") for phrase in _PHRASES])

# Of bytes.
_SPACE, _LINE_END, _SENTENCE_END, _NOT_ASCII, _BRACKET, _BRACE = 1, 2, 4, 8, 16, 32

unsigned = np.uint64  # of an index: spares the look whether it counts from the end, a quarter of all the time


def _table(phrases: tuple[str, ...]) -> NDArray[np.uint8]:
    """(phrases, longest + 1), filled with zeros."""
    table = np.zeros((len(phrases), max(map(len, phrases)) + 1), np.uint8)
    for row, phrase in zip(table, phrases, strict=True):
        row[: len(phrase)] = list(phrase.encode())
    return table


def _byte_marks() -> NDArray[np.uint8]:
    marks = np.zeros(256, np.uint8)
    classes = character_classes()[:128]
    for mark, of_characters in ((_SPACE, SPACE), (_LINE_END, LINE_END), (_SENTENCE_END, TERMINAL)):
        marks[:128][classes & of_characters != 0] |= mark
    marks[128:] = _NOT_ASCII
    marks[_OPEN], marks[_CURLY] = _BRACKET, _BRACE
    return marks


def _pair_marks() -> NDArray[np.uint8]:
    """(2, 256): bit i of the first and the second row is set for the bytes of phrase i's rare pair."""
    marks = np.zeros((2, 256), np.uint8)
    for number, (phrase, at) in enumerate(zip(_PHRASES, _RARE_AT, strict=True)):
        for place, letter in enumerate(phrase[at : at + 2]):
            marks[place, [ord(letter), ord(letter.upper())]] |= 1 << number
        if phrase[at] == "k":
            marks[[0, 1], _KELVIN[:2]] |= 1 << number
    return marks


_PHRASE_TABLE, _PAIR_MARKS, _CITATION_TABLE = _table(_PHRASES), _pair_marks(), _table(CITATIONS)


def c4_lines(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    *,
    terminal_punctuation: bool = True,
    min_words: int = 3,
    max_word_chars: int = 1000,
    remove_citations: bool = True,
) -> EditedTexts:
    """The lines that C4 keeps, of the texts `data[offsets[i]:offsets[i + 1]]`; counts are `C4_COUNTS`."""
    edited = _c4(
        *(data, offsets, character_classes(), _byte_marks(), _PHRASE_TABLE, _RARE_AT, _PAIR_MARKS, _CITATION_TABLE),
        *(terminal_punctuation, min_words, max_word_chars, remove_citations),
    )
    return EditedTexts(*edited)


@compiled
def _c4(
    data,
    offsets,
    classes,
    marks,
    phrases,
    rare_at,
    pair_marks,
    citations,
    terminal_punctuation,
    min_words,
    max_word_chars,
    remove_citations,
):
    num_texts = len(offsets) - 1
    kept = np.empty(offsets[num_texts] - offsets[0] + 1, np.uint8)  # the last line may have had no newline
    kept_offsets = np.zeros(num_texts + 1, np.int64)
    counts = np.zeros((num_texts, _NUM_COUNTS), np.int64)
    for text in range(num_texts):
        row = counts[text]
        start, end = offsets[text], offsets[text + 1]
        position = kept_offsets[text]
        while start < end:
            row[0] += 1
            first, last, start, num_words, seen = _line(data, start, end, marks, classes)
            if remove_citations and seen & _BRACKET:
                line_end = _copy_without_citations(data, first, last, kept, position, marks, classes, citations)
            else:
                line_end = _copy(data, first, last, kept, position)
            if last - first > max_word_chars and _longest_word(data, first, last, classes) > max_word_chars:
                row[2] += 1
            elif terminal_punctuation and not _ends_a_sentence(kept, position, line_end):
                row[3] += 1
            elif num_words < min_words:
                row[4] += 1
            else:
                found = _phrases_in(kept, position, line_end, phrases, rare_at, pair_marks)
                row[8] += found & 1
                if found & 2 and not found & 1:
                    row[5] += 1
                else:
                    curly = seen & _BRACE != 0
                    row[9] += curly and not found & 1
                    if found > 3 and not found & 1 and not curly:
                        row[6] += 1
                    else:
                        row[1] += 1
                        row[7] += _count_sentences(kept, position, line_end, marks, classes)
                        kept[line_end] = _NEWLINE
                        position = line_end + 1
        kept_offsets[text + 1] = _strip(kept, kept_offsets[text], position, classes)
    return kept[: kept_offsets[num_texts]], kept_offsets, counts


@inner
def _line(data, start, end, marks, classes):
    """(first byte that is no space, behind the last one, where the next line begins, words, marks of the bytes)."""
    num_words = 0
    seen = np.uint8(0)
    after_space = 1
    index = start
    size = 0  # of what ends the line
    while index < end:
        mark = marks[data[unsigned(index)]]
        if not mark & (_LINE_END | _NOT_ASCII):
            is_space = mark & _SPACE
            index += 1
        else:
            char, size = _char_at(data, index)
            if classes[char] & LINE_END:
                size += char == _RETURN and index + 1 < end and data[index + 1] == _NEWLINE
                break
            is_space = classes[char] & SPACE
            index += size
            size = 0
        num_words += after_space & ~is_space
        after_space = is_space
        seen |= mark
    first, last = _stripped(data, start, index, classes)
    return first, last, index + size, num_words, seen


@inner
def _stripped(data, start, end, classes):
    while start < end:
        char, size = _char_at(data, start)
        if not classes[char] & SPACE:
            break
        start += size
    while end > start:
        char, size = _char_before(data, start, end)
        if not classes[char] & SPACE:
            break
        end -= size
    return start, end


@inner
def _longest_word(data, start, end, classes):
    """Characters of the longest word."""
    longest = length = 0
    while start < end:
        char, size = _char_at(data, start)
        length = 0 if classes[char] & SPACE else length + 1
        longest = max(longest, length)
        start += size
    return longest


# --- characters


@inner
def _char_at(data, index):
    """(code point that begins at a byte, its bytes)."""
    lead = np.uint32(data[unsigned(index)])
    if lead < 0x80:
        return lead, 1
    second = np.uint32(data[index + 1]) & 0x3F
    if lead < 0xE0:
        return ((lead & 0x1F) << 6) | second, 2
    third = np.uint32(data[index + 2]) & 0x3F
    if lead < 0xF0:
        return ((lead & 0x0F) << 12) | (second << 6) | third, 3
    return ((lead & 0x07) << 18) | (second << 12) | (third << 6) | (np.uint32(data[index + 3]) & 0x3F), 4


@inner
def _char_before(data, start, index):
    """(code point that ends before a byte, its bytes); there is one."""
    begin = index - 1
    while begin > start and data[begin] & 0xC0 == 0x80:
        begin -= 1
    return _char_at(data, begin)


@inner
def _small(byte):
    return byte | 0x20 if 65 <= byte <= 90 else byte


# --- of one line


@inner
def _copy(data, start, end, kept, position):
    """Write bytes into `kept`; returns where they end there."""
    for index in range(end - start):
        kept[unsigned(position + index)] = data[unsigned(start + index)]
    return position + end - start


@inner
def _copy_without_citations(data, start, end, kept, position, marks, classes, citations):
    """Write a line into `kept`, without [1], [], [edit], [citation needed]; returns where it ends there."""
    while start < end:
        if marks[data[start]] & _BRACKET:
            behind = _behind_citation(data, start, end, classes, citations)
            if behind > start:
                start = behind
                continue
        kept[position] = data[start]
        position += 1
        start += 1
    return position


@inner
def _behind_citation(data, start, end, classes, citations):
    """Where the citation ends that begins there, else `start`."""
    behind = start + 1
    while behind < end:
        char, size = _char_at(data, behind)
        if not classes[char] & DECIMAL:
            break
        behind += size
    if behind < end and data[behind] == _CLOSE:
        return behind + 1
    for number in range(len(citations)):
        length = 0
        while citations[number, length] and start + length < end and data[start + length] == citations[number, length]:
            length += 1
        if not citations[number, length]:
            return start + length
    return start


@inner
def _phrases_in(line, start, end, phrases, rare_at, pair_marks):
    """Bit i is set where phrase i, in small or capital letters, occurs."""
    found = 0
    for index in range(start, end - 1):
        candidates = pair_marks[0, line[unsigned(index)]] & pair_marks[1, line[unsigned(index + 1)]]
        if candidates:
            for number in range(len(phrases)):
                begin = index - rare_at[number]
                if candidates >> number & 1 and begin >= start and _is_phrase(line, begin, end, phrases, number):
                    found |= 1 << number
    return found


@inner
def _is_phrase(line, index, end, phrases, number):
    letter = 0
    while phrases[number, letter]:
        if index >= end:
            return False
        if _small(line[index]) == phrases[number, letter]:
            index += 1
        elif phrases[number, letter] == _K and _is_kelvin(line, index, end):
            index += 3
        else:
            return False
        letter += 1
    return True


@inner
def _is_kelvin(line, index, end):
    return (
        index + 3 <= end
        and line[index] == _KELVIN[0]
        and line[index + 1] == _KELVIN[1]
        and line[index + 2] == _KELVIN[2]
    )


@inner
def _ends_a_sentence(line, start, end):
    if start == end:
        return False
    last = line[end - 1]
    if last == _DOT:
        return not (end - start >= 3 and line[end - 2] == _DOT and line[end - 3] == _DOT)
    return last == 63 or last == 33 or last == 34 or last == 39  # ? ! " '


@inner
def _count_sentences(line, start, end, marks, classes):
    """Sentences of a line: see `line_edits_reference.num_sentences`."""
    num_sentences = 0
    index = rest = start
    while index < end:
        if not marks[line[unsigned(index)]] & (_SENTENCE_END | _NOT_ASCII):
            index += 1
            continue
        char, size = _char_at(line, index)
        if not classes[char] & TERMINAL:
            index += size
            continue
        initial = char == _DOT and _is_initial(line, start, index, classes)
        index = _behind_quotes(line, _behind_terminals(line, index, end, classes), end, classes)
        if initial or (index < end and not classes[_char_at(line, index)[0]] & SPACE):
            continue
        following = index
        while following < end:
            char, size = _char_at(line, following)
            if not classes[char] & SPACE:
                break
            following += size
        if following == end or not classes[_char_at(line, following)[0]] & LOWER:
            num_sentences += 1
            rest = index
    first, last = _stripped(line, rest, end, classes)
    return num_sentences + (first < last)


@inner
def _behind_terminals(line, index, end, classes):
    while index < end:
        char, size = _char_at(line, index)
        if not classes[char] & TERMINAL:
            break
        index += size
    return index


@inner
def _behind_quotes(line, index, end, classes):
    """Behind closing quotes and brackets: all that is no space, word or sentence end."""
    while index < end:
        char, size = _char_at(line, index)
        if classes[char] & (SPACE | WORD | TERMINAL):
            break
        index += size
    return index


@inner
def _is_initial(line, start, dot, classes):
    """Whether a single capital stands before the dot."""
    if dot == start:
        return False
    char, size = _char_before(line, start, dot)
    if not classes[char] & UPPER:
        return False
    return dot - size == start or classes[_char_before(line, start, dot - size)[0]] & SPACE != 0


@inner
def _strip(kept, start, end, classes):
    """Take space from both ends of a text; returns where it ends then."""
    first, end = _stripped(kept, start, end, classes)
    return _copy(kept, first, end, kept, start) if first > start else end
