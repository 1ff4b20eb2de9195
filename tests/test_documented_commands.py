"""Every `marin` command that the documentation shows is one that marin understands: its name, its flags, what it needs.

The tutorials' commands are run (test_tutorials.py); these are only parsed, for they name buckets, clusters and dates.
"""

import re
import shlex
from pathlib import Path

import pytest

from marin.cli.main import GROUPS, command_names, command_of, find_command, parse

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```\w*.*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# After the command there may be two spaces and what it does, a comment, or another word of the shell.
TYPED = re.compile(r"(?:\$ )?(?:[A-Z_]+=\S+ )*marin ([a-z][a-z-]*(?: \S+)*?)(?: {2,}.*| [|>#].*)?")
MENTIONED = re.compile(r"`marin ([a-z][a-z-]*(?: [^`\n]*)?)`")


def typed_on(page: Path) -> list[str]:
    """The commands in the code of a page, without `marin`."""
    text = page.read_text(encoding="utf-8")
    code = [line for block in FENCED.findall(text) for line in block.splitlines()]
    code += [line[4:] for line in FENCED.sub("", text).splitlines() if line.startswith("    ")]
    return [match[1] for line in code if (match := TYPED.fullmatch(line))]


def test_commands_are_found_in_the_documentation():
    assert sum(len(typed_on(page)) for page in PAGES) > 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_commands_of_a_page_are_understood(page: Path, capsys: pytest.CaptureFixture):
    for line in typed_on(page):
        name, arguments = find_command(shlex.split(line))
        assert name in command_names(), f"`marin {line}`"
        try:
            parse(command_of(name)[1], arguments)
        except SystemExit:
            pytest.fail(f"`marin {line}`: {capsys.readouterr().err}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_commands_and_flags_that_a_page_mentions_exist(page: Path):
    for line in MENTIONED.findall(page.read_text(encoding="utf-8")):
        if ", " in line:  # a message that begins with the name
            continue
        name, words = find_command(line.split())
        if name in GROUPS and not words:
            continue
        assert name in command_names(), f"`marin {line}`"
        known = command_of(name)[1]._option_string_actions
        flags = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert name == "train" or flags <= known.keys(), f"`marin {line}`: {flags - known.keys()}"
