"""What data commands read and write: outputs apart from inputs, folders of one meaning, files that are passed over."""

import gzip
import json
import os
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import pytest

from document_folders import write_shards
from marin.testing.tiny import write_byte_tokenizer

Marin = Callable[..., SimpleNamespace]


@pytest.fixture
def place(folder: Path) -> Path:
    write_shards(folder / "docs", [[{"id": str(i), "text": f"document {i} of a few"} for i in range(4)]])
    (folder / "items.jsonl").write_text(json.dumps({"text": "a question that nobody asks"}) + "\n")
    return folder


COMMANDS = {
    "dedup": ("data", "dedup", "INPUT", "OUTPUT", "--method", "exact"),
    "decontaminate": ("data", "decontaminate", "INPUT", "OUTPUT", "--against", "q=items.jsonl"),
    "filter": ("data", "filter", "INPUT", "OUTPUT", "--preset", "gopher"),
    "extract": ("data", "extract", "INPUT", "OUTPUT"),
    "sample": ("data", "sample", "INPUT", "-n", "1", "--out", "OUTPUT"),
    "download": ("data", "download", "warc", "INPUT", "--out", "OUTPUT"),
    "tokenize": ("tokenize", "run", "INPUT", "-o", "OUTPUT", "--tokenizer", "bytes"),
    "train": ("tokenize", "train", "INPUT", "-o", "OUTPUT", "--vocab-size", "300"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_is_apart_from_what_is_read(marin: Marin, place: Path, command: str):
    before = sorted(path for path in place.rglob("*"))
    into = "docs/kept.jsonl" if command == "sample" else "./docs/kept"
    cases = [("docs", into, "lies in docs, which is read")]
    if command != "sample":  # whose output is a file
        cases += [("docs", "docs/", "is also what is read"), ("do*", ".", "has docs in it, which is read")]
    for given, output, told in cases:
        words = [{"INPUT": given, "OUTPUT": output}.get(word, word) for word in COMMANDS[command]]
        assert f"OUTPUT {output} {told}" in marin(*words, expect=2).err
    assert sorted(path for path in place.rglob("*")) == before


def test_attributes_and_evaluation_sets_are_read_too(marin: Marin, place: Path):
    words = ("data", "filter", "docs", "signals", "--attributes", "signals", "--rule", "a > 1")
    (place / "signals").mkdir()
    assert "OUTPUT signals is also what is read" in marin(*words, expect=2).err
    words = ("data", "decontaminate", "items.jsonl", "docs/kept", "--against", "train=docs")
    assert "OUTPUT docs/kept lies in docs" in marin(*words, expect=2).err


def test_all_that_a_deduplication_wrote_is_no_folder_of_documents(marin: Marin, place: Path):
    marin("data", "dedup", "docs", "out", "--method", "exact", "--workers", "0")
    for words in (("stats", "out"), ("filter", "out", "kept", "--preset", "gopher"), ("dedup", "out", "o", *_EXACT)):
        said = marin("data", *words, expect=2).err
        assert "its documents are in out/documents, and what was found of each document is in out/attributes" in said
    assert "did you mean out/documents?" in marin("data", "funnel", "out", expect=2).err
    assert json.loads(marin("data", "stats", "out/documents", "--json").out)["rows"] == 4
    marin("data", "dedup", "docs", "found", *_EXACT, "--attributes-only", "--workers", "0")
    assert "it was made without documents" in marin("data", "head", "found", expect=2).err


_EXACT = ("--method", "exact")


def test_files_of_another_kind_that_are_not_read_are_told(marin: Marin, place: Path):
    for name in ("a.txt", "b.md", "sub/c.txt", "_d.txt"):
        (place / "docs" / name).parent.mkdir(exist_ok=True)
        (place / "docs" / name).write_text("text")
    told = "docs: not read, beside files of another kind: 1 .md, 2 .txt; to read those, name them: 'docs/**/*.md'"
    for words in (("stats", "docs"), ("head", "docs"), ("extract", "docs", "out", "--html-column", "text")):
        assert told in marin("data", *words).err
    assert "not read" not in marin("data", "stats", "docs/**/*.md").err


@pytest.mark.parametrize("command", ["exact", "minhash", "bloom", "paragraphs", "decontaminate", "filter", "measure"])
def test_the_text_may_be_in_a_column_of_another_name(marin: Marin, place: Path, command: str):
    texts = [" ".join(first + "".join(pair) for pair in permutations("aeiou", 3)) for first in "btk"]
    rows = [{"question": text, "text": "the same of all", "n": n} for n, text in enumerate([*texts, texts[0], None])]
    (place / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "set.jsonl").write_text(json.dumps({"q": texts[0]}) + "\n")
    words, folder, left = {
        "decontaminate": (("decontaminate", "in.jsonl", "out", "--against", "q=set.jsonl"), "out/documents", [1, 2]),
        "filter": (("filter", "in.jsonl", "out", "--rule", "text.length() > 100"), "out", [0, 1, 2, 3]),
        "measure": (("filter", "in.jsonl", "out", "--preset", "gopher_quality", "--measure"), "out", None),
    }.get(command, (("dedup", "in.jsonl", "out", "--method", command), "out/documents", [0, 1, 2]))
    options = ("--text-column", "question", "--max-bad", "0.2", "--workers", "0")
    marin("data", *words, *options)
    found = json.loads(marin("data", "head", folder, "--json").out)["rows"]
    assert len(found) == len(left or range(4))
    if left is not None:
        assert [(row["n"], row["text"]) for row in found] == [(n, rows[n]["question"]) for n in left]
        assert not any("question" in row for row in found)
    assert (
        "no column 'answer', which documents have"
        in marin("data", *words[:2], "o", *words[3:], "--text-column", "answer", expect=2).err
    )


FAULTY = {
    "stats": ("data", "stats", "INPUT"),
    "search": ("data", "search", "INPUT", "nothing"),
    "sample": ("data", "sample", "INPUT"),
    "filter": ("data", "filter", "INPUT", "out", "--filter", "c4", "--workers", "0"),
    "exact": ("data", "dedup", "INPUT", "out", "--method", "exact", "--workers", "0"),
    "minhash": ("data", "dedup", "INPUT", "out", "--method", "minhash", "--workers", "0"),
    "bloom": ("data", "dedup", "INPUT", "out", "--method", "bloom", "--workers", "0"),
    "decontaminate": ("data", "decontaminate", "INPUT", "out", "--against", "q=items.jsonl", "--workers", "0"),
    "extract": ("data", "extract", "INPUT", "out", "--html-column", "text", "--workers", "0"),
    "tokenizing": ("tokenize", "run", "INPUT", "-o", "out", "--tokenizer", "bytes", "--workers", "1"),
    "training": ("tokenize", "train", "INPUT", "-o", "out", "--vocab-size", "300"),
}


@pytest.mark.parametrize("command", FAULTY)
def test_damaged_input_and_bad_rows_end_every_command_in_one_way(marin: Marin, place: Path, command: str):
    (place / "cut").mkdir()
    (place / "bad").mkdir()
    write_byte_tokenizer(place / "bytes")
    rows = [json.dumps({"text": f"{i} of many"}) + "\n" for i in range(4000)]
    whole = gzip.compress("".join(rows).encode() + os.urandom(3000).hex().encode())
    (place / "cut" / "a.jsonl.gz").write_bytes(whole[: len(whole) * 3 // 4])
    (place / "bad" / "a.jsonl").write_text("".join(row if i % 5 else "{not" + row for i, row in enumerate(rows)))
    said = marin(*["cut" if word == "INPUT" else word for word in FAULTY[command]], expect=1).err
    assert "cut/a.jsonl.gz: after line 4000: the compressed data is damaged" in said
    assert "File " not in said and "Traceback" not in said
    if command not in ("stats", "search", "sample"):  # which count them, and say so
        said = marin(*["bad" if word == "INPUT" else word for word in FAULTY[command]], expect=1).err
        assert "800 of 4" in said and "max_bad=" in said and "Traceback" not in said


@pytest.mark.parametrize("command", ["dedup", "decontaminate"])
def test_folders_of_others_in_an_output_are_left_alone(marin: Marin, place: Path, command: str):
    for folder in ("work", "attributes"):
        (place / "mine" / folder).mkdir(parents=True)
        (place / "mine" / folder / "thesis.txt").write_text("for years")
    words = [{"INPUT": "docs", "OUTPUT": "mine"}.get(word, word) for word in COMMANDS[command]]
    assert "has work, attributes, and no run has made them" in marin(*words, "--workers", "0", expect=2).err
    assert sorted(path.name for path in (place / "mine").rglob("*.txt")) == ["thesis.txt"] * 2
    again = [{"INPUT": "docs", "OUTPUT": "ours"}.get(word, word) for word in COMMANDS[command]]
    for _ in range(2):  # our own output is made again
        marin(*again, "--workers", "0")


def test_a_refused_command_leaves_a_folder_of_others_as_it_was(marin: Marin, place: Path):
    before = sorted(place.rglob("*"))
    (place / "docs2").mkdir()
    (place / "docs2" / "a.jsonl").write_text('{"text": "of others"}\n')
    marin("data", "filter", "docs", "docs2", "--preset", "c4", "--workers", "0", expect=2)
    assert sorted(place.rglob("*")) == sorted([*before, place / "docs2", place / "docs2" / "a.jsonl"])


def test_a_whole_token_store_is_changed_when_that_is_asked_for(marin: Marin, place: Path):
    write_byte_tokenizer(place / "bytes")
    common = ("tokenize", "run", "docs", "-o", "store", "--tokenizer", "bytes", "--workers", "1")
    marin(*common)
    before = (place / "store" / "store.json").read_bytes()
    marin(*common)  # done already
    assert "would be made anew" in marin(*common, "--text-column", "id", expect=3).err
    assert "would be made anew" in marin(*common[:2], "items.jsonl", *common[3:], expect=3).err
    assert (place / "store" / "store.json").read_bytes() == before
    marin(*common[:2], "items.jsonl", *common[3:], "--overwrite")
    assert (place / "store" / "store.json").read_bytes() != before


def test_what_a_run_says_of_its_rows_is_no_evaluation_item(marin: Marin, place: Path):
    (place / "held").mkdir()
    (place / "held" / "_done").mkdir()
    (place / "held" / "_done" / "attempts.jsonl").write_text('{"stage": "write", "shard": "a of many words"}\n')
    (place / "held" / "a.jsonl").write_text((place / "items.jsonl").read_text())
    said = marin("data", "decontaminate", "docs", "out", "--against", "held=held", "--workers", "0", "--json").out
    assert json.loads(said)["evaluation_sets"]["held"]["items"] == 1
