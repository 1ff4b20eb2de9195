"""Shows what runs now in the store, how far it is and how long it will take; if nothing does, the last run.

With --watch it shows it again every two seconds until nothing runs or Ctrl-C; where the output is no terminal, one line
for each change.
"""

import os
import sys
import time
from argparse import ArgumentParser, Namespace
from typing import Any

from marin.cli.experiment import add_prefix_argument, hint, prefix_of
from marin.cli.output import UsageError, local_time, note, paint, print_json

EXAMPLES = """\
  marin status                             everything that runs
  marin status experiments/quickstart.py   runs of this experiment
  marin status --watch                     again and again
"""

_EVERY_S = 2.0
_MAX_PENDING = 5
_MARKS = {
    "RUNNING": ("▶", "bold"),
    "WAITING": ("w", "yellow"),
    "PENDING": ("·", "dim"),
    "SUCCEEDED": ("✓", "green"),
    "FAILED": ("✗", "red"),
    "CANCELLED": ("✗", "yellow"),
    "ABANDONED": ("✗", "red"),
}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("which", metavar="FILE.py|RUN", nargs="?", help="only runs of this experiment, or this run")
    parser.add_argument("--watch", action="store_true", help="show it again until nothing runs")
    add_prefix_argument(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from marin.execution.catalog import existing_store
    from marin.execution.overview import Overview

    if arguments.json and arguments.watch:
        raise UsageError("--json prints one object and --watch many; give one of them")
    store = existing_store(prefix_of(arguments))
    chosen = _chosen(store, arguments.which)
    overview = Overview(store)
    if arguments.watch:
        return _watch(overview, chosen)
    runs = overview.runs(**chosen)
    if arguments.json:
        print_json({"runs": [run.to_json() for run in runs]})
        return 0
    for line in _lines(runs):
        print(line)
    if not runs:
        note("no runs")
    else:
        note(f"Next: {hint(_next(runs), arguments)}")
    return 0


def _chosen(store: Any, which: str | None) -> dict[str, str]:
    if which is None:
        return {}
    if which.endswith(".py"):
        if not os.path.isfile(which):
            raise UsageError(f"no experiment {which!r}")
        return {"script": os.path.abspath(which)}
    from marin.execution.catalog import RunEntry, find

    entry = find(store.prefix, which)
    if not isinstance(entry, RunEntry):
        raise UsageError(f"{which!r} is a step, not a run; `marin show {which}` shows it")
    return {"run_id": entry.run_id}


def _next(runs: list[Any]) -> list[str]:
    for run in runs:
        for step in run.steps:
            if step.status in ("RUNNING", "FAILED"):
                words = ["marin", "logs", f"{step.name}@{step.digest[:6]}"]
                return [*words, "-f"] if step.status == "RUNNING" else words
    return ["marin", "show", runs[0].run_id]


def _watch(overview: Any, chosen: dict[str, str]) -> int:
    from marin.execution.overview import changes, is_under_way

    before: list[Any] = []
    drawn = 0
    try:
        while True:
            runs = overview.runs(**chosen)
            if sys.stdout.isatty():
                lines = _lines(runs)
                sys.stdout.write(f"\x1b[{drawn}A\x1b[J" if drawn else "")
                sys.stdout.write("".join(f"{_cut(line)}\n" for line in lines))
                drawn = len(lines)
            else:
                for run, step in changes(before, runs):
                    print(f"{time.strftime('%H:%M:%S')} {run.run_id} {_step_line(step, 0, plain=True)}")
            sys.stdout.flush()
            before = runs
            if not any(is_under_way(run) for run in runs):
                note("nothing runs")
                return 0
            time.sleep(_EVERY_S)
    except KeyboardInterrupt:  # that is how one stops looking
        return 0


def _cut(line: str) -> str:
    """A line that fits the terminal: a wrapped one would spoil the redrawing."""
    import re
    import shutil

    width = shutil.get_terminal_size().columns
    if len(re.sub(r"\x1b\[\d*m", "", line)) < width:
        return line
    return re.sub(r"\x1b\[\d*m", "", line)[: width - 1]


def _lines(runs: list[Any]) -> list[str]:
    lines = []
    for run in runs:
        lines += _run_lines(run)
    return lines


def _run_lines(run: Any) -> list[str]:
    from marin.execution.console import duration

    record = run.record
    host = (record.get("owner") or {}).get("host", "?")
    head = f"{paint(run.run_id, 'bold')}  {run.status.lower()}  {record.get('command', '')}"
    where = f"  since {local_time(record.get('started'))} on {host}, {duration(run.elapsed_s)}"
    counts = {}
    for step in run.steps:
        counts[step.status] = counts.get(step.status, 0) + 1
    words = [f"{number:,} {status.lower()}" for status, number in counts.items()]
    cached = sum(item["action"] == "HIT" for item in record.get("plan", ()))
    words += [f"{cached:,} cached"] * (cached > 0)
    lines = [head, f"{where}: {', '.join(words) or 'no steps'}"]
    shown = [step for step in run.steps if step.status not in ("SUCCEEDED", "PENDING", "BLOCKED")]
    pending = [step for step in run.steps if step.status == "PENDING"] if run.status == "RUNNING" else []
    shown += pending[:_MAX_PENDING]
    width = max((len(step.name) for step in shown), default=0)
    lines += [f"  {_step_line(step, width)}" for step in shown]
    if len(pending) > _MAX_PENDING:
        lines.append(f"  · and {len(pending) - _MAX_PENDING:,} more to come")
    return lines


def _step_line(step: Any, width: int, *, plain: bool = False) -> str:
    from marin.execution.console import duration
    from marin.execution.plan import progress_text

    mark, color = _MARKS.get(step.status, ("·", "dim"))
    name = f"{step.name:<{width}} @{step.digest[:6]}"
    parts = [step.status.lower()]
    if step.elapsed_s is not None:
        parts.append(duration(step.elapsed_s))
    if step.progress:
        parts.append(progress_text(step.progress))
    if step.eta_s is not None:
        parts.append(f"eta {duration(step.eta_s)}")
    if step.status == "WAITING":
        parts.append(f"for run {step.run_id}")
    if step.host:
        parts.append(f"on {step.host}")
    if step.lease_age_s is not None:
        parts.append(f"renewed {duration(step.lease_age_s)} ago")
    if step.error:
        parts.append(step.error.splitlines()[0])
    return f"{mark if plain else paint(mark, color)} {name}  {'  '.join(parts)}"
