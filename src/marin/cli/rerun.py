"""Makes again what is struck out and what is tainted by it, and nothing else.

Without FILE.py, runs the scripts, with the settings and in the folders, of the runs on record that made those outputs.
A step that was struck out must have another recipe by now, or read differently, than when it made its output.
"""

import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from marin.cli.experiment import add_settings_argument, add_writing_arguments, hint, store_to_write, with_steps_of
from marin.cli.output import RefusedError, UsageError, note, print_json

EXAMPLES = """\
  marin rerun --tainted --dry-run                     what would be made again
  marin rerun --tainted                               make it again
  marin rerun --tainted experiments/quickstart.py     only what this script makes
"""


def add_arguments(parser: ArgumentParser) -> None:
    from marin.execution.flags import add_cluster

    parser.add_argument(
        "files", metavar="FILE.py", nargs="*", default=[], help="the experiments (default: those on record)"
    )
    parser.add_argument("--tainted", action="store_true", help="what is struck out or tainted; needed: no other kind")
    add_settings_argument(parser)
    add_writing_arguments(parser)
    parser.add_argument("--force", action="store_true", help="also where the code is what it was")
    parser.add_argument("--dry-run", action="store_true", help="only show the plan")
    parser.add_argument("-j", "--max-concurrent", type=int, metavar="N", help="at most N steps at once")
    parser.add_argument("--json", action="store_true", help="with --dry-run: one JSON object")
    add_cluster(parser)


def run(arguments: Namespace) -> int:
    if not arguments.tainted:
        raise UsageError("say --tainted; to run steps of your choice again, `marin run FILE.py STEP`")
    if arguments.overrides and not arguments.files:
        raise UsageError("--set goes with FILE.py; without one, the settings on record are used")
    if arguments.json and not arguments.dry_run:
        raise UsageError("--json goes with --dry-run")
    if arguments.max_concurrent is not None and arguments.max_concurrent < 1:
        raise UsageError(f"-j must be at least 1, got {arguments.max_concurrent}")
    store = store_to_write(arguments, writes=not arguments.dry_run)
    if len(arguments.files) == 1:
        return _rerun_one(arguments, store)
    if arguments.files:
        return _rerun_each([(file, arguments.overrides, None) for file in arguments.files], arguments, store)
    return _rerun_recorded(arguments, store)


# -- one script, in this process --------------------------------------------------------------------------------------


def _rerun_one(arguments: Namespace, store: Any) -> int:
    from marin.cli.plan import item_json
    from marin.execution.console import format_plan
    from marin.execution.executor import Executor, ExecutorMainConfig, run_and_report
    from marin.execution.graph import build_graph
    from marin.execution.invalidation import Taint
    from marin.execution.plan import Choices
    from marin.execution.remake import steps_to_remake, to_remake, unchanged_producers

    arguments.file = arguments.files[0]
    shown: list[dict[str, Any]] = []

    def command(steps: list[Any], description: str | None) -> None:
        executor = Executor(
            store.prefix,
            description=description,
            command=arguments.typed,
            single_runner=arguments.single_runner,
        )
        taint = Taint(store)
        outputs, graph = to_remake(store, taint), build_graph(steps, prefix=store.prefix)
        chosen = steps_to_remake(graph, store, outputs)
        if not chosen:
            note(f"{arguments.file} makes nothing that is struck out or tainted")
            return
        same = [] if arguments.force else unchanged_producers(graph, chosen, outputs, taint)
        if same:
            raise RefusedError(_unchanged_text(same, taint))
        choices = Choices(rerun_tainted=True, force_run_failed=True, only=chosen)
        if arguments.dry_run:
            plan = executor.plan(steps, choices=choices)
            if arguments.json:
                shown.extend(item_json(item, plan) for item in plan)
            else:
                print(format_plan(plan))
            return
        config = ExecutorMainConfig(
            prefix=store.prefix,
            max_concurrent=arguments.max_concurrent,
            choices=choices,
            cluster=arguments.cluster,
            single_runner=arguments.single_runner,
        )
        run_and_report(executor, steps, config)

    with_steps_of(arguments, command)
    if arguments.json:
        print_json({"prefix": store.prefix, "steps": shown, "left": []})
    elif arguments.dry_run:
        sys.stdout.flush()
        note(f"Next: {hint(['marin', 'rerun', '--tainted', arguments.file], arguments)}")
    return 0


def _unchanged_text(same: list[Any], taint: Any) -> str:
    lines = []
    for output, function, can_tell in same[:8]:
        reads = "reads as it did then" if can_tell else "has no fingerprint on record to compare with"
        lines.append(f"{output.address} was {taint.trouble(output.state)}, and {function} {reads}")
    if len(same) > 8:
        lines.append(f"... and {len(same) - 8} more")
    return (
        "nothing was run: "
        + "\n  ".join(lines)
        + "\nMend the function, or raise the step's code_version; --force makes the outputs again as it is"
    )


# -- several, each in a process of its own ----------------------------------------------------------------------------


def _rerun_recorded(arguments: Namespace, store: Any) -> int:
    from marin.execution.remake import origins, to_remake

    outputs = to_remake(store)
    if not outputs:
        if arguments.json:
            print_json({"prefix": store.prefix, "steps": [], "left": []})
        else:
            note("nothing is struck out or tainted")
        return 0
    known = origins(store, outputs)
    jobs = [(o.script, list(o.settings), o.folder) for o in known if o.exists]
    gone = [origin for origin in known if not origin.exists]
    code = _rerun_each(jobs, arguments, store, left=[o.address for origin in gone for o in origin.outputs])
    if code == 0 and not arguments.dry_run:
        keys = {output.key for origin in known if origin.exists for output in origin.outputs}
        stale = [output.address for output in to_remake(store) if output.key in keys]
        if stale:
            shown = ", ".join(stale[:5]) + (f" and {len(stale) - 5} more" if len(stale) > 5 else "")
            note(f"left: {shown}: today's scripts make no such outputs any more")
    for origin in gone:
        what = f"{origin.script} is gone" if origin.script else "no run on record names their script"
        names = ", ".join(output.address for output in origin.outputs[:5])
        more = f" and {len(origin.outputs) - 5} more" if len(origin.outputs) > 5 else ""
        words = ["marin", "rerun", "--tainted", "FILE.py"]
        words += [word for text in origin.settings for word in ("--set", text)]
        note(f"left: {names}{more}: {what}; give it: {hint(words, arguments)}")
    return code or (1 if gone else 0)


def _rerun_each(jobs: list[Any], arguments: Namespace, store: Any, left: list[str] | None = None) -> int:
    """Each script as its own `marin rerun`: modules of one must not be taken for those of another.

    The worst exit code; all scripts are tried.
    """
    import json

    codes, steps = [0], []
    for file, settings, folder in jobs:
        code, out = _in_process(_words(file, settings, arguments, store), folder, capture=arguments.json)
        codes.append(code)
        if arguments.json and code == 0:
            steps += json.loads(out)["steps"]
    if arguments.json:
        print_json({"prefix": store.prefix, "steps": steps, "left": left or []})
    return max(codes)


def _words(file: str, settings: list[str], arguments: Namespace, store: Any) -> list[str]:
    words = ["rerun", "--tainted", file, *(word for text in settings for word in ("--set", text))]
    words += ["--prefix", store.prefix]
    for name in ("force", "dry_run", "json", "single_runner"):
        if getattr(arguments, name):
            words.append(f"--{name.replace('_', '-')}")
    if arguments.max_concurrent is not None:
        words += ["-j", str(arguments.max_concurrent)]
    if arguments.cluster is not None:
        words += ["--cluster", arguments.cluster]
    return words


def _in_process(words: list[str], folder: str | None, capture: bool) -> tuple[int, str]:
    """(exit code, what it printed if captured) of a marin command, run in a folder if that still exists."""
    import os
    import shlex
    import subprocess

    note(f"$ {shlex.join(['marin', *words])}")
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "marin.cli.main", *words],
        cwd=folder if folder is not None and os.path.isdir(folder) else None,
        stdout=subprocess.PIPE if capture else None,
        text=True,
    )
    interrupted = False
    while True:
        try:
            out, _ = child.communicate()
        except KeyboardInterrupt:  # the child has got it too, and writes down where it stopped
            interrupted = True
            continue
        if interrupted:
            raise KeyboardInterrupt
        code = child.returncode
        return (code if code >= 0 else 128 - code), out or ""  # as a shell says it, if a signal ended it
