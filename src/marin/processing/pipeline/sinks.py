"""Where the rows of a shard go. A sink says what it is, and writes one shard, as a file or a folder of files.

A new kind of output is a frozen dataclass with the members of `Sink`. One whose shards are parts of a whole, which
somebody must put together at the end, has those of `WholeSink`.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from marin.io.files import FileInfo, file_info, is_remote, sha256_of, tree

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = {
    "parquet": ".parquet",
    "jsonl": ".jsonl",
    "jsonl.zst": ".jsonl.zst",
    "jsonl.gz": ".jsonl.gz",
    "arrow": ".arrow",
}


WITHOUT_TEXT = "rows_without_text"  # in `details`: rows whose column `text` is null, which no reader takes


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a sink made of the rows of a shard."""

    rows: int
    bytes: int  # of a folder: of all its files
    sha256: str  # of a folder: `sha256_of_files`
    columns: dict[str, str]  # name -> type, as text
    details: dict[str, Any] = field(default_factory=dict)  # what is to be known at the end, as JSON


class Sink(Protocol):
    """What a shard's rows are written as."""

    @property
    def ending(self) -> str:
        """Ending of the names of its files (or folders)."""
        ...

    def write(self, path: str, batches: "Iterator[pa.RecordBatch]", schema: "pa.Schema | None" = None) -> Written:
        """Write all rows to `path`, which appears when it is complete and on the disk, or not at all.

        `schema` is that of all batches where it is known already. Raises SchemaWidened where it turns out too late.
        """
        ...


@runtime_checkable
class WholeSink(Sink, Protocol):
    """A sink whose shards make up one thing."""

    def begin(self, root: str) -> None:
        """Take away what says that the whole is complete; shards will be made."""
        ...

    def finish(self, root: str, details: Sequence[Mapping[str, Any]]) -> None:
        """Complete the whole; `details` are those of all shards, in order. Called again, it writes the same."""
        ...


def files_of_output(path: str) -> dict[str, FileInfo]:
    """What is known of a file, which has the name "" here, or of all files of a folder. OSError where neither is."""
    if os.path.isdir(path):
        return dict(tree(path))
    try:
        return {"": file_info(path)}
    except FileNotFoundError:
        if is_remote(path) and (found := dict(tree(path))):
            return found
        raise


def sha256_of_output(path: str) -> str:
    """Of a file, or of all files of a folder. OSError where there is none."""
    digests = {name: sha256_of(os.path.join(path, name) if name else path) for name in files_of_output(path)}
    return digests[""] if list(digests) == [""] else sha256_of_files(digests)


def sha256_of_files(digests: Mapping[str, str]) -> str:
    """Of a folder whose files, by their names, have these."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class FileSink:
    """One file of rows a shard."""

    version: ClassVar[int] = 1
    format: str

    def __post_init__(self) -> None:
        if self.format not in ENDINGS:
            raise ValueError(f"format {self.format!r} is none of {', '.join(ENDINGS)}")

    @property
    def ending(self) -> str:
        return ENDINGS[self.format]

    def write(self, path: str, batches: "Iterator[pa.RecordBatch]", schema: "pa.Schema | None" = None) -> Written:
        from marin.processing.formats.writing import open_writer
        from marin.processing.pipeline.rows import of_one_schema

        common, batches = of_one_schema(batches, schema, path)
        without_text = 0
        with open_writer(path, self.format, schema=common) as writer:
            for batch in batches:
                writer.write(batch)
                without_text += batch.column("text").null_count if "text" in common.names else 0
        written: Any = writer.written
        columns = {field.name: str(field.type) for field in common}
        details = {WITHOUT_TEXT: without_text} if without_text else {}
        return Written(rows=written.rows, bytes=written.bytes, sha256=written.sha256, columns=columns, details=details)
