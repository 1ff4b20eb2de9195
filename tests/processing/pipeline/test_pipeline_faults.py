"""What dies is replaced, what is stuck is stopped, and a run that was killed goes on to the same bytes."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from marin.io.files import is_folder, read_bytes, tree
from marin.processing.pipeline import Dataset

NUM_FILES = 8
ROWS = 60

# A script without a guard, whose functions are its own: what people write.
SCRIPT = """
import sys, time
from marin.processing.pipeline import Dataset, Dropped
from marin.processing.pipeline.reducers import KeepFirst

pause_s = float(sys.argv[3])

def slowly(row):
    time.sleep(pause_s)
    if row["n"] % 10 == 3:
        return Dropped("three")
    if row["n"] % 10 == 4:
        raise ValueError("four: bad")
    return {**row, "n": row["n"] * 2}

slowly.version = 1  # the pause makes it no other function

plan = Dataset.from_files(sys.argv[1], split_bytes=1000).map(slowly).group_by("key", KeepFirst(), num_shards=3)
plan.map(slowly, name="again").write_parquet(sys.argv[2]).run(workers=2, max_bad=1, retries=50)
"""


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(NUM_FILES):
        rows = [{"id": f"{number}-{i}", "key": f"k{(number * ROWS + i) % 100}", "n": i} for i in range(ROWS)]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def start(corpus: str, out: Path, pause_s: float) -> "subprocess.Popen[bytes]":
    script = out.parent / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), corpus, str(out), str(pause_s)]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def finish(process: "subprocess.Popen[bytes]") -> None:
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr.decode()


def outputs(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(out.iterdir()) if file.suffix in (".parquet", ".json")}


def without_timing(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name != "_timing.json"}


def children(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry))
    return found


def attempts(out: Path) -> Counter[tuple[str, str]]:
    file = out / "_done" / "attempts.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return Counter((one["stage"], one["shard"]) for one in map(json.loads, lines))


def kill_at_random(corpus: str, out: Path, chooser: random.Random, kills: int, pause_s: float) -> int:
    """Run to the end while workers and drivers are killed; how many shards were in flight at most when it happened."""
    lost = 0
    process = start(corpus, out, pause_s)
    for _ in range(kills):
        time.sleep(chooser.uniform(0.5, 1.6))
        if process.poll() is not None:
            break
        workers = children(process.pid)
        if workers and chooser.random() < 0.5:
            os.kill(chooser.choice(workers), signal.SIGKILL)
            lost += 1
            continue
        process.kill()
        process.communicate()
        lost += 2
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < deadline, "workers outlive their parent"
            time.sleep(0.02)
        process = start(corpus, out, pause_s)
    finish(process)
    return lost


def check_killed_run(corpus: str, tmp_path: Path, seed: int, kills: int, pause_s: float) -> None:
    finish(start(corpus, tmp_path / "undisturbed", 0.0))
    lost = kill_at_random(corpus, tmp_path / "killed", random.Random(seed), kills, pause_s)
    assert without_timing(outputs(tmp_path / "killed")) == without_timing(outputs(tmp_path / "undisturbed"))
    extra = attempts(tmp_path / "killed") - attempts(tmp_path / "undisturbed")
    assert lost > 0 and extra.total() <= lost, (lost, extra)
    leftovers = [file.name for file in (tmp_path / "killed").rglob("*") if file.name.endswith(".tmp")]
    assert leftovers == []


def test_a_run_that_is_killed_goes_on_to_the_same_bytes(corpus: str, tmp_path: Path):
    check_killed_run(corpus, tmp_path, seed=1, kills=4, pause_s=0.004)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_a_run_that_is_killed_often_goes_on_to_the_same_bytes(corpus: str, tmp_path: Path, seed: int):
    check_killed_run(corpus, tmp_path, seed=seed + 10, kills=20, pause_s=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_is_killed_while_it_writes_objects_goes_on_to_the_same_bytes(
    corpus: str, tmp_path: Path, s3_prefix: str, seed: int
):
    finish(start(corpus, tmp_path / "undisturbed", 0.0))
    script, out, chooser = tmp_path / "script.py", f"{s3_prefix}/killed-{seed}", random.Random(seed)
    command = [sys.executable, str(script), corpus, out, "0.004"]
    done: dict[str, Any] = {}  # manifests of shards that were there when a driver was killed
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    for _ in range(12):
        time.sleep(chooser.uniform(0.5, 2.5))
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        found = dict(tree(out)) if is_folder(out) else {}
        done |= {name: info.version for name, info in found.items() if name.startswith("_done/")}
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
    finish(process)
    files = dict(tree(out))
    assert done and {name: files[name].version for name in done if name in files} == done
    expected = without_timing(outputs(tmp_path / "undisturbed"))
    written = {name: read_bytes(f"{out}/{name}") for name in files if name in expected}
    assert written == expected
    assert not [name for name in files if name.startswith("_work/") or name.endswith(".tmp")]


# -- workers ----------------------------------------------------------------------------------------------------------


def die_once(row: dict[str, Any]) -> dict[str, Any]:
    """Kills its process at one row, the first time that it comes there."""
    marker = Path(row["marker"])
    if row["n"] == 13 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"id": row["id"], "n": row["n"]}


def die_always(row: dict[str, Any]) -> dict[str, Any]:
    if row["n"] == 13:
        os._exit(9)
    return row


def test_a_worker_that_dies_is_replaced_and_its_shard_made_again(tmp_path: Path):
    rows = [{"id": str(i), "n": i, "marker": str(tmp_path / "marker")} for i in range(40)]
    plan = Dataset.from_items(rows, num_shards=4).map(die_once).write_parquet(str(tmp_path / "out"))
    result = plan.run(workers=2)
    assert result.counters["rows_out"] == 40
    assert dict(attempts(tmp_path / "out")) == {
        ("write", f"part-0000{i}-of-00004"): 2 if i == 1 else 1 for i in range(4)
    }


def test_a_shard_whose_workers_always_die_is_given_up_and_named(tmp_path: Path):
    rows = [{"id": str(i), "n": i} for i in range(40)]
    plan = Dataset.from_items(rows, num_shards=4).map(die_always).write_parquet(str(tmp_path / "out"))
    with pytest.raises(RuntimeError) as caught:
        plan.run(workers=2, retries=1)
    assert "1 of 4 shards" in str(caught.value) and "part-00001-of-00004" in str(caught.value)
    assert "ended with exit code 9 2 times" in str(caught.value)
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 3


def stuck(row: dict[str, Any]) -> dict[str, Any]:
    """At two rows, in C code that never comes back to Python."""
    if row["n"] in (3, 17):
        sum(range(10**13))
    return row


def test_rows_that_take_too_long_are_quarantined(tmp_path: Path):
    rows = [{"id": str(i), "n": i} for i in range(20)]
    plan = Dataset.from_items(rows, num_shards=2).map(stuck, timeout_s=0.5).write_parquet(str(tmp_path / "out"))
    result = plan.run(workers=1, max_bad=0.5, retries=0)
    assert result.funnel[1].bad == {"timeout": 2}
    bad = [json.loads(line) for file in sorted((tmp_path / "out/_bad").rglob("*.jsonl")) for line in file.open()]
    assert [(row["id"], row["reason"]) for row in bad] == [
        ("3", "timeout: more than 0.5 s of processor time"),
        ("17", "timeout: more than 0.5 s of processor time"),
    ]
    ids = [row for name in result.files for row in pq.read_table(tmp_path / "out" / name).column("id").to_pylist()]
    assert ids == [str(i) for i in range(20) if i not in (3, 17)]


def test_waiting_is_not_taken_for_work(tmp_path: Path):
    def wait(row: dict[str, Any]) -> dict[str, Any]:
        time.sleep(1.0)
        return row

    plan = Dataset.from_items([{"id": "a"}]).map(wait, timeout_s=0.5).write_parquet(str(tmp_path / "out"))
    assert plan.run(workers=1).counters["rows_out"] == 1


def test_ctrl_c_stops_at_once_and_the_next_run_goes_on(corpus: str, tmp_path: Path):
    process = start(corpus, tmp_path / "out", 0.05)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out/_done").rglob("*.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=10)
    assert time.monotonic() - began < 5 and process.returncode != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    before = attempts(tmp_path / "out")
    finish(start(corpus, tmp_path / "out", 0.0))
    finish(start(corpus, tmp_path / "undisturbed", 0.0))
    assert without_timing(outputs(tmp_path / "out")) == without_timing(outputs(tmp_path / "undisturbed"))
    assert (attempts(tmp_path / "out") - before).total() <= attempts(
        tmp_path / "undisturbed"
    ).total() - before.total() + 2


def test_a_second_run_on_the_same_folder_is_refused(corpus: str, tmp_path: Path):
    process = start(corpus, tmp_path / "out", 0.01)
    try:
        while not (tmp_path / "out/_done/attempts.jsonl").exists():
            time.sleep(0.05)
        with pytest.raises(ValueError, match="another run is writing there"):
            Dataset.from_files(corpus).write_parquet(str(tmp_path / "out")).run(workers=0)
    finally:
        process.kill()
        process.communicate()


# -- the disk ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_nothing_that_looks_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = Dataset.from_items([{"id": "a"}]).write_parquet(str(tmp_path / "out"))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RuntimeError, match=r"No space left on device: '.*part-00000-of-00001.parquet'"):
            plan.run(workers=0)
    assert {file.name for file in (tmp_path / "out").rglob("*") if file.is_file()} == {"lock", "attempts.jsonl"}
    assert plan.run(workers=0).counters["rows_out"] == 1


def test_a_worker_stuck_in_a_library_ends_with_a_killed_parent(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, re, sys\n"
        "from pathlib import Path\n"
        "from marin.processing.pipeline import Dataset\n"
        "folder = Path(sys.argv[1])\n"
        "def stuck(row):\n"
        "    (folder / 'part').write_text(str(os.getpid()))\n"
        "    (folder / 'part').rename(folder / 'pid')\n"
        "    re.match('(a+)+$', 'a' * 64 + 'b')\n"  # for ages, in C, with the interpreter's lock
        "rows = Dataset.from_items([{'id': '0'}], num_shards=1)\n"
        "rows.map(stuck).write_jsonl(str(folder / 'out')).run(workers=1, progress=False)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    try:
        wait_for(lambda: (tmp_path / "pid").exists(), parent)
        pid = int((tmp_path / "pid").read_text())
        time.sleep(0.3)  # into the match
    finally:
        parent.kill()
        parent.wait()
    try:
        deadline = time.monotonic() + 10
        while is_running(pid):
            assert time.monotonic() < deadline, f"worker {pid} outlives its parent"
            time.sleep(0.02)
    finally:
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
