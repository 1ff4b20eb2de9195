"""What became of the rows: read from the manifests of all shards, checked to add up, and written beside the output.

`_funnel.json` has no clock in it and is the same file however often the run was killed; what depends on the machine is
in `_timing.json`.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marin.io.files import write_text
from marin.processing.document import BadInputError
from marin.processing.formats.finished import FUNNEL
from marin.processing.pipeline import counts as counting
from marin.processing.pipeline.counts import Counts
from marin.processing.pipeline.manifest import BAD_FOLDER, Manifest
from marin.processing.pipeline.output import TIMING
from marin.processing.pipeline.sinks import WITHOUT_TEXT, WholeSink

if TYPE_CHECKING:
    from marin.processing.pipeline.planning import Planned

FORMAT_VERSION = 1
_SHOWN_KINDS = 5


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a finished run has made."""

    path: str  # the output folder
    files: list[str]  # below it, in order
    funnel: list[Counts]  # one for each operation, in order; those of several inputs one after the other
    counters: dict[str, int]  # rows_in, rows_out, expanded, merged, dropped, bad, text_bytes_out, bytes_out
    rows_without_text: int = 0  # of those that were written: their column `text` is null, and for readers they are bad

    def summary(self) -> str:
        """One line for people."""
        c = self.counters
        out = f"{c['rows_out']:,} out"
        if self.rows_without_text:
            out += f", of which {self.rows_without_text:,} have no text and will be bad rows where they are read"
        return (
            f"{c['rows_in']:,} rows in, {out} ({c['dropped']:,} dropped, {c['bad']:,} bad), "
            f"{c['bytes_out'] / 1e6:,.1f} MB in {len(self.files)} files"
        )


def conclude(root: str, stages: Sequence["Planned"], manifests: Sequence[Sequence[Manifest]], max_bad: float) -> Result:
    """The result of a run whose shards are all made; written to the output folder too, which is complete thereby.

    ValueError where too many rows were bad.
    """
    sections = [
        section for planned, made in zip(stages, manifests, strict=True) for section in _sections(planned, made)
    ]
    funnel = [counts for section in sections for counts in section["operations"]]
    counters = _counters(sections, manifests)
    outputs = [one.output for one in manifests[-1]]
    result = Result(
        path=root,
        files=[one["path"] for one in outputs],
        funnel=funnel,
        counters=counters,
        rows_without_text=sum(one["details"].get(WITHOUT_TEXT, 0) for one in outputs),
    )
    _check_bad(root, result, max_bad)
    sink = stages[-1].stage.sink
    if isinstance(sink, WholeSink):
        sink.finish(root, [one.output["details"] for one in manifests[-1]])
    _write(root, result, sections, manifests)
    return result


def _sections(planned: "Planned", manifests: Sequence[Manifest]) -> list[dict[str, Any]]:
    """The sums of a stage, for each of its inputs."""
    sections = []
    for chain in range(len(planned.stage.chains)):
        made = [one for one, task in zip(manifests, planned.tasks, strict=True) if task.chain == chain]
        if made:
            operations = [
                counting.total(list(column)) for column in zip(*(one.operations for one in made), strict=True)
            ]
            sections.append(
                {"stage": planned.stage.name, "input": chain, "shards": len(made), "operations": operations}
            )
    return sections


def _counters(sections: Sequence[dict[str, Any]], manifests: Sequence[Sequence[Manifest]]) -> dict[str, int]:
    funnel = [counts for section in sections for counts in section["operations"]]
    last = manifests[-1]
    first_of_all = [section["operations"][0] for section in sections if section["operations"][0].name == "read"]
    counters = {
        "rows_in": sum(counts.rows_in for counts in first_of_all),
        "rows_out": sum(one.output["rows"] for one in last),
        "expanded": sum(counts.expanded for counts in funnel),
        "merged": sum(counts.merged for counts in funnel),
        "dropped": sum(counts.num_dropped for counts in funnel),
        "bad": sum(counts.num_bad for counts in funnel),
        "text_bytes_out": sum(one.operations[-1].text_bytes_out for one in last),
        "bytes_out": sum(one.output["bytes"] for one in last),
    }
    left = counters["rows_in"] + counters["expanded"]
    right = counters["rows_out"] + counters["dropped"] + counters["bad"] + counters["merged"]
    assert left == right, f"the rows of the run do not add up: {counters}"
    return counters


def _write(
    root: str, result: Result, sections: Sequence[dict[str, Any]], manifests: Sequence[Sequence[Manifest]]
) -> None:
    told = [{**section, "operations": [counting.to_json(one) for one in section["operations"]]} for section in sections]
    funnel = {"format_version": FORMAT_VERSION, "counters": result.counters, "sections": told}
    write_text(os.path.join(root, FUNNEL), json.dumps(funnel, ensure_ascii=False, indent=1) + "\n")
    timing = [
        {
            "stage": made[0].stage,
            "cpu_s": round(sum(one.timing["cpu_s"] for one in made), 3),
            "cpu_s_of": _summed([one.timing["cpu_s_of"] for one in made]),
            "hosts": sorted({one.timing["host"] for one in made}),
        }
        for made in manifests
        if made
    ]
    write_text(os.path.join(root, TIMING), json.dumps(timing, indent=1) + "\n")


def _summed(timings: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for timing in timings for name in timing)
    return {name: round(sum(timing.get(name, 0.0) for timing in timings), 3) for name in names}


def _check_bad(root: str, result: Result, max_bad: float) -> None:
    bad, rows = result.counters["bad"], result.counters["rows_in"] + result.counters["expanded"]
    if bad > max_bad * rows:
        kinds: dict[str, int] = {}
        for counts in result.funnel:
            for kind, num_rows in counts.bad.items():
                kinds[kind] = kinds.get(kind, 0) + num_rows
        worst = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN_KINDS]
        shown = ", ".join(f"{num_rows} {kind!r}" for kind, num_rows in worst)
        raise BadInputError(
            f"{root}: {bad} of {rows} rows are bad ({shown}), more than max_bad={max_bad:g} allows; they are in "
            f"{os.path.join(root, BAD_FOLDER)} with their reasons. Mend them, or allow more with max_bad= (--max-bad)"
        )
