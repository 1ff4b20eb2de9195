"""What is written can be read again, has an error bar, and says in words no more than the numbers do."""

import json
from pathlib import Path

import numpy as np
import pytest

from marin.evaluation.kept_answers import ANSWERS_FILE, KeptAnswers
from marin.evaluation.results import (
    TaskResult,
    comparison_entry,
    format_score,
    metric_entry,
    read_results,
    read_samples,
    verdict,
    write_results,
)
from marin.evaluation.statistics import (
    compare_answers,
    compare_ratios,
    mean_estimate,
    proportion_estimate,
    ratio_estimate,
)


def some_task() -> TaskResult:
    estimate = ratio_estimate([10.0, 30.0, 22.0], [5.0, 12.0, 10.0])
    return TaskResult(
        version=1,
        n=3,
        metrics={"bits_per_byte": metric_entry(estimate, higher_is_better=False)},
        prompt_hash="0" * 64,
        notes=["a note"],
    )


def test_results_and_samples_are_read_as_they_were_written(tmp_path: Path):
    samples = [{"task": "t", "doc_id": "é", "acc": True}, {"task": "t", "doc_id": "\ud800 alone", "acc": False}]
    path = write_results(
        tmp_path / "out",
        model={"num_params": 3},
        tasks={"t": some_task()},
        samples=samples,
        generations=[{"prompt": "p"}],
    )
    for where in (path, tmp_path / "out"):
        results = read_results(where)
        assert results["format_version"] == "1.2"
        assert results["model"] == {"num_params": 3}
        assert results["num_samples"] == 2
        entry = results["tasks"]["t"]["metrics"]["bits_per_byte"]
        assert entry["value"] == pytest.approx(62 / 27)
        assert entry["stderr"] > 0 and entry["ci95"][0] < entry["value"] < entry["ci95"][1]
        assert entry["higher_is_better"] is False
        assert results["tasks"]["t"]["notes"] == ["a note"]
        assert read_samples(where) == samples
    assert sorted(p.name for p in path.parent.iterdir()) == ["results.json", "samples.jsonl"]


def test_equal_results_are_equal_bytes(tmp_path: Path):
    paths = [write_results(tmp_path / name, model={}, tasks={"t": some_task()}) for name in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_results_of_another_major_format_are_refused(tmp_path: Path):
    (tmp_path / "results.json").write_text(json.dumps({"format_version": "2.0"}))
    with pytest.raises(ValueError, match=r"format_version is 2.0, this marin reads 1.x"):
        read_results(tmp_path)


def test_numbers_that_are_none_are_never_written(tmp_path: Path):
    with pytest.raises(ValueError):
        write_results(tmp_path, model={"loss": float("nan")}, tasks={})
    assert not (tmp_path / "results.json").exists()


def test_a_text_may_hold_any_end_of_line(tmp_path: Path):
    row = {"query": "a\u2028b\u0085c\u000bd\r\ne", "n": 1}
    write_results(tmp_path, model={}, tasks={}, samples=[row, row])
    assert read_samples(tmp_path) == [row, row]


@pytest.mark.parametrize("estimate", [ratio_estimate([8.0], [2.0]), proportion_estimate([True]), mean_estimate([1.0])])
def test_one_observation_leaves_everything_but_its_value_unknown(estimate):
    entry = metric_entry(estimate, higher_is_better=True)
    assert [entry[name] for name in ("stderr", "ci95", "interval")] == [None, None, None]
    assert entry["value"] is not None and entry["n"] == 1


def test_an_exact_score_has_no_interval():
    entry = metric_entry(ratio_estimate([8.0, 16.0], [1.0, 2.0]), higher_is_better=False, exact=True)
    assert (entry["value"], entry["stderr"], entry["ci95"], entry["interval"]) == (8.0, 0.0, None, "exact")


@pytest.mark.parametrize(
    ("value", "stderr", "expected"),
    [
        (1.23456, 0.0123, "1.235 ± 0.012 (n = 61)"),
        (0.5, 0.1, "0.50 ± 0.10 (n = 61)"),
        (123.4, 17.0, "123 ± 17 (n = 61)"),
        (8.0, 0.0, "8.0000 ± 0 (n = 61)"),
        (0.25, None, "0.2500 (n = 61, too few for an error)"),
    ],
)
def test_a_score_is_shown_to_two_digits_of_its_error(value: float, stderr: float | None, expected: str):
    assert format_score(value, stderr, 61) == expected


def test_the_verdict_knows_which_way_is_better_and_when_to_say_nothing():
    num_bytes = np.ones(4)
    small, large = np.array([1.0, 1.1, 0.9, 1.0]), np.array([2.0, 2.2, 1.9, 2.1])
    less = compare_ratios(("model", small), ("ngram", large), num_bytes, "bits_per_byte")
    assert verdict(less, higher_is_better=False) == "model is better"
    assert verdict(less, higher_is_better=True) == "model is worse"
    same = compare_ratios(("model", small), ("ngram", small[::-1]), num_bytes, "bits_per_byte")
    assert verdict(same, higher_is_better=False).startswith("no difference seen (this sample could see 0.")
    alone = compare_ratios(("model", small[:1]), ("ngram", large[:1]), num_bytes[:1], "bits_per_byte")
    assert verdict(alone, higher_is_better=False) == "one observation says nothing of the difference"


def test_a_comparison_is_written_with_its_paired_error():
    a, b = np.array([True] * 8 + [False] * 4), np.array([False] * 9 + [True] * 3)
    entry = comparison_entry(compare_answers(("m", a), ("n", b), "acc"), higher_is_better=True, unit="questions")
    assert entry["difference"] == pytest.approx(8 / 12 - 3 / 12)
    expected = mean_estimate(a.astype(float) - b.astype(float))
    assert entry["stderr"] == pytest.approx(expected.stderr)
    assert entry["ci95"] == pytest.approx(expected.ci95)
    assert (entry["model"], entry["baseline"], entry["n"], entry["unit"]) == ("m", "n", 12, "questions")
    assert 0 < entry["p_value"] < 1


@pytest.mark.parametrize("damage", [b"\0" * 20 + b"\n", b'"y"\n', b"\xff\n"])
def test_damaged_kept_answers_are_asked_again(tmp_path: Path, damage: bytes):
    told: list[str] = []
    KeptAnswers(tmp_path, {"a": 1}, told.append).add({"x": 1})
    with (tmp_path / ANSWERS_FILE).open("ab") as file:
        file.write(damage)
    assert len(KeptAnswers(tmp_path, {"a": 1}, told.append)) == 0
    assert len(told) == 1 and "the file is damaged" in told[0]
    KeptAnswers(tmp_path, {"a": 1}, told.append).add({"z": 2})
    assert len(KeptAnswers(tmp_path, {"a": 1}, told.append)) == 1 and len(told) == 1
