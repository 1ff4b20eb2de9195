"""Rows of text on disk: one JSON object a line, plain, gzip or zstd by the file's ending.

Reading is a stream, line by line, with line numbers, so that an error can say where. Writing is atomic and gives equal
bytes for equal rows. The price of the format over parquet is speed; what it buys is that anybody can look into it with
zcat. What is inside .gz and .zst is the business of `marin.io.compression`; Arrow batches of the same files, many times
as fast, are `marin.processing.formats`'.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from marin.io.atomic import open_atomic
from marin.io.compression import CHUNK_BYTES, BlockWriter, ChunkStream, DamagedError, compression_of, content_chunks

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


class RecordError(ValueError):
    """A file or a line that is not what it should be; the message begins with the file and the line number."""


def find_record_files(path: str | Path) -> list[Path]:
    """The record files in a folder and below, sorted by their path in it; a file stands for itself.

    Names that begin with `_` or `.` are passed over (quarantine, temporary files, the executor's own). Raises
    FileNotFoundError where the path does not exist.
    """
    root = Path(path)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder or file at {root.absolute()}: make it, or name a folder of {', '.join(SUFFIXES)} files"
        )
    files = (file for file in root.rglob("*.jsonl*") if file.name.endswith(SUFFIXES) and file.is_file())
    relative = [file.relative_to(root) for file in files]
    return [root / file for file in sorted(relative) if not any(part[0] in "._" for part in file.parts)]


class LineReader:
    """The lines of a record file, with the position in the file as stored and its digest when all is read.

    Iterate for (line number from 1, line as bytes without its newline); blank lines are passed over.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._raw = _HashingReader(open(self.path, "rb"))  # noqa: SIM115 (closed when iterated through, or by close)

    @property
    def bytes_read(self) -> int:
        """Bytes of the file, as stored, that have been read so far."""
        return self._raw.count

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        number = 0
        stream = ChunkStream(content_chunks(self._raw, compression_of(self.path.name)))
        try:
            for number, line in enumerate(io.BufferedReader(stream, CHUNK_BYTES), start=1):
                line = line.rstrip(b"\r\n")
                if line and not line.isspace():
                    yield number, line
        except DamagedError as error:
            raise RecordError(f"{self.path}: after line {number}: {error}") from error

    def sha256(self) -> str:
        """Digest of the file as stored, once every line has been read."""
        return self._raw.digest.hexdigest()

    def close(self) -> None:
        self._raw.close()

    def __enter__(self) -> "LineReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def parse_record(line: bytes) -> dict[str, Any]:
    """The JSON object on a line. Raises ValueError with a short reason where it is none, or is not valid UTF-8."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise ValueError("not JSON that can be read: nested too deeply") from error
    if not isinstance(row, dict):
        raise ValueError(f"not a JSON object but {type(row).__name__}")
    return row


def read_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of one file. Raises RecordError with file and line number at the first line that is no JSON object."""
    return (row for _, row in numbered_records(path))


def numbered_records(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_records`, each row with the number of its line from 1; blank lines count and are passed over."""
    with LineReader(path) as lines:
        for number, line in lines:
            try:
                row = parse_record(line)
            except ValueError as error:
                raise RecordError(f"{path}: line {number}: {error}") from error
            yield number, row


def write_records(path: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows to one file, compressed as its ending says, and return how many. The file appears when complete."""
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        raise ValueError(f"{path}: a record file ends in one of {', '.join(SUFFIXES)}")
    count = 0
    compression = compression_of(path.name)
    with open_atomic(path, "wb") as file:
        blocks = BlockWriter(file, compression) if compression else None
        write_line = blocks.write_line if blocks else file.write
        for row in rows:
            write_line(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n")
            count += 1
        if blocks:
            blocks.close()
    return count


class _HashingReader(io.RawIOBase):
    """A file that counts and hashes what is read from it."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.count = 0
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self.digest.update(memoryview(buffer)[:size])
        self.count += size
        return size

    def close(self) -> None:
        self._file.close()
        super().close()
