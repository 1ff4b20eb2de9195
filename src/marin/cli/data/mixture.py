"""Prints what a run takes from each source: shares by stage, rows, epochs.

It needs the token stores, and no run: give the config.yaml of one that is yet to start.

RUN is a training step (name, name@digits, ref, digest or path), the output folder of a run, or a config.yaml.
"""

from argparse import ArgumentParser, Namespace

from marin.cli.data.training_run import add_run_argument, open_run
from marin.cli.output import print_json

EXAMPLES = """\
  marin data mixture config.yaml                          what a run will take from each source
  marin data mixture checkpoints/quickstart --json
"""


def add_arguments(parser: ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from dataclasses import asdict

    from marin.data.mixture_report import mixture_report, report_lines

    training = open_run(arguments)
    report = mixture_report(training.loader, training.config.trainer.num_train_steps, start_step=training.start_step)
    if arguments.json:
        print_json({"config": str(training.config_path), **asdict(report)})
    else:
        print("\n".join(report_lines(report)))
    return 0
