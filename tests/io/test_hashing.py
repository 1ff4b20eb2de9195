"""SHA-256, as `sha256sum` computes it."""

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from marin.io.hashing import sha256_file


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=3000))
def test_a_file_hashes_like_its_bytes(data: bytes):
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        assert sha256_file(file.name, fsync=True) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_file_larger_than_one_read_is_hashed_whole(tmp_path):
    data = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == (2_560_000, hashlib.sha256(data).hexdigest())


def test_the_hash_of_nothing_is_the_well_known_one(tmp_path):
    (tmp_path / "nothing").touch()
    assert sha256_file(tmp_path / "nothing")[1] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
