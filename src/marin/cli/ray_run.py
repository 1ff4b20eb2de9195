"""Runs a command on a Ray cluster, prints what it prints, and ends with its exit code.

The head of the cluster runs it, in a copy of --working_dir (files that git ignores are left out), with MARIN_PREFIX as
it is here and MARIN_CLUSTER=ray, so that its steps run on the cluster's machines. It goes on when this command is
interrupted: `ray job stop ID` ends it.
"""

import os
import re
import sys
from argparse import REMAINDER, ArgumentParser, Namespace
from collections.abc import Callable

from marin.cli.output import UsageError, note, print_json

EXAMPLES = """\
  marin ray-run -- python experiments/x.py                          on the cluster of $RAY_ADDRESS
  marin ray-run --address http://HOST:8265 -- marin run experiments/x.py
  marin ray-run --env_vars HF_HOME /data/hf --no_wait -- python experiments/x.py
"""

# What Ray writes into the log of every job before the command does.
_RAYS_LINES = re.compile(
    r"Running entrypoint for job |\d{4}-\d\d-\d\d .* job_manager\.py:\d+ -- Runtime env is setting up"
)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--env_vars", nargs=2, action="append", default=[], metavar=("K", "V"), help="a variable of the command"
    )
    parser.add_argument(
        "--address", metavar="ADDRESS", help="HOST:PORT of the cluster or http://HOST:8265 (else $RAY_ADDRESS, or here)"
    )
    parser.add_argument("--working_dir", default=".", metavar="DIR", help="folder to copy there (default: this one)")
    parser.add_argument("--no_wait", action="store_true", help="print the job's id and do not wait for it")
    parser.add_argument("--json", action="store_true", help="the job's id as one JSON object; does not wait either")
    parser.add_argument("command", nargs=REMAINDER, metavar="-- COMMAND ...", help="the command and its arguments")


def run(arguments: Namespace) -> int:
    from marin.cluster.ray import submit_command

    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise UsageError("no command: write it after --, like `marin ray-run -- python experiments/x.py`")
    if not os.path.isdir(arguments.working_dir):
        raise UsageError(f"--working_dir: there is no folder {arguments.working_dir!r}")
    env = {"MARIN_CLUSTER": "ray", **dict(arguments.env_vars)}
    if prefix := os.environ.get("MARIN_PREFIX"):
        env.setdefault("MARIN_PREFIX", prefix)
    try:
        job = submit_command(command, address=arguments.address, env=env, working_dir=arguments.working_dir)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if arguments.json:
        print_json({"job": job.id, "env": env, "command": command})
        return 0
    if arguments.no_wait:
        print(job.id)
        note(f"ray job logs --follow {job.id}    prints its log")
        return 0
    note(f"job {job.id}")
    write, end = _lines_to_stdout()
    try:
        return job.follow(write)
    except ValueError as error:
        raise UsageError(str(error)) from error
    except KeyboardInterrupt:
        note(f"job {job.id} goes on; `ray job stop {job.id}` ends it")
        raise
    finally:
        end()


def _lines_to_stdout() -> tuple[Callable[[str], None], Callable[[], None]]:
    """(function that prints text, function that prints its last line if that has no end), without Ray's own lines."""
    pending = ""

    def write(text: str) -> None:
        nonlocal pending
        *lines, pending = (pending + text).split("\n")
        for line in lines:
            if not _RAYS_LINES.match(line):
                sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def end() -> None:
        if pending:
            sys.stdout.write(pending)
            sys.stdout.flush()

    return write, end
