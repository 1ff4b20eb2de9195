"""verify, gc, pin, unpin and adopt as a person uses them."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marin.config import from_command_line
from marin.execution.executor import ExecutorStep, executor_main, output_path_of, this_output_path


@dataclass(frozen=True)
class Config:
    number: int = 1
    input_path: Any = None
    output_path: Any = this_output_path()


def work(config: Config) -> None:
    Path(config.output_path, "folder").mkdir(exist_ok=True)
    Path(config.output_path, "x.txt").write_text("x" * 1234)
    Path(config.output_path, "folder/y.txt").write_text("y" * config.number)


@dataclass(frozen=True)
class Settings:
    number: int = 1


settings = from_command_line(Settings())
raw = ExecutorStep(name="raw/text", fn=work, config=Config())
train = ExecutorStep(
    name="train", fn=work, config=Config(number=settings.number, input_path=output_path_of(raw)), publish="inplace"
)
data = ExecutorStep(name="data/web", fn=work, config=Config(number=7), version="2026.11")

if __name__ == "__main__":
    executor_main(steps=[train])
"""


@pytest.fixture
def place(folder: Path) -> Path:
    (folder / "two.py").write_text(SCRIPT)
    (folder / "pinned.py").write_text(SCRIPT.replace("steps=[train]", "steps=[data]"))
    return folder


def only(place: Path, pattern: str) -> Path:
    (path,) = place.glob(pattern)
    return path


def make_old(path: Path, hours: float = 3.0) -> None:
    """Turn back the times of all below a folder."""
    then = time.time() - hours * 3600
    for inner in (path, *path.rglob("*")):
        os.utime(inner, (then, then), follow_symlinks=False)


# -- verify ------------------------------------------------------------------------------------------------------------


def test_what_is_as_recorded_is_verified(marin, place: Path):
    marin("run", "two.py")
    done = marin("verify")
    assert re.search(r"ok +raw/text @\w{6}  2 files", done.out)
    assert done.err.endswith("2 outputs verified (names and sizes)\nNext: marin verify --deep\n")
    deep = marin("verify", "train", "--deep", "--json")
    (output,) = json.loads(deep.out)["outputs"]
    assert output["ok"] and output["deep"] and output["bytes_read"] == 1235
    assert re.search(r"verified +2x, last \S+, every byte \S+", marin("show", "train").out)


def test_one_flipped_bit_is_found_by_deep_alone_and_struck_out(marin, place: Path):
    marin("run", "two.py")
    path = only(place, "store/raw/text-*/attempts/*/x.txt")
    content = bytearray(path.read_bytes())
    content[617] ^= 1
    path.write_bytes(content)
    assert "2 outputs verified" in marin("verify").err
    done = marin("verify", "--deep", expect=4)
    assert re.search(r"differs  raw/text @\w{6}\n +file x.txt has sha256 \w{16}\.\.\., recorded \w{16}\.\.\.", done.out)
    plan = marin("plan", "two.py").out
    assert re.search(r'raw/text .* struck out: "corrupt: file x.txt has sha256', plan)
    assert re.search(r"train .* built on raw/text", plan)
    marin("run", "two.py", expect=3)
    assert json.loads(marin("ls", "--json").out)["steps"][0]["status"] == "INVALID"
    marin("verify", "--deep", expect=4)
    assert len(list(place.glob("store/.exec/invalid/*.json"))) == 1


DAMAGE = {
    "missing": lambda root, step: (root / "x.txt").unlink(),
    "extra": lambda root, step: (root / "folder/new").touch(),
    "size": lambda root, step: (root / "x.txt").write_text("short"),
    "manifest": lambda root, step: _alter(next((step / ".exec/manifests").iterdir())),
}


def _alter(manifest: Path) -> None:
    """Another file list with a digest that fits it."""
    import hashlib

    value = json.loads(manifest.read_text())
    value["files"][0][2] = "0" * 64
    value["root_digest"] = hashlib.sha256(json.dumps(value["files"], separators=(",", ":")).encode()).hexdigest()
    manifest.write_text(json.dumps(value))


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["raw/text", "train"])
def test_damage_of_every_kind_is_found_without_reading(kind: str, name: str, marin, place: Path):
    marin("run", "two.py")
    step = only(place, f"store/{name}-*")
    root = step if name == "train" else only(place, f"store/{name}-*/attempts/*")
    DAMAGE[kind](root, step)
    done = marin("verify", name, "--json", "--dry-run", expect=4)
    (output,) = json.loads(done.out)["outputs"]
    assert [difference["kind"] for difference in output["differences"]] == [kind]
    assert not (place / "store/.exec/invalid").exists(), "a dry run writes nothing"
    marin("verify", name, expect=4)
    assert json.loads((step / ".exec/verified.json").read_text())["ok"] is False
    assert json.loads((step / ".exec/state.json").read_text())["status"] == "INVALID"


def test_an_output_that_was_replaced_is_looked_at_and_only_reported(marin, place: Path):
    marin("run", "two.py")
    first = only(place, "store/raw/text-*/attempts/*")
    marin("run", "two.py", "raw/text", "--force", "raw/text")
    (first / "x.txt").write_text("z" * 1234)
    done = marin("verify", "raw/text", "--deep", expect=4)
    assert re.search(r"differs  raw/text @\w{6} attempt 0001-\w{8}, replaced since", done.out)
    assert re.search(r"ok +raw/text", done.out)
    assert not (place / "store/.exec/invalid").exists()


def test_damage_is_made_good_without_a_change_of_code_and_then_forgotten(marin, place: Path):
    marin("run", "two.py")
    first = only(place, "store/raw/text-*/attempts/*")
    (first / "x.txt").write_text("z" * 1234)
    marin("verify", "--deep", expect=4)
    marin("rerun", "--tainted", "two.py")
    assert "2 outputs verified" in marin("verify", "--deep").err
    marin("gc", "--outputs", "--keep-days", "0", "--yes")
    assert (first / "x.txt").exists(), "what was struck out stays to be looked into"


def test_a_register_that_cannot_be_read_is_nothing_that_was_verified(marin, place: Path):
    marin("run", "two.py")
    only(place, "store/raw/text-*/.exec/state.json").write_text('{"v":1, brok')
    done = marin("verify", expect=4)
    assert "not a register" in done.err and "1 register cannot be read; 0 of 1 outputs differ" in done.err
    assert json.loads(marin("verify", "--json", expect=4).out)["unreadable"] == 1


def test_verify_stops_at_ctrl_c_and_leaves_nothing_half(place: Path):
    subprocess.run([sys.executable, "two.py"], check=True, capture_output=True)
    big = only(place, "store/raw/text-*/attempts/*/x.txt")
    os.truncate(big, 40 << 30)  # a hole: takes no room, and long to read
    manifest = only(place, "store/raw/text-*/.exec/manifests/*.json")
    manifest.write_text(manifest.read_text().replace('["x.txt", 1234', f'["x.txt", {40 << 30}'))
    _alter(manifest)
    digest = json.loads(manifest.read_text())["root_digest"]
    register = only(place, "store/raw/text-*/.exec/state.json")
    state = json.loads(register.read_text())
    state["record"]["root_digest"] = digest
    register.write_text(json.dumps(state))
    command = [sys.executable, "-m", "marin.cli.main", "verify", "raw/text", "--deep"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    process.send_signal(2)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert err == "interrupted\n"
    assert not list(place.glob("store/.exec/invalid/*"))


# -- pin, unpin, gc ----------------------------------------------------------------------------------------------------


def test_a_ref_is_made_listed_and_deleted(marin, place: Path):
    marin("run", "two.py")
    assert re.match(r"paper  train @\w{6} attempt 0001-\w{8}", marin("pin", "train", "--name", "paper").out)
    marin("pin", "train", "--name", "paper")
    assert re.search(r"^paper +train +\w{10} +0001-\w{8}", marin("ls", "refs").out, re.MULTILINE)
    refused = marin("pin", "raw/text", "--name", "paper", expect=3)
    assert "ref 'paper' names train @" in refused.err
    marin("pin", "raw/text", "--name", "paper", "--move")
    assert json.loads(marin("ls", "refs", "--json").out)["refs"][0]["step"] == "raw/text"
    assert "did you mean paper?" in marin("unpin", "papr", expect=2).err
    marin("unpin", "paper")
    assert json.loads(marin("ls", "refs", "--json").out)["refs"] == []
    assert "bad ref name" in marin("pin", "train", "--name", "../x", expect=2).err


def test_a_refs_name_is_an_address_and_stays_with_its_output(marin, place: Path):
    marin("run", "two.py")
    marin("pin", "train", "--name", "paper")
    first = json.loads(marin("show", "paper", "--json").out)["step"]
    assert first["name"] == "train"
    assert "1 output verified" in marin("verify", "paper").err
    assert marin("lineage", "paper").out == marin("lineage", "train").out
    assert "log: " in marin("logs", "paper").err
    assert "did you mean paper?" in marin("show", "papr", expect=2).err
    marin("pin", "raw/text", "--name", "old")
    attempt = json.loads(marin("ls", "refs", "--json").out)["refs"][0]["attempt"]
    marin("run", "two.py", "--force", "raw/text")
    now = json.loads(marin("show", "raw/text", "--json").out)["step"]
    assert now["attempt"] != attempt
    assert json.loads(marin("show", "old", "--json").out)["step"]["attempt"] == attempt
    assert json.loads(marin("diff", "old", "raw/text", "--json").out)["old"]["attempt"] == attempt
    found = json.loads(marin("invalidate", "old", "--reason", "x", "--yes", "--json").out)
    assert [output["attempt"] for output in found["struck_out"]] == [attempt]
    marin("verify", "old")


def test_what_has_no_output_is_refused_by_every_command_that_needs_one(marin, place: Path):
    (place / "bad.py").write_text(SCRIPT.replace("def work(config: Config) -> None:", "def work(config):\n    1 / 0"))
    marin("run", "bad.py", expect=1)
    commands = (["pin", "raw/text"], ["invalidate", "raw/text", "--reason", "x"], ["lineage", "raw/text"])
    for command in (*commands, ["diff", "raw/text", "raw/text"]):
        assert "it has failed" in marin(*command, expect=3).err


def test_gc_says_when_there_will_be_something_to_delete(marin, place: Path):
    (place / "bad.py").write_text(SCRIPT.replace("def work(config: Config) -> None:", "def work(config):\n    1 / 0"))
    marin("run", "bad.py", expect=1)
    told = marin("gc").err
    assert re.search(r"nothing to delete yet: an attempt without an output may go in (1h00m|59m\d\ds)\n", told), told
    make_old(place / "store", 2)
    assert "deleted 1 thing" in marin("gc", "--yes").err


def test_gc_leaves_outputs_alone_unless_it_is_told(marin, place: Path):
    marin("run", "two.py")
    make_old(place / "store", 24 * 400)
    assert "nothing to delete" in marin("gc").err
    found = json.loads(marin("gc", "--outputs", "--dry-run", "--json").out)
    assert sorted(item["path"].partition("-")[0] for item in found["found"]) == ["raw/text", "train"]
    assert found["deleted"] == []


def test_gc_keeps_what_a_ref_reaches_and_a_run_makes_the_rest_again(marin, place: Path):
    marin("run", "two.py", "--set", "number=2")
    marin("run", "two.py", "--set", "number=3")
    make_old(place / "store", 24 * 400)
    two = json.loads(marin("ls", "train", "--json").out)["steps"]
    marin("pin", f"train@{two[0]['digest'][:8]}")
    refused = marin("gc", "--outputs", expect=3)
    assert "there is nobody to ask; give --yes" in refused.err
    done = marin("gc", "--outputs", "--yes")
    assert len(done.out.splitlines()) == 3
    assert "deleted 1 thing, 1.2 kB" in done.err
    states = {s["digest"]: s["status"] for s in json.loads(marin("ls", "--json").out)["steps"]}
    assert states[two[0]["digest"]] == "SUCCEEDED"
    assert states[two[1]["digest"]] == "EVICTED"
    assert "nothing to delete" in marin("gc", "--outputs", "--yes").err
    number = json.loads(marin("show", two[1]["digest"], "--json").out)["step"]["record"]["config_resolved"]["number"]
    plan = marin("plan", "two.py", "--set", f"number={number}").out
    assert re.search(r"=  raw/text", plan)
    assert re.search(r"train .*  run +~0\.\ds  its data was deleted by gc", plan)
    assert "1 ran" in marin("run", "two.py", "--set", f"number={number}").err
    marin("verify", "--deep")


def test_gc_asks_and_takes_no_for_an_answer(marin, place: Path):
    marin("run", "two.py")
    make_old(place / "store", 24 * 400)
    command = [sys.executable, "-m", "marin.cli.main", "gc", "--outputs"]
    import pty

    def answer(text: bytes) -> str:
        leader, follower = pty.openpty()
        os.write(leader, text)
        done = subprocess.run(command, stdin=follower, capture_output=True, text=True)
        os.close(leader)
        os.close(follower)
        assert done.returncode == 0
        return done.stderr

    assert "nothing was deleted" in answer(b"n\n")
    assert "deleted 2 things" in answer(b"y\n")


def test_gc_deletes_what_a_failed_attempt_left_once_it_is_old(marin, place: Path):
    (place / "two.py").write_text(SCRIPT.replace("def work(config: Config) -> None:", FAILING))
    marin("run", "two.py", expect=1)
    assert "nothing to delete" in marin("gc").err
    make_old(place / "store")
    done = marin("gc", "--yes")
    assert re.search(r"attempt +raw/text-\w+/attempts/0001-\w+ +4 B +failed", done.out)
    assert not list(place.glob("store/raw/text-*/attempts/*"))
    assert "boom" in marin("show", "raw/text").out
    assert list(place.glob("store/raw/text-*/.exec/logs/*/stdout.log"))


FAILING = """def work(config: Config) -> None:
    Path(config.output_path, "half").write_text("half")
    raise ValueError("boom")
"""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["gc", "--keep-days", "3"], "give --outputs with it"),
        (["gc", "--keep-refs"], "give --outputs with it"),
        (["gc", "--scratch", "--outputs"], "one after the other"),
        (["gc", "--outputs", "--keep-days", "-1"], "--keep-days must be 0 or more"),
        (["gc", "--json"], "--json cannot ask"),
        (["pin", "trian"], "did you mean train"),
        (["verify", "trian"], "did you mean train"),
        (["adopt", "a", "--from", ".", "--reason", "x"], "give --version V, or --file FILE.py"),
        (["adopt", "a", "--from", "nowhere", "--version", "1", "--reason", "x"], "nothing to adopt at .*/nowhere"),
        (["adopt", "a b", "--from", ".", "--version", "1", "--reason", "x"], "bad step name 'a b'"),
        (["adopt", "a", "--from", ".", "--version", "1", "--reason", "x"], "holds the store"),
        (["adopt", "a", "--from", "links", "--version", "1", "--reason", "x"], "links/link is a symbolic link"),
        (["adopt", "a", "--from", "empty", "--version", "1", "--reason", "x"], "there are no files in"),
        (["adopt", "a", "--from", "data", "--version", "1", "--reason", " "], "reason is empty"),
        (["adopt", "a", "--from", "data", "--version", "1", "--set", "x=1", "--reason", "x"], "give --file"),
        (["adopt", "a", "--from", "data", "--file", "two.py", "--reason", "x"], "no step 'a'"),
    ],
)
def test_a_mistake_is_explained_and_exits_with_2(arguments: list[str], complaint: str, marin, place: Path):
    marin("run", "two.py")
    (place / "data").mkdir()
    (place / "data/file").touch()
    (place / "empty").mkdir()
    (place / "links").mkdir()
    (place / "links/link").symlink_to(place / "data/file")
    done = marin(*arguments, expect=2)
    assert re.search(complaint, done.err)
    assert "Traceback" not in done.err


# -- adopt -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(place: Path) -> Path:
    folder = place / "data"
    (folder / "part").mkdir(parents=True)
    (folder / "one").write_text("1")
    (folder / "part/two").write_text("22")
    return folder


def test_adopted_data_is_a_steps_output_whatever_its_recipe(marin, place: Path, data: Path):
    done = marin("adopt", "data/web", "--from", "data", "--version", "2026.11", "--reason", "downloaded by hand")
    assert done.out == "data/web/2026.11  3 B in 2 files\n"
    record = json.loads(marin("show", "data/web", "--json").out)["step"]["record"]
    assert (record["fn"], record["canonical"], record["inputs"]) == ("adopted", "", [])
    assert record["adopted"]["source"] == str(data)
    assert record["adopted"]["reason"] == "downloaded by hand"
    assert "from " + str(data) in marin("show", "data/web").out
    assert "=  data/web" in marin("plan", "pinned.py", "--check").out
    marin("verify", "--deep")
    committed = only(place, "store/data/web/2026.11/attempts/*/one")
    assert committed.samefile(data / "one"), "linked, not copied"


def test_show_says_nothing_of_a_peak_that_nobody_measured(marin, place: Path, data: Path):
    marin("adopt", "data/web", "--from", "data", "--version", "2026.11", "--reason", "x")
    assert "of memory" not in marin("show", "data/web").out
    marin("run", "two.py")
    assert "of memory" in marin("show", "train").out


def test_show_tells_the_version_and_who_accepted_the_output_for_another_recipe(marin, place: Path):
    marin("run", "pinned.py")
    assert re.search(r"^version +2026\.11$", marin("show", "data/web").out, re.MULTILINE)
    assert "accepted" not in marin("show", "data/web").out
    (place / "pinned.py").write_text((place / "pinned.py").read_text().replace("number=7", "number=8"))
    marin("run", "pinned.py", "--accept-drift")
    shown = marin("show", "data/web").out
    assert re.search(r"^accepted +for another recipe, @\w{10}, \d{4}-\S+ by \w+$", shown, re.MULTILINE)


def test_a_copy_is_apart_from_its_source_and_a_link_is_not(marin, place: Path, data: Path):
    marin("adopt", "copied", "--from", "data", "--version", "1", "--reason", "x", "--copy")
    marin("adopt", "linked", "--from", "data", "--version", "1", "--reason", "x")
    (data / "one").write_text("X")  # in place
    done = marin("verify", "--deep", expect=4)
    assert re.search(r"ok +copied", done.out)
    assert re.search(r"differs  linked", done.out)


@pytest.mark.parametrize("command", [["marin"], [sys.executable, "-m", "marin.cli.main"]], ids=["marin", "python -m"])
def test_the_commit_on_record_is_that_of_the_folder_a_command_was_typed_in(place: Path, data: Path, command: list[str]):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def adopted_from(folder: Path, name: str) -> dict | None:
        words = [
            "adopt",
            name,
            "--from",
            str(data),
            "--version",
            "1",
            "--reason",
            "x",
            "--prefix",
            str(place / "store"),
        ]
        subprocess.run([*command, *words], cwd=folder, env=environment, check=True, capture_output=True)
        return json.loads(only(place, f"store/{name}/1/.exec/state.json").read_text())["record"]["env"]["git"]

    assert adopted_from(data.parent, "outside") is None
    project = place / "project"
    git = ["git", "-C", str(project), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    project.mkdir()
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert adopted_from(project, "inside") == {"commit": commit, "dirty_sha256": None}


def test_a_step_that_has_an_output_adopts_nothing(marin, place: Path, data: Path):
    marin("run", "pinned.py")
    before = only(place, "store/data/web/2026.11/.exec/state.json").read_text()
    done = marin("adopt", "data/web", "--from", "data", "--version", "2026.11", "--reason", "x", expect=3)
    assert "has an output already (attempt 0001-" in done.err
    assert only(place, "store/data/web/2026.11/.exec/state.json").read_text() == before


def test_data_adopted_for_the_recipe_of_a_step_is_what_reads_it_gets(marin, place: Path, data: Path):
    marin("adopt", "raw/text", "--from", "data", "--file", "two.py", "--reason", "made before")
    plan = marin("plan", "two.py").out
    assert re.search(r"=  raw/text +@\w{6}  cached", plan)
    assert "1 ran" in marin("run", "two.py").err
    record = json.loads(marin("show", "train", "--json").out)["step"]["record"]
    assert Path(record["config_resolved"]["input_path"], "part/two").read_text() == "22"
    assert json.loads(marin("show", "raw/text", "--json").out)["step"]["record"]["canonical"]


def test_a_step_that_publishes_in_place_adopts_into_an_empty_folder_only(marin, place: Path, data: Path):
    marin("adopt", "train", "--from", "data", "--file", "two.py", "--reason", "x")
    assert (only(place, "store/train-*") / "part/two").read_text() == "22"
    marin("verify", "--deep")
    other = ["--file", "two.py", "--set", "number=5", "--reason", "x"]
    marin("run", "two.py", "--set", "number=5")
    step = json.loads(marin("ls", "train", "--json").out)["steps"]
    path = next(place / "store" / s["path"] for s in step if not (place / "store" / s["path"] / "part").exists())
    state = json.loads((path / ".exec/state.json").read_text())
    state |= {"status": "CANCELLED", "record": None}
    (path / ".exec/state.json").write_text(json.dumps({k: v for k, v in state.items() if v is not None}))
    done = marin("adopt", "train", "--from", "data", *other, expect=2)
    assert "already, which is not in the source; move it away" in done.err
    assert json.loads((path / ".exec/state.json").read_text())["status"] == "CANCELLED"
    assert (path / "x.txt").exists()


def test_python_adopts_once_and_refers_to_the_data(place: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
    from marin.execution.adoption import OutputExistsError, adopt
    from marin.execution.executor import Executor

    step = adopt("corpus", data, version="1", reason="by hand", prefix="store")
    again = adopt("corpus", data, version="1", reason="by hand", prefix="store")
    assert (step.name, step.version) == (again.name, again.version) == ("corpus", "1")
    result = Executor("store", quiet=True).run([step])
    assert [s.action for s in result.steps] == ["cached"]
    assert Path(result.output_path(step), "one").read_text() == "1"
    with pytest.raises(OutputExistsError):
        adopt("corpus", data / "part", version="1", reason="by hand", prefix="store")
    elsewhere = Executor("elsewhere", quiet=True).run([step])
    assert "adopted data is missing" in elsewhere[step].error.message


def test_a_single_file_can_be_adopted(marin, place: Path, data: Path):
    marin("adopt", "one", "--from", "data/one", "--version", "1", "--reason", "x")
    assert only(place, "store/one/1/attempts/*/one").read_text() == "1"


def test_evicted_data_that_somebody_kept_is_adopted_again(marin, place: Path, data: Path):
    marin("adopt", "data/web", "--from", "data", "--version", "2026.11", "--reason", "x")
    marin("gc", "--outputs", "--keep-refs", "--yes")
    assert not list(place.glob("store/data/web/2026.11/attempts/*"))
    assert (data / "one").read_text() == "1", "the source is not the store's"
    marin("adopt", "data/web", "--from", "data", "--version", "2026.11", "--reason", "again")
    marin("plan", "pinned.py", "--check")
