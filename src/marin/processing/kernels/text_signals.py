"""Statistics of a text that published filters look at, all in one visit of it.

A text is decoded to code points, cut into words once, and every statistic is taken from these arrays while they are in
the cache. Words, lines and n-grams are compared by hashes instead of as strings: in a text of a million words two
different ones are taken for equal with a probability of about 1e-6. `text_signals_reference` has the same statistics in
plain Python, compared as strings; the tests hold the two equal.

What makes it fast: an n-gram can only be repeated where its (n-1)-grams are, so those of 3 words and more are looked up
only at places where shorter ones were found twice. Text that repeats itself throughout pays for all of them.
"""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from marin.processing.kernels.characters import (
    ALPHA,
    IDEOGRAPH,
    LINE_END,
    SPACE,
    SYMBOL,
    TERMINAL,
    WORD,
    character_classes,
)
from marin.processing.kernels.compiled import compiled, inner

# Column of the result -> name of the signal. What each means is written in `text_signals_reference`.
SIGNALS: tuple[str, ...] = (
    "text.num_bytes",
    "text.num_chars",
    "text.num_words",
    "text.num_lines",
    "gopher.num_words",
    "gopher.mean_word_length",
    "gopher.hash_ratio",
    "gopher.ellipsis_ratio",
    "gopher.bullet_line_ratio",
    "gopher.ellipsis_line_ratio",
    "gopher.alpha_word_ratio",
    "gopher.num_stop_words",
    "gopher.num_stop_word_occurrences",
    "repetition.duplicate_line_ratio",
    "repetition.duplicate_paragraph_ratio",
    "repetition.duplicate_line_char_ratio",
    "repetition.duplicate_paragraph_char_ratio",
    "repetition.top_2gram_char_ratio",
    "repetition.top_3gram_char_ratio",
    "repetition.top_4gram_char_ratio",
    "repetition.duplicate_5gram_char_ratio",
    "repetition.duplicate_6gram_char_ratio",
    "repetition.duplicate_7gram_char_ratio",
    "repetition.duplicate_8gram_char_ratio",
    "repetition.duplicate_9gram_char_ratio",
    "repetition.duplicate_10gram_char_ratio",
    "fineweb.terminal_line_ratio",
    "fineweb.short_line_ratio",
    "fineweb.duplicate_line_char_ratio",
    "fineweb.newline_word_ratio",
    "c4.num_paragraphs",
)
_NUM_SIGNALS = len(SIGNALS)
# First column of each group of signals, for the functions that fill them.
_TEXT, _GOPHER, _REPETITION, _TOP, _DUPLICATE, _FINEWEB, _C4 = 0, 4, 13, 17, 20, 26, 30

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
SHORT_LINE_CHARS = 30
PARAGRAPH_CHARS = 200

_NEWLINE, _HASH, _DOT, _ELLIPSIS, _HYPHEN, _BULLET = 10, ord("#"), ord("."), 0x2026, ord("-"), 0x2022
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SEED = np.uint64(0x2545F4914F6CDD1D)
_TAG = np.uint64(0xFFFF_FFFF_FFFF_0000)
_STAMP = np.uint64(0xFFFF)
_ONE, _HALF, _THIRD = np.uint64(1), np.uint64(32), np.uint64(29)


def text_signals(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    *,
    unicode_words: bool = False,
    stop_words: Sequence[str] = STOP_WORDS,
) -> NDArray[np.float64]:
    """Signals (texts, len(SIGNALS)) of the texts `data[offsets[i]:offsets[i + 1]]`, which are UTF-8.

    A word is what stands between whitespace; with `unicode_words` a run of letters, digits, marks and connectors, a
    single ideograph, or any other single character that is no space.
    """
    return _signals(data, offsets, character_classes(), unicode_words, _hashes_of(tuple(stop_words)))


@functools.cache
def _hashes_of(words: tuple[str, ...]) -> NDArray[np.uint64]:
    return np.array([_hash_of(word) for word in words], np.uint64)


def _hash_of(word: str) -> int:
    """What `_words` makes of the word."""
    value = int(_SEED)
    for character in word:
        value = (value ^ ord(character)) * int(_MULTIPLIER) & 0xFFFF_FFFF_FFFF_FFFF
        value ^= value >> int(_HALF)
    return value


@compiled
def _signals(data, offsets, classes, unicode_words, stop_hashes):
    num_texts = len(offsets) - 1
    result = np.zeros((num_texts, _NUM_SIGNALS))
    longest = 0
    for text in range(num_texts):
        longest = max(longest, offsets[text + 1] - offsets[text])
    chars = np.empty(longest, np.uint32)
    words = _word_arrays(np.int64(1024))
    table = _new_table(np.int64(1024))
    for text in range(num_texts):
        row = result[text]
        num_bytes = offsets[text + 1] - offsets[text]
        num_chars = decode(data, offsets[text], offsets[text + 1], chars)
        row[_TEXT], row[_TEXT + 1] = num_bytes, num_chars
        if num_chars == 0:
            continue
        most_words = _count_word_starts(chars, num_chars, classes, unicode_words)
        if most_words >= len(words[0]):
            words = _word_arrays(2 * most_words)
        num_words = _words(chars, num_chars, classes, unicode_words, stop_hashes, words, row)
        _lines(chars, num_chars, classes, row)
        # of n words there are fewer n-grams, of n characters no more lines than that
        table = _table_for(table, max(num_words, row[_TEXT + 3] + 1, _count_newlines(chars, num_chars) + 1))
        _newline_lines(chars, num_chars, classes, num_words, table, row)
        _paragraphs(chars, num_chars, classes, table, row)
        _ngrams(words, num_words, num_chars, table, row)
    return result


@inner
def decode(data, start, end, chars):
    """Code points of the UTF-8 `data[start:end]` into `chars`; returns how many."""
    num_chars = 0
    position = start
    while position < end:
        lead = np.uint32(data[position])
        if lead < 0x80:
            chars[num_chars] = lead
            position += 1
        elif lead < 0xE0:
            chars[num_chars] = ((lead & 0x1F) << 6) | (np.uint32(data[position + 1]) & 0x3F)
            position += 2
        elif lead < 0xF0:
            middle = (np.uint32(data[position + 1]) & 0x3F) << 6
            chars[num_chars] = ((lead & 0x0F) << 12) | middle | (np.uint32(data[position + 2]) & 0x3F)
            position += 3
        else:
            upper = (np.uint32(data[position + 1]) & 0x3F) << 12
            middle = (np.uint32(data[position + 2]) & 0x3F) << 6
            chars[num_chars] = ((lead & 0x07) << 18) | upper | middle | (np.uint32(data[position + 3]) & 0x3F)
            position += 4
        num_chars += 1
    return num_chars


# --- words


@inner
def _word_arrays(size):
    """(hash, characters before, scratch for n-grams: slot, whether repeated) of each word."""
    return np.empty(size, np.uint64), np.empty(size, np.int64), np.empty(size, np.int32), np.empty(size, np.int32)


@inner
def _count_word_starts(chars, num_chars, classes, unicode_words):
    """How many words there are; where Unicode's rules find them, at most."""
    count = 0
    before = SPACE
    for index in range(num_chars):
        kind = classes[chars[index]]
        if not kind & SPACE and (unicode_words or before & SPACE):
            count += 1
        before = kind
    return count


@inner
def _words(chars, num_chars, classes, unicode_words, stop_hashes, words, row):
    """Fill hashes and character counts of the words; write what filters ask of them. Returns how many there are."""
    hashes, chars_before = words[0], words[1]
    seen = np.zeros(len(stop_hashes), np.bool_)
    num_words = num_real = real_chars = num_alpha = num_stop = total_chars = 0
    num_hashes = num_ellipses = dots = 0
    index = 0
    while index < num_chars:
        char = chars[index]
        kind = classes[char]
        if kind & SPACE:
            dots = 0
            index += 1
            continue
        start = index
        value = _SEED
        together = 0
        every = SYMBOL
        while index < num_chars:
            char = chars[index]
            kind = classes[char]
            if kind & SPACE:
                break
            if unicode_words and index > start and not (kind & WORD and together & WORD) | (kind & IDEOGRAPH):
                break
            if unicode_words and index > start and (kind | together) & IDEOGRAPH:
                break
            value = (value ^ np.uint64(char)) * _MULTIPLIER
            value ^= value >> _HALF
            together |= kind
            every &= kind
            if char == _HASH:
                num_hashes += 1
            elif char == _ELLIPSIS:
                num_ellipses += 1
            if char == _DOT:
                dots += 1
                if dots == 3:
                    num_ellipses += 1
                    dots = 0
            else:
                dots = 0
            index += 1
        hashes[num_words] = value
        chars_before[num_words] = total_chars
        total_chars += index - start
        num_words += 1
        if together & ALPHA:
            num_alpha += 1
        if not every & SYMBOL:
            num_real += 1
            real_chars += index - start
        for stop in range(len(stop_hashes)):
            if value == stop_hashes[stop]:
                num_stop += 1
                seen[stop] = True
    chars_before[num_words] = total_chars
    row[_TEXT + 2] = num_words
    row[_GOPHER] = num_real
    row[_GOPHER + 1] = real_chars / num_real if num_real else 0.0
    if num_words:
        row[_GOPHER + 2] = num_hashes / num_words
        row[_GOPHER + 3] = num_ellipses / num_words
        row[_GOPHER + 6] = num_alpha / num_words
    num_seen = 0  # np.sum would load scipy
    for stop in range(len(seen)):
        num_seen += seen[stop]
    row[_GOPHER + 7] = num_seen
    row[_GOPHER + 8] = num_stop
    return num_words


# --- lines and paragraphs


@inner
def _lines(chars, num_chars, classes, row):
    """Of the lines that str.splitlines finds: how many, and which share begins with a bullet or ends in an ellipsis."""
    num_lines = num_bullets = num_ellipses = 0
    start = 0
    while start < num_chars:
        end = start
        while end < num_chars and not classes[chars[end]] & LINE_END:
            end += 1
        num_lines += 1
        first, last = start, end - 1
        while first < end and classes[chars[first]] & SPACE:
            first += 1
        while last > first and classes[chars[last]] & SPACE:
            last -= 1
        if first < end:
            if chars[first] == _HYPHEN or chars[first] == _BULLET:
                num_bullets += 1
            three = last - first >= 2 and chars[last] == _DOT and chars[last - 1] == _DOT and chars[last - 2] == _DOT
            if three or chars[last] == _ELLIPSIS:
                num_ellipses += 1
        if end + 1 < num_chars and chars[end] == 13 and chars[end + 1] == _NEWLINE:
            end += 1
        start = end + 1
    row[_TEXT + 3] = num_lines
    row[_GOPHER + 4] = num_bullets / num_lines
    row[_GOPHER + 5] = num_ellipses / num_lines


@inner
def _count_newlines(chars, num_chars):
    count = 0
    for index in range(num_chars):
        if chars[index] == _NEWLINE:
            count += 1
    return count


@inner
def _newline_lines(chars, num_chars, classes, num_words, table, row):
    """Of the pieces between newlines: repeated ones, short ones, those that end a sentence."""
    stamp = _clear(table)
    # the empty pieces before a leading newline and after a trailing one count as lines, the second as a repeated one
    leading, trailing = chars[0] == _NEWLINE, chars[num_chars - 1] == _NEWLINE
    num_pieces, num_repeated = int(leading) + int(trailing), int(leading and trailing)
    repeated_chars = repeated_filled_chars = 0
    num_filled = num_terminal = num_short = num_long = num_newlines = 0
    start = 0
    while start <= num_chars:
        end = start
        blank = True
        value = _SEED
        while end < num_chars and chars[end] != _NEWLINE:
            value = (value ^ np.uint64(chars[end])) * _MULTIPLIER
            value ^= value >> _HALF
            blank = blank and classes[chars[end]] & SPACE != 0
            end += 1
        length = end - start
        num_newlines += end < num_chars
        num_long += length >= PARAGRAPH_CHARS
        if length:
            num_pieces += 1
            repeated = _seen_before(table, stamp, value)
            if repeated:
                num_repeated += 1
                repeated_chars += length
            if not blank:
                num_filled += 1
                num_short += length <= SHORT_LINE_CHARS
                num_terminal += classes[chars[end - 1]] & TERMINAL != 0
                if repeated:
                    repeated_filled_chars += length
        start = end + 1
    row[_REPETITION] = num_repeated / num_pieces
    row[_REPETITION + 2] = repeated_chars / num_chars
    if num_filled:
        row[_FINEWEB] = num_terminal / num_filled
        row[_FINEWEB + 1] = num_short / num_filled
        row[_FINEWEB + 2] = repeated_filled_chars / (num_chars - num_newlines)
    if num_words:
        row[_FINEWEB + 3] = num_newlines / num_words
    row[_C4] = num_long


@inner
def _paragraphs(chars, num_chars, classes, table, row):
    """Of the pieces between two or more newlines, of the stripped text: those repeated."""
    first, last = 0, num_chars
    while first < last and classes[chars[first]] & SPACE:
        first += 1
    while last > first and classes[chars[last - 1]] & SPACE:
        last -= 1
    if first == last:
        return
    stamp = _clear(table)
    num_paragraphs = num_repeated = repeated_chars = 0
    start = first
    while start < last:
        end = start
        value = _SEED
        while end < last and not (chars[end] == _NEWLINE and chars[end + 1] == _NEWLINE):
            value = (value ^ np.uint64(chars[end])) * _MULTIPLIER
            value ^= value >> _HALF
            end += 1
        num_paragraphs += 1
        if _seen_before(table, stamp, value):
            num_repeated += 1
            repeated_chars += end - start
        while end < last and chars[end] == _NEWLINE:
            end += 1
        start = end
    row[_REPETITION + 1] = num_repeated / num_paragraphs
    row[_REPETITION + 3] = repeated_chars / num_chars


# --- n-grams


@inner
def _ngrams(words, num_words, num_chars, table, row):
    hashes, chars_before, slots, run = words
    for index in range(num_words):
        run[index] = 1  # a single word may always be a repeated one
    for n in range(2, 5):
        if num_words < n:
            return
        row[_TOP + n - 2] = _top_ngram_chars(hashes, chars_before, slots, run, num_words, n, table) / num_chars
    # from here on run[i] tells how many 4-grams in a row, from word i on, occur more than once
    any_repeated = False
    for index in range(num_words - 4, -1, -1):
        if run[index]:
            any_repeated = True
            run[index] += run[index + 1]
    if any_repeated:
        for n in range(5, 11):
            row[_DUPLICATE + n - 5] = _duplicate_ngram_chars(hashes, chars_before, run, num_words, n, table) / num_chars


@inner
def _top_ngram_chars(hashes, chars_before, slots, run, num_words, n, table):
    """Characters of the most frequent n-gram (of those, the first), its spaces too, times its number.

    On entry run[i] tells whether the (n-1)-gram at i is repeated, on exit whether the n-gram is.
    """
    counts, firsts = table[1], table[2]
    stamp = _clear(table)
    num_grams = num_words - n + 1
    most, first = 1, 0
    for index in range(num_grams):
        if not (run[index] and run[index + 1]):
            slots[index] = -1
            continue
        slot, new = _find(table, stamp, _ngram_hash(hashes, index, n))
        slots[index] = slot
        if new:
            counts[slot] = 0
            firsts[slot] = index
        counts[slot] += 1
        if counts[slot] > most or (counts[slot] == most and firsts[slot] < first):
            most, first = counts[slot], firsts[slot]
    for index in range(num_grams):
        run[index] = slots[index] >= 0 and counts[slots[index]] > 1
    for index in range(num_grams, num_words):
        run[index] = 0
    return most * (chars_before[first + n] - chars_before[first] + n - 1)


@inner
def _duplicate_ngram_chars(hashes, chars_before, run, num_words, n, table):
    """Characters, without spaces, of n-grams that were met before; behind such a one the search goes on."""
    stamp = _clear(table)
    repeated_chars = 0
    index = 0
    while index <= num_words - n:
        if run[index] >= n - 3 and _seen_before(table, stamp, _ngram_hash(hashes, index, n)):
            repeated_chars += chars_before[index + n] - chars_before[index]
            index += n
        else:
            index += 1
    return repeated_chars


@inner
def _ngram_hash(hashes, index, n):
    value = _SEED
    for word in range(index, index + n):
        value = (value ^ hashes[word]) * _MULTIPLIER
        value ^= value >> _THIRD
    return value


# --- a set of hashes that is emptied at no cost: each entry holds the number of the set that it belongs to


@inner
def _new_table(size):
    """(entries: 48 bits of hash, 16 of stamp; count and first place of each; [stamp])."""
    entries = np.zeros(size, np.uint64)
    return entries, np.empty(size, np.int32), np.empty(size, np.int32), np.zeros(1, np.uint64)


@inner
def _table_for(table, num_items):
    """The table, or a larger one where it would be more than half full."""
    size = len(table[0])
    if 2 * num_items <= size:
        return table
    while size < 2 * num_items:
        size *= 2
    return _new_table(size)


@inner
def _clear(table):
    """Begin a new set; returns its stamp."""
    entries, stamps = table[0], table[3]
    if stamps[0] == _STAMP:
        entries[:] = np.uint64(0)
        stamps[0] = np.uint64(0)
    stamps[0] += _ONE
    return stamps[0]


@inner
def _find(table, stamp, value):
    """(slot, whether it is new) of a hash, which is put there."""
    entries = table[0]
    mask = np.uint64(len(entries) - 1)
    entry = (value & _TAG) | stamp
    slot = value & mask
    while True:
        if entries[slot] == entry:
            return np.int64(slot), False
        if entries[slot] & _STAMP != stamp:
            entries[slot] = entry
            return np.int64(slot), True
        slot = (slot + _ONE) & mask


@inner
def _seen_before(table, stamp, value):
    return not _find(table, stamp, value)[1]
