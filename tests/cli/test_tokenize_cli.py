"""`marin tokenize`: from documents to a tokenizer, a store, a look into it, and a comparison."""

import json
from pathlib import Path

import pytest

from marin.data.store import TokenStore
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.testing.tiny import tiny_documents, write_byte_tokenizer, write_documents


@pytest.fixture
def place(folder: Path) -> Path:
    write_documents(folder / "documents", tiny_documents(120))
    write_byte_tokenizer(folder / "bytes")
    return folder


def test_a_tokenizer_is_trained_used_looked_at_and_compared(place: Path, marin):
    made = marin("tokenize", "train", "documents", "--vocab-size", "320", "--special", "<|user|>", "-o", "bpe")
    assert "Next: marin tokenize run documents --tokenizer bpe -o STORE" in made.err
    assert load_tokenizer(place / "bpe").special_tokens == {"<|endoftext|>": 0, "<|user|>": 1}
    run = marin("tokenize", "run", "documents", "--tokenizer", "bpe", "-o", "store", "--workers", "1")
    assert "120 documents" in run.err and "Next: marin tokenize show store 0 --tokenizer bpe" in run.err
    store = TokenStore.open(place / "store", verify=True)

    summary = json.loads(marin("tokenize", "show", "store", "--json").out)
    assert (summary["documents"], summary["tokens"]) == (120, store.num_tokens)
    assert f"{store.num_tokens:,}" in marin("tokenize", "show", "store").out

    text = tiny_documents(120)[::2][5]["text"]
    shown = marin("tokenize", "show", "store", "5", "--tokenizer", "bpe")
    assert marin("tokenize", "show", "store", "5", "--text", "--tokenizer", "bpe").out == text + "\n"
    pieces = shown.out.removesuffix("\n").split("│")
    assert pieces[-1] == "<|endoftext|>" and len(pieces) == store.document(5).size
    as_json = json.loads(marin("tokenize", "show", "store", "5", "--tokenizer", "bpe", "--json").out)
    assert as_json["pieces"] == pieces and as_json["ids"] == store.document(5).tolist() and as_json["text"] == text

    compared = marin("tokenize", "compare", "bytes", "small=bpe", "--on", "documents", "-o", "comparison")
    assert compared.out.splitlines()[1].startswith("tiny") and "bytes a token" in compared.out
    found = json.loads(marin("tokenize", "compare", "bytes", "small=bpe", "--on", "documents", "--json").out)
    assert [result["tokenizer"] for result in found["sources"]] == ["bytes", "small"]
    assert found["sources"][1]["tokens_relative"]["high"] < 1 and len(found["speeds"]) == 2
    assert json.loads((place / "comparison/results.json").read_text())["sources"] == found["sources"]


def test_what_another_tokenizer_made_is_replaced_only_where_that_is_asked_for(place: Path, marin):
    train = ("tokenize", "train", "documents", "-o", "bpe", "--vocab-size")
    marin(*train, "300")
    assert "bpe has a tokenizer, and token stores made with it" in marin(*train, "310", expect=3).err
    tokenize = ("tokenize", "run", "documents", "-o", "store", "--workers", "1", "--tokenizer")
    marin(*tokenize, "bpe")
    marin(*tokenize, "bpe")  # the same again goes on from what is there
    assert "store is a token store of another tokenizer" in marin(*tokenize, "bytes", expect=3).err
    marin(*tokenize, "bytes", "--overwrite")
    assert TokenStore.open(place / "store", verify=True).tokenizer_digest == load_tokenizer(place / "bytes").digest


def test_a_part_of_a_character_is_shown_as_its_byte(place: Path, marin):
    (place / "in.jsonl").write_text(json.dumps({"text": "aé"}) + "\n")
    marin("tokenize", "run", "in.jsonl", "--tokenizer", "bytes", "-o", "store", "--workers", "1")
    assert marin("tokenize", "show", "store", "0", "--tokenizer", "bytes").out == "a│\\xc3│\\xa9│<|endoftext|>\n"
    without = marin("tokenize", "show", "store", "0")
    assert without.out == "97 195 169 256\n" and "give --tokenizer DIR" in without.err


def test_mistakes_are_told_in_a_line(place: Path, marin):
    arguments = ("--vocab-size", "320", "-o", "bpe")
    assert "no folder or file at" in marin("tokenize", "train", "nowhere", *arguments, expect=2).err
    assert "no tokenizer at" in marin("tokenize", "run", "documents", "--tokenizer", "x", "-o", "store", expect=2).err
    assert "is no token store" in marin("tokenize", "show", "documents", "0", expect=2).err
    marin("tokenize", "run", "documents", "--tokenizer", "bytes", "-o", "store", "--workers", "1")
    assert "has documents 0 to 119" in marin("tokenize", "show", "store", "120", expect=2).err
    assert "--text takes the number" in marin("tokenize", "show", "store", "--text", expect=2).err
    (place / "other").mkdir()
    write_byte_tokenizer(place / "other" / "bytes")
    twice = marin("tokenize", "compare", "bytes", "other/bytes", "--on", "documents", expect=2)
    assert "two are called 'bytes'" in twice.err
    broken = place / "documents" / "documents-00001.jsonl.gz"
    broken.write_bytes(broken.read_bytes()[:50])
    failed = marin("tokenize", "run", "documents", "--tokenizer", "bytes", "-o", "again", "--workers", "1", expect=1)
    assert "1 of 2 shards were not tokenized" in failed.err
