"""How `marin eval` shows results.json: a table of scores, and below it what a reader of them must know."""

from collections.abc import Iterator
from typing import Any

from marin.cli.output import note, table

_NAMED = 3
"""Tasks that a note names, of those that it is about."""
_WIDE = 1e6
"""From this size on, a score is written with an exponent."""
_MAX_STEPS = 6
"""Steps that a table of checkpoints has columns for."""


def scores_table(results: Any, *, members: bool) -> str:
    """Every group and task of results.json with each of its metrics: value ± standard error, n, chance.

    Groups come first. Tasks that were asked for as parts of a group follow with `members` only.
    """
    groups = results.get("groups", {})
    parts = set() if members else _parts(groups)
    shown = {**groups, **{key: entry for key, entry in results["tasks"].items() if key not in parts}}
    rows = [row for key, entry in shown.items() for row in _rows(key, entry)]
    return table(rows, ("task", "shots", "n", "metric", "value ± SE", "chance"), right=(1, 2, 5))


def _parts(groups: Any) -> set[str]:
    """The tasks of groups proper; of an average, as CORE, the tasks were asked for by name."""
    return {key for entry in groups.values() if entry["group"] != "core" for key in entry["tasks"]}


def _rows(key: str, entry: Any) -> Iterator[tuple[str, ...]]:
    n_all = entry.get("n_all") or entry.get("n") or 0
    n = f"{entry['n']:,}" + (f" of {n_all:,}" if n_all > entry["n"] else "") if "n" in entry else ""
    chance = entry.get("chance")
    for number, (metric, score) in enumerate(entry["metrics"].items()):
        first = (key, str(entry.get("num_fewshot", "")), n) if number == 0 else ("", "", "")
        yield (*first, metric, _score(score), f"{chance:.4f}" if chance is not None and metric == "acc" else "")


def _score(score: Any) -> str:
    from marin.evaluation.results import format_score

    if abs(score["value"]) >= _WIDE:
        return f"{score['value']:.4g}" + (f" ± {score['stderr']:.2g}" if score["stderr"] is not None else "")
    shown = format_score(score["value"], score["stderr"], 2).partition(" (")[0]
    if score["stderr"] == 0 and score.get("ci95"):  # all alike: the interval says how little that is
        low, high = score["ci95"]
        return f"{shown.partition(' ')[0]} [{low:.2f}, {high:.2f}]"
    return shown


def checkpoints_table(summary: Any) -> str:
    """The first metric of every task and group at each step, the first and the last among those that are shown."""
    from marin.evaluation.checkpoints import shown_tasks

    steps = summary["steps"]
    if len(steps) > _MAX_STEPS:
        note(f"{_MAX_STEPS} of {len(steps)} steps are shown; the others are in checkpoints.md")
        steps = [steps[round(i * (len(steps) - 1) / (_MAX_STEPS - 1))] for i in range(_MAX_STEPS)]
    rows = []
    for key in shown_tasks(summary, len(summary["tasks"])):
        metric = summary["primary_metrics"][key]
        scores = {point["step"]: point for point in summary["tasks"][key]["metrics"][metric]}
        n = summary["tasks"][key].get("n")
        cells = [_score(scores[step]) if step in scores else "" for step in steps]
        rows.append((key, f"{n:,}" if n else "", metric, *cells))
    return table(rows, ("task", "n", "metric", *(f"step {step:,}" for step in steps)), right=(1,))


_COUNTED_OF_ALL = {
    "num_truncated": "requests of the harness were longer than the model reads and lost their beginning",
    "num_shortened": "answers had less room than their task allows: half of what the model reads is the prompt's",
}
"""What is counted over all tasks of lm-evaluation-harness together."""


def tell_of(results: Any) -> None:
    """On stderr: what a reader of the scores must know."""
    from marin.evaluation.task_results import skipped_lines

    if results["model"].get("verified") is False:
        note("unverified: no parity.json says that this folder computes what its checkpoint did")
    tasks = results["tasks"]
    _tell_count(tasks, "num_truncated", "prompts were longer than the model reads and lost their beginning")
    _tell_count(tasks, "num_ended_by_length", "answers were as long as is allowed, and are cut there")
    for name, text in _COUNTED_OF_ALL.items():
        if results["policy"].get(name):
            note(f"{results['policy'][name]:,} {text}")
    said: dict[str, list[str]] = {}
    for key, entry in tasks.items():
        for text in entry["notes"]:
            if not text.startswith("the first "):  # which the table says
                said.setdefault(text, []).append(key)
    for text, keys in said.items():
        note(f"{_named(keys)}: {text}")
    for line in skipped_lines(results.get("skipped", [])):
        note(line)


def _tell_count(tasks: Any, name: str, text: str) -> None:
    """How often something happened, over all tasks in which it did."""
    counts = {key: entry["counts"][name] for key, entry in tasks.items() if entry["counts"].get(name)}
    if counts:
        total = sum(tasks[key]["n"] for key in counts)
        note(f"{_named(list(counts))}: {sum(counts.values()):,} of {total:,} {text}")


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return f"{', '.join(keys[:_NAMED])}{more}"
