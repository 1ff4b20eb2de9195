"""What makes a task the same task: its name, version, number of shots and the exact text of its prompts.

Two scores may be compared only where all four agree, so all four stand beside every score. The prompt hash is taken
over the finished questions, not over the code that makes them: an edit that changes no prompt changes nothing.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with a right choice among several."""

    id: str
    """Name of the question within its task."""
    query: str
    """Text before the choices; may be empty."""
    choices: tuple[str, ...]
    """Possible continuations of the query, at least two."""
    gold: int
    """Index of the right one."""
    group: str = ""
    """Questions with one group share a passage or document and are no independent observations; '' is alone."""

    def __post_init__(self) -> None:
        if len(self.choices) < 2 or not 0 <= self.gold < len(self.choices):
            raise ValueError(
                f"question '{self.id}': gold is {self.gold} of {len(self.choices)} choices; expected at least two "
                "choices and the index of one of them"
            )
        if not all(choice.strip() for choice in self.choices):
            raise ValueError(f"question '{self.id}' has a blank choice: {list(self.choices)}")


@dataclass(frozen=True, kw_only=True)
class MultipleChoiceTask:
    """Questions, with what identifies the task that they make up."""

    name: str
    """What the scores are listed under."""
    version: int
    """Raised whenever the same data would give other prompts or other scores."""
    questions: tuple[Question, ...]
    """The questions, in the order of samples.jsonl."""
    delimiter: str = ""
    """Stands between query and choice; a choice's length does not count it."""
    num_fewshot: int = 0
    """Solved examples in front of each query."""
    notes: tuple[str, ...] = ()
    """What a reader of the score must know."""

    def __post_init__(self) -> None:
        if not self.questions:
            raise ValueError(f"task '{self.name}' has no questions")

    @property
    def chance(self) -> float:
        """Expected accuracy of guessing."""
        return sum(1 / len(question.choices) for question in self.questions) / len(self.questions)

    @property
    def prompt_hash(self) -> str:
        """sha256 over delimiter and questions, right answers included."""
        return prompt_hash([self.delimiter, *(asdict(question) for question in self.questions)])


def prompt_hash(content: Sequence) -> str:
    """sha256 of JSON-like content, 64 hex digits."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
