"""Rows are never lost or doubled, and progress shows what is known."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.tracking.console import ConsoleTracker, duration
from marin.tracking.jsonl import JsonlTracker, read_rows


def write(path, steps, resume_step=None):
    tracker = JsonlTracker(path, resume_step=resume_step)
    for step in steps:
        tracker.log(step, {"train/loss": 1 / (step + 1)})
        if step % 3 == 0:
            tracker.log(step, {"validation/all/loss": step * 0.1})
    tracker.close()
    return path.read_bytes()


@settings(max_examples=25, deadline=None)
@given(killed_at=st.integers(0, 12), checkpoint_step=st.integers(0, 12), torn_bytes=st.integers(0, 30))
def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path_factory, killed_at, checkpoint_step, torn_bytes):
    folder = tmp_path_factory.mktemp("rows")
    whole = write(folder / "whole.jsonl", range(13))
    write(folder / "killed.jsonl", range(max(killed_at, checkpoint_step) + 1))
    with open(folder / "killed.jsonl", "ab") as file:
        file.write(b'{"step": 13, "train/loss": 0.12345'[:torn_bytes])
    assert write(folder / "killed.jsonl", range(checkpoint_step + 1, 13), resume_step=checkpoint_step) == whole


def test_without_a_checkpoint_the_file_starts_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, range(5))
    assert write(path, range(2)) == write(tmp_path / "other.jsonl", range(2))
    assert read_rows(path)[0] == {"step": 0, "train/loss": 1.0}


def test_a_half_written_line_is_not_a_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2')
    assert read_rows(path) == [{"step": 1}]


def test_numbers_json_cannot_hold_are_refused_with_their_step(tmp_path):
    with pytest.raises(ValueError, match="row of step 7 has a number JSON cannot hold.*nan"):
        JsonlTracker(tmp_path / "metrics.jsonl").log(7, {"train/loss": float("nan")})


def test_a_foreign_line_is_reported_with_its_place(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nhello\n')
    with pytest.raises(ValueError, match="line at byte 12 is not a row.*hello"):
        JsonlTracker(path, resume_step=5)


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_file_gets_a_line_now_and_then_and_the_last_step_always():
    stream, clock = io.StringIO(), Clock()
    console = ConsoleTracker(100, stream=stream, clock=clock)
    for step in range(1, 101):
        clock.now_s = step * 0.5
        console.log(step, {"train/loss": 3.0, "tokens_per_second": 1234.5})
    console.close()
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/100", "21/100", "41/100", "61/100", "81/100", "100/100"]
    assert lines[1] == "step 21/100  loss 3.000  1,234 tok/s  ETA 40s"
    assert "MFU" not in stream.getvalue()


def test_a_terminal_gets_one_line_that_renews_itself():
    stream, clock = Terminal(), Clock()
    console = ConsoleTracker(10, stream=stream, clock=clock)
    for step in range(1, 11):
        clock.now_s = float(step)
        console.log(step, {"train/loss": 3.0, "mfu": 0.412})
    console.log(10, {"validation/all/bits_per_byte": 1.25})
    console.close()
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().count("\r") == 11
    assert "MFU 41.2%" in stream.getvalue()
    assert "validation  all/bits_per_byte 1.2500" in stream.getvalue()


def test_durations_read_as_a_person_says_them():
    assert [duration(s) for s in (0, 59.4, 190, 7500)] == ["0s", "59s", "3m10s", "2h05m"]
