"""Where the rows of a shard go. A sink says what it is, and opens a writer for one shard.

A new kind of output (a token store, say) is a frozen dataclass with these three members.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = {
    "parquet": ".parquet",
    "jsonl": ".jsonl",
    "jsonl.zst": ".jsonl.zst",
    "jsonl.gz": ".jsonl.gz",
    "arrow": ".arrow",
}


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a sink made of the rows of a shard."""

    rows: int
    bytes: int
    sha256: str
    columns: dict[str, str]  # name -> type, as text


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


@dataclass(frozen=True, kw_only=True)
class FileSink:
    """One file of rows a shard."""

    version: ClassVar[int] = 1
    format: str

    @property
    def ending(self) -> str:
        return ENDINGS[self.format]

    def write(self, path: str, batches: "Iterator[pa.RecordBatch]", schema: "pa.Schema | None" = None) -> Written:
        from marin.processing.formats.writing import open_writer
        from marin.processing.pipeline.rows import of_one_schema

        common, batches = of_one_schema(batches, schema, path)
        with open_writer(path, self.format, schema=common) as writer:
            for batch in batches:
                writer.write(batch)
        written: Any = writer.written
        columns = {field.name: str(field.type) for field in common}
        return Written(rows=written.rows, bytes=written.bytes, sha256=written.sha256, columns=columns)
