"""Plans that are carried out: what comes out, what is counted, and what happens on the second call."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marin.io.atomic import write_text
from marin.io.hashing import sha256_file
from marin.processing.pipeline import BadRow, BatchResult, Dataset, Dropped, col
from marin.processing.pipeline.sinks import Written


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    """Twelve documents in three files, with splits so small that each file has several."""
    for number in range(3):
        rows = [
            {"id": f"{number}-{i}", "text": f"text {number} {i} " * (i + 1), "source": "s", "metadata": {"i": i}}
            for i in range(4)
        ]
        write_jsonl(tmp_path / "raw" / f"{number}.jsonl", rows)
    return str(tmp_path / "raw")


def rows_of(folder: str | Path) -> list[dict[str, Any]]:
    return [row for file in sorted(Path(folder).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def attempts(folder: str | Path) -> list[str]:
    lines = (Path(folder) / "_done" / "attempts.jsonl").read_text().splitlines()
    return [json.loads(line)["shard"] for line in lines]


def shout(row: dict[str, Any]) -> dict[str, Any] | Dropped:
    if row["metadata"]["i"] == 0:
        return Dropped("first", {"i": 0})
    if row["metadata"]["i"] == 1 and row["id"].startswith("1"):
        raise ValueError("one of one: details")
    return {**row, "text": row["text"].upper(), "metadata": {**row["metadata"], "shouted": True}}


def test_rows_pass_through_all_operations_and_are_counted(corpus: str, tmp_path: Path):
    plan = (
        Dataset.from_files(corpus, split_bytes=100)
        .map(shout)
        .with_columns({"length": col("text").length()})
        .filter(col("length") < 35, name="long")
        .select(["id", "text", "metadata"])
        .write_parquet(str(tmp_path / "out"))
    )
    result = plan.run(workers=0, max_bad=1)
    rows = rows_of(tmp_path / "out")
    assert [row["id"] for row in rows] == ["0-1", "0-2", "1-2", "2-1", "2-2"]
    assert rows[0]["text"] == "TEXT 0 1 TEXT 0 1 "
    assert json.loads(rows[0]["metadata"]) == {"i": 1, "shouted": True}
    assert [(c.name, c.rows_in, c.rows_out) for c in result.funnel] == [
        ("read", 12, 12),
        ("shout", 12, 8),
        ("with_columns", 8, 8),
        ("long", 8, 5),
        ("select", 5, 5),
    ]
    shouted, long = result.funnel[1], result.funnel[3]
    assert shouted.dropped == {"first": 3} and shouted.bad == {"one of one": 1}
    assert shouted.samples["first"][0]["numbers"] == {"i": 0}
    assert long.samples["long"][0]["numbers"] == {"length": 36}
    assert result.counters["dropped"] == 6 and result.counters["bad"] == 1
    (bad,) = [json.loads(line) for file in (tmp_path / "out/_bad").rglob("*.jsonl") for line in file.open()]
    assert bad["id"] == "1-1" and bad["operation"] == "shout" and bad["reason"] == "one of one: details"


def test_the_same_bytes_come_out_for_any_number_of_workers(corpus: str, tmp_path: Path):
    plan = Dataset.from_files(corpus, split_bytes=100).map(shout)
    outputs = []
    for workers in (0, 1, 2):
        folder = tmp_path / f"out-{workers}"
        plan.write_parquet(str(folder)).run(workers=workers, max_bad=1)
        files = [
            file for file in sorted(folder.iterdir()) if file.suffix in (".parquet",) or file.name == "_funnel.json"
        ]
        outputs.append({file.name: file.read_bytes() for file in files})
    assert outputs[0] == outputs[1] == outputs[2]
    assert len(outputs[0]) > 4


def test_a_second_call_does_nothing_again(corpus: str, tmp_path: Path):
    plan = Dataset.from_files(corpus).map(shout).write_parquet(str(tmp_path / "out"))
    first = plan.run(workers=0, max_bad=1)
    before = attempts(tmp_path / "out")
    second = plan.run(workers=0, max_bad=1)
    assert attempts(tmp_path / "out") == before
    assert second == first


def test_a_deleted_output_is_made_again_and_alone(corpus: str, tmp_path: Path):
    plan = Dataset.from_files(corpus, split_bytes=100).map(shout).write_parquet(str(tmp_path / "out"))
    result = plan.run(workers=0, max_bad=1)
    lost = tmp_path / "out" / result.files[1]
    content = lost.read_bytes()
    lost.unlink()
    before = attempts(tmp_path / "out")
    plan.run(workers=0, max_bad=1)
    assert attempts(tmp_path / "out")[len(before) :] == [lost.stem]
    assert lost.read_bytes() == content


def test_verify_finds_an_output_that_was_changed_in_place(corpus: str, tmp_path: Path):
    plan = Dataset.from_files(corpus).write_parquet(str(tmp_path / "out"))
    (name,) = plan.run(workers=0).files
    file = tmp_path / "out" / name
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"?")
    plan.run(workers=0)
    assert file.read_bytes() != content
    plan.run(workers=0, verify=True)
    assert file.read_bytes() == content


def test_a_changed_input_or_operation_makes_its_shards_again(corpus: str, tmp_path: Path):
    out = str(tmp_path / "out")
    Dataset.from_files(corpus, split_bytes=100).filter(col("id") != "x", name="f").write_parquet(out).run(workers=0)
    write_jsonl(Path(corpus) / "1.jsonl", [{"id": "new", "text": "new"}])
    Dataset.from_files(corpus, split_bytes=100).filter(col("id") != "x", name="f").write_parquet(out).run(workers=0)
    assert [row["id"] for row in rows_of(out)] == ["0-0", "0-1", "0-2", "0-3", "new", "2-0", "2-1", "2-2", "2-3"]
    Dataset.from_files(corpus, split_bytes=100).filter(col("id") != "new", name="f").write_parquet(out).run(workers=0)
    assert "new" not in [row["id"] for row in rows_of(out)]


def test_outputs_of_another_plan_are_not_mixed_in(corpus: str, tmp_path: Path):
    out = tmp_path / "out"
    Dataset.from_files(corpus, split_bytes=50).write_parquet(str(out)).run(workers=0)
    many = len(list(out.glob("*.parquet")))
    Dataset.from_files(corpus).write_parquet(str(out)).run(workers=0)
    assert many > 3 and [file.name for file in out.glob("*.parquet")] == ["part-00000-of-00001.parquet"]
    assert len(rows_of(out)) == 12


def test_the_same_output_in_another_compression_takes_the_place_of_the_first(corpus: str, tmp_path: Path):
    out = tmp_path / "out"
    in_turn: list[tuple[Any, str]] = [(None, ".jsonl"), ("gz", ".jsonl.gz"), ("zst", ".jsonl.zst")]
    for compression, ending in in_turn:
        Dataset.from_files(corpus).write_jsonl(out, compression=compression).run(workers=0, progress=False)
        assert [file.name for file in out.glob("part-*")] == [f"part-00000-of-00001{ending}"]
    unknown: Any = "gzip"
    with pytest.raises(ValueError, match="'jsonl.gzip' is none of"):
        Dataset.from_files(corpus).write_jsonl(out, compression=unknown)


def test_an_output_of_which_parts_are_being_removed_is_not_taken_for_a_complete_one(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    Dataset.from_files(corpus, split_bytes=50).write_parquet(out).run(workers=0, progress=False)

    def remove_and_die(path: str) -> None:
        Path(path).unlink()
        raise SystemExit

    monkeypatch.setattr("marin.processing.pipeline.output.remove_all", remove_and_die)
    with pytest.raises(SystemExit):
        Dataset.from_files(corpus).write_parquet(out).run(workers=0, progress=False)
    with pytest.raises(ValueError, match="has not finished"):
        list(Dataset.from_files(out).iter_rows())


def test_files_of_others_in_the_output_folder_are_refused(corpus: str, tmp_path: Path):
    out = tmp_path / "out"
    write_jsonl(out / "mine.jsonl", [{"text": "precious"}])
    with pytest.raises(ValueError, match=r"this engine has not made \(mine.jsonl\)"):
        Dataset.from_files(corpus).write_parquet(str(out)).run(workers=0)
    assert (out / "mine.jsonl").exists()


def test_an_output_folder_that_is_read_from_is_refused(corpus: str):
    with pytest.raises(ValueError, match="read from the folder that is written to"):
        Dataset.from_files(corpus).write_parquet(corpus).run(workers=0)


def test_too_many_bad_rows_fail_the_run_with_their_kinds(corpus: str, tmp_path: Path):
    plan = Dataset.from_files(corpus).map(shout).write_parquet(str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"1 of 12 rows are bad \(1 'one of one'\), more than max_bad=0.01"):
        plan.run(workers=0)


def break_on_two(row: dict[str, Any]) -> dict[str, Any]:
    return row if row["id"] != "1-2" or os.path.exists(row["source"]) else row["no such column"]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_fails_its_shard_and_no_other(corpus: str, tmp_path: Path, workers: int):
    plan = Dataset.from_files(corpus, split_bytes=100).map(break_on_two).write_parquet(str(tmp_path / "out"))
    with pytest.raises(RuntimeError) as caught:
        plan.run(workers=workers)
    message = str(caught.value)
    assert "break_on_two: row '1-2': KeyError: 'no such column'" in message and "(1.jsonl)" in message
    assert "are complete; the same call makes only these again" in message
    made = list((tmp_path / "out").glob("*.parquet"))
    assert made and not [row for row in rows_of(tmp_path / "out") if row["id"] == "1-2"]
    assert attempts(tmp_path / "out").count(message.split()[9]) <= 1


def lose_one(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.slice(1)


def name_one(batch: pa.RecordBatch) -> BatchResult:
    bad = [BadRow(id=batch.column("id")[1].as_py(), reason="second: of a batch")]
    return BatchResult(batch.slice(2), dropped={"first of a batch": 1}, bad=bad)


def test_a_batch_operation_must_say_why_rows_are_gone(corpus: str, tmp_path: Path):
    with pytest.raises(RuntimeError, match="lose_one: 4 rows went in, 3 came out, and 0 were dropped or bad"):
        Dataset.from_files(f"{corpus}/0.jsonl").map_batches(lose_one).write_parquet(str(tmp_path / "a")).run(workers=0)
    plan = Dataset.from_files(f"{corpus}/0.jsonl").map_batches(name_one).write_parquet(str(tmp_path / "b"))
    result = plan.run(workers=0, max_bad=1)
    assert result.funnel[1].dropped == {"first of a batch": 1} and result.funnel[1].bad == {"second": 1}


def test_flat_map_counts_rows_that_it_adds_and_those_without_any(corpus: str, tmp_path: Path):
    plan = Dataset.from_files(corpus).flat_map(lambda row: [row] * row["metadata"]["i"], name="copies")
    result = plan.write_parquet(str(tmp_path / "out")).run(workers=0)
    copies = result.funnel[1]
    assert (copies.rows_in, copies.rows_out, copies.expanded) == (12, 18, 9)
    assert copies.dropped == {"copies: no rows": 3}


def test_a_filter_asks_what_a_missing_value_means(tmp_path: Path):
    rows = [{"id": "a", "x": 1}, {"id": "b", "x": None}, {"id": "c", "x": 3}]
    data = Dataset.from_items(rows)
    with pytest.raises(RuntimeError, match="row 'b' has no value in x, so x > 1 is neither true nor false"):
        data.filter("x > 1").write_parquet(str(tmp_path / "a")).run(workers=0)
    dropping = data.filter("x > 1", missing="drop").write_parquet(str(tmp_path / "b")).run(workers=0)
    assert [row["id"] for row in rows_of(tmp_path / "b")] == ["c"]
    assert dropping.funnel[1].dropped == {"x > 1": 1, "x > 1: missing": 1}
    data.filter("x > 1", missing="keep").write_parquet(str(tmp_path / "c")).run(workers=0)
    assert [row["id"] for row in rows_of(tmp_path / "c")] == ["b", "c"]


def test_a_sample_is_of_ids_whatever_their_order(tmp_path: Path):
    rows = [{"id": str(i)} for i in range(1000)]
    some = [row["id"] for row in Dataset.from_items(rows).sample(0.3, seed=1).iter_rows()]
    others = [row["id"] for row in Dataset.from_items(rows[::-1], num_shards=7).sample(0.3, seed=1).iter_rows()]
    assert sorted(some) == sorted(others) and 200 < len(some) < 400
    assert some != [row["id"] for row in Dataset.from_items(rows).sample(0.3, seed=2).iter_rows()]


def test_columns_that_turn_up_late_are_null_before(tmp_path: Path):
    rows = [{"id": str(i), "n": i} for i in range(5000)]

    def late(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "half": row["n"] / 2} if row["n"] > 4000 else {**row, "n": None} if row["n"] < 3000 else row

    Dataset.from_items(rows).map(late).write_parquet(str(tmp_path / "out")).run(workers=0)
    made = rows_of(tmp_path / "out")
    assert made[0] == {"id": "0", "n": None, "half": None}
    assert made[-1] == {"id": "4999", "n": 4999, "half": 2499.5}


def test_an_output_that_is_not_complete_cannot_be_read(corpus: str, tmp_path: Path):
    plan = Dataset.from_files(corpus).map(shout).write_parquet(tmp_path / "out")
    with pytest.raises(ValueError, match="rows are bad"):
        plan.run(workers=0)
    with pytest.raises(ValueError, match="has not finished, so rows may be missing"):
        Dataset.from_files(tmp_path / "out").take(1)
    plan.run(workers=0, max_bad=1)
    assert Dataset.from_files(tmp_path / "out").take(1)[0]["id"] == "0-1"


def test_what_cannot_be_sent_to_a_worker_is_said(tmp_path: Path):
    plan = Dataset.from_items([{"id": "a"}]).write(tmp_path / "out", Unsendable())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be sent to other processes: cannot pickle"):
        plan.run(workers=1)


@dataclasses.dataclass(frozen=True)
class Unsendable:
    """A sink with a lock."""

    lock: Any = dataclasses.field(default_factory=threading.Lock, compare=False)
    ending = ".txt"


@dataclasses.dataclass(frozen=True)
class CountSink:
    """Writes how many rows a shard has."""

    version: ClassVar[int] = 1
    ending = ".count"

    def write(self, path: str, batches: Iterator[pa.RecordBatch], schema: pa.Schema | None = None) -> Written:
        rows = sum(batch.num_rows for batch in batches)
        write_text(path, str(rows))
        return Written(rows=rows, bytes=len(str(rows)), sha256=sha256_file(path)[1], columns={})


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sink_of_ones_own_gets_the_rows_of_each_shard(corpus: str, tmp_path: Path, workers: int):
    plan = Dataset.from_files(corpus).filter("id != '0-0'").write(tmp_path / "out", CountSink(), names="input")
    assert plan.run(workers=workers).files == ["0.count", "1.count", "2.count"]
    assert [(tmp_path / "out" / f"{i}.count").read_text() for i in range(3)] == ["3", "4", "4"]


def test_making_a_plan_loads_no_arrow():
    script = (
        "import sys; from marin.processing.pipeline import Dataset, parse\n"
        "Dataset.from_files('x').filter('n > 1').map(dict).write_parquet('y')\n"
        "print({'pyarrow', 'numpy', 'numba', 'ray'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "set()"


def test_other_programs_read_the_folder_of_an_output_as_it_is(tmp_path: Path):
    rows = [{"id": str(n), "text": "a"} for n in range(5)]
    Dataset.from_items(rows, num_shards=2).write_parquet(str(tmp_path / "out")).run(workers=0)
    assert pq.read_table(tmp_path / "out").column("id").to_pylist() == [row["id"] for row in rows]


def test_metadata_of_anybodys_file_that_is_no_json_does_not_fail_its_shard(tmp_path: Path):
    texts = ['{"i": 2}', "not json", '{"i": 1}']
    table = pa.table({"id": ["a", "b", "c"], "text": ["x"] * 3, "metadata": texts})
    pq.write_table(table, tmp_path / "a.parquet")
    plan = Dataset.from_files(tmp_path / "a.parquet").map(shout).write_jsonl(tmp_path / "out", compression=None)
    result = plan.run(workers=0, max_bad=0.5)
    assert result.funnel[0].bad == {"metadata is no object": 1} and result.counters["rows_out"] == 2


def test_an_operation_that_makes_metadata_no_json_is_told_with_the_row(tmp_path: Path):
    data = Dataset.from_items([{"id": "a", "other": "no json"}]).with_columns({"metadata": "other"})
    with pytest.raises(RuntimeError, match="row 'a': column 'metadata' must hold JSON, .* 'no json'"):
        data.map(dict).write_parquet(tmp_path / "out").run(workers=0)
