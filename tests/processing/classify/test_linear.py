"""A model is the same after it was saved, and a damaged one is refused."""

from pathlib import Path

import numpy as np
import pytest

from marin.processing.classify.calibration import Calibration
from marin.processing.classify.fasttext_format import read_fasttext
from marin.processing.classify.linear import (
    LinearClassifier,
    classifier_digest,
    load_classifier,
    save_classifier,
    text_buffers,
)
from marin.processing.kernels.vocabulary import make_vocabulary

GOLDEN = Path(__file__).parent / "golden"
TEXTS = ["Das Brot", "the path", "été", "zyx", ""]


@pytest.mark.parametrize("name", ["softmax.bin", "binary.bin", "hs.bin", "quantised.ftz"])
def test_a_saved_model_says_the_same(name: str, tmp_path: Path):
    model = read_fasttext(GOLDEN / name)
    digest = save_classifier(model, tmp_path / "model")
    again = load_classifier(tmp_path / "model")
    assert digest == classifier_digest(tmp_path / "model")
    data, offsets = text_buffers(TEXTS)
    assert again.probabilities(data, offsets).tolist() == model.probabilities(data, offsets).tolist()
    assert save_classifier(again, tmp_path / "again") == digest


def test_words_that_are_no_unicode_are_saved_as_they_are(tmp_path: Path):
    vocabulary = make_vocabulary([b"\xff\xfe", b"a"], num_buckets=0)
    model = LinearClassifier(
        labels=("x", "y"),
        vocabulary=vocabulary,
        rows=np.array([[1.0], [-1.0]], np.float32),
        outputs=np.array([[1.0], [0.0]], np.float32),
        calibration=Calibration(scale=2.0, offset=0.5),
    )
    save_classifier(model, tmp_path, dtype="float16")
    again = load_classifier(tmp_path)
    assert again.vocabulary.words() == [b"\xff\xfe", b"a"]
    assert again.calibration == model.calibration
    data, offsets = text_buffers([b"\xff\xfe a a", b"nothing known"])
    assert again.logits(data, offsets)[0, 0] == pytest.approx(-1 / 3)
    assert np.isnan(again.probabilities(data, offsets)[1]).all()


@pytest.mark.parametrize("file", ["rows.npy", "outputs.npy", "words.txt"])
def test_a_damaged_file_is_named(file: str, tmp_path: Path):
    save_classifier(read_fasttext(GOLDEN / "softmax.bin"), tmp_path)
    content = bytearray((tmp_path / file).read_bytes())
    content[-3] ^= 1
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file}: .*the file is damaged; copy the model again or train it anew"):
        load_classifier(tmp_path)


def test_what_is_no_model_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="no classifier is here; expected a folder with model.json"):
        load_classifier(tmp_path)
    (tmp_path / "model.json").write_text('{"format": "other", "version": 3}')
    with pytest.raises(ValueError, match=r"format is \('other', 3\); this version reads"):
        load_classifier(tmp_path)
