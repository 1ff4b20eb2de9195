"""Prints what a step printed: in its last attempt, or in the one that is running.

STEP is a step's name, name@digits, the first digits of a digest, or a path inside its folder. If several recipes had
that name, the name alone means the one that is running, else the one whose last attempt ended last. With -f it goes
on while the attempt runs, and with the next attempt if the step is tried again; Ctrl-C stops looking, not the step.
"""

import io
import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from marin.cli.experiment import add_prefix_argument, hint, prefix_of
from marin.cli.output import UsageError, note, note_others, print_json

EXAMPLES = """\
  marin logs checkpoints/quickstart              what it printed
  marin logs checkpoints/quickstart -n 20        the last 20 lines
  marin logs checkpoints/quickstart -f           and what it prints from now on
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("step", metavar="STEP", help="step name, name@digits, ref, digest, or path")
    parser.add_argument("-n", "--lines", type=int, metavar="N", help="only the last N lines")
    parser.add_argument("-f", "--follow", action="store_true", help="go on while the attempt runs")
    parser.add_argument("--attempt", type=int, metavar="N", help="of the N-th attempt")
    add_prefix_argument(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from marin.execution.catalog import find_work
    from marin.execution.logs import attempt_log

    for flag, number in (("-n", arguments.lines), ("--attempt", arguments.attempt)):
        if number is not None and number < 1:
            raise UsageError(f"{flag} must be at least 1, got {number}")
    if arguments.follow and (arguments.json or arguments.attempt is not None):
        raise UsageError("-f follows the running attempt, as text; leave out --attempt and --json")
    entry = find_work(prefix_of(arguments), arguments.step)
    log = attempt_log(entry, arguments.attempt)
    data = log.read()
    lines = io.StringIO(data.decode("utf-8", "replace"), newline="").readlines()
    lines = lines if arguments.lines is None else lines[-arguments.lines :]
    if arguments.json:
        texts = [line.rstrip("\r\n") for line in lines]
        print_json(
            {"name": entry.name, "digest": entry.digest, "attempt": log.attempt, "log": log.path, "lines": texts}
        )
        return 0
    note_others(entry)
    note(f"log: {log.path}")
    sys.stdout.writelines(lines)
    if arguments.follow:
        _follow(entry, len(data))
        return 0
    if not lines:
        note(f"{entry.name} @{entry.digest[:6]} ({entry.status.lower()}) printed nothing")
    elif not lines[-1].endswith("\n"):
        print()
    if entry.status == "RUNNING" and arguments.attempt is None:
        note(f"Next: {hint(['marin', 'logs', f'{entry.name}@{entry.digest[:6]}', '-f'], arguments)}")
    return 0


def _follow(entry: Any, offset: int) -> None:
    import codecs

    from marin.execution.logs import follow

    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    sys.stdout.flush()
    try:
        for chunk in follow(entry, offset, lambda attempt: note(f"attempt {attempt}")):
            sys.stdout.write(decoder.decode(chunk))
            sys.stdout.flush()
    except KeyboardInterrupt:  # that is how one stops looking
        return
    from marin.execution.catalog import read_step

    now = read_step(entry.store, entry.paths.root)
    note(f"{entry.name} @{entry.digest[:6]}: {now.status.lower() if now is not None else 'gone'}")
