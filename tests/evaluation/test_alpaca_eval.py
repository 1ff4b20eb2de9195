"""AlpacaEval's numbers come out again without it, judges are asked in both orders, and bad files are named."""

import csv
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.evaluation.alpaca_eval import (
    annotate,
    read_annotations,
    read_difficulties,
    read_outputs,
    run,
    score_annotations,
)
from marin.evaluation.api import evaluate_alpaca_eval
from marin.evaluation.config import AlpacaEvalConfig, HttpJudgeConfig
from marin.evaluation.judges import HttpJudge, ReplayJudge, judge_pair
from marin.evaluation.length_control import (
    GamedOutputs,
    discrete_win_rate,
    fit_logistic,
    length_controlled_win_rate,
    win_rate,
)
from marin.evaluation.results import read_results, read_samples
from marin.export.hf import save_hf
from marin.export.verify import verify_export
from marin.models.llama import LlamaConfig
from marin.processing.tokenize.config import ChatFormat
from marin.testing.tiny import TINY_CHAT, TINY_CHAT_TOKENS, write_byte_tokenizer


def made_up(n: int, seed: int, theta: float, phi: float, gamma: float, is_hard: bool) -> tuple[np.ndarray, ...]:
    """(baseline's lengths, model's lengths, difficulties, preferences) of a judge that follows the model of the fit."""
    rng = np.random.default_rng(seed)
    baseline, model = rng.integers(200, 2500, n), rng.integers(200, 2500, n)
    difficulty = rng.normal(0, 1.5, n)
    difference = (baseline - model) / np.std(baseline - model, ddof=1)
    p = 1 / (1 + np.exp(-(theta + phi * np.tanh(difference) + gamma * difficulty)))
    said = (rng.random(n) < p) if is_hard else np.clip(p + rng.normal(0, 0.15, n), 0, 1)
    return baseline, model, difficulty, 1 + np.asarray(said, np.float64)


def gamed_outputs(n: int, seed: int, difficulty: np.ndarray) -> GamedOutputs:
    baseline, model, _, preferences = made_up(2 * n, seed + 100, 0.0, -1.0, 0.0, False)
    lengths = (baseline - model) / np.std(baseline - model, ddof=1)
    return GamedOutputs(lengths=lengths, difficulties=np.tile(difficulty, 2), preferences=preferences - 1)


# What `get_length_controlled_winrate` of alpaca_eval 0.6.6 (scikit-learn 1.5.2) gave for these annotations, in percent,
# with the gamed outputs above for df_gamed.csv: case -> (win rate, its error, discrete), {form -> (rate, error)}.
ORIGINAL = {
    (200, 0, 0.3, -1.0, 0.5, True): (
        (51.0, 3.5436970729343695, 51.0),
        {"v1": (50.31444872362103, 1.2116770771432739), "noreg": (50.323095220996194, 1.4387716068230019)}
        | {"minimal": (50.17070509394185, 0.0)},
    ),
    (400, 1, -0.8, -0.5, 0.3, False): (
        (31.067538110972748, 0.8868922229767132, 14.75),
        {"v1": (31.300088010929, 0.33093151569100526), "noreg": (31.30657805087932, 0.4166115730280617)}
        | {"minimal": (31.365574403773376, 0.0)},
    ),
    (120, 3, 1.5, 0.2, 0.0, True): (
        (80.83333333333333, 3.6082370233166836, 80.83333333333333),
        {"v1": (78.51434554374421, 0.0), "noreg": (78.51434554374421, 0.0), "minimal": (78.51434554374421, 0.0)},
    ),
}


@pytest.mark.parametrize("case", ORIGINAL, ids=str)
def test_win_rates_are_those_of_alpaca_eval(case: tuple):
    (rate, error, discrete), controlled = ORIGINAL[case]
    baseline, model, difficulty, preferences = made_up(*case)
    assert 100 * win_rate(preferences).value == pytest.approx(rate, abs=1e-9)
    assert 100 * win_rate(preferences).stderr == pytest.approx(error, abs=1e-9)
    assert 100 * discrete_win_rate(preferences).value == pytest.approx(discrete, abs=1e-9)
    for form, (expected, of_predictions) in controlled.items():
        known: dict[str, Any] = {} if form == "minimal" else {"difficulties": difficulty}
        if form == "v1":
            known["gamed"] = gamed_outputs(case[0], case[1], difficulty)
        found = length_controlled_win_rate(preferences, model, baseline, **known)
        assert found.form == f"length_controlled_{form}"
        assert 100 * found.estimate.value == pytest.approx(expected, abs=0.002)
        assert 100 * found.stderr_of_predictions == pytest.approx(of_predictions, abs=0.001)


def test_the_error_of_a_length_controlled_rate_is_how_far_resampled_ones_lie_apart():
    baseline, model, difficulty, preferences = made_up(400, 7, 0.5, -1.5, 0.5, True)
    found = length_controlled_win_rate(preferences, model, baseline, difficulties=difficulty)
    x = np.stack([np.tanh((baseline - model) / np.std(baseline - model, ddof=1)), difficulty, np.ones(400)], axis=1)
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(200):
        drawn = rng.integers(0, 400, 400)
        weights = fit_logistic(x[drawn], preferences[drawn] - 1, np.ones(400), found.strength)
        rates.append(np.mean(1 / (1 + np.exp(-(x[drawn, 1:] @ weights[1:])))))
    assert found.estimate.stderr == pytest.approx(np.std(rates), rel=0.15)
    assert found.estimate.stderr > 1.3 * found.stderr_of_predictions


def test_near_a_tie_the_interval_of_a_length_controlled_rate_holds_the_truth():
    theta = 0.15
    rng = np.random.default_rng(1)
    errors, rates, num_zero, num_held = [], [], 0, 0
    truth = 1 / (1 + math.exp(-theta))
    for _ in range(40):
        model, baseline = rng.integers(500, 1500, (2, 80))
        difference = baseline - model
        chance = 1 / (1 + np.exp(-(theta - 0.8 * np.tanh(difference / difference.std(ddof=1)))))
        found = length_controlled_win_rate(1.0 + (rng.random(80) < chance), model, baseline)
        assert found.estimate.stderr is not None and found.estimate.ci95 is not None
        errors.append(found.estimate.stderr)
        rates.append(found.estimate.value)
        num_zero += found.model_weight == 0
        num_held += found.estimate.ci95[0] <= truth <= found.estimate.ci95[1]
    assert num_zero >= 4, "the penalty does set the weight to 0 here"
    assert min(errors) > 0.04 and np.mean(errors) >= 0.9 * np.std(rates)
    assert num_held >= 36, f"95% intervals held the truth in {num_held} of 40"


def test_a_judge_that_only_looks_at_length_has_no_preference_at_equal_length():
    rng = np.random.default_rng(0)
    model, baseline = rng.integers(500, 1500, 600), rng.integers(200, 1200, 600)
    preferences = 1 + 1 / (1 + np.exp(-(model - baseline) / 200))
    assert win_rate(preferences).value > 0.7
    found = length_controlled_win_rate(preferences, model, baseline)
    assert abs(found.estimate.value - 0.5) < 0.02 and found.length_weight < -1


@given(st.integers(0, 10_000), st.floats(-3, 3))
@settings(max_examples=20)
def test_the_fit_is_where_its_objective_is_least(seed: int, log_strength: float):
    rng = np.random.default_rng(seed)
    x, y, w = rng.normal(size=(40, 3)), rng.random(40), rng.random(40)
    strength = 10.0**log_strength
    weights = fit_logistic(x, y, w, strength)
    q = 1 / (1 + np.exp(-(x @ weights)))
    slope = strength * (x.T @ (w * (q - y)))
    for weight, gradient in zip(weights, slope, strict=True):  # the conditions of a minimum with |b|_1
        if weight != 0:
            assert gradient == pytest.approx(-np.sign(weight), abs=1e-4 * max(1, strength))
        else:
            assert abs(gradient) <= 1 + 1e-6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"preferences": [1.5] * 9, "model_lengths": range(9), "baseline_lengths": [0] * 9}, "9 annotations"),
        ({"model_lengths": [7] * 12}, "the same length"),
        ({"model_lengths": range(11)}, "equally many"),
        ({"preferences": [2.5] * 12}, r"preference 2\.5 is not in \[1, 2\]"),
        ({"gamed": gamed_outputs(3, 0, np.zeros(3))}, "gamed outputs take the difficulties"),
    ],
)
def test_a_fit_that_cannot_be_made_says_why(change: dict, said: str):
    plain = {"preferences": [1.0, 2.0] * 6, "model_lengths": list(range(12)), "baseline_lengths": [7] * 12}
    given_ = {k: list(v) if isinstance(v, range) else v for k, v in (plain | change).items()}
    with pytest.raises(ValueError, match=said):
        length_controlled_win_rate(**given_)


@dataclass
class Preferring:
    """A judge by a rule of (instruction, a, b), which notes what it was asked."""

    rule: Callable[[str, str, str], float]
    name: str = "rule"
    digest: str = "of the rule"
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def judge(self, instruction: str, output_a: str, output_b: str) -> float:
        self.asked.append((instruction, output_a, output_b))
        return self.rule(instruction, output_a, output_b)


def test_a_judge_that_likes_what_stands_first_likes_neither():
    judge = Preferring(lambda _, a, b: 1.0)
    verdict = judge_pair(judge, "q", "base", "model")
    assert (verdict.preference, verdict.baseline_first, verdict.model_first) == (1.5, 1.0, 2.0)
    assert verdict.is_consistent is False
    assert sorted(judge.asked) == [("q", "base", "model"), ("q", "model", "base")]


def test_a_judge_of_outputs_says_the_same_in_both_orders():
    judge = Preferring(lambda _, a, b: 2.0 if "good" in b else 1.0)
    verdict = judge_pair(judge, "q", "bad", "good")
    assert verdict.preference == 2.0 and verdict.is_consistent is True
    assert judge_pair(judge, "q", "same", "same").preference == 1.5 and len(judge.asked) == 2


def test_the_order_of_a_single_judgement_is_decided_by_the_pair():
    def leads(seed: int) -> list[bool]:
        judge = Preferring(lambda _, a, b: 1.25)
        verdicts = [judge_pair(judge, f"q{i}", "base", "model", order="hash", seed=seed) for i in range(200)]
        assert len(judge.asked) == 200
        assert {v.preference for v in verdicts} == {1.25, 1.75} and verdicts[0].is_consistent is None
        return [a == "model" for _, a, _ in judge.asked]

    assert leads(0) == leads(0) != leads(1)
    assert 60 < sum(leads(0)) < 140


@pytest.mark.parametrize("said", [0.5, 2.1, math.nan, None, True, "A"])
def test_what_is_no_verdict_is_refused(said: Any):
    with pytest.raises(ValueError, match=r"expected a number in \[1, 2\]"):
        judge_pair(Preferring(lambda *_: said), "q", "base", "model")


def annotation(**changes: Any) -> dict[str, Any]:
    plain = {"instruction": "say hi", "output_1": "hello", "output_2": "hi", "generator_1": "base", "generator_2": "m"}
    return plain | {"annotator": "judge", "preference": 2.0} | changes


def test_recorded_verdicts_are_given_again_in_either_order():
    judge = ReplayJudge([annotation(preference=1.75), annotation(instruction="draw", preference=0)])
    assert judge.judge("say hi", "hello", "hi") == 1.75
    assert judge.judge("say hi", "hi", "hello") == 1.25
    assert judge_pair(judge, "draw", "hello", "hi").preference == 1.5
    with pytest.raises(KeyError, match="annotations are of other outputs"):
        judge.judge("say hi", "hello", "bye")


class ChatServer:
    """A chat-completions server on this machine that answers what it is told to."""

    def __init__(self, answers: list[tuple[int, Mapping[str, Any]]], headers: Mapping[str, str] | None = None):
        self.requests: list[tuple[dict, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((body, self.headers.get("Authorization")))
                code, answer = answers[min(len(outer.requests), len(answers)) - 1]
                data = json.dumps(answer).encode()
                self.send_response(code)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/chat/completions"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ChatServer]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers: list[ChatServer] = []

    def start(*answers: tuple[int, Mapping[str, Any]], **kwargs: Any) -> ChatServer:
        servers.append(ChatServer(list(answers), **kwargs))
        return servers[-1]

    yield start
    for each in servers:
        each.server.shutdown()
        each.server.server_close()


def letter(text: str, **log_probs: float) -> tuple[int, dict[str, Any]]:
    tokens = [{"token": token, "logprob": value} for token, value in log_probs.items()]
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
    return 200, {"choices": [choice | ({"logprobs": {"content": [{"top_logprobs": tokens}]}} if tokens else {})]}


def http_judge(server: ChatServer, **changes: Any) -> HttpJudge:
    return HttpJudge(HttpJudgeConfig(**({"url": server.url, "model": "judge-1", "wait_s": 0.0} | changes)))


def test_a_judge_over_http_weighs_both_letters(serve: Callable, monkeypatch: pytest.MonkeyPatch):
    server = serve(letter("A", A=math.log(0.6), B=math.log(0.2), C=math.log(0.2)))
    monkeypatch.setenv("JUDGE_KEY", "secret")
    said = http_judge(server, api_key_env="JUDGE_KEY").judge("add {output_b}", "one", "two")
    assert said == pytest.approx(1.25)
    [(body, key)] = server.requests
    assert key == "Bearer secret" and body["temperature"] == 0 and body["model"] == "judge-1"
    content = body["messages"][0]["content"]
    assert "add {output_b}" in content and content.index("\none\n") < content.index("\ntwo\n")


@pytest.mark.parametrize(("text", "preference"), [("A", 1.0), (" b.", 2.0), ("[B]", 2.0)])
def test_without_probabilities_the_letter_counts(serve: Callable, text: str, preference: float):
    assert http_judge(serve(letter(text)), use_log_probs=False).judge("q", "x", "y") == preference


def test_errors_that_pass_are_waited_for_and_others_are_told(serve: Callable):
    server = serve((503, {}), (429, {}), letter("B"), headers={"Retry-After": "0"})
    assert http_judge(server).judge("q", "x", "y") == 2.0 and len(server.requests) == 3
    with pytest.raises(ConnectionError, match=r"HTTP 401: .*no such key"):
        http_judge(serve((401, {"error": "no such key"}))).judge("q", "x", "y")
    broken = serve((500, {"error": "down"}))
    with pytest.raises(ConnectionError, match=r"no answer in 3 attempts: HTTP 500.*run again"):
        http_judge(broken, num_retries=2).judge("q", "x", "y")
    assert len(broken.requests) == 3
    with pytest.raises(ValueError, match=r"expected choices\[0\]\.message\.content"):
        http_judge(serve((200, {"error": "?"}))).judge("q", "x", "y")
    with pytest.raises(ValueError, match="answered 'neither': expected the letter A or B"):
        http_judge(serve(letter("neither"))).judge("q", "x", "y")


def test_a_judge_that_cannot_be_asked_is_refused_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ValueError, match="the environment has no NO_SUCH_KEY"):
        HttpJudge(HttpJudgeConfig(url="http://127.0.0.1:9/chat/completions", model="m", api_key_env="NO_SUCH_KEY"))
    with pytest.raises(ValueError, match=r"lacks \{output_b\}"):
        HttpJudgeConfig(url="http://h/chat/completions", model="m", prompt="{instruction} {output_a}")
    with pytest.raises(ValueError, match="expected http://"):
        HttpJudgeConfig(url="localhost:80", model="m")


def outputs(generator: str, texts: list[str]) -> list[dict[str, str]]:
    return [{"instruction": f"q{i}", "output": text, "generator": generator} for i, text in enumerate(texts)]


def test_verdicts_are_kept_as_they_come_and_not_asked_for_again(tmp_path: Path):
    ours, theirs = outputs("m", ["good", "bad", "good", "bad"]), outputs("base", ["so-so"] * 4)

    def fails_at_third(instruction: str, a: str, b: str) -> float:
        if instruction == "q2":
            raise ConnectionError("gone")
        return 2.0 if "good" in b or "bad" in a else 1.0

    with pytest.raises(ConnectionError):
        annotate(ours, theirs, Preferring(fails_at_third), folder=tmp_path)
    with open(tmp_path / "verdicts.jsonl", "a") as file:
        file.write('{"key": "half a li')
    judge = Preferring(lambda _, a, b: 2.0 if "good" in b or "bad" in a else 1.0)
    found = annotate(ours, theirs, judge, folder=tmp_path)
    assert {instruction for instruction, _, _ in judge.asked} == {"q2", "q3"}
    assert [row.preference for row in found.rows] == [2.0, 1.0, 2.0, 1.0]
    task, rows = score_annotations(found)
    assert task.metrics["win_rate"]["value"] == 0.5 and task.chance == 0.5
    assert "4 of 4 pairs fall to the same side" in " ".join(task.notes)
    assert any("no length-controlled win rate: 4 annotations" in note for note in task.notes)
    assert [row["win_rate"] for row in rows] == [1.0, 0.0, 1.0, 0.0]
    lines = (tmp_path / "verdicts.jsonl").read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == 4
    again = Preferring(lambda *_: 1.5)
    assert annotate(ours, theirs, again, folder=tmp_path).rows == found.rows and again.asked == []
    some = annotate(ours[1::2], theirs, judge, folder=tmp_path)
    assert [row.index for row in some.rows] == [1, 3], "by the order of the data set, which the baseline's file has"


@pytest.mark.parametrize(
    "change", [{"prompt": "Better? {instruction} {output_a} {output_b}"}, {"use_log_probs": False}]
)
def test_verdicts_of_a_judge_that_was_changed_are_not_used(tmp_path: Path, serve: Callable, change: dict):
    server = serve(letter("B"))
    ours, theirs = outputs("m", ["x", "y"]), outputs("base", ["z"] * 2)
    first = annotate(ours, theirs, http_judge(server), folder=tmp_path)
    assert len(server.requests) == 4
    same = annotate(ours, theirs, http_judge(server, timeout_s=9.0), folder=tmp_path)
    assert len(server.requests) == 4 and same == first
    other = annotate(ours, theirs, http_judge(server, **change), folder=tmp_path)
    assert len(server.requests) == 8 and other.judge_digest != first.judge_digest
    hashes = {score_annotations(found)[0].prompt_hash for found in (first, same, other)}
    assert len(hashes) == 2, "scores by another judge are of another task"


def test_a_judge_that_often_says_nothing_is_refused(tmp_path: Path):
    ours, theirs = outputs("m", [f"x{i}" for i in range(20)]), outputs("base", ["y"] * 20)
    found = annotate(ours, theirs, Preferring(lambda q, a, b: 9.0 if q == "q3" else 2.0), folder=tmp_path / ".")
    assert [row.instruction for row in found.rows if row.preference is None] == ["q3"]
    assert score_annotations(found)[0].counts["num_without_verdict"] == 1
    (tmp_path / "verdicts.jsonl").unlink()
    with pytest.raises(ValueError, match=r"gave no verdict on 20 of 20 pairs.*said 9\.0"):
        annotate(ours, theirs, Preferring(lambda *_: 9.0), folder=tmp_path)
    with pytest.raises(ValueError, match="no instruction has both"):
        annotate(ours, [{"instruction": "other", "output": "y"}], Preferring(lambda *_: 2.0), folder=tmp_path)


def recorded(path: Path, n: int = 30) -> Path:
    baseline, model, _, preferences = made_up(n, 0, 0.3, -1.0, 0.5, True)
    rows = [
        annotation(instruction=f"q{i}", output_1="x" * int(b), output_2="y" * int(m), preference=float(p))
        for i, (b, m, p) in enumerate(zip(baseline, model, preferences, strict=True))
    ]
    path.write_text(json.dumps(rows))
    return path


def test_recorded_annotations_are_counted_again_offline(tmp_path: Path):
    annotations = recorded(tmp_path / "annotations.json")
    with open(tmp_path / "df_gamed.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["model", "preference", "index", "std_delta_len", "instruction_difficulty", "not_gamed_baseline"]
        )
        writer.writerows(["g", 0.4, i % 30, (i % 7 - 3) / 2, (i % 30) / 10 - 1.5, False] for i in range(60))
    config = AlpacaEvalConfig(
        annotations_path=str(annotations),
        output_path=str(tmp_path / "out"),
        difficulties_path=str(tmp_path / "df_gamed.csv"),
    )
    results = read_results(run(config))
    metrics = results["tasks"]["alpaca_eval"]["metrics"]
    assert metrics["length_controlled_win_rate"]["note"].startswith("length_controlled_v1;")
    assert results["model"] == {"name": "m"} and results["policy"] == {
        "judge": "judge",
        "judge_digest": None,
        "baseline": "base",
    }
    rows = read_samples(tmp_path / "out")
    assert np.mean([row["win_rate"] for row in rows]) == pytest.approx(metrics["win_rate"]["value"])
    assert str(tmp_path) not in (tmp_path / "out" / "results.json").read_text()


def test_a_baseline_that_is_asked_for_as_the_model_has_what_is_left(tmp_path: Path):
    path = recorded(tmp_path / "annotations.json")
    plain, turned = read_annotations(path), read_annotations(path, model="base")
    assert (turned.model, turned.baseline) == ("base", "m")
    assert [3 - row.preference for row in turned.rows] == [row.preference for row in plain.rows]
    assert turned.rows[0].model_output == plain.rows[0].baseline_output
    path.write_text(json.dumps([annotation(preference=1.75, baseline_first=1.75, model_first=1.5)]))
    [row] = read_annotations(path, model="base").rows
    assert (row.preference, row.baseline_first, row.model_first) == (1.25, 1.5, 1.25)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([annotation(preference=3)], r"row 1: preference is 3; expected a number in \[1, 2\]"),
        ([annotation(), {"instruction": "x"}], "row 2: no output_1, output_2, preference"),
        ([annotation(output_1=None)], "row 1: output_1 is None; expected a text"),
        ([annotation(), annotation(generator_2="other")], "2 pairs of generators"),
        ([annotation(), annotation(annotator="other")], r"by 2 annotators \(judge, other\)"),
        ([annotation(index=4), annotation(index=4)], "1 rows repeat the index"),
        ([], "has no rows"),
        (["text"], "row 1: no instruction"),
    ],
)
def test_annotations_of_another_form_are_named(tmp_path: Path, rows: list, said: str):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=said):
        read_annotations(path)


def test_files_of_another_kind_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="expected a JSON list"):
        read_annotations(tmp_path / "nothing.json")
    (tmp_path / "half.json").write_text('[{"instruction": ')
    with pytest.raises(ValueError, match="neither a JSON list nor JSON lines"):
        read_outputs(tmp_path / "half.json")
    (tmp_path / "twice.jsonl").write_text('{"instruction": "a", "output": "x"}\n' * 2)
    with pytest.raises(ValueError, match="row 2: the instruction 'a' comes twice"):
        read_outputs(tmp_path / "twice.jsonl")
    (tmp_path / "d.csv").write_text("index,hardness\n0,1\n")
    with pytest.raises(ValueError, match="has the columns index, hardness"):
        read_difficulties(tmp_path / "d.csv")
    (tmp_path / "d.csv").write_text(",instruction_difficulty\n0,1.5\n1,much\n")
    with pytest.raises(ValueError, match="line 3"):
        read_difficulties(tmp_path / "d.csv")
    found = read_annotations(recorded(tmp_path / "annotations.json"))
    with pytest.raises(ValueError, match="18 instructions have no difficulty, the first is index 12"):
        score_annotations(found, dict.fromkeys(range(12), 0.0))
    with pytest.raises(ValueError, match="has no annotations by 'x'"):
        read_annotations(tmp_path / "annotations.json", annotator="x")
    with pytest.raises(ValueError, match="has no outputs of 'z'; it has m against base"):
        read_annotations(tmp_path / "annotations.json", model="z")


JUDGED = {"baseline_outputs_path": "b.json", "judge": HttpJudgeConfig(url="http://h/chat/completions", model="j")}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "give annotations_path"),
        ({"model_outputs_path": "m.json", "baseline_outputs_path": "b.json"}, "give annotations_path"),
        ({"annotations_path": "a.json", "model_outputs_path": "m.json"}, "not both"),
        ({"annotations_path": "a.json", "model_path": "m"}, "not both"),
        ({**JUDGED, "model_outputs_path": "o.json", "model_path": "m"}, "one of model_outputs_path and model_path"),
        ({**JUDGED, "model_path": "m"}, "a model at model_path takes chat"),
        ({"annotations_path": "a.json", "temperature": -1.0}, "temperature -1"),
        ({"annotations_path": "a.json", "order": "any"}, "order is 'any'"),
        ({"annotations_path": "a.json", "max_instructions": 1}, "max_instructions is 1"),
    ],
)
def test_a_senseless_config_is_refused(fields: dict, said: str):
    with pytest.raises(ValueError, match=said):
        AlpacaEvalConfig(output_path="out", **fields)


def test_a_judged_run_can_be_replayed_from_what_it_wrote(tmp_path: Path, serve: Callable):
    server = serve(letter("A", A=math.log(0.8), B=math.log(0.2)))
    (tmp_path / "m.json").write_text(json.dumps(outputs("m", ["one", "two", "three"])))
    (tmp_path / "b.json").write_text(json.dumps(outputs("base", ["uno", "due", "tre"])))
    step = evaluate_alpaca_eval(
        "alpaca",
        model_outputs=str(tmp_path / "m.json"),
        baseline_outputs=str(tmp_path / "b.json"),
        judge=HttpJudgeConfig(url=server.url, model="judge-1", wait_s=0.0),
        order="hash",
    )
    config = AlpacaEvalConfig(**(vars(step.config) | {"output_path": str(tmp_path / "out")}))
    first = read_results(run(config))["tasks"]["alpaca_eval"]
    replayed = AlpacaEvalConfig(
        annotations_path=str(tmp_path / "out" / "annotations.json"), output_path=str(tmp_path / "again")
    )
    again = read_results(run(replayed))["tasks"]["alpaca_eval"]
    assert len(server.requests) == 3
    assert again == first and set(again["metrics"]) == {"win_rate", "discrete_win_rate"}


MODEL = LlamaConfig(seq_len=64, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)


def chat_model(folder: Path) -> Path:
    tokenizer = write_byte_tokenizer(folder / "tokenizer", extra_special_tokens=TINY_CHAT_TOKENS)
    params = MODEL.init(260, key=jax.random.key(0))
    save_hf(MODEL, params, 260, tokenizer, folder / "model")
    verify_export(folder / "model", config=MODEL, params=params, vocab_size=260, tokenizer_path=tokenizer)
    return folder / "model"


def test_a_chat_model_answers_the_instructions_of_the_baseline(tmp_path: Path, serve: Callable):
    theirs = [
        *outputs("base", ["one", "two", "three"]),
        {"instruction": "long " * 30, "output": "x", "generator": "base"},
    ]
    (tmp_path / "b.json").write_text(json.dumps(theirs))
    plain = {
        "model_path": str(chat_model(tmp_path)),
        "baseline_outputs_path": str(tmp_path / "b.json"),
        "judge": HttpJudgeConfig(url=serve(letter("B")).url, model="judge-1", use_log_probs=False),
        "chat": TINY_CHAT,
        "max_new_tokens": 8,
        "model_name": "tiny",
    }
    results = read_results(run(AlpacaEvalConfig(output_path=str(tmp_path / "out"), **plain)))
    counts = results["tasks"]["alpaca_eval"]["counts"]
    assert counts["num_too_long"] == 1 and counts["num_inconsistent"] == 3, "the judge likes what stands second"
    assert results["tasks"]["alpaca_eval"]["metrics"]["win_rate"]["value"] == 0.5 and results["model"] == {
        "name": "tiny"
    }
    rows = read_outputs(tmp_path / "out" / "model_outputs.json")
    assert [row["instruction"] for row in rows] == ["q0", "q1", "q2"]
    run(AlpacaEvalConfig(output_path=str(tmp_path / "again"), **plain))
    assert read_outputs(tmp_path / "again" / "model_outputs.json") == rows
    with pytest.raises(ValueError, match="no instruction leaves room for 64 new tokens"):
        run(AlpacaEvalConfig(output_path=str(tmp_path / "x"), **(plain | {"max_new_tokens": 64})))
    with pytest.raises(ValueError, match="no chat template"):
        run(AlpacaEvalConfig(output_path=str(tmp_path / "x"), **(plain | {"chat": ChatFormat(template=None)})))
