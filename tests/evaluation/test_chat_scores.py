"""Scores on conversations are those of the exported model, paired with what it was before."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marin.evaluation.chat import ChatEvaluationConfig, run
from marin.evaluation.results import read_results, read_samples
from marin.export.hf import save_hf
from marin.export.verify import verify_export
from marin.inference.generate import generate
from marin.io.records import find_record_files, read_records, write_records
from marin.models import lm
from marin.models.llama import LlamaConfig
from marin.processing.tokenize.chat import ChatTemplate
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.testing.tiny import (
    TINY_CHAT,
    TINY_CHAT_TOKENS,
    tiny_conversations,
    write_byte_tokenizer,
    write_documents,
)

MODEL = LlamaConfig(seq_len=128, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)
VOCAB_SIZE = 260
MAX_NEW_TOKENS = 32


def params_of(seed: int):
    return MODEL.init(VOCAB_SIZE, key=jax.random.key(seed))


def export(folder: Path, seed: int, tokenizer: Path) -> Path:
    params = params_of(seed)
    save_hf(MODEL, params, VOCAB_SIZE, tokenizer, folder)
    verify_export(folder, config=MODEL, params=params, vocab_size=VOCAB_SIZE, tokenizer_path=tokenizer)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("chat")
    tokenizer = write_byte_tokenizer(root / "tokenizer", extra_special_tokens=TINY_CHAT_TOKENS)
    bad = {"id": "bad", "messages": [{"role": "user", "content": "no answer"}]}
    write_documents(root / "held_out", [*tiny_conversations(12, num_words=8), bad])
    for seed, name in enumerate(("model", "baseline")):
        export(root / name, seed, tokenizer)
    return root


def config(root: Path, output: Path, **changes) -> ChatEvaluationConfig:
    plain = ChatEvaluationConfig(
        model_path=str(root / "model"),
        baseline_path=str(root / "baseline"),
        conversations_path=str(root / "held_out"),
        output_path=str(output),
        chat=TINY_CHAT,
        seed=3,
        max_conversations=None,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def scored(folders: Path) -> Path:
    run(config(folders, folders / "scored"))
    return folders / "scored"


def test_every_score_is_what_the_model_gives_of_the_answers_alone(folders: Path, scored: Path):
    results, samples = read_results(scored), read_samples(scored)
    tokenizer = load_tokenizer(folders / "tokenizer")
    template = ChatTemplate(TINY_CHAT, tokenizer)
    rows = {row["id"]: row["messages"] for row in tiny_conversations(12, num_words=8)}
    assert 2 <= len(samples) < 12
    assert results["tasks"]["chat"]["counts"]["num_bad"] == 1
    assert results["tasks"]["chat"]["counts"]["num_too_long"] == 12 - len(samples)
    log_probs = jax.jit(lambda params, tokens, targets: lm.token_log_probs(MODEL, params, tokens, targets))
    for sample in samples:
        [row] = template.encode([template.spans(rows[sample["doc_id"]])])
        targets = np.append(row.ids, tokenizer.eos_id)
        tokens = np.append(tokenizer.eos_id, row.ids)
        for name, seed in (("model", 0), ("baseline", 1)):
            found = np.asarray(log_probs(params_of(seed), tokens[None], targets[None]), np.float64)[0]
            assert sample["nats"][name] == pytest.approx(-found[row.loss_mask].sum(), rel=1e-4)
        assert sample["num_tokens"] == row.loss_mask.sum()
        last = rows[sample["doc_id"]][-1]["content"]
        assert sample["num_answer_tokens"] == len(last.encode()) + 1
    metric = results["tasks"]["chat"]["metrics"]["nats_per_token"]
    total = sum(sample["nats"]["model"] for sample in samples) / sum(sample["num_tokens"] for sample in samples)
    assert metric["value"] == pytest.approx(total) and metric["stderr"] > 0
    compared = {entry["metric"]: entry for entry in results["comparisons"]}
    values = [results["tasks"][task]["metrics"]["nats_per_token"]["value"] for task in ("chat", "chat/baseline")]
    assert compared["nats_per_token"]["difference"] == pytest.approx(values[0] - values[1])
    share = np.mean([sample["num_answer_tokens"] <= MAX_NEW_TOKENS for sample in samples])
    assert results["tasks"]["chat/reference"]["metrics"]["stop_rate"]["value"] == pytest.approx(share)


def test_an_answer_has_ended_where_the_model_drew_a_token_that_ends_it(folders: Path, scored: Path):
    tokenizer = load_tokenizer(folders / "tokenizer")
    template = ChatTemplate(TINY_CHAT, tokenizer)
    rows = {row["id"]: row["messages"] for row in tiny_conversations(12, num_words=8)}
    samples = read_samples(scored)
    prompts = [[tokenizer.eos_id, *template.encode_prompt(rows[sample["doc_id"]][:-1]).tolist()] for sample in samples]
    ends = {template.stop_id, tokenizer.eos_id}
    drawn = generate(MODEL, params_of(0), prompts, max_new_tokens=MAX_NEW_TOKENS, temperature=1.0, seed=3)
    for sample, tokens in zip(samples, drawn, strict=True):
        end = next((i for i, token in enumerate(tokens) if token in ends), None)
        assert sample["stopped"]["model"] == (end is not None)
        assert sample["num_completion_tokens"]["model"] == (MAX_NEW_TOKENS if end is None else end)
        assert sample["completion"]["model"] == tokenizer.decode(tokens[:end])
    assert any(sample["stopped"]["model"] for sample in samples)  # an untrained model ends somewhere, now and then


def test_the_same_evaluation_writes_the_same_bytes(folders: Path, scored: Path, tmp_path: Path):
    run(config(folders, tmp_path))
    for file in ("results.json", "samples.jsonl"):
        assert (tmp_path / file).read_bytes() == (scored / file).read_bytes()


def test_conversations_are_read_from_every_format_of_rows(folders: Path, scored: Path, tmp_path: Path):
    files = find_record_files(folders / "held_out")
    rows = [row for file in files for row in read_records(file)]
    mixed = tmp_path / "mixed"
    (mixed / "inner").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows[:4]), mixed / "a.parquet")
    table = pa.Table.from_pylist(rows[4:8])
    with pa.ipc.new_file(mixed / "inner/b.arrow", table.schema) as writer:
        writer.write_table(table)
    write_records(mixed / "c.jsonl.zst", rows[8:10])
    write_records(mixed / "d.jsonl", rows[10:])
    run(config(folders, tmp_path / "out", conversations_path=str(mixed)))
    for file in ("results.json", "samples.jsonl"):
        assert (tmp_path / "out" / file).read_bytes() == (scored / file).read_bytes()


def test_what_was_left_out_and_how_short_the_held_out_answers_are_is_printed(folders: Path, tmp_path: Path, capsys):
    tasks = read_results(run(config(folders, tmp_path)).parent)["tasks"]
    share, counts = tasks["chat/reference"]["metrics"]["stop_rate"], tasks["chat"]["counts"]
    printed = capsys.readouterr().out
    assert f"{counts['num_too_long']} were too long for the model, {counts['num_bad']} no conversations" in printed
    assert f"reference: {share['value']:.2f} ± {share['stderr']:.2f} (n = {share['n']}) of the held-out" in printed


def test_what_cannot_be_compared_or_scored_is_refused(folders: Path, tmp_path: Path):
    other = write_byte_tokenizer(tmp_path / "other", extra_special_tokens=reversed(TINY_CHAT_TOKENS))
    export(tmp_path / "export", 1, other)
    with pytest.raises(ValueError, match="the baseline at .* nats a token of the two cannot be compared"):
        run(config(folders, tmp_path / "out", baseline_path=str(tmp_path / "export")))
    with pytest.raises(ValueError, match="0 conversations that the model can read with 127 new tokens in 128"):
        run(config(folders, tmp_path / "out", max_new_tokens=127))
    (tmp_path / "export" / "parity.json").unlink()
    with pytest.raises(ValueError, match="no parity.json"):
        run(config(folders, tmp_path / "out", model_path=str(tmp_path / "export")))
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        config(folders, tmp_path / "out", max_new_tokens=0)
