"""Single files of the web that are known by their hash: published models, lists, tables.

A file that is another one than it was is refused, so what a step gives does not depend on the day it ran.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marin.download.http import RemoteFile, fetch_all, write_provenance


@dataclass(frozen=True, kw_only=True)
class PinnedFilesConfig:
    """Which files."""

    # Each with its address and its hash.
    files: tuple[RemoteFile, ...]
    # Folder that gets them under their paths, and provenance.json.
    output_path: str

    def __post_init__(self) -> None:
        for file in self.files:
            if file.sha256 is None and file.git_sha1 is None:
                raise ValueError(f"{file.url}: no hash is given; state sha256, so that no other file is taken for it")


def download_pinned(config: PinnedFilesConfig) -> dict[str, Any]:
    """Fetch the files; returns the provenance. Run again, it fetches what is missing. Raises DownloadError."""
    fetched = fetch_all(config.files, Path(config.output_path), num_workers=4)
    return write_provenance(Path(config.output_path), {"urls": [file.url for file in config.files]}, fetched)
