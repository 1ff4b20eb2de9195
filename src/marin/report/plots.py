"""Figures as SVG text, the same bytes for the same data.

Matplotlib's `Figure` without pyplot (no global state), fonts kept as text, ids from a fixed salt, no date.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

INK, ACCENT, SECOND, GRID = "#1f2933", "#1f6f8b", "#c2571a", "#d9dee3"


def loss_curve(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Training loss by step (each row, and a running mean), and validation bits per byte where it was measured."""
    figure, axes = _figure(7.2, 3.4)
    train = [(row["step"], row["train/loss"]) for row in metrics if "train/loss" in row]
    axes.plot(*zip(*train, strict=True), color=GRID, linewidth=0.8, label="training loss")
    axes.plot(*zip(*_running_mean(train), strict=True), color=ACCENT, linewidth=1.6, label="running mean")
    axes.set_xlabel("step (updates done)")
    axes.set_ylabel("training loss, nats a token")
    names = sorted({key for row in metrics for key in row if key.endswith("/bits_per_byte")})
    if names:
        right = axes.twinx()
        right.spines["top"].set_visible(False)
        right.set_ylabel("validation, bits a byte")
        for name in names:
            points = [(row["step"], row[name]) for row in metrics if name in row]
            right.plot(*zip(*points, strict=True), "o-", color=SECOND, markersize=3, linewidth=1, label=name)
        lines = [*axes.get_lines(), *right.get_lines()]
        axes.legend(lines, [str(line.get_label()) for line in lines], frameon=False, loc="upper right")
    else:
        axes.legend(frameon=False, loc="upper right")
    return _svg(figure)


def schedule_curve(value: Callable[[int], float], num_train_steps: int, *, label: str = "learning rate") -> str:
    """A schedule by step: at most 2,000 points, evenly spread, the last step included."""
    figure, axes = _figure(7.2, 2.4)
    count = min(num_train_steps, 2000)
    steps = [index * (num_train_steps - 1) // max(1, count - 1) for index in range(count)]
    axes.plot(steps, [value(step) for step in steps], color=ACCENT, linewidth=1.4)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step (updates done)")
    axes.set_ylabel(label)
    return _svg(figure)


def score_bars(rows: Sequence[tuple[str, Mapping[str, Any]]], *, label: str, better: str) -> str:
    """One dot a row with the 95% interval of results.json, where it has one; rows are (name, score)."""
    figure, axes = _figure(7.2, 0.8 + 0.42 * len(rows))
    for position, (_, entry) in enumerate(reversed(rows)):
        value, ends = entry["value"], entry.get("ci95")
        around = None if ends is None else [[max(0.0, value - ends[0])], [max(0.0, ends[1] - value)]]
        axes.errorbar(value, position, xerr=around, fmt="o", color=ACCENT, capsize=4, markersize=5)
        axes.annotate(f"{value:.3f}", (value, position), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.2)
    axes.set_xlabel(f"{label} ({better} is better)")
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.margins(x=0.12)
    return _svg(figure)


def funnel_bars(stages: Sequence[tuple[str, int]], *, first: int) -> str:
    """Documents that are left after each stage, a bar each under a bar of all that came in."""
    figure, axes = _figure(7.2, 0.6 + 0.36 * (len(stages) + 1))
    rows = [("in", first), *stages]
    for position, (_, count) in enumerate(reversed(rows)):
        axes.barh(position, count, color=ACCENT, height=0.6)
        axes.annotate(f"{count:,}", (count, position), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axes.set_xlim(0, max(1, max(count for _, count in rows)) * 1.15)
    axes.set_xlabel("documents")
    return _svg(figure)


def _running_mean(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Mean over the last fiftieth of the run at each point."""
    window = max(1, len(points) // 50)
    values = [value for _, value in points]
    return [
        (step, sum(values[max(0, i + 1 - window) : i + 1]) / min(i + 1, window)) for i, (step, _) in enumerate(points)
    ]


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    with matplotlib.rc_context({"svg.hashsalt": "marin", "svg.fonttype": "none", "text.color": INK}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
