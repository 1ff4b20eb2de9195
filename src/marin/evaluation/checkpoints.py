"""Every checkpoint of a training run, asked the same tasks: a table, JSON, and a curve with error bands.

The questions are the same at every checkpoint, so the error bar of one score is not that of a difference between two:
where a model learns, neighbouring points move together, and the band is wider than the wiggles it is drawn around. Two
checkpoints are compared by `marin compare`, in pairs of answers.

    step-00000500/results.json, samples.jsonl    of each checkpoint
    checkpoints.json                             scores by task and step
    checkpoints.md                               the same as a table
    curve.svg, curve.png                         a panel for each task (needs matplotlib, of the extra `report`)

A checkpoint that was scored is not scored again, so a run that goes on adds only what is new. It is scored again where
a task that was skipped has data now, and under another EVALUATION_VERSION; results of another model, other settings or
other questions in its folder are refused.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marin.distributed.compilation_cache import use_compilation_cache
from marin.evaluation.config import CheckpointsConfig, TaskEvaluationConfig
from marin.evaluation.identity import EVALUATION_VERSION, EvaluationRecord, find_done
from marin.evaluation.models import checkpoints_of, run_tokenizer
from marin.evaluation.results import read_results
from marin.evaluation.run_tasks import asked_config
from marin.evaluation.task_plan import PlannedTasks
from marin.evaluation.task_step import (
    configured_chat,
    evaluate_model,
    open_configured,
    plan_configured,
    record_configured,
)
from marin.io.atomic import write_bytes, write_text

__all__ = ["CheckpointsConfig", "run"]

FORMAT_VERSION = "1.0"
SUMMARY_FILE, TABLE_FILE, SVG_FILE, PNG_FILE = "checkpoints.json", "checkpoints.md", "curve.svg", "curve.png"
_INK, _ACCENT, _GRID = "#1f2933", "#1f6f8b", "#d9dee3"


def run(config: CheckpointsConfig, quiet: bool = False, plan: PlannedTasks | None = None) -> Path:
    """Score every checkpoint and write what the module's docstring lists; returns the path of checkpoints.json.

    `plan` is what `plan_all` made of the evaluation, where that is at hand.

    Raises FileNotFoundError where the run has no checkpoints, and as `task_step.run` does.
    """
    # one program for all checkpoints: they differ in nothing but numbers
    use_compilation_cache()
    output = Path(config.evaluation.output_path)
    found = chosen_checkpoints(config.evaluation.model_path, config.every)
    plan = plan or plan_all(config.evaluation)
    scored: dict[int, dict[str, Any]] = {}
    for number, checkpoint in enumerate(found, start=1):
        name = checkpoint.rpartition("/")[2]
        if not quiet:
            print(f"{name}, {number} of {len(found)}", flush=True)
        scored[step_of(checkpoint)] = _scored(config, plan, checkpoint, output / name, quiet)
    summary = summarize(scored)
    if not summary["tasks"]:
        raise ValueError(f"no task could be asked of any checkpoint of {config.evaluation.model_path}")
    write_text(output / TABLE_FILE, table(summary))
    _draw(summary, output)
    path = output / SUMMARY_FILE
    write_text(path, json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def plan_all(config: TaskEvaluationConfig) -> PlannedTasks:
    """What every checkpoint of a run is asked."""
    if not config.apply_chat_template:
        return plan_configured(config, None)
    tokenizer = run_tokenizer(Path(config.model_path), config.tokenizer_path)
    return plan_configured(config, configured_chat(config, tokenizer))


def identity_of_all(config: TaskEvaluationConfig, plan: PlannedTasks, every: int | None = None) -> str:
    """What identifies the evaluations of all checkpoints of a run: its place, the settings and the questions, and which
    are taken, not the checkpoints, so that a run that went on has its new ones among those before."""
    place = {
        name: str(Path(path).resolve())
        for name, path in (("run", config.model_path), ("tokenizer", config.tokenizer_path))
        if path
    }
    record = EvaluationRecord(
        model={**place, "average": config.average} | ({} if every is None else {"every": every}),
        config=asked_config(plan, metrics=config.metrics, mutual_information=config.mutual_information),
        policy={"evaluation_version": EVALUATION_VERSION},
        asked=plan.hashes(),
    )
    return record.identity


def chosen_checkpoints(run: str | Path, every: int | None) -> list[str]:
    """The checkpoints to score, by step: those at multiples of `every`, and the last."""
    found = checkpoints_of(run)
    return [each for each in found if every is None or step_of(each) % every == 0 or each == found[-1]]


def step_of(checkpoint: str) -> int:
    """500 of `checkpoints/step-00000500`."""
    return int(checkpoint.rpartition("step-")[2])


def _scored(
    config: CheckpointsConfig, plan: PlannedTasks, checkpoint: str, output: Path, quiet: bool
) -> dict[str, Any]:
    """results.json of a checkpoint: that of an earlier run where the same bytes were asked the same."""
    model = open_configured(config.evaluation, checkpoint)
    before = find_done(output, record_configured(model, config.evaluation, plan), tell=lambda reason: None)
    if before is not None:
        return before
    scores = evaluate_model(model, config.evaluation, plan, output, quiet=quiet)
    assert scores.path is not None
    return read_results(scores.path)


def summarize(scored: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Scores by task, metric and step, of the results.json of each step.

    Raises ValueError where a task was asked other questions at one step than at another.
    """
    tasks: dict[str, dict[str, Any]] = {}
    for step, results in sorted(scored.items()):
        entries = {**results["tasks"], **results.get("groups", {})}
        for key, entry in entries.items():
            about = {name: entry.get(name) for name in ("n", "num_fewshot", "chance", "prompt_hash", "primary_metric")}
            is_group = key not in results["tasks"]
            members = {"members": entry["tasks"]} if is_group else {}
            task = tasks.setdefault(key, {**about, "is_group": is_group, **members, "metrics": {}})
            if task["prompt_hash"] != about["prompt_hash"]:
                raise ValueError(
                    f"task '{key}' was asked other questions at step {step} than before: its data has changed. Take "
                    "the folders of the earlier checkpoints away and evaluate all again"
                )
            for metric, score in entry["metrics"].items():
                point = {"step": step, "value": score["value"], "stderr": score["stderr"], "ci95": score.get("ci95")}
                task["metrics"].setdefault(metric, []).append(point)
    return {
        "format_version": FORMAT_VERSION,
        "steps": sorted(scored),
        "primary_metrics": {key: task["primary_metric"] or next(iter(task["metrics"])) for key, task in tasks.items()},
        "tasks": tasks,
        "skipped": next(iter(scored.values()))["skipped"] if scored else [],
    }


def table(summary: Mapping[str, Any]) -> str:
    """A row for each checkpoint, a column for each task, as Markdown."""
    columns = list(summary["tasks"])
    heads = ["step", *(f"{key} ({summary['primary_metrics'][key]})" for key in columns)]
    rows = []
    for step in summary["steps"]:
        cells = []
        for key in columns:
            points = summary["tasks"][key]["metrics"][summary["primary_metrics"][key]]
            point = next((each for each in points if each["step"] == step), None)
            cells.append("" if point is None else _cell(point))
        rows.append([f"{step:,}", *cells])
    counts = ["n", *(f"{summary['tasks'][key].get('n') or ''}" for key in columns)]
    lines = [heads, ["---:"] * len(heads), *rows, counts]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
    skipped = summary["skipped"]
    return text + (f"\n{len(skipped)} tasks were skipped: {', '.join(t['task'] for t in skipped)}\n" if skipped else "")


def _cell(point: Mapping[str, Any]) -> str:
    return f"{point['value']:.4f}" + (f" ± {point['stderr']:.4f}" if point["stderr"] is not None else "")


def _draw(summary: Mapping[str, Any], output: Path) -> None:
    try:
        pictures = draw(summary)
    except ImportError as error:
        print(f"no curve was drawn ({error}): pip install 'marin[report]'; the table has its numbers", flush=True)
        return
    for name, content in pictures.items():
        write_bytes(output / name, content)


def draw(summary: Mapping[str, Any]) -> dict[str, bytes]:
    """curve.svg and curve.png: a panel for each task, its score by step with the 95 % interval as a band.

    The same bytes for the same scores. Raises ImportError without matplotlib.
    """
    import matplotlib
    from matplotlib.figure import Figure

    keys = shown_tasks(summary)
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.5 * rows), layout="constrained")
    for place, key in enumerate(keys, start=1):
        task, metric = summary["tasks"][key], summary["primary_metrics"][key]
        points = task["metrics"][metric]
        steps = [point["step"] for point in points]
        axes = figure.add_subplot(rows, columns, place)
        low = [(p["ci95"] or [p["value"]])[0] for p in points]
        high = [(p["ci95"] or [p["value"]])[-1] for p in points]
        axes.fill_between(steps, low, high, color=_ACCENT, alpha=0.18, linewidth=0)
        axes.plot(steps, [point["value"] for point in points], "o-", color=_ACCENT, markersize=3, linewidth=1.3)
        if task.get("chance") is not None and metric.startswith("acc"):
            axes.axhline(task["chance"], color=_INK, linewidth=0.7, linestyle=":")
        title = f"{key} (n = {task['n']:,})" if task.get("n") else key
        axes.set_title(title, fontsize=9, loc="left", color=_INK)
        axes.set_ylabel(metric, fontsize=8)
        axes.set_xlabel("step (updates done)", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(axis="y", color=_GRID, linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    pictures = {}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "marin"}):
        settings: dict[str, Any]
        for name, settings in ((SVG_FILE, {"metadata": {"Date": None}}), (PNG_FILE, {"dpi": 150, "metadata": {}})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=name.rpartition(".")[2], **settings)
            pictures[name] = buffer.getvalue()
    return pictures


def shown_tasks(summary: Mapping[str, Any], at_most: int = 24) -> Sequence[str]:
    """Tasks to show: of many, those of no group, as far as there is room, and the groups. CORE hides none of its."""
    tasks = summary["tasks"]
    if len(tasks) <= at_most:
        return list(tasks)
    groups = [key for key, task in tasks.items() if task["is_group"]][:at_most]
    grouped = {member for key in groups if "centred" not in tasks[key]["metrics"] for member in tasks[key]["members"]}
    single = [key for key, task in tasks.items() if not task["is_group"] and key not in grouped]
    return [*single[: at_most - len(groups)], *groups]
