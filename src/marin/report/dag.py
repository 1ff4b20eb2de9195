"""The steps of a run as a picture: who read whose output, how long each took.

Drawn left to right by depth, straight from the records; a handful of boxes needs no layout engine.
"""

from collections.abc import Sequence
from html import escape

from marin.report.collect import StepRecord
from marin.report.tables import seconds

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 168, 46, 44, 22, 6


def dag_picture(lineage: Sequence[StepRecord]) -> str:
    """SVG of the steps; every edge is an input a step recorded."""
    depth: dict[str, int] = {}
    rows: dict[int, int] = {}
    place: dict[str, tuple[int, int]] = {}
    for step in lineage:  # inputs come first
        depth[step.digest] = 1 + max((depth[i] for i in step.inputs if i in depth), default=-1)
        row = rows.get(depth[step.digest], 0)
        rows[depth[step.digest]] = row + 1
        x = MARGIN + depth[step.digest] * (BOX_WIDTH + GAP_X)
        place[step.digest] = (x, MARGIN + row * (BOX_HEIGHT + GAP_Y))
    width = 2 * MARGIN + (max(depth.values(), default=0) + 1) * (BOX_WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + max(rows.values(), default=0) * (BOX_HEIGHT + GAP_Y) - GAP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12" role="img" aria-label="steps and what they read">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#7b8794"/></marker></defs>',
    ]
    for step in lineage:
        parts += [_edge(place[source], place[step.digest]) for source in step.inputs if source in place]
    parts += [_box(step, *place[step.digest]) for step in lineage]
    return "\n".join([*parts, "</svg>"])


def _edge(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1 = start[0] + BOX_WIDTH, start[1] + BOX_HEIGHT // 2
    x2, y2 = end[0], end[1] + BOX_HEIGHT // 2
    bend = x2 - GAP_X // 2
    # Along the source's row to the gap before the target, then across: longer edges pass under the boxes between.
    path = f"M{x1} {y1} C{bend} {y1} {x1 + GAP_X // 2} {y2} {x2} {y2}"
    return f'<path d="{path}" fill="none" stroke="#7b8794" stroke-width="1.2" marker-end="url(#tip)"/>'


def _box(step: StepRecord, x: int, y: int) -> str:
    return (
        f'<g><title>{escape(step.path)}</title><rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5" '
        f'fill="#f5f7fa" stroke="#1f6f8b"/><text x="{x + 9}" y="{y + 19}" fill="#1f2933">{escape(step.name)}</text>'
        f'<text x="{x + 9}" y="{y + 36}" fill="#52606d" font-size="11">{seconds(step.wall_s)} · '
        f"@{step.digest[:10]}</text></g>"
    )
