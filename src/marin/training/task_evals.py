"""Multiple-choice tasks, answered by the parameters as they are while training.

The questions, the scoring and the metrics are those of `marin.evaluation.multiple_choice`, so a curve over training
ends where an evaluation of the same parameters begins. What an evaluation adds, error bars and the check of an
exported model, is left to it.

A path is only a name, so each score has the hash of its questions beside it, in tasks.jsonl: {"step": 500, "tasks":
{NAME: {"prompt_hash": ..., "questions": 100}}}. A run does not go on with other questions than it was scored on.
"""

import itertools
from typing import Any

import jax
import numpy as np

from marin.distributed.mesh import everywhere
from marin.evaluation.multiple_choice import METRICS, answer_questions, correct
from marin.evaluation.scoring import ScoredModel, TokenLogProbs
from marin.evaluation.task_files import read_multiple_choice
from marin.models import lm
from marin.tracking.jsonl import read_rows
from marin.training.callback_config import TaskEvalsConfig
from marin.training.callbacks import StepDone, is_due
from marin.training.run import Run

TASKS_FILE = "tasks.jsonl"


class TaskEvals:
    """Rows `tasks/NAME/acc`, `acc_norm`, `acc_bytes`, `acc_mutual_info` and `questions` of each task."""

    def __init__(self, config: TaskEvalsConfig, run: Run) -> None:
        self._config = config
        self._run = run
        self._tokenizer = run.tokenizer
        self._tasks = [
            read_multiple_choice(path, name=name, delimiter=config.delimiter, max_questions=config.max_questions)
            for name, path in sorted(config.tasks.items())
        ]
        self._asked = {
            task.name: {"prompt_hash": task.prompt_hash, "questions": len(task.questions)} for task in self._tasks
        }
        self._check_same_questions()
        model, compute_dtype = run.config.model, run.config.trainer.compute_dtype
        self._score = jax.jit(
            lambda p, x, y: everywhere(lm.token_log_probs(model, p, x, y, compute_dtype=compute_dtype))
        )

    def __call__(self, done: StepDone) -> None:
        if not is_due(done, self._config.every):
            return
        with self._run.log.paused():
            prefix: Any = self._run.data.document_prefix
            model = ScoredModel(
                token_log_probs=self._scorer(self._run.model_params(done.state)),
                seq_len=self._run.config.model.seq_len,
                vocab_size=self._run.data.vocab_size,
                document_prefix=prefix,
            )
            row: dict[str, float | int] = {}
            for task in self._tasks:
                answers = answer_questions(model, self._tokenizer, task)
                for metric in METRICS:
                    row[f"tasks/{task.name}/{metric}"] = float(np.mean(correct(answers, metric)))
                row[f"tasks/{task.name}/questions"] = len(answers)
            self._run.log_json(TASKS_FILE, done.step, {"tasks": self._asked})
            self._run.log.log_row(done.step, row)

    def _check_same_questions(self) -> None:
        """ValueError where the run was scored on other questions before."""
        path = self._run.output / TASKS_FILE
        if self._run.resume_step is None or not path.is_file():
            return
        rows: list[Any] = list(read_rows(path))
        for row, (name, asked) in itertools.product(rows, self._asked.items()):
            before = row["tasks"].get(name, asked)
            if before != asked:
                raise ValueError(
                    f"task '{name}': {self._config.tasks[name]} has other questions than when this run was scored at "
                    f"step {row['step']} ({before['questions']} then, {asked['questions']} now). Put those back, or "
                    "train anew in another folder."
                )

    def _scorer(self, params: Any) -> TokenLogProbs:
        return lambda tokens, targets: self._score(params, tokens, targets)
