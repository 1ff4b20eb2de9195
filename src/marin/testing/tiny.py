"""Small true things for tests: documents, a tokenizer that needs no training, token stores.

Everything here is made from a seed and equal for equal arguments, so a test can name what it expects. Nothing is a
mock: the files are read by the same code as a user's.
"""

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marin.data.store import ShardWriter, TokenStore, write_ledger
from marin.processing.tokenize.tokenizer import byte_alphabet, load_tokenizer, write_tokenizer_folder

EOS_TOKEN = "<|endoftext|>"

_WORDS = [
    *["the", "a", "small", "big", "red", "old", "new", "model", "token", "step", "house", "tree", "river", "stone"],
    *["reads", "writes", "holds", "counts", "opens", "closes", "sees", "and", "or", "but", "then", "while", "under"],
    *["over", "near", "far", "one", "two", "three", "four", "café", "naïve", "Straße", "東京", "🙂"],
]


def tiny_documents(num_documents: int, *, seed: int = 0, num_words: int = 40) -> list[dict[str, Any]]:
    """Documents of up to `num_words` common words, some beyond ASCII: rows {"id", "text", "source", "metadata"}."""
    rng = random.Random(f"tiny documents {seed}")
    documents = []
    for number in range(num_documents):
        words = [rng.choice(_WORDS) for _ in range(rng.randint(1, num_words))]
        for at in range(7, len(words), 8):
            words[at] += ".\n" if rng.random() < 0.5 else ","
        documents.append({"id": f"tiny-{seed}-{number}", "text": " ".join(words), "source": "tiny", "metadata": {}})
    return documents


def write_documents(folder: str | Path, documents: Sequence[dict[str, Any]], *, num_shards: int = 2) -> Path:
    """Write documents as documents-00000.jsonl.gz and so on, dealt out in turn; returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(num_shards):
        lines = [json.dumps(document, ensure_ascii=False) + "\n" for document in documents[shard::num_shards]]
        data = gzip.compress("".join(lines).encode(), mtime=0)
        (folder / f"documents-{shard:05d}.jsonl.gz").write_bytes(data)
    return folder


def write_byte_tokenizer(folder: str | Path) -> Path:
    """A tokenizer folder whose tokens are the 256 bytes (id = byte) and <|endoftext|> (id 256); returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    eos = {"id": 256, "content": EOS_TOKEN, "single_word": False, "lstrip": False, "rstrip": False}
    description = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{**eos, "normalized": False, "special": True}],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": byte_alphabet(),
            "merges": [],
        },
    }
    write_tokenizer_folder(folder, json.dumps(description, ensure_ascii=False, indent=2) + "\n", eos_token=EOS_TOKEN)
    return folder


def make_token_store(
    path: str | Path,
    documents: Sequence[dict[str, Any]] | int = 20,
    *,
    seed: int = 0,
    num_shards: int = 2,
    tokenizer: str | Path | None = None,
) -> TokenStore:
    """Tokenize documents (or that number of tiny ones) into a store at `path` and open it.

    `tokenizer` is a tokenizer folder; without it, a byte tokenizer is written to <path>-tokenizer and used.
    """
    path = Path(path)
    if tokenizer is None:
        tokenizer = write_byte_tokenizer(path.with_name(path.name + "-tokenizer"))
    encoder = load_tokenizer(tokenizer)
    rows = tiny_documents(documents, seed=seed) if isinstance(documents, int) else documents
    shards = []
    for number in range(num_shards):
        name = f"shard-{number:05d}"
        (path / name).mkdir(parents=True)
        with ShardWriter(path / name, name=name, vocab_size=encoder.vocab_size, eos_id=encoder.eos_id) as writer:
            for row in rows[number::num_shards]:
                text = row["text"]
                writer.add(
                    encoder.encode(text), document_id=row["id"], source=row["source"], num_bytes=len(text.encode())
                )
            shards.append(writer.close())
    write_ledger(
        path,
        shards,
        vocab_size=encoder.vocab_size,
        tokenizer_digest=encoder.digest,
        eos_id=encoder.eos_id,
        bos_id=encoder.bos_id,
        token_byte_lengths=encoder.token_byte_lengths(),
    )
    return TokenStore.open(path)
