"""Lists the steps of a store with state, age, size and time taken, or its runs, or its refs."""

from argparse import ArgumentParser, Namespace
from typing import Any

from marin.cli.experiment import add_prefix_argument, hint, prefix_of
from marin.cli.output import local_time, note, print_json, size, table

EXAMPLES = """\
  marin ls                     all steps of the store
  marin ls steps tokenized/    those whose name begins like this
  marin ls runs                all runs, the latest first
  marin ls refs                names that keep outputs (marin pin)
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="?", default="steps", metavar="steps|runs|refs", help="what to list (default: steps)"
    )
    parser.add_argument("start", nargs="?", default="", metavar="BEGINNING", help="only names that begin like this")
    add_prefix_argument(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from marin.execution.catalog import list_runs, list_steps, near_misses

    prefix = prefix_of(arguments)
    what, start = arguments.what, arguments.start
    if what not in ("steps", "runs", "refs"):  # `marin ls quickstart/`
        what, start = "steps", what
    if what == "runs":
        return _show_runs([run for run in list_runs(prefix) if run.run_id.startswith(start)], arguments)
    if what == "refs":
        return _show_refs(prefix, start, arguments)
    steps = list_steps(prefix)
    found = [step for step in steps if step.name.startswith(start)]
    if start and not found:
        near = near_misses(start, {step.name for step in steps})
        note(f"no step begins with {start!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    return _show_steps(found, arguments)


def _show_steps(steps: list[Any], arguments: Namespace) -> int:
    from marin.execution.console import duration
    from marin.execution.invalidation import Taint
    from marin.execution.status import RegisterError

    taint = Taint(steps[0].store) if steps else None
    marks, troubles = [], [step.trouble for step in steps if step.trouble is not None]
    for step in steps:
        try:
            marks.append(taint.mark(step.state) if taint is not None and step.state is not None else None)
        except RegisterError as error:  # of an input: nobody can tell whether that was struck out
            marks.append(None)
            troubles.append(f"{step.path}: whether it is tainted cannot be told, for the register of an input: {error}")
    code = 3 if troubles else 0
    if arguments.json:
        keys = ("name", "digest", "status", "when", "num_bytes", "wall_s", "path", "trouble")
        rows = zip(steps, marks, strict=True)
        print_json({"steps": [{**{key: getattr(step, key) for key in keys}, "taint": mark} for step, mark in rows]})
        return code

    rows = [
        (
            step.name,
            step.digest[:10],
            "unreadable" if step.state is None else mark or step.status.lower(),
            local_time(step.when),
            size(step.num_bytes),
            "-" if step.wall_s is None else duration(step.wall_s),
        )
        for step, mark in zip(steps, marks, strict=True)
    ]
    print(table(rows, ("name", "digest", "state", "when", "size", "wall"), right=(4, 5)))
    for trouble in troubles:
        note(trouble)
    words = ["marin", "doctor"] if troubles else ["marin", "show", steps[0].name] if steps else []
    note(f"Next: {hint(words, arguments)}" if steps else "no steps")
    return code


def _show_runs(runs: list[Any], arguments: Namespace) -> int:
    if arguments.json:
        print_json({"runs": [dict(run.record) for run in runs]})
        return 0
    rows = []
    for run in runs:
        steps = run.record.get("steps", [])
        counts = {action: sum(step["action"] == action for step in steps) for action in ("ran", "cached", "failed")}
        words = ", ".join(f"{number} {action}" for action, number in counts.items() if number)
        started, status = local_time(run.record.get("started")), str(run.record.get("status", "?")).lower()
        rows.append((run.run_id, status, started, words or "-", run.record.get("command", "")))
    print(table(rows, ("run", "state", "started", "steps", "command")))
    note(f"Next: {hint(['marin', 'show', runs[0].run_id], arguments)}" if runs else "no runs")
    return 0


def _show_refs(prefix: str, start: str, arguments: Namespace) -> int:
    from marin.execution.catalog import existing_store
    from marin.execution.refs import read_refs

    refs = [ref for ref in read_refs(existing_store(prefix)) if ref.name.startswith(start)]
    if arguments.json:
        print_json({"refs": [ref.to_json() for ref in refs]})
        return 0
    rows = [(ref.name, ref.step, ref.digest[:10], ref.attempt, local_time(ref.when), ref.user) for ref in refs]
    print(table(rows, ("ref", "step", "digest", "attempt", "pinned", "by")))
    words = ["marin", "show", f"{refs[0].step}@{refs[0].digest[:6]}"] if refs else ["marin", "ls"]
    note(f"Next: {hint(words, arguments)}" if refs else "no refs; `marin pin STEP` makes one")
    return 0
