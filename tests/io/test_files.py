"""An object is read as a file is, and what a killed process leaves beside a store goes with the next one."""

import fcntl
import io
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin.io import files

STEPS = st.lists(
    st.tuples(st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END]), st.integers(-9, 9), st.integers(-1, 9)),
    max_size=12,
)


@given(STEPS, st.binary(max_size=12), st.integers(1, 4))
def test_an_object_is_read_as_a_file_is(steps: list[tuple[int, int, int]], data: bytes, ahead: int):
    pytest.importorskip("obstore", reason="needs obstore: pip install -e '.[remote]'")
    place = "memory://test-files/object"
    files.write_bytes(place, data)
    expected = io.BytesIO(data)
    with pytest.MonkeyPatch.context() as patch, files.open_input(place) as found:
        patch.setattr(files, "_LEAST_AHEAD", ahead)
        patch.setattr(files, "_MOST_AHEAD", 4 * ahead)
        for whence, offset, size in steps:
            begin = {os.SEEK_SET: 0, os.SEEK_CUR: expected.tell(), os.SEEK_END: len(data)}[whence]
            expected.seek(max(0, begin + offset))
            assert found.seek(offset, whence) == expected.tell()
            assert found.read(size) == expected.read(size)
            assert found.tell() == expected.tell()


def test_folders_of_processes_that_were_killed_are_removed_and_others_are_not(tmp_path: Path, monkeypatch):
    pytest.importorskip("obstore", reason="needs obstore: pip install -e '.[remote]'")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("left", "held", "new"):
        (tmp_path / f"marin-shard-{name}").mkdir()
        if name != "new":
            os.utime(tmp_path / f"marin-shard-{name}", (0, 0))
    descriptor = os.open(tmp_path / "marin-shard-held", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with files.uploaded_folder("memory://test-files/folder") as folder:
            Path(folder, "a").write_bytes(b"1")
            there = {path.name for path in tmp_path.iterdir()}
    finally:
        os.close(descriptor)
    assert there == {"marin-shard-held", "marin-shard-new", Path(folder).name}
    assert [name for name, _ in files.tree("memory://test-files/folder")] == ["a"]
