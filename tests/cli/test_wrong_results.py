"""Looking along the lines by the command line: lineage, diff, and striking out as a person does it."""

import hashlib
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = """
import os
from dataclasses import dataclass
from typing import Any

from marin.config import from_command_line
from marin.execution.executor import ExecutorStep, executor_main, output_path_of, this_output_path


@dataclass(frozen=True)
class Config:
    text: str
    inputs: tuple = ()
    output_path: Any = this_output_path()


def write(config: Config) -> None:
    with open(os.path.join(config.output_path, "out.txt"), "w") as file:
        file.write(config.text)
    if config.text == "long":
        open(os.path.join(config.output_path, "more.txt"), "w").close()


@dataclass(frozen=True)
class Settings:
    text: str = "short"


settings = from_command_line(Settings())
raw = ExecutorStep(name="raw", fn=write, config=Config("raw"))
left = ExecutorStep(name="arm/left", fn=write, config=Config(settings.text, (output_path_of(raw),)))
right = ExecutorStep(name="arm/right", fn=write, config=Config("right", (output_path_of(raw),)))
both = ExecutorStep(name="both", fn=write, config=Config("both", (output_path_of(left), output_path_of(right))))

if __name__ == "__main__":
    executor_main(steps=[both])
"""


@pytest.fixture
def place(folder: Path) -> Path:
    (folder / "arms.py").write_text(SCRIPT)
    return folder


@pytest.fixture
def marin(marin: Callable) -> Callable:
    """Types a command where the experiment was run once."""
    marin("run", "arms.py")
    return marin


def without_digits(text: str) -> str:
    return re.sub(r" @\w{10}", "", text)


# -- lineage ----------------------------------------------------------------------------------------------------------


def test_lineage_goes_up_to_what_an_output_was_made_from_and_down_to_what_was_made_from_it(marin: Callable):
    assert without_digits(marin("lineage", "both").out).splitlines() == [
        "both",
        "├─ arm/left",
        "│  └─ raw",
        "└─ arm/right",
        "   └─ raw",
    ]
    assert without_digits(marin("lineage", "raw", "--down").out).splitlines() == [
        "raw",
        "├─ arm/left",
        "│  └─ both",
        "└─ arm/right",
        "   └─ both",
    ]
    assert without_digits(marin("lineage", "both", "--depth", "1").out).splitlines()[1:] == [
        "├─ arm/left",
        "└─ arm/right",
    ]
    marin("lineage", "both", "--depth", "0", expect=2)
    assert "from no other step's output; --down shows what was made from it" in marin("lineage", "raw").err


def test_what_is_met_again_is_not_followed_again(marin: Callable, tmp_path: Path):
    chain = SCRIPT.replace('config=Config("raw"))', 'config=Config("raw", (output_path_of(base),)))')
    base = 'base = ExecutorStep(name="base", fn=write, config=Config("base"))\n'
    (tmp_path / "arms.py").write_text(chain.replace("raw = Exec", base + "raw = Exec"))
    marin("run", "arms.py")
    lines = without_digits(marin("lineage", "both").out).splitlines()
    assert lines[2:4] == ["│  └─ raw", "│     └─ base"] and lines[5:] == ["   └─ raw  (see above)"]


def test_lineage_of_a_file_begins_with_the_file(marin: Callable, tmp_path: Path):
    (path,) = (tmp_path / "store").glob("raw-*/data/out.txt")
    first, second, *_ = marin("lineage", str(path), "--down").out.splitlines()
    assert first == f"out.txt  3 B  sha256 {hashlib.sha256(b'raw').hexdigest()}" and second.startswith("raw @")
    found = json.loads(marin("lineage", str(path.relative_to(tmp_path)), "--json").out)
    assert found["file"]["path"] == "out.txt" and [n["name"] for n in found["nodes"]] == ["raw"]
    (path.parent / "stray.txt").write_text("x")
    assert "is no file of raw@" in marin("lineage", str(path.parent / "stray.txt"), expect=2).err


def test_lineage_as_json_and_dot_has_edges_from_inputs_to_what_was_made(marin: Callable):
    for way in (("both",), ("raw", "--down")):
        found = json.loads(marin("lineage", *way, "--format", "json").out)
        names = [node["name"] for node in found["nodes"]]
        edges = {(names[edge["from"]], names[edge["to"]]) for edge in found["edges"]}
        assert edges == {("raw", "arm/left"), ("raw", "arm/right"), ("arm/left", "both"), ("arm/right", "both")}
    dot = marin("lineage", "both", "--format", "dot").out
    assert dot.startswith("digraph lineage {") and dot.count(" -> ") == 4


def test_an_edge_without_a_committed_reader_is_no_lineage(marin: Callable, tmp_path: Path):
    (edges,) = [f for f in (tmp_path / "store/.exec/used_by").iterdir() if len(list(f.iterdir())) == 2]
    (edges / ("0" * 64)).touch()
    assert "0000000000" not in marin("lineage", "raw", "--down").out
    # an edge to a step that exists, and whose record does not say that it read this
    digest = json.loads(marin("show", "both", "--json").out)["step"]["digest"]
    (edges / digest).touch()
    assert without_digits(marin("lineage", "raw", "--down", "--depth", "1").out).splitlines() == [
        "raw",
        "├─ arm/left",
        "└─ arm/right",
    ]


def test_lineage_marks_what_must_not_be_used(marin: Callable):
    marin("invalidate", "arm/left", "--reason", "wrong", "--yes")
    assert without_digits(marin("lineage", "both").out).splitlines()[:2] == ["both  TAINTED", "├─ arm/left  INVALID"]
    assert [line.split()[2] for line in marin("ls").out.splitlines()[1:]] == [
        "invalid",
        "succeeded",
        "tainted",
        "succeeded",
    ]


# -- diff -------------------------------------------------------------------------------------------------------------


def test_diff_shows_only_what_differs(marin: Callable):
    old = json.loads(marin("show", "arm/left", "--json").out)["step"]["digest"]
    marin("run", "arms.py", "--set", "text=long")
    steps = json.loads(marin("ls", "arm/left", "--json").out)["steps"]
    (new,) = [step["digest"] for step in steps if step["digest"] != old]
    out = marin("diff", old, new).out
    assert re.search(r"recipe\n  config\.text +'short' -> 'long'\n", out)
    assert re.search(r"files\n  more\.txt +added, 0 B\n  out\.txt +changed, 5 B -> 4 B\n", out)
    assert re.search(r"environment\n  argv +marin run arms\.py -> marin run arms\.py --set text=long\n", out)
    assert "python" not in out and "code\n" not in out
    assert "recipe" not in marin("diff", old, new, "--data").out
    found = json.loads(marin("diff", old, new, "--config", "--data", "--json").out)
    assert found["config"] == [{"path": "config.text", "old": "'short'", "new": "'long'"}]
    assert [change["path"] for change in found["data"]] == ["more.txt", "out.txt"] and "env" not in found
    assert "no difference" in marin("diff", "arm/left", "arm/left").out


def test_diff_of_two_outputs_of_one_recipe_shows_the_code_and_the_inputs_that_were_made_again(
    marin: Callable, tmp_path: Path
):
    marin("invalidate", "raw", "--reason", "wrong", "--yes")
    (tmp_path / "arms.py").write_text(SCRIPT.replace("file.write(config.text)", "file.write(config.text + '!')"))
    marin("rerun", "--tainted", "arms.py")
    (old,) = (tmp_path / "store").glob("arm/left-*/attempts/0001-*")
    out = marin("diff", str(old), "arm/left").out
    assert re.search(r"recipe\n  dep raw +attempt 0001-\w+ -> attempt 0002-\w+\ncode\n", out)
    assert re.search(r"files\n  out\.txt +changed, 5 B -> 6 B\n", out)


def test_a_pinned_output_that_was_struck_out_is_made_again_by_the_corrected_config(marin: Callable, tmp_path: Path):
    pinned = SCRIPT.replace('config=Config("raw"))', 'config=Config("raw"), version="1")')
    (tmp_path / "pinned.py").write_text(pinned)
    marin("run", "pinned.py")
    marin("invalidate", "raw", "--reason", "wrong text", "--yes")
    assert "reads as it did then" in marin("rerun", "--tainted", "pinned.py", expect=3).err
    (tmp_path / "pinned.py").write_text(pinned.replace('Config("raw")', 'Config("right text")'))
    marin("rerun", "--tainted", "pinned.py")
    (text,) = (tmp_path / "store/raw/1/attempts").glob("0002-*/out.txt")
    assert text.read_text() == "right text"
    assert "nothing to do" in marin("run", "pinned.py").err


# -- striking out -----------------------------------------------------------------------------------------------------


def test_striking_out_asks_first_and_without_a_terminal_needs_yes(marin: Callable, tmp_path: Path):
    def answered(answer: str) -> None:
        ours, theirs = pty.openpty()
        os.write(ours, answer.encode() + b"\n")
        words = [sys.executable, "-m", "marin.cli.main", "invalidate", "raw", "--reason", "wrong"]
        done = subprocess.run(words, stdin=theirs, capture_output=True, text=True, timeout=60)
        os.close(ours)
        os.close(theirs)
        assert done.returncode == 0 and "strike out 1 output? [y/N]" in done.stderr

    done = subprocess.run(
        [sys.executable, "-m", "marin.cli.main", "invalidate", "raw", "--reason", "wrong"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "--yes strikes out without asking" in done.stderr
    answered("n")
    assert not (tmp_path / "store/.exec/invalid").exists()
    answered("y")
    assert len(list((tmp_path / "store/.exec/invalid").iterdir())) == 1


def test_a_dry_run_writes_nothing(marin: Callable, tmp_path: Path):
    shown = marin("invalidate", "raw", "--reason", "wrong", "--dry-run")
    assert "strike out 1 output" in shown.out and "tainted by that: 3 outputs" in shown.out
    assert not (tmp_path / "store/.exec/invalid").exists()
    assert shown.err.splitlines()[-1] == "Next: marin invalidate raw --reason wrong"


def test_the_last_line_names_the_next_command(marin: Callable):
    for words, following in (
        (("invalidate", "raw", "--reason", "wrong", "--yes"), "marin rerun --tainted"),
        (("invalidate", "raw", "--reason", "wrong", "--yes"), "marin invalidate --list"),
        (("invalidate", "--list"), "marin rerun --tainted"),
        (("plan", "arms.py"), "marin rerun --tainted arms.py"),
        (("show", "both"), "marin rerun --tainted"),
        (("rerun", "--tainted", "arms.py", "--dry-run", "--force"), "marin rerun --tainted arms.py"),
    ):
        assert marin(*words).err.splitlines()[-1] == f"Next: {following}"
    assert marin("run", "arms.py", expect=3).err.splitlines()[-1].startswith("`marin rerun --tainted` makes them again")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("invalidate", "raw"), "say why: --reason"),
        (("invalidate", "--reason", "wrong"), "name outputs"),
        (("invalidate", "rwa", "--reason", "wrong"), "did you mean raw?"),
        (("invalidate", "raw", "--list"), "three different things"),
        (("invalidate", "--producer", "arms:wirte", "--reason", "wrong"), "did you mean arms:write?"),
        (("invalidate", "--revoke", "1", "--reason", "fine"), "nothing was ever struck out here"),
        (("rerun",), "say --tainted"),
        (("rerun", "--tainted", "--set", "a=1"), "--set goes with FILE.py"),
        (("diff", "raw", "arm"), "no step or run 'arm'"),
        (("lineage", "boht"), "did you mean both?"),
    ],
)
def test_a_mistake_is_explained_and_exits_with_2(marin: Callable, words: tuple[str, ...], message: str):
    assert message in marin(*words, expect=2).err
