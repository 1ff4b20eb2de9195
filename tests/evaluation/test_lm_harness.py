"""lm-evaluation-harness on our engine: its tasks run, and on the same rows its scores are ours."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="needs lm-eval: pip install -e '.[evaluation]'")

import jax
import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager

from marin.cli import main as cli
from marin.evaluation import lm_harness
from marin.evaluation.kept_answers import KeptAnswers
from marin.evaluation.lm_harness import MarinLM, generate_request
from marin.evaluation.lm_harness_step import LmHarnessConfig, run
from marin.evaluation.models import open_model
from marin.evaluation.multiple_choice import answer_questions, correct
from marin.evaluation.results import read_results, read_samples
from marin.evaluation.tasks import EvalTaskConfig, MultipleChoiceTask, Question
from marin.export.hf import save_hf
from marin.models import lm as language_model
from marin.models.llama import LlamaConfig
from marin.testing.tiny import TINY_CHAT, TINY_CHAT_TOKENS, tiny_documents, write_byte_tokenizer

MODEL = LlamaConfig(seq_len=96, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=2)
VOCAB_SIZE = 257 + len(TINY_CHAT_TOKENS)
NUM_QUESTIONS = 24

CHOICE = """\
task: tiny_choice
dataset_path: json
dataset_kwargs: {data_files: {validation: QUESTIONS, train: QUESTIONS}}
validation_split: validation
fewshot_split: train
fewshot_config: {sampler: first_n}
output_type: multiple_choice
doc_to_text: query
doc_to_choice: choices
doc_to_target: gold
target_delimiter: " "
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: 3}
"""
ROLLING = """\
task: tiny_text
dataset_path: json
dataset_kwargs: {data_files: {validation: QUESTIONS}}
validation_split: validation
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list: [{metric: bits_per_byte}]
metadata: {version: 1}
"""
GROUP = """\
group: tiny_group
task: [tiny_choice]
aggregate_metric_list: [{metric: acc}]
metadata: {version: 1}
"""
ANSWERS = """\
task: tiny_answers
dataset_path: json
dataset_kwargs: {data_files: {validation: QUESTIONS}}
validation_split: validation
output_type: generate_until
doc_to_text: query
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match}]
metadata: {version: 1}
"""
BEAMS = ANSWERS.replace("tiny_answers", "tiny_beams").replace("do_sample: false", "num_beams: 4")


def rows() -> list[dict]:
    texts = [document["text"] for document in tiny_documents(5 * NUM_QUESTIONS, seed=3, num_words=6)]
    return [
        {
            "query": f"Which? {texts[5 * number]}"
            + " \n"[number % 2] * (number % 3),  # spaces that belong to the answer
            "choices": texts[5 * number + 1 : 5 * number + 1 + 2 + number % 3],
            "gold": number % 2,
            "text": " ".join(texts[5 * number : 5 * number + 5]),  # longer than the model reads
        }
        for number in range(NUM_QUESTIONS)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model/`, from elsewhere as far as anyone knows, and `tasks/`."""
    root = tmp_path_factory.mktemp("harness")
    tokenizer = write_byte_tokenizer(root / "tokenizer", extra_special_tokens=TINY_CHAT_TOKENS)
    params = MODEL.init(VOCAB_SIZE, key=jax.random.key(1))
    # weights as they are drawn give all but equal logits; these tell tokens apart
    params = jax.tree.map(lambda weights: weights * 4, params)
    save_hf(MODEL, params, VOCAB_SIZE, tokenizer, root / "model")
    (root / "tasks").mkdir()
    questions = root / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    for name, task in (("choice", CHOICE), ("rolling", ROLLING), ("answers", ANSWERS), ("beams", BEAMS)):
        (root / "tasks" / f"{name}.yaml").write_text(task.replace("QUESTIONS", str(questions)))
    (root / "tasks" / "group.yaml").write_text(GROUP)
    return root


@pytest.fixture(autouse=True)
def offline(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", place / "cache")
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # a second of looking at the machine


LOGITS = jax.jit(lambda params, tokens: language_model.logits(MODEL, params, tokens))


class OneByOne(TemplateLM):
    """The harness's own way from text to tokens, and a whole row of logits for each request: slow and plain."""

    eot_token_id = 256

    def __init__(self, place: Path) -> None:
        super().__init__()
        model = open_model(place / "model")
        self._tokenizer, self._loaded = model.tokenizer, model.loaded

    def tok_encode(self, string, add_special_tokens=None, **kwargs):
        return self._tokenizer.encode(string).tolist()

    def _loglikelihood_tokens(self, requests, **kwargs):
        answers = []
        for _, context, continuation in requests:
            tokens = np.array([*context, *continuation][-(MODEL.seq_len + 1) :])
            inputs = np.zeros((1, MODEL.seq_len), np.int32)
            inputs[0, : len(tokens) - 1] = tokens[:-1]
            logits = np.asarray(LOGITS(self._loaded.params, inputs), np.float64)[0, : len(tokens) - 1]
            log_probs = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[-len(continuation) :]
            greedy = bool((log_probs.argmax(-1) == continuation).all())
            answers.append((float(log_probs[np.arange(len(continuation)), continuation].sum()), greedy))
        return answers

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError

    def generate_until(self, requests, disable_tqdm=False):
        raise NotImplementedError


def evaluate(place: Path, lm: TemplateLM, *tasks, **settings):
    manager = TaskManager(include_path=str(place / "tasks"), include_defaults=False)
    return lm_eval.simple_evaluate(model=lm, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, **settings)


@pytest.mark.parametrize("num_fewshot", [0, 2])
def test_multiple_choice_scores_are_those_of_the_harness_one_request_at_a_time(place: Path, num_fewshot: int):
    ours = evaluate(place, MarinLM(open_model(place / "model")), "tiny_choice", num_fewshot=num_fewshot)
    plain = evaluate(place, OneByOne(place), "tiny_choice", num_fewshot=num_fewshot)
    for metric in ("acc,none", "acc_norm,none"):
        assert ours["results"]["tiny_choice"][metric] == pytest.approx(
            plain["results"]["tiny_choice"][metric], abs=1e-6
        )
    for one, two in zip(ours["samples"]["tiny_choice"], plain["samples"]["tiny_choice"], strict=True):
        assert [answer[0] for answer in one["filtered_resps"]] == pytest.approx(
            [answer[0] for answer in two["filtered_resps"]], abs=1e-4
        )
        assert [answer[1] for answer in one["filtered_resps"]] == [answer[1] for answer in two["filtered_resps"]]
    assert len(ours["samples"]["tiny_choice"]) == NUM_QUESTIONS


def test_our_own_run_of_the_same_rows_gives_the_same_scores(place: Path):
    model = open_model(place / "model")
    questions = tuple(
        Question(id=str(n), query=row["query"], choices=tuple(row["choices"]), gold=row["gold"])
        for n, row in enumerate(rows())
    )
    task = MultipleChoiceTask(name="tiny_choice", version=3, questions=questions, delimiter=" ")
    answers = answer_questions(model.scored, model.tokenizer, task)
    found = evaluate(place, MarinLM(model), "tiny_choice")
    for metric in ("acc", "acc_norm"):
        assert found["results"]["tiny_choice"][f"{metric},none"] == pytest.approx(
            float(np.mean(correct(answers, metric))), abs=1e-6
        )
    for answer, sample in zip(answers, found["samples"]["tiny_choice"], strict=True):
        assert list(answer.log_probs) == pytest.approx([each[0] for each in sample["filtered_resps"]], abs=1e-4)


def test_long_texts_are_scored_in_windows_that_do_not_overlap(place: Path):
    model = open_model(place / "model")
    found = evaluate(place, MarinLM(model), "tiny_text")
    total, num_bytes = 0.0, 0
    for row in rows():
        tokens = [256, *model.tokenizer.encode(row["text"]).tolist()]
        windows = lm_eval.utils.get_rolling_token_windows(tokens[1:], tokens[0], MODEL.seq_len, 1)
        pairs = [lm_eval.utils.make_disjoint_window(window) for window in windows]
        answers = OneByOne(place)._loglikelihood_tokens([(("", ""), *pair) for pair in pairs])
        total += sum(answer[0] for answer in answers)
        num_bytes += len(row["text"].encode())
    assert len(pairs) > 1
    assert found["results"]["tiny_text"]["bits_per_byte,none"] == pytest.approx(
        -total / num_bytes / np.log(2), abs=1e-5
    )


def test_answers_are_written_up_to_the_stop_string(place: Path):
    found = evaluate(place, MarinLM(open_model(place / "model")), "tiny_answers", limit=4)
    texts = [sample["filtered_resps"][0] for sample in found["samples"]["tiny_answers"]]
    assert len(texts) == 4
    assert all("\n" not in text and len(text.encode("utf-8", "replace")) <= 3 * 6 for text in texts)


def test_the_step_writes_every_score_with_its_error_and_every_question(place: Path, tmp_path: Path):
    tasks = (
        EvalTaskConfig("tiny_choice", 1),
        EvalTaskConfig("tiny_choice", 2, task_alias="twice_shown"),
        EvalTaskConfig("tiny_text", 0),
        EvalTaskConfig("tiny_group", 0, task_alias="group"),
    )
    config = LmHarnessConfig(
        model_path=str(place / "model"),
        output_path=str(tmp_path),
        tasks=tasks,
        include_path=str(place / "tasks"),
        include_defaults=False,
        limit=10,
    )
    results = read_results(run(config))
    assert set(results["tasks"]) == {"tiny_choice@1", "twice_shown", "tiny_text", "tiny_choice"}
    assert results["tasks"]["twice_shown"]["num_fewshot"] == 2
    assert results["groups"]["group"]["tasks"] == ["tiny_choice"]
    assert results["groups"]["group"]["metrics"]["acc"]["n"] == 10
    choice = results["tasks"]["tiny_choice@1"]
    assert (choice["version"], choice["n"], choice["num_fewshot"]) == (3, 10, 1)
    assert choice["n_all"] == NUM_QUESTIONS
    hits = [row["acc"] for row in read_samples(tmp_path) if row["task"] == "tiny_choice@1"]
    assert choice["metrics"]["acc"]["value"] == pytest.approx(np.mean(hits))
    assert choice["metrics"]["acc"]["stderr"] == pytest.approx(np.std(hits, ddof=1) / np.sqrt(10))
    assert results["tasks"]["tiny_text"]["metrics"]["bits_per_byte"]["higher_is_better"] is False
    assert results["model"]["verified"] is False
    assert results["policy"]["harness"] == "lm-eval 0.4.13"


def harness_config(place: Path, output: Path, *tasks: EvalTaskConfig) -> LmHarnessConfig:
    return LmHarnessConfig(
        model_path=str(place / "model"),
        output_path=str(output),
        tasks=tasks,
        include_path=str(place / "tasks"),
        include_defaults=False,
        limit=2,
    )


def test_scores_of_one_name_are_refused_before_anything_is_asked(place: Path, tmp_path: Path, capsys):
    tasks = (EvalTaskConfig("tiny_text", 0), EvalTaskConfig("tiny_choice", 0), EvalTaskConfig("tiny_group", 0))
    with pytest.raises(ValueError, match="'tiny_choice' would be listed twice, of tiny_choice and of tiny_group"):
        run(harness_config(place, tmp_path, *tasks))
    assert "tiny_text" not in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_what_was_computed_outlives_a_task_that_fails(place: Path, tmp_path: Path):
    names = ("tiny_text", "tiny_beams", "tiny_choice")
    config = harness_config(place, tmp_path, *(EvalTaskConfig(name, 0) for name in names))
    with pytest.raises(ValueError, match="'num_beams': 4"):
        run(config)
    results = read_results(tmp_path)
    assert set(results["tasks"]) == {"tiny_text"}
    assert [task["task"] for task in results["skipped"]] == ["tiny_beams", "tiny_choice"]
    assert {row["task"] for row in read_samples(tmp_path)} == {"tiny_text"}
    with pytest.raises(ValueError, match="has the results of another evaluation"):
        run(harness_config(place, tmp_path, EvalTaskConfig("tiny_text", 0)))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`asked`: the requests that the engine has answered; with `blocks_left` it is stopped after so many blocks. What
    it writes is the beginning of the prompt, since nothing here is about texts, and a decoder takes seconds to compile.
    """
    engine = SimpleNamespace(asked=[], blocks_left=None)
    monkeypatch.setattr(lm_harness, "BLOCK", 5)

    def write(model, tokenizer, requests, **settings):
        return [SimpleNamespace(text=request.prompt[:9], num_prompt_tokens_cut=1) for request in requests]

    def watch(name: str, function) -> None:
        def watched(model, tokenizer, requests, *arguments, **settings):
            if engine.blocks_left == 0:
                raise KeyboardInterrupt
            answers = function(model, tokenizer, requests, *arguments, **settings)
            engine.asked += requests
            engine.blocks_left = engine.blocks_left and engine.blocks_left - 1
            return answers

        monkeypatch.setattr(lm_harness, name, watched)

    watch("log_likelihoods", lm_harness.log_likelihoods)
    watch("generate_until", write)
    return engine


def test_a_run_that_was_stopped_asks_no_request_again(place: Path, tmp_path: Path, engine: SimpleNamespace):
    tasks = (EvalTaskConfig("tiny_choice", 0), EvalTaskConfig("tiny_answers", 0))
    whole, stopped = (replace(harness_config(place, tmp_path / name, *tasks), limit=7) for name in ("a", "b"))
    run(whole)
    all_asked, engine.asked = engine.asked, []
    for num_blocks in (2, 3):  # in the middle of the first task, then of the second
        engine.blocks_left = num_blocks
        with pytest.raises(KeyboardInterrupt):
            run(stopped)
    assert len(engine.asked) == 25 < len(all_asked)
    with (tmp_path / "b" / "kept_answers.jsonl").open("a") as kept:
        kept.write('["cut')
    engine.blocks_left = None
    run(stopped)
    assert engine.asked == all_asked
    for name in ("results.json", "samples.jsonl"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes(), name
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["results.json", "samples.jsonl"]
    assert read_results(tmp_path / "b")["policy"]["num_truncated"] == 7  # counted of kept answers too


def test_texts_that_are_drawn_are_asked_again(place: Path, tmp_path: Path, engine: SimpleNamespace):
    lm = MarinLM(open_model(place / "model"))
    lm.kept = KeptAnswers(tmp_path, {}, print)
    settings = [{"do_sample": number % 2 == 1, "temperature": 0.5} for number in range(14)]
    requests = [
        Instance("generate_until", {}, (f"prompt {number}", each), number) for number, each in enumerate(settings)
    ]
    texts = [f"prompt {number}"[:9] for number in range(14)]
    assert lm.generate_until(requests) == texts
    assert len(engine.asked) == 14 and len(lm.kept) == 7
    assert lm.generate_until(requests) == texts
    assert [request.prompt for request in engine.asked[14:]] == [f"prompt {number}" for number in range(1, 14, 2)]


def test_kept_answers_of_another_model_do_not_count_and_it_says_why(
    place: Path, tmp_path: Path, engine: SimpleNamespace, capsys: pytest.CaptureFixture
):
    config = replace(harness_config(place, tmp_path / "out", EvalTaskConfig("tiny_choice", 0)), limit=4)
    engine.blocks_left = 1
    with pytest.raises(KeyboardInterrupt):
        run(config)
    save_hf(MODEL, MODEL.init(VOCAB_SIZE, key=jax.random.key(9)), VOCAB_SIZE, place / "model", tmp_path / "model")
    engine.asked, engine.blocks_left = [], None
    run(replace(config, model_path=str(tmp_path / "model")))
    assert len(engine.asked) == sum(len(row["choices"]) for row in rows()[:4])
    assert "what was answered there is asked again: weights_sha256" in capsys.readouterr().err


def test_the_command_keeps_scores_by_what_was_asked(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)

    def command(*more: str) -> str:
        asked = ["eval", str(place / "model"), "--harness", "--include", str(tmp_path / "tasks"), "--limit", "2"]
        assert cli.main([*asked, *more]) == 0
        return capfd.readouterr().err

    (tmp_path / "tasks").mkdir()
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows()[:3]))
    (tmp_path / "tasks" / "choice.yaml").write_text(CHOICE.replace("QUESTIONS", str(questions)))
    command("--tasks", "tiny_choice")
    [folder] = (tmp_path / "evaluations" / "model").iterdir()
    assert folder.name == f"tiny_choice-{read_results(folder)['identity'][:8]}"
    assert "done already, nothing is asked again" in command("--tasks", "tiny_choice")
    command("--tasks", "tiny_choice@1")
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows()[3:6]))
    assert "task 'tiny_choice' asked other questions" in command("--tasks", "tiny_choice")
    assert len(list((tmp_path / "evaluations" / "model").iterdir())) == 3


def test_the_command_asks_a_task_at_its_own_shots(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture):
    (tmp_path / "tasks").mkdir()
    text = CHOICE.replace("QUESTIONS", str(place / "questions.jsonl"))
    (tmp_path / "tasks" / "choice.yaml").write_text(text + "\nnum_fewshot: 5\n")
    for more, expected in (((), 5), (("--shots", "0"), 0)):
        output = str(tmp_path / f"of{expected}")
        asked = ["eval", str(place / "model"), "--harness", "--include", str(tmp_path / "tasks"), "-o", output]
        assert cli.main([*asked, "--tasks", "tiny_choice", "--limit", "1", *more]) == 0
        results = read_results(output)
        assert results["tasks"]["tiny_choice"]["num_fewshot"] == expected
        num_cut, told = results["policy"]["num_truncated"], capfd.readouterr().err
        assert num_cut == (2 if expected else 0)  # both candidates behind five examples
        assert (f"{num_cut} requests of the harness were longer" in told) == (num_cut > 0)


def test_a_task_that_the_harness_lacks_is_refused_with_near_misses(place: Path, tmp_path: Path):
    config = LmHarnessConfig(
        model_path=str(place / "model"),
        output_path=str(tmp_path),
        tasks=(EvalTaskConfig("tiny_choise", 0),),
        include_path=str(place / "tasks"),
        include_defaults=False,
    )
    with pytest.raises(ValueError, match="has no task 'tiny_choise'; did you mean tiny_choice"):
        run(config)


def test_a_chat_template_is_written_in_special_tokens(place: Path, tmp_path: Path):
    import shutil

    with pytest.raises(ValueError, match="no chat template: put a chat_template.jinja into it"):
        evaluate(place, MarinLM(open_model(place / "model")), "tiny_choice", apply_chat_template=True, limit=1)
    shutil.copytree(place / "model", tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(TINY_CHAT.template or "")
    lm = MarinLM(open_model(tmp_path / "model"))
    prompt = lm.apply_chat_template([{"role": "user", "content": "Hi."}])
    assert prompt == "<|user|>Hi.<|end|><|assistant|>"
    user, assistant, end = (lm.model.tokenizer.special_tokens[name] for name in TINY_CHAT_TOKENS)
    assert lm.tok_encode(prompt) == [user, *b"Hi.", end, assistant]
    assert lm.tok_encode("no special token, naïve") == list("no special token, naïve".encode())
    found = evaluate(place, lm, "tiny_choice", apply_chat_template=True, limit=2)
    assert found["samples"]["tiny_choice"][0]["arguments"][0][0].startswith("<|user|>Which?")


def test_a_tokenizer_without_special_tokens_takes_no_template_and_encodes_as_before(tmp_path: Path):
    """ "ab" is one token, which a text split between its characters would not have."""
    folder = write_byte_tokenizer(tmp_path / "tokenizer")
    described = json.loads((folder / "tokenizer.json").read_text())
    described["added_tokens"] = []
    described["model"]["vocab"] |= {"ab": 256}
    described["model"]["merges"] = ["a b"]
    (folder / "tokenizer.json").write_text(json.dumps(described))
    named = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(named | {"eos_token": "z"}))
    save_hf(MODEL, MODEL.init(VOCAB_SIZE, key=jax.random.key(1)), VOCAB_SIZE, folder, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    lm = MarinLM(open_model(tmp_path / "model"))
    before = lm.tok_encode("abab c")
    with pytest.raises(ValueError, match="no special token of the tokenizer"):
        lm.apply_chat_template([{"role": "user", "content": "abab c"}])
    assert lm.tok_encode("abab c") == before == [256, 256, *b" c"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (0.0, (), 256)),
        ({"until": "\n", "max_gen_toks": 5, "do_sample": False, "temperature": 0.7}, (0.0, ("\n",), 5)),
        ({"until": ["a", "b"], "do_sample": True, "temperature": 0.7, "top_p": 0.9}, (0.7, ("a", "b"), 256)),
        ({"temperature": 0.2, "max_new_tokens": 3}, (0.2, (), 3)),
    ],
)
def test_generation_settings_mean_what_they_mean_in_the_harness(settings: dict, expected: tuple):
    request = generate_request("prompt", settings)
    assert (request.sampling.temperature, request.until, request.max_gen_toks) == expected


def test_answers_that_may_be_shorter_than_their_task_says_are_counted(place: Path):
    lm = MarinLM(open_model(place / "model"))
    for allowed in (MODEL.seq_len, 2):
        settings = {"until": ["\n"], "max_gen_toks": allowed, "do_sample": False}
        lm.generate_until([Instance("generate_until", {}, ("ab", settings), 0)])
    assert lm.num_shortened == 1


def test_generation_settings_that_would_be_ignored_are_refused():
    with pytest.raises(ValueError, match="'num_beams': 4"):
        generate_request("prompt", {"num_beams": 4})
