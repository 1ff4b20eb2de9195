"""The keyed permutation: a bijection for every size, and random enough to shuffle with."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.data.permutation import ALGORITHM, TABLE_LIMIT, Permutation, derive_key


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 3 * TABLE_LIMIT), key=st.binary(max_size=8))
def test_every_index_has_exactly_one_image(n: int, key: bytes):
    assert np.array_equal(np.sort(Permutation(n, key)(np.arange(n))), np.arange(n))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(TABLE_LIMIT + 1, 1 << 62), key=st.binary(max_size=8), first=st.integers(0, 1 << 61))
def test_images_of_a_huge_range_are_distinct_and_inside_it(n: int, key: bytes, first: int):
    images = Permutation(n, key)(first % (n - 1000) + np.arange(1000) if n > 1000 else np.arange(n))
    assert images.min() >= 0 and images.max() < n
    assert np.unique(images).size == images.size


@pytest.mark.parametrize("n", [100, 12_345])
def test_an_image_does_not_depend_on_what_else_is_asked(n: int):
    permutation = Permutation(n, b"key")
    whole = permutation(np.arange(n))
    assert [int(permutation(np.array(i))) for i in (0, 7, n - 1)] == whole[[0, 7, n - 1]].tolist()
    assert np.array_equal(permutation(np.arange(24).reshape(4, 6)), whole[:24].reshape(4, 6))


@pytest.mark.parametrize("bits", [13, 20, 33])
def test_flipping_any_input_bit_flips_every_output_bit_half_the_time(bits: int):
    # 4096 samples a pair of bits: 0.06 is more than seven standard errors, over at most 33 * 33 pairs and 3 keys
    rng = np.random.default_rng(bits)
    for key in (b"one", b"two", b"three"):
        permutation = Permutation(1 << bits, key)
        x = rng.integers(0, 1 << bits, size=4096)
        images = permutation(x)
        for bit in range(bits):
            changed = images ^ permutation(x ^ (1 << bit))
            rates = [((changed >> out) & 1).mean() for out in range(bits)]
            assert min(rates) > 0.44 and max(rates) < 0.56, f"input bit {bit}: {rates}"


def test_one_bit_of_the_seed_changes_the_whole_order():
    n = 1 << 20
    first = np.arange(4096)
    one, two = (Permutation(n, derive_key("epoch", seed, "web", 0))(first) for seed in (6, 7))
    assert (one == two).sum() < 5
    flips = [(((one ^ two) >> bit) & 1).mean() for bit in range(20)]
    assert min(flips) > 0.44 and max(flips) < 0.56


def chi_square_score(counts: np.ndarray) -> float:
    """How many standard deviations the chi-square statistic of equal cells lies from its mean."""
    expected, cells = counts.mean(), counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - cells) / math.sqrt(2 * cells)


@pytest.mark.parametrize("n", [5_000, 1 << 20, 1_000_003, (1 << 40) + 12_345])
def test_a_prefix_of_the_order_is_spread_evenly(n: int):
    scores = []
    for key in range(20):
        images = Permutation(n, derive_key(key))(np.arange(min(n // 2, 20_000)))
        scores.append(chi_square_score(np.bincount(images * 50 // n, minlength=50)))
        neighbours = (images[1:] - images[:-1]) % n
        scores.append(chi_square_score(np.bincount(neighbours * 50 // n, minlength=50)))
        scores.append(chi_square_score(np.bincount(images % 7, minlength=7)))
    assert max(scores) < 6, "a cell is too full or too empty"


def test_consecutive_rows_are_neither_all_odd_nor_alternating():
    parities = np.stack([Permutation(1 << 20, derive_key(key))(np.arange(32)) % 2 for key in range(400)])
    assert np.abs(parities.mean(axis=0) - 0.5).max() < 0.15  # by place: six standard errors
    assert parities.sum(axis=1).min() > 4 and parities.sum(axis=1).max() < 28  # by key


def test_every_order_of_four_items_is_equally_likely():
    orders = [tuple(Permutation(4, derive_key(key))(np.arange(4)).tolist()) for key in range(4800)]
    counts = np.unique(np.array(orders), axis=0, return_counts=True)[1]
    assert counts.size == 24 and chi_square_score(counts) < 5


def test_the_algorithm_is_what_its_name_says_for_ever():
    """Changing an output under the same name would reorder the data of every run that resumes."""
    assert ALGORITHM == "marin-permutation-v1"
    key = derive_key("epoch", 17, "web", 3)
    assert key.hex()[:16] == GOLDEN_KEY
    assert {n: Permutation(n, key)(np.arange(6)).tolist() for n in GOLDEN} == GOLDEN


GOLDEN_KEY = "233fa7b6eb403e5c"
GOLDEN = {
    10: [6, 0, 4, 9, 2, 7],
    4096: [1197, 1892, 3320, 365, 1123, 772],
    4097: [3607, 2126, 2129, 1749, 1326, 3377],
    1048576: [940519, 463347, 58467, 168067, 791437, 323011],
    1000000000000: [674020636686, 188121653671, 630869113577, 907067447057, 565587867554, 116499264917],
}


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_outside_the_range_is_refused(index: int):
    with pytest.raises(IndexError, match=r"outside 0\.\.9"):
        Permutation(10, b"key")(np.array([index]))


def test_a_permutation_of_nothing_is_refused():
    with pytest.raises(ValueError, match="permutation of 0 items"):
        Permutation(0, b"key")
