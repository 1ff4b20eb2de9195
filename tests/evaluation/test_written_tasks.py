"""DROP, BIG-Bench Hard, MATH and IFEval ask in the words of lm-evaluation-harness and judge as it does."""

import importlib.machinery
import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("lm_eval", reason="needs lm-eval: pip install -e '.[evaluation]'")

from harness_tasks import harness_requests, harness_task

from marin.evaluation.tasks import GROUPS, TASKS
from marin.evaluation.tasks.data import MissingDataError, MissingPackageError, TaskData
from marin.evaluation.tasks.scores import estimate, metrics_of, written_values
from marin.evaluation.tasks.shots import FEWSHOT_SEED, PromptedQuestion, prompted

NO_DATE = {"day": "", "month": "", "year": ""}


def drop_row(row: int, *others: dict, **answer: Any) -> dict:
    """A row in the hub's columns with its answer and other people's."""
    empty = {"number": "", "date": NO_DATE, "spans": [], "worker_id": "w", "hit_id": "h"}
    validated = [{**empty, **each} for each in others]
    return {
        "section_id": "nfl_1",
        "query_id": f"q{row}",
        "passage": f"The Bears kicked {row} field goals.",
        "question": "How many were there?",
        "answer": {**empty, **answer},
        "validated_answers": {name: [each[name] for each in validated] for name in empty},
    }


DROP_ROWS = [
    drop_row(0, {"number": "12"}, {"spans": ["a dozen"]}, number="12"),
    drop_row(1, {"spans": ["John Smith"]}, spans=["John Smith", "the Bears"]),
    drop_row(2, date={"day": "4", "month": "July", "year": "1776"}),
    drop_row(3, {"number": "3.5"}, spans=["3.5 yards", "Smith-Jones"]),
    drop_row(4, spans=[" "]),
]
DROP_TEXTS = [
    "12",
    " 12.0 of them",
    "a dozen",
    "John Smith and the Bears",
    "Smith",
    "July 4, 1776",
    "3.5 yards",
    "",
    "!",
]


def hub_file(root: Path, name: str, rows: list[dict]) -> None:
    """The rows as the task's source has them on the hub."""
    source = TASKS[name].source
    pattern = source.files[TASKS[name].split]
    file = root / "hub" / source.repository / pattern.lstrip("*").replace("*", "00000-of-00001")
    file = file.with_name(f"{file.name}.parquet") if not file.suffix else file
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)


def asked(root: Path, name: str, rows: list[dict], shots: int = 0) -> list[PromptedQuestion]:
    """The task's questions about rows that are read from a file of the hub."""
    hub_file(root, name, rows)
    loaded = TaskData(root).load(TASKS[name], shots)
    return list(prompted(TASKS[name], loaded, num_fewshot=shots, seed=FEWSHOT_SEED))


def prompts(questions: list[PromptedQuestion]) -> list[list[str]]:
    return [list(question.prompts) for question in questions]


def their_prompts(task: Any, shots: int) -> list[list[str]]:
    return [[args[0] for args in row] for row in harness_requests(task, shots)]


def test_drop_is_asked_and_judged_as_by_the_harness(tmp_path: Path):
    theirs = harness_task("drop/default.yaml", DROP_ROWS, split="validation")
    questions = asked(tmp_path, "drop", DROP_ROWS)
    assert prompts(questions) == their_prompts(theirs, 0)
    scores = set()
    for question, row in zip(questions, theirs.validation_docs(), strict=True):
        for text in DROP_TEXTS:
            ours, _ = written_values(TASKS["drop"], question.example, text)
            assert ours == theirs.process_results(row, [text]), (row["answers"], text)
            scores.add((ours["em"], ours["f1"]))
    assert len(scores) > 4 and len({question.example.group for question in questions}) == len(DROP_ROWS)


def test_drop_shows_answers_in_its_examples_and_is_found_at_any_depth(tmp_path: Path):
    hub_file(tmp_path, "drop", DROP_ROWS)
    [file] = (tmp_path / "hub").rglob("*.parquet")
    (file.parent / "data").mkdir()
    file.rename(file.parent / "data" / file.name)
    loaded = TaskData(tmp_path).load(TASKS["drop"], 1)
    questions = list(prompted(TASKS["drop"], loaded, num_fewshot=1, seed=FEWSHOT_SEED, limit=1))
    assert questions[0].prompts[0].count("How many were there?") == 2
    assert "there?John Smith, the Bears\n\n" in "".join(
        question.prefix for question in prompted(TASKS["drop"], loaded, num_fewshot=1, seed=1)
    )


def test_every_task_of_bbh_has_the_words_and_examples_of_the_harness(tmp_path: Path):
    rows = [{"input": f"not ( True ) is {number}", "target": "False"} for number in range(2)]
    assert len(GROUPS["bbh_cot_fewshot"]) == 27
    for name in GROUPS["bbh_cot_fewshot"]:
        file = f"bbh/cot_fewshot/{name.removeprefix('bbh_cot_fewshot_')}.yaml"
        theirs = harness_task(file, rows, split="test")
        assert prompts(asked(tmp_path, name, rows, shots=3)) == their_prompts(theirs, 3), name


def test_bbh_takes_the_answer_out_as_the_harness_does(tmp_path: Path):
    name, rows = "bbh_cot_fewshot_navigate", [{"input": "Turn left.", "target": "No"}]
    theirs = harness_task("bbh/cot_fewshot/navigate.yaml", rows, split="test")
    [question] = asked(tmp_path, name, rows)
    found = []
    for text in ("We turn. So the answer is No.", "the answer is No", "the answer is No.\nthe answer is Yes.", "No."):
        harness_requests(theirs, 0)
        theirs.instances[0].resps = [text]
        theirs.apply_filters()
        judged = theirs.process_results(theirs.test_docs()[0], [theirs.instances[0].filtered_resps["get-answer"]])
        values, _ = written_values(TASKS[name], question.example, text)
        assert values == {"exact_match,get-answer": judged["exact_match"]}
        found.append(judged["exact_match"])
    assert set(found) == {0.0, 1.0}


def test_worked_examples_that_are_not_installed_are_told_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [{"input": "Turn left.", "target": "No"}]
    asked(tmp_path, "bbh_cot_fewshot_navigate", rows)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingPackageError, match=r"needs lm_eval.* Install it: pip install 'marin\[evaluation\]'"):
        TaskData(tmp_path).load(TASKS["bbh_cot_fewshot_navigate"], 3)
    assert len(asked(tmp_path, "bbh_cot_fewshot_navigate", rows)) == 1  # at 0 shots it needs nothing


# --- IFEval

IFEVAL_ROWS = [
    {
        "key": 1000,
        "prompt": "Write two words. Use no commas, and highlight two parts.",
        "instruction_id_list": ["punctuation:no_comma", "detectable_format:number_highlighted_sections"],
        "kwargs": [{}, {"num_highlights": 2}],
    },
    {
        "key": 1001,
        "prompt": "Answer in JSON.",
        "instruction_id_list": ["detectable_format:json_format"],
        "kwargs": [{}],
    },
    {
        "key": 1002,
        "prompt": "Say it again, in at most 9 words, and end with Bye.",
        "instruction_id_list": ["combination:repeat_prompt", "length_constraints:number_words", "startend:end_checker"],
        "kwargs": [
            {"prompt_to_repeat": "Say it again"},
            {"relation": "less than", "num_words": 9},
            {"end_phrase": "Bye."},
        ],
    },
]
IFEVAL_TEXTS = [
    ["*one* *two*", "one, two", "# Here it is,\n*one* and *two*", ""],
    ['{"a": 1}', "a", "Sure:\n{}", "```json\n[1]\n```"],
    ["Say it again. Bye.", "Say it again", "Bye.", "*Say it again* Bye.\nP.S."],
]


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """A module of the name, unless it is installed."""
    try:
        importlib.import_module(name)
    except ImportError:
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def ifeval_packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What lm-eval's checks import, as far as it is missing; none of the instructions above asks it anything."""
    import nltk

    class Factory:
        seed = None

    stand_in(monkeypatch, "langdetect", DetectorFactory=Factory)
    stand_in(monkeypatch, "immutabledict", immutabledict=dict)
    monkeypatch.setattr(nltk.data, "find", lambda name: Path(name))
    yield
    for name in [each for each in sys.modules if each.startswith("lm_eval.tasks.ifeval")]:
        del sys.modules[name]


def test_ifeval_is_asked_and_judged_as_by_the_harness(tmp_path: Path, ifeval_packages: None):
    theirs = harness_task("ifeval/ifeval.yaml", IFEVAL_ROWS, split="train")
    questions = asked(tmp_path, "ifeval", IFEVAL_ROWS)
    assert prompts(questions) == their_prompts(theirs, 0)
    for texts in zip(*IFEVAL_TEXTS, strict=True):
        judged = [theirs.process_results(row, [text]) for row, text in zip(IFEVAL_ROWS, texts, strict=True)]
        ours = [
            {**written_values(TASKS["ifeval"], question.example, text)[0], "group": ""}
            for question, text in zip(questions, texts, strict=True)
        ]
        assert metrics_of(TASKS["ifeval"], ours) == tuple(judged[0])
        for metric in judged[0]:
            expected = theirs.aggregation()[metric]([each[metric] for each in judged])
            assert estimate(metric, ours).value == pytest.approx(float(expected)), (metric, texts)
    assert estimate("inst_level_strict_acc", ours).n == 6 and estimate("inst_level_strict_acc", ours).num_clusters == 3


def test_instructions_of_one_question_are_one_cluster():
    rows = [{"num_followed_strictly": right, "num_instructions": 3, "group": ""} for right in (0, 3, 3, 0, 3, 3)]
    found = estimate("inst_level_strict_acc", rows)
    # six questions that are wholly right or wrong say what six do, not what eighteen instructions would
    assert found.value == pytest.approx(2 / 3)
    assert found.stderr == pytest.approx(np.std([0, 1, 1, 0, 1, 1], ddof=1) / np.sqrt(6))


def test_ifeval_has_no_examples(tmp_path: Path, ifeval_packages: None):
    with pytest.raises(ValueError, match="'ifeval' at 1 shots: its rows have no answer to show; ask it at 0"):
        asked(tmp_path, "ifeval", IFEVAL_ROWS, shots=1)


def test_what_ifeval_lacks_is_told_once_its_data_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(MissingDataError, match="marin data download hf google/IFEval"):
        TaskData(tmp_path).load(TASKS["ifeval"], 0)
    with pytest.raises(MissingPackageError, match=r"needs langdetect.* pip install 'lm-eval\[ifeval\]==0.4.13'"):
        asked(tmp_path, "ifeval", IFEVAL_ROWS)


# --- MATH

MATH_ROWS = [
    {
        "problem": "What is $1/2 + 1/4$?",
        "solution": "Add them: $\\boxed{\\frac{3}{4}}$.",
        "level": "Level 1",
        "type": "Algebra",
    },
    {"problem": "Solve $x = 2y$.", "solution": "So $\\boxed{(2,1)}$.", "level": "Level 2", "type": "Algebra"},
]
MATH_TEXTS = [
    " Final Answer: The final answer is $\\frac{3}{4}$. I hope it is correct.",
    " Final Answer: The final answer is $0.75$. I hope it is correct.",
    " Final Answer: The final answer is $(2,1)$. I hope it is correct.",
    " It is 3/4.",
]


@pytest.fixture
def math_packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """sympy is there; the version of antlr that sympy asks for, and math-verify, as far as they are missing."""
    version = importlib.metadata.version

    def pretended(name: str) -> str:
        return "4.11.1" if name == "antlr4-python3-runtime" else version(name)

    stand_in(
        monkeypatch,
        "math_verify",
        parse=lambda text: text,
        verify=lambda gold, target: gold.count("3") == target.count("3"),
    )
    monkeypatch.setattr(importlib.metadata, "version", pretended)
    yield
    for name in [each for each in sys.modules if each.startswith("lm_eval.tasks.minerva_math")]:
        del sys.modules[name]


def test_math_is_asked_and_judged_as_by_the_harness(tmp_path: Path, math_packages: None):
    theirs = harness_task("minerva_math/minerva_math_num_theory.yaml", MATH_ROWS, split="test")
    questions = asked(tmp_path, "minerva_math_num_theory", MATH_ROWS, shots=4)
    assert prompts(questions) == their_prompts(theirs, 4)
    scores = set()
    for question, row in zip(questions, theirs.test_docs(), strict=True):
        for text in MATH_TEXTS:
            ours, _ = written_values(TASKS["minerva_math_num_theory"], question.example, text)
            assert ours == theirs.process_results(row, [text])
            scores.add(ours["exact_match"])
    assert scores == {True, False}


def test_math_says_what_it_lacks(tmp_path: Path, math_packages: None, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="the solution has no .boxed"):
        asked(tmp_path, "minerva_math_algebra", [{**MATH_ROWS[0], "solution": "It is 3."}])
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.4.13" if name == "lm-eval" else "4.13.2")
    with pytest.raises(MissingPackageError, match=r"needs antlr4-python3-runtime 4.11.* 4.13.2 is .*lm-eval\[math\]"):
        asked(tmp_path, "minerva_math_algebra", MATH_ROWS)
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(MissingPackageError, match=r"'minerva_math' needs math_verify"):
        asked(tmp_path, "minerva_math_algebra", MATH_ROWS)


def test_the_lists_stand_for_the_tasks_of_their_groups():
    assert {TASKS[name].num_rows for name in GROUPS["minerva_math"]} == {1187, 474, 479, 903, 540, 871, 546}
    assert sum(TASKS[name].num_rows or 0 for name in GROUPS["bbh_cot_fewshot"]) == 6511
