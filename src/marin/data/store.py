"""Tokenized documents on disk: written once, memory-mapped by everyone who reads them.

A store is a folder::

    store.json                 the ledger: format, vocabulary, tokenizer digest, counts, a digest of every file
    token_byte_lengths.npy     int32 (vocab_size,): UTF-8 bytes that each token stands for, 0 for special tokens
    shard-00000/tokens.bin     token ids, little endian, uint16 where the vocabulary fits, else uint32
    shard-00000/offsets.bin    int64, num_documents + 1: where each document begins in tokens.bin, and the end
    shard-00000/documents.jsonl  one line a document: {"id", "source", "num_bytes"}
    shard-00000/loss_mask.bin  of conversations only: uint8, one a token, 1 where training asks for that token

Every document ends with the end-of-text token and nothing stands before it, not even the begin-of-text token of a
tokenizer that has one. So what a model sees before a document is end-of-text: the ledger says so as
`"document_prefix": "eos"`, training copies it to model.json, and whoever asks the model about a text puts that token
first.

A store of conversations has a loss mask, and its ledger says `"chat"`: the template that made the text and the token
that ends a turn. It is of version 3, the others of version 2: a program that knows no masks would train on every token
of it, so that program must refuse it. A byte for a bit is the price of mapping the mask as the tokens are; stores of
conversations are small.

Shards put end to end are one long stream. The decision: readers see that stream by position and shards are never
consolidated. The price is that a read may touch two shards, and that the store knows nothing of sequence lengths,
which is what lets one store serve all of them.
"""

import bisect
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from marin.io.hashing import sha256_file

FORMAT = "marin-token-store"
VERSION = 2
CHAT_VERSION = 3  # of a store with a loss mask
LEDGER = "store.json"
BYTE_LENGTHS = "token_byte_lengths.npy"
SHARD_FILES = {"tokens": "tokens.bin", "offsets": "offsets.bin", "documents": "documents.jsonl"}
CHAT_SHARD_FILES = {**SHARD_FILES, "loss_mask": "loss_mask.bin"}
OFFSET_DTYPE = np.dtype("<i8")
_SCANNED_BYTES = 1 << 20
DOCUMENT_PREFIX = "eos"  # the one policy there is; see the module's docstring


class CorruptStoreError(ValueError):
    """A token store whose files are not what its ledger says; the message names the shard and the file."""


@dataclass(frozen=True, kw_only=True)
class ChatInfo:
    """What the ledger says of a store of conversations."""

    template: str  # Jinja text that made messages one text
    stop_id: int  # the token that ends each turn that is trained on; may be the end-of-text token


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """What the ledger says of one shard."""

    name: str  # folder name, such as shard-00000
    num_tokens: int
    num_documents: int
    num_bytes: int  # UTF-8 bytes of the documents' text
    sha256: dict[str, str]  # of the files named in SHARD_FILES, or in CHAT_SHARD_FILES
    num_trained: int | None = None  # tokens that the loss mask lets count; None: there is no mask

    def to_json(self) -> dict[str, Any]:
        plain = {
            "name": self.name,
            "num_tokens": self.num_tokens,
            "num_documents": self.num_documents,
            "num_bytes": self.num_bytes,
            "sha256": dict(self.sha256),
        }
        return plain if self.num_trained is None else {**plain, "num_trained": self.num_trained}

    @property
    def files(self) -> dict[str, str]:
        """Kind -> name of each of its files."""
        return SHARD_FILES if self.num_trained is None else CHAT_SHARD_FILES


class TokenStore:
    """A store opened for reading. Nothing is loaded: arrays are memory-mapped, when tokens are first asked for.

    A *position* is a token's place in the stream of all shards end to end, from 0 to num_tokens - 1.
    """

    path: Path
    num_tokens: int
    num_documents: int
    num_bytes: int
    vocab_size: int
    dtype: np.dtype
    tokenizer_digest: str
    eos_id: int
    bos_id: int | None
    document_prefix: str  # the token before each document: "eos", end-of-text
    chat: ChatInfo | None  # of a store with a loss mask; None: every token counts
    num_trained: int  # tokens that count: all, where there is no mask
    checksum: str  # of the ledger, which holds the hash of every file: equal checksums, equal stores
    shards: tuple[ShardInfo, ...]

    def __init__(self, path: str | Path):
        self.path = Path(path)
        ledger = _read_ledger(self.path)
        self.num_tokens = ledger["num_tokens"]
        self.num_documents = ledger["num_documents"]
        self.num_bytes = ledger["num_bytes"]
        self.vocab_size = ledger["vocab_size"]
        self.dtype = np.dtype(ledger["dtype"]).newbyteorder("<")
        self.tokenizer_digest = ledger["tokenizer_digest"]
        self.eos_id = ledger["eos_id"]
        self.bos_id = ledger["bos_id"]
        self.document_prefix = ledger["document_prefix"]
        self.chat = ChatInfo(**ledger["chat"]) if "chat" in ledger else None
        self.num_trained = ledger.get("num_trained", self.num_tokens)
        self.checksum = ledger_checksum(ledger)
        self.shards = tuple(ShardInfo(**shard) for shard in ledger["shards"])
        self._byte_lengths_sha256: str = ledger["token_byte_lengths_sha256"]
        self._shard_starts = np.cumsum([0, *(shard.num_tokens for shard in self.shards)], dtype=np.int64)
        self._shard_bounds: list[int] = self._shard_starts.tolist()
        self._document_starts = np.cumsum([0, *(shard.num_documents for shard in self.shards)], dtype=np.int64)
        self._tokens: list[np.ndarray | None] = [None] * len(self.shards)
        self._masks: list[np.ndarray | None] = [None] * len(self.shards)
        self._runs: dict[int, np.ndarray] = {}  # length -> a view of every run of so many tokens
        self._offsets: np.ndarray | None = None
        self._documents: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # of a shard its lines, mapped, and their starts
        self._check_sizes()

    @staticmethod
    def open(path: str | Path, *, verify: bool = False) -> "TokenStore":
        """Open the store at `path`; `verify` also reads every byte (about 1 GB/s) and compares digests.

        Raises FileNotFoundError where there is no store, CorruptStoreError where files and ledger differ.
        """
        store = TokenStore(path)
        if verify:
            store.verify()
        return store

    def __repr__(self) -> str:
        return f"TokenStore({str(self.path)!r}, num_tokens={self.num_tokens}, num_documents={self.num_documents})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the store anew: what is mapped is of this one."""
        return TokenStore, (self.path,)

    # --- tokens by position ---

    def gather(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Runs of `length` tokens: starts int64 (B,) -> int32 (B, length). Every run must lie inside the store."""
        starts = np.asarray(starts, dtype=np.int64)
        out = np.empty((starts.size, length), np.int32)
        if starts.size == 0:
            return out
        self._check_inside(int(starts.min()), int(starts.max()) + length)
        if length == 0:
            return out
        tokens, place, is_whole = self._find(starts, length)
        runs = self._runs.get(length)
        if runs is None:
            item = self.dtype.itemsize
            runs = as_strided(tokens, (max(0, tokens.size - length + 1), length), (item, item), writeable=False)
            self._runs[length] = runs
        if is_whole.all():
            out[...] = runs[place]  # an id fits int32, whatever the store's dtype
            return out
        out[is_whole] = runs[place[is_whole]]
        for row in np.flatnonzero(~is_whole).tolist():
            out[row] = self.read(int(starts[row]), length)
        return out

    def read_into(self, out: np.ndarray, at: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        """Runs of `lengths` tokens, each to its place in `out` int32 (N,), which is from `at` on; all int64 (P,)."""
        if starts.size == 0:
            return
        self._check_inside(int(starts.min()), int((starts + lengths).max()))
        tokens, place, is_whole = self._find(starts, lengths)
        runs = zip(*(array.tolist() for array in (at, starts, place, lengths, is_whole)), strict=True)
        for first, start, begin, size, is_one in runs:  # cheaper than an index a token
            out[first : first + size] = tokens[begin : begin + size] if is_one else self.read(start, size)

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Single tokens: positions int64, any shape -> int32 of that shape."""
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size == 0:
            return np.empty(positions.shape, np.int32)
        self._check_inside(int(positions.min()), int(positions.max()) + 1)
        tokens, place, _ = self._find(positions, 1)
        return tokens[place].astype(np.int32)

    def _check_inside(self, low: int, high: int) -> None:
        """IndexError unless tokens `low` to `high - 1` are of the store."""
        if low < 0 or high > self.num_tokens:
            raise IndexError(f"{self.path}: tokens {low}..{high} asked for, the store has 0..{self.num_tokens}")

    def _find(self, starts: np.ndarray, length: int | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(all tokens as `_mapped` has them, where each run begins there, whether the run lies in one shard, whole)."""
        tokens, shard_starts, shard_ends, offsets = self._mapped
        shard = shard_starts.searchsorted(starts, side="right") - 1
        return tokens, starts + offsets[shard], starts + length <= shard_ends[shard]

    @cached_property
    def _mapped(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All tokens as one array, of each shard its first position, its end, and how much further on it lies there.

        The array spans the addresses from the lowest shard to the end of the highest, wherever the system has put them,
        so a batch is found by arithmetic, without a line of Python a row. The price: what lies between two shards is
        not the store's, and reading it would end the process. So each run is checked before it is read.
        """
        shards = [self._shard(index) for index, shard in enumerate(self.shards) if shard.num_tokens]
        bounds = np.cumsum([0, *(tokens.size for tokens in shards)])
        item = self.dtype.itemsize
        addresses = np.array([tokens.ctypes.data for tokens in shards])  # of pages, so whole items apart
        items_on = (addresses - addresses.min()) // item
        num_items = int((items_on + np.diff(bounds)).max())
        span = as_strided(shards[int(addresses.argmin())], (num_items,), (item,), writeable=False)
        return span, bounds[:-1], bounds[1:], items_on - bounds[:-1]

    def read(self, start: int, length: int) -> np.ndarray:
        """One run of `length` tokens, over as many shards as it takes: int32 (length,)."""
        return self._read(self._shard, start, length, np.int32)

    def read_loss_mask(self, start: int, length: int) -> np.ndarray:
        """Which of these tokens count when they are targets: bool (length,), all of them where there is no mask."""
        if self.chat is None:
            return np.ones(length, bool)
        return self._read(self._mask_shard, start, length, bool)

    def _read(self, shard_of: Callable[[int], np.ndarray], start: int, length: int, dtype: Any) -> np.ndarray:
        self._check_inside(start, start + length)
        if length == 0:
            return np.empty(0, dtype)
        return np.concatenate(self._views(shard_of, start, length), dtype=dtype, casting="unsafe")

    def _views(self, shard_of: Callable[[int], np.ndarray], start: int, length: int) -> list[np.ndarray]:
        """One run of tokens, or of their mask, where it lies: a piece for each shard that it touches."""
        shard = bisect.bisect_right(self._shard_bounds, start) - 1
        local = start - self._shard_bounds[shard]
        views = [shard_of(shard)[local : local + length]]
        missing = length - views[0].size
        while missing > 0:
            shard += 1
            views.append(shard_of(shard)[:missing])
            missing -= views[-1].size
        return views

    def _shard(self, index: int) -> np.ndarray:
        tokens = self._tokens[index]
        if tokens is None:
            shard = self.shards[index]
            path = self.path / shard.name / SHARD_FILES["tokens"]
            tokens = _map(path, self.dtype, shard.num_tokens)
            self._tokens[index] = tokens
        return tokens

    def _mask_shard(self, index: int) -> np.ndarray:
        mask = self._masks[index]
        if mask is None:
            shard = self.shards[index]
            mask = _map(self.path / shard.name / CHAT_SHARD_FILES["loss_mask"], np.dtype(np.uint8), shard.num_tokens)
            self._masks[index] = mask
        return mask

    # --- documents ---

    @property
    def document_offsets(self) -> np.ndarray:
        """int64 (num_documents + 1,): the position where each document begins, and num_tokens."""
        if self._offsets is None:
            parts = [np.zeros(1, np.int64)]
            for shard, start in enumerate(self._shard_starts[:-1].tolist()):
                parts.append(self._shard_offsets(shard)[1:] + start)
            self._offsets = np.concatenate(parts)
        return self._offsets

    def _shard_offsets(self, shard: int) -> np.ndarray:
        """Where each document of a shard begins in it, and its end: int64, mapped."""
        info = self.shards[shard]
        return _map(self.path / info.name / SHARD_FILES["offsets"], OFFSET_DTYPE, info.num_documents + 1)

    def document(self, index: int) -> np.ndarray:
        """Token ids of one document, int32 (n,), with its end-of-text token."""
        shard, local = self._find_document(index)
        start, end = self._shard_offsets(shard)[local : local + 2].tolist()
        return self.read(int(self._shard_starts[shard]) + start, end - start)

    def document_index(self, positions: np.ndarray) -> np.ndarray:
        """Which document holds each position: int64 of the same shape."""
        return np.searchsorted(self.document_offsets, np.asarray(positions, np.int64), side="right") - 1

    def document_id(self, index: int) -> tuple[str, str]:
        """(source, id) of one document, as its text came with them."""
        record = self._document_record(index)
        return record["source"], record["id"]

    def document_num_bytes(self, index: int) -> int:
        """UTF-8 bytes of one document's text."""
        return self._document_record(index)["num_bytes"]

    def _document_record(self, index: int) -> dict[str, Any]:
        shard, local = self._find_document(index)
        if shard not in self._documents:
            path = self.path / self.shards[shard].name / SHARD_FILES["documents"]
            lines = _map(path, np.dtype(np.uint8), path.stat().st_size)
            self._documents[shard] = lines, _line_starts(lines)
        lines, starts = self._documents[shard]
        return json.loads(lines[starts[local] : starts[local + 1]].tobytes())

    def _find_document(self, index: int) -> tuple[int, int]:
        """(shard, number of the document in it)"""
        if not 0 <= index < self.num_documents:
            raise IndexError(f"{self.path}: document {index} asked for, the store has 0..{self.num_documents - 1}")
        shard = int(np.searchsorted(self._document_starts, index, side="right")) - 1
        return shard, index - int(self._document_starts[shard])

    # --- vocabulary ---

    @property
    def token_byte_lengths(self) -> np.ndarray:
        """int32 (vocab_size,): UTF-8 bytes each token stands for, 0 for special tokens (what bits per byte needs)."""
        lengths = np.load(self.path / BYTE_LENGTHS)
        if lengths.shape != (self.vocab_size,):
            raise CorruptStoreError(f"{self.path / BYTE_LENGTHS}: shape {lengths.shape}, expected ({self.vocab_size},)")
        return lengths.astype(np.int32)

    # --- integrity ---

    def _files(self) -> Iterator[tuple[Path, str]]:
        yield self.path / BYTE_LENGTHS, self._byte_lengths_sha256
        for shard in self.shards:
            for kind, file in shard.files.items():
                yield self.path / shard.name / file, shard.sha256[kind]

    def _check_sizes(self) -> None:
        """Cheap, so at every opening: each array is there and has the length that the ledger says."""
        for shard in self.shards:
            expected = {
                "tokens": shard.num_tokens * self.dtype.itemsize,
                "offsets": (shard.num_documents + 1) * OFFSET_DTYPE.itemsize,
            }
            if self.chat is not None:
                expected["loss_mask"] = shard.num_tokens
            for kind, size in expected.items():
                file = self.path / shard.name / shard.files[kind]
                found = file.stat().st_size if file.is_file() else None
                if found != size:
                    state = "is missing" if found is None else f"has {found:,} bytes, the ledger says {size:,}"
                    raise CorruptStoreError(f"{file} {state}. {_REMEDY}")

    def verify(self) -> None:
        """Read every file and compare its sha256 with the ledger's; one flipped byte is found and its file named."""
        for file, expected in self._files():
            if not file.is_file():
                raise CorruptStoreError(f"{file} is missing. {_REMEDY}")
            found = sha256_file(file)[1]
            if found != expected:
                raise CorruptStoreError(
                    f"{file} is damaged: its sha256 is {found[:16]}..., the ledger says {expected[:16]}.... {_REMEDY}"
                )


_REMEDY = "Delete the store and run the tokenizing step again, or restore the file from a copy."


def _map(path: Path, dtype: np.dtype, length: int) -> np.ndarray:
    if length == 0:
        return np.empty(0, dtype)  # an empty file cannot be mapped
    return np.memmap(path, dtype=dtype, mode="r", shape=(length,)).view(np.ndarray)


def _line_starts(lines: np.ndarray) -> np.ndarray:
    """Where each line begins among these bytes, uint8 (n,), and where the last ends: int64."""
    ends = [np.zeros(1, np.int64)]
    for begin in range(0, lines.size, _SCANNED_BYTES):  # a mask of all bytes at once would be as large as they are
        ends.append(np.flatnonzero(lines[begin : begin + _SCANNED_BYTES] == ord("\n")) + (begin + 1))
    return np.concatenate(ends)


def ledger_checksum(ledger: dict[str, Any]) -> str:
    """What the ledger's own `checksum` must be."""
    return hashlib.sha256(json.dumps(ledger, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read_ledger(path: Path) -> dict[str, Any]:
    file = path / LEDGER
    if not file.is_file():
        found = (
            "the folder has no store.json: its tokenizing step did not finish" if path.is_dir() else "no such folder"
        )
        raise FileNotFoundError(f"no token store at {path} ({found})")
    try:
        ledger = json.loads(file.read_text(encoding="utf-8"))
        checksum = ledger.pop("checksum")
    except (ValueError, KeyError, AttributeError) as error:
        raise CorruptStoreError(f"{file} is not a ledger: {error}. {_REMEDY}") from error
    if ledger.get("format") != FORMAT or ledger.get("version") != (CHAT_VERSION if "chat" in ledger else VERSION):
        raise ValueError(
            f"{file} is of format {ledger.get('format')!r} version {ledger.get('version')!r}; this program reads "
            f"{FORMAT!r} version {VERSION}, and {CHAT_VERSION} of conversations. Tokenize again with this version."
        )
    if ledger_checksum(ledger) != checksum:
        raise CorruptStoreError(f"{file} does not match its own checksum. {_REMEDY}")
    if ledger["document_prefix"] != DOCUMENT_PREFIX:
        raise ValueError(
            f"{file} says that {ledger['document_prefix']!r} stands before each document; this program reads stores "
            f"where it is {DOCUMENT_PREFIX!r}. Tokenize again with this version."
        )
    return ledger
