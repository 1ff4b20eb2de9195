"""The features of fastText: the words of a text, its word n-grams and its character n-grams, as numbers of rows.

A feature is a row of a matrix. Words of the dictionary have rows of their own; every n-gram is hashed into one of
`num_buckets` rows. What a text says is the sum of its rows. The definition is fastText's to the bit (Joulin et al.
2016, and `dictionary.cc` of version 0.9), so that published models read right. Its price:

- FNV-1a as fastText computes it takes bytes as signed, so its hashes of text beyond ASCII are its own.
- Words end at ASCII white space and NUL alone, whatever the language.
- A text ends with the word `</s>`, and a `</s>` in it ends it there. A word that begins with `__label__` is no feature.
- A word outside the dictionary has no row of its own, only n-grams.

This is the definition, in plain Python; `ngram_features` is the fast path that is held to it.
"""

from collections.abc import Iterable, Sequence

from marin.processing.kernels.fnv import fnv1a
from marin.processing.kernels.vocabulary import Vocabulary

END_OF_TEXT = b"</s>"
LABEL_PREFIX = b"__label__"
WHITE_SPACE = b" \t\n\v\f\r\0"
NGRAM_MULTIPLIER = 116049371  # of the hashes of word n-grams

_MASK64 = 0xFFFFFFFFFFFFFFFF


def split_words(text: bytes) -> list[bytes]:
    """The words of a text, `</s>` the last."""
    words = text.translate(bytes.maketrans(WHITE_SPACE, b" " * len(WHITE_SPACE))).split(b" ")
    words = [word for word in words if word]
    return [*words[: words.index(END_OF_TEXT)], END_OF_TEXT] if END_OF_TEXT in words else [*words, END_OF_TEXT]


def feature_rows(text: bytes, vocabulary: Vocabulary) -> list[int]:
    """The row of every feature of a text, one by one: words with their character n-grams, then n-grams of words."""
    places = {word: place for place, word in enumerate(vocabulary.words())}
    rows, hashes = [], []
    for word in split_words(text):
        place = places.get(word, -1)
        if place >= vocabulary.num_words or (place < 0 and word.startswith(LABEL_PREFIX)):
            continue
        if place >= 0:
            rows.append(place)
        if word != END_OF_TEXT:
            rows += _rows_of_buckets(vocabulary, (fnv1a(ngram) for ngram in character_ngrams(word, vocabulary)))
        hashes.append(fnv1a(word))
    return rows + _rows_of_buckets(vocabulary, word_ngram_hashes(hashes, vocabulary.word_ngrams))


def character_ngrams(word: bytes, vocabulary: Vocabulary) -> list[bytes]:
    """The character n-grams of `<word>`, but for the brackets alone."""
    if vocabulary.max_chars < 1:
        return []
    bracketed = b"<" + word + b">"
    # a character begins at every byte that continues none
    begins = [place for place, byte in enumerate(bracketed) if byte & 0xC0 != 0x80] + [len(bracketed)]
    ngrams = []
    for first in range(len(begins) - 1):
        for length in range(1, min(vocabulary.max_chars, len(begins) - 1 - first) + 1):
            is_bracket = length == 1 and (begins[first] == 0 or begins[first + 1] == len(bracketed))
            if length >= vocabulary.min_chars and not is_bracket:
                ngrams.append(bracketed[begins[first] : begins[first + length]])
    return ngrams


def word_ngram_hashes(hashes: Sequence[int], word_ngrams: int) -> list[int]:
    """The 64-bit hashes of all n-grams of 2 to `word_ngrams` words with these hashes."""
    signed = [value if value < 2**31 else value - 2**32 for value in hashes]
    found = []
    for first, value in enumerate(signed):
        for following in signed[first + 1 : first + word_ngrams]:
            value = (value * NGRAM_MULTIPLIER + following) & _MASK64
            found.append(value)
    return found


def _rows_of_buckets(vocabulary: Vocabulary, hashes: Iterable[int]) -> list[int]:
    buckets = [value % vocabulary.num_buckets for value in hashes]
    if vocabulary.kept.size:
        buckets = [int(vocabulary.kept[bucket]) for bucket in buckets if vocabulary.kept[bucket] >= 0]
    return [vocabulary.num_words + bucket for bucket in buckets]
