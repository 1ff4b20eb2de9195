"""Documents of every format become one and the same store, and a big file several shards of it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marin.data.store import TokenStore
from marin.processing.formats.writing import open_writer
from marin.processing.tokenize import inputs
from marin.processing.tokenize.config import TokenizeConfig
from marin.processing.tokenize.tokenize import tokenize
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.testing.tiny import (
    TINY_CHAT,
    TINY_CHAT_TOKENS,
    tiny_conversations,
    tiny_documents,
    write_byte_tokenizer,
)

FORMATS = {
    "jsonl": ".jsonl",
    "jsonl.gz": ".jsonl.gz",
    "jsonl.zst": ".jsonl.zst",
    "parquet": ".parquet",
    "arrow": ".arrow",
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"), extra_special_tokens=TINY_CHAT_TOKENS)


def run(documents: Path, output: Path, tokenizer: Path, **settings) -> TokenStore:
    settings = {"num_workers": 1, **settings}
    tokenize(TokenizeConfig(input_path=str(documents), output_path=str(output), tokenizer=str(tokenizer), **settings))
    return TokenStore.open(output, verify=True)


def contents(store: TokenStore) -> list[tuple[str, str, list[int]]]:
    return [(*store.document_id(i), store.document(i).tolist()) for i in range(store.num_documents)]


def write(path: Path, format: str, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_writer(path, format) as writer:
        for start in range(0, len(rows), 16):
            columns = {
                "id": [row["id"] for row in rows[start : start + 16]],
                "text": [row["text"] for row in rows[start : start + 16]],
                "source": [row["source"] for row in rows[start : start + 16]],
                "metadata": ["{}"] * len(rows[start : start + 16]),
            }
            writer.write(pa.RecordBatch.from_pydict(columns))


def in_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small files have several parts."""
    for name in ("io.compression.GZIP_BLOCK_BYTES", "io.compression.ZSTD_BLOCK_BYTES"):
        monkeypatch.setattr(f"marin.{name}", 1500)
    monkeypatch.setattr("marin.processing.formats.writing.ROW_GROUP_BYTES", 1500)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_same_documents(tmp_path: Path, tokenizer: Path, format: str):
    rows = tiny_documents(60)
    rows[7]["text"] = ""
    write(tmp_path / "in" / f"part{FORMATS[format]}", format, rows)
    (tmp_path / "in" / "README.md").write_text("# of the data, no part of it")
    store = run(tmp_path / "in", tmp_path / "store", tokenizer)
    decoder = load_tokenizer(tokenizer)
    expected = [
        (row["source"], row["id"], [*decoder.encode(row["text"]).tolist(), decoder.eos_id])
        for row in rows
        if row["text"]
    ]
    assert contents(store) == expected
    assert json.loads((tmp_path / "store/tokenize.json").read_text())["counts"]["empty"] == 1


def test_files_of_text_are_documents_where_the_format_says_so(tmp_path: Path, tokenizer: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("one\n\ntwo")
    (folder / "b.md").write_text("three")
    with pytest.raises(ValueError, match=r"it holds a\.txt, b\.md\); of files of text name the format"):
        run(folder, tmp_path / "store", tokenizer)
    store = run(folder, tmp_path / "store", tokenizer, format="text")
    assert [contents(store)[i][2] for i in range(2)] == [[*b"one\n\ntwo", 256], [*b"three", 256]]


def test_the_same_files_read_as_another_format_are_another_store(tmp_path: Path, tokenizer: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("one\ntwo\n\nthree")
    numbers = {}
    for format in ("text", "text-lines", "text-paragraphs", "text"):
        numbers[format] = run(folder, tmp_path / "store", tokenizer, format=format).num_documents
    assert numbers == {"text": 1, "text-lines": 3, "text-paragraphs": 2}


def test_a_file_of_text_that_is_none_is_a_bad_row(tmp_path: Path, tokenizer: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a:2.txt").write_bytes(b"caf\xe9")
    (folder / "b.txt").write_text("fine")
    store = run(folder, tmp_path / "store", tokenizer, format="text", max_bad=0.5)
    (bad,) = [json.loads(line) for file in (tmp_path / "store/_bad").iterdir() for line in file.open()]
    assert store.num_documents == 1 and (bad["file"], bad["line"]) == ("a:2.txt", 1)


@pytest.mark.parametrize("format", FORMATS)
def test_a_big_file_is_several_shards_that_make_the_same_stream(
    tmp_path: Path, tokenizer: Path, format: str, monkeypatch
):
    in_small_blocks(monkeypatch)
    rows = tiny_documents(300)
    file = tmp_path / "in" / f"part{FORMATS[format]}"
    write(file, format, rows)
    whole = run(file, tmp_path / "whole", tokenizer)
    assert len(whole.shards) == 1
    monkeypatch.setattr(inputs, "SPLIT_BYTES", file.stat().st_size // 5)
    parts = run(file, tmp_path / "parts", tokenizer)
    assert len(parts.shards) > 3
    assert np.array_equal(whole.read(0, whole.num_tokens), parts.read(0, parts.num_tokens))
    assert contents(whole) == contents(parts)
    run(file, tmp_path / "again", tokenizer, num_workers=2)
    assert (tmp_path / "again/store.json").read_bytes() == (tmp_path / "parts/store.json").read_bytes()


@pytest.mark.parametrize("format", FORMATS)
def test_of_a_changed_file_the_changed_part_alone_is_made_again(
    tmp_path: Path, tokenizer: Path, format: str, monkeypatch, capsys
):
    in_small_blocks(monkeypatch)
    rows = tiny_documents(300)
    file = tmp_path / "in" / f"part{FORMATS[format]}"
    write(file, format, rows)
    monkeypatch.setattr(inputs, "SPLIT_BYTES", file.stat().st_size // 5)
    total = len(run(file, tmp_path / "store", tokenizer).shards)
    write(file, format, rows)  # the same bytes at another time
    capsys.readouterr()
    run(file, tmp_path / "store", tokenizer)
    assert f"{total} of {total} shards are complete already" in capsys.readouterr().err
    if format in ("jsonl", "arrow"):  # of the others the change moves the parts
        old = rows[0]["text"]
        rows[0]["text"] = old.swapcase()
        assert len(rows[0]["text"].encode()) == len(old.encode()) and rows[0]["text"] != old
        write(file, format, rows)
        run(file, tmp_path / "store", tokenizer)
        assert f"{total - 1} of {total} shards are complete already, 1 to do" in capsys.readouterr().err
        run(file, tmp_path / "fresh", tokenizer)
        assert (tmp_path / "fresh/store.json").read_bytes() == (tmp_path / "store/store.json").read_bytes()


@pytest.mark.parametrize("encoder", ["tokenizers", "gigatoken"])
def test_the_store_does_not_depend_on_the_encoder(tmp_path: Path, tokenizer: Path, encoder: str):
    if encoder == "gigatoken":
        pytest.importorskip("gigatoken", reason="needs gigatoken: pip install -e '.[gigatoken]'")
    write(tmp_path / "in" / "part.parquet", "parquet", tiny_documents(60))
    run(tmp_path / "in", tmp_path / "auto", tokenizer)
    run(tmp_path / "in", tmp_path / "other", tokenizer, encoder=encoder)
    for name in ("store.json", "tokenize.json", "shard-00000/tokens.bin", "shard-00000/documents.jsonl"):
        assert (tmp_path / "auto" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_an_encoder_that_is_not_exact_is_told_of_or_refused(tmp_path: Path, tokenizer: Path, capsys):
    pytest.importorskip("gigatoken", reason="needs gigatoken: pip install -e '.[gigatoken]'")
    folder = write_byte_tokenizer(tmp_path / "lowercase")
    description = json.loads((folder / "tokenizer.json").read_text())
    description["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(description))
    write(tmp_path / "in" / "part.jsonl", "jsonl", tiny_documents(20))
    run(tmp_path / "in", tmp_path / "store", folder, check_round_trip=False)
    told = "encoded by the slower library, tokenizers: gigatoken is not known to have the normalizer Lowercase"
    assert told in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="encoder is 'gigatoken', and that cannot be: .*Lowercase"):
        run(tmp_path / "in", tmp_path / "other", folder, check_round_trip=False, encoder="gigatoken")
    with pytest.raises(ValueError, match="encoder is 'fast'; it is one of auto, tokenizers, gigatoken"):
        run(tmp_path / "in", tmp_path / "other", folder, encoder="fast")


@pytest.mark.parametrize("format", ["jsonl", "parquet", "arrow"])
def test_conversations_are_read_from_every_format(tmp_path: Path, tokenizer: Path, format: str):
    rows = tiny_conversations(40)
    del rows[3]["messages"][1:]  # no answer
    folder = tmp_path / "in"
    folder.mkdir()
    if format == "jsonl":
        (folder / "part.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif format == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "part.parquet")
    else:
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_file(folder / "part.arrow", table.schema) as writer:
            writer.write_table(table)
    store = run(folder, tmp_path / "store", tokenizer, chat=TINY_CHAT, max_bad=0.1)
    assert [store.document_id(i)[1] for i in range(store.num_documents)] == [
        row["id"] for i, row in enumerate(rows) if i != 3
    ]
    decoder = load_tokenizer(tokenizer)
    said = "".join(
        f"<|{message['role']}|>{message['content']}<|end|>" for row in rows[:1] for message in row["messages"]
    )
    assert decoder.decode(store.document(0)[:-1]) == said
    assert 0 < store.num_trained < store.num_tokens
    [bad] = [json.loads(line) for line in (tmp_path / "store/_bad/shard-00000.jsonl").read_text().splitlines()]
    assert (bad["file"], bad["line"]) == (f"part.{format}", 4) and bad["reason"].startswith("no answer")


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_the_text_may_be_in_another_column(tmp_path: Path, tokenizer: Path, format: str):
    rows = [{"id": str(i), "content": None if i == 3 else f"text {i}", "stars": i} for i in range(10)]
    folder = tmp_path / "in"
    folder.mkdir()
    if format == "jsonl":
        (folder / "part.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), folder / "part.parquet")
    store = run(folder, tmp_path / "store", tokenizer, text_column="content", max_bad=0.1)
    assert [contents(store)[i][1:] for i in (0, 3)] == [(n, [*f"text {n}".encode(), 256]) for n in ("0", "4")]
    [bad] = [json.loads(line) for line in (tmp_path / "store/_bad/shard-00000.jsonl").read_text().splitlines()]
    assert (bad["line"], bad["reason"]) == (4, "no text: content is null")
