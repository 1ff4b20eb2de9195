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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    from marin.execution.lease import LeaseTimes
    from marin.execution.plan import Choices, Plan
    from marin.execution.results import StepResult
    from marin.execution.store import Store

__all__ = [
    "THIS_OUTPUT_PATH",
    "Executor",
    "ExecutorMainConfig",
    "ExecutorStep",
    "InputName",
    "OutputName",
    "RefusedError",
    "RunResult",
    "VersionedValue",
    "capturing",
    "default_prefix",
    "ensure_versioned",
    "executor_main",
    "get_executor_step",
    "materialize",
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


class RefusedError(ValueError):
    """What was asked for would use outputs that must not be used, or needs a person's decision first."""


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
        on_event: Callable[[Mapping[str, Any]], None] | None = None,
        single_runner: bool = False,
    ) -> None:
        """`prefix`: the store (default: `default_prefix`). `executor_info_base_path`: where records of runs go
        (default: `<prefix>/.exec/runs`). `fsync=False` leaves flushing to the system: for tests. `stream`: where
        progress goes (default: stderr); `quiet`: print none. `command`: what was typed, for the run's record (default:
        this process's command line). `on_event`: is called with every event of a run, as its record keeps them.
        `single_runner`: accept an object store that ignores conditional writes; nobody else may run on it then."""
        from marin.execution.store import open_store

        given = os.fspath(prefix) if prefix is not None else default_prefix()
        self.store: Store = open_store(given, fsync=fsync, single_runner=single_runner)
        self._info_path = executor_info_base_path
        self._description = description
        self._lease_times = lease_times
        self._stream = stream
        self._quiet = quiet
        self._command = list(command) if command is not None else None
        self._on_event = on_event

    @property
    def prefix(self) -> str:
        """Absolute path or URL of the store."""
        return self.store.prefix

    def plan(
        self,
        steps: Steps,
        *,
        run_only: Sequence[str] | None = None,
        force_run_failed: bool = False,
        choices: "Choices | None" = None,
        explain: bool = True,
    ) -> "Plan":
        """What `run` would do with the steps and all they read. Reads registers, writes nothing.

        `explain` compares a changed step with the last output of its name, field by field.
        """
        from marin.execution.graph import build_graph
        from marin.execution.plan import make_plan

        return make_plan(
            build_graph(steps, prefix=self.prefix),
            self.store,
            choices=_choices(choices, run_only, force_run_failed),
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
        choices: "Choices | None" = None,
    ) -> RunResult:
        """Run the steps and all they read, but for what is committed already.

        A step that fails stops only what reads it; look at `is_ok` of the result. `run_only`: regular expressions,
        run only steps in whose name one is found, and what they read. `force_run_failed`: try again what failed in an
        earlier run. `max_concurrent`: at most so many steps at once. `dry_run`: print the plan, run nothing.
        `choices`: these and further decisions in one value. Raises PrefixError before anything runs if the store cannot
        be used, RefusedError if it would use outputs that are struck out or have drifted, ValueError or TypeError if
        the steps make no sense, KeyboardInterrupt after an orderly stop.
        """
        from marin.execution.console import Console, format_plan
        from marin.execution.plan import drift_text

        if max_concurrent is not None and max_concurrent < 1:
            raise ValueError(f"max_concurrent must be at least 1, got {max_concurrent}")
        console = Console(self._stream, quiet=self._quiet)
        choices = _choices(choices, run_only, force_run_failed)
        planned = self.plan(steps, choices=choices, explain=dry_run)
        if dry_run:
            console.line(format_plan(planned))
            return RunResult(prefix=self.prefix, run_id=None, plan=planned, steps=())
        _refuse(planned)
        if not planned.is_done:
            from marin.cluster.current import current_cluster
            from marin.execution.launcher import check_resources

            check_resources(planned, current_cluster())
        self.store.prepare()
        for item in planned:
            if item.code_drift:
                console.line(f"note: {item.node.name}: {drift_text(item.code_drift)}; --strict-code runs it again")
        return self._carry_out(planned, console, max_concurrent)

    def load(self, step: "ExecutorStep | InputName") -> Any:
        """The committed output of a step as its `output_type`; runs nothing.

        Raises RefusedError if it must not be used, ValueError if there is none.
        """
        from marin.execution.artifact import load_output
        from marin.execution.attempt import fetch_of, fetch_output
        from marin.execution.plan import HIT, REFUSED

        target = get_executor_step(step)
        planned = self.plan([target], explain=False)
        item = next(i for i in planned if i.node.digest in planned.targets)
        if item.action in REFUSED:
            raise RefusedError(f"step '{target.name}' must not be used: {item.reason}")
        if item.action != HIT or item.state is None or item.state.record is None:
            raise ValueError(
                f"step '{target.name}' @{item.node.digest[:10]} has no output in {self.prefix}: {item.reason}. "
                "Run it first, or use materialize(step)"
            )
        paths = planned.paths(item.node)
        folder = paths.data_root(item.state)
        if not self.store.is_local:
            folder = fetch_output(self.store, fetch_of(self.store, paths, item.state))
        return load_output(target.output_type, folder, dict(item.state.record))

    def _carry_out(self, planned: "Plan", console: Any, max_concurrent: int | None) -> RunResult:
        import shlex
        from dataclasses import asdict

        from marin.execution.record import (
            RunRecord,
            command_line,
            installed_packages,
            new_run_id,
            script_and_settings,
            surroundings,
            utc,
        )
        from marin.execution.results import settled
        from marin.execution.status import active_run
        from marin.execution.store import open_store

        run_id = new_run_id()
        around, command = surroundings(), command_line()
        if self._command is not None:
            around["argv"], command = self._command, shlex.join(self._command)
        graph = planned.graph
        with active_run(run_id) as owner:
            if planned.choices.accept_drift:
                from marin.execution.adoption import accept_drift

                accept_drift(self.store, planned, owner.user)
            store = open_store(self._info_path) if self._info_path else self.store
            script, settings = script_and_settings(around["argv"])
            record = RunRecord(
                store,
                f"{store.prefix}/{run_id}" if self._info_path else f"{self.prefix}/.exec/runs/{run_id}",
                {
                    "format": 1,
                    "run_id": run_id,
                    "status": "RUNNING",
                    "command": command,
                    "cwd": os.getcwd(),
                    "script": script,
                    "settings": settings,
                    "description": self._description,
                    "tags": sorted({tag for digest in planned.targets for tag in graph[digest].step.tags}),
                    "prefix": self.prefix,
                    "owner": asdict(owner),
                    "started": utc(),
                    "env": around,
                    "packages": installed_packages(),
                    "targets": list(planned.targets),
                    "plan": [
                        {
                            "digest": i.node.digest,
                            "name": i.node.step.name,
                            "path": i.node.path,
                            "action": i.action,
                            "reason": i.reason,
                        }
                        for i in planned
                    ],
                    "consented": sorted(planned.consented),
                },
                self._on_event,
            )
            status = "CRASHED"
            results: tuple[StepResult, ...] = ()
            runner = None
            if not planned.is_done:
                from marin.execution.runner import Runner

                runner = Runner(
                    planned,
                    store=self.store,
                    owner=owner,
                    run_record=record,
                    surroundings=around,
                    console=console,
                    max_concurrent=max_concurrent,
                    times=self._lease_times,
                )
            try:
                record.write()
                record.event("run_started", run_id=run_id, prefix=self.prefix, num_steps=len(planned.items))
                _refuse_evicted(self.store, planned)
                results = runner.run() if runner else tuple(settled(planned, on_disk=self.store.is_local).values())
                status = "SUCCEEDED" if all(result.is_ok for result in results) else "FAILED"
            except KeyboardInterrupt:
                status = "CANCELLED"
                raise
            finally:
                record.event("run_ended", run_id=run_id, status=status)
                with contextlib.suppress(OSError):  # a full disk must not hide what happened
                    ended = runner.results if runner else results
                    record.write(status=status, ended=utc(), steps=[r.to_json() for r in ended])
                record.close()
        return RunResult(prefix=self.prefix, run_id=run_id, plan=planned, steps=results)


def _choices(choices: "Choices | None", run_only: Sequence[str] | None, force_run_failed: bool) -> "Choices":
    from dataclasses import replace

    from marin.execution.plan import Choices

    choices = choices or Choices()
    return replace(
        choices,
        run_only=tuple(run_only or choices.run_only),
        force_run_failed=force_run_failed or choices.force_run_failed,
    )


def _refuse(planned: "Plan") -> None:
    """Raise RefusedError if a person must decide first: one line for each reason, and what can be decided."""
    from marin.execution.plan import DRIFT, TAINTED

    if planned.unexpected:
        lines = [f"{i.node.name} @{i.node.digest[:6]}: {i.reason}" for i in planned.unexpected[:8]]
        raise RefusedError("nothing was run: expected to be cached, but\n  " + "\n  ".join(lines))
    if not planned.refused:
        return
    lines = [f"{item.node.name} @{item.node.digest[:6]}: {item.reason}" for item in planned.refused[:8]]
    if len(planned.refused) > 8:
        lines.append(f"... and {len(planned.refused) - 8} more")
    actions = {item.action for item in planned.refused}
    advice = []
    if TAINTED in actions:
        advice.append("`marin rerun --tainted` makes them again; --allow-tainted uses them, and says so in the records")
    if DRIFT in actions:
        advice.append(
            "give the step another version=, or take the stored output for today's recipe with --accept-drift, "
            "which goes on record"
        )
    raise RefusedError("nothing was run: " + "\n  ".join(["", *lines]).lstrip() + "\n" + "\n".join(advice))


def _refuse_evicted(store: "Store", planned: "Plan") -> None:
    """Raise RefusedError if gc took an input of what is about to run after it was planned.

    Called when the run's record, which gc reads after it evicted and before it deletes, is written: so either gc sees
    the run and takes the eviction back, or the run sees the eviction.
    """
    from marin.execution.plan import HIT, RUN, WAIT
    from marin.execution.status import EVICTED

    used = {digest for item in planned if item.action in (RUN, WAIT) for digest in item.node.deps}
    for item in planned:
        if item.action == HIT and item.node.digest in used:
            state = store.read(planned.paths(item.node).root)
            if state is None or state.status == EVICTED:
                raise RefusedError(
                    f"nothing was run: the output of {item.node.name} was deleted while the run was being planned; "
                    "run the same command again"
                )


def materialize(step: "ExecutorStep | InputName", *, prefix: str | os.PathLike[str] | None = None) -> Any:
    """Run what is missing of a step and all it reads; its output as its `output_type`. ValueError if a step fails."""
    executor = Executor(prefix)
    result = executor.run([step])
    if not result.is_ok:
        broken = next(s for s in result.steps if s.action == "failed")
        raise ValueError(f"step '{broken.name}' failed: {broken.error.type}: {broken.error.message}")  # type: ignore[union-attr]
    return executor.load(step)


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
    choices: "Choices | None" = None  # further decisions; None: none
    cluster: str | None = None  # where jobs run: local, ray, ray:ADDRESS; None: $MARIN_CLUSTER, else where they went
    single_runner: bool = False  # accept an object store without conditional writes: nobody else runs on it
    json: bool = False  # print events as JSON lines on stdout instead of progress


def parse_command_line(arguments: Sequence[str] | None = None) -> ExecutorMainConfig:
    """The flags of an experiment's script; on a wrong one, prints usage and raises SystemExit(2)."""
    import argparse

    from marin.execution.flags import add_cluster, add_decisions, add_single_runner, check_flags, decisions

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
    add_decisions(parser)
    add_cluster(parser)
    add_single_runner(parser)
    parser.add_argument("--max_concurrent", "--max-concurrent", type=int, metavar="N", help="at most N steps at once")
    parser.add_argument(
        "--set", action="append", metavar="FIELD=VALUE", help="change a field of the experiment's config, if it has one"
    )
    arguments = sys.argv[1:] if arguments is None else arguments
    check_flags(parser, arguments)
    given = parser.parse_args(arguments)
    if given.max_concurrent is not None and given.max_concurrent < 1:
        parser.error(f"--max_concurrent must be at least 1, got {given.max_concurrent}")
    return ExecutorMainConfig(
        prefix=given.prefix,
        dry_run=given.dry_run,
        run_only=tuple(given.run_only),
        max_concurrent=given.max_concurrent,
        choices=decisions(given),
        cluster=given.cluster,
        single_runner=given.single_runner,
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
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from marin.execution.console import open_missing_streams

        open_missing_streams()
    _refuse_unread_settings()
    if isinstance(steps, ExecutorStep | InputName):
        from marin.execution.graph import NotAStepError

        error = NotAStepError("executor_main: steps is one step where a list of steps is expected; write steps=[...]")
        if _capturing is not None:
            raise error
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2)
    steps = list(steps)
    if _capturing is not None:
        _capturing(steps, description)
        return None
    try:
        config = config or parse_command_line()
        executor = Executor(config.prefix, description=description, single_runner=config.single_runner)
        return run_and_report(executor, steps, config)
    except Exception as error:
        from marin.execution.mistakes import mistake

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
    from marin.execution.flags import chosen_cluster

    console = Console(quiet=config.json)
    console.line(f"store: {executor.prefix}")
    started = time.monotonic()
    try:
        with chosen_cluster(config.cluster):
            result = executor.run(
                steps,
                dry_run=config.dry_run,
                run_only=config.run_only,
                force_run_failed=config.force_run_failed,
                max_concurrent=config.max_concurrent,
                choices=config.choices,
            )
    except KeyboardInterrupt:
        console.line("interrupted; run the same command again to go on")
        raise SystemExit(130) from None
    if config.dry_run:
        return result
    console.line(format_summary(result.steps, time.monotonic() - started))
    outputs = format_outputs(result.plan, result.steps)
    if outputs and not config.json:
        print_data(outputs)
    if not result.is_ok:
        raise SystemExit(1)
    return result
