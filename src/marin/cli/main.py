"""`marin <command> ...`: find the command, load it alone, turn its outcome into an exit code.

    0 ok   1 a step failed   2 usage   3 refused   4 `verify` found damage   5 `plan --check`: work   130 interrupted

The list of commands is written out here so that `marin --help` loads none of them; a test keeps the two alike.
"""

import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from types import ModuleType

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OK, STEP_FAILED, USAGE, REFUSED, MISMATCH, WORK_PENDING, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

COMMANDS = {
    "run": "run an experiment; what is there already is not run again",
    "plan": "show what a run would do, and why; changes nothing",
    "train": "train a language model from a YAML file, without the executor",
    "generate": "complete prompts with a model",
    "chat": "talk with a model",
    "eval": "ask a model tasks: scores with error bars",
    "why": "show what made a step change, down to the field",
    "status": "show what runs now",
    "ls": "list the steps, runs or refs of a store",
    "show": "show the record of a step or run",
    "logs": "print what a step printed; -f follows it",
    "cancel": "stop a run",
    "lineage": "show what an output was made from, or what was made from it",
    "data": "get text and tokens, look into them, and from a training run back to them",
    "tokenize": "train tokenizers, use, look at and compare them",
    "diff": "show what differs between two outputs: recipe, code, environment, files",
    "compare": "compare the scores of two models, question by question",
    "verify": "compare outputs with their records",
    "invalidate": "strike out wrong outputs, with all that is built on them",
    "rerun": "make again what was struck out and what is tainted by it",
    "adopt": "take existing data for a step's output",
    "pin": "name an output, so that gc keeps it",
    "unpin": "delete such a name",
    "gc": "delete what nothing needs",
    "completion": "print what makes a shell complete marin's words",
    "doctor": "look for what would stop a run",
    "ray-run": "run a command on a Ray cluster",
}

GROUPS = ("data", "tokenize")  # commands whose first argument is one of the VERBS of their package

HELP = """\
examples:
  marin run experiments/hello_world.py                  run it; run it again: nothing to do
  marin plan experiments/hello_world.py                 what would run, and which field changed
  marin why experiments/hello_world.py hello_world/stats

usage: marin COMMAND [ARGUMENTS]        marin COMMAND --help tells more

commands:
{commands}

The store of all outputs is --prefix, else $MARIN_PREFIX, else ./local_store.
Exit codes: 0 ok, 1 a step failed, 2 usage, 3 refused, 4 `verify` found damage, 5 `plan --check` found work,
130 interrupted.
"""


def help_text() -> str:
    """What `marin --help` prints."""
    width = max(map(len, COMMANDS))
    return HELP.format(commands="\n".join(f"  {name:<{width}}   {what}" for name, what in COMMANDS.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's) and return its exit code."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from marin.execution.console import open_missing_streams

        open_missing_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text(), end="", file=sys.stdout if arguments else sys.stderr)
        return OK if arguments else USAGE
    if arguments[0] in ("-V", "--version", "version"):
        from marin import __version__

        print(f"marin {__version__}")
        return OK
    if arguments[0] not in COMMANDS:
        return _unknown(arguments[0], COMMANDS)
    name, rest = find_command(arguments)
    if name in GROUPS:
        return _only_a_group(name, rest)
    for stream in (sys.stdout, sys.stderr):  # what a terminal's encoding lacks is no reason to fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not {"", os.getcwd()} & set(sys.path):  # where a config's `type: module:Class` is looked for
        sys.path.append(os.getcwd())
    try:
        return _dispatch(name, rest)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        from marin.execution.console import give_up_stdout

        give_up_stdout()
        return OK
    except OSError as error:
        if error.filename is not None or error.errno not in _NO_ROOM:
            raise
        from marin.execution.console import give_up_stdout

        give_up_stdout()
        print(f"error: cannot write: {error.strerror}", file=sys.stderr)
        return STEP_FAILED


def command_names() -> list[str]:
    """Every command that can be run, those of groups with their verbs, like `data head`."""
    return [f"{name} {verb}" if verb else name for name in COMMANDS for verb in (_verbs(name) or [""])]


def find_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """(the command's name, its arguments) of a command line; of a group without one of its verbs the group's name."""
    name, rest = arguments[0], list(arguments[1:])
    if rest and rest[0] in _verbs(name):
        return f"{name} {rest[0]}", rest[1:]
    return name, rest


def _verbs(group: str) -> dict[str, str]:
    import importlib

    return importlib.import_module(f"marin.cli.{group}").VERBS if group in GROUPS else {}


def command_of(name: str) -> "tuple[ModuleType, argparse.ArgumentParser]":
    """The module of a command, and what reads its arguments."""
    import argparse
    import importlib

    command = importlib.import_module("marin.cli." + name.replace("-", "_").replace(" ", "."))
    parser = argparse.ArgumentParser(
        prog=f"marin {name}",
        description=command.EXAMPLES,
        epilog=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # argparse puts usage first; a reader wants an example first
    parser.format_help = lambda: _examples_first(parser, command.EXAMPLES)  # type: ignore[method-assign]
    command.add_arguments(parser)
    return command, parser


def _dispatch(name: str, arguments: list[str]) -> int:
    from marin.cli.output import RefusedError, UsageError, error_line

    command, parser = command_of(name)
    try:
        given = parse(parser, arguments)
        given.typed = ["marin", *name.split(), *arguments]
        code = command.run(given)
        sys.stdout.flush()
        return code
    except UsageError as error:
        error_line(str(error))
        return USAGE
    except RefusedError as error:
        error_line(str(error))
        return REFUSED
    except (ValueError, TypeError) as error:
        from marin.execution.mistakes import mistake

        known = mistake(error)
        if known is None:
            raise
        error_line(known[0])
        return known[1]
    except SystemExit as stop:
        if isinstance(stop.code, str):
            error_line(stop.code)
            return USAGE  # said by an experiment's script, before any step ran
        return stop.code or OK


def parse(parser: "argparse.ArgumentParser", arguments: list[str]) -> "argparse.Namespace":
    """The arguments, flags before, between or behind the others."""
    import argparse

    from marin.execution.flags import check_flags

    if any(action.nargs == argparse.REMAINDER for action in parser._actions):
        return parser.parse_args(arguments)  # from the first that is no flag on, they are another command's
    check_flags(parser, arguments)
    if "--" in arguments:  # what follows is no flag, whatever it looks like: intermixed parsing forgets that
        return parser.parse_args(arguments)
    return parser.parse_intermixed_args(arguments)


def _examples_first(parser: "argparse.ArgumentParser", examples: str) -> str:
    formatter = parser._get_formatter()
    formatter.add_text("examples:\n" + examples.rstrip("\n"))
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    for group in parser._action_groups:
        formatter.start_section(group.title)
        formatter.add_text(group.description)
        formatter.add_arguments(group._group_actions)
        formatter.end_section()
    formatter.add_text(parser.epilog)
    return formatter.format_help()


def _only_a_group(name: str, rest: list[str]) -> int:
    """What there is to say where no verb of a group was given."""
    verbs = _verbs(name)
    if rest and not rest[0].startswith("-"):
        return _unknown(rest[0], verbs, of=name)
    is_asked = rest[:1] in (["-h"], ["--help"])
    width = max(map(len, verbs))
    lines = [f"  marin {name} {verb:<{width}}   {what}" for verb, what in verbs.items()]
    text = f"usage: marin {name} VERB [ARGUMENTS]        marin {name} VERB --help tells more\n\n" + "\n".join(lines)
    print(text, file=sys.stdout if is_asked else sys.stderr)
    return OK if is_asked else USAGE


def _unknown(name: str, known: dict[str, str], of: str = "") -> int:
    import difflib

    before = f"marin {of}".rstrip()
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean `{before} {near[0]}`?" if near else f"there are {', '.join(known)}"
    if name.endswith(".py"):
        hint = f"did you mean `marin run {name}`?"
    print(f"error: no command `{of} {name}`; {hint}" if of else f"error: no command {name!r}; {hint}", file=sys.stderr)
    return USAGE


if __name__ == "__main__":
    sys.exit(main())
