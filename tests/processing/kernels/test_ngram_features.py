"""The features of a text are fastText's, and the fast path finds the same ones as the definition."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from marin.processing.classify.linear import text_buffers
from marin.processing.kernels.fnv import fnv1a
from marin.processing.kernels.ngram_features import count_rows, sum_rows
from marin.processing.kernels.ngram_features_reference import (
    character_ngrams,
    feature_rows,
    split_words,
    word_ngram_hashes,
)
from marin.processing.kernels.vocabulary import Vocabulary, make_vocabulary

NUM_BUCKETS = 97
WORDS = [b"a", b"ab", b"</s>", "é".encode(), b"<"]
LABELS = [b"__label__x", b"b"]

PIECES = [
    "a",
    "b",
    "ab",
    "é",
    "日本",
    "😀",
    " ",
    "\n",
    "\0",
    "\x0b",
    "\x01",
    "_",
    "</s>",
    "__label__",
    "__label__x",
    "<",
    ">",
]
texts = st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=40)


def vocabulary(*, word_ngrams: int = 1, min_chars: int = 0, max_chars: int = 0, is_pruned: bool = False) -> Vocabulary:
    kept = None
    if is_pruned:
        kept = np.full(NUM_BUCKETS, -1, np.int32)
        kept[::3] = np.arange(len(kept[::3]))[::-1]
    return make_vocabulary(
        WORDS,
        labels=LABELS,
        num_buckets=NUM_BUCKETS,
        word_ngrams=word_ngrams,
        min_chars=min_chars,
        max_chars=max_chars,
        kept=kept,
    )


SHAPES = [
    {},
    {"word_ngrams": 2},
    {"word_ngrams": 4, "is_pruned": True},
    {"min_chars": 1, "max_chars": 3},
    {"min_chars": 2, "max_chars": 4, "is_pruned": True},
    {"word_ngrams": 3, "min_chars": 3, "max_chars": 6},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@settings(max_examples=60)
@given(st.lists(texts, min_size=1, max_size=5))
def test_the_fast_path_sums_the_rows_of_the_definition(shape: dict, given_texts: list[str]):
    found = vocabulary(**shape)
    matrix = np.random.default_rng(0).integers(-8, 8, (found.num_rows, 3)).astype(np.float32)
    data, offsets = text_buffers([text.encode("utf-8", "surrogatepass") for text in given_texts])
    sums, counts = sum_rows(data, offsets, found, matrix)
    expected = [feature_rows(text.encode("utf-8", "surrogatepass"), found) for text in given_texts]
    assert counts.tolist() == [len(rows) for rows in expected]
    # small whole numbers, so that the order of summing does not matter
    assert sums.tolist() == [matrix[rows].sum(axis=0).tolist() if rows else [0.0] * 3 for rows in expected]
    one, _ = sum_rows(data, offsets, found, np.ascontiguousarray(matrix[:, :1]))
    assert one[:, 0].tolist() == sums[:, 0].tolist()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_text_longer_than_a_block_has_the_features_of_the_definition(shape: dict):
    found = vocabulary(**shape)
    long_text = ("a ab é __label__x zyx </s>x " * 3000).encode()
    one_word = b"a" * 30_000
    matrix = np.ones((found.num_rows, 1), np.float32)
    data, offsets = text_buffers([long_text, one_word])
    sums, counts = sum_rows(data, offsets, found, matrix)
    expected = [len(feature_rows(text, found)) for text in (long_text, one_word)]
    assert counts.tolist() == expected
    assert sums[:, 0].tolist() == expected
    assert count_rows(data, offsets, found).tolist() == expected


def test_hashes_are_those_of_fasttext():
    # FNV-1a of ASCII text is the published one (http://www.isthe.com/chongo/tech/comp/fnv: "foobar" is 0xbf9cf968)
    assert fnv1a(b"foobar") == 0xBF9CF968
    assert fnv1a(b"") == 2166136261
    # a byte above 127 is negative to fastText, so its upper bits take part
    assert fnv1a(b"\xe9") == ((2166136261 ^ 0xFFFFFFE9) * 16777619) % 2**32


def test_hashes_of_word_ngrams_take_word_hashes_as_signed():
    assert word_ngram_hashes([2, 3, 5], 2) == [2 * 116049371 + 3, 3 * 116049371 + 5]
    assert word_ngram_hashes([2, 3, 5], 3)[1] == (2 * 116049371 + 3) * 116049371 + 5
    assert word_ngram_hashes([2**32 - 1, 0], 2) == [(-116049371) % 2**64]


def test_words_end_at_ascii_white_space_and_the_text_at_its_end_mark():
    assert split_words("a\tb\x0bc\x0cd\re\nf\0g\x01h\u00a0i".encode()) == [
        *(b"a", b"b", b"c", b"d", b"e", b"f"),
        "g\x01h\u00a0i".encode(),
        b"</s>",
    ]
    assert split_words(b"a </s> b") == [b"a", b"</s>"]
    assert split_words(b"") == [b"</s>"]


def test_character_ngrams_are_of_whole_characters_and_never_a_bracket_alone():
    assert character_ngrams("éa".encode(), vocabulary(min_chars=1, max_chars=2)) == [
        *(b"<\xc3\xa9", b"\xc3\xa9", b"\xc3\xa9a", b"a", b"a>"),
    ]


def test_labels_are_no_features():
    found = vocabulary(word_ngrams=2)
    assert feature_rows(b"a __label__x b __label__unknown ab", found) == feature_rows(b"a ab", found)


def test_ngrams_without_buckets_are_refused():
    with pytest.raises(ValueError, match="num_buckets is 0; n-grams of words or characters need at least one bucket"):
        make_vocabulary([b"a"], num_buckets=0, word_ngrams=2)
