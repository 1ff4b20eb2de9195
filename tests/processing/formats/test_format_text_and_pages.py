"""Text, HTML and crawl archives as rows."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from marin.io.warc import BadWarcRecord, Page, read_pages
from marin.processing.formats import record
from marin.processing.formats.reading import read_split
from marin.processing.formats.record import BadRecord
from marin.processing.formats.splits import FormatError, plan_splits


def rows_and_bad(path: Path, **options: Any) -> tuple[list[dict], list[BadRecord]]:
    bad: list[BadRecord] = []
    batches = [batch for split in plan_splits(path, **options) for batch in read_split(split, on_bad=bad.append)]
    return [row for batch in batches for row in batch.to_pylist()], bad


def warc_record(
    content: bytes, kind: str = "response", content_type: str = "application/http; msgtype=response", length: int = -1
) -> bytes:
    head = (
        f"WARC/1.1\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://site.example/\r\nWARC-Date: 2024-01-02T03:04:05Z\r\n"
        f"WARC-Record-ID: <urn:uuid:1>\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(content) if length < 0 else length}\r\n\r\n"
    )
    return head.encode() + content + b"\r\n\r\n"


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers]).encode() + b"\r\n\r\n" + body


HTML = "Content-Type: text/html; charset=utf-8"


def pages_of(tmp_path: Path, *records: bytes, name: str = "a.warc") -> list[Page | BadWarcRecord]:
    data = b"".join(records)
    (tmp_path / name).write_bytes(b"".join(map(gzip.compress, records)) if name.endswith(".gz") else data)
    return list(read_pages(tmp_path / name, max_bytes=1 << 20))


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_the_html_of_a_response_is_text_with_its_address(tmp_path: Path, name: str):
    (page,) = pages_of(tmp_path, warc_record(response("<p>ünï".encode(), HTML)), name=name)
    assert page == Page(
        number=1,
        id="urn:uuid:1",
        url="http://site.example/",
        date="2024-01-02T03:04:05Z",
        status=200,
        content_type="text/html",
        charset="utf-8",
        html="<p>ünï",
        problem=None,
    )


PACKED = [
    (gzip.compress(b"<p>a", mtime=0), "Content-Encoding: gzip"),
    (b"<p>a", "Content-Encoding: gzip"),  # unpacked by the crawler, and the header left
    (b"4\r\n<p>a\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    (b"<p>a", "Transfer-Encoding: chunked"),
]


@pytest.mark.parametrize(("body", "header"), PACKED)
def test_a_payload_is_unpacked_as_far_as_its_headers_are_true(tmp_path: Path, body: bytes, header: str):
    (page,) = pages_of(tmp_path, warc_record(response(body, HTML, header)))
    assert isinstance(page, Page) and page.html == "<p>a"


CHARSETS = [
    ("ünï".encode(), "charset=utf-8", "ünï"),
    ("ünï".encode("latin-1"), "charset=iso-8859-1", "ünï"),
    (b"\x93quoted\x94", "charset=iso-8859-1", "“quoted”"),  # windows-1252, as everybody means it
    ("привет".encode("cp1251"), "charset=windows-1251", "привет"),
    (b'<meta charset="windows-1251">' + "привет".encode("cp1251"), "", '<meta charset="windows-1251">привет'),
    ("ünï".encode("utf-16"), "charset=ascii", "ünï"),
    ("ünï".encode(), "charset=nonsense", "ünï"),
    ("ünï".encode("latin-1"), "charset=utf-8", "ünï"),  # a lie
    ("日本".encode("euc-jp"), "charset=EUC-JP", "日本"),
]


@pytest.mark.parametrize(("body", "declared", "text"), CHARSETS)
def test_html_is_decoded_as_browsers_do(tmp_path: Path, body: bytes, declared: str, text: str):
    (page,) = pages_of(tmp_path, warc_record(response(body, f"Content-Type: text/html; {declared}")))
    assert isinstance(page, Page) and page.html == text


WITHOUT_HTML = [
    (warc_record(response(b"", HTML)), "no payload: the response is empty"),
    (warc_record(b""), "no payload: the record is empty"),
    (warc_record(response(b"", "Location: /else", status="301 Moved")), "redirect: 301"),
    (warc_record(response(b"<p>no", HTML, status="404 Not Found")), "status: 404"),
    (warc_record(response(b"\x89PNG", "Content-Type: image/png")), "not HTML: image/png"),
    (warc_record(response(b"%PDF")), "not HTML: of no type"),
    (warc_record(b"text", kind="resource", content_type="text/plain"), "not HTML: text/plain"),
    (warc_record(response(b"", status="304 Not Modified"), kind="revisit"), "revisit"),
]


@pytest.mark.parametrize(("data", "problem"), WITHOUT_HTML, ids=[problem for _, problem in WITHOUT_HTML])
def test_a_response_without_html_is_a_row_that_says_why(tmp_path: Path, data: bytes, problem: str):
    (page,) = pages_of(tmp_path, data)
    assert isinstance(page, Page) and page.html is None
    assert page.problem is not None and page.problem.startswith(problem)


BAD_RECORDS = [
    (warc_record(b"nothing of HTTP"), "not HTTP"),
    (warc_record(response(b"x" * (2 << 20), HTML)), "too long"),
    (warc_record(response(gzip.compress(b"x" * (2 << 20), mtime=0), HTML, "Content-Encoding: gzip")), "too long"),
]


@pytest.mark.parametrize(("data", "reason"), BAD_RECORDS, ids=[reason for _, reason in BAD_RECORDS])
def test_a_bad_record_is_told_and_the_next_is_read(tmp_path: Path, data: bytes, reason: str):
    bad, page = pages_of(tmp_path, data, warc_record(response(b"<p>next", HTML)))
    assert isinstance(bad, BadWarcRecord) and bad.reason.startswith(reason) and bad.number == 1
    assert isinstance(page, Page) and page.html == "<p>next"


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
@pytest.mark.parametrize("cut", [3, 20, 200])
def test_an_archive_cut_short_is_an_error_after_the_pages_before_it(tmp_path: Path, name: str, cut: int):
    path = tmp_path / name
    records = [warc_record(response(b"<p>page" + b"%d" % i * 100, HTML)) for i in range(3)]
    whole = b"".join(map(gzip.compress, records)) if name.endswith(".gz") else b"".join(records)[:-4]
    path.write_bytes(whole[:-cut])
    seen = 0
    with pytest.raises(FormatError, match=rf"{name}: after record [23]: "):
        for split in plan_splits(path):
            for batch in read_split(split, on_bad=lambda bad: pytest.fail(str(bad))):
                seen += batch.num_rows
    assert seen == 2 or (seen == 3 and name.endswith(".gz") and cut < 20)  # then only the checksum is cut


def test_what_is_no_archive_is_told(tmp_path: Path):
    (tmp_path / "a.warc").write_bytes(b"<html>not a WARC</html>\n\n")
    with pytest.raises(FormatError, match="no WARC record begins with"):
        rows_and_bad(tmp_path / "a.warc")


EXPECTED_PAGES = {
    "dolma-sample-0000.warc.gz": (22, 2),
    "dolma-sample-0001.warc.gz": (15, 2),
    "resiliparse-clueweb-quirk.warc.gz": (29, 0),
    "resiliparse-warcfile.warc.gz": (16, 0),
    "whirlwind.warc.gz": (1, 0),
}


@pytest.mark.parametrize("name", EXPECTED_PAGES)
def test_real_archives_give_the_pages_that_are_in_them(shared_data: Path, name: str):
    rows, bad = rows_and_bad(shared_data / "warc" / name)
    with_html = [row for row in rows if row["html"] is not None]
    assert (len(with_html), len(rows) - len(with_html)) == EXPECTED_PAGES[name]
    assert bad == []
    assert all("<" in row["html"] and row["url"].startswith("http") and row["id"] for row in with_html)
    assert sum(row["html"].count("\ufffd") for row in with_html) < 20


def test_a_file_of_extracted_text_of_common_crawl_is_documents(shared_data: Path):
    (row,), _ = rows_and_bad(shared_data / "warc" / "whirlwind.warc.wet.gz", format="wet")
    assert row["text"].startswith("Escopete - Biquipedia")
    assert "an.wikipedia.org" in row["metadata"]


TEXT = "first line\nsecond\n\n\n  \nnext paragraph\r\n\r\nlast"


def test_text_is_a_document_a_file_a_paragraph_or_a_line(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.encode())

    def texts(**options: str) -> list[tuple[str, str]]:
        return [(row["id"], row["text"]) for row in rows_and_bad(path, **options)[0]]

    assert texts() == [("a.txt", TEXT)]
    assert texts(format="text-paragraphs") == [
        ("a.txt:1", "first line\nsecond"),
        ("a.txt:6", "next paragraph"),
        ("a.txt:8", "last"),
    ]
    lines = texts(format="text-lines")
    assert lines == [
        ("a.txt:1", "first line"),
        ("a.txt:2", "second"),
        ("a.txt:5", "  "),
        ("a.txt:6", "next paragraph"),
        ("a.txt:8", "last"),
    ]


def test_text_that_is_no_utf8_or_too_long_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.txt").write_bytes(b"good\n\xff\xfe\n\nmore")
    _, (bad,) = rows_and_bad(tmp_path / "a.txt")
    assert (bad.position, bad.kind) == ("a.txt", "not UTF-8")
    rows, (bad,) = rows_and_bad(tmp_path / "a.txt", format="text-lines")
    assert [row["text"] for row in rows] == ["good", "more"] and bad.position == "a.txt:2"
    monkeypatch.setattr(record, "MAX_RECORD_BYTES", 6)
    _, (bad,) = rows_and_bad(tmp_path / "a.txt")
    assert (bad.position, bad.kind) == ("a.txt", "too long")


def test_html_files_of_a_folder_are_rows(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.html").write_bytes('<meta charset="latin-1"><p>ü'.encode("latin-1"))
    (tmp_path / "empty.html").touch()
    rows, bad = rows_and_bad(tmp_path)
    assert bad == []
    assert [(row["id"], row["html"], row["problem"]) for row in rows] == [
        ("empty.html", None, "no payload: the file is empty"),
        ("sub/a.html", '<meta charset="latin-1"><p>ü', None),
    ]
