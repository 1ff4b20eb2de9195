"""Files appear whole or not at all."""

import os
import threading

import pytest

from marin.io.atomic import create_bytes, open_atomic, write_bytes, write_text


def test_a_write_replaces_the_whole_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "a long first version")
    write_bytes(path, b"short", fsync=False)
    assert path.read_bytes() == b"short"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    folder = tmp_path / "a-folder"  # a file cannot be renamed onto a folder
    (folder / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        write_bytes(folder, b"new")
    assert os.listdir(tmp_path) == ["a-folder"]


def test_an_exception_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), open_atomic(path, "w", encoding="utf-8") as file:
        file.write("half of the new")
        raise KeyError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_file_opened_atomically_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "a.bin"
    with open_atomic(path) as file:
        file.write(b"x" * 100_000)
        assert not path.exists()
    assert path.stat().st_size == 100_000


def test_opening_atomically_for_appending_is_refused(tmp_path):
    with pytest.raises(ValueError, match="mode must be 'w' or 'wb', got 'a'"), open_atomic(tmp_path / "a", "a"):
        pass


def test_of_many_creators_exactly_one_wins_and_its_bytes_stay(tmp_path):
    path, won = tmp_path / "a.json", []

    def create(i: int) -> None:
        if create_bytes(path, b"%d" % i, fsync=False):
            won.append(i)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert path.read_bytes() == b"%d" % won[0]
    assert os.listdir(tmp_path) == ["a.json"]
