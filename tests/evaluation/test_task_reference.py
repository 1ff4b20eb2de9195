"""docs/reference/tasks.md is what the definitions say of themselves."""

from pathlib import Path

from marin.evaluation.tasks.reference import tasks_reference


def test_the_page_is_what_the_definitions_say(repository: Path):
    page = (repository / "docs/reference/tasks.md").read_text(encoding="utf-8")
    command = "python -m marin.evaluation.tasks.reference > docs/reference/tasks.md"
    assert page == tasks_reference(), f"run `{command}`"
