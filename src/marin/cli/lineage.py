"""Shows what an output was made from (--up, the default) or what was made from it (--down), by the records.

ADDRESS: a step's name (its latest output), name@digits, a ref (marin pin), the first digits of a digest, or a path to a
file in an output: then the file and its sha256 are told first.
"""

from argparse import ArgumentParser, Namespace

from marin.cli.experiment import add_prefix_argument, hint, prefix_of
from marin.cli.output import UsageError, note, print_json, size

EXAMPLES = """\
  marin lineage reports/quickstart                                   what the report was made from
  marin lineage documents/python --down                              what was made from these documents
  marin lineage local_store/exports/quickstart-1a2b3c4d5e/data/model.safetensors
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "address", metavar="ADDRESS", help="step name, name@digits, ref, digest, or a path in an output"
    )
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--up", action="store_true", help="what it was made from (default)")
    way.add_argument("--down", action="store_true", help="what was made from it")
    parser.add_argument("--depth", type=int, metavar="N", help="so many steps far (default: to the end)")
    parser.add_argument("--format", choices=("tree", "dot", "json"), default="tree", help="default: tree")
    parser.add_argument("--json", action="store_true", help="the same as --format json")
    add_prefix_argument(parser)


def run(arguments: Namespace) -> int:
    from marin.execution.catalog import existing_store
    from marin.execution.lineage import as_dot, as_json, as_tree, lineage

    if arguments.depth is not None and arguments.depth < 1:
        raise UsageError(f"--depth must be at least 1, got {arguments.depth}")
    store = existing_store(prefix_of(arguments))
    direction = "down" if arguments.down else "up"
    found = lineage(store, arguments.address, direction=direction, depth=arguments.depth)
    if arguments.json or arguments.format == "json":
        print_json(as_json(found))
        return 0
    if arguments.format == "dot":
        print("\n".join(as_dot(found)))
        return 0
    if found.file is not None:
        print(f"{found.file.path}  {size(found.file.size)}  sha256 {found.file.sha256}")
    print("\n".join(as_tree(found)))
    if len(found.nodes) == 1 and arguments.down:
        note("nothing was made from it")
    elif len(found.nodes) == 1:
        is_read = len(lineage(store, arguments.address, direction="down", depth=1).nodes) > 1
        note("it was made from no other step's output" + ("; --down shows what was made from it" if is_read else ""))
    note(f"Next: {hint(['marin', 'show', f'{found.start.name}@{found.start.digest[:10]}'], arguments)}")
    return 0
