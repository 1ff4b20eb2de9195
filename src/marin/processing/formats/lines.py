"""Lines out of chunks of bytes, in bounded memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from marin.processing.formats.record import SHOWN_CHARACTERS


@dataclass(frozen=True)
class TooLong:
    """A line that is not kept."""

    size: int
    begin: bytes


def split_lines(chunks: Iterable[bytes], max_bytes: int) -> Iterator[bytes | TooLong]:
    """Lines without their newline, put together from chunks; of one longer than `max_bytes` only size and beginning."""
    held: list[bytes] = []  # of the line that is not complete
    size = 0
    begin: bytes | None = None  # of a line that is too long
    for chunk in chunks:
        pieces = chunk.split(b"\n")
        rest = pieces.pop()
        for i, piece in enumerate(pieces):
            if i == 0 and (held or begin is not None):
                size += len(piece) + 1
                if begin is not None or size > max_bytes:
                    yield TooLong(size, begin if begin is not None else b"".join(held)[: 4 * SHOWN_CHARACTERS])
                else:
                    yield b"".join([*held, piece])
                held, size, begin = [], 0, None
            elif len(piece) >= max_bytes:
                yield TooLong(len(piece) + 1, piece[: 4 * SHOWN_CHARACTERS])
            else:
                yield piece
        if rest:
            size += len(rest)
            if begin is None:
                held.append(rest)
                if size > max_bytes:
                    begin, held = b"".join(held)[: 4 * SHOWN_CHARACTERS], []
    if begin is not None:
        yield TooLong(size, begin)
    elif held:
        yield b"".join(held)
