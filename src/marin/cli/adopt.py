"""Takes data that exists already for a step's output, on somebody's word, which goes on record.

With --version the data becomes <STEP>/<VERSION>, and every step with that name and version= accepts it. With --file it
stands for exactly what a step of that experiment would make. Files are hard-linked where possible: no room is needed,
but whoever edits the source in place then edits the output; --copy keeps the two apart.
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from marin.cli.experiment import add_writing_arguments, choose_step, hint, prefix_of, with_steps_of
from marin.cli.output import UsageError, note, print_json, size

EXAMPLES = """\
  marin adopt corpus/web --from /data/web --version 2026.11 --reason "downloaded by hand, see notes.md"
  marin adopt tokens/web --from /old/tokens --file experiments/web.py --reason "made before the executor"
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("step", metavar="STEP", help="the step's name")
    parser.add_argument("--from", dest="source", metavar="PATH", required=True, help="the folder, or file, to adopt")
    parser.add_argument("--version", metavar="V", help="adopt it as this version of STEP, whatever the recipe")
    parser.add_argument("--file", metavar="FILE.py", help="adopt it as the output of this experiment's STEP")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="FIELD=VALUE", help="with --file: as in a run"
    )
    parser.add_argument("--reason", metavar="TEXT", required=True, help="why it may stand for the output")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--copy", action="store_true", help="copy the files")
    how.add_argument("--link", action="store_true", help="hard links, where possible (the default)")
    add_writing_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    if (arguments.version is None) == (arguments.file is None):
        raise UsageError("give --version V, or --file FILE.py with the experiment that has the step")
    if arguments.overrides and arguments.file is None:
        raise UsageError("--set changes an experiment's settings; give --file FILE.py with it")
    adopted = _for_version(arguments) if arguments.file is None else _for_file(arguments)
    node, state = adopted
    record = state.record
    if arguments.json:
        print_json({"name": node.name, "digest": node.digest, "path": node.path, "record": dict(record)})
        return 0
    files = f"{record['files']} file{'s' * (record['files'] != 1)}"
    print(f"{node.path}  {size(record['bytes'])} in {files}")
    note(f"Next: {hint(['marin', 'show', f'{node.name}@{node.digest[:6]}'], arguments)}")
    return 0


def _for_version(arguments: Namespace) -> tuple[Any, Any]:
    from marin.execution.adoption import adopt_for, adopted_step
    from marin.execution.graph import build_graph
    from marin.execution.store import open_store

    store = open_store(prefix_of(arguments), single_runner=arguments.single_runner)
    try:
        step = adopted_step(arguments.step, arguments.version)
    except ValueError as error:
        raise UsageError(str(error)) from None
    (node,) = build_graph([step], prefix=store.prefix).nodes
    return node, adopt_for(
        store, node, arguments.source, reason=arguments.reason, link=not arguments.copy, any_recipe=True
    )


def _for_file(arguments: Namespace) -> tuple[Any, Any]:
    from marin.execution.adoption import adopt_for
    from marin.execution.graph import build_graph
    from marin.execution.store import open_store

    store = open_store(prefix_of(arguments), single_runner=arguments.single_runner)
    found: list[tuple[Any, Any]] = []

    def command(steps: list[Any], description: str | None) -> None:
        if found:
            return
        graph = build_graph(steps, prefix=store.prefix)
        name = choose_step(arguments.step, sorted({node.name for node in graph.nodes}))
        nodes = [node for node in graph.nodes if node.name == name]
        if len(nodes) != 1:
            raise UsageError(
                f"{arguments.file} has {len(nodes)} steps named {name!r}; it cannot be told which is meant"
            )
        (node,) = nodes
        state = adopt_for(store, node, arguments.source, reason=arguments.reason, link=not arguments.copy)
        found.append((node, state))

    with_steps_of(arguments, command)
    return found[0]
