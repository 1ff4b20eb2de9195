"""results.json and samples.jsonl: the form in which scores leave an evaluation.

One file holds every score with its standard error, interval and n, and what was scored under which rules; the other
has a line for each question or document, from which every score can be computed again. Field names follow
lm-evaluation-harness where it has one. Both are written whole or not at all.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marin.evaluation.statistics import Comparison, Estimate
from marin.io.atomic import write_bytes

FORMAT_VERSION = "1.2"
"""Major part: readers of another one must refuse. Minor part: fields were added."""

RESULTS_FILE = "results.json"
SAMPLES_FILE = "samples.jsonl"


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The scores of one task."""

    version: int
    """Version of the task."""
    n: int
    """Questions or documents scored."""
    metrics: Mapping[str, Mapping[str, Any]]
    """Metric name -> what `metric_entry` gives."""
    prompt_hash: str
    """sha256 of what was asked."""
    num_fewshot: int = 0
    """Solved examples before each question."""
    chance: float | None = None
    """Score of guessing, where there is such a thing."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What happened on the way: num_bytes, num_tokens, num_truncated, num_boundary_merged, ..."""
    notes: Sequence[str] = ()
    """What a reader must know to read the scores right."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of its entry: its task where it is listed under another name, how many questions there are, ..."""


def metric_entry(
    estimate: Estimate, *, higher_is_better: bool, exact: bool = False, note: str | None = None
) -> dict[str, Any]:
    """One score as results.json has it; exact says that the value is no estimate, so it has no interval.

    Of one observation nothing is known but its value: stderr, ci95 and interval are null.
    """
    entry: dict[str, Any] = {
        "value": estimate.value,
        "stderr": 0.0 if exact else estimate.stderr,
        "ci95": None if exact or estimate.ci95 is None else list(estimate.ci95),
        "interval": "exact" if exact else estimate.interval,
        "n": estimate.n,
        "num_clusters": estimate.num_clusters,
        "higher_is_better": higher_is_better,
    }
    return entry | ({"note": note} if note else {})


def comparison_entry(comparison: Comparison, *, higher_is_better: bool, unit: str) -> dict[str, Any]:
    """A paired comparison of a model with a baseline as results.json has it; unit is what was paired ('documents')."""
    difference = comparison.difference
    return {
        "model": comparison.a,
        "baseline": comparison.b,
        "metric": comparison.metric,
        "difference": difference.value,
        "stderr": difference.stderr,
        "ci95": None if difference.ci95 is None else list(difference.ci95),
        "n": difference.n,
        "num_clusters": difference.num_clusters,
        "unit": unit,
        "higher_is_better": higher_is_better,
        "smallest_detectable": comparison.smallest_detectable,
        "p_value": comparison.p_value,
        "verdict": verdict(comparison, higher_is_better=higher_is_better),
    }


def verdict(comparison: Comparison, *, higher_is_better: bool) -> str:
    """The comparison in words: better, worse, or no difference seen, which is below two paired standard errors."""
    difference = comparison.difference
    if difference.stderr is None:
        return "one observation says nothing of the difference"
    if not comparison.seen:
        return f"no difference seen (this sample could see {comparison.smallest_detectable:.4f})"
    better = (difference.value > 0) == higher_is_better
    return f"{comparison.a} is {'better' if better else 'worse'}"


def format_score(value: float, stderr: float | None, n: int) -> str:
    """'1.2345 ± 0.0123 (n = 61)', with as many decimals as show two digits of the error."""
    if stderr is None:
        return f"{value:.4f} (n = {n}, too few for an error)"
    if stderr == 0:
        return f"{value:.4f} ± 0 (n = {n})"
    decimals = min(max(1 - math.floor(math.log10(stderr)), 0), 8)
    return f"{value:.{decimals}f} ± {stderr:.{decimals}f} (n = {n})"


def write_results(
    output_path: str | Path,
    *,
    model: Mapping[str, Any],
    tasks: Mapping[str, TaskResult],
    comparisons: Sequence[Mapping[str, Any]] = (),
    generations: Sequence[Mapping[str, Any]] = (),
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    skipped: Sequence[Mapping[str, Any]] = (),
    samples: Iterable[Mapping[str, Any]] = (),
    policy: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    identity: str | None = None,
) -> Path:
    """Write samples.jsonl, then results.json, each atomically; returns the path of results.json.

    `groups` are scores over several tasks, `skipped` the tasks that were asked for and could not run: {"task",
    "reason", "fetch"}, the last the command that brings their data, or null. `identity` is that of the evaluation
    (`marin.evaluation.identity`), where all of it is there.
    The numbers of both are finite or null; anything else is our mistake and raises ValueError.
    """
    folder = Path(output_path)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in samples]
    write_bytes(folder / SAMPLES_FILE, "".join(line + "\n" for line in lines).encode("utf-8", "backslashreplace"))
    content = {
        "format_version": FORMAT_VERSION,
        "identity": identity,
        "model": dict(model),
        "tasks": {name: _task_entry(result) for name, result in tasks.items()},
        "comparisons": [dict(comparison) for comparison in comparisons],
        "generations": [dict(generation) for generation in generations],
        "groups": {name: dict(group) for name, group in (groups or {}).items()},
        "skipped": [dict(task) for task in skipped],
        "policy": dict(policy or {}),
        "config": dict(config or {}),
        "samples": SAMPLES_FILE,
        "num_samples": len(lines),
    }
    path = folder / RESULTS_FILE
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode("utf-8", "backslashreplace"))
    return path


def _task_entry(result: TaskResult) -> dict[str, Any]:
    return {
        "version": result.version,
        "n": result.n,
        "num_fewshot": result.num_fewshot,
        "prompt_hash": result.prompt_hash,
        "chance": result.chance,
        "metrics": {name: dict(entry) for name, entry in result.metrics.items()},
        "counts": dict(result.counts),
        "notes": list(result.notes),
        **result.about,
    }


def as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping as it is read back from JSON."""
    return json.loads(json.dumps(dict(value)))


def read_results(path: str | Path) -> dict[str, Any]:
    """results.json of a file or of the folder that has it.

    Raises FileNotFoundError where there is none, and ValueError for a format that this version does not read.
    """
    path = Path(path)
    path = path / RESULTS_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: expected the folder of an evaluation, with {RESULTS_FILE}, or that file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): it was damaged. Evaluate again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object with format_version and tasks, got {type(content).__name__}")
    version = str(content.get("format_version"))
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise ValueError(
            f"{path}: format_version is {version}, this marin reads {FORMAT_VERSION.split('.')[0]}.x; "
            "evaluate again, or read it with the version of marin that wrote it"
        )
    return content


def read_samples(path: str | Path) -> list[dict[str, Any]]:
    """Rows of the samples.jsonl that belongs to a results.json or its folder.

    Raises FileNotFoundError where there is none, and ValueError with the line of what is no JSON.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    # not splitlines(): a text may hold U+2028 and other ends of lines that JSON leaves as they are
    file = folder / SAMPLES_FILE
    if not file.is_file():
        raise FileNotFoundError(f"no {file} beside {RESULTS_FILE}: it has the rows that its scores are of")
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            rows += [json.loads(line)] if line else []
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: no JSON ({error}): {line[:80]!r}") from error
    return rows
