"""From log-likelihoods and texts to the value of each metric on each question, and from those to scores.

A score is always a mean over questions of values in samples.jsonl (perplexity: a function of such a mean), so that two
models can be compared question by question, whatever the metric.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float64

from marin.evaluation.scoring import LogLikelihood
from marin.evaluation.statistics import (
    Estimate,
    mean_correlation,
    mean_estimate,
    normal_estimate,
    proportion_estimate,
    proportion_interval,
    sum_of_squares,
    weighted_sum_interval,
)
from marin.evaluation.tasks.definition import Example, TaskDefinition
from marin.evaluation.tasks.filters import exact_match, extract

PROPORTIONS = (
    *("acc", "acc_norm", "acc_bytes", "acc_per_token", "acc_mutual_info"),
    *("exact_match", "em", "math_verify", "prompt_level_strict_acc", "prompt_level_loose_acc"),
)
"""Metrics that are right or wrong on a question."""
SHARES = {
    "inst_level_strict_acc": ("num_followed_strictly", "num_instructions"),
    "inst_level_loose_acc": ("num_followed_loosely", "num_instructions"),
}
"""Metric -> fields of a sample: how many parts of the question are right, of how many."""
LOWER_IS_BETTER = ("perplexity", "bits_per_byte")

METRIC_MEANINGS = {
    "acc": "share of questions whose right candidate is the likeliest; for one candidate, share that greedy decoding "
    "would write exactly",
    "acc_norm": "as acc, each log-likelihood divided by the characters of its candidate",
    "acc_bytes": "as acc, divided by the UTF-8 bytes of the candidate",
    "acc_per_token": "as acc, divided by the candidate's tokens: the lowest mean loss over the answer",
    "acc_mutual_info": "as acc, less the log-likelihood that the candidate has without the question",
    "mc2": "share of the candidates' probability that the true ones have",
    "bits_per_byte": "-log2 of the right answer's probability, per UTF-8 byte of what is scored for it: the "
    "whitespace in front (delimiter, and what ends the question) and the answer; mean over questions",
    "perplexity": "exp of the mean over questions of -log of the right answer's probability",
    "pass@1": "share of the programs written for a question that pass its check; mean over questions",
    "exact_match,NAME": "share of texts whose answer, taken out by filter NAME, is a right one",
    "exact_match": "share of texts whose final answer is the right one, or a formula equal to it",
    "math_verify": "as exact_match, answer and equality by the library math-verify",
    "f1": "of the words of the text and of the right answer that fits it best; mean over questions",
    "em": "share of texts that are a right answer, but for case, articles and punctuation",
    "prompt_level_strict_acc": "share of texts that follow all instructions of their question; `loose`: one of the "
    "text, the text without its first or last line or both, each with and without asterisks, does",
    "inst_level_strict_acc": "share of instructions, over all questions, that are followed; `loose` as above",
}
"""What each metric is, in a line."""


def choice_scores(
    log_probs: Sequence[float],
    choices: Sequence[str],
    *,
    alone: Sequence[float] | None = None,
    num_tokens: Sequence[int] | None = None,
) -> dict[str, Float64[np.ndarray, " choices"]]:
    """Way to choose -> what each choice scores, for natural log-likelihoods after the question.

    `acc` is `log p(choice | question)`; `acc_norm` and `acc_bytes` divide it by the choice's characters and UTF-8
    bytes, those of its own indentation included; the delimiter and the whitespace that ends the question are scored
    too, alike for every choice, and not counted; an empty choice scores -inf by both. With `num_tokens`,
    `acc_per_token` divides by those. With `alone`,
    the log-likelihoods of the same scored texts after nothing, `acc_mutual_info` is `log p(choice | question) -
    log p(choice)` (Brown et al., "Language Models are Few-Shot Learners", 2020, section 2.4; Holtzman et al., "Surface
    Form Competition", 2021).
    """
    after = np.asarray(log_probs, np.float64)
    scores = {
        "acc": after,
        "acc_norm": _per_unit(after, [len(choice) for choice in choices]),
        "acc_bytes": _per_unit(after, [len(choice.encode("utf-8")) for choice in choices]),
    }
    if num_tokens is not None:
        scores["acc_per_token"] = after / np.asarray(num_tokens)
    if alone is not None:
        scores["acc_mutual_info"] = after - np.asarray(alone, np.float64)
    return scores


def _per_unit(log_probs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """Log-probabilities by length; -inf where that is 0, also where the log-probability is."""
    sizes = np.asarray(lengths)
    return np.where(sizes > 0, log_probs / np.maximum(sizes, 1), -np.inf)


def choice_values(
    example: Example, answers: Sequence[LogLikelihood], alone: Sequence[LogLikelihood] | None = None
) -> dict[str, float | bool]:
    """Metric -> value on a question with candidates; `alone` are the candidates after nothing.

    The first of equally good candidates counts as chosen, as with numpy's argmax.
    """
    log_probs = np.array([answer.log_prob for answer in answers], np.float64)
    gold = example.gold
    scores = choice_scores(
        [answer.log_prob for answer in answers],
        example.choices,
        alone=None if alone is None else [answer.log_prob for answer in alone],
        num_tokens=[answer.num_tokens for answer in answers],
    )
    values: dict[str, float | bool] = {metric: int(np.argmax(each)) in gold for metric, each in scores.items()}
    values["bits_per_byte"] = _bits_per_byte(answers[gold[0]])
    probabilities = np.exp(log_probs - log_probs.max())
    values["mc2"] = float(probabilities[list(gold)].sum() / probabilities.sum())
    return values


def continuation_values(answer: LogLikelihood) -> dict[str, float | bool]:
    """Metric -> value on a question with one right text."""
    assert answer.is_greedy is not None
    return {
        "acc": answer.is_greedy,
        "bits_per_byte": _bits_per_byte(answer),
        "log_likelihood": answer.log_prob,
    }


def _bits_per_byte(answer: LogLikelihood) -> float:
    return -answer.log_prob / math.log(2) / answer.num_bytes


def written_values(task: TaskDefinition, example: Example, text: str) -> tuple[dict[str, float | bool], dict[str, str]]:
    """(metric -> value, filter -> answer taken out) of a text that was written."""
    if task.judge is not None:
        return task.judge(example, text), {}
    writing = task.writing
    assert writing is not None, f"task '{task.name}' writes nothing"
    answers = {name: extract(text, filters) for name, filters in writing.filters.items()}
    values: dict[str, float | bool] = {
        f"exact_match,{name}": exact_match(
            answer,
            example.targets,
            remove=writing.normalise,
            ignore_case=writing.ignore_case,
            ignore_punctuation=writing.ignore_punctuation,
        )
        for name, answer in answers.items()
    }
    return values, answers


def metrics_of(task: TaskDefinition, rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The metrics of a task's samples: those it is known by first."""
    if task.kind == "multiple_choice":
        others = ("acc", "acc_norm", "acc_bytes", "acc_per_token", "acc_mutual_info", "bits_per_byte")
    elif task.kind == "continuation":
        others = ("acc", "perplexity", "bits_per_byte")
    else:
        others = ()
    names = [*task.metrics, *(name for name in others if name not in task.metrics)]
    return tuple(name for name in names if name == "perplexity" or name in SHARES or name in rows[0])


def estimate(metric: str, rows: Sequence[Mapping[str, Any]]) -> Estimate:
    """A score over samples, with its error clustered by the samples' groups."""
    groups = [row["group"] or f"question {index}" for index, row in enumerate(rows)]
    clusters = groups if any(row["group"] for row in rows) else None
    if metric == "perplexity":
        return _perplexity([row["log_likelihood"] for row in rows], clusters)
    if metric in SHARES:
        return _share([(row[SHARES[metric][0]], row[SHARES[metric][1]]) for row in rows], groups)
    values = [row[metric] for row in rows]
    if is_proportion(metric) or (metric.startswith("pass@") and all(value in (0, 1) for value in values)):
        return proportion_estimate(np.array(values, bool), clusters)
    return mean_estimate(values, clusters)


def _share(counts: Sequence[tuple[int, int]], groups: Sequence[str]) -> Estimate:
    """Share of (right parts, parts) of questions; parts of a question, or of a group of them, are one cluster."""
    parts = np.concatenate([np.arange(num_parts) < num_right for num_right, num_parts in counts])
    return proportion_estimate(
        parts, [group for group, (_, num) in zip(groups, counts, strict=True) for _ in range(num)]
    )


def _perplexity(log_likelihoods: Sequence[float], groups: Sequence[str] | None) -> Estimate:
    """exp(-mean log-likelihood); the error is that of the mean, carried through exp (delta method)."""
    mean = mean_estimate(-np.asarray(log_likelihoods, np.float64), groups)
    value = math.exp(min(mean.value, 700.0))  # beyond that no float holds it
    if mean.stderr is None or mean.ci95 is None:
        return Estimate(value=value, stderr=None, ci95=None, n=mean.n, num_clusters=mean.num_clusters, interval=None)
    low, high = (math.exp(min(end, 700.0)) for end in mean.ci95)
    return Estimate(
        value=value,
        stderr=value * mean.stderr,
        ci95=(low, high),
        n=mean.n,
        num_clusters=mean.num_clusters,
        interval="exp of normal",
    )


def pooled(estimates: Sequence[Estimate], *, is_proportion: bool) -> Estimate:
    """The score of a group: its tasks' questions count alike, and the error is that within tasks.

    With v_i, SE_i and n_i of task i, N their questions and k their number: value = sum(n_i v_i) / N and
    SE = sqrt(sum((n_i - 1) n_i SE_i^2) / (N - k) / N), the pooled variance of the questions over N, as
    lm-evaluation-harness has it. The interval of a proportion (`is_proportion`) is Wilson's over the counts of all
    tasks where few answers are right or few wrong; else made of the tasks' own where one of those is Wilson's
    (`statistics.weighted_sum_interval`), as SE is 0 where the answers within each task are alike; else +- 1.96 SE.
    """
    if not estimates:
        raise ValueError("a group's score needs the score of at least one of its tasks")
    sizes = np.array([each.n for each in estimates], np.float64)
    total, count = float(sizes.sum()), len(estimates)
    value = float(sum(each.value * each.n for each in estimates) / total)
    clusters = sum(each.num_clusters for each in estimates)
    if total <= count:
        return normal_estimate(value, None, int(total), clusters)
    squares = sum((each.n - 1) * each.n * (each.stderr or 0.0) ** 2 for each in estimates)
    stderr = math.sqrt(squares / (total - count) / total)
    normal = normal_estimate(value, stderr, int(total), clusters)
    if not is_proportion:
        return normal
    ci95, interval = proportion_interval(value, stderr, int(total), clusters)
    own = [each.ci95 for each in estimates if each.ci95 is not None]
    if interval == "normal" and len(own) == count and any(each.interval != "normal" for each in estimates):
        low, high = weighted_sum_interval([each.value for each in estimates], own, (sizes / total).tolist())
        ci95, interval = (max(0.0, low), min(1.0, high)), "mover"
    return replace(normal, ci95=ci95, interval=interval)


def is_proportion(metric: str) -> bool:
    """Whether a metric is right or wrong on a question."""
    return metric.split(",")[0] in PROPORTIONS


def task_correlation(metric: str, a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> float:
    """Correlation of a metric on the samples of one task at two numbers of shots, which are of the same documents."""
    of_a, of_b = (np.array([row[metric] for row in rows], np.float64) for rows in (a, b))
    return mean_correlation((of_a, [_document(row) for row in a]), (of_b, [_document(row) for row in b]))


def _document(row: Mapping[str, Any]) -> str:
    return row["group"] or f"question {row['doc_id']}"


def core_score(
    scores: Mapping[str, tuple[Estimate, float]], correlations: Mapping[tuple[str, str], float] = MappingProxyType({})
) -> tuple[Estimate, dict[str, dict[str, Any]]]:
    """The CORE average of DataComp-LM over k tasks {name: (accuracy, guessing b)}: mean of (acc - b) / (1 - b).

    With it come each task's accuracy, baseline and centred score. `correlations` {(s, t): rho_st} are those of the
    accuracies of tasks that ask the same documents, such as hellaswag without and with examples
    (`task_correlation`); other tasks are independent. With e_t = SE_t / (1 - b_t),

        SE = sqrt(sum_t e_t^2 + 2 sum_{s<t} rho_st e_s e_t) / k

    where rho_st SE_s SE_t is the covariance over documents d, sum_d (x_sd - acc_s) (x_td - acc_t) / (n (n - 1)) for
    answers x in {0, 1} to the same n documents. There is no SE where a task has none. The interval is made of the
    tasks' own (`statistics.weighted_sum_interval`), which have a width also where all answers of a task are right or
    wrong.
    """
    if not scores:
        raise ValueError("a CORE average needs at least one task")
    tasks = {
        name: {
            "accuracy": accuracy.value,
            "baseline": baseline,
            "centred": (accuracy.value - baseline) / (1 - baseline),
            "stderr": None if accuracy.stderr is None else accuracy.stderr / (1 - baseline),
        }
        for name, (accuracy, baseline) in scores.items()
    }
    errors = [task["stderr"] for task in tasks.values()]
    value = sum(task["centred"] for task in tasks.values()) / len(tasks)
    place = {name: index for index, name in enumerate(scores)}
    pairs = {(min(place[s], place[t]), max(place[s], place[t])): rho for (s, t), rho in correlations.items()}
    known = [error for error in errors if error is not None]
    stderr = None if len(known) < len(errors) else math.sqrt(sum_of_squares(known, pairs)) / len(tasks)
    num_questions = sum(accuracy.n for accuracy, _ in scores.values())
    average = normal_estimate(value, stderr, num_questions, len(tasks))
    accuracies = [accuracy for accuracy, _ in scores.values()]
    intervals = [accuracy.ci95 for accuracy in accuracies if accuracy.ci95 is not None]
    if stderr is None or len(intervals) < len(accuracies):
        return average, tasks
    if any(accuracy.interval != "normal" for accuracy in accuracies):
        weights = [1 / (1 - baseline) / len(tasks) for _, baseline in scores.values()]
        low, high = weighted_sum_interval([accuracy.value for accuracy in accuracies], intervals, weights, pairs)
        guessing = sum(weight * baseline for weight, (_, baseline) in zip(weights, scores.values(), strict=True))
        average = replace(average, ci95=(low - guessing, high - guessing), interval="mover")
    return average, tasks
