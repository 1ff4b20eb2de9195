"""Gather what the steps left on disk: records, metrics, scores. No number of a report comes from anywhere else.

The executor is not imported. Its records are JSON with a published schema (docs/explanations/executor.md), found from
the path of an output: what is in `<prefix>/<step>/` belongs to the register `<prefix>/<step>/.exec/state.json`, or, if
that output was superseded, to one in `<prefix>/<step>/.exec/history/`. Which outputs were struck out is said by
`<prefix>/.exec/invalid/*.json`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What the executor recorded of one committed step."""

    name: str
    digest: str
    """Identity of the step, 64 hex digits."""
    attempt: str
    """Which of the step's outputs this is."""
    path: str
    """Output folder of the step, relative to the prefix."""
    inputs: tuple[str, ...]
    """Digests of the steps whose outputs this one read."""
    wall_s: float
    cpu_s: float | None
    max_rss: int | None
    """Peak memory of the step's process, bytes; None where it shared a process."""
    num_files: int
    num_bytes: int
    attempts: int
    """How many attempts it took, those that died included."""
    started: str
    root_digest: str
    """sha256 over the manifest of the output."""
    environment: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Everything a report shows; what a run did not have is empty."""

    lineage: tuple[StepRecord, ...]
    """The steps that led to the report, each after its inputs."""
    struck_out: tuple["StruckOut", ...]
    """Those of them that must not be trusted; somebody consented to a report on them."""
    metrics: tuple[Mapping[str, Any], ...]
    """Rows of the training run's metrics.jsonl."""
    timing: tuple[Mapping[str, Any], ...]
    """Rows of its timing.jsonl."""
    evaluation: Mapping[str, Any]
    parity: Mapping[str, Any]
    provenance: Mapping[str, Any]
    tokens: Mapping[str, Mapping[str, Any]]
    """Ledger of each token store, by role."""
    config_yaml: str


def register_of(path: str | Path) -> Path:
    """The register of the step that wrote an output path (or a file in it).

    Raises FileNotFoundError naming the path if no step of an executor wrote it.
    """
    for folder in [Path(path), *Path(path).parents]:
        register = folder / ".exec" / "state.json"
        if register.is_file():
            return register
    raise FileNotFoundError(f"{path} is not the output of a recorded step: no .exec/state.json beside or above it")


def read_step_record(register: Path, attempt: str | None = None) -> StepRecord:
    """The record in a register, or that of an earlier attempt of its step; ValueError if there is none."""
    state = _state(register, attempt)
    record = state.get("record")
    if not record:
        raise ValueError(f"{register.parent.parent}: the step is {state['status']}, a report needs committed steps")
    return StepRecord(
        name=record["name"],
        digest=record["digest"],
        attempt=state["attempt"],
        path=register.parent.parent.relative_to(prefix_of(register)).as_posix(),
        inputs=tuple(i["digest"] for i in record["inputs"]),
        wall_s=record["wall_s"],
        cpu_s=record.get("cpu_s"),
        max_rss=record.get("max_rss"),
        num_files=record["files"],
        num_bytes=record["bytes"],
        attempts=state["epoch"],
        started=record["started"],
        root_digest=record["root_digest"],
        environment=record["env"],
    )


def _state(register: Path, attempt: str | None) -> dict[str, Any]:
    """The register, or the state in the step's history that is of this attempt."""
    state = json.loads(register.read_text(encoding="utf-8"))
    if attempt is None or state["attempt"] == attempt:
        return state
    for path in sorted((register.parent / "history").glob("*.json")):
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if earlier["attempt"] == attempt:
            return earlier
    raise ValueError(f"{register.parent.parent}: nothing is on record of its attempt {attempt}, whose output was used")


def prefix_of(register: Path) -> Path:
    """The store a register is in: the nearest folder above the step that holds records of runs."""
    for folder in register.parent.parent.parents:
        if (folder / ".exec" / "runs").is_dir():
            return folder
    raise FileNotFoundError(f"{register} is in no store: no folder above it has .exec/runs")


def read_lineage(paths: Iterable[str]) -> tuple[StepRecord, ...]:
    """Records of the steps that wrote these outputs, and of all their inputs; each after its inputs.

    Of a step that ran several times, the attempt whose output was used.
    """
    done: dict[tuple[Path, str | None], StepRecord] = {}
    stack = [(_output_of(path), False) for path in reversed(list(paths))]
    while stack:
        (register, attempt), inputs_done = stack.pop()
        if (register, attempt) in done:
            continue
        if inputs_done:
            done[register, attempt] = read_step_record(register, attempt)
            continue
        stack.append(((register, attempt), True))
        stack += [(output, False) for output in reversed(_inputs(register, attempt))]
    return tuple(done.values())


def _output_of(path: str) -> tuple[Path, str]:
    """(register, attempt) of the output that a path lies in."""
    register = register_of(path)
    inside = Path(path).relative_to(register.parent.parent).parts
    if len(inside) > 1 and inside[0] == "attempts":
        return register, inside[1]
    return register, json.loads(register.read_text(encoding="utf-8"))["attempt"]


def _inputs(register: Path, attempt: str | None) -> list[tuple[Path, str]]:
    found = []
    for used in (_state(register, attempt).get("record") or {}).get("inputs", ()):
        if used.get("root_digest") is None:  # an input that is not waited for, and was not there
            continue
        other = register_of(prefix_of(register) / used["path"])
        found.append((other, used.get("attempt") or json.loads(other.read_text(encoding="utf-8"))["attempt"]))
    return found


@dataclass(frozen=True, kw_only=True)
class StruckOut:
    """An output that was found wrong."""

    name: str
    digest: str
    reason: str
    when: str
    """UTC, ISO 8601."""


def read_struck_out(prefix: Path, lineage: Iterable[StepRecord]) -> tuple[StruckOut, ...]:
    """Those of the outputs that a tombstone names which nobody took back."""
    outputs = {(step.digest, step.attempt): step for step in lineage}
    found: dict[tuple[str, str], StruckOut] = {}
    for path in sorted((prefix / ".exec" / "invalid").glob("*.json")):
        if path.name.endswith(".revoked.json") or path.with_suffix(".revoked.json").exists():
            continue
        tombstone = json.loads(path.read_text(encoding="utf-8"))
        for named in tombstone["outputs"]:
            key = (named["digest"], named["attempt"])
            if key in outputs and key not in found:
                step = outputs[key]
                found[key] = StruckOut(
                    name=step.name, digest=step.digest, reason=tombstone["reason"], when=tombstone["when"]
                )
    return tuple(found.values())


def collect(steps: Mapping[str, str]) -> Collected:
    """Read the outputs of steps by role.

    Roles that are looked into: `documents`, `train`, `export`, `evaluation`, and any whose folder is a token store.
    """
    tokens = {
        role: json.loads((Path(path) / "store.json").read_text(encoding="utf-8"))
        for role, path in steps.items()
        if (Path(path) / "store.json").is_file()
    }
    lineage = read_lineage(steps.values())
    prefixes = dict.fromkeys(prefix_of(register_of(path)) for path in steps.values())
    return Collected(
        lineage=lineage,
        struck_out=tuple(found for prefix in prefixes for found in read_struck_out(prefix, lineage)),
        metrics=_read_lines(steps, "train", "metrics.jsonl"),
        timing=_read_lines(steps, "train", "timing.jsonl"),
        evaluation=_read_json(steps, "evaluation", "results.json"),
        parity=_read_json(steps, "export", "parity.json"),
        provenance=_read_json(steps, "documents", "provenance.json"),
        tokens=tokens,
        config_yaml=_read_text(steps, "train", "config.yaml"),
    )


def _read_text(steps: Mapping[str, str], role: str, name: str) -> str:
    """The file of a role, or nothing if the report has no such role; a role without its file is an error."""
    return (Path(steps[role]) / name).read_text(encoding="utf-8") if role in steps else ""


def _read_json(steps: Mapping[str, str], role: str, name: str) -> dict[str, Any]:
    return json.loads(_read_text(steps, role, name) or "{}")


def _read_lines(steps: Mapping[str, str], role: str, name: str) -> tuple[dict[str, Any], ...]:
    # not splitlines(): text in a row may hold other line separators than the one between rows
    return tuple(json.loads(line) for line in _read_text(steps, role, name).split("\n") if line)
