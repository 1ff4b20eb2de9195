"""`marin data filter`: what stays is written, what goes is counted by its rule and shown."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from marin.processing.filter.reference import filter_reference

PROSE = "The road to the pass is closed in winter, and the people of the village have wood, flour and patience. " * 2


@pytest.fixture
def place(folder: Path) -> Path:
    rows = [
        {"id": "good", "text": PROSE + " ".join(f"word{n}a" for n in range(40))},
        {"id": "short", "text": "Too short, and we know it to be so."},
        {"id": "numbers", "text": PROSE + "1000 2000 3000 " * 12},
    ]
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "words.txt").write_text("patience\n")
    return folder


def ids(place: Path, output: str) -> list[str]:
    return [name for path in (place / output).glob("*.parquet") for name in pq.read_table(path)["id"].to_pylist()]


def test_what_stays_is_written_and_what_goes_is_shown_with_its_numbers(place: Path, marin):
    said = marin("data", "filter", "documents.jsonl", "kept", "--filter", "gopher_quality", "--workers", "0")
    assert ids(place, "kept") == ["good"]
    lines = said.out.splitlines()
    assert lines[1].split() == ["gopher_quality.few_words", "1", "short", "gopher.num_words", "9"]
    assert lines[2].startswith("gopher_quality.no_letters") and "numbers" in lines[2]
    assert "3 rows in, 1 out (2 dropped, 0 bad)" in said.err and "bad rows" not in said.err


def test_bad_rows_are_told_with_reason_and_place(place: Path, marin):
    with open("documents.jsonl", "a") as file:
        file.write("no JSON\n")
    arguments = ("data", "filter", "documents.jsonl", "kept", "--filter", "gopher_quality", "--workers", "0")
    said = marin(*arguments, "--max-bad", "0.5").err
    assert "bad rows: 1 not JSON; they are in kept/_bad, each with its reason" in said


def test_a_rule_without_its_signal_is_told_before_work_begins(place: Path, marin):
    common = ("data", "filter", "documents.jsonl", "kept", "--rule", "gopher.num_words > 60", "--workers", "0")
    said = marin(*common, expect=2).err
    assert "nothing measures gopher.num_words" in said and "--filter gopher_quality" in said
    assert not (place / "kept").exists()


def test_documents_without_a_value_go_or_stay_as_is_said(place: Path, marin):
    (place / "scored.jsonl").write_text('{"id":"a","text":"one","score":1}\n{"id":"b","text":"two"}\n')
    common = ("data", "filter", "scored.jsonl", "kept", "--rule", "score >= 1", "--workers", "0")
    assert "(--missing)" in marin(*common, expect=1).err
    for missing, kept in (("drop", ["a"]), ("keep", ["a", "b"])):
        marin(*common, "--missing", missing)
        assert ids(place, "kept") == kept


def test_documents_without_attributes_go_or_stay_as_is_said_of_a_filters_own_rules_too(place: Path, marin):
    texts = {"a": "too few words", "b": "two words", "c": PROSE * 2}
    lines = {name: json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()}
    (place / "all.jsonl").write_text("".join(lines.values()))
    (place / "some.jsonl").write_text(lines["a"] + lines["c"])
    marin("data", "filter", "some.jsonl", "signals", "--filter", "gopher_quality", "--measure", "--workers", "0")
    common = ("data", "filter", "all.jsonl", "kept", "--filter", "gopher_quality", "--attributes", "signals")
    for missing, kept in (("drop", ["c"]), ("keep", ["b", "c"])):  # of b nothing is known
        marin(*common, "--missing", missing, "--workers", "0")
        assert sorted(ids(place, "kept")) == kept


def test_settings_and_rules_change_what_stays(place: Path, marin):
    common = ("data", "filter", "documents.jsonl")
    marin(*common, "a", "--filter", "gopher_quality", "--set", "gopher_quality.min_words=5", "--workers", "0")
    assert ids(place, "a") == ["good", "short"]
    rule = "gopher.num_words > 60"
    marin(
        *common, "b", "--filter", "gopher_quality", "--set", "gopher_quality.min_alpha_word_ratio=null", "--rule", rule
    )
    assert ids(place, "b") == ["good", "numbers"]
    marin(*common, "c", "--filter", "bad_words", "--set", "bad_words.path=words.txt", "--workers", "0")
    assert ids(place, "c") == ["short"]


def test_signals_are_measured_once_and_asked_again(place: Path, marin):
    marin("data", "filter", "documents.jsonl", "signals", "--preset", "gopher", "--measure", "--workers", "0")
    assert ids(place, "signals") == ["good", "short", "numbers"]
    rule = "gopher.num_words < 20"
    said = marin(
        *("data", "filter", "documents.jsonl", "kept", "--attributes", "signals", "--rule", rule),
        *("--workers", "0", "--json"),
    )
    told = json.loads(said.out)
    assert ids(place, "kept") == ["short"] and told["counters"]["rows_out"] == 1
    [dropped] = told["dropped"]
    assert dropped["documents"] == 2 and dropped["samples"][0]["numbers"]["gopher.num_words"] == 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "takes INPUT and OUTPUT"),
        (("documents.jsonl", "x"), "neither filters nor rules"),
        (("documents.jsonl", "x", "--filter", "gopher_qualty"), "no preset or filter 'gopher_qualty'"),
        (("documents.jsonl", "x", "--filter", "c4", "--set", "c4.min_sentence=1"), "did you mean 'min_sentences'"),
        (
            ("documents.jsonl", "x", "--filter", "c4", "--set", "gopher.min=1"),
            "no such filter is applied; those are c4",
        ),
        (("documents.jsonl", "x", "--filter", "c4", "--set", "c4=1"), "FILTER.FIELD=VALUE is expected"),
        (("documents.jsonl", "x", "--preset", "gopher", "--measure", "--rule", "a > 1"), "--measure drops nothing"),
        (("absent", "x", "--preset", "gopher"), "no file or folder 'absent'"),
    ],
)
def test_a_command_that_makes_no_sense_is_answered(place: Path, marin, arguments: tuple[str, ...], message: str):
    assert message in marin("data", "filter", *arguments, expect=2).err


def test_a_column_that_is_not_there_fails_with_the_nearest_name(place: Path, marin):
    arguments = (
        "documents.jsonl",
        "x",
        "--filter",
        "gopher_quality",
        "--rule",
        "gopher.num_wrds > 5",
        "--workers",
        "0",
    )
    assert "did you mean 'gopher.num_words'" in marin("data", "filter", *arguments, expect=1).err


def test_the_reference_is_printed(place: Path, marin):
    assert marin("data", "filter", "--reference").out == filter_reference()
