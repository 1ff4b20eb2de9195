"""The step that asks tasks of lm-evaluation-harness: results.json and samples.jsonl in our form.

It is what `marin.evaluation.api.evaluate_lm_evaluation_harness` and `marin eval --harness` run. The tasks' settings and
rows are read before the first request, so that an evaluation is known by what it asks, as one of our own tasks is.
"""

import difflib
import json
import logging
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

# isort: split  behind marin.evaluation.lm_harness, which says what to install where lm_eval is not
import lm_eval
import numpy as np
from lm_eval.api.group import Group
from lm_eval.tasks import TaskManager

from marin.evaluation.config import LmHarnessConfig
from marin.evaluation.exported import ExportedModel
from marin.evaluation.identity import EVALUATION_VERSION, EvaluationRecord, find_done
from marin.evaluation.kept_answers import KeptAnswers
from marin.evaluation.lm_harness import MarinLM
from marin.evaluation.models import open_model
from marin.evaluation.progress import ProgressLines
from marin.evaluation.results import TaskResult, format_score, metric_entry, write_results
from marin.evaluation.scoring import prefix_policy, resolve_prefix
from marin.evaluation.statistics import Z95, Estimate, mean_estimate, proportion_estimate
from marin.evaluation.tasks import EvalTaskConfig, prompt_hash

__all__ = ["LmHarnessConfig", "run"]


def run(config: LmHarnessConfig) -> Path:
    """Run tasks of the harness and write results.json and samples.jsonl; returns the path of results.json.

    A standard error is ours where a metric is the mean over the questions, else the harness's own, which a note says.

    Raises ValueError for a task that the harness does not know, and as `open_model` does.
    """
    return prepare(config).run(config.output_path)


@dataclass(frozen=True, kw_only=True)
class HarnessEvaluation:
    """Tasks of the harness and the model that is asked them, both loaded."""

    config: LmHarnessConfig
    manager: TaskManager
    model: ExportedModel
    lm: MarinLM
    loaded: Sequence[list[Any]]
    """Of each task of the config, what the harness calls it."""
    suffixes: Sequence[str]
    """Of each, what stands behind the names of its scores."""
    record: EvaluationRecord
    """What the evaluation is."""

    def run(self, output_path: str | Path) -> Path:
        """Ask the tasks and write results.json and samples.jsonl; returns the path of results.json.

        Until all are done every answer is kept there too, and a run that was stopped does not ask for it again.

        Raises ValueError for a folder with the results of another evaluation.
        """
        config, record = self.config, self.record
        find_done(output_path, record, _tell)
        conditions = record.answering_conditions()
        self.lm.kept = None if conditions is None else KeptAnswers(output_path, conditions, _tell)
        tasks: dict[str, TaskResult] = {}
        groups: dict[str, Mapping[str, Any]] = {}
        samples: list[Mapping[str, Any]] = []
        evaluate: Any = lm_eval.simple_evaluate  # its decorator hides its signature from type checkers
        # the harness lists a task under its name, so one that is asked at several shots needs a call for each
        for number, (asked, task, suffix) in enumerate(
            zip(config.tasks, self.loaded, self.suffixes, strict=True), start=1
        ):
            found = evaluate(
                model=self.lm,
                tasks=task,
                task_manager=self.manager,  # without it the harness reads all of its own tasks again
                limit=config.limit,
                apply_chat_template=config.apply_chat_template,
                fewshot_as_multiturn=config.fewshot_as_multiturn,
                system_instruction=config.system_instruction,
                bootstrap_iters=config.bootstrap_iters,
                fewshot_random_seed=config.fewshot_seed,
                confirm_run_unsafe_code=config.confirm_run_unsafe_code,
            )
            assert found is not None, "there is one process, and it is the first"
            scores = harness_results(found, _aliases(asked), suffix, record.asked)
            tasks.update(scores.tasks)
            groups.update(scores.groups)
            samples += scores.samples
            for name, entry in _entries(scores):
                print(f"{name}: {format_score(entry['value'], entry['stderr'], entry['n'])}", flush=True)
            # after every task: what was computed outlives an error in the next
            rest = zip(config.tasks[number:], self.suffixes[number:], strict=True)
            path = write_results(
                output_path,
                model=record.model,
                tasks=tasks,
                groups=groups,
                skipped=[_not_asked(task, suffix) for task, suffix in rest],
                samples=samples,
                policy={
                    **record.policy,
                    "num_truncated": self.lm.num_truncated,
                    "num_shortened": self.lm.num_shortened,
                    "num_boundary_merged": self.lm.num_boundary_merged,
                },
                config=record.config,
                identity=record.identity if number == len(config.tasks) else None,
            )
        if self.lm.kept is not None:
            self.lm.kept.clear()
        print(f"results: {path}", flush=True)
        return path


def prepare(config: LmHarnessConfig, manager: TaskManager | None = None) -> HarnessEvaluation:
    """Load the tasks of a config and its model; `manager` is its `task_manager`, where that is at hand.

    Raises as `run` does before it asks anything.
    """
    manager = manager or task_manager(config.include_path, config.include_defaults)
    for task in config.tasks:
        _check_known(task.name, manager)
    model = open_model(
        config.model_path,
        checkpoint=config.checkpoint,
        tokenizer=config.tokenizer_path,
        tokens_per_batch=config.tokens_per_batch,
        allow_unverified=config.allow_unverified,
    )
    loaded = [load_task(asked, manager) for asked in config.tasks]
    times = Counter(task.name for task in config.tasks)
    suffixes = [f"@{asked.num_fewshot}" if times[asked.name] > 1 else "" for asked in config.tasks]
    _check_listed_once(config.tasks, loaded, suffixes)
    lm = MarinLM(model, seed=config.seed, progress=lambda kind: ProgressLines(kind, "requests"))
    settings = {name: value for name, value in asdict(config).items() if not name.endswith("_path")}
    record = EvaluationRecord(
        model=model.description,
        config={**settings, "tasks": [task.written() for task in config.tasks]},
        policy={
            "document_prefix": resolve_prefix(model.tokenizer, model.document_prefix),
            "prefix": prefix_policy(model.tokenizer, model.document_prefix),
            "chat_template": prompt_hash([lm.chat_template(True)]) if config.apply_chat_template else None,
            "harness": f"lm-eval {version('lm-eval')}",
            "fewshot_seed": config.fewshot_seed,
            "evaluation_version": EVALUATION_VERSION,
        },
        asked={
            _aliases(asked).get(task.task_name, f"{task.task_name}{suffix}"): _task_hash(task)
            for asked, parts, suffix in zip(config.tasks, loaded, suffixes, strict=True)
            for part in parts
            for task in (part.get_all_tasks() if isinstance(part, Group) else [part])
        },
    )
    return HarnessEvaluation(
        config=config, manager=manager, model=model, lm=lm, loaded=loaded, suffixes=suffixes, record=record
    )


def _task_hash(task: Any) -> str:
    """sha256 over a task of the harness: its settings, but for where its data is, its rows, and those of examples."""
    settings = {name: value for name, value in task.dump_config().items() if name not in _PLACES}
    examples = list(task.fewshot_docs()) if settings.get("num_fewshot") else []
    return prompt_hash(
        [_ADDRESS.sub("", json.dumps(_plain(settings), sort_keys=True)), _plain([*task.eval_docs]), _plain(examples)]
    )


_PLACES = ("dataset_path", "dataset_kwargs")
_ADDRESS = re.compile(" at 0x[0-9a-f]+")  # of a function whose source is not at hand


def _aliases(task: EvalTaskConfig) -> dict[str, str]:
    return {task.name: task.task_alias} if task.task_alias else {}


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _not_asked(task: EvalTaskConfig, suffix: str) -> dict[str, Any]:
    reason = "not asked: the evaluation was stopped before it"
    key = task.task_alias or f"{task.name}{suffix}"
    return {"task": key, "num_fewshot": task.num_fewshot, "reason": reason, "fetch": None}


def _check_listed_once(tasks: Sequence[EvalTaskConfig], loaded: Sequence[list[Any]], suffixes: Sequence[str]) -> None:
    """ValueError where two of the scores would have one name."""
    listed: dict[str, str] = {}
    for task, parts, suffix in zip(tasks, loaded, suffixes, strict=True):
        for name in [name for part in parts for name in _names(part)]:
            key = task.task_alias if name == task.name and task.task_alias else f"{name}{suffix}"
            if key in listed:
                raise ValueError(
                    f"'{key}' would be listed twice, of {listed[key]} and of {task.name}; give one of them another "
                    "task_alias, or leave it out"
                )
            listed[key] = task.name


def _names(part: Any) -> list[str]:
    """Names that scores of a task or a group of the harness have: its tasks, and groups that have scores."""
    if not isinstance(part, Group):
        return [part.task_name]
    groups = [group.name for group in (part, *part.get_all_groups()) if group.aggregate_metric_list]
    return [*(task.task_name for task in part.get_all_tasks()), *groups]


def task_manager(include_path: str | None, include_defaults: bool) -> TaskManager:
    """The harness's tasks: those in a folder of its YAML files, and its own if asked for (indexing them takes 10 s)."""
    if include_path is not None and not Path(include_path).is_dir():
        raise FileNotFoundError(f"no folder {include_path}: expected YAML files of lm-evaluation-harness tasks")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_path=include_path, include_defaults=include_defaults)


def _check_known(name: str, manager: TaskManager) -> None:
    """ValueError, with near misses, for a task or group that the harness does not know."""
    if name not in manager.all_tasks:
        near = difflib.get_close_matches(name, manager.all_tasks, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; it knows {', '.join(manager.all_tasks[:20])}"
        raise ValueError(f"lm-evaluation-harness has no task '{name}'{hint}")


def own_shots(name: str, manager: TaskManager) -> int:
    """Solved examples that a task or group of the harness has where nobody says; 0 where it does not say either.

    Raises ValueError for a name that the harness does not know, and for a group whose tasks have different numbers.
    """
    _check_known(name, manager)
    counts = {int(task.config.num_fewshot or 0) for task in manager.load([name])["tasks"].values()}
    if len(counts) > 1:
        raise ValueError(
            f"the tasks of '{name}' have {', '.join(map(str, sorted(counts)))} solved examples of their own: say how "
            f"many, as in {name}@{max(counts)}"
        )
    return max(counts, default=0)


def load_task(task: EvalTaskConfig, manager: TaskManager) -> list[Any]:
    """A task, the tasks of a tag, or a group of the harness, each task at the number of shots asked for."""
    loaded = manager.load([task.name])
    for leaf in loaded["tasks"].values():
        leaf.set_config(key="num_fewshot", value=task.num_fewshot)
    group = loaded.get("groups", {}).get(task.name)
    return list(loaded["tasks"].values()) if group is None else [group]


@dataclass(frozen=True, kw_only=True)
class HarnessScores:
    """What the harness found, as results.json and samples.jsonl have it."""

    tasks: Mapping[str, TaskResult]
    groups: Mapping[str, Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]]


def harness_results(
    found: Mapping[str, Any], aliases: Mapping[str, str], suffix: str, hashes: Mapping[str, str]
) -> HarnessScores:
    """What `simple_evaluate` returned; each name gets its alias, or the suffix, and each task its hash."""
    tasks, samples = {}, []
    keys = {name: aliases.get(name, f"{name}{suffix}") for name in (*found["samples"], *found.get("groups", {}))}
    for name, given in found["samples"].items():
        by_doc: dict[Any, dict[str, Any]] = {}
        asked: dict[Any, Any] = {}
        values: dict[str, list[Any]] = {}
        for row in given:  # one for each filter
            behind = "" if row["filter"] == "none" else f",{row['filter']}"
            asked[row["doc_id"]] = [row["doc_id"], _plain(row["arguments"]), _plain(row["target"])]
            kept = by_doc.setdefault(
                row["doc_id"],
                {
                    "task": keys[name],
                    "doc_id": str(row["doc_id"]),
                    "target": _plain(row["target"]),
                    "arguments": _plain(row["arguments"]),
                    "resps": _plain(row["resps"]),
                },
            )
            kept[f"filtered_resps{behind}"] = _plain(row["filtered_resps"])
            for metric in row["metrics"]:
                values.setdefault(f"{metric}{behind}", []).append(row[metric])
                kept[f"{metric}{behind}"] = _plain(row[metric])
        samples += by_doc.values()
        num_all = int(found["n-samples"][name]["original"])
        better = found["higher_is_better"].get(name, {})
        tasks[keys[name]] = TaskResult(
            version=_version(found["versions"].get(name)),
            n=len(by_doc),
            num_fewshot=int(found["n-shot"].get(name) or 0),
            prompt_hash=prompt_hash(list(asked.values())),
            metrics=dict(_metrics(found["results"][name], values, better, len(by_doc))),
            notes=["prompts and metrics by lm-evaluation-harness"]
            + ([f"the first {len(by_doc)} of {num_all} questions"] if len(by_doc) < num_all else []),
            about={"task": name, "n_all": num_all, "result_hash": hashes[keys[name]]},
        )
    groups = {
        keys[name]: {
            "group": name,
            "n": sum(tasks[keys[member]].n for member in _leaves(name, found["group_subtasks"])),
            "tasks": [keys[member] for member in _leaves(name, found["group_subtasks"])],
            "metrics": dict(_metrics(scores, {}, found["higher_is_better"].get(name, {}), int(scores["sample_len"]))),
        }
        for name, scores in found.get("groups", {}).items()
    }
    return HarnessScores(tasks=tasks, groups=groups, samples=samples)


def _leaves(name: str, below: Mapping[str, Sequence[str]]) -> list[str]:
    """The tasks of a group, those of groups in it too."""
    return [leaf for member in below.get(name, ()) for leaf in (_leaves(member, below) or [member])]


def _entries(scores: HarnessScores) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, metrics in (
        *((key, task.metrics) for key, task in scores.tasks.items()),
        *((key, group["metrics"]) for key, group in scores.groups.items()),
    ):
        yield from ((f"{key} {metric}", entry) for metric, entry in metrics.items())


def _metrics(
    scores: Mapping[str, Any], values: Mapping[str, list[Any]], better: Mapping[str, Any], n: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in scores.items():
        metric, _, filtered = key.partition(",")
        if metric.endswith("_stderr") or not filtered or not isinstance(value, (int, float)):
            continue
        name = metric if filtered == "none" else f"{metric},{filtered}"
        yield (
            name,
            metric_entry(
                _estimate(float(value), values.get(name, []), scores.get(f"{metric}_stderr,{filtered}"), n),
                higher_is_better=better.get(metric) is not False,
                note=None if _is_mean(float(value), values.get(name, [])) else "standard error by the harness",
            ),
        )


def _is_mean(value: float, values: Sequence[Any]) -> bool:
    is_number = bool(values) and all(isinstance(each, (bool, int, float, np.number)) for each in values)
    return is_number and math.isclose(math.fsum(map(float, values)) / len(values), value, rel_tol=1e-9, abs_tol=1e-12)


def _estimate(value: float, values: Sequence[Any], stderr: Any, n: int) -> Estimate:
    if _is_mean(value, values):
        numbers = [float(each) for each in values]
        return proportion_estimate(np.array(numbers)) if {*numbers} <= {0.0, 1.0} else mean_estimate(numbers)
    if not isinstance(stderr, (int, float)) or not math.isfinite(stderr):
        return Estimate(value=value, stderr=None, ci95=None, n=n, num_clusters=n, interval=None)
    ci95 = (value - Z95 * stderr, value + Z95 * stderr)
    return Estimate(value=value, stderr=float(stderr), ci95=ci95, n=n, num_clusters=n)


def _version(given: Any) -> int:
    try:
        return int(float(given))
    except (TypeError, ValueError):
        return 0


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(each) for each in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, str) else str(value)
