"""Rows come from every kind of file, in order, and what is no row is named with its file and line."""

import bz2
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marin.evaluation.tasks import TASKS
from marin.evaluation.tasks.data import MissingDataError, TaskData, fetch_command, read_example
from marin.io.rows import read_rows

ROWS = [{"query": f"q{number}", "choices": ["a", "b"], "gold": number % 2} for number in range(3)]


def write_mosaic(root: Path, path: str, rows: list[dict]) -> Path:
    file = root / "mosaic" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_arrow(path: Path, rows: list[dict], *, stream: bool) -> None:
    table = pa.Table.from_pylist(rows)
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table)


def test_rows_are_the_same_from_every_kind_of_file(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "list.json").write_text(json.dumps(ROWS))
    (tmp_path / "object.json").write_text(json.dumps({"canary": "x", "examples": ROWS}))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    write_arrow(tmp_path / "stream.arrow", ROWS, stream=True)
    write_arrow(tmp_path / "file.arrow", ROWS, stream=False)
    for file in sorted(tmp_path.iterdir()):
        assert list(read_rows(file)) == list(enumerate(ROWS, start=1)), file.name


def test_a_row_has_the_number_of_its_line_behind_blank_lines_too(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('\n{"x": 1}\n\n{"x": 2}\n')
    assert list(read_rows(tmp_path / "rows.jsonl")) == [(2, {"x": 1}), (4, {"x": 2})]


def test_lines_of_text_make_items_and_keep_characters_that_other_readers_take_for_line_ends(tmp_path: Path):
    file = tmp_path / "items.txt.bz2"
    file.write_bytes(bz2.compress("a\u2028b\n1\nc\n2\n".encode()))
    assert list(read_rows(file, lines_per_item=2)) == [
        (1, {"lines": ["a\u2028b", "1"]}),
        (3, {"lines": ["c", "2"]}),
    ]
    with pytest.raises(ValueError, match=r"items\.txt\.bz2: 4 lines are no whole number of items of 3 lines.*line 4"):
        list(read_rows(file, lines_per_item=3))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"x": 1}\n{"x": \n', r"a\.jsonl: line 2: not JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl: line 1: not a JSON object but list"),
        ("a.json", b'[{"x": 1}, 3]', r"a\.json: row 2: not a JSON object but int"),
        ("a.json", b'{"x": 1}', r"a\.json: expected a JSON list of objects"),
        ("a.parquet", b"no parquet", r"a\.parquet: damaged, or not what its name says"),
        ("a.csv", b"x\n1\n", r"a\.csv: no file of rows by its name; expected one that ends in \.jsonl"),
    ],
)
def test_what_is_no_row_is_named(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_rows(tmp_path / name))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "Question: x", "choices": ["a", "b"]}, "no column 'gold'"),
        ({"query": "x", "choices": ["a", "b"], "gold": 0}, "begins with 'Question: '"),
        ({"query": "Question: x", "choices": ["a", "b"], "gold": 2}, "gold is 2 of 2 choices"),
        ({"query": "Question: x", "choices": ["a", 3], "gold": 0}, "expected text, got 3"),
        ({"query": "Question: x", "choices": ["a", " "], "gold": 0}, "a candidate is blank"),
    ],
)
def test_a_broken_row_is_named_with_its_file_and_line(tmp_path: Path, row: dict, message: str):
    good = {"query": "Question: x", "choices": ["a", "b"], "gold": 1}
    file = write_mosaic(tmp_path, "world_knowledge/arc_easy.jsonl", [good, row])
    task = TASKS["arc_easy"]
    with pytest.raises(ValueError, match=rf"task 'arc_easy': {file}, line 2: no row of this task: .*{message}"):
        for located in TaskData(tmp_path).load(task, 0).asked:
            read_example(task, located)


def test_absent_data_is_an_error_with_the_command_that_fetches_it(tmp_path: Path):
    with pytest.raises(MissingDataError) as caught:
        TaskData(tmp_path).load(TASKS["boolq"], 10)
    assert "mosaic/reading_comprehension/boolq.jsonl" in caught.value.reason
    assert caught.value.fetch == (
        "marin data download hf aps/super_glue --revision 3de24cf8022e94f4ee4b9d55a6f539891524d646 --files "
        f"'boolq/validation-*.parquet' 'boolq/train-*.parquet' --out {tmp_path}/hub/aps/super_glue"
    )
    assert fetch_command(TASKS["bigbench_operators"], "/data").startswith(
        "curl -fL --create-dirs -o /data/mosaic/symbolic_problem_solving/bigbench_operators.jsonl https://"
    )


def test_the_tasks_own_source_comes_first_and_its_training_rows_are_the_examples(tmp_path: Path):
    write_mosaic(
        tmp_path, "world_knowledge/arc_easy.jsonl", [{"query": "Question: local", "choices": ["a", "b"], "gold": 0}] * 2
    )
    task = TASKS["arc_easy"]
    local = TaskData(tmp_path).load(task, 1)
    assert local.pool_is_asked and "no 'train' split here" in local.notes[0]

    hub = tmp_path / "hub/allenai/ai2_arc/ARC-Easy"
    hub.mkdir(parents=True)
    for split, answer in (("test", "B"), ("train", "A")):
        row = {"question": split, "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": answer}
        pq.write_table(pa.Table.from_pylist([row]), hub / f"{split}-00000-of-00001.parquet")
    rows = TaskData(tmp_path).load(task, 1)
    assert [row.row["question"] for row in rows.asked] == ["test"]
    assert [row.row["question"] for row in rows.pool] == ["train"]
    assert not rows.pool_is_asked and rows.notes == ()
    assert rows.files == ("hub/allenai/ai2_arc/ARC-Easy/test-00000-of-00001.parquet",)
    example = read_example(task, rows.asked[0])
    assert (example.question, example.continuations, example.gold) == ("Question: test\nAnswer:", ("x", "y"), (1,))


LOCAL_SIZES = {
    "arc_easy": 2376,
    "arc_challenge": 1172,
    "boolq": 3270,
    "commonsense_qa": 1221,
    "copa": 100,
    "hellaswag": 10042,
    "lambada_openai": 5153,
    "openbookqa": 500,
    "piqa": 1838,
    "wsc273": 273,
    "winogrande": 1267,
    "agieval_lsat_ar": 230,
    "gsm8k": 1319,
    "gsm8k_cot": 1319,
    "simple_arithmetic": 1000,
    "bigbench_dyck_languages": 1000,
    "bigbench_operators": 210,
    "bigbench_cs_algorithms": 1320,
    "bigbench_repeat_copy_logic": 32,
}


@pytest.mark.parametrize("name", sorted(LOCAL_SIZES))
def test_every_local_row_is_read(shared_data: Path, name: str):
    task = TASKS[name]
    rows = TaskData(shared_data / "eval").load(task, 0).asked
    examples = [read_example(task, row) for row in rows]
    assert len(examples) == LOCAL_SIZES[name] == task.num_rows
    if task.kind == "multiple_choice":
        assert all(0 <= example.gold[0] < len(example.contexts) for example in examples)


def test_mmlu_has_its_57_subjects(shared_data: Path):
    data = TaskData(shared_data / "eval")
    names = [name for name in TASKS if name.startswith("mmlu_")]
    assert len(names) == 57
    assert sum(len(data.load(TASKS[name], 0).asked) for name in names) == 14042
    anatomy = data.load(TASKS["mmlu_anatomy"], 5)
    assert len(anatomy.pool) == 5 and not anatomy.pool_is_asked


def test_local_schemas_are_put_together_as_they_were(shared_data: Path):
    for name, file in (("wsc273", "winograd_wsc"), ("winogrande", "winogrande")):
        lines = (shared_data / f"eval/mosaic/language_understanding/{file}.jsonl").read_text().splitlines()
        rows = TaskData(shared_data / "eval").load(TASKS[name], 0).asked
        for line, located in zip(lines, rows, strict=True):
            local, example = json.loads(line), read_example(TASKS[name], located)
            assert list(example.contexts) == local["context_options"], located.where
            assert example.continuations[0].strip() == local["continuation"] and example.gold == (local["gold"],)


def test_baselines_of_core_are_what_the_most_frequent_answer_would_score(shared_data: Path):
    for name in ("boolq", "commonsense_qa"):
        task = TASKS[name]
        rows = TaskData(shared_data / "eval").load(task, 0)
        golds = [read_example(task, row).gold[0] for row in rows.asked]
        share = max(golds.count(gold) for gold in set(golds)) / len(golds)
        assert rows.core_baseline == pytest.approx(share, abs=0.005)
