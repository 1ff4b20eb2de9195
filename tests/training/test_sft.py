"""Fine-tuning on conversations: it begins with a trained model, learns the answers and their end, and says so."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from marin.config import load_yaml
from marin.data.config import LmDataConfig
from marin.evaluation.config import TaskEvaluationConfig
from marin.evaluation.results import read_results
from marin.evaluation.task_step import run as evaluate_tasks_of
from marin.evaluation.tasks import EvalTaskConfig
from marin.execution.executor import plan, run
from marin.export.api import export_step
from marin.models.llama import LlamaConfig
from marin.processing.tokenize.data_configs import lm_data_config, lm_mixture_data_config
from marin.testing.tiny import TINY_CHAT, TINY_CHAT_TOKENS, make_chat_store, make_token_store, write_byte_tokenizer
from marin.tracking.jsonl import read_rows
from marin.training.api import default_sft, default_train
from marin.training.callback_config import EvalsConfig, SamplesConfig
from marin.training.config import SimpleTrainConfig, TrainLmConfig
from marin.training.sft_config import SimpleSFTConfig, TrainEpochsConfig
from marin.training.train_epochs import train_epochs

MODEL = LlamaConfig(seq_len=256, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)
SETTINGS = {"train_batch_size": 2, "learning_rate": 1e-2, "steps_per_eval": 10, "steps_per_checkpoint": 10}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> SimpleNamespace:
    """A base, the same fine-tuned for three epochs, and its export: folders by name."""
    root = tmp_path_factory.mktemp("sft")
    tokenizer = write_byte_tokenizer(root / "tokenizer", extra_special_tokens=TINY_CHAT_TOKENS)
    text = make_token_store(root / "text", 20, tokenizer=tokenizer)
    chat = make_chat_store(root / "chat", 30, tokenizer=tokenizer)
    held_out = make_chat_store(root / "held_out", 4, seed=1, tokenizer=tokenizer)
    questions = root / "questions.jsonl"
    questions.write_text(
        "".join(json.dumps({"query": f"{n}?", "choices": ["a", "b"], "gold": 0}) + "\n" for n in "cde")
    )
    asked = EvalsConfig(
        tasks=(EvalTaskConfig("mine", 1, file=str(questions)),),
        data=str(root),
        apply_chat_template=True,
        system_instruction="Be brief.",
    )
    train = SimpleTrainConfig(train_batch_size=2, num_train_steps=2, learning_rate=1e-3, train_seq_len=32)
    base = default_train("base", str(text.path), MODEL, train)
    settings = SimpleSFTConfig(
        initialize_from_checkpoint_path=base,  # type: ignore[arg-type]
        num_epochs=3,
        warmup=0.1,
        tokenizer=str(tokenizer),
        reinit_tokens=("<|end|>",),
        callbacks=(SamplesConfig(prompts=("<|user|>",), max_new_tokens=4, every=100), asked),
        **SETTINGS,
    )
    step = default_sft("tuned", str(chat.path), MODEL, settings, validation={"held_out": str(held_out.path)})
    exported = export_step("exports/tuned", trained=step, tokenizer=str(tokenizer))
    done = run([exported], prefix=str(root / "store"))
    assert done.is_ok
    return SimpleNamespace(
        root=root,
        asked=asked,
        chat=chat,
        base=base,
        step=step,
        folder=Path(done.output_path(step)),
        exported=done.output_path(exported),
    )


def test_a_run_is_as_long_as_its_epochs_and_counts_what_it_trains_on(tuned: SimpleNamespace):
    config = load_yaml(TrainLmConfig, tuned.folder / "config.yaml")
    summary = json.loads((tuned.folder / "summary.json").read_text())
    assert config.data.packing == "best_fit"
    num_rows = round(2 * summary["final_step"] / summary["epochs"]["train"])
    assert summary["final_step"] == config.trainer.num_train_steps == -(-3 * num_rows // 2)
    rows = [row for row in read_rows(tuned.folder / "metrics.jsonl") if "train/loss" in row]
    whole_epochs = rows[: 3 * num_rows // 2]
    if 3 * num_rows % 2 == 0:
        assert sum(row["train/trained_tokens"] for row in whole_epochs) == 3 * tuned.chat.num_trained
    assert all(0 < row["train/trained_stops"] < row["train/trained_tokens"] for row in rows)
    assert rows[-1]["train/loss"] < 0.8 * rows[0]["train/loss"]
    validation = summary["final_validation"]["held_out"]
    assert validation["tokens"] < 0.8 * 256 * 4 and validation["loss"] < rows[0]["train/loss"]


def test_questions_in_its_chat_template_are_those_of_an_evaluation_after_training(tuned: SimpleNamespace, tmp_path):
    asked = tuned.asked
    config = TaskEvaluationConfig(
        model_path=str(tuned.folder),
        tokenizer_path=str(tuned.root / "tokenizer"),
        output_path=str(tmp_path),
        tasks=asked.tasks,
        data_path=asked.data,
        apply_chat_template=True,
        system_instruction=asked.system_instruction,
    )
    [row] = read_results(evaluate_tasks_of(config))["tasks"].values()
    in_training = [row for row in read_rows(tuned.folder / "metrics.jsonl") if "eval/mine/bits_per_byte" in row][-1]
    assert in_training["eval/mine/bits_per_byte"] == pytest.approx(row["metrics"]["bits_per_byte"]["value"], rel=1e-5)
    plain = replace(config, apply_chat_template=False, system_instruction=None, output_path=str(tmp_path / "plain"))
    [other] = read_results(evaluate_tasks_of(plain))["tasks"].values()
    assert other["prompt_hash"] != row["prompt_hash"]


def test_it_begins_with_the_weights_of_the_base_and_counts_from_0(tuned: SimpleNamespace):
    source = json.loads((tuned.folder / "initialized_from.json").read_text())
    assert source["step"] == 2 and "base" in source["path"]
    assert read_rows(tuned.folder / "metrics.jsonl")[0]["step"] == 1
    config = load_yaml(TrainLmConfig, tuned.folder / "config.yaml")
    assert config.initialize_from is not None and config.initialize_from.reinit_tokens == ("<|end|>",)


def test_the_same_call_again_finds_the_run_done(tuned: SimpleNamespace):
    before = (tuned.folder / "metrics.jsonl").read_bytes()
    config = load_yaml(TrainLmConfig, tuned.folder / "config.yaml")
    shortened = replace(config, trainer=replace(config.trainer, num_train_steps=1))
    result = train_epochs(TrainEpochsConfig(run=shortened, num_epochs=3))
    assert result.final_step == config.trainer.num_train_steps
    assert (tuned.folder / "metrics.jsonl").read_bytes() == before


def test_the_export_says_how_the_model_is_spoken_to_and_where_it_ends(tuned: SimpleNamespace):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    exported = Path(tuned.exported)
    assert (exported / "chat_template.jinja").read_text() == TINY_CHAT.template
    assert json.loads((exported / "generation_config.json").read_text())["eos_token_id"] == [256, 259]
    assert json.loads((exported / "config.json").read_text())["eos_token_id"] == 256
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    messages = [{"role": "user", "content": "a"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|user|>a<|end|><|assistant|>"
    )


def test_a_fine_tuned_run_goes_on_to_another_fine_tuning_from_its_export(tuned: SimpleNamespace, tmp_path: Path):
    """By the template that the exported tokenizer brings."""
    again = make_chat_store(
        tmp_path / "again", 10, seed=5, tokenizer=tuned.exported, chat=replace(TINY_CHAT, template=None)
    )
    assert again.chat == tuned.chat.chat
    settings = SimpleSFTConfig(model_name_or_path=tuned.exported, num_train_steps=2, **SETTINGS)
    step = default_sft("again", str(again.path), MODEL, settings)
    done = run([step], prefix=str(tmp_path / "store"))
    assert done.is_ok
    rows = read_rows(Path(done.output_path(step)) / "metrics.jsonl")
    first_of_base = read_rows(tuned.folder / "metrics.jsonl")[0]["train/loss"]
    assert rows[0]["train/loss"] < 0.8 * first_of_base  # what the first fine-tuning learned is there


def test_conversations_and_text_are_trained_on_together(tuned: SimpleNamespace, tmp_path: Path):
    text = make_token_store(tmp_path / "text", 20, tokenizer=tuned.root / "tokenizer")
    data = lm_mixture_data_config(
        {"chat": str(tuned.chat.path), "text": str(text.path)},
        {"chat": 1, "text": 1},
        packing="best_fit",
        mixture_block_size=4,
    )
    settings = SimpleSFTConfig(
        initialize_from_checkpoint_path=tuned.base, num_train_steps=2, **SETTINGS | {"train_batch_size": 4}
    )
    done = run([default_sft("mixed", data, MODEL, settings)], prefix=str(tmp_path / "store"))
    assert done.is_ok
    rows = read_rows(Path(done.steps[-1].output_path) / "metrics.jsonl")
    assert all(row["train/trained_stops"] > 0 for row in rows if "train/loss" in row)


def test_an_update_on_questions_alone_changes_no_loss_to_nan(tmp_path: Path):
    """A conversation that is cut may leave rows with nothing to train on; a batch of such is an update by nothing."""
    long_question = [{"id": "a", "messages": [
        {"role": "user", "content": "why " * 40}, {"role": "assistant", "content": "so"},
    ]}]  # fmt: skip
    store = make_chat_store(tmp_path / "chat", long_question * 4)
    data = lm_data_config(str(store.path), packing="best_fit", long_conversations="cut")
    base = default_train(
        "base", data, replace(MODEL, seq_len=32),
        SimpleTrainConfig(train_batch_size=1, num_train_steps=12, learning_rate=1e-3, train_seq_len=32),
    )  # fmt: skip
    done = run([base], prefix=str(tmp_path / "store"))
    assert done.is_ok
    rows = [row for row in read_rows(Path(done.output_path(base)) / "metrics.jsonl") if "train/loss" in row]
    nothing = [row for row in rows if row["train/trained_tokens"] == 0]
    assert nothing and all(row["train/loss"] == row["train/grad_norm"] == 0 for row in nothing)
    assert all(np.isfinite(row["train/loss"]) for row in rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_epochs": 2}, "num_train_steps is 3 and num_epochs 2: give one of them"),
        ({"num_train_steps": None}, "num_train_steps is None and num_epochs None: give one of them"),
        ({"num_train_steps": None, "num_epochs": 0.0}, "num_epochs must be above 0, got 0.0"),
        ({"model_name_or_path": "b"}, "'a' and model_name_or_path 'b': give one of them, the model to fine-tune"),
        ({"initialize_from_checkpoint_path": None}, "give one of them, the model to fine-tune"),
        ({"allow_other_tokenizer": True}, "allow_other_tokenizer is for model_name_or_path, which is not given"),
        ({"accelerator_type": "v4-8", "weight_decay": 0.1, "optimizer_config": None, "precision": "f8"}, "precision"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict, message: str):
    plain = SimpleSFTConfig(initialize_from_checkpoint_path="a", num_train_steps=3, **SETTINGS)
    with pytest.raises(ValueError, match=message):
        default_sft("x", "store", MODEL, replace(plain, **changes))


def test_epochs_of_a_weighted_mixture_are_refused():
    settings = SimpleSFTConfig(initialize_from_checkpoint_path="a", num_epochs=1, **SETTINGS)
    data = LmDataConfig(train={"a": "a", "b": "b"}, weights={"a": 1.0, "b": 2.0}, packing="best_fit")
    with pytest.raises(ValueError, match="num_epochs is 1, and the data config gives weights .*Give num_train_steps"):
        default_sft("x", data, MODEL, settings)


def test_what_a_field_decides_is_told_by_its_name(tmp_path: Path):
    settings = SimpleSFTConfig(
        initialize_from_checkpoint_path="base", num_train_steps=3, max_seq_len=64, long_conversations="drop", **SETTINGS
    )
    step = default_sft("x", "store", MODEL, settings)
    config = step.config
    assert config.data.packing == "best_fit" and config.data.long_conversations == "drop"
    assert config.trainer.train_seq_len == 64
    expected = {
        "optimizer.learning_rate": "SimpleSFTConfig.learning_rate",
        "trainer.train_seq_len": "SimpleSFTConfig.max_seq_len",
        "initialize_from": "SimpleSFTConfig.initialize_from_checkpoint_path",
        "data.long_conversations": "SimpleSFTConfig.long_conversations",
        "data": "tokenized of default_sft",
    }
    assert {place: config.origins[place] for place in expected} == expected
    assert not any("SimpleTrainConfig" in text for text in config.origins.values())
    epochs = default_sft("x", "store", MODEL, replace(settings, num_train_steps=None, num_epochs=2))
    paths = [plan([each], prefix=str(tmp_path)).items[-1].node.path for each in (step, epochs)]
    assert paths[0] != paths[1]
