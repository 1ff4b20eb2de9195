"""`marin data at-step` on conversations: what is trained on can be seen."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from marin.config import dump_yaml
from marin.data.config import LmDataConfig
from marin.models.llama import LlamaConfig
from marin.optim.adamw import AdamWConfig
from marin.testing.tiny import make_chat_store, make_token_store, tiny_conversations
from marin.training.config import TrainerConfig, TrainLmConfig

CONVERSATIONS = {row["id"]: row["messages"] for row in tiny_conversations(8)}


@pytest.fixture
def place(folder: Path) -> Path:
    """A run that is yet to start, on conversations and text."""
    chat = make_chat_store(folder / "chat", 8)
    text = make_token_store(folder / "text", 4, tokenizer=folder / "chat-tokenizer")
    config = TrainLmConfig(
        data=LmDataConfig(
            train={"chat": str(chat.path), "text": str(text.path)},
            weights={"chat": 1.0, "text": 1.0},
            packing="greedy",
            mixture_block_size=2,
            tokenizer=str(folder / "chat-tokenizer"),
        ),
        model=LlamaConfig(seq_len=256, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1),
        optimizer=AdamWConfig(learning_rate=1e-3),
        trainer=TrainerConfig(num_train_steps=2, train_batch_size=2, seed=0),
        output_path=str(folder / "run"),
    )
    (folder / "config.yaml").write_text(dump_yaml(config))
    return folder


def test_answers_stand_between_marks_and_texts_have_none(marin, place: Path):
    shown = marin("data", "at-step", "config.yaml", "1", "--text").out
    pieces = shown.split("--- row ")[1:]
    assert any(": text, document" in piece for piece in pieces)
    for piece in pieces:
        head, _, text = piece.partition("\n")
        if ": chat, document" not in head:
            assert "⟦" not in text
            continue
        name = head.split("document ")[1].split(",")[0]
        expected = "".join(
            f"<|{m['role']}|>" + (f"⟦{m['content']}<|end|>⟧" if m["role"] == "assistant" else f"{m['content']}<|end|>")
            for m in CONVERSATIONS[name]
        )
        assert text.rstrip("\n") == f"{expected}<|endoftext|>"


def test_the_json_has_ranges_of_what_is_trained_on(marin, place: Path):
    found = json.loads(marin("data", "at-step", "config.yaml", "1", "--text", "--json").out)
    pieces = [SimpleNamespace(source=row["source"], **piece) for row in found["rows"] for piece in row["pieces"]]
    assert {piece.source for piece in pieces} == {"chat", "text"}
    for piece in pieces:
        if piece.source == "text":
            assert not hasattr(piece, "trained")
            continue
        answers = [m["content"] for m in CONVERSATIONS[piece.document_id] if m["role"] == "assistant"]
        assert [end - first for first, end in piece.trained] == [len(answer.encode()) + 1 for answer in answers]


def test_the_mixture_says_how_many_conversations_there_are(marin, place: Path):
    assert (
        "chat: 8 conversations, 0 dropped and 0 cut, longer than a row" in marin("data", "mixture", "config.yaml").out
    )
