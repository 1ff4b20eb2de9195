"""FNV-1a in 32 bits as fastText computes it: bytes are taken as signed, so of text beyond ASCII the hash is its own."""

import numpy as np

from marin.processing.kernels.compiled import inner

FNV_OFFSET = 2166136261  # the hash of no byte
_FNV_PRIME = 16777619
MASK32 = 0xFFFFFFFF


def fnv1a(word: bytes) -> int:
    """The 32-bit hash of a word: FNV-1a over bytes that are taken as signed."""
    value = FNV_OFFSET
    for byte in word:
        signed = byte if byte < 128 else byte | 0xFFFFFF00
        value = ((value ^ signed) * _FNV_PRIME) & MASK32
    return value


@inner
def absorb(value, byte):
    """One step of FNV-1a, the value in 64 bits of which the upper half is 0."""
    signed = np.uint64(byte) if byte < 128 else np.uint64(byte) | np.uint64(0xFFFFFF00)
    return ((value ^ signed) * np.uint64(_FNV_PRIME)) & np.uint64(MASK32)
