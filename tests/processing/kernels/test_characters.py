"""The tables of characters say what Python says of each character."""

import unicodedata

import numpy as np
import pytest

from marin.processing.kernels import characters
from marin.processing.kernels.characters import character_classes
from marin.processing.kernels.normalized_words import hash_word, normalize, words_of

# every code point that is assigned in some Unicode stands in the first part or is an ideograph; of those some
SOME = [*range(0, 0x20000, 5), *range(0x20000, 0x110000, 997), *range(0xE0000, 0xE1000, 3)]


@pytest.mark.parametrize(
    ("bit", "belongs"),
    [
        (characters.SPACE, str.isspace),
        (characters.ALPHA, str.isalpha),
        (characters.UPPER, str.isupper),
        (characters.LOWER, str.islower),
        (characters.DIGIT, str.isdigit),
        (characters.DECIMAL, str.isdecimal),
        (characters.WORD, lambda one: one.isalnum() or unicodedata.category(one) in ("Mn", "Mc", "Me", "Pc")),
    ],
)
def test_a_class_has_the_characters_of_which_str_says_so(bit: int, belongs):
    table = character_classes()
    assert [bool(table[point] & bit) for point in SOME] == [belongs(chr(point)) for point in SOME]


def test_characters_become_the_words_of_the_definition():
    text = "".join(f"a{chr(point)}b" for point in SOME if not 0xD800 <= point < 0xE000)
    data = np.frombuffer(text.encode(), np.uint8)
    words = words_of(data, np.array([0, len(data)]))
    assert words.hashes.tolist() == [hash_word(word) for word in normalize(text)]
