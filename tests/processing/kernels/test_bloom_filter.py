"""The filter has the false positive rate that it was sized for, and no false negatives."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin.processing.kernels import bloom
from marin.processing.kernels.bloom import BloomFilter


@pytest.mark.parametrize("rate", [0.1, 0.01, 0.001])
def test_the_false_positive_rate_is_the_one_promised(rate: float):
    num_units, num_asked = 50_000, 400_000
    units = np.unique(np.random.default_rng(1).integers(0, 2**64, num_units + num_asked, dtype=np.uint64))
    np.random.default_rng(2).shuffle(units)
    seen = BloomFilter.sized(num_units, rate)
    seen.add(units[:num_units])
    found = seen.contains(units[num_units:]).mean()
    asked = len(units) - num_units
    # a whole number of probes is not quite the best one, so a twentieth above the formula; then five standard errors
    assert found < 1.05 * rate + 5 * math.sqrt(rate / asked)
    assert found > rate / 2
    assert seen.contains(units[:num_units]).all()


def test_units_differ_in_which_bits_they_read():
    # a filter once masked its hashes by its size instead of reducing them, and read two bits in all
    seen = BloomFilter.sized(1000, 0.01)
    read = {probe for unit in range(1, 200) for probe in seen.probes(unit)}
    num_probes = 199 * seen.num_probes
    num_bits = 64 * len(seen.bits)
    expected = num_bits * (1 - (1 - 1 / num_bits) ** num_probes)
    assert len(read) == pytest.approx(expected, rel=0.05)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30, unique=True))
def test_the_bits_set_are_those_of_the_definition(units: list[int]):
    seen = BloomFilter.sized(40, 0.05)
    seen.add(np.array(units, np.uint64))
    expected = {probe for unit in units for probe in seen.probes(unit)}
    found = {(word, bit) for word in range(len(seen.bits)) for bit in range(64) if int(seen.bits[word]) >> bit & 1}
    assert found == expected


def test_a_filter_that_is_too_large_says_how_large():
    with pytest.raises(ValueError, match=r"takes \d+\.\d GB; this filter has at most 34\.4 GB"):
        BloomFilter.sized(10**11, 0.001)


DOCUMENTS = st.lists(st.lists(st.lists(st.integers(0, 12), max_size=6), max_size=4), max_size=6)


@given(DOCUMENTS, st.sampled_from([0.0, 0.5, 0.8]))
def test_what_is_dropped_is_what_the_rule_drops(documents: list[list[list[int]]], threshold: float):
    paragraphs = [paragraph for document in documents for paragraph in document]
    units = np.array([unit for paragraph in paragraphs for unit in paragraph], np.uint64)
    paragraph_offsets = np.concatenate([[0], np.cumsum([len(p) for p in paragraphs])]).astype(np.int64)
    document_offsets = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype(np.int64)
    # so large a filter takes nothing for seen that was not
    contained, dropped = bloom.drop_seen(
        units, paragraph_offsets, document_offsets, BloomFilter.sized(100_000, 1e-6), threshold
    )
    seen: set[int] = set()
    expected_contained, expected_dropped = [], []
    for document in documents:
        total = before = 0
        for paragraph in document:
            known = sum(unit in seen for unit in paragraph)
            expected_contained.append(known)
            total, before = total + len(paragraph), before + known
            if known <= threshold * len(paragraph):
                seen.update(paragraph)
        expected_dropped.append(before > threshold * total)
    assert contained.tolist() == expected_contained
    assert dropped.tolist() == expected_dropped


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_the_hash_of_a_span_is_that_of_its_bytes(parts: list[bytes]):
    bounds = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    data = np.frombuffer(b"".join(parts), np.uint8)
    assert bloom.hash_spans(data, bounds[:-1], bounds[1:]).tolist() == [bloom.hash_bytes(part) for part in parts]
