"""Documents in folders, and what a stage left of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

Rows = Sequence[dict[str, Any]]


def write_shards(folder: Path, shards: Sequence[Rows]) -> Path:
    """A folder with a .jsonl file a shard."""
    folder.mkdir(parents=True)
    for number, rows in enumerate(shards):
        lines = [json.dumps({"source": "web", "metadata": {}} | row) + "\n" for row in rows]
        (folder / f"shard-{number:03d}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of all parquet files of a folder, in their order."""
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
