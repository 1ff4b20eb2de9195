"""P(z) is the product that it is said to be, on the characters that it is said to be of."""

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin.evaluation.api import evaluate_memorization
from marin.evaluation.compare import compare, read_run
from marin.evaluation.config import DocumentMemorizationConfig
from marin.evaluation.memorization import (
    Windows,
    draws_needed,
    extraction_probability,
    run,
    score_documents,
    window_starts,
)
from marin.evaluation.memorization_plot import document_svg
from marin.evaluation.results import read_results, read_samples
from marin.evaluation.scoring import ScoredModel
from marin.execution.executor import ExecutorStep
from marin.export.hf import save_hf
from marin.export.verify import verify_export
from marin.io.records import read_records
from marin.models.llama import LlamaConfig
from marin.processing.tokenize.tokenizer import Tokenizer, load_tokenizer
from marin.testing.tiny import tiny_documents, write_byte_tokenizer, write_documents


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Tokens are bytes."""
    return load_tokenizer(write_byte_tokenizer(tmp_path_factory.mktemp("bytes")))


def next_letter_model(seq_len: int = 64, **changes: Any) -> ScoredModel:
    """Half its belief is that the next byte is one more than the last, the rest is spread over all 257 tokens."""

    def token_log_probs(tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return np.log(np.where(targets == tokens + 1, 0.5, 0.0) + 0.5 / 257).astype(np.float32)

    return ScoredModel(token_log_probs=token_log_probs, seq_len=seq_len, vocab_size=257, **changes)


def windows_of(tokenizer: Tokenizer, text: str, model: ScoredModel | None = None, **settings: int) -> Windows:
    chosen = {"prefix_length": 3, "suffix_length": 4, "stride": 2} | settings
    [found] = score_documents(model or next_letter_model(), tokenizer, [("d", text)], **chosen)
    return found


def test_a_window_is_the_product_of_its_suffix(tokenizer: Tokenizer):
    found = windows_of(tokenizer, "abcdefgzzzz")
    likely, unlikely = math.log(0.5 + 0.5 / 257), math.log(0.5 / 257)
    # abc|defg, cde|fgzz, efg|zzzz: one more than the last byte 4 times, twice, never
    assert found.starts.tolist() == [0, 2, 4]
    assert found.log_probabilities == pytest.approx([4 * likely, 2 * likely + 2 * unlikely, 4 * unlikely], rel=1e-6)
    assert found.suffix_characters.tolist() == [[3, 7], [5, 9], [7, 11]]


def test_only_the_window_itself_is_read(tokenizer: Tokenizer):
    seen: list[np.ndarray] = []

    def token_log_probs(tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        seen.append(np.concatenate([tokens, targets[:, -1:]], axis=1))
        return np.zeros(tokens.shape, np.float32)

    model = ScoredModel(token_log_probs=token_log_probs, seq_len=500, vocab_size=257, tokens_per_batch=12)
    text = "abcdefghijk"
    windows_of(tokenizer, text, model)
    rows = {bytes(row.astype(np.uint8)).decode() for batch in seen for row in batch}
    assert rows - {"\0" * 7} == {"abcdefg", "cdefghi", "efghijk"}
    assert {batch.shape[1] for batch in seen} == {7}, "no padding to the length that the model reads"


def test_a_bos_stands_in_front_where_training_had_one(tmp_path: Path):
    with_bos = load_tokenizer(write_byte_tokenizer(tmp_path, extra_special_tokens=("<s>",)), bos_token="<s>")
    seen: list[np.ndarray] = []

    def token_log_probs(tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        seen.append(tokens)
        return np.zeros(tokens.shape, np.float32)

    for prefix, first in (("bos", with_bos.bos_id), ("eos", ord("a"))):
        seen.clear()
        model = ScoredModel(token_log_probs=token_log_probs, seq_len=9, vocab_size=258, document_prefix=prefix)
        windows_of(with_bos, "abcdefg", model)
        assert seen[0][0, 0] == first


@given(st.text(min_size=0, max_size=30), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_suffixes_are_of_whole_characters_and_cover_the_text(
    tokenizer: Tokenizer, text: str, prefix: int, suffix: int, stride: int
):
    data = text.encode("utf-8")
    found = windows_of(tokenizer, text, prefix_length=prefix, suffix_length=suffix, stride=stride)
    assert found.num_characters == len(text) and found.num_tokens == len(data)
    for start, (begin, end) in zip(found.starts, found.suffix_characters, strict=True):
        inside = data[start + prefix : start + prefix + suffix].decode("utf-8", "ignore")
        assert 0 <= begin <= end <= len(text)
        assert text[begin:end] in inside or not inside
        assert len(text[begin:end].encode()) <= suffix
    if len(found.starts):
        assert found.starts[-1] + prefix + suffix == len(data)
        assert np.all(np.diff(found.starts) <= stride)


def test_characters_of_several_bytes_count_where_they_lie_wholly(tokenizer: Tokenizer):
    # a é é b: bytes 0 | 1 2 | 3 4 | 5; the suffixes are bytes 2..4 and 3..5
    found = windows_of(tokenizer, "aééb", prefix_length=2, suffix_length=3, stride=1)
    assert found.suffix_characters.tolist() == [[2, 3], [2, 4]]


def test_the_last_window_ends_with_the_document():
    assert window_starts(10, 4, 4).tolist() == [0, 4, 6]
    assert window_starts(4, 4, 9).tolist() == [0]
    assert window_starts(3, 4, 1).tolist() == []
    with pytest.raises(ValueError, match="stride 0"):
        window_starts(9, 4, 0)


def test_characters_count_once_however_many_windows_cover_them(tokenizer: Tokenizer):
    found = windows_of(tokenizer, "abcdefghizz", stride=1)
    best = found.best_by_character()
    assert np.isneginf(best[:3]).all(), "what was only shown was not extracted"
    likely = 4 * math.log(0.5 + 0.5 / 257)
    assert best[3:9] == pytest.approx([likely] * 6, rel=1e-6)
    assert found.characters_over(0.05) == pytest.approx(6 / 11)
    assert found.share_over(0.05) == pytest.approx(3 / 5)


@given(st.floats(1e-6, 1 - 1e-6), st.integers(1, 1000))
def test_draws_give_a_text_with_one_minus_the_chance_that_none_does(p: float, n: int):
    assert extraction_probability(math.log(p), n) == pytest.approx(1 - (1 - p) ** n, rel=1e-6, abs=1e-12)


@given(st.floats(1e-5, 0.999), st.floats(0.01, 0.99))
def test_the_draws_needed_are_the_fewest(p: float, wanted: float):
    n = int(draws_needed(math.log(p), wanted))
    assert extraction_probability(math.log(p), n) >= wanted * (1 - 1e-9)
    assert n == 1 or extraction_probability(math.log(p), n - 1) < wanted


def test_what_is_certain_takes_one_draw_and_what_is_beyond_hope_takes_for_ever():
    assert draws_needed(np.array([0.0, -np.inf, math.log(0.5)]), 0.5).tolist() == [1.0, math.inf, 1.0]
    assert extraction_probability(-100.0, 10) == pytest.approx(10 * math.exp(-100))
    with pytest.raises(ValueError, match="probability is 1"):
        draws_needed(-1.0, 1)
    with pytest.raises(ValueError, match="num_draws is 0"):
        extraction_probability(-1.0, 0)


def test_windows_that_the_model_cannot_read_are_refused(tokenizer: Tokenizer):
    with pytest.raises(ValueError, match=r"3 \+ 4 tokens takes 6 and the model reads 5"):
        windows_of(tokenizer, "abcdefgh", next_letter_model(seq_len=5))


def test_a_model_that_gives_no_number_is_refused(tokenizer: Tokenizer):
    model = ScoredModel(
        token_log_probs=lambda tokens, targets: np.full(tokens.shape, np.nan), seq_len=64, vocab_size=257
    )
    with pytest.raises(ValueError, match="log-probability nan; expected a finite number"):
        windows_of(tokenizer, "abcdefghijk", model)


def test_a_text_that_its_tokens_do_not_give_back_is_refused(tmp_path: Path):
    folder = write_byte_tokenizer(tmp_path)
    description = json.loads((folder / "tokenizer.json").read_text())
    description["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="document 'd': the tokenizer does not give the text back"):
        windows_of(load_tokenizer(folder), "Abcdefgh")


def test_the_figure_is_well_formed_and_shows_where(tokenizer: Tokenizer):
    found = windows_of(tokenizer, "abcdefghizzzzzzzzzzz", stride=1)
    text = document_svg('a <b> & "c"', found.best_by_character(), found.log_probabilities)
    root = ElementTree.fromstring(text)
    assert 'a <b> & "c"' in [each.text for each in root]
    paths = [each.get("d") or "" for each in root if each.get("fill") == "#1f6f8b"]
    assert paths[0].count("M") == 6, "six characters lie in a suffix over 0.001"
    assert text == document_svg('a <b> & "c"', found.best_by_character(), found.log_probabilities)


MODEL = LlamaConfig(seq_len=32, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("line")
    byte_tokenizer = write_byte_tokenizer(root / "tokenizer")
    short = {"id": "short", "text": "tiny", "source": "t", "metadata": {}}
    write_documents(root / "documents", [*tiny_documents(5, seed=3, num_words=30), short])
    params = MODEL.init(257, key=jax.random.key(0))
    save_hf(MODEL, params, 257, byte_tokenizer, root / "model")
    verify_export(root / "model", config=MODEL, params=params, vocab_size=257, tokenizer_path=byte_tokenizer)
    return root


def config_of(root: Path, output: Path, **changes: Any) -> DocumentMemorizationConfig:
    step = evaluate_memorization(
        "p",
        ExecutorStep(name="m", fn="marin.nowhere:run", config=None),
        ExecutorStep(name="d", fn="marin.nowhere:run", config=None),
        **({"prefix_length": 8, "suffix_length": 4, "stride": 8, "num_draws": (1, 100)} | changes),
    )
    paths = {"model_path": str(root / "model"), "documents_path": str(root / "documents"), "output_path": str(output)}
    return DocumentMemorizationConfig(**(vars(step.config) | paths))


def test_the_step_leaves_scores_a_table_windows_and_plots(folders: Path, tmp_path: Path):
    path = run(config_of(folders, tmp_path / "out"))
    out = path.parent
    task, rows = read_results(out)["tasks"]["memorization"], read_samples(out)
    assert task["n"] == len(rows) and task["counts"]["num_too_short"] >= 1
    assert "short" not in {row["doc_id"] for row in rows}
    windows = list(read_records(out / "windows.jsonl.gz"))
    assert len(windows) == task["counts"]["num_windows"] == sum(row["num_windows"] for row in rows)
    for row in rows:
        logs = [each["log_probability"] for each in windows if each["doc_id"] == row["doc_id"]]
        assert row["max_log_probability"] == max(logs)
        assert row["mean_probability"] == pytest.approx(np.mean(np.exp(logs)))
        # nothing was learned: about one in 257 for each of four bytes
        assert row["max_log_probability"] == pytest.approx(-4 * math.log(257), rel=0.1)
        assert ElementTree.parse(out / row["plot"]).getroot().tag.endswith("svg")
        assert row["discoverable_100_0.5"] == 0 and row["characters_over_0.5"] == 0
    page = (out / "memorization.md").read_text()
    assert page.count("\n| [") == len(rows) and "plots/00000.svg" in page
    found = compare([read_run(out, "a")], [read_run(out, "b")])
    assert not found.refused and all("the same" in metric.verdict for metric in found.metrics)
    assert found.tasks[0].not_compared == {}


def test_what_cannot_be_measured_is_refused_with_the_reason(folders: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"1000 \+ 4 tokens takes 1003 and the model reads 32"):
        run(config_of(folders, tmp_path / "a", prefix_length=1000, suffix_length=4))
    empty = tmp_path / "empty"
    empty.mkdir()
    config = vars(config_of(folders, tmp_path / "b")) | {"documents_path": str(empty)}
    with pytest.raises(FileNotFoundError, match="no documents in"):
        run(DocumentMemorizationConfig(**config))
    write_documents(empty, [{"id": "x", "text": "hi", "source": "t", "metadata": {}}], num_shards=1)
    with pytest.raises(ValueError, match="none of the 1 documents .* has the 12 tokens of a window"):
        run(DocumentMemorizationConfig(**config))
    write_documents(empty, [{"id": "x", "text": "hi", "source": "t", "metadata": {}}] * 2, num_shards=1)
    with pytest.raises(ValueError, match="1 documents have the id of another"):
        run(DocumentMemorizationConfig(**config))


@pytest.mark.parametrize(
    "changes",
    [{"stride": 0}, {"prefix_length": 0}, {"thresholds": (0.0,)}, {"thresholds": ()}, {"num_draws": (0,)}]
    + [{"discovery_probability": 1.0}, {"max_documents": 0}],
)
def test_a_senseless_config_is_refused(tmp_path: Path, changes: dict):
    with pytest.raises(ValueError, match=next(iter(changes))):
        config_of(tmp_path, tmp_path, **changes)
