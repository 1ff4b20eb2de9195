"""A keyed permutation of 0..n-1: the shuffled order of any number of rows, without storing it.

`Permutation(n, key)` sends index to index, one at a time or a million at once, in any order, so a run that resumes at
row 10^12 knows its next row at once. Small ranges are shuffled by sorting keyed 64-bit hashes, which gives every
permutation its chance. Larger ones go through an alternating Feistel network over the bits of the next power of two,
with cycle walking back into range: each round adds a 64-bit mix of one half to the other, so that after a few rounds
every output bit depends on every input bit (the test measures it). The price against a stored table is some tens of
nanoseconds an index.

Sources: Luby and Rackoff, How to construct pseudorandom permutations from pseudorandom functions (1988), for the
network; Black and Rogaway, Ciphers with arbitrary finite domains (2002), for cycle walking; Steele, Lea and Flood,
Fast splittable pseudorandom number generators (2014), for the mixing constants.
"""

import hashlib

import numpy as np

# Names the exact mapping. Anything that changes an output gets a new name, and a run says which one it used.
ALGORITHM = "marin-permutation-v1"

TABLE_LIMIT = 4096  # up to here a sorted table
NUM_ROUNDS = 8

_U64 = np.uint64
_MULTIPLIERS = (_U64(0xBF58476D1CE4E5B9), _U64(0x94D049BB133111EB))
_SHIFTS = (_U64(30), _U64(27), _U64(31))
_CHUNK = 1 << 13


def derive_key(*parts: str | int) -> bytes:
    """32 bytes from a seed and names: equal parts give equal keys, and no two lists of parts run together."""
    text = "".join(f"{type(part).__name__}:{len(str(part))}:{part};" for part in (ALGORITHM, *parts))
    return hashlib.blake2b(text.encode(), digest_size=32).digest()


class Permutation:
    """A permutation of range(n) chosen by `key` (any bytes, see `derive_key`)."""

    def __init__(self, n: int, key: bytes):
        if not 1 <= n <= 1 << 62:
            raise ValueError(f"a permutation of {n} items was asked for; n must be between 1 and 2**62")
        self.n = n
        digest = hashlib.blake2b(key, digest_size=8 * NUM_ROUNDS).digest()
        self._round_keys = np.frombuffer(digest, "<u8").astype(_U64)
        self._table: np.ndarray | None = None
        if n <= TABLE_LIMIT:
            hashes, scratch = np.arange(n, dtype=_U64), np.empty(n, _U64)
            for round_key in self._round_keys[:2]:
                hashes += round_key
                hashes = _mix(hashes, scratch)
            self._table = np.argsort(hashes, kind="stable").astype(np.int64)
        bits = max(2, (n - 1).bit_length())
        self._low_bits = _U64(bits // 2)
        self._low_mask = _U64((1 << (bits // 2)) - 1)
        self._high_mask = _U64((1 << (bits - bits // 2)) - 1)

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """The image of every index: integers in [0, n), any shape -> int64 of that shape."""
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and not (int(indices.min()) >= 0 and int(indices.max()) < self.n):
            raise IndexError(f"an index outside 0..{self.n - 1} was given to a permutation of {self.n} items")
        if self._table is not None:
            return self._table[indices]
        flat = indices.reshape(-1).astype(_U64)
        for start in range(0, flat.size, _CHUNK):  # a chunk's arrays stay in the processor's cache
            self._walk(flat[start : start + _CHUNK])
        return flat.astype(np.int64).reshape(indices.shape)

    def _walk(self, x: np.ndarray) -> None:
        """Replace every element by its image: the network permutes a power of two, so walk on until back in range."""
        self._rounds(x)
        outside = np.flatnonzero(x >= _U64(self.n))
        while outside.size:
            walked = x[outside]
            self._rounds(walked)
            x[outside] = walked
            outside = outside[walked >= _U64(self.n)]

    def _rounds(self, x: np.ndarray) -> None:
        """The network over the bits of the next power of two, in place."""
        high, low = x >> self._low_bits, x & self._low_mask
        mixed, shifted = np.empty_like(x), np.empty_like(x)
        for i in range(0, NUM_ROUNDS, 2):
            high += _mix(np.add(low, self._round_keys[i], out=mixed), shifted)
            high &= self._high_mask
            low += _mix(np.add(high, self._round_keys[i + 1], out=mixed), shifted)
            low &= self._low_mask
        high <<= self._low_bits
        np.bitwise_or(high, low, out=x)


def _mix(x: np.ndarray, shifted: np.ndarray) -> np.ndarray:
    """The splitmix64 finalizer, in place: a bijection of 64-bit words, every input bit reaching every output bit.

    `shifted` is scratch space of x's shape.
    """
    x ^= np.right_shift(x, _SHIFTS[0], out=shifted)
    x *= _MULTIPLIERS[0]
    x ^= np.right_shift(x, _SHIFTS[1], out=shifted)
    x *= _MULTIPLIERS[1]
    x ^= np.right_shift(x, _SHIFTS[2], out=shifted)
    return x
