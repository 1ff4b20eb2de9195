"""A broken exporter, found out late: strike out what it made, make that again, and nothing else.

The story of a real project: two arms were trained, exported, evaluated and compared, and then the exporter turned out
to be wrong. All of it by the commands that a user types, in a git repository of its own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PIPELINE = """
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def called(name):
    with open(os.environ["CALLS"], "a") as file:
        file.write(name + "\\n")


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    arm: str
    seed: int
    output_path: str


def pretrain(config):
    called(f"pretrain/{config.arm}")
    weights = [(config.seed * k) % 7 for k in range(1, 6)]
    Path(config.output_path, "weights.json").write_text(json.dumps(weights))


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    arm: str
    model: str
    output_path: str


def evaluate(config):
    called(f"evaluations/{config.arm}")
    weights = json.loads(Path(config.model, "model.json").read_text())
    value = sum(k * w for k, w in enumerate(weights))
    score = {"value": float(value), "stderr": 0.0, "ci95": None, "interval": "exact", "higher_is_better": True}
    tasks = {config.arm: {"n": 5, "metrics": {"checksum": score}}}
    Path(config.output_path, "results.json").write_text(json.dumps({"tasks": tasks}))
"""

EXPORTER = """
import json
from dataclasses import dataclass
from pathlib import Path

from pipeline import called


@dataclass(frozen=True, kw_only=True)
class Export:
    arm: str
    checkpoint: str
    output_path: str


def convert(weights):
    return BODY


def main(config):
    called(f"exports/{config.arm}")
    weights = json.loads(Path(config.checkpoint, "weights.json").read_text())
    Path(config.output_path, "model.json").write_text(json.dumps(convert(weights)))
"""
BROKEN = EXPORTER.replace("BODY", "weights[::-1]")
MENDED = EXPORTER.replace("BODY", "list(weights)")

EXPERIMENT = """
import pipeline
from export_hf import Export, main
from marin.execution.executor import ExecutorStep, executor_main, output_path_of, this_output_path
from marin.report.api import report

evaluations = {}
for arm, seed in (("baseline", 2), ("mul_tokens", 3)):
    trained = ExecutorStep(
        name=f"pretrain/{arm}",
        fn=pipeline.pretrain,
        config=pipeline.Pretrain(arm=arm, seed=seed, output_path=this_output_path()),
    )
    exported = ExecutorStep(
        name=f"exports/{arm}",
        fn=main,
        config=Export(arm=arm, checkpoint=output_path_of(trained), output_path=this_output_path()),
    )
    evaluations[arm] = ExecutorStep(
        name=f"evaluations/{arm}",
        fn=pipeline.evaluate,
        config=pipeline.Evaluate(arm=arm, model=output_path_of(exported), output_path=this_output_path()),
    )

if __name__ == "__main__":
    roles = {"evaluation": evaluations["mul_tokens"], "baseline": evaluations["baseline"]}
    executor_main(steps=[report("reports/compare", title="Two arms", steps=roles)])
"""

DOUBTFUL = [
    "evaluations/baseline",
    "evaluations/mul_tokens",
    "exports/baseline",
    "exports/mul_tokens",
    "reports/compare",
]
REASON = "the exporter reversed the weights"


class Project:
    """A git repository with the experiment, and a store beside it."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder / "project"
        self.prefix = folder / "store"
        self.calls_path = folder / "calls"
        self.folder.mkdir()
        self.environment = os.environ | {
            "PYTHONPATH": str(repository / "src"),
            "CALLS": str(self.calls_path),
            "MARIN_PREFIX": str(self.prefix),
            "NO_COLOR": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.git("init", "-q")
        self.write({"pyproject.toml": "", "pipeline.py": PIPELINE, "experiment.py": EXPERIMENT})
        self.write({"export_hf.py": BROKEN})
        self.broken = self.commit("the experiment")

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def git(self, *words: str) -> str:
        who = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.org")
        return subprocess.check_output(["git", *who, *words], cwd=self.folder, env=self.environment, text=True).strip()

    def commit(self, message: str) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD")

    def mend(self) -> str:
        self.write({"export_hf.py": MENDED})
        return self.commit("Export: keep the order of the weights")

    def marin(self, *words: str, expect: int = 0, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "marin.cli.main", *words],
            cwd=folder or self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def calls(self) -> list[str]:
        """The steps whose functions were called since this was last asked, by name."""
        names = self.calls_path.read_text().split() if self.calls_path.exists() else []
        self.calls_path.write_text("")
        return sorted(names)

    def states(self) -> dict[str, str]:
        """What `marin ls` says of each step."""
        rows = [line.split() for line in self.marin("ls").stdout.splitlines()[1:]]
        return {row[0]: row[2] for row in rows}

    def page(self) -> Path:
        """The latest report, where it really lies."""
        (step,) = self.prefix.glob("reports/compare-*")
        return (step / "data" / "report.html").resolve()

    def strike(self, fix: str, *more: str) -> subprocess.CompletedProcess[str]:
        producer = ("--producer", "export_hf:main", "--before-commit", fix, "--reason", REASON)
        return self.marin("invalidate", *producer, *more)


@pytest.fixture
def project(tmp_path: Path, repository: Path) -> Project:
    """With everything made by the broken exporter."""
    made = Project(tmp_path, repository)
    made.marin("run", "experiment.py")
    assert made.calls() == sorted([*DOUBTFUL[:4], "pretrain/baseline", "pretrain/mul_tokens"])
    return made


def test_a_broken_exporter_is_struck_out_with_all_that_was_built_on_it_and_only_that_is_made_again(project: Project):
    old_page, old_bytes = project.page(), project.page().read_bytes()
    fix = project.mend()

    helper = project.marin("invalidate", "--producer", "export_hf:convert", "--reason", "x", "--dry-run", "--json")
    assert sorted(output["name"] for output in json.loads(helper.stdout)["struck_out"]) == DOUBTFUL[2:4]
    shown = json.loads(project.strike(fix, "--yes", "--json").stdout)
    assert sorted(output["name"] for output in shown["struck_out"]) == DOUBTFUL[2:4]
    assert sorted(output["name"] for output in shown["tainted"]) == [*DOUBTFUL[:2], "reports/compare"]
    assert [output["name"] for output in shown["reports"]] == ["reports/compare"]
    assert len(shown["runs"]) == 1
    assert project.states() == {
        "pretrain/baseline": "succeeded",
        "pretrain/mul_tokens": "succeeded",
        "exports/baseline": "invalid",
        "exports/mul_tokens": "invalid",
        "evaluations/baseline": "tainted",
        "evaluations/mul_tokens": "tainted",
        "reports/compare": "tainted",
    }
    assert REASON in project.marin("show", "exports/baseline").stdout
    assert f'built on exports/baseline, which was struck out: "{REASON}"' in (
        project.marin("show", "evaluations/baseline").stdout
    )

    refused = project.marin("run", "experiment.py", expect=3)
    assert "nothing was run" in refused.stderr and "marin rerun --tainted" in refused.stderr
    assert project.calls() == []
    plan = json.loads(project.marin("plan", "experiment.py", "--json").stdout)["steps"]
    assert {s["name"] for s in plan if s["action"] == "TAINTED"} == set(DOUBTFUL)
    assert {s["name"] for s in plan if s["action"] == "HIT"} == {"pretrain/baseline", "pretrain/mul_tokens"}

    dry = json.loads(project.marin("rerun", "--tainted", "--dry-run", "--json").stdout)["steps"]
    assert {s["name"] for s in dry if s["action"] == "RUN"} == set(DOUBTFUL)
    assert project.calls() == []
    project.marin("rerun", "--tainted", folder=project.folder.parent)
    assert project.calls() == DOUBTFUL[:4]
    assert set(project.states().values()) == {"succeeded"}
    new_page = project.page()
    assert new_page != old_page and old_page.read_bytes() == old_bytes
    assert "struck out" not in new_page.read_text() and "struck out" not in new_page.with_name("report.md").read_text()
    assert "nothing to do" in project.marin("run", "experiment.py").stderr
    assert "nothing is struck out or tainted" in project.marin("rerun", "--tainted").stderr
    assert project.calls() == []


def test_a_page_that_was_written_before_says_so_in_a_browser_until_it_is_made_again(project: Project):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here to open the page with")
    (step,) = project.prefix.glob("reports/compare-*")
    old, current = project.page(), step / "data" / "report.html"

    def top(page: Path) -> str:
        words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        return done.stdout.partition("<h1>")[0].partition("<body>")[2]

    assert top(old).strip() == top(current).strip() == ""
    project.strike(project.mend(), "--yes")
    for page in (old, current):
        assert f'exports/baseline, exports/mul_tokens, which were struck out: "{REASON}"' in top(page)
    project.marin("rerun", "--tainted")
    assert project.page() != old
    assert REASON in top(old) and top(current).strip() == top(project.page()).strip() == ""


def test_a_fix_that_raises_the_code_version_is_made_by_rerun_as_well(project: Project):
    fix = project.mend()
    project.strike(fix, "--yes")
    text = EXPERIMENT.replace("        fn=main,\n", '        fn=main,\n        code_version="2",\n')
    assert text != EXPERIMENT
    project.write({"experiment.py": text})
    done = project.marin("rerun", "--tainted")
    assert project.calls() == DOUBTFUL[:4]
    assert "today's scripts make no such outputs any more" in done.stderr
    assert "nothing to do" in project.marin("run", "experiment.py").stderr


def test_an_exporter_that_was_not_mended_is_not_run_again(project: Project):
    (project.folder / "NOTES").write_text("something else")
    later = project.commit("Notes")
    project.strike(later, "--yes")
    refused = project.marin("rerun", "--tainted", expect=3)
    assert "export_hf:main reads as it did then" in refused.stderr
    assert project.calls() == []
    project.marin("rerun", "--tainted", "--force")
    assert project.calls() == DOUBTFUL[:4]


def test_what_came_after_the_fix_is_left_alone(project: Project):
    fix = project.mend()
    project.strike(fix, "--yes")
    project.marin("rerun", "--tainted")
    again = project.marin(
        "invalidate", "--producer", "export_hf:main", "--before-commit", fix, "--reason", "x", "--yes"
    )
    assert "struck out before: 2 outputs" in again.stdout
    assert set(project.states().values()) == {"succeeded"}


def test_a_changed_tree_and_a_commit_that_is_unknown_are_said(project: Project):
    project.write({"export_hf.py": BROKEN + "\n# edited, not committed\n"})
    shutil.rmtree(project.prefix)
    project.marin("run", "experiment.py")
    fix = project.mend()
    shown = json.loads(project.strike(fix, "--dry-run", "--json").stdout)
    assert len(shown["struck_out"]) == 2
    assert any("the tree had changes" in note for note in shown["notes"])
    unknown = project.marin("invalidate", "--before-commit", "1234567", "--reason", "x", "--yes", expect=2)
    assert "no commit '1234567' in the repository" in unknown.stderr


def test_a_report_on_struck_out_results_needs_consent_and_says_so_on_top(project: Project):
    project.strike(project.mend(), "--yes")
    renamed = EXPERIMENT.replace("Two arms", "Two arms again")
    project.write({"experiment.py": renamed})
    project.marin("run", "experiment.py", expect=3)
    project.marin("run", "experiment.py", "--allow-tainted")
    pages = list(project.prefix.glob("reports/compare-*/data/report.md"))
    (page,) = [path for path in pages if path.read_text().startswith("# Two arms again")]
    top = page.read_text().partition("## ")[0]
    assert "Do not trust the numbers of this page" in top
    for arm in ("baseline", "mul_tokens"):
        assert re.search(rf"\*\*exports/{arm}\*\* @\w{{10}}, struck out \S+: \"{REASON}\"", top)
    assert "<blockquote>" in page.with_suffix(".html").read_text()
    run = json.loads(project.marin("ls", "runs", "--json").stdout)["runs"][0]
    assert sorted(step["name"] for step in run["plan"] if step["digest"] in run["consented"]) == DOUBTFUL
    record = json.loads((page.resolve().parents[2] / ".exec" / "state.json").read_text())["record"]
    assert sorted(record["tainted_inputs"]) == ["evaluations/baseline", "evaluations/mul_tokens"]


def test_taking_it_back_serves_everything_as_before(project: Project):
    project.strike(project.mend(), "--yes")
    (script,) = project.prefix.glob("reports/compare-*/.exec/taint.js")
    listed = json.loads(project.marin("invalidate", "--list", "--json").stdout)
    (tombstone,) = listed["tombstones"]
    project.marin("invalidate", "--revoke", tombstone["id"], "--reason", "it was fine")
    assert set(project.states().values()) == {"succeeded"} and not script.exists()
    assert "nothing to do" in project.marin("run", "experiment.py").stderr
    assert project.calls() == []
    (tombstone,) = json.loads(project.marin("invalidate", "--list", "--json").stdout)["tombstones"]
    assert tombstone["revoked"]["reason"] == "it was fine" and len(tombstone["outputs"]) == 2


def test_a_script_that_is_gone_is_named_with_how_to_give_another(project: Project):
    project.strike(project.mend(), "--yes")
    (project.folder / "experiment.py").rename(project.folder / "renamed.py")
    done = project.marin("rerun", "--tainted", expect=1)
    assert "experiment.py is gone" in done.stderr and "marin rerun --tainted FILE.py" in done.stderr
    project.marin("rerun", "--tainted", "renamed.py")
    assert project.calls() == DOUBTFUL[:4]
