"""The stage as users run it: files of pages in, documents and counts out, as a step and from the command line."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from xxhash import xxh3_128_hexdigest

from marin.cli.main import main
from marin.processing.extract import methods
from marin.processing.extract.api import extract_html, extract_stackexchange
from marin.processing.extract.config import METHOD_NAMES, OUTPUTS, ExtractConfig, PageOptions, ReadingOptions
from marin.processing.extract.methods import METHODS, Method, method_of
from marin.processing.extract.page import extract_page
from marin.processing.extract.run import extract

FIRST = "The first paragraph of the page says at some length what there is to say about it."
SECOND = "The second paragraph goes on, and is no shorter than the one that stands before it here."
NAVIGATION = "<nav><a href='/'>Home</a></nav>"
PAGE = f"<html><head><title>A page</title></head><body>{NAVIGATION}<p>{FIRST}</p><p>{SECOND}</p></body></html>"


def config(input_path: Path, output_path: Path, **fields: Any) -> ExtractConfig:
    base = ExtractConfig(
        input_path=str(input_path),
        output_path=str(output_path),
        method="ours",
        options=PageOptions(output="markdown"),
        reading=ReadingOptions(num_workers=0),
    )
    return replace(base, **fields)


def documents(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def fates(result: Any) -> tuple[dict[str, int], dict[str, int]]:
    counts = next(counts for counts in result.funnel if counts.name == "extract")
    return dict(counts.dropped), dict(counts.bad)


def test_a_folder_of_pages_becomes_documents_and_every_page_is_counted(tmp_path: Path):
    pages = tmp_path / "pages" / "a"
    pages.mkdir(parents=True)
    (pages / "good.html").write_text(PAGE)
    (pages / "links.html").write_text("<ul><li><a href='/1'>one</a></li><li><a href='/2'>two</a></li></ul>")
    (pages / "plain.html").write_text("no tag here")
    (pages / "deep.html").write_text("<div>" * 100_000 + FIRST)
    (pages / "empty.html").write_text("")
    with pytest.raises(ValueError, match="nested too deep"):
        extract(config(tmp_path / "pages", tmp_path / "out"))
    allowed = ReadingOptions(num_workers=0, max_bad=0.5)
    result = extract(config(tmp_path / "pages", tmp_path / "out", reading=allowed, source="here"))
    (made,) = documents(tmp_path / "out")
    assert made["text"] == f"{FIRST}\n\n{SECOND}" and made["source"] == "here"
    assert made["id"] == xxh3_128_hexdigest(made["text"].encode())
    metadata = json.loads(made["metadata"])
    assert metadata["title"] == "A page" and metadata["page"] == "a/good.html"
    assert metadata["method"] == f"ours {method_of('ours').identity()}"
    dropped, bad = fates(result)
    assert dropped == {"empty page": 1, "not HTML": 1, "no payload": 1} and bad == {"nested too deep": 1}


def test_rows_with_a_column_of_html_are_read_as_text_and_as_bytes(tmp_path: Path):
    rows = {"id": ["1", "2"], "content": [PAGE, PAGE], "address": ["https://a.example/1", None]}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    extract(config(tmp_path / "rows.parquet", tmp_path / "o1", html_column="content", url_column="address"))
    assert json.loads(documents(tmp_path / "o1")[0]["metadata"])["url"] == "https://a.example/1"
    raw = pa.table({"id": ["1"], "html": pa.array([PAGE.replace("page", "p\xe4ge").encode("latin-1")], pa.binary())})
    pq.write_table(raw, tmp_path / "bytes.parquet")
    extract(config(tmp_path / "bytes.parquet", tmp_path / "o2"))
    assert "the p\xe4ge says" in documents(tmp_path / "o2")[0]["text"]
    lines = "".join(json.dumps({"html": PAGE, "url": f"https://a.example/{n}"}) + "\n" for n in range(3))
    (tmp_path / "rows.jsonl").write_text(lines)
    extract(config(tmp_path / "rows.jsonl", tmp_path / "o3"))
    assert len(documents(tmp_path / "o3")) == 3
    with pytest.raises(ValueError, match="no column .html.; the columns are"):
        extract(config(tmp_path / "rows.parquet", tmp_path / "o4"))


def test_crawl_archives_give_documents_with_address_and_time(shared_data: Path, tmp_path: Path):
    allowed = ReadingOptions(num_workers=0, max_bad=0.2)
    result = extract(config(shared_data / "warc", tmp_path / "out", reading=allowed))
    made = documents(tmp_path / "out")
    assert len(made) > 30
    with_address = [row for row in made if json.loads(row["metadata"]).get("url", "").startswith("http")]
    assert len(with_address) > 30 and all("fetched" in json.loads(row["metadata"]) for row in with_address)
    counters = result.counters
    assert counters["rows_in"] == counters["rows_out"] + counters["dropped"] + counters["bad"]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_every_method_gives_the_content_as_text_and_markdown(method: str, output: str):
    body = f"<h2>Heading</h2><p>{FIRST}</p><p>{SECOND}</p>" * 3
    html = f"<html><body><article><h1>Title</h1>{body}</article></body></html>"
    text = extract_page(html, method, PageOptions(output=output)).text
    assert FIRST in text and SECOND in text
    assert ("## Heading" in text) == (output == "markdown")
    assert extract_page("<html><body></body></html>", method, PageOptions(output=output)).text == ""


def test_the_methods_are_those_that_configs_name():
    assert tuple(METHODS) == METHOD_NAMES
    with pytest.raises(ValueError, match="method is 'jina'; it is one of ours"):
        config(Path("a"), Path("b"), method="jina")
    with pytest.raises(ValueError, match="output is 'html'; it is one of text, markdown"):
        PageOptions(output="html")


def test_a_method_without_its_library_says_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    missing = Method(extract=methods.extract_ours, version=1, libraries=("no-such-library",), extra="data,extractors")
    monkeypatch.setitem(METHODS, "trafilatura", missing)
    with pytest.raises(ValueError, match=r"needs no-such-library, .*pip install 'marin\[data,extractors\]'"):
        extract_html("x", "pages", "trafilatura", PageOptions(output="text"))


def test_a_step_is_another_one_by_method_options_and_versions_and_not_by_workers(monkeypatch: pytest.MonkeyPatch):
    from marin.execution.graph import build_graph

    def digest(method: str = "ours", output: str = "text", num_workers: int | None = None) -> str:
        reading = ReadingOptions(num_workers=num_workers)
        step = extract_html("x", "/pages", method, PageOptions(output=output), reading=reading)
        (node,) = build_graph([step], prefix="/store").nodes
        assert node.name == "documents/x"
        return node.digest

    digests = {digest(), digest("resiliparse"), digest(output="markdown")}
    assert len(digests) == 3 and digest(num_workers=3) == digest()
    monkeypatch.setitem(METHODS, "ours", replace(METHODS["ours"], version=10_000))
    assert digest() not in digests
    assert extract_stackexchange("s", "/dump", "posts").name == "documents/s"


def test_the_command_tells_what_became_of_the_pages(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "1.html").write_text(PAGE)
    (tmp_path / "pages" / "2.html").write_text(NAVIGATION)
    arguments = [
        "data",
        "extract",
        str(tmp_path / "pages"),
        str(tmp_path / "out"),
        "--workers",
        "0",
        "--output",
        "text",
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err.count("2 rows in, 1 out (1 dropped, 0 bad)") == 1 and printed.out == "1 dropped: empty page\n"
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["counters"]["rows_out"] == 1 and told["dropped"] == {"empty page": 1}
    assert main(["data", "extract", str(tmp_path / "none"), str(tmp_path / "out2")]) == 2
    assert "no file or folder" in capsys.readouterr().err


def test_configs_and_steps_load_no_parser():
    code = "import sys, marin.processing.extract.api\nprint([m for m in ('selectolax', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_page_that_takes_too_long_is_quarantined_and_the_others_come_out(tmp_path: Path):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "long.html").write_text("<ul>" + "<li>x" * 1_500_000)
    (tmp_path / "pages" / "short.html").write_text(PAGE)
    hasty = ReadingOptions(num_workers=1, max_bad=0.5, timeout_s=1.5)
    result = extract(config(tmp_path / "pages", tmp_path / "out", reading=hasty))
    assert len(documents(tmp_path / "out")) == 1
    dropped, bad = fates(result)
    assert not dropped and list(bad.values()) == [1]
