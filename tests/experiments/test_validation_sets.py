"""The default validation sets plan in full, and run on local text in the form in which they are published."""

import gzip
import json
from pathlib import Path

import pytest

from marin.evaluation.api import (
    default_base_eval,
    default_eval,
    default_key_evals,
    eval_checkpoints,
    evaluate_lm_evaluation_harness,
    evaluate_validation_sets,
)
from marin.evaluation.tasks import EvalTaskConfig
from marin.execution.executor import Executor, ExecutorStep, plan
from marin.models.llama import LlamaConfig
from marin.testing.tiny import tiny_documents, write_byte_tokenizer
from marin.tracking.jsonl import read_rows
from marin.training.api import default_train
from marin.training.config import SimpleTrainConfig

MODEL = LlamaConfig(seq_len=32, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)


@pytest.fixture(scope="module")
def sets(repository: Path):
    """(experiments.datasets.paloma, .uncheatable, experiments.evals.validation)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository))
        from experiments.datasets import paloma, uncheatable
        from experiments.evals import validation

        yield paloma, uncheatable, validation


def test_the_default_sets_are_sixteen_of_paloma_and_seven_that_cannot_have_been_read(sets, tmp_path: Path):
    paloma, uncheatable, validation = sets
    steps = validation.default_validation_sets()
    assert sum(tag.startswith("paloma/") for tag in steps) == 16
    assert sum(tag.startswith("uncheatable_eval/") for tag in steps) == 7
    assert {"paloma/4chan", "paloma/wikitext_103", "uncheatable_eval/bbc_news"} <= set(steps)
    planned = {item.node.name for item in plan(list(steps.values()), prefix=str(tmp_path)).items}
    assert {"raw/paloma", "raw/uncheatable_eval", "documents/uncheatable_eval"} <= planned
    assert paloma.download.config.revision == "65cd6fc"


def test_a_run_on_local_text_in_their_form_is_followed_by_tag(sets, tmp_path: Path):
    """Two sources of Paloma and two parts of Uncheatable Eval, in training and by the step that comes after it."""
    paloma, uncheatable, _ = sets
    write_byte_tokenizer(tmp_path / "tokenizer")
    tokenizer = str(tmp_path / "tokenizer")
    for number, name in enumerate(("ptb", "c4_en")):
        path = tmp_path / "paloma" / name / "val" / "val-00000000.jsonl.gz"
        path.parent.mkdir(parents=True)
        rows = "".join(json.dumps(row) + "\n" for row in tiny_documents(6, seed=number))
        path.write_bytes(gzip.compress(rows.encode()))
    for number, part in enumerate(uncheatable.UNCHEATABLE_PARTS[:2]):
        file = tmp_path / "arrays" / f"{part}_{uncheatable.UNCHEATABLE_WINDOW}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps([row["text"] for row in tiny_documents(6, seed=10 + number)]))
    uncheatable.documents_of_text_arrays(
        uncheatable.TextArraysConfig(input_path=str(tmp_path / "arrays"), output_path=str(tmp_path / "documents"))
    )
    from marin.processing.tokenize.api import default_tokenize

    stores = paloma.paloma_tokenized(tokenizer=tokenizer, paloma_raw=str(tmp_path / "paloma"))
    tags = ("paloma/ptb", "paloma/c4_en")
    validation = {tag: stores[tag] for tag in tags}
    for part in uncheatable.UNCHEATABLE_PARTS[:2]:
        name = f"uncheatable_eval/{part}"
        validation[name] = default_tokenize(name, dataset=str(tmp_path / "documents" / part), tokenizer=tokenizer)
    trained = default_train(
        "tiny",
        validation["paloma/ptb"],
        MODEL,
        SimpleTrainConfig(
            train_batch_size=4, num_train_steps=2, learning_rate=1e-3, weight_decay=0.1, steps_per_eval=2
        ),
        validation=validation,
    )
    evaluated = evaluate_validation_sets(trained, validation, tokenizer=tokenizer)
    Executor(str(tmp_path / "store")).run([evaluated])

    [metrics] = tmp_path.glob("store/checkpoints/tiny-*/metrics.jsonl")
    last = [row for row in read_rows(metrics) if "validation/paloma/bits_per_byte" in row][-1]
    for parent in ("paloma", "uncheatable_eval"):
        names = [name for name in last if name.startswith(f"validation/{parent}/") and name.count("/") == 3]
        each = [last[name] for name in names if name.endswith("/bits_per_byte")]
        assert len(each) == 2
        assert last[f"validation/{parent}/macro_bits_per_byte"] == pytest.approx(sum(each) / 2)
    [results] = tmp_path.glob("store/evaluation/validation/tiny-*/**/results.json")
    found = json.loads(results.read_text())
    assert set(found["tasks"]) == set(validation)
    assert set(found["groups"]) == {"paloma", "uncheatable_eval"}
    # rows in training and whole documents here are nearly the same text
    for tag, entry in (found["tasks"] | found["groups"]).items():
        value = entry["metrics"]["bits_per_byte"]["value"]
        assert value == pytest.approx(last[f"validation/{tag}/bits_per_byte"], rel=0.05)


# -- steps by the names that experiments know --------------------------------------------------------------------------


def trained_step() -> ExecutorStep:
    return default_train(
        "tiny",
        ExecutorStep(name="tokenized/text", fn="package:tokenize", config=None),
        MODEL,
        SimpleTrainConfig(train_batch_size=4, num_train_steps=2, learning_rate=1e-3, weight_decay=0.1),
    )


def test_evaluations_wait_for_the_model_and_are_named_after_it():
    trained = trained_step()
    assert [step.name for step in default_base_eval(trained)] == [
        "evaluation/core/tiny",
        "evaluation/mmlu_0shot/tiny",
        "evaluation/mmlu_5shot/tiny",
        "evaluation/base_generation/tiny",
    ]
    assert len(default_base_eval(trained, run_generation_evals=False)) == 3
    assert [step.name for step in default_key_evals(trained)] == [
        "evaluation/key_generation/tiny",
        "evaluation/key_multiple_choice/tiny",
    ]
    assert eval_checkpoints(trained).name == "evaluation/checkpoints/tiny"
    harness = evaluate_lm_evaluation_harness(trained, [EvalTaskConfig("arc_easy", 0)])
    assert harness.name == "evaluation/lm_evaluation_harness/tiny"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("models/gpt2/", "gpt2"),
        (trained_step() / "checkpoints/step-00000002", "tiny/step-00000002"),
        (ExecutorStep(name="export/tiny", fn="package:export", config=None), "export/tiny"),
    ],
)
def test_a_model_may_be_a_folder_a_place_in_a_step_or_an_export(model, name: str, tmp_path: Path):
    step = default_eval(model, [EvalTaskConfig("copa", 0)])
    assert step.name == f"evaluation/tasks/{name}"
    planned = {item.node.name for item in plan([step], prefix=str(tmp_path)).items}
    assert len(planned) > 1 or isinstance(model, str)


def test_other_questions_or_another_model_are_another_evaluation(tmp_path: Path):
    tasks = [EvalTaskConfig("copa", 0)]
    steps = [
        default_eval("models/a", tasks, name="evaluation/x"),
        default_eval("models/a", tasks, name="evaluation/x", max_eval_instances=10),
        default_eval("models/a", [EvalTaskConfig("copa", 5)], name="evaluation/x"),
        default_eval("models/b", tasks, name="evaluation/x"),
    ]
    digests = {plan([step], prefix=str(tmp_path)).items[-1].node.digest for step in steps}
    assert len(digests) == len(steps)
