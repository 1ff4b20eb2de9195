"""Documents of a token store as rows: their text, where the tokenizer is known."""

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from marin.cli.errors import told
from marin.cli.output import UsageError, note


class TokenRows:
    """The documents of a store, by number."""

    def __init__(self, path: str, arguments: Namespace):
        from marin.data.store import TokenStore

        with told():
            self.store = TokenStore.open(path)
        self.tokenizer = _tokenizer(self.store, arguments)

    def row(self, number: int) -> dict[str, Any]:
        """One document: its text, or its token ids, end-of-text with them, where no tokenizer is known."""
        tokens = self.store.document(number)
        source, document_id = self.store.document_id(number)
        row = {"id": document_id, "source": source, "num_tokens": len(tokens)}
        if self.tokenizer is None:
            return {**row, "tokens": tokens.tolist()}
        return {**row, "text": self.tokenizer.decode(tokens[:-1])}

    def rows(self, start: int, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number, document) of at most `count` documents."""
        for number in range(start, min(start + count, self.store.num_documents)):
            yield number, self.row(number)

    def find(self, document_id: str) -> int | None:
        """The number of the document with an id; reads the stores' lists of documents through."""
        number = 0
        for shard in self.store.shards:
            with open(self.store.path / shard.name / "documents.jsonl", encoding="utf-8") as file:
                for line in file:
                    if json.loads(line)["id"] == document_id:
                        return number
                    number += 1
        return None


def _tokenizer(store: Any, arguments: Namespace) -> Any:
    from marin.processing.tokenize.tokenizer import load_tokenizer

    place = arguments.tokenizer or recorded_tokenizer(store.path.absolute())
    if place is None:
        note(
            "the tokenizer of this store is not on record, so there are token ids instead of text: give --tokenizer DIR"
        )
        return None
    try:
        tokenizer = load_tokenizer(place)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(f"the tokenizer at {place}: {error}") from error
    if tokenizer.digest != store.tokenizer_digest:
        raise UsageError(
            f"the tokenizer at {place} (digest {tokenizer.digest[:12]}) is not the one that the store was made with "
            f"(digest {store.tokenizer_digest[:12]})"
        )
    return tokenizer


def recorded_tokenizer(path: Path) -> str | None:
    """The tokenizer's folder as the record of the step that made a token store has it."""
    from marin.execution.catalog import existing_store, step_around

    prefix = next((folder for folder in path.parents if (folder / ".exec" / "runs").is_dir()), None)
    entry = step_around(existing_store(str(prefix)), str(path)) if prefix is not None else None
    if entry is not None and entry.record is not None:
        config = entry.record["config_resolved"]
        if isinstance(config, dict) and isinstance(config.get("tokenizer"), str):
            return config["tokenizer"]
    return None
