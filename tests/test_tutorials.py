"""Tutorials are run as a reader would: files are written, commands are typed, in order, in an empty folder.

In docs/tutorials/*.md, a block ```python title="name.py" is a file to save, a plain ```python block is run, and in a
```console block every line that begins with `$ ` is a command that must succeed (`# exits N` says it must exit with N).
A block after `<!-- not run: reason -->` is left out.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).resolve().parent.parent / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: .+ -->\n\n?)?```(?P<kind>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)^```$",
    re.M | re.S,
)
EXITS = re.compile(r"\s+# exits (\d+)$")


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda p: p.stem)
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
            for line in block["body"].splitlines():
                if line.startswith("$ "):
                    expected = EXITS.search(line)
                    command = ["bash", "-c", EXITS.sub("", line[2:])]
                    run_command(command, tmp_path, environment, int(expected[1]) if expected else 0, f"{where}: {line}")


def run_command(command: list[str], folder: Path, environment: dict, expected: int, where: str) -> None:
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == expected, f"{where}: exit {run.returncode}\n{run.stdout}\n{run.stderr}"
