"""`marin doctor`: it finds what would stop a run, says what to do, and calls nothing else bad."""

import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from marin.cli import main as cli
from marin.execution.executor import Executor, ExecutorStep
from marin.execution.plan import Choices
from marin.execution.status import StepPaths
from marin.execution.store import open_store
from s3_server import Doorkeeper


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    for name in ("MARIN_PREFIX", "MARIN_CLUSTER", "MARIN_CAPACITY"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, expect: int = 0) -> SimpleNamespace:
        capsys.readouterr()
        code = cli.main(["doctor", *arguments])
        done = SimpleNamespace(**capsys.readouterr()._asdict())
        assert code == expect, done.out
        return done

    return run


Doctor = Callable[..., SimpleNamespace]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one committed step."""
    step = ExecutorStep(name="a", fn=str, config="x")
    assert Executor(tmp_path / "store", fsync=False, quiet=True).run([step]).is_ok
    return tmp_path / "store"


def change_register(store: Path, **changes) -> Path:
    (register,) = store.glob("a-*/.exec/state.json")
    register.write_text(json.dumps(json.loads(register.read_text()) | changes))
    return register


def test_a_sound_store_and_machine_need_nothing(doctor: Doctor, store: Path):
    done = doctor("--prefix", str(store))
    assert "nothing to mend" in done.err
    for line in (
        r"\+ python: 3\.",
        r"\+ required packages: numpy [\d.]+",
        r"\+ cores: \d+",
        r"\+ memory: [\d.]+ GB",
        r"\+ a lock keeps others out: ok",
        r"\+ lease: renewed every 15 s",
        r"\+ registers: 1 steps, 0 running",
        r"\+ attempts without output: none",
        r"\+ edges and temporary files of killed runs: none",
    ):
        assert re.search(line, done.out), line


def test_json_holds_every_finding(doctor: Doctor, store: Path):
    told = json.loads(doctor("--prefix", str(store), "--json").out)
    assert told["is_ok"] and {"installation", "machine", "store", "leases", "records", "leftovers"} == {
        finding["section"] for finding in told["findings"]
    }


def test_a_store_that_does_not_exist_yet_is_no_trouble_and_is_not_made(doctor: Doctor, tmp_path: Path):
    assert "does not exist yet" in doctor().out
    assert not (tmp_path / "local_store").exists()


def test_a_runner_that_is_gone_is_named_and_not_bad(doctor: Doctor, store: Path):
    (register,) = store.glob("a-*/.exec/state.json")
    owner = json.loads(register.read_text())["owner"] | {"pid_start": 1, "run_id": "run-x"}
    change_register(store, status="RUNNING", record=None, owner=owner)
    assert re.search(
        r"~ a@\w{6}: abandoned by run run-x on .*\n +nothing: the next run", doctor("--prefix", str(store)).out
    )


def test_a_register_that_cannot_be_read_is_bad(doctor: Doctor, store: Path):
    (register,) = store.glob("a-*/.exec/state.json")
    register.write_text("{ half")
    assert re.search(r"! a-\w{10}: corrupt\n .*move the folder", doctor("--prefix", str(store), expect=3).out)


def make_old(*paths: Path) -> None:
    for path in paths:
        for old in (path, *path.rglob("*")):
            os.utime(old, (0, 0))


def gc_finds(store: Path, capsys: pytest.CaptureFixture, *arguments: str) -> list[dict]:
    capsys.readouterr()
    assert cli.main(["gc", "--dry-run", "--json", "--prefix", str(store), *arguments]) == 0
    return json.loads(capsys.readouterr().out)["found"]


def test_a_striking_out_that_was_killed_half_way_is_finished(doctor: Doctor, store: Path):
    assert cli.main(["invalidate", "a", "--reason", "wrong", "--yes", "--prefix", str(store)]) == 0
    change_register(store, status="SUCCEEDED", error=None)  # as it is between the tombstone and the register
    assert (
        "~ struck out: a striking out had not been finished; 1 register brought into line"
        in doctor("--prefix", str(store)).out
    )
    (folder,) = store.glob("a-*")
    assert open_store(store).read(str(folder)).status == "INVALID"
    assert "+ struck out: registers and tombstones agree" in doctor("--prefix", str(store)).out


def test_a_tombstone_or_a_run_that_cannot_be_read_is_bad(doctor: Doctor, store: Path):
    (store / ".exec/invalid").mkdir()
    (store / ".exec/invalid/20260101-000000-abcdef.json").write_text("{")
    (run,) = store.glob(".exec/runs/*/run.json")
    run.write_text(run.read_text()[:100])
    done = doctor("--prefix", str(store), expect=3)
    assert re.search(rf"! \.exec/runs/{run.parent.name}/run\.json: not the record of a run", done.out)
    assert re.search(r"! struck out: cannot be told\n .*abcdef\.json: not a tombstone", done.out)
    assert "2 things to mend" in done.err


def test_what_gc_would_delete_is_counted_and_nothing_else(
    doctor: Doctor, store: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    (folder,) = store.glob("a-*/")
    for name, num_bytes in (("0008-dead", 2_000_000), ("0009-young", 3_000_000)):
        (folder / "attempts" / name).mkdir(parents=True)
        (folder / "attempts" / name / "half").write_bytes(b"x" * num_bytes)
    old, young = folder / ".exec/state.json.0123456789ab.tmp", folder / ".exec/state.json.0123456789cd.tmp"
    for file in (old, young):
        file.touch()
    make_old(folder / "attempts/0008-dead", old)
    out = doctor("--prefix", str(store)).out
    assert re.search(r"~ attempts without output: 1, 2.0 MB: a-\w+/attempts/0008-dead\n +`marin gc` deletes them", out)
    assert re.search(
        r"~ attempts without output, too young for gc: 1, 3.0 MB: a-\w+/attempts/0009-young\n.* for an hour", out
    )
    assert re.search(r"~ edges and temporary files of killed runs: 1, 0.0 MB: a-\S+ab\.tmp\n", out)
    found = {Path(item["path"]).name for item in gc_finds(store, capsys)}
    assert found == {"0008-dead", "state.json.0123456789ab.tmp"}
    assert cli.main(["gc", "--yes", "--prefix", str(store)]) == 0
    out = doctor("--prefix", str(store)).out
    assert "+ attempts without output: none" in out and "0009-young" in out


def test_an_output_that_a_later_one_replaced_is_no_leftover_of_a_failure(
    doctor: Doctor, tmp_path: Path, capsys: pytest.CaptureFixture
):
    store = tmp_path / "store"
    step = ExecutorStep(name="a", fn=str, config="x")
    for choices in (Choices(), Choices(force=("a",))):
        assert Executor(store, fsync=False, quiet=True).run([step], choices=choices).is_ok
    make_old(store)
    assert gc_finds(store, capsys) == []
    out = doctor("--prefix", str(store)).out
    assert "+ attempts without output: none" in out and "too young" not in out
    assert re.search(
        r"~ outputs that later ones replaced: 1, .*/attempts/0001-\w+\n +`marin gc --outputs` deletes", out
    )


def test_a_cluster_that_does_not_answer_is_bad_and_one_that_answers_is_not(
    doctor: Doctor, store: Path, monkeypatch: pytest.MonkeyPatch
):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("MARIN_CLUSTER", f"ray:{address}")
        assert f"+ ray at {address}: answers" in doctor("--prefix", str(store)).out
    assert f"! ray at {address}: " in doctor("--prefix", str(store), expect=3).out


def test_capacity_that_makes_no_sense_is_bad(doctor: Doctor, store: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MARIN_CAPACITY", "cpu=many")
    assert "! capacity: " in doctor("--prefix", str(store), expect=3).out


def test_an_object_store_is_tried_line_by_line(doctor: Doctor, s3_prefix: str, s3_door: Doorkeeper):
    out = doctor("--prefix", s3_prefix).out
    assert "+ a second creation is refused: ok" in out and "+ a new object is listed: ok" in out
    s3_door.ignores_conditions = True
    out = doctor("--prefix", s3_prefix, expect=3).out
    assert "! a second creation is refused: it was accepted: the store ignores If-None-Match" in out
    assert "--single-runner" in out
    s3_door.ignores_conditions = False
    s3_door.rule = lambda method, path: (403, "AccessDenied")
    out = doctor("--prefix", s3_prefix, expect=3).out
    assert "AccessDenied" in out and "leases" not in out


def test_what_another_machine_left_in_an_object_store_is_seen_by_the_stores_clock(doctor: Doctor, s3_prefix: str):
    step = ExecutorStep(name="a", fn=str, config="x")
    Executor(s3_prefix, quiet=True).run([step])
    store = open_store(s3_prefix)
    (root,) = [f"{s3_prefix}/{item.name}" for item in store.items(s3_prefix) if item.name.startswith("a-")]
    state = json.loads(store.get(StepPaths(root).state) or b"")
    owner = state["owner"] | {"boot_id": "another machine", "host": "far"}
    store.put(StepPaths(root).state, json.dumps(state | {"status": "RUNNING", "owner": owner}).encode())
    assert "1 steps, 1 running" in doctor("--prefix", s3_prefix).out
    store.put(StepPaths(root).state, json.dumps(state | {"status": "RUNNING", "owner": owner, "ttl": -3}).encode())
    assert re.search(r"~ a@\w{6}: abandoned by run \S+ on far", doctor("--prefix", s3_prefix).out)
