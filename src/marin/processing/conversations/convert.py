"""Rows of an instruction set to conversations, on the engine: resumable, and with every row accounted for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from marin.processing.conversations.adapter import ConversationAdapter
from marin.processing.conversations.config import ConversationsConfig
from marin.processing.pipeline import Dataset


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A row as a conversation, or as the text of one."""

    version: ClassVar[int] = 1

    adapter: ConversationAdapter
    as_text: bool

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        conversation = self.adapter(row)
        if not self.as_text:
            return conversation
        messages = conversation.pop("messages")
        return {**conversation, "text": "\n\n".join(message["content"] for message in messages)}


def convert_conversations(config: ConversationsConfig) -> dict[str, Any]:
    """Convert all rows; returns how many came in, went out and were bad. Run again, it does what is missing.

    Raises ValueError where more rows than `max_bad` hold no conversation.
    """
    rows = Dataset.from_files(config.input_path)
    converted = rows.map(Converted(adapter=config.adapter, as_text=config.as_text)).write_jsonl(config.output_path)
    return converted.run(max_bad=config.max_bad).counters
