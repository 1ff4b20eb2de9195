"""What a terminal shows below the lines of a run."""

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marin.execution.console import Console
from marin.execution.live import Pending, Scene, Work, bar, scene_lines


class Terminal(io.StringIO):
    """A terminal that knows what is drawn with: line ends, carriage returns, cursor up, erase to the end."""

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> list[str]:
        return shown(self.getvalue())


def shown(text: str) -> list[str]:
    """The lines on the screen of a terminal that was sent this text."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[\d*[A-Z]|[\s\S]", text):
        if part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif part == "\r":
            column = 0
        elif re.fullmatch(r"\x1b\[\d+A", part):
            row -= int(part[2:-1])
            assert row >= 0
        elif part == "\x1b[J":
            lines[row:] = [lines[row][:column]]
        else:
            assert not part.startswith("\x1b"), part
            lines[row] = lines[row][:column] + part + lines[row][column + 1 :]
            column += 1
    return lines


def test_lines_go_by_above_what_is_drawn_and_nothing_of_it_stays():
    terminal = Terminal()
    console = Console(terminal)
    console.line("first")
    console.draw(["one", "two"])
    assert terminal.shown == ["first", "one", "two", ""]
    console.line("second")
    assert terminal.shown == ["first", "second", "one", "two", ""]
    console.draw(["three"])
    assert terminal.shown == ["first", "second", "three", ""]
    console.draw(())
    assert terminal.shown == ["first", "second", ""]


def test_a_progress_bar_that_a_step_draws_itself_is_not_drawn_over():
    terminal = Terminal()
    console = Console(terminal)
    console.started("a")
    console.draw(["below"])
    output = console.output_of("a")
    output.feed(b"\r10%")
    assert terminal.shown == ["▶ a", "10%"] and not console.may_draw
    output.feed(b"\r20%\n")
    assert terminal.shown == ["▶ a", "20%", "below", ""] and console.may_draw


def test_while_a_step_writes_to_the_terminal_itself_nothing_is_drawn():
    terminal = Terminal()
    console = Console(terminal)
    console.draw(["below"])
    console.lend()
    terminal.write("a warning\nof two lines\n")
    console.line("from us")
    assert terminal.shown == ["a warning", "of two lines", "from us", ""] and not console.may_draw
    console.take_back()
    console.draw(["below"])
    assert terminal.shown == ["a warning", "of two lines", "from us", "below", ""]


def test_a_scene_tells_how_far_what_runs_is_and_what_waits_for_it(tmp_path):
    (tmp_path / "progress.json").write_text('{"done": 300, "total": 1200, "unit": "steps", "pace": 4.5}')
    report = Pending(name="report", others=("evaluation/large",))
    train = Work(
        name="train",
        since=time.monotonic() - 60,
        progress_path=str(tmp_path / "progress.json"),
        readers=[Pending(name="evaluation/small", readers=[report])],
    )
    works = [train, Work(name="raw", since=time.monotonic() - 10, usual_s=40), Work(name="x", note="waits for room")]
    scene = Scene(work=works, counts={"done": 2, "running": 2, "waiting": 1_003, "failed": 0}, elapsed_s=75)
    assert scene_lines(scene, Console(Terminal())) == [
        "▶ train  ███▌░░░░░░░░░░  300/1,200 steps  1m00s  eta 3m20s",
        "  └─ · evaluation/small",
        "     └─ · report  waits also for evaluation/large",
        "▶ raw  10s  eta 30s",
        "· x  waits for room",
        "2 done  2 running  1,003 waiting    1m15s",
    ]


def test_a_scene_takes_half_of_the_terminal_at_most_and_no_line_wraps():
    scene = Scene(
        work=[Work(name=f"{i}-" + "x" * 100, note="!") for i in range(50)], counts={"running": 50}, elapsed_s=1
    )
    lines = scene_lines(scene, Console(Terminal()))
    assert len(lines) == 12 and all(len(line) < 80 for line in lines)
    assert lines[-2:] == ["  ... and 40 more", "50 running    1.0s"]


@pytest.mark.parametrize(
    ("done", "total", "drawn"),
    [(0, 4, "░" * 14), (4, 4, "█" * 14), (9, 4, "█" * 14), (1, 2, "█" * 7 + "░" * 7), (3, None, "")],
)
def test_a_bar_is_as_full_as_the_work_is_done(done, total, drawn):
    assert bar({"done": done, "total": total}, has_symbols=True) == drawn
    assert bar({"done": done, "total": total}, has_symbols=False) == drawn.replace("█", "#").replace("░", "-")


SCRIPT = """
import os, sys, time
from dataclasses import dataclass
from pathlib import Path
from marin.cluster import ResourceConfig
from marin.execution.executor import ExecutorStep, executor_main, output_path_of, this_output_path
from marin.tracking.progress import report_progress

@dataclass(frozen=True)
class Work:
    output_path: str
    input_path: str = ""

def work(config):
    print("a line", flush=True)
    report_progress(0, 4, "parts")
    time.sleep(1.1)  # of more reports in a second one is kept
    report_progress(1, 4, "parts")
    while not Path("go").exists():
        time.sleep(0.02)

def here(config):
    print("a warning", file=sys.stderr)

first = ExecutorStep(name="first", fn=work, config=Work(this_output_path()), resources=ResourceConfig.with_cpu())
second = ExecutorStep(name="second", fn=here, config=Work(this_output_path(), output_path_of(first)))
third = ExecutorStep(name="third", fn=here, config=Work(this_output_path(), output_path_of(second)))
if __name__ == "__main__":
    executor_main([third])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_run_on_a_terminal_is_drawn_as_a_tree_until_it_ends(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "script.py", "--prefix", "store"],
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    text, tree = "", re.compile(r"▶ first  ███▌░+  1/4 parts  \S+  eta \S+\n  └─ · second\n     └─ · third\n.*running")
    deadline = time.monotonic() + 60
    while not tree.search("\n".join(shown(text))):
        assert time.monotonic() < deadline, text
        text += os.read(ours, 1 << 16).decode().replace("\r\n", "\n")
    (tmp_path / "go").touch()
    with pytest.raises(OSError):  # the terminal is gone when nobody uses it any more
        while True:
            text += os.read(ours, 1 << 16).decode().replace("\r\n", "\n")
    assert process.wait(timeout=30) == 0
    os.close(ours)
    screen = "\n".join(shown(text))
    assert "└─" not in screen and "running" not in screen
    assert re.search(r"▶ first\na line\n✓ first  .*\n▶ second\na warning\n✓ second  .*\n▶ third\na warning\n", screen)
