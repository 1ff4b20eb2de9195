"""A rule: an expression over signals that a document must satisfy to stay.

Signals are measured once and stand in columns; a rule is only a comparison of columns. So another threshold costs no
second reading of the text, and a document that went keeps the number that it went for.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What must hold of a document, and why."""

    # Under which dropped documents are counted: FILTER.REASON.
    name: str
    # Expression over columns, as in `marin.processing.pipeline.expressions`: "gopher.num_words >= 50".
    keep: str
    # What is wrong with a document that fails, in a few words.
    description: str
    # Paper and section, or code, with the default threshold.
    source: str


def bounded(
    name: str,
    signal: str,
    description: str,
    source: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> tuple[Rule, ...]:
    """The rule that a signal is not below or not above a threshold; no rule where the threshold is None."""
    assert at_least is None or at_most is None
    if at_least is None and at_most is None:
        return ()
    keep = f"{signal} >= {at_least!r}" if at_most is None else f"{signal} <= {at_most!r}"
    return (Rule(name=name, keep=keep, description=description, source=source),)
