"""A polite crawler: pages of the hosts that are named, one request at a time a host, into WARC files.

robots.txt is minded (robots.py), also its Crawl-delay; between two requests to a host `delay_s` passes at least; a
server that says when to come again (Retry-After) is asked again then, and its whole host waits. The user agent names a
contact that the caller must give. Nothing is fetched twice under two spellings (urls.py), and a crawl that was killed
goes on where it was (frontier.py, archive.py).

The decision: every answer is archived, with its request and how it was found, also a redirect and a 404, so that the
archive says what was seen; of an address that was asked again after a failure, the last. Pages are not rendered, so
what a script would add is not there.

Sitemaps are asked for like pages: at their host's pace, if its robots.txt allows it and it is one of the crawl's hosts.
They are no pages, so they are not archived and do not count; crawl.json says what became of each.
"""

import contextlib
import http.client
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections import defaultdict, deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from marin import __version__
from marin.download.answers import Answer, archived, request_headers
from marin.download.archive import ArchiveWriter, new_record_id, warc_record
from marin.download.frontier import DONE, FAILED, REFUSED, EarlierPages, Frontier, Queued
from marin.download.http import retry_after_s
from marin.download.links import links_of, sitemap_links
from marin.download.robots import ALLOWS_ALL, ALLOWS_NOTHING, MAX_BYTES, Robots, parse_robots
from marin.download.urls import host_of, normalize_url
from marin.io.atomic import write_text
from marin.io.charset import decode_html
from marin.tracking.progress import report_progress

AGENT = "marin-crawler"
SUMMARY = "crawl.json"
_FRONTIER = "_frontier.sqlite"
_MAX_REDIRECTS = 5  # of robots.txt, as its RFC has it
_MAX_SITEMAPS = 1_000
_LONGEST_WAIT_S = 3_600.0  # a server that wants more is given up for now


@dataclass(frozen=True, kw_only=True)
class CrawlConfig:
    """What to crawl, and how gently."""

    start_urls: tuple[str, ...]
    """Where to begin."""
    contact: str = field(metadata={"version": {"exclude": True}})
    """Who crawls: an e-mail address or a page, which the user agent names so that a site's owner can complain."""
    max_pages: int
    """Answers after which the crawl ends, of all kinds, redirects too."""
    output_path: str
    """Folder that gets crawl-*.warc.gz and crawl.json."""
    hosts: tuple[str, ...] = ()
    """Hosts that may be asked, like docs.example, or .example for it and all below; empty: those of `start_urls`."""
    prefixes: tuple[str, ...] = ()
    """Only addresses that begin so; empty: all."""
    exclude: tuple[str, ...] = ()
    """No addresses in which one of these regular expressions is found."""
    max_depth: int | None = None
    """Links from the start; None: no limit."""
    use_sitemaps: bool = False
    """Whether addresses that a host's sitemaps name are taken too, as if linked from the start. A host's sitemap may
    lie on another host, if that is one of `hosts`."""
    previous: str | None = field(default=None, metadata={"version": {"omit_when": None}})
    """Folder of an earlier crawl that has ended. Of pages that are byte for byte what they were then, a `revisit`
    record that refers to that crawl's archive is kept instead: who reads the new archive needs the old one too."""
    delay_s: float = field(default=1.0, metadata={"version": {"exclude": True}})
    """Seconds between two requests to a host, at least; more where its robots.txt says so."""
    max_bytes: int = 20 << 20
    """Bytes of an answer as sent; the rest is cut off, and the record says so."""
    attempts: int = field(default=4, metadata={"version": {"exclude": True}})
    """How often an address is tried that fails for a reason that may pass."""
    timeout_s: float = field(default=30.0, metadata={"version": {"exclude": True}})
    """Seconds without a byte after which an attempt fails; four times that for a whole answer."""
    num_workers: int = field(default=16, metadata={"version": {"exclude": True}})
    """Hosts that are asked at one time."""
    file_bytes: int = field(default=512 << 20, metadata={"version": {"exclude": True}})
    """Size at which a WARC file is full."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\S+@\S+\.\S+|https?://\S+\.\S+", self.contact):
            raise ValueError(
                f"contact {self.contact!r} is no e-mail address and no page: name one by which the owner of a site "
                "that is crawled can reach you"
            )
        wrong = [url for url in self.start_urls if isinstance(url, str) and normalize_url(url) is None]
        if wrong or not self.start_urls:
            raise ValueError(f"start_urls must be addresses like https://site.example/, got {list(self.start_urls)}")
        if self.max_pages < 1 or self.delay_s < 0:
            raise ValueError(
                f"max_pages must be positive and delay_s not negative, got {self.max_pages}, {self.delay_s}"
            )
        for pattern in self.exclude:
            re.compile(pattern)


def crawl(config: CrawlConfig) -> dict[str, Any]:
    """Crawl until nothing is left or max_pages are there; returns counts, which also stand in crawl.json.

    Run again after it was killed, it goes on; run again with more max_pages, too. Raises ValueError where the folder
    holds another crawl.
    """
    output = Path(config.output_path)
    output.mkdir(parents=True, exist_ok=True)
    frontier = Frontier(output / _FRONTIER)
    try:
        return _Crawl(config, output, frontier).run()
    finally:
        frontier.close()


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """Why there is no answer."""

    reason: str


@dataclass
class _Host:
    """What is known of one host while the crawl runs."""

    robots: Robots | None = None
    next_time: float = 0.0
    is_busy: bool = False
    sitemaps: deque["_Sitemap"] = field(default_factory=deque)  # that are still to be asked for at this host
    failures: int = 0  # attempts at its robots.txt
    refusal: str = "robots.txt"  # why pages of it are not asked for


@dataclass(frozen=True)
class _Sitemap:
    """A sitemap, which may name pages of the host that it was declared for; that need not be the one it lies on."""

    url: str
    of_host: str


class _Crawl:
    def __init__(self, config: CrawlConfig, output: Path, frontier: Frontier):
        self._config = config
        self._output = output
        self._frontier = frontier
        starts = [url for url in map(normalize_url, config.start_urls) if url is not None]
        self._allowed = config.hosts or tuple(urllib.parse.urlsplit(url).hostname or "" for url in starts)
        self._exclude = [re.compile(pattern) for pattern in config.exclude]
        self._hosts: dict[str, _Host] = {}
        self._check_same_crawl()
        frontier.begin()
        frontier.add([(url, host_of(url)) for url in starts], depth=0, via="")
        frontier.commit()
        self._waiting = dict.fromkeys(frontier.hosts())  # hosts, in the order in which they came up
        self._num_answered = frontier.num_answered()
        self._num_unchanged = frontier.fact("unchanged") or 0
        self._sitemaps: defaultdict[str, set[str]] = defaultdict(set)  # those known, by the host they are for
        self._number, self._length = frontier.fact("archive") or (0, 0)
        self._earlier = None if config.previous is None else EarlierPages(Path(config.previous), _FRONTIER, SUMMARY)
        self._archive: ArchiveWriter | None = None

    def _check_same_crawl(self) -> None:
        given = asdict(self._config)
        what = json.loads(json.dumps({name: given[name] for name in _IDENTITY if given[name] is not None}))
        before = self._frontier.fact("config")
        if before is not None and {name: value for name, value in before.items() if value is not None} != what:
            changed = [name for name in _IDENTITY if before.get(name) != what.get(name)]
            raise ValueError(
                f"{self._output} holds a crawl with another {', '.join(changed)} ({before.get(changed[0])!r}, not "
                f"{what.get(changed[0])!r}): choose another folder, or the same settings to go on"
            )
        self._frontier.note("config", what)

    def run(self) -> dict[str, Any]:
        running: dict[Future[Any], tuple[_Host, Queued | _Sitemap | None, str]] = {}
        with ThreadPoolExecutor(self._config.num_workers) as pool:
            try:
                while True:
                    pause = self._start_what_may(pool, running)
                    if not running and pause is None:
                        break
                    if not running:
                        time.sleep(pause or 0.0)
                        continue
                    done, _ = wait(running, timeout=pause, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._take(*running.pop(future), future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                if self._archive is not None:
                    self._archive.close()
                raise
        return self._finish()

    def _start_what_may(self, pool: ThreadPoolExecutor, running: dict[Any, Any]) -> float | None:
        """Ask every host that is due; seconds until the next one is, None where none waits."""
        now = time.time()
        soonest: float | None = None
        for name in list(self._waiting):
            if self._num_answered + len(running) >= self._config.max_pages:
                break
            host = self._hosts.setdefault(name, _Host())
            if host.is_busy:
                continue
            if host.next_time <= now and len(running) < self._config.num_workers:
                if host.robots is None:
                    host.is_busy = True
                    running[pool.submit(self._fetch_robots, name)] = (host, None, name)
                    continue
                asked = self._next_sitemap(host) or self._next_allowed(name, host, now)
                if asked is not None:
                    host.is_busy = True
                    running[pool.submit(self._fetch, asked.url)] = (host, asked, name)
                    continue
            due = now if host.sitemaps else self._frontier.soonest_of(name)
            if due is None:
                del self._waiting[name]
                continue
            due = max(due, host.next_time)
            soonest = due if soonest is None else min(soonest, due)
        return None if soonest is None else max(soonest - now, 0.01)

    def _next_allowed(self, name: str, host: _Host, now: float) -> Queued | None:
        """The host's next page that its robots.txt allows; those that it does not are noted as refused."""
        assert host.robots is not None
        while (page := self._frontier.next_of(name, now)) is not None:
            if host.robots.allows(page.url):
                return page
            self._frontier.settle(page.url, REFUSED, host.refusal)
        return None

    def _next_sitemap(self, host: _Host) -> _Sitemap | None:
        """The host's next sitemap that its robots.txt allows; those that it does not are noted as refused."""
        assert host.robots is not None
        while host.sitemaps:
            sitemap = host.sitemaps.popleft()
            if host.robots.allows(sitemap.url):
                return sitemap
            self._frontier.note(f"sitemap {sitemap.url}", f"refused: {host.refusal}")
        return None

    # --- what came back

    def _take(self, host: _Host, page: Queued | _Sitemap | None, name: str, result: Any) -> None:
        host.is_busy = False
        delay = host.robots.crawl_delay_s if host.robots and host.robots.crawl_delay_s else 0.0
        host.next_time = time.time() + max(delay, self._config.delay_s)
        if page is None:
            self._take_robots(host, name, result)
        elif isinstance(page, _Sitemap):
            self._take_sitemap(host, page, result)
        elif isinstance(result, _Failure):
            self._try_later(host, page, result.reason, None)
        elif result.status == 429 or result.status >= 500:
            self._try_later(host, page, f"status {result.status}", result)
        else:
            self._keep(page, result)

    def _take_robots(self, host: _Host, name: str, found: "Robots | _Failure") -> None:
        if isinstance(found, _Failure):
            host.failures += 1
            if host.failures < self._config.attempts:
                host.next_time = time.time() + self._backoff(host.failures)
                return
            host.robots, host.refusal = ALLOWS_NOTHING, f"no robots.txt: {found.reason}"
            return
        host.robots = found
        host.next_time = max(host.next_time, time.time() + (found.crawl_delay_s or 0.0))
        if self._config.use_sitemaps:
            self._queue_sitemaps(found.sitemaps or ("/sitemap.xml",), base=f"{name}/robots.txt", of_host=name)

    def _queue_sitemaps(self, places: Iterable[str], *, base: str, of_host: str) -> None:
        """Have sitemaps asked for, each at its own host; those of other hosts than the crawl's are noted and left."""
        known = self._sitemaps[of_host]
        for place in places:
            url = normalize_url(place, base)
            if url is None or url in known or len(known) >= _MAX_SITEMAPS:
                continue
            known.add(url)
            if not self._is_allowed_host(url):
                self._frontier.note(f"sitemap {url}", "refused: not one of the crawl's hosts")
                continue
            name = host_of(url)
            self._hosts.setdefault(name, _Host()).sitemaps.append(_Sitemap(url, of_host))
            self._waiting.setdefault(name)

    def _take_sitemap(self, host: _Host, sitemap: _Sitemap, answer: "Answer | _Failure") -> None:
        """Queue what a sitemap names; one that cannot be had is not asked for again."""
        outcome = answer.reason if isinstance(answer, _Failure) else f"status {answer.status}"
        self._frontier.note(f"sitemap {sitemap.url}", outcome)
        if isinstance(answer, _Failure):
            return
        if answer.status == 429 or answer.status >= 500:
            asked = retry_after_s(answer.header("retry-after")) or 0.0
            host.next_time = max(host.next_time, time.time() + min(asked, _LONGEST_WAIT_S))
        elif 300 <= answer.status < 400:
            target = answer.header("location") or ""
            self._queue_sitemaps((target,), base=sitemap.url, of_host=sitemap.of_host)
        elif answer.status == 200:
            pages, further = sitemap_links(_unpacked(answer, self._config.max_bytes), sitemap.url)
            wanted = [url for url in pages if self._in_scope(url) and host_of(url) == sitemap.of_host]
            self._frontier.begin()
            self._queue(wanted, depth=0, via=sitemap.url)
            self._frontier.commit()
            self._queue_sitemaps(further, base=sitemap.url, of_host=sitemap.of_host)

    def _try_later(self, host: _Host, page: Queued, reason: str, answer: Answer | None) -> None:
        asked = retry_after_s(answer.header("retry-after")) if answer is not None else None
        pause = max(self._backoff(page.attempts + 1), asked or 0.0)
        if page.attempts + 1 < self._config.attempts and pause <= _LONGEST_WAIT_S:
            self._frontier.again(page.url, time.time() + pause, reason)
        else:
            if page.attempts + 1 < self._config.attempts:
                reason, pause = f"{reason}, to be asked again in {pause:.0f} s", 0.0
            if answer is None:
                self._frontier.settle(page.url, FAILED, reason)
            else:
                self._keep(page, answer, state=FAILED, outcome=reason)
        if asked is not None or (answer is not None and answer.status == 429):
            host.next_time = max(host.next_time, time.time() + min(pause, _LONGEST_WAIT_S))

    def _backoff(self, attempt: int) -> float:
        return max(self._config.delay_s, 0.05) * 2**attempt

    def _keep(self, page: Queued, answer: Answer, *, state: str = DONE, outcome: str = "") -> None:
        """Archive an answer and queue what it leads to, in one transaction."""
        archive = self._archive = self._archive or self._open_archive()
        earlier = None if self._earlier is None else self._earlier.kept(page.url)
        records, kept = archived(page, answer, self._user_agent, earlier)
        length = archive.append(records)
        found = self._targets(page, answer)
        targets = [url for url in found if self._in_scope(url)]
        self._frontier.begin()
        self._frontier.settle(page.url, state, outcome or f"status {answer.status}")
        if kept is not None:
            self._frontier.keep(page.url, kept)
            self._num_unchanged += kept == earlier
        if self._config.max_depth is None or page.depth < self._config.max_depth:
            self._queue(targets, depth=page.depth + 1, via=page.url)
        if page.depth == 0 and 300 <= answer.status < 400 and not targets:
            self._frontier.note(f"outside {page.url}", found[0] if found else "")
        self._frontier.note("archive", [self._number, length])
        self._frontier.note("unchanged", self._num_unchanged)
        self._frontier.commit()
        self._num_answered += 1
        report_progress(self._num_answered, self._config.max_pages, "pages")
        if length >= self._config.file_bytes:
            self._finish_archive()

    def _queue(self, urls: list[str], *, depth: int, via: str) -> None:
        placed = [(url, host_of(url)) for url in urls]
        self._frontier.add(placed, depth=depth, via=via)
        self._waiting.update(dict.fromkeys(host for _, host in placed))

    def _targets(self, page: Queued, answer: Answer) -> list[str]:
        if 300 <= answer.status < 400:
            target = normalize_url(answer.header("location") or "", page.url)
            return [target] if target is not None else []
        declared = (answer.header("content-type") or "").lower()
        if answer.status != 200 or not declared.startswith(("text/html", "application/xhtml+xml")):
            return []
        body = _unpacked(answer, self._config.max_bytes)
        charset = re.search(r"charset=([^\s;]+)", declared)
        return links_of(decode_html(body, declared=charset[1] if charset else None)[0], page.url)

    def _is_allowed_host(self, url: str) -> bool:
        host = urllib.parse.urlsplit(url).hostname or ""
        return any(host == name.lstrip(".") or (name.startswith(".") and host.endswith(name)) for name in self._allowed)

    def _in_scope(self, url: str) -> bool:
        if not self._is_allowed_host(url):
            return False
        if self._config.prefixes and not url.startswith(self._config.prefixes):
            return False
        return not any(pattern.search(url) for pattern in self._exclude)

    # --- archives

    def _archive_path(self) -> Path:
        return self._output / f"crawl-{self._number:05d}.warc.gz"

    def _open_archive(self) -> ArchiveWriter:
        if self._length and self._archive_path().exists():  # killed after it was full, before that was noted
            self._number, self._length = self._number + 1, 0
        path = self._archive_path()
        archive = ArchiveWriter(path, length=self._length)
        if not archive.length:
            about = f"software: {AGENT}/{__version__}\r\nformat: WARC File Format 1.1\r\nrobots: RFC 9309\r\n"
            about += f"operator: {self._config.contact}\r\nhttp-header-user-agent: {self._user_agent}\r\n"
            headers = [
                ("WARC-Record-ID", new_record_id()),
                ("WARC-Date", _utc_now()),
                ("WARC-Filename", path.name),
                ("Content-Type", "application/warc-fields"),
            ]
            archive.append([warc_record("warcinfo", about.encode(), headers)])
        return archive

    def _finish_archive(self) -> None:
        """Give the archive its name; the next page begins another."""
        assert self._archive is not None
        self._archive.finish()
        self._archive = None
        self._number, self._length = self._number + 1, 0
        self._frontier.note("archive", [self._number, 0])

    def _finish(self) -> dict[str, Any]:
        """Name the last archive, and write down what became of all addresses."""
        if self._archive is None and self._length:  # of a run before this one, which was killed at the end
            self._archive = self._open_archive()
        if self._archive is not None:
            self._finish_archive()
        counts = self._frontier.counts()
        summary = {
            "start_urls": list(self._config.start_urls),
            "user_agent": self._user_agent,
            "num_pages": self._num_answered,
            "num_unchanged": self._num_unchanged,
            "left": counts.pop("queued", {}).get("", 0),
            **{state: counts.get(state, {}) for state in (DONE, FAILED, REFUSED)},
            "outside": self._frontier.facts("outside "),
            "sitemaps": self._frontier.facts("sitemap "),
            "archives": sorted(path.name for path in self._output.glob("crawl-*.warc.gz")),
        }
        write_text(self._output / SUMMARY, json.dumps(summary, indent=1) + "\n")
        return summary

    # --- asking, in threads

    @property
    def _user_agent(self) -> str:
        return f"{AGENT}/{__version__} (+{self._config.contact})"

    def _fetch(self, url: str, *, max_bytes: int | None = None) -> "Answer | _Failure":
        limit = self._config.max_bytes if max_bytes is None else max_bytes
        request = urllib.request.Request(url, headers=request_headers(self._user_agent))
        answer: Any
        began, date = time.monotonic(), _utc_now()
        try:
            try:
                answer = urllib.request.build_opener(_NoRedirects).open(request, timeout=self._config.timeout_s)
            except urllib.error.HTTPError as error:  # an answer, of another status
                answer = error
            with contextlib.closing(answer):
                body, is_truncated = _read(answer, limit, began + 4 * self._config.timeout_s)
                return Answer(
                    status=answer.status,
                    reason=answer.reason or "",
                    headers=list(answer.headers.items()),
                    body=body,
                    is_truncated=is_truncated,
                    date=date,
                    wall_ms=round(1000 * (time.monotonic() - began)),
                )
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            return _Failure(reason=f"no answer: {type(reason).__name__}: {reason}")

    def _fetch_robots(self, name: str) -> "Robots | _Failure":
        """The rules of a host."""
        url = f"{name}/robots.txt"
        for _ in range(_MAX_REDIRECTS + 1):
            answer = self._fetch(url, max_bytes=MAX_BYTES)
            if isinstance(answer, _Failure):
                return answer
            target = normalize_url(answer.header("location") or "", url) if 300 <= answer.status < 400 else None
            if target is None:
                break
            url = target
        if answer.status >= 500 or answer.status == 429:
            return _Failure(reason=f"robots.txt: status {answer.status}")
        if answer.status != 200:
            return ALLOWS_ALL
        return parse_robots(_unpacked(answer, MAX_BYTES).decode("utf-8-sig", errors="replace"), AGENT)


_IDENTITY = ("start_urls", "hosts", "prefixes", "exclude", "max_depth", "use_sitemaps", "max_bytes", "previous")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer to archive; where it leads is queued like a link."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _read(answer: Any, limit: int, deadline: float) -> tuple[bytes, bool]:
    """(the body, whether it was cut off at `limit`). Raises where it is shorter than announced, or takes too long."""
    body = bytearray()
    while chunk := answer.read1(min(1 << 16, limit + 1 - len(body))):
        body += chunk
        if len(body) > limit:
            return bytes(body[:limit]), True
        if time.monotonic() > deadline:
            raise TimeoutError(f"the answer still comes after {len(body)} bytes")
    announced = answer.headers.get("Content-Length")
    if announced is not None and announced.isdigit() and len(body) < int(announced):
        raise http.client.IncompleteRead(b"", int(announced) - len(body))
    return bytes(body), False


def _unpacked(answer: Answer, limit: int) -> bytes:
    """The body without its packing, at most `limit` bytes."""
    if (answer.header("content-encoding") or "").lower() not in ("gzip", "x-gzip"):
        return answer.body
    try:
        return zlib.decompressobj(wbits=31).decompress(answer.body, limit)
    except zlib.error:
        return answer.body


def _utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
