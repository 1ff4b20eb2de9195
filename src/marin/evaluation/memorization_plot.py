"""A figure of one document: where P(z) is high, and how its windows are spread; equal numbers give equal bytes."""

from xml.sax.saxutils import escape

import numpy as np

_INK, _GRID, _BAR = "#1f2933", "#d9dee3", "#1f6f8b"
_COLUMNS = 640
_LOWEST = -20  # powers of ten; what is less likely stands in the first bar
_BINS = 40


def document_svg(name: str, best_by_character: np.ndarray, log_probabilities: np.ndarray) -> str:
    """SVG with the largest P(z) over each character (of each of at most 640 stretches), and windows by log10 P(z)."""
    columns = min(_COLUMNS, max(1, len(best_by_character)))
    edges = np.linspace(0, len(best_by_character), columns + 1).astype(int)
    heights = [
        float(np.exp(best_by_character[a:b].max(initial=-np.inf))) for a, b in zip(edges, edges[1:], strict=False)
    ]
    width = _COLUMNS / columns
    bars = "".join(
        f"M{60 + i * width:.2f} 180v{-120 * height:.2f}h{width:.2f}V180z"
        for i, height in enumerate(heights)
        if height >= 0.001
    )
    tens = np.clip(log_probabilities / np.log(10), _LOWEST, 0)
    counts, _ = np.histogram(tens, bins=_BINS, range=(_LOWEST, 0))
    most = max(1, int(counts.max(initial=0)))
    step = _COLUMNS / _BINS
    spread = "".join(
        f"M{60 + i * step:.1f} 360v{-120 * count / most:.2f}h{step - 1:.1f}V360z"
        for i, count in enumerate(counts)
        if count
    )
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 400" font-family="sans-serif" font-size="12" '
            f'fill="{_INK}">',
            f'<text x="60" y="24" font-size="14">{escape(name[:90])}</text>',
            *_frame(
                60,
                "largest P(z) of the suffixes that a character lies in",
                "1",
                "0",
                "character 0",
                f"{len(best_by_character):,}",
            ),
            f'<path d="{bars}" fill="{_BAR}"/>',
            *_frame(
                240, f"windows ({len(log_probabilities):,}) by P(z)", f"{most:,}", "0", f"1e{_LOWEST} or less", "1"
            ),
            f'<path d="{spread}" fill="{_BAR}"/>',
            "</svg>",
            "",
        ]
    )


def _frame(top: int, label: str, high: str, low: str, left: str, right: str) -> list[str]:
    return [
        f'<text x="60" y="{top - 8}">{escape(label)}</text>',
        f'<path d="M60 {top}V{top + 120}H700" fill="none" stroke="{_GRID}"/>',
        f'<text x="54" y="{top + 10}" text-anchor="end">{high}</text>',
        f'<text x="54" y="{top + 120}" text-anchor="end">{low}</text>',
        f'<text x="60" y="{top + 136}">{left}</text>',
        f'<text x="700" y="{top + 136}" text-anchor="end">{right}</text>',
    ]
