"""A model's scores on tasks: what is asked, counted, skipped and kept."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marin.evaluation.code_execution import ExecutionLimits
from marin.evaluation.exported import ExportedModel
from marin.evaluation.multiple_choice import METRICS, answer_questions
from marin.evaluation.results import read_results, read_samples
from marin.evaluation.run_tasks import TaskScores, evaluate_tasks
from marin.evaluation.scoring import ScoredModel, scored_model
from marin.evaluation.task_plan import plan_tasks
from marin.evaluation.tasks import (
    CORE_TASKS,
    CORE_TASKS_PLUS_MMLU,
    DCLM_CORE_TASKS,
    LISTS,
    TASKS,
    EvalTaskConfig,
    MultipleChoiceTask,
    Question,
    TaskDefinition,
    Writing,
    resolve_tasks,
    task_names,
)
from marin.evaluation.tasks.choice_tasks import choice_example
from marin.evaluation.tasks.data import TaskData
from marin.evaluation.tasks.definition import Example, LocalFiles, Shots, Source
from marin.evaluation.tasks.filters import Find, Strip
from marin.evaluation.tasks.generation_tasks import written
from marin.evaluation.tasks.shots import prompted
from marin.export.hf import LoadedModel
from marin.models.gpt2 import Gpt2Config
from marin.processing.tokenize.tokenizer import Tokenizer, load_tokenizer
from marin.testing.tiny import write_byte_tokenizer
from marin.training.state import init_params


@dataclass(frozen=True)
class ToyModel:
    """A model that likes some bytes: each of them has log-probability -1, every other token -3."""

    tokenizer: Any
    favourites: str = "a"
    seq_len: int = 256
    description: Mapping[str, Any] = field(default_factory=lambda: {"weights_sha256": {"toy": "0"}})
    document_prefix: Any = None
    loaded: None = None
    calls: list = field(default_factory=list)

    @property
    def scored(self) -> ScoredModel:
        table = np.full(300, -3.0, np.float32)
        table[list(self.favourites.encode())] = -1.0
        best = int(np.argmax(table))

        def score(tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
            self.calls.append(tokens.shape)
            return table[targets]

        return ScoredModel(
            token_log_probs=score,
            seq_len=self.seq_len,
            vocab_size=300,
            document_prefix=self.document_prefix,
            token_is_greedy=lambda tokens, targets: targets == best,
        )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def toy_task(name: str, **changes: Any) -> TaskDefinition:
    """Rows {query, choices, gold} of the file NAME.jsonl."""
    return TaskDefinition(
        name=name,
        kind="multiple_choice",
        about="a toy",
        source=Source(repository="nobody/toy", revision="0123456", licence="none", files={"test": "toy.parquet"}),
        local=(LocalFiles(files={"test": f"{name}.jsonl"}, adapt=lambda row: row),),
        read=lambda row: choice_example(row["query"], row["choices"], row["gold"], group=row.get("group", "")),
        metrics=("acc", "acc_norm"),
        **changes,
    )


def write_rows(folder: Path, name: str, golds: list[int], query: str = "Q: x\nAnswer: ") -> None:
    """Questions whose first candidate is the likelier."""
    rows = [{"query": f"{number} {query}", "choices": ["aa", "bb"], "gold": gold} for number, gold in enumerate(golds)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_scores_are_written_with_what_they_were_measured_on(tokenizer: Tokenizer, tmp_path: Path):
    write_rows(tmp_path, "toy", [0] * 12 + [1] * 13)
    scores = evaluate_tasks(
        ToyModel(tokenizer),
        [EvalTaskConfig("toy", 2)],
        data=TaskData(tmp_path),
        limit=20,
        output_path=tmp_path / "out",
        definitions={"toy": toy_task("toy", version=7)},
        mutual_information=True,
    )
    assert scores.value("toy", "acc") == 12 / 20
    results, samples = read_results(tmp_path / "out"), read_samples(tmp_path / "out")
    entry = results["tasks"]["toy"]
    assert (entry["n"], entry["n_all"], entry["version"], entry["num_fewshot"]) == (20, 25, 7, 2)
    assert entry["notes"][0] == "the first 20 of 25 questions"
    assert "examples are other rows of the asked" in entry["notes"][1]
    assert entry["chance"] == 0.5 and entry["fewshot_seed"] == 1234 and entry["files"] == ["toy.jsonl"]
    assert entry["metrics"]["acc"]["stderr"] > 0 and entry["metrics"]["acc"]["n"] == 20
    assert set(entry["metrics"]) == {
        "acc",
        "acc_norm",
        "acc_bytes",
        "acc_per_token",
        "acc_mutual_info",
        "bits_per_byte",
    }
    assert results["policy"]["tokenizer_digest"] == tokenizer.digest and results["policy"]["document_prefix"] == "eos"
    assert [row["doc_id"] for row in samples] == list(range(20)) and samples[3]["task"] == "toy"
    assert samples[0]["acc"] is True and samples[19]["acc"] is False and len(samples[0]["prefix_hash"]) == 16
    # the blank that ends the query moved into what is scored, so there are two before the candidate, each -3
    assert samples[0]["log_probs"] == pytest.approx([-8.0, -12.0])


@pytest.mark.parametrize("kind", ["multiple_choice", "continuation"])
@pytest.mark.parametrize(("query", "delimiter"), [("Q", " "), ("Q: \n", ""), ("Q ", "  "), ("Q", "")])
def test_a_uniform_model_of_bytes_takes_the_same_bits_for_every_byte(
    tokenizer: Tokenizer, tmp_path: Path, kind: Any, query: str, delimiter: str
):
    between = delimiter if kind == "multiple_choice" else ""
    rows = [{"query": query, "choices": choices, "gold": 1} for choices in (["A", "B"], ["long", "ééé\n"])]
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = toy_task("toy", delimiter=between)
    if kind == "continuation":
        read = task.read
        task = replace(task, kind=kind, metrics=("acc",), read=lambda row: _first_alone(read({**row, "gold": 0})))
    scores = evaluate_tasks(
        ToyModel(tokenizer, favourites=""),
        [EvalTaskConfig("toy", 0)],
        data=TaskData(tmp_path),
        definitions={"toy": task},
    )
    assert scores.value("toy", "bits_per_byte") == pytest.approx(3 / math.log(2))
    assert [row["bits_per_byte"] for row in scores.samples] == pytest.approx([3 / math.log(2)] * 2)


def _first_alone(example: Example) -> Example:
    return replace(example, contexts=example.contexts[:1], continuations=example.continuations[:1], choices=(), gold=())


def test_a_task_is_judged_as_the_same_questions_are_by_multiple_choice(tokenizer: Tokenizer, tmp_path: Path):
    class Bigram(ToyModel):
        @property
        def scored(self) -> ScoredModel:
            table = np.random.default_rng(1).normal(-5, 3, (300, 300)).astype(np.float32)
            return replace(super().scored, token_log_probs=lambda tokens, targets: table[tokens, targets])

    model = Bigram(tokenizer)
    texts = ["yes", "no", "maybe so", "éé", " two words"]
    rows = [
        {"query": f"{n}{end}", "choices": [texts[n % 5], texts[(n + 1) % 5], texts[(n + 3) % 5]], "gold": n % 3}
        for n, end in enumerate(["?\n", "", " ", "?  \n", ": "] * 6)
    ]
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = evaluate_tasks(
        model,
        [EvalTaskConfig("toy", 0)],
        data=TaskData(tmp_path),
        definitions={"toy": toy_task("toy")},
        mutual_information=True,
        quiet=True,
    )
    questions = [Question(id=str(n), **{**row, "choices": tuple(row["choices"])}) for n, row in enumerate(rows)]
    task = MultipleChoiceTask(name="toy", version=1, questions=tuple(questions), delimiter=" ")
    answers = answer_questions(model.scored, tokenizer, task)
    for answer, row in zip(answers, scores.samples, strict=True):
        assert answer.log_probs == pytest.approx(row["log_probs"])
        assert answer.log_probs_alone == pytest.approx(row["log_probs_alone"])
        assert answer.right == {metric: row[metric] for metric in METRICS}
    assert 0 < scores.value("toy", "acc_mutual_info") < 1


def test_the_asked_row_is_no_example_of_its_own_where_the_first_rows_are(tokenizer: Tokenizer, tmp_path: Path):
    write_rows(tmp_path, "toy", [0, 1, 0, 1])
    task = toy_task("toy", shots=Shots(split="dev", sampler="first"))
    asked = list(prompted(task, TaskData(tmp_path).load(task, 2), num_fewshot=2, seed=1))
    for question in asked:
        assert question.example.question not in question.prefix
        assert question.prefix.count("Q: x") == 2
    assert [question.prefix[0] for question in asked] == ["1", "0", "0", "0"]
    with pytest.raises(ValueError, match="4 examples were asked for and there are 3 rows to take them from"):
        list(prompted(task, TaskData(tmp_path).load(task, 4), num_fewshot=4, seed=1))


def test_the_same_question_in_other_words_has_another_hash(tokenizer: Tokenizer, tmp_path: Path):
    write_rows(tmp_path, "toy", [0, 1, 0])
    hashes = {
        evaluate_tasks(
            ToyModel(tokenizer),
            [EvalTaskConfig("toy", shots)],
            data=TaskData(tmp_path),
            seed=seed,
            definitions={"toy": definition},
        )
        .tasks["toy"]
        .prompt_hash
        for definition, shots, seed in (
            (toy_task("toy"), 0, 1),
            (toy_task("toy"), 0, 2),
            (toy_task("toy"), 1, 1),
            (toy_task("toy"), 1, 5),
            (toy_task("toy", delimiter=""), 0, 1),
        )
    }
    assert len(hashes) == 4  # without examples the seed says nothing


def test_another_judge_of_an_own_task_is_another_evaluation(tmp_path: Path):
    """Its version says nothing of it, and results of the judge before would be found done."""

    def says_a(example: Example, text: str) -> dict[str, float | bool]:
        return {"right": text == "a"}

    def says_b(example: Example, text: str) -> dict[str, float | bool]:
        return {"right": text == "b"}

    write_rows(tmp_path, "toy", [0, 1])
    hashes = []
    for judge in (says_a, says_b, says_a):
        task = replace(toy_task("toy"), kind="generation", writing=Writing(stop=(), filters={}), judge=judge)
        planned = plan_tasks([EvalTaskConfig("toy", 0)], data=TaskData(tmp_path), definitions={"toy": task})
        hashes.append(planned.hashes()["toy"])
    assert hashes[0] == hashes[2] != hashes[1]


def test_a_task_at_several_shots_has_a_key_for_each(tokenizer: Tokenizer, tmp_path: Path):
    write_rows(tmp_path, "toy", [0, 1, 0, 1])
    definitions = {"toy": toy_task("toy")}
    asked = [EvalTaskConfig("toy", 0), EvalTaskConfig("toy", 2), EvalTaskConfig("toy", 2)]
    scores = evaluate_tasks(ToyModel(tokenizer), asked, data=TaskData(tmp_path), definitions=definitions)
    assert list(scores.tasks) == ["toy@0", "toy@2"]
    assert [result.about["task"] for result in scores.tasks.values()] == ["toy", "toy"]
    named = [EvalTaskConfig("toy", 0, "plain"), EvalTaskConfig("toy", 2)]
    scores = evaluate_tasks(ToyModel(tokenizer), named, data=TaskData(tmp_path), definitions=definitions)
    assert list(scores.tasks) == ["plain", "toy@2"]
    with pytest.raises(ValueError, match="two tasks or groups would be listed under 'same'"):
        evaluate_tasks(
            ToyModel(tokenizer),
            [EvalTaskConfig("toy", 0, "same"), EvalTaskConfig("toy", 2, "same")],
            data=TaskData(tmp_path),
            definitions=definitions,
        )


def test_a_task_without_data_is_skipped_counted_and_has_its_command(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture
):
    write_rows(tmp_path, "toy", [0, 1])
    scores = evaluate_tasks(
        ToyModel(tokenizer),
        [*resolve_tasks("copa,ifeval"), EvalTaskConfig("toy", 0)],
        data=TaskData(tmp_path),
        output_path=tmp_path / "out",
        definitions={"toy": toy_task("toy")},
    )
    assert list(scores.tasks) == ["toy"]
    skipped = read_results(tmp_path / "out")["skipped"]
    assert [task["task"] for task in skipped] == ["copa", "ifeval"]
    assert skipped[0]["fetch"].startswith("marin data download hf aps/super_glue --revision 3de24cf")
    assert skipped[1]["fetch"].startswith("marin data download hf google/IFEval")
    printed = capsys.readouterr().out
    assert "2 tasks were skipped:" in printed and "to fetch: marin data download hf" in printed


def test_prompts_that_are_longer_than_the_model_are_counted_and_shown(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture
):
    write_rows(tmp_path, "toy", [0, 1], query="long " * 20)
    scores = evaluate_tasks(
        ToyModel(tokenizer, seq_len=32),
        [EvalTaskConfig("toy", 0)],
        data=TaskData(tmp_path),
        definitions={"toy": toy_task("toy")},
    )
    assert scores.tasks["toy"].counts["num_truncated"] == 2
    assert scores.samples[0]["num_truncated"] > 60
    assert "2 prompts cut on the left" in capsys.readouterr().out


def test_what_a_killed_writer_left_behind_is_taken_away(tokenizer: Tokenizer, tmp_path: Path):
    write_rows(tmp_path, "toy", [0, 1])
    left = tmp_path / "out" / "finished_tasks" / "toy.json.x1y2.tmp"
    left.parent.mkdir(parents=True)
    left.write_text("{")
    scores = evaluate_tasks(
        ToyModel(tokenizer),
        [EvalTaskConfig("toy", 0)],
        data=TaskData(tmp_path),
        definitions={"toy": toy_task("toy")},
        output_path=tmp_path / "out",
    )
    assert scores.path is not None and sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "results.json",
        "samples.jsonl",
    ]


class LossyTokenizer:
    """Writes capital letters small."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.vocab_size, self.bos_id, self.eos_id = tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id
        self.adds_bos = tokenizer.adds_bos

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return self._tokenizer.encode_batch([text.lower() for text in texts])

    def decode(self, ids: np.ndarray) -> str:
        return self._tokenizer.decode(ids)


def test_a_tokenizer_that_does_not_give_a_text_back_is_noticed(tokenizer: Tokenizer, tmp_path: Path):
    lossy = LossyTokenizer(tokenizer)
    definitions = {"toy": toy_task("toy")}
    rows = [{"query": query, "choices": ["aa", "bb"], "gold": 0} for query in ("Capital", "small", "small too")]
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"tasks": [EvalTaskConfig("toy", 0)], "data": TaskData(tmp_path), "definitions": definitions}
    result = evaluate_tasks(ToyModel(lossy), **asked).tasks["toy"]
    assert result.counts["num_not_given_back"] == 1
    assert "does not give the text of 1 of 3 questions back" in result.notes[-1]
    (tmp_path / "toy.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(ValueError, match="the tokenizer gives no text of it back; 'Capitalaabb' becomes 'capitalaabb'"):
        evaluate_tasks(ToyModel(lossy), **asked)


class Stopped(Exception):
    pass


def stop_before(task: str) -> Any:
    """What follows a run and stops it before a task is asked."""

    def follow(key: str) -> Any:
        if key == task:
            raise Stopped
        return lambda num_done, num_all: None

    return follow


def test_a_broken_row_of_the_last_task_is_told_before_the_first_is_asked(tokenizer: Tokenizer, tmp_path: Path):
    write_rows(tmp_path, "first", [0, 1, 1])
    (tmp_path / "second.jsonl").write_text('{"query": "q"}\n')
    model = ToyModel(tokenizer)
    with pytest.raises(ValueError, match=r"second\.jsonl, line 1: no row of this task: no column 'choices'"):
        evaluate_tasks(
            model,
            [EvalTaskConfig("first", 0), EvalTaskConfig("second", 0)],
            data=TaskData(tmp_path),
            definitions={"first": toy_task("first"), "second": toy_task("second")},
        )
    assert not model.calls


def test_a_stopped_run_goes_on_behind_the_last_task_that_was_done(tokenizer: Tokenizer, tmp_path: Path):
    write_rows(tmp_path, "first", [0, 1, 1])
    definitions = {"first": toy_task("first"), "second": toy_task("second")}
    asked = {
        "tasks": [EvalTaskConfig("first", 0), EvalTaskConfig("second", 0)],
        "data": TaskData(tmp_path),
        "definitions": definitions,
        "output_path": tmp_path / "out",
    }
    write_rows(tmp_path, "second", [0, 1])
    model = ToyModel(tokenizer)
    with pytest.raises(Stopped):
        evaluate_tasks(model, **asked, progress=stop_before("second"))
    assert not (tmp_path / "out/results.json").exists() and len(model.calls) > 0

    again = ToyModel(tokenizer)
    scores = evaluate_tasks(again, **asked)
    fresh = ToyModel(tokenizer)
    plain = evaluate_tasks(fresh, **{**asked, "output_path": tmp_path / "other"})
    assert len(again.calls) < len(fresh.calls)  # the first task was not asked again
    assert (tmp_path / "out/results.json").read_bytes() == (tmp_path / "other/results.json").read_bytes()
    assert (tmp_path / "out/samples.jsonl").read_bytes() == (tmp_path / "other/samples.jsonl").read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["results.json", "samples.jsonl"]
    assert list(scores.tasks) == list(plain.tasks)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 5, "shots": 1}, "fewshot_seed 1, now 5"),
        ({"limit": 2}, "limit null, now 2"),
        ({"weights": "1"}, 'weights_sha256 {"toy": "0"}, now {"toy": "1"}'),
        ({"rows": [1, 1, 0]}, "questions "),
        ({"version": 1000}, "evaluation_version "),
    ],
)
def test_what_was_done_under_other_conditions_is_done_again_and_it_says_why(
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    change: dict,
    reason: str,
):
    def run(
        seed: int = 1,
        limit: int | None = None,
        weights: str = "0",
        rows: list[int] | None = None,
        shots: int = 1,
        version: int = 1,
    ) -> int:
        monkeypatch.setattr("marin.evaluation.run_tasks.EVALUATION_VERSION", version)
        write_rows(tmp_path, "first", rows or [0, 1, 1])
        model = ToyModel(tokenizer, description={"weights_sha256": {"toy": weights}})
        with pytest.raises(Stopped):
            evaluate_tasks(
                model,
                [EvalTaskConfig("first", shots), EvalTaskConfig("second", 0)],
                data=TaskData(tmp_path),
                definitions={"first": toy_task("first"), "second": toy_task("second")},
                output_path=tmp_path / "out",
                seed=seed,
                limit=limit,
                progress=stop_before("second"),
            )
        return len(model.calls)

    write_rows(tmp_path, "second", [0])
    assert run() > 0 and run() == 0
    assert "asked again" not in capsys.readouterr().err
    assert run(**change) > 0
    told = capsys.readouterr().err
    assert "first was done, and is asked again: " in told and reason in told


def test_results_are_replaced_only_by_those_of_the_same_evaluation(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    write_rows(tmp_path, "toy", [0, 1, 1])

    def run(**changes: Any) -> str:
        evaluate_tasks(
            ToyModel(tokenizer),
            [EvalTaskConfig("toy", 0)],
            data=TaskData(tmp_path),
            definitions={"toy": toy_task("toy")},
            output_path=tmp_path / "out",
            **changes,
        )
        return (tmp_path / "out" / "results.json").read_text()

    first = run()
    assert run() == first
    with pytest.raises(ValueError, match="another evaluation .config: limit null, now 2; task 'toy' asked other"):
        run(limit=2)
    write_rows(tmp_path, "toy", [1, 1, 1])
    with pytest.raises(ValueError, match="another evaluation .task 'toy' asked other questions"):
        run()
    (tmp_path / "toy.jsonl").unlink()
    with pytest.raises(ValueError, match="another evaluation .task 'toy' is there, and not asked now"):
        run()
    write_rows(tmp_path, "toy", [0, 1, 1])
    monkeypatch.setattr("marin.evaluation.run_tasks.EVALUATION_VERSION", 1000)
    capsys.readouterr()
    again = json.loads(run())
    assert "scored again, as it was scored by evaluation version 4 and this is 1000" in capsys.readouterr().err
    assert again["policy"]["evaluation_version"] == 1000 and again["identity"] != json.loads(first)["identity"]


ANOTHER_TASK = {
    "version": {"version": 2},
    "metrics": {"metrics": ("acc_norm", "acc")},
    "group": {"read": lambda row: choice_example(row["query"], row["choices"], row["gold"], group="one")},
    "choices": {
        "read": lambda row: replace(
            choice_example(row["query"], row["choices"], row["gold"]), choices=("much longer", "b")
        )
    },
}


@pytest.mark.parametrize("change", [*ANOTHER_TASK, "document_prefix"])
def test_a_task_that_would_be_scored_or_told_otherwise_is_asked_again(
    tokenizer: Tokenizer, tmp_path: Path, change: str
):
    write_rows(tmp_path, "second", [0])
    write_rows(tmp_path, "first", [0, 1, 1])

    def run(prefix: Any = None, **changes: Any) -> int:
        model = ToyModel(tokenizer, document_prefix=prefix)
        with pytest.raises(Stopped):
            evaluate_tasks(
                model,
                [EvalTaskConfig("first", 0), EvalTaskConfig("second", 0)],
                data=TaskData(tmp_path),
                progress=stop_before("second"),
                definitions={"first": replace(toy_task("first"), **changes), "second": toy_task("second")},
                output_path=tmp_path / "out",
            )
        return len(model.calls)

    assert run() > 0 and run() == 0
    # "eos" is what the tokenizer begins with anyway, but now it is known and no guess
    assert run(**(ANOTHER_TASK.get(change) or {"prefix": "eos"})) > 0


def test_how_a_text_is_written_and_read_is_part_of_the_prompt_hash(tokenizer: Tokenizer, tmp_path: Path):
    base = Writing(stop=("\n",), max_new_tokens=4, filters={"strip": (Strip(),)})
    writings = [
        base,
        replace(base, stop=(".",)),
        replace(base, max_new_tokens=5),
        replace(base, filters={"strip": (Find("x"),)}),
        replace(base, filters={"strip": (Find("x", which=-1),)}),
        replace(base, normalise=(",",)),
        replace(base, ignore_case=True),
        replace(base, ignore_punctuation=True),
    ]
    (tmp_path / "echo.jsonl").write_text('{"q": "question:", "a": "answer"}\n')
    model = written_by_random_weights(tokenizer)
    hashes = {
        evaluate_tasks(
            model,
            [EvalTaskConfig("echo", 0)],
            data=TaskData(tmp_path),
            definitions={"echo": echo_task(writing)},
            quiet=True,
        )
        .tasks["echo"]
        .prompt_hash
        for writing in writings
    }
    assert len(hashes) == len(writings)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_log_probability_that_is_no_number_names_task_and_question(
    tokenizer: Tokenizer, tmp_path: Path, value: float
):
    write_rows(tmp_path, "toy", [0, 1, 0])
    model = ToyModel(tokenizer)

    class Broken(ToyModel):
        @property
        def scored(self) -> ScoredModel:
            # the question that begins with 2 is the only one of a model that goes wrong behind a 2
            def score(tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
                values = np.array(model.scored.token_log_probs(tokens, targets))
                values[(tokens == ord("2")).any(axis=1)] = value
                return values

            return replace(model.scored, token_log_probs=score)

    for mutual_information in (False, True):
        with pytest.raises(ValueError, match=rf"task 'toy', question 2: .* the log-probability {value}; expected"):
            evaluate_tasks(
                Broken(tokenizer),
                [EvalTaskConfig("toy", 0)],
                data=TaskData(tmp_path),
                definitions={"toy": toy_task("toy")},
                mutual_information=mutual_information,
            )


def test_a_file_of_questions_is_asked_like_a_task_of_the_same_rows(tokenizer: Tokenizer, tmp_path: Path):
    write_rows(tmp_path, "toy", [0, 1, 0, 1])
    (tmp_path / "elsewhere").mkdir()
    file = (tmp_path / "toy.jsonl").rename(tmp_path / "elsewhere" / "mine.jsonl")

    def run(*tasks: EvalTaskConfig, **more: Any) -> TaskScores:
        return evaluate_tasks(ToyModel(tokenizer), tasks, data=TaskData(tmp_path / "none"), quiet=True, **more)

    scores = run(EvalTaskConfig("toy", 2, file=str(file)), output_path=tmp_path / "out")
    file.with_name("toy.jsonl").write_bytes(file.read_bytes())
    of_task = evaluate_tasks(
        ToyModel(tokenizer),
        [EvalTaskConfig("toy", 2)],
        data=TaskData(file.parent),
        definitions={"toy": toy_task("toy", shots=Shots(split="test"))},
        quiet=True,
    )
    assert scores.tasks["toy"].prompt_hash == of_task.tasks["toy"].prompt_hash
    assert scores.samples == of_task.samples and scores.value("toy", "acc") == 0.5
    results = read_results(tmp_path / "out")
    assert results["tasks"]["toy"]["files"] == ["mine.jsonl"] and str(tmp_path) not in json.dumps(results)
    glued = run(EvalTaskConfig("toy", 0, file=str(file), delimiter=""))
    # without the delimiter's blank one byte less is scored
    assert glued.samples[0]["log_probs"] == pytest.approx([-2.0 - 3.0, -6.0 - 3.0])


def test_a_file_of_questions_that_cannot_be_asked_is_told_of(tokenizer: Tokenizer, tmp_path: Path):
    write_rows(tmp_path, "mine", [0])
    file = str(tmp_path / "mine.jsonl")

    def refused(*tasks: EvalTaskConfig, error: type[Exception] = ValueError) -> str:
        with pytest.raises(error) as told:
            evaluate_tasks(ToyModel(tokenizer), tasks, data=TaskData(tmp_path))
        return str(told.value)

    assert "no file nowhere.jsonl" in refused(EvalTaskConfig("a", 0, file="nowhere.jsonl"), error=FileNotFoundError)
    assert "as a task of marin's is" in refused(EvalTaskConfig("copa", 0, file=file))
    two = EvalTaskConfig("a", 0, file=file), EvalTaskConfig("a", 1, file=file, delimiter="")
    assert "is the name of two files" in refused(*two)
    for row, told in (('{"query": "q", "choices": ["a", "b"]}', "no column 'gold'"), ('{"choices": "ab"}', "a list")):
        Path(file).write_text(row + "\n")
        message = refused(EvalTaskConfig("a", 0, file=file))
        assert "mine.jsonl, line 1" in message and told in message


def test_groups_and_tasks_at_several_shots_stand_beside_one_another(tokenizer: Tokenizer, tmp_path: Path):
    known = {}
    for name in ("mmlu_anatomy", "mmlu_virology"):
        write_rows(tmp_path, name, [0, 1, 1, 1])
        known[name] = toy_task(name)

    def keys(*configs: EvalTaskConfig) -> tuple[set[str], set[str]]:
        asked = {"data": TaskData(tmp_path), "definitions": known, "quiet": True}
        scores = evaluate_tasks(ToyModel(tokenizer), configs, **asked)
        return set(scores.tasks), set(scores.groups)

    tasks, groups = keys(EvalTaskConfig("mmlu", 0), EvalTaskConfig("mmlu_stem", 1))
    assert tasks == {"mmlu_anatomy@0", "mmlu_anatomy@1", "mmlu_virology"}
    assert groups == {"mmlu", "mmlu_stem@0", "mmlu_stem@1", "mmlu_other"}
    assert keys(EvalTaskConfig("mmlu", 0, "all"), EvalTaskConfig("mmlu_stem", 0))[1] == {
        "all",
        "mmlu_stem",
        "mmlu_other",
    }
    for configs, wrong in (
        ([EvalTaskConfig("mmlu", 0, "mmlu_anatomy")], "would be listed under 'mmlu_anatomy'"),
        ([EvalTaskConfig("mmlu", 0, "mmlu_stem")], "would be listed under 'mmlu_stem'"),
        ([EvalTaskConfig("mmlu_anatomy", 0, "a"), EvalTaskConfig("mmlu_anatomy", 0, "b")], "has two names"),
        ([EvalTaskConfig("mmlu_stem", 0, "a"), EvalTaskConfig("mmlu_stem", 0, "b")], "has two names"),
        ([EvalTaskConfig("mmlu_anatomy", 0, "CORE-1")], "is what a CORE average is listed under"),
    ):
        with pytest.raises(ValueError, match=wrong):
            keys(*configs)


def test_a_group_has_a_score_and_says_what_it_misses(tokenizer: Tokenizer, tmp_path: Path):
    known = {}
    for index, name in enumerate(("mmlu_anatomy", "mmlu_astronomy")):
        write_rows(tmp_path, name, [0] * (index + 2) + [1] * 3)
        known[name] = toy_task(name)
    scores = evaluate_tasks(
        ToyModel(tokenizer),
        [EvalTaskConfig("mmlu", 0), EvalTaskConfig("mmlu_anatomy", 0)],
        data=TaskData(tmp_path),
        definitions=known,
        output_path=tmp_path / "out",
    )
    assert list(scores.tasks) == ["mmlu_anatomy", "mmlu_astronomy"] and len(scores.skipped) == 55
    assert set(scores.groups) == {"mmlu", "mmlu_stem"}
    stem = read_results(tmp_path / "out")["groups"]["mmlu_stem"]
    assert stem["n"] == 11 and len(stem["missing"]) == 17 and stem["metrics"]["acc"]["value"] == pytest.approx(5 / 11)
    assert scores.value("mmlu", "acc") == pytest.approx(5 / 11)


def test_the_core_average_is_named_by_the_tasks_that_had_data(tokenizer: Tokenizer, tmp_path: Path):
    write_rows(tmp_path, "one", [0, 0, 0, 1])
    write_rows(tmp_path, "two", [1, 1, 0, 0])
    definitions = {"one": toy_task("one"), "two": toy_task("two", core_baseline=0.75)}
    scores = evaluate_tasks(
        ToyModel(tokenizer),
        [EvalTaskConfig("one", 0), EvalTaskConfig("two", 0), EvalTaskConfig("copa", 0)],
        data=TaskData(tmp_path),
        definitions=definitions,
        metrics="core",
        output_path=tmp_path / "out",
    )
    assert scores.core is not None and scores.core["name"] == "CORE-2" and scores.core["missing"] == ["copa"]
    assert scores.core["metrics"]["centred"]["value"] == pytest.approx((0.5 - 1.0) / 2)
    assert "CORE-2" in read_results(tmp_path / "out")["groups"]


def test_another_baseline_of_core_is_another_evaluation(tokenizer: Tokenizer, tmp_path: Path):
    write_rows(tmp_path, "one", [0, 0, 0, 1])

    def run(baseline: float | None, out: str) -> dict[str, Any]:
        evaluate_tasks(
            ToyModel(tokenizer),
            [EvalTaskConfig("one", 0)],
            data=TaskData(tmp_path),
            definitions={"one": toy_task("one", core_baseline=baseline)},
            metrics="core",
            output_path=tmp_path / out,
        )
        return read_results(tmp_path / out)

    none, quarter, half = (run(each, f"{each}") for each in (None, 0.25, 0.5))
    assert quarter["groups"]["CORE-1"]["metrics"] != half["groups"]["CORE-1"]["metrics"]
    assert len({each["identity"] for each in (none, quarter, half)}) == 3
    with pytest.raises(ValueError, match="another evaluation .policy: core_baselines"):
        run(0.5, "0.25")


def test_core_counts_its_tasks_at_its_shots_and_ones_own_once(tokenizer: Tokenizer, tmp_path: Path):
    definitions = {name: toy_task(name) for name in ("arc_easy", "hellaswag", "mine")}
    for name in definitions:
        write_rows(tmp_path, name, [0, 1] * 8)

    def core(*asked: tuple[str, int]) -> Mapping[str, Any] | None:
        return evaluate_tasks(
            ToyModel(tokenizer),
            [EvalTaskConfig(*each) for each in asked],
            data=TaskData(tmp_path),
            definitions=definitions,
            metrics="core",
        ).core

    found = core(("arc_easy", 0), ("arc_easy", 10), ("mine", 2), ("mine", 0), ("hellaswag", 0), ("hellaswag", 10))
    assert found is not None and found["name"] == "CORE-4"
    assert found["tasks"] == ["arc_easy@10", "mine@2", "hellaswag@0", "hellaswag@10"]
    assert found["not_counted"] == ["arc_easy@0", "mine@0"]
    assert core(("arc_easy", 0)) is None


def test_the_baseline_of_four_choices_is_not_that_of_five(tokenizer: Tokenizer, tmp_path: Path):
    def baseline() -> float:
        scores = evaluate_tasks(
            ToyModel(tokenizer, seq_len=512),
            [EvalTaskConfig("commonsense_qa", 10)],
            data=TaskData(tmp_path),
            metrics="core",
        )
        assert scores.core is not None
        return scores.core["centred"]["commonsense_qa"]["baseline"]

    listed = "\n".join(f"{letter}. {letter}{letter}" for letter in "ABCD")
    query = f"Question: what?\nChoices:\n{listed}\nAnswer:"
    rows = [{"query": query.replace("what", str(n)), "choices": list("ABCD"), "gold": n % 4} for n in range(12)]
    local = tmp_path / "mosaic/commonsense_reasoning/commonsense_qa.jsonl"
    local.parent.mkdir(parents=True)
    local.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert baseline() == 0.403

    letters = list("ABCDE")
    published = [
        {"question": f"{n}?", "choices": {"label": letters, "text": letters}, "answerKey": letters[n % 5]}
        for n in range(12)
    ]
    for split in ("validation", "train"):
        file = tmp_path / f"hub/tau/commonsense_qa/data/{split}-0.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(published), file)
    assert baseline() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("task", "context"),
    [
        ("squad_completion", "Context: Passage {passage}.\nQuestion: Number {question}?\nAnswer:"),
        (
            "coqa_completion",
            "A story.\n\nPassage {passage}.\n\nFinal question:\nQuestion: {question}?\nAnswer: ",
        ),
        (
            "coqa_completion",
            "Passage: {passage}\n\nPreceding questions:\nQuestion: {question}\nAnswer: x\nFinal question: y",
        ),
    ],
)
def test_questions_about_one_passage_are_one_cluster_of_a_reading_task(
    tokenizer: Tokenizer, tmp_path: Path, task: str, context: str
):
    rows = [
        {"context": context.format(passage=passage, question=question), "continuation": "yes"}
        for passage in range(3)
        for question in range(4)
    ]
    file = tmp_path / TASKS[task].local[0].files["test"]
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = evaluate_tasks(ToyModel(tokenizer), [EvalTaskConfig(task, 0)], data=TaskData(tmp_path))
    assert scores.tasks[task].counts["num_groups"] == 3
    assert len({row["group"] for row in scores.samples[:4]}) == 1 and scores.tasks[task].version == 3
    file.write_text('{"context": "no passage", "continuation": "yes"}\n')
    with pytest.raises(ValueError, match=r"line 1: .* expected a passage, then a line that begins with 'Question:'"):
        evaluate_tasks(ToyModel(tokenizer), [EvalTaskConfig(task, 0)], data=TaskData(tmp_path))


def test_an_unknown_task_is_an_error_with_near_misses(tokenizer: Tokenizer, tmp_path: Path):
    for call in (
        lambda: resolve_tasks("helaswag"),
        lambda: evaluate_tasks(ToyModel(tokenizer), [EvalTaskConfig("helaswag", 0)], data=TaskData(tmp_path)),
    ):
        with pytest.raises(ValueError, match=r"no task, group or list 'helaswag'; did you mean 'hellaswag'\?"):
            call()
    with pytest.raises(ValueError, match="expected a number of examples behind @"):
        resolve_tasks("mmlu@five")
    with pytest.raises(ValueError, match="no task is named"):
        resolve_tasks(" , ")
    with pytest.raises(ValueError, match="limit is 0"):
        evaluate_tasks(ToyModel(tokenizer), CORE_TASKS, data=TaskData(tmp_path), limit=0)


def test_names_stand_for_lists_groups_and_tasks():
    assert resolve_tasks("core,copa,gsm8k") == (*CORE_TASKS, EvalTaskConfig("gsm8k", 5))
    ours = EvalTaskConfig("q", 0, file="my/q.jsonl.gz"), EvalTaskConfig("mine", 3, file="a=b/q.parquet")
    assert resolve_tasks("my/q.jsonl.gz,mine=a=b/q.parquet@3") == ours
    assert resolve_tasks("core", shots=1)[0] == EvalTaskConfig("agieval_lsat_ar", 1)
    assert resolve_tasks("copa@0,mine=q.jsonl@0,arc_easy", shots=2) == (
        *(EvalTaskConfig("copa", 0), EvalTaskConfig("mine", 0, file="q.jsonl"), EvalTaskConfig("arc_easy", 2)),
    )
    assert resolve_tasks("core_plus_mmlu") == CORE_TASKS_PLUS_MMLU
    assert len(task_names("mmlu")) == 57 and len(DCLM_CORE_TASKS) == 22
    for configs in LISTS.values():
        assert all(set(task_names(config.name)) <= set(TASKS) for config in configs)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tokenizer: Tokenizer, tmp_path: Path):
    model = ToyModel(tokenizer)

    class Small(ToyModel):
        @property
        def scored(self) -> ScoredModel:
            return replace(model.scored, vocab_size=100)

    with pytest.raises(ValueError, match="vocabulary mismatch"):
        evaluate_tasks(Small(tokenizer), [EvalTaskConfig("copa", 0)], data=TaskData(tmp_path))


def written_by_random_weights(tokenizer: Tokenizer) -> ExportedModel:
    config = Gpt2Config(seq_len=64, hidden_dim=16, num_layers=1, num_heads=2, initializer_range=0.5)
    params = init_params(config, tokenizer.vocab_size, key=jax.random.key(3))
    return ExportedModel(
        loaded=LoadedModel(config=config, params=params, vocab_size=tokenizer.vocab_size),
        scored=scored_model(config, params, tokenizer.vocab_size),
        tokenizer=tokenizer,
        document_prefix=None,
        description={},
    )


def echo_task(writing: Writing) -> TaskDefinition:
    """Rows {q, a} of the file echo.jsonl."""
    return TaskDefinition(
        name="echo",
        kind="generation",
        about="a toy",
        source=Source(repository="nobody/toy", revision=None, licence="none", files={"test": "toy.parquet"}),
        local=(LocalFiles(files={"test": "echo.jsonl"}, adapt=lambda row: row),),
        read=lambda row: written(row["q"], row["a"]),
        writing=writing,
        metrics=("exact_match,strip",),
    )


def test_texts_are_written_and_their_answers_compared(tokenizer: Tokenizer, tmp_path: Path):
    model = written_by_random_weights(tokenizer)
    task = echo_task(Writing(stop=("\n\n",), max_new_tokens=4, filters={"strip": (Strip(),)}))

    def run(*answers: str) -> TaskScores:
        rows = [{"q": f"question {number}:", "a": answer} for number, answer in enumerate(answers)]
        (tmp_path / "echo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        asked = [EvalTaskConfig("echo", 0)]
        return evaluate_tasks(model, asked, data=TaskData(tmp_path), definitions={"echo": task}, quiet=True)

    first = run("wrong", "also wrong")
    assert first.value("echo", "exact_match,strip") == 0
    texts = [row["resps"][0] for row in first.samples]
    again = run(texts[0].strip(), "still wrong")
    assert [row["resps"][0] for row in again.samples] == texts
    assert again.value("echo", "exact_match,strip") == (1 + (texts[1].strip() == "still wrong")) / 2
    assert again.samples[0]["filtered_resps"] == {"strip": texts[0].strip()}
    assert again.tasks["echo"].counts["num_ended_by_length"] == 2 and again.tasks["echo"].chance is None


def test_programs_run_only_where_their_task_is_named(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    limits = ExecutionLimits(timeout_s=2.0, required_isolation=())
    prompt = "def double(x):\n"
    check = "def check(f):\n    assert f(3) == 6"
    row = {"prompt": prompt, "canonical_solution": "    return 2 * x", "test": check, "entry_point": "double"}
    path = tmp_path / "hub/openai/openai_humaneval/openai_humaneval/test-0.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row] * 3), path)
    bodies = [
        "    return x + x",
        "    return x",
        "    while True: pass",
        "    return 2 * x",
        "    exit()",
        "    return 6",
    ]

    def write(model: Any, tokenizer: Any, prompts: list[str], *, num_samples: int, **settings: Any) -> list[Any]:
        assert prompts == [prompt] * 3 and num_samples == 2
        return [SimpleNamespace(text=body, finish_reason="stop", num_prompt_tokens_cut=0) for body in bodies]

    monkeypatch.setattr("marin.inference.text.generate_text", write)
    task = TASKS["humaneval"]
    assert task.writing is not None
    twice = replace(task, writing=replace(task.writing, num_samples=2, temperature=0.2))

    def run(*allowed: str) -> TaskScores:
        return evaluate_tasks(
            ToyModel(tokenizer),
            [EvalTaskConfig("humaneval", 0)],
            data=TaskData(tmp_path),
            definitions={"humaneval": twice},
            allow_code_execution=allowed,
            limits=limits,
            quiet=True,
        )

    refused = run("mbpp")
    assert not refused.tasks and "off unless asked for by name" in refused.skipped[0]["reason"]
    scores = run("humaneval")
    assert [row["pass@1"] for row in scores.samples] == [0.5, 0.5, 0.5]
    ended = [[program["reason"] for program in row["programs"]] for row in scores.samples]
    assert ended == [["passed", "failed"], ["timeout", "passed"], ["failed", "passed"]]
    assert scores.value("humaneval", "pass@1") == 0.5
