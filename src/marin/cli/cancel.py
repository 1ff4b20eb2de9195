"""Stops a run, as Ctrl-C would: nothing new starts, what runs gets 10 seconds to end well.

Of a step, the run that has it; of a name without digits, the run of whichever recipe of that name is running. A run on
this machine gets a signal; one on another machine, or a cluster's worker that outlived its run, finds word that was
left for it when it renews its leases, within 15 seconds. The exit code is 0 when the run and its steps have ended, 1 if
one goes on after --wait seconds.
"""

from argparse import ArgumentParser, Namespace

from marin.cli.experiment import add_prefix_argument, hint, prefix_of
from marin.cli.output import UsageError, note, print_json

EXAMPLES = """\
  marin cancel 20261124-195328-b348d6          a run, by its id or the beginning of it
  marin cancel checkpoints/quickstart          the run that has this step
  marin cancel checkpoints/quickstart --now    as by Ctrl-C twice: its steps are killed
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("which", metavar="RUN|STEP", help="run id or its beginning, or a step that runs")
    parser.add_argument("--now", action="store_true", help="kill the steps instead of letting them end well")
    parser.add_argument("--wait", type=float, default=20.0, metavar="SECONDS", help="watch it so long (default: 20)")
    add_prefix_argument(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from marin.execution.cancel import cancel, run_of
    from marin.execution.catalog import existing_store

    if not arguments.wait >= 0:
        raise UsageError(f"--wait must be 0 or more, got {arguments.wait}")
    store = existing_store(prefix_of(arguments))
    entry = run_of(store, arguments.which)
    done = cancel(store, entry, now=arguments.now, wait_s=arguments.wait)
    has_ended = done.status != "RUNNING"
    if arguments.json:
        print_json({**vars(done), "has_ended": has_ended})
        return 0 if has_ended else 1
    if has_ended:
        # what its steps came to goes without saying, unless they outlived it
        left = [f"; {path}: {status.lower()}" for path, status in done.steps.items() if status != done.status]
        print(f"run {done.run_id}: {done.status.lower()}{''.join(left)}")
        note(f"Next: {hint(['marin', 'show', done.run_id], arguments)}")
        return 0
    how = "it got a signal" if done.signalled else f"word was left for it on {done.host}"
    print(f"run {done.run_id}: still running after {done.waited_s:.0f} s; {how}")
    note(f"Next: {hint(['marin', 'status', done.run_id, '--watch'], arguments)}")
    return 1
