"""AlpacaEval: how often a judge finds a model's outputs better than a baseline's, with and without length.

Annotations are in the form of tatsu-lab/alpaca_eval, rows of instruction, output_1, generator_1 (the baseline),
output_2, generator_2 (the model) and preference, so what was judged there is counted again here without a judge, and
what is judged here can be read there. Without recorded annotations the two sets of outputs are judged, or a model
answers the baseline's instructions first; each verdict is kept as it comes, so that a run that was cut asks for none
twice.
"""

import csv
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from marin.evaluation.config import AlpacaEvalConfig
from marin.evaluation.judges import HttpJudge, Judge, Verdict, judge_pair
from marin.evaluation.length_control import (
    GamedOutputs,
    discrete_win_rate,
    length_controlled_win_rate,
    win_rate,
)
from marin.evaluation.results import TaskResult, format_score, metric_entry, write_results
from marin.evaluation.tasks import prompt_hash
from marin.io.atomic import write_bytes

TASK = "alpaca_eval"
TASK_VERSION = 1
ANNOTATIONS_FILE, OUTPUTS_FILE, VERDICTS_FILE = "annotations.json", "model_outputs.json", "verdicts.jsonl"


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One pair of outputs, and what was said of it."""

    index: int
    """Place of the instruction in its data set."""
    instruction: str
    baseline_output: str
    model_output: str
    preference: float | None
    """In [1, 2], 2 where the model's is better; None where the judge gave no verdict."""
    baseline_first: float | None = None
    """The preference with the baseline's output in front, where that is known."""
    model_first: float | None = None
    """The preference with the model's output in front."""


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Everything that was said of one model against one baseline."""

    model: str
    baseline: str
    judge: str
    """Its name."""
    judge_digest: str | None = None
    """Of all that its verdicts depend on; None where recorded ones do not say."""
    rows: tuple[Annotation, ...]


def run(config: AlpacaEvalConfig) -> Path:
    """Judge what is not judged yet; write results.json, samples.jsonl and annotations.json; returns the first's path.

    Raises FileNotFoundError and ValueError, with the row, for files that are missing or of another form.
    """
    folder = Path(config.output_path)
    folder.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    if config.annotations_path is not None:
        found = read_annotations(config.annotations_path, model=config.model_name, annotator=config.annotator)
    else:
        assert config.baseline_outputs_path and config.judge, "the config checks it"
        baseline, judge = read_outputs(config.baseline_outputs_path), HttpJudge(config.judge)
        ours, counts = _outputs(config, baseline, folder)
        found = annotate(
            ours,
            baseline,
            judge,
            folder=folder,
            order=config.order,
            seed=config.seed,
            max_instructions=config.max_instructions,
        )
        _write_json(folder / ANNOTATIONS_FILE, _as_recorded(found))
    difficulties, gamed = read_difficulties(config.difficulties_path) if config.difficulties_path else (None, None)
    task, samples = score_annotations(found, difficulties, gamed)
    task = replace(task, counts={**task.counts, **counts})
    path = write_results(
        folder,
        model={"name": found.model},
        tasks={TASK: task},
        samples=samples,
        policy={"judge": found.judge, "judge_digest": found.judge_digest, "baseline": found.baseline},
        config={
            name: value for name, value in asdict(config).items() if not name.endswith("_path") and name != "judge"
        },
    )
    for name, entry in task.metrics.items():
        print(f"{found.model}: {format_score(entry['value'], entry['stderr'], entry['n'])} {name}", flush=True)
    print(f"results: {path}", flush=True)
    return path


def _outputs(
    config: AlpacaEvalConfig, baseline: Sequence[Mapping[str, Any]], folder: Path
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """What the model answered, read or made, and what must be counted of it."""
    if config.model_outputs_path is not None:
        return read_outputs(config.model_outputs_path), {}
    from marin.evaluation.alpaca_outputs import answer_instructions
    from marin.evaluation.exported import open_export

    assert config.model_path is not None and config.chat is not None, "the config checks it"
    rows, num_too_long = answer_instructions(
        open_export(config.model_path, config.tokens_per_batch, allow_unverified=config.allow_unverified),
        config.chat,
        [row["instruction"] for row in baseline][: config.max_instructions],
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=config.seed,
        generator=config.model_name or "model",
    )
    _write_json(folder / OUTPUTS_FILE, rows)
    return rows, {"num_too_long": num_too_long}


def _write_json(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_bytes(path, json.dumps(rows, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace"))


def score_annotations(
    found: Annotations, difficulties: Mapping[int, float] | None = None, gamed: GamedOutputs | None = None
) -> tuple[TaskResult, list[dict[str, Any]]]:
    """Win rates, as shares of 1, and a row for each annotation with a verdict.

    Raises ValueError where fewer than two annotations have one, and for an instruction without its difficulty.
    """
    judged = [row for row in found.rows if row.preference is not None]
    if len(judged) < 2:
        raise ValueError(
            f"{len(judged)} of {len(found.rows)} annotations of {found.model} have a preference; an error bar takes two"
        )
    preferences = np.array([row.preference for row in judged], np.float64)
    plain, discrete = win_rate(preferences), discrete_win_rate(preferences)
    metrics = {
        "win_rate": metric_entry(plain, higher_is_better=True),
        "discrete_win_rate": metric_entry(discrete, higher_is_better=True),
    }
    notes = [f"shares of 1, {found.model} against {found.baseline}, judged by {found.judge}; draws count a half"]
    try:
        controlled = length_controlled_win_rate(
            preferences,
            [len(row.model_output) for row in judged],
            [len(row.baseline_output) for row in judged],
            difficulties=None if difficulties is None else _difficulties_of(judged, difficulties),
            gamed=gamed,
        )
    except _NoDifficultyError:
        raise
    except ValueError as error:
        notes.append(f"no length-controlled win rate: {error}")
    else:
        metrics["length_controlled_win_rate"] = metric_entry(
            controlled.estimate,
            higher_is_better=True,
            note=f"{controlled.form}; alpaca_eval's lc_standard_error is {controlled.stderr_of_predictions:.6f}; "
            f"weights: length {controlled.length_weight:.4f}, difficulty {controlled.difficulty_weight:.4f}, "
            f"model {controlled.model_weight:.4f}",
        )
    shares = preferences - 1
    consistent = [_verdict(row).is_consistent for row in judged]
    if any(value is not None for value in consistent):
        told = [value for value in consistent if value is not None]
        notes.append(f"{sum(told)} of {len(told)} pairs fall to the same side in both orders")
    samples = [
        {
            "task": TASK,
            "doc_id": row.index,
            "query": row.instruction,
            "win_rate": float(share),
            "discrete_win_rate": 0.5 if share == 0.5 else float(round(share)),
            "num_characters": len(row.model_output),
            "num_baseline_characters": len(row.baseline_output),
            "baseline_first": row.baseline_first,
            "model_first": row.model_first,
            "completion": row.model_output,
        }
        for row, share in zip(judged, shares, strict=True)
    ]
    asked = [[row.instruction, row.baseline_output] for row in found.rows]
    task = TaskResult(
        version=TASK_VERSION,
        n=len(judged),
        prompt_hash=prompt_hash([found.judge, *([found.judge_digest] if found.judge_digest else []), *asked]),
        chance=0.5,
        metrics=metrics,
        counts={
            "num_wins": int(np.sum(shares > 0.5)),
            "num_losses": int(np.sum(shares < 0.5)),
            "num_draws": int(np.sum(shares == 0.5)),
            "num_without_verdict": len(found.rows) - len(judged),
            "num_inconsistent": sum(value is False for value in consistent),
        },
        notes=notes,
    )
    return task, samples


class _NoDifficultyError(ValueError):
    pass


def _difficulties_of(rows: Sequence[Annotation], difficulties: Mapping[int, float]) -> list[float]:
    missing = [row.index for row in rows if row.index not in difficulties]
    if missing:
        raise _NoDifficultyError(
            f"{len(missing)} instructions have no difficulty, the first is index {missing[0]}: the difficulties are of "
            "another data set. Leave them out for the minimal form"
        )
    return [difficulties[row.index] for row in rows]


def _verdict(row: Annotation) -> Verdict:
    assert row.preference is not None
    return Verdict(preference=row.preference, baseline_first=row.baseline_first, model_first=row.model_first)


def annotate(
    model_outputs: Sequence[Mapping[str, Any]],
    baseline_outputs: Sequence[Mapping[str, Any]],
    judge: Judge,
    *,
    folder: Path,
    order: Any = "both",
    seed: int = 0,
    max_instructions: int | None = None,
) -> Annotations:
    """The judge's verdicts on the outputs for the instructions that both have, in the model's order.

    Each verdict goes to verdicts.jsonl in the folder as it comes, and is taken from there when the run is begun again
    with the same judge (`digest`), order and seed.
    An answer that is no verdict leaves the pair without one. Raises ValueError where no instruction has both outputs,
    or where the judge gave no verdict on more than one pair in ten.
    """
    # the baseline's file has every instruction of the data set in its order, by which difficulties are known
    theirs = {row["instruction"]: (index, row) for index, row in enumerate(baseline_outputs)}
    pairs = [(row, *theirs[row["instruction"]]) for row in model_outputs if row["instruction"] in theirs]
    if not pairs:
        raise ValueError("no instruction has both a model's and a baseline's output: the two files are of other data")
    if len(pairs) < len(model_outputs):
        print(f"{len(model_outputs) - len(pairs)} outputs have no baseline's and are left out", flush=True)
    pairs = pairs[:max_instructions]
    _drop_half_line(folder / VERDICTS_FILE)
    known = _read_verdicts(folder / VERDICTS_FILE)
    asked = (judge.name, judge.digest, order, seed)
    rows = []
    with open(folder / VERDICTS_FILE, "a", encoding="utf-8") as file:
        for ours, index, other in pairs:
            key = _key(*asked, ours["instruction"], other["output"], ours["output"])
            if key not in known:
                try:
                    verdict = judge_pair(
                        judge, ours["instruction"], other["output"], ours["output"], order=order, seed=seed
                    )
                    known[key] = asdict(verdict)
                except ValueError as error:
                    known[key] = {"preference": None, "baseline_first": None, "model_first": None, "error": str(error)}
                file.write(json.dumps({"key": key} | known[key]) + "\n")
                file.flush()
            said = known[key]
            rows.append(
                Annotation(
                    index=index,
                    instruction=ours["instruction"],
                    baseline_output=other["output"],
                    model_output=ours["output"],
                    preference=said["preference"],
                    baseline_first=said["baseline_first"],
                    model_first=said["model_first"],
                )
            )
    failed = [row for row in rows if row.preference is None]
    if len(failed) * 10 > len(rows):
        first = known[_key(*asked, failed[0].instruction, failed[0].baseline_output, failed[0].model_output)]
        raise ValueError(
            f"judge '{judge.name}' gave no verdict on {len(failed)} of {len(rows)} pairs, so what is left would be no "
            f"fair sample; the first: {first.get('error')}. Delete {folder / VERDICTS_FILE} to ask again"
        )
    names = [
        str(side[0].get("generator", name)) for side, name in ((model_outputs, "model"), (baseline_outputs, "baseline"))
    ]
    return Annotations(model=names[0], baseline=names[1], judge=judge.name, judge_digest=judge.digest, rows=tuple(rows))


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _drop_half_line(file: Path) -> None:
    """Cut off what the end of a process left of a line, onto which the next would be written."""
    if file.is_file():
        with open(file, "r+b") as opened:
            opened.truncate(opened.read().rfind(b"\n") + 1)


def _read_verdicts(file: Path) -> dict[str, dict[str, Any]]:
    """Key -> verdict. ValueError, with the line, for one that is none."""
    known = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines() if file.is_file() else (), start=1):
        try:
            row = json.loads(line)
            known[row.pop("key")] = row
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{file}, line {number} is no verdict: {line[:80]!r}. Delete the line to ask again"
            ) from error
    return known


def _as_recorded(found: Annotations) -> list[dict[str, Any]]:
    return [
        {
            "index": row.index,
            "instruction": row.instruction,
            "output_1": row.baseline_output,
            "generator_1": found.baseline,
            "output_2": row.model_output,
            "generator_2": found.model,
            "annotator": found.judge,
            "annotator_digest": found.judge_digest,
            "preference": row.preference,
            "baseline_first": row.baseline_first,
            "model_first": row.model_first,
        }
        for row in found.rows
    ]


def read_outputs(path: str | Path) -> list[dict[str, Any]]:
    """Rows of instruction, output and generator from a JSON list or JSON lines.

    Raises FileNotFoundError and ValueError, with the row, for another form and for an instruction that comes twice.
    """
    rows = _read_rows(path, ("instruction", "output"))
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        if row["instruction"] in seen:
            raise ValueError(f"{path}, row {number}: the instruction {row['instruction'][:80]!r} comes twice")
        seen.add(row["instruction"])
    return rows


def read_annotations(path: str | Path, *, model: str | None = None, annotator: str | None = None) -> Annotations:
    """Recorded annotations of one model against one baseline, by one annotator.

    model names the generator that counts as the model, where it is not generator_2; annotator chooses where there are
    several. Raises FileNotFoundError and ValueError, with the row, for another form, and for annotations of several
    models, baselines or annotators.
    """
    rows = list(enumerate(_read_rows(path, ("instruction", "output_1", "output_2", "preference")), start=1))
    if annotator is not None:
        rows = [(number, row) for number, row in rows if row.get("annotator") == annotator]
        if not rows:
            raise ValueError(f"{path} has no annotations by {annotator!r}")
    found, names, judges = [], set(), set()
    for position, (number, row) in enumerate(rows):
        preference = row["preference"]
        if isinstance(preference, float) and math.isnan(preference):
            preference = None
        if preference is not None and (
            isinstance(preference, bool)
            or not isinstance(preference, int | float)
            or not (preference == 0 or 1 <= preference <= 2)
        ):
            raise ValueError(
                f"{path}, row {number}: preference is {preference!r}; expected a number in [1, 2], 0 or null"
            )
        if preference is not None:
            preference = 1.5 if preference == 0 else float(preference)
        first, second = str(row.get("generator_1", "baseline")), str(row.get("generator_2", "model"))
        outputs = row["output_1"], row["output_2"]
        orders = row.get("baseline_first"), row.get("model_first")
        if model is not None and first == model != second:
            first, second, outputs = second, first, outputs[::-1]
            preference = _turned(preference)
            orders = _turned(orders[1]), _turned(orders[0])
        names.add((first, second))
        judges.add((str(row.get("annotator", "unknown")), row.get("annotator_digest")))
        found.append(
            Annotation(
                index=int(row.get("index", position)),
                instruction=row["instruction"],
                baseline_output=outputs[0],
                model_output=outputs[1],
                preference=preference,
                baseline_first=orders[0],
                model_first=orders[1],
            )
        )
    if len(names) > 1 or len(judges) > 1:
        asked = ", ".join(sorted(each for each, _ in judges)[:4])
        shown = "; ".join(f"{second} against {first}" for first, second in sorted(names)[:4])
        raise ValueError(
            f"{path} has annotations of {len(names)} pairs of generators ({shown}) by {len(judges)} annotators "
            f"({asked}); expected one of each. Choose with annotator, or split the file"
        )
    [(baseline, name)], [(judge, digest)] = names, judges
    if model is not None and name != model:
        raise ValueError(f"{path} has no outputs of {model!r}; it has {name} against {baseline}")
    doubled = len(found) - len({row.index for row in found})
    if doubled:
        raise ValueError(f"{path}: {doubled} rows repeat the index of another; expected one row an instruction")
    return Annotations(model=name, baseline=baseline, judge=judge, judge_digest=digest, rows=tuple(found))


def _turned(preference: float | None) -> float | None:
    """A preference from the other side."""
    return None if preference is None else 3.0 - preference


def read_difficulties(path: str | Path) -> tuple[dict[int, float], GamedOutputs | None]:
    """Difficulty by index of the instruction, and outputs that game length, from a CSV file of tatsu-lab/alpaca_eval.

    instruction_difficulty.csv has the difficulties alone; df_gamed.csv both. Raises FileNotFoundError and ValueError,
    with the line, for another form.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}: expected df_gamed.csv or instruction_difficulty.csv of tatsu-lab/alpaca_eval"
        )
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or ())
        index_column = "index" if "index" in columns else (columns or [""])[0]
        if "instruction_difficulty" not in columns:
            raise ValueError(f"{path} has the columns {', '.join(columns)}; expected index and instruction_difficulty")
        difficulties: dict[int, float] = {}
        gamed: list[tuple[float, float, float]] = []
        for row in reader:
            try:
                difficulty = float(row["instruction_difficulty"])
                difficulties.setdefault(int(float(row[index_column])), difficulty)
                if "std_delta_len" in columns and "preference" in columns and row["preference"] != "":
                    gamed.append((float(row["std_delta_len"]), difficulty, float(row["preference"])))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    if not gamed:
        return difficulties, None
    table = np.array(gamed, np.float64)
    return difficulties, GamedOutputs(lengths=table[:, 0], difficulties=table[:, 1], preferences=table[:, 2])


def _read_rows(path: str | Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: expected a JSON list, or JSON lines, of {', '.join(fields)}")
    text = path.read_text(encoding="utf-8")
    try:
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except ValueError as error:
        raise ValueError(f"{path}: neither a JSON list nor JSON lines: {error}") from error
    if not rows:
        raise ValueError(f"{path} has no rows")
    for number, row in enumerate(rows, start=1):
        missing = [name for name in fields if not isinstance(row, dict) or name not in row]
        if missing:
            raise ValueError(f"{path}, row {number}: no {', '.join(missing)}; expected {', '.join(fields)}")
        for name in fields:
            if name != "preference" and not isinstance(row[name], str):
                raise ValueError(f"{path}, row {number}: {name} is {row[name]!r:.80}; expected a text")
    return rows
