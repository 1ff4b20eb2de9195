"""Tokenizing: nothing lost, nothing dropped in silence, and the same bytes however often it is killed."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marin.data.store import TokenStore
from marin.processing.formats.splits import plan_splits
from marin.processing.tokenize.config import TokenizeConfig
from marin.processing.tokenize.inputs import identity_of_split
from marin.processing.tokenize.tokenize import ShardCounts, tokenize
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.testing.tiny import make_token_store, tiny_documents, write_byte_tokenizer, write_documents


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write_documents(tmp_path / "documents", tiny_documents(60), num_shards=4)


def run(documents: Path, output: Path, tokenizer: Path, **settings) -> ShardCounts:
    config = TokenizeConfig(input_path=str(documents), output_path=str(output), tokenizer=str(tokenizer), **settings)
    return tokenize(config)


def files_of(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_the_store_holds_every_document_in_order_with_its_name(documents: Path, tmp_path: Path, tokenizer: Path):
    counts = run(documents, tmp_path / "store", tokenizer, num_workers=1)
    store = TokenStore.open(tmp_path / "store", verify=True)
    decoder = load_tokenizer(tokenizer)
    rows = [row for shard in range(4) for row in tiny_documents(60)[shard::4]]
    assert counts.rows == counts.documents == store.num_documents == 60
    assert counts.tokens == store.num_tokens and counts.text_bytes == store.num_bytes
    for index, row in enumerate(rows):
        ids = store.document(index)
        assert decoder.decode(ids[:-1]) == row["text"] and ids[-1] == store.eos_id
        assert store.document_id(index) == ("tiny", row["id"])
    assert np.array_equal(store.token_byte_lengths, decoder.token_byte_lengths())


def test_the_result_does_not_depend_on_the_number_of_workers(documents: Path, tmp_path: Path, tokenizer: Path):
    (documents / "bad.jsonl").write_text('{"text": "fine"}\n{broken\n{"text": ""}\n')
    for workers in (1, 2, 3):
        run(documents, tmp_path / str(workers), tokenizer, num_workers=workers, max_bad=0.5)
    one = files_of(tmp_path / "1")
    assert one == files_of(tmp_path / "2") == files_of(tmp_path / "3")
    assert any(name.startswith("_bad/") for name in one)


def test_the_store_is_the_one_that_tests_make_directly(documents: Path, tmp_path: Path, tokenizer: Path):
    run(documents, tmp_path / "store", tokenizer, num_workers=1)
    direct = make_token_store(tmp_path / "direct", 60, num_shards=4, tokenizer=tokenizer)
    assert TokenStore.open(tmp_path / "store").shards == direct.shards


def test_a_second_run_does_nothing_and_a_missing_or_damaged_shard_is_redone(
    documents: Path, tmp_path: Path, tokenizer: Path, capsys
):
    store = tmp_path / "store"
    run(documents, store, tokenizer, num_workers=1)
    before, times = files_of(store), {f: f.stat().st_mtime_ns for f in store.rglob("tokens.bin")}
    capsys.readouterr()
    run(documents, store, tokenizer, num_workers=1)
    assert "4 of 4 shards are complete already; nothing to do" in capsys.readouterr().err
    assert {f: f.stat().st_mtime_ns for f in store.rglob("tokens.bin")} == times

    tokens = store / "shard-00002/tokens.bin"
    tokens.write_bytes(b"\0" + tokens.read_bytes()[1:])
    (store / "shard-00001/manifest.json").unlink()
    (store / ".tmp-shard-00003-dead").mkdir()
    (store / "store.json.0123.tmp").touch()
    run(documents, store, tokenizer, num_workers=1)
    assert "2 of 4 shards are complete already, 2 to do" in capsys.readouterr().err
    assert files_of(store) == before


def test_another_tokenizer_or_changed_text_redoes_what_it_must(
    documents: Path, tmp_path: Path, tokenizer: Path, capsys
):
    store = tmp_path / "store"
    run(documents, store, tokenizer, num_workers=1)
    (documents / "documents-00003.jsonl.gz").unlink()
    write_documents(documents, tiny_documents(5, seed=9), num_shards=1)  # replaces documents-00000
    run(documents, store, tokenizer, num_workers=1)
    assert "2 of 3 shards are complete already, 1 to do" in capsys.readouterr().err
    run(documents, tmp_path / "fresh", tokenizer, num_workers=1)
    assert files_of(store) == files_of(tmp_path / "fresh")

    other = write_byte_tokenizer(tmp_path / "other")
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace(": 97", ": 98", 1).replace('"b": 98', '"b": 97'))
    capsys.readouterr()
    run(documents, store, other, num_workers=1)
    assert "complete already" not in capsys.readouterr().err
    assert TokenStore.open(store).tokenizer_digest == load_tokenizer(other).digest


SCRIPT = """
import sys, time
from marin.processing.tokenize import tokenize as module
from marin.processing.tokenize.config import TokenizeConfig
if __name__ == "__main__":
    print("up", flush=True)
    module.tokenize(TokenizeConfig(input_path=sys.argv[1], output_path=sys.argv[2], tokenizer=sys.argv[3],
                                   num_workers=int(sys.argv[4])))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_at_any_moment_then_the_same_call_gives_the_same_bytes(
    tmp_path: Path, tokenizer: Path, workers: int, monkeypatch
):
    monkeypatch.setenv(MARK, str(tmp_path))
    documents = write_documents(tmp_path / "documents", tiny_documents(3000, num_words=200), num_shards=6)
    run(documents, tmp_path / "undisturbed", tokenizer, num_workers=1)
    expected = files_of(tmp_path / "undisturbed")
    arguments = [str(documents), str(tmp_path / "store"), str(tokenizer), str(workers)]
    kept = []
    for published in (1, 3):  # kill while the next shards are in flight
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], stderr=subprocess.DEVNULL)
        while len(list((tmp_path / "store").glob("shard-*"))) < published and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "store/store.json").exists()
        kept.append({f: f.stat().st_mtime_ns for f in (tmp_path / "store").glob("shard-*/tokens.bin")})
        deadline = time.monotonic() + 20
        while workers_of(tmp_path):  # a worker ends by itself when its parent is gone
            assert time.monotonic() < deadline, "orphaned workers live on"
            time.sleep(0.005)
    run(documents, tmp_path / "store", tokenizer, num_workers=workers)
    assert files_of(tmp_path / "store") == expected
    untouched = [file.stat().st_mtime_ns == at for file, at in kept[-1].items()]
    assert len(untouched) >= 3 and all(untouched)


def kill_next_worker(tmp_path: Path) -> threading.Thread:
    """A thread that kills one worker of this process as soon as there is one."""

    def kill_one() -> None:
        while not (found := workers_of(tmp_path)):
            time.sleep(0.002)
        os.kill(found[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    return killer


def test_the_shard_of_a_worker_that_dies_is_made_by_another(tmp_path: Path, tokenizer: Path, monkeypatch):
    monkeypatch.setenv(MARK, str(tmp_path))
    documents = write_documents(tmp_path / "documents", tiny_documents(400), num_shards=4)
    killer = kill_next_worker(tmp_path)
    run(documents, tmp_path / "store", tokenizer, num_workers=2)
    killer.join()
    assert workers_of(tmp_path) == []
    run(documents, tmp_path / "undisturbed", tokenizer, num_workers=1)
    assert files_of(tmp_path / "store") == files_of(tmp_path / "undisturbed")


def test_a_worker_that_dies_too_often_fails_its_shard_alone(tmp_path: Path, tokenizer: Path, monkeypatch):
    monkeypatch.setenv(MARK, str(tmp_path))
    monkeypatch.setattr("marin.processing.tokenize.tokenize.WORKER_RETRIES", 0)
    documents = write_documents(tmp_path / "documents", tiny_documents(4000, num_words=200), num_shards=4)
    killer = kill_next_worker(tmp_path)
    with pytest.raises(RuntimeError, match=r"1 of 4 .*\n  documents-0000.*was killed by signal 9"):
        run(documents, tmp_path / "store", tokenizer, num_workers=2)
    killer.join()
    assert workers_of(tmp_path) == []
    assert len(list((tmp_path / "store").glob("shard-*"))) == 3
    run(documents, tmp_path / "store", tokenizer, num_workers=1)
    assert TokenStore.open(tmp_path / "store", verify=True).num_documents == 4000


MARK = "MARIN_TEST_OF"  # in the environment of workers: whose they are


def workers_of(tmp_path: Path) -> list[int]:
    """Process ids of the workers of a test."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            if b"pipeline.worker" in command and f"{MARK}={tmp_path}\0".encode() in environment:
                found.append(int(entry.name))
    return found


def test_a_full_disk_fails_the_run_and_nothing_looks_complete(documents: Path, tmp_path: Path, tokenizer: Path):
    """A limit on the size of files stands in for the full disk: the write fails half way through a shard."""
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))"
    limited = SCRIPT.replace("import sys, time", limit)
    command = [sys.executable, "-c", limited, str(documents), str(tmp_path / "store"), str(tokenizer), "1"]
    process = subprocess.run(command, capture_output=True, text=True)
    shard = tmp_path / "store" / "shard-00000"
    assert process.returncode == 1 and f"OSError: [Errno 27] File too large: '{shard}'" in process.stderr
    assert "4 of 4 shards were not tokenized" in process.stderr and "The others" not in process.stderr
    assert list((tmp_path / "store").iterdir()) == []
    run(documents, tmp_path / "store", tokenizer, num_workers=1)


def test_progress_says_how_far_how_fast_and_how_long_still(
    documents: Path, tmp_path: Path, tokenizer: Path, capsys, monkeypatch
):
    monkeypatch.setattr("marin.processing.tokenize.tokenize.PROGRESS_INTERVAL_S", 0.0)
    run(documents, tmp_path / "store", tokenizer, num_workers=1)
    lines = capsys.readouterr().err.splitlines()
    assert re.search(r"tokenize: 1/4 shards, \d+% read, \d+\.\d\d MB/s of text, ETA \d+ s", "\n".join(lines))
    assert re.match(r"tokenize: 60 documents, .* tokens \(.* bytes a token\) in .* s, .* MB/s", lines[-1])


def test_bad_rows_are_kept_aside_with_line_and_reason_and_the_counts_add_up(
    documents: Path, tmp_path: Path, tokenizer: Path
):
    lines = ['{"text": "one"}', "{broken", '{"body": 1}', '{"text": ""}', "", '{"text": "\\ud800"}', '{"text": "two"}']
    (documents / "mixed.jsonl").write_text("\n".join(lines))
    counts = run(documents, tmp_path / "store", tokenizer, max_bad=0.1, num_workers=1)
    assert (counts.rows, counts.documents, counts.empty, counts.bad) == (66, 62, 1, 3)
    assert counts.bad_by_kind == {"no text": 1, "not JSON": 1, "not valid Unicode": 1}
    assert [f.name for f in (tmp_path / "store/_bad").iterdir()] == ["shard-00004.jsonl"]
    bad = [json.loads(line) for line in (tmp_path / "store/_bad/shard-00004.jsonl").read_text().splitlines()]
    assert [(row["file"], row["line"]) for row in bad] == [("mixed.jsonl", 2), ("mixed.jsonl", 3), ("mixed.jsonl", 6)]
    assert bad[0]["reason"].startswith("not JSON: ") and bad[0]["text"] == "{broken"
    summary = json.loads((tmp_path / "store/tokenize.json").read_text())
    assert summary["counts"]["bad"] == 3 and len(summary["shards"]) == 5


def test_too_many_bad_rows_fail_and_leave_no_store(documents: Path, tmp_path: Path, tokenizer: Path):
    (documents / "mixed.jsonl").write_text("{a\n{b\n{c\n{d\n")
    first = (
        r"mixed\.jsonl line 1 \(not JSON.*\); mixed\.jsonl line 2 \(.*\); mixed\.jsonl line 3 \([^;]*\)\. All are in"
    )
    with pytest.raises(ValueError, match=first):
        run(documents, tmp_path / "store", tokenizer, num_workers=1)
    (documents / "mixed.jsonl").write_text('{"text": "one"}\n{broken\n')
    with pytest.raises(ValueError, match=r"1 of 62 rows .*1\.61%.*max_bad=1\.00%: 1 not JSON.*mixed\.jsonl line 2"):
        run(documents, tmp_path / "store", tokenizer, num_workers=1)
    assert not (tmp_path / "store/store.json").exists()
    assert (tmp_path / "store/_bad/shard-00004.jsonl").is_file()
    (documents / "mixed.jsonl").write_text('{"text": "one"}\n')  # mended: the quarantine goes
    run(documents, tmp_path / "store", tokenizer, num_workers=1)
    assert not (tmp_path / "store/_bad").exists()


def test_a_bad_row_with_a_line_separator_in_it_is_shown(documents: Path, tmp_path: Path, tokenizer: Path):
    (documents / "mixed.jsonl").write_text('{"text": "one"}\n{broken \u2028 \x85 row\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"The first: mixed\.jsonl line 2 \(not JSON"):
        run(documents, tmp_path / "store", tokenizer, num_workers=1)


def test_an_empty_corpus_is_refused_with_what_was_found(tmp_path: Path, tokenizer: Path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "readme.txt").touch()
    with pytest.raises(ValueError, match=r"holds no \*\.jsonl.* file \(it holds readme\.txt\)"):
        run(folder, tmp_path / "store", tokenizer)
    (folder / "a.jsonl").write_text('{"text": ""}\n\n')
    with pytest.raises(ValueError, match="1 files under .* hold 1 rows, of them 1 without text and 0 bad"):
        run(folder, tmp_path / "store", tokenizer)
    with pytest.raises(FileNotFoundError, match="no folder or file at"):
        run(tmp_path / "nowhere", tmp_path / "store", tokenizer)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_cannot_be_read_fails_alone_and_is_named(
    documents: Path, tmp_path: Path, tokenizer: Path, workers: int
):
    damaged = documents / "documents-00001.jsonl.gz"
    data = damaged.read_bytes()
    damaged.write_bytes(data[: len(data) // 2])
    with pytest.raises(RuntimeError, match=r"1 of 4 .*\n  documents-00001\.jsonl\.gz: DamagedFileError: .*damaged"):
        run(documents, tmp_path / "store", tokenizer, num_workers=workers)
    assert sorted(f.name for f in (tmp_path / "store").iterdir()) == ["shard-00000", "shard-00002", "shard-00003"]
    damaged.write_bytes(data)
    run(documents, tmp_path / "store", tokenizer, num_workers=workers)
    assert TokenStore.open(tmp_path / "store", verify=True).num_documents == 60


def test_a_tokenizer_that_changes_the_text_is_refused_unless_asked_for(documents: Path, tmp_path: Path):
    folder = write_byte_tokenizer(tmp_path / "lowercase")
    description = json.loads((folder / "tokenizer.json").read_text())
    description["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(description))
    (documents / "upper.jsonl").write_text('{"id": "loud", "text": "be LOUD"}\n')
    with pytest.raises(RuntimeError, match=r"does not give document 'loud' back: from character 3 on, 'LOUD' became"):
        run(documents, tmp_path / "store", folder, num_workers=1)
    assert run(documents, tmp_path / "store", folder, num_workers=1, check_round_trip=False).documents == 61


def test_a_script_without_a_main_guard_is_not_run_again_by_the_workers(
    documents: Path, tmp_path: Path, tokenizer: Path
):
    script = tmp_path / "experiment.py"
    script.write_text(SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    command = [sys.executable, str(script), str(documents), str(tmp_path / "store"), str(tokenizer), "2"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout.count("up") == 1
    assert TokenStore.open(tmp_path / "store").num_documents == 60


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="max_bad is 5; it is a share"):
        TokenizeConfig(input_path="a", output_path="b", tokenizer="c", max_bad=5)
    with pytest.raises(ValueError, match="num_workers is 0"):
        TokenizeConfig(input_path="a", output_path="b", tokenizer="c", num_workers=0)


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_a_part_of_a_file_whose_columns_changed_names_is_another(tmp_path: Path, format: str):
    def parts(*names: str) -> list[str]:
        path = tmp_path / f"a.{format}"
        table = pa.table(dict(zip(names, [["one", "two"], ["three", "four"]], strict=True)))
        if format == "parquet":
            pq.write_table(table, path, row_group_size=1)
        else:
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=1)
        splits = plan_splits(str(path), split_bytes=1)
        assert len(splits) == 2
        return [identity_of_split(split)["sha256"] for split in splits]

    assert not set(parts("text", "title")) & set(parts("title", "text"))
