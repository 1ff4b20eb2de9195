"""Crawl archives to pages, with counts of what is none."""

import gzip
import json
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from marin.download.archive import http_response_block, new_record_id, warc_record
from marin.download.warc import WarcPagesConfig, extract_pages
from marin.io.records import read_records


def response(body: bytes, status: int = 200, content_type: str = "text/html") -> bytes:
    headers = [
        ("WARC-Record-ID", new_record_id()),
        ("WARC-Target-URI", "http://site.example/"),
        ("WARC-Date", "2024-01-01T00:00:00Z"),
        ("Content-Type", "application/http; msgtype=response"),
    ]
    return warc_record("response", http_response_block(status, "", [("Content-Type", content_type)], body), headers)


RECORDS = [
    response(b"<p>one"),
    response(b"", 301),
    response(b"", 302),
    response(b"", 301),
    response(b""),
    response(b"\x89PNG", content_type="image/png"),
    warc_record("response", b"garbage", [("Content-Type", "application/http; msgtype=response")]),
    response(b"<p>two"),
]
COUNTS = {
    "pages": 2,
    "redirect: 301": 2,
    "redirect: 302": 1,
    "no payload": 1,
    "not HTML: image/png": 1,
    "bad: not HTTP": 1,
}


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    folder = tmp_path / "archives"
    folder.mkdir()
    (folder / "a.warc.gz").write_bytes(b"".join(RECORDS))
    (folder / "b.warc").write_bytes(gzip.decompress(RECORDS[0]))
    return folder


@pytest.fixture
def address(archives: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(archives)))
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_pages_come_out_and_all_else_is_counted(archives: Path, tmp_path: Path):
    summary = extract_pages(WarcPagesConfig(archives=(str(archives),), output_path=str(tmp_path / "out")))
    assert summary["archives"] == {"a": COUNTS, "b": {"pages": 1}}
    assert summary["total"] == {**COUNTS, "pages": 3}
    assert json.loads((tmp_path / "out" / "pages.json").read_text()) == summary
    rows = list(read_records(tmp_path / "out" / "pages-a.jsonl.zst"))
    assert [row["html"] for row in rows] == ["<p>one", "<p>two"]
    assert rows[0]["url"] == "http://site.example/" and rows[0]["date"] == "2024-01-01T00:00:00Z"


def test_archives_at_addresses_are_fetched_and_kept_with_their_hashes(address: str, tmp_path: Path):
    config = WarcPagesConfig(archives=(f"{address}/a.warc.gz", f"{address}/b.warc"), output_path=str(tmp_path / "out"))
    assert extract_pages(config)["total"]["pages"] == 3
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert [file["path"] for file in provenance["files"]] == ["archives/a.warc.gz", "archives/b.warc"]
    assert all(len(file["sha256"]) == 64 for file in provenance["files"])


def test_a_damaged_archive_is_named_and_makes_no_pages(archives: Path, tmp_path: Path):
    whole = (archives / "a.warc.gz").read_bytes()
    (archives / "a.warc.gz").write_bytes(whole[:-50])
    with pytest.raises(ValueError, match=r"a\.warc\.gz: after record 7: .*damaged"):
        extract_pages(WarcPagesConfig(archives=(str(archives),), output_path=str(tmp_path / "out")))
    assert list((tmp_path / "out").glob("pages*")) == []


def test_archives_of_one_name_and_places_without_any_are_refused(archives: Path, tmp_path: Path):
    (archives / "sub").mkdir()
    with pytest.raises(FileNotFoundError, match="no archive"):
        extract_pages(WarcPagesConfig(archives=(str(archives / "sub"),), output_path=str(tmp_path / "out")))
    (archives / "sub" / "a.warc").write_bytes(b"")
    with pytest.raises(ValueError, match="two archives have one name"):
        extract_pages(WarcPagesConfig(archives=(str(archives),), output_path=str(tmp_path / "out")))
