"""Splits cover their files exactly once, however they are cut; what is no row is told, with its place."""

import errno
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from marin.processing.formats import record
from marin.processing.formats.reading import BadRecord, read_split
from marin.processing.formats.splits import FormatError, find_files, plan_splits
from marin.processing.formats.writing import WRITERS, open_writer


def rows_of(paths: Any, **options: Any) -> list[dict]:
    """All rows of some files; a bad record fails the test."""
    rows, bad = rows_and_bad(paths, **options)
    assert bad == []
    return rows


def rows_and_bad(paths: Any, **options: Any) -> tuple[list[dict], list[BadRecord]]:
    bad: list[BadRecord] = []
    columns = options.pop("columns", None)
    splits = plan_splits(paths, **options)
    batches = [batch for split in splits for batch in read_split(split, columns=columns, on_bad=bad.append)]
    return [row for batch in batches for row in batch.to_pylist()], bad


def document(number: int, text: str = "a text") -> dict:
    return {"id": str(number), "text": text, "source": "here", "metadata": {"n": number}}


def write_lines(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def batch_of(rows: list[dict]) -> pa.RecordBatch:
    plain = [{**row, "metadata": json.dumps(row["metadata"])} for row in rows]
    schema = pa.schema([(name, pa.string()) for name in ("id", "text", "source", "metadata")])
    return pa.RecordBatch.from_pylist(plain, schema=schema)


lines_of_text = st.lists(
    st.one_of(
        st.text(max_size=30).map(lambda text: json.dumps({"text": text}, ensure_ascii=False).encode()),
        st.sampled_from([b"", b"   ", b"no json"]),
    ),
    max_size=12,
)


@given(lines=lines_of_text, split_bytes=st.integers(1, 200), ends=st.booleans(), windows=st.booleans())
def test_json_lines_cut_anywhere_give_the_rows_and_positions_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], split_bytes: int, ends: bool, windows: bool
):
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    newline = b"\r\n" if windows else b"\n"
    path.write_bytes(newline.join(lines) + (newline if ends else b""))
    whole = rows_and_bad(path)
    assert rows_and_bad(path, split_bytes=split_bytes) == whole
    rows, bad = whole
    expected = [(f"a.jsonl:{i}", json.loads(line)["text"]) for i, line in enumerate(lines, 1) if line.startswith(b"{")]
    assert [(row["id"], row["text"]) for row in rows] == expected
    assert [record.position for record in bad] == [
        f"a.jsonl:{i}" for i, line in enumerate(lines, 1) if line == b"no json"
    ]


@pytest.mark.parametrize("format", WRITERS)
def test_what_is_written_is_read_back_split_or_whole(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("marin.io.compression.GZIP_BLOCK_BYTES", 4000)
    monkeypatch.setattr("marin.io.compression.ZSTD_BLOCK_BYTES", 4000)
    monkeypatch.setattr("marin.processing.formats.writing.ROW_GROUP_BYTES", 4000)
    rows = [document(i, f"text {i} ünï " * (i % 7)) for i in range(500)]
    path = tmp_path / f"part.{format}"
    with open_writer(path, format) as writer:
        for start in range(0, 500, 50):
            writer.write(batch_of(rows[start : start + 50]))
    assert writer.written is not None and writer.written.rows == 500
    assert writer.written.bytes == path.stat().st_size
    expected = [{**row, "metadata": json.dumps(row["metadata"], separators=(",", ":"))} for row in rows]
    compact = [{**row, "metadata": row["metadata"].replace(" ", "")} for row in rows_of(path)]
    assert compact == expected
    assert rows_of(path, split_bytes=500) == rows_of(path)
    assert len(plan_splits(path, split_bytes=500)) > 3


@pytest.mark.parametrize("format", WRITERS)
def test_equal_batches_give_equal_bytes(tmp_path: Path, format: str):
    batch = batch_of([document(i) for i in range(100)])
    digests = set()
    for name in ("one", "two"):
        with open_writer(tmp_path / name, format) as writer:
            writer.write(batch)
        digests.add((writer.close().sha256, (tmp_path / name).read_bytes()))
    assert len(digests) == 1


@pytest.mark.parametrize("format", WRITERS)
def test_a_file_of_no_rows_is_read_as_such(tmp_path: Path, format: str):
    path = tmp_path / f"empty.{format}"
    with open_writer(path, format, schema=batch_of([document(1)]).schema) as writer:
        pass
    assert writer.close().rows == 0
    assert rows_of(path) == []


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path):
    with pytest.raises(RuntimeError), open_writer(tmp_path / "a.parquet", "parquet") as writer:
        writer.write(batch_of([document(1)]))
        raise RuntimeError("midway")
    assert list(tmp_path.iterdir()) == []


def test_other_tools_read_our_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("marin.io.compression.GZIP_BLOCK_BYTES", 100)
    monkeypatch.setattr("marin.io.compression.ZSTD_BLOCK_BYTES", 100)
    batch = batch_of([document(i) for i in range(20)])
    for format in ("jsonl.gz", "jsonl.zst"):
        with open_writer(tmp_path / f"a.{format}", format) as writer:
            writer.write(batch)
    packed = gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes())
    assert [json.loads(line) for line in packed.splitlines()] == [document(i) for i in range(20)]
    with open(tmp_path / "a.jsonl.zst", "rb") as file:
        assert zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read() == packed


def test_two_of_our_files_put_end_to_end_are_one(tmp_path: Path):
    for format in ("jsonl.gz", "jsonl.zst"):
        whole = b""
        for start in (0, 10):
            with open_writer(tmp_path / "part", format) as writer:
                writer.write(batch_of([document(i) for i in range(start, start + 10)]))
            whole += (tmp_path / "part").read_bytes()
        path = tmp_path / f"both.{format}"
        path.write_bytes(whole)
        assert [split.first_row for split in plan_splits(path, split_bytes=1)] == [0, 10]
        assert [row["id"] for row in rows_of(path, split_bytes=1)] == [str(i) for i in range(20)]


def test_rows_of_unlike_schemas_become_one(tmp_path: Path):
    path = write_lines(
        tmp_path / "mixed.jsonl",
        {"id": 1, "text": "a", "metadata": {"url": "u"}, "score": 1, "tags": ["x"], "odd": "s"},
        {"id": "two", "text": "b", "source": None, "metadata": {"other": [1, {"deep": None}]}, "score": 0.5, "odd": 3},
        {"text": "c", "metadata": None, "score": None},
    )
    first, second, third = rows_of(path)
    assert (first["id"], second["id"], third["id"]) == ("1", "two", "mixed.jsonl:3")
    assert [row["source"] for row in (first, second, third)] == ["", "", ""]
    assert json.loads(second["metadata"]) == {"other": [1, {"deep": None}]}
    assert third["metadata"] == "{}"
    assert [row["score"] for row in (first, second, third)] == [1.0, 0.5, None]
    assert (first["odd"], second["odd"], third["odd"]) == ('"s"', "3", None)
    with open_writer(tmp_path / "again.jsonl", "jsonl") as writer:
        for split in plan_splits(path):
            for batch in read_split(split, on_bad=lambda bad: pytest.fail(str(bad))):
                writer.write(batch)
    again = [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()]
    assert again[0]["tags"] == ["x"] and again[0]["odd"] == "s" and again[1]["odd"] == 3
    assert again[1]["metadata"] == {"other": [1, {"deep": None}]}


def test_a_field_that_turns_up_late_goes_to_the_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("marin.processing.formats.splits._SAMPLED_BYTES", 10)
    path = write_lines(
        tmp_path / "a.jsonl", {"text": "a"}, {"text": "b", "late": 5, "metadata": {"m": 1}}, {"text": "c"}
    )
    rows = rows_of(path)
    assert [row["metadata"] for row in rows] == ["{}", '{"m":1,"late":5}', "{}"]


BAD_LINES = [
    (b'{"text": "cut', "not JSON"),
    (b'{"text": "\xff"}', "not UTF-8"),
    (b"[1]", "not a JSON object but list"),
    (b'{"text": 5}', "text is no string"),
    (b'{"text": null}', "no text"),
    (b'{"id": "x"}', "no text"),
    (b'{"id": 1.5, "text": "a"}', "id is no string"),
    (b'{"text": "a", "source": 1}', "source is no string"),
    (b'{"text": "a", "metadata": [1]}', "metadata is no object"),
    (b'{"text": "a", "count": "many"}', "wrong type"),
    (b'{"text": "a", "count": true}', "wrong type"),
    (b'{"text": "a", "count": 7.5}', "wrong type"),
    (b'{"text": "a", "count": 99999999999999999999}', "wrong type"),
    (b'{"text": "\\ud800"}', "not valid Unicode"),
    (b'{"text": "a", "metadata": {"k": "\\udfff"}}', "not valid Unicode"),
    (b"[" * 100_000, "not JSON that can be read"),
]


@pytest.mark.parametrize(("line", "kind"), BAD_LINES, ids=[kind for _, kind in BAD_LINES])
def test_a_line_that_is_no_row_is_told_with_its_place_and_the_others_are_read(
    tmp_path: Path, line: bytes, kind: str, monkeypatch: pytest.MonkeyPatch
):
    good = {"text": "good", "count": 1}
    monkeypatch.setattr("marin.processing.formats.splits._SAMPLED_BYTES", 2 * len(json.dumps(good)) + 2)
    path = write_lines(tmp_path / "a.jsonl", good, good, b"", line, good)
    rows, (bad,) = rows_and_bad(path)
    assert len(rows) == 3
    assert bad.position == "a.jsonl:4"
    assert bad.reason.startswith(kind)


@pytest.mark.parametrize("neighbour", [2, "many"])
def test_a_whole_number_written_as_a_fraction_is_an_integer_whatever_its_neighbours_are(
    tmp_path: Path, neighbour: Any, monkeypatch: pytest.MonkeyPatch
):
    first = {"text": "good", "count": 1}
    monkeypatch.setattr("marin.processing.formats.splits._SAMPLED_BYTES", len(json.dumps(first)) + 2)
    path = write_lines(tmp_path / "a.jsonl", first, b'{"text": "a", "count": 7.0}', {"text": "b", "count": neighbour})
    rows, bad = rows_and_bad(path)
    assert [row["count"] for row in rows][:2] == [1, 7]
    assert len(rows) + len(bad) == 3 and len(bad) == (neighbour == "many")


def test_numbers_that_json_has_not_become_null(tmp_path: Path):
    path = write_lines(tmp_path / "a.jsonl", b'{"text": "a", "metadata": {"x": NaN, "y": 1}}')
    assert json.loads(rows_of(path)[0]["metadata"]) == {"x": None, "y": 1}


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_mark_of_utf_8_before_the_first_line_is_no_part_of_it(tmp_path: Path, compress: Any):
    path = tmp_path / ("rows.jsonl.gz" if compress is gzip.compress else "rows.jsonl")
    path.write_bytes(compress("".join(json.dumps(document(n)) + "\n" for n in range(3)).encode("utf-8-sig")))
    assert [row["id"] for row in rows_of(path)] == ["0", "1", "2"]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_a_line_that_is_too_long_is_not_held_and_the_next_is_read(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(record, "MAX_RECORD_BYTES", 1 << 20)
    content = b'{"text": "before"}\n{"text": "' + b"x" * (3 << 20) + b'"}\n{"text": "after"}\n'
    path = tmp_path / f"a.{ending}"
    packed = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zstandard.ZstdCompressor().compress}
    path.write_bytes(packed[ending](content))
    rows, (bad,) = rows_and_bad(path)
    assert [row["text"] for row in rows] == ["before", "after"]
    assert (bad.position, bad.kind) == (f"a.{ending}:2", "too long")
    assert str((3 << 20) + 13) in bad.reason and len(bad.text) <= 200


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress], ids=["gz", "zst"])
def test_a_file_cut_short_is_an_error_after_what_could_be_read(tmp_path: Path, pack: Any):
    lines = b"".join(json.dumps({"text": os.urandom(500).hex()}).encode() + b"\n" for _ in range(5000))
    path = tmp_path / ("a.jsonl.gz" if pack is gzip.compress else "a.jsonl.zst")
    path.write_bytes(pack(lines)[:-1000])
    seen = 0
    with pytest.raises(FormatError, match=rf"{path.name}: after line \d+: the compressed data is damaged"):
        for split in plan_splits(path):
            for batch in read_split(split, on_bad=lambda bad: pytest.fail(str(bad))):
                seen += batch.num_rows
    assert seen > 2000


@pytest.mark.parametrize("format", ["jsonl.gz", "jsonl.zst"])
def test_one_of_our_own_files_cut_short_is_an_error_too(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("marin.io.compression.GZIP_BLOCK_BYTES", 4000)
    monkeypatch.setattr("marin.io.compression.ZSTD_BLOCK_BYTES", 4000)
    path = tmp_path / f"a.{format}"
    with open_writer(path, format) as writer:
        writer.write(batch_of([document(i, os.urandom(50).hex()) for i in range(1000)]))
    whole = path.read_bytes()
    for cut in (5, 20, len(whole) // 2):
        path.write_bytes(whole[:-cut])
        with pytest.raises(FormatError, match="damaged"):
            rows_of(path, split_bytes=10_000)


def test_a_file_that_has_changed_since_it_was_planned_is_refused(tmp_path: Path):
    path = write_lines(tmp_path / "a.jsonl", {"text": "a"})
    (split,) = plan_splits(path)
    write_lines(path, {"text": "a"}, {"text": "b"})
    with pytest.raises(FormatError, match="has changed since"):
        list(read_split(split, on_bad=print))
    path.unlink()
    with pytest.raises(FormatError, match="is gone"):
        list(read_split(split, on_bad=print))


def test_anybodys_parquet_is_read_as_documents(tmp_path: Path):
    table = pa.table(
        {
            "id": pa.array([7, None, 9]),
            "text": pa.array(["a", None, "c"], pa.large_string()),
            "metadata": pa.array([{"u": 1}, {"u": 2}, None]),
            "lang": pa.array(["en", "de", "en"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    rows, (bad,) = rows_and_bad(tmp_path / "a.parquet")
    assert rows == [
        {"id": "7", "text": "a", "source": "", "metadata": '{"u":1}', "lang": "en"},
        {"id": "9", "text": "c", "source": "", "metadata": "{}", "lang": "en"},
    ]
    assert (bad.position, bad.kind) == ("a.parquet:2", "no text")


def test_metadata_that_is_no_json_object_makes_a_bad_row(tmp_path: Path):
    texts = ['{"u": 1}', "CC-BY 4.0", "[1]", None, "", "null", '{"u": ']
    ids = [str(i) for i in range(len(texts))]
    pq.write_table(pa.table({"id": ids, "text": ids, "metadata": texts}), tmp_path / "a.parquet")
    rows, bad = rows_and_bad(tmp_path / "a.parquet")
    assert [(row["id"], row["metadata"]) for row in rows] == [("0", '{"u": 1}'), ("3", "{}"), ("4", "{}"), ("5", "{}")]
    assert [(one.position, one.kind) for one in bad] == [
        (f"a.parquet:{number}", "metadata is no object") for number in (2, 3, 7)
    ]
    assert "'CC-BY 4.0'" in bad[0].reason


def test_strings_of_parquet_that_are_no_utf8_are_bad(tmp_path: Path):
    raw = pa.array([b"good", b"\xff\xfe", b"more"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    rows, (bad,) = rows_and_bad(tmp_path / "a.parquet")
    assert [row["text"] for row in rows] == ["good", "more"]
    assert (bad.position, bad.kind) == ("a.parquet:2", "not UTF-8")


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.arrow"])
def test_a_column_that_is_not_there_is_named(tmp_path: Path, name: str):
    with open_writer(tmp_path / name, name[2:]) as writer:
        writer.write(batch_of([document(1)]))
    assert rows_of(tmp_path / name, columns=["text", "id"]) == [{"text": "a text", "id": "1"}]
    with pytest.raises(FormatError, match="no column 'txet'; the columns are"):
        rows_of(tmp_path / name, columns=["txet"])


def test_a_text_column_of_another_type_is_named(tmp_path: Path):
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(FormatError, match="column 'text' is of type int64, and must be string"):
        rows_of(tmp_path / "a.parquet")


def test_batches_are_bounded_by_rows_and_bytes(tmp_path: Path):
    rows = [document(i, "x" * (1000 if i % 10 else 50_000)) for i in range(300)]
    for format in ("jsonl", "parquet", "arrow"):
        with open_writer(tmp_path / f"a.{format}", format) as writer:
            writer.write(batch_of(rows))
        (split,) = plan_splits(tmp_path / f"a.{format}")
        batches = list(read_split(split, batch_rows=64, batch_bytes=100_000, on_bad=print))
        assert sum(batch.num_rows for batch in batches) == 300
        assert all(batch.num_rows <= 64 and batch.nbytes <= 160_000 for batch in batches)


def test_files_are_sorted_by_label_and_hidden_ones_passed_over(tmp_path: Path):
    for name in ("b/x.jsonl", "a.parquet", "_bad/y.jsonl", "b/.z.jsonl", "b/notes.pdf", "c.jsonl.zst"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [label for label, _ in find_files(tmp_path)] == ["a.parquet", "b/x.jsonl", "c.jsonl.zst"]
    assert [label for label, _ in find_files(str(tmp_path / "**/*.jsonl"))] == ["b/x.jsonl"]
    assert [label for label, _ in find_files([tmp_path / "b" / "x.jsonl", tmp_path / "c.jsonl.zst"])] == [
        "c.jsonl.zst",
        "x.jsonl",
    ]


def test_a_path_without_files_or_of_no_known_format_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no file or folder at .*nowhere"):
        plan_splits(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has no file of a known format"):
        plan_splits(tmp_path)
    (tmp_path / "a.pdf").touch()
    with pytest.raises(FormatError, match="ending says no format"):
        plan_splits(tmp_path / "a.pdf")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_file_without_its_footer_is_named(tmp_path: Path, name: str):
    with open_writer(tmp_path / name, name[2:]) as writer:
        writer.write(batch_of([document(i) for i in range(100)]))
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
    with pytest.raises(FormatError, match=rf"{name}: not a whole"):
        plan_splits(tmp_path / name)


def test_what_describes_the_rows_of_a_folder_is_none_of_them(tmp_path: Path):
    names = ["README.md", "pages/index.html", "rows.jsonl"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "a"}\n')
    assert [label for label, _ in find_files(tmp_path)] == ["rows.jsonl"]
    (tmp_path / "rows.jsonl").unlink()
    assert [label for label, _ in find_files(tmp_path)] == ["pages/index.html"]
    (tmp_path / "pages" / "index.html").unlink()
    assert [label for label, _ in find_files(tmp_path)] == ["README.md"]


@pytest.mark.parametrize("format", WRITERS)
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("marin.processing.formats.writing.ROW_GROUP_BYTES", 4000)

    def full(self: Any, data: Any) -> int:
        if self.size + len(bytes(data)) > 3000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += len(bytes(data))
        return len(bytes(data))

    monkeypatch.setattr("marin.processing.formats.writing._HashingFile.write", full)
    with pytest.raises(OSError, match="No space left"), open_writer(tmp_path / "a", format) as writer:
        for _ in range(20):
            writer.write(batch_of([document(i, os.urandom(50).hex()) for i in range(100)]))
    assert list(tmp_path.iterdir()) == []
