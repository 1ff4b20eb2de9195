"""Published fastText models say here what they say there."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from marin.processing.classify.fasttext_format import read_fasttext, write_fasttext
from marin.processing.classify.linear import LinearClassifier, label_tree, load_classifier, text_buffers
from marin.processing.kernels.ngram_features_reference import feature_rows

GOLDEN = Path(__file__).parent / "golden"
TEXTS = json.loads((GOLDEN / "texts.json").read_text(encoding="utf-8"))
PREDICTIONS = json.loads((GOLDEN / "predictions.json").read_text(encoding="utf-8"))
GUARD = 1e-5  # fastText adds it to a probability before it takes the logarithm


def as_fasttext_prints(model: LinearClassifier, texts: list[str]) -> np.ndarray:
    """Our probabilities, with the guards that fastText's have."""
    data, offsets = text_buffers(texts)
    if model.loss != "hs":
        return model.probabilities(data, offsets) + GUARD
    turns = 1 / (1 + np.exp(-model.logits(data, offsets)))
    columns = []
    for way in label_tree(model.label_counts):
        factors = [(turns[:, node] if is_right else 1 - turns[:, node]) + GUARD for node, is_right in way]
        columns.append(np.prod(factors, axis=0))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("name", sorted(PREDICTIONS))
def test_a_model_says_what_fasttext_says_of_it(name: str):
    model = read_fasttext(GOLDEN / name)
    printed = as_fasttext_prints(model, TEXTS)
    num_compared = 0
    for text, ours, theirs in zip(TEXTS, printed, PREDICTIONS[name], strict=True):
        for label, value in theirs.items():
            # printed with six digits, and summed in float32
            assert ours[model.labels.index(label)] == pytest.approx(value, rel=2e-5), (text, label)
            num_compared += 1
    assert num_compared >= 2 * len(TEXTS)
    assert not np.isnan(printed).any()


@pytest.mark.parametrize("name", ["softmax.bin", "ova.bin", "hs.bin", "binary.bin"])
def test_a_model_that_is_written_and_read_again_is_the_same(name: str, tmp_path: Path):
    model = read_fasttext(GOLDEN / name)
    write_fasttext(model, tmp_path / "again.bin")
    again = read_fasttext(tmp_path / "again.bin")
    assert again.labels == model.labels and again.label_counts == model.label_counts and again.loss == model.loss
    assert again.rows.tobytes() == model.rows.tobytes() and again.outputs.tobytes() == model.outputs.tobytes()
    data, offsets = text_buffers(TEXTS)
    assert again.probabilities(data, offsets).tolist() == model.probabilities(data, offsets).tolist()


def test_a_pruned_model_is_not_written(tmp_path: Path):
    with pytest.raises(ValueError, match="a pruned model cannot be written as .bin"):
        write_fasttext(read_fasttext(GOLDEN / "quantised.ftz"), tmp_path / "a.bin")


def test_probabilities_of_a_tree_of_labels_add_up():
    model = read_fasttext(GOLDEN / "hs.bin")
    data, offsets = text_buffers(TEXTS)
    assert model.probabilities(data, offsets).sum(axis=1) == pytest.approx(np.ones(len(TEXTS)))
    assert sum(2.0 ** -len(way) for way in label_tree([9, 5, 3, 3, 1])) == 1  # a full binary tree


def test_a_file_that_is_cut_off_is_refused_wherever_it_ends(tmp_path: Path):
    for name in ("softmax.bin", "quantised.ftz"):
        whole = (GOLDEN / name).read_bytes()
        for length in [0, 7, 40, 90, 200, 1500, len(whole) // 2, len(whole) - 1]:
            (tmp_path / "cut.bin").write_bytes(whole[:length])
            with pytest.raises(ValueError, match=r"cut\.bin: ends in .* bytes are due at .*; download it again"):
                read_fasttext(tmp_path / "cut.bin")


def test_files_that_are_no_classifiers_are_refused(tmp_path: Path):
    (tmp_path / "page.bin").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="a fastText model begins with 793712314, version 11 or 12"):
        load_classifier(tmp_path / "page.bin")
    vectors = bytearray((GOLDEN / "softmax.bin").read_bytes())
    vectors[8 + 7 * 4] = 2  # the kind of model: word vectors
    (tmp_path / "vectors.bin").write_bytes(vectors)
    with pytest.raises(ValueError, match="is a model of kind 'skipgram'.*fasttext supervised"):
        load_classifier(tmp_path / "vectors.bin")


def test_a_file_of_version_11_has_no_character_ngrams(tmp_path: Path):
    old = bytearray((GOLDEN / "ova.bin").read_bytes())
    assert read_fasttext(GOLDEN / "ova.bin").vocabulary.max_chars == 4
    old[4] = 11
    (tmp_path / "old.bin").write_bytes(old)
    assert read_fasttext(tmp_path / "old.bin").vocabulary.max_chars == 0


def test_two_labels_are_summed_to_one_number_a_feature_with_the_same_decisions():
    model = read_fasttext(GOLDEN / "binary.bin")
    data, offsets = text_buffers(TEXTS)
    logits = model.logits(data, offsets)
    assert logits.shape == (len(TEXTS), 1)
    assert model._summed[0].shape == (model.vocabulary.num_rows, 1)
    for text, log_odds in zip(TEXTS, logits[:, 0], strict=True):
        hidden = model.rows[feature_rows(text.encode(), model.vocabulary)].mean(axis=0)
        first, second = model.outputs @ hidden
        assert (log_odds > 0) == (first > second)
        assert 1 / (1 + math.exp(-log_odds)) == pytest.approx(1 / (1 + math.exp(second - first)), rel=1e-4)
