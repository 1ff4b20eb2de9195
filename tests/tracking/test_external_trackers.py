"""Files of other trackers, read back by their own readers or by their format; and trackers that fail."""

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from marin.config import ConfigError, decode
from marin.tracking.config import TensorboardConfig, TrackedRun, TrackerConfig, WandbConfig
from marin.tracking.expendable import ExpendableTracker, TrackerWarning, check_installed, open_trackers


def tracked(output: Path, resume_step: int = 0) -> TrackedRun:
    return TrackedRun(
        output=output, name="a run", run_id="a-run-0123abcd", resume_step=resume_step, config={"trainer": {"seed": 7}}
    )


def log_steps(config: TrackerConfig, run: TrackedRun, steps: range) -> None:
    (tracker,) = open_trackers([config], run)
    for step in steps:
        tracker.log(step, {"train/loss": 1 / step, "train/tokens": 64 * step})
    tracker.log(steps[-1], {"validation/all/loss": 0.5})
    tracker.log(steps[-1], {"samples/0": "once upon"})
    tracker.flush()
    tracker.close()


def test_tensorboard_reads_what_was_logged_and_drops_what_was_repeated(tmp_path):
    pytest.importorskip("tensorboardX", reason="needs the extra 'tensorboard'")
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs TensorBoard to read back"
    )
    log_steps(TensorboardConfig(), tracked(tmp_path), range(1, 6))
    log_steps(TensorboardConfig(), tracked(tmp_path, resume_step=3), range(4, 8))
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(step, pytest.approx(1 / step)) for step in range(1, 8)]
    assert [event.step for event in events.Scalars("validation/all/loss")] == [7]
    text = events.Tensors("samples/0/text_summary")[-1]  # readers drop only repeated numbers
    assert text.step == 7 and text.tensor_proto.string_val == [b"once upon"]


def wandb_records(path: Path) -> list:
    """The records of a .wandb file: LevelDB's log format (blocks of 32 KB, each piece with checksum, length, kind)."""
    from wandb.proto import wandb_internal_pb2

    file = io.BytesIO(path.read_bytes())
    assert file.read(7)[:4] == b":W&B"
    records, parts = [], b""
    while True:
        left = 32768 - file.tell() % 32768
        if left < 7:
            file.read(left)
        header = file.read(7)
        if len(header) < 7:
            return records
        length, kind = int.from_bytes(header[4:6], "little"), header[6]
        parts += file.read(length)
        if kind in (1, 4):  # whole, or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""


def test_wandb_offline_holds_rows_config_and_one_id_also_when_resumed(tmp_path):
    wandb = pytest.importorskip("wandb", reason="needs the extra 'wandb'")
    for resume_step, steps in ((0, range(1, 4)), (2, range(3, 5))):
        log_steps(WandbConfig(project="tests"), tracked(tmp_path, resume_step), steps)
        wandb.teardown()  # as when the process ends: W&B's own process has written all
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    assert [path.name for path in files] == ["run-a-run-0123abcd.wandb"] * 2
    history, runs = [], []
    for path in files:
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "run":
                runs.append(record.run)
            if record.WhichOneof("record_type") == "history":
                items = ((item.key or ".".join(item.nested_key), item.value_json) for item in record.history.item)
                history.append({key: json.loads(value) for key, value in items})
    assert {(run.run_id, run.project, run.display_name) for run in runs} == {("a-run-0123abcd", "tests", "a run")}
    config = {update.key: json.loads(update.value_json) for update in runs[0].config.update}
    assert config["trainer"] == {"seed": 7}
    assert [(row["_step"], row["train/loss"]) for row in history] == [
        (1, 1.0),
        (2, 0.5),
        (3, 1 / 3),
        (3, 1 / 3),
        (4, 0.25),
    ]
    assert history[-1]["validation/all/loss"] == 0.5 and history[-1]["samples/0"] == "once upon"


TRACKIO = """
import sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from test_external_trackers import log_steps, tracked
from marin.tracking.config import TrackioConfig
log_steps(TrackioConfig(project="tests"), tracked(Path({output!r})), range(1, 4))
log_steps(TrackioConfig(project="tests"), tracked(Path({output!r}), resume_step=2), range(3, 6))
import trackio
from trackio.sqlite_storage import SQLiteStorage
import json
(run,) = trackio.Api().runs("tests")
print(json.dumps({{"name": run.name, "config": run.config, "rows": SQLiteStorage.get_logs("tests", run.name)}}))
"""


def test_trackio_holds_each_step_once_also_when_resumed(tmp_path):
    pytest.importorskip("trackio", reason="needs the extra 'trackio'")
    script = TRACKIO.format(tests=str(Path(__file__).parent), output=str(tmp_path))
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")},  # it is read when trackio is imported
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(run.stdout)  # and nothing else is printed there
    assert found["name"] == "a-run-0123abcd" and found["config"]["trainer"] == {"seed": 7}
    losses = [(row["step"], row["train/loss"]) for row in found["rows"] if "train/loss" in row]
    assert losses == [(step, 1 / step) for step in range(1, 6)]


def test_a_name_that_wandb_would_not_take_is_refused():
    with pytest.raises(ValueError, match="name has 65 characters, W&B takes 1 to 64"):
        WandbConfig(name="x" * 65)
    assert WandbConfig(name="x" * 64).name == "x" * 64


class Broken:
    """A tracker whose disk is full from the second row on."""

    def __init__(self):
        self.rows = 0

    def log(self, step, values):
        self.rows += 1
        if self.rows > 1:
            raise OSError("no space left")

    def flush(self):
        raise AssertionError("not asked again")

    close = flush


def test_a_tracker_that_fails_is_given_up_with_one_warning():
    broken = Broken()
    tracker = ExpendableTracker(broken, "broken")
    tracker.log(1, {"a": 1})
    with pytest.warns(TrackerWarning, match=r"'broken' failed and is given up \(OSError: no space left\)") as caught:
        for step in (2, 3, 4):
            tracker.log(step, {"a": 1})
        tracker.flush()
        tracker.close()
    assert len(caught) == 1 and broken.rows == 2


@dataclass(frozen=True, kw_only=True)
class UnreachableConfig:
    library: ClassVar[str | None] = None

    def open(self, run):
        raise ConnectionError("nobody there")


@dataclass(frozen=True, kw_only=True)
class AbsentConfig:
    library: ClassVar[str | None] = "a_library_that_is_nowhere"

    def open(self, run):
        raise AssertionError("checked before")


def test_a_tracker_that_cannot_be_opened_is_left_out_with_a_warning(tmp_path):
    with pytest.warns(TrackerWarning, match="'unreachable' failed and is given up"):
        assert open_trackers([UnreachableConfig()], tracked(tmp_path)) == []


def test_a_missing_library_is_named_with_what_to_install():
    with pytest.raises(ImportError, match=r"'absent' needs the package a_library.*pip install 'marin\[absent\]'"):
        check_installed([AbsentConfig()])


def test_trackers_are_named_alone_or_with_settings():
    given = ["jsonl", "tensorboard", {"type": "wandb", "project": "p"}]
    trackers = decode(tuple[TrackerConfig, ...], given)  # type: ignore[arg-type]
    assert trackers[1:] == (TensorboardConfig(), WandbConfig(project="p"))
    with pytest.raises(ConfigError, match="0.type: expected one of jsonl.*did you mean 'wandb'"):
        decode(tuple[TrackerConfig, ...], ["wandbb"])  # type: ignore[arg-type]
