"""The token store: what went in comes out, and damage is found and named."""

import hashlib
import json
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.data.store import CorruptStoreError, TokenStore
from marin.data.store_writer import ShardWriter, token_dtype, write_ledger
from marin.testing.tiny import make_token_store, tiny_documents

EOS = 9


def write_store(path: Path, shards: list[list[list[int]]], *, vocab_size: int = 10) -> TokenStore:
    """A store of these documents (token ids, without end-of-text), by shard."""
    infos = []
    for number, documents in enumerate(shards):
        name = f"shard-{number:05d}"
        (path / name).mkdir(parents=True)
        with ShardWriter(path / name, name=name, vocab_size=vocab_size, eos_id=EOS) as writer:
            for i, document in enumerate(documents):
                writer.add(np.array(document, np.int64), document_id=f"{number}/{i}", num_bytes=len(document))
            infos.append(writer.close())
    write_ledger(
        path,
        infos,
        vocab_size=vocab_size,
        tokenizer_digest="d" * 64,
        eos_id=EOS,
        bos_id=None,
        token_byte_lengths=np.ones(vocab_size, np.int32),
    )
    return TokenStore.open(path)


shards_of_documents = st.lists(
    st.lists(st.lists(st.integers(0, 8), max_size=6), max_size=5), min_size=1, max_size=4
).filter(lambda shards: any(shards))


@settings(max_examples=40, deadline=None)
@given(shards=shards_of_documents, data=st.data())
def test_reads_of_any_length_and_place_equal_the_stream(tmp_path_factory, shards, data):
    store = write_store(tmp_path_factory.mktemp("store"), shards)
    stream = np.array([token for shard in shards for document in shard for token in [*document, EOS]])
    assert store.num_tokens == stream.size
    length = data.draw(st.integers(1, stream.size))
    starts = data.draw(st.lists(st.integers(0, stream.size - length), max_size=6))
    rows = store.gather(np.array(starts, np.int64), length)
    assert rows.dtype == np.int32 and rows.shape == (len(starts), length)
    assert rows.tolist() == [stream[start : start + length].tolist() for start in starts]
    positions = np.array(data.draw(st.lists(st.integers(0, stream.size - 1), max_size=6)), np.int64)
    assert store.take(positions).tolist() == stream[positions].tolist()
    lengths = np.array([data.draw(st.integers(0, stream.size - position)) for position in positions], np.int64)
    out = np.full(int(lengths.sum()) + 1, -1, np.int32)
    store.read_into(out, np.cumsum(lengths) - lengths, positions, lengths)
    runs = [stream[position : position + size] for position, size in zip(positions, lengths, strict=True)]
    assert out.tolist() == [*(token for run in runs for token in run), -1]


def test_another_process_opens_the_store_anew(tmp_path: Path):
    store = write_store(tmp_path / "store", [[[1, 2]], [[3]]])
    assert store.take(np.arange(5)).tolist() == [1, 2, EOS, 3, EOS]
    again = pickle.loads(pickle.dumps(store))
    assert again.take(np.arange(5)).tolist() == [1, 2, EOS, 3, EOS]
    assert again.checksum == store.checksum


def test_what_lies_outside_the_store_is_refused_before_it_is_read(tmp_path: Path):
    store = write_store(tmp_path / "store", [[[1, 2]], [[3]]])
    out, zero = np.zeros(9, np.int32), np.zeros(1, np.int64)
    for start, length in ((-1, 2), (4, 2), (0, 6), (10**12, 1)):
        starts, lengths = np.array([start]), np.array([length])
        for read in (
            partial(store.gather, starts, length),
            partial(store.take, starts + np.arange(length)),
            partial(store.read, start, length),
            partial(store.read_into, out, zero, starts, lengths),
        ):
            with pytest.raises(IndexError, match=r"the store has 0\.\.5"):
                read()


@settings(max_examples=25, deadline=None)
@given(shards=shards_of_documents)
def test_documents_come_back_with_their_names(tmp_path_factory, shards):
    store = write_store(tmp_path_factory.mktemp("store"), shards)
    expected = [(f"{s}/{i}", document) for s, shard in enumerate(shards) for i, document in enumerate(shard)]
    assert store.num_documents == len(expected) == store.document_offsets.size - 1
    for index, (name, document) in enumerate(expected):
        assert store.document(index).tolist() == [*document, EOS]
        assert store.document_id(index) == ("", name)
        assert store.document_num_bytes(index) == len(document)
        start, end = store.document_offsets[index : index + 2]
        assert (store.document_index(np.arange(start, end)) == index).all()


def test_a_store_of_real_text_knows_its_tokenizer_and_its_bytes(tmp_path: Path):
    documents = tiny_documents(7)
    store = make_token_store(tmp_path / "store", documents)
    assert store.vocab_size == 257 and store.eos_id == 256 and store.bos_id is None and store.dtype == np.uint16
    assert store.num_bytes == sum(len(document["text"].encode()) for document in documents)
    tokens = store.gather(np.array([0]), store.num_tokens)[0]
    assert store.token_byte_lengths[tokens].sum() == store.num_bytes
    assert store.document_id(4) == ("tiny", "tiny-0-1")  # the first of the second shard: documents are dealt in turn


def test_ids_are_stored_in_the_smallest_type_that_holds_the_vocabulary(tmp_path: Path):
    assert token_dtype(65_536).itemsize == 2
    assert token_dtype(65_537).itemsize == 4
    store = write_store(tmp_path / "wide", [[[65_536, 3]]], vocab_size=65_537)
    assert store.document(0).tolist() == [65_536, 3, EOS]
    assert (tmp_path / "wide/shard-00000/tokens.bin").stat().st_size == 12


@pytest.mark.parametrize("token", [-1, 10])
def test_an_id_outside_the_vocabulary_is_not_stored(tmp_path: Path, token: int):
    with pytest.raises(ValueError, match=f"document '0/0': token id {token} lies outside the vocabulary of 10"):
        write_store(tmp_path / "store", [[[1, token]]])


FILES = ["shard-00001/tokens.bin", "shard-00001/offsets.bin", "shard-00000/documents.jsonl", "token_byte_lengths.npy"]


@pytest.mark.parametrize("file", FILES)
def test_one_flipped_byte_is_found_and_its_file_named(tmp_path: Path, file: str):
    store = make_token_store(tmp_path / "store")
    store.verify()
    data = bytearray((store.path / file).read_bytes())
    data[len(data) // 2] ^= 1
    (store.path / file).write_bytes(data)
    with pytest.raises(CorruptStoreError, match=f"{file} is damaged.*[Dd]elete the store"):
        TokenStore.open(store.path, verify=True)


def test_a_flipped_byte_of_the_ledger_is_found_on_opening(tmp_path: Path):
    path = make_token_store(tmp_path / "store").path
    text = (path / "store.json").read_text()
    (path / "store.json").write_text(text.replace('"eos_id": 256', '"eos_id": 255'))
    with pytest.raises(CorruptStoreError, match=r"store\.json does not match its own checksum"):
        TokenStore.open(path)
    (path / "store.json").write_text(text[:-40])
    with pytest.raises(CorruptStoreError, match=r"store\.json is not a ledger"):
        TokenStore.open(path)


@pytest.mark.parametrize(("keep", "state"), [(100, "has 100 bytes, the ledger says"), (None, "is missing")])
def test_a_short_or_missing_shard_is_found_on_opening(tmp_path: Path, keep: int | None, state: str):
    path = make_token_store(tmp_path / "store").path
    tokens = path / "shard-00001/tokens.bin"
    tokens.write_bytes(tokens.read_bytes()[:keep]) if keep else tokens.unlink()
    with pytest.raises(CorruptStoreError, match=f"shard-00001/tokens.bin {state}"):
        TokenStore.open(path)


def test_a_folder_that_is_no_store_says_so(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="its tokenizing step did not finish"):
        TokenStore.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        TokenStore.open(tmp_path / "nowhere")


def test_a_store_of_a_later_format_is_refused_by_name(tmp_path: Path):
    path = make_token_store(tmp_path / "store").path
    ledger = json.loads((path / "store.json").read_text())
    (path / "store.json").write_text(json.dumps({**ledger, "version": 3}))
    with pytest.raises(ValueError, match="version 3; this program reads .* version 2"):
        TokenStore.open(path)


def test_the_ledger_says_that_a_document_follows_end_of_text(tmp_path: Path):
    store = make_token_store(tmp_path / "store")
    ledger = json.loads((store.path / "store.json").read_text())
    assert ledger["document_prefix"] == store.document_prefix == "eos"
    del ledger["checksum"]
    ledger["document_prefix"] = "bos"
    checksum = hashlib.sha256(json.dumps(ledger, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    (store.path / "store.json").write_text(json.dumps({**ledger, "checksum": checksum}))
    with pytest.raises(ValueError, match="says that 'bos' stands before each document.*where it is 'eos'"):
        TokenStore.open(store.path)


def test_reading_past_the_end_is_refused(tmp_path: Path):
    store = write_store(tmp_path / "store", [[[1, 2, 3]]])
    with pytest.raises(IndexError, match=r"tokens 0\.\.5 asked for, the store has 0\.\.4"):
        store.gather(np.array([0, 2]), 3)
    with pytest.raises(IndexError, match="document 1 asked for"):
        store.document(1)
