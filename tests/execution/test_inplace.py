"""Steps that publish in place: what an attempt may go on from, and what it must never take for its own."""

import importlib
import io
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from marin.cluster.job import JobResult
from marin.execution.adoption import AdoptionError, adopt_for
from marin.execution.artifact import Artifact
from marin.execution.attempt import Attempt, conclude
from marin.execution.executor import Executor, ExecutorStep, output_path_of, this_output_path
from marin.execution.gc import collect, find_garbage
from marin.execution.graph import build_graph
from marin.execution.lease import LeaseLost, acquire
from marin.execution.plan import Choices
from marin.execution.selection import Selection
from marin.execution.status import active_run
from marin.execution.strike import invalidate


@dataclass(frozen=True)
class Config:
    folder: str  # where the test says what is so
    rate: float = 0.1
    input_path: object = None
    output_path: object = this_output_path()


def source(config: Config) -> None:
    Path(config.output_path, "x").write_text(Path(config.folder, "text").read_text())


def train(config: Config) -> None:
    """Goes on from its checkpoint, if it has one; fails after saving it where the folder has a file `fail`."""
    checkpoint = Path(config.output_path, "checkpoint")
    text = Path(config.input_path, "x").read_text() if config.input_path else "nothing"
    if not checkpoint.exists():
        checkpoint.write_text(f"from {text} at {config.rate}")
    if Path(config.folder, "fail").exists():
        raise ValueError("stopped after the checkpoint")


@pytest.fixture
def executor(tmp_path):
    return Executor(tmp_path / "store", fsync=False, stream=io.StringIO())


def training(folder: Path, **options) -> ExecutorStep:
    fields = {key: options.pop(key) for key in ("rate", "input_path") if key in options}
    return ExecutorStep(name="train", fn=train, config=Config(str(folder), **fields), publish="inplace", **options)


def checkpoint_of(executor: Executor, step: ExecutorStep) -> Path:
    return Path(executor.prefix, build_graph([step]).nodes[-1].path, "checkpoint")


def state_of(executor: Executor, step: ExecutorStep):
    return executor.store.read(str(checkpoint_of(executor, step).parent))


RETRIED = Choices(force_run_failed=True)
REMADE = Choices(rerun_tainted=True)


def test_an_attempt_goes_on_from_what_a_failed_one_left(executor, tmp_path):
    step = training(tmp_path)
    (tmp_path / "fail").touch()
    assert not executor.run([step]).is_ok
    checkpoint_of(executor, step).write_text("half-way")
    (tmp_path / "fail").unlink()
    assert executor.run([step], choices=RETRIED).is_ok
    assert checkpoint_of(executor, step).read_text() == "half-way"


def test_an_input_that_is_not_waited_for_counts_like_any_other(executor, tmp_path):
    (tmp_path / "text").write_text("bad text")
    data = ExecutorStep(name="source", fn=source, config=Config(str(tmp_path)))
    step = training(tmp_path, input_path=output_path_of(data).nonblocking())
    executor.run([data])
    executor.run([step])
    invalidate(executor.store, Selection(addresses=("source",)), "bad")
    (tmp_path / "text").write_text("good text")
    executor.run([data], choices=REMADE)
    assert executor.run([step], choices=REMADE).is_ok
    assert checkpoint_of(executor, step).read_text() == "from good text at 0.1"


def test_an_input_that_is_not_waited_for_and_came_later_makes_nobody_begin_anew(executor, tmp_path):
    (tmp_path / "text").write_text("text")
    (tmp_path / "fail").touch()
    data = ExecutorStep(name="source", fn=source, config=Config(str(tmp_path)))
    step = training(tmp_path, input_path=output_path_of(data).nonblocking())
    executor.run([step])
    checkpoint_of(executor, step).write_text("half-way")
    executor.run([data])
    (tmp_path / "fail").unlink()
    assert executor.run([step], choices=RETRIED).is_ok
    assert checkpoint_of(executor, step).read_text() == "half-way"


@pytest.mark.parametrize("ends", ["failed", "committed"])
def test_what_another_recipe_of_a_version_left_is_not_gone_on_from(executor, tmp_path, ends):
    first, second = (training(tmp_path, rate=rate, version="1") for rate in (0.1, 0.2))
    if ends == "failed":
        (tmp_path / "fail").touch()
    executor.run([first])
    (tmp_path / "fail").unlink(missing_ok=True)
    assert executor.run([second], choices=Choices(force=("train",), accept_drift=True)).is_ok
    assert checkpoint_of(executor, second).read_text() == "from nothing at 0.2"


def test_the_failure_of_another_recipe_of_a_version_is_not_this_ones(executor, tmp_path):
    (tmp_path / "fail").touch()
    executor.run([training(tmp_path, rate=0.1, version="1")])
    (tmp_path / "fail").unlink()
    second = training(tmp_path, rate=0.2, version="1")
    assert executor.plan([second]).items[0].reason == "another recipe of version 1 failed before"
    assert executor.run([second]).is_ok


def test_a_step_that_is_forced_makes_everything_again_once(executor, tmp_path):
    step = training(tmp_path)
    executor.run([step])
    checkpoint_of(executor, step).write_text("weird")
    assert executor.run([step], choices=Choices(force=("train",))).is_ok
    assert checkpoint_of(executor, step).read_text() == "from nothing at 0.1"


def test_a_step_whose_code_changed_makes_everything_again_where_code_is_strict(executor, tmp_path, monkeypatch):
    code = (
        "from pathlib import Path\ndef train(c):\n    p = Path(c.output_path, 'checkpoint')\n    if not p.exists():\n"
        "        p.write_text('old code')\n"
    )
    (tmp_path / "edited_training.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("edited_training")

    def step() -> ExecutorStep:
        return ExecutorStep(name="train", fn=module.train, config=Config(str(tmp_path)), publish="inplace")

    executor.run([step()])
    (tmp_path / "edited_training.py").write_text(code.replace("old code", "code of today"))
    module = importlib.reload(module)
    strict = Choices(strict_code=True)
    assert "code drift" in executor.plan([step()], choices=strict).items[0].reason
    assert executor.run([step()], choices=strict).is_ok
    assert checkpoint_of(executor, step()).read_text() == "code of today"


def test_files_that_were_there_before_the_first_attempt_are_nobodys_to_delete(executor, tmp_path):
    step = training(tmp_path)
    mine = checkpoint_of(executor, step).parent / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("kept")
    executor.run([step])
    assert mine.read_text() == "kept"


KILLED = """
import os, sys
sys.path.insert(0, {here!r})
import test_inplace as t
from marin.execution import lease
real = lease.Lease.cleared
def cleared(self):
    if {after}:
        real(self)
    os.kill(os.getpid(), 9)
lease.Lease.cleared = cleared
t.Executor({store!r}, fsync=False, quiet=True).run([t.training(t.Path({folder!r}))], choices=t.REMADE)
"""


@pytest.mark.parametrize("after", [False, True])
def test_a_remake_that_was_killed_is_gone_on_with_and_gc_leaves_it_alone(executor, tmp_path, after):
    step = training(tmp_path)
    executor.run([step])
    checkpoint_of(executor, step).write_text("made by a bug")
    invalidate(executor.store, Selection(addresses=("train",)), "a bug")
    here = str(Path(__file__).parent)
    code = KILLED.format(here=here, after=after, store=executor.prefix, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert state_of(executor, step).must_clear is not after
    if not after:  # as if the killed one had not emptied it
        checkpoint_of(executor, step).write_text("made by a bug")
    assert collect(executor.store, find_garbage(executor.store)) == []
    assert state_of(executor, step).status == "RUNNING"
    assert executor.run([step]).is_ok
    assert checkpoint_of(executor, step).read_text() == "from nothing at 0.1"
    assert not state_of(executor, step).must_clear


def test_on_an_object_store_no_machine_goes_on_from_what_was_made_before_the_striking_out(tmp_path, monkeypatch):
    pytest.importorskip("obstore", reason="needs the extra `remote`")
    executor = Executor(f"memory://{tmp_path.name}", stream=io.StringIO())
    step = training(tmp_path)

    def run_on(machine: str, choices: Choices, *, fails: bool = False) -> None:
        monkeypatch.setenv("MARIN_SCRATCH", str(tmp_path / machine))
        (tmp_path / "fail").touch()
        if not fails:
            (tmp_path / "fail").unlink()
        assert executor.run([step], choices=choices).is_ok is not fails

    run_on("first", Choices(), fails=True)
    for left in (tmp_path / "first").rglob("checkpoint"):
        left.write_text("made by a bug")
    run_on("second", RETRIED)
    invalidate(executor.store, Selection(addresses=("train",)), "a bug")
    run_on("third", REMADE, fails=True)
    run_on("first", RETRIED)
    root = f"{executor.prefix}/{build_graph([step]).nodes[0].path}"
    assert executor.store.get(f"{root}/checkpoint") == b"from nothing at 0.1"


def test_on_an_object_store_an_output_has_no_file_of_the_one_before(tmp_path, monkeypatch):
    pytest.importorskip("obstore", reason="needs the extra `remote`")
    monkeypatch.setenv("MARIN_SCRATCH", str(tmp_path / "scratch"))
    executor = Executor(f"memory://{tmp_path.name}", stream=io.StringIO())
    step = training(tmp_path)
    root = f"{executor.prefix}/{build_graph([step]).nodes[0].path}"
    executor.run([step])
    executor.store.put(f"{root}/model-of-the-bug", b"1")
    executor.run([step], choices=Choices(force=("train",)))
    files = [path for path, _ in executor.store.tree(root) if not path.startswith(".exec/")]
    assert files == ["checkpoint"]


# -- adopting ---------------------------------------------------------------------------------------------------------


class Trained(Artifact):
    REQUIRED_FILES = ("model",)


def adopting(folder: Path) -> ExecutorStep:
    return training(folder, output_type=Trained)


def test_an_adoption_that_is_refused_brings_nothing(executor, tmp_path):
    step = adopting(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old/checkpoint").write_text("somebody's wrong checkpoint")
    (node,) = build_graph([step]).nodes
    with pytest.raises(AdoptionError, match="model"):
        adopt_for(executor.store, node, tmp_path / "old", reason="it looks right")
    assert not checkpoint_of(executor, step).exists() and state_of(executor, step) is None


def test_an_adoption_that_was_interrupted_is_no_partial_work_of_the_step(executor, tmp_path, monkeypatch):
    step = training(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old/checkpoint").write_text("somebody's checkpoint")
    (tmp_path / "old/zz").write_text("never brought")
    (node,) = build_graph([step]).nodes
    real = os.link

    def link(source, target, **options):
        if str(source).endswith("zz"):
            raise OSError("the disk was pulled out")
        real(source, target, **options)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(AdoptionError, match="pulled out"):
        adopt_for(executor.store, node, tmp_path / "old", reason="it looks right")
    monkeypatch.undo()
    assert checkpoint_of(executor, step).exists()
    assert executor.run([step]).is_ok
    assert checkpoint_of(executor, step).read_text() == "from nothing at 0.1"
    assert (tmp_path / "old/checkpoint").read_text() == "somebody's checkpoint"


def test_an_adoption_does_not_cost_a_step_its_partial_work(executor, tmp_path):
    step = training(tmp_path)
    (tmp_path / "fail").touch()
    executor.run([step])
    (tmp_path / "old").mkdir()
    (tmp_path / "old/model").write_text("x")
    (node,) = build_graph([step]).nodes
    before = state_of(executor, step)
    with pytest.raises(AdoptionError, match="holds checkpoint already"):
        adopt_for(executor.store, node, tmp_path / "old", reason="it looks right")
    assert state_of(executor, step) == before and checkpoint_of(executor, step).exists()


def test_a_lease_taken_to_go_on_keeps_the_beginning(tmp_path, executor):
    step = training(tmp_path)
    (tmp_path / "fail").touch()
    executor.run([step])
    first = state_of(executor, step)
    executor.run([step], choices=RETRIED)
    second = state_of(executor, step)
    assert first.began == first.attempt == second.began != second.attempt


def test_an_attempt_that_lost_its_lease_deletes_nothing_of_the_one_that_has_it(tmp_path):
    pytest.importorskip("obstore", reason="needs the extra `remote`")
    store = Executor(f"memory://{tmp_path.name}", stream=io.StringIO()).store
    root, digest = f"{store.prefix}/train", "d" * 64
    with active_run("a run") as owner:
        first = acquire(store, root, None, digest=digest, owner=owner, publish="inplace")
        assert first is not None
        assert acquire(store, root, first.state, digest=digest, owner=owner, publish="inplace", resumes=True)
        store.put(f"{root}/model-of-the-other", b"1")
        with pytest.raises(LeaseLost):
            first.renew()  # as the thread that renews does; from then on the lease is known to be lost
        work = tmp_path / "work"
        work.mkdir()
        (work / "checkpoint").write_text("mine")
        attempt = Attempt(
            name="train",
            digest=digest,
            fn=train,
            config=None,
            publish="inplace",
            work_dir=str(work),
            log_dir=str(work),
            fetches=(),
            edges=(),
            output_type=dict,
            record={},
            started=0.0,
        )
        assert conclude(store, first, attempt, JobResult(error=None, value={})) == (None, None)
    assert [path for path, _ in store.tree(root) if not path.startswith(".exec/")] == ["model-of-the-other"]
