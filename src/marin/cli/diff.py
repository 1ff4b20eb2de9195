"""Shows what differs between two outputs: recipe, code, environment, files, cost. What is the same is not shown.

A and B: a step's name (its latest output), name@digits, a ref (marin pin), the first digits of a digest, or a path
inside an output.
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from marin.cli.experiment import add_prefix_argument, hint, prefix_of
from marin.cli.output import note, paint, print_json, size

EXAMPLES = """\
  marin diff exports/small@1a2b3c exports/small@4d5e6f           everything
  marin diff train/a train/b --config                            only what was asked for
  marin diff local_store/x-1a2b3c4d5e/attempts/0001-6d8e8307 x   an earlier output and the latest
"""

_SECTIONS = {
    "config": "recipe",
    "code": "code",
    "env": "environment",
    "data": "files",
}
_MOST = 40  # lines of a section


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("old", metavar="A", help="step name, name@digits, ref, digest, or path in an output")
    parser.add_argument("new", metavar="B", help="the other")
    for name, what in _SECTIONS.items():
        parser.add_argument(f"--{name}", action="store_true", help=f"only the {what}")
    add_prefix_argument(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from marin.execution.catalog import existing_store
    from marin.execution.compare import compare
    from marin.execution.outputs import find_output

    store = existing_store(prefix_of(arguments))
    old, new = find_output(store, arguments.old).output, find_output(store, arguments.new).output
    found = compare(old, new)
    wanted = [name for name in _SECTIONS if getattr(arguments, name)] or [*_SECTIONS, "measures"]
    if arguments.json:
        print_json({"old": old.to_json(), "new": new.to_json(), **_json(found, wanted), "notes": list(found.notes)})
        return 0
    lines = _lines(found, wanted)
    print(f"{old.address} -> {new.address}")
    print("\n".join(lines) if lines else "no difference")
    for text in found.notes:
        note(f"note: {text}")
    note(f"Next: {hint(['marin', 'lineage', f'{new.name}@{new.state.digest[:10]}'], arguments)}")
    return 0


def _parts(found: Any) -> dict[str, Any]:
    return {
        "config": found.config,
        "code": found.code,
        "env": found.environment,
        "data": found.data,
        "measures": found.measures,
    }


def _lines(found: Any, wanted: list[str]) -> list[str]:
    lines: list[str] = []
    for name in wanted:
        part = _parts(found)[name]
        if not part:
            continue
        lines.append(paint(_SECTIONS.get(name, "cost"), "bold"))
        rows = [(c.path, _file_text(c)) if name == "data" else (c.path, _change_text(c)) for c in part[:_MOST]]
        width = max(len(path) for path, _ in rows)
        lines += [f"  {path:<{width}}  {text}" for path, text in rows]
        if len(part) > _MOST:
            lines.append(f"  ... and {len(part) - _MOST} more; --json lists all")
    return lines


def _change_text(change: Any) -> str:
    return str(change)[len(change.path) :].strip()


def _file_text(change: Any) -> str:
    if change.old is None:
        return f"added, {size(change.new.size)}"
    if change.new is None:
        return f"removed, {size(change.old.size)}"
    if change.old.size == change.new.size:
        return f"changed, {size(change.new.size)}"
    return f"changed, {size(change.old.size)} -> {size(change.new.size)}"


def _json(found: Any, wanted: list[str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in wanted:
        if name == "data":
            result["data"] = [
                {"path": c.path, "old": _entry_json(c.old), "new": _entry_json(c.new)} for c in found.data
            ]
        else:
            result[name] = [{"path": c.path, "old": c.old, "new": c.new} for c in _parts(found)[name]]
    return result


def _entry_json(entry: Any) -> dict[str, Any] | None:
    return {"bytes": entry.size, "sha256": entry.sha256} if entry is not None else None
