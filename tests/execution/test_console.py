"""What a person sees of a run."""

import io
import time

import pytest

from marin.execution.console import Console, duration, tail


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(stream, chunks, *, others: int = 0) -> str:
    """What a step's output looks like on `stream` while `others` run beside it."""
    console = Console(stream)
    for i in range(others + 1):
        console.started(f"step-{i}")
    begin = len(stream.getvalue())
    output = console.output_of("step-0")
    for chunk in chunks:
        output.feed(chunk)
    output.close()
    return stream.getvalue()[begin:]


BAR = [b"start\n", b"\r10%", b"\r50", b"%", b"\r100%\n", b"end\r\n", b"and no line end"]


def test_on_a_terminal_a_step_that_runs_alone_draws_its_progress_bar_itself():
    assert show(Terminal(), BAR) == "start\n\r10%\r50%\r100%\nend\r\nand no line end"


def test_elsewhere_a_progress_bar_becomes_its_last_state():
    assert show(io.StringIO(), BAR) == "start\n100%\nend\nand no line end\n"


def test_a_progress_bar_that_nobody_sees_redraw_shows_a_line_now_and_then(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    output = Console(stream).output_of("step")
    for percent in range(100):
        now[0] += 1.0
        output.feed(b"\r%d%%" % percent)
    assert stream.getvalue().split() == ["29%", "59%", "89%"]


def test_while_several_steps_run_their_lines_carry_their_names():
    assert show(Terminal(), BAR, others=1) == "step-0: start\nstep-0: 100%\nstep-0: end\nstep-0: and no line end\n"


def test_a_character_that_arrives_in_two_pieces_is_shown_whole():
    assert show(io.StringIO(), [b"a\xc3", b"\xbc\n", b"\xff\n"]) == "aü\n\ufffd\n"


def test_output_without_line_ends_is_shown_in_pieces_and_in_linear_time():
    chunk, stream = b"x" * 4096, io.StringIO()
    started = time.process_time()
    shown = show(stream, [chunk] * 10_000)
    assert time.process_time() - started < 4
    assert shown.replace("\n", "") == "x" * 40_960_000
    assert max(map(len, shown.split("\n"))) < 100_000
    assert show(io.StringIO(), [b"\r" + b"x" * 100] * 100) == "x" * 100 + "\n"


def test_a_message_after_half_a_line_begins_a_new_one():
    stream = Terminal()
    console = Console(stream)
    console.output_of("a").feed(b"\r50%")
    console.done("a", 72)
    assert stream.getvalue() == "\r50%\n✓ a  1m12s\n"


def test_a_terminal_that_knows_no_symbols_gets_words():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    console = Console(stream)
    console.done("a", 1)
    console.failed("b", "failed")
    assert raw.getvalue() == b"ok a  1.0s\nx b  failed\n"


def test_a_reader_that_went_away_does_not_stop_the_run():
    stream = io.StringIO()
    console = Console(stream)
    stream.close()
    console.line("nobody reads this")
    console.done("a", 1)


def test_many_cached_steps_share_a_line():
    stream = io.StringIO()
    Console(stream).cached([f"s{i}" for i in range(5000)])
    assert stream.getvalue() == "✓ 5,000 steps  cached\n"


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.6, "1m00s"),
        (72, "1m12s"),
        (3599.6, "1h00m"),
        (11040, "3h04m"),
    ],
)
def test_durations_read_at_a_glance(seconds, text):
    assert duration(seconds) == text


def test_the_tail_of_a_log_is_its_last_lines_as_they_were_seen_last(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"".join(b"line %d\n" % i for i in range(20_000)) + b"1%\r2%\rbad \xff\n")
    assert tail(str(log), 2) == ["line 19999", "bad \ufffd"]
    assert tail(str(tmp_path / "none")) == []


TRACEBACK = b"hello\n\nTraceback (most recent call last):\n  ...\nValueError: no\n"


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_what_stands_just_above_a_failure_is_not_repeated(stream, tmp_path):
    log, screen = tmp_path / "log", stream()
    log.write_bytes(TRACEBACK)
    console = Console(screen)
    console.started("step")
    output = console.output_of("step")
    output.feed(TRACEBACK[:20])
    output.feed(TRACEBACK[20:])
    output.close()
    console.failed("step", "exit 1", log=str(log))
    assert screen.getvalue().count("ValueError: no") == 1
    assert "hello\n\nTraceback" in screen.getvalue()
    assert f"log: {log}" in screen.getvalue()


def test_the_end_of_a_log_is_shown_where_it_does_not_stand_just_above(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(TRACEBACK)
    for between in ("another step's line", None):
        screen = io.StringIO()
        console = Console(screen)
        console.started("step")
        output = console.output_of("step")
        output.feed(TRACEBACK if between else b"hello\n")
        if between:
            console.line(between)
        console.failed("step", "exit 1", log=str(log))
        assert "    ValueError: no\n" in screen.getvalue()
