"""Training learns what there is to learn, repeats itself to the bit, and tells what became of every text."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from marin.io.records import write_records
from marin.processing.classify.config import LabelledSource, LinearModelConfig, TrainClassifierConfig
from marin.processing.classify.linear import load_classifier, text_buffers
from marin.processing.classify.train import train_classifier

COMMON = ["the", "a", "of", "in", "and", "to"]
GARDEN = ["soil", "seed", "water", "root", "leaf", "flower", "bee", "autumn", "spring", "bed", *COMMON]
HARBOUR = ["ship", "rope", "wind", "anchor", "quay", "tide", "sail", "mast", "crew", "port", *COMMON]


def sentences(words: list[str], count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(words, k=generator.randint(4, 30))) for _ in range(count)]


def write(folder: Path, texts: list) -> str:
    folder.mkdir(parents=True)
    rows = [{"id": f"{folder.name}-{index}", "text": text} for index, text in enumerate(texts)]
    write_records(folder / "documents.jsonl.gz", rows)
    return str(folder)


def config_of(tmp_path: Path, **changes: object) -> TrainClassifierConfig:
    garden, harbour = tmp_path / "garden", tmp_path / "harbour"
    if not garden.exists():
        write(garden, sentences(GARDEN, 400, 0))
        write(harbour, sentences(HARBOUR, 300, 1))
    config = TrainClassifierConfig(
        sources=(
            LabelledSource(input_path=str(garden), label="garden"),
            LabelledSource(input_path=str(harbour), label="harbour"),
        ),
        output_path=str(tmp_path / "model"),
        model=LinearModelConfig(dim=8, word_ngrams=2, min_chars=0, max_chars=0, num_buckets=500, min_count=1),
        num_epochs=10,
        learning_rate=0.5,
        seed=7,
        calibration_fraction=0.2,
        test_fraction=0.2,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def test_two_kinds_of_text_are_told_apart_and_the_report_adds_up(tmp_path: Path):
    report = train_classifier(config_of(tmp_path))
    test = report["test"]
    assert test["accuracy"] > 0.9
    assert test["accuracy_interval"][0] < test["accuracy"] <= test["accuracy_interval"][1]
    assert test["auc"] > 0.97
    assert report["training_loss"][-1] < report["training_loss"][0] / 2
    num_texts = report["num_training_texts"] + report["num_calibration_texts"] + test["num_texts"]
    assert num_texts == sum(source["num_texts"] for source in report["sources"]) == 700
    assert test["num_texts"] == sum(label["num_texts"] for label in test["labels"].values())
    assert json.loads((tmp_path / "model" / "evaluation.json").read_text())["digest"] == report["digest"]
    model = load_classifier(tmp_path / "model")
    assert model.labels == ("garden", "harbour")
    garden, harbour = model.probabilities(*text_buffers(["the bee in the flower bed", "the crew of the ship"]))
    assert garden[0] > 0.9 and harbour[1] > 0.9


def test_equal_configs_give_equal_bits_whatever_the_order_of_the_rows(tmp_path: Path):
    first = train_classifier(config_of(tmp_path))
    turned = sentences(GARDEN, 400, 0)[::-1]
    write(tmp_path / "turned", turned + turned[:5])
    config = config_of(tmp_path, output_path=str(tmp_path / "again"))
    garden = replace(config.sources[0], input_path=str(tmp_path / "turned"))
    again = train_classifier(replace(config, sources=(garden, config.sources[1])))
    assert again["digest"] == first["digest"]
    other = train_classifier(config_of(tmp_path, seed=8, output_path=str(tmp_path / "other")))
    assert other["digest"] != first["digest"]


def test_a_text_is_on_one_side_only_and_one_of_two_labels_is_left_out(tmp_path: Path):
    shared = "the same words in both"
    config = config_of(tmp_path)
    write(tmp_path / "more", [shared, "anchor rope"] * 3)
    write(tmp_path / "also", [shared])
    report = train_classifier(
        replace(
            config,
            sources=(
                *config.sources,
                LabelledSource(input_path=str(tmp_path / "more"), label="harbour"),
                LabelledSource(input_path=str(tmp_path / "also"), label="garden"),
            ),
        )
    )
    assert [source["num_texts"] for source in report["sources"]] == [400, 300, 2, 1]
    assert [source["num_with_another_label_too"] for source in report["sources"]] == [0, 0, 0, 1]
    assert report["num_training_texts"] + report["num_calibration_texts"] + report["test"]["num_texts"] == 701


def test_a_sample_of_a_source_does_not_depend_on_its_order(tmp_path: Path):
    config = config_of(tmp_path)
    sampled = replace(config.sources[0], max_documents=100)
    first = train_classifier(replace(config, sources=(sampled, config.sources[1])))
    assert first["sources"][0]["num_texts"] == 100
    write(tmp_path / "turned", sentences(GARDEN, 400, 0)[::-1])
    turned = replace(sampled, input_path=str(tmp_path / "turned"))
    again = train_classifier(replace(config, sources=(turned, config.sources[1]), output_path=str(tmp_path / "b")))
    assert again["digest"] == first["digest"]


def test_other_works_are_reported_apart_without_texts_that_were_trained_on(tmp_path: Path):
    config = config_of(tmp_path)
    write(tmp_path / "new", [*sentences(GARDEN, 50, 5), sentences(GARDEN, 1, 0)[0]])
    report = train_classifier(
        replace(config, other_works=(LabelledSource(input_path=str(tmp_path / "new"), label="garden"),))
    )
    assert report["other_works"]["num_texts"] == 50
    assert report["other_works"]["num_also_in_sources"] == 1
    assert report["other_works"]["accuracy"] > 0.9


def test_rows_that_are_no_documents_are_counted_and_too_many_refused(tmp_path: Path):
    config = config_of(tmp_path)
    write(tmp_path / "bad", [*sentences(GARDEN, 9, 3), None])
    bad = LabelledSource(input_path=str(tmp_path / "bad"), label="garden")
    with pytest.raises(ValueError, match=r"bad: 1 of 10 rows are no documents .*Mend them, or raise max_bad"):
        train_classifier(replace(config, sources=(*config.sources, bad)))
    report = train_classifier(replace(config, sources=(*config.sources, bad), max_bad=0.2))
    assert report["sources"][2]["num_bad_rows"] == {"no text": 1}
    assert report["sources"][2]["num_texts"] == 9


def test_half_precision_reports_what_the_saved_model_says(tmp_path: Path):
    config = config_of(tmp_path)
    report = train_classifier(replace(config, model=replace(config.model, dtype="float16")))
    model = load_classifier(tmp_path / "model")
    assert np.load(tmp_path / "model" / "rows.npy").dtype == np.float16
    assert np.array_equal(model.rows.astype(np.float16).astype(np.float32), model.rows)
    assert report["test"]["accuracy"] > 0.9


def test_texts_are_cut_at_whole_characters(tmp_path: Path):
    config = config_of(tmp_path, max_bytes_per_text=5, calibration_fraction=0.0)
    write(tmp_path / "accents", [f"é{letter}éé" for letter in "abcdefghij"])
    report = train_classifier(
        replace(config, sources=(config.sources[0], LabelledSource(input_path=str(tmp_path / "accents"), label="x")))
    )
    assert report["sources"][1]["num_texts"] == 10
    words = load_classifier(tmp_path / "model").vocabulary.words()
    assert {word.decode() for word in words if word.startswith("é".encode())} <= {f"é{c}é" for c in "abcdefghij"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sources": (LabelledSource(input_path="a", label="x"),)},
            r"the labels \['x'\]; a classifier needs at least two",
        ),
        ({"other_works": (LabelledSource(input_path="a", label="y"),)}, r"other_works have the labels \['y'\]"),
        ({"test_fraction": 0.9}, "their sum must be between 0 and 1"),
        ({"max_bad": 3.0}, "max_bad is 3.0"),
    ],
)
def test_a_config_that_cannot_work_is_refused(changes: dict, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        config_of(tmp_path, **changes)


def test_a_source_without_documents_is_refused(tmp_path: Path):
    write(tmp_path / "empty", [])
    config = config_of(tmp_path)
    empty = LabelledSource(input_path=str(tmp_path / "empty"), label="garden")
    with pytest.raises(ValueError, match="empty: no documents for the label 'garden'"):
        train_classifier(replace(config, sources=(empty, config.sources[1])))
