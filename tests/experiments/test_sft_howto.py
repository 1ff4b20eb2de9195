"""The fine-tuning experiment at toy size: raw text and conversations to a model that has learned to stop."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.howto.sft import SFT, sft
from marin.evaluation.results import read_results, read_samples
from marin.execution.executor import run

COLOURS = ["red", "green", "blue", "black", "white"]


def toy(conversations: Path):
    rows = [{"prompt": f"{n} {colour}?", "response": f"It is {colour}."} for n in range(16) for colour in COLOURS]
    conversations.mkdir()
    (conversations / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return replace(
        SFT,
        conversations=str(conversations),
        max_documents=40,
        validation_fraction=0.2,
        vocab_size=384,
        model=replace(
            SFT.model, seq_len=64, hidden_dim=32, intermediate_dim=64, num_heads=2, num_kv_heads=1, num_layers=1
        ),
        base=replace(SFT.base, num_train_steps=5, warmup=1, resources=None),
        num_epochs=24,
        sft_learning_rate=2e-2,
        max_new_tokens=32,
    )


@pytest.mark.slow
def test_a_model_learns_to_answer_and_to_stop(tmp_path: Path):
    evaluation = sft(toy(tmp_path / "conversations"))
    done = run([evaluation], prefix=str(tmp_path / "store"))
    assert done.is_ok
    results = read_results(done.output_path(evaluation))
    stops = {name: results["tasks"][name]["metrics"]["stop_rate"] for name in ("chat", "chat/baseline")}
    assert stops["chat"]["ci95"][0] > 0.5 > stops["chat/baseline"]["ci95"][1]
    assert results["tasks"]["chat/reference"]["metrics"]["stop_rate"]["value"] == 1
    assert {entry["metric"]: entry["verdict"] for entry in results["comparisons"]} == {
        "nats_per_token": "model is better",
        "stop_rate": "model is better",
    }
    held_out = read_samples(done.output_path(evaluation))
    assert len(held_out) > 10 and all(sample["num_tokens"] == sample["num_answer_tokens"] for sample in held_out)


def test_without_conversations_it_says_what_to_give():
    with pytest.raises(SystemExit, match="no conversations to fine-tune on: give a folder of .*--set conversations="):
        sft(replace(SFT, conversations=None))
