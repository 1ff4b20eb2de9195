"""Tasks of an evaluation that are done while others are not, so that a run that was stopped goes on.

A file each, taken away when all scores are written. A task counts as done only for the very same questions, the same
settings, and what else its answers depend on (`EvaluationRecord.answering_conditions`).
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from marin.evaluation.identity import EvaluationRecord, differences
from marin.evaluation.results import TaskResult, as_json
from marin.io.atomic import write_bytes

FINISHED_FOLDER = "finished_tasks"


class FinishedTasks:
    """Tasks that an earlier run of the same evaluation has done, and this one as it goes."""

    def __init__(self, output_path: str | Path | None, record: EvaluationRecord, tell: Callable[[str], None]):
        """Nothing is kept without an output_path, and of a model that is not known by its content, which may have
        changed in the meantime. `tell` gets why a task that was done is asked again."""
        self._folder = None if output_path is None else Path(output_path) / FINISHED_FOLDER
        self._tell = tell
        answering = None if self._folder is None else record.answering_conditions()
        settings = {name: value for name, value in record.config.items() if name != "tasks"}
        self._conditions = None if answering is None else as_json(settings) | answering

    def read(self, key: str, result_hash: str) -> tuple[TaskResult, list[dict[str, Any]]] | None:
        """Scores and samples of a task, if it was done under the same conditions with the same `result_hash`."""
        path = self._path(key)
        if path is None or self._conditions is None or not path.is_file():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        then, now = (
            {**conditions, "questions": questions}
            for conditions, questions in (
                (content.get("conditions", {}), content.get("result_hash")),
                (self._conditions, result_hash),
            )
        )
        if then != now:
            self._tell(f"{key} was done, and is asked again: {'; '.join(differences(then, now))}")
            return None
        return TaskResult(**content["result"]), content["samples"]

    def write(self, key: str, result_hash: str, result: TaskResult, samples: list[dict[str, Any]]) -> None:
        """Keep a task that is done."""
        path = self._path(key)
        if path is None or self._conditions is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "conditions": self._conditions,
            "result_hash": result_hash,
            "result": asdict(result),
            "samples": samples,
        }
        write_bytes(path, json.dumps(content).encode())

    def clear(self) -> None:
        """Take the files away, now that results.json has what is in them."""
        if self._folder is None or not self._folder.is_dir():
            return
        shutil.rmtree(self._folder, ignore_errors=True)  # with what a writer that was killed left behind

    def _path(self, key: str) -> Path | None:
        return None if self._folder is None else self._folder / (re.sub(r"[^\w@.-]", "_", key) + ".json")
