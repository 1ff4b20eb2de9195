"""Tasks of an evaluation that are done while others are not, so that a run that was stopped goes on.

A file each, taken away when all scores are written. A task counts as done only for the same model, known by the content
of its weights, the same settings, the very same questions, the same EVALUATION_VERSION and the same source of marin's
code that asks them. The version is raised by a person who knows that scores change; the source notices what nobody
thought of: an edit of a comment there asks again, which costs less than a score of two programs.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from marin.evaluation.identity import EvaluationRecord, differences
from marin.evaluation.results import TaskResult, as_json
from marin.io.atomic import write_bytes

FINISHED_FOLDER = "finished_tasks"

_ASKING_PACKAGES = ("evaluation", "inference", "models", "processing/tokenize")


class FinishedTasks:
    """Tasks that an earlier run of the same evaluation has done, and this one as it goes."""

    def __init__(self, output_path: str | Path | None, record: EvaluationRecord, tell: Callable[[str], None]):
        """Nothing is kept without an output_path, and of a model that is not known by its content, which may have
        changed in the meantime. `tell` gets why a task that was done is asked again."""
        self._folder = None if output_path is None else Path(output_path) / FINISHED_FOLDER
        self._tell = tell
        self._conditions: dict[str, Any] | None = None
        if self._folder is not None and record.model.get("weights_sha256"):
            settings = {name: value for name, value in record.config.items() if name != "tasks"}
            self._conditions = as_json({**record.model, **settings, **record.policy, "source_sha256": _source_digest()})

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


def _source_digest() -> str:
    """sha256 over the Python source that a score comes from."""
    root = Path(str(files("marin")))
    digest = hashlib.sha256()
    for package in _ASKING_PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(
                f"{path.relative_to(root).as_posix()}\n".encode() + hashlib.sha256(path.read_bytes()).digest()
            )
    return digest.hexdigest()
