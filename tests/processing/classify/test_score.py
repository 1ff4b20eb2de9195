"""Scores and languages are written beside the documents, row by row, and null where there is none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from marin.processing.classify.language import IdentifyLanguage, identify
from marin.processing.classify.linear import classifier_digest, load_classifier, save_classifier, text_buffers
from marin.processing.classify.score import ScoreBatch
from marin.processing.classify.scorers import FunctionScorer, LinearScorer
from marin.processing.kernels.vocabulary import make_vocabulary

GOLDEN = Path(__file__).parent / "golden"
LANGUAGES = str(GOLDEN / "softmax.bin")


def documents(texts: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"id": [f"d{index}" for index in range(len(texts))], "text": texts})


def halves(texts: list[str]) -> np.ndarray:
    return np.array([len(text) / 2 for text in texts])


def test_a_score_is_the_probability_of_the_label():
    scorer = LinearScorer(model=LANGUAGES, label="de")
    texts = ["Das Brot muss ruhen", "the path", "é"]
    scored = ScoreBatch(name="german", scorer=scorer, digest=scorer.digest())(documents(texts))
    assert scored.schema.names == ["id", "quality.german"]
    assert scored.column("id").to_pylist() == ["d0", "d1", "d2"]
    model = load_classifier(LANGUAGES)
    expected = model.probabilities(*text_buffers(texts))[:, model.labels.index("de")]
    assert scored.column("quality.german").to_pylist() == pytest.approx(expected.tolist(), rel=1e-6)
    sliced = ScoreBatch(name="german", scorer=scorer, digest=scorer.digest())(documents(texts).slice(1))
    assert sliced.column("quality.german").to_pylist() == scored.column("quality.german").to_pylist()[1:]


def test_a_document_without_any_feature_has_no_score_and_no_language(tmp_path: Path):
    model = load_classifier(LANGUAGES)
    few_words = make_vocabulary([b"Brot"], num_buckets=0)
    save_classifier(replace(model, vocabulary=few_words, rows=model.rows[:1]), tmp_path)
    scorer = LinearScorer(model=str(tmp_path), label="de")
    scored = ScoreBatch(name="x", scorer=scorer, digest=scorer.digest())(documents(["Brot", "zyx", ""]))
    assert scored.column("quality.x").null_count == 2
    languages, scores = identify(str(tmp_path), *text_buffers(["Brot", "zyx", ""]))
    assert languages[1:] == ["und", "und"] and languages[0] in model.labels
    assert scores[1:].tolist() == [0.0, 0.0] and scores[0] > 0.25


def test_other_numbers_of_a_scorer_stand_behind_its_name():
    scorer = FunctionScorer(function=f"{__name__}:halves", revision="3", columns=("",))
    scored = ScoreBatch(name="len", scorer=scorer, digest="3")(documents(["ab", "abc"]))
    assert scored.column("quality.len").to_pylist() == [1.0, 1.5]
    two = FunctionScorer(function=f"{__name__}:pairs", revision="3", columns=("", "twice"))
    assert ScoreBatch(name="len", scorer=two, digest="3")(documents(["ab"])).schema.names == [
        *("id", "quality.len", "quality.len.twice"),
    ]


def pairs(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), 2 * len(text)] for text in texts])


def test_a_model_that_changed_since_the_work_was_planned_is_refused(tmp_path: Path):
    save_classifier(load_classifier(LANGUAGES), tmp_path)
    scorer = LinearScorer(model=str(tmp_path), label="de")
    with pytest.raises(ValueError, match="the model has changed meanwhile: run the step again"):
        ScoreBatch(name="x", scorer=scorer, digest="0" * 64)(documents(["a"]))


def test_a_model_that_was_replaced_is_loaded_anew(tmp_path: Path):
    model = load_classifier(LANGUAGES)
    texts = ["Das Brot muss ruhen", "the path"]
    given = {"name": "x", "scorer": LinearScorer(model=str(tmp_path), label="de")}
    found = []
    for rows in (model.rows, -model.rows):
        save_classifier(replace(model, rows=rows), tmp_path)
        digest = given["scorer"].digest()
        found.append(ScoreBatch(**given, digest=digest)(documents(texts)).column("quality.x").to_pylist())
        expected = load_classifier(tmp_path).probabilities(*text_buffers(texts))[:, model.labels.index("de")]
        assert found[-1] == pytest.approx(expected.tolist(), rel=1e-6)
        languages = IdentifyLanguage(model=str(tmp_path), digest=digest)(documents(texts))
        assert languages.column("language").to_pylist() == identify(str(tmp_path), *text_buffers(texts))[0]
    assert found[0] != found[1]
    save_classifier(model, tmp_path)
    for operation in (ScoreBatch(**given, digest=digest), IdentifyLanguage(model=str(tmp_path), digest=digest)):
        with pytest.raises(ValueError, match="the model has changed meanwhile"):
            operation(documents(texts))


def test_the_language_of_each_document_is_its_likeliest_with_its_probability():
    operation = IdentifyLanguage(model=LANGUAGES, digest=classifier_digest(LANGUAGES))
    found = operation(documents(["the library is open", "Das Brot muss", "川に 沿って"]))
    assert found.schema.names == ["id", "language", "language_score"]
    assert found.column("language").to_pylist() == ["en", "de", "ja"]
    assert all(0.5 < score <= 1 for score in found.column("language_score").to_pylist())
