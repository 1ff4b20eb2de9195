"""Columns of many files and many shards: put together where that is harmless, an error that says where otherwise."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marin.processing.pipeline import Dataset, col


def write(path: Path, columns: dict[str, Any]) -> str:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path.parent)


def tables(folder: Path) -> list[pa.Table]:
    return [pq.read_table(file) for file in sorted(folder.glob("*.parquet"))]


def test_files_of_other_but_harmless_types_are_read_as_one(tmp_path: Path):
    write(tmp_path / "in/a.parquet", {"id": ["a"], "x": [1], "y": pa.array([None], pa.null()), "t": pa.array(["s"])})
    folder = write(
        tmp_path / "in/b.parquet",
        {"id": ["b"], "x": [0.5], "y": ["text"], "t": pa.array(["s"]).dictionary_encode()},
    )
    plan = Dataset.from_files(folder).write_parquet(str(tmp_path / "out"), names="input")
    plan.run(workers=0)
    first, second = tables(tmp_path / "out")
    assert first.schema.equals(second.schema)
    assert [first.to_pylist(), second.to_pylist()] == [
        [{"id": "a", "x": 1.0, "y": None, "t": "s"}],
        [{"id": "b", "x": 0.5, "y": "text", "t": "s"}],
    ]


def test_a_column_of_two_types_is_an_error_that_names_files_and_types(tmp_path: Path):
    write(tmp_path / "in/a.parquet", {"id": ["a"], "x": [1]})
    folder = write(tmp_path / "in/b.parquet", {"id": ["b"], "x": ["one"]})
    with pytest.raises(ValueError, match=r"column 'x' is int64 in a.parquet and string in b.parquet"):
        Dataset.from_files(folder).write_parquet(str(tmp_path / "out")).run(workers=0)
    plan = Dataset.from_files(folder).select(["id"]).write_parquet(str(tmp_path / "out"))
    assert plan.run(workers=0).counters["rows_out"] == 2  # nobody looks at x


def test_a_column_that_some_files_have_not_is_an_error_that_names_them(tmp_path: Path):
    write(tmp_path / "in/a.parquet", {"id": ["a"], "x": [1]})
    folder = write(tmp_path / "in/b.parquet", {"id": ["b"]})
    with pytest.raises(ValueError, match=r"column 'x' is in a.parquet and not in b.parquet"):
        Dataset.from_files(folder).write_parquet(str(tmp_path / "out")).run(workers=0)
    plan = Dataset.from_files(folder, columns=["id"]).write_parquet(str(tmp_path / "out"))
    assert plan.run(workers=0).counters["rows_out"] == 2


def rare(row: dict[str, Any]) -> dict[str, Any]:
    """Each shard's rows have other columns and types."""
    shard = int(row["id"]) // 10
    return {"id": row["id"], **[{"x": None}, {"x": 1}, {"x": 0.5}, {"x": 2, "y": "rare"}][shard]}


def test_shards_of_one_output_get_one_schema(tmp_path: Path):
    rows = [{"id": str(i)} for i in range(50)]
    plan = Dataset.from_items(rows, num_shards=5).filter(col("id").length() < 5).filter("id < '4'").map(rare)
    first = plan.write_parquet(str(tmp_path / "out")).run(workers=0)
    made = tables(tmp_path / "out")
    assert all(table.schema.equals(made[0].schema) for table in made)
    assert made[0].schema.equals(pa.schema([("id", pa.string()), ("x", pa.float64()), ("y", pa.string())]))
    assert made[3].to_pylist()[0] == {"id": "30", "x": 2.0, "y": "rare"}
    assert plan.write_parquet(str(tmp_path / "out")).run(workers=0) == first
    (tmp_path / "out" / first.files[1]).unlink()
    assert plan.write_parquet(str(tmp_path / "out")).run(workers=0) == first
    assert all(table.schema.equals(made[0].schema) for table in tables(tmp_path / "out"))


def test_data_sets_with_other_columns_cannot_be_put_together_unsaid(tmp_path: Path):
    one = Dataset.from_items([{"id": "a", "x": 1}])
    other = Dataset.from_items([{"id": "b"}])
    with pytest.raises(ValueError, match=r"do not go together: column 'x' is in part-00000-of-00002 and not in"):
        Dataset.concat([one, other]).write_parquet(str(tmp_path / "out")).run(workers=0)
    both = Dataset.concat([one, other.with_columns({"x": "2.5"})]).filter("x > 1.5")
    result = both.write_parquet(str(tmp_path / "out")).run(workers=0)
    assert [table.to_pylist() for table in tables(tmp_path / "out")] == [[], [{"id": "b", "x": 2.5}]]
    assert [counts.name for counts in result.funnel] == ["read", "x > 1.5", "read", "with_columns", "x > 1.5"]


def test_only_columns_that_are_needed_are_read(tmp_path: Path):
    folder = write(
        tmp_path / "in/a.parquet", {"id": ["a", "b"], "text": ["x", "yy"], "s": [1, 2], "unused": [[1], [2]]}
    )
    plan = Dataset.from_files(folder).filter("s > 1").with_columns({"t": "s * 2"}).select(["id", "t"])
    result = plan.write_parquet(str(tmp_path / "out")).run(workers=0)
    assert tables(tmp_path / "out")[0].to_pylist() == [{"id": "b", "t": 4}]
    assert result.funnel[0].text_bytes_in == 0  # the text was not read


def test_a_missing_column_is_named_with_a_near_miss(tmp_path: Path):
    folder = write(tmp_path / "in/a.parquet", {"id": ["a"], "score": [1]})
    plan = Dataset.from_files(folder).map(dict).filter("scor > 1").write_parquet(str(tmp_path / "out"))
    with pytest.raises(RuntimeError, match=r"no column 'scor', which filter 'scor > 1' needs; did you mean 'score'\?"):
        plan.run(workers=0)


def test_an_empty_input_makes_an_empty_output(tmp_path: Path):
    (tmp_path / "empty.jsonl").write_text("")
    plan = Dataset.from_files(str(tmp_path / "empty.jsonl")).map(dict).write_parquet(str(tmp_path / "out"))
    result = plan.run(workers=0)
    assert result.counters["rows_in"] == result.counters["rows_out"] == 0 and len(result.files) == 1


@pytest.mark.parametrize(("compression", "ending"), [("zst", ".jsonl.zst"), ("gz", ".jsonl.gz"), (None, ".jsonl")])
def test_json_lines_are_read_back_as_they_were(tmp_path: Path, compression: Any, ending: str):
    rows = [{"id": str(i), "text": f"é {i}", "source": "s", "metadata": {"a": [i]}} for i in range(100)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = Dataset.from_files(str(tmp_path / "in.jsonl")).map(lambda row: row, name="same")
    (name,) = plan.write_jsonl(str(tmp_path / "out"), compression=compression).run(workers=0).files
    assert name.endswith(ending)
    assert list(Dataset.from_files(str(tmp_path / "out")).iter_rows()) == rows
