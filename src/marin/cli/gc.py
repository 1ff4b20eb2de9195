"""Deletes what no step needs: what attempts that made no output left, and with --outputs what nothing keeps.

Without --outputs: folders of failed, cancelled and crashed attempts, older than an hour; edges and temporary files they
left. With --outputs also committed outputs that are kept by none of: a ref (marin pin), a run under way, a run or an
age of less than --keep-days, a run with tags, an output that is kept and was built on it. Records, manifests and logs
are kept always; a step whose data was deleted runs again when it is needed.

With --scratch, of this machine's scratch folder instead: copies of outputs of object stores, which are fetched again
when they are needed, what attempts left there, and unfinished work that nothing touched for --keep-days. Nothing of a
store that a run of this machine uses.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

from marin.cli.experiment import add_writing_arguments, hint, store_to_write
from marin.cli.output import RefusedError, UsageError, note, print_json, size, table

EXAMPLES = """\
  marin gc --dry-run                         what could go
  marin gc                                   leftovers of attempts that made no output; asks first
  marin gc --outputs --keep-days 30          and outputs that no ref and no run of 30 days needs
  marin gc --scratch                         this machine's copies of what is in object stores
"""

_WORDS = {
    "attempt": "attempts without output",
    "output": "outputs",
    "superseded": "outputs that were replaced",
    "leftover": "interrupted deletions",
    "edge": "edges",
    "temporary": "temporary files",
    "copies": "folders of copies",
    "attempts": "remains of attempts",
    "unfinished": "unfinished outputs in place",
}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--outputs", action="store_true", help="also committed outputs that nothing keeps")
    parser.add_argument(
        "--scratch", action="store_true", help="instead: this machine's copies of what is in object stores"
    )
    parser.add_argument(
        "--keep-days",
        type=float,
        default=None,
        metavar="N",
        help="with --outputs, --scratch: keep what is younger (default: 30)",
    )
    parser.add_argument(
        "--keep-refs", action="store_true", help="with --outputs: keep only what refs reach, and what is in use"
    )
    parser.add_argument("--dry-run", action="store_true", help="show it, delete nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_writing_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object; with --yes or --dry-run")


def run(arguments: Namespace) -> int:
    from marin.execution.gc import Policy, collect, find_garbage

    policy = _policy(arguments, Policy)
    if arguments.scratch:
        return _tidy_scratch(arguments, policy.keep_days)
    store = store_to_write(arguments, writes=not arguments.dry_run)
    waits_s: list[float] = []  # of attempts that are too young
    found = find_garbage(store, policy, on_young=waits_s.append)
    if not found and not arguments.json:
        note(f"nothing to delete{_yet(waits_s)}\nNext: {hint(['marin', 'ls'], arguments)}")
        return 0
    _delete(found, lambda: collect(store, found, policy), arguments)
    return 0


def _tidy_scratch(arguments: Namespace, keep_days: float) -> int:
    from marin.execution.scratch import delete, remains, scratch_root

    everything = remains(keep_days)
    found = [item for item in everything if not item.is_in_use]
    if len(found) < len(everything):
        note(f"{_things(len(everything) - len(found))} in {scratch_root()} in use by a run of this machine")
    if not found and not arguments.json:
        note(f"nothing to delete in {scratch_root()}")
        return 0
    _delete(found, lambda: delete(found, keep_days), arguments)
    return 0


def _delete(found: list[Any], collect: Callable[[], list[Any]], arguments: Namespace) -> None:
    """Show what was found, and delete it by `collect` unless somebody says no."""
    if arguments.json:
        if not (arguments.dry_run or arguments.yes):
            raise UsageError("--json cannot ask: give --yes or --dry-run")
        deleted = [] if arguments.dry_run else collect()
        print_json({"found": [item.to_json() for item in found], "deleted": [item.to_json() for item in deleted]})
        return
    _show(found)
    if arguments.dry_run:
        words = [word for word in arguments.typed if word != "--dry-run"]
        note(f"Next: {hint(words, Namespace(prefix=None))}")
        return
    if not arguments.yes and not _agrees():
        note("nothing was deleted")
        return
    deleted = collect()
    note(f"deleted {_things(len(deleted))}, {size(sum(item.num_bytes for item in deleted))}")
    if len(deleted) < len(found):
        note(f"{_things(len(found) - len(deleted))} came into use meanwhile and stayed")
    note(f"Next: {hint(['marin', 'doctor' if arguments.scratch else 'ls'], arguments)}")


def _policy(arguments: Namespace, policy: Any) -> Any:
    if arguments.scratch and (arguments.outputs or arguments.keep_refs):
        raise UsageError(
            "--scratch is about this machine, --outputs and --keep-refs about a store; one after the other"
        )
    if not arguments.outputs and arguments.keep_refs:
        raise UsageError("--keep-refs says which outputs stay; give --outputs with it")
    if not arguments.outputs and not arguments.scratch and arguments.keep_days is not None:
        raise UsageError("--keep-days says which outputs stay; give --outputs with it")
    if arguments.keep_days is not None and not arguments.keep_days >= 0:
        raise UsageError(f"--keep-days must be 0 or more, got {arguments.keep_days}")
    days = 30.0 if arguments.keep_days is None else arguments.keep_days
    return policy(outputs=arguments.outputs, keep_days=days, only_refs=arguments.keep_refs)


def _show(found: list[Any]) -> None:
    rows = [
        (item.kind, item.path, size(item.num_bytes), item.why)
        for item in found
        if item.kind not in ("edge", "temporary")
    ]
    if rows:
        print(table(rows, ("kind", "path", "size", "why"), right=(2,)))
    for kind, words in _WORDS.items():
        items = [item for item in found if item.kind == kind]
        if items:
            print(f"{len(items):,} {words}: {size(sum(item.num_bytes for item in items))}")


def _yet(waits_s: list[float]) -> str:
    """What there will be to delete."""
    from marin.execution.console import duration

    if not waits_s:
        return ""
    one = len(waits_s) == 1
    what = "an attempt" if one else f"{len(waits_s):,} attempts"
    return f" yet: {what} without an output may go in {duration(min(waits_s))}{'' if one else ' and later'}"


def _things(number: int) -> str:
    return f"{number:,} thing{'s' * (number != 1)}"


def _agrees() -> bool:
    if not sys.stdin.isatty():
        raise RefusedError("gc deletes data and there is nobody to ask; give --yes, or --dry-run to look")
    sys.stderr.write("delete them? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
