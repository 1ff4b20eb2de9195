"""Tasks asked of a model in a folder: the step of `default_eval` and what `marin eval` runs.

A run that was stopped goes on behind the last task that was done, as long as the model's bytes, all settings and the
questions are the same.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from marin.evaluation.chat_prompts import ChatPrompts
from marin.evaluation.config import TaskEvaluationConfig
from marin.evaluation.exported import ExportedModel
from marin.evaluation.identity import EvaluationRecord
from marin.evaluation.models import model_chat, open_model
from marin.evaluation.progress import ProgressLines
from marin.evaluation.run_tasks import TaskScores, evaluate_plan, evaluation_record
from marin.evaluation.task_plan import PlannedTasks, plan_tasks
from marin.evaluation.tasks.data import TaskData
from marin.processing.tokenize.tokenizer import Tokenizer

__all__ = ["TaskEvaluationConfig", "run"]


def run(config: TaskEvaluationConfig) -> Path:
    """Ask the tasks and write results.json and samples.jsonl; returns the path of results.json.

    Raises ValueError where no task could be asked, and as `open_model` and `evaluate_tasks` do.
    """
    scores = evaluate_model(open_configured(config), config)
    assert scores.path is not None
    if not scores.tasks:
        raise ValueError(all_skipped(scores.skipped))
    return scores.path


def open_configured(config: TaskEvaluationConfig, checkpoint: str | None = None) -> ExportedModel:
    """The model of a config; of a training run the given checkpoint, if it is not the config's own."""
    return open_model(
        config.model_path,
        checkpoint=checkpoint or config.checkpoint,
        tokenizer=config.tokenizer_path,
        average=config.average,
        tokens_per_batch=config.tokens_per_batch,
        allow_unverified=config.allow_unverified,
    )


def configured_chat(config: TaskEvaluationConfig, tokenizer: Tokenizer) -> ChatPrompts | None:
    """How the config's model, whose tokenizer is given, is asked in its chat template; None: as texts.

    Raises ValueError where it has no template, and as `ChatPrompts` does.
    """
    if not config.apply_chat_template:
        return None
    chat = model_chat(config.model_path, tokenizer)
    return ChatPrompts(
        tokenizer,
        chat.template,
        fewshot_as_multiturn=config.fewshot_as_multiturn,
        system_instruction=config.system_instruction,
        end_ids=chat.end_ids,
    )


def evaluate_model(
    model: ExportedModel,
    config: TaskEvaluationConfig,
    plan: PlannedTasks | None = None,
    output_path: str | Path | None = None,
    progress: Callable[[str], ProgressLines] = ProgressLines,
    quiet: bool = False,
) -> TaskScores:
    """The scores of an opened model, written into the config's output folder, or the one given.

    `plan` is what `plan_configured` made of the config, where that is at hand.
    """
    return evaluate_plan(
        model,
        plan or plan_configured(config, configured_chat(config, model.tokenizer)),
        output_path=config.output_path if output_path is None else output_path,
        progress=progress,
        metrics=config.metrics,
        mutual_information=config.mutual_information,
        quiet=quiet,
    )


def plan_configured(config: TaskEvaluationConfig, chat: ChatPrompts | None) -> PlannedTasks:
    """What a config asks; `chat` is what `configured_chat` gives. Raises as `plan_tasks` does."""
    return plan_tasks(
        config.tasks,
        data=TaskData(data_folder(config.data_path)),
        limit=config.limit,
        seed=config.fewshot_seed,
        allow_code_execution=config.allow_code_execution,
        chat=chat,
    )


def record_configured(model: ExportedModel, config: TaskEvaluationConfig, plan: PlannedTasks) -> EvaluationRecord:
    """What the evaluation of a config is, see `marin.evaluation.identity`."""
    return evaluation_record(model, plan, metrics=config.metrics, mutual_information=config.mutual_information)


def data_folder(given: str | None) -> str:
    """The folder of the tasks' data: the one given, else $MARIN_EVAL_DATA, else $MARIN_SHARED_DATA/eval.

    Raises FileNotFoundError where there is no such folder. (`eval_data` below the working folder, where commands that
    fetch data put it, is taken where it exists and nothing else is named.)
    """
    named = given or os.environ.get("MARIN_EVAL_DATA")
    if named is None and os.environ.get("MARIN_SHARED_DATA"):
        named = os.path.join(os.environ["MARIN_SHARED_DATA"], "eval")
    if named is None:
        return "eval_data"  # tasks without data are skipped, each with the command that fetches it to there
    if not os.path.isdir(named):
        raise FileNotFoundError(f"no folder of evaluation data at {named}: give one, or set MARIN_EVAL_DATA")
    return named


def all_skipped(skipped: Sequence[Mapping[str, Any]]) -> str:
    """What to say where no task could be asked."""
    fetch = list(dict.fromkeys(task["fetch"] for task in skipped if task["fetch"]))
    reasons = "; ".join(str(task["reason"]) for task in skipped[:3])
    then = f" To fetch data: {fetch[0]}" if fetch else ""
    return f"none of the {len(skipped)} tasks could be asked: {reasons}.{then}"
