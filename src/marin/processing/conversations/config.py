"""Config of the stage that makes rows of instruction sets conversations: plain values."""

from dataclasses import dataclass

from marin.processing.conversations.adapter import ConversationAdapter


@dataclass(frozen=True, kw_only=True)
class ConversationsConfig:
    """Which rows, and how they become messages."""

    input_path: str
    """Folder with the set's files, of any format that `marin.processing.formats` reads."""
    output_path: str
    """Folder that gets the conversations, .jsonl.zst."""
    adapter: ConversationAdapter
    """Where a row keeps its messages."""
    as_text: bool = False
    """Whether the messages become one text, a blank line between two, instead: for sets that are trained on whole."""
    max_bad: float = 0.01
    """Largest share of rows that may hold no conversation before the run fails."""
