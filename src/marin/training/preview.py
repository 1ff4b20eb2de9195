"""A run drawn before it is launched: learning rate, batch size and mixture, as text and as one SVG.

A schedule that is wrong by a factor, a warm-up of 100% or a source that never comes are seen at a glance, and cost
nothing yet. The shares of the sources are those of the rows that the run will really take, counted from the loader's
own arithmetic. The SVG is written by hand here, so that a trainer needs no plotting library; its bytes are the same
for the same run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from marin.data.batch_schedule import BatchSchedule
from marin.data.mixture import Mixture
from marin.optim.plot import schedule_text

SCHEDULES_FILE = "schedules.svg"

_COLUMNS = 64
_BARS = " ▁▂▃▄▅▆▇█"
_COLORS = ("#1f6f8b", "#c2571a", "#5b8c3e", "#8a4f9e", "#b59410", "#4a6fd1", "#b23a5e", "#5f6b76")
_INK, _GRID = "#1f2933", "#d9dee3"


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a run will do, by step."""

    num_train_steps: int
    """Updates in the run."""
    learning_rate: Callable[[int], float]
    """Rate by number of updates done."""
    batches: BatchSchedule
    """Rows by number of updates done."""
    mixture: Mixture
    """The stream of rows."""
    start_step: int = 0
    """Updates done before the run begins."""

    @property
    def _num_steps(self) -> int:
        return self.num_train_steps - self.start_step

    def text(self) -> str:
        """For a terminal: each schedule as bars, and a line a source with its share of the rows on the way."""
        parts = [schedule_text(self.learning_rate, self.num_train_steps, start_step=self.start_step)]
        sizes = self.batches.sizes_between(self.start_step, self.num_train_steps)
        smallest, largest = min(sizes), max(sizes)
        if smallest < largest:
            steps = {"start_step": self.start_step, "name": "batch size, rows"}
            parts.append(schedule_text(self.batches.size, self.num_train_steps, **steps))
        else:
            parts.append(f"batch size {largest} rows throughout")
        parts.append(self._mixture_text())
        return "\n".join(parts)

    def svg(self) -> str:
        """The same as a figure: the panels stand below one another, over the same steps."""
        count = min(self._num_steps, 1000)
        steps = [self.start_step + i * (self._num_steps - 1) // max(1, count - 1) for i in range(count)]
        panels = [
            _line_panel(60, "learning rate", steps, [self.learning_rate(step) for step in steps]),
            _line_panel(240, "batch size, rows", steps, [float(self.batches.size(step)) for step in steps]),
            self._mixture_panel(420),
        ]
        height = 600 + 18 * len(self.mixture.names)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" font-family="sans-serif" '
            f'font-size="12" fill="{_INK}">\n<text x="60" y="24" font-size="14">{self._num_steps:,} updates, '
            f"{sum(self._run_rows()):,} rows</text>\n" + "\n".join(panels) + "\n</svg>\n"
        )

    def shares(self, columns: int = _COLUMNS) -> tuple[list[int], list[list[float]]]:
        """(edges of equal parts of the run in steps, each part's share of the rows of each source)."""
        columns = min(columns, self._num_steps)
        edges = [self.start_step + column * self._num_steps // columns for column in range(columns + 1)]
        taken = [self._rows_taken(step) for step in edges]
        parts = [[b - a for a, b in zip(*two, strict=True)] for two in zip(taken, taken[1:], strict=False)]
        return edges, [[rows / sum(part) for rows in part] for part in parts]

    def _rows_taken(self, step: int) -> list[int]:
        return list(self.mixture.rows_used(self.batches.offset(step)).values())

    def _run_rows(self) -> list[int]:
        ends = (self._rows_taken(self.start_step), self._rows_taken(self.num_train_steps))
        return [b - a for a, b in zip(*ends, strict=True)]

    def _mixture_text(self) -> str:
        _, shares = self.shares()
        total = self._run_rows()
        epochs = self.mixture.epochs(self.batches.offset(self.num_train_steps))
        width = max(map(len, self.mixture.names))
        lines = ["mixture, share of the rows"]
        for which, name in enumerate(self.mixture.names):
            bars = "".join(_BARS[round(8 * part[which])] for part in shares)
            share = total[which] / sum(total)
            lines.append(f"{name:<{width}} |{bars}| {share:.1%}, {total[which]:,} rows, {epochs[name]:.3g} epochs")
        return "\n".join(lines)

    def _mixture_panel(self, top: int) -> str:
        edges, shares = self.shares(200)
        scale = 640 / self._num_steps
        pieces = [_frame(top, "mixture, share of the rows", "1", "0", self.start_step, self.num_train_steps)]
        low = [0.0] * len(shares)
        for which, name in enumerate(self.mixture.names):
            color = _COLORS[which % len(_COLORS)]
            high = [a + part[which] for a, part in zip(low, shares, strict=True)]
            across = [60 + (edge - self.start_step) * scale for edge in edges]
            upper = [(across[i + end], h) for i, h in enumerate(high) for end in (0, 1)]
            lower = [(across[i + end], h) for i, h in enumerate(low) for end in (0, 1)]
            points = " ".join(f"{x:.1f},{top + 120 * (1 - y):.2f}" for x, y in [*upper, *reversed(lower)])
            pieces.append(f'<polygon points="{points}" fill="{color}"/>')
            at = top + 166 + 18 * which
            pieces.append(f'<rect x="60" y="{at - 10}" width="12" height="12" fill="{color}"/>')
            pieces.append(f'<text x="80" y="{at}">{escape(name)}</text>')
            low = high
        return "\n".join(pieces)


def _line_panel(top: int, label: str, steps: Sequence[int], values: Sequence[float]) -> str:
    highest = max(values) or 1.0
    scale = 640 / max(1, steps[-1] - steps[0])
    points = " ".join(
        f"{60 + (step - steps[0]) * scale:.1f},{top + 120 * (1 - max(0.0, value) / highest):.2f}"
        for step, value in zip(steps, values, strict=True)
    )
    frame = _frame(top, label, f"{highest:.4g}", "0", steps[0], steps[-1])
    return f'{frame}\n<polyline points="{points}" fill="none" stroke="{_COLORS[0]}" stroke-width="1.5"/>'


def _frame(top: int, label: str, highest: str, lowest: str, first_step: int, last_step: int) -> str:
    first = [f'<text x="60" y="{top + 136}">step {first_step:,}</text>'] if first_step else []
    return "\n".join(
        [
            *first,
            f'<text x="60" y="{top - 8}">{escape(label)}</text>',
            f'<path d="M60 {top}V{top + 120}H700" fill="none" stroke="{_GRID}"/>',
            f'<text x="54" y="{top + 10}" text-anchor="end">{highest}</text>',
            f'<text x="54" y="{top + 120}" text-anchor="end">{lowest}</text>',
            f'<text x="700" y="{top + 136}" text-anchor="end">step {last_step:,}</text>',
        ]
    )
