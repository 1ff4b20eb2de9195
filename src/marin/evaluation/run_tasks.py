"""Ask a model tasks and write down its scores: results.json and samples.jsonl.

All questions are read and put into words first (`task_plan`); then one task after the other is asked (`task_answers`),
scored (`task_results`) and kept, so that a run that was stopped goes on with the next. A task whose data is absent is
left out, counted, and named with the command that fetches it; every score says how many of how many questions it is of.
"""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from marin.evaluation.chat_prompts import ChatPrompts
from marin.evaluation.code_execution import ExecutionLimits
from marin.evaluation.finished_tasks import FinishedTasks
from marin.evaluation.identity import EVALUATION_VERSION, EvaluationRecord, find_done
from marin.evaluation.results import TaskResult, write_results
from marin.evaluation.scoring import Progress, check_vocabulary, prefix_policy, resolve_prefix
from marin.evaluation.task_answers import EvaluatedModel, UnfitTaskError, ask
from marin.evaluation.task_plan import PlannedTasks, plan_tasks
from marin.evaluation.task_results import (
    core_average,
    group_line,
    group_scores,
    skipped_lines,
    task_line,
    task_result,
)
from marin.evaluation.tasks.data import TaskData
from marin.evaluation.tasks.definition import TaskDefinition
from marin.evaluation.tasks.lists import EvalTaskConfig
from marin.evaluation.tasks.shots import FEWSHOT_SEED

TaskProgress = Callable[[str], Progress]
"""Key of a task -> what is called with (requests done, requests in all) of it."""

Metrics = Literal["lm_eval", "core"]

_LIMITS = ExecutionLimits()


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """Scores of a model, as results.json has them."""

    tasks: Mapping[str, TaskResult]
    """Key (the task's name, NAME@SHOTS where it is asked at several, or its alias) -> scores."""
    groups: Mapping[str, Mapping[str, Any]]
    """Key -> scores over several tasks."""
    skipped: Sequence[Mapping[str, Any]]
    """Tasks that were asked for and could not run: task, num_fewshot, reason, fetch."""
    samples: Sequence[Mapping[str, Any]]
    """A row for each question."""
    core: Mapping[str, Any] | None
    """The CORE average, where it was asked for and a task of it ran."""
    path: Path | None
    """results.json, where it was written."""

    def value(self, key: str, metric: str) -> float:
        """A score. KeyError where there is none."""
        return (self.tasks[key].metrics if key in self.tasks else self.groups[key]["metrics"])[metric]["value"]


def evaluate_tasks(
    model: EvaluatedModel,
    tasks: Sequence[EvalTaskConfig],
    *,
    data: TaskData,
    limit: int | None = None,
    seed: int = FEWSHOT_SEED,
    output_path: str | Path | None = None,
    progress: TaskProgress | None = None,
    metrics: Metrics = "lm_eval",
    mutual_information: bool = False,
    definitions: Mapping[str, TaskDefinition] | None = None,
    allow_code_execution: Collection[str] = (),
    limits: ExecutionLimits = _LIMITS,
    chat: ChatPrompts | None = None,
    quiet: bool = False,
) -> TaskScores:
    """The model's scores on tasks and groups; with `output_path`, results.json and samples.jsonl there.

    `limit` asks the first so many questions of each task, and the scores say so. `seed` draws solved examples.
    `metrics` "core" adds the CORE average of DataComp-LM (`scores.core_score`) over those of its 22 tasks that are
    asked at its numbers of examples and have data, where candidates are compared by mean loss over their tokens.
    `mutual_information` adds acc_mutual_info, for a second, short request for each candidate. `definitions` are tasks
    beside those of the catalog, by name. A task that runs what the model wrote is skipped unless it is named in
    `allow_code_execution`; each program has `limits`. With `chat` all is asked as conversations. A run that was stopped
    and is started again with the same output_path, model and arguments goes on behind the last task that was done.

    Raises FileNotFoundError where there is no file of questions that a task names; ValueError for an unknown task (with
    near misses), a broken row (with file and line), too few rows for the examples asked for, a tokenizer that does not
    fit the model or gives none of the task's texts back, and for an output_path with the results of another model, of
    other arguments or of other questions. Why something in it is asked again is told on stderr.
    """
    plan = plan_tasks(
        tasks,
        data=data,
        limit=limit,
        seed=seed,
        definitions=definitions,
        allow_code_execution=allow_code_execution,
        execution_limits=limits,
        chat=chat,
    )
    return evaluate_plan(
        model,
        plan,
        output_path=output_path,
        progress=progress,
        metrics=metrics,
        mutual_information=mutual_information,
        quiet=quiet,
    )


def evaluate_plan(
    model: EvaluatedModel,
    plan: PlannedTasks,
    *,
    output_path: str | Path | None = None,
    progress: TaskProgress | None = None,
    metrics: Metrics = "lm_eval",
    mutual_information: bool = False,
    quiet: bool = False,
) -> TaskScores:
    """`evaluate_tasks` of tasks that were planned already, for several models or to know early what is asked."""
    check_vocabulary(model.scored, model.tokenizer)
    say = (lambda text: None) if quiet else (lambda text: print(text, flush=True))
    record = evaluation_record(model, plan, metrics=metrics, mutual_information=mutual_information)
    if output_path is not None:
        find_done(output_path, record, _tell)
    kept = FinishedTasks(output_path, record, _tell)

    results: dict[str, TaskResult] = {}
    samples: dict[str, list[dict[str, Any]]] = {}
    skipped = list(plan.skipped)
    for key, planned in plan.tasks.items():
        done = kept.read(key, planned.result_hash)
        if done is None:
            try:
                answered = ask(
                    model,
                    planned,
                    seed=plan.seed,
                    mutual_information=mutual_information,
                    progress=None if progress is None else progress(key),
                    execution_limits=plan.execution_limits,
                    chat=plan.chat,
                )
            except UnfitTaskError as error:
                skipped.append(
                    {"task": key, "num_fewshot": planned.task.num_fewshot, "reason": str(error), "fetch": None}
                )
                continue
            done = task_result(planned, answered, seed=plan.seed), answered.samples
            kept.write(key, planned.result_hash, *done)
        results[key], samples[key] = done
        say(task_line(key, results[key]))

    groups = group_scores(plan.groups, results, samples)
    for key, group in groups.items():
        say(group_line(key, group))
    core = core_average(plan, samples) if metrics == "core" else None
    if core is not None:
        say(group_line(core["name"], core))
    elif metrics == "core":
        say("no CORE average: no task of it was asked at its number of examples and had data; list dclm_core has them")
    for line in skipped_lines(skipped):
        say(line)

    rows_of_all = [row for key in results for row in samples[key]]
    path = None
    if output_path is not None:
        path = write_results(
            output_path,
            model=model.description,
            tasks=results,
            groups=groups | ({} if core is None else {core["name"]: core}),
            skipped=skipped,
            samples=rows_of_all,
            policy=record.policy,
            config=record.config,
            identity=record.identity,
        )
        kept.clear()
        say(f"results: {path}")
    return TaskScores(tasks=results, groups=groups, skipped=tuple(skipped), samples=rows_of_all, core=core, path=path)


def evaluation_record(
    model: EvaluatedModel, plan: PlannedTasks, *, metrics: Metrics = "lm_eval", mutual_information: bool = False
) -> EvaluationRecord:
    """What an evaluation is, for `identity`: of the same, `evaluate_plan` would write the same results."""
    policy = {
        "document_prefix": resolve_prefix(model.tokenizer, model.document_prefix),
        "prefix": prefix_policy(model.tokenizer, model.document_prefix),
        "tokenizer_digest": getattr(model.tokenizer, "digest", None),
        "fewshot_seed": plan.seed,
        "log_likelihoods": "natural",
        "evaluation_version": EVALUATION_VERSION,
    }
    if any(planned.task.definition.runs_code for planned in plan.tasks.values()):
        policy["execution_limits"] = asdict(plan.execution_limits)
    # those of the catalog are of an EVALUATION_VERSION, or of the files that were read
    baselines = {key: each.core_baseline for key, each in plan.tasks.items() if each.task.definition.name in plan.own}
    if metrics == "core" and baselines:
        policy["core_baselines"] = baselines
    if plan.chat is not None:
        policy["stop_ids"] = list(plan.chat.stop_ids)
    config = asked_config(plan, metrics=metrics, mutual_information=mutual_information)
    return EvaluationRecord(model=model.description, config=config, policy=policy, asked=plan.hashes())


def asked_config(plan: PlannedTasks, *, metrics: Metrics, mutual_information: bool) -> dict[str, Any]:
    """The arguments of `evaluate_tasks` as results.json has them."""
    return {
        "tasks": [config.written() for config in plan.configs],
        "limit": plan.limit,
        "fewshot_seed": plan.seed,
        "metrics": metrics,
        "mutual_information": mutual_information,
    } | ({} if plan.chat is None else {"chat": plan.chat.description})


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
