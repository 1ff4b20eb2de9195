"""Multiple-choice questions from files, a JSON object a line: {"query": ..., "choices": [...], "gold": index}.

This is the layout of the in-context learning sets of llm-foundry, among others. `id` and `group` are taken where they
stand there; else a question's id is its line.
"""

import json
from pathlib import Path
from typing import Any

from marin.evaluation.tasks import MultipleChoiceTask, Question


def read_multiple_choice(
    path: str | Path, *, name: str, delimiter: str = " ", max_questions: int | None = None
) -> MultipleChoiceTask:
    """The task in a file. With fewer `max_questions` than there are, that many, spread evenly over the file.

    ValueError naming the line of what is no question; FileNotFoundError where there is no file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"task '{name}': no file {path}; expected JSON lines of query, choices and gold")
    lines = path.read_text(encoding="utf-8").splitlines()
    questions = [_question(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if max_questions is not None and max_questions < len(questions):
        count, total = max_questions, len(questions)
        questions = [questions[(2 * index + 1) * total // (2 * count)] for index in range(count)]
    return MultipleChoiceTask(name=name, version=1, questions=tuple(questions), delimiter=delimiter)


def _question(path: Path, number: int, line: str) -> Question:
    try:
        row: Any = json.loads(line)
        return Question(
            id=str(row.get("id", number)),
            query=row["query"],
            choices=tuple(row["choices"]),
            gold=row["gold"],
            group=str(row.get("group", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path}, line {number}: expected {{"query": text, "choices": [texts], "gold": index of the right one}}, '
            f"got {line[:120]!r} ({type(error).__name__}: {error})"
        ) from error
