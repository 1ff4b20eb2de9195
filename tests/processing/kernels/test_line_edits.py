"""The compiled line edits are those of the plain Python beside them, of any text."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from marin.processing.kernels.c4_lines import C4_COUNTS, POLICY_PHRASES, c4_lines
from marin.processing.kernels.line_edits import COUNTED, DCLM_COUNTS, dclm_lines
from marin.processing.kernels.line_edits_reference import c4_lines_reference, dclm_lines_reference, num_sentences


def edited(edit: Callable, names: tuple[str, ...], texts: list[str], **options) -> list[tuple[str, dict[str, int]]]:
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    result = edit(np.frombuffer(b"".join(encoded), np.uint8), offsets, **options)
    data = result.data.tobytes()
    kept = [data[result.offsets[i] : result.offsets[i + 1]].decode() for i in range(len(texts))]
    return [(text, dict(zip(names, row.tolist(), strict=True))) for text, row in zip(kept, result.counts, strict=True)]


pieces = st.lists(
    st.sampled_from(
        [
            *(
                "a",
                "the",
                "The",
                "Ab",
                "J",
                "3",
                "12,5K",
                "١٢",
                "²",
                "é",
                "東",
                ".",
                "...",
                "?",
                '"',
                ")",
                "\u0301",
                "_",
            ),
            *(
                " ",
                " ",
                " ",
                "\n",
                "\r\n",
                "\u2028",
                "\t",
                "[",
                "]",
                "[1]",
                "[edit]",
                "[citation needed]",
                "{",
                "x" * 30,
            ),
            *(
                "Lorem Ipsum",
                "JavaScript",
                "coo\u212aie policy",
                "İ",
                "ı",
                "items in cart",
                "ITEMS IN CART",
                "Read more...",
            ),
            *("Sign-in", "likes", "\u212a", *POLICY_PHRASES, *COUNTED),
        ]
    ),
    max_size=40,
).map("".join)


@settings(max_examples=300)
@given(st.lists(st.text() | pieces, max_size=3), st.booleans(), st.booleans(), st.integers(0, 4))
@example(["", "\n", "a  items in cartitems in cart\nread more...", "x"], False, True, 0)
def test_c4_lines_equal_the_reference(texts: list[str], terminal: bool, citations: bool, min_words: int):
    options = {
        "terminal_punctuation": terminal,
        "remove_citations": citations,
        "min_words": min_words,
        "max_word_chars": 20,
    }
    expected = [c4_lines_reference(text, **options) for text in texts]
    assert edited(c4_lines, C4_COUNTS, texts, **options) == expected


@settings(max_examples=300)
@given(st.lists(st.text() | pieces, max_size=3), st.integers(0, 3))
@example(["a  items in cartitems in cart b\nread more...", "1.2k likes!", "", "\nSign-in now"], 0)
def test_dclm_lines_equal_the_reference(texts: list[str], min_words: int):
    expected = [dclm_lines_reference(text, min_words=min_words) for text in texts]
    assert edited(dclm_lines, DCLM_COUNTS, texts, min_words=min_words) == expected


@pytest.mark.parametrize(
    ("edit", "reference", "names"),
    [(c4_lines, c4_lines_reference, C4_COUNTS), (dclm_lines, dclm_lines_reference, DCLM_COUNTS)],
)
def test_edits_equal_the_reference_on_real_text(shared_data: Path, edit: Callable, reference: Callable, names: tuple):
    texts = [path.read_text(encoding="utf-8") for path in sorted((shared_data / "text" / "peps").glob("*.rst"))[::8]]
    texts += (shared_data / "text" / "wikitext2_test.txt").read_text(encoding="utf-8").split("\n = ")
    found = edited(edit, names, texts)
    assert found == [reference(text) for text in texts]
    assert any(text for text, _ in found)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", 0),
        ("One. Two? Three! Four", 4),
        ('He said "yes." Then he left.', 2),
        ("J. Smith wrote it.", 1),
        ("See fig. no 3 of it.", 1),  # a small letter follows
        ("Version 3.11 is out.", 1),
        ("Why?! Because...", 2),
        ("東京です。大阪です。", 1),  # no space behind the first: not cut, as in English
    ],
)
def test_sentences_of_a_line(line: str, expected: int):
    assert num_sentences(line) == expected
