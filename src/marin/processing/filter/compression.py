"""How far a text can be compressed: much means repetition, hardly at all means noise.

Ratios of different codecs, levels and windows lie on different scales (the ratios of LZ4 are near twice those of zlib),
so thresholds belong to one of them, and all three are part of the filter. Sizes are those of the installed library.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from marin.processing.filter.filters import Operation
from marin.processing.filter.rules import Rule, bounded

if TYPE_CHECKING:
    import pyarrow as pa

Codec = Literal["lz4", "zstd", "zlib"]
_DEFAULT_LEVELS = {"lz4": 0, "zstd": 3, "zlib": 6}
_WINDOWS = {"lz4": (16, 16), "zstd": (10, 27), "zlib": (9, 15)}


@dataclass(frozen=True, kw_only=True)
class CompressionSignal:
    """Adds `compression.CODEC`: compressed bytes for each byte of the text; 0 for an empty text."""

    version: ClassVar[int] = 1
    edits_text: ClassVar[bool] = False

    codec: Codec
    level: int
    window_log: int | None

    def adds(self) -> tuple[str, ...]:
        return (f"compression.{self.codec}",)

    def __call__(self, batch: "pa.RecordBatch") -> "pa.RecordBatch":
        import numpy as np

        from marin.processing.filter.columns import with_columns
        from marin.processing.kernels.arrow_text import text_buffer

        data, offsets = text_buffer(batch.column("text"))
        size = compressed_size(self.codec, self.level, self.window_log)
        sizes = np.diff(offsets)
        ratios = np.zeros(len(sizes))
        for row in np.flatnonzero(sizes):
            ratios[row] = size(data[offsets[row] : offsets[row + 1]].data) / sizes[row]
        return with_columns(batch, {f"compression.{self.codec}": ratios})


@dataclass(frozen=True, kw_only=True)
class CompressionRatio:
    """Keeps texts whose compressed size is a share of their size between two bounds."""

    version: ClassVar[int] = 1

    # LZ4 as one frame, zstd as one frame, zlib as one stream.
    codec: Codec = "lz4"
    # As the codec counts it; None: 0 of LZ4, 3 of zstd, 6 of zlib.
    level: int | None = None
    # Binary logarithm of the bytes that a repetition may be back; None: the codec's own for the level.
    window_log: int | None = None
    # Least ratio; None turns the bound off.
    min_ratio: float | None = 0.65
    # Largest ratio; None turns the bound off.
    max_ratio: float | None = 0.8

    def __post_init__(self) -> None:
        if self.codec not in _WINDOWS:
            raise ValueError(f"codec is {self.codec!r}; there are {', '.join(_WINDOWS)}")
        least, most = _WINDOWS[self.codec]
        if isinstance(self.window_log, int) and not least <= self.window_log <= most:
            raise ValueError(f"window_log of {self.codec} is {self.window_log}; it can be {least} to {most}")

    def operations(self) -> tuple[Operation, ...]:
        level = _DEFAULT_LEVELS[self.codec] if self.level is None else self.level
        return (CompressionSignal(codec=self.codec, level=level, window_log=self.window_log),)

    def rules(self) -> tuple[Rule, ...]:
        signal = f"compression.{self.codec}"
        source = "Marin, experiment 633 (Compel): windows from 0.6 or 0.65 to 0.8 or 0.9, by LZ4"
        return (
            *bounded("compression_ratio.low", signal, "repeats itself", source, at_least=self.min_ratio),
            *bounded("compression_ratio.high", signal, "has no pattern", source, at_most=self.max_ratio),
        )


def compressed_size(codec: Codec, level: int, window_log: int | None) -> "Callable[[memoryview], int]":
    """A function of bytes that tells how many they are when compressed."""
    if codec == "lz4":
        import lz4.frame

        return lambda data: len(lz4.frame.compress(data, compression_level=level))
    if codec == "zstd":
        import zstandard

        window = {} if window_log is None else {"window_log": window_log}
        parameters = zstandard.ZstdCompressionParameters.from_level(level, **window)
        compressor = zstandard.ZstdCompressor(compression_params=parameters)
        return lambda data: len(compressor.compress(data))

    def zlib_size(data: memoryview) -> int:
        compressor = zlib.compressobj(level, wbits=15 if window_log is None else window_log)
        return len(compressor.compress(data)) + len(compressor.flush())

    return zlib_size
