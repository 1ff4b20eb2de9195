"""What a terminal shows below the lines of a run: what runs, how far it is, what waits for it; redrawn in place.

    ▶ train/small  ███████▌░░░░░░  2,310/5,000 steps  1m12s  eta 1m24s
      └─ · evaluation/small
         └─ · report  waits also for evaluation/large
    3 done  1 running  2 waiting    4m02s

The lines above stay what they are elsewhere: they go by, and are the whole story in a file or a bug report. While a
step runs in the runner's own process nothing is drawn: what such a step writes to stderr comes past us, and the
terminal is its own.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marin.execution.console import Console, duration
from marin.execution.plan import Plan, progress_text
from marin.execution.results import StepResult
from marin.tracking.progress import read_progress, seconds_left

_EVERY_S = 0.5
_MOST_SHOWN = 100
_BAR_CELLS = 14
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, kw_only=True)
class Work:
    """A step that runs, or could if there were room or nobody else had it, with the steps that wait for it."""

    name: str
    since: float | None = None  # when it began, on the monotonic clock; None: it does not run here
    progress_path: str | None = None  # where it reports how far it is
    usual_s: float | None = None  # what earlier outputs of its name took
    note: str = ""  # why it does not run here
    readers: "Sequence[Pending]" = ()


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A step that waits for its inputs."""

    name: str
    others: tuple[str, ...] = ()  # inputs that it waits for, beside the one under which it stands
    readers: "Sequence[Pending]" = ()


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A run at one moment."""

    work: Sequence[Work]
    counts: Mapping[str, int]  # steps by what became of them; zeros are not shown
    elapsed_s: float  # since the run began


class LiveView:
    """Draws a run again and again until it is closed."""

    def __init__(self, console: Console, look: Callable[[], Scene]) -> None:
        """`look` is called in a thread of this view."""
        self._console = console
        self._look = look
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="marin-live", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take away what is drawn."""
        self._closed.set()
        self._thread.join()
        self._console.draw(())

    def _draw(self) -> None:
        while not self._closed.wait(_EVERY_S):
            if self._console.may_draw:
                self._console.draw(scene_lines(self._look(), self._console))


def scene_of(
    plan: Plan,
    *,
    running: Mapping[str, tuple[float, str]],
    waiting: Collection[str],
    ready: Sequence[str],
    results: Mapping[str, StepResult],
    readers: Mapping[str, Sequence[str]],
    elapsed_s: float,
) -> Scene:
    """A run at one moment, from what its runner keeps by the digests of steps.

    `running`: since when, and the file in which it reports how far it is. `waiting`: those that another run has.
    `ready`: those for which there is no room yet. `results`: of those that are over. `readers`: who waits for whom.
    """
    graph, shown = plan.graph, {*running, *waiting, *ready}
    is_over = results.keys()

    def pending(digest: str) -> list[Pending]:
        found = []
        for reader in readers.get(digest, ()):
            if reader in shown or reader in is_over or len(shown) > _MOST_SHOWN:
                continue
            shown.add(reader)
            node = graph[reader]
            others = [graph[d].step.name for d in dict.fromkeys(node.deps) if d != digest and d not in is_over]
            found.append(Pending(name=node.step.name, others=tuple(others), readers=pending(reader)))
        return found

    usual = {item.node.digest: item.estimate.wall_s for item in plan if item.estimate is not None}
    work = [
        Work(
            name=graph[digest].step.name,
            since=since,
            progress_path=progress_path,
            usual_s=usual.get(digest),
            readers=pending(digest),
        )
        for digest, (since, progress_path) in running.items()
    ]
    for digests, note in ((waiting, "waits for another run"), (ready[:_MOST_SHOWN], "waits for room")):
        work += [Work(name=graph[digest].step.name, note=note, readers=pending(digest)) for digest in digests]
    actions = [result.action for result in results.values()]
    counts = {
        "done": sum(result.is_ok for result in results.values()),
        "running": len(running),
        "waiting": len(plan.items) - len(results) - len(running),
        "failed": actions.count("failed"),
        "not run": actions.count("blocked") + actions.count("cancelled"),
    }
    return Scene(work=work, counts=counts, elapsed_s=elapsed_s)


def scene_lines(scene: Scene, console: Console) -> list[str]:
    """The lines of a scene that fit the console's terminal: half of its height, and none so long that it wraps."""
    width, height = console.size()
    lines: list[str] = []
    for work in scene.work:
        lines.append(_work_line(work, console))
        lines += _pending_lines(work.readers, "  ", console)
    room = max(3, height // 2) - 1
    if len(lines) > room:
        lines = [*lines[: room - 1], f"  ... and {len(lines) - room + 1} more"]
    counts = "  ".join(f"{number:,} {what}" for what, number in scene.counts.items() if number)
    return [line[: width - 1] for line in [*lines, f"{counts}    {duration(scene.elapsed_s)}"]]


def _work_line(work: Work, console: Console) -> str:
    if work.since is None:
        return f"{console.symbol('wait')} {work.name}  {work.note}"
    elapsed_s = time.monotonic() - work.since
    progress = read_progress(work.progress_path) if work.progress_path else None
    parts = [work.name]
    if progress:
        parts += [bar(progress, console.has_symbols), progress_text(progress)]
    parts.append(duration(elapsed_s))
    left_s = seconds_left(elapsed_s, progress, work.usual_s)
    if left_s is not None:
        parts.append(f"eta {duration(left_s)}")
    return f"{console.symbol('start')} {'  '.join(filter(None, parts))}"


def _pending_lines(readers: Sequence[Pending], indent: str, console: Console) -> list[str]:
    lines = []
    for reader in readers:
        also = f"  waits also for {', '.join(reader.others)}" if reader.others else ""
        lines.append(f"{indent}{'└─' if console.has_symbols else '`-'} {console.symbol('wait')} {reader.name}{also}")
        lines += _pending_lines(reader.readers, indent + "   ", console)
    return lines


def bar(progress: Mapping[str, Any], has_symbols: bool) -> str:
    """{"done": 1, "total": 4} as three and a half of fourteen cells; "" if nobody knows the total."""
    total = progress.get("total")
    if not total:
        return ""
    part = min(1.0, max(0.0, progress.get("done", 0) / total))
    if not has_symbols:
        return "#" * round(part * _BAR_CELLS) + "-" * (_BAR_CELLS - round(part * _BAR_CELLS))
    full, eighths = divmod(round(part * _BAR_CELLS * 8), 8)
    return ("█" * full + (_EIGHTHS[eighths] if eighths else "")).ljust(_BAR_CELLS, "░")
