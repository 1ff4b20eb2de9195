"""`marin data download`: from the shell what the steps of `marin.download.api` do."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

Marin = Callable[..., SimpleNamespace]


@pytest.fixture
def place(folder: Path) -> Path:
    return folder


@pytest.fixture
def address(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    site = tmp_path_factory.mktemp("site")
    (site / "index.html").write_text('<a href="a.html">a</a> <a href="gone.html">gone</a>')
    (site / "a.html").write_text("<p>the text of a")
    (site / "rows.jsonl").write_text('{"text": "one"}\n')
    (site / "list.txt").write_text("rows.jsonl\n")
    (site / "long.txt").write_text("absent.jsonl\nrows.jsonl\nalso/absent.jsonl\na.html\n")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_crawl_its_pages_and_a_look_into_them(marin: Marin, place: Path, address: str):
    crawl = (
        "data",
        "download",
        "crawl",
        f"{address}/",
        "--contact",
        "me@x.example",
        "--max-pages",
        "9",
        "--delay",
        "0",
    )
    done = marin(*crawl, "--out", "raw")
    assert "3  answers in crawl-00000.warc.gz" in done.out and "1  done: status 404" in done.out
    assert "Next: marin data stats raw" in done.err
    assert json.loads(marin("data", "stats", "raw", "--json").out)["rows"] == 3
    pages = marin("data", "download", "warc", "raw", "--out", "pages")
    assert "2  pages" in pages.out and "1  status: 404" in pages.out
    hits = json.loads(marin("data", "search", "pages", "the text of", "--column", "html", "--json").out)["hits"]
    assert [hit["at"] for hit in hits] == ["pages-crawl-00000.jsonl.zst:2"]


def test_files_of_an_index_come(marin: Marin, place: Path, address: str):
    done = marin("data", "download", "http", address, "--index", "list.txt", "--out", "raw", "--json")
    assert [file["path"] for file in json.loads(done.out)["files"]] == ["rows.jsonl"]
    assert "one" in marin("data", "head", "raw").out


def test_files_that_are_not_there_do_not_keep_the_others_from_coming(marin: Marin, place: Path, address: str):
    common = ("data", "download", "http", address, "--index", "long.txt", "--out", "raw")
    said = marin(*common, expect=1).err
    assert "2 of 4 files are not there" in said and "/also/absent.jsonl: HTTP Error 404" in said
    assert sorted(path.name for path in (place / "raw").iterdir() if path.is_file()) == ["a.html", "rows.jsonl"]
    assert len(json.loads(marin(*common, "--files", "*.html", "rows*", "--json").out)["files"]) == 2


def test_what_is_missing_wrong_or_of_another_kind_is_told(marin: Marin, place: Path, address: str):
    def refused(*arguments: str, expect: int = 2) -> str:
        return marin("data", "download", *arguments, "--out", "raw", expect=expect).err

    assert "needs --contact" in refused("crawl", address, "--max-pages", "1")
    assert "is no e-mail address and no page" in refused("crawl", address, "--max-pages", "1", "--contact", "me")
    assert "--index is for http, not crawl" in refused("crawl", address, "--index", "x")
    assert "takes one SOURCE, got 2" in refused("http", address, address, "--index", "x")
    assert "branches and tags move" in refused("hf", "us/rows", "--revision", "main")
    assert "404" in refused("http", address, "--index", "nothere.txt", expect=1)
    assert "no archive" in refused("warc", "nothere")
