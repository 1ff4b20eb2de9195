"""How fast are files of documents read and written, and how far is row 10,000,000?

Every format that marin writes is written and read in turns, round by round, so that whatever else the machine does
falls on all alike; the least CPU time of all rounds counts. MB are of the documents' text, which is the same in all.
Where datatrove is installed its readers and writers take their turns too, on files that marin wrote. The bare libraries
are the limits: nothing that decompresses by gzip, or parses by orjson, can be quicker than these alone.

For random access each format holds --rows short rows; the time is that of a process which has the modules loaded and
the file in the system's cache, to give one row near the end. Token stores of the same rows, which `marin data head` and
`show` look into likewise, have theirs in the shards that plain lines are cut into, or in one, as somebody else's .gz
gives; beside the time stands what the process's own memory grows by.

    python benchmarks/bench_formats.py --text FOLDER      of files of text; writes benchmarks/results/formats.md
    python benchmarks/bench_formats.py --text FOLDER --no_write
    python benchmarks/bench_formats.py --stores           token stores alone; writes nothing
"""

import argparse
import contextlib
import gzip
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from marin.data.store import TokenStore
from marin.processing.formats.reading import read_split
from marin.processing.formats.record import DOCUMENT_SCHEMA
from marin.processing.formats.rows import read_row
from marin.processing.formats.splits import plan_splits
from marin.processing.formats.writing import WRITERS, open_writer
from marin.processing.pipeline import Dataset
from marin.testing.tiny import write_byte_tokenizer

REPOSITORY = Path(__file__).resolve().parent.parent
RESULT = REPOSITORY / "benchmarks" / "results" / "formats.md"
ROUNDS = 5
DOCUMENT_CHARACTERS = 3_000
BATCH_ROWS = 2_048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a folder of text files")
    parser.add_argument("--stores", action="store_true", help="random access to token stores alone")
    parser.add_argument("--megabytes", type=int, default=60, help="of text")
    parser.add_argument("--rows", type=int, default=11_000_000, help="for random access; 0 leaves it out")
    parser.add_argument("--no_write", action="store_true")
    arguments = parser.parse_args()
    if arguments.stores:
        with tempfile.TemporaryDirectory() as folder:
            print("\n".join([machine(), "", *token_store_access(arguments.rows, Path(folder))]))
        return
    if arguments.text is None:
        parser.error("--text names a folder of text files")
    with tempfile.TemporaryDirectory() as folder:
        batches = documents(arguments.text, arguments.megabytes << 20)
        num_bytes = sum(len(text.as_py().encode()) for batch in batches for text in batch.column("text"))
        speeds = race(turns(batches, Path(folder)))
        lines = report(speeds, num_bytes)
        if arguments.rows:
            lines += ["", *random_access(arguments.rows, Path(folder))]
            lines += ["", *token_store_access(arguments.rows, Path(folder))]
    print("\n".join(lines))
    if not arguments.no_write:
        RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


def documents(folder: Path, num_bytes: int) -> list[pa.RecordBatch]:
    """Documents of some 3,000 characters, over and over until there are `num_bytes`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    pieces = [text[i : i + DOCUMENT_CHARACTERS] for i in range(0, len(text), DOCUMENT_CHARACTERS)]
    count = num_bytes // DOCUMENT_CHARACTERS
    rows = [
        {"id": f"{i:032x}", "text": pieces[i % len(pieces)], "source": "bench", "metadata": f'{{"n":{i}}}'}
        for i in range(count)
    ]
    return [
        pa.RecordBatch.from_pylist(rows[i : i + BATCH_ROWS], schema=DOCUMENT_SCHEMA)
        for i in range(0, count, BATCH_ROWS)
    ]


Turn = Callable[[], int]  # what is measured; gives its number of rows


def turns(batches: list[pa.RecordBatch], folder: Path) -> dict[tuple[str, str, str], Turn]:
    """(direction, format, who) -> what to measure, in the order in which turns are taken."""
    found: dict[tuple[str, str, str], Turn] = {}
    for format in WRITERS:
        path = folder / f"ours.{format}"
        found["write", format, "marin"] = lambda path=path, format=format: write(path, format, batches)
        found["read", format, "marin"] = lambda path=path: sum(batch.num_rows for batch in batches_of(path))
    found["read", "jsonl", "orjson alone"] = lambda: sum(1 for _ in parsed((folder / "ours.jsonl").read_bytes()))
    found["read", "jsonl.gz", "gzip alone"] = lambda: len(gzip.decompress((folder / "ours.jsonl.gz").read_bytes()))
    found["read", "jsonl.zst", "zstd alone"] = lambda: unpack_zstd(folder / "ours.jsonl.zst")
    found["read", "parquet", "pyarrow alone"] = lambda: read_parquet(folder / "ours.parquet")
    with contextlib.suppress(ImportError):
        found |= datatrove_turns(batches, folder)
    return found


def write(path: Path, format: str, batches: list[pa.RecordBatch]) -> int:
    with open_writer(path, format, fsync=False) as writer:
        for batch in batches:
            writer.write(batch)
    return writer.close().rows


def batches_of(path: Path) -> Iterator[pa.RecordBatch]:
    def refuse(bad: object) -> None:
        raise ValueError(f"a bad record in {path}: {bad}")

    for split in plan_splits(path):
        yield from read_split(split, on_bad=refuse)


def parsed(content: bytes) -> Iterator[object]:
    return (orjson.loads(line) for line in content.split(b"\n") if line)


def unpack_zstd(path: Path) -> int:
    with open(path, "rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        return sum(len(chunk) for chunk in iter(lambda: reader.read(1 << 18), b""))


def read_parquet(path: Path) -> int:
    with pq.ParquetFile(path, memory_map=True) as file:
        return sum(batch.num_rows for batch in file.iter_batches(BATCH_ROWS, use_threads=False))


def datatrove_turns(batches: list[pa.RecordBatch], folder: Path) -> dict[tuple[str, str, str], Turn]:
    from datatrove.data import Document
    from datatrove.pipeline.readers import JsonlReader, ParquetReader
    from datatrove.pipeline.writers import JsonlWriter, ParquetWriter

    def read(reader: object) -> int:
        return sum(1 for _ in reader.run())  # type: ignore[attr-defined]

    rows = [row for batch in batches for row in batch.to_pylist()]

    def write_all(writer: object) -> int:
        with writer:  # type: ignore[attr-defined]
            for row in rows:
                writer.write(Document(text=row["text"], id=row["id"], metadata={"source": row["source"]}))  # type: ignore
        return len(rows)

    who = f"datatrove {version('datatrove')}"
    where, out = str(folder), str(folder / "datatrove")
    return {
        ("read", "jsonl", who): lambda: read(JsonlReader(where, compression=None, glob_pattern="ours.jsonl")),
        ("read", "jsonl.gz", who): lambda: read(JsonlReader(where, compression="gzip", glob_pattern="ours.jsonl.gz")),
        ("read", "jsonl.zst", who): lambda: read(JsonlReader(where, compression="zstd", glob_pattern="ours.jsonl.zst")),
        ("read", "parquet", who): lambda: read(ParquetReader(where, glob_pattern="ours.parquet")),
        ("write", "jsonl.gz", who): lambda: write_all(JsonlWriter(out, compression="gzip")),
        ("write", "parquet", who): lambda: write_all(ParquetWriter(out, compression="zstd")),
    }


def race(found: dict[tuple[str, str, str], Turn]) -> dict[tuple[str, str, str], float]:
    """Least CPU seconds of each."""
    best = dict.fromkeys(found, float("inf"))
    for _ in range(ROUNDS):
        for name, turn in found.items():
            before = time.process_time()
            assert turn() > 0, name
            best[name] = min(best[name], time.process_time() - before)
    return best


def report(speeds: dict[tuple[str, str, str], float], num_bytes: int) -> list[str]:
    lines = [
        "# Files of documents",
        "",
        f"{num_bytes / 1e6:.0f} MB of text in documents of {DOCUMENT_CHARACTERS} characters. What is measured and how: "
        "the first lines of `benchmarks/bench_formats.py`.",
        "",
        f"{machine()} {peers()}",
        "",
        "| format | | who | MB of text per CPU second |",
        "|---|---|---|---|",
    ]
    order = {format: i for i, format in enumerate(WRITERS)}
    for direction, format, who in sorted(
        speeds, key=lambda name: (name[0], order[name[1]], name[2] != "marin", name[2])
    ):
        lines.append(f"| {format} | {direction} | {who} | {num_bytes / speeds[direction, format, who] / 1e6:.0f} |")
    return lines


def random_access(num_rows: int, folder: Path) -> list[str]:
    """The time to the row that is a tenth before the end."""
    lines = [f"One row of {num_rows:,}, the {num_rows - num_rows // 11:,}th:", ""]
    lines += ["| format | size, MB | CPU ms |", "|---|---|---|"]
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    wanted = num_rows - num_rows // 11
    for format in WRITERS:
        path = folder / f"many.{format}"
        with open_writer(path, format, fsync=False) as writer:
            for start in range(0, num_rows, 1 << 16):
                numbers = range(start, min(start + (1 << 16), num_rows))
                columns = [[str(i) for i in numbers], [f"the text of row {i}" for i in numbers]]
                writer.write(pa.RecordBatch.from_arrays([pa.array(values) for values in columns], schema=schema))
        best = float("inf")
        for _ in range(ROUNDS):
            before = time.process_time()
            row = read_row(path, wanted)
            best = min(best, time.process_time() - before)
            assert row["id"] == str(wanted)
        lines.append(f"| {format} | {path.stat().st_size / 1e6:.0f} | {best * 1000:.0f} |")
        path.unlink()
    return lines


def token_store_access(num_rows: int, folder: Path) -> list[str]:
    """The same row of token stores: of shards as lines are cut, and of a single one."""
    wanted = num_rows - num_rows // 11
    lines = [f"Document {wanted:,} of {num_rows:,} of a token store, its tokens and its id:", ""]
    lines += ["| shards | size, MB | CPU ms | own memory, MB |", "|---|---|---|---|"]
    tokenizer = write_byte_tokenizer(folder / "tokenizer")
    for name in ("many.jsonl", "many.jsonl.gz"):
        opened: Any = partial(gzip.open, compresslevel=1) if name.endswith(".gz") else open
        with opened(folder / name, "wb") as file:
            for start in range(0, num_rows, 1 << 16):
                numbers = range(start, min(start + (1 << 16), num_rows))
                file.write("".join(f'{{"id":"{i}","text":"the text of row {i}"}}\n' for i in numbers).encode())
        store = folder / f"store-of-{name}"
        Dataset.from_files(folder / name).write_tokens(store, tokenizer=tokenizer).run(progress=False)
        (folder / name).unlink()
        best, memory = float("inf"), own_memory()
        for round_ in range(ROUNDS):
            before = time.process_time()
            opened_store = TokenStore.open(store)
            found = opened_store.document_id(wanted), opened_store.document(wanted).size
            best = min(best, time.process_time() - before)
            assert found == (("", str(wanted)), len(f"the text of row {wanted}") + 1)
            if round_ == 0:
                grown = own_memory() - memory
        size = sum(file.stat().st_size for file in store.glob("shard-*/*"))
        lines.append(f"| {len(opened_store.shards)} | {size / 1e6:.0f} | {best * 1000:.0f} | {grown / 1e6:.0f} |")
        shutil.rmtree(store)
    return lines


def own_memory() -> int:
    """Bytes that this process alone has in memory; files that are mapped are not among them. 0 where nobody tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
    return 0


def peers() -> str:
    try:
        return f"datatrove {version('datatrove')}."
    except PackageNotFoundError:
        return "datatrove is not installed."


def machine() -> str:
    return (
        f"{processor()}, {os.cpu_count()} shared cores, CPython {platform.python_version()}, ten million additions "
        f"{ten_million_additions():.2f} s, pyarrow {pa.__version__}."
    )


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def ten_million_additions() -> float:
    before = time.process_time()
    total = 0
    for i in range(10_000_000):
        total += i
    return time.process_time() - before


if __name__ == "__main__":
    main()
