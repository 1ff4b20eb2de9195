"""The mixture: exact counts in every block, every row once an epoch, each position a pure function."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.data.config import STOP_STRATEGIES
from marin.data.dataset import Batch, RowDataset, row_dataset
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
    assert mixture.names == ("books", "code", "web")
    assert (counts == [25, 14, 61]).all()
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


def test_the_order_in_which_a_config_names_its_sources_means_nothing(sources):
    # weights that tie, where one of the two must get the row that is left over
    weights = [(0, {"web": 1.0, "code": 1.0}), (333, {"books": 0.1, "web": 0.2, "code": 0.1})]
    turned = [(start, dict(reversed(list(shares.items())))) for start, shares in weights]
    one = Mixture(sources, seed=5, weights=weights, block_size=7)
    other = Mixture(dict(reversed(list(sources.items()))), seed=5, weights=turned, block_size=7)
    assert list(sources) != sorted(sources) and one.describe() == other.describe()
    for found, expected in zip(other.locate(np.arange(2000)), one.locate(np.arange(2000)), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_another_seed_is_another_order(sources):
    one, two = (Mixture(sources, seed=seed, weights=WEIGHTS, block_size=100) for seed in (1, 2))
    same = (one.locate(np.arange(1000))[1] == two.locate(np.arange(1000))[1]).mean()
    assert same < 0.1


def test_the_description_is_plain_and_tells_orders_apart(sources):
    def description(**settings) -> str:
        settings = {"seed": 1, "weights": WEIGHTS, "block_size": 100} | settings
        return json.dumps(Mixture(sources, **settings).describe())

    assert description() == description()
    other_weights = {"web": 0.5, "code": 0.25, "books": 0.25}
    others = [
        {"seed": 2},
        {"block_size": 200},
        {"weights": other_weights},
        {"weights": [(0, WEIGHTS), (100, other_weights)]},
        {"stop_strategy": "first_exhausted"},
    ]
    assert len({description(), *(description(**other) for other in others)}) == 6
    (stage,) = json.loads(description())["stages"]
    assert stage == {"start": 0, "rows_of_a_block": {"web": 61, "code": 14, "books": 25}}


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


class NumberedRows:
    """Rows that hold nothing but their own number, so that a mixture of any sizes costs no files."""

    seq_len = 1

    def __init__(self, num_rows: int):
        self.num_rows = num_rows

    def rows(self, indices: np.ndarray) -> Batch:
        number = indices[:, None].astype(np.int32)
        return Batch(tokens=number, targets=number, loss_weights=np.ones(number.shape, np.float32), segment_ids=number)


@st.composite
def varying(draw, min_stages: int = 1) -> dict:
    """Arguments of a mixture: sources of any size, stages of any length, blocks that every weight has a row in."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    names = [f"s{i}" for i in range(len(sizes))]
    weights = st.lists(st.integers(0, 4), min_size=len(sizes), max_size=len(sizes)).filter(any)
    stages, start = [], 0
    for _ in range(draw(st.integers(min_stages, 4))):
        stages.append((start, dict(zip(names, map(float, draw(weights)), strict=True))))
        start += draw(st.integers(1, 90))
    return {
        "sources": {name: NumberedRows(size) for name, size in zip(names, sizes, strict=True)},
        "weights": stages,
        "block_size": draw(st.integers(16, 40)),
        "seed": draw(st.integers(0, 5)),
    }


SHOWN = 500  # rows looked at; longer than any four stages and several epochs of every source


@settings(max_examples=60, deadline=None)
@given(arguments=varying())
def test_every_whole_block_of_every_stage_holds_the_exact_counts_and_begins_where_the_stage_does(arguments):
    mixture = Mixture(**arguments)
    source, _ = mixture.locate(np.arange(SHOWN))
    assert [stage.start for stage in mixture.stages] == [start for start, _ in arguments["weights"]]
    for stage, (start, weights) in zip(mixture.stages, arguments["weights"], strict=True):
        expected = block_counts(weights, arguments["block_size"])
        end = SHOWN if stage.end is None else stage.end
        for at in range(start, end, arguments["block_size"]):
            block = source[at : min(at + arguments["block_size"], end)]
            counts = {name: int((block == which).sum()) for which, name in enumerate(mixture.names)}
            if block.size == arguments["block_size"]:
                assert counts == {name: expected[name] for name in mixture.names}
            else:  # the last block of a stage is the beginning of a whole one
                assert all(counts[name] <= expected[name] for name in mixture.names)


@settings(max_examples=60, deadline=None)
@given(arguments=varying())
def test_a_source_gives_each_row_once_an_epoch_through_all_stages(arguments):
    mixture = Mixture(**arguments)
    source, index = mixture.locate(np.arange(SHOWN))
    for which, (name, dataset) in enumerate(zip(mixture.names, mixture.sources, strict=True)):
        seen = index[source == which]
        for begin in range(0, seen.size, dataset.num_rows):
            epoch = seen[begin : begin + dataset.num_rows]
            assert np.unique(epoch).size == epoch.size and epoch.max() < dataset.num_rows
        assert mixture.rows_used(SHOWN)[name] == seen.size
        assert mixture.epochs(SHOWN)[name] == seen.size / dataset.num_rows


@settings(max_examples=60, deadline=None)
@given(arguments=varying(min_stages=2))
def test_a_stage_changes_no_row_before_it(arguments):
    """A run that is given one more stage later has seen what it would have seen with it."""
    *before, (start, _) = arguments["weights"]
    whole, without = Mixture(**arguments), Mixture(**{**arguments, "weights": before})
    positions = np.arange(start)
    for one, two in ((whole, without), (without, whole)):
        source, index = one.locate(positions)
        other_source, other_index = two.locate(positions)
        assert [one.names[s] for s in source] == [two.names[s] for s in other_source]
        assert np.array_equal(index, other_index)


@settings(max_examples=60, deadline=None)
@given(arguments=varying(), positions=st.lists(st.integers(0, SHOWN - 1), max_size=30))
def test_a_position_of_a_varying_mixture_is_a_pure_function(arguments, positions):
    source, index = Mixture(**arguments).locate(np.arange(SHOWN))
    got_source, got_index = Mixture(**arguments).locate(np.array(positions, np.int64))
    assert np.array_equal(got_source, source[positions]) and np.array_equal(got_index, index[positions])
    used = Mixture(**arguments)
    for position in positions:
        counts = np.bincount(source[:position], minlength=len(used.names)).tolist()
        assert list(used.rows_used(position).values()) == counts


@settings(max_examples=15, deadline=None)
@given(arguments=varying())
def test_where_a_source_gives_its_nth_row_is_found_without_looking(arguments):
    mixture = Mixture(**arguments)
    source, _ = mixture.locate(np.arange(SHOWN))
    for which, name in enumerate(mixture.names):
        places = np.flatnonzero(source == which).tolist()
        assert [mixture.position_of(name, count) for count in range(len(places))] == places
        after = mixture.position_of(name, len(places))
        assert after is None or after >= SHOWN


@settings(max_examples=60, deadline=None)
@given(arguments=varying())
def test_first_exhausted_ends_before_the_first_row_that_would_come_twice(arguments):
    endless, mixture = Mixture(**arguments), Mixture(**arguments, stop_strategy="first_exhausted")
    assert mixture.num_rows is not None and endless.num_rows is None
    source, index = endless.locate(np.arange(mixture.num_rows + 1))
    rows = list(zip(source.tolist(), index.tolist(), strict=True))
    assert len(set(rows[:-1])) == mixture.num_rows
    assert rows[-1][0] in {s for s, _ in rows[:-1]}
    size = mixture.sources[rows[-1][0]].num_rows
    assert sum(s == rows[-1][0] for s, _ in rows[:-1]) == size  # all its rows have been given
    given_rows = mixture.locate(np.arange(mixture.num_rows))
    assert np.array_equal(given_rows[0], source[:-1]) and np.array_equal(given_rows[1], index[:-1])
    with pytest.raises(IndexError, match=f"ends after {mixture.num_rows} rows .*first_exhausted"):
        mixture.locate(np.array([mixture.num_rows]))


@settings(max_examples=60, deadline=None)
@given(arguments=varying())
def test_all_exhausted_ends_with_the_row_that_completes_the_last_source(arguments):
    endless = Mixture(**arguments)
    try:
        mixture = Mixture(**arguments, stop_strategy="all_exhausted")
    except ValueError as error:
        last = endless.stages[-1]
        never = [
            name
            for name, count, used, source in zip(endless.names, last.counts, last.used, endless.sources, strict=True)
            if count == 0 and used < source.num_rows
        ]
        assert never and f"would never stop: {', '.join(never)} gets no weight in the last stage" in str(error)
        return
    assert mixture.num_rows is not None

    def complete(position: int) -> bool:
        return all(epochs >= 1 for epochs in endless.epochs(position).values())

    assert complete(mixture.num_rows) and not complete(mixture.num_rows - 1)


def test_stages_that_make_no_mixture_are_refused():
    sources = {"web": NumberedRows(10), "code": NumberedRows(10)}

    def refused(match: str, *stages, block_size: int = 10, **settings) -> None:
        with pytest.raises(ValueError, match=match):
            Mixture(sources, seed=0, weights=list(stages), block_size=block_size, **settings)

    web = {"web": 1.0}
    refused(r"begin at row 0.*got starts \[5\]", (5, web))
    refused(r"starts rise; got starts \[0, 20, 20\]", (0, web), (20, web), (20, web))
    refused(r"got starts \[\]")
    refused(r"stage from row 20 on.*without a source: \['boks'\]", (0, web), (20, {"boks": 1.0}))
    refused(r"stage from row 20 on.*not all zero", (0, web), (20, {"web": 0.0}))
    refused(r"stage from row 0 on.*not negative.*-1", (0, {"web": -1.0, "code": 2.0}))
    refused(r"stage from row 7 on: source 'code'.*no row in a block of 10", (0, web), (7, {"web": 99.0, "code": 1.0}))
    with pytest.raises(ValueError, match="unknown stop_strategy 'never'; expected one of 'restart', 'first_exhausted'"):
        Mixture(sources, seed=0, stop_strategy="never")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sources without a row in a mixture: empty"):
        Mixture({**sources, "empty": NumberedRows(0)}, seed=0, weights={"web": 1.0, "code": 0.0, "empty": 1.0})


@pytest.mark.parametrize("strategy", STOP_STRATEGIES)
def test_a_source_without_weight_at_any_time_is_not_waited_for(strategy):
    sources = {"web": NumberedRows(10), "off": NumberedRows(3)}
    mixture = Mixture(sources, seed=0, weights=[(0, {"web": 1.0})], stop_strategy=strategy)
    assert mixture.names == ("web",)
    assert mixture.num_rows == (None if strategy == "restart" else 10)
