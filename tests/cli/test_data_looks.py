"""`marin data head | show | search | stats | sample`: what is in files, for people and for programs."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marin.execution.executor import InputName, run
from marin.processing.formats.writing import WRITERS, open_writer
from marin.processing.tokenize.api import default_tokenize, train_tokenizer
from marin.testing.tiny import tiny_documents, write_documents

Marin = Callable[..., SimpleNamespace]
TEXTS = [f"document {i}: " + "word " * i for i in range(40)]


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    write_shards(folder / "docs", "parquet")
    return folder


def write_shards(folder: Path, format: str) -> None:
    """Forty documents of two sources in two files; one id occurs twice."""
    folder.mkdir()
    for shard in range(2):
        ids = [f"d{i}" if i != 39 else "d0" for i in range(20 * shard, 20 * shard + 20)]
        batch = pa.RecordBatch.from_pydict(
            {
                "id": ids,
                "text": TEXTS[20 * shard : 20 * shard + 20],
                "source": ["even" if i % 2 == 0 else "odd" for i in range(20)],
                "metadata": [json.dumps({"n": i}) for i in range(20)],
            }
        )
        with open_writer(folder / f"part-{shard}.{format}", format) as writer:
            writer.write(batch)


def ids(out: str) -> list[str]:
    return [row["id"] for row in json.loads(out)["rows"]]


@pytest.mark.parametrize("format", WRITERS)
def test_every_format_is_looked_into_alike(marin: Marin, place: Path, format: str):
    if format != "parquet":
        write_shards(place / "more", format)
    path = "docs" if format == "parquet" else "more"
    assert ids(marin("data", "head", path, "-n", "2", "--offset", "19", "--json").out) == ["d19", "d20"]
    assert json.loads(marin("data", "show", path, "21", "--json").out)["metadata"] == {"n": 1}
    assert json.loads(marin("data", "stats", path, "--json").out)["rows"] == 40
    hits = json.loads(marin("data", "search", path, "document 7:", "--json").out)["hits"]
    assert [(hit["at"], hit["id"]) for hit in hits] == [(f"part-0.{format}:8", "d7")]
    (row,) = [json.loads(line) for line in marin("data", "sample", path, "-n", "1").out.splitlines()]
    assert row["text"] in TEXTS and row["metadata"]["n"] < 20


def test_head_shows_the_beginning_of_texts_and_show_all_of_one(marin: Marin, place: Path):
    shown = marin("data", "head", "docs", "-n", "40", "--chars", "12").out
    assert "--- row 39: id d0, source odd, metadata" in shown
    assert "document 39:…" in shown and TEXTS[39] not in shown
    assert TEXTS[39] in marin("data", "head", "docs", "-n", "40", "--chars", "0").out
    assert TEXTS[30] in marin("data", "show", "docs", "30").out
    assert "--offset 40: docs has 40 rows" in marin("data", "head", "docs", "--offset", "40", expect=2).err


def test_a_row_is_shown_by_id_and_by_the_place_that_search_names(marin: Marin, place: Path):
    found = marin("data", "search", "docs", r"document 2\d", "--regex", "-n", "1")
    assert "part-1.parquet:1  d20" in found.out and "⟦document 20⟧" in found.out
    assert "Next: marin data show docs part-1.parquet:1" in found.err
    assert TEXTS[20] in marin("data", "show", "docs", "part-1.parquet:1").out
    assert TEXTS[33] in marin("data", "show", "docs", "d33").out
    assert "no row with the id or at the place 'd99'" in marin("data", "show", "docs", "d99", expect=2).err
    assert "has no row 40" in marin("data", "show", "docs", "40", expect=2).err


def test_an_id_of_digits_is_found_as_one(marin: Marin, place: Path):
    (place / "numbers.jsonl").write_text('{"id": "7", "text": "seven"}\n')
    assert "seven" in marin("data", "show", "numbers.jsonl", "7", "--id").out
    assert "has no row 7" in marin("data", "show", "numbers.jsonl", "7", expect=2).err


def test_stats_count_what_one_should_know(marin: Marin, place: Path):
    (place / "docs" / "more.jsonl").write_text('{"id": "x", "text": "ü", "extra": 1}\nno json\n')
    stats = json.loads(marin("data", "stats", "docs", "--json").out)
    assert (stats["rows"], stats["duplicate_ids"], stats["bad"]) == (41, 1, {"not JSON": 1})
    assert stats["text_bytes"] == sum(map(len, TEXTS)) + 2
    assert stats["sources"]["even"]["rows"] == 20 and stats["sources"][""] == {"rows": 1, "text_bytes": 2}
    assert stats["missing"] == {"extra": 40}
    assert stats["text_length_quantiles"]["0%"] == 2
    assert stats["text_length_quantiles"]["100%"] == len(TEXTS[39])
    assert stats["files"]["part-0.parquet"]["rows"] == 20
    told = marin("data", "stats", "docs", "--files").out
    assert "duplicate ids" in told and "part-1.parquet" in told and "1 not JSON" in told


def test_a_sample_does_not_take_the_place_of_what_is_sampled(marin: Marin, place: Path):
    (place / "rows.jsonl").write_text('{"id": "a", "text": "b"}\n' * 3)
    command = ("data", "sample", "rows.jsonl", "-n", "1", "--out")
    assert "is also what is read" in marin(*command, "./rows.jsonl", expect=2).err
    assert "no/where.jsonl: there is no folder" in marin(*command, "no/where.jsonl", expect=2).err
    assert len((place / "rows.jsonl").read_text().splitlines()) == 3


def test_a_sample_depends_on_ids_and_seed_alone(marin: Marin, place: Path):
    def sample(path: str, count: int, seed: int = 0) -> list[str]:
        return ids(marin("data", "sample", path, "-n", str(count), "--seed", str(seed), "--json").out)

    ten = sample("docs", 10)
    assert len(ten) == 10 and set(sample("docs", 5)) <= set(ten)
    assert sample("docs", 10, seed=1) != ten
    rows = [row for part in sorted((place / "docs").iterdir()) for row in pq.read_table(part).to_pylist()]
    backwards = "".join(json.dumps({**row, "metadata": {}}) + "\n" for row in reversed(rows))
    (place / "one.jsonl").write_text(backwards)
    assert sorted(sample("one.jsonl", 10)) == sorted(ten)
    assert len(sample("docs", 100)) == 40


def test_a_sample_of_much_data_has_exactly_its_size(marin: Marin, place: Path):
    with open(place / "many.jsonl", "w") as file:
        for i in range(30_000):
            file.write(f'{{"id": "{i}", "text": ""}}\n')
    done = marin("data", "sample", "many.jsonl", "-n", "7", "--out", "few.jsonl.gz")
    assert "7 of 30,000 rows" in done.err
    few = ids(marin("data", "head", "few.jsonl.gz", "-n", "100", "--json").out)
    all_ids = ids(marin("data", "sample", "many.jsonl", "-n", "20000", "--json").out)
    assert len(few) == 7 and set(few) <= set(all_ids)
    assert few == sorted(few, key=int)


def test_what_cannot_be_looked_into_is_told_in_one_line(marin: Marin, place: Path):
    assert "no file or folder 'nothere', and no store at" in marin("data", "head", "nothere", expect=2).err
    (place / "empty").mkdir()
    assert "has no file of a known format" in marin("data", "stats", "empty", expect=2).err
    assert "no column 'txet'" in marin("data", "search", "docs", "x", "--column", "txet", expect=2).err
    assert "is no regular expression" in marin("data", "search", "docs", "(", "--regex", expect=2).err
    assert "the ending must be one of" in marin("data", "sample", "docs", "--out", "a.csv", expect=2).err
    whole = (place / "docs" / "part-0.parquet").read_bytes()
    (place / "docs" / "part-0.parquet").write_bytes(whole[:-9])
    assert "part-0.parquet: not a whole parquet file" in marin("data", "stats", "docs", expect=1).err


def test_a_step_is_looked_into_by_its_address_and_its_tokens_as_text(marin: Marin, place: Path):
    documents = tiny_documents(30, seed=0)
    source = InputName.hardcoded(str(write_documents(place / "tiny", documents)))
    tokenizer = train_tokenizer("tiny", source, 300)
    step = default_tokenize("tiny", source, tokenizer, num_workers=1)
    assert run([step], prefix=place / "store").is_ok
    rows = {row["id"]: row["text"] for row in documents}
    (shown,) = json.loads(marin("data", "head", step.name, "-n", "1", "--offset", "12", "--json").out)["rows"]
    assert shown["text"] == rows[shown["id"]]
    found = json.loads(marin("data", "show", step.name, shown["id"], "--json").out)
    assert (found["row"], found["text"]) == (12, shown["text"])
    stats = json.loads(marin("data", "stats", step.name, "--json").out)
    assert stats["rows"] == 30 and stats["tokens"] > 30
    assert stats["text_bytes"] == sum(len(text.encode()) for text in rows.values())
    assert "is a token store" in marin("data", "search", step.name, "x", expect=2).err
