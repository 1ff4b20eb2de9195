"""How far work is, and how long it will take."""

import json
from pathlib import Path

import pytest

from marin.tracking import progress
from marin.tracking.progress import read_progress, report_progress, seconds_left


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """The time; reports go to progress.json in the test's folder."""
    monkeypatch.setenv("MARIN_PROGRESS_FILE", str(tmp_path / "progress.json"))
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_is_told_by_the_pace_since_the_first_report(clock, tmp_path):
    report_progress(500, 1000, "steps")  # of which an earlier attempt did all
    told = read_progress(str(tmp_path / "progress.json"))
    assert told == {"done": 500, "total": 1000, "unit": "steps"} and seconds_left(60.0, told) is None
    clock[0] += 10
    report_progress(520, 1000, "steps")
    told = read_progress(str(tmp_path / "progress.json"))
    assert told is not None and told["pace"] == 2.0
    assert seconds_left(70.0, told) == 240.0


def test_of_many_reports_one_a_second_is_kept_and_the_last(clock, tmp_path):
    for done in range(100):
        report_progress(done, 100)
    assert json.loads((tmp_path / "progress.json").read_text())["done"] == 0
    report_progress(100, 100)
    assert json.loads((tmp_path / "progress.json").read_text())["done"] == 100


def test_without_a_pace_what_such_work_took_before_tells():
    assert seconds_left(30.0, {"done": 5, "total": None}, usual_s=40.0) == 10.0
    assert seconds_left(50.0, None, usual_s=40.0) == 0.0
    assert seconds_left(None, None, usual_s=40.0) is None and seconds_left(30.0, None) is None
