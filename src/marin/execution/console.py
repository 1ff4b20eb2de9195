"""What a person sees of a run: one line per event on stderr, and what the steps print.

The lines read the same on a terminal, in a log file and in a bug report. On a terminal there may be something drawn
below them (`marin.execution.live`), which is taken away before a line is printed and drawn again after it.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, TextIO

# A progress bar that redraws itself becomes one line per so many seconds where nobody can see it redraw.
_REDRAW_EVERY_S = 30.0
# Above this many cached steps in a run that has other work, they share one line.
_MAX_CACHED_LINES = 20
_LOG_TAIL_LINES = 20
_LONGEST_REASON = 100  # characters of somebody's words in a table
_LONGEST_REST = 64 << 10  # characters of a line whose end has not come yet


def duration(seconds: float) -> str:
    """0.4s, 12s, 1m12s, 3h04m."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def tail(path: str, num_lines: int = _LOG_TAIL_LINES) -> list[str]:
    """The last lines of a text file; of a line that redrew itself, what it showed last. [] if it cannot be read."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - (64 << 10)))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    if not text:
        return []
    return [_as_shown(line) for line in text.rstrip("\n").split("\n")][-num_lines:]


_MARKS = {"HIT": ("=", "cached"), "RUN": ("+", "run"), "WAIT": ("w", "wait"), "SKIP": ("-", "not needed")}
_MARKS |= {"FAILED": ("!", "failed"), "BLOCKED": ("x", "blocked"), "TAINTED": ("t", "tainted"), "DRIFT": ("d", "drift")}


def size(num_bytes: int | None) -> str:
    """75 B, 1.2 kB, 41.2 GB; decimal, as disks are sold and `ls -h --si` counts. "-" for None."""
    if num_bytes is None:
        return "-"
    if num_bytes < 1000:
        return f"{num_bytes} B"
    value = float(num_bytes)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.95 or unit == "PB":
            break
    return f"{value:.1f} {unit}"


def one_line(text: str) -> str:
    """The first line of what an exception or a person said, as much of it as a table has room for."""
    first, *more = text.strip().split("\n", 1)
    if len(first) > _LONGEST_REASON:
        return first[: _LONGEST_REASON - 3].rstrip() + "..."
    return f"{first} ..." if more else first


def format_plan(plan: Any) -> str:
    """A plan (`marin.execution.plan.Plan`) as a table with one line per step and a line of totals.

    Of a cached step the size of its output is shown, of one that would run the time that earlier ones took.
    """
    from marin.execution.plan import drift_text

    width = max((len(item.node.step.name) for item in plan), default=0)
    lines = []
    for item in plan:
        mark, word = _MARKS[item.action]
        mark = "~" if item.changes else mark
        amount = size(item.num_bytes) if item.num_bytes is not None else ""
        if item.estimate is not None:
            amount = f"~{duration(item.estimate.wall_s)}"
        reason = drift_text(item.code_drift) if item.code_drift else "" if item.action == "HIT" else reason_of(item)
        name = f"{item.node.step.name:<{width}}  @{item.node.digest[:6]}"
        lines.append(f"  {mark}  {name}  {word:<10}  {amount:>8}  {reason}".rstrip())
    totals = [f"{plan.count(action)} {word}" for action, (_, word) in _MARKS.items() if plan.count(action)]
    return "\n".join([*lines, "", f"Plan: {', '.join(totals)}.{_estimate_text(plan)}"])


def reason_of(item: Any) -> str:
    """Why a planned step will be dealt with as it will: on one line, cut where it may quote somebody's words."""
    may_quote = item.action in ("FAILED", "TAINTED") or (item.action == "RUN" and not item.changes)
    return one_line(item.reason) if may_quote else item.reason


def _estimate_text(plan: Any) -> str:
    """What running the plan will take, as far as earlier runs tell."""
    known = [item.estimate for item in plan if item.estimate is not None]
    if not known:
        return ""
    unknown = plan.count("RUN") - len(known)
    more = f" and what {unknown} new step{'s' * (unknown > 1)} take{'s' * (unknown == 1)}" if unknown else ""
    return f" Estimated {duration(sum(e.wall_s for e in known))}, {size(sum(e.num_bytes for e in known))}{more}."


def format_summary(steps: Sequence[Any], wall_s: float) -> str:
    """One line on what a run did, from its `StepResult`s."""
    counts = {action: sum(s.action == action for s in steps) for action in _ACTIONS}
    if all(s.action in ("cached", "skipped") for s in steps):
        return f"nothing to do: {counts['cached']:,} step{'s' * (counts['cached'] != 1)} cached"
    shown = [f"{counts[action]:,} {action}" for action in _ACTIONS if counts[action]]
    text = f"{'  '.join(shown)}    {duration(wall_s)}"
    if counts["failed"]:
        text += "\nfailed steps run again with --force-run-failed"
    return text


_ACTIONS = ("ran", "cached", "skipped", "failed", "blocked", "cancelled")


def print_data(text: str) -> None:
    """Print what a command is for on stdout; a reader that has seen enough is no error and decides no exit code.

    SystemExit(1), after a line that says why, if it cannot be written: to a full disk, for example.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        give_up_stdout()
    except OSError as error:
        give_up_stdout()
        print(f"error: cannot write to stdout: {error.strerror}", file=sys.stderr)
        raise SystemExit(1) from None


def give_up_stdout() -> None:
    """What is printed from now on goes nowhere: else the interpreter tries again when it ends, and complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_missing_streams() -> None:
    """Give this process the standard streams that whoever started it had closed: they lead nowhere.

    Without, the next file that is opened, a register perhaps, would be what its children take for their stderr.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - open as long as the process lives


def format_outputs(plan: Any, steps: Sequence[Any]) -> str:
    """Where the outputs of the steps that were asked for are, one line each."""
    targets = set(plan.targets)
    found = [s for s in steps if s.digest in targets and s.output_path is not None]
    width = max((len(s.name) for s in found), default=0)
    here = os.getcwd() + os.sep
    return "\n".join(f"{s.name:<{width}}  {s.output_path.removeprefix(here)}" for s in found)


class Console:
    """Prints the events of a run. Safe to use from several threads."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._mutex = threading.RLock()
        self._half_line = False  # the cursor does not stand at the beginning of a line
        self._drawing: Sequence[str] = ()  # what is to stand below the last line
        self._num_drawn = 0  # lines of it that stand there
        self._is_lent = False  # a step writes to the terminal as it likes
        self._running = 0
        # What was shown last, if it was printed by a step: the step's name, and its lines.
        self._streamed_of: str | None = None
        self._streamed: deque[str] = deque(maxlen=_LOG_TAIL_LINES)
        self.is_terminal = self._stream.isatty()
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            "✓▶✗·└─█░▌".encode(encoding)
            self._symbols = {"done": "✓", "start": "▶", "fail": "✗", "wait": "·"}
        except UnicodeEncodeError:
            self._symbols = {"done": "ok", "start": ">", "fail": "x", "wait": "."}

    def line(self, text: str) -> None:
        """Print one line (or several)."""
        if self._quiet:
            return
        with self._mutex:
            self._streamed_of = None
            if self._half_line:
                text = "\n" + text
                self._half_line = False
            self._write(text + "\n")

    def _write(self, text: str) -> None:
        erased = f"\r\x1b[{self._num_drawn}A\x1b[J" if self._num_drawn else ""
        drawn = () if self._half_line or self._is_lent else self._drawing
        self._num_drawn = len(drawn)
        try:
            self._stream.write(erased + text + "".join(f"{line}\n" for line in drawn))
            self._stream.flush()
        except (OSError, ValueError):  # the reader of our stderr is gone; the run is not
            self._quiet = True

    # -- what is drawn below the lines of a terminal

    @property
    def can_draw(self) -> bool:
        """Whether there is a terminal on which lines can be drawn again."""
        return self.is_terminal and not self._quiet and os.environ.get("TERM", "dumb") != "dumb"

    @property
    def may_draw(self) -> bool:
        """Whether something that is drawn now would disturb nobody."""
        return not (self._quiet or self._is_lent or self._half_line)

    def draw(self, lines: Sequence[str]) -> None:
        """Have these lines stand below the last one, in place of what was drawn before; none: nothing."""
        with self._mutex:
            if not self._quiet and (lines or self._num_drawn):
                self._drawing = lines
                self._write("")

    def lend(self) -> None:
        """From now on, until `take_back`, a step writes to the terminal past us: nothing is drawn."""
        self._is_lent = True
        if self._drawing:
            with self._mutex:
                self._drawing = ()
                self._write("")

    def take_back(self) -> None:
        """That step has ended."""
        self._is_lent = False

    def size(self) -> tuple[int, int]:
        """(columns, lines) of the terminal."""
        try:
            columns, lines = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            columns, lines = 0, 0
        return columns or 80, lines or 24  # some terminals do not say

    @property
    def has_symbols(self) -> bool:
        """Whether the terminal can show more than ASCII."""
        return self._symbols["done"] == "✓"

    def symbol(self, what: str) -> str:
        """The mark of what is done, started ("start"), failed ("fail") or waiting ("wait")."""
        return self._symbols[what]

    def printed_by(self, name: str, text: str | None, lines: Sequence[str]) -> None:
        """Print what a step printed (None: it is printed already); `lines`: the lines it ends, as its log has them."""
        with self._mutex:
            if self._streamed_of != name:
                self._streamed.clear()
            if text is not None:
                self.line(text)
            self._streamed_of = name
            self._streamed.extend(lines)

    def through(self, text: str) -> None:
        """Pass text to the terminal as it is, half lines and redrawn lines too."""
        with self._mutex:
            if self._quiet or not text:
                return
            self._half_line = not text.endswith("\n")
            self._write(text)

    @property
    def passes_through(self) -> bool:
        """Whether the one step that runs may use the terminal as if it were its own."""
        return self.is_terminal and self._running <= 1

    @property
    def is_crowded(self) -> bool:
        """Whether several steps run at once."""
        return self._running > 1

    def _event(self, symbol: str, name: str, text: str = "") -> None:
        self.line(f"{self._symbols[symbol]} {name}  {text}".rstrip())

    def cached(self, names: Sequence[str]) -> None:
        if len(names) > _MAX_CACHED_LINES:
            self.line(f"{self._symbols['done']} {len(names):,} steps  cached")
        else:
            for name in names:
                self._event("done", name, "cached")

    def started(self, name: str) -> None:
        self._running += 1
        self._event("start", name)

    def waiting(self, name: str, text: str) -> None:
        self._event("wait", name, f"waiting: {text}")

    def done(self, name: str, wall_s: float) -> None:
        self._running -= 1
        self._event("done", name, duration(wall_s))

    def shared(self, name: str) -> None:
        self._event("done", name, "done by another run")

    def cancelled(self, name: str, wall_s: float) -> None:
        self._running -= 1
        self._event("fail", name, f"cancelled after {duration(wall_s)}")

    def lost(self, name: str) -> None:
        self._running -= 1
        self._event("fail", name, "taken over by another run; this attempt counts for nothing")

    def failed(self, name: str, text: str, *, log: str | None = None, was_running: bool = True) -> None:
        """A failure with the end of the log, so that its cause is on the screen; not if it stands just above."""
        self._running -= was_running
        lines = tail(log) if log else []
        with self._mutex:
            above = list(self._streamed) if self._streamed_of == name else []
            num = min(len(above), len(lines))
            if num and above[-num:] == lines[-num:]:
                lines = []
            self._event("fail", name, text)
            for shown in lines:
                self.line(f"    {shown}")
            if log:
                self.line(f"    log: {log}")

    def retried(self, name: str, text: str) -> None:
        self._running -= 1
        self._event("fail", name, text)

    def blocked(self, name: str, on: str) -> None:
        self._event("wait", name, f"not run: input {on} failed")

    def output_of(self, name: str) -> "StepOutput":
        """A sink for what a step prints."""
        return StepOutput(self, name)


class StepOutput:
    """Shows the output of one step as it comes.

    On a terminal, while the step runs alone, everything passes through as it is, progress bars too. Otherwise whole
    lines are shown, with the step's name in front while several steps run; of a line that redraws itself by carriage
    returns, what it shows every 30 seconds and at its end. A line over 64 Ki characters is shown in pieces.
    """

    def __init__(self, console: Console, name: str) -> None:
        import codecs

        self._console = console
        self._name = name
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""  # an unfinished line that was not shown
        self._unseen = ""  # an unfinished line that was passed through
        self._shown_at = time.monotonic()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the step's output."""
        text = self._decoder.decode(chunk)
        if self._console.passes_through and not self._rest:
            self._console.through(text)
            *lines, self._unseen = (self._unseen + text).split("\n")
            self._console.printed_by(self._name, None, [_as_shown(line) for line in lines])
            return
        *lines, last = text.split("\n")
        if lines:
            lines[0] = self._rest + lines[0]
            self._rest = last
        else:
            self._rest += last
        for line in lines:
            self._show(line)
        if "\r" in self._rest:
            # only the newest state of a redrawn line matters; the last carriage return may be half of a line end
            kept = self._rest.rstrip("\r").rpartition("\r")[2]
            self._rest = kept + ("\r" if self._rest.endswith("\r") else "")
            if kept and time.monotonic() - self._shown_at >= _REDRAW_EVERY_S:
                self._show(kept)
        if len(self._rest) > _LONGEST_REST:
            self._show(self._rest)
            self._rest = ""

    def close(self) -> None:
        """Show what the step printed last, if no line end followed it."""
        if self._rest.strip("\r"):
            self._show(self._rest)
        self._rest = ""

    def _show(self, line: str) -> None:
        self._shown_at = time.monotonic()
        shown = _as_shown(line)
        text = f"{self._name}: {shown}" if self._console.is_crowded else shown
        self._console.printed_by(self._name, text, [shown])


def _as_shown(line: str) -> str:
    """Of a line that redrew itself, what it showed last."""
    return line.rstrip("\r").rpartition("\r")[2]
