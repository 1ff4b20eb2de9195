"""Two models are compared on the same questions, and what is not the same task is not compared."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.evaluation.api import compare_evaluations
from marin.evaluation.compare import compare, read_run
from marin.evaluation.compare_read import ScoredRun
from marin.evaluation.compare_report import disagreement_lines, markdown, notes, run, summary, table_rows, to_json
from marin.evaluation.compare_types import CHANCE_OF_TWO_SE, seed_spread
from marin.evaluation.config import CompareConfig
from marin.evaluation.results import TaskResult, metric_entry, read_samples, write_results
from marin.evaluation.statistics import mcnemar_exact, mean_estimate, proportion_estimate
from marin.execution.executor import ExecutorStep


def task_of(values: Mapping[str, Sequence[float]], **changes: Any) -> TaskResult:
    n = len(next(iter(values.values())))
    fields: dict[str, Any] = {"version": 1, "n": n, "prompt_hash": "a" * 64} | changes
    metrics = {
        name: metric_entry(mean_estimate(np.asarray(x, float)), higher_is_better=True) for name, x in values.items()
    }
    return TaskResult(metrics=metrics, **fields)


def rows_of(task: str, values: Mapping[str, Sequence[Any]], **changes: Sequence[Any]) -> list[dict[str, Any]]:
    columns = {"doc_id": [f"q{i}" for i in range(len(next(iter(values.values()))))], **values, **changes}
    return [{"task": task} | dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def evaluated(folder: Path, values: Mapping[str, Sequence[float]], *, task: str = "arc", **changes: Any) -> ScoredRun:
    """An evaluation of one task on disk, and read back."""
    columns = {name: changes.pop(name) for name in ("doc_id", "group", "query", "target", "choices") if name in changes}
    write_results(folder, model={}, tasks={task: task_of(values, **changes)}, samples=rows_of(task, values, **columns))
    return read_run(folder, folder.name)


def one_metric(found: Any) -> Any:
    [metric] = found.metrics
    return metric


def test_the_error_is_that_of_the_paired_differences(tmp_path: Path):
    a_hits, b_hits = [1, 1, 1, 0, 0, 1, 1, 0, 1, 1], [1, 0, 1, 0, 0, 0, 1, 0, 0, 0]
    a, b = evaluated(tmp_path / "a", {"acc": a_hits}), evaluated(tmp_path / "b", {"acc": b_hits})
    metric = one_metric(compare([a], [b]))
    differences = np.array(a_hits) - np.array(b_hits)
    assert (metric.a, metric.b) == (0.7, 0.3)
    assert metric.comparison.difference.value == pytest.approx(0.4)
    assert metric.comparison.difference.stderr == pytest.approx(differences.std(ddof=1) / math.sqrt(10))
    assert metric.comparison.smallest_detectable == pytest.approx(2.8 * metric.comparison.difference.stderr)
    assert metric.comparison.p_value == mcnemar_exact(np.array(a_hits), np.array(b_hits)) == 0.125  # 2 * 0.5^4
    assert (metric.only_a_right, metric.only_b_right) == (4, 0)
    # 2.4 standard errors, but the exact test says that four of four may be chance
    assert metric.verdict == "no difference seen: too few disagreements" and not metric.seen


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
@settings(max_examples=30)
def test_exchanging_the_sides_turns_every_sign(tmp_path_factory: pytest.TempPathFactory, pairs: list):
    folder = tmp_path_factory.mktemp("pairs")
    a = evaluated(folder / "a", {"acc": [float(x) for x, _ in pairs]})
    b = evaluated(folder / "b", {"acc": [float(y) for _, y in pairs]})
    one, other = one_metric(compare([a], [b])), one_metric(compare([b], [a]))
    assert one.comparison.difference.value == -other.comparison.difference.value
    assert one.comparison.difference.stderr == other.comparison.difference.stderr
    assert one.comparison.p_value == other.comparison.p_value
    assert (one.only_a_right, one.only_b_right) == (other.only_b_right, other.only_a_right)
    turned = one.verdict.replace("A", "?").replace("B", "A").replace("?", "B")
    assert turned == other.verdict


def test_below_two_paired_errors_no_difference_is_seen(tmp_path: Path):
    a = evaluated(tmp_path / "a", {"acc": [1, 0, 1, 0, 1, 1, 0, 1]})
    b = evaluated(tmp_path / "b", {"acc": [0, 1, 1, 0, 1, 1, 0, 0]})
    assert one_metric(compare([a], [b])).verdict == "no difference seen"
    assert one_metric(compare([a], [a])).verdict == "no difference seen: the same on every question"
    assert one_metric(compare([a], [a])).comparison.difference.value == 0


def test_a_lower_loss_is_better(tmp_path: Path):
    rng = np.random.default_rng(0)
    rows = []
    for name, shift in (("a", 0.0), ("b", 0.3)):
        bits, sizes = 800 + rng.normal(0, 5, 30) + 100 * shift, np.full(30, 100)
        entry = metric_entry(mean_estimate(bits / sizes), higher_is_better=False)
        loss = {"value": bits.sum() * math.log(2) / (30 * 25), "higher_is_better": False}
        metrics = {"bits_per_byte": entry, "loss": loss}
        task = TaskResult(version=1, n=30, prompt_hash="b" * 64, metrics=metrics)
        samples = [
            {
                "task": "text",
                "doc_id": i,
                "bits": {"model": bits[i], "uniform": 8.0},
                "num_bytes": 100,
                "num_tokens": 25,
            }
            for i in range(30)
        ]
        write_results(tmp_path / name, model={}, tasks={"text": task, "text/uniform": task}, samples=samples)
        rows.append(read_run(tmp_path / name, name))
    metric, loss = compare([rows[0]], [rows[1]]).metrics
    assert metric.metric == "bits_per_byte" and metric.verdict == "A is better"
    assert metric.comparison.difference.value == pytest.approx(-0.3, abs=0.05)
    # 4 bytes a token, in nats
    assert loss.comparison.difference.value == pytest.approx(4 * math.log(2) * metric.comparison.difference.value)
    assert loss.comparison.difference.stderr == pytest.approx(4 * math.log(2) * metric.comparison.difference.stderr)


def test_answers_to_one_passage_are_one_cluster(tmp_path: Path):
    hits, groups = [1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0], [*"aaabbbcccddd"]
    a = evaluated(tmp_path / "a", {"acc": hits}, group=groups)
    b = evaluated(tmp_path / "b", {"acc": [0] * 12}, group=groups)
    found = compare([a], [b])
    difference = one_metric(found).comparison.difference
    assert difference.num_clusters == 4
    expected = mean_estimate(np.array(hits, float), groups)
    assert difference.stderr == expected.stderr
    assert difference.stderr > mean_estimate(np.array(hits, float)).stderr
    assert any("4 groups of questions only" in line for line in notes(found))


def test_a_perplexity_is_compared_by_the_delta_method(tmp_path: Path):
    rng = np.random.default_rng(1)
    x, y = rng.normal(-2, 0.5, 400), rng.normal(-2, 0.5, 400)
    runs = []
    for name, values in (("a", x), ("b", y)):
        entry = {"value": math.exp(-values.mean()), "higher_is_better": False}
        task = TaskResult(version=1, n=400, prompt_hash="c" * 64, metrics={"perplexity": entry})
        write_results(
            tmp_path / name,
            model={},
            tasks={"lambada": task},
            samples=rows_of("lambada", {"perplexity": values.tolist()}),
        )
        runs.append(read_run(tmp_path / name))
    metric = one_metric(compare(runs[:1], runs[1:]))
    draws = rng.integers(0, 400, (2000, 400))
    resampled = np.exp(-x[draws].mean(axis=1)) - np.exp(-y[draws].mean(axis=1))
    assert metric.comparison.difference.value == pytest.approx(math.exp(-x.mean()) - math.exp(-y.mean()))
    assert metric.comparison.difference.stderr == pytest.approx(resampled.std(), rel=0.06)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt_hash": "f" * 64}, "prompt_hash is aaaaaaaaaaaa in a and ffffffffffff in b"),
        ({"version": 2}, "version is 1 in a and 2 in b"),
        ({"num_fewshot": 5}, "num_fewshot is 0 in a and 5 in b"),
        ({"target": [1, 1]}, "target differs between a and b in 1 rows, first 'q0'"),
    ],
)
def test_another_task_of_the_same_name_is_refused_by_name(tmp_path: Path, changes: dict, said: str):
    a = evaluated(tmp_path / "a", {"acc": [1, 0]}, target=[0, 1])
    b = evaluated(tmp_path / "b", {"acc": [1, 0]}, **({"target": [0, 1]} | changes))
    found = compare([a], [b])
    assert found.refused == {"arc": said}
    assert found.tasks == ()


def test_questions_that_one_side_lacks_are_left_out_and_counted(tmp_path: Path):
    a = evaluated(tmp_path / "a", {"acc": [1, 0, 1, 1]}, doc_id=[1, 2, 3, 4])
    b = evaluated(tmp_path / "b", {"acc": [1, 0, 0]}, doc_id=[2, 3, 9])
    found = compare([a], [b])
    [task] = found.tasks
    assert (task.num_paired, task.num_only_a, task.num_only_b, task.num_partly) == (2, 2, 1, 0)
    assert (one_metric(found).a, one_metric(found).b) == (0.5, 0.5)
    assert "arc: 2 questions are paired, 2 in A alone, 1 in B alone left out" in notes(found)


def test_tasks_that_one_side_lacks_are_told(tmp_path: Path):
    a = evaluated(tmp_path / "a", {"acc": [1, 0]}, task="arc")
    b = evaluated(tmp_path / "b", {"acc": [1, 0]}, task="piqa")
    found = compare([a], [b])
    assert (found.missing_in_a, found.missing_in_b, found.tasks) == (("piqa",), ("arc",), ())
    assert {"not in A: piqa", "not in B: arc"} <= set(notes(found))


def test_a_score_that_its_rows_do_not_give_is_not_compared(tmp_path: Path):
    a = evaluated(tmp_path / "a", {"acc": [1, 0, 1], "acc_norm": [1, 1, 1]})
    b = evaluated(tmp_path / "b", {"acc": [1, 1, 1], "acc_norm": [1, 1, 0]})
    content = json.loads((tmp_path / "b" / "results.json").read_text())
    content["tasks"]["arc"]["metrics"]["acc"]["value"] = 0.9
    (tmp_path / "b" / "results.json").write_text(json.dumps(content))
    found = compare([a], [read_run(tmp_path / "b", "b")])
    assert one_metric(found).metric == "acc_norm"
    assert found.tasks[0].not_compared == {"acc": "b: 0.9 in results.json is not what its rows give (mean 1)"}
    assert b.rows["arc"]["q0"]["acc"] == 1


def test_seeds_add_their_spread_to_the_sampling_error(tmp_path: Path):
    rng = np.random.default_rng(0)
    hits = [(rng.random(200) < p).astype(float) for p in (0.50, 0.58, 0.54, 0.60, 0.61)]
    runs = [evaluated(tmp_path / f"run{i}", {"acc": list(x)}) for i, x in enumerate(hits)]
    found = compare(runs[:3], runs[3:])
    metric = one_metric(found)
    means = [float(x.mean()) for x in hits]
    spread = np.sqrt((np.var(means[:3]) * 3 + np.var(means[3:]) * 2) / 3)
    assert metric.seeds.scores_a == pytest.approx(means[:3])
    assert metric.seeds.sd == pytest.approx(spread)
    assert metric.seeds.stderr == pytest.approx(spread * math.sqrt(1 / 3 + 1 / 2))
    paired = np.mean(hits[:3], axis=0) - np.mean(hits[3:], axis=0)
    assert metric.question_stderr == pytest.approx(paired.std(ddof=1) / math.sqrt(200))
    assert metric.comparison.difference.stderr == pytest.approx(math.hypot(metric.question_stderr, metric.seeds.stderr))
    assert metric.comparison.p_value is None and metric.only_a_right is None
    assert any("sd between seeds" in line for line in notes(found))
    assert not any("other seeds" in line for line in notes(found))


def test_the_spread_of_one_side_stands_for_both_where_the_other_is_one_run():
    spread = seed_spread([0.5, 0.7], [0.4])
    assert spread.sd == pytest.approx(math.sqrt(0.02))
    assert spread.stderr == pytest.approx(math.sqrt(0.02) * math.sqrt(1 / 2 + 1))
    with pytest.raises(ValueError, match="three in all"):
        seed_spread([0.5], [0.4])


def test_equal_seeds_lie_two_errors_apart_as_rarely_as_said(tmp_path: Path):
    """Of pairs of equal models about 4.6% lie two standard errors apart: what `expected_by_chance` counts on."""
    rng = np.random.default_rng(5)
    columns = {f"m{i}": (rng.random(300) < 0.5).astype(float).tolist() for i in range(200)}
    others = {name: (rng.random(300) < 0.5).astype(float).tolist() for name in columns}
    found = compare([evaluated(tmp_path / "a", columns)], [evaluated(tmp_path / "b", others)])
    apart = sum(metric.comparison.seen for metric in found.metrics)
    assert found.num_tested == 200 and found.expected_by_chance == pytest.approx(200 * CHANCE_OF_TWO_SE)
    assert abs(apart - found.expected_by_chance) < 3 * math.sqrt(200 * CHANCE_OF_TWO_SE)
    assert summary(found)[0].startswith("200 comparisons: ") and "about 9.1 of them" in summary(found)[0]


@pytest.mark.parametrize(("num_a", "num_b", "sd"), [(2, 1, 0.15), (2, 2, 0.1)])
def test_equal_recipes_with_few_seeds_are_seldom_called_different(num_a: int, num_b: int, sd: float):
    rng = np.random.default_rng(7)
    num_trials, num_questions = 100, 50
    runs = []
    for index in range(num_a + num_b):
        rates = 0.5 + rng.normal(0, sd, num_trials)  # of each trial another run of one recipe
        hits = (rng.random((num_questions, num_trials)) < rates).astype(float)
        metrics = {f"m{i}": {"value": float(hits[:, i].mean())} for i in range(num_trials)}
        entry = {"version": 1, "num_fewshot": 0, "prompt_hash": "a", "metrics": metrics}
        rows = {f"q{j}": {f"m{i}": hits[j, i] for i in range(num_trials)} for j in range(num_questions)}
        runs.append(ScoredRun(label=f"run{index}", results={"tasks": {"arc": entry}}, rows={"arc": rows}))
    found = compare(runs[:num_a], runs[num_a:])
    share = np.mean([metric.seen for metric in found.metrics])
    assert share <= CHANCE_OF_TWO_SE + 3 * math.sqrt(CHANCE_OF_TWO_SE / num_trials)
    held = [low <= 0 <= high for metric in found.metrics for low, high in [metric.comparison.difference.ci95]]  # type: ignore[misc]
    assert np.mean(held) >= 0.88


def test_disagreements_are_listed_in_both_directions(tmp_path: Path):
    changes = {"query": [f"question {i}?" for i in range(5)], "choices": [["no", "yes"]] * 5, "target": [1, 0, 1, 0, 1]}
    a = evaluated(tmp_path / "a", {"acc": [1, 1, 0, 1, 0]}, **changes)
    b = evaluated(tmp_path / "b", {"acc": [0, 0, 1, 1, 1]}, **changes)
    found = compare([a], [b], num_disagreements=1)
    assert [(each.better, each.doc_id) for each in found.disagreements] == [("A", "q0"), ("B", "q2")]
    assert [each.doc_id for each in compare([a], [b], num_disagreements=9).disagreements] == ["q0", "q1", "q2", "q4"]
    assert compare([a], [b]).disagreements == ()
    text = "\n".join(disagreement_lines(found))
    assert "arc acc: A did better on" in text and "question 0?" in text and "target  yes" in text


def test_tasks_are_chosen_by_name_pattern_and_shots(tmp_path: Path):
    names = ["mmlu_law", "mmlu_art", "hellaswag@0", "hellaswag@10", "arc"]
    for side, hits in (("a", [1, 0]), ("b", [1, 1])):
        write_results(
            tmp_path / side,
            model={},
            tasks={name: task_of({"acc": hits}) for name in names},
            samples=list(itertools.chain(*(rows_of(name, {"acc": hits}) for name in names))),
        )
    a, b = ([read_run(tmp_path / side, side)] for side in ("a", "b"))
    assert [t.task for t in compare(a, b, tasks=["mmlu_*"]).tasks] == ["mmlu_law", "mmlu_art"]
    assert [t.task for t in compare(a, b, tasks=["arc", "hellaswag"]).tasks] == ["hellaswag@0", "hellaswag@10", "arc"]
    assert [t.task for t in compare(a, b, tasks=["hellaswag@10"]).tasks] == ["hellaswag@10"]
    with pytest.raises(ValueError, match=r"no task 'hellswag' .* did you mean hellaswag@0"):
        compare(a, b, tasks=["hellswag"])
    with pytest.raises(ValueError, match="no metric 'acc_nrm'"):
        compare(a, b, metrics=["acc_nrm"])


def test_a_comparison_without_runs_or_with_a_negative_count_is_refused(tmp_path: Path):
    a = evaluated(tmp_path / "a", {"acc": [1, 0]})
    with pytest.raises(ValueError, match="A has 1 runs and B 0"):
        compare([a], [])
    with pytest.raises(ValueError, match="num_disagreements is -1"):
        compare([a], [a], num_disagreements=-1)


def test_damaged_files_are_named_with_the_place(tmp_path: Path):
    def fresh(name: str) -> Path:
        evaluated(tmp_path / name, {"acc": [1, 0, 1]})
        return tmp_path / name

    with pytest.raises(FileNotFoundError, match="expected the folder of an evaluation"):
        read_run(tmp_path / "nowhere")
    folder = fresh("cut")
    lines = (folder / "samples.jsonl").read_text().splitlines()
    (folder / "samples.jsonl").write_text("\n".join(lines[:2]) + "\n")
    with pytest.raises(ValueError, match=r"tells of 3 rows and samples\.jsonl has 2"):
        read_run(folder)
    (folder / "samples.jsonl").write_text("\n".join([lines[0], lines[1][:-5], lines[2]]) + "\n")
    with pytest.raises(ValueError, match=r"samples\.jsonl, line 2: no JSON"):
        read_run(folder)
    (folder / "samples.jsonl").write_text("\n".join([lines[0], lines[0], lines[2]]) + "\n")
    with pytest.raises(ValueError, match="row 2: task 'arc' has doc_id 'q0' twice"):
        read_run(folder)
    (folder / "samples.jsonl").write_text("\n".join([lines[0], "[1]", lines[2]]) + "\n")
    with pytest.raises(ValueError, match="row 2: expected an object with task and doc_id"):
        read_run(folder)
    (folder / "samples.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"samples\.jsonl beside"):
        read_run(folder)
    (folder / "results.json").write_text('{"format_version": ')
    with pytest.raises(ValueError, match="is no JSON"):
        read_run(folder)


def step_config(folder: Path, **changes: Any) -> CompareConfig:
    plain = {"a_paths": (str(folder / "a"),), "b_paths": (str(folder / "b"),), "output_path": str(folder / "out")}
    return CompareConfig(**(plain | {"a_name": "base", "b_name": "tuned"} | changes))


def test_the_step_writes_a_page_and_json_without_places(tmp_path: Path):
    evaluated(tmp_path / "a", {"acc": [1, 1, 0, 1, 0]}, query=["a | b", "```", "c", "d", "e"])
    evaluated(tmp_path / "b", {"acc": [0, 0, 1, 1, 1]}, query=["a | b", "```", "c", "d", "e"])
    path = run(step_config(tmp_path))
    content = json.loads(path.read_text())
    assert (content["a"], content["b"], content["num_comparisons"]) == (["base"], ["tuned"], 1)
    assert content["tasks"][0]["metrics"]["acc"]["verdict"] == "no difference seen"
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert page.startswith("# base (A) against tuned (B)\n") and page.count("```") == 2
    assert str(tmp_path) not in page + path.read_text()
    assert len(content["disagreements"]) == 4


def test_the_step_fails_where_a_task_is_not_the_same(tmp_path: Path):
    evaluated(tmp_path / "a", {"acc": [1, 0]})
    evaluated(tmp_path / "b", {"acc": [1, 0]}, version=3)
    with pytest.raises(ValueError, match="not the same tasks on both sides: arc: version is 1 in base and 3 in tuned"):
        run(step_config(tmp_path))
    evaluated(tmp_path / "b", {"acc": [1, 0]}, task="piqa")
    with pytest.raises(ValueError, match="nothing to compare: not in A: piqa"):
        run(step_config(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{"a_paths": ()}, {"b_name": "base"}, {"num_disagreements": -1}])
def test_a_senseless_step_is_refused_when_it_is_made(tmp_path: Path, changes: dict):
    with pytest.raises(ValueError):
        step_config(tmp_path, **changes)


def test_steps_take_one_evaluation_or_several_seeds():
    seeds = [ExecutorStep(name=f"eval/{i}", fn="marin.nowhere:run", config=None) for i in range(3)]
    step = compare_evaluations("compared", seeds[0], seeds[1:], a_name="one", b_name="two", tasks=["arc"])
    assert (step.config.a_paths, step.config.b_paths) == ((seeds[0],), tuple(seeds[1:]))
    assert step.config.tasks == ("arc",)


def test_everything_in_a_comparison_is_plain_json(tmp_path: Path):
    a = evaluated(tmp_path / "a", {"acc": [1, 0, 1]})
    b = evaluated(tmp_path / "b", {"acc": [1, 1, 1]})
    content = json.loads(json.dumps(to_json(compare([a], [b], num_disagreements=2)), allow_nan=False))
    assert content["tasks"][0]["num_paired"] == 3
    assert "acc" in markdown(compare([a], [b]))
    assert len(read_samples(tmp_path / "a")) == 3
    assert proportion_estimate(np.array([1, 0, 1])).value == content["tasks"][0]["metrics"]["acc"]["a"]


def grouped(folder: Path, hits: Mapping[str, Sequence[float]], groups: Mapping[str, Any], **changes: Any) -> ScoredRun:
    """An evaluation of several tasks with one metric, acc_per_token, and groups over them."""
    write_results(
        folder,
        model={},
        tasks={name: task_of({"acc_per_token": x}, **changes.get(name, {})) for name, x in hits.items()},
        samples=list(itertools.chain(*(rows_of(name, {"acc_per_token": x}) for name, x in hits.items()))),
        groups=groups,
    )
    return read_run(folder, folder.name)


def pool(members: Sequence[str], value: float, **more: Any) -> dict[str, Any]:
    return {"group": "g", "tasks": list(members), "metrics": {"acc_per_token": {"value": value}}} | more


def test_a_group_is_compared_over_all_its_questions(tmp_path: Path):
    rng = np.random.default_rng(2)
    sides = {
        side: {name: (rng.random(n) < p).astype(float).tolist() for name, n in (("x_one", 150), ("x_two", 50))}
        for side, p in (("a", 0.4), ("b", 0.7))
    }
    a, b = (
        grouped(tmp_path / side, hits, {"x": pool(list(hits), float(np.mean([*hits["x_one"], *hits["x_two"]])))})
        for side, hits in sides.items()
    )
    found = compare([a], [b], tasks=["x"])
    [group] = found.groups
    [metric] = group.metrics
    one, two = (np.array(sides["a"][name]) - np.array(sides["b"][name]) for name in ("x_one", "x_two"))
    whole = np.concatenate([one, two])
    assert metric.comparison.difference.value == pytest.approx(whole.mean())
    # the error within tasks: what lies between them is no accident of the sample
    expected = math.sqrt((150 * one.var(ddof=1) + 50 * two.var(ddof=1)) / 200**2)
    assert metric.comparison.difference.stderr == pytest.approx(expected)
    assert metric.comparison.p_value == mcnemar_exact(whole > 0, whole < 0)
    assert metric.verdict == "B is better" and metric.comparison.difference.n == 200
    assert found.num_tested == 2, "a group repeats the questions of its tasks"
    assert [row[0] for row in table_rows(found)] == ["x_one", "x_two", "x"]


def test_a_group_whose_answers_are_alike_shows_no_difference(tmp_path: Path):
    hits = {"x_one": [1, 0, 1, 0], "x_two": [0, 0, 1, 1]}
    run = grouped(tmp_path, hits, {"x": pool(list(hits), 0.5)})
    [metric] = compare([run], [run]).groups[0].metrics
    assert metric.comparison.difference.value == 0 and metric.comparison.p_value == 1


def test_shares_of_instructions_are_compared_as_ratios(tmp_path: Path):
    parts = {"num_instructions": [1, 3, 2, 2]}
    sides = []
    for side, right in (("a", [1, 3, 2, 0]), ("b", [0, 1, 2, 1])):
        share = sum(right) / 8
        task = task_of({"inst_level_strict_acc": [share] * 4}, about={"primary_metric": "inst_level_strict_acc"})
        rows = rows_of("arc", {"num_followed_strictly": right, **parts})
        write_results(tmp_path / side, model={}, tasks={"arc": task}, samples=rows)
        sides.append(read_run(tmp_path / side))
    metric = one_metric(compare(sides[:1], sides[1:]))
    assert metric.comparison.difference.value == pytest.approx(6 / 8 - 4 / 8)


def test_a_core_average_is_compared_by_centred_scores(tmp_path: Path):
    hits = {
        "a": {"x": [1, 1, 1, 0, 1, 0, 1, 1], "y": [1, 0, 0, 1]},
        "b": {"x": [0, 1, 0, 0, 1, 0, 1, 0], "y": [1, 0, 1, 1]},
    }
    guess = {"x": 0.25, "y": 0.5}
    runs = []
    for side, of_side in hits.items():
        centred = {t: {"accuracy": float(np.mean(of_side[t])), "baseline": guess[t]} for t in guess}
        average = np.mean([(c["accuracy"] - c["baseline"]) / (1 - c["baseline"]) for c in centred.values()])
        core = {"group": "core", "tasks": ["x", "y"], "centred": centred, "metrics": {"centred": {"value": average}}}
        runs.append(grouped(tmp_path / side, of_side, {"CORE-2": core}))
    [metric] = compare(runs[:1], runs[1:]).groups[0].metrics
    values = [run.groups["CORE-2"]["metrics"]["centred"]["value"] for run in runs]
    assert (metric.a, metric.b) == pytest.approx(tuple(values))
    assert metric.comparison.difference.value == pytest.approx(values[0] - values[1])
    parts = [np.subtract(hits["a"][t], hits["b"][t]) for t in guess]
    errors = [p.std(ddof=1) / math.sqrt(len(p)) / (1 - guess[t]) / 2 for p, t in zip(parts, guess, strict=True)]
    assert metric.comparison.difference.stderr == pytest.approx(math.hypot(*errors))


def test_a_task_at_two_numbers_of_shots_does_not_count_as_two_samples_of_questions(tmp_path: Path):
    rng = np.random.default_rng(3)
    sides = {side: (rng.random(200) < p).astype(float).tolist() for side, p in (("a", 0.6), ("b", 0.5))}
    guess = {"x@0": 0.25, "x@10": 0.25, "y": 0.5}
    runs = []
    for side, x in sides.items():
        hits = {"x@0": x, "x@10": x, "y": x}  # y asks others, though by the same names
        centred = {t: {"accuracy": float(np.mean(hits[t])), "baseline": guess[t]} for t in guess}
        core = {"group": "core", "tasks": list(guess), "centred": centred, "metrics": {"centred": {"value": 0.0}}}
        groups = {"CORE-3": core, "x": pool(["x@0", "x@10"], float(np.mean(x)))}
        runs.append(grouped(tmp_path / side, hits, groups))
    found = compare(runs[:1], runs[1:])
    core, twice = (group.metrics[0] for group in found.groups)
    alone = found.tasks[0].metrics[0].question_stderr
    assert alone is not None
    assert twice.question_stderr == pytest.approx(alone), "asking all again tells nothing new"
    assert twice.comparison.p_value is None
    assert core.question_stderr == pytest.approx(math.hypot(2 * alone / 0.75, alone / 0.5) / 3)


def test_groups_of_other_tasks_are_not_compared_and_told(tmp_path: Path):
    hits = {"x": [1, 0, 1], "y": [1, 1, 0]}
    a = grouped(tmp_path / "a", hits, {"g": pool(["x", "y"], 0.6)})
    b = grouped(tmp_path / "b", hits, {"g": pool(["x"], 0.6)})
    assert compare([a], [b]).groups_not_compared == {"g": "its tasks are not the same in every run"}
    b = grouped(tmp_path / "b", hits, {"g": pool(["x", "y"], 0.6)}, y={"version": 2})
    found = compare([a], [b])
    assert found.groups_not_compared == {"g": "1 of its 2 tasks are not compared, first y"}
    assert "g is not compared: 1 of its 2 tasks are not compared, first y" in notes(found)
    assert compare([a], [a], tasks=["x"]).groups == ()


def test_a_task_is_compared_by_the_metric_that_it_is_known_by(tmp_path: Path):
    values = {"acc": [1, 0, 1, 0, 1, 1], "acc_norm": [1, 1, 1, 0, 0, 1]}
    a = evaluated(tmp_path / "a", values, about={"primary_metric": "acc_norm"})
    assert one_metric(compare([a], [a])).metric == "acc_norm"
    assert one_metric(compare([a], [a], metrics=["acc"])).metric == "acc"
    assert [metric.metric for metric in compare([a], [a], metrics=["all"]).metrics] == ["acc", "acc_norm"]
    b = evaluated(tmp_path / "b", {"acc": [1] * 6, "acc_norm": [0] * 6}, about={"primary_metric": "acc_norm"})
    assert {each.metric for each in compare([a], [b], num_disagreements=9).disagreements} == {"acc_norm"}


def test_a_handful_of_equal_differences_is_not_a_difference(tmp_path: Path):
    a = evaluated(tmp_path / "a", {"loss": [1.5, 2.5, 3.5]})
    b = evaluated(tmp_path / "b", {"loss": [1.0, 2.0, 3.0]})
    metric = one_metric(compare([a], [b]))
    assert metric.comparison.difference.stderr == 0 and metric.comparison.difference.value == 0.5
    assert not metric.seen and metric.verdict == "no difference seen: too few questions to tell"
    assert "arc: 3 questions only, for which the errors are too small" in notes(compare([a], [b]))
