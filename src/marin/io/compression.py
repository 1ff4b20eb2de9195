"""What is inside .gz and .zst files, as a stream; and our own .gz and .zst, cut into blocks that can be found at once.

A stream that ends before its compressed data does is an error, never the end: the libraries' own readers take a zstd
file cut short for a whole one. So is one without a byte, which is what a writer that was stopped early leaves.

Our files are a run of blocks, each compressed by itself and preceded by a mark that says how long the block is and how
many lines are in it. The mark of .gz is an extra field in the member's header, that of .zst a skippable frame, so any
tool reads these files as it does others. Walking from mark to mark (one small read a block, 5,000 for 10 GB) tells
where each line is, which makes row 10,000,000 as near as row 1 and lets several workers read one file. The index is in
the file, so it cannot be lost or be another file's. The price is a percent or two of size, since every block begins
anew.
"""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from marin.io.files import open_input

CHUNK_BYTES = 1 << 17
GZIP_BLOCK_BYTES = 2 << 20  # of content: a row deep in a file costs at most this much decompression
ZSTD_BLOCK_BYTES = 8 << 20
GZIP_LEVEL = 6
ZSTD_LEVEL = 3

_GZIP_HEADER = struct.Struct(
    "<4sIBBHBBHII"
)  # magic, method, flags; time; extra flags; system; extra: length, id, length
_GZIP_MAGIC = b"\x1f\x8b\x08\x04"
_GZIP_FIELD = (ord("M"), ord("r"))  # names the extra field, as RFC 1952 has it
_ZSTD_MARK = struct.Struct("<IIII")  # magic of a skippable frame, its length, bytes of the data frame, lines in it
_ZSTD_MAGIC = 0x184D2A5B  # one of the sixteen magic numbers that RFC 8878 leaves to applications

_CAUTIOUS_BYTES = 1 << 10  # of zstd input at a time, where it expands a lot: these become 32 MB at most
_RAMPANT = 64  # output bytes for one of input


class DamagedError(ValueError):
    """Compressed data that is not what its format says, or ends too early."""


def compression_of(name: str) -> str | None:
    """ "gzip", "zstd" or None, by the ending of a file's name."""
    return "gzip" if name.endswith(".gz") else "zstd" if name.endswith(".zst") else None


def content_chunks(file: IO[bytes] | io.RawIOBase, compression: str | None) -> Iterator[bytes]:
    """The decompressed content of a file from where it stands to its end, some 128 KB at a time.

    Raises DamagedError where the data is damaged or the file ends inside it, after all that could be read.
    """
    if compression is None:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
    elif compression == "gzip":
        yield from _gzip_chunks(file)
    elif compression == "zstd":
        yield from _zstd_chunks(file)
    else:
        raise ValueError(f"compression {compression!r} is none of 'gzip', 'zstd', None")


class ChunkStream(io.RawIOBase):
    """Chunks as a file to read from, once, from beginning to end."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def _gzip_chunks(file: Any) -> Iterator[bytes]:
    member, pending, at_start = None, b"", True
    while pending := pending or file.read(CHUNK_BYTES):
        if member is None:
            if not at_start and not (pending := pending.lstrip(b"\0")):  # padding, as tapes and some tools leave it
                continue
            member, at_start = zlib.decompressobj(wbits=31), False
        try:
            output = member.decompress(pending, CHUNK_BYTES)
        except zlib.error as error:
            raise DamagedError(f"the compressed data is damaged: {error}") from error
        if output:
            yield output
        pending = member.unconsumed_tail
        if member.eof:
            member, pending = None, member.unused_data
    if member is not None:
        if output := member.flush():
            yield output
        if not member.eof:
            raise DamagedError("the compressed data is damaged: the file ends within a gzip member")
    if at_start:
        raise DamagedError("the compressed data is damaged: the file is empty, and gzip of nothing has bytes too")


def _zstd_chunks(file: Any) -> Iterator[bytes]:
    import zstandard  # only .zst needs it

    # Windows of up to 2 GiB, as `zstd --long=31` writes them; the memory is only used where a file asks for it.
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    frame, pending, step, at_start = None, b"", _CAUTIOUS_BYTES, True
    while pending := pending or file.read(CHUNK_BYTES):
        frame, at_start = frame or decompressor.decompressobj(), False
        given, rest = pending[:step], pending[step:]
        try:
            output = frame.decompress(given)
        except zstandard.ZstdError as error:
            raise DamagedError(f"the compressed data is damaged: {error}") from error
        if output:
            yield output
        step = _CAUTIOUS_BYTES if len(output) > _RAMPANT * len(given) else CHUNK_BYTES
        pending = rest
        if frame.eof:
            pending, frame = frame.unused_data + rest, None
    if frame is not None:
        raise DamagedError("the compressed data is damaged: the file ends within a zstd frame")
    if at_start:
        raise DamagedError("the compressed data is damaged: the file is empty, and zstd of nothing has bytes too")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One separately compressed run of lines in a file."""

    start: int  # byte at which its mark begins
    end: int  # byte after it
    first_row: int  # lines before it in the file
    num_rows: int


def find_blocks(path: str | os.PathLike[str]) -> list[Block] | None:
    """The blocks of a .gz or .zst file that was written by BlockWriter; None for a file of other origin.

    A file that was cut short has the blocks up to the cut, the last of which may be damaged.
    """
    compression = compression_of(os.fspath(path))
    if compression is None:
        return None
    blocks: list[Block] = []
    start = rows = 0
    with open_input(os.fspath(path)) as file:
        size = file.seek(0, os.SEEK_END)
        while start < size:
            file.seek(start)
            mark = _read_mark(file.read(_GZIP_HEADER.size), compression)
            if mark is None:
                return None
            length, num_rows = mark
            blocks.append(Block(start=start, end=min(start + length, size), first_row=rows, num_rows=num_rows))
            start, rows = start + length, rows + num_rows
    return blocks


def _read_mark(head: bytes, compression: str) -> tuple[int, int] | None:
    """(bytes of the block with its mark, lines) as the mark at the beginning of a block says."""
    if compression == "gzip" and len(head) >= _GZIP_HEADER.size:
        magic, _, _, _, extra, first, second, field, length, rows = _GZIP_HEADER.unpack_from(head)
        if magic == _GZIP_MAGIC and extra == 12 and (first, second) == _GZIP_FIELD and field == 8 and length > 0:
            return length, rows
    if compression == "zstd" and len(head) >= _ZSTD_MARK.size:
        magic, payload, length, rows = _ZSTD_MARK.unpack_from(head)
        if magic == _ZSTD_MAGIC and payload == 8 and length > 0:
            return _ZSTD_MARK.size + length, rows
    return None


class BlockWriter:
    """Write lines to a file, compressed in blocks that end at line ends. Equal lines give equal bytes.

    `close` writes the last block and leaves the file open. A file without lines has one empty block, since an empty
    file is no gzip file.
    """

    def __init__(self, file: IO[bytes], compression: str):
        self._file = file
        self._limit = GZIP_BLOCK_BYTES if compression == "gzip" else ZSTD_BLOCK_BYTES
        self._compress = _gzip_block if compression == "gzip" else _zstd_block
        self._lines: list[bytes] = []
        self._size = 0
        self._is_empty = True

    def write_line(self, line: bytes) -> None:
        """Add one line, which ends in a newline and has no other."""
        self._lines.append(line)
        self._size += len(line)
        if self._size >= self._limit:
            self._flush()

    def _flush(self) -> None:
        self._file.write(self._compress(b"".join(self._lines), len(self._lines)))
        self._lines, self._size, self._is_empty = [], 0, False

    def close(self) -> None:
        if self._lines or self._is_empty:
            self._flush()


def _gzip_block(content: bytes, rows: int) -> bytes:
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, -15)
    data = compressor.compress(content) + compressor.flush()
    trailer = struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF)
    length = _GZIP_HEADER.size + len(data) + len(trailer)
    unknown_system = 255
    # no time and no name, so that equal content gives equal bytes
    header = _GZIP_HEADER.pack(_GZIP_MAGIC, 0, 0, unknown_system, 12, *_GZIP_FIELD, 8, length, rows)
    return header + data + trailer


def _zstd_block(content: bytes, rows: int) -> bytes:
    import zstandard  # only .zst needs it

    data = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compress(content)
    return _ZSTD_MARK.pack(_ZSTD_MAGIC, 8, len(data), rows) + data
