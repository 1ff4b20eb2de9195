"""Runs the experiment's steps in order, each at most once: a step whose output is there is not run again."""

from argparse import ArgumentParser, Namespace
from typing import Any

from marin.cli.experiment import add_consent_argument, add_experiment_arguments, step_patterns, with_steps_of
from marin.cli.output import UsageError

EXAMPLES = """\
  marin run experiments/quickstart.py
  marin run experiments/quickstart.py --set train.learning_rate=1e-3     one setting changed
  marin run experiments/quickstart.py exports/quickstart                  only this step and what it reads
"""


def add_arguments(parser: ArgumentParser) -> None:
    add_experiment_arguments(parser)
    parser.add_argument("-j", "--max-concurrent", type=int, metavar="N", help="at most N steps at once")
    parser.add_argument("--force-run-failed", action="store_true", help="run again what failed in an earlier run")
    add_consent_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="the same as `marin plan`")


def run(arguments: Namespace) -> int:
    if arguments.dry_run:
        from marin.cli import plan

        return plan.run(Namespace(**vars(arguments), check=False, json=False))
    if arguments.max_concurrent is not None and arguments.max_concurrent < 1:
        raise UsageError(f"-j must be at least 1, got {arguments.max_concurrent}")

    from marin.execution.executor import Executor, ExecutorMainConfig, run_and_report

    def command(steps: list[Any], description: str | None) -> None:
        config = ExecutorMainConfig(
            prefix=arguments.prefix,
            run_only=tuple(step_patterns(arguments.steps, steps) or ()),
            force_run_failed=arguments.force_run_failed,
            max_concurrent=arguments.max_concurrent,
            allow_tainted=arguments.allow_tainted,
        )
        run_and_report(Executor(config.prefix, description=description, command=arguments.typed), steps, config)

    with_steps_of(arguments, command)
    return 0
