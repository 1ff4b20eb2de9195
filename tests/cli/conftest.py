"""What the tests of commands share: a folder to be in, and a command line to type."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from marin.cli import main as cli


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project as working directory; the store is ./store, and nothing asks for colour."""
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARIN_PREFIX", "store")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return tmp_path


@pytest.fixture
def marin(place: Path, capfd: pytest.CaptureFixture) -> Callable[..., SimpleNamespace]:
    """Runs one command line in this process, in the test file's `place`: exit code, stdout, stderr."""

    def run(*arguments: str, expect: int = 0) -> SimpleNamespace:
        capfd.readouterr()
        code = cli.main(arguments)
        out, err = capfd.readouterr()
        assert code == expect, f"exit code {code}, expected {expect}\n{out}\n{err}"
        return SimpleNamespace(out=out, err=err)

    return run
