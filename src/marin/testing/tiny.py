"""Small true things for tests: documents, a tokenizer that needs no training, token stores.

Everything here is made from a seed and equal for equal arguments, so a test can name what it expects. Nothing is a
mock: the files are read by the same code as a user's.
"""

import contextlib
import gzip
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marin.data.store import TokenStore
from marin.data.store_writer import ShardWriter, write_ledger
from marin.processing.tokenize.config import ChatFormat, TokenizeConfig
from marin.processing.tokenize.tokenize import tokenize
from marin.processing.tokenize.tokenizer import byte_alphabet, load_tokenizer, write_tokenizer_folder

EOS_TOKEN = "<|endoftext|>"

TINY_CHAT_TOKENS = ("<|user|>", "<|assistant|>", "<|end|>")
TINY_CHAT = ChatFormat(
    template=(
        "{% for message in messages %}{{ '<|' ~ message.role ~ '|>' }}"
        "{% if message.role == 'assistant' %}{% generation %}{{ message.content ~ '<|end|>' }}{% endgeneration %}"
        "{% else %}{{ message.content ~ '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    ),
    stop_token="<|end|>",
)
"""A chat format whose special tokens are TINY_CHAT_TOKENS."""

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


def tiny_conversations(num_conversations: int, *, seed: int = 0, num_words: int = 8) -> list[dict[str, Any]]:
    """Conversations of one to three questions with answers: rows {"id", "messages"}."""
    rng = random.Random(f"tiny conversations {seed}")

    def say(role: str) -> dict[str, str]:
        return {"role": role, "content": " ".join(rng.choices(_WORDS, k=rng.randint(1, num_words)))}

    return [
        {"id": f"chat-{seed}-{number}", "messages": [say(role) for role in ("user", "assistant") * rng.randint(1, 3)]}
        for number in range(num_conversations)
    ]


def write_byte_tokenizer(folder: str | Path, *, extra_special_tokens: Sequence[str] = ()) -> Path:
    """A tokenizer folder whose tokens are the 256 bytes (id = byte) and <|endoftext|> (id 256); returns the folder.

    Extra special tokens get the ids from 257 on.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": 256 + i, "content": text, **special} for i, text in enumerate((EOS_TOKEN, *extra_special_tokens))]
    description = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
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


def make_chat_store(
    path: str | Path,
    conversations: Sequence[dict[str, Any]] | int = 20,
    *,
    seed: int = 0,
    num_shards: int = 2,
    tokenizer: str | Path | None = None,
    chat: ChatFormat = TINY_CHAT,
) -> TokenStore:
    """Tokenize conversations (or that number of tiny ones) into a store with a loss mask at `path` and open it.

    `tokenizer` is a tokenizer folder; without it, a byte tokenizer with TINY_CHAT_TOKENS is written to
    <path>-tokenizer and used.
    """
    path = Path(path)
    if tokenizer is None:
        tokenizer = write_byte_tokenizer(
            path.with_name(path.name + "-tokenizer"), extra_special_tokens=TINY_CHAT_TOKENS
        )
    rows = tiny_conversations(conversations, seed=seed) if isinstance(conversations, int) else conversations
    folder = write_documents(path.with_name(path.name + "-conversations"), rows, num_shards=num_shards)
    config = TokenizeConfig(
        input_path=str(folder), output_path=str(path), tokenizer=str(tokenizer), chat=chat, max_bad=0.0, num_workers=1
    )
    with contextlib.redirect_stderr(io.StringIO()):  # its progress
        tokenize(config)
    return TokenStore.open(path, verify=True)
