"""What has been seen goes, line by line and document by document, in one order."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from document_folders import read_rows
from marin.processing.dedup.config import BloomConfig, DedupConfig
from marin.processing.dedup.run import dedup
from marin.processing.paragraphs import lines, paragraph_offsets, without_spans

Documents = Callable[..., Path]


def run(folder: Path, output: Path, method: BloomConfig, **changed: Any) -> list[dict]:
    """The rows left by bloom deduplication."""
    settings: dict[str, Any] = {"max_removed_per_source": 1.0, "num_workers": 0} | changed
    dedup(DedupConfig(input_path=str(folder), output_path=str(output), method=method, **settings))
    return read_rows(output / "documents")


def line(rng: random.Random, num_words: int = 20) -> str:
    return " ".join("".join(rng.choices("abcdefghij", k=6)) for _ in range(num_words))


@pytest.mark.parametrize("ngram", [13, None])
def test_seen_lines_are_cut_and_seen_documents_dropped(documents: Documents, tmp_path: Path, ngram):
    rng = random.Random(0)
    one, two, three, four = (line(rng) for _ in range(4))
    folder = documents(
        [{"id": "a", "text": f"{one}\n{two}"}, {"id": "b", "text": f"{three}\n{one}\n{four}"}],
        [
            {"id": "c", "text": f"{two}\n{one}\n"},
            {"id": "d", "text": f"{one}\nshort line"},
            {"id": "e", "text": "short"},
        ],
    )
    left = run(folder, tmp_path / "out", BloomConfig(ngram=ngram, num_units=1000, false_positive_rate=1e-6))
    assert [(row["id"], row["text"]) for row in left] == [
        ("a", f"{one}\n{two}"),
        ("b", f"{three}\n{four}"),
        ("e", "short"),
    ]
    attributes = {row["id"]: row for row in read_rows(tmp_path / "out" / "attributes")}
    assert attributes["c"]["dedup.contained"] == attributes["d"]["dedup.contained"] == 1
    assert attributes["b"]["dedup.contained"] == pytest.approx(1 / 3)


def test_without_a_size_the_units_are_counted_first(documents: Documents, tmp_path: Path):
    rng = random.Random(1)
    folder = documents([{"id": str(i), "text": line(rng, 113)} for i in range(200)])
    left = run(folder, tmp_path / "out", BloomConfig())
    details = json.loads((tmp_path / "out" / "report.json").read_text())["details"]
    assert details["num_units"] == 200 * 101
    assert details["false_positive_rate_at_end"] == pytest.approx(0.01, rel=0.15)
    assert len(left) == 200


def test_a_run_on_a_saved_filter_goes_on_where_it_ended(documents: Documents, tmp_path: Path):
    rng = random.Random(2)
    texts = [line(rng) for _ in range(8)]
    rows = [{"id": str(i), "text": "\n".join(rng.sample(texts, 2))} for i in range(12)]
    method = BloomConfig(num_units=10_000)
    together = run(documents(rows[:5], rows[5:]), tmp_path / "all", method)
    parts = run(documents(rows[:5]), tmp_path / "one", method)
    parts += run(documents(rows[5:]), tmp_path / "two", method, index_path=str(tmp_path / "one" / "index"))
    assert parts == together
    with pytest.raises(ValueError, match="ngram: 13 there, 5 here"):
        other = BloomConfig(num_units=10_000, ngram=5)
        run(documents(rows[5:]), tmp_path / "three", other, index_path=str(tmp_path / "one" / "index"))


def test_a_priority_is_refused(documents: Documents, tmp_path: Path):
    with pytest.raises(ValueError, match="knows no priority"):
        run(documents([{"id": "a", "text": "one"}]), tmp_path / "out", BloomConfig(), priority=("web",))


TEXTS = st.lists(st.text(alphabet="a\n \té", max_size=12), min_size=1, max_size=4)


def buffer(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    parts = [text.encode("utf-8") for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return np.frombuffer(b"".join(parts), np.uint8), offsets


@given(TEXTS)
def test_lines_are_those_between_newlines(texts: list[str]):
    data, offsets = buffer(texts)
    starts, ends, line_offsets = lines(data, offsets)
    for i, text in enumerate(texts):
        here = slice(line_offsets[i], line_offsets[i + 1])
        found = [data[a:b].tobytes().decode() for a, b in zip(starts[here], ends[here], strict=True)]
        assert found == text.split("\n")


@given(TEXTS)
def test_paragraphs_end_behind_their_empty_lines_and_hold_every_byte(texts: list[str]):
    data, offsets = buffer(texts)
    bounds = paragraph_offsets(data, offsets)
    assert set(offsets.tolist()) <= set(bounds.tolist())
    for text, first, end in zip(texts, offsets, offsets[1:], strict=False):
        inside = bounds[(bounds >= first) & (bounds <= end)]
        parts = [data[a:b].tobytes().decode() for a, b in zip(inside, inside[1:], strict=False)]
        assert "".join(parts) == text
        for part, following in zip(parts, parts[1:], strict=False):
            assert part.endswith("\n\n")
            assert not following.startswith("\n")
        assert all("\n\n" not in part.strip("\n") for part in parts)


@given(st.binary(max_size=20), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=4))
def test_what_is_in_no_span_is_left_in_order(data: bytes, pairs: list[tuple[int, int]]):
    spans = [(min(pair), min(max(pair), len(data))) for pair in pairs if min(pair) < len(data)]
    expected = bytes(byte for i, byte in enumerate(data) if not any(a <= i < b for a, b in spans))
    assert without_spans(data, spans) == expected
