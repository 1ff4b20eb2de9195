"""n-grams, and which of them are in a set, are those of the plain definition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marin.processing.kernels.ngrams import HashSet, find_ngrams, hash_ngrams, ngram_hash

# few different words, so that n-grams meet; even ones have no letter
PARAGRAPHS = st.lists(st.lists(st.integers(0, 5), max_size=14), min_size=1, max_size=5)


def flat(paragraphs: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    words = np.array([word for paragraph in paragraphs for word in paragraph], np.uint64)
    return words, np.concatenate([[0], np.cumsum([len(p) for p in paragraphs])]).astype(np.int64)


@given(PARAGRAPHS, st.integers(1, 6))
def test_hashes_of_ngrams_are_those_of_their_words(paragraphs: list[list[int]], n: int):
    hashes, offsets = hash_ngrams(*flat(paragraphs), n)
    for i, paragraph in enumerate(paragraphs):
        expected = [ngram_hash(paragraph[j : j + n]) for j in range(len(paragraph) - n + 1)]
        assert hashes[offsets[i] : offsets[i + 1]].tolist() == expected


@given(PARAGRAPHS, PARAGRAPHS, st.integers(2, 6), st.integers(1, 3))
def test_ngrams_are_found_where_they_are(paragraphs, known_texts, n: int, shortest: int):
    shortest = min(shortest, n)

    def ngrams(paragraph: list[int]) -> list[tuple[int, ...]]:
        length = min(len(paragraph), n)
        if length < shortest:
            return []
        found = [tuple(paragraph[j : j + length]) for j in range(len(paragraph) - length + 1)]
        return [ngram for ngram in found if any(word & 1 for word in ngram)]

    known = sorted({ngram_hash(list(ngram)) for text in known_texts for ngram in ngrams(text)})
    found = find_ngrams(*flat(paragraphs), n, shortest, HashSet.of(np.array(known, np.uint64)))
    assert found.num_ngrams.tolist() == [len(ngrams(p)) for p in paragraphs]
    hit = [[ngram_hash(list(ngram)) in known for ngram in ngrams(p)] for p in paragraphs]
    assert found.num_found.tolist() == [sum(of) for of in hit]
    words, _ = flat(paragraphs)
    for word, index in zip(found.words, found.indices, strict=True):
        lengths = {ngram_hash(words[word : word + length].tolist()) for length in range(1, n + 1)}
        assert known[index] in lengths


@given(st.sets(st.integers(1, 2**64 - 1), max_size=200), st.lists(st.integers(1, 2**64 - 1), max_size=50))
def test_a_set_finds_its_own_and_nothing_else(own: set[int], others: list[int]):
    keys = np.array(sorted(own), np.uint64)
    table = HashSet.of(keys)
    assert table.find(keys).tolist() == list(range(len(keys)))
    expected = [sorted(own).index(other) if other in own else -1 for other in others]
    assert table.find(np.array(others, np.uint64)).tolist() == expected
