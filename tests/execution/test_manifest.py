"""A manifest says exactly what is in a folder."""

import hashlib
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.execution.manifest import Manifest, build_manifest

names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=3)
folders = st.dictionaries(st.tuples(names, names), st.binary(max_size=20), max_size=6)


def write(root, content) -> None:
    for (folder, name), data in content.items():
        os.makedirs(root / f"d{folder}", exist_ok=True)
        (root / f"d{folder}" / name).write_bytes(data)


@settings(max_examples=25, deadline=None)
@given(content=folders)
def test_every_file_is_listed_with_its_size_and_hash(tmp_path_factory, content):
    root = tmp_path_factory.mktemp("root")
    write(root, content)
    listed = {e.path: (e.size, e.sha256) for e in build_manifest(str(root), fsync=True).entries}
    expected = {f"d{f}/{n}": (len(data), hashlib.sha256(data).hexdigest()) for (f, n), data in content.items()}
    assert listed == expected


@settings(max_examples=25, deadline=None)
@given(content=folders, other=folders)
def test_two_folders_have_one_digest_exactly_if_they_hold_the_same(tmp_path_factory, content, other):
    roots = [tmp_path_factory.mktemp("root") for _ in range(3)]
    write(roots[0], content)
    write(roots[1], dict(reversed(content.items())))
    write(roots[2], other)
    first, same, second = (build_manifest(str(root)).root_digest for root in roots)
    assert first == same
    assert (first == second) == (content == other)


def test_the_text_of_a_manifest_reads_back_and_an_altered_one_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "ü\n").write_bytes(b"")
    manifest = build_manifest(str(tmp_path))
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert (manifest.num_files, manifest.num_bytes) == (2, 3)
    rows = json.loads(manifest.to_json())["files"]
    digest = hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
    assert digest == manifest.root_digest
    with pytest.raises(ValueError, match="altered"):
        Manifest.from_json(manifest.to_json().replace('["a",3,', '["a",4,').replace('["a", 3,', '["a", 4,'))


def test_large_outputs_are_hashed_by_several_threads_to_the_same_digest(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}").write_bytes(bytes([i]) * (4 << 20))
    one = build_manifest(str(tmp_path), num_threads=1)
    assert build_manifest(str(tmp_path), num_threads=3) == one


def test_named_folders_at_the_top_are_left_out_and_deeper_ones_are_not(tmp_path):
    for folder in (".log", "x/.log"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a").touch()
    assert [e.path for e in build_manifest(str(tmp_path), exclude=frozenset({".log"})).entries] == ["x/.log/a"]


def test_a_link_is_recorded_as_a_link_and_a_pipe_not_at_all(tmp_path):
    (tmp_path / "link").symlink_to("/nowhere")
    os.mkfifo(tmp_path / "pipe")
    (entry,) = build_manifest(str(tmp_path)).entries
    assert (entry.path, entry.size) == ("link", 8)
    assert entry.sha256 == hashlib.sha256(b"link\0/nowhere").hexdigest()


def test_an_empty_output_has_a_manifest_too(tmp_path):
    assert build_manifest(str(tmp_path)).root_digest == hashlib.sha256(b"[]").hexdigest()
