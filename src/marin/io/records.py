"""Rows of text on disk: one JSON object a line, plain, gzip or zstd by the file's ending.

Reading is a stream, line by line, with line numbers, so that an error can say where. Writing is atomic and gives equal
bytes for equal rows (no time stamp in the gzip header). The price of the format over parquet is speed and random
access; what it buys is that anybody can look into it with zcat.
"""

import contextlib
import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from marin.io.atomic import open_atomic

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
        try:
            with _decompressed(self._raw, self.path.name) as stream:
                for number, line in enumerate(stream, start=1):
                    line = line.rstrip(b"\r\n")
                    if line and not line.isspace():
                        yield number, line
                while self._raw.read(1 << 20):  # what follows the compressed data is part of the file's digest
                    pass
        except _damage_errors() as error:
            raise RecordError(f"{self.path}: after line {number}: the compressed data is damaged: {error}") from error

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
    with LineReader(path) as lines:
        for number, line in lines:
            try:
                row = parse_record(line)
            except ValueError as error:
                raise RecordError(f"{path}: line {number}: {error}") from error
            yield row


def write_records(path: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows to one file, compressed as its ending says, and return how many. The file appears when complete."""
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        raise ValueError(f"{path}: a record file ends in one of {', '.join(SUFFIXES)}")
    count = 0
    with open_atomic(path, "wb") as raw, _compressed(raw, path.name) as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n")
            count += 1
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


class _ZstdReader(io.RawIOBase):
    """The content of zstd frames put end to end. The library's own reader takes a file cut short for its end."""

    def __init__(self, raw: io.RawIOBase):
        import zstandard  # only .zst needs it

        # Windows of up to 2 GiB, as `zstd --long=31` writes them; the memory is only used where a file asks for it.
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._raw = raw
        self._frame = None  # the one being read
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            self._input = self._input or self._raw.read(1 << 17) or b""
            if not self._input:
                if self._frame is not None:
                    raise EOFError("the file ends within a zstd frame")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size


@contextlib.contextmanager
def _decompressed(raw: _HashingReader, name: str) -> Iterator[IO[bytes]]:
    if name.endswith(".gz"):
        with gzip.GzipFile(fileobj=io.BufferedReader(raw, 1 << 18)) as stream:
            yield stream  # type: ignore[misc]
    elif name.endswith(".zst"):
        yield io.BufferedReader(_ZstdReader(raw), 1 << 18)  # type: ignore[arg-type]
    else:
        yield io.BufferedReader(raw, 1 << 18)


@contextlib.contextmanager
def _compressed(raw: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    if name.endswith(".gz"):
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as stream:
            yield stream  # type: ignore[misc]
    elif name.endswith(".zst"):
        import zstandard  # only .zst needs it

        with zstandard.ZstdCompressor().stream_writer(raw, closefd=False) as stream:
            yield stream  # type: ignore[misc]
    else:
        yield raw


def _damage_errors() -> tuple[type[Exception], ...]:
    import zlib

    errors: list[type[Exception]] = [EOFError, gzip.BadGzipFile, zlib.error]
    with contextlib.suppress(ImportError):
        import zstandard

        errors.append(zstandard.ZstdError)
    return tuple(errors)
