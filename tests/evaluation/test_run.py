"""An exported model goes in, results with error bars come out, and what must not be scored is refused."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from marin.evaluation.multiple_choice import continuation_choice
from marin.evaluation.perplexity import document_bits
from marin.evaluation.results import read_results, read_samples
from marin.evaluation.run import EvaluationConfig, cut_at_line_end, held_out_documents, run
from marin.evaluation.scoring import Request, log_likelihoods, score_rows, scored_model
from marin.export.hf import load_hf, save_hf
from marin.export.verify import verify_export
from marin.models.llama import LlamaConfig
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.testing.tiny import write_byte_tokenizer, write_documents

MODEL = LlamaConfig(seq_len=48, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=2)
VOCAB_SIZE = 257


def long_documents(num_documents: int, seed: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    words = ["def", "return", "value", "self", "naïve", "import", "x", "the", "step"]
    return [
        {
            "id": f"{seed}-{number}",
            "text": "".join(" ".join(rng.choice(words, 6)) + "\n" for _ in range(30)),
            "source": "test",
            "metadata": {},
        }
        for number in range(num_documents)
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("line")
    tokenizer = write_byte_tokenizer(root / "tokenizer")
    write_documents(root / "validation", long_documents(5, seed=1))
    write_documents(root / "train", long_documents(20, seed=2))
    params = MODEL.init(VOCAB_SIZE, key=jax.random.key(0))
    save_hf(MODEL, params, VOCAB_SIZE, tokenizer, root / "model")
    verify_export(root / "model", config=MODEL, params=params, vocab_size=VOCAB_SIZE, tokenizer_path=tokenizer)
    return root


def config(root: Path, output: Path, **changes) -> EvaluationConfig:
    plain = EvaluationConfig(
        model_path=str(root / "model"),
        documents_path=str(root / "validation"),
        train_documents_path=str(root / "train"),
        output_path=str(output),
        seed=0,
        max_bytes=None,
        num_questions=8,
        context_bytes=60,
        choice_bytes=20,
        num_prompts=1,
        prompt_characters=60,
        max_new_tokens=4,
        tokens_per_batch=384,
    )
    return dataclasses.replace(plain, **changes)


@pytest.fixture(scope="module")
def evaluated(folders: Path) -> Path:
    return run(config(folders, folders / "evaluation")).parent


def test_every_score_has_an_error_bar_and_an_n(evaluated: Path):
    results = read_results(evaluated)
    assert list(results["tasks"]) == [
        "heldout_text",
        "heldout_text/uniform_bytes",
        "heldout_text/ngram3_bytes",
        "continuation_choice",
        "continuation_choice/ngram3_bytes",
    ]
    for name, task in results["tasks"].items():
        assert task["n"] == (5 if name.startswith("heldout") else 8)
        assert len(task["prompt_hash"]) == 64 and task["version"] == (2 if name.startswith("continuation") else 1)
        for entry in task["metrics"].values():
            assert math.isfinite(entry["value"]) and math.isfinite(entry["stderr"])
            assert entry["ci95"] is not None or entry["interval"] == "exact"


def test_bits_per_byte_stand_beside_the_baselines_paired(evaluated: Path):
    results = read_results(evaluated)
    value = {name: task["metrics"]["bits_per_byte"]["value"] for name, task in list(results["tasks"].items())[:3]}
    # nothing was learned: a uniform guess over the vocabulary, one byte a token
    assert value["heldout_text"] == pytest.approx(math.log2(VOCAB_SIZE), abs=0.1)
    assert value["heldout_text/uniform_bytes"] == 8
    assert value["heldout_text/ngram3_bytes"] < 2
    ngram, uniform, choice, _ = results["comparisons"]
    assert ngram["difference"] == pytest.approx(value["heldout_text"] - value["heldout_text/ngram3_bytes"])
    assert ngram["verdict"] == "model is worse"
    assert uniform["n"] == 5 and ngram["stderr"] > 0
    assert choice["metric"] == "acc" and choice["unit"] == "questions" and 0 < choice["p_value"] <= 1


def test_every_score_can_be_computed_again_from_the_samples(evaluated: Path):
    results, samples = read_results(evaluated), read_samples(evaluated)
    documents = [row for row in samples if row["task"] == "heldout_text"]
    questions = [row for row in samples if row["task"] == "continuation_choice"]
    assert results["num_samples"] == len(documents) + len(questions) == 13
    bits = sum(row["bits"]["model"] for row in documents) / sum(row["num_bytes"] for row in documents)
    assert bits == pytest.approx(results["tasks"]["heldout_text"]["metrics"]["bits_per_byte"]["value"])
    right = [np.argmax(row["log_probs"]["model"]) == row["target"] for row in questions]
    assert right == [row["acc"]["model"] for row in questions]
    assert np.mean(right) == results["tasks"]["continuation_choice"]["metrics"]["acc"]["value"]
    assert results["tasks"]["continuation_choice"]["chance"] == 0.25


def test_completions_are_greedy_and_sampled(evaluated: Path):
    rows = read_results(evaluated)["generations"]
    assert [row["temperature"] for row in rows] == [0.0, 0.8]
    assert all(row["prompt"].endswith("\n") and row["reference"] for row in rows)


def test_the_rules_of_scoring_and_what_was_scored_are_on_record(evaluated: Path):
    results = read_results(evaluated)
    assert results["policy"]["stride"] == 24
    assert results["policy"]["prefix"].startswith("EOS before every document")
    assert results["policy"]["document_prefix"] == "eos"
    assert results["policy"]["end_of_document_scored"] is False
    model = results["model"]
    assert model["verified"] is True
    assert model["num_params"] == MODEL.num_params(VOCAB_SIZE)
    assert len(model["tokenizer_digest"]) == 64
    assert all(len(digest) == 64 for digest in model["weights_sha256"].values()) and model["weights_sha256"]
    assert results["config"]["num_questions"] == 8


def test_the_same_evaluation_writes_the_same_bytes_wherever_it_is(folders: Path, evaluated: Path, tmp_path: Path):
    again = run(config(folders, tmp_path / "elsewhere")).parent
    for name in ("results.json", "samples.jsonl"):
        assert (again / name).read_bytes() == (evaluated / name).read_bytes()


def test_a_score_does_not_depend_on_the_batch_it_is_in(folders: Path):
    tokenizer = load_tokenizer(folders / "tokenizer")
    params = MODEL.init(VOCAB_SIZE, key=jax.random.key(0))
    documents = [(row["id"], row["text"]) for row in long_documents(5, seed=1)]
    task = continuation_choice(documents, num_questions=6, seed=0, context_bytes=40, choice_bytes=16)
    requests = [Request(context=q.query, continuation=choice) for q in task.questions for choice in q.choices]
    small, large = (scored_model(MODEL, params, VOCAB_SIZE, size) for size in (1, 512))
    alone = [log_likelihoods(small, tokenizer, [request])[0].log_prob for request in requests]
    together = [answer.log_prob for answer in log_likelihoods(large, tokenizer, requests)]
    np.testing.assert_allclose(alone, together, atol=1e-4)


def test_padding_is_not_seen(folders: Path):
    params = MODEL.init(VOCAB_SIZE, key=jax.random.key(0))
    model = scored_model(MODEL, params, VOCAB_SIZE, 256)
    row = np.arange(1, 30, dtype=np.int32)
    [padded] = score_rows(model, [(row[:-1], row[1:])])
    exact = model.token_log_probs(row[None, :-1], row[None, 1:])
    np.testing.assert_allclose(padded, np.asarray(exact)[0], atol=1e-4)


@pytest.mark.parametrize("parity", [None, {"passed": False}, {}, {"passed": True}])
def test_an_export_that_nobody_checked_is_refused_unless_told_otherwise(
    folders: Path, tmp_path: Path, parity: dict | None
):
    model = shutil.copytree(folders / "model", tmp_path / "model")
    (model / "parity.json").unlink()
    if parity is not None:
        (model / "parity.json").write_text(json.dumps(parity))
    unverified = config(folders, tmp_path, model_path=str(model), num_questions=0, num_prompts=0, max_bytes=300)
    with pytest.raises(ValueError, match="nobody checked.*allow_unverified=true"):
        run(unverified)
    results = read_results(run(dataclasses.replace(unverified, allow_unverified=True)))
    assert results["model"]["verified"] is False


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(folders: Path, tmp_path: Path):
    shutil.copytree(folders / "model", tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    description = json.loads(file.read_text())
    description["added_tokens"].append(description["added_tokens"][0] | {"id": VOCAB_SIZE, "content": "<|one more|>"})
    file.write_text(json.dumps(description))
    with pytest.raises(ValueError, match="the tokenizer has 258 tokens and the model 257"):
        run(config(folders, tmp_path / "out", model_path=str(tmp_path / "model"), allow_unverified=True))


def test_a_tokenizer_that_was_changed_after_the_check_is_refused(folders: Path, tmp_path: Path):
    shutil.copytree(folders / "model", tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    description = json.loads(file.read_text())
    vocabulary = description["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(description))
    changed = config(folders, tmp_path / "out", model_path=str(tmp_path / "model"))
    with pytest.raises(ValueError, match="files that were changed after they were verified: tokenizer.json"):
        run(changed)
    with pytest.raises(ValueError, match="tokenizer_digest is .*changed after it was verified. Export it again"):
        run(dataclasses.replace(changed, allow_unverified=True))
    file.write_text((folders / "model" / "tokenizer.json").read_text())
    other = json.loads((folders / "model" / "tokenizer_config.json").read_text()) | {"eos_token": "a", "bos_token": "b"}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="eos_id is 97, was 256"):
        run(dataclasses.replace(changed, allow_unverified=True))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json"])
def test_files_that_were_changed_after_the_check_are_not_called_verified(folders: Path, tmp_path: Path, name: str):
    model = shutil.copytree(folders / "model", tmp_path / "model")
    if name == "model.safetensors":
        tensors = load_file(model / name)
        tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.01
        save_file(tensors, model / name, metadata={"format": "pt"})
    else:
        (model / name).write_text(json.dumps(json.loads((model / name).read_text())))
    changed = config(folders, tmp_path / "out", model_path=str(model), num_questions=0, num_prompts=0, max_bytes=300)
    with pytest.raises(ValueError, match=f"changed after they were verified: {name}. .*allow_unverified=true"):
        run(changed)
    results = read_results(run(dataclasses.replace(changed, allow_unverified=True)))
    assert results["model"]["verified"] is False


def with_bos(folders: Path, root: Path) -> Path:
    """The export of `folders` with a tokenizer that has a BOS, `<s>`, id 257, which training never saw."""
    tokenizer = shutil.copytree(folders / "tokenizer", root / "tokenizer")
    description = json.loads((tokenizer / "tokenizer.json").read_text())
    description["added_tokens"].append(description["added_tokens"][0] | {"id": 257, "content": "<s>"})
    (tokenizer / "tokenizer.json").write_text(json.dumps(description))
    special = json.loads((tokenizer / "tokenizer_config.json").read_text()) | {"bos_token": "<s>"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(special))
    # large weights, so that it matters which token came first
    params = jax.tree.map(lambda leaf: 4 * leaf, MODEL.init(258, key=jax.random.key(0)))
    save_hf(MODEL, params, 258, tokenizer, root / "model")
    verify_export(root / "model", config=MODEL, params=params, vocab_size=258, tokenizer_path=tokenizer)
    return root / "model"


def test_documents_begin_as_they_did_in_training_whatever_the_tokenizer_has(folders: Path, tmp_path: Path):
    model = with_bos(folders, tmp_path)
    asked = config(folders, tmp_path / "ours", model_path=str(model), num_questions=0, num_prompts=0, max_bytes=300)

    def bits_after(document_prefix: str) -> float:
        loaded = load_hf(model)
        scored = scored_model(loaded.config, loaded.params, loaded.vocab_size, 384, document_prefix)
        texts = [text for _, text in held_out_documents(asked).documents]
        bits = document_bits(scored, load_tokenizer(model), texts)
        return bits.bits.sum() / bits.num_bytes.sum()

    def measured(results: dict) -> float:
        return results["tasks"]["heldout_text"]["metrics"]["bits_per_byte"]["value"]

    assert abs(bits_after("bos") - bits_after("eos")) > 1e-3
    ours = read_results(run(asked))
    assert measured(ours) == pytest.approx(bits_after("eos"), abs=1e-6)
    assert ours["policy"]["document_prefix"] == "eos"

    parity = json.loads((model / "parity.json").read_text())
    (model / "parity.json").write_text(json.dumps(parity | {"document_prefix": "bos"}))
    assert measured(read_results(run(asked))) == pytest.approx(bits_after("bos"), abs=1e-6)
    (model / "parity.json").write_text(json.dumps(parity | {"document_prefix": "newline"}))
    with pytest.raises(ValueError, match="document_prefix='newline', expected 'eos' or 'bos'"):
        run(asked)

    (model / "parity.json").unlink()  # as a model from elsewhere
    imported = read_results(run(dataclasses.replace(asked, allow_unverified=True)))
    assert measured(imported) == pytest.approx(bits_after("eos"), abs=1e-6)  # a BOS is named, and added to no text
    assert imported["policy"]["document_prefix"] == "eos" and "unknown" in imported["policy"]["prefix"]

    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"add_bos_token": True}))
    imported = read_results(run(dataclasses.replace(asked, allow_unverified=True)))
    assert measured(imported) == pytest.approx(bits_after("bos"), abs=1e-6)
    assert imported["policy"]["document_prefix"] == "bos"


def test_documents_are_drawn_by_seed_and_cut_at_line_ends(folders: Path, tmp_path: Path):
    everything = held_out_documents(config(folders, tmp_path))
    assert len(everything.documents) == everything.num_all == 5
    some = held_out_documents(config(folders, tmp_path, max_bytes=300, max_document_bytes=200))
    assert len(some.documents) == 2 and some.num_all == 5
    for name, text in some.documents:
        assert text.endswith("\n") and len(text.encode()) <= 200
        assert dict(everything.documents)[name].startswith(text)
    orders = {
        tuple(name for name, _ in held_out_documents(config(folders, tmp_path, seed=s)).documents) for s in range(5)
    }
    assert len(orders) > 1


def test_a_cut_never_splits_a_character():
    assert cut_at_line_end("ab\ncd\n", 4) == "ab\n"
    assert cut_at_line_end("éé", 3) == "é"
    assert cut_at_line_end("ab\ncd\n", None) == cut_at_line_end("ab\ncd\n", 6) == "ab\ncd\n"


def test_one_document_is_too_few_for_an_error_bar(folders: Path, tmp_path: Path):
    write_documents(tmp_path / "one", long_documents(1, seed=3), num_shards=1)
    with pytest.raises(ValueError, match="has 1 documents with text.*at least two"):
        held_out_documents(config(folders, tmp_path, documents_path=str(tmp_path / "one")))


def test_lines_that_are_no_documents_are_counted(folders: Path, tmp_path: Path):
    shard = write_documents(tmp_path / "some", long_documents(3, seed=3), num_shards=1) / "documents-00001.jsonl"
    shard.write_text('{"no text": 1}\n')
    held_out = held_out_documents(config(folders, tmp_path, documents_path=str(tmp_path / "some")))
    assert (len(held_out.documents), held_out.num_bad) == (3, 1)


def test_a_folder_without_documents_is_an_error_that_names_it(folders: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    tables = tmp_path / "tables"
    tables.mkdir()
    rows = [{"id": row["id"], "text": row["text"]} for row in long_documents(4, seed=3)]
    pq.write_table(pa.Table.from_pylist([*rows[:2], {"id": "bad", "text": None}]), tables / "a.parquet")
    with pa.OSFile(str(tables / "b.arrow"), "wb") as file:
        table = pa.Table.from_pylist(rows[2:])
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    for path, size in ((tables, 4), (tables / "a.parquet", 2)):
        held_out = held_out_documents(config(folders, tmp_path, documents_path=str(path)))
        assert held_out.num_bad == 1
        assert sorted(held_out.documents) == sorted((row["id"], row["text"]) for row in rows[:size])
    with pytest.raises(FileNotFoundError, match="no documents in .*empty: expected files that end in"):
        held_out_documents(config(folders, tmp_path, documents_path=str(tmp_path / "empty")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_questions": -1}, "num_questions is -1"),
        ({"max_bytes": 0}, "max_bytes is 0"),
        ({"num_choices": 1}, "num_choices is 1"),
        ({"temperatures": (-1.0,)}, "temperatures are"),
        ({"context_bytes": 0}, "context_bytes is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(tmp_path: Path, change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, tmp_path, **change)
