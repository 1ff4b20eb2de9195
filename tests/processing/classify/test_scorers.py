"""Scorers give every text its numbers, in the order of the texts, whatever batches they were scored in."""

from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from tiny_onnx import VOCABULARY, write_tiny_onnx

from marin.processing.classify.onnx_model import batches_by_length
from marin.processing.classify.scorers import FunctionScorer, LinearScorer, OnnxScorer, Scorer

GOLDEN = Path(__file__).parent / "golden"
EMBEDDING = np.array([[9, 9], [0, 0], [4, 1], [-2, 0], [1, 1]], np.float32)
HEAD = np.array([[1, 0], [0.5, 1]], np.float32)
TEXTS = ["good good", "bad", "fair good bad", "what", "bad " * 50, "good"]


@pytest.fixture
def tiny(tmp_path: Path) -> OnnxScorer:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install -e '.[onnx]'")
    write_tiny_onnx(tmp_path / "tiny", EMBEDDING, HEAD)
    return OnnxScorer(model=str(tmp_path / "tiny"), max_tokens=8, clip=(0.0, 3.0), batch_tokens=16)


def expected_score(text: str, max_tokens: int, output: int = 0) -> float:
    """The tiny model in numpy."""
    ids = [VOCABULARY.get(word, 1) for word in text.split()][:max_tokens]
    return float((EMBEDDING[ids].mean(axis=0) @ HEAD)[output])


def test_an_onnx_model_scores_texts_in_their_order_and_tells_which_it_cut(tiny: OnnxScorer):
    scores = tiny(TEXTS)
    assert tiny.columns == ("", "is_truncated", "rounded")
    assert scores[:, 0] == pytest.approx([expected_score(text, 8) for text in TEXTS])
    assert scores[:, 1].tolist() == [0, 0, 0, 0, 1, 0]
    assert scores[:, 2] == pytest.approx(np.rint(np.clip(scores[:, 0], 0, 3)))
    assert replace(tiny, clip=None)(TEXTS).tolist() == scores[:, :2].tolist()


def test_the_column_of_a_model_with_several_is_chosen(tiny: OnnxScorer):
    second = replace(tiny, output=1)(TEXTS)
    assert second[:, 0] == pytest.approx([expected_score(text, 8, output=1) for text in TEXTS])
    with pytest.raises(ValueError, match="gives 2 numbers a text; output 2 is none"):
        replace(tiny, output=2)(TEXTS)


def test_scores_do_not_depend_on_the_batches(tiny: OnnxScorer):
    whole = replace(tiny, batch_tokens=10_000)(TEXTS)
    alone = np.concatenate([tiny([text]) for text in TEXTS])
    assert whole == pytest.approx(alone, abs=1e-6)


def test_the_digest_of_an_onnx_model_follows_its_weights(tiny: OnnxScorer, tmp_path: Path):
    before = tiny.digest()
    assert before == tiny.digest()
    write_tiny_onnx(tmp_path / "tiny", EMBEDDING + 1, HEAD)
    assert tiny.digest() != before


def test_an_onnx_model_that_was_replaced_is_loaded_anew(tiny: OnnxScorer, tmp_path: Path):
    before = tiny(TEXTS)
    write_tiny_onnx(tmp_path / "tiny", EMBEDDING + 1, HEAD)
    assert not np.allclose(tiny(TEXTS)[:, 0], before[:, 0])


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="has no model.onnx; an ONNX scorer is a folder with model.onnx and tokenizer"):
        OnnxScorer(model=str(tmp_path), max_tokens=8).digest()


def test_a_batch_that_cannot_hold_one_text_is_refused():
    with pytest.raises(ValueError, match="max_tokens is 512 and batch_tokens 100; a batch must hold one text"):
        OnnxScorer(model="m", max_tokens=512, batch_tokens=100)


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 100))
def test_batches_hold_every_text_once_and_no_more_than_their_tokens(lengths: list[int], batch_tokens: int):
    values = np.array(lengths, np.int64)
    batches = list(batches_by_length(values, batch_tokens))
    assert sorted(np.concatenate(batches).tolist() if batches else []) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * values[batch].max() <= batch_tokens


def lengths_and_ends(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), text.endswith("d")] for text in texts])


def jax_lengths(texts: list[str]) -> object:
    jax = pytest.importorskip("jax", reason="needs jax: pip install -e '.[train]'")
    return jax.jit(lambda lengths: lengths / 2)(jax.numpy.array([len(text) for text in texts], "float32"))


def test_a_function_of_yours_is_a_scorer():
    scorer = FunctionScorer(function=f"{__name__}:lengths_and_ends", revision="1", columns=("", "ends_in_d"))
    assert scorer(TEXTS[:2]).tolist() == [[9, 1], [3, 1]]
    assert FunctionScorer(function=f"{__name__}:jax_lengths", revision="1")(["ab", "abc"]).tolist() == [[1.0], [1.5]]
    with pytest.raises(ValueError, match=r"gave \(2, 2\) for 2 texts; \(2, 1\) is due by columns"):
        replace(scorer, columns=("",))(TEXTS[:2])


def test_a_label_that_a_model_does_not_have_is_refused():
    scorer = LinearScorer(model=str(GOLDEN / "softmax.bin"), label="hq")
    with pytest.raises(ValueError, match=r"softmax\.bin: has no label 'hq'; its labels are en, de, fr, ja"):
        scorer(["text"])


SCORERS: list[tuple[str, Scorer]] = [
    ("linear", LinearScorer(model=str(GOLDEN / "binary.bin"), label="other")),
    ("function", FunctionScorer(function=f"{__name__}:jax_lengths", revision="1")),
]


@pytest.mark.parametrize("name", ["linear", "function", "onnx"])
def test_every_scorer_keeps_the_contract(name: str, request: pytest.FixtureRequest):
    scorer: Scorer = request.getfixturevalue("tiny") if name == "onnx" else dict(SCORERS)[name]
    texts = ["good bad", "", "ßtraße\n日本 😀", "good " * 3000]
    scores = scorer(texts)
    assert scores.shape == (4, len(scorer.columns))
    assert scores.dtype.kind == "f"
    assert scorer.columns[0] == ""
    assert scorer([]).shape == (0, len(scorer.columns))
    turned = scorer(texts[::-1])
    assert turned[::-1] == pytest.approx(scores, abs=1e-6, nan_ok=True)
    assert scorer(texts) == pytest.approx(scores, nan_ok=True)
    assert scorer.digest() and scorer.version >= 1
    assert hash(scorer) == hash(replace(scorer))  # type: ignore[type-var]
