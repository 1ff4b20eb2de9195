"""Files that are known by their hash come as that, or not at all."""

import hashlib
from pathlib import Path

import pytest
from test_downloads import Server

from marin.download import http
from marin.download.http import DownloadError, RemoteFile
from marin.download.pinned import PinnedFilesConfig, download_pinned

MODEL = b"weights" * 999


def config_of(server: Server, output: Path, sha256: str | None) -> PinnedFilesConfig:
    file = RemoteFile(path="model.bin", url=f"{server.url}/model.bin", size=len(MODEL), sha256=sha256)
    return PinnedFilesConfig(files=(file,), output_path=str(output))


def test_a_pinned_file_is_fetched_once_and_another_one_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(http, "_FIRST_PAUSE_S", 0.001)
    server = Server({"/model.bin": MODEL})
    try:
        config = config_of(server, tmp_path, hashlib.sha256(MODEL).hexdigest())
        provenance = download_pinned(config)
        assert (tmp_path / "model.bin").read_bytes() == MODEL
        assert provenance["urls"] == [f"{server.url}/model.bin"]
        assert download_pinned(config) == provenance
        assert server.counts["/model.bin"] == 1
        with pytest.raises(DownloadError, match="came as another file than was announced"):
            download_pinned(config_of(server, tmp_path / "other", "0" * 64))
    finally:
        server.close()


def test_a_file_without_a_hash_is_refused(tmp_path: Path):
    file = RemoteFile(path="a", url="https://example.org/a")
    with pytest.raises(ValueError, match=r"example.org/a: no hash is given; state sha256"):
        PinnedFilesConfig(files=(file,), output_path=str(tmp_path))
