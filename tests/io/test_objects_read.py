"""What a bucket has beside files: marks of folders, names with magic characters, objects that change while read."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from marin.cli.errors import FailedError, told
from marin.io import files
from marin.io.objects import Bucket, RemoteError
from marin.processing.formats.splits import plan_splits

pytest.importorskip("obstore", reason="needs obstore: pip install -e '.[remote]'")

ROW = b'{"id": "1", "text": "x"}\n'


def test_marks_of_folders_are_no_files(monkeypatch: pytest.MonkeyPatch):
    # As the client shows the keys docs/, docs/a.jsonl, docs/sub/ and docs/sub/b.jsonl, docs/sub-empty.jsonl
    listed = [("docs", 0), ("docs/a.jsonl", 9), ("docs/sub", 0), ("docs/sub/b.jsonl", 9), ("docs/sub-empty.jsonl", 0)]
    metas = [{"path": path, "size": size, "last_modified": datetime.now(UTC)} for path, size in listed]
    for pieces in ([metas], [[meta] for meta in metas]):
        monkeypatch.setattr(Bucket, "listing", lambda self, folder, pieces=pieces: iter(pieces))
        found = [name for name, _ in files.tree("memory://marks/docs")]
        assert found == ["a.jsonl", "sub/b.jsonl", "sub-empty.jsonl"]


@pytest.mark.parametrize("folder", ["run[1]", "a*b", "what?"])
def test_a_folder_of_a_store_may_have_a_name_that_looks_like_a_glob(folder: str):
    files.write_bytes(f"memory://magic/{folder}/a.jsonl", ROW)
    (split,) = plan_splits(f"memory://magic/{folder}")
    assert (split.path, split.label) == (f"memory://magic/{folder}/a.jsonl", "a.jsonl")


def test_nothing_of_an_object_is_read_without_a_request():
    files.write_bytes("memory://none/empty", b"")
    assert files.read_range("memory://none/empty", 0, 0) == b""


@contextmanager
def opened(path: str) -> Iterator[files.Any]:
    files.write_bytes(path, b"a" * (1 << 20))
    with files.open_input(path) as file:
        assert file.read(1) == b"a"
        yield file


def test_an_object_that_is_replaced_or_removed_while_it_is_read_is_work_that_failed():
    with opened("memory://changing/one") as one, opened("memory://changing/two") as two:
        files.write_bytes("memory://changing/one", b"b" * (1 << 20))
        files.remove("memory://changing/two")
        for file, what in ((one, "written anew"), (two, "removed")):
            with pytest.raises(RemoteError, match=what) as error:
                file.read()
            with pytest.raises(FailedError), told():
                raise error.value
