"""Words and their hashes: one pass over bytes gives what the plain definition gives."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin.processing.kernels.normalized_words import hash_word, normalize, words_of

# what tables and widths of UTF-8 treat differently, more often than chance would bring it
ODD = "aZß09 \n.,'_-\u00e9\u0301\u00ad\u200d\u0130\u03a3\u01c4\u4e2d\u3042\u0e01\u1100\uac00\u0660\u2155\ufb01"
ODD += "\U0001d7d8\U0002f800\U00020000\U000e0001\U0010fffd"
TEXTS = st.one_of(st.text(max_size=60), st.text(alphabet=ODD, max_size=60))


def buffer(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    parts = [text.encode("utf-8") for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return np.frombuffer(b"".join(parts), np.uint8), offsets


@given(st.lists(TEXTS.map(lambda t: t.encode("utf-8", "ignore").decode("utf-8")), min_size=1, max_size=4))
def test_the_pass_over_bytes_gives_the_hashes_of_the_definition(texts: list[str]):
    words = words_of(*buffer(texts))
    for i, text in enumerate(texts):
        found = words.hashes[words.offsets[i] : words.offsets[i + 1]].tolist()
        assert found == [hash_word(word) for word in normalize(text)]


@given(TEXTS.map(lambda t: t.encode("utf-8", "ignore").decode("utf-8")))
def test_a_span_is_the_word_as_it_stands_in_the_text(text: str):
    data, offsets = buffer([text])
    words = words_of(data, offsets, spans=True)
    for value, start, end in zip(words.hashes, words.starts, words.ends, strict=True):
        spelled = normalize(data[start:end].tobytes().decode("utf-8"))
        assert [hash_word(word) for word in spelled] == [value]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The QUICK, brown fox!", ["the", "quick", "brown", "fox"]),
        ("in 1984 and 3.14", ["in", "0", "and", "0", "0"]),
        ("r2d2 x10y", ["r0d0", "x0y"]),
        ("Café naïve Å", ["cafe", "naive", "a"]),
        ("soft\u00adhyphen zero\u200dwidth", ["softhyphen", "zerowidth"]),
        ("don't e-mail", ["don", "t", "e", "mail"]),
        ("他说hello世界", ["他", "说", "hello", "世", "界"]),
        ("", []),
        (" \n\t. ", []),
    ],
)
def test_words_are_normalised(text: str, words: list[str]):
    assert normalize(text) == words


def test_texts_that_differ_in_case_accents_numbers_and_punctuation_have_the_same_words():
    first = "Résumé: 12 pages, of the year 2020."
    second = "resume 7   PAGES - of the\nyear (1999)"
    data, offsets = buffer([first, second])
    words = words_of(data, offsets)
    assert words.hashes[: words.offsets[1]].tolist() == words.hashes[words.offsets[1] :].tolist()


@pytest.mark.parametrize(("word", "has_letter"), [("0", False), ("a0", True), ("中", True), ("é", True), ("٣", False)])
def test_the_lowest_bit_tells_of_letters(word: str, has_letter: bool):
    assert words_of(*buffer([word])).hashes[0] & np.uint64(1) == has_letter


@given(st.binary(max_size=40))
def test_bytes_that_are_no_utf8_are_read_within_their_bounds(data: bytes):
    words = words_of(np.frombuffer(data, np.uint8), np.array([0, len(data)], np.int64), spans=True)
    assert (words.ends <= len(data)).all()
    assert (words.starts < words.ends).all()


def test_real_text_has_the_words_of_the_definition(shared_data: Path):
    files = sorted((shared_data / "text" / "peps").glob("*.rst"))[::40]
    texts = [file.read_text(encoding="utf-8") for file in files]
    texts += [file.read_text(encoding="utf-8") for file in sorted((shared_data / "html/trafilatura/eval").glob("*zh*"))]
    words = words_of(*buffer(texts))
    for i, text in enumerate(texts):
        found = words.hashes[words.offsets[i] : words.offsets[i + 1]].tolist()
        assert found == [hash_word(word) for word in normalize(text)]
