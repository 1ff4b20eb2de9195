"""PLACEHOLDER driver, to be replaced by marin.processing.formats and pipeline when merged."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from marin.io.records import LineReader, parse_record

T = TypeVar("T")
R = TypeVar("R")


def plan_shards(path: str) -> list[str]:
    root = Path(path)
    files = [root] if root.is_file() else sorted(root.rglob("*"))
    return [str(f) for f in files if f.is_file() and f.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"))]


def read_shard(path: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    if path.endswith(".parquet"):
        yield from pq.ParquetFile(path).iter_batches(2048, columns=list(columns) or None)
        return
    rows = []
    for number, line in LineReader(path):
        row = parse_record(line)
        row.setdefault("id", f"{Path(path).name}:{number}")
        rows.append({name: row.get(name) or "" for name in columns})
        if len(rows) == 2048:
            yield pa.RecordBatch.from_pylist(rows)
            rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows)


def run_tasks(function: Callable[[T], R], tasks: Sequence[T], num_workers: int | None) -> list[R]:
    return [function(task) for task in tasks]


def part_name(i: int, n: int) -> str:
    return f"part-{i:05d}-of-{n:05d}.parquet"


def write_shard(path: Path, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
