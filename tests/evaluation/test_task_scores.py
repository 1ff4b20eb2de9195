"""Answers are taken out of texts, metrics have the values that their formulas give, and errors are honest."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marin.evaluation.scoring import LogLikelihood
from marin.evaluation.statistics import mean_estimate, proportion_estimate, weighted_sum_interval
from marin.evaluation.tasks import TASKS, Example
from marin.evaluation.tasks.filters import INVALID, Find, Strip, exact_match, extract
from marin.evaluation.tasks.scores import (
    choice_values,
    core_score,
    estimate,
    pooled,
    task_correlation,
    written_values,
)


def answer(log_prob: float, num_tokens: int = 1, *, greedy: bool = False, num_bytes: int = 1) -> LogLikelihood:
    return LogLikelihood(
        log_prob=log_prob,
        num_tokens=num_tokens,
        num_cut_tokens=0,
        boundary_merged=False,
        is_greedy=greedy,
        num_bytes=num_bytes,
        token_log_probs=np.full(num_tokens, log_prob / num_tokens, np.float32),
    )


def choosing(*choices: str, gold: int | tuple[int, ...] = 0) -> Example:
    return Example(
        question="q",
        answer="a",
        contexts=("q",) * len(choices),
        continuations=choices,
        choices=choices,
        gold=gold if isinstance(gold, tuple) else (gold,),
    )


def test_each_metric_divides_by_its_own_length():
    example = choosing("aa", "éééé", gold=1)
    values = choice_values(example, [answer(-4.0, 4), answer(-6.0, 5, num_bytes=9)], [answer(-1.0), answer(-4.0)])
    assert values["acc"] is False  # -4 against -6
    assert values["acc_norm"] is True  # -2 against -1.5 a character
    assert values["acc_bytes"] is True  # -2 against -0.75 a byte
    assert values["acc_per_token"] is False  # -1 against -1.2 a token
    assert values["acc_mutual_info"] is True  # -3 against -2
    assert values["bits_per_byte"] == pytest.approx(6 / math.log(2) / 9)  # four characters of two bytes and a blank


@pytest.mark.parametrize("log_prob", [-4.0, 0.0])
def test_an_empty_choice_is_never_the_best_by_length(log_prob: float):
    """Its log-probability is that of the delimiter; 0 by length 0 would be no number, which argmax takes for best."""
    values = choice_values(choosing("", "bb", gold=1), [answer(log_prob), answer(-9.0)])
    assert (values["acc"], values["acc_norm"], values["acc_bytes"]) == (False, True, True)


def test_the_first_of_equally_likely_candidates_is_chosen():
    likelihoods = [answer(-2.0), answer(-2.0)]
    assert choice_values(choosing("a", "b", gold=0), likelihoods)["acc"] is True
    assert choice_values(choosing("a", "b", gold=1), likelihoods)["acc"] is False


def test_true_answers_share_the_probability():
    values = choice_values(choosing("a", "b", "c", gold=(0, 2)), [answer(math.log(p)) for p in (0.1, 0.2, 0.1)])
    assert values["mc2"] == pytest.approx(0.5) and values["acc"] is False


def test_perplexity_is_the_exponential_of_the_mean_with_its_error():
    rows = [{"log_likelihood": value, "group": ""} for value in (-1.0, -2.0, -6.0)]
    measured, mean = estimate("perplexity", rows), mean_estimate([1.0, 2.0, 6.0])
    assert mean.stderr is not None and mean.ci95 is not None
    assert measured.value == pytest.approx(math.exp(3.0))
    assert measured.stderr == pytest.approx(math.exp(3.0) * mean.stderr)
    assert measured.ci95 == pytest.approx(tuple(math.exp(end) for end in mean.ci95))
    assert math.isfinite(estimate("perplexity", [{"log_likelihood": -1e6, "group": ""}]).value)


def test_questions_about_one_passage_are_one_cluster():
    rows = [{"acc": bool(index % 3), "group": f"p{index // 4}"} for index in range(80)]
    alone = [{**row, "group": ""} for row in rows]
    assert estimate("acc", rows).num_clusters == 20 and estimate("acc", alone).num_clusters == 80
    assert estimate("acc", rows).value == estimate("acc", alone).value


@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=30), min_size=1, max_size=6))
def test_a_group_counts_questions_alike_and_its_error_is_that_within_tasks(tasks: list[list[bool]]):
    group = pooled([proportion_estimate(np.array(task)) for task in tasks], is_proportion=True)
    everything = np.array([value for task in tasks for value in task], float)
    within = sum(((np.array(task) - np.mean(task)) ** 2).sum() for task in tasks)
    assert group.value == pytest.approx(everything.mean()) and group.n == len(everything)
    assert group.stderr == pytest.approx(math.sqrt(within / (len(everything) - len(tasks)) / len(everything)))


def test_the_core_average_subtracts_guessing_and_is_named_by_its_tasks():
    a, b = proportion_estimate([True] * 60 + [False] * 40), proportion_estimate([True] * 25 + [False] * 75)
    average, centred = core_score({"a": (a, 0.5), "b": (b, 0.25)})
    assert centred["a"]["centred"] == pytest.approx(0.2) and centred["b"]["centred"] == pytest.approx(0.0)
    assert average.value == pytest.approx(0.1) and average.num_clusters == 2
    assert a.stderr is not None and b.stderr is not None
    assert average.stderr == pytest.approx(math.hypot(a.stderr / 0.5, b.stderr / 0.75) / 2)


@given(st.lists(st.tuples(st.integers(2, 40), st.booleans()), min_size=1, max_size=5), st.booleans())
def test_intervals_over_tasks_have_a_width_where_every_answer_is_alike(tasks: list[tuple[int, bool]], alike: bool):
    estimates = [proportion_estimate([right if not alike else True] * count) for count, right in tasks]
    for group in (
        pooled(estimates, is_proportion=True),
        core_score({str(index): (each, 0.25) for index, each in enumerate(estimates)})[0],
    ):
        assert group.ci95 is not None
        assert group.ci95[0] <= group.value + 1e-12 and group.value <= group.ci95[1] + 1e-12
        assert group.ci95[1] - group.ci95[0] > 0.01
    if alike:
        count = sum(count for count, _ in tasks)
        # the end that Wilson's formula has at p = 1
        assert pooled(estimates, is_proportion=True).ci95 == pytest.approx((count / (count + 1.959964**2), 1.0))


def test_a_core_average_of_normal_intervals_has_a_normal_one():
    a, b = proportion_estimate([True] * 60 + [False] * 40), proportion_estimate([True] * 25 + [False] * 75)
    average, _ = core_score({"a": (a, 0.5), "b": (b, 0.25)})
    assert average.interval == "normal"
    assert a.ci95 is not None and b.ci95 is not None
    low, high = weighted_sum_interval([a.value, b.value], [a.ci95, b.ci95], [1.0, 2.0 / 3])
    assert average.ci95 == pytest.approx((low - 0.5 - 0.25 * 2 / 3, high - 0.5 - 0.25 * 2 / 3))


@pytest.mark.parametrize(
    ("name", "text", "strict", "flexible"),
    [
        ("gsm8k", " 3 + 4 = 7\n#### 7", True, True),
        ("gsm8k", " #### 1,007.", False, False),
        ("gsm8k", " #### $7", False, True),
        ("gsm8k", " 7 eggs", False, True),
        ("gsm8k", " no number", False, False),
        ("gsm8k_cot", " So the answer is 7.", False, True),
        ("gsm8k_cot", " The answer is 7.", True, True),
        ("gsm8k_cot", " The answer is $7.", False, True),
    ],
)
def test_gsm8k_answers_are_taken_out_strictly_and_flexibly(name: str, text: str, strict: bool, flexible: bool):
    target = "so\n#### 7" if name == "gsm8k" else "7"
    example = Example(question="q", answer=target, contexts=("q",), targets=(target,))
    values, _ = written_values(TASKS[name], example, text)
    assert values == {"exact_match,strict-match": strict, "exact_match,flexible-extract": flexible}


def test_filters_find_the_first_or_last_match_or_say_that_there_is_none():
    number = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
    assert extract("1 then 22 then 3", [Find(number)]) == "1"
    assert extract("1 then 22 then -3", [Find(number, which=-1)]) == "-3"
    assert extract("none", [Find(number)]) == INVALID
    assert extract(" x \n", [Strip()]) == "x"


def test_what_does_not_count_is_removed_from_answer_and_target_alike():
    assert exact_match("The 1,000.", ["1000"], remove=(r"\b(?:The )", ",", r"\.$"))
    assert exact_match("u.s.a.", ["USA"], ignore_case=True, ignore_punctuation=True)
    assert not exact_match("usa", ["USA"])
    assert exact_match("b", ["a", "b"]) and not exact_match("", ["a"])


def test_the_error_of_core_is_that_of_its_spread_where_tasks_ask_the_same_documents():
    """Drawn anew 800 times: two tasks over the same documents, which are hard or easy for both, and a third one."""
    rng = np.random.default_rng(0)
    num_documents, num_draws = 150, 800
    values, errors, independent = [], [], []
    for _ in range(num_draws):
        ease = rng.normal(size=num_documents)
        answers = [ease + 0.5 * rng.normal(size=num_documents) > shift for shift in (0.3, -0.2)]
        other = rng.normal(size=600) > 0.5
        rows = [[{"group": "", "doc_id": d, "acc": bool(x)} for d, x in enumerate(each)] for each in answers]
        scores = {
            "hellaswag@0": (proportion_estimate(answers[0]), 0.25),
            "hellaswag@10": (proportion_estimate(answers[1]), 0.25),
            "copa": (proportion_estimate(other), 0.5),
        }
        average, _ = core_score(scores, {("hellaswag@10", "hellaswag@0"): task_correlation("acc", *rows)})
        values.append(average.value)
        errors.append(average.stderr)
        independent.append(core_score(scores)[0].stderr)
    spread = np.std(values, ddof=1)
    assert np.mean(errors) == pytest.approx(spread, rel=0.07)
    assert np.mean(independent) < 0.9 * spread


def test_a_task_asked_twice_counts_as_one():
    x = np.arange(40) % 3 == 0
    rows = [{"group": "", "doc_id": d, "acc": bool(hit)} for d, hit in enumerate(x)]
    one = proportion_estimate(x)
    assert task_correlation("acc", rows, rows) == pytest.approx(1.0)
    assert task_correlation("acc", rows, [{**row, "doc_id": 100 + row["doc_id"]} for row in rows]) == 0
    assert task_correlation("acc", rows, [{**row, "acc": True} for row in rows]) == 0
    twice, _ = core_score({"a": (one, 0.0), "b": (one, 0.0)}, {("a", "b"): 1.0})
    assert (twice.stderr, twice.ci95) == (pytest.approx(one.stderr), pytest.approx(one.ci95))
    rare = proportion_estimate(np.arange(40) < 2)  # Wilson's interval
    twice, _ = core_score({"a": (rare, 0.0), "b": (rare, 0.0)}, {("a", "b"): 1.0})
    assert twice.ci95 == pytest.approx(rare.ci95)
