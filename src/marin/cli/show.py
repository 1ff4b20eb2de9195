"""Prints the record of a step or run: what it is, what it read, how it was made.

ADDRESS: a step's name, name@digits, a ref (marin pin), the first digits of a digest, a run id or its beginning, or a
path to anything inside an output. If several recipes had that name, the name alone means the one that is running, else
the one whose last attempt ended last.
"""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from marin.cli.experiment import add_prefix_argument, hint, prefix_of
from marin.cli.output import local_time, note, note_others, print_json, size

TRAINING = "marin.training.train_lm:train_lm"  # the function of training steps; written out, since it loads jax

EXAMPLES = """\
  marin show checkpoints/quickstart              what runs under that name, or ran last
  marin show checkpoints/quickstart@1a2b3c       one of several
  marin show checkpoints/quickstart --json       everything on record
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS|RUN", help="step name, name@digits, ref, digest, path, or run id")
    add_prefix_argument(parser)
    parser.add_argument("--json", action="store_true", help="the whole record as one JSON object")


def run(arguments: Namespace) -> int:
    from marin.execution.catalog import RunEntry, find

    entry = find(prefix_of(arguments), arguments.address)
    is_run = isinstance(entry, RunEntry)
    if arguments.json:
        print_json({"run": dict(entry.record)} if is_run else {"step": {**entry.to_json(), **_taint_json(entry)}})
        return 0
    if not is_run:
        note_others(entry)
    lines = _run_lines(entry.record) if is_run else _step_lines(entry)
    width = max(len(key) for key, _ in lines)
    print("\n".join(f"{key:<{width}}  {text}".rstrip() if key else text for key, text in lines))
    if not is_run and (_taint_json(entry)["taint"] or {}).get("state") in ("invalid", "tainted"):
        note(f"Next: {hint(['marin', 'rerun', '--tainted'], arguments)}")
        return 0
    words = ["marin", "ls"] if is_run else ["marin", "logs", f"{entry.name}@{entry.digest[:6]}"]
    note(f"Next: {hint(words, arguments)}")
    return 0


def _taint_json(entry: Any) -> dict[str, Any]:
    """{"taint": whether and why the output must not be used, since when}; None if it may be.

    "unknown" where the register of an input cannot be read.
    """
    from marin.execution.invalidation import Taint
    from marin.execution.status import RegisterError

    taint = Taint(entry.store)
    try:
        mark = taint.mark(entry.state)
    except RegisterError as error:
        reason = f"whether it is tainted cannot be told, for the register of an input: {error}"
        return {"taint": {"state": "unknown", "reason": reason, "since": None, "tombstone": None}}
    if mark is None:
        return {"taint": None}
    tombstone = taint.struck_out(entry.state)
    if tombstone is None and (roots := taint.built_on(entry.state)):
        tombstone = roots[0].tombstone
    since = tombstone.when if tombstone is not None else (entry.state.error or {}).get("ended")
    return {
        "taint": {
            "state": mark,
            "reason": taint.trouble(entry.state),
            "since": since,
            "tombstone": tombstone.id if tombstone is not None else None,
        }
    }


def _step_lines(entry: Any) -> list[tuple[str, str]]:
    from marin.execution.console import duration
    from marin.execution.verify import last_verification

    state, record = entry.state, entry.state.record
    taint = _taint_json(entry)["taint"]
    lines = [
        ("step", entry.name),
        ("digest", entry.digest),
        ("state", taint["state"] if taint and taint["state"] != "unknown" else entry.status.lower()),
        ("folder", entry.paths.root),
    ]
    if taint:
        since = f", since {local_time(taint['since'])}" if taint["since"] else ""
        lines.insert(3, ("why", f"{taint['reason']}{since}"))
    if record is None:
        error = state.error or {}
        if error:
            lines.append(("error", f"{error.get('type')}: {error.get('message')}"))
        return [*lines, ("when", local_time(entry.when)), ("run", state.owner.run_id), ("log", entry.log_path)]
    git = record["env"].get("git") or {}
    commit = f"{git['commit'][:10]}{' with changes' if git.get('dirty_sha256') else ''}" if git else "none"
    lines += [
        ("output", entry.data_path),
        ("size", f"{size(record['bytes'])} in {record['files']} file{'s' * (record['files'] != 1)}"),
        ("made", f"{local_time(record['ended'])} in {duration(record['wall_s'])} ({record['cpu_s']:.1f} s CPU)"),
        *[("peak", f"{size(record['max_rss'])} of memory")] * (record["max_rss"] is not None),
        ("run", f"{record['run_id']} by {record['user']}"),
        *[("version", str(record["version"]))] * (record.get("version") is not None),
        ("function", record["fn"] + (f"  code_version {record['code_version']!r}" if record["code_version"] else "")),
        ("commit", commit),
        ("python", f"{record['env']['python']} on {record['env']['platform']}"),
    ]
    if record.get("description"):
        lines.insert(1, ("about", record["description"]))
    if adopted := record.get("adopted"):
        lines.append(("adopted", f"from {adopted['source']} by {adopted['who']}: {adopted['reason']}"))
    for accepted in state.accepted:
        why = f": {accepted['reason']}" if accepted.get("reason") else ""
        who = f"{local_time(accepted['when'])} by {accepted['user']}"
        lines.append(("accepted", f"for another recipe, @{accepted['recipe'][:10]}, {who}{why}"))
    if verified := last_verification(entry.store, entry.paths, state):
        lines.append(("verified", _verified(verified)))
    for number, used in enumerate(record["inputs"]):
        where = used["path"] + (f"/{used['sub']}" if used["sub"] else "")
        lines.append(("inputs" if number == 0 else "", where if number == 0 else f"{'':<10}{where}"))
    return [*lines, ("config", ""), ("", _config_text(entry, record))]


def _config_text(entry: Any, record: Any) -> str:
    """The resolved config: as a training run wrote it, with the origin of each value, else as the record has it."""
    written = Path(entry.data_path) / "config.yaml"
    if record["fn"] == TRAINING and written.is_file():
        return written.read_text(encoding="utf-8").rstrip("\n")
    return json.dumps(record["config_resolved"], indent=2, ensure_ascii=False)


def _verified(verified: Any) -> str:
    when = local_time(verified["when"])
    if not verified["ok"]:
        return f"{when}: {verified['differences'][0]['text']}"
    deep = f", every byte {local_time(verified['last_deep'])}" if verified["last_deep"] else ""
    return f"{verified['times']}x, last {when}{deep}"


def _run_lines(record: Any) -> list[tuple[str, str]]:
    lines = [
        ("run", record["run_id"]),
        ("state", str(record["status"]).lower()),
        ("command", record["command"]),
        ("folder", record["cwd"]),
        ("started", local_time(record["started"])),
        ("ended", local_time(record.get("ended"))),
    ]
    if record.get("description"):
        lines.insert(1, ("about", record["description"]))
    lines += [("steps" if i == 0 else "", _run_step(step, i)) for i, step in enumerate(record.get("steps", []))]
    return lines


def _run_step(step: Any, index: int) -> str:
    from marin.execution.console import duration

    took = f"  {duration(step['wall_s'])}" if step["action"] == "ran" else ""
    return f"{'' if index == 0 else ' ' * 9}{step['action']:<8} {step['name']} @{step['digest'][:6]}{took}"
