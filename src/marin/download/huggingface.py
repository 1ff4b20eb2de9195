"""A repository of the Hugging Face hub at one commit, every file checked against the hash that the hub states.

The revision is a commit, not a branch: a branch moves, and a step whose name stays while its content changes is what
the executor exists to prevent. Large files have a SHA-256 there, small ones the hash that git gives them; both are
checked. The hub's HTTP interface is asked directly, since its client library would bring a cache of its own between
the source and the step's output.
"""

import json
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from marin.download.http import (
    DownloadError,
    RemoteFile,
    fetch_all,
    fetch_answer,
    fetch_bytes,
    matching,
    write_provenance,
)

_HUB = "https://huggingface.co"
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """Which repository, at which commit, and which of its files."""

    hf_dataset_id: str
    """Name on the hub, like 'HuggingFaceFW/fineweb-edu'."""
    revision: str
    """The commit: at least the first 7 of its 40 hex digits."""
    output_path: str
    """Folder that gets the files under their paths, and provenance.json."""
    hf_urls_glob: tuple[str, ...] = ()
    """Only files whose path matches one of these patterns, as `fnmatch` reads them (`*` matches slashes too)."""
    hf_repo_type_prefix: Literal["datasets", "models"] = "datasets"
    """What kind of repository it is."""
    num_workers: int = field(default=8, metadata={"version": {"exclude": True}})
    """Files fetched at one time."""

    def __post_init__(self) -> None:
        if isinstance(self.revision, str) and not _COMMIT.fullmatch(self.revision):
            raise ValueError(
                f"revision is {self.revision!r}; it must be a commit (7 to 40 hex digits): branches and tags move. "
                f"The hub shows it under 'Files and versions' of {self.hf_dataset_id}."
            )


def download_hf(config: DownloadConfig) -> dict[str, Any]:
    """Fetch the files; returns the provenance. Run again, it fetches what is missing.

    The hub is `$HF_ENDPOINT` (default: huggingface.co), and is told `$HF_TOKEN` where that is set. Raises ValueError
    where no file matches, DownloadError where one does not come or is not the one announced.
    """
    hub = os.environ.get("HF_ENDPOINT", _HUB).rstrip("/")
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    kind, name = config.hf_repo_type_prefix, config.hf_dataset_id
    about = json.loads(fetch_bytes(f"{hub}/api/{kind}/{name}/revision/{config.revision}", headers=headers))
    commit = about["sha"]
    if not commit.startswith(config.revision):
        raise ValueError(
            f"{hub}: {name} at {config.revision} is commit {commit}, which does not begin so; pin that one"
        )
    listed = {entry["path"]: entry for entry in _tree(f"{hub}/api/{kind}/{name}/tree/{commit}?recursive=true", headers)}
    below = f"{hub}/{'' if kind == 'models' else f'{kind}/'}{name}/resolve/{commit}"
    files = [
        _remote_file(listed[path], f"{below}/{urllib.parse.quote(path)}")
        for path in matching(listed, config.hf_urls_glob, f"{name} at {commit[:7]}")
    ]
    fetched = fetch_all(files, Path(config.output_path), num_workers=config.num_workers, headers=headers)
    return write_provenance(Path(config.output_path), {"hub": hub, "repository": name, "commit": commit}, fetched)


def _tree(url: str | None, headers: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Every file of a listing, which comes in pages. DownloadError where one is elsewhere: a token is not for that."""
    while url is not None:
        body, answer = fetch_answer(url, headers=headers)
        yield from (entry for entry in json.loads(body) if entry["type"] == "file")
        following = re.search(r'<([^>]+)>;\s*rel="next"', answer.get("Link") or "")
        page, url = url, following and urllib.parse.urljoin(url, following[1])
        if url is not None and _server(url) != _server(page):
            raise DownloadError(f"{page}: its listing goes on at {url}, which is another server; nothing was fetched")


def _server(url: str) -> tuple[str, str]:
    place = urllib.parse.urlsplit(url)
    return place.scheme, place.netloc


def _remote_file(entry: Mapping[str, Any], url: str) -> RemoteFile:
    large = entry.get("lfs")
    return RemoteFile(
        path=entry["path"],
        url=url,
        size=entry["size"],
        sha256=large["oid"].removeprefix("sha256:") if large else None,
        git_sha1=None if large else entry["oid"],
    )
