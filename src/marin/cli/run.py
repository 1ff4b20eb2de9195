"""Runs the experiment's steps in order, each at most once: a step whose output is there is not run again."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

from marin.cli.experiment import add_experiment_arguments, choices_of, with_steps_of
from marin.cli.output import FORMAT_VERSION, UsageError

EXAMPLES = """\
  marin run experiments/quickstart.py
  marin run experiments/quickstart.py --set train.learning_rate=1e-3    one setting changed
  marin run experiments/quickstart.py exports/quickstart                only this step and what it reads
  marin run experiments/quickstart.py --cluster ray                     on a Ray cluster
"""


def add_arguments(parser: ArgumentParser) -> None:
    from marin.execution.flags import add_cluster, add_decisions, add_single_runner

    add_experiment_arguments(parser)
    parser.add_argument("-j", "--max-concurrent", type=int, metavar="N", help="at most N steps at once")
    parser.add_argument("--dry-run", action="store_true", help="the same as `marin plan`")
    parser.add_argument("--json", action="store_true", help="events on stdout, one JSON object a line")
    add_decisions(parser, forced="STEP")
    add_cluster(parser)
    add_single_runner(parser)


def run(arguments: Namespace) -> int:
    if arguments.dry_run:
        from marin.cli import plan

        return plan.run(Namespace(**vars(arguments), check=False, config=False))
    if arguments.max_concurrent is not None and arguments.max_concurrent < 1:
        raise UsageError(f"-j must be at least 1, got {arguments.max_concurrent}")

    from marin.execution.executor import Executor, ExecutorMainConfig, run_and_report

    def command(steps: list[Any], description: str | None) -> None:
        config = ExecutorMainConfig(
            prefix=arguments.prefix,
            max_concurrent=arguments.max_concurrent,
            choices=choices_of(arguments, steps),
            cluster=arguments.cluster,
            single_runner=arguments.single_runner,
            json=arguments.json,
        )
        executor = Executor(
            config.prefix,
            description=description,
            command=arguments.typed,
            quiet=config.json,
            on_event=print_event if config.json else None,
            single_runner=config.single_runner,
        )
        run_and_report(executor, steps, config)

    with_steps_of(arguments, command)
    return 0


def print_event(event: Mapping[str, Any]) -> None:
    """One event of a run as one line of JSON."""
    import json

    from marin.execution.console import print_data

    print_data(json.dumps({"format_version": FORMAT_VERSION, **event}))
