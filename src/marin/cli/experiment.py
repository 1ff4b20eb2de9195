"""Get the steps out of an experiment's script: what `run`, `plan` and `why` have in common.

The file runs as `__main__`, as `python FILE` would run it, and whatever it gives to `executor_main` is handed over
instead of being run. So a script needs nothing for the commands' sake.
"""

import contextlib
import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from typing import Any

from marin.cli.output import RefusedError, UsageError

_WRITING = ("run", "rerun", "invalidate", "verify", "adopt", "pin", "gc")  # commands that take --single-runner


def add_experiment_arguments(parser: ArgumentParser) -> None:
    """The arguments that every command on an experiment takes."""
    parser.add_argument("file", metavar="FILE.py", help="the experiment: a script that calls executor_main")
    parser.add_argument("steps", metavar="STEP", nargs="*", default=[], help="only these steps, and what they read")
    add_settings_argument(parser)
    add_prefix_argument(parser)


def add_settings_argument(parser: ArgumentParser) -> None:
    """Settings of the experiment."""
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the experiment's config; handed to the script as it is",
    )


def add_prefix_argument(parser: ArgumentParser) -> None:
    """The store."""
    parser.add_argument(
        "--prefix",
        metavar="DIR|URL",
        help="store of all outputs: a folder or s3://... ($MARIN_PREFIX, else ./local_store)",
    )


def add_writing_arguments(parser: ArgumentParser) -> None:
    """The store, for a command that changes registers or writes what only one may write."""
    from marin.execution.flags import add_single_runner

    add_prefix_argument(parser)
    add_single_runner(parser)


def store_to_write(arguments: Namespace, *, writes: bool = True) -> Any:
    """The store of a command with `add_writing_arguments`, tried before anything is written.

    `writes`: whether this command line does write; one that only looks is content with any store. Raises NoStoreError,
    PrefixError.
    """
    from marin.execution.catalog import existing_store

    store = existing_store(prefix_of(arguments), single_runner=arguments.single_runner)
    if writes:
        store.prepare()
    return store


def prefix_of(arguments: Namespace) -> str:
    """The store that the command line or the environment names."""
    from marin.execution.executor import default_prefix

    return arguments.prefix if arguments.prefix is not None else default_prefix()


def with_steps_of(arguments: Namespace, command: Callable[[list[Any], str | None], None]) -> None:
    """Execute the script; call `command(steps, description)` in place of each `executor_main`, while it runs.

    Raises UsageError if there is no such file, it never calls executor_main, or its steps make no sense. If the script
    itself raises, prints the traceback from the script on and raises SystemExit(2): no step was run, so none failed.
    """
    import runpy

    from marin.cluster.environment import find_project
    from marin.execution.executor import capturing

    path = os.path.abspath(arguments.file)
    if not os.path.isfile(path):
        raise UsageError(f"no experiment {arguments.file!r}{_near_file(arguments.file)}")
    calls, in_command = 0, False

    def hand_over(steps: list[Any], description: str | None) -> None:
        nonlocal calls, in_command
        calls, in_command = calls + 1, True
        with _planning_errors(), contextlib.redirect_stdout(stdout):
            command(steps, description)
        in_command = False

    before, stdout = (sys.argv[:], sys.path[:]), sys.stdout
    sys.argv = [arguments.file, *(word for text in arguments.overrides for word in ("--set", text))]
    if arguments.prefix is not None:
        sys.argv += ["--prefix", arguments.prefix]
    sys.path.insert(0, os.path.dirname(path))
    project = find_project(os.path.dirname(path))
    if project is not None and project not in sys.path:
        sys.path.append(project)  # by which one experiment imports another, as `experiments.x`
    try:
        # what the script prints is not the command's data
        with capturing(hand_over), contextlib.redirect_stdout(sys.stderr):
            runpy.run_path(path, run_name="__main__")
    except (UsageError, RefusedError):
        raise
    except Exception as error:
        if not in_command and (text := _step_mistake(error, path)) is not None:
            raise UsageError(text) from None
        if not in_command and arguments.overrides and isinstance(error, ValueError):
            raise UsageError(
                f"--set {' '.join(arguments.overrides)}: {error}"
            ) from None  # the script builds without it: the values are at fault
        _report(error, path)
        raise SystemExit(1 if in_command else 2) from None
    finally:
        sys.argv[:], sys.path[:] = before
    if not calls:
        raise UsageError(
            f"{arguments.file} asks for no steps: it never calls executor_main. "
            "End it with `if __name__ == '__main__': executor_main(steps=[...])`"
        )


@contextlib.contextmanager
def _planning_errors() -> Iterator[None]:
    """Errors that say all there is to say need no traceback."""
    from marin.execution.mistakes import mistake

    try:
        yield
    except Exception as error:
        known = mistake(error)
        if known is None:
            raise
        raise (UsageError if known[1] == 2 else RefusedError)(known[0]) from None


def _step_mistake(error: Exception, path: str) -> str | None:
    """What a step that makes no sense has to say, and the script's line; None for an error of any other kind.

    Such an error is told from one of the script's own by where it was raised: where steps check what they are given.
    """
    from marin.execution.graph import GraphError

    frames = [(f.f_globals.get("__name__", ""), f.f_code.co_filename, line) for f, line in _frames(error, path)]
    is_ours = isinstance(error, ValueError | TypeError) and frames and frames[-1][0] == "marin.execution.step"
    if not is_ours and not isinstance(error, GraphError):
        return None
    # between the script and the check: the constructor that `dataclass` writes, functions that make steps for one
    own = [
        (file, line) for name, file, line in frames if name != "dataclasses" and f"{name}.".partition(".")[0] != "marin"
    ]
    if not own:
        return str(error)
    file, line = own[-1]
    return f"{os.path.relpath(file)}, line {line}: {error}"


def _frames(error: Exception, path: str) -> Iterator[tuple[Any, int]]:
    """(frame, line) of a traceback, from the script on."""
    import traceback

    return traceback.walk_tb(_from_script(error, path))


def _from_script(error: Exception, path: str) -> Any:
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != path:
        frames = frames.tb_next
    return frames


def _report(error: Exception, path: str) -> None:
    """Print the traceback without the frames that led to the script."""
    import traceback

    traceback.print_exception(type(error), error, _from_script(error, path))


def hint(command: list[str], arguments: Namespace) -> str:
    """A next command (its words) with the store and settings of this one, so that it can be typed as it stands."""
    import shlex

    words = [word for text in getattr(arguments, "overrides", ()) for word in ("--set", text)]
    words += ["--prefix", arguments.prefix] if arguments.prefix else []
    if command[1] not in ("run", "plan", "why", "rerun"):
        words = words[-2:] if arguments.prefix else []
    if getattr(arguments, "single_runner", False) and command[1] in _WRITING:
        words.append("--single-runner")
    return shlex.join([*command, *words])


def step_patterns(names: list[str], steps: list[Any]) -> list[str] | None:
    """Regular expressions that match exactly the named steps; None for all. Raises UsageError with near misses."""
    if not names:
        return None
    from marin.execution.graph import build_graph

    known = sorted({node.name for node in build_graph(steps)})
    return [f"^{re.escape(choose_step(name, known))}$" for name in names]


def choices_of(arguments: Namespace, steps: list[Any]) -> Any:
    """What the command line decides about a plan of these steps (`marin.execution.plan.Choices`)."""
    from dataclasses import replace

    from marin.execution.flags import decisions

    chosen = decisions(arguments, tuple(step_patterns(arguments.steps, steps) or ()), forced="STEP")
    return replace(chosen, force=tuple(step_patterns(arguments.force, steps) or ()))


def choose_step(name: str, known: list[str]) -> str:
    """The step that a person means by its name, or by the end or the beginning of it, where that is clear."""
    if name in known:
        return name
    matches = [k for k in known if k.endswith(f"/{name}")] or [k for k in known if k.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    from marin.execution.catalog import near_misses

    near = near_misses(name, known)
    raise UsageError(
        f"no step {name!r}; " + (f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known[:10])}")
    )


def _near_file(name: str) -> str:
    import difflib

    if not name.endswith(".py"):
        return f": give the script that defines the steps, and then the steps, as in `marin plan FILE.py {name}`"
    folder, base = os.path.split(name)
    try:
        files = [f for f in os.listdir(folder or ".") if f.endswith(".py")]
    except OSError:
        return f": there is no folder {folder!r}"
    near = difflib.get_close_matches(base, files, n=1)
    return f"; did you mean {os.path.join(folder, near[0])}?" if near else ""
