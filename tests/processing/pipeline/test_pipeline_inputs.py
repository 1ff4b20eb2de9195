"""Which files a plan reads, what its outputs are called after them, and when that makes a shard another one."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.processing.formats.splits import find_files, plan_splits
from marin.processing.pipeline import Dataset
from marin.processing.tokenize.inputs import plan_inputs


def write_jsonl(path: Path, *ids: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"id": name, "text": f"text of {name}"}) + "\n" for name in ids))


def write_table(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def rows_of(folder: str | Path) -> list[dict[str, Any]]:
    return [row for file in sorted(Path(folder).rglob("*.parquet")) for row in pq.read_table(file).to_pylist()]


# -- labels -----------------------------------------------------------------------------------------------------------


def test_equal_names_in_two_folders_are_told_apart_by_the_folders(tmp_path: Path):
    for folder in ("a/train", "b/train", "b/test"):
        write_jsonl(tmp_path / folder / "x.jsonl", folder)
    write_jsonl(tmp_path / "b/train/y.jsonl", "y")
    labels = [label for label, _ in find_files([tmp_path / "a/train", tmp_path / "b/train", tmp_path / "b/test"])]
    assert labels == ["a/train/x.jsonl", "b/train/x.jsonl", "test/x.jsonl", "y.jsonl"]


def test_a_file_that_is_named_in_two_ways_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_jsonl(tmp_path / "raw/x.jsonl", "x")
    monkeypatch.chdir(tmp_path)
    assert find_files(["raw", str(tmp_path / "raw"), "./raw/../raw/x.jsonl"]) == [("x.jsonl", "raw/x.jsonl")]


@settings(deadline=None, max_examples=30)
@given(st.sets(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join), min_size=1, max_size=8))
def test_labels_are_relative_of_one_file_each_and_end_its_path(
    tmp_path_factory: pytest.TempPathFactory, folders: set[str]
):
    root = tmp_path_factory.mktemp("root")
    for folder in folders:
        write_jsonl(root / folder / "x.jsonl", folder)
    found = find_files([root / folder / "x.jsonl" for folder in folders])
    labels = [label for label, _ in found]
    assert len(set(labels)) == len(folders)
    assert all(not label.startswith("/") and path.endswith("/" + label) for label, path in found)
    assert found == find_files(sorted(root / folder / "x.jsonl" for folder in folders))


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
def test_outputs_named_by_their_inputs_never_lie_on_them(tmp_path: Path, ending: str):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        if ending == ".parquet":
            write_table(folder / "x.parquet", id=[folder.name], text=["lower"])
        else:
            write_jsonl(folder / "x.jsonl", folder.name)
    before = [(folder / f"x{ending}").read_bytes() for folder in folders]
    plan = Dataset.from_files(folders).map(lambda row: {**row, "text": row["text"].upper()}, name="shout")
    if ending == ".parquet":
        result = plan.write_parquet(tmp_path / "out", names="input").run(workers=0)
    else:
        result = plan.write_jsonl(tmp_path / "out", compression=None, names="input").run(workers=0)
    assert result.files == [f"a/x{ending}", f"b/x{ending}"]
    assert [(folder / f"x{ending}").read_bytes() for folder in folders] == before
    assert [row["text"].isupper() for row in Dataset.from_files(tmp_path / "out").iter_rows()] == [True, True]


@pytest.mark.parametrize("name", ["_x.jsonl", ".x.jsonl"])
def test_an_output_that_readers_would_pass_over_is_refused(tmp_path: Path, name: str):
    write_jsonl(tmp_path / name, "x")
    plan = Dataset.from_files(tmp_path / name).write_parquet(tmp_path / "out", names="input")
    with pytest.raises(ValueError, match="readers of the output pass over names that begin"):
        plan.run(workers=0)


# -- what makes a shard another one -----------------------------------------------------------------------------------


def test_other_columns_are_read_on_the_next_run(tmp_path: Path):
    write_table(tmp_path / "raw/a.parquet", id=["1"], n=[1], m=[2])
    for columns in (["id", "n"], ["id", "m"], ["m", "id"], None):
        Dataset.from_files(tmp_path / "raw", columns=columns).write_parquet(tmp_path / "out").run(workers=0)
        (row,) = rows_of(tmp_path / "out")
        assert list(row) == (columns or ["id", "n", "m"])


def test_a_file_of_wider_numbers_makes_the_shards_of_others_again(tmp_path: Path):
    def halved(row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], "type": type(row["n"]).__name__}

    write_table(tmp_path / "raw/a.parquet", id=["a"], n=[1])
    plan = Dataset.from_files(tmp_path / "raw").map(halved).write_parquet(tmp_path / "out", names="input")
    plan.run(workers=0)
    write_table(tmp_path / "raw/b.parquet", id=["b"], n=[0.5])
    plan.run(workers=0)
    assert [row["type"] for row in rows_of(tmp_path / "out")] == ["float", "float"]


# -- outputs that are not complete ------------------------------------------------------------------------------------


def fail_on_b(row: dict[str, Any]) -> dict[str, Any]:
    if row["id"] == "b":
        raise TypeError("a mistake")
    return row


def test_outputs_of_a_run_that_failed_are_not_read_in_whatever_way_they_are_named(tmp_path: Path):
    for name in ("a", "b"):
        write_jsonl(tmp_path / "raw" / name / "x.jsonl", name)
    out = tmp_path / "set/out"
    plan = Dataset.from_files(tmp_path / "raw").map(fail_on_b).write_parquet(out, names="input")
    with pytest.raises(RuntimeError, match="1 of 2 shards"):
        plan.run(workers=0)
    named = [out, out / "a/x.parquet", out / "a", tmp_path / "set", tmp_path / "set/**/*.parquet", out / "*/*.parquet"]
    for path in named:
        for read in (plan_splits, lambda path: plan_inputs(path, format=None), lambda p: Dataset.from_files(p).take(1)):
            with pytest.raises(ValueError, match=f"{out}: the run that writes there has not finished"):
                read(str(path))
    write_jsonl(tmp_path / "raw/b/x.jsonl", "c")
    plan.run(workers=0)
    for path in named:
        assert Dataset.from_files(path).take(1)[0]["id"] == "a"


def test_an_output_without_files_yet_is_missed(tmp_path: Path):
    write_jsonl(tmp_path / "raw/x.jsonl", "b")
    write_jsonl(tmp_path / "set/done/y.jsonl", "a")
    with pytest.raises(RuntimeError):
        Dataset.from_files(tmp_path / "raw").map(fail_on_b).write_jsonl(tmp_path / "set/out").run(workers=0)
    for path in (tmp_path / "set", tmp_path / "set/*/*.jsonl*", tmp_path / "set/out"):
        with pytest.raises(ValueError, match="has not finished"):
            find_files(path)


# -- rows without text ------------------------------------------------------------------------------------------------


def test_rows_without_text_are_counted_where_they_are_written_and_where_they_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    write_jsonl(tmp_path / "in.jsonl", "a", "b", "c")
    rows = Dataset.from_files(str(tmp_path / "in.jsonl"))
    emptied = rows.map(lambda row: {**row, "text": None if row["id"] < "c" else row["text"]})
    result = emptied.write_parquet(str(tmp_path / "out")).run(workers=0)
    assert (result.counters["rows_out"], result.rows_without_text) == (3, 2)
    assert "3 rows in, 3 out, of which 2 have no text" in capsys.readouterr().err
    assert [row["id"] for row in Dataset.from_files(str(tmp_path / "out")).iter_rows()] == ["c"]
    assert "bad rows, which were passed over: 2 no text; the first is part-" in capsys.readouterr().err
    assert rows.write_parquet(str(tmp_path / "whole")).run(workers=0).rows_without_text == 0


# -- over an earlier output -------------------------------------------------------------------------------------------


def test_what_another_plan_made_is_said_to_be_replaced(tmp_path: Path, capsys: pytest.CaptureFixture):
    write_jsonl(tmp_path / "in.jsonl", "a", "b")

    def told(source: str) -> str:
        rows = Dataset.from_files(str(tmp_path / "in.jsonl")).map(lambda row: {**row, "source": source})
        capsys.readouterr()
        rows.write_parquet(str(tmp_path / "out")).run(workers=0)
        return capsys.readouterr().err

    assert "replaced" not in told("x") + told("x")
    assert "1 of 1 shards there are replaced: made with other settings or code" in told("y")
    write_jsonl(tmp_path / "in.jsonl", "c")
    assert "1 of 1 shards there are replaced: made of other inputs" in told("y")
