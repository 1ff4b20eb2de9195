"""Any row is reached by its number, and is the one that reading from the beginning finds."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin.processing.formats import rows as rows_module
from marin.processing.formats.record import BadRecord
from marin.processing.formats.rows import count_rows, read_row, rows
from marin.processing.formats.splits import FormatError
from marin.processing.formats.writing import WRITERS, open_writer


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(rows_module, "PIECE_BYTES", 300)
    monkeypatch.setattr("marin.io.compression.GZIP_BLOCK_BYTES", 500)
    monkeypatch.setattr("marin.io.compression.ZSTD_BLOCK_BYTES", 500)
    monkeypatch.setattr("marin.processing.formats.writing.ROW_GROUP_BYTES", 500)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_shards(folder: Path, format: str, num_rows: int) -> None:
    folder.mkdir()
    for shard in range(2):
        with open_writer(folder / f"part-{shard}.{format}", format) as writer:
            for start in range(0, num_rows, 10):
                ids = [str(1000 * shard + i) for i in range(start, min(start + 10, num_rows))]
                texts = [f"text {name} " * (int(name) % 5) for name in ids]
                writer.write(pa.RecordBatch.from_pydict({"id": ids, "text": texts}))


@pytest.mark.parametrize("format", WRITERS)
def test_every_row_of_a_folder_of_shards_is_reached(tmp_path: Path, format: str):
    write_shards(tmp_path / "data", format, 90)
    assert count_rows(tmp_path / "data") == 180
    assert read_row(tmp_path / "data", 0)["id"] == "0"
    assert read_row(tmp_path / "data", 89)["id"] == "89"
    assert read_row(tmp_path / "data", 90)["id"] == "1000"
    assert read_row(tmp_path / "data", 179)["text"] == "text 1089 " * 4
    found = list(rows(tmp_path / "data", 85, 10))
    assert [number for number, _ in found] == list(range(85, 95))
    assert [row["id"] for _, row in found if isinstance(row, dict)] == [
        *["85", "86", "87", "88", "89", "1000", "1001", "1002", "1003", "1004"]
    ]
    assert [number for number, _ in rows(tmp_path / "data", 178, 10)] == [178, 179]
    with pytest.raises(IndexError, match="no row 180: the last is 179"):
        read_row(tmp_path / "data", 180)


@given(lines=st.lists(st.sampled_from([b'{"id": "a"}', b"", b"bad", b'{"x": "' + b"y" * 200 + b'"}']), max_size=30))
def test_rows_of_json_lines_are_its_lines(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    found = dict(rows(path, 0, 1000))
    assert count_rows(path) == len(lines)
    for number, line in enumerate(lines):
        if line.startswith(b"{"):
            assert found[number] == {"id": f"a.jsonl:{number + 1}", **json.loads(line)}
            assert read_row(path, number) == found[number]
        elif number in found:  # blank lines at the end of a piece are passed over
            bad = found[number]
            assert isinstance(bad, BadRecord) and bad.position == f"a.jsonl:{number + 1}"
        else:
            assert line == b""


def test_a_bad_row_is_told_with_its_reason(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"id": "a"}\nno json\n')
    with pytest.raises(FormatError, match=r"row 1 is no record: a\.jsonl:2: not JSON"):
        read_row(tmp_path / "a.jsonl", 1)


def test_somebody_elses_compressed_file_is_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(b'{"id": "%d"}\n' % i for i in range(500))))
    assert read_row(path, 400) == {"id": "400"}
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(rows_module, "COPY_BYTES", 10)
    assert read_row(path, 400) == {"id": "400"}
    (copy,) = (tmp_path / "cache").rglob("*.jsonl.zst")
    before = copy.stat()
    assert read_row(path, 499) == {"id": "499"}
    assert copy.stat() == before
    path.write_bytes(gzip.compress(b'{"id": "other"}\n'))
    assert read_row(path, 0) == {"id": "other"}


def test_rows_of_pages_and_text_are_numbered_too(tmp_path: Path):
    (tmp_path / "a.html").write_text("<p>one")
    (tmp_path / "b.txt").write_text("two")
    both = [tmp_path / "a.html", tmp_path / "b.txt"]
    assert count_rows(both) == 2
    assert read_row(both, 0)["html"] == "<p>one"
    assert read_row(both, 1)["text"] == "two"
