"""Answers to single requests, kept in a file as they come, so that a run that was stopped does not ask them again.

For evaluations whose tasks are not ours, so that a request is all that is known of them. (lm-evaluation-harness keeps
answers too, `CachingLM`, but of the requests of a task when all are answered, and not what is counted of each.) A line
for each answer, by a hash of the request; the first line says under which conditions they were given, and under
others none of them counts.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from marin.evaluation.identity import differences

ANSWERS_FILE = "kept_answers.jsonl"


class KeptAnswers:
    """Key of a request -> its answer, as JSON has it."""

    def __init__(self, folder: str | Path, conditions: Mapping[str, Any], tell: Callable[[str], None]):
        """What the folder has, where it was given under these conditions; `tell` gets why it was not."""
        self._path = Path(folder) / ANSWERS_FILE
        self._answers: dict[str, Any] = {}
        header = json.dumps({"conditions": conditions}, sort_keys=True)
        if not self._read(json.loads(header)["conditions"], tell):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(header + "\n", encoding="utf-8")

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Any:
        return self._answers[key]

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, answers: Mapping[str, Any]) -> None:
        """Keep answers; they outlive the process from here on."""
        self._answers.update(answers)
        lines = [json.dumps([key, answer]) + "\n" for key, answer in answers.items()]
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))

    def clear(self) -> None:
        """Take the file away, now that results.json has what is in it."""
        self._path.unlink(missing_ok=True)

    def _read(self, conditions: Mapping[str, Any], tell: Callable[[str], None]) -> bool:
        """Take the answers of the file; False where there is none, or of other conditions."""
        if not self._path.is_file():
            return False
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # the last line may have been cut by the end of its writer
        try:
            first, *rest = map(json.loads, whole.decode("utf-8").split("\n")[:-1] or ["{}"])
            then, answers = first.get("conditions", {}), dict(rest)
        except (ValueError, TypeError, AttributeError) as error:  # a machine that lost power may leave zeros
            tell(f"{self._path}: what was answered there is asked again, the file is damaged: {error}")
            return False
        if then != conditions:
            reasons = "; ".join(differences(then, conditions))
            tell(f"{self._path.parent}: what was answered there is asked again: {reasons}")
            return False
        self._answers = answers
        if len(whole) < len(content):
            self._path.write_bytes(whole)
        return True
