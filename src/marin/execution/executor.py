"""Say what the steps are; get them run, each at most once: the public face of the executor.

    executor_main(steps=[stats])                    # in a script, with command-line flags
    run([stats], prefix="./local_store")            # the same as a function, which never exits
    plan([stats], prefix="./local_store")           # what it would do, and why, changing nothing

Importing this module is cheap (standard library only, and little of it): an experiment's script is imported by
planners, tests and the processes of its own steps. Everything that runs something is imported when it is called.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

from marin.execution.step import (
    THIS_OUTPUT_PATH,
    ExecutorStep,
    InputName,
    OutputName,
    VersionedValue,
    ensure_versioned,
    get_executor_step,
    output_path_of,
    runtime,
    this_output_path,
    unversioned,
    unwrap_versioned_value,
    version_meta,
    versioned,
)

if TYPE_CHECKING:
    from marin.execution.plan import Plan
    from marin.execution.runner import StepResult
    from marin.execution.status import LeaseTimes

__all__ = [
    "THIS_OUTPUT_PATH",
    "Executor",
    "ExecutorMainConfig",
    "ExecutorStep",
    "InputName",
    "OutputName",
    "PrefixError",
    "RunResult",
    "VersionedValue",
    "capturing",
    "default_prefix",
    "ensure_versioned",
    "executor_main",
    "get_executor_step",
    "output_path_of",
    "plan",
    "run",
    "runtime",
    "this_output_path",
    "unversioned",
    "unwrap_versioned_value",
    "version_meta",
    "versioned",
]

Steps: TypeAlias = "Iterable[ExecutorStep | InputName]"


class PrefixError(ValueError):
    """The store cannot be used: it is not writable, or its file system lacks something that registers need."""


def mistake(error: BaseException) -> tuple[str, int] | None:
    """(what to print, exit code) for an error that says all there is to say; None for any other.

    2: what was asked for makes no sense. 3: it makes sense and is refused, for the sake of what is in the store.
    """
    from marin.execution.canonical import UnversionableError
    from marin.execution.catalog import AddressError, NoStoreError
    from marin.execution.graph import GraphError
    from marin.execution.plan import DigestCollision, SelectionError
    from marin.execution.status import RegisterError

    if isinstance(error, DigestCollision | RegisterError):
        return str(error), 3
    senseless = (UnversionableError, GraphError, PrefixError, SelectionError, NoStoreError, AddressError)
    return (str(error), 2) if isinstance(error, senseless) else None


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run did."""

    prefix: str  # absolute path of the store
    run_id: str | None  # names the run's record, `<prefix>/.exec/runs/<run_id>`; None for a dry run
    plan: "Plan"  # what was decided before anything ran
    steps: tuple["StepResult", ...]  # inputs first; () for a dry run

    @property
    def is_ok(self) -> bool:
        """Whether every step that was asked for has its output."""
        return all(step.is_ok for step in self.steps)

    def __getitem__(self, step: "ExecutorStep | InputName | str") -> "StepResult":
        """The result of a step, given as the step or by its name."""
        if isinstance(step, InputName):
            step = get_executor_step(step)
        if isinstance(step, str):
            found = [result for result in self.steps if result.name == step]
            if len(found) != 1:
                raise KeyError(f"{len(found)} steps of this run are named {step!r}; give the step itself")
            return found[0]
        digest = self.plan.graph.node_of(step).digest
        return next(result for result in self.steps if result.digest == digest)

    def output_path(self, step: "ExecutorStep | InputName | str") -> str:
        """Absolute path of the step's committed data; ValueError if it has none."""
        result = self[step]
        if result.output_path is None:
            raise ValueError(f"step '{result.name}' has no output: {result.action}")
        return result.output_path


def default_prefix() -> str:
    """Where outputs go when nobody says otherwise: $MARIN_PREFIX, else ./local_store."""
    return os.environ.get("MARIN_PREFIX") or "./local_store"


def _prepare_prefix(prefix: str) -> None:
    """Create the store and try on it what registers need, so that an unfit one is noticed before anything runs."""
    import fcntl

    advice = "Name another folder with --prefix or MARIN_PREFIX"
    probe = os.path.join(prefix, ".exec", f"probe-{os.urandom(4).hex()}")
    try:
        os.makedirs(os.path.join(prefix, ".exec", "runs"), exist_ok=True)
        with open(probe, "xb") as file:
            file.write(b"marin")
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
        os.link(probe, f"{probe}-link")
        os.replace(f"{probe}-link", probe)
    except OSError as error:
        raise PrefixError(f"cannot write to prefix {prefix}: {error.strerror or error}. {advice}") from error
    finally:
        for name in (probe, f"{probe}-link"):
            with contextlib.suppress(OSError):
                os.unlink(name)


class Executor:
    """Runs steps below one prefix, each at most once.

    >>> Executor(prefix="./local_store").run([stats]).output_path(stats)   # doctest: +SKIP
    """

    def __init__(
        self,
        prefix: str | os.PathLike[str] | None = None,
        executor_info_base_path: str | None = None,
        description: str | None = None,
        *,
        fsync: bool = True,
        lease_times: "LeaseTimes | None" = None,
        stream: TextIO | None = None,
        quiet: bool = False,
        command: Sequence[str] | None = None,
    ) -> None:
        """`prefix`: the store (default: `default_prefix`). `executor_info_base_path`: where records of runs go
        (default: `<prefix>/.exec/runs`). `fsync=False` leaves flushing to the system: for tests. `stream`: where
        progress goes (default: stderr); `quiet`: print none. `command`: what was typed, for the run's record (default:
        this process's command line)."""
        given = os.fspath(prefix) if prefix is not None else default_prefix()
        if "://" in given:
            raise PrefixError(f"prefix {given!r} is not a folder of this machine; only local stores work so far")
        self.prefix = os.path.abspath(given)
        if os.path.exists(self.prefix) and not os.path.isdir(self.prefix):
            raise PrefixError(
                f"cannot write to prefix {given}: it is a file. Name a folder with --prefix or MARIN_PREFIX"
            )
        self._info_path = os.path.abspath(executor_info_base_path) if executor_info_base_path else None
        self._description = description
        self._fsync = fsync
        self._lease_times = lease_times
        self._stream = stream
        self._quiet = quiet
        self._command = list(command) if command is not None else None

    def plan(
        self,
        steps: Steps,
        *,
        run_only: Sequence[str] | None = None,
        force_run_failed: bool = False,
        explain: bool = True,
    ) -> "Plan":
        """What `run` would do with the steps and all they read. Reads registers, writes nothing.

        `explain` compares a changed step with the last output of its name, field by field.
        """
        from marin.execution.graph import build_graph
        from marin.execution.plan import make_plan
        from marin.execution.status import LocalStore

        return make_plan(
            build_graph(steps, prefix=self.prefix),
            LocalStore(fsync=self._fsync),
            self.prefix,
            run_only=run_only,
            force_run_failed=force_run_failed,
            with_changes=explain,
        )

    def run(
        self,
        steps: Steps,
        *,
        dry_run: bool = False,
        run_only: Sequence[str] | None = None,
        force_run_failed: bool = False,
        max_concurrent: int | None = None,
    ) -> RunResult:
        """Run the steps and all they read, but for what is committed already.

        A step that fails stops only what reads it; look at `is_ok` of the result. `run_only`: regular expressions,
        run only steps in whose name one is found, and what they read. `force_run_failed`: try again what failed in an
        earlier run. `max_concurrent`: at most so many steps at once. `dry_run`: print the plan, run nothing.
        Raises PrefixError before anything runs if the store cannot be used, ValueError or TypeError if the steps make
        no sense, KeyboardInterrupt after an orderly stop.
        """
        from marin.execution.console import CODE_CHANGED, Console, format_plan

        if max_concurrent is not None and max_concurrent < 1:
            raise ValueError(f"max_concurrent must be at least 1, got {max_concurrent}")
        console = Console(self._stream, quiet=self._quiet)
        if dry_run:
            planned = self.plan(steps, run_only=run_only, force_run_failed=force_run_failed)
            console.line(format_plan(planned))
            return RunResult(prefix=self.prefix, run_id=None, plan=planned, steps=())
        planned = self.plan(steps, run_only=run_only, force_run_failed=force_run_failed, explain=False)
        _prepare_prefix(self.prefix)
        for item in planned:
            if item.code_changed:
                console.line(f"note: {item.node.name}: {CODE_CHANGED}")
        if any(item.action == "RUN" and item.node.step.pip_dependency_groups for item in planned):
            console.line("note: pip_dependency_groups has no effect yet: every step runs in this environment")
        return self._carry_out(planned, console, force_run_failed, max_concurrent)

    def _carry_out(
        self, planned: "Plan", console: Any, force_run_failed: bool, max_concurrent: int | None
    ) -> RunResult:
        import shlex
        from dataclasses import asdict

        from marin.execution.record import RunRecord, command_line, environment, new_run_id, utc
        from marin.execution.runner import Runner
        from marin.execution.status import LocalStore, active_run

        run_id = new_run_id()
        surroundings, command = environment(), command_line()
        if self._command is not None:
            surroundings["argv"], command = self._command, shlex.join(self._command)
        graph = planned.graph
        with active_run(run_id) as owner:
            record = RunRecord(
                os.path.join(self._info_path or os.path.join(self.prefix, ".exec", "runs"), run_id),
                {
                    "format": 1,
                    "run_id": run_id,
                    "status": "RUNNING",
                    "command": command,
                    "cwd": os.getcwd(),
                    "description": self._description,
                    "tags": sorted({tag for digest in planned.targets for tag in graph[digest].step.tags}),
                    "prefix": self.prefix,
                    "owner": asdict(owner),
                    "started": utc(),
                    "env": surroundings,
                    "targets": list(planned.targets),
                    "plan": [
                        {"digest": i.node.digest, "name": i.node.step.name, "action": i.action, "reason": i.reason}
                        for i in planned
                    ],
                },
            )
            status = "CRASHED"
            results: tuple[StepResult, ...] = ()
            runner = Runner(
                planned,
                store=LocalStore(fsync=self._fsync),
                owner=owner,
                run_record=record,
                environment=surroundings,
                console=console,
                force_run_failed=force_run_failed,
                max_concurrent=max_concurrent,
                times=self._lease_times,
            )
            try:
                record.write()
                results = runner.run()
                status = "SUCCEEDED" if all(result.is_ok for result in results) else "FAILED"
            except KeyboardInterrupt:
                status = "CANCELLED"
                raise
            finally:
                with contextlib.suppress(OSError):  # a full disk must not hide what happened
                    record.write(status=status, ended=utc(), steps=[r.to_json() for r in runner.results])
                record.close()
        return RunResult(prefix=self.prefix, run_id=run_id, plan=planned, steps=results)


def run(steps: Steps, *, prefix: str | os.PathLike[str] | None = None, **options: Any) -> RunResult:
    """`Executor(prefix).run(steps, **options)`."""
    return Executor(prefix).run(steps, **options)


def plan(steps: Steps, *, prefix: str | os.PathLike[str] | None = None, **options: Any) -> "Plan":
    """`Executor(prefix).plan(steps, **options)`."""
    return Executor(prefix).plan(steps, **options)


@dataclass(frozen=True, kw_only=True)
class ExecutorMainConfig:
    """What the command line of an experiment's script says."""

    prefix: str | None = None  # store of all outputs; None: $MARIN_PREFIX, else ./local_store
    dry_run: bool = False  # print what would run, and why
    run_only: tuple[str, ...] = ()  # regular expressions of step names to run, with what they read
    force_run_failed: bool = False  # run again what failed in an earlier run
    max_concurrent: int | None = None  # at most so many steps at once


def parse_command_line(arguments: Sequence[str] | None = None) -> ExecutorMainConfig:
    """The flags of an experiment's script; on a wrong one, prints usage and raises SystemExit(2)."""
    import argparse

    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Runs the steps of this experiment; what is there already is not run again."
    )
    parser.add_argument("--prefix", metavar="DIR", help="store of all outputs ($MARIN_PREFIX, else ./local_store)")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="print what would run, and why")
    parser.add_argument(
        "--run_only",
        "--run-only",
        nargs="+",
        action="extend",
        default=[],
        metavar="REGEX",
        help="run only steps in whose name one of these is found, and what they read",
    )
    parser.add_argument(
        "--force_run_failed", "--force-run-failed", action="store_true", help="run again what failed in an earlier run"
    )
    parser.add_argument("--max_concurrent", "--max-concurrent", type=int, metavar="N", help="at most N steps at once")
    parser.add_argument(
        "--set", action="append", metavar="FIELD=VALUE", help="change a field of the experiment's config, if it has one"
    )
    given = parser.parse_args(arguments)
    if given.max_concurrent is not None and given.max_concurrent < 1:
        parser.error(f"--max_concurrent must be at least 1, got {given.max_concurrent}")
    return ExecutorMainConfig(
        prefix=given.prefix,
        dry_run=given.dry_run,
        run_only=tuple(given.run_only),
        force_run_failed=given.force_run_failed,
        max_concurrent=given.max_concurrent,
    )


Command: TypeAlias = "Callable[[list[ExecutorStep | InputName], str | None], Any]"
_capturing: "Command | None" = None


@contextlib.contextmanager
def capturing(command: Command) -> Iterator[None]:
    """Inside, `executor_main` hands its steps and description to `command` instead of running them.

    So a script that ends in `executor_main(...)` can be planned, explained or run by other commands, as it is:

        with capturing(command):
            runpy.run_path(file, run_name="__main__")

    `command` is called while the script still is `__main__`: steps whose functions live in it can be run there.
    """
    global _capturing
    before, _capturing = _capturing, command
    try:
        yield
    finally:
        _capturing = before


def executor_main(
    steps: Steps, description: str | None = None, *, config: ExecutorMainConfig | None = None
) -> RunResult | None:
    """Run an experiment from its script, with the flags of the command line (or of `config`).

    Prints the store's place first, one line per event, and the outputs' places last. SystemExit(1) if a step failed,
    SystemExit(130) after Ctrl-C; SystemExit(2) or (3), with one line that says why, if nothing can be run as asked.
    Inside `capturing`, hands the steps over and returns None.
    """
    if sys._getframe(1).f_globals.get("__name__") == "__mp_main__":
        raise RuntimeError(
            "a step of this script runs in a process of its own, which imports the script again, and the script calls "
            "executor_main on import: put the call under `if __name__ == '__main__':`"
        )
    _refuse_unread_settings()
    steps = list(steps)
    if _capturing is not None:
        _capturing(steps, description)
        return None
    config = config or parse_command_line()
    try:
        executor = Executor(config.prefix, description=description)
        return run_and_report(executor, steps, config)
    except Exception as error:
        known = mistake(error)
        if known is None:
            raise
        print(f"error: {known[0]}", file=sys.stderr)
        raise SystemExit(known[1]) from None


def _refuse_unread_settings() -> None:
    """SystemExit(2) if the command line sets a field and the script has no config that could take it."""
    if not any(word == "--set" or word.startswith("--set=") for word in sys.argv[1:]):
        return
    config = sys.modules.get("marin.config")  # not imported: most scripts have no settings
    if config is None or not config.command_line_was_read():
        print(
            "error: --set: this script takes no settings: it never calls marin.config.from_command_line",
            file=sys.stderr,
        )
        raise SystemExit(2)


def run_and_report(executor: Executor, steps: Steps, config: ExecutorMainConfig) -> RunResult:
    """Run steps as a command does: say where, what, and how it ended; SystemExit as `executor_main`."""
    import time

    from marin.execution.console import Console, format_outputs, format_summary, print_data

    console = Console()
    console.line(f"store: {executor.prefix}")
    started = time.monotonic()
    try:
        result = executor.run(
            steps,
            dry_run=config.dry_run,
            run_only=config.run_only,
            force_run_failed=config.force_run_failed,
            max_concurrent=config.max_concurrent,
        )
    except KeyboardInterrupt:
        console.line("interrupted; run the same command again to go on")
        raise SystemExit(130) from None
    if config.dry_run:
        return result
    console.line(format_summary(result.steps, time.monotonic() - started))
    if outputs := format_outputs(result.plan, result.steps):
        print_data(outputs)
    if not result.is_ok:
        raise SystemExit(1)
    return result
