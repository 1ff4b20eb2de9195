"""The rows of a text's words and n-grams, compiled: written one by one, counted, or summed row by row of a matrix.

What the features are is told in `ngram_features_reference`, to which this is held.
"""

from typing import NamedTuple

import numpy as np

from marin.processing.kernels.compiled import compiled, inner
from marin.processing.kernels.fnv import FNV_OFFSET, absorb, fnv1a
from marin.processing.kernels.ngram_features_reference import END_OF_TEXT, LABEL_PREFIX, NGRAM_MULTIPLIER
from marin.processing.kernels.vocabulary import Vocabulary, is_at, place_of

# A text is read so many words at a time, and rows are added whenever so many are known: a long text needs no more
# memory than a short one, and each pass over a block is a tight loop whose loads do not wait for one another.
_WORDS_AT_ONCE = 512
_LETTERS_AT_ONCE = 1024
_ROWS_AT_ONCE = 8192

# Most words of a batch were there before: their character n-grams are summed once. A sum is kept for so many words at
# most (4 MB of a model of 16 columns), of so many bytes.
_LARGEST_NUM_SUMS = 65_536
_LONGEST_SUMMED_WORD = 24

_END = np.frombuffer(END_OF_TEXT, np.uint8)
_END_HASH = fnv1a(END_OF_TEXT)
_LABEL = np.frombuffer(LABEL_PREFIX, np.uint8)


@inner
def _split(data, at, end, begins, ends, hashes):
    """Words of data[at:end] until there is no more room: (how many, where to go on, whether the text has ended)."""
    num_words, begin, value = 0, at, np.uint64(FNV_OFFSET)
    while at <= end:
        byte = data[at] if at < end else np.uint8(32)
        if byte > 32 or not (byte == 32 or 9 <= byte <= 13 or byte == 0):
            value = absorb(value, byte)
            at += 1
            continue
        if at > begin:
            if is_at(data, begin, at, _END, 0, _END.size):
                return num_words, at, True
            begins[num_words], ends[num_words], hashes[num_words] = begin, at, value
            num_words += 1
        at += 1
        begin, value = at, np.uint64(FNV_OFFSET)
        if num_words == begins.size:
            return num_words, at, at > end
    return num_words, at, True


@inner
def _is_label(data, begin, end, place, num_words):
    """Whether the word data[begin:end], at this place of the dictionary or at none, is a label."""
    if place >= 0:
        return place >= num_words
    return data[begin] == _LABEL[0] and is_at(data, begin, min(end, begin + _LABEL.size), _LABEL, 0, _LABEL.size)


@inner
def _look_up(data, begins, ends, hashes, num_found, pool, starts, slots, num_words, places):
    """Write places of words (-1: outside the dictionary) and close up over labels; returns how many words stay."""
    num_kept = 0
    for index in range(num_found):
        begin, end = begins[index], ends[index]
        place = place_of(data, begin, end, hashes[index], pool, starts, slots)
        if _is_label(data, begin, end, place, num_words):
            continue
        places[num_kept] = place
        begins[num_kept], ends[num_kept], hashes[num_kept] = begin, end, hashes[index]
        num_kept += 1
    return num_kept


@inner
def _row_of_bucket(value, num_words, num_buckets, kept):
    """The row of the n-gram with this hash; -1 where its bucket was pruned."""
    bucket = np.int64(value % np.uint64(num_buckets))
    if kept.size:
        bucket = np.int64(kept[bucket])
        if bucket < 0:
            return bucket
    return num_words + bucket


@inner
def _word_ngram_rows(hashes, count, ngrams, num_open, word_ngrams, num_words, num_buckets, kept, ids, num_ids):
    """Write the rows of the n-grams that end with these words; returns (n-grams that go on, how many rows wait).

    `ngrams` holds the hashes of the n-grams that end with the word before, the longest first.
    """
    for index in range(count):
        signed = hashes[index] if hashes[index] < np.uint64(2**31) else hashes[index] | np.uint64(0xFFFFFFFF00000000)
        for longer in range(num_open):
            ngrams[longer] = ngrams[longer] * np.uint64(NGRAM_MULTIPLIER) + signed
            row = _row_of_bucket(ngrams[longer], num_words, num_buckets, kept)
            if row >= 0:
                ids[num_ids] = row
                num_ids += 1
        if num_open == word_ngrams - 1:
            for longer in range(num_open - 1):
                ngrams[longer] = ngrams[longer + 1]
            num_open -= 1
        ngrams[num_open] = signed
        num_open += 1
    return num_open, num_ids


@inner
def _add_rows(ids, num_ids, matrix, total):
    if matrix.shape[1] == 1:
        single = 0.0
        for index in range(num_ids):
            single += matrix[ids[index], 0]
        total[0] += single
        return
    for index in range(num_ids):
        row = ids[index]
        for column in range(matrix.shape[1]):
            total[column] += matrix[row, column]


@inner
def _character_rows(
    data,
    begin,
    end,
    letters,
    bounds,
    min_chars,
    max_chars,
    num_words,
    num_buckets,
    kept,
    is_kept,
    ids,
    num_ids,
    matrix,
    total,
):
    """Write the rows of the character n-grams of <data[begin:end]>; returns (how many wait, how many there were).

    Where there is no more room in `ids`, what waits is added up first.
    """
    size = end - begin + 2
    if size > letters.size:
        letters, bounds = np.empty(size, np.uint8), np.empty(size + 1, np.int64)
    letters[0], letters[size - 1] = 60, 62  # < and >
    for at in range(begin, end):
        letters[at - begin + 1] = data[at]
    num_chars = 0
    for at in range(size):
        bounds[num_chars] = at
        num_chars += letters[at] & 0xC0 != 0x80
    bounds[num_chars] = size
    num_written = 0
    for first in range(num_chars):
        value = np.uint64(FNV_OFFSET)
        for length in range(1, min(max_chars, num_chars - first) + 1):
            for at in range(bounds[first + length - 1], bounds[first + length]):
                value = absorb(value, letters[at])
            if length < min_chars or (length == 1 and (first == 0 or first == num_chars - 1)):
                continue
            # the upper half of the value is 0, and dividing 32 bits takes a third of the time
            bucket = np.int64(np.uint32(value) % np.uint32(num_buckets))
            if kept.size:
                if not is_kept[bucket >> 3] >> (bucket & 7) & 1:
                    continue
                bucket = np.int64(kept[bucket])
            if num_ids == ids.size:
                _add_rows(ids, num_ids, matrix, total)
                num_ids = 0
            ids[num_ids] = num_words + bucket
            num_ids += 1
            num_written += 1
    return num_ids, num_written


@inner
def _text_rows(data, begin, end, vocabulary, scratch, ids, matrix, total):
    """Write the rows of data[begin:end] to `ids`; returns (how many wait there, how many there were in all).

    Where there is no more room, what waits is added to `total` first, row by row of `matrix`.
    """
    pool, starts, slots, kept = vocabulary.pool, vocabulary.starts, vocabulary.slots, vocabulary.kept
    num_words, num_buckets = vocabulary.num_words, vocabulary.num_buckets
    word_ngrams, max_chars = vocabulary.word_ngrams, vocabulary.max_chars
    begins, ends, hashes, places, ngrams, letters, bounds = scratch
    num_ids, num_all, num_open, at, has_ended = 0, 0, 0, begin, False
    while not has_ended:
        count, at, has_ended = _split(data, at, end, begins[:-1], ends, hashes)
        count = _look_up(data, begins, ends, hashes, count, pool, starts, slots, num_words, places)
        if max_chars > 0:
            for word in range(count):
                num_ids, num_chars = _character_rows(
                    data,
                    begins[word],
                    ends[word],
                    letters,
                    bounds,
                    vocabulary.min_chars,
                    max_chars,
                    num_words,
                    num_buckets,
                    kept,
                    vocabulary.is_kept,
                    ids,
                    num_ids,
                    matrix,
                    total,
                )
                num_all += num_chars
        if has_ended:
            places[count] = place_of(_END, 0, _END.size, np.uint64(_END_HASH), pool, starts, slots)
            hashes[count] = np.uint64(_END_HASH)
            count += 1
        if ids.size - num_ids < count * word_ngrams:
            _add_rows(ids, num_ids, matrix, total)
            num_ids = 0
        num_before = num_ids
        for word in range(count):
            ids[num_ids] = places[word]
            num_ids += places[word] >= 0
        if word_ngrams > 1:
            num_open, num_ids = _word_ngram_rows(
                hashes, count, ngrams, num_open, word_ngrams, num_words, num_buckets, kept, ids, num_ids
            )
        num_all += num_ids - num_before
    return num_ids, num_all


@inner
def make_scratch(vocabulary):
    """What `text_rows` works in, for compiled callers; one is enough for any number of texts."""
    return (
        np.empty(_WORDS_AT_ONCE + 1, np.int64),
        np.empty(_WORDS_AT_ONCE + 1, np.int64),
        np.empty(_WORDS_AT_ONCE + 1, np.uint64),
        np.empty(_WORDS_AT_ONCE + 1, np.int64),
        np.zeros(max(1, vocabulary.word_ngrams), np.uint64),
        np.empty(_LETTERS_AT_ONCE, np.uint8),
        np.empty(_LETTERS_AT_ONCE + 1, np.int64),
    )


class _WordSums(NamedTuple):
    """What was found of words before: a word's own row and its character n-grams, summed. One place for each hash."""

    words: np.ndarray
    """uint8 (slots, longest): the word."""
    lengths: np.ndarray
    """uint8 (slots,): 0 where nothing is yet."""
    counts: np.ndarray
    """int32 (slots,): how many features it has; -1: it is a label."""
    sums: np.ndarray
    """float32 (slots, width)."""


def _word_sums(num_bytes: int, width: int) -> _WordSums:
    num_slots = 1024
    while num_slots < min(_LARGEST_NUM_SUMS, num_bytes // 32):
        num_slots *= 2
    return _WordSums(
        words=np.empty((num_slots, _LONGEST_SUMMED_WORD), np.uint8),
        lengths=np.zeros(num_slots, np.uint8),
        counts=np.empty(num_slots, np.int32),
        sums=np.empty((num_slots, width), np.float32),
    )


@inner
def _sum_words(data, scratch, num_found, vocabulary, known, ids, matrix, fresh, total):
    """Add the rows of words and their character n-grams to `total`, and close up over labels.

    Returns (how many words stay, how many rows there were). Each word's rows are summed before they are added, whether
    it was known or not, so that what is known has no influence on the bits of the result.
    """
    pool, starts, slots, kept = vocabulary.pool, vocabulary.starts, vocabulary.slots, vocabulary.kept
    num_words, num_buckets = vocabulary.num_words, vocabulary.num_buckets
    min_chars, max_chars = vocabulary.min_chars, vocabulary.max_chars
    begins, ends, hashes, _, _, letters, bounds = scratch
    words, lengths, counts, sums = known
    width = matrix.shape[1]
    num_kept, num_rows = 0, 0
    for word in range(num_found):
        begin, end, value = begins[word], ends[word], hashes[word]
        length = end - begin
        # slot 0 of each array is where a word that is too long is worked out
        slot = np.int64(value) & (lengths.size - 1) if length <= words.shape[1] else 0
        if lengths[slot] != length or not is_at(data, begin, end, words[slot], 0, length):
            fresh[:] = 0
            place = place_of(data, begin, end, value, pool, starts, slots)
            if _is_label(data, begin, end, place, num_words):
                counts[slot] = -1
            else:
                num_ids, counts[slot] = _character_rows(
                    data,
                    begin,
                    end,
                    letters,
                    bounds,
                    min_chars,
                    max_chars,
                    num_words,
                    num_buckets,
                    kept,
                    vocabulary.is_kept,
                    ids,
                    0,
                    matrix,
                    fresh,
                )
                _add_rows(ids, num_ids, matrix, fresh)
                if place >= 0:
                    counts[slot] += 1
                    for column in range(width):
                        fresh[column] += matrix[place, column]
            for column in range(width):
                sums[slot, column] = fresh[column]
            lengths[slot] = 0
            if length <= words.shape[1]:
                lengths[slot] = length
                for offset in range(length):
                    words[slot, offset] = data[begin + offset]
        if counts[slot] < 0:
            continue
        num_rows += counts[slot]
        for column in range(width):
            total[column] += sums[slot, column]
        hashes[num_kept] = value
        num_kept += 1
    return num_kept, num_rows


@inner
def _sum_text(data, begin, end, vocabulary, scratch, known, ids, matrix, fresh, total):
    """Add all rows of data[begin:end] to `total`; returns how many there were. For vocabularies of characters."""
    kept, num_words, num_buckets = vocabulary.kept, vocabulary.num_words, vocabulary.num_buckets
    word_ngrams = vocabulary.word_ngrams
    _, _, hashes, _, ngrams, _, _ = scratch
    num_all, num_open, at, has_ended = 0, 0, begin, False
    while not has_ended:
        count, at, has_ended = _split(data, at, end, scratch[0][:-1], scratch[1], hashes)
        count, num_rows = _sum_words(data, scratch, count, vocabulary, known, ids, matrix, fresh, total)
        num_all += num_rows
        if has_ended:
            place = place_of(
                _END, 0, _END.size, np.uint64(_END_HASH), vocabulary.pool, vocabulary.starts, vocabulary.slots
            )
            if place >= 0:
                num_all += 1
                for column in range(matrix.shape[1]):
                    total[column] += matrix[place, column]
            hashes[count] = np.uint64(_END_HASH)
            count += 1
        if word_ngrams > 1:
            num_open, num_ids = _word_ngram_rows(
                hashes, count, ngrams, num_open, word_ngrams, num_words, num_buckets, kept, ids, 0
            )
            _add_rows(ids, num_ids, matrix, total)
            num_all += num_ids
    return num_all


@compiled
def _sum_rows(data, offsets, vocabulary, known, matrix, totals, counts):
    scratch = make_scratch(vocabulary)
    ids = np.empty(max(_ROWS_AT_ONCE, (_WORDS_AT_ONCE + 1) * vocabulary.word_ngrams), np.int32)
    fresh = np.empty(matrix.shape[1], np.float64)
    for text in range(offsets.size - 1):
        begin, end, total = offsets[text], offsets[text + 1], totals[text]
        if vocabulary.max_chars > 0:
            counts[text] = _sum_text(data, begin, end, vocabulary, scratch, known, ids, matrix, fresh, total)
        else:
            num_ids, counts[text] = _text_rows(data, begin, end, vocabulary, scratch, ids, matrix, total)
            _add_rows(ids, num_ids, matrix, total)


def sum_rows(
    data: np.ndarray, offsets: np.ndarray, vocabulary: Vocabulary, matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(sums, counts): for each text, the sum of the rows of its features, and how many features it has.

    `data` is UTF-8 (uint8), text i is `data[offsets[i] : offsets[i + 1]]`; `matrix` is float32 (num_rows, width). Sums
    are float64 (texts, width), counts int64 (texts,).
    """
    assert matrix.shape[0] == vocabulary.num_rows, (matrix.shape, vocabulary.num_rows)
    totals = np.zeros((offsets.size - 1, matrix.shape[1]), np.float64)
    counts = np.zeros(offsets.size - 1, np.int64)
    known = _word_sums(data.size if vocabulary.max_chars > 0 else 0, matrix.shape[1])
    _sum_rows(data, offsets, vocabulary, known, matrix, totals, counts)
    return totals, counts


@compiled
def _count_rows(data, offsets, vocabulary, counts):
    scratch = make_scratch(vocabulary)
    ids = np.empty(max(_ROWS_AT_ONCE, (_WORDS_AT_ONCE + 1) * vocabulary.word_ngrams), np.int32)
    no_matrix, no_total = np.zeros((1, 0), np.float32), np.zeros(0, np.float64)
    for text in range(offsets.size - 1):
        _, counts[text] = _text_rows(
            data, offsets[text], offsets[text + 1], vocabulary, scratch, ids, no_matrix, no_total
        )


def count_rows(data: np.ndarray, offsets: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """How many features each text has, int64 (texts,); `data` and `offsets` as for `sum_rows`."""
    counts = np.zeros(offsets.size - 1, np.int64)
    _count_rows(data, offsets, vocabulary, counts)
    return counts


def room_for_rows(data: np.ndarray, offsets: np.ndarray, vocabulary: Vocabulary) -> int:
    """How long `ids` must be for `text_rows` of any of these texts."""
    return int(count_rows(data, offsets, vocabulary).max(initial=0)) + (_WORDS_AT_ONCE + 1) * vocabulary.word_ngrams


@inner
def text_rows(data, begin, end, vocabulary, scratch, ids):
    """Write the rows of data[begin:end] to `ids`, of `room_for_rows`, and return how many; for compiled callers."""
    num_ids, _ = _text_rows(
        data, begin, end, vocabulary, scratch, ids, np.zeros((1, 0), np.float32), np.zeros(0, np.float64)
    )
    return num_ids
