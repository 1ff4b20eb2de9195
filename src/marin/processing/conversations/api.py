"""Steps that make rows of instruction sets conversations, or plain documents."""

from marin.execution.executor import ExecutorStep, InputName, this_output_path
from marin.processing.conversations.adapter import ConversationAdapter
from marin.processing.conversations.config import ConversationsConfig


def conversations(
    name: str,
    rows: ExecutorStep | InputName | str,
    *,
    adapter: ConversationAdapter,
    as_text: bool = False,
    max_bad: float = 0.01,
) -> ExecutorStep:
    """A step `documents/<name>` of {"id", "source", "messages", "metadata"} rows, or with `as_text` of documents."""
    return ExecutorStep(
        name=f"documents/{name}",
        fn="marin.processing.conversations.convert:convert_conversations",
        config=ConversationsConfig(
            input_path=rows,  # type: ignore[arg-type]  # a path when the step runs
            output_path=this_output_path(),  # type: ignore[arg-type]
            adapter=adapter,
            as_text=as_text,
            max_bad=max_bad,
        ),
        description=f"{name} as text" if as_text else f"{name} as conversations",
        publish="inplace",
        code_version=str(ConversationAdapter.version),
    )
