"""The small things that tests are made of are what they say, and equal for equal arguments."""

from pathlib import Path

from marin.io.records import read_records
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.testing.tiny import make_token_store, tiny_documents, write_byte_tokenizer, write_documents


def test_documents_depend_on_the_seed_alone():
    assert tiny_documents(5, seed=1) == tiny_documents(5, seed=1) == tiny_documents(9, seed=1)[:5]
    assert tiny_documents(5, seed=1) != tiny_documents(5, seed=2)
    assert not all(document["text"].isascii() for document in tiny_documents(5))


def test_written_documents_are_read_back(tmp_path: Path):
    folder = write_documents(tmp_path, tiny_documents(5), num_shards=2)
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["documents-00000.jsonl.gz", "documents-00001.jsonl.gz"]
    assert [row for file in files for row in read_records(file)] == [*tiny_documents(5)[::2], *tiny_documents(5)[1::2]]


def test_the_byte_tokenizer_gives_the_bytes_of_a_text(tmp_path: Path):
    tokenizer = load_tokenizer(write_byte_tokenizer(tmp_path))
    assert tokenizer.encode("aé").tolist() == list("aé".encode())
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (257, 256)


def test_a_store_is_equal_for_equal_arguments(tmp_path: Path):
    one, two, other = (
        make_token_store(tmp_path / name, 6, seed=seed) for name, seed in (("one", 1), ("two", 1), ("other", 2))
    )
    assert one.shards == two.shards != other.shards
    assert one.tokenizer_digest == other.tokenizer_digest
