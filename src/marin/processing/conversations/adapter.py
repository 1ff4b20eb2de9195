"""How a row of a published instruction set becomes messages.

Sets say the same in many ways: a list of {"role", "content"}, the same as {"from", "value"}, a question with an answer
beside it, a question with several answers that were judged. An adapter is a few names that say which. What comes out is
always {"id", "source", "messages", "metadata"}, so one chat template serves every set. Nothing is guessed: a role that
the adapter does not name makes a bad row, for a role taken for another would be trained on unseen.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from marin.processing.document import check_unicode

OPENAI_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
SHAREGPT_ROLES = {"system": "system", "human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, kw_only=True)
class ConversationAdapter:
    """Where a row keeps its messages: in one column, or the question in one and the answer in another.

    Called with a row, it returns {"id", "source", "messages", "metadata"}; `id` is the row's own, or a hash of its
    messages. Raises ValueError ("kind: details") for a row that holds no conversation.
    """

    version: ClassVar[int] = 1

    messages_column: str | None = None
    """Column with a list of messages; with `answer_column` too, the messages before the answer."""
    role_key: str = "role"
    """Field of a message that says who speaks."""
    content_key: str = "content"
    """Field of a message that says what."""
    roles: Mapping[str, str] = field(default_factory=lambda: dict(OPENAI_ROLES))
    """What the set calls each role -> what it becomes."""
    question_column: str | None = None
    """Column with the question, where there are no messages."""
    answer_column: str | None = None
    """Column with the answer: a text, or a list of answers, of which one is taken."""
    answer_key: str | None = None
    """Field of an answer that holds its text, where an answer is an object."""
    best_by: str | None = None
    """Field of an answer that says how good it is: the first with the highest is taken. None: the first."""
    system_column: str | None = None
    """Column with a system prompt, put first where it is not empty."""
    metadata_columns: tuple[str, ...] = ()
    """Columns that are kept."""

    def __post_init__(self) -> None:
        if (self.messages_column is None) == (self.question_column is None):
            raise ValueError(
                f"messages_column is {self.messages_column!r} and question_column {self.question_column!r}; "
                "give one of them: where the messages are, or where the question is"
            )
        if self.question_column is not None and self.answer_column is None:
            raise ValueError(f"question_column is {self.question_column!r}; give answer_column too")
        if self.best_by is not None and self.answer_key is None:
            raise ValueError(f"best_by is {self.best_by!r}; give answer_key too, the field with the answer's text")

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        messages = self._messages(row)
        if not messages:
            raise ValueError("no messages: the list is empty")
        if not any(message["role"] == "assistant" for message in messages):
            raise ValueError("no answer: no message is the assistant's")
        given = row.get("id")
        return {
            "id": _hash_of(messages) if given is None else str(given),
            "source": str(row.get("source") or ""),
            "messages": messages,
            "metadata": {name: row[name] for name in self.metadata_columns if row.get(name) is not None},
        }

    def _messages(self, row: Mapping[str, Any]) -> list[dict[str, str]]:
        messages = [] if self.system_column is None else _system(row.get(self.system_column))
        if self.messages_column is not None:
            messages += self._from_list(_column(row, self.messages_column))
        if self.question_column is not None:
            messages.append(_message("user", _column(row, self.question_column)))
        if self.answer_column is not None:
            messages.append(_message("assistant", self._answer(_column(row, self.answer_column))))
        return messages

    def _from_list(self, given: Any) -> list[dict[str, str]]:
        if not isinstance(given, list) or not all(isinstance(message, Mapping) for message in given):
            raise ValueError(f"{self.messages_column} is no list of objects")
        messages = []
        for number, message in enumerate(given):
            role = message.get(self.role_key)
            if role not in self.roles:
                raise ValueError(
                    f"message of unknown role: number {number} has {self.role_key} {role!r}, known are "
                    f"{', '.join(map(repr, self.roles))}"
                )
            messages.append(_message(self.roles[role], message.get(self.content_key)))
        return messages

    def _answer(self, given: Any) -> Any:
        answers = given if isinstance(given, list) else [given]
        if not answers:
            raise ValueError(f"no answer: {self.answer_column} is an empty list")
        if self.answer_key is None:
            return answers[0]
        if not all(isinstance(answer, Mapping) for answer in answers):
            raise ValueError(f"{self.answer_column} holds no objects, though answer_key is {self.answer_key!r}")
        best_by = self.best_by
        best = answers[0] if best_by is None else max(answers, key=lambda answer: _score(answer, best_by))
        return best.get(self.answer_key)


def _column(row: Mapping[str, Any], name: str) -> Any:
    if row.get(name) is None:
        raise ValueError(f"no {name}: the fields are {', '.join(sorted(map(str, row))[:8]) or 'none'}")
    return row[name]


def _message(role: str, content: Any) -> dict[str, str]:
    if not isinstance(content, str):
        raise ValueError(f"message is no text: the {role}'s is {type(content).__name__}")
    if not content.strip():
        raise ValueError(f"empty message: the {role}'s says nothing")
    check_unicode(f"the {role}'s message", content)
    return {"role": role, "content": content}


def _system(content: Any) -> list[dict[str, str]]:
    return [_message("system", content)] if isinstance(content, str) and content.strip() else []


def _score(answer: Mapping[str, Any], name: str) -> float:
    value = answer.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"answer without {name}: it has {value!r}, which is no number")
    return float(value)


def _hash_of(messages: list[dict[str, str]]) -> str:
    return hashlib.sha256(json.dumps(messages, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:32]
