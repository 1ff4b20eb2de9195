"""Strikes outputs out: nobody is served them, or anything built on them, until they are made again.

ADDRESS: a step's name (its latest output), name@digits, the first digits of a digest (every output of that recipe), a
ref or a path inside an output (that output). Given with options, outputs must match all of them. Nothing is deleted,
and `--revoke` takes it back.
"""

import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

from marin.cli.experiment import add_writing_arguments, hint, store_to_write
from marin.cli.output import UsageError, local_time, note, print_json, table

EXAMPLES = """\
  marin invalidate exports/small --reason "weights transposed"
  marin invalidate --producer pretrain.export_hf:main --before-commit 4be1a9c --reason "broken HF export"
  marin invalidate --list
  marin invalidate --revoke 20260131-2359 --reason "the export was fine after all"
"""

_MOST = 20  # lines of a list


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "addresses", metavar="ADDRESS", nargs="*", default=[], help="step name, name@digits, ref, digest, or path"
    )
    parser.add_argument("--reason", metavar="TEXT", help="why; everybody who meets these outputs sees it")
    parser.add_argument("--producer", metavar="MODULE:FUNCTION", help="made by this function, or with its help")
    parser.add_argument("--before-commit", metavar="SHA", help="made at a commit that came before this one")
    parser.add_argument("--code-fp", metavar="DIGITS", help="made by code whose fingerprint begins like this")
    parser.add_argument("--since", metavar="TIME", help="made then or later, as 2026-01-31 or 2026-01-31T23:59")
    parser.add_argument("--until", metavar="TIME", help="made then or earlier")
    parser.add_argument("--superseded-by", metavar="STEP", help="the step whose output to use instead, for the record")
    parser.add_argument("--revoke", metavar="ID", help="take a striking out back")
    parser.add_argument("--list", action="store_true", help="what was struck out, and what is tainted now")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be struck out and tainted")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_writing_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    chosen = [bool(arguments.revoke), arguments.list, _selects(arguments)]
    if sum(chosen) > 1:
        raise UsageError("--list, --revoke and a selection are three different things; give one")
    if sum(chosen) == 0:
        raise UsageError("name outputs, or say what they have in common: --producer, --before-commit, --code-fp, ...")
    if not arguments.list and not arguments.reason:
        raise UsageError('say why: --reason "..."')
    store = store_to_write(arguments, writes=not (arguments.list or arguments.dry_run))
    if arguments.list:
        return _list(store, arguments)
    return _revoke(store, arguments) if arguments.revoke else _strike(store, arguments)


def _selects(arguments: Namespace) -> bool:
    options = ("producer", "before_commit", "code_fp", "since", "until")
    return bool(arguments.addresses) or any(getattr(arguments, name) for name in options)


# -- striking out -----------------------------------------------------------------------------------------------------


def _strike(store: Any, arguments: Namespace) -> int:
    from marin.execution.selection import Selection
    from marin.execution.strike import consider, settle, strike

    selection = Selection(
        addresses=tuple(arguments.addresses),
        producer=arguments.producer,
        before_commit=arguments.before_commit,
        code_fingerprint=arguments.code_fp,
        since=arguments.since,
        until=arguments.until,
    )
    found = consider(store, selection, arguments.reason, superseded_by=arguments.superseded_by, argv=arguments.typed)
    if not arguments.json:
        print("\n".join(_lines(found, arguments.reason)))
        sys.stdout.flush()
    id = None
    if found.tombstone is None and not arguments.dry_run:
        settle(store)
    elif not arguments.dry_run:
        if not arguments.yes and not _agreed(len(found.struck)):
            note("nothing was struck out")
            return 0
        id = strike(store, found)
    if arguments.json:
        print_json(_striking_json(found, id))
    if id is not None:
        back = hint(["marin", "invalidate", "--revoke", id, "--reason", "TEXT"], arguments)
        note(f"struck out as {id}; `{back}` takes it back")
        note(f"Next: {hint(['marin', 'rerun', '--tainted'], arguments)}")
    elif found.tombstone is not None:
        note(f"Next: {shlex.join([word for word in arguments.typed if word != '--dry-run'])}")
    else:
        note(f"Next: {hint(['marin', 'invalidate', '--list'], arguments)}")
    return 0


def _agreed(num_outputs: int) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("nobody is here to ask; --yes strikes out without asking, --dry-run only shows")
    print(f"strike out {_outputs(num_outputs)}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _lines(found: Any, reason: str) -> list[str]:
    lines = [f"note: {text}" for text in found.notes]
    if found.already:
        lines.append(f"struck out before: {_outputs(len(found.already))}")
        lines += _listed(found.already, lambda o: "")
    if found.tombstone is None:
        return lines
    lines.append(f'strike out {_outputs(len(found.struck))}: "{reason}"')
    lines += _listed(found.struck, lambda o: f"made {local_time(o.record['ended'])} by run {o.record['run_id']}")
    reports = {output.key for output in found.reports}
    lines.append(f"tainted by that: {_outputs(len(found.tainted)) if found.tainted else 'nothing'}")
    lines += _listed(found.tainted, lambda o: "a report" if o.key in reports else "")
    lines.append(f"made or used by {len(found.runs)} run{'s' * (len(found.runs) != 1)}:")
    lines += [f"  {run_id}  {command}".rstrip() for run_id, command in found.runs[:_MOST]]
    return [*lines, *_more(len(found.runs))]


def _listed(outputs: Any, say: Callable[[Any], str]) -> list[str]:
    width = max((len(output.address) for output in outputs[:_MOST]), default=0)
    return [f"  {o.address:<{width}}  {say(o)}".rstrip() for o in outputs[:_MOST]] + _more(len(outputs))


def _more(number: int) -> list[str]:
    return [f"  ... and {number - _MOST} more; --json lists all"] if number > _MOST else []


def _outputs(number: int) -> str:
    return f"{number} output{'s' * (number != 1)}"


def _striking_json(found: Any, id: str | None) -> dict[str, Any]:
    return {
        "id": id,
        "struck_out": [output.to_json() for output in found.struck],
        "struck_out_before": [output.to_json() for output in found.already],
        "tainted": [output.to_json() for output in found.tainted],
        "reports": [output.to_json() for output in found.reports],
        "runs": [run_id for run_id, _ in found.runs],
        "notes": list(found.notes),
    }


# -- taking back, listing ---------------------------------------------------------------------------------------------


def _revoke(store: Any, arguments: Namespace) -> int:
    from marin.execution.strike import find_tombstone, revoke

    if arguments.dry_run:
        tombstone = find_tombstone(store, arguments.revoke)
    else:
        tombstone = revoke(store, arguments.revoke, arguments.reason, argv=arguments.typed)
    if arguments.json:
        print_json({"id": tombstone.id, "revoked": dict(tombstone.revoked) if tombstone.revoked else None})
        return 0
    verb = "would be taken" if arguments.dry_run else "taken"
    print(f'{tombstone.id} {verb} back: "{tombstone.reason}", {_outputs(len(tombstone.outputs))}')
    note(f"Next: {hint(['marin', 'invalidate', '--list'], arguments)}")
    return 0


def _list(store: Any, arguments: Namespace) -> int:
    from marin.execution.invalidation import all_tombstones
    from marin.execution.strike import bad_outputs

    tombstones, bad = all_tombstones(store), bad_outputs(store)
    if arguments.json:
        print_json(
            {
                "tombstones": [{**t.content, "revoked": t.revoked} for t in tombstones],
                "outputs": [{**output.to_json(), "state": mark} for output, mark in bad],
            }
        )
        return 0
    if not tombstones and not bad:
        note("nothing was ever struck out here")
        return 0
    rows = [
        (t.id, local_time(t.when), t.user, str(len(t.outputs)), "taken back" if t.revoked else "stands", t.reason)
        for t in tombstones
    ]
    if rows:
        print(table(rows, ("id", "when", "who", "outputs", "state", "reason"), right=(3,)))
    current = [(output.address, mark) for output, mark in bad if output.is_current]
    for mark in ("invalid", "tainted"):
        names = [address for address, its in current if its == mark]
        if names:
            print(f"{mark} now: {', '.join(names[:_MOST])}" + "".join(_more(len(names))))
    words = ["marin", "rerun", "--tainted"] if current else ["marin", "ls"]
    note(f"Next: {hint(words, arguments)}")
    return 0
