"""The compiled signals are those of the plain Python beside them, of any text."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from marin.processing.kernels.text_signals import SIGNALS, text_signals
from marin.processing.kernels.text_signals_reference import text_signals_reference


def packed(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Texts as one array of bytes and where each begins."""
    encoded = [text.encode() for text in texts]
    data = np.frombuffer(b"".join(encoded), np.uint8)
    return data, np.cumsum([0, *map(len, encoded)]).astype(np.int64)


def assert_equal_to_reference(texts: list[str], *, unicode_words: bool) -> None:
    found = text_signals(*packed(texts), unicode_words=unicode_words)
    for text, row in zip(texts, found, strict=True):
        expected = text_signals_reference(text, unicode_words=unicode_words)
        assert dict(zip(SIGNALS, row.tolist(), strict=True)) == expected, repr(text[:200])


# Few characters, so that lines, paragraphs and n-grams repeat; of those that any rule looks at.
repetitive = st.lists(
    st.sampled_from(
        ["the", "be", "to", "a", "...", "…", ".", "#", "-", "•", "é", "東京", "_", " ", " ", "\n", "\n\n", "\r\n"]
    ),
    max_size=120,
).map("".join)


@settings(max_examples=200)
@given(st.lists(st.text() | repetitive, max_size=4), st.booleans())
@example([""], False)
@example(["\n"], False)
@example(["\n\n\n"], True)
@example([" \u2028\x1c\r\n "], False)
@example(["x", "", "\n x \n"], True)
@example(["x" * 5000, "y y " * 3000, "a\n" * 3000], False)
def test_signals_equal_the_reference(texts: list[str], unicode_words: bool):
    assert_equal_to_reference(texts, unicode_words=unicode_words)


@pytest.mark.parametrize("unicode_words", [False, True])
def test_signals_equal_the_reference_on_real_text(shared_data: Path, unicode_words: bool):
    texts = [path.read_text(encoding="utf-8") for path in sorted((shared_data / "text" / "peps").glob("*.rst"))[::12]]
    texts += (shared_data / "text" / "wikitext2_test.txt").read_text(encoding="utf-8").split("\n = ")[:100]
    assert_equal_to_reference(texts, unicode_words=unicode_words)


def test_a_text_has_the_same_signals_in_whatever_company():
    texts = ["one two three " * 40, "", "été — 東京\n" * 9, "a b c d e f " * 500]
    together = text_signals(*packed(texts))
    assert all(np.array_equal(text_signals(*packed([text]))[0], row) for text, row in zip(texts, together, strict=True))
    # more sets of hashes than there are stamps: the table is emptied on the way
    many = text_signals(*packed(texts * 2000))
    assert np.array_equal(many.reshape(2000, *together.shape), np.broadcast_to(together, (2000, *together.shape)))


def test_unicode_words_take_punctuation_and_ideographs_one_by_one():
    from marin.processing.kernels.text_signals_reference import unicode_word_split

    assert unicode_word_split("It's snake_case, 3.5 東京タ été!") == (
        ["It", "'", "s", "snake_case", ",", "3", ".", "5", "東", "京", "タ", "été", "!"]
    )
