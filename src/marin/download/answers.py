"""What a server said, and the records of an archive that say it.

A page that is byte for byte that of an earlier crawl is not archived again: a `revisit` record names the record that
has it (WARC 1.1, 6.7.2). So an archive of a site that hardly changes is small, and whoever reads it alone is told of
every page that it lies elsewhere.
"""

import base64
import hashlib
import urllib.parse
from dataclasses import dataclass

from marin.download.archive import Header, http_request_block, http_response_block, new_record_id, warc_record
from marin.download.frontier import Kept, Queued

_IDENTICAL = "http://netpreserve.org/warc/1.1/revisit/identical-payload-digest"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server said."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes  # as sent, perhaps packed
    is_truncated: bool
    date: str
    wall_ms: int

    def header(self, name: str) -> str | None:
        """The first header of a name, in capital letters or small."""
        return next((value for key, value in self.headers if key.lower() == name), None)


def request_headers(user_agent: str) -> dict[str, str]:
    """What every request says."""
    return {
        "User-Agent": user_agent,
        "Accept": "text/html,application/xhtml+xml,*/*;q=0.5",
        "Accept-Encoding": "gzip",
    }


def archived(page: Queued, answer: Answer, user_agent: str, earlier: Kept | None) -> tuple[list[bytes], Kept | None]:
    """The records of an answer (the request, the response, how the page was found), and where its payload is kept.

    Where `earlier` has the same payload, a revisit that refers to it stands for the response. None is kept of answers
    without a whole payload, or of another status than 200.
    """
    digest = "sha1:" + base64.b32encode(hashlib.sha1(answer.body, usedforsecurity=False).digest()).decode()
    is_whole = answer.status == 200 and bool(answer.body) and not answer.is_truncated
    is_same = is_whole and earlier is not None and earlier.digest == digest
    parts = urllib.parse.urlsplit(page.url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    request_id, response_id = new_record_id(), new_record_id()
    common = [("WARC-Target-URI", page.url), ("WARC-Date", answer.date)]
    request = http_request_block(path, {"Host": parts.netloc, **request_headers(user_agent), "Connection": "close"})
    body = b"" if is_same else answer.body
    response = http_response_block(answer.status, answer.reason, answer.headers, body)
    about = f"via: {page.via}\r\nhopsFromSeed: {page.depth}\r\nfetchTimeMs: {answer.wall_ms}\r\n"
    told: list[Header] = [("WARC-Payload-Digest", digest)]
    if answer.is_truncated:
        told.append(("WARC-Truncated", "length"))
    if is_same and earlier is not None:
        told += [
            ("WARC-Profile", _IDENTICAL),
            ("WARC-Refers-To", earlier.record_id),
            ("WARC-Refers-To-Target-URI", page.url),
            ("WARC-Refers-To-Date", earlier.date),
        ]
    records = [
        warc_record(
            "request",
            request,
            [
                ("WARC-Record-ID", request_id),
                *common,
                ("WARC-Concurrent-To", response_id),
                ("Content-Type", "application/http; msgtype=request"),
            ],
        ),
        warc_record(
            "revisit" if is_same else "response",
            response,
            [
                ("WARC-Record-ID", response_id),
                *common,
                *told,
                ("Content-Type", "application/http; msgtype=response"),
            ],
        ),
        warc_record(
            "metadata",
            about.encode("utf-8"),
            [
                ("WARC-Record-ID", new_record_id()),
                *common,
                ("WARC-Refers-To", response_id),
                ("Content-Type", "application/warc-fields"),
            ],
        ),
    ]
    if not is_whole:
        return records, None
    return records, earlier if is_same else Kept(digest=digest, record_id=response_id, date=answer.date)
