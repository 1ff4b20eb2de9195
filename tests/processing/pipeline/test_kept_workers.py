"""Worker processes that serve several runs: the same ones, and no trace of an earlier run in a later one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from marin.processing.pipeline import Dataset
from marin.processing.pipeline.pool import kept_workers


def tell_process(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "pid": os.getpid(), "folder": os.getcwd(), "set": os.environ.get("MARIN_TEST_SETTING", "")}


def run(out: Path, *, num_shards: int = 1, workers: int | None = 1, **options: Any) -> list[dict[str, Any]]:
    rows = [{"id": str(i)} for i in range(num_shards)]
    plan = Dataset.from_items(rows, num_shards=num_shards).map(tell_process).write_jsonl(str(out), compression=None)
    plan.run(workers=workers, progress=False, **options)
    return list(Dataset.from_files(str(out)).take(num_shards))


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_runs_inside_share_their_processes_which_end_with_it(tmp_path: Path):
    with kept_workers():
        (first,) = run(tmp_path / "first")
        (second,) = run(tmp_path / "second")
        assert first["pid"] == second["pid"] and not is_gone(first["pid"])
    assert is_gone(first["pid"])


def test_a_kept_process_that_was_killed_costs_no_retry(tmp_path: Path):
    with kept_workers():
        (first,) = run(tmp_path / "first")
        os.kill(first["pid"], signal.SIGKILL)
        while Path(f"/proc/{first['pid']}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        (second,) = run(tmp_path / "second", retries=0)
        assert second["pid"] != first["pid"]


def test_a_process_serves_no_run_with_another_folder_or_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with kept_workers():
        (first,) = run(tmp_path / "first")
        monkeypatch.setenv("MARIN_TEST_SETTING", "a")
        monkeypatch.chdir(tmp_path)
        (second,) = run(tmp_path / "second")
    assert (second["folder"], second["set"]) == (str(tmp_path), "a") != (first["folder"], first["set"])


def test_a_failed_run_ends_its_processes_all_the_same(tmp_path: Path):
    def fail(row: dict[str, Any]) -> dict[str, Any]:
        (tmp_path / "pid").write_text(str(os.getpid()))
        raise RuntimeError("no")

    plan = Dataset.from_items([{"id": "a"}]).map(fail).write_jsonl(str(tmp_path / "out"))
    with pytest.raises(RuntimeError, match="no"), kept_workers():
        plan.run(workers=1, progress=False)
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_little_work_is_done_by_one_process_where_nobody_says_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("marin.processing.pipeline.pool._NEXT_S", 60.0)
    monkeypatch.setattr("marin.processing.pipeline.backend.num_cpus", lambda: 2)
    assert len({row["pid"] for row in run(tmp_path / "few", num_shards=6, workers=None)}) == 1


def test_work_that_lasts_gets_more_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("marin.processing.pipeline.pool._NEXT_S", 0.01)
    monkeypatch.setattr("marin.processing.pipeline.backend.num_cpus", lambda: 2)

    def wait_for_another(row: dict[str, Any]) -> dict[str, Any]:
        (tmp_path / row["id"]).touch()
        deadline = time.monotonic() + 60
        while not all((tmp_path / name).exists() for name in "ab"):
            assert time.monotonic() < deadline, "no other process came"
            time.sleep(0.01)
        return row

    plan = Dataset.from_items([{"id": "a"}, {"id": "b"}], num_shards=2).map(wait_for_another)
    assert plan.write_jsonl(str(tmp_path / "out")).run(progress=False).counters["rows_out"] == 2


def test_rows_at_the_same_place_of_several_shards_are_not_one_slow_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("marin.processing.pipeline.pool._LOOK_S", 0.5)  # seldom, so that no look meets a shard's end

    def work(row: dict[str, Any]) -> dict[str, Any]:
        began = time.process_time()
        while time.process_time() - began < 0.4:
            pass
        return row

    rows = [{"id": str(i)} for i in range(4)]
    plan = Dataset.from_items(rows, num_shards=4).map(work, timeout_s=0.6).write_jsonl(str(tmp_path / "out"))
    result = plan.run(workers=1, max_bad=1.0, progress=False)
    assert (result.counters["rows_out"], result.funnel[1].bad) == (4, {})


def test_hashes_of_strings_are_those_of_every_worker(tmp_path: Path):
    def hashed(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "hash": str(hash("a string"))}

    plan = Dataset.from_items([{"id": "a"}]).map(hashed)
    plan.write_jsonl(str(tmp_path / "out"), compression=None).run(workers=1, progress=False)
    expected = subprocess.run(
        [sys.executable, "-c", "print(hash('a string'))"],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [row["hash"] for row in Dataset.from_files(str(tmp_path / "out")).take(1)] == [expected.stdout.strip()]
