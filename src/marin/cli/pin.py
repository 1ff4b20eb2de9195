"""Names an output, so that `marin gc` keeps it and all that went into it.

ADDRESS: a step's name (its latest output), name@digits, the first digits of a digest, or a path inside the output.
"""

from argparse import ArgumentParser, Namespace

from marin.cli.experiment import add_writing_arguments, hint, store_to_write
from marin.cli.output import note, print_json

EXAMPLES = """\
  marin pin checkpoints/quickstart                under its own name and six digits
  marin pin reports/quickstart --name paper-v1    under a name of yours
  marin unpin paper-v1                            gc may delete it again
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="step name, name@digits, digest, or path")
    parser.add_argument("--name", metavar="NAME", help="name of the ref (default: the step's name and six digits)")
    parser.add_argument("--move", action="store_true", help="take the name from the output that has it")
    add_writing_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from marin.execution.catalog import find_step
    from marin.execution.refs import pin
    from marin.execution.status import current_user

    store = store_to_write(arguments)
    ref = pin(
        store, find_step(store.prefix, arguments.address), name=arguments.name, user=current_user(), move=arguments.move
    )
    if arguments.json:
        print_json({"ref": ref.to_json()})
        return 0
    print(f"{ref.name}  {ref.step} @{ref.digest[:6]} attempt {ref.attempt}")
    note(f"Next: {hint(['marin', 'ls', 'refs'], arguments)}")
    return 0
