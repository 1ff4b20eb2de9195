"""Evaluation items in documents are found and named, and what only resembles them is not."""

import bz2
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from document_folders import read_rows
from marin.processing.decontaminate.config import DecontaminateConfig, EvaluationSet
from marin.processing.decontaminate.evaluation_items import items_of
from marin.processing.decontaminate.run import decontaminate

Documents = Callable[..., Path]

QUESTION = (
    "A gardener plants 14 rows of tulips with 6 bulbs in each row, and a third of the bulbs never open. "
    "How many tulips does she count when the rest of the bulbs are in bloom?"
)
ANSWER = (
    "There are 14 * 6 = 84 bulbs in all the rows of the garden. A third of them, 84 / 3 = 28, never open, so she "
    "counts 84 - 28 = 56 tulips."
)
SHORT = "Which planet has the most moons?"
# of the same things, in other words
HARD_NEGATIVE = (
    "In the third row of the garden the gardener counts her tulips. Of 6 bulbs that she planted in each of the beds 2 "
    "are in bloom, and the rest of the bulbs never did open. How many rows does she plant next spring?"
)


def filler(seed: int, num_words: int = 200) -> str:
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghij", k=5)) for _ in range(num_words))


@pytest.fixture
def items(tmp_path: Path) -> EvaluationSet:
    path = tmp_path / "items.jsonl"
    rows = [{"question": QUESTION, "answer": ANSWER}, {"id": "moons", "question": SHORT, "answer": "none of these"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return EvaluationSet(name="sums", path=str(path))


def run(folder: Path, output: Path, *against: EvaluationSet, **changed: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"num_workers": 0} | changed
    return decontaminate(
        DecontaminateConfig(input_path=str(folder), output_path=str(output), against=against, **settings)
    )


@pytest.mark.parametrize(
    "text",
    [
        f"{filler(1)}\n\n{QUESTION}\n\n{filler(2)}",
        f"{filler(1)} {QUESTION} {filler(2)}",
        f"{filler(1)}\n\n{ANSWER}",
        f"Q: {QUESTION.upper()}\nA: {ANSWER.replace('84', '96')}",
        QUESTION.replace(" ", "\n").replace("third", "thírd"),
    ],
    ids=["a paragraph", "inside a paragraph", "the answer", "other case and numbers", "other spacing and accents"],
)
def test_an_item_in_a_document_is_found_and_named(documents: Documents, tmp_path: Path, items, text: str):
    folder = documents([{"id": "clean", "text": filler(3)}, {"id": "dirty", "text": text}])
    report = run(folder, tmp_path / "out", items)
    assert report["evaluation_sets"]["sums"]["hit"] == [
        {"item": "items.jsonl:1", "coverage": 1.0, "num_documents": 1, "documents": ["dirty"]}
    ]
    assert (report["documents"], report["contaminated"]) == (2, 1)
    assert [row["id"] for row in read_rows(tmp_path / "out" / "documents")] == ["clean"]
    row = read_rows(tmp_path / "out" / "attributes")[1]
    assert row["decontamination.items"] == [{"set": "sums", "item": "items.jsonl:1", "coverage": 1.0}]
    assert row["decontamination.ngrams"][0] in text


@pytest.mark.parametrize(
    "text",
    [
        HARD_NEGATIVE,
        # a run of the question's words, below half of it
        f"{filler(1)} {' '.join(QUESTION.split()[:18])} {filler(2)}",
        f"{SHORT[:-1]} is asked by few.",
        "None of these.",
        "84 - 28 = 56\n\n14 * 6 = 84 " + "1 + 1 = 2 " * 20,
    ],
    ids=["of the same things", "a part", "a short question within a paragraph", "a short answer", "numbers alone"],
)
def test_what_only_resembles_an_item_is_left(documents: Documents, tmp_path: Path, items, text: str):
    report = run(documents([{"id": "a", "text": text}]), tmp_path / "out", items)
    assert report["contaminated"] == 0
    assert len(read_rows(tmp_path / "out" / "documents")) == 1


def test_a_short_question_is_found_where_it_is_a_paragraph(documents: Documents, tmp_path: Path, items):
    report = run(
        documents([{"id": "a", "text": f"{filler(1)}\n\nwhich planet has the most MOONS"}]), tmp_path / "out", items
    )
    assert [hit["item"] for hit in report["evaluation_sets"]["sums"]["hit"]] == ["moons"]


def test_only_the_contaminated_paragraphs_go_where_that_is_asked(documents: Documents, tmp_path: Path, items):
    rows = [{"id": "a", "text": f"{filler(1)}\n\n{QUESTION}\n\n{filler(2)}"}, {"id": "b", "text": QUESTION}]
    report = run(documents(rows), tmp_path / "out", items, remove="paragraph")
    left = read_rows(tmp_path / "out" / "documents")
    assert [(row["id"], row["text"]) for row in left] == [("a", f"{filler(1)}\n\n{filler(2)}")]
    assert report["written"] == {"rows_in": 2, "rows_out": 1, "bad": 0, "nothing left of the text": 1}


@pytest.mark.parametrize("is_first", [True, False])
def test_what_stands_of_an_item_in_another_paragraph_goes_wherever_that_stands(
    documents: Documents, tmp_path: Path, is_first: bool
):
    words = filler(7, 100).split()
    (tmp_path / "long.jsonl").write_text(json.dumps({"question": " ".join(words)}) + "\n")
    whole, part = " ".join(words[:14]), f"{filler(1)} {' '.join(words[40:55])} {filler(2)}"
    paragraphs = [whole, part] if is_first else [part, whole]
    folder = documents([{"id": "a", "text": "\n\n".join([*paragraphs, filler(3)])}])
    run(folder, tmp_path / "out", EvaluationSet(name="long", path=str(tmp_path / "long.jsonl")), remove="paragraph")
    assert [row["text"] for row in read_rows(tmp_path / "out" / "documents")] == [filler(3)]


def test_a_report_alone_writes_no_documents(documents: Documents, tmp_path: Path, items):
    report = run(documents([{"id": "a", "text": QUESTION}]), tmp_path / "out", items, remove="attributes")
    assert report["evaluation_sets"]["sums"]["share_hit"] == 0.5
    assert not (tmp_path / "out" / "documents").exists()
    hits = [json.loads(line) for line in (tmp_path / "out" / "hits.jsonl").read_text().splitlines()]
    assert hits == [{"set": "sums", "item": "items.jsonl:1", "document": "a", "coverage": 1.0}]


def test_documents_of_an_earlier_run_do_not_stay_beside_a_report_alone(documents: Documents, tmp_path: Path, items):
    folder = documents([{"id": "a", "text": QUESTION}, {"id": "b", "text": filler(1)}])
    run(folder, tmp_path / "out", items)
    assert (tmp_path / "out" / "documents").exists()
    run(folder, tmp_path / "out", items, remove="attributes")
    assert not (tmp_path / "out" / "documents").exists()


def test_phrases_of_many_documents_do_not_count_where_that_is_asked(documents: Documents, tmp_path: Path, items):
    licence = "Permission is hereby granted to every person who has a copy of this text to do with it what they like."
    path = tmp_path / "licence.jsonl"
    path.write_text(json.dumps({"question": licence}) + "\n")
    licences = EvaluationSet(name="licences", path=str(path))
    rows = [{"id": str(i), "text": f"{filler(i)}\n\n{licence}"} for i in range(9)] + [{"id": "q", "text": QUESTION}]
    assert run(documents(rows), tmp_path / "all", items, licences)["contaminated"] == 10
    report = run(documents(rows), tmp_path / "out", items, licences, max_document_share=0.2)
    assert report["contaminated"] == 1
    # nothing is dropped unsaid
    assert {common["documents"] for common in report["common_ngrams"]} == {9}
    assert report["common_ngrams"][0]["such_as"] == ["licences/licence.jsonl:1"]
    assert report["evaluation_sets"]["licences"]["items_without_ngrams"] == 1


def test_fields_that_are_named_and_absent_are_an_error(documents: Documents, tmp_path: Path, items):
    wrong = EvaluationSet(name="sums", path=items.path, fields=("prompt",))
    with pytest.raises(ValueError, match=r"line 1 of .*items.jsonl has no field 'prompt'; its fields are answer"):
        list(items_of(wrong))


def test_lines_that_are_blank_count_in_what_is_said_of_a_line_and_not_in_items(tmp_path: Path):
    path = tmp_path / "items.jsonl"
    path.write_text('{"question": "one"}\n\n\n{"question": "two"}\n{"other": "three"}\n')
    wrong = EvaluationSet(name="sums", path=str(path), fields=("question",))
    with pytest.raises(ValueError, match=r"line 5 of .*items.jsonl has no field 'question'"):
        list(items_of(wrong))
    assert [item.id for item in items_of(EvaluationSet(name="sums", path=str(path)))][1] == "items.jsonl:2"
    path.write_text('\n{"question": "one"}\n{broken}\n')
    with pytest.raises(ValueError, match=r"evaluation set 'sums': .*items.jsonl: line 3: not JSON"):
        list(items_of(wrong))


def test_a_character_that_some_take_for_a_line_end_ends_no_line(tmp_path: Path):
    (tmp_path / "x.txt").write_text("one\u2028more\na\n")
    [item] = items_of(EvaluationSet(name="x", path=str(tmp_path / "x.txt"), lines_per_item=2))
    assert (item.prompts, item.others) == (("one\u2028more",), ("a",))


def test_items_come_from_every_kind_of_file(tmp_path: Path):
    rows = [{"question": "one?", "choices": ["a b", "c d"], "gold": 1}, {"question": "two?", "choices": [], "gold": 0}]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "x.parquet")
    with pa.OSFile(str(tmp_path / "stream.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    with pa.OSFile(str(tmp_path / "file.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "x.txt.bz2").write_bytes(bz2.compress(b"one?\na b\nc d\ntwo?\n\n\n"))
    for name in ("x.parquet", "stream.arrow", "file.arrow", "x.jsonl"):
        found = list(items_of(EvaluationSet(name="x", path=str(tmp_path / name))))
        assert [(item.id, item.prompts, item.others) for item in found] == [
            (f"{name}:1", ("one?",), ("a b", "c d")),
            (f"{name}:2", ("two?",), ()),
        ]
    text = EvaluationSet(name="x", path=str(tmp_path / "x.txt.bz2"), lines_per_item=3)
    assert [(item.prompts, item.others) for item in items_of(text)] == [
        (("one?",), ("a b", "c d")),
        (("two?",), ("", "")),
    ]
    with pytest.raises(ValueError, match="give lines_per_item"):
        list(items_of(EvaluationSet(name="x", path=str(tmp_path / "x.txt.bz2"))))


def test_a_real_test_set_is_found_item_by_item(documents: Documents, tmp_path: Path, shared_data: Path):
    path = shared_data / "eval" / "gsm8k" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    planted = [3, 500, 1318]
    peps = sorted((shared_data / "text" / "peps").glob("*.rst"))[:60]
    texts = [pep.read_text(encoding="utf-8") for pep in peps]
    for place, row in enumerate(planted):
        texts[10 * place] += f"\n\n{rows[row]['question']}"
    folder = documents([{"id": pep.stem, "text": text} for pep, text in zip(peps, texts, strict=True)])
    report = run(folder, tmp_path / "out", EvaluationSet(name="gsm8k", path=str(path)))
    found = {hit["item"]: hit["documents"] for hit in report["evaluation_sets"]["gsm8k"]["hit"]}
    assert found == {f"test.jsonl:{row + 1}": [peps[10 * place].stem] for place, row in enumerate(planted)}
    assert report["contaminated"] == 3


def test_a_real_training_set_is_no_hit_for_its_test_set(documents: Documents, tmp_path: Path, shared_data: Path):
    folder = shared_data / "eval" / "gsm8k"
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    train = documents([{"id": str(i), "text": f"{row['question']}\n{row['answer']}"} for i, row in enumerate(rows)])
    report = run(train, tmp_path / "out", EvaluationSet(name="gsm8k", path=str(folder / "test.jsonl")))
    # problems of one kind, many of one template, and yet hardly one of another: what is found repeats a question
    # word for word but for its numbers
    assert report["evaluation_sets"]["gsm8k"]["items_hit"] <= 10


def test_all_evaluation_files_are_read(shared_data: Path):
    folder = shared_data / "eval"
    sets = [
        (
            EvaluationSet(name="hellaswag", path=str(next((folder / "hellaswag").glob("*.bz2"))), lines_per_item=6),
            10_042,
        ),
        (EvaluationSet(name="mmlu", path=str(folder / "mmlu" / "*" / "test" / "*.arrow")), 14_042),
        (EvaluationSet(name="arc", path=str(folder / "mosaic" / "world_knowledge" / "arc_easy.jsonl")), 2_376),
        (EvaluationSet(name="boolq", path=str(folder / "mosaic" / "reading_comprehension" / "boolq.jsonl")), 3_270),
    ]
    for evaluation, count in sets:
        items = list(items_of(evaluation))
        assert len(items) == count
        assert len({item.id for item in items}) == count
        assert all(item.prompts for item in items)
