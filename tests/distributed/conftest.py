"""Token stores for runs over several devices or processes."""

from pathlib import Path

import pytest

from marin.testing.tiny import make_token_store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A folder with the token stores `train` and `validation`, of single bytes; runs go there too."""
    root = tmp_path_factory.mktemp("sharded")
    make_token_store(root / "train", 60, seed=1)
    make_token_store(root / "validation", 6, seed=2)
    return root
