"""Attributes of documents, files of rows with the documents' ids, put beside the documents they are of."""

from typing import Literal

from marin.processing.formats.splits import column_names, plan_splits
from marin.processing.pipeline import Dataset


def join_attributes(
    documents: Dataset, path: str, *, missing: Literal["error", "drop", "keep"] = "error", name: str = "join"
) -> tuple[Dataset, tuple[str, ...]]:
    """The documents with the attributes at a path, by `id`, and the names of the columns that came with them.

    `missing` says what a document without attributes means. Attributes in JSON lines may have no `metadata`: that is
    where readers put fields that few rows have, and what documents have of that name is theirs.
    """
    first = plan_splits(path)[0]
    made = {"id"} | ({"metadata"} if first.format == "jsonl" else set())
    columns = tuple(column for column in column_names(first) if column not in made)
    return documents.join(Dataset.from_files(path), on="id", columns=columns, missing=missing, name=name), columns
