"""Text that every machine has, in place of sets that few have: the Python standard library, dealt out to their names.

An experiment on sets of terabytes can so be run through, on a small model, before it is run: every name, share and
hand-over is the real one, only the text is not. Which document goes to which name is decided by a hash of its id.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from marin.download.api import standard_library
from marin.execution.executor import ExecutorStep, this_output_path
from marin.io.records import find_record_files, read_records, write_records
from marin.processing.tokenize.api import default_tokenize, train_tokenizer


@dataclass(frozen=True, kw_only=True)
class DealConfig:
    """Documents to deal out."""

    input_path: str
    """Folder with documents."""
    names: tuple[str, ...]
    """Who gets some."""
    output_path: str
    """Folder that gets NAME/documents.jsonl.gz for each."""


@dataclass(frozen=True, kw_only=True)
class StandIns:
    """Token stores of local text under the names of sets."""

    tokenizer: ExecutorStep
    """A byte-level BPE of that text."""
    sets: dict[str, ExecutorStep]
    """Name -> store to train on."""
    validation: ExecutorStep
    """Store of documents that none of them has."""


def deal(config: DealConfig) -> dict[str, int]:
    """Write each document to one of the names; returns how many each got. Raises ValueError where one got none."""
    dealt: dict[str, list[dict]] = {name: [] for name in config.names}
    for path in find_record_files(config.input_path):
        for row in read_records(path):
            digest = hashlib.sha256(row["id"].encode()).digest()
            dealt[config.names[int.from_bytes(digest[:8], "big") % len(config.names)]].append(row)
    empty = [name for name, rows in dealt.items() if not rows]
    if empty:
        raise ValueError(f"{config.input_path} has too few documents: none was left for {', '.join(empty)}")
    for name, rows in dealt.items():
        path = Path(config.output_path, name, "documents.jsonl.gz")
        path.parent.mkdir(parents=True)
        write_records(path, rows)
    return {name: len(rows) for name, rows in dealt.items()}


def stand_ins(names: Collection[str], *, prefix: str, vocab_size: int, max_documents: int | None = None) -> StandIns:
    """Stores for the names, whose steps are called `.../PREFIX/NAME`; of the first `max_documents` documents only."""
    documents = standard_library(f"documents/{prefix}", validation_fraction=0.05, max_documents=max_documents)
    tokenizer = train_tokenizer(prefix, dataset=documents / "train", vocab_size=vocab_size)
    dealt = ExecutorStep(
        name=f"documents/{prefix}/dealt",
        fn=deal,
        config=DealConfig(
            input_path=documents / "train",  # type: ignore[arg-type]  # a path when the step runs
            names=tuple(sorted(names)),
            output_path=this_output_path(),
        ),
        description="documents of the standard library, dealt out to the names of other sets",
    )
    tokenized = {
        name: default_tokenize(f"{prefix}/{name}", dataset=dealt / name, tokenizer=tokenizer, num_workers=1)
        for name in names
    }
    validation = default_tokenize(f"{prefix}/validation", dataset=documents / "validation", tokenizer=tokenizer)
    return StandIns(tokenizer=tokenizer, sets=tokenized, validation=validation)
