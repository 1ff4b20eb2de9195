"""How many documents a pipeline began with, which rule took how many, and how many are left.

The stages are named in the order in which documents pass through them: folders, or addresses of steps (name,
name@digits, ref, digest), whose outputs are meant. Stages that only say something about documents (signals, scores) are
none of them. If the last one is a token store, tokens are told too: counted there, estimated for the others.

What one stage wrote must be what the next one read, or there is no funnel.
"""

from argparse import ArgumentParser, Namespace

from marin.cli.data.inputs import find_input
from marin.cli.errors import told
from marin.cli.experiment import add_prefix_argument
from marin.cli.output import print_json

EXAMPLES = """\
  marin data funnel extracted/ filtered/ deduplicated/
  marin data funnel extracted/docs filtered/docs tokenized/docs --samples 1
  marin data funnel filtered/ --json | jq '.stages[0].rules'
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("paths", metavar="PATH|STEP", nargs="+", help="output folder of a stage, or a step's address")
    parser.add_argument("--samples", metavar="N", type=int, default=0, help="show N documents that each rule took (0)")
    add_prefix_argument(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from marin.report.funnel import funnel_text, read_funnel, stage_names

    named = stage_names(arguments.paths)
    places = {
        name: find_input(Namespace(**{**vars(arguments), "path": path, "format": None})).path
        for name, path in named.items()
    }
    with told():
        funnel = read_funnel(places)
    if arguments.json:
        print_json(funnel.to_json())
    else:
        print(funnel_text(funnel, num_samples=arguments.samples))
    return 0
