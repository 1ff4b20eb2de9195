"""A plan of the data engine has one outcome, wherever its files lie: on a disk, or in an object store."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marin.io import files
from marin.processing.formats.writing import open_writer
from marin.processing.pipeline import Dataset
from marin.testing.tiny import tiny_documents, write_byte_tokenizer
from s3_server import Answer, Doorkeeper

DOCUMENTS = pa.schema([(name, pa.string()) for name in ("id", "text", "source", "metadata")])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Files of every format that is cut or read by ranges; one row is bad, one name is no part of it."""
    folder = tmp_path / "raw"
    (folder / "inner").mkdir(parents=True)
    rows = tiny_documents(120)
    table = pa.Table.from_pylist(
        [{**row, "metadata": json.dumps(row["metadata"])} for row in rows[:60]], schema=DOCUMENTS
    )
    for name, format in (("a.jsonl.zst", "jsonl.zst"), ("inner/b.jsonl.gz", "jsonl.gz"), ("c.arrow", "arrow")):
        with open_writer(folder / name, format) as writer:
            writer.write(table.to_batches()[0])  # an Arrow file in a store is not cut into its batches
    pq.write_table(table, folder / "d.parquet", row_group_size=25)
    lines = "".join(json.dumps(row) + "\n" for row in rows[60:])
    (folder / "inner/e.jsonl").write_text(lines + "{broken\n")
    (folder / "_aside.jsonl").write_text("{broken\n" * 9)
    return folder


def put(folder: Path, place: str) -> None:
    bucket = files.bucket_of(place)
    for name, _ in files.tree(str(folder)):
        with open(folder / name, "rb") as file:
            bucket.upload(file, f"{place}/{name}")


def content(place: str) -> dict[str, bytes]:
    """Every file of an output, but for what depends on machine and place."""
    names = [name for name, _ in files.tree(place) if not name.startswith("_done/") and name != "_timing.json"]
    return {name: files.read_bytes(f"{place}/{name}") for name in names}


def first_of(key: str, rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
    return next(rows)


def plan(raw: str, output: str) -> Dataset:
    data = Dataset.from_files(f"{raw}/**/*.*", split_bytes=2000).map(lambda row: {**row, "size": len(row["text"])})
    return data.group_by("text", first_of, num_shards=3).write_parquet(output)


@pytest.fixture
def memory(tmp_path: Path) -> str:
    pytest.importorskip("obstore", reason="needs obstore: pip install -e '.[remote]'")
    return f"memory://{tmp_path.name}-{os.urandom(4).hex()}"


@pytest.mark.parametrize("kind", ["file", "memory", "s3"])
def test_a_plan_gives_the_same_files_on_every_store(kind: str, raw: Path, tmp_path: Path, request):
    plan(str(raw), str(tmp_path / "expected")).run(workers=0, max_bad=0.1)
    if kind == "file":
        source, written, output = raw.as_uri(), (tmp_path / "out").as_uri(), str(tmp_path / "out")
    else:
        place = request.getfixturevalue("memory" if kind == "memory" else "s3_prefix")
        source, written, output = f"{place}/raw", f"{place}/out", f"{place}/out"
        put(raw, source)
    result = plan(source, written).run(workers=1 if kind == "s3" else 0, max_bad=0.1)
    assert content(output) == content(str(tmp_path / "expected"))
    assert result.counters["bad"] == 1 and len(content(output)) == 5
    assert not any(name.startswith("_work/") for name, _ in files.tree(output))
    again = Dataset.from_files(f"{written}/part-*.parquet")
    assert sum(1 for _ in again.iter_rows()) == result.counters["rows_out"]


def test_what_a_store_refuses_fails_its_shard_and_the_next_run_makes_that_alone(s3_prefix: str, s3_door: Doorkeeper):
    written: list[str] = []

    def rule(method: str, path: str) -> Answer | None:
        if method == "PUT" and path.endswith(".parquet"):
            written.append(path.rpartition("/")[2])
            return (403, "AccessDenied") if path.endswith("part-00001-of-00003.parquet") and is_refused else None
        return None

    is_refused, s3_door.rule = True, rule
    output = f"{s3_prefix}/out"
    data = Dataset.from_items([{"id": str(i)} for i in range(6)], num_shards=3).write_parquet(output)
    with pytest.raises(RuntimeError, match=r"1 of 3 shards .*\n .*AccessDenied.*AWS_ACCESS_KEY_ID"):
        data.run(workers=0)
    for path in (output, f"{output}/*.parquet", f"{output}/part-00000-of-00003.parquet"):
        with pytest.raises(ValueError, match=f"{output}: the run that writes there has not finished"):
            Dataset.from_files(path).take(1)
    is_refused = False
    written.clear()
    data.run(workers=0)
    assert written == ["part-00001-of-00003.parquet"]
    ids = [row["id"] for row in Dataset.from_files(output).iter_rows()]
    assert ids == [str(i) for i in range(6)]
    data.run(workers=0)
    assert len(written) == 1


def test_an_output_that_somebody_else_has_written_is_none(memory: str):
    output = f"{memory}/out"
    path = f"{output}/part-00000-of-00002.parquet"
    intrude = False

    def maybe_intrude(row: dict[str, Any]) -> dict[str, Any]:
        if intrude and row["id"] == "1":
            files.write_bytes(path, b"of another run")
        return row

    data = Dataset.from_items([{"id": "0"}, {"id": "1"}], num_shards=2).map(maybe_intrude, name="intrude")
    maybe_intrude.version = 1  # type: ignore[attr-defined]
    data = data.write_parquet(output)
    data.run(workers=0)
    whole = files.read_bytes(path)
    files.write_bytes(path, whole[::-1])  # as many bytes
    intrude = True
    files.remove(f"{output}/part-00001-of-00002.parquet")
    with pytest.raises(RuntimeError, match="another run has written there meanwhile, part-00000-of-00002"):
        data.run(workers=0)
    assert not files.is_file(f"{output}/_funnel.json")
    intrude = False
    data.run(workers=0)
    assert files.read_bytes(path) == whole
    path, intrude = f"{output}/part-00000-of-00009.parquet", True
    files.remove(f"{output}/part-00001-of-00002.parquet")
    with pytest.raises(RuntimeError, match="another run has written there meanwhile, part-00000-of-00009.parquet"):
        data.run(workers=0)


def test_a_token_store_is_written_to_a_store_as_to_a_disk(memory: str, tmp_path: Path):
    tokenizer = write_byte_tokenizer(tmp_path / "tokenizer")
    data = Dataset.from_items(tiny_documents(20), num_shards=2)
    data.write_tokens(tmp_path / "here", tokenizer=tokenizer).run(workers=0)
    there = data.write_tokens(f"{memory}/there", tokenizer=tokenizer)
    there.run(workers=0)
    expected = {name: (tmp_path / "here" / name).read_bytes() for name, _ in files.tree(str(tmp_path / "here"))}
    found = {name: files.read_bytes(f"{memory}/there/{name}") for name, _ in files.tree(f"{memory}/there")}
    stores = [{name: data for name, data in one.items() if not name.startswith("_")} for one in (found, expected)]
    assert stores[0] == stores[1] and len(stores[0]) == 8
    files.remove(f"{memory}/there/shard-00001/tokens.bin")
    there.run(workers=0)
    assert files.read_bytes(f"{memory}/there/shard-00001/tokens.bin") == expected["shard-00001/tokens.bin"]


def test_an_object_that_is_replaced_while_it_is_read_is_an_error(memory: str):
    line = b'{"id": "1", "text": "' + b"x" * 1000 + b'"}\n'
    files.write_bytes(f"{memory}/a.jsonl", line * 1000)
    rows = Dataset.from_files(f"{memory}/a.jsonl").iter_rows()
    next(rows)
    with files.open_input(f"{memory}/a.jsonl") as file:
        file.read(10)
        files.write_bytes(f"{memory}/a.jsonl", line * 1001)
        with pytest.raises(OSError, match="written anew while it was read"):
            file.read()


def test_what_is_no_address_of_files_is_refused_at_once(memory: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="'hf://datasets/x' is no address of files: known are s3://"):
        Dataset.from_files("hf://datasets/x")
    with pytest.raises(ValueError, match="give it as a string, not as a Path"):
        Dataset.from_files(Path("s3://bucket/raw"))
    with pytest.raises(FileNotFoundError, match=f"no file or folder at {memory}/nothing"):
        Dataset.from_files(f"{memory}/nothing/").take(1)
    with pytest.raises(FileNotFoundError, match="the glob matches no file"):
        Dataset.from_files(f"{memory}/*.jsonl").take(1)
    monkeypatch.setitem(sys.modules, "obstore", None)
    for data in (Dataset.from_files("s3://other/raw"), Dataset.from_items([{"id": "1"}])):
        with pytest.raises(ValueError, match=r"pip install 'marin\[remote\]'"):
            data.write_parquet("s3://other/out").run(workers=0)
