"""The crawler, against a site of its own that can be told to misbehave."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin.download.api import crawl_site, warc_pages
from marin.download.crawl import CrawlConfig, crawl
from marin.download.links import links_of, sitemap_links
from marin.download.robots import parse_robots
from marin.download.urls import normalize_url
from marin.execution.executor import output_path_of, run
from marin.io.records import read_records
from marin.io.warc import Page, read_pages

Answer = tuple[int, dict[str, str], bytes]


class Site:
    """Serves pages by path; `rule` may answer otherwise; keeps when each path was asked for, by whom."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | Answer] = {"/robots.txt": b""}
        self.asked: list[tuple[float, str]] = []
        self.agents: set[str | None] = set()
        self.rule: Callable[[str, int], Answer | str | None] = lambda path, count: None
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append((time.monotonic(), self.path))
                site.agents.add(self.headers["User-Agent"])
                told = site.rule(self.path, site.count(self.path)) or site.pages.get(self.path, (404, {}, b"none"))
                if told == "cut":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
                    return
                assert not isinstance(told, str)
                status, headers, body = told if isinstance(told, tuple) else (200, {}, told)
                self.send_response(status)
                kind = "text/plain" if self.path.endswith(".txt") else "text/html; charset=utf-8"
                for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def count(self, path: str) -> int:
        return sum(asked == path for _, asked in self.asked)

    def links(self, path: str, *targets: str) -> None:
        self.pages[path] = "".join(f'<a href="{target}">to {target}</a>' for target in targets).encode()

    def paths(self) -> list[str]:
        return [path for _, path in self.asked if path != "/robots.txt"]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    site = Site()
    yield site
    site.close()


def config(site: Site, output: Path, **changes: Any) -> CrawlConfig:
    settings = {
        "start_urls": (f"{site.url}/",),
        "contact": "crawls@project.example",
        "max_pages": 100,
        "output_path": str(output),
        "delay_s": 0.0,
        **changes,
    }
    return CrawlConfig(**settings)


def archived(output: Path) -> list[Page]:
    found = [page for file in sorted(output.glob("*.warc.gz")) for page in read_pages(file, max_bytes=1 << 24)]
    assert all(isinstance(page, Page) for page in found)
    return found  # type: ignore[return-value]


def paths_in(output: Path, site: Site) -> list[str]:
    return [page.url.removeprefix(site.url) for page in archived(output)]


def test_a_site_is_archived_page_by_page_each_once(site: Site, tmp_path: Path):
    site.links("/", "/a", "b?x=1#part", "/a#other", "http://elsewhere.example/", "mailto:x@y.example", "/picture.png")
    site.links("/a", "/", f"{site.url.upper().replace('HTTP', 'http')}/./b?x=1", "/deep/%7euser")
    site.pages["/b?x=1"] = "<p>ünï".encode()
    site.links("/deep/~user")
    site.pages["/picture.png"] = (200, {"Content-Type": "image/png"}, b"\x89PNG")
    summary = crawl(config(site, tmp_path))
    assert paths_in(tmp_path, site) == ["/", "/a", "/b?x=1", "/picture.png", "/deep/~user"]
    assert sorted(site.paths()) == sorted(paths_in(tmp_path, site))
    by_path = {page.url.removeprefix(site.url): page for page in archived(tmp_path)}
    assert by_path["/b?x=1"].html == "<p>ünï"
    assert by_path["/picture.png"].problem == "not HTML: image/png"
    assert summary["num_pages"] == 5 and summary["done"] == {"status 200": 5} and summary["left"] == 0
    assert json.loads((tmp_path / "crawl.json").read_text()) == summary
    assert site.agents == {summary["user_agent"]} and "(+crawls@project.example)" in summary["user_agent"]


def test_the_archive_says_how_each_page_was_asked_for_and_found(site: Site, tmp_path: Path):
    site.links("/", "/a")
    site.links("/a")
    crawl(config(site, tmp_path))
    (file,) = tmp_path.glob("*.warc.gz")
    text = gzip.decompress(file.read_bytes()).decode()
    assert re.findall(r"WARC-Type: (\w+)", text) == ["warcinfo", *["request", "response", "metadata"] * 2]
    assert f"via: {site.url}/\r\nhopsFromSeed: 1" in text
    assert "GET /a HTTP/1.1\r\nHost: 127.0.0.1" in text and "operator: crawls@project.example" in text


def test_robots_txt_is_minded_before_all(site: Site, tmp_path: Path):
    site.pages["/robots.txt"] = b"User-agent: *\nDisallow: /private\nAllow: /private/open\nDisallow: /*.pdf$\n"
    site.links("/", "/private/x", "/private/open", "/a.pdf", "/a.pdf?page=1")
    summary = crawl(config(site, tmp_path))
    assert site.asked[0][1] == "/robots.txt"
    assert set(site.paths()) == {"/", "/private/open", "/a.pdf?page=1"}
    assert summary["refused"] == {"robots.txt": 2}


@pytest.mark.parametrize(("status", "pages"), [(404, 1), (403, 1), (503, 0)])
def test_without_a_robots_txt_all_is_allowed_but_not_where_it_cannot_be_had(
    site: Site, tmp_path: Path, status: int, pages: int
):
    site.pages |= {"/robots.txt": (status, {}, b""), "/": b"<p>page"}
    summary = crawl(config(site, tmp_path, attempts=2))
    assert summary["num_pages"] == pages
    assert summary["refused"] == ({} if pages else {"no robots.txt: robots.txt: status 503": 1})


def test_requests_to_a_host_keep_their_distance(site: Site, tmp_path: Path):
    site.pages["/robots.txt"] = b"User-agent: *\nCrawl-delay: 0.2\n"
    site.links("/", "/a", "/b")
    site.links("/a")
    site.links("/b")
    crawl(config(site, tmp_path, delay_s=0.05))
    times = [moment for moment, _ in site.asked]
    pauses = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert pauses[0] >= 0.05 and min(pauses[1:]) >= 0.2


def test_a_busy_server_is_asked_again_when_it_says(site: Site, tmp_path: Path):
    site.links("/", "/a")
    site.links("/a")
    site.rule = lambda path, count: (429, {"Retry-After": "1"}, b"") if path == "/" and count == 1 else None
    summary = crawl(config(site, tmp_path))
    first, second = [moment for moment, path in site.asked if path == "/"]
    assert second - first >= 1.0
    assert summary["done"] == {"status 200": 2}


def test_what_fails_is_tried_again_and_then_noted(site: Site, tmp_path: Path):
    site.links("/", "/broken", "/flaky", "/cut")
    site.links("/flaky")

    def rule(path: str, count: int) -> Answer | str | None:
        if path == "/broken" or (path == "/flaky" and count == 1):
            return 500, {}, b"oh"
        return "cut" if path == "/cut" else None

    site.rule = rule
    summary = crawl(config(site, tmp_path, attempts=2))
    assert summary["done"] == {"status 200": 2}
    (cut, broken) = sorted(summary["failed"])
    assert broken == "status 500" and cut.startswith("no answer: IncompleteRead")
    assert site.count("/broken") == 2 and site.count("/cut") == 2


def test_redirects_are_archived_and_followed_where_they_are_allowed(site: Site, tmp_path: Path):
    site.pages["/"] = (302, {"Location": "/home"}, b"")
    site.links("/home", "/out", "/loop")
    site.pages["/out"] = (301, {"Location": "http://elsewhere.example/"}, b"")
    site.pages["/loop"] = (301, {"Location": "/loop"}, b"")
    crawl(config(site, tmp_path))
    assert {page.url.removeprefix(site.url): page.problem for page in archived(tmp_path)} == {
        "/": "redirect: 302",
        "/home": None,
        "/out": "redirect: 301",
        "/loop": "redirect: 301",
    }


def test_a_start_that_leads_out_of_the_hosts_is_told(site: Site, tmp_path: Path):
    site.pages["/"] = (301, {"Location": "http://www.site.example/"}, b"")
    assert crawl(config(site, tmp_path))["outside"] == {f"{site.url}/": "http://www.site.example/"}


def test_scope_is_hosts_prefixes_patterns_and_depth(site: Site, tmp_path: Path):
    site.links("/", "/docs/a", "/blog/b", "/docs/print/c")
    site.links("/docs/a", "/docs/d")
    site.links("/docs/d", "/docs/e")
    crawl(config(site, tmp_path, prefixes=(f"{site.url}/docs/",), exclude=("/print/",), max_depth=2))
    assert site.paths() == ["/", "/docs/a", "/docs/d"]


def test_pages_that_ask_not_to_be_followed_are_not(site: Site, tmp_path: Path):
    site.pages["/"] = b'<a href="/a" rel="ugc nofollow">a</a><a href="/b">b</a>'
    site.pages["/b"] = b'<meta name="Robots" content="noindex, nofollow"><a href="/c">c</a>'
    crawl(config(site, tmp_path))
    assert site.paths() == ["/", "/b"]


def test_sitemaps_are_read_where_wanted(site: Site, tmp_path: Path):
    site.pages["/robots.txt"] = f"Sitemap: {site.url}/maps.xml\n".encode()
    site.pages["/maps.xml"] = f"<sitemapindex><sitemap><loc>{site.url}/map.gz</loc></sitemap></sitemapindex>".encode()
    urlset = (
        f"<urlset><url><loc> {site.url}/lone?a=1&amp;b=2 </loc></url><url><loc>http://no.example/</loc></url></urlset>"
    )
    site.pages["/map.gz"] = gzip.compress(urlset.encode())
    site.pages |= {"/": b"<p>", "/lone?a=1&b=2": b"<p>"}
    crawl(config(site, tmp_path, use_sitemaps=True))
    assert set(site.paths()) == {"/maps.xml", "/map.gz", "/", "/lone?a=1&b=2"}


def test_a_sitemap_is_asked_for_as_politely_as_a_page(site: Site, tmp_path: Path):
    robots = f"User-agent: *\nCrawl-delay: 0.2\nDisallow: /closed\nSitemap: file:///etc/hostname\nSitemap: /rel.xml\n\
Sitemap: {site.url}/closed.xml\nSitemap: http://elsewhere.example/map.xml\nSitemap: {site.url}/moved.xml\n"
    site.pages |= {"/robots.txt": robots.encode(), "/": b"<p>", "/a": b"<p>", "/b": b"<p>"}
    site.pages["/rel.xml"] = f"<urlset><url><loc>{site.url}/a</loc></url></urlset>".encode()
    site.pages["/moved.xml"] = (301, {"Location": "/there.xml"}, b"")
    site.pages["/there.xml"] = f"<urlset><url><loc>{site.url}/b</loc></url></urlset>".encode()
    summary = crawl(config(site, tmp_path, use_sitemaps=True))
    assert set(site.paths()) == {"/rel.xml", "/moved.xml", "/there.xml", "/", "/a", "/b"}
    times = [moment for moment, _ in site.asked]
    assert min(later - earlier for earlier, later in zip(times, times[1:], strict=False)) >= 0.2
    assert paths_in(tmp_path, site) == ["/", "/a", "/b"] and summary["num_pages"] == 3
    assert summary["sitemaps"] == {
        f"{site.url}/rel.xml": "status 200",
        f"{site.url}/closed.xml": "refused: robots.txt",
        "http://elsewhere.example/map.xml": "refused: not one of the crawl's hosts",
        f"{site.url}/moved.xml": "status 301",
        f"{site.url}/there.xml": "status 200",
    }


def test_a_sitemap_on_another_host_of_the_crawl_is_asked_for_by_that_hosts_rules(site: Site, tmp_path: Path):
    other = Site()
    try:
        site.pages["/robots.txt"] = f"Sitemap: {other.url}/open.xml\nSitemap: {other.url}/closed.xml\n".encode()
        site.pages |= {"/": b"<p>", "/a": b"<p>", "/b": b"<p>"}
        other.pages["/robots.txt"] = b"User-agent: *\nDisallow: /closed.xml\n"
        for path, page in (("/open.xml", "/a"), ("/closed.xml", "/b")):
            locations = f"<url><loc>{site.url}{page}</loc></url><url><loc>{other.url}/not-its-own</loc></url>"
            other.pages[path] = f"<urlset>{locations}</urlset>".encode()
        crawl(config(site, tmp_path, use_sitemaps=True))
    finally:
        other.close()
    assert [path for _, path in other.asked] == ["/robots.txt", "/open.xml", "/sitemap.xml"]  # the last: its own
    assert site.paths() == ["/", "/a"]


def test_answers_that_are_failures_count_as_pages_of_the_limit(site: Site, tmp_path: Path):
    site.links("/", *(f"/{number}" for number in range(20)))
    site.rule = lambda path, count: None if path in ("/", "/robots.txt") else (503, {}, b"down")
    assert crawl(config(site, tmp_path, attempts=1, max_pages=5))["num_pages"] == 5
    assert len(archived(tmp_path)) == 5
    assert crawl(config(site, tmp_path, attempts=1, max_pages=8))["num_pages"] == 8
    assert len(archived(tmp_path)) == 8


def test_a_failure_that_is_to_pass_after_hours_is_archived_as_the_last_answer(site: Site, tmp_path: Path):
    site.pages["/"] = (503, {"Retry-After": "90000"}, b"see you tomorrow")
    summary = crawl(config(site, tmp_path))
    assert summary["failed"] == {"status 503, to be asked again in 90000 s": 1}
    assert [page.problem for page in archived(tmp_path)] == ["status: 503"] and summary["num_pages"] == 1


def test_an_answer_that_is_too_big_is_cut_off_and_marked(site: Site, tmp_path: Path):
    site.pages["/"] = b"x" * 5000
    crawl(config(site, tmp_path, max_bytes=1000))
    (page,) = archived(tmp_path)
    assert page.html == "x" * 1000
    (file,) = tmp_path.glob("*.warc.gz")
    assert b"WARC-Truncated: length" in gzip.decompress(file.read_bytes())


def test_packed_answers_are_archived_as_sent_and_followed(site: Site, tmp_path: Path):
    site.pages["/"] = (200, {"Content-Encoding": "gzip"}, gzip.compress(b'<a href="/a">a</a>'))
    site.links("/a")
    crawl(config(site, tmp_path))
    assert archived(tmp_path)[0].html == '<a href="/a">a</a>' and len(archived(tmp_path)) == 2


def test_archives_are_cut_at_their_size_and_a_crawl_goes_on_with_more_pages(site: Site, tmp_path: Path):
    for i in range(10):
        site.links(f"/{i}" if i else "/", f"/{i + 1}")
    first = crawl(config(site, tmp_path, max_pages=4, file_bytes=2000))
    assert (first["num_pages"], first["left"]) == (4, 1) and len(first["archives"]) >= 2
    second = crawl(config(site, tmp_path, file_bytes=2000))
    assert second["done"] == {"status 200": 10, "status 404": 1}
    assert paths_in(tmp_path, site) == ["/", *(f"/{i}" for i in range(1, 11))]
    before = sorted(tmp_path.glob("*.warc.gz"))
    assert crawl(config(site, tmp_path, file_bytes=2000))["num_pages"] == 11
    assert sorted(tmp_path.glob("*.warc.gz")) == before and len(site.paths()) == 11


def test_pages_that_have_not_changed_since_an_earlier_crawl_are_revisits(site: Site, tmp_path: Path):
    site.links("/", "/same", "/other", "/gone")
    site.links("/same", "/below")
    site.pages |= {"/other": b"<p>before", "/gone": b"<p>here", "/below": b"<p>below"}
    folders = [tmp_path / name for name in ("first", "second", "third")]
    crawl(config(site, folders[0]))
    first = {page.url: page for page in archived(folders[0])}
    site.pages["/other"] = b"<p>after"
    del site.pages["/gone"]
    summaries = [
        crawl(config(site, folder, previous=str(before))) for before, folder in zip(folders, folders[1:], strict=False)
    ]
    assert [summary["num_unchanged"] for summary in summaries] == [3, 4]
    told = {page.url.removeprefix(site.url): page.html or page.problem for page in archived(folders[1])}
    revisit = "revisit: the page is in another record"
    assert told == {
        **dict.fromkeys(("/", "/same", "/below"), revisit),
        "/other": "<p>after",
        "/gone": "status: 404",
    }
    for folder in folders[1:]:  # to the page itself, not to another revisit
        (file,) = folder.glob("*.warc.gz")
        blocks = gzip.decompress(file.read_bytes()).decode().split("WARC/1.1\r\n")
        referred = [block for block in blocks if f"{site.url}/same\r\n" in block and "WARC-Type: revisit" in block]
        assert len(referred) == 1 and f"WARC-Refers-To: <{first[f'{site.url}/same'].id}>" in referred[0]
        assert "identical-payload-digest" in referred[0] and "<a href" not in referred[0]
    with pytest.raises(ValueError, match="no crawl that has ended is there"):
        crawl(config(site, tmp_path / "fourth", previous=str(tmp_path)))
    with pytest.raises(ValueError, match="holds a crawl with another previous"):
        crawl(config(site, folders[1]))


def test_another_crawl_into_the_same_folder_is_refused(site: Site, tmp_path: Path):
    site.pages["/"] = b"<p>"
    crawl(config(site, tmp_path))
    with pytest.raises(ValueError, match="holds a crawl with another max_depth"):
        crawl(config(site, tmp_path, max_depth=3))


SCRIPT = """
import sys
from marin.download.api import crawl_site, warc_pages
from marin.download.crawl import CrawlConfig, crawl
site, folder = sys.argv[1:]
settings = dict(contact="a@b.example", max_pages=1000, delay_s=0.01)
crawl(CrawlConfig(start_urls=(site + "/",), output_path=folder, **settings))
"""


def test_a_crawl_killed_again_and_again_archives_every_page_once(site: Site, tmp_path: Path):
    for i in range(60):
        site.links(f"/{i}" if i else "/", f"/{2 * i + 1}", f"/{2 * i + 2}")
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    for kill in range(8):
        asked = len(site.asked)
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, site.url, str(tmp_path)], env=environment)
        if kill < 5:
            while process.poll() is None and len(site.asked) < asked + 2 + 5 * kill:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
        elif process.wait(60) == 0:
            break
    else:
        pytest.fail("the crawl did not come to its end")
    paths = paths_in(tmp_path, site)
    assert sorted(paths) == sorted({"/", *(f"/{i}" for i in range(1, 121))}) and len(paths) == 121
    assert list(tmp_path.glob("*.part")) == []


def test_one_process_at_a_time_crawls_into_a_folder(site: Site, tmp_path: Path):
    site.pages["/"] = b"<p>"
    refused = []

    def second(path: str, count: int) -> None:
        if path == "/":
            with pytest.raises(ValueError, match="another process crawls into this folder") as caught:
                crawl(config(site, tmp_path))
            refused.append(caught)

    site.rule = second
    crawl(config(site, tmp_path))
    assert len(refused) == 1


@pytest.mark.parametrize(
    "changes", [{"contact": "me"}, {"start_urls": ("ftp://x",)}, {"start_urls": ()}, {"max_pages": 0}]
)
def test_a_crawl_without_what_it_needs_is_refused(site: Site, tmp_path: Path, changes: dict):
    with pytest.raises(ValueError, match=next(iter(changes))):
        config(site, tmp_path, **changes)


# --- addresses, robots.txt, links

SPELLINGS = [
    ("HTTP://Site.Example:80", "http://site.example/"),
    ("https://site.example:443/a/./b/../c", "https://site.example/a/c"),
    ("http://site.example/%7Euser/%c3%bc", "http://site.example/~user/%C3%BC"),
    ("http://site.example/ü?q=a b", "http://site.example/%C3%BC?q=a%20b"),
    ("http://site.example/a?b#c", "http://site.example/a?b"),
    ("http://bücher.example/", "http://xn--bcher-kva.example/"),
    ("http://site.example/100%", "http://site.example/100%25"),
    ("http://[::1]:8080/", "http://[::1]:8080/"),
]


@pytest.mark.parametrize(("url", "spelled"), SPELLINGS)
def test_an_address_has_one_spelling(url: str, spelled: str):
    assert normalize_url(url) == spelled


@pytest.mark.parametrize(
    "url",
    [
        "mailto:a@b.example",
        "javascript:void(0)",
        "http://",
        "http://u:p@site.example/",
        "http://[bad/",
        "http://a:x/",
        "x",
    ],
)
def test_what_is_no_address_of_a_page_is_none(url: str):
    assert normalize_url(url) is None


@given(st.text(max_size=40))
def test_a_spelling_is_spelled_as_it_is(tail: str):
    once = normalize_url("http://site.example/a/b?c", "http://site.example/")
    assert once is not None
    spelled = normalize_url(tail, once)
    assert spelled is None or normalize_url(spelled) == spelled


RULES = """
User-agent: other
User-agent: marin-crawler
Disallow: /a
Allow: /a/b
Disallow: /*/c$
Crawl-delay: 2

User-agent: *
Disallow: /
Sitemap: http://site.example/map.xml
"""


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/", True),
        ("/a", False),
        ("/abc", False),
        ("/a/b", True),
        ("/a/bc", True),
        ("/x/c", False),
        ("/x/cd", True),
        ("/%61", False),
        ("/robots.txt", True),
    ],
)
def test_the_most_specific_rule_of_the_own_group_wins(path: str, allowed: bool):
    robots = parse_robots(RULES, "marin-crawler/1.0")
    assert robots.allows(f"http://site.example{path}") is allowed
    assert robots.crawl_delay_s == 2 and robots.sitemaps == ("http://site.example/map.xml",)
    assert not parse_robots(RULES, "stranger").allows(f"http://site.example{path}") or path == "/robots.txt"


def test_an_empty_rule_forbids_nothing_and_nonsense_is_passed_over():
    robots = parse_robots("User-agent: *\nDisallow:\nnonsense\nCrawl-delay: soon\n\x00: \xff\n", "x")
    assert robots.allows("http://site.example/a") and robots.crawl_delay_s is None


@given(st.text(alphabet="/*$ab", max_size=12), st.text(alphabet="/ab$", max_size=12))
def test_a_wildcard_fits_where_a_regular_expression_says_so(pattern: str, path: str):
    pieces = [re.escape(piece) for piece in f"/{pattern}".removesuffix("$").split("*")]
    fits = re.match(".*".join(pieces) + (r"\Z" if pattern.endswith("$") else ""), f"/{path}") is not None
    robots = parse_robots(f"User-agent: *\nDisallow: /{pattern}\n", "x")
    assert robots.allows(f"http://site.example/{path}") is not fits


def test_a_rule_of_many_wildcards_takes_no_time():
    robots = parse_robots("User-agent: *\nDisallow: /" + "*a" * 400 + "*b$\n", "x")
    began = time.process_time()
    assert robots.allows("http://site.example/" + "a" * 1900)
    assert time.process_time() - began < 0.5


@given(st.text(max_size=200), st.text(alphabet="/*$ab?%", max_size=20))
def test_any_robots_txt_gives_an_answer(text: str, path: str):
    robots = parse_robots(f"User-agent: *\nDisallow: {path}\n{text}", "x")
    assert robots.allows("http://site.example/ab") in (True, False)


def test_links_are_relative_to_the_base_of_a_page():
    html = (
        '<base href="/sub/"><a href="x">x</a><a href="//other.example/y">y</a><area href="x">'
        '<iframe src="../z"></iframe>'
    )
    assert links_of(html, "http://site.example/a/b") == [
        "http://site.example/sub/x",
        "http://other.example/y",
        "http://site.example/z",
    ]


def test_links_in_comments_and_scripts_are_none_and_odd_tags_are_read():
    html = (
        """<!-- <a href="/no"> --><script>'<a href="/no">'</script><A class=x HREF='/one?a=1&amp;b=2'>1</A>"""
        """<a href=/two>2</a><a\n title="a > b"\n href = "/three" >3</a><a name=x>4</a><a href="">5</a><a href="/open"""
    )
    assert links_of(html, "http://site.example/p") == [
        "http://site.example/one?a=1&b=2",
        "http://site.example/two",
        "http://site.example/three",
        "http://site.example/p",
    ]


HOSTILE = ["<div>", "<a '", '<a "', "<!--", "<script>", "<a href=x>", "<a b=", "<", "<a <", "<a b='c\" "]


@pytest.mark.parametrize("piece", HOSTILE)
def test_the_time_for_links_grows_with_a_page_and_not_with_its_square(piece: str):
    def cpu_s(count: int) -> float:
        html = piece * count + '<a href="/y">y</a>'
        before = time.process_time()
        links_of(html, "http://site.example/")
        return time.process_time() - before

    small = min(cpu_s(20_000) for _ in range(3))
    assert cpu_s(200_000) < 40 * small + 0.2


def test_a_sitemap_that_is_none_has_no_links():
    assert sitemap_links(b"\x1f\x8bnot gzip", "http://site.example/") == ([], [])
    assert sitemap_links(b"<html>", "http://site.example/") == ([], [])


def test_a_crawl_and_the_pages_of_its_archives_are_steps(site: Site, tmp_path: Path):
    site.links("/", "/a")
    site.links("/a", "/")
    crawled = crawl_site("raw/site", (f"{site.url}/",), contact="a@b.example", max_pages=10, delay_s=0.0)
    pages = warc_pages("pages/site", (output_path_of(crawled),))  # type: ignore[arg-type]
    done = run([pages], prefix=tmp_path / "store")
    assert done.is_ok
    rows = list(read_records(Path(done.output_path(pages)) / "pages-crawl-00000.jsonl.zst"))
    assert [row["url"].removeprefix(site.url) for row in rows] == ["/", "/a"]
    assert run([pages], prefix=tmp_path / "store").is_ok and len(site.paths()) == 2
