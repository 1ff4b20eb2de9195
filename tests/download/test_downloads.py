"""Downloads: pinned, checked, resumed; from a server that can be told to misbehave."""

import gzip
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from marin.download import http as download
from marin.download.api import hub_repository
from marin.download.http import DownloadError, HttpFilesConfig, RemoteFile, download_http, fetch
from marin.download.huggingface import DownloadConfig, download_hf
from marin.execution.executor import Executor

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = b"a row of text\n" * 5000
SMALL = b"# A set of rows\n"
FILES = {"README.md": SMALL, "data/part-0.jsonl.gz": LARGE, "data/part-1.jsonl.gz": LARGE[::-1], "extra/notes.txt": b""}


class Server:
    """Serves `contents` by path, counts requests, and does as `rule` says where it says something."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents
        self.links: dict[str, str] = {}  # path -> its Link header
        self.restarts = False  # whether it answers a Range with the file from its beginning
        self.has_tags = False  # whether it sends ETags, and minds them
        self.retry_after: str | None = None  # what it sends with a status that is told
        self.counts: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.authorizations: dict[str, str | None] = {}
        self.rule: Callable[[str, int], int | str | None] = lambda path, count: None  # a status, "cut" or a redirect
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path
                server.counts[path] += 1
                server.authorizations[path] = self.headers["Authorization"]
                told = server.rule(path, server.counts[path])
                if isinstance(told, int) or path not in server.contents:
                    self.send_response(told if isinstance(told, int) else 404)
                    if server.retry_after is not None:
                        self.send_header("Retry-After", server.retry_after)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if told is not None and told != "cut":
                    self.send_response(302)
                    self.send_header("Location", told)
                    self.end_headers()
                    return
                body, start = server.contents[path], 0
                tag = f'"{hashlib.sha256(body).hexdigest()}"' if server.has_tags else None
                if self.headers["Range"] and self.headers["If-Range"] in (None, tag):
                    server.ranges.append(self.headers["Range"])
                    start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
                self.send_response(206 if start else 200)
                start = 0 if start and server.restarts else start  # what it sends then is no rest of the file
                if self.headers["Range"] and server.ranges[-1:] == [self.headers["Range"]]:
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                self.send_header("Content-Length", str(len(body) - start))
                if tag is not None:
                    self.send_header("ETag", tag)
                if path in server.links:
                    self.send_header("Link", server.links[path])
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body[start : start + (len(body) - start) // 2] if told == "cut" else body[start:])

            do_HEAD = do_GET

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def entry(path: str, content: bytes) -> dict:
    about = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
    if path.startswith("data/"):
        about["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    return about


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A hub with one data set, whose listing comes in two pages."""
    entries = [{"type": "directory", "path": "data", "oid": "0"}, *(entry(*item) for item in FILES.items())]
    tree = f"/api/datasets/us/rows/tree/{COMMIT}?recursive=true"
    server = Server(
        {
            "/api/datasets/us/rows/revision/0123456": json.dumps({"sha": COMMIT}).encode(),
            tree: json.dumps(entries[:3]).encode(),
            f"{tree}&cursor=3": json.dumps(entries[3:]).encode(),
            **{f"/datasets/us/rows/resolve/{COMMIT}/{path}": content for path, content in FILES.items()},
        }
    )
    server.links[tree] = f'<{server.url}{tree}&cursor=3>; rel="next"'
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(download, "_FIRST_PAUSE_S", 0.001)
    yield server
    server.close()


def config(output: Path, **changes) -> DownloadConfig:
    settings = {"hf_dataset_id": "us/rows", "revision": "0123456", "output_path": str(output), **changes}
    return DownloadConfig(**settings)


def fetched(server: Server) -> dict[str, int]:
    """How often each file was asked for."""
    return {path.partition(COMMIT)[2][1:]: n for path, n in server.counts.items() if "/resolve/" in path}


def test_a_repository_comes_whole_with_where_it_came_from(hub: Server, tmp_path: Path):
    provenance = download_hf(config(tmp_path))
    assert {path: (tmp_path / path).read_bytes() for path in FILES} == FILES
    assert provenance["commit"] == COMMIT and provenance["repository"] == "us/rows"
    assert json.loads((tmp_path / "provenance.json").read_text()) == provenance
    sha256 = {file["path"]: file["sha256"] for file in provenance["files"]}
    assert sha256 == {path: hashlib.sha256(content).hexdigest() for path, content in FILES.items()}


def test_only_the_files_that_were_asked_for_come(hub: Server, tmp_path: Path):
    download_hf(config(tmp_path, hf_urls_glob=("data/*",)))
    assert fetched(hub) == {"data/part-0.jsonl.gz": 1, "data/part-1.jsonl.gz": 1}
    with pytest.raises(ValueError, match=r"no file matches \['dta/\*'\]; it has 4 files, like README.md"):
        download_hf(config(tmp_path, hf_urls_glob=("dta/*",)))


def test_a_file_that_is_cut_off_goes_on_where_it_stopped(hub: Server, tmp_path: Path):
    hub.rule = lambda path, count: "cut" if path.endswith("part-0.jsonl.gz") and count <= 2 else None
    download_hf(config(tmp_path))
    assert (tmp_path / "data/part-0.jsonl.gz").read_bytes() == LARGE
    assert hub.ranges == [f"bytes={len(LARGE) // 2}-", f"bytes={len(LARGE) * 3 // 4}-"]


def test_what_is_there_is_not_fetched_again_and_what_was_damaged_is(hub: Server, tmp_path: Path):
    download_hf(config(tmp_path))
    (tmp_path / "README.md").write_bytes(SMALL.upper())
    download_hf(config(tmp_path))
    assert (tmp_path / "README.md").read_bytes() == SMALL
    assert fetched(hub) == {**dict.fromkeys(FILES, 1), "README.md": 2}


@pytest.mark.parametrize("path", ["README.md", "data/part-1.jsonl.gz"])
def test_a_file_that_is_not_the_one_announced_is_not_taken(hub: Server, tmp_path: Path, path: str):
    hub.contents[f"/datasets/us/rows/resolve/{COMMIT}/{path}"] = FILES[path].swapcase()
    with pytest.raises(DownloadError, match=rf"{path} came as another file than was announced: (sha256|git's hash)"):
        download_hf(config(tmp_path))
    assert not (tmp_path / path).exists() and not (tmp_path / "provenance.json").exists()


def test_a_server_that_is_busy_is_asked_again_and_one_that_refuses_is_not(hub: Server, tmp_path: Path):
    hub.rule = lambda path, count: 503 if count <= 2 else None
    download_hf(config(tmp_path / "busy"))
    assert set(hub.counts.values()) == {3}
    hub.rule = lambda path, count: 403 if path.endswith("README.md") else None
    hub.counts.clear()
    with pytest.raises(DownloadError, match=r"README.md: HTTP Error 403.*set HF_TOKEN"):
        download_hf(config(tmp_path / "refused"))
    assert fetched(hub)["README.md"] == 1


@pytest.mark.parametrize("says", ["1", "date"])
def test_a_server_that_says_when_to_come_again_is_asked_then(hub: Server, tmp_path: Path, says: str):
    asked: list[float] = []

    def rule(path: str, count: int) -> int | None:
        if "/resolve/" not in path:
            return None
        hub.retry_after = formatdate(time.time() + 2, usegmt=True) if says == "date" else says
        asked.append(time.monotonic())
        return 429 if count == 1 else None

    hub.rule = rule
    download_hf(config(tmp_path, hf_urls_glob=("README.md",)))
    assert (tmp_path / "README.md").read_bytes() == SMALL
    assert asked[1] - asked[0] >= 0.9


def test_a_server_that_wants_hours_of_rest_is_given_up(hub: Server, tmp_path: Path):
    hub.retry_after, hub.rule = "7200", lambda path, count: 503 if "/resolve/" in path else None
    with pytest.raises(DownloadError, match=r"README.md: HTTP Error 503.*it wants to be asked again in 7200 s"):
        download_hf(config(tmp_path, hf_urls_glob=("README.md",)))
    assert fetched(hub) == {"README.md": 1}


def test_a_file_of_another_length_than_was_announced_is_not_taken(hub: Server, tmp_path: Path):
    hub.contents["/short"] = LARGE[:-1]
    with pytest.raises(DownloadError, match=f"came as another file than was announced: {len(LARGE) - 1} bytes, not"):
        fetch(RemoteFile(path="short", url=f"{hub.url}/short", size=len(LARGE)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_how_much_has_come_is_told(hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MARIN_PROGRESS_FILE", str(tmp_path / "progress.json"))
    download_hf(config(tmp_path / "files"))
    report = json.loads((tmp_path / "progress.json").read_text())
    assert report["unit"] == "MB" and report["done"] == report["total"] == sum(map(len, FILES.values())) / 1e6


def test_a_token_goes_to_the_hub_and_not_where_that_sends_us(hub: Server, tmp_path: Path, monkeypatch):
    elsewhere = Server({"/store/README.md": SMALL})
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub.rule = lambda path, count: f"{elsewhere.url}/store/README.md" if path.endswith("README.md") else None
    download_hf(config(tmp_path, hf_urls_glob=("README.md",)))
    assert (tmp_path / "README.md").read_bytes() == SMALL
    assert set(hub.authorizations.values()) == {"Bearer secret"}
    hub.contents["/cache/README.md"] = SMALL
    hub.rule = lambda path, count: "/cache/README.md" if "/resolve/" in path else None
    download_hf(config(tmp_path / "cached", hf_urls_glob=("README.md",)))
    assert hub.authorizations["/cache/README.md"] == "Bearer secret", "another place on the same server"
    assert elsewhere.authorizations == {"/store/README.md": None}
    elsewhere.close()


def test_a_token_does_not_go_where_a_listing_goes_on_at_another_server(hub: Server, tmp_path: Path, monkeypatch):
    elsewhere = Server({"/more": b"[]"})
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub.links = dict.fromkeys(hub.links, f'<{elsewhere.url}/more>; rel="next"')
    with pytest.raises(DownloadError, match="goes on at .*/more, which is another server"):
        download_hf(config(tmp_path))
    assert elsewhere.authorizations == {}
    elsewhere.close()


@pytest.mark.parametrize("revision", ["main", "v1.0", "0123", "0123456789abcdefg"])
def test_a_revision_that_could_move_is_refused(tmp_path: Path, revision: str):
    with pytest.raises(ValueError, match=r"must be a commit \(7 to 40 hex digits\): branches and tags move"):
        config(tmp_path, revision=revision)


def test_a_path_that_leads_out_of_the_folder_is_refused(hub: Server, tmp_path: Path):
    with pytest.raises(DownloadError, match="leads out of"):
        fetch(RemoteFile(path="../outside", url=f"{hub.url}/x"), tmp_path / "in")


def test_a_file_whose_place_the_provenance_would_take_is_refused(hub: Server, tmp_path: Path):
    hub.contents["/index"] = b"rows.jsonl\nprovenance.json\n"
    settings = {"base_url": hub.url, "index": "index", "output_path": str(tmp_path)}
    with pytest.raises(DownloadError, match=r"would come as provenance\.json"):
        download_http(HttpFilesConfig(**settings))
    hub.contents["/rows.jsonl"] = LARGE
    assert download_http(HttpFilesConfig(**settings, files=("*.jsonl",)))["num_bytes"] == len(LARGE)


def test_files_of_an_index_come_and_a_pinned_index_that_changed_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server({"/set/q=high/a.jsonl": LARGE, "/set/q=low/b.jsonl": SMALL})
    index = gzip.compress(f"set/q=high/a.jsonl\n{server.url}/set/q=low/b.jsonl\n".encode())
    server.contents["/index.gz"] = index
    settings = {"base_url": server.url, "index": "index.gz", "files": ("*/q=high/*",), "output_path": str(tmp_path)}
    provenance = download_http(HttpFilesConfig(**settings))
    assert (tmp_path / "set/q=high/a.jsonl").read_bytes() == LARGE and not (tmp_path / "set/q=low").exists()
    assert provenance["index_sha256"] == hashlib.sha256(index).hexdigest()
    with pytest.raises(ValueError, match="is not the index that was pinned"):
        download_http(HttpFilesConfig(**settings, index_sha256="0" * 64))
    by_address = {**settings, "index": f"{server.url}/index.gz", "files": ("*/q=low/*",)}
    assert [file["path"] for file in download_http(HttpFilesConfig(**by_address))["files"]] == ["set/q=low/b.jsonl"]
    with pytest.raises(ValueError, match=r"names http://.*/b.jsonl, which is not below base_url"):
        download_http(HttpFilesConfig(**{**by_address, "base_url": f"{server.url}/elsewhere"}))
    server.close()


def test_files_that_are_named_come_without_an_index_and_patterns_need_one(hub: Server, tmp_path: Path):
    hub.contents = {"/data/a.json": b"[]", "/data/b.json": b"{}"}
    config = HttpFilesConfig(base_url=f"{hub.url}/data", index=None, files=("a.json",), output_path=str(tmp_path))
    provenance = download_http(config)
    assert [file["path"] for file in provenance["files"]] == ["a.json"] and "index" not in provenance
    assert (tmp_path / "a.json").read_bytes() == b"[]" and not (tmp_path / "b.json").exists()
    for files in ((), ("*.json",)):
        with pytest.raises(ValueError, match="give the paths themselves, or an index"):
            HttpFilesConfig(base_url=hub.url, index=None, files=files, output_path=str(tmp_path))


def test_a_file_is_held_to_what_an_earlier_download_recorded_of_it(
    hub: Server, tmp_path: Path, capsys: pytest.CaptureFixture
):
    hub.contents = {"/data/a.json": b"[1, 2]"}
    config = HttpFilesConfig(base_url=f"{hub.url}/data", index=None, files=("a.json",), output_path=str(tmp_path))
    provenance = download_http(config)
    (tmp_path / "a.json").write_bytes(b"[1, 3]")
    assert download_http(config) == provenance and (tmp_path / "a.json").read_bytes() == b"[1, 2]"
    assert f"{tmp_path / 'a.json'} is not what {hub.url}/data/a.json was announced" in capsys.readouterr().err
    hub.contents = {"/data/a.json": b"[4, 5]"}
    (tmp_path / "a.json").unlink()
    with pytest.raises(DownloadError, match="another file than was announced: sha256 .* fetch into another folder"):
        download_http(config)
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(("now", "has_tags"), [(b"[1, 2, 3]", False), (b"[1, 3]", True)])
def test_a_file_that_its_source_has_changed_is_kept_and_told(
    hub: Server, tmp_path: Path, capsys: pytest.CaptureFixture, now: bytes, has_tags: bool
):
    hub.has_tags = has_tags
    hub.contents = {"/data/a.json": b"[1, 2]"}
    config = HttpFilesConfig(base_url=f"{hub.url}/data", index=None, files=("a.json",), output_path=str(tmp_path))
    provenance = download_http(config)
    assert download_http(config) == provenance and capsys.readouterr().err == ""
    hub.contents = {"/data/a.json": now}
    assert download_http(config) == provenance and (tmp_path / "a.json").read_bytes() == b"[1, 2]"
    assert f"{hub.url}/data/a.json is another file now than was fetched" in capsys.readouterr().err


@pytest.mark.parametrize("has_tags", [True, False])
def test_a_file_without_a_hash_that_changes_while_it_comes_is_no_mixture_of_the_two(
    hub: Server, tmp_path: Path, has_tags: bool
):
    hub.contents["/rows.jsonl"], hub.has_tags = LARGE, has_tags

    def changes(path: str, count: int) -> str | None:
        if count == 3:
            hub.contents[path] = LARGE.upper()
        return "cut" if count <= 2 else None

    hub.rule = changes
    fetch(RemoteFile(path="rows.jsonl", url=f"{hub.url}/rows.jsonl"), tmp_path)
    assert (tmp_path / "rows.jsonl").read_bytes() == LARGE.upper()
    assert hub.ranges == ([f"bytes={len(LARGE) // 2}-"] if has_tags else [])  # unchanged, it goes on
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_part_that_is_not_the_one_asked_for_is_not_put_behind_what_is_there(hub: Server, tmp_path: Path):
    hub.contents["/rows.jsonl"], hub.has_tags, hub.restarts = LARGE, True, True
    hub.rule = lambda path, count: "cut" if count == 1 else None
    fetch(RemoteFile(path="rows.jsonl", url=f"{hub.url}/rows.jsonl"), tmp_path)
    assert hub.ranges == [f"bytes={len(LARGE) // 2}-"] and hub.counts["/rows.jsonl"] == 3
    assert (tmp_path / "rows.jsonl").read_bytes() == LARGE


def test_a_part_that_nobody_asked_for_is_asked_for_anew(hub: Server, tmp_path: Path):
    hub.contents["/rows.jsonl"] = LARGE
    hub.rule = lambda path, count: 206 if count == 1 else None
    fetch(RemoteFile(path="rows.jsonl", url=f"{hub.url}/rows.jsonl"), tmp_path)
    assert (tmp_path / "rows.jsonl").read_bytes() == LARGE


def test_a_file_that_an_index_names_twice_is_fetched_once(hub: Server, tmp_path: Path):
    hub.contents |= {"/index": b"rows.jsonl\n" * 8, "/rows.jsonl": LARGE}
    provenance = download_http(HttpFilesConfig(base_url=hub.url, index="index", output_path=str(tmp_path)))
    assert hub.counts["/rows.jsonl"] == 1 and provenance["num_bytes"] == len(LARGE)


def test_downloads_are_steps_that_run_once(hub: Server, tmp_path: Path):
    executor = Executor(prefix=str(tmp_path / "store"))
    rows = hub_repository("raw/rows", "us/rows", revision="0123456", files=("data/*",))
    assert executor.run([rows])["raw/rows"].action == "ran"
    assert Path(executor.run([rows]).output_path(rows), "data/part-0.jsonl.gz").read_bytes() == LARGE
    assert fetched(hub)["data/part-0.jsonl.gz"] == 1
