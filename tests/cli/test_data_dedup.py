"""`marin data dedup | decontaminate`: what is removed, said in a table, and refused where it is too much."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from document_folders import read_rows, write_shards

Marin = Callable[..., SimpleNamespace]
TEXT = " ".join(f"{name} number {i}" for i, name in enumerate(("oak", "elm", "ash", "fir", "yew", "box") * 6))
QUESTION = "Of the nine boats in the harbour four have left by noon and one came back. How many are there?"


@pytest.fixture
def place(folder: Path) -> Path:
    rows = [
        {"id": "a", "text": TEXT, "source": "books"},
        {"id": "b", "text": TEXT, "source": "web"},
        {"id": "c", "text": TEXT + " more", "source": "web"},
        {"id": "d", "text": f"{QUESTION}\n\nFour.", "source": "web"},
    ]
    write_shards(folder / "docs", [rows])
    (folder / "items.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n")
    return folder


@pytest.mark.parametrize(
    ("method", "left"), [("exact", ["a", "c", "d"]), ("minhash", ["a", "d"]), ("paragraphs", ["a", "c", "d"])]
)
def test_duplicates_are_removed_and_counted(marin: Marin, place: Path, method: str, left: list[str]):
    said = marin("data", "dedup", "docs", "out", "--method", method, "--workers", "0")
    assert [row["id"] for row in read_rows(place / "out" / "documents")] == left
    assert [line.split()[:3] for line in said.out.splitlines()[1:]] == [
        ["web", "3", str(4 - len(left))],
        ["books", "1", "0"],
    ]
    assert "Next: marin data head out/documents" in said.err


def test_too_much_is_refused_until_it_is_allowed(marin: Marin, place: Path):
    rows = [{"id": str(i), "text": TEXT, "source": "forms"} for i in range(120)]
    write_shards(place / "forms", [rows])
    words = ["data", "dedup", "forms", "out", "--method", "exact", "--workers", "0"]
    said = marin(*words, expect=3)
    assert "source 'forms' would keep 1 of 120 documents" in said.err
    assert not (place / "out" / "documents").exists()
    report = json.loads(marin(*words, "--allow", "forms=1", "--json").out)
    assert (report["documents"], report["removed"], report["output"]) == (120, 119, "out")


def test_a_source_that_is_not_there_is_told(marin: Marin, place: Path):
    allowed = marin("data", "dedup", "docs", "out", "--method", "exact", "--allow", "wbe=0.9", "--priority", "web,boks")
    assert "source 'wbe'" in allowed.err and "source 'boks'" in allowed.err and "are books, web" in allowed.err
    assert "source 'web'" not in allowed.err


def test_a_later_run_begins_with_the_index_of_another(marin: Marin, place: Path):
    marin("data", "dedup", "docs", "one", "--method", "minhash", "--workers", "0")
    write_shards(place / "more", [[{"id": "e", "text": TEXT + " again"}, {"id": "f", "text": "something else " * 9}]])
    marin("data", "dedup", "more", "two", "--method", "minhash", "--index", "one/index", "--workers", "0")
    assert [row["id"] for row in read_rows(place / "two" / "documents")] == ["f"]


def test_an_option_of_another_method_is_a_mistake(marin: Marin, place: Path):
    said = marin("data", "dedup", "docs", "out", "--method", "exact", "--verify", "jaccard", expect=2)
    assert "--verify is not for --method exact" in said.err
    said = marin("data", "dedup", "docs", "out", "--method", "exact", "--allow", "web", expect=2)
    assert "SOURCE=SHARE is expected" in said.err


def test_evaluation_items_are_named_and_removed(marin: Marin, place: Path):
    said = marin("data", "decontaminate", "docs", "out", "--against", "boats=items.jsonl", "--workers", "0")
    assert [row["id"] for row in read_rows(place / "out" / "documents")] == ["a", "b", "c"]
    assert said.out.splitlines()[1].split() == ["boats", "1", "1", "100.00%", "items.jsonl:1", "in", "d"]
    assert "1 of 4 documents are contaminated" in said.err


def test_two_data_sets_are_compared_without_removing(marin: Marin, place: Path):
    words = ["data", "decontaminate", "docs", "out", "--against", "docs/", "--remove", "attributes", "--workers", "0"]
    report = json.loads(marin(*words, "--json").out)
    assert {name: of["items_hit"] for name, of in report["evaluation_sets"].items()} == {"docs": 4}
    assert not (place / "out" / "documents").exists()


def test_a_set_that_is_not_there_is_a_mistake(marin: Marin, place: Path):
    said = marin("data", "decontaminate", "docs", "out", "--against", "nothing.jsonl", "--workers", "0", expect=2)
    assert "nothing.jsonl" in said.err


@pytest.mark.parametrize("method", ["exact", "minhash"])
def test_documents_without_text_or_beside_the_output_are_refused_before_anything_is_written(
    marin: Marin, place: Path, method: str
):
    before = sorted(path.name for path in (place / "docs").iterdir())
    against = ("--against", "q=items.jsonl")
    for command in (("dedup", "docs", "docs", "--method", method), ("decontaminate", "docs", "docs", *against)):
        assert "OUTPUT docs is also what is read" in marin("data", *command, expect=2).err
    assert sorted(path.name for path in (place / "docs").iterdir()) == before
    for name, *options in (
        ("dedup", "--method", method),
        ("decontaminate", *against),
        ("filter", "--preset", "gopher"),
    ):
        said = marin("data", name, "items.jsonl", "out", *options, expect=2).err
        assert "items.jsonl: no column 'text', which documents have; the columns are " in said and "question" in said
    assert not (place / "out").exists()
