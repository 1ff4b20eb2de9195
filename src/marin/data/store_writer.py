"""Token stores on their way to the disk: shards, and the ledger that makes of them a store.

What lies where is told in `marin.data.store`. Equal input gives equal bytes.
"""

import bisect
import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from json.encoder import encode_basestring as _quote
from pathlib import Path
from typing import IO, Any

import numpy as np

from marin.data.store import (
    BYTE_LENGTHS,
    CHAT_SHARD_FILES,
    CHAT_VERSION,
    DOCUMENT_PREFIX,
    FORMAT,
    LEDGER,
    OFFSET_DTYPE,
    SHARD_FILES,
    VERSION,
    ChatInfo,
    ShardInfo,
    ledger_checksum,
)
from marin.io.files import write_bytes, write_text


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest of uint16 and uint32, little endian, that holds every id of a vocabulary."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


class ShardWriter:
    """Write one shard, a document or many at a time; `close` returns its line for the ledger.

    The folder is the caller's to make and to publish (a temporary folder, renamed when complete). Memory is bounded:
    only the offsets are held. Bytes are hashed on their way to the files.
    """

    def __init__(self, folder: str | Path, *, name: str, vocab_size: int, eos_id: int, has_loss_mask: bool = False):
        if not 0 <= eos_id < vocab_size:
            raise ValueError(f"eos_id {eos_id} lies outside the vocabulary of {vocab_size} tokens")
        self._folder = Path(folder)
        self._name = name
        self._vocab_size = vocab_size
        self._dtype = token_dtype(vocab_size)
        self._eos_id = eos_id
        self._offsets = [0]
        self._num_bytes = 0
        self._num_trained: int | None = 0 if has_loss_mask else None
        self._hashes = {kind: hashlib.sha256() for kind in (CHAT_SHARD_FILES if has_loss_mask else SHARD_FILES)}
        self._tokens: IO[bytes] = open(self._folder / SHARD_FILES["tokens"], "wb")  # noqa: SIM115 (closed by close)
        self._documents: IO[bytes] = open(self._folder / SHARD_FILES["documents"], "wb")  # noqa: SIM115
        self._masks: IO[bytes] | None = None
        if has_loss_mask:
            self._masks = open(self._folder / CHAT_SHARD_FILES["loss_mask"], "wb")  # noqa: SIM115

    def add(
        self,
        tokens: np.ndarray,
        *,
        document_id: str,
        source: str = "",
        num_bytes: int,
        loss_mask: np.ndarray | None = None,
    ) -> None:
        """Append one document: its token ids (n,), any integer dtype, without the end-of-text token, which is added.

        `loss_mask` is bool (n + 1,), with a place for that token; it is given where the shard has masks.
        """
        self.add_batch(
            tokens,
            [0, len(tokens)],
            document_ids=[document_id],
            sources=[source],
            num_bytes=[num_bytes],
            loss_masks=None if loss_mask is None else [loss_mask],
        )

    def add_batch(
        self,
        tokens: np.ndarray,
        offsets: Sequence[int],
        *,
        document_ids: Sequence[str],
        sources: Sequence[str],
        num_bytes: Sequence[int],
        loss_masks: Sequence[np.ndarray] | None = None,
    ) -> None:
        """Append documents as `add` does: document i is `tokens[offsets[i] : offsets[i + 1]]`."""
        self._check_tokens(tokens, offsets, document_ids)
        rows = np.empty(offsets[-1] - offsets[0] + len(document_ids), self._dtype)
        at = 0
        lines: list[str] = []
        begun = self._offsets[-1]
        for index, (document_id, source) in enumerate(zip(document_ids, sources, strict=True)):
            start, end = offsets[index], offsets[index + 1]
            rows[at : at + end - start] = tokens[start:end]
            at += end - start + 1
            rows[at - 1] = self._eos_id
            self._offsets.append(begun + at)
            # as json.dumps writes {"id": ..., "source": ..., "num_bytes": ...} with ensure_ascii=False, quicker
            lines.append(
                f'{{"id": {_quote(document_id)}, "source": {_quote(source)}, "num_bytes": {num_bytes[index]}}}\n'
            )
            self._add_mask(None if loss_masks is None else loss_masks[index], end - start + 1, document_id)
        self._num_bytes += sum(num_bytes)
        self._write("tokens", self._tokens, rows.data)
        self._write("documents", self._documents, "".join(lines).encode())

    def _check_tokens(self, tokens: np.ndarray, offsets: Sequence[int], document_ids: Sequence[str]) -> None:
        if not tokens.size or (int(tokens.min()) >= 0 and int(tokens.max()) < self._vocab_size):
            return
        at = int(np.flatnonzero((tokens < 0) | (tokens >= self._vocab_size))[0])
        document_id = document_ids[bisect.bisect_right(offsets, at) - 1]
        raise ValueError(
            f"document {document_id!r}: token id {int(tokens[at])} lies outside the vocabulary of {self._vocab_size}"
        )

    def _add_mask(self, loss_mask: np.ndarray | None, size: int, document_id: str) -> None:
        if (loss_mask is None) != (self._masks is None):
            raise ValueError(
                f"document {document_id!r}: a loss mask is given for all documents of a shard, or for none"
            )
        if loss_mask is None or self._masks is None or self._num_trained is None:
            return
        if loss_mask.dtype != np.bool_ or loss_mask.shape != (size,):
            raise ValueError(
                f"document {document_id!r}: its loss mask is {loss_mask.dtype} {loss_mask.shape}; expected bool "
                f"({size},), one a token and one for the end-of-text token"
            )
        self._write("loss_mask", self._masks, loss_mask.astype(np.uint8).tobytes())
        self._num_trained += int(loss_mask.sum())

    def _write(self, kind: str, file: IO[bytes], data: bytes | memoryview) -> None:
        file.write(data)
        self._hashes[kind].update(data)

    def close(self) -> ShardInfo:
        self._close_files()
        with open(self._folder / SHARD_FILES["offsets"], "wb") as file:
            self._write("offsets", file, np.array(self._offsets, dtype=OFFSET_DTYPE).tobytes())
        return ShardInfo(
            name=self._name,
            num_tokens=self._offsets[-1],
            num_documents=len(self._offsets) - 1,
            num_bytes=self._num_bytes,
            sha256={kind: digest.hexdigest() for kind, digest in self._hashes.items()},
            num_trained=self._num_trained,
        )

    def _close_files(self) -> None:
        for file in (self._tokens, self._documents, self._masks):
            if file is not None:
                file.close()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self._close_files()


def ledger_text(
    shards: Sequence[ShardInfo],
    *,
    vocab_size: int,
    tokenizer_digest: str,
    eos_id: int,
    bos_id: int | None,
    byte_lengths_sha256: str,
    chat: ChatInfo | None = None,
) -> str:
    """The text of store.json. It holds no clock and no host, so equal input gives equal bytes."""
    ledger: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION if chat is None else CHAT_VERSION,
        "dtype": token_dtype(vocab_size).name,
        "vocab_size": vocab_size,
        "tokenizer_digest": tokenizer_digest,
        "eos_id": eos_id,
        "bos_id": bos_id,
        "document_prefix": DOCUMENT_PREFIX,
        "num_tokens": sum(shard.num_tokens for shard in shards),
        "num_documents": sum(shard.num_documents for shard in shards),
        "num_bytes": sum(shard.num_bytes for shard in shards),
        "token_byte_lengths_sha256": byte_lengths_sha256,
        "shards": [shard.to_json() for shard in shards],
    }
    if chat is not None:
        ledger["num_trained"] = sum(shard.num_trained or 0 for shard in shards)
        ledger["chat"] = asdict(chat)
    return json.dumps({**ledger, "checksum": ledger_checksum(ledger)}, indent=1) + "\n"


def write_ledger(
    path: str | Path,
    shards: Sequence[ShardInfo],
    *,
    vocab_size: int,
    tokenizer_digest: str,
    eos_id: int,
    bos_id: int | None,
    token_byte_lengths: np.ndarray,
    chat: ChatInfo | None = None,
) -> None:
    """Complete a store whose shards stand in `path`: the byte lengths, then the ledger, which makes it a store.

    `path` is a folder, or its address in an object store. `chat` is given where the shards have loss masks.
    """
    if any((shard.num_trained is None) != (chat is None) for shard in shards):
        raise ValueError(f"{path}: either all shards have a loss mask, and `chat` says of what, or none has")
    lengths = np.ascontiguousarray(token_byte_lengths, dtype="<i4")
    if lengths.shape != (vocab_size,):
        raise ValueError(f"token_byte_lengths has shape {lengths.shape}, expected ({vocab_size},), one a token")
    file = io.BytesIO()
    np.save(file, lengths)
    text = ledger_text(
        shards,
        vocab_size=vocab_size,
        tokenizer_digest=tokenizer_digest,
        eos_id=eos_id,
        bos_id=bos_id,
        byte_lengths_sha256=hashlib.sha256(file.getvalue()).hexdigest(),
        chat=chat,
    )
    write_bytes(os.path.join(path, BYTE_LENGTHS), file.getvalue())
    write_text(os.path.join(path, LEDGER), text)
