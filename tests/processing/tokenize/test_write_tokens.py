"""A plan of the data engine that ends in a token store: the one that the tokenizing step makes, and as hard to kill."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marin.data.store import BYTE_LENGTHS, LEDGER, TokenStore
from marin.processing.pipeline import Dataset
from marin.processing.tokenize.config import ChatFormat, TokenizeConfig
from marin.processing.tokenize.tokenize import tokenize
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.testing.tiny import (
    TINY_CHAT,
    TINY_CHAT_TOKENS,
    tiny_conversations,
    tiny_documents,
    write_byte_tokenizer,
    write_documents,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Files of several formats, with rows that are empty, bad, without id or source; one file has no document."""
    folder = write_documents(tmp_path / "documents", tiny_documents(40), num_shards=3)
    rows = [{"text": "no id"}, {"text": ""}, {"id": "x", "text": "é" * 10, "source": "s"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows) + "{broken\n"
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "b.jsonl").write_text('{"text": ""}\n')
    table = pa.table({"id": [7, 8, None], "text": ["seven", None, "nine"], "metadata": ["no json"] * 3})
    pq.write_table(table, folder / "c.parquet", row_group_size=2)
    return folder


def store_files(folder: Path) -> dict[str, bytes]:
    """What makes the store, without what its maker wrote beside it."""
    files = [folder / LEDGER, folder / BYTE_LENGTHS]
    files += [file for file in folder.glob("shard-*/*") if file.name != "manifest.json"]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(files)}


def attempts(folder: Path) -> list[str]:
    lines = (folder / "_done/attempts.jsonl").read_text().splitlines()
    return [json.loads(line)["shard"] for line in lines]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_store_is_that_of_the_tokenizing_step(documents: Path, tmp_path: Path, tokenizer: Path, workers: int):
    counts = tokenize(
        TokenizeConfig(
            input_path=str(documents),
            output_path=str(tmp_path / "step"),
            tokenizer=str(tokenizer),
            num_workers=1,
            max_bad=0.5,
        )
    )
    plan = Dataset.from_files(documents).write_tokens(tmp_path / "store", tokenizer=tokenizer)
    result = plan.run(workers=workers, max_bad=0.5)
    assert store_files(tmp_path / "store") == store_files(tmp_path / "step")
    assert TokenStore.open(tmp_path / "store", verify=True).num_documents == counts.documents == 44
    assert (result.counters["rows_out"], result.counters["dropped"], result.counters["bad"]) == (
        counts.documents,
        counts.empty,
        counts.bad,
    )


def test_the_store_of_conversations_is_that_of_the_tokenizing_step(tmp_path: Path):
    """Rows of two formats, with and without a source, some of them no conversations, one answering twice."""
    tokenizer = write_byte_tokenizer(tmp_path / "tokenizer", extra_special_tokens=TINY_CHAT_TOKENS)
    rows: list[dict[str, Any]] = tiny_conversations(30)
    rows[3]["messages"] = [{"role": "user", "content": "nobody answers"}]
    rows[4]["messages"][1]["content"] = "an <|end|> of its own"
    rows[5]["messages"].append({"role": "assistant", "content": "and another thing: 東京 🙂"})
    folder = write_documents(tmp_path / "rows", rows[:20], num_shards=2)
    pq.write_table(pa.Table.from_pylist([{**row, "source": "p"} for row in rows[20:]]), folder / "p.parquet")
    (folder / "z.jsonl").write_text(json.dumps({"messages": rows[0]["messages"], "metadata": 1, "n": "x"}) + "\n{\n")
    config = TokenizeConfig(
        input_path=str(folder),
        output_path=str(tmp_path / "step"),
        tokenizer=str(tokenizer),
        chat=TINY_CHAT,
        num_workers=1,
        max_bad=0.5,
    )
    counts = tokenize(config)
    plan = Dataset.from_files(folder).write_tokens(tmp_path / "store", tokenizer=tokenizer, chat=TINY_CHAT)
    result = plan.run(workers=1, max_bad=0.5)
    assert store_files(tmp_path / "store") == store_files(tmp_path / "step")
    assert (result.counters["rows_out"], result.counters["bad"]) == (counts.documents, counts.bad) == (29, 3)
    assert TokenStore.open(tmp_path / "store", verify=True).chat is not None


def test_conversations_go_through_operations_first_and_a_template_is_checked_at_once(tmp_path: Path):
    tokenizer = write_byte_tokenizer(tmp_path / "tokenizer", extra_special_tokens=TINY_CHAT_TOKENS)
    data = Dataset.from_items(tiny_conversations(6), num_shards=2).map(lambda row: {**row, "source": "mapped"})
    data.write_tokens(tmp_path / "store", tokenizer=tokenizer, chat=TINY_CHAT).run(workers=0)
    store = TokenStore.open(tmp_path / "store", verify=True)
    assert [store.document_id(i) for i in range(6)] == [("mapped", f"chat-0-{i}") for i in range(6)]
    with pytest.raises(ValueError, match="the chat template is no Jinja"):
        data.write_tokens(tmp_path / "other", tokenizer=tokenizer, chat=ChatFormat(template="{%"))


def test_big_files_are_shared_by_the_same_shards(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("marin.processing.tokenize.inputs.SPLIT_BYTES", 2000)
    documents = tmp_path / "documents.jsonl"
    documents.write_text("".join(json.dumps(row) + "\n" for row in tiny_documents(60)))
    tokenize(
        TokenizeConfig(
            input_path=str(documents), output_path=str(tmp_path / "step"), tokenizer=str(tokenizer), num_workers=1
        )
    )
    plan = Dataset.from_files(documents, split_bytes=2000).write_tokens(tmp_path / "store", tokenizer=tokenizer)
    assert len(plan.run(workers=0).files) > 3
    assert store_files(tmp_path / "store") == store_files(tmp_path / "step")


def test_rows_go_through_operations_and_groups_first(tmp_path: Path, tokenizer: Path):
    rows = [{"id": n, "text": f"text {n % 5}", "key": n % 5} for n in range(20)]
    plan = Dataset.from_items(rows, num_shards=3).filter("key != 3", name="three")
    plan = plan.group_by("key", lambda key, group: {"id": f"k{key}", "text": next(group)["text"]}, num_shards=2)
    plan.write_tokens(tmp_path / "store", tokenizer=tokenizer).run(workers=0)
    store = TokenStore.open(tmp_path / "store", verify=True)
    assert sorted(store.document_id(i) for i in range(store.num_documents)) == [("", f"k{n}") for n in (0, 1, 2, 4)]


def test_only_shards_that_are_missing_damaged_or_changed_are_made_again(
    documents: Path, tmp_path: Path, tokenizer: Path
):
    out = tmp_path / "store"
    plan = Dataset.from_files(documents).write_tokens(out, tokenizer=tokenizer)
    plan.run(workers=0, max_bad=0.5)
    before, made = store_files(out), len(attempts(out))
    plan.run(workers=0, max_bad=0.5)
    assert len(attempts(out)) == made

    (out / "shard-00000/tokens.bin").unlink()
    (out / "shard-00001/offsets.bin").write_bytes(b"short")
    (out / ".tmp-shard-00002.0123456789ab.tmp").mkdir()
    plan.run(workers=0, max_bad=0.5)
    assert attempts(out)[made:] == ["shard-00000", "shard-00001"]
    assert store_files(out) == before
    assert not list(out.glob(".tmp-*"))

    (documents / "b.jsonl").write_text('{"text": "now there is one"}\n')
    plan.run(workers=0, max_bad=0.5)
    assert len(attempts(out)) == made + 3
    assert TokenStore.open(out, verify=True).num_documents == 45


def test_shards_of_files_that_are_gone_leave_the_store(documents: Path, tmp_path: Path, tokenizer: Path):
    out = tmp_path / "store"
    plan = Dataset.from_files(documents).write_tokens(out, tokenizer=tokenizer)
    num_shards = len(plan.run(workers=0, max_bad=0.5).files)
    (documents / "a.jsonl.gz").unlink()
    plan.run(workers=0, max_bad=0.5)
    assert len(list(out.glob("shard-*"))) == len(TokenStore.open(out, verify=True).shards) == num_shards - 1


def test_another_tokenizer_in_the_same_folder_makes_another_store(documents: Path, tmp_path: Path):
    folder, out = write_byte_tokenizer(tmp_path / "tokenizer"), tmp_path / "store"
    data = Dataset.from_files(documents)
    old = data.write_tokens(out, tokenizer=folder)
    old.run(workers=0, max_bad=0.5)
    made = len(attempts(out))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / file
        path.write_text(path.read_text().replace("<|endoftext|>", "<|end|>"))
    data.write_tokens(out, tokenizer=folder).run(workers=0, max_bad=0.5)
    assert len(attempts(out)) == 2 * made
    assert TokenStore.open(out, verify=True).tokenizer_digest == load_tokenizer(folder).digest
    with pytest.raises(RuntimeError, match="the tokenizer has changed since the plan was made"):
        old.run(workers=0, max_bad=0.5)


def fail_on_x(row: dict[str, Any]) -> dict[str, Any]:
    if row["id"] == "x":
        raise TypeError("a mistake")
    return row


def test_a_run_that_does_not_end_well_leaves_no_store(documents: Path, tmp_path: Path, tokenizer: Path):
    data = Dataset.from_files(documents, columns=["id", "text", "source"])
    data.write_tokens(tmp_path / "store", tokenizer=tokenizer).run(workers=0, max_bad=0.5)
    with pytest.raises(RuntimeError, match="a mistake"):
        data.map(fail_on_x).write_tokens(tmp_path / "store", tokenizer=tokenizer).run(workers=0, max_bad=0.5)
    assert not (tmp_path / "store" / LEDGER).exists()
    with pytest.raises(ValueError, match="rows are bad"):
        data.write_tokens(tmp_path / "other", tokenizer=tokenizer).run(workers=0)
    assert not (tmp_path / "other" / LEDGER).exists()


def test_a_plan_without_documents_and_rows_that_are_none_are_named(tmp_path: Path, tokenizer: Path):
    with pytest.raises(ValueError, match="no documents: all rows of the plan are dropped"):
        Dataset.from_items([{"text": ""}]).write_tokens(tmp_path / "a", tokenizer=tokenizer).run(workers=0)
    with pytest.raises(RuntimeError, match="no column 'text'; documents have id and text"):
        Dataset.from_items([{"body": "b"}]).write_tokens(tmp_path / "b", tokenizer=tokenizer).run(workers=0)
    with pytest.raises(ValueError, match="encoder is 'quick'; expected one of auto"):
        Dataset.from_items([]).write_tokens(tmp_path / "c", tokenizer=tokenizer, encoder="quick")  # type: ignore[arg-type]
