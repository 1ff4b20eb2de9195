"""Tutorials are run as a reader would: files are written, commands are typed, in order, in an empty folder.

In docs/tutorials, and in every page of docs/how-to that says so in a comment, a block ```python title="name.py" is a
file to save, a plain ```python block is run, and in a ```console block every line that begins with `$ ` is a command
that must succeed (`# exits N` says it must exit with N). What a tutorial shows below a command is what the command
prints, but for times, dates, digests and folders; a command with nothing below it may print anything. A block after
`<!-- not run: reason -->` is left out.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
SAYS_SO = "<!-- every block of this page is run by the tests -->"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md")) + [
    page for page in sorted((DOCS / "how-to").glob("*.md")) if SAYS_SO in page.read_text(encoding="utf-8")
]
# These train for half a minute or more of CPU time and belong to `make test-all`; all others run in `make test`.
LONG = {
    *("custom-model", "custom-optimizer", "evaluate-an-hf-model", "first-experiment", "import-from-hf", "lora"),
    *("measure-memorization", "sft", "train-an-lm", "web-to-tokens"),
}
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: .+ -->\n\n?)?```(?P<kind>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)^```$",
    re.M | re.S,
)
EXITS = re.compile(r"\s+# exits (\d+)$")


@pytest.mark.parametrize(
    "tutorial",
    [pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in LONG else []) for page in TUTORIALS],
)
def test_a_tutorial_does_what_it_says(tutorial: Path, tmp_path: Path, repository: Path):
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(repository / "src"),
    }
    environment.pop("MARIN_PREFIX", None)
    for number, block in enumerate(BLOCK.finditer(tutorial.read_text(encoding="utf-8"))):
        if block["skip"]:
            continue
        where = f"{tutorial.name}, block {number}"
        if block["kind"] == "python":
            script = tmp_path / (block["title"] or f"block_{number}.py")
            script.write_text(block["body"], encoding="utf-8")
            if not block["title"]:
                run_command([sys.executable, str(script)], tmp_path, environment, 0, where)
        elif block["kind"] == "console":
            for line, shown in commands_in(block["body"]):
                expected = EXITS.search(line)
                command = ["bash", "-c", EXITS.sub("", line)]
                code = int(expected[1]) if expected else 0
                printed = run_command(command, tmp_path, environment, code, f"{where}: {line}")
                if shown:
                    assert masked(printed, tmp_path) == masked(shown, tmp_path), f"{where}: {line}"


def commands_in(console: str) -> list[tuple[str, str]]:
    """(command, what is shown below it) of each command of a block."""
    parts = re.split(r"^\$ (.*)\n", console, flags=re.M)
    assert parts[0] == "", "a block begins with a command"
    return list(zip(parts[1::2], parts[2::2], strict=True))


def run_command(command: list[str], folder: Path, environment: dict, expected: int, where: str) -> str:
    """What it printed, on stdout and stderr."""
    run = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240
    )
    assert run.returncode == expected, f"{where}: exit {run.returncode}\n{run.stdout}"
    return run.stdout


def masked(text: str, folder: Path) -> str:
    """Without what is different each time or on each machine."""
    for pattern, instead in (
        (re.escape(str(folder)), "/home/you"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", "DATE"),
        (r"\b\d+m\d\ds\b|\b\d+(\.\d)?s\b", "TIME"),
        (r"(?<=[-@])[0-9a-f]{6,10}\b|\b(?=[a-f]*\d)[0-9a-f]{10}\b", "DIGEST"),
        (r" {2,}", "  "),  # columns are as wide as what was masked
    ):
        text = re.sub(pattern, instead, text)
    return text.strip()
