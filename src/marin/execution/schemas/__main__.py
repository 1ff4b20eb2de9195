"""Print the page docs/reference/records.md."""

from marin.execution.schemas import as_markdown

print(as_markdown(), end="")
