"""Signatures estimate similarity, bands find what is similar, and only what resembles something kept is removed."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin.processing.kernels import minhash
from marin.processing.kernels.minhash import Compared, hash_family, signature_of

HASHES = st.integers(0, 2**64 - 1)


@given(st.lists(st.lists(HASHES, max_size=12), min_size=1, max_size=5), st.integers(1, 6), st.integers(1, 20))
def test_signatures_are_those_of_the_definition(texts: list[list[int]], n: int, num_hashes: int):
    family = hash_family(num_hashes, seed=3)
    words = np.array([word for text in texts for word in text], np.uint64)
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    found = minhash.signatures(words, offsets, n, family)
    for i, text in enumerate(texts):
        expected = signature_of(minhash.shingles(np.array(text, np.uint64), n), family)
        assert found[i].tolist() == expected.tolist()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30), st.randoms())
def test_a_signature_does_not_depend_on_the_order_or_number_of_equal_shingles(shingles: list[int], random):
    family = hash_family(16, seed=1)
    other = shingles + random.choices(shingles, k=5)
    random.shuffle(other)
    first, second = (signature_of(np.array(s, np.uint32), family) for s in (shingles, other))
    assert first.tolist() == second.tolist()


def test_the_family_is_the_same_on_every_machine():
    # the first values of SplitMix64 from seed 0, as its authors publish them
    family = hash_family(1, seed=0)
    assert [int(family.multipliers[0]), int(family.increments[0])] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def similar_pairs(similarity: float, num_pairs: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of sets of shingles whose Jaccard similarity is exactly this multiple of 1/20."""
    total = 200
    common = round(similarity * total)
    rest = (total - common) // 2
    pairs = []
    for _ in range(num_pairs):
        drawn = rng.integers(0, 2**32, 2 * total, dtype=np.uint32)
        drawn = np.unique(drawn)[:total]
        rng.shuffle(drawn)
        pairs.append((drawn[: common + rest], np.concatenate([drawn[:common], drawn[common + rest :]])))
    return pairs


@pytest.mark.parametrize("similarity", [0.5, 0.6, 0.7, 0.8, 0.9])
def test_pairs_share_a_band_as_often_as_the_formula_says(similarity: float):
    num_pairs, num_bands, rows = 1500, 14, 8
    rng = np.random.default_rng(int(similarity * 100))
    family = hash_family(num_bands * rows, seed=1)
    together = estimate = 0.0
    for a, b in similar_pairs(similarity, num_pairs, rng):
        signatures = np.stack([signature_of(a, family), signature_of(b, family)])
        bands = minhash.band_hashes(signatures, num_bands)
        together += (bands[0] == bands[1]).any()
        estimate += (signatures[0] == signatures[1]).mean()
    expected = 1 - (1 - similarity**rows) ** num_bands
    # five standard errors of a share of so many pairs: one run in a million fails by chance
    assert abs(together / num_pairs - expected) < 5 * math.sqrt(expected * (1 - expected) / num_pairs)
    error_of_one = math.sqrt(similarity * (1 - similarity) / (num_bands * rows))
    assert abs(estimate / num_pairs - similarity) < 5 * error_of_one / math.sqrt(num_pairs)


@given(st.lists(st.lists(st.integers(0, 40), max_size=25), min_size=2, max_size=8), st.integers(1, 30))
def test_exact_measures_are_those_of_the_definition(sets: list[list[int]], most: int):
    spread = [np.array(s, np.uint32) * np.uint32(100_000_007) for s in sets]
    kept = [minhash.kept_shingles(s, most) for s in spread]
    compared = Compared(
        signatures=np.zeros((len(sets), 1), np.uint32),
        shingles=np.concatenate([k for k, _ in kept]),
        offsets=np.concatenate([[0], np.cumsum([len(k) for k, _ in kept])]).astype(np.int64),
        bounds=np.array([bound for _, bound in kept], np.int64),
    )
    for measure in ("jaccard", "containment"):
        links, similarity, _ = minhash.link_to_leaders(
            np.zeros(2, np.uint64), np.array([0, 1]), compared, measure, 1e-9, 4
        )
        (leader, bound_b), (member, bound_a) = kept[0], kept[1]
        expected = getattr(minhash, measure)(member, leader, min(bound_a, bound_b))
        assert (similarity.tolist() or [0.0])[0] == pytest.approx(expected, abs=1e-6)
        assert len(links) == (expected > 0)


def test_a_sample_of_shingles_tells_the_similarity_of_all():
    rng = np.random.default_rng(0)
    a, b = (np.unique(s) for s in similar_pairs(0.8, 1, rng)[0])
    many_a = np.unique((a[:, None].astype(np.uint64) * np.arange(1, 400, 2, dtype=np.uint64)).astype(np.uint32))
    many_b = np.unique((b[:, None].astype(np.uint64) * np.arange(1, 400, 2, dtype=np.uint64)).astype(np.uint32))
    exact = minhash.jaccard(many_a, many_b)
    (kept_a, bound_a), (kept_b, bound_b) = (minhash.kept_shingles(s, 2000) for s in (many_a, many_b))
    sampled = minhash.jaccard(kept_a, kept_b, min(bound_a, bound_b))
    assert len(kept_a) == len(kept_b) == 2000
    assert abs(sampled - exact) < 5 * math.sqrt(exact * (1 - exact) / 2000)


def test_a_bucket_of_equal_texts_is_linked_to_its_first_alone():
    count = 20_000
    compared = Compared.by_signature(np.zeros((count, 8), np.uint32))
    links, similarity, leaders = minhash.link_to_leaders(
        np.zeros(count, np.uint64), np.arange(count), compared, "signature", 0.7, 16
    )
    assert links[:, 0].tolist() == list(range(1, count))
    assert set(links[:, 1].tolist()) == {0}
    assert set(similarity.tolist()) == {1.0}
    assert np.flatnonzero(leaders).tolist() == [0]


def test_a_bucket_of_different_texts_has_no_more_leaders_than_it_may():
    compared = Compared.by_signature(np.arange(800, dtype=np.uint32).reshape(100, 8))
    links, _, leaders = minhash.link_to_leaders(
        np.zeros(100, np.uint64), np.arange(100), compared, "signature", 0.7, 16
    )
    assert not len(links)
    assert np.flatnonzero(leaders).tolist() == list(range(16))


@given(
    st.integers(2, 30).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=60))
    )
)
def test_what_is_removed_resembles_something_kept_and_what_is_kept_resembles_nothing_kept_before(case):
    count, pairs = case
    links = sorted({(max(pair), min(pair)) for pair in pairs if pair[0] != pair[1]})
    members, canonicals = (np.array([link[k] for link in links], np.int64) for k in (0, 1))
    bits = np.zeros(count // 8 + 1, np.uint8)
    chosen = minhash.resolve(members, canonicals, bits)
    removed = {i for i in range(count) if bits[i >> 3] >> (i & 7) & 1}
    assert {int(m) for m in members[chosen]} == removed
    assert len(members[chosen]) == len(removed)
    for member, canonical, is_chosen in zip(members.tolist(), canonicals.tolist(), chosen.tolist(), strict=True):
        assert not is_chosen or (member in removed and canonical not in removed)
        assert member in removed or canonical in removed
