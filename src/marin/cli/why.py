"""Names what changed in a step since the nearest earlier output of its name, or upstream, where it began.

Without STEP, explains everything that would run. Only where a change began is shown, not what follows from it.
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from marin.cli.experiment import add_experiment_arguments, choose_step, hint, prefix_of, with_steps_of
from marin.cli.output import local_time, note, paint, print_json
from marin.cli.plan import change_json, next_command

EXAMPLES = """\
  marin why experiments/quickstart.py                           everything that would run
  marin why experiments/quickstart.py checkpoints/quickstart    one step
  marin why experiments/quickstart.py --set train.learning_rate=1e-3
"""


def add_arguments(parser: ArgumentParser) -> None:
    add_experiment_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from marin.execution.executor import Executor
    from marin.execution.plan import explain_plan

    executor = Executor(prefix_of(arguments))
    answers: list[tuple[Any, Any, list[str]]] = []

    def command(steps: list[Any], description: str | None) -> None:
        plan = executor.plan(steps)
        chosen = [choose_step(name, [item.node.name for item in plan]) for name in arguments.steps]
        found = explain_plan(plan, executor.store, chosen or None)
        answers.extend((item, explanation, downstream(plan, explanation)) for item, explanation in found)

    with_steps_of(arguments, command)
    if arguments.json:
        print_json({"prefix": executor.prefix, "steps": [answer_json(*answer) for answer in answers]})
        return 0
    if not answers:
        print("nothing would run: every step is cached")
    shown: set[str] = set()
    for item, explanation, affected in answers:
        for line in answer_lines(item, explanation, affected, shown, every=bool(arguments.steps)):
            print(line)
    note(f"Next: {hint(next_command(arguments, {item.action for item, _, _ in answers}), arguments)}")
    return 0


def downstream(plan: Any, explanation: Any) -> list[str]:
    """Names of the steps that would run because of the explanation's first cause, in order."""
    if explanation is None:
        return []
    affected = {cause.node.digest for cause in explanation.causes}
    names = []
    for item in plan:
        if affected.intersection(item.node.deps):
            affected.add(item.node.digest)
            names.append(item.node.name)
    return list(dict.fromkeys(names))


def answer_lines(item: Any, explanation: Any, affected: list[str], shown: set[str], *, every: bool) -> list[str]:
    """What to say about one step; `shown` collects the causes that were told, so that each is told once."""
    from marin.execution.console import reason_of

    head = f"{paint(item.node.name, 'bold')} @{item.node.digest[:6]}"
    if item.action == "HIT":
        record = item.state.record
        lines = [f"{head} is cached: made {local_time(record['ended'])} by run {record['run_id']}"]
        if explanation.earlier is not None:
            old = explanation.earlier
            lines.append(f"compared with @{old.digest[:6]} ({local_time(old.ended)}), the nearest of that name:")
            lines += _change_lines(explanation.changes)
        return lines
    if explanation is None or item.action != "RUN":
        words = {"RUN": "will run", "WAIT": "is waited for", "SKIP": "is not needed"}
        return [f"{head} {words.get(item.action, 'will not run')}: {reason_of(item)}"]
    if not every and all(cause.node.digest in shown for cause in explanation.causes):
        return []
    shown.update(cause.node.digest for cause in explanation.causes)
    lines = []
    for cause in explanation.causes:
        mine = cause.node.digest == item.node.digest
        name = "it" if mine else cause.node.name
        if cause.earlier is None:
            where = "it is new" if mine else f"its input {name} is new"
            lines.append(f"{head} will run because {where}: no step of that name was ever run here")
            continue
        old = f"@{cause.earlier.digest[:6]} ({local_time(cause.earlier.ended)})"
        where = f"it differs from {old}" if mine else f"upstream, {name} @{cause.node.digest[:6]} differs from {old}"
        lines.append(f"{head} will run because {where}")
        lines += _change_lines(cause.changes)
    rest = [name for name in affected if name != item.node.name]
    if rest:
        more = f" and {len(rest) - 8} more" if len(rest) > 8 else ""
        lines.append(f"  downstream  {', '.join(rest[:8])}{more}")
    return lines


def _change_lines(changes: Any) -> list[str]:
    width = max(len(change.path) for change in changes)
    return [f"  {change.path:<{width}}  {str(change)[len(change.path) :].strip()}" for change in changes]


def answer_json(item: Any, explanation: Any, affected: list[str]) -> dict[str, Any]:
    """One step's answer as plain values."""
    causes = [
        {
            "name": cause.node.name,
            "digest": cause.node.digest,
            "earlier_digest": cause.earlier.digest if cause.earlier else None,
            "earlier_ended": cause.earlier.ended if cause.earlier else None,
            "changes": [change_json(change) for change in cause.changes],
        }
        for cause in (explanation.causes if explanation else ())
    ]
    return {
        "name": item.node.name,
        "digest": item.node.digest,
        "action": item.action,
        "reason": item.reason,
        "causes": causes,
        "downstream": affected,
    }
