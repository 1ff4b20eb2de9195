"""Prints what a step printed: in its last attempt, or in the one that is running.

STEP is a step's name, name@digits, the first digits of a digest, or a path inside its folder.
"""

import io
import sys
from argparse import ArgumentParser, Namespace

from marin.cli.experiment import add_prefix_argument, prefix_of
from marin.cli.output import UsageError, note

EXAMPLES = """\
  marin logs quickstart/train              what it printed
  marin logs quickstart/train -n 20        the last 20 lines
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("step", metavar="STEP", help="step name, name@digits, digest, or path")
    parser.add_argument("-n", "--lines", type=int, metavar="N", help="only the last N lines")
    add_prefix_argument(parser)


def run(arguments: Namespace) -> int:
    from marin.execution.catalog import find_step

    if arguments.lines is not None and arguments.lines < 1:
        raise UsageError(f"-n must be at least 1, got {arguments.lines}")
    entry = find_step(prefix_of(arguments), arguments.step)
    note(f"log: {entry.log_path}")
    text = (entry.read_log() or b"").decode("utf-8", "replace")
    lines = io.StringIO(text, newline="").readlines()
    if arguments.lines is not None:
        lines = lines[-arguments.lines :]
    if not lines:
        note(f"{entry.name} @{entry.digest[:6]} ({entry.status.lower()}) printed nothing")
    sys.stdout.writelines(lines)
    if lines and not lines[-1].endswith("\n"):
        print()
    return 0
