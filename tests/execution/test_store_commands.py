"""verify, adopt and gc on a store that is not a disk."""

import os
import re
from pathlib import Path

import pytest
from fake_store import FakeStore

from marin.execution.adoption import adopt_for, adopted_step
from marin.execution.catalog import steps_of
from marin.execution.gc import Policy, collect, find_garbage
from marin.execution.graph import build_graph
from marin.execution.invalidation import Taint
from marin.execution.scratch import delete, remains
from marin.execution.status import EVICTED, INVALID, SUCCEEDED, StepPaths
from marin.execution.verify import last_verification, verify


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    """Holds one adopted output of three files."""
    monkeypatch.setenv("MARIN_SCRATCH", str(tmp_path / "scratch"))
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    for name in ("a", "b", "sub/c"):
        (source / name).write_text(name * 1000)
    store = FakeStore()
    store.put(f"{store.prefix}/.exec/runs/none", b"")
    (node,) = build_graph([adopted_step("data", "1")]).nodes
    adopt_for(store, node, source, reason="a test", any_recipe=True)
    return store


def path_of(store: FakeStore, name: str) -> str:
    (path,) = (p for p in store.files if p.endswith(f"/{name}") and "/attempts/" in p)
    return path


def test_adopted_data_is_copied_into_the_store_with_its_record(store):
    (entry,) = steps_of(store)
    assert (entry.status, entry.record["files"], entry.state.accepted[0]["recipe"]) == (SUCCEEDED, 3, "any")
    assert store.files[path_of(store, "sub/c")][0] == b"sub/c" * 1000


def test_every_byte_is_read_from_the_store_and_one_that_differs_is_found(store):
    (found,) = verify(store, steps_of(store), deep=True, user="u")
    assert found.is_ok and found.num_bytes == 7000
    path = path_of(store, "b")
    store.files[path] = (b"b" * 999 + b"c", 0.0)
    (shallow,) = verify(store, steps_of(store), user="u")
    assert shallow.is_ok
    read = []
    (found,) = verify(store, steps_of(store), deep=True, user="u", on_progress=lambda name, number: read.append(number))
    assert [(d.kind, d.path) for d in found.differences] == [("content", "b")]
    assert sum(read) == 7000
    (entry,) = steps_of(store)
    assert entry.status == INVALID
    assert Taint(store).struck_out(entry.state).reason.startswith("corrupt: file b has sha256")
    assert last_verification(store, entry.paths, entry.state)["ok"] is False


def test_damage_that_was_struck_out_is_not_struck_out_again(store):
    store.delete(path_of(store, "a"))
    for _ in range(2):
        (found,) = verify(store, steps_of(store), user="u")
        assert [d.kind for d in found.differences] == ["missing"]
    assert len(store.items(f"{store.prefix}/.exec/invalid")) == 1


def test_what_was_evicted_while_it_was_verified_is_not_called_corrupt(store):
    class Evicted(FakeStore):
        """Another process deletes the output while its files are listed."""

        def tree(self, folder):
            if folder.endswith(StepPaths(steps_of(self)[0].paths.root).data_root(steps_of(self)[0].state)):
                policy = Policy(outputs=True, only_refs=True)
                collect(store, find_garbage(store, policy), policy)
            return super().tree(folder)

    racing = Evicted()
    racing.files = store.files
    assert list(verify(racing, steps_of(store), user="u")) == []
    (entry,) = steps_of(store)
    assert entry.status == EVICTED
    assert not store.items(f"{store.prefix}/.exec/invalid")


def test_unfinished_work_that_was_gone_on_with_while_somebody_was_asked_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("MARIN_SCRATCH", str(tmp_path))
    resumed, forgotten = (tmp_path / "steps" / "key" / "train-0" / f"inplace-{began}" / "out" for began in (1, 2))
    for file in (resumed, forgotten):
        file.parent.mkdir(parents=True)
        file.write_text("half of it")
        os.utime(file, (0, 0))
    found = remains(keep_days=30)
    assert [item.kind for item in found] == ["unfinished", "unfinished"]
    os.utime(resumed)
    assert [item.path for item in delete(found, keep_days=30)] == [str(forgotten.parent)]
    assert resumed.exists() and not forgotten.parent.exists()


def test_a_scratch_folder_that_somebody_else_made_is_not_used(tmp_path, monkeypatch, capfd):
    pytest.importorskip("obstore")
    from marin.cli.main import main

    monkeypatch.delenv("MARIN_SCRATCH", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = os.getuid()
    monkeypatch.setattr("os.getuid", lambda: mine + 1)
    (tmp_path / f"marin-{mine + 1}").mkdir()
    (tmp_path / "script.py").write_text(
        "from marin.execution.executor import *\nexecutor_main([ExecutorStep(name='a', fn=str, config='x')])\n"
    )
    assert main(["run", str(tmp_path / "script.py"), "--prefix", "memory://scratch-of-another"]) == 1
    assert re.search(r"marin-\d+ belongs to somebody else, .* set MARIN_SCRATCH", capfd.readouterr().err)


def test_the_commands_find_data_that_was_adopted_into_an_empty_object_store(tmp_path, monkeypatch, capfd):
    pytest.importorskip("obstore")
    from marin.cli.main import main

    monkeypatch.setenv("MARIN_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("MARIN_PREFIX", "memory://adopted-into")
    (tmp_path / "data").write_text("data")
    words = ["adopt", "corpus", "--from", str(tmp_path / "data"), "--version", "1", "--reason", "a test"]
    assert main(words) == 0
    assert main(["verify", "--deep"]) == 0
    assert main(["gc", "--outputs", "--keep-refs", "--yes"]) == 0
    assert main(["adopt", *words[1:-1], "again"]) == 0
    assert main(["verify", "--deep"]) == 0
    assert "corpus/1/attempts/0001-" in capfd.readouterr().out
