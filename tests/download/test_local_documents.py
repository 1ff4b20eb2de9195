"""One's own documents: other text is another step, and text that changes under a run is noticed."""

from pathlib import Path

import pytest

from marin.download.api import local_documents
from marin.execution.executor import Executor


def write(folder: Path, text: str) -> str:
    (folder / "train").mkdir(parents=True, exist_ok=True)
    (folder / "train" / "documents.jsonl").write_text(f'{{"text": "{text}"}}\n')
    return str(folder)


def test_changed_text_is_another_step_and_the_same_text_is_not(tmp_path: Path):
    folder, executor = write(tmp_path / "mine", "one"), Executor(prefix=str(tmp_path / "store"))
    first = local_documents("documents/mine", folder)
    assert executor.run([first])["documents/mine"].action == "ran"
    copied = Path(executor.run([first]).output_path(first), "train", "documents.jsonl")
    assert copied.read_text() == '{"text": "one"}\n'
    assert executor.run([local_documents("documents/mine", folder)])["documents/mine"].action == "cached"
    elsewhere = write(tmp_path / "moved", "one")
    assert executor.run([local_documents("documents/mine", elsewhere)])["documents/mine"].action == "cached"
    write(tmp_path / "mine", "two")
    assert executor.run([local_documents("documents/mine", folder)])["documents/mine"].action == "ran"


def test_text_that_changes_between_planning_and_running_is_refused(tmp_path: Path):
    step = local_documents("documents/mine", write(tmp_path / "mine", "one"))
    write(tmp_path / "mine", "two")
    result = Executor(prefix=str(tmp_path / "store")).run([step])
    assert not result.is_ok and "changed after the experiment was planned" in str(result["documents/mine"])


def test_a_folder_without_documents_says_what_is_expected(tmp_path: Path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"expected files named \*\.jsonl, \*\.jsonl\.gz, \*\.jsonl\.zst"):
        local_documents("documents/mine", str(tmp_path))


def test_a_folder_that_does_not_exist_is_said_not_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"at {tmp_path}/documents: it does not exist"):
        local_documents("documents/mine", "documents")
    (tmp_path / "documents").touch()
    with pytest.raises(ValueError, match="it is a file"):
        local_documents("documents/mine", "documents")
