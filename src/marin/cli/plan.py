"""Shows for every step whether a run would run it, and why; reads the store, changes nothing.

=  cached     +  new step     ~  changed     !  failed before     w  another run is at it     x  an input failed
t  struck out, or built on what was     d  made by another recipe than its version= has now
-  not needed: nothing that would run reads it
"""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from typing import Any

from marin.cli.experiment import add_experiment_arguments, choices_of, hint, prefix_of, with_steps_of
from marin.cli.output import note, print_json

EXAMPLES = """\
  marin plan experiments/quickstart.py
  marin plan experiments/quickstart.py --set train.learning_rate=1e-3    what would that change?
  marin plan experiments/quickstart.py --check                           exit code 5 if anything would run
  marin plan experiments/quickstart.py checkpoints/quickstart --config   what it was told, and where that comes from
"""


def add_arguments(parser: ArgumentParser) -> None:
    from marin.execution.flags import add_decisions

    add_experiment_arguments(parser)
    add_decisions(parser, forced="STEP")
    parser.add_argument("--config", action="store_true", help="print the config of each step asked for, not the plan")
    parser.add_argument("--check", action="store_true", help="exit with 5 if a run would do anything")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from marin.execution.executor import Executor

    executor = Executor(prefix_of(arguments))
    plans: list[Any] = []

    def command(steps: list[Any], description: str | None) -> None:
        plans.append(
            executor.plan(
                steps,
                choices=choices_of(arguments, steps),
            )
        )

    with_steps_of(arguments, command)
    is_done = all(plan.is_done for plan in plans)
    if arguments.json:
        steps = [item_json(item, plan) for plan in plans for item in plan]
        print_json({"prefix": executor.prefix, "is_done": is_done, "steps": steps})
    elif arguments.config:
        print("\n".join(_configs(plans)))
    else:
        from marin.execution.console import format_plan

        note(f"store: {executor.prefix}")
        for plan in plans:
            print(format_plan(plan))
        sys.stdout.flush()
        changed = next((item.node.name for plan in plans for item in plan if item.changes), None)
        if changed:
            note(f"Why?  {hint(['marin', 'why', arguments.file, changed], arguments)}")
        actions = {item.action for plan in plans for item in plan}
        note(f"Next: {hint(next_command(arguments, actions), arguments)}")
    return 5 if arguments.check and not is_done else 0


def _configs(plans: Sequence[Any]) -> Iterator[str]:
    """Name and config of each step asked for, paths of other steps as the plan has them."""
    from marin.execution.graph import resolve_config
    from marin.execution.record import readable

    for plan in plans:
        roots = {node.digest: node.path for node in plan.graph}
        for item in plan:
            if item.node.digest in plan.targets:
                config = resolve_config(item.node, plan.graph, item.node.path, roots)
                yield f"# {item.node.name} @{item.node.short}"
                # a config that knows where its values come from says so
                yield config.to_yaml() if hasattr(config, "to_yaml") else json.dumps(readable(config), indent=2)


def next_command(arguments: Namespace, actions: set[str]) -> list[str]:
    """What to type after seeing a plan with these actions: words of a command that would do something."""
    from marin.execution.flags import words_of

    if actions <= {"HIT", "SKIP"}:
        return ["marin", "ls"]
    if "TAINTED" in actions:
        return ["marin", "rerun", "--tainted", arguments.file]
    run = ["marin", "run", arguments.file, *arguments.steps, *words_of(arguments)]
    if "DRIFT" in actions:
        return [*run, "--accept-drift"]
    is_needed = "--force-run-failed" not in run and not actions & {"RUN", "WAIT"}
    return [*run, *["--force-run-failed"] * is_needed]


def item_json(item: Any, plan: Any) -> dict[str, Any]:
    """One step of a plan as plain values."""
    return {
        "name": item.node.name,
        "digest": item.node.digest,
        "path": item.node.path,
        "action": item.action,
        "reason": item.reason,
        "is_target": item.node.digest in plan.targets,
        "inputs": [{"name": plan.graph[digest].name, "digest": digest} for digest in item.node.deps],
        "changes": [change_json(change) for change in item.changes],
        "code_drift": list(item.code_drift),
    }


def change_json(change: Any) -> dict[str, Any]:
    """One difference of two recipes as plain values."""
    return {"path": change.path, "old": change.old, "new": change.new, "is_input": change.is_input}
