"""Record files: what is written is read, equal rows give equal bytes, errors say file and line."""

import gzip
import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.io.records import LineReader, RecordError, find_record_files, parse_record, read_records, write_records

ENDINGS = ["rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst"]

json_rows = st.lists(
    st.dictionaries(
        st.text(max_size=5),
        st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.lists(st.text(max_size=5), max_size=3),
        max_size=4,
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(rows=json_rows, name=st.sampled_from(ENDINGS))
def test_what_is_written_is_read_back(tmp_path_factory, rows, name: str):
    path = tmp_path_factory.mktemp("records") / name
    assert write_records(path, rows) == len(rows)
    assert list(read_records(path)) == rows


@pytest.mark.parametrize("name", ENDINGS)
def test_equal_rows_give_equal_bytes_whatever_the_name_and_the_time(tmp_path: Path, name: str):
    rows = [{"text": "a" * 100}, {"text": "é"}]
    (tmp_path / "other").mkdir()
    write_records(tmp_path / name, rows)
    write_records(tmp_path / "other" / f"b-{name}", rows)
    assert (tmp_path / name).read_bytes() == (tmp_path / "other" / f"b-{name}").read_bytes()


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path):
    def rows():
        yield {"text": "one"}
        assert not (tmp_path / "rows.jsonl.gz").exists()
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        write_records(tmp_path / "rows.jsonl.gz", rows())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{'text': 1}", "not JSON: .* at character 1"),
        (b'{"text": "cut', "not JSON: Unterminated string"),
        (b'"a string"', "not a JSON object but str"),
        (b'{"text": "\xff"}', "not UTF-8: invalid start byte at byte 10"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_line_that_is_no_object_says_why(line: bytes, reason: str):
    with pytest.raises(ValueError, match=reason):
        parse_record(line)


@pytest.mark.parametrize("name", ENDINGS)
def test_an_error_names_the_file_and_the_line_counting_blank_ones(tmp_path: Path, name: str):
    path = tmp_path / name
    write_records(path, [{"a": 1}])
    text = b'{"a": 1}\n\n  \r\n{"a": 2}\r\n{broken\n'
    if name.endswith(".gz"):
        text = gzip.compress(text)
    elif name.endswith(".zst"):
        text = pytest.importorskip("zstandard").compress(text)
    path.write_bytes(text)
    rows = read_records(path)
    assert [next(rows), next(rows)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(RecordError, match=f"{name}: line 5: not JSON"):
        next(rows)


def test_gzip_and_zstd_files_of_several_parts_are_read_whole(tmp_path: Path):
    zstandard = pytest.importorskip("zstandard")
    parts = [b'{"n": 1}\n{"n": 2}\n', b'{"n": 3}\n']
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(gzip.compress(part) for part in parts))
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(zstandard.compress(part) for part in parts))
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        assert [row["n"] for row in read_records(tmp_path / name)] == [1, 2, 3]


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst"])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_compressed_file_is_an_error_and_not_its_end(tmp_path: Path, name: str, damage: str):
    path = tmp_path / name
    write_records(path, [{"n": i, "text": hashlib.sha256(bytes([i % 256])).hexdigest()} for i in range(3000)])
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(RecordError, match=rf"{name}: (after )?line \d+: "):
        list(read_records(path))


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst"])
def test_a_compressed_file_without_a_byte_is_damaged_and_one_without_rows_is_not(tmp_path: Path, name: str):
    (tmp_path / name).touch()
    with pytest.raises(RecordError, match="the file is empty"):
        list(read_records(tmp_path / name))
    write_records(tmp_path / name, [])
    assert list(read_records(tmp_path / name)) == []


@pytest.mark.parametrize("name", ENDINGS)
def test_a_reader_knows_the_digest_of_the_file_as_it_lies_there(tmp_path: Path, name: str):
    path = tmp_path / name
    write_records(path, [{"n": i} for i in range(1000)])
    path.write_bytes(path.read_bytes())
    with LineReader(path) as lines:
        assert sum(1 for _ in lines) == 1000
        assert lines.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
        assert lines.bytes_read == path.stat().st_size


def test_files_are_found_at_any_depth_in_one_order_and_hidden_ones_passed_over(tmp_path: Path):
    names = ["b.jsonl", "a/z.jsonl.gz", "a.jsonl.zst", "a/b.jsonl", "_bad/x.jsonl", ".tmp/y.jsonl", "notes.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [file.relative_to(tmp_path).as_posix() for file in find_record_files(tmp_path)]
    assert found == ["a/b.jsonl", "a/z.jsonl.gz", "a.jsonl.zst", "b.jsonl"]
    assert find_record_files(tmp_path / "b.jsonl") == [tmp_path / "b.jsonl"]
    with pytest.raises(
        FileNotFoundError, match="no folder or file at .*nowhere: make it, or name a folder of .jsonl, "
    ):
        find_record_files(tmp_path / "nowhere")


def test_another_ending_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"rows\.json: a record file ends in one of \.jsonl"):
        write_records(tmp_path / "rows.json", [])
