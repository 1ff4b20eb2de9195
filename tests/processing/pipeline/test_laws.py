"""Plans of random operations over random rows give what plain Python gives, however the rows are split."""

import datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from marin.processing.pipeline import Dataset, Dropped, parse
from marin.processing.pipeline.rows import RowsToBatches, to_rows

Row = dict[str, Any]

rows_strategy = st.lists(
    st.fixed_dictionaries({"n": st.integers(-20, 20), "text": st.text(max_size=5), "metadata": st.just({"a": [1]})}),
    max_size=40,
)


def double(row: Row) -> Row:
    return {**row, "n": row["n"] * 2}


def drop_threes(row: Row) -> Row | Dropped:
    return Dropped("three") if row["n"] % 3 == 0 else row


def refuse_fives(row: Row) -> Row:
    if row["n"] % 5 == 0:
        raise ValueError("five: a multiple")
    return row


def copies(row: Row) -> list[Row]:
    return [row] * (abs(row["n"]) % 3)


def identity(batch: Any) -> Any:
    return batch


# name -> (what it does to a plan, what it does to a list)
OPERATIONS: dict[str, tuple[Any, Any]] = {
    "double": (lambda d: d.map(double), lambda rows: [double(row) for row in rows]),
    "drop": (lambda d: d.map(drop_threes), lambda rows: [row for row in rows if row["n"] % 3]),
    "refuse": (lambda d: d.map(refuse_fives), lambda rows: [row for row in rows if row["n"] % 5]),
    "copies": (lambda d: d.flat_map(copies), lambda rows: [row for one in rows for row in copies(one)]),
    "positive": (lambda d: d.filter("n > 0"), lambda rows: [row for row in rows if row["n"] > 0]),
    "short": (
        lambda d: d.filter(lambda row: len(row["text"]) < 4),
        lambda rows: [r for r in rows if len(r["text"]) < 4],
    ),
    "column": (
        lambda d: d.with_columns({"n": "n + text.length()"}),
        lambda rows: [{**row, "n": row["n"] + len(row["text"])} for row in rows],
    ),
    "batches": (lambda d: d.map_batches(identity), lambda rows: rows),
    "shard": (lambda d: d.map_shard(lambda batches: (batch for batch in batches)), lambda rows: rows),
    "select": (lambda d: d.select(["id", "n", "text", "metadata"]), lambda rows: rows),
}


@given(rows_strategy, st.lists(st.sampled_from(sorted(OPERATIONS)), max_size=5), st.integers(1, 4))
@settings(max_examples=60)
def test_a_plan_gives_what_plain_python_gives_in_any_number_of_shards(rows: list[Row], names: list[str], shards: int):
    plan = Dataset.from_items([{"id": str(i), **row} for i, row in enumerate(rows)], num_shards=shards)
    expected: list[Row] = [{"id": str(i), **row} for i, row in enumerate(rows)]
    for name in names:
        plan, expected = OPERATIONS[name][0](plan), OPERATIONS[name][1](expected)
    assert list(plan.iter_rows()) == expected


@given(rows_strategy, st.lists(st.sampled_from(sorted(OPERATIONS)), max_size=4), st.integers(1, 3))
@example([{"n": 20, "text": "", "metadata": {"a": [1]}}], ["copies", "refuse"], 1)  # more bad rows than were read
@settings(max_examples=15)
def test_the_numbers_of_a_run_add_up(tmp_path_factory, rows: list[Row], names: list[str], shards: int):
    plan = Dataset.from_items([{"id": str(i), **row} for i, row in enumerate(rows)], num_shards=shards)
    for name in names:
        plan = OPERATIONS[name][0](plan)
    result = plan.write_parquet(tmp_path_factory.mktemp("out") / "out").run(workers=0, max_bad=1, progress=False)
    before = len(rows)
    for counts in result.funnel:
        assert counts.rows_in == before
        assert counts.rows_in + counts.expanded == counts.rows_out + counts.num_dropped + counts.num_bad + counts.merged
        before = counts.rows_out
    assert result.counters["rows_in"] == len(rows) and result.counters["rows_out"] == before


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(st.text(max_size=4), json_values, max_size=3), min_size=1, max_size=5))
def test_metadata_is_given_back_as_it_was(metadata: list[dict[str, Any]]):
    rows = [{"id": str(i), "metadata": one} for i, one in enumerate(metadata)]
    batch, bad = RowsToBatches().batch(rows)
    assert not bad and to_rows(batch) == rows


@pytest.mark.parametrize(
    ("values", "bad", "kept"),
    [
        ([1, "a", 2], {1}, [1, 2]),
        ([None, "a", 2], {2}, [None, "a"]),
        ([1, 2.5, None], set(), [1.0, 2.5, None]),
        ([[1], ["a"], [2]], {1}, [[1], [2]]),
        ([True, 1], {1}, [True]),
        (["a", "\ud800"], {1}, ["a"]),
        ([1, 2**70], {1}, [1]),
        ([{"a": 1}, {"b": [2]}], set(), [{"a": 1}, {"b": [2]}]),
    ],
)
def test_values_of_another_type_than_before_make_bad_rows(values: list[Any], bad: set[int], kept: list[Any]):
    batch, unfit = RowsToBatches().batch([{"x": value} for value in values])
    assert set(unfit) == bad
    assert all(reason.startswith("wrong type: x is ") for reason in unfit.values())
    assert [row["x"] for row in to_rows(batch)] == kept


def test_a_filter_of_text_is_the_filter_of_the_expression():
    rows = [{"id": str(i), "n": i} for i in range(10)]
    by_text = list(Dataset.from_items(rows).filter("3 <= n < 7").iter_rows())
    assert by_text == list(Dataset.from_items(rows).filter(parse("n >= 3 and n < 7")).iter_rows()) == rows[3:7]


def test_a_fraction_among_integers_keeps_its_value_beside_a_value_that_is_no_number():
    made = RowsToBatches()
    made.batch([{"x": 1}])
    batch, unfit = made.batch([{"x": 7.5}, {"x": "many"}, {"x": 2}])
    assert batch.column("x").to_pylist() == [7.5, 2.0] and list(unfit) == [1]


def test_a_moment_among_days_is_a_bad_row_and_not_its_day():
    made = RowsToBatches()
    made.batch([{"x": datetime.date(2024, 5, 6)}])
    batch, unfit = made.batch([{"x": datetime.datetime(2024, 5, 7, 8)}, {"x": datetime.date(2024, 5, 9)}])
    assert batch.column("x").to_pylist() == [datetime.date(2024, 5, 9)] and list(unfit) == [0]
