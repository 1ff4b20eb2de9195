"""Tasks of an evaluation that are done while others are not, so that a run that was stopped goes on.

A file each, taken away when all scores are written. A task counts as done only for the same model, known by the content
of its weights, the same settings and the very same questions.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from marin.evaluation.results import TaskResult
from marin.io.atomic import write_bytes

FINISHED_FOLDER = "finished_tasks"


class FinishedTasks:
    """Tasks that an earlier run of the same evaluation has done, and this one as it goes."""

    def __init__(self, output_path: str | Path | None, model: Mapping[str, Any], settings: Mapping[str, Any]):
        self._folder = None if output_path is None else Path(output_path) / FINISHED_FOLDER
        # a model that is not known by its content may have changed in the meantime
        by_content = bool(model.get("weights_sha256"))
        identity = json.dumps([dict(model), dict(settings)], sort_keys=True, default=str)
        self._identity = hashlib.sha256(identity.encode()).hexdigest() if by_content else None

    def read(self, key: str, asked_hash: str) -> tuple[TaskResult, list[dict[str, Any]]] | None:
        """Scores and samples of a task, if it was done with the same model, settings and questions."""
        path = self._path(key)
        if path is None or self._identity is None or not path.is_file():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["identity"], content["prompt_hash"]) != (self._identity, asked_hash):
            return None
        return TaskResult(**content["result"]), content["samples"]

    def write(self, key: str, asked_hash: str, result: TaskResult, samples: list[dict[str, Any]]) -> None:
        path = self._path(key)
        if path is None or self._identity is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "identity": self._identity,
            "prompt_hash": asked_hash,
            "result": asdict(result),
            "samples": samples,
        }
        write_bytes(path, json.dumps(content).encode())

    def clear(self) -> None:
        """Take the files away, now that results.json has what is in them."""
        if self._folder is not None:
            # a writer that was killed leaves what it had begun; what cannot be deleted is no reason to fail at the end
            shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, key: str) -> Path | None:
        return None if self._folder is None else self._folder / (re.sub(r"[^\w@.-]", "_", key) + ".json")
