"""Near-duplicates go, each for a document that stays and that it resembles; nothing goes for a common form."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from document_folders import read_rows, write_shards
from marin.processing.dedup import minhash
from marin.processing.dedup.config import DedupConfig, MinHashConfig
from marin.processing.dedup.report import TooMuchRemovedError
from marin.processing.dedup.run import dedup

Documents = Callable[..., Path]
WORDS = [f"{a}{b}" for a in ("barn", "cart", "dome", "fern", "glow", "hint") for b in ("er", "ing", "ed", "ly", "ful")]


def run(folder: Path, output: Path, **changed: Any) -> list[dict]:
    """The rows left by MinHash deduplication."""
    settings: dict[str, Any] = {"method": MinHashConfig(), "max_removed_per_source": 1.0, "num_workers": 0} | changed
    dedup(DedupConfig(input_path=str(folder), output_path=str(output), **settings))
    return read_rows(output / "documents")


def prose(rng: random.Random, num_words: int = 120) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(num_words))


def edited(text: str, rng: random.Random, num_changes: int) -> str:
    words = text.split(" ")
    for place in rng.sample(range(len(words)), num_changes):
        words[place] = "changed"
    return " ".join(words)


@pytest.mark.parametrize("verify", ["signature", "jaccard", "containment"])
def test_a_document_with_few_changes_goes_for_the_first_of_its_kind(documents: Documents, tmp_path: Path, verify):
    rng = random.Random(1)
    text = prose(rng)
    folder = documents(
        [{"id": "a", "text": text}, {"id": "b", "text": prose(rng)}],
        [{"id": "c", "text": edited(text, rng, 2)}, {"id": "d", "text": text.upper().replace(" ", ", ")}],
    )
    assert [row["id"] for row in run(folder, tmp_path / "out", method=MinHashConfig(verify=verify))] == ["a", "b"]
    attributes = {row["id"]: row for row in read_rows(tmp_path / "out" / "attributes")}
    assert attributes["c"]["dedup.duplicate_of"] == attributes["d"]["dedup.duplicate_of"] == "a"
    assert attributes["d"]["dedup.similarity"] == 1.0
    assert 0.7 <= attributes["c"]["dedup.similarity"] < 1.0
    assert attributes["a"]["dedup.cluster_size"] == 3


def test_a_document_shorter_than_a_shingle_is_never_removed(documents: Documents, tmp_path: Path):
    folder = documents([{"id": str(i), "text": "four words, no more"} for i in range(3)] + [{"id": "e", "text": ""}])
    assert len(run(folder, tmp_path / "out")) == 4
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["details"]["documents_too_short"] == 4


def test_who_is_like_one_that_is_like_another_is_not_removed_for_that(documents: Documents, tmp_path: Path):
    rng = random.Random(3)
    words = prose(rng, 260).split(" ")
    # each shares 0.78 of its shingles with its neighbours, and less with the others
    chain = [{"id": str(i), "text": " ".join(words[30 * i : 30 * i + 200])} for i in range(3)]
    method = MinHashConfig(num_bands=60, rows_per_band=3, verify="jaccard", min_similarity=0.7)
    left = run(documents(chain), tmp_path / "out", method=method)
    assert [row["id"] for row in left] == ["0", "2"]


def function_calls(count: int) -> list[dict]:
    """Documents of one form, like a data set of function calls: one schema, another question and call in each."""
    rng = random.Random(7)
    schema = (
        "You are an assistant with access to functions. Answer with a call in JSON and nothing else. The functions are "
        "listed below with their arguments, and each argument has a type and a description of what it stands for. "
    )
    return [
        {
            "id": f"call-{i}",
            "source": "massive_function_calling",
            "text": f"{schema}Question: {prose(rng, 30)}? Call: {prose(rng, 30)}.",
        }
        for i in range(count)
    ]


def test_documents_that_share_a_form_are_not_duplicates(documents: Documents, tmp_path: Path):
    calls = function_calls(300)
    assert len(run(documents(calls), tmp_path / "out", max_removed_per_source=0.01)) == 300


def test_a_method_that_takes_a_form_for_the_text_is_refused(documents: Documents, tmp_path: Path):
    # five characters and no threshold to speak of: what once left 2 documents of 859,092
    method = MinHashConfig(unit="character", ngram=5, min_similarity=0.2, rows_per_band=2, num_bands=50)
    other = [{"id": f"web-{i}", "text": f"{i}" * 50, "source": "web"} for i in range(150)]
    folder = documents(function_calls(300), other)
    with pytest.raises(TooMuchRemovedError) as refused:
        run(folder, tmp_path / "out", method=method, max_removed_per_source=0.8)
    message = str(refused.value)
    assert "source 'massive_function_calling' would keep 1 of 300 documents: 299 removed, 99.7%" in message
    assert "the limit is 80.0%" in message
    assert "max_removed_of={'massive_function_calling': 1.00}" in message
    assert "'web'" not in message
    assert not (tmp_path / "out" / "documents").exists()
    assert len(read_rows(tmp_path / "out" / "attributes")) == 300 + 150
    assert json.loads((tmp_path / "out" / "report.json").read_text())["sources"]["massive_function_calling"] == {
        "documents": 300,
        "removed": 299,
        "share_removed": round(299 / 300, 6),
        "spans": 0,
        "span_bytes": 0,
    }
    allowed = {"massive_function_calling": 1.0}
    left = run(folder, tmp_path / "again", method=method, max_removed_per_source=0.8, max_removed_of=allowed)
    assert len(left) == 1 + 150


@st.composite
def families(draw: st.DrawFn) -> list[dict]:
    """Documents of which some are edited copies of others, more or less alike, in any order."""
    rng = random.Random(draw(st.integers(0, 10_000)))
    originals = [prose(rng, 60) for _ in range(draw(st.integers(1, 4)))]
    rows = []
    for i in range(draw(st.integers(2, 14))):
        original = rng.choice(originals)
        rows.append({"id": str(i), "text": edited(original, rng, rng.choice([0, 1, 1, 2, 3, 5])), "source": "web"})
    return rows


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=families(), cuts=st.lists(st.integers(0, 14), max_size=3), verify=st.sampled_from(["signature", "jaccard"]))
def test_a_run_on_an_index_leaves_what_one_run_over_all_leaves(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict], cuts: list[int], verify
):
    folder = tmp_path_factory.mktemp("incremental")
    bounds = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    batches = [rows[first:end] for first, end in zip(bounds, bounds[1:], strict=False)]
    # few leaders, so that some buckets are full
    method = MinHashConfig(num_bands=20, rows_per_band=4, max_leaders=2, verify=verify)
    together = run(write_shards(folder / "all-in", batches), folder / "all", method=method)
    parts, index = [], None
    for number, batch in enumerate(batches):
        output = folder / f"out-{number}"
        parts += run(write_shards(folder / f"in-{number}", [batch]), output, method=method, index_path=index)
        index = str(output / "index")
    assert parts == together


def test_the_result_does_not_depend_on_how_buckets_are_cut_or_hashes_divided(
    documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rng = random.Random(11)
    originals = [prose(rng, 60) for _ in range(5)]
    rows = [{"id": str(i), "text": edited(rng.choice(originals), rng, rng.choice([0, 1, 3, 6]))} for i in range(150)]
    folder = documents(rows[:70], rows[70:])
    method = MinHashConfig(num_bands=20, rows_per_band=4, max_leaders=4)
    whole = run(folder, tmp_path / "whole", method=method)
    monkeypatch.setitem(minhash._ENTRIES_AT_ONCE, "signature", 7)
    ranges = minhash.hash_ranges
    monkeypatch.setattr(minhash, "hash_ranges", lambda count: ranges(count, records_a_range=100))
    assert run(folder, tmp_path / "cut", method=method) == whole
    names = [
        str(path.relative_to(tmp_path / "whole")) for path in sorted((tmp_path / "whole" / "attributes").iterdir())
    ]
    for name in names:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(whole) < 150


def test_a_source_of_higher_priority_keeps_its_document(documents: Documents, tmp_path: Path):
    rng = random.Random(2)
    text = prose(rng)
    rows = [{"id": s, "text": edited(text, rng, 1), "source": s} for s in ("web", "forum", "books")]
    left = run(documents(rows[:2], rows[2:]), tmp_path / "out", priority=("books", "forum"))
    assert [row["id"] for row in left] == ["books"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {source: of["removed"] for source, of in report["sources"].items()} == {"web": 1, "forum": 1, "books": 0}
    assert report["largest_clusters"] == [{"documents": 3, "id": "books", "source": "books"}]


def test_of_more_shingles_than_are_kept_a_sample_decides(documents: Documents, tmp_path: Path):
    rng = random.Random(4)
    text = prose(rng, 3000)
    rows = [
        {"id": "a", "text": text},
        {"id": "b", "text": edited(text, rng, 20)},
        {"id": "c", "text": text[: len(text) // 2] + prose(rng, 1500)},
    ]
    method = MinHashConfig(verify="jaccard", max_shingles=256, num_bands=40, rows_per_band=3)
    assert [row["id"] for row in run(documents(rows), tmp_path / "out", method=method)] == ["a", "c"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["details"]["documents_sampled"] == 3


def test_text_without_spaces_between_words_is_compared_by_its_letters(documents: Documents, tmp_path: Path):
    text = "语言模型从大量文本中学习预测下一个词并且由此获得关于世界的许多知识和推理能力因此训练数据的质量十分重要"
    other = "今天的天气很好我们一起去公园散步看见许多孩子在草地上放风筝老人们坐在长椅上聊天大家都非常开心"
    rows = [{"id": "a", "text": text}, {"id": "b", "text": text[:-2] + "要紧。"}, {"id": "c", "text": other}]
    assert [row["id"] for row in run(documents(rows), tmp_path / "out")] == ["a", "c"]


def test_what_an_earlier_definition_of_a_word_began_is_not_gone_on_with(
    documents: Documents, tmp_path: Path, monkeypatch
):
    text = prose(random.Random(5))
    folder, output = documents([{"id": str(n), "text": text} for n in range(4)]), tmp_path / "out"
    kept = []
    for version in ("words 1", "words 1", "words 2"):
        monkeypatch.setattr("marin.processing.kernels.normalized_words.VERSION", version)
        with pytest.raises(TooMuchRemovedError):  # which keeps the work, for a run with another limit
            run(folder, output, max_removed_per_source=0.5, min_documents_for_limit=1)
        kept.append([path.name for path in (output / "work").iterdir()])
    assert kept[0] == kept[1] != kept[2] and len(kept[2]) == 1
