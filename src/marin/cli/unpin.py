"""Deletes a ref. The output stays until `marin gc --outputs` finds that nothing else keeps it."""

from argparse import ArgumentParser, Namespace

from marin.cli.experiment import add_prefix_argument, hint, prefix_of
from marin.cli.output import note, print_json

EXAMPLES = """\
  marin unpin paper-v1
  marin ls refs             what there is
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("ref", metavar="REF", help="name of the ref")
    add_prefix_argument(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from marin.execution.catalog import existing_store
    from marin.execution.refs import unpin

    ref = unpin(existing_store(prefix_of(arguments)), arguments.ref)
    if arguments.json:
        print_json({"ref": ref.to_json()})
        return 0
    print(f"{ref.name}  named {ref.step} @{ref.digest[:6]} attempt {ref.attempt}")
    note(f"Next: {hint(['marin', 'gc', '--outputs', '--dry-run'], arguments)}")
    return 0
