"""Where the paragraphs of a text are, in bytes, and a text without some of them.

Bytes, because they are what the kernels count in and what a text is on disk; a span never cuts a character, for it ends
at line ends.
"""

from collections.abc import Iterable

import numpy as np


def paragraph_offsets(data: np.ndarray, text_offsets: np.ndarray) -> np.ndarray:
    """int64 (num_paragraphs + 1,): where the paragraphs of texts in one buffer begin, and where the last one ends.

    A paragraph ends behind the empty lines that follow it, so every byte is in one. Texts are uint8 (num_bytes,), text
    i is data[text_offsets[i]:text_offsets[i + 1]]; an empty one has no paragraph.
    """
    first, end = int(text_offsets[0]), int(text_offsets[-1])
    newline = data[first:end] == ord("\n")
    # after two newlines, where no third follows
    ends = newline[:-2] & newline[1:-1] & ~newline[2:]
    starts = np.flatnonzero(ends) + first + 2
    of_texts = np.searchsorted(text_offsets, starts, side="right") - 1
    starts = starts[starts - text_offsets[of_texts] >= 2]  # not where one text ends in a newline and the next begins so
    return np.unique(np.concatenate([starts, text_offsets]))


def lines(data: np.ndarray, text_offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lines of texts in one buffer.

    Args:
        data: uint8 (num_bytes,).
        text_offsets: int64 (num_texts + 1,).
    Returns:
        starts, ends: int64 (num_lines,): bytes of each line without its newline. A text of n newlines has n + 1 lines.
        line_offsets: int64 (num_texts + 1,): the lines of text i are line_offsets[i]:line_offsets[i + 1].
    """
    first, end = int(text_offsets[0]), int(text_offsets[-1])
    newlines = np.flatnonzero(data[first:end] == ord("\n")) + first
    # a line begins at each text and after each newline, whichever text that is in
    of_texts = np.searchsorted(newlines, text_offsets)
    line_offsets = of_texts - of_texts[0] + np.arange(len(text_offsets))
    num_lines = int(line_offsets[-1])
    starts, ends = np.empty(num_lines, np.int64), np.empty(num_lines, np.int64)
    is_first = np.zeros(num_lines, np.bool_)
    is_first[line_offsets[:-1]] = True
    is_last = np.zeros(num_lines, np.bool_)
    is_last[line_offsets[1:] - 1] = True
    starts[is_first], starts[~is_first] = text_offsets[:-1], newlines + 1
    ends[is_last], ends[~is_last] = text_offsets[1:], newlines
    return starts, ends, line_offsets


def without_spans(data: bytes, spans: Iterable[tuple[int, int]]) -> bytes:
    """The text without the bytes of these spans, which may touch and overlap, in any order."""
    kept, place = [], 0
    for start, end in sorted(spans):
        if start > place:
            kept.append(data[place:start])
        place = max(place, end)
    kept.append(data[place:])
    return b"".join(kept)
