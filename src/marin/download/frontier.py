"""Which addresses a crawl knows, and what became of them: a SQLite file beside the archives.

One transaction a page: that it was fetched, what it links to, and how long the archive is with it. So a crawl that was
killed goes on as if it had not been, but for the page that was under way. One process writes; a second is refused.
"""

import fcntl
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUEUED, DONE, FAILED, REFUSED = "queued", "done", "failed", "refused"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS pages (
    url TEXT PRIMARY KEY, host TEXT NOT NULL, depth INTEGER NOT NULL, via TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, not_before REAL NOT NULL DEFAULT 0, outcome TEXT NOT NULL
    DEFAULT ''
);
CREATE INDEX IF NOT EXISTS next_page ON pages (host, state, depth);
CREATE INDEX IF NOT EXISTS soonest_page ON pages (host, state, not_before);
CREATE TABLE IF NOT EXISTS kept (
    url TEXT PRIMARY KEY, digest TEXT NOT NULL, record_id TEXT NOT NULL, date TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True, kw_only=True)
class Queued:
    """An address that waits."""

    url: str
    host: str
    depth: int  # links from where the crawl began
    via: str  # the page that named it first; empty at the beginning
    attempts: int


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A payload that an archive has, of this crawl or of one before it."""

    digest: str
    record_id: str  # of the response that has it
    date: str  # of that record


class EarlierPages:
    """What an earlier crawl kept. Raises ValueError where there is none in the folder, or it has not ended."""

    def __init__(self, folder: Path, name: str, summary: str):
        if not (folder / summary).is_file() or not (folder / name).is_file():
            raise ValueError(f"previous is {folder}: no crawl that has ended is there (no {summary}, {name})")
        # `immutable`: nobody writes there, so neither locks nor files beside it are needed
        self._database = sqlite3.connect(f"{(folder / name).absolute().as_uri()}?immutable=1", uri=True)
        found = self._database.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'kept'").fetchone()[0]
        if not found:
            raise ValueError(f"previous is {folder}: that crawl did not note what it kept; leave it out once")

    def kept(self, url: str) -> Kept | None:
        """What is kept of an address."""
        return _kept(self._database, url)


def _kept(database: sqlite3.Connection, url: str) -> Kept | None:
    row = database.execute("SELECT digest, record_id, date FROM kept WHERE url = ?", (url,)).fetchone()
    return None if row is None else Kept(digest=row[0], record_id=row[1], date=row[2])


class Frontier:
    """The addresses of one crawl."""

    def __init__(self, path: Path):
        self._lock = open(path.with_name(path.name + ".lock"), "w")  # noqa: SIM115 (held until close)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise ValueError(
                f"{path.parent}: another process crawls into this folder; wait for it, or end it"
            ) from error
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + _SCHEMA)

    def close(self) -> None:
        """Let another process have it."""
        self._database.close()
        self._lock.close()

    def begin(self) -> None:
        """What follows counts together, or not at all."""
        self._database.execute("BEGIN")

    def commit(self) -> None:
        """It counts."""
        self._database.execute("COMMIT")

    def fact(self, name: str) -> Any:
        """What was noted under a name; None: nothing."""
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def note(self, name: str, value: Any) -> None:
        """Note something."""
        self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def add(self, urls: Iterable[tuple[str, str]], *, depth: int, via: str) -> None:
        """Queue addresses, given with their hosts, that are not known yet."""
        rows = [(url, host, depth, via, QUEUED) for url, host in urls]
        self._database.executemany(
            "INSERT OR IGNORE INTO pages (url, host, depth, via, state) VALUES (?, ?, ?, ?, ?)", rows
        )

    def next_of(self, host: str, now: float) -> Queued | None:
        """The next address of a host: the nearest to the beginning, of these the first that was found."""
        row = self._database.execute(
            "SELECT url, host, depth, via, attempts FROM pages WHERE host = ? AND state = ? AND not_before <= ? "
            "ORDER BY depth, rowid LIMIT 1",
            (host, QUEUED, now),
        ).fetchone()
        return None if row is None else Queued(url=row[0], host=row[1], depth=row[2], via=row[3], attempts=row[4])

    def hosts(self) -> list[str]:
        """Hosts of which something waits."""
        query = "SELECT host FROM pages WHERE state = ? GROUP BY host ORDER BY MIN(rowid)"
        return [host for (host,) in self._database.execute(query, (QUEUED,))]

    def soonest_of(self, host: str) -> float | None:
        """The time before which nothing of a host may be asked for; None where nothing waits."""
        query = "SELECT MIN(not_before) FROM pages WHERE host = ? AND state = ?"
        return self._database.execute(query, (host, QUEUED)).fetchone()[0]

    def settle(self, url: str, state: str, outcome: str) -> None:
        """What became of an address."""
        self._database.execute("UPDATE pages SET state = ?, outcome = ? WHERE url = ?", (state, outcome, url))

    def keep(self, url: str, kept: Kept) -> None:
        """Note where the payload of an address is kept."""
        values = (url, kept.digest, kept.record_id, kept.date)
        self._database.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?)", values)

    def again(self, url: str, not_before: float, outcome: str) -> None:
        """Try an address once more, later."""
        self._database.execute(
            "UPDATE pages SET attempts = attempts + 1, not_before = ?, outcome = ? WHERE url = ?",
            (not_before, outcome, url),
        )

    def facts(self, beginning: str) -> dict[str, Any]:
        """What was noted under names that begin so, by the rest of the name."""
        query = "SELECT substr(name, ?), value FROM facts WHERE substr(name, 1, ?) = ? ORDER BY name"
        size = len(beginning)
        return {name: json.loads(value) for name, value in self._database.execute(query, (size + 1, size, beginning))}

    def counts(self) -> dict[str, dict[str, int]]:
        """State -> outcome -> addresses."""
        found: dict[str, dict[str, int]] = {}
        query = (
            "SELECT state, CASE state WHEN 'queued' THEN '' ELSE outcome END, COUNT(*) FROM pages "
            "GROUP BY 1, 2 ORDER BY 1, 2"
        )
        for state, outcome, count in self._database.execute(query):
            found.setdefault(state, {})[outcome] = count
        return found

    def num_answered(self) -> int:
        """Addresses of which an answer is kept, also one that is a failure."""
        query = "SELECT COUNT(*) FROM pages WHERE state IN (?, ?) AND outcome GLOB 'status *'"
        return self._database.execute(query, (DONE, FAILED)).fetchone()[0]
