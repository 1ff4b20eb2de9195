"""What the documentation and the help call a step of the quickstart is the name of one."""

import re
import runpy
from pathlib import Path

import pytest

from marin.cli.main import command_names, command_of
from marin.execution.graph import build_graph

# Whole words only: not the name of the script, and not a path into the store.
NAME = re.compile(r"(?<![\w./-])(?:(?:\w+/)+quickstart|quickstart/\w[\w/]*|\w+/python(?:/\w+)*)(?![\w/.-]*[\w/-])")


@pytest.fixture(scope="module")
def names(repository: Path) -> set[str]:
    content = runpy.run_path(str(repository / "experiments" / "quickstart.py"))
    return {node.step.name for node in build_graph([content["quickstart"](content["QUICKSTART"])])}


def named_in(text: str) -> set[str]:
    return set(NAME.findall(text)) - {"bin/python"}


def test_names_in_help_are_names_of_steps(names: set[str]):
    examples = {command: command_of(command)[0].EXAMPLES for command in command_names()}
    found = {command: named_in(text) for command, text in examples.items()}
    assert "checkpoints/quickstart" in found["logs"] and "documents/python" in found["lineage"]
    assert {command: sorted(said - names) for command, said in found.items() if said - names} == {}


def test_names_in_the_documentation_are_names_of_steps(names: set[str], repository: Path):
    pages = [repository / "README.md", *sorted((repository / "docs").rglob("*.md"))]
    found = {page.name: named_in(page.read_text(encoding="utf-8")) for page in pages}
    assert {"checkpoints/quickstart", "tokenized/python/train"} <= found["pipeline.md"]
    assert {page: sorted(said - names) for page, said in found.items() if said - names} == {}
