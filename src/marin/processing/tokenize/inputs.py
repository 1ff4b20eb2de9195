"""Which parts of which files are tokenized, and what is in them: one part, one shard.

A part is known by the digest of its bytes, not by a time, so that a store is the same wherever its input lies, and a
shard is made again exactly when its text has changed. The price is that every byte is read twice, once to be hashed.
"""

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from marin.io.files import address, is_remote, open_input
from marin.processing.formats.arrow_files import arrow_source
from marin.processing.formats.splits import FORMATS, SPLIT_BYTES, Split, plan_splits

# What a folder is searched for. A .md or .txt beside the data of a repository describes them; to tokenize such files,
# name the format.
DOCUMENT_FORMATS = ("jsonl", "parquet", "arrow")
_CHUNK = 1 << 20


def plan_inputs(path: str, *, format: str | None) -> list[Split]:
    """The parts of the files of documents that `path` (a file, a folder with all below, a glob) means, in order.

    Raises FileNotFoundError where there is no such path, ValueError where there are no documents.
    """
    path = address(path)
    if is_remote(path):
        return _of_documents(plan_splits(path, format=format, split_bytes=SPLIT_BYTES), path, format)
    root = Path(path)
    if not root.exists() and not any(character in path for character in "*?["):
        endings = ", ".join(f"*{ending}" for ending, name in FORMATS.items() if name in DOCUMENT_FORMATS)
        raise FileNotFoundError(f"no folder or file at {root.absolute()}: make it, or name a folder of {endings} files")
    if root.is_dir() and not any(root.iterdir()):
        splits: list[Split] = []
    else:
        splits = plan_splits(path, format=format, split_bytes=SPLIT_BYTES)
    return _of_documents(splits, path, format) if root.is_dir() else splits


def _of_documents(splits: list[Split], place: str, format: str | None) -> list[Split]:
    """Those of formats of documents, unless one is named. ValueError where there are none."""
    found = splits if format is not None else [split for split in splits if split.format in DOCUMENT_FORMATS]
    if not found:
        others = sorted({split.label for split in splits}) or sorted(map(os.path.basename, glob.glob(f"{place}/*")))
        raise ValueError(
            f"no documents: {place} holds no *.jsonl, *.jsonl.gz, *.jsonl.zst, *.parquet or *.arrow file (it holds "
            f"{', '.join(others[:5]) or 'nothing'}); of files of text name the format, 'text'"
        )
    return found


def is_whole(split: Split) -> bool:
    """Whether a split is all of its file."""
    return split.start == 0 and split.end is None


def identity_of_split(split: Split) -> dict[str, Any]:
    """What a shard's manifest says of its input: where it is, how it is read, and the size and sha256 of its bytes."""
    digest, size = hashlib.sha256(), 0
    for chunk in _bytes_of(split):
        digest.update(chunk)
        size += len(chunk)
    part = {} if is_whole(split) else {"start": split.start, "end": split.end}
    return {"path": split.label, "format": split.format, **part, "size": size, "sha256": digest.hexdigest()}


def _bytes_of(split: Split) -> Iterator[bytes | memoryview]:
    if is_whole(split):
        yield from _range(split.path, 0, split.size)
    elif split.format == "parquet":
        yield from _parquet_bytes(split)
    elif split.format == "arrow":
        yield from _arrow_bytes(split)
    else:
        yield from _line_bytes(split)


def _range(path: str, start: int, end: int) -> Iterator[bytes]:
    with open_input(path) as file:
        file.seek(start)
        while start < end and (chunk := file.read(min(_CHUNK, end - start))):
            start += len(chunk)
            yield chunk


def _line_bytes(split: Split) -> Iterator[bytes]:
    """The bytes of the range, and on to the end of the line that begins in it."""
    end = split.size if split.end is None else split.end
    yield from _range(split.path, split.start, end)
    for chunk in _range(split.path, end, split.size):
        line, newline, _ = chunk.partition(b"\n")
        yield line + newline
        if newline:
            return


def _parquet_bytes(split: Split) -> Iterator[bytes]:
    """The names and types of the columns, and their chunks in the row groups, as they are stored."""
    import pyarrow.parquet as pq

    with arrow_source(split.path) as source:
        metadata = pq.read_metadata(source)
    yield _columns(metadata.schema.to_arrow_schema())
    for group in range(split.start, metadata.num_row_groups if split.end is None else split.end):
        described = metadata.row_group(group)
        for number in range(described.num_columns):
            column = described.column(number)
            start = column.dictionary_page_offset or column.data_page_offset
            yield from _range(split.path, start, start + column.total_compressed_size)


def _arrow_bytes(split: Split) -> Iterator[bytes | memoryview]:
    """The names and types of the columns, and the buffers of the record batches."""
    import pyarrow as pa

    with arrow_source(split.path) as source, pa.ipc.open_file(source) as reader:
        yield _columns(reader.schema)
        for number in range(split.start, reader.num_record_batches if split.end is None else split.end):
            for column in reader.get_batch(number).columns:
                yield from (memoryview(buffer) for buffer in column.buffers() if buffer is not None)


def _columns(schema: Any) -> bytes:
    return repr([(field.name, str(field.type)) for field in schema]).encode()


def stored_bytes(splits: list[Split]) -> list[int]:
    """About how many bytes of its file each split has: an even share."""
    num_parts = Counter(split.path for split in splits)
    return [split.size // num_parts[split.path] for split in splits]
