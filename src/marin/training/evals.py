"""Tasks of an evaluation, asked of the parameters as they are while training.

The engine, the questions and the metrics are those of `marin.evaluation.run_tasks`, so a curve over training ends where
an evaluation of the same parameters begins. Numbers go to the metrics as `eval/TASK/METRIC`, with `_stderr` behind the
name for the standard error; groups and the CORE average likewise. What a curve does not say, the hash and the number of
the questions, which tasks were left out and which version of the evaluation scored them, is in evals.jsonl: {"step",
"tasks": {TASK: {"prompt_hash", "n", "num_fewshot"}}, "skipped": [...], "evaluation_version"}. A run does not go on with
other questions than it was scored on. All tasks are read and prompted before the first step, so that a broken one stops
no run in its middle.

The devices of the run's mesh share the questions. Of several processes the first one asks alone, on a device of its
own, while the others wait for its numbers: the price is that the parameters are gathered there.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from marin.distributed.mesh import make_mesh, use_own_device
from marin.distributed.processes import fetch, is_first, said_by_first
from marin.evaluation.chat_prompts import ChatPrompts
from marin.evaluation.identity import EVALUATION_VERSION
from marin.evaluation.run_tasks import TaskScores, evaluate_tasks
from marin.evaluation.scoring import DocumentPrefix, ScoredModel, scored_model
from marin.evaluation.task_answers import num_not_given_back
from marin.evaluation.task_plan import plan_tasks
from marin.evaluation.task_step import all_skipped, data_folder
from marin.evaluation.tasks.data import TaskData
from marin.export.hf import LoadedModel
from marin.tracking.jsonl import read_rows
from marin.training.callback_config import EvalsConfig
from marin.training.callbacks import StepDone, is_due
from marin.training.run import Run

EVALS_FILE = "evals.jsonl"


@dataclass(frozen=True, kw_only=True)
class LiveModel:
    """Parameters in training, as tasks are asked of them."""

    scored: ScoredModel
    loaded: LoadedModel
    tokenizer: Any
    document_prefix: DocumentPrefix | None
    description: Mapping[str, Any]


class Evals:
    """Rows `eval/TASK/acc` and so on."""

    def __init__(self, config: EvalsConfig, run: Run) -> None:
        self._config = config
        self._run = run
        self._tokenizer = run.tokenizer
        self._data = TaskData(data_folder(config.data))
        self._chat = self._chat_prompts()
        self._before = self._asked_before()
        if is_first():
            self._check_before_training()

    def __call__(self, done: StepDone) -> None:
        if not is_due(done, self._config.every):
            return
        with self._run.log.paused():
            row: Any = said_by_first(self._measure(done))
            self._run.log.log_row(done.step, row)

    def _chat_prompts(self) -> ChatPrompts | None:
        """How the model is asked in the template that it is trained in; None: as texts."""
        if not self._config.apply_chat_template:
            return None
        trained = self._run.data.chat
        return ChatPrompts(
            self._tokenizer,
            None if trained is None else trained.template,
            fewshot_as_multiturn=self._config.fewshot_as_multiturn,
            system_instruction=self._config.system_instruction,
            end_ids=() if trained is None else (trained.stop_id,),
        )

    def _check_before_training(self) -> None:
        """Read every task and write its prompts, so that what is wrong with one is told before a step is trained."""
        plan = plan_tasks(
            self._config.tasks,
            data=self._data,
            limit=self._config.limit,
            seed=self._config.fewshot_seed,
            chat=self._chat,
        )
        for task in plan.tasks.values():
            num_not_given_back(self._tokenizer, task)
        if not plan.tasks:
            raise ValueError(f"the evals callback: {all_skipped(plan.skipped)}")
        self._check_same_questions({key: _questions_of(task.identity()) for key, task in plan.tasks.items()})

    def _measure(self, done: StepDone) -> dict[str, float | int] | None:
        """The row; None in a process that is not the first."""
        params = self._run.model_params(done.state)
        if jax.process_count() == 1:
            scores = self._scores(params, make_mesh(self._run.config.trainer.mesh))
        else:
            params = fetch(params)
            if not is_first():
                return None
            with use_own_device():
                scores = self._scores(jax.device_put(params), None)
        unfit = [task for task in scores.skipped if task["task"] in self._before]
        if unfit or not scores.tasks:
            raise ValueError(f"the evals callback: {all_skipped(unfit or scores.skipped)}")
        asked = {key: _questions_of(asdict(task)) for key, task in scores.tasks.items()}
        self._check_same_questions(asked)
        skipped = [{"task": task["task"], "reason": task["reason"]} for task in scores.skipped]
        self._run.log_json(
            EVALS_FILE, done.step, {"tasks": asked, "skipped": skipped, "evaluation_version": EVALUATION_VERSION}
        )
        return row_of(scores)

    def _scores(self, params: Any, mesh: Mesh | None) -> TaskScores:
        model, vocab_size = self._run.config.model, self._run.data.vocab_size
        prefix: Any = self._run.data.document_prefix
        live = LiveModel(
            scored=scored_model(model, params, vocab_size, self._config.tokens_per_batch, prefix, mesh=mesh),
            loaded=LoadedModel(config=model, params=params, vocab_size=vocab_size),
            tokenizer=self._tokenizer,
            document_prefix=prefix,
            description={},
        )
        return evaluate_tasks(
            live,
            self._config.tasks,
            data=self._data,
            limit=self._config.limit,
            seed=self._config.fewshot_seed,
            metrics=self._config.metrics,
            mutual_information=self._config.mutual_information,
            chat=self._chat,
            quiet=True,
        )

    def _asked_before(self) -> dict[str, Any]:
        """What each task asked when this run was scored first."""
        path = self._run.output / EVALS_FILE
        if self._run.resume_step is None or not path.is_file():
            return {}
        rows: list[Any] = [row for row in read_rows(path) if int(row["step"]) <= self._run.resume_step]
        return rows[0]["tasks"] if rows else {}

    def _check_same_questions(self, asked: Mapping[str, Any]) -> None:
        for key, before in self._before.items():
            if asked.get(key) != before:
                now = f"{asked[key]['n']} now" if key in asked else "none now, for want of data"
                raise ValueError(
                    f"task '{key}': {self._place(key)} has other questions than when this run was scored before "
                    f"({before['n']} then, {now}). Put those back, or train anew in another folder."
                )
        self._before = dict(asked)

    def _place(self, key: str) -> str | Path:
        """Where the questions that are listed under a key come from."""
        for task in self._config.tasks:
            if task.file and key in (task.task_alias, task.name, f"{task.name}@{task.num_fewshot}"):
                return task.file
        return self._data.root


def _questions_of(task: Mapping[str, Any]) -> dict[str, Any]:
    return {name: task[name] for name in ("prompt_hash", "n", "num_fewshot")}


def row_of(scores: TaskScores) -> dict[str, float | int]:
    """`eval/TASK/METRIC`, its standard error, and how many questions were asked, of every task and group."""
    row: dict[str, float | int] = {}
    entries = {key: (task.metrics, task.n) for key, task in scores.tasks.items()}
    groups = dict(scores.groups) | ({} if scores.core is None else {scores.core["name"]: scores.core})
    entries |= {key: (group["metrics"], group["n"]) for key, group in groups.items()}
    for key, (metrics, n) in entries.items():
        for name, entry in metrics.items():
            row[f"eval/{key}/{name}"] = entry["value"]
            if entry["stderr"] is not None:
                row[f"eval/{key}/{name}_stderr"] = entry["stderr"]
        row[f"eval/{key}/questions"] = n
    row["eval/skipped_tasks"] = len(scores.skipped)
    return row
