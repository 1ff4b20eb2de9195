"""Fixtures that more than one area needs."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder of public data sets beside the checkout (or $MARIN_SHARED_DATA); the test skips where there is none."""
    folder = Path(os.environ.get("MARIN_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set MARIN_SHARED_DATA to a folder that has it")
    return folder
