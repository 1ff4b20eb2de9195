"""Comparing tokenizers: sums that are right, intervals that cover, and the same results wherever they are made."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.howto.compare_tokenizers import Compare, compare
from marin.execution.executor import run
from marin.processing.tokenize.api import compare_tokenizers as compare_step
from marin.processing.tokenize.compare import ALL, compare_tokenizers, draw_documents, resampled_sums
from marin.processing.tokenize.config import CompareTokenizersConfig, TrainBpeConfig
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.processing.tokenize.train_bpe import train_bpe
from marin.testing.tiny import tiny_documents, write_byte_tokenizer, write_documents


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two tokenizers, and documents of two sources."""
    folder = tmp_path_factory.mktemp("compare")
    write_byte_tokenizer(folder / "bytes")
    rows = tiny_documents(200)
    for row in rows[::2]:
        row["source"] = "even"
    write_documents(folder / "documents", rows, num_shards=3)
    train_bpe(TrainBpeConfig(input_path=str(folder / "documents"), output_path=str(folder / "bpe"), vocab_size=320))
    return folder


def config(folder: Path, **settings) -> CompareTokenizersConfig:
    settings = {"output_path": None, "num_resamples": 200, **settings}
    return CompareTokenizersConfig(
        tokenizers={"bytes": str(folder / "bytes"), "bpe": str(folder / "bpe")},
        inputs={"tiny text": str(folder / "documents")},
        **settings,
    )


def test_numbers_are_relative_to_the_tokenizer_that_is_named_in_whatever_order_they_are_given(folder: Path):
    of_all = [one for one in compare_tokenizers(config(folder, relative_to="bpe")).sources if one.source == ALL]
    assert [one.tokenizer for one in of_all] == ["bpe", "bytes"]
    assert of_all[0].tokens_relative.value == 1
    assert of_all[1].tokens_relative.value == pytest.approx(of_all[1].tokens / of_all[0].tokens)
    named = [compare_step("c", {name: name for name in names}, {"t": "t"}).config.relative_to for names in ("ab", "ba")]
    assert named == ["a", "b"]
    with pytest.raises(ValueError, match="relative_to is 'bpf'"):
        config(folder, relative_to="bpf")


def test_every_number_is_what_counting_gives(folder: Path):
    found = compare_tokenizers(config(folder))
    rows = tiny_documents(200)
    by_source = {"even": rows[::2], "tiny": rows[1::2], ALL: rows}
    for result in found.sources:
        tokenizer = load_tokenizer(folder / result.tokenizer)
        texts = [row["text"] for row in by_source[result.source]]
        tokens = sum(tokenizer.encode(text).size for text in texts)
        num_bytes, words = sum(len(text.encode()) for text in texts), sum(len(text.split()) for text in texts)
        assert (result.documents, result.text_bytes, result.words, result.tokens) == (
            len(texts),
            num_bytes,
            words,
            tokens,
        )
        assert result.bytes_per_token.value == pytest.approx(num_bytes / tokens)
        assert result.tokens_per_word.value == pytest.approx(tokens / words)
        for interval in (result.bytes_per_token, result.tokens_per_word, result.tokens_relative):
            assert interval.low <= interval.value <= interval.high
        assert result.round_trip_failures == 0
    of_bytes = [result for result in found.sources if result.tokenizer == "bytes"]
    assert [result.source for result in of_bytes] == ["even", "tiny", ALL]
    assert all(result.bytes_per_token.low == result.bytes_per_token.high == 1.0 for result in of_bytes)
    assert all(result.tokens_relative.low == result.tokens_relative.high == 1.0 for result in of_bytes)
    seen = set().union(*(load_tokenizer(folder / "bpe").encode(row["text"]).tolist() for row in rows))
    use = next(use for use in found.vocabularies if use.tokenizer == "bpe")
    assert use.ids_seen == len(seen) and use.share_seen == len(seen) / 319 and 1 < use.ids_for_most < len(seen)


def test_an_interval_covers_about_as_often_as_it_says():
    """Of 200 samples of documents, the interval of most holds the ratio of the population."""
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        words = rng.integers(50, 150, size=60)
        tokens = rng.poisson(1.3 * words)
        sums = resampled_sums(np.stack([tokens, words]), 200, seed=trial)
        low, high = np.quantile(sums[0] / sums[1], [0.025, 0.975])
        hits += low <= 1.3 <= high
    assert 0.88 <= hits / 200 <= 0.99


@settings(max_examples=30)
@given(st.lists(st.integers(0, 1000), min_size=2, max_size=20), st.integers(2, 150), st.integers(0, 5))
def test_all_rows_are_summed_over_the_same_documents(values: list[int], num_resamples: int, seed: int):
    row = np.array(values)
    sums = resampled_sums(np.stack([row, 3 * row, np.ones_like(row)]), num_resamples, seed=seed)
    assert sums.shape == (3, num_resamples)
    assert np.array_equal(sums[1], 3 * sums[0]) and (sums[2] == len(values)).all()
    assert ((sums[0] >= len(values) * row.min()) & (sums[0] <= len(values) * row.max())).all()


def test_which_documents_are_drawn_depends_on_the_seed_and_not_on_the_files(folder: Path, tmp_path: Path):
    def drawn(documents: Path, seed: int) -> list[list[str]]:
        settings = {"tokenizers": {"a": "a"}, "inputs": {"x": str(documents)}, "output_path": None, "max_documents": 7}
        samples, _ = draw_documents(CompareTokenizersConfig(**settings, seed=seed))
        return [[sample.texts[i] for i in range(len(sample.texts))] for sample in samples]

    rows = tiny_documents(200)
    for row in rows[::2]:
        row["source"] = "even"
    write_documents(tmp_path / "other", rows[::-1], num_shards=1)
    assert drawn(folder / "documents", 0) == drawn(tmp_path / "other", 0) != drawn(folder / "documents", 1)
    assert [len(texts) for texts in drawn(folder / "documents", 0)] == [7, 7]


def test_a_tokenizer_that_changes_the_text_is_counted_against(folder: Path, tmp_path: Path):
    lower = write_byte_tokenizer(tmp_path / "lower")
    description = json.loads((lower / "tokenizer.json").read_text())
    description["normalizer"] = {"type": "Lowercase"}
    (lower / "tokenizer.json").write_text(json.dumps(description))
    (tmp_path / "in.jsonl").write_text('{"text": "loud LOUD"}\n{"text": "quiet"}\n{broken\n')
    found = compare_tokenizers(
        CompareTokenizersConfig(
            tokenizers={"lower": str(lower)}, inputs={"in": str(tmp_path / "in.jsonl")}, output_path=None
        )
    )
    [result] = found.sources
    assert (result.source, result.round_trip_failures, found.bad_rows) == ("in", 1, {"not JSON": 1})
    assert found.speeds[0].encoder == "tokenizers"


def test_the_results_are_the_same_whenever_they_are_made_and_speed_stands_apart(folder: Path, tmp_path: Path):
    for name in ("one", "two"):
        compare_tokenizers(config(folder, output_path=str(tmp_path / name)))
    for name in ("results.json", "report.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    speeds = json.loads((tmp_path / "one" / "timing.json").read_text())["speeds"]
    assert [speed["tokenizer"] for speed in speeds] == ["bytes", "bpe"]
    assert "| even | bpe | 100 |" in (tmp_path / "one" / "report.md").read_text()


def test_what_makes_no_sense_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="max_documents is 1; an interval takes two at least"):
        config(folder, max_documents=1)
    with pytest.raises(ValueError, match="tokenizers is empty"):
        CompareTokenizersConfig(tokenizers={}, inputs={"a": "a"}, output_path=None)
    (tmp_path / "in.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(ValueError, match="no documents with text in"):
        compare_tokenizers(
            CompareTokenizersConfig(
                tokenizers={"bytes": str(folder / "bytes")}, inputs={"a": str(tmp_path / "in.jsonl")}, output_path=None
            )
        )


def test_the_experiment_runs_as_steps(tmp_path: Path, folder: Path):
    settings = Compare(vocab_sizes=(300, 400), max_documents=60, documents=str(folder / "documents"))
    step = compare(settings)
    done = run([step], prefix=tmp_path / "store")
    assert done.is_ok
    results = json.loads((Path(done.output_path(step)) / "results.json").read_text())
    assert {result["tokenizer"] for result in results["sources"]} == {"bpe_300", "bpe_400"}
