"""The same text stays once: where the priority of sources says, else where it is first."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from document_folders import read_rows
from marin.processing.dedup.config import DedupConfig, ExactConfig, SubstringConfig
from marin.processing.dedup.report import TooMuchRemovedError
from marin.processing.dedup.run import dedup

Documents = Callable[..., Path]


def run(folder: Path, output: Path, **changed: Any) -> list[dict]:
    """The rows left by exact deduplication."""
    settings: dict[str, Any] = {"method": ExactConfig(), "max_removed_per_source": 1.0, "num_workers": 0} | changed
    dedup(DedupConfig(input_path=str(folder), output_path=str(output), **settings))
    return read_rows(output / "documents")


def test_the_first_of_equal_documents_stays(documents: Documents, tmp_path: Path):
    folder = documents(
        [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}],
        [{"id": "c", "text": "one"}, {"id": "d", "text": "One"}, {"id": "e", "text": "two"}],
    )
    assert [row["id"] for row in run(folder, tmp_path / "out")] == ["a", "b", "d"]
    attributes = read_rows(tmp_path / "out" / "attributes")
    assert [(row["id"], row["dedup.duplicate_of"]) for row in attributes] == [
        ("a", None),
        ("b", None),
        ("c", "a"),
        ("d", None),
        ("e", "b"),
    ]
    assert [row["dedup.cluster_size"] for row in attributes] == [2, 2, 2, 1, 2]


def test_a_source_of_higher_priority_keeps_its_document(documents: Documents, tmp_path: Path):
    folder = documents(
        [{"id": "a", "text": "same", "source": "web"}, {"id": "b", "text": "same", "source": "forum"}],
        [{"id": "c", "text": "same", "source": "books"}, {"id": "d", "text": "other", "source": "web"}],
    )
    left = run(folder, tmp_path / "out", priority=("books", "forum"))
    assert [row["id"] for row in left] == ["c", "d"]


def test_documents_are_all_there_with_their_other_columns(documents: Documents, tmp_path: Path):
    folder = documents([{"id": str(i), "text": f"text {i}", "metadata": {"url": f"u{i}"}} for i in range(5)])
    assert [row["metadata"] for row in run(folder, tmp_path / "out")] == [f'{{"url":"u{i}"}}' for i in range(5)]


def test_repeated_paragraphs_are_cut_and_the_first_stays(documents: Documents, tmp_path: Path):
    notice = "This notice stands at the end of every page, and says nothing of what is on it. " * 2
    folder = documents(
        [{"id": "a", "text": f"The first page.\n\n{notice}\n\nEnd."}],
        [{"id": "b", "text": f"The second page.\n\n  {notice}\n\n{notice}"}, {"id": "c", "text": f"{notice}\n"}],
    )
    left = run(folder, tmp_path / "out", method=ExactConfig(on="paragraph"))
    assert [(row["id"], row["text"]) for row in left] == [
        ("a", f"The first page.\n\n{notice}\n\nEnd."),
        ("b", "The second page.\n\n"),
    ]
    contained = {row["id"]: row["dedup.contained"] for row in read_rows(tmp_path / "out" / "attributes")}
    assert contained["a"] == 0
    assert contained["c"] == 1
    assert 0.9 < contained["b"] < 1


def test_short_paragraphs_stay_however_often_they_come(documents: Documents, tmp_path: Path):
    folder = documents([{"id": "a", "text": "}\n\n}\n\n}"}, {"id": "b", "text": "}\n\nmore"}])
    left = run(folder, tmp_path / "out", method=ExactConfig(on="paragraph"))
    assert [row["text"] for row in left] == ["}\n\n}\n\n}", "}\n\nmore"]


def test_a_source_of_which_most_bytes_go_is_held_to_its_limit(documents: Documents, tmp_path: Path):
    notice = "This notice stands at the end of every page, and says nothing of what is on it. " * 9
    rows = [{"id": str(i), "text": f"Page {i}.\n\n{notice}", "source": "web"} for i in range(20)]
    settings = {"method": ExactConfig(on="paragraph"), "min_documents_for_limit": 10}
    with pytest.raises(TooMuchRemovedError, match="0 and 13,.* of 14,.* bytes removed, 9"):
        run(documents(rows), tmp_path / "out", max_removed_per_source=0.8, **settings)
    assert not (tmp_path / "out" / "documents").exists()
    assert len(run(documents(rows), tmp_path / "out", max_removed_of={"web": 0.95}, **settings)) == 20
    (report,) = json.loads((tmp_path / "out" / "report.json").read_text())["sources"].values()
    size = len(notice) + len("Page 0.\n\n")
    assert report["text_bytes"] == 20 * size + 10 and report["removed"] == 0
    assert report["share_removed"] == round(report["removed_bytes"] / report["text_bytes"], 6) > 0.9


@pytest.mark.parametrize("on", ["document", "paragraph"])
def test_a_run_on_an_index_leaves_what_one_run_over_all_leaves(documents: Documents, tmp_path: Path, on):
    rng = random.Random(0)
    rows = [
        {"id": str(i), "text": "\n\n".join(rng.choice("abcdefgh") * 80 for _ in range(rng.randint(1, 2)))}
        for i in range(60)
    ]
    method = ExactConfig(on=on)
    together = run(documents(rows[:25], rows[25:45], rows[45:]), tmp_path / "all", method=method)
    parts = run(documents(rows[:25]), tmp_path / "one", method=method)
    parts += run(documents(rows[25:45]), tmp_path / "two", method=method, index_path=str(tmp_path / "one" / "index"))
    parts += run(documents(rows[45:]), tmp_path / "three", method=method, index_path=str(tmp_path / "two" / "index"))
    assert parts == together
    assert 0 < len(together) < 60


def test_an_index_of_another_method_is_refused(documents: Documents, tmp_path: Path):
    folder = documents([{"id": "a", "text": "one"}])
    run(folder, tmp_path / "one")
    with pytest.raises(ValueError, match=r"on: 'document' there, 'paragraph' here"):
        run(folder, tmp_path / "two", method=ExactConfig(on="paragraph"), index_path=str(tmp_path / "one" / "index"))
    with pytest.raises(ValueError, match=r"no index\.json in"):
        run(folder, tmp_path / "three", index_path=str(folder))


def test_a_file_of_which_nothing_is_left_is_an_input_like_others(documents: Documents, tmp_path: Path):
    folder = documents([{"id": "a", "text": "one"}], [{"id": "b", "text": "one"}], [{"id": "c", "text": "two"}])
    run(folder, tmp_path / "one")
    assert len(list((tmp_path / "one" / "documents").glob("*.parquet"))) == 3
    left = run(tmp_path / "one" / "documents", tmp_path / "two")
    assert [row["id"] for row in left] == ["a", "c"]


def test_repeated_substrings_are_refused_with_what_to_use(documents: Documents, tmp_path: Path):
    folder = documents([{"id": "a", "text": "one"}])
    with pytest.raises(NotImplementedError, match="suffix array.*deduplicate-text-datasets"):
        run(folder, tmp_path / "out", method=SubstringConfig())
