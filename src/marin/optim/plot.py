"""A schedule as text, to be looked at before a run is launched.

One column is a part of the run and one row a range of values; what is drawn is the highest value of the part, so that a
short warm-up or decay may lose height but never vanishes between two samples. For the figure as SVG see
`marin.report.plots.schedule_curve`.
"""

from collections.abc import Callable

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def schedule_text(
    value: Callable[[int], float],
    num_train_steps: int,
    *,
    start_step: int = 0,
    name: str = "learning rate",
    width: int = 64,
    height: int = 8,
) -> str:
    """Bars of `value(step)` for the steps of a run, from `start_step` on, with the largest value at the top.

    >>> print(schedule_text(lambda step: min(step + 1, 8) / 8, 16, width=16, height=2))
    learning rate, 0 to 1
    |    ▂▄▆█████████|
    |▂▄▆█████████████|
    step 0 to 15
    """
    num_steps = num_train_steps - start_step
    if num_steps < 1 or width < 1 or height < 1:
        raise ValueError(f"a plot of {num_steps} steps, {width} wide and {height} high: each must be 1 or more")
    width = min(width, num_steps)
    edges = [start_step + column * num_steps // width for column in range(width + 1)]
    highest = [max(map(value, range(a, b))) for a, b in zip(edges, edges[1:], strict=False)]
    top = max(highest) or 1.0
    eighths = [round(8 * height * max(0.0, rate) / top) for rate in highest]
    rows = (
        "|" + "".join(_EIGHTHS[min(8, max(0, eighth - 8 * row))] for eighth in eighths) + "|"
        for row in reversed(range(height))
    )
    return "\n".join([f"{name}, 0 to {top:.4g}", *rows, f"step {start_step} to {num_train_steps - 1}"])
