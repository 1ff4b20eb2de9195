"""Rows brought together by key: groups and joins against plain dictionaries, in any order and number of shards."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.processing.pipeline import Dataset, col, shuffle
from marin.processing.pipeline.reducers import Count, KeepFirst
from marin.processing.pipeline.shuffle import Spills, SpillSink


def rows_of(folder: str | Path) -> list[dict[str, Any]]:
    return [row for file in sorted(Path(folder).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def some_rows(size: int, num_keys: int) -> list[dict[str, Any]]:
    chooser = random.Random(0)
    return [{"id": str(i), "key": f"k{chooser.randrange(num_keys)}", "n": chooser.randrange(100)} for i in range(size)]


def summed(key: str, rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
    numbers = [row["n"] for row in rows]
    return {"id": key, "sum": sum(numbers), "numbers": numbers}


@pytest.mark.parametrize(("shards_in", "shards_out"), [(1, 1), (3, 1), (2, 5)])
def test_groups_are_those_of_a_dictionary_with_rows_as_they_were_read(tmp_path: Path, shards_in: int, shards_out: int):
    rows = some_rows(3000, 50)
    plan = Dataset.from_items(rows, num_shards=shards_in).group_by("key", summed, num_shards=shards_out)
    result = plan.write_parquet(str(tmp_path / "out")).run(workers=0)
    expected: dict[str, list[int]] = {}
    for row in rows:
        expected.setdefault(row["key"], []).append(row["n"])
    made = {row["id"]: row["numbers"] for row in rows_of(tmp_path / "out")}
    assert made == expected
    assert len(result.files) == shards_out
    assert [(c.name, c.rows_in, c.rows_out, c.merged) for c in result.funnel] == [
        ("read", 3000, 3000, 0),
        ("summed", 3000, 50, 2950),
    ]
    assert not (tmp_path / "out" / "_work").exists()


def test_the_first_of_each_group_is_kept_by_order(tmp_path: Path):
    rows = some_rows(2000, 70)
    plan = Dataset.from_items(rows, num_shards=3).group_by("key", KeepFirst(rule="same key"), order_by=["n", "id"])
    result = plan.write_parquet(str(tmp_path / "out")).run(workers=0)
    best: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["n"], row["id"])):
        best.setdefault(row["key"], row)
    assert {row["key"]: row for row in rows_of(tmp_path / "out")} == best
    assert result.funnel[1].dropped == {"same key": 1930}


orders = st.none() | st.floats(width=16) | st.integers(-2, 2).map(float)


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), orders), max_size=30), min_size=1, max_size=4),
    st.integers(1, 7),
)
@settings(max_examples=40)
def test_runs_are_merged_into_one_order_whatever_the_size_of_chunks(
    tmp_path_factory, runs: list[list[tuple[int, float | None]]], rows: int
):
    folder = tmp_path_factory.mktemp("spills")
    sink = SpillSink(keys=("key",), order_by=("by",), num_partitions=2)
    position = 0
    everything = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffle, "CHUNK_ROWS", rows)
        for number, run in enumerate(runs):
            ids = list(range(position, position + len(run)))
            position += len(run)
            everything += [(key, rank(by), row_id) for (key, by), row_id in zip(run, ids, strict=True)]
            columns = {
                "key": pa.array([key for key, _ in run], pa.int64()),
                "by": pa.array([by for _, by in run], pa.float64()),
                "id": pa.array(ids, pa.int64()),
            }
            sink.write(str(folder / f"{number}.spill"), iter([pa.record_batch(columns)]))
    merged = []
    for partition in range(2):
        spills = Spills(
            root=str(folder),
            paths=tuple(f"{number}.spill" for number in range(len(runs))),
            stage="s",
            digest="d",
            partition=partition,
            order=("key", "by"),
        )
        read = [row for table in spills.sorted() for row in table.to_pylist()]
        part = [(row["key"], rank(row["by"]), row["id"]) for row in read]
        assert part == sorted(part)
        merged += part
    assert sorted(merged) == sorted(everything)


def rank(value: float | None) -> tuple[int, float]:
    """Numbers, then NaN, then null."""
    return (2, 0.0) if value is None else (1, 0.0) if value != value else (0, value)


def test_one_key_may_have_nearly_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shuffle, "FLUSH_BYTES", 20_000)
    monkeypatch.setattr(shuffle, "CHUNK_ROWS", 100)
    rows = [{"id": str(i), "key": "same" if i % 100 else str(i), "n": 1} for i in range(20_000)]
    counted = Dataset.from_items(rows, num_shards=2).group_by("key", Count(), num_shards=3)
    counted.write_parquet(str(tmp_path / "out")).run(workers=0)
    assert {row["key"]: row["count"] for row in rows_of(tmp_path / "out")} == Counter(row["key"] for row in rows)


def test_reduce_makes_one_shard_of_all_rows(tmp_path: Path):
    def total(key: tuple[()], rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
        return {"id": "all", "n": sum(row["n"] for row in rows)}

    Dataset.from_items(some_rows(100, 3), num_shards=4).reduce(total).write_parquet(str(tmp_path / "out")).run(
        workers=0
    )
    assert rows_of(tmp_path / "out") == [{"id": "all", "n": sum(row["n"] for row in some_rows(100, 3))}]


def test_a_row_without_key_is_named(tmp_path: Path):
    data = Dataset.from_items([{"id": "a", "key": "x"}, {"id": "b", "key": None}])
    with pytest.raises(RuntimeError, match="row 'b' has no value in 'key'"):
        data.group_by("key", KeepFirst()).write_parquet(str(tmp_path / "out")).run(workers=0)


def test_a_finished_group_needs_its_first_stage_no_more(tmp_path: Path):
    plan = Dataset.from_items(some_rows(100, 9), num_shards=2).group_by("key", summed, num_shards=2)
    plan = plan.write_parquet(str(tmp_path / "out"))
    first = plan.run(workers=0)
    before = (tmp_path / "out/_done/attempts.jsonl").read_text()
    assert plan.run(workers=0) == first
    assert (tmp_path / "out/_done/attempts.jsonl").read_text() == before
    lost = tmp_path / "out" / first.files[0]
    content = lost.read_bytes()
    lost.unlink()
    assert plan.run(workers=0) == first and lost.read_bytes() == content


# -- joins ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Two files of documents."""
    for number in range(2):
        rows = [{"id": f"{number}{i}", "text": f"text {number}{i}", "source": "s", "metadata": "{}"} for i in range(40)]
        folder = tmp_path / "documents"
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"part-{number}.parquet")
    return tmp_path / "documents"


def score(row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["id"], "score": int(row["id"])}


def attributes_of(documents: Path, folder: Path) -> Dataset:
    Dataset.from_files(str(documents)).map(score).write_parquet(str(folder), names="input").run(workers=0)
    return Dataset.from_files(str(folder))


@pytest.mark.parametrize("strategy", ["files", "shuffle", "auto"])
def test_attributes_join_their_documents_file_by_file_or_by_key(documents: Path, tmp_path: Path, strategy: Any):
    attributes = attributes_of(documents, tmp_path / "attributes")
    assert sorted(file.name for file in (tmp_path / "attributes").glob("*.parquet")) == [
        "part-0.parquet",
        "part-1.parquet",
    ]
    plan = Dataset.from_files(str(documents)).filter(col("id") != "13").join(attributes, strategy=strategy)
    plan = plan.filter("score >= 5").select(["id", "score"])
    result = plan.write_parquet(str(tmp_path / "out")).run(workers=0)
    made = rows_of(tmp_path / "out")
    assert all(int(row["id"]) == row["score"] for row in made)
    assert {row["id"] for row in made} == {f"{n}{i}" for n in range(2) for i in range(40) if int(f"{n}{i}") >= 5} - {
        "13"
    }
    assert result.counters["rows_out"] == len(made)


@pytest.mark.parametrize("strategy", ["files", "shuffle"])
def test_a_row_without_partner_is_an_error_or_what_was_said(documents: Path, tmp_path: Path, strategy: Any):
    attributes_of(documents, tmp_path / "all")
    some = (
        Dataset.from_files(str(tmp_path / "all"))
        .filter("score != 7")
        .write_parquet(str(tmp_path / "some"), names="input")
    )
    some.run(workers=0)
    data, right = Dataset.from_files(str(documents)), Dataset.from_files(str(tmp_path / "some"))
    with pytest.raises(RuntimeError, match="nothing has id '07' on the right side"):
        data.join(right, strategy=strategy).write_parquet(str(tmp_path / "a")).run(workers=0)
    dropping = data.join(right, missing="drop", strategy=strategy).write_parquet(str(tmp_path / "b")).run(workers=0)
    assert len(rows_of(tmp_path / "b")) == 79
    assert {"join: missing": 1}.items() <= {k: v for c in dropping.funnel for k, v in c.dropped.items()}.items()
    data.join(right, missing="keep", strategy=strategy).write_parquet(str(tmp_path / "c")).run(workers=0)
    (left,) = [row for row in rows_of(tmp_path / "c") if row["score"] is None]
    assert left["id"] == "07"


@pytest.mark.parametrize("strategy", ["files", "shuffle"])
def test_an_id_twice_on_the_right_is_an_error_unless_the_rows_are_equal(documents: Path, tmp_path: Path, strategy: Any):
    folder = tmp_path / "attributes"
    folder.mkdir()
    for number in range(2):
        rows = [{"id": f"{number}{i}", "score": 1} for i in range(40)]
        pq.write_table(pa.Table.from_pylist([rows[3], *rows]), folder / f"part-{number}.parquet")
    data = Dataset.from_files(str(documents))
    joined = data.join(Dataset.from_files(str(folder)), strategy=strategy).write_parquet(str(tmp_path / "out"))
    assert joined.run(workers=0).counters["rows_out"] == 80
    pq.write_table(pa.Table.from_pylist([{**rows[3], "score": 2}, *rows]), folder / "part-1.parquet")
    with pytest.raises(RuntimeError, match="id '13' is twice on the right side, with other values"):
        joined.run(workers=0)


def test_columns_of_both_sides_and_files_without_namesake_are_named(documents: Path, tmp_path: Path):
    data = Dataset.from_files(str(documents))
    with pytest.raises(RuntimeError, match="column 'text' is on both sides; choose"):
        data.join(data).write_parquet(str(tmp_path / "out")).run(workers=0)
    with pytest.raises(ValueError, match=r"file by file: its right side has no file 'part-1'"):
        one = Dataset.from_files(str(documents / "part-0.parquet"))
        data.join(one, strategy="files").write_parquet(str(tmp_path / "out")).run(workers=0)


def test_groups_and_joins_are_the_same_with_workers(documents: Path, tmp_path: Path):
    attributes = attributes_of(documents, tmp_path / "attributes")
    data = Dataset.from_files(str(documents)).join(attributes, strategy="shuffle", num_shards=3)
    plan = data.with_columns({"tens": col("score") / 10}).group_by("score", KeepFirst(), num_shards=2)
    outputs = []
    for workers in (0, 2):
        result = plan.write_parquet(str(tmp_path / f"out-{workers}")).run(workers=workers)
        outputs.append([(tmp_path / f"out-{workers}" / name).read_bytes() for name in (*result.files, "_funnel.json")])
    assert outputs[0] == outputs[1]
    assert json.loads(outputs[0][-1])["counters"]["rows_out"] == len(
        {int(f"{n}{i}") for n in range(2) for i in range(40)}
    )


@settings(deadline=None, max_examples=12)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=20),
    st.integers(1, 5),
)
def test_keys_that_are_equal_as_numbers_are_one_group(
    tmp_path_factory: pytest.TempPathFactory, keys: list[tuple[int, bool]], shards: int
):
    folder = tmp_path_factory.mktemp("mixed")
    whole = [key for key, is_float in keys if not is_float]
    floats = [-0.0 if key == 0 else float(key) for key, is_float in keys if is_float]
    for name, values, kind in (("a", whole, pa.int64()), ("b", floats, pa.float64())):
        ids = pa.array([f"{name}{i}" for i in range(len(values))], pa.string())
        pq.write_table(pa.table({"id": ids, "key": pa.array(values, kind)}), folder / f"{name}.parquet")
    parts = [Dataset.from_files(folder / f"{name}.parquet").map(dict, name="same") for name in ("a", "b")]
    counted = Dataset.concat(parts).group_by("key", Count(), num_shards=shards)
    counted.write_parquet(folder / "out").run(workers=0, progress=False)
    assert {row["key"]: row["count"] for row in rows_of(folder / "out")} == Counter(float(key) for key, _ in keys)


@pytest.mark.parametrize("shards", [1, 4])
def test_a_join_finds_partners_of_another_type_of_number(tmp_path: Path, shards: int):
    left = Dataset.from_items([{"id": f"l{n}", "key": n} for n in range(20)])
    right = Dataset.from_items([{"id": f"r{n}", "key": -0.0 if n == 0 else float(n)} for n in range(20)])
    joined = left.join(right.with_columns({"n": "key"}).select(["key", "n"]), on="key", num_shards=shards)
    joined.write_parquet(tmp_path / "out").run(workers=0)
    assert {row["id"]: row["n"] for row in rows_of(tmp_path / "out")} == {f"l{n}": float(n) for n in range(20)}


def test_a_join_finds_partners_whose_strings_are_stored_otherwise(tmp_path: Path):
    def stored_large(batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.set_column(0, "id", batch.column("id").cast(pa.large_string()))

    left = Dataset.from_items([{"id": f"r{n}"} for n in range(20)])
    right = Dataset.from_items([{"id": f"r{n}", "n": n} for n in range(20)]).map_batches(stored_large)
    left.join(right, missing="drop", num_shards=4).write_parquet(tmp_path / "out").run(workers=0, progress=False)
    assert {row["id"]: row["n"] for row in rows_of(tmp_path / "out")} == {f"r{n}": n for n in range(20)}


# -- rows of two files that are in step -------------------------------------------------------------------------------


def joined_files(tmp_path: Path, left: list[str], right: list[tuple[str, int]], *, rows_per_shard: int = 100) -> Any:
    """The values that rows with these ids get from a file of the same name."""
    for name, table in {
        "left": pa.table({"id": pa.array(left, pa.string())}),
        "right": pa.table({"id": [key for key, _ in right], "value": [value for _, value in right]}),
    }.items():
        (tmp_path / name).mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / name / "x.parquet", row_group_size=rows_per_shard)
    data = Dataset.from_files(tmp_path / "left", split_bytes=1)
    joined = data.join(Dataset.from_files(tmp_path / "right"), strategy="files")
    joined.write_parquet(tmp_path / "out").run(workers=0, progress=False)
    return [(row["id"], row["value"]) for row in rows_of(tmp_path / "out")]


def test_an_id_twice_with_other_values_is_an_error_though_the_rows_begin_in_step(tmp_path: Path):
    with pytest.raises(RuntimeError, match="id 'a' is twice on the right side, with other values"):
        joined_files(tmp_path, ["a", "b"], [("a", 1), ("b", 2), ("a", 3)])
    with pytest.raises(RuntimeError, match="id 'a' is twice"):
        joined_files(tmp_path, ["b", "a"], [("a", 1), ("b", 2), ("a", 3)])
    with pytest.raises(RuntimeError, match="id 'a' is twice"):
        joined_files(tmp_path, ["a"], [("b", 2), ("a", 1), ("a", 3)])


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=30), st.integers(5, 12))
def test_rows_with_ids_of_others_get_their_own_values_or_none_at_all(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], rows_per_shard: int
):
    right = [(name, number) for number, name in enumerate(ids)]
    try:
        made = joined_files(tmp_path_factory.mktemp("step"), ids, right, rows_per_shard=rows_per_shard)
    except RuntimeError as error:
        assert "is twice on the right side" in str(error) and len(ids) > rows_per_shard
    else:
        assert made == right


@pytest.mark.parametrize("num_rows", [1000, 5000])
def test_shards_of_one_file_read_the_file_beside_it_once(tmp_path: Path, num_rows: int):
    ids = [f"{n:05d}" for n in range(num_rows)]
    log = tmp_path / "log"

    def note(batch: pa.RecordBatch) -> pa.RecordBatch:
        with log.open("a") as file:
            file.write(f"{batch.num_rows}\n")
        return batch

    for name, table in {"left": pa.table({"id": ids}), "right": pa.table({"id": ids, "n": range(num_rows)})}.items():
        (tmp_path / name).mkdir()
        pq.write_table(table, tmp_path / name / "x.parquet", row_group_size=100)
    right = Dataset.from_files(tmp_path / "right").map_batches(note)
    plan = Dataset.from_files(tmp_path / "left", split_bytes=1).join(right, strategy="files")
    result = plan.write_parquet(tmp_path / "out").run(workers=0)
    assert len(result.files) == num_rows // 100
    assert [row["n"] for row in rows_of(tmp_path / "out")] == list(range(num_rows))
    assert sum(map(int, log.read_text().split())) == num_rows


def test_a_partner_in_a_file_of_another_name_is_found_where_that_is_asked_and_else_an_error_says_how(tmp_path: Path):
    for folder, step in (("left", 1), ("right", 2)):
        (tmp_path / folder).mkdir()
        ids = [f"d{n}" for n in range(0, 6, step)], [f"d{n}" for n in range(step - 1, 6, step)]
        for number, of_file in enumerate(ids if step == 2 else (ids[0][:3], ids[0][3:])):
            pq.write_table(pa.table({"id": of_file, folder: of_file}), tmp_path / folder / f"part-{number}.parquet")
    left, right = (Dataset.from_files(tmp_path / folder) for folder in ("left", "right"))
    with pytest.raises(RuntimeError, match="strategy='shuffle' to look beyond the file of the same name"):
        left.join(right).write_parquet(tmp_path / "out").run(workers=0, progress=False)
    left.join(right, strategy="shuffle").write_parquet(tmp_path / "out").run(workers=0, progress=False)
    assert {row["left"]: row["right"] for row in rows_of(tmp_path / "out")} == {f"d{n}": f"d{n}" for n in range(6)}


@pytest.mark.parametrize("missing", ["drop", "keep"])
def test_rows_dealt_out_anew_to_files_of_the_same_names_find_their_partners(tmp_path: Path, missing: str):
    for side, groups in (("left", [[0, 1, 2], [3, 4, 5]]), ("right", [[0, 3, 4], [1, 2, 5]])):
        (tmp_path / side).mkdir()
        for number, ids in enumerate(groups):
            column = "x" if side == "right" else "text"
            rows = "".join(json.dumps({"id": str(i), column: str(10 * i)}) + "\n" for i in ids)
            (tmp_path / side / f"{number}.jsonl").write_text(rows)
    left, right = (Dataset.from_files(str(tmp_path / side)) for side in ("left", "right"))
    left.join(right, columns=["x"], missing=missing).write_parquet(str(tmp_path / "out")).run(workers=0)
    rows = [row for path in (tmp_path / "out").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert {row["id"]: row["x"] for row in rows} == {str(i): str(10 * i) for i in range(6)}
