"""The mixture: exact counts in every block, every row once an epoch, each position a pure function."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.data.dataset import RowDataset, row_dataset
from marin.data.mixture import Mixture, block_counts
from marin.testing.tiny import make_token_store


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, RowDataset]:
    """Three sources of different sizes."""
    folder = tmp_path_factory.mktemp("sources")
    sizes = {"web": 40, "code": 9, "books": 20}
    return {
        name: row_dataset(make_token_store(folder / name, size, seed=seed), 16, "concatenate")
        for seed, (name, size) in enumerate(sizes.items())
    }


WEIGHTS = {"web": 0.61, "code": 0.14, "books": 0.25}


@settings(max_examples=100, deadline=None)
@given(weights=st.lists(st.integers(1, 1000), min_size=1, max_size=6), block_size=st.integers(1, 4096))
def test_counts_of_a_block_are_the_shares_to_within_one_row_and_sum_to_the_block(weights, block_size: int):
    named = {f"s{i}": float(weight) for i, weight in enumerate(weights)}
    try:
        counts = block_counts(named, block_size)
    except ValueError as error:
        assert "is no row in a block" in str(error)
        return
    assert sum(counts.values()) == block_size
    for name, weight in named.items():
        assert abs(counts[name] - weight / sum(weights) * block_size) < 1


def test_the_rows_left_over_go_to_the_largest_remainders():
    assert block_counts({"a": 0.5, "b": 0.3, "c": 0.2}, 9) == {"a": 4, "b": 3, "c": 2}  # 4.5, 2.7, 1.8
    assert block_counts({"a": 1, "b": 1, "c": 1}, 4) == {"a": 2, "b": 1, "c": 1}  # ties to the earlier


def test_a_weight_too_small_for_a_row_is_refused_with_the_block_that_would_hold_it():
    with pytest.raises(ValueError, match=r"source 'rare'.*no row in a block of 100.*mixture_block_size=1001"):
        block_counts({"web": 1.0, "rare": 0.001}, 100)
    assert block_counts({"web": 1.0, "rare": 0.001}, 1001)["rare"] == 1
    assert block_counts({"web": 1.0, "off": 0.0}, 10) == {"web": 10, "off": 0}


@pytest.mark.parametrize("weights", [{"a": -1.0, "b": 2.0}, {"a": 0.0}, {"a": float("nan")}, {}])
def test_weights_that_make_no_mixture_are_refused(weights):
    with pytest.raises(ValueError, match="mixture"):
        block_counts(weights, 10)


def test_every_block_holds_the_exact_count_of_each_source(sources):
    mixture = Mixture(sources, seed=1, weights=WEIGHTS, block_size=100)
    source, _ = mixture.locate(np.arange(5000))
    counts = np.stack([np.bincount(block, minlength=3) for block in source.reshape(50, 100)])
    assert mixture.names == ("web", "code", "books")
    assert (counts == [61, 14, 25]).all()
    assert not np.array_equal(source[:100], source[100:200])  # in an order of its own


def test_every_row_of_a_source_comes_once_an_epoch_in_a_new_order(sources):
    mixture = Mixture(sources, seed=1, weights=WEIGHTS, block_size=100)
    source, index = mixture.locate(np.arange(20_000))
    for number, name in enumerate(mixture.names):
        n = sources[name].num_rows
        seen = index[source == number]
        epochs = seen[: seen.size // n * n].reshape(-1, n)
        assert epochs.shape[0] >= 2
        assert (np.sort(epochs, axis=1) == np.arange(n)).all()
        assert not np.array_equal(epochs[0], epochs[1])
        assert mixture.epochs(20_000)[name] == pytest.approx(seen.size / n)


def test_a_position_means_the_same_whenever_and_however_it_is_asked(sources):
    mixture = Mixture(sources, seed=1, weights=WEIGHTS, block_size=64)
    positions = np.random.default_rng(0).integers(0, 10_000, size=300)
    fresh = Mixture(sources, seed=1, weights=WEIGHTS, block_size=64)
    source, index = mixture.locate(np.arange(10_000))
    for got, expected in zip(fresh.locate(positions), (source[positions], index[positions]), strict=True):
        assert np.array_equal(got, expected)
    one_by_one = [fresh.locate(np.array([p])) for p in positions[:20]]
    assert [(int(s[0]), int(i[0])) for s, i in one_by_one] == [(int(source[p]), int(index[p])) for p in positions[:20]]


def test_another_source_does_not_reorder_the_rows_of_the_first(sources):
    alone = Mixture({"web": sources["web"]}, seed=5, block_size=50)
    mixed = Mixture(sources, seed=5, weights=WEIGHTS, block_size=100)
    source, index = mixed.locate(np.arange(10_000))
    rows_of_web = index[source == mixed.names.index("web")]
    assert np.array_equal(rows_of_web, alone.locate(np.arange(rows_of_web.size))[1])


def test_another_seed_is_another_order(sources):
    one, two = (Mixture(sources, seed=seed, weights=WEIGHTS, block_size=100) for seed in (1, 2))
    same = (one.locate(np.arange(1000))[1] == two.locate(np.arange(1000))[1]).mean()
    assert same < 0.1


def test_the_description_is_plain_and_tells_orders_apart(sources):
    def description(**settings) -> str:
        settings = {"seed": 1, "weights": WEIGHTS, "block_size": 100} | settings
        return json.dumps(Mixture(sources, **settings).describe())

    assert description() == description()
    others = [{"seed": 2}, {"block_size": 200}, {"weights": {"web": 0.5, "code": 0.25, "books": 0.25}}]
    assert len({description(), *(description(**other) for other in others)}) == 4
    assert json.loads(description())["rows_of_a_block"] == {"web": 61, "code": 14, "books": 25}


def test_rows_of_a_mixed_batch_are_those_of_their_sources(sources):
    mixture = Mixture(sources, seed=3, weights=WEIGHTS, block_size=100)
    positions = np.arange(90, 130)
    batch = mixture.rows(positions)
    for row, (source, index) in enumerate(zip(*mixture.locate(positions), strict=True)):
        expected = sources[mixture.names[source]].rows(np.array([index]))
        assert np.array_equal(batch.targets[row], expected.targets[0])
        assert np.array_equal(batch.segment_ids[row], expected.segment_ids[0])
        assert np.array_equal(batch.loss_weights[row], expected.loss_weights[0])


def test_without_weights_all_sources_are_passed_through_at_one_pace(sources):
    mixture = Mixture(sources, seed=3, block_size=1000)
    epochs = mixture.epochs(100_000).values()
    assert max(epochs) / min(epochs) < 1.02


def test_sources_and_weights_must_have_the_same_names(sources):
    with pytest.raises(ValueError, match=r"weights without a source: \['boks'\].*without a weight: \['books'\]"):
        Mixture(sources, seed=0, weights={"web": 1.0, "code": 1.0, "boks": 1.0})


def test_sources_of_different_row_length_do_not_mix(tmp_path: Path, sources):
    other = row_dataset(make_token_store(tmp_path / "s", 5), 8, "concatenate")
    with pytest.raises(ValueError, match=r"differ in row length: \{'web': 16, 'other': 8\}"):
        Mixture({"web": sources["web"], "other": other}, seed=0)
