"""Crawl archives into pages: files of JSON lines with the HTML as text, its address and its date.

An archive is a file here or at an address; one that is fetched is kept beside the pages, with its hash in
provenance.json. Of every archive it is counted how many responses were no page, and why. (`marin.processing` reads
archives as they are, too; pages by themselves are for those who want to look at them, or to be rid of the archives.)
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marin.download.http import RemoteFile, fetch_all, write_provenance
from marin.io.atomic import write_text
from marin.io.compression import DamagedError
from marin.io.records import write_records
from marin.io.warc import BadWarcRecord, Page, read_pages

SUMMARY = "pages.json"
_ENDINGS = (".warc", ".warc.gz")


@dataclass(frozen=True, kw_only=True)
class WarcPagesConfig:
    """Which archives, and where their pages go."""

    archives: tuple[str, ...]
    """Files, folders of .warc and .warc.gz, or addresses of http(s)."""
    output_path: str
    """Folder that gets pages-*.jsonl.zst and pages.json; also archives/ and provenance.json, where some are fetched."""
    max_bytes: int = 64 << 20
    """Bytes of a record, and of a page unpacked; a longer one is counted as bad."""
    num_workers: int = field(default=4, metadata={"version": {"exclude": True}})
    """Archives fetched at one time."""


def extract_pages(config: WarcPagesConfig) -> dict[str, Any]:
    """Write the pages of each archive to one file; returns counts, by archive and in all, which stand in pages.json.

    Raises FileNotFoundError, DownloadError; ValueError for an archive that is damaged, or two of one name.
    """
    output = Path(config.output_path)
    output.mkdir(parents=True, exist_ok=True)
    archives = _local(config, output)
    counts = {}
    for name, path in archives.items():
        count: Counter[str] = Counter()
        try:
            write_records(output / f"pages-{name}.jsonl.zst", _rows(path, config.max_bytes, count))
        except DamagedError as error:
            raise ValueError(f"{path}: {error}. Fetch it again, or leave it out") from error
        counts[name] = dict(sorted(count.items()))
    total: Counter[str] = Counter()
    for count in counts.values():
        total.update(count)
    summary = {"total": dict(sorted(total.items())), "archives": counts}
    write_text(output / SUMMARY, json.dumps(summary, indent=1) + "\n")
    return summary


def _rows(path: Path, max_bytes: int, count: Counter[str]) -> Iterator[dict[str, Any]]:
    for page in read_pages(path, max_bytes=max_bytes):
        if isinstance(page, BadWarcRecord):
            count["bad: " + page.reason.partition(":")[0]] += 1
        elif page.html is None:
            count[_kind(page)] += 1
        else:
            count["pages"] += 1
            yield {
                "id": page.id or f"{path.name}:{page.number}",
                "url": page.url,
                "date": page.date,
                "status": page.status,
                "content_type": page.content_type,
                "charset": page.charset,
                "html": page.html,
            }


def _kind(page: Page) -> str:
    """Why a response is no page, in a few words."""
    kind, _, details = (page.problem or "").partition(":")
    return f"{kind}:{details}" if kind in ("not HTML", "redirect", "status") else kind


def _local(config: WarcPagesConfig, output: Path) -> dict[str, Path]:
    """Name -> file of each archive, those at addresses fetched."""
    remote = [place for place in config.archives if place.startswith(("http://", "https://"))]
    paths: list[Path] = []
    for place in config.archives:
        if place not in remote:
            paths += _archives_at(Path(place))
    if remote:
        files = [RemoteFile(path=f"archives/{place.rpartition('/')[2]}", url=place) for place in remote]
        if len({file.path for file in files}) < len(files):
            raise ValueError(f"two of {', '.join(remote)} have one name; fetch them into folders of their own")
        write_provenance(output, {"urls": remote}, fetch_all(files, output, num_workers=config.num_workers))
        paths += [output / file.path for file in files]
    named = {path.name.removesuffix(".gz").removesuffix(".warc"): path for path in sorted(paths, key=lambda p: p.name)}
    if len(named) < len(paths):
        raise ValueError(f"{config.archives}: two archives have one name; put them into folders that are read apart")
    return named


def _archives_at(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.name.endswith(_ENDINGS) and file.is_file())
    if not found:
        raise FileNotFoundError(f"no archive (.warc, .warc.gz) at {path.absolute()}")
    return found
