"""The command line as a person uses it: what it prints, what it returns, what it suggests."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from marin.cli import main as cli
from marin.cli.output import local_time, size

SCRIPT = """
import os
from dataclasses import dataclass, field
from typing import Any

from marin.config import from_command_line
from marin.execution.executor import ExecutorStep, executor_main, output_path_of, this_output_path, version_meta
from marin.cluster.resources import ResourceConfig


@dataclass(frozen=True)
class Train:
    learning_rate: float = 3e-3


@dataclass(frozen=True)
class Config:
    train: Train = Train()
    input_path: Any = None
    workers: int = field(default=1, metadata=version_meta(exclude=True))
    output_path: Any = this_output_path()


def work(config: Config) -> None:
    print("learning rate", config.train.learning_rate)
    with open(os.path.join(config.output_path, "x.txt"), "w") as file:
        file.write("x" * 1234)


def fail(config: Config) -> None:
    raise ValueError("a planned failure")


@dataclass(frozen=True)
class Settings:
    lr: float = 3e-3
    workers: int = 1
    apart: int = 0
    fail: int = 0


settings = from_command_line(Settings())
raw = ExecutorStep(name="raw/text", fn=work, config=Config(workers=settings.workers))
train = ExecutorStep(
    name="model/train",
    fn=work,
    config=Config(train=Train(settings.lr), input_path=output_path_of(raw)),
    resources=ResourceConfig.with_cpu() if settings.apart else None,
)
evaluate = ExecutorStep(
    name="model/eval", fn=fail if settings.fail else work, config=Config(input_path=output_path_of(train, "x.txt"))
)

if __name__ == "__main__":
    executor_main(steps=[evaluate], description="three steps")
"""


@pytest.fixture
def place(folder: Path) -> Path:
    (folder / "three_steps.py").write_text(SCRIPT)
    return folder


# -- help -------------------------------------------------------------------------------------------------------------


def test_help_begins_with_examples_and_names_every_command():
    text = cli.help_text()
    assert text.startswith("examples:\n  marin run ")
    for name, what in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{what}$", text, re.MULTILINE)


@pytest.mark.parametrize("command", cli.command_names())
def test_each_commands_help_begins_with_examples(command: str, marin: Callable[..., SimpleNamespace]):
    out = marin(*command.split(), "--help").out
    assert out.startswith("examples:\n  marin " + command)
    assert f"usage: marin {command}" in out


@pytest.mark.parametrize("command", cli.command_names())
def test_no_commands_help_says_a_flag_twice(command: str, marin: Callable[..., SimpleNamespace]):
    lines = re.findall(r"^  (-.*?)(?:  .*)?$", marin(*command.split(), "--help").out, flags=re.MULTILINE)
    flags = [flag for line in lines for flag in re.findall(r"(?<!\S)--?[a-z][\w-]*", line)]
    assert "--help" in flags and len(flags) == len(set(flags)), f"{command}: {flags}"


def test_no_command_prints_help_and_is_a_usage_error(marin: Callable[..., SimpleNamespace]):
    done = marin(expect=2)
    assert done.out == ""
    assert done.err.startswith("examples:")


def test_the_version_is_printed(marin: Callable[..., SimpleNamespace]):
    assert re.fullmatch(r"marin \d+\.\d+\.\d+\n", marin("--version").out)


def test_help_costs_at_most_150_ms_of_cpu():
    best = float("inf")
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "marin.cli.main", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert best <= 0.15


# -- run and plan -----------------------------------------------------------------------------------------------------


def test_a_run_runs_everything_once_and_then_nothing(marin: Callable[..., SimpleNamespace], place: Path):
    first = marin("run", "three_steps.py")
    assert re.fullmatch(r"model/eval +store/model/eval-\w{10}/\S+", first.out.splitlines()[-1])
    assert "3 ran" in first.err
    assert "nothing to do: 3 steps cached" in marin("run", "three_steps.py").err


def test_python_and_marin_run_make_the_same_thing(marin: Callable[..., SimpleNamespace], place: Path):
    subprocess.run([sys.executable, "three_steps.py"], check=True, capture_output=True)
    assert "nothing to do: 3 steps cached" in marin("run", "three_steps.py").err


def test_a_step_in_a_process_of_its_own_runs_too(marin: Callable[..., SimpleNamespace], place: Path):
    assert "3 ran" in marin("run", "three_steps.py", "--set", "apart=1").err
    assert "learning rate 0.003" in marin("logs", "model/train").out


def test_plan_says_what_is_new_and_changes_nothing(marin: Callable[..., SimpleNamespace], place: Path):
    done = marin("plan", "three_steps.py")
    assert [line.split()[:2] for line in done.out.splitlines()[:3]] == [
        ["+", "raw/text"],
        ["+", "model/train"],
        ["+", "model/eval"],
    ]
    assert done.err.splitlines()[-1] == "Next: marin run three_steps.py"
    assert not (place / "store").exists()


def test_plan_names_the_field_that_changed_and_the_next_command(marin: Callable[..., SimpleNamespace]):
    marin("run", "three_steps.py")
    done = marin("plan", "three_steps.py", "--set", "lr=1e-3")
    raw, train, evaluate = done.out.splitlines()[:3]
    assert re.search(r"=  raw/text +@\w{6}  cached", raw)
    assert re.search(r"~  model/train +@\w{6}  run +~0\.\ds  config\.train\.learning_rate  0\.003 -> 0\.001$", train)
    assert re.search(r"~  model/eval +@\w{6}  run +~0\.\ds  input model/train changed$", evaluate)
    assert done.err.splitlines()[-2:] == [
        "Why?  marin why three_steps.py model/train --set lr=1e-3",
        "Next: marin run three_steps.py --set lr=1e-3",
    ]


def test_plan_check_exits_with_5_only_while_work_is_pending(marin: Callable[..., SimpleNamespace]):
    marin("plan", "three_steps.py", "--check", expect=5)
    marin("run", "three_steps.py")
    marin("plan", "three_steps.py", "--check")
    marin("plan", "three_steps.py", "--check", "--set", "workers=8")
    marin("plan", "three_steps.py", "--check", "--set", "lr=1", expect=5)


def test_plan_as_json(marin: Callable[..., SimpleNamespace]):
    marin("run", "three_steps.py")
    answer = json.loads(marin("plan", "three_steps.py", "--json", "--set", "lr=1").out)
    assert answer["format_version"] == "1.0"
    assert not answer["is_done"]
    assert [(s["name"], s["action"]) for s in answer["steps"]] == [
        ("raw/text", "HIT"),
        ("model/train", "RUN"),
        ("model/eval", "RUN"),
    ]
    assert answer["steps"][1]["changes"] == [
        {"path": "config.train.learning_rate", "old": "0.003", "new": "1.0", "is_input": False}
    ]
    assert answer["steps"][1]["inputs"][0]["name"] == "raw/text"


def test_only_the_steps_named_run_with_what_they_read(marin: Callable[..., SimpleNamespace]):
    assert "2 ran" in marin("run", "three_steps.py", "train").err
    assert "model/eval" not in marin("plan", "three_steps.py", "train").out


def test_flags_stand_before_between_or_behind_the_other_arguments(marin: Callable[..., SimpleNamespace]):
    flags = ("--set", "lr=1")
    orders = [("three_steps.py", "raw/text", *flags), ("three_steps.py", *flags, "raw/text")]
    orders.append((*flags, "three_steps.py", "raw/text"))
    assert len({marin("plan", *words).out for words in orders}) == 1
    assert len(marin("plan", "three_steps.py", "raw/text", *flags, "train").out.splitlines()) == 4
    marin("run", "--set", "lr=1", "three_steps.py")
    assert marin("verify", "raw/text", "--json", "model/train").out.count('"digest"') == 2
    assert marin("ls", "--json", "steps", "raw").out == marin("ls", "steps", "--json", "raw").out


def test_run_as_dry_run_is_plan(marin: Callable[..., SimpleNamespace], place: Path):
    assert "+  raw/text" in marin("run", "three_steps.py", "--dry-run").out
    assert not (place / "store").exists()


def test_a_failed_step_exits_with_1_and_names_the_error(marin: Callable[..., SimpleNamespace]):
    done = marin("run", "three_steps.py", "--set", "fail=1", expect=1)
    assert "a planned failure" in done.err
    again = marin("run", "three_steps.py", "--set", "fail=1", expect=1)
    assert "--force-run-failed" in again.err
    plan = marin("plan", "three_steps.py", "--set", "fail=1", "--check", expect=5)
    assert plan.err.endswith("Next: marin run three_steps.py --force-run-failed --set fail=1\n")
    assert marin("run", "three_steps.py", "--force-run-failed", "--set", "fail=1", expect=1)
    assert re.search(r"!  model/eval .*a planned failure", plan.out)


def test_somebody_elses_words_take_one_line_of_a_plan_each(marin: Callable[..., SimpleNamespace], place: Path):
    (place / "words.py").write_text(SCRIPT.replace('"a planned failure"', '"one\\ntwo\\n" + "x" * 500'))
    marin("run", "words.py", "--set", "fail=1", expect=1)
    lines = marin("plan", "words.py", "--set", "fail=1").out.splitlines()
    assert lines[2].endswith("failed before with ValueError: one ...")
    assert lines[3:] == ["", "Plan: 2 cached, 1 failed."]
    (why,) = marin("why", "words.py", "model/eval", "--set", "fail=1").out.splitlines()
    assert why.endswith("will not run: failed before with ValueError: one ...")
    marin("invalidate", "raw/text", "--reason", "long words " * 50, "--yes")
    for command in (["plan", "words.py"], ["rerun", "--tainted", "words.py", "--force", "--dry-run"]):
        lines = marin(*command).out.splitlines()
        assert len([line for line in lines if "long words" in line and line.endswith("...")]) >= 2
        assert max(map(len, lines)) < 170


def test_the_command_that_takes_a_striking_out_back_works_as_printed(
    marin: Callable[..., SimpleNamespace], place: Path
):
    marin("run", "three_steps.py")
    done = marin("invalidate", "raw/text", "--reason", "x", "--yes", "--prefix", str(place / "store"))
    command = re.search(r"`marin (.*)` takes it back", done.err)
    assert command is not None
    assert "taken back" in marin(*command[1].split()).out


def test_a_plan_suggests_a_run_that_decides_the_same(marin: Callable[..., SimpleNamespace]):
    marin("run", "three_steps.py")
    done = marin("plan", "three_steps.py", "--force", "raw/text", "--strict-code")
    assert done.err.endswith("Next: marin run three_steps.py --force raw/text --strict-code\n")


# -- why --------------------------------------------------------------------------------------------------------------


def test_why_names_only_where_a_change_began(marin: Callable[..., SimpleNamespace]):
    marin("run", "three_steps.py")
    done = marin("why", "three_steps.py", "model/eval", "--set", "lr=1e-3")
    first, second, *rest = done.out.splitlines()
    assert re.match(r"model/eval @\w{6} will run because upstream, model/train @\w{6} differs from @\w{6} \(", first)
    assert second == "  config.train.learning_rate  0.003 -> 0.001"
    assert rest == []
    assert done.err == "Next: marin run three_steps.py model/eval --set lr=1e-3\n"


def test_settings_that_nothing_reads_are_refused(place: Path):
    (place / "fixed.py").write_text(
        "from marin.execution.executor import executor_main\nif __name__ == '__main__':\n    executor_main(steps=[])\n"
    )
    for command in (["fixed.py"], ["-m", "marin.cli.main", "plan", "fixed.py"]):
        run = subprocess.run([sys.executable, *command, "--set", "lr=1"], capture_output=True, text=True)
        assert run.returncode == 2, run
        assert "this script takes no settings" in run.stderr


def test_why_without_a_step_tells_each_cause_once(marin: Callable[..., SimpleNamespace]):
    marin("run", "three_steps.py")
    lines = marin("why", "three_steps.py", "--set", "lr=1e-3").out.splitlines()
    assert re.match(r"model/train @\w{6} will run because it differs from @\w{6} \(", lines[0])
    assert lines[1:] == ["  config.train.learning_rate  0.003 -> 0.001", "  downstream  model/eval"]


def test_why_of_a_new_a_cached_and_a_failed_step(marin: Callable[..., SimpleNamespace]):
    assert "because it is new" in marin("why", "three_steps.py", "raw/text").out
    marin("run", "three_steps.py", "--set", "fail=1", expect=1)
    assert "will not run: failed before" in marin("why", "three_steps.py", "eval", "--set", "fail=1").out
    assert "is cached: made 20" in marin("why", "three_steps.py", "train").out
    marin("run", "three_steps.py", "--set", "lr=1")
    compared = marin("why", "three_steps.py", "train").out
    assert "compared with @" in compared
    assert "config.train.learning_rate  1.0 -> 0.003" in compared
    assert "nothing would run" in marin("why", "three_steps.py", "--set", "lr=1").out


def test_why_as_json(marin: Callable[..., SimpleNamespace]):
    marin("run", "three_steps.py")
    answer = json.loads(marin("why", "three_steps.py", "model/train", "--json", "--set", "lr=1").out)
    (step,) = answer["steps"]
    assert step["downstream"] == ["model/eval"]
    assert step["causes"][0]["name"] == "model/train"
    assert step["causes"][0]["changes"][0]["path"] == "config.train.learning_rate"


# -- ls, show, logs ---------------------------------------------------------------------------------------------------


def test_ls_lists_steps_and_runs(marin: Callable[..., SimpleNamespace]):
    marin("run", "three_steps.py", "--set", "fail=1", expect=1)
    lines = marin("ls").out.splitlines()
    assert lines[0].split() == ["name", "digest", "state", "when", "size", "wall"]
    assert re.fullmatch(r"model/eval +\w{10} +failed +\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d +- +-", lines[1])
    assert re.fullmatch(r"raw/text +\w{10} +succeeded +\S+ +1\.2 kB +\S+s", lines[3])
    assert len(marin("ls", "model/").out.splitlines()) == 3
    runs = marin("ls", "runs").out.splitlines()
    assert re.match(r"\d{8}-\d{6}-\w{6} +failed +\S+ +2 ran, 1 failed +marin run three_steps\.py", runs[1])
    assert [s["status"] for s in json.loads(marin("ls", "--json").out)["steps"]] == ["FAILED", "SUCCEEDED", "SUCCEEDED"]
    assert len(json.loads(marin("ls", "runs", "--json").out)["runs"]) == 1


def test_ls_names_what_may_have_been_meant(marin: Callable[..., SimpleNamespace]):
    marin("run", "three_steps.py")
    assert "no step begins with 'modle/train'; did you mean model/train?" in marin("ls", "modle/train").err


def test_show_prints_the_record_however_the_step_is_named(marin: Callable[..., SimpleNamespace], place: Path):
    marin("run", "three_steps.py")
    record = json.loads(marin("show", "model/train", "--json").out)["step"]
    digest, run_id = record["digest"], record["record"]["run_id"]
    named = [
        marin("show", address).out
        for address in (
            "model/train",
            f"model/train@{digest[:6]}",
            digest[:6],
            digest,
            f"store/model/train-{digest[:10]}/data/x.txt",
            f"model/train-{digest[:10]}",
            record["data_path"],
        )
    ]
    assert set(named) == {named[0]}
    assert digest in named[0]
    assert "three_steps:work" in named[0]
    assert '"learning_rate": 0.003' in named[0]
    assert "raw/text-" in named[0]
    assert "three steps" in marin("show", run_id).out
    assert json.loads(marin("show", run_id[:16], "--json").out)["run"]["run_id"] == run_id


def test_show_of_a_failed_step_has_its_error(marin: Callable[..., SimpleNamespace]):
    marin("run", "three_steps.py", "--set", "fail=1", expect=1)
    assert re.search(r"error +ValueError: a planned failure", marin("show", "model/eval").out)


def test_logs_print_what_the_step_printed(marin: Callable[..., SimpleNamespace]):
    marin("run", "three_steps.py", "--set", "apart=1")
    done = marin("logs", "model/train", "-n", "1")
    assert len(done.out.splitlines()) == 1
    assert done.err.startswith("log: ")


def test_a_runner_that_is_gone_is_shown_as_abandoned(marin: Callable[..., SimpleNamespace], place: Path):
    marin("run", "three_steps.py")
    (register,) = place.glob("store/raw/text-*/.exec/state.json")
    state = json.loads(register.read_text())
    state |= {"status": "RUNNING", "record": None}
    state["owner"]["pid_start"] = 1
    register.write_text(json.dumps(state))
    assert re.search(r"raw/text +\w{10} +abandoned", marin("ls").out)


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("pln", "x.py"), r"no command 'pln'; did you mean `marin plan`\?"),
        (("three_steps.py",), r"did you mean `marin run three_steps.py`\?"),
        (("run", "three_step.py"), r"no experiment 'three_step.py'; did you mean three_steps.py\?"),
        (("plan", "nowhere/x.py"), r"there is no folder 'nowhere'"),
        (("why", "model/train"), r"`marin plan FILE.py model/train`"),
        (("run", "three_steps.py", "model/trian"), r"no step 'model/trian'; did you mean model/train"),
        (("run", "three_steps.py", "-j", "0"), r"-j must be at least 1"),
        (("run", "three_steps.py", "--prefix", "ftp://host/x"), r"neither a folder nor an object store"),
        (("ls", "--prefix", "three_steps.py"), r"prefix three_steps.py is a file, not a store"),
        (("run", "three_steps.py", "--prefix", ""), r"the prefix is empty"),
        (("ls", "--prefix="), r"the prefix is empty"),
        (("ls", "--prefix", "elsewhere"), r"no store at elsewhere"),
        (("show", "model/train", "--prefix", "elsewhere"), r"no store at elsewhere"),
        (("run", "silent.py"), r"never calls executor_main"),
        (("plan", "refuses.py", "--set", "docs=nowhere"), r"^error: --set docs=nowhere: no folder nowhere\n$"),
        (("plan", "cycle.py"), r"cycle: a -> a"),
        (("plan", "lambda.py"), r"step 'a': cannot version config: a lambda"),
        (("plan", "three_steps.py", "--prefix", "s3://bucket//x"), r"'s3://bucket//x': its path has an empty part"),
        (
            ("plan", "three_steps.py", "--prefix", "three_steps.py"),
            r"prefix three_steps.py is a file, not a store",
        ),
        (("plan", "two.py"), r"two steps with one output path 'p'"),
        (("logs", "x", "-n", "0"), r"-n must be at least 1"),
        (("plan", "--chek"), r"usage: marin plan(.|\n)*unrecognized arguments: --chek; did you mean --check\?"),
        (("run", "three_steps.py", "--forse", "x"), r"unrecognized arguments: --forse; did you mean --force\?"),
        (("plan",), r"the following arguments are required: FILE.py\n$"),
        (("show", "a", "--prefix", "store", "b"), r"unrecognized arguments: b"),
        (("run", "three_steps.py", "--expect-cached", "my/("), r"--expect-cached: 'my/\(' is not a regular expression"),
    ],
)
def test_a_mistake_is_explained_and_exits_with_2(
    arguments: tuple[str, ...], complaint: str, marin: Callable[..., SimpleNamespace], place: Path
):
    (place / "silent.py").write_text("x = 1\n")
    (place / "refuses.py").write_text("raise ValueError('no folder nowhere')\n")
    head = "from marin.execution.executor import *\n"
    (place / "cycle.py").write_text(
        head + "c = {}\na = ExecutorStep(name='a', fn=len, config=c)\nc['x'] = a\nexecutor_main([a])\n"
    )
    (place / "lambda.py").write_text(head + "executor_main([ExecutorStep(name='a', fn=len, config=lambda: 0)])\n")
    (place / "two.py").write_text(
        head + "executor_main([ExecutorStep(name='a', fn=len, config=i, override_output_path='p') for i in (1, 2)])\n"
    )
    done = marin(*arguments, expect=2)
    assert re.search(complaint, done.err)
    assert done.out == ""
    assert "Traceback" not in done.err


def test_an_unknown_or_ambiguous_address_offers_others(marin: Callable[..., SimpleNamespace]):
    marin("run", "three_steps.py")
    marin("run", "three_steps.py", "--set", "lr=1")
    assert "did you mean model/train" in marin("show", "train", expect=2).err
    assert "`marin ls` lists" in marin("show", "zzzz", expect=2).err
    assert "could be any of 2" in marin("show", "2", expect=2).err


def test_a_script_that_raises_shows_its_own_traceback_only(marin: Callable[..., SimpleNamespace], place: Path):
    (place / "broken.py").write_text("def f():\n    return 1 / 0\n\nf()\n")
    for command in ("plan", "run", "why"):
        err = marin(command, "broken.py", expect=2).err
        assert "ZeroDivisionError" in err
        assert "runpy" not in err
        assert 'broken.py", line 4' in err
    (place / "stops.py").write_text("import sys\nsys.exit('no data here')\n")
    assert marin("run", "stops.py", expect=2).err == "error: no data here\n"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("a = ExecutorStep(name='bad name!', fn=len, config=1)", "bad step name 'bad name!'"),
        ("a = replace(ExecutorStep(name='a', fn=len, config=1), name='b!')", "bad step name 'b!'"),
        ("a = ExecutorStep(name='a', fn=3, config=1)", "step 'a': fn must be a function"),
        ("executor_main(steps=ExecutorStep(name='a', fn=len, config=1))", "steps is one step where a list"),
    ],
)
def test_a_step_that_makes_no_sense_is_told_in_a_line_that_names_the_scripts(
    line: str, complaint: str, marin: Callable[..., SimpleNamespace], place: Path
):
    head = "from dataclasses import replace\nfrom marin.execution.executor import *\n"
    (place / "bad.py").write_text(f"{head}{line}\n")
    for command in ("plan", "run", "why"):
        err = marin(command, "bad.py", expect=2).err
        assert err.startswith("error: bad.py, line 3: ")
        assert complaint in err
        assert len(err.splitlines()) == 1


def test_an_error_of_the_scripts_own_is_not_taken_for_one_of_a_step(marin: Callable[..., SimpleNamespace], place: Path):
    (place / "own.py").write_text("from marin.execution.executor import *\nint('x')\n")
    assert "Traceback" in marin("plan", "own.py", expect=2).err


def test_a_damaged_ref_is_named_and_refused_with_3(marin: Callable[..., SimpleNamespace], place: Path):
    marin("run", "three_steps.py")
    marin("pin", "model/train", "--name", "x")
    (place / "store/.exec/refs/x.json").write_text("{ half of")
    for command in (
        ["ls", "refs"],
        ["unpin", "x"],
        ["gc", "--outputs", "--dry-run"],
        ["pin", "raw/text", "--name", "x"],
    ):
        done = marin(*command, expect=3)
        assert re.fullmatch(
            r"error: \S+/store/.exec/refs/x.json: not a ref \(.*\); restore it or delete it\n", done.err
        )


def test_a_step_folder_with_another_recipe_is_refused_with_3(marin: Callable[..., SimpleNamespace], place: Path):
    marin("run", "three_steps.py")
    (register,) = place.glob("store/raw/text-*/.exec/state.json")
    state = json.loads(register.read_text())
    register.write_text(json.dumps(state | {"digest": "0" * 64}))
    assert "belongs to a step with digest" in marin("run", "three_steps.py", expect=3).err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["three_steps.py", "--run_only", "("], "error: run_only: '(' is not a regular expression"),
        (
            ["three_steps.py", "--forse", "x"],
            "three_steps.py: error: unrecognized arguments: --forse; did you mean --force?",
        ),
        (["three_steps.py", "--force", "("], "error: --force: '(' is not a regular expression"),
        (["three_steps.py", "--expect-cached", "("], "error: --expect-cached: '(' is not a regular expression"),
        (["bad.py", "one"], "error: executor_main: steps is one step where a list of steps is expected"),
        (
            ["three_steps.py", "--run_only", "zzz"],
            "error: run_only: no step's name matches 'zzz'; there are model/eval",
        ),
        (["three_steps.py", "--prefix", "s3:/b://c"], "error: prefix 's3:/b://c' looks like the URL s3://b://c"),
        (["bad.py", "cycle"], "error: cycle: a -> a"),
        (["bad.py", "two"], "error: two steps with one output path 'p'"),
        (["bad.py", "value"], "error: step 'a': cannot version config: object"),
        (["bad.py", "list"], "error: steps: expected ExecutorStep, got list"),
    ],
    ids=lambda v: v[-1] if isinstance(v, list) else "",
)
def test_a_script_explains_a_mistake_in_one_line_too(arguments: list[str], complaint: str, place: Path):
    (place / "bad.py").write_text(
        "import sys\nfrom marin.execution.executor import *\nkind, c = sys.argv.pop(), {}\n"
        "a = ExecutorStep(name='a', fn=len, config=c if kind == 'cycle' else object())\nc['x'] = a\n"
        "two = [ExecutorStep(name='a', fn=len, config=i, override_output_path='p') for i in (1, 2)]\n"
        "executor_main({'two': two, 'list': [[a]], 'one': a}.get(kind, [a]))\n"
    )
    run = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert run.returncode == 2, run.stderr
    assert run.stderr.splitlines()[-1].startswith(complaint)
    assert "Traceback" not in run.stderr


def test_a_corrupt_register_is_listed_and_named_and_stops_nothing_else(
    marin: Callable[..., SimpleNamespace], place: Path
):
    marin("run", "three_steps.py")
    (register,) = place.glob("store/raw/text-*/.exec/state.json")
    register.write_text("{ half of")
    listed = marin("ls", expect=3)
    assert re.search(r"raw/text +\w{10} +unreadable", listed.out)
    assert re.search(r"model/train +\w{10} +succeeded", listed.out)
    assert f"{register}: not a register" in listed.err
    assert listed.err.endswith("Next: marin doctor\n")
    assert json.loads(marin("ls", "--json", expect=3).out)["steps"][-1]["status"] == "CORRUPT"
    marin("ls", "model/")
    assert "model/train" in marin("show", "model/train").out
    for command in (["plan", "three_steps.py"], ["run", "three_steps.py"], ["show", "raw/text"], ["logs", "raw/text"]):
        done = marin(*command, expect=3)
        assert done.err.splitlines()[-1].startswith(f"error: {register}: not a register")
        assert "Traceback" not in done.err
    run = subprocess.run([sys.executable, "three_steps.py"], capture_output=True, text=True)
    assert (run.returncode, "Traceback" in run.stderr) == (3, False)


def test_where_something_is_struck_out_an_unreadable_register_stops_no_listing_either(
    marin: Callable[..., SimpleNamespace], place: Path
):
    marin("run", "three_steps.py")
    marin("invalidate", "model/eval", "--reason", "x", "--yes")
    (register,) = place.glob("store/raw/text-*/.exec/state.json")
    register.write_text("{ half of")
    listed = marin("ls", expect=3)
    assert [line.split()[2] for line in listed.out.splitlines()[1:]] == ["invalid", "succeeded", "unreadable"]
    assert "whether it is tainted cannot be told" in listed.err
    shown = marin("show", "model/train").out
    assert re.search(r"^state +succeeded\nwhy +whether it is tainted cannot be told", shown, re.MULTILINE)
    assert json.loads(marin("show", "model/train", "--json").out)["step"]["taint"]["state"] == "unknown"


def test_a_register_of_a_newer_format_asks_for_a_newer_marin_and_no_more(
    marin: Callable[..., SimpleNamespace], place: Path
):
    marin("run", "three_steps.py")
    (register,) = place.glob("store/raw/text-*/.exec/state.json")
    register.write_text(json.dumps({**json.loads(register.read_text()), "v": 2}))
    err = marin("show", "raw/text", expect=3).err
    assert err == f"error: {register}: its format is newer than this version of marin reads: update marin\n"


def test_json_stays_json_when_the_script_prints(marin: Callable[..., SimpleNamespace], place: Path):
    (place / "loud.py").write_text(
        SCRIPT.replace("import os\n", "import os\nprint('hello')\n", 1) + "    print('bye')\n"
    )
    for command in ("plan", "why"):
        done = marin(command, "loud.py", "--json")
        assert json.loads(done.out)["steps"]
        assert "hello\nbye\n" in done.err
    done = marin("run", "loud.py")
    assert "hello" not in done.out
    assert done.out.splitlines()[-1].startswith("model/eval")


def test_the_record_of_a_run_holds_the_command_that_was_typed(marin: Callable[..., SimpleNamespace], place: Path):
    typed = ["run", "./three_steps.py", "raw/text", "-j", "2", "--set", "lr=1e-3"]
    marin(*typed)
    (run,) = json.loads(marin("ls", "runs", "--json").out)["runs"]
    assert run["command"] == "marin run ./three_steps.py raw/text -j 2 --set lr=1e-3"
    assert run["env"]["argv"] == ["marin", *typed]


def test_why_of_a_blocked_step_names_the_failure(marin: Callable[..., SimpleNamespace], place: Path):
    (place / "blocked.py").write_text(
        "from marin.execution.executor import *\ndef bad(config):\n    raise ValueError('x')\n"
        "a = ExecutorStep(name='a', fn=bad, config=1)\nb = ExecutorStep(name='b', fn=bad, config={'i': a})\n"
        "executor_main([b])\n"
    )
    marin("run", "blocked.py", expect=1)
    why = marin("why", "blocked.py", "b")
    assert re.match(r"b @\w{6} will not run: input a failed\n$", why.out)
    assert why.err == "Next: marin run blocked.py b --force-run-failed\n"
    forced = marin("plan", "blocked.py", "--force-run-failed")
    assert forced.err.endswith("Next: marin run blocked.py --force-run-failed\n")


def test_a_suggested_command_can_be_typed_as_it_stands(marin: Callable[..., SimpleNamespace], place: Path):
    (place / "three steps.py").write_text(SCRIPT)
    assert marin("plan", "three steps.py").err.endswith("Next: marin run 'three steps.py'\n")


def test_show_does_not_fail_on_what_the_terminal_cannot_print(place: Path):
    (place / "accents.py").write_text(
        "from marin.execution.executor import *\n"
        "executor_main([ExecutorStep(name='a', fn='builtins:repr', config='\u00e9\u2713')])\n",
        encoding="utf-8",
    )
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for command in (["run", "accents.py"], ["show", "a"], ["ls"]):
        run = subprocess.run(
            [sys.executable, "-m", "marin.cli.main", *command], env=env, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        if command == ["show", "a"]:
            assert "\\xe9\\u2713" in run.stdout


# -- words ------------------------------------------------------------------------------------------------------------


def test_colour_only_where_it_is_wanted(marin: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch):
    marin("run", "three_steps.py")
    assert "\x1b" not in marin("ls").out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" in marin("ls").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in marin("ls").out


def test_sizes_and_times_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch):
    import time

    sizes = [None, 0, 999, 1000, 1234, 999_949, 999_950, 41_200_000_000]
    assert [size(n) for n in sizes] == ["-", "0 B", "999 B", "1.0 kB", "1.2 kB", "999.9 kB", "1.0 MB", "41.2 GB"]
    monkeypatch.setenv("TZ", "UTC-5:30")
    time.tzset()
    assert local_time("2026-01-31T23:59:59Z") == "2026-02-01T05:29:59"
    monkeypatch.delenv("TZ")
    time.tzset()


def read_only(folder: Path, command: list[str]) -> list[str]:
    """A command line that runs `command` where `folder` cannot be written to."""
    if os.geteuid() != 0:
        return ["sh", "-c", 'chmod -R a-w "$0"; "$@"; code=$?; chmod -R u+w "$0"; exit $code', str(folder), *command]
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" || exit 99; exec "$@"'
    return ["unshare", "--mount", "sh", "-c", mount, str(folder), *command]


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux can root make a folder read-only")
@pytest.mark.parametrize(
    "command",
    ["show raw/text", "logs raw/text", "ls runs", "status", "plan three_steps.py", "verify --deep --dry-run"],
)
def test_a_store_that_is_read_only_can_be_looked_at(command: str, marin: Callable[..., SimpleNamespace], place: Path):
    marin("run", "three_steps.py")
    typed = read_only(place / "store", [sys.executable, "-m", "marin.cli.main", *command.split()])
    done = subprocess.run(typed, capture_output=True, text=True)
    if done.returncode in (1, 99) and "unshare" in done.stderr + "mount" * (done.returncode == 99):
        pytest.skip(f"this container lets nobody mount anything: {done.stderr}")
    assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.parametrize(
    ("command", "closed"), [("-m marin.cli.main run three_steps.py", "2>&-"), ("three_steps.py", "<&- >&- 2>&-")]
)
def test_a_run_whose_streams_were_closed_runs(command: str, closed: str, place: Path):
    assert subprocess.run(["sh", "-c", f"{sys.executable} {command} {closed}"]).returncode == 0
    assert len(list(place.glob("store/*/*/data/x.txt"))) == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("command", ["run three_steps.py", "run three_steps.py --json", "ls --json", "show raw/text"])
def test_data_that_cannot_be_written_is_an_error_of_one_line(
    command: str, marin: Callable[..., SimpleNamespace], place: Path
):
    marin("run", "three_steps.py")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "marin.cli.main", *command.split()], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(r"^error: cannot write( to stdout)?: No space left on device$", done.stderr, re.MULTILINE)


def test_a_reader_that_stops_reading_is_no_error(marin: Callable[..., SimpleNamespace], place: Path):
    marin("run", "three_steps.py")
    command = f"{sys.executable} -m marin.cli.main show model/train --json | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout == '{\n  "forma'
    assert "Traceback" not in done.stderr
