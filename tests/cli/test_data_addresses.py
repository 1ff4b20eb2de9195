"""Data commands on the objects of a store: read by address, written where a plan of the engine writes, else refused."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from document_folders import write_shards
from marin.io.files import write_bytes
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.testing.tiny import write_byte_tokenizer

pytest.importorskip("obstore")

Marin = Callable[..., SimpleNamespace]
ROWS = [{"id": f"d{i}", "text": f"document {i % 30} of a few that are alike", "source": "a"} for i in range(40)]


@pytest.fixture
def bucket(folder: Path) -> str:
    """memory://NAME/docs with a .jsonl.gz and a plain file whose name needs quoting, as docs/ has them."""
    write_shards(folder / "docs", [ROWS[:25]])
    (folder / "docs" / "more #1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[25:]))
    name = f"memory://{folder.name}"
    for path in (folder / "docs").iterdir():
        write_bytes(f"{name}/docs/{path.name}", path.read_bytes())
    return name


@pytest.fixture
def place(folder: Path, bucket: str) -> Path:
    write_byte_tokenizer(folder / "bytes")
    (folder / "items.jsonl").write_text(json.dumps({"text": "a question that nobody asks"}) + "\n")
    return folder


LOOKS = {
    "head": ("data", "head", "INPUT", "-n", "2", "--offset", "30", "--json"),
    "stats": ("data", "stats", "INPUT", "--json"),
    "search": ("data", "search", "INPUT", "document 7 ", "--json"),
    "sample": ("data", "sample", "INPUT", "-n", "3"),
}


@pytest.mark.parametrize("command", LOOKS)
def test_what_is_seen_of_objects_is_what_is_seen_of_files(marin: Marin, place: Path, bucket: str, command: str):
    here, there = (
        marin(*[of if word == "INPUT" else word for word in LOOKS[command]]).out for of in ("docs", f"{bucket}/docs")
    )
    assert there.replace(f"{bucket}/", "") == here and here


def test_a_plan_of_the_engine_reads_and_writes_objects(marin: Marin, place: Path, bucket: str):
    for given, output in (("docs", "one"), (f"{bucket}/docs", f"{bucket}/two")):
        marin("data", "filter", given, output, "--rule", "id != 'd7'", "--workers", "0")
    shown = [marin("data", "funnel", output).out for output in ("one", f"{bucket}/two")]
    assert shown[0].replace("| one |", "| two |").replace("## one", "## two") == shown[1] and "| 40 |" in shown[1]


WRITES = {
    "dedup": ("data", "dedup", "INPUT", "OUTPUT", "--method", "exact", "--workers", "0"),
    "decontaminate": ("data", "decontaminate", "INPUT", "OUTPUT", "--against", "q=items.jsonl", "--workers", "0"),
    "tokenize": ("tokenize", "run", "INPUT", "-o", "OUTPUT", "--tokenizer", "bytes", "--workers", "1"),
    "train": ("tokenize", "train", "INPUT", "-o", "OUTPUT", "--vocab-size", "270"),
}


@pytest.mark.parametrize("command", WRITES)
def test_what_only_a_disk_can_take_is_refused_before_work(marin: Marin, place: Path, bucket: str, command: str):
    words = [{"INPUT": f"{bucket}/docs", "OUTPUT": f"{bucket}/out"}.get(word, word) for word in WRITES[command]]
    assert "a folder of this machine alone" in marin(*words, expect=2).err
    assert not list(place.glob("memory*"))
    marin(*[{"INPUT": f"{bucket}/docs", "OUTPUT": "out"}.get(word, word) for word in WRITES[command]])
    assert (place / "out").is_dir()


def test_a_tokenizer_and_its_tokens_are_those_of_the_files(marin: Marin, place: Path, bucket: str):
    for given, name in (("docs", "here"), (f"{bucket}/docs", "there")):
        marin("tokenize", "train", given, "-o", f"{name}-tokenizer", "--vocab-size", "270")
        marin("tokenize", "run", given, "-o", name, "--tokenizer", "bytes", "--workers", "1")
    assert load_tokenizer("here-tokenizer").digest == load_tokenizer("there-tokenizer").digest
    stores = [
        {path.relative_to(name): path.read_bytes() for path in sorted(Path(name).glob("shard-*/*")) if path.is_file()}
        for name in ("here", "there")
    ]
    assert stores[0] == stores[1] and stores[0]


def test_what_is_not_there_is_told_in_one_line(marin: Marin, place: Path, bucket: str):
    assert f"no file or folder at {bucket}/none" in marin("data", "head", f"{bucket}/none", expect=2).err
    assert "is no address of files: known are s3://" in marin("data", "head", "ftp://a/b", expect=2).err
